"""``imsbridge sim modem run``: an emulated modem with a simulated SIM card, on a pseudo-terminal."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from imskit.config.model import ConfigError, load
from imskit.observe import logs
from imskit.uicc.profile import CardProfile
from imskit.uicc.uicc import Uicc
from simulators.modem.engine.modem import Modem, Quirk
from simulators.modem.io.port import ModemPort

_log = logging.getLogger(__name__)

_EPILOG = """\
Its port is printed on standard output; --link gives it a name that stays:

  imsbridge config sample card > card.toml     then fill it in, and
  imsbridge sim modem run -c card.toml --link /tmp/modem
  imsbridge card info --card modem:/tmp/modem

SIGUSR1 pulls the SIM card, SIGUSR2 puts it in again.

exit codes: 0 stopped by SIGTERM or SIGINT, 1 the link cannot be made, 2 wrong configuration
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``modem run`` to the sub-commands of ``imsbridge sim``."""
    modem = subparsers.add_parser("modem", help="a modem with a SIM card, on a pseudo-terminal")
    commands = modem.add_subparsers(dest="modem_command", required=True)
    parser = commands.add_parser(
        "run",
        help="be the modem",
        description="A modem's AT port as TS 27.007 describes it, with a UICC behind it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-c", "--config", metavar="FILE", type=Path, required=True, help="what the card holds (TOML)")
    parser.add_argument("--link", metavar="PATH", type=Path, help="symbolic link to make to the port")
    parser.add_argument(
        "--quirk",
        metavar="NAME",
        type=Quirk,
        action="append",
        default=[],
        help=f"a way of its own, may be repeated: {', '.join(Quirk)}",
    )
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="(default info)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT; the return value is the exit code."""
    logs.set_up(arguments.log_level)
    try:
        profile = load(CardProfile, arguments.config)
    except ConfigError as error:
        print(f"imsbridge sim modem run: {error}", file=sys.stderr)
        return 2
    return asyncio.run(_serve(profile, arguments.quirk, arguments.link))


async def _serve(profile: CardProfile, quirks: list[Quirk], link: Path | None) -> int:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    card = Uicc(profile)
    async with ModemPort(Modem(card, quirks)) as port:
        loop.add_signal_handler(signal.SIGUSR1, port.remove)
        loop.add_signal_handler(signal.SIGUSR2, lambda: port.insert(card))
        try:
            with _linked(link, port.device):
                print(link or port.device, flush=True)
                print("ready: modem", file=sys.stderr, flush=True)
                await stop.wait()
        except OSError as error:
            print(f"imsbridge sim modem run: {link}: {error.strerror}", file=sys.stderr)
            return 1
    return 0


@contextlib.contextmanager
def _linked(link: Path | None, device: Path) -> Iterator[None]:
    if link is None:
        yield
        return
    if link.is_symlink():
        link.unlink()
    link.symlink_to(device)
    try:
        yield
    finally:
        link.unlink(missing_ok=True)
