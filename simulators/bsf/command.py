"""``imsbridge sim bsf run``: the operator's bootstrapping server, for labs."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from imskit.config.model import ConfigError, load
from imskit.observe import logs
from simulators.bsf.config import BsfConfig
from simulators.bsf.server import BsfServer

_EPILOG = """\
Terminals bootstrap with their SIM card (HTTP Digest AKA with qop=auth-int); servers named in the configuration ask for
the keys over the Unix socket zn.  ``imsbridge config sample bsf`` prints a configuration.

  curl --unix-socket zn.sock -X POST http://bsf/forget        the BSF forgets what was bootstrapped

exit codes: 0 stopped by SIGTERM or SIGINT, 1 a socket could not be had, 2 wrong arguments or configuration
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``bsf run`` to the sub-commands of ``imsbridge sim``."""
    bsf = subparsers.add_parser("bsf", help="bootstrapping server (GBA)")
    commands = bsf.add_subparsers(dest="bsf_command", required=True)
    parser = commands.add_parser(
        "run",
        help="serve terminals and servers",
        description="Bootstrapping server function (TS 33.220): Ub, Zn, and Zh to the simulated HSS.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-c", "--config", metavar="FILE", type=Path, required=True, help="configuration (TOML)")
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="(default info)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT; the return value is the exit code."""
    logs.set_up(arguments.log_level)
    try:
        config = load(BsfConfig, arguments.config)
    except ConfigError as error:
        print(f"imsbridge sim bsf run: {error}", file=sys.stderr)
        return 2
    try:
        return asyncio.run(_serve(BsfServer(config)))
    except OSError as error:
        print(f"imsbridge sim bsf run: {error}", file=sys.stderr)
        return 1


async def _serve(server: BsfServer) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await server.start()
    try:
        print(f"ready: bsf {server.address[0]}:{server.address[1]}", file=sys.stderr, flush=True)
        await stop.wait()
    finally:
        await server.close()
    return 0
