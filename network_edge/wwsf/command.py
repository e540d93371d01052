"""``imsbridge edge wwsf run``: the operator's page and its web server."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from imskit.config.model import ConfigError, load
from imskit.observe import logs
from network_edge.wwsf.config import WwsfConfig
from network_edge.wwsf.home_network import HssClient
from network_edge.wwsf.identities import command as user
from network_edge.wwsf.server import Wwsf, WwsfError

_EPILOG = """\
The page logs its user in with HTTP Digest AKA when the request names a subscriber (on a device with the UE agent).
With [identities] everybody else may log in by password or at an OpenID provider, and registers with a token.

  imsbridge config sample wwsf > wwsf.toml

exit codes: 0 stopped by SIGTERM or SIGINT, 1 an address or certificate could not be used, 2 wrong configuration
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``wwsf run`` to the sub-commands of ``imsbridge edge``."""
    wwsf = subparsers.add_parser("wwsf", help="the operator's page and its web server")
    commands = wwsf.add_subparsers(dest="wwsf_command", required=True)
    parser = commands.add_parser(
        "run",
        help="serve the page",
        description="WebRTC Web Server Function (TR 23.701 annex A.1.3.2): page, log-in, TURN credentials.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-c", "--config", metavar="FILE", type=Path, required=True, help="configuration (TOML)")
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="(default info)")
    parser.set_defaults(run=run)
    user.register(commands)


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT; the return value is the exit code."""
    logs.set_up(arguments.log_level)
    try:
        config = load(WwsfConfig, arguments.config)
        home = HssClient(config.hss) if config.hss is not None else None
        server = Wwsf(config, home)
    except (ConfigError, ValueError) as error:
        print(f"imsbridge edge wwsf run: {error}", file=sys.stderr)
        return 2
    except WwsfError as error:
        print(f"imsbridge edge wwsf run: {error}", file=sys.stderr)
        return 1
    return asyncio.run(_serve(server))


async def _serve(server: Wwsf) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await server.start()
    except WwsfError as error:
        print(f"imsbridge edge wwsf run: {error}", file=sys.stderr)
        await server.stop()
        return 1
    print(f"ready: wwsf port {server.port}", file=sys.stderr, flush=True)
    await stop.wait()
    await server.stop()
    return 0
