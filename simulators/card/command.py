"""``imsbridge sim card run``: a simulated SIM card, with a private pcscd where wanted."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from imskit.config.model import ConfigError, load
from imskit.observe import logs
from imskit.tasks import spawn
from imskit.uicc.profile import CardProfile
from imskit.uicc.uicc import Uicc
from simulators.card.pcscd import PcscdError, PrivatePcscd
from simulators.card.server import VirtualCard

_log = logging.getLogger(__name__)

_EPILOG = """\
With --pcscd a private PC/SC daemon with a virtual reader is started, which touches nothing of this machine's own;
programs find it with PCSCLITE_CSOCK_NAME=PATH, PATH being what --link names:

  imsbridge config sample card > card.toml     then fill it in, and
  imsbridge sim card run -c card.toml --pcscd --link /tmp/pcsc
  PCSCLITE_CSOCK_NAME=/tmp/pcsc imsbridge ue run -c ue.toml

SIGUSR1 pulls the card, SIGUSR2 puts it in again.

exit codes: 0 stopped by SIGTERM or SIGINT, 1 the reader could not be reached, 2 wrong configuration, 3 not installed
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``card run`` to the sub-commands of ``imsbridge sim``."""
    card = subparsers.add_parser("card", help="a SIM card in a virtual reader")
    commands = card.add_subparsers(dest="card_command", required=True)
    parser = commands.add_parser(
        "run",
        help="be the card",
        description="A UICC with USIM and ISIM, as a real one answers, behind the virtual reader of vpcd.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-c", "--config", metavar="FILE", type=Path, required=True, help="what the card holds (TOML)")
    reader = parser.add_mutually_exclusive_group(required=True)
    reader.add_argument("--pcscd", action="store_true", help="start a private pcscd with a virtual reader")
    reader.add_argument("--port", type=int, help="TCP port of a virtual reader (vpcd) that runs already")
    parser.add_argument("--link", metavar="PATH", type=Path, help="symbolic link to make to the private pcscd's socket")
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="(default info)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT; the return value is the exit code."""
    logs.set_up(arguments.log_level)
    try:
        profile = load(CardProfile, arguments.config)
    except ConfigError as error:
        print(f"imsbridge sim card run: {error}", file=sys.stderr)
        return 2
    if not arguments.pcscd:
        return asyncio.run(_serve(profile, arguments.port))
    try:
        with PrivatePcscd() as daemon:
            if arguments.link is not None:
                arguments.link.unlink(missing_ok=True)
                arguments.link.symlink_to(daemon.socket)
            return asyncio.run(_serve(profile, daemon.ports[0]))
    except PcscdError as error:
        print(f"imsbridge sim card run: {error}", file=sys.stderr)
        return 3
    finally:
        if arguments.link is not None:
            arguments.link.unlink(missing_ok=True)


async def _serve(profile: CardProfile, port: int) -> int:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    card = VirtualCard(Uicc(profile), port)

    async def pull() -> None:
        _log.info("the card is pulled")
        await card.remove()

    async def put_in() -> None:
        _log.info("the card is put in")
        await card.insert()

    loop.add_signal_handler(signal.SIGUSR1, lambda: spawn(pull(), "pull the card"))
    loop.add_signal_handler(signal.SIGUSR2, lambda: spawn(put_in(), "put the card in"))
    try:
        await card.insert()
    except OSError as error:
        print(f"imsbridge sim card run: no virtual reader at port {port}: {error}", file=sys.stderr)
        return 1
    print("ready: card", file=sys.stderr, flush=True)
    await stop.wait()
    await card.remove()
    return 0
