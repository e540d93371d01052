"""``imsbridge sim dns run``: the operator's name server, for labs."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from imskit.config.model import ConfigError
from imskit.observe import logs
from simulators.operator_dns.server import OperatorDns
from simulators.operator_dns.zones import lab_zones, load_zones, parse_zones

_EPILOG = """\
A zone file is TOML; every value is master-file text, SOA and NS are added if missing:
  [zones]
  "ims.example" = '''
  portal 60 IN A 203.0.113.10
  turn   60 IN A 203.0.113.10
  '''

exit codes: 0 stopped by SIGTERM or SIGINT, 1 an address could not be had, 2 wrong arguments or zone file
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``dns run`` to the sub-commands of ``imsbridge sim``."""
    dns = subparsers.add_parser("dns", help="the operator's name server")
    commands = dns.add_subparsers(dest="dns_command", required=True)
    parser = commands.add_parser(
        "run",
        help="answer for a few zones",
        description="An authoritative name server; without --zones it has the lab's names.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--listen", metavar="ADDR:PORT", required=True, help="UDP and TCP; port 0 takes a free one")
    parser.add_argument("--zones", metavar="FILE", type=Path, help="zones to answer for (TOML)")
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="(default info)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT; the return value is the exit code."""
    logs.set_up(arguments.log_level)
    address, _, port = arguments.listen.rpartition(":")
    if not address or not port.isdigit():
        print(f"imsbridge sim dns run: --listen {arguments.listen}: want ADDR:PORT", file=sys.stderr)
        return 2
    try:
        zones = load_zones(arguments.zones) if arguments.zones else parse_zones(lab_zones())
    except ConfigError as error:
        print(f"imsbridge sim dns run: {error}", file=sys.stderr)
        return 2
    return asyncio.run(_serve(OperatorDns(zones), address.strip("[]"), int(port)))


async def _serve(server: OperatorDns, address: str, port: int) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        port = await server.start(address, port)
    except OSError as error:
        print(f"imsbridge sim dns run: {error}", file=sys.stderr)
        return 1
    print(f"ready: operator-dns {address}:{port}", file=sys.stderr, flush=True)
    await stop.wait()
    await server.aclose()
    return 0
