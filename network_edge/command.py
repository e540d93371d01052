"""``imsbridge edge run|check|status``: the whole edge in one process."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from imskit.config.model import ConfigError
from imskit.long_service import expect_long_service
from imskit.observe import logs
from network_edge.config import EdgeConfig, load_edge
from network_edge.edge import Edge, EdgeError
from network_edge.ep_cscf.command import summary
from network_edge.ep_cscf.server import EpCscfError, server_tls
from network_edge.programs import Ending

_RUN_EPILOG = """\
Four settings are enough: home_domain, core, web_address, ims_address.  What is needed besides (certificate, signing
keys, accounts) is made in the state folder.  No root is needed.

  imsbridge config sample edge > edge.toml
  imsbridge edge wwsf user add -c edge.toml alice --impi alice@ims.example --impu sip:alice@ims.example

SIGTERM and SIGINT: new calls and registrations are refused, running calls finish; a second signal ends them.

exit codes: 0 stopped by a signal, 1 an address, a certificate or the core could not be used, 2 wrong configuration
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``run``, ``check`` and ``status`` to the sub-commands of ``imsbridge edge``."""
    for name, text, epilog, function in (
        ("run", "run the whole edge", _RUN_EPILOG, run),
        ("check", "check a configuration file and say what would be done", "exit codes: 0 valid, 1 no, 2 wrong", check),
        ("status", "show how the running edge does", "exit codes: 0 well, 1 not well or not running, 2 wrong", status),
    ):
        parser = commands.add_parser(
            name,
            help=text,
            description="The network edge: page and log-in, SIP over WebSocket, media gateway, in one process.",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("-c", "--config", metavar="FILE", type=Path, required=True, help="configuration (TOML)")
        if name == "status":
            parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
        else:
            parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="(default info)")
        parser.set_defaults(run=function)


def run(arguments: argparse.Namespace) -> int:
    """Run until a signal; the return value is the exit code."""
    logs.set_up(arguments.log_level)
    try:
        config = load_edge(arguments.config)
    except ConfigError as error:
        print(f"imsbridge edge run: {error}", file=sys.stderr)
        return 2
    return uvloop.run(_serve(config))


async def _serve(config: EdgeConfig) -> int:
    try:
        edge = Edge(config)
        await edge.start()
    except (EdgeError, ValueError) as error:
        print(f"imsbridge edge run: {error}", file=sys.stderr)
        return 1
    assert edge.ep_cscf is not None
    expect_long_service()
    ending = Ending()
    print(f"ready: edge {config.page}", file=sys.stderr, flush=True)
    await ending.wait(edge.ep_cscf, config.parts[1].drain_seconds)
    await edge.close()
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Check the configuration."""
    logs.set_up(arguments.log_level)
    try:
        config = load_edge(arguments.config)
        wwsf, ep_cscf, agw = config.parts
        if not config.own_certificate:
            server_tls(wwsf.certificate, wwsf.key)
    except ConfigError as error:
        print(f"imsbridge edge check: {error}", file=sys.stderr)
        return 2
    except EpCscfError as error:
        print(f"imsbridge edge check: {error}", file=sys.stderr)
        return 1
    made = " (self-signed, made at first start)" if config.own_certificate else ""
    print(f"{arguments.config}: valid")
    print(f"  page           {config.page} on {wwsf.address} port {wwsf.port}")
    print(f"  certificate    {wwsf.certificate}{made}, for {', '.join(config.names)}")
    for line in summary(ep_cscf):
        print(f"  {line}")
    if agw is not None:
        for side, network in (("browsers", agw.web), ("IMS", agw.ims)):
            print(f"  media of {side:<9} {network.address}, UDP ports {network.port_min}-{network.port_max}")
    print(f"  tokens         of this page, to the core {config.web_server_identity}")
    if ep_cscf.http_port:
        print(f"  metrics        http://{ep_cscf.http_address}:{ep_cscf.http_port}/metrics, /health, /ready")
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Show the running edge's status."""
    try:
        config = load_edge(arguments.config)
    except ConfigError as error:
        print(f"imsbridge edge status: {error}", file=sys.stderr)
        return 2
    assert config.control is not None
    try:
        found = asyncio.run(_ask(config.control))
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        print(f"imsbridge edge status: no edge answers at {config.control}: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        _show(found)
    return 1 if found["problem"] else 0


async def _ask(socket: Path) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=5)
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=timeout) as http,
        http.get("http://edge/status") as response,
    ):
        answer: dict[str, Any] = await response.json()
        return answer


def _show(found: dict[str, Any]) -> None:
    print(f"{'BAD' if found['problem'] else 'ok '}  edge         {found['problem'] or 'takes calls'}")
    for name, state in found["gateways"].items():
        print(f"{'ok ' if state.startswith('up') else 'BAD'}  gateway      {name}: {state}")
    print(f"     page         {found['page']}, {found['log_ins']} logged in")
    print(f"     WebSocket    {', '.join(found['websocket'])}, {found['connections']} connections")
    print(f"     Mw           {found['mw']} -> {found['core']}")
    print(f"     {found['registrations']} registered, {found['calls']} calls, running for {found['uptime_s']} s")
