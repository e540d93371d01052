"""``imsbridge edge ep-cscf …``: the eP-CSCF as a program of its own."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import uvloop

from imskit.config.model import ConfigError, load
from imskit.long_service import expect_long_service
from imskit.observe import logs
from imskit.tasks import spawn
from network_edge.ep_cscf.config import EpCscfConfig
from network_edge.ep_cscf.server import EpCscfError, EpCscfServer, server_tls

_EPILOG = """\
  imsbridge config sample ep-cscf > ep-cscf.toml

SIGTERM and SIGINT: new calls and registrations are refused, running calls finish; a second signal ends them.

exit codes: 0 stopped by a signal, 1 an address, a certificate or the core could not be used, 2 wrong configuration
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``ep-cscf run`` and ``ep-cscf check`` to the sub-commands of ``imsbridge edge``."""
    ep_cscf = subparsers.add_parser("ep-cscf", help="SIP over WebSocket of browsers, Mw of an IMS core")
    commands = ep_cscf.add_subparsers(dest="ep_cscf_command", required=True)
    for name, text, function in (
        ("run", "run it", run),
        ("check", "look at a configuration, its certificates and its gateways", check),
    ):
        parser = commands.add_parser(
            name,
            help=text,
            description="eP-CSCF (TS 24.371, TS 23.228 annex U): the P-CSCF of WebRTC clients.",
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("-c", "--config", metavar="FILE", type=Path, required=True, help="configuration (TOML)")
        parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="(default info)")
        parser.set_defaults(run=function)


def run(arguments: argparse.Namespace) -> int:
    """Run until a signal; the return value is the exit code."""
    logs.set_up(arguments.log_level)
    try:
        config = load(EpCscfConfig, arguments.config)
        _needs_gateway(config)
    except ConfigError as error:
        print(f"imsbridge edge ep-cscf run: {error}", file=sys.stderr)
        return 2
    return uvloop.run(_serve(config))


def check(arguments: argparse.Namespace) -> int:
    """Say whether it could run."""
    logs.set_up(arguments.log_level)
    try:
        config = load(EpCscfConfig, arguments.config)
        _needs_gateway(config)
        if config.wss:
            server_tls(config.certificate, config.key)
    except ConfigError as error:
        print(f"imsbridge edge ep-cscf check: {error}", file=sys.stderr)
        return 2
    except EpCscfError as error:
        print(f"imsbridge edge ep-cscf check: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.config}: valid")
    for line in summary(config):
        print(f"  {line}")
    return 0


def summary(config: EpCscfConfig) -> list[str]:
    """What a configuration means, a line each."""
    mw = config.mw
    others = ", and clients without Origin" if config.without_origin else ""
    listeners = [f"{kind} {text}" for kind in ("wss", "ws", "json") for text in getattr(config, kind)]
    lines = [
        f"home domain    {config.home_domain}, known to the core as {config.visited_network or config.home_domain}",
        f"WebSocket      {', '.join(listeners)}",
        f"for pages of   {', '.join(config.origins) or 'no page'}{others}",
        f"Mw             {mw.place[0]} port {mw.place[1]} -> {mw.core}, {mw.transport.upper()}",
    ]
    if config.gateways:
        lines.append("media          " + ", ".join(f"{each.name} at {each.address}" for each in config.gateways))
    lines += [f"tokens of      {each.issuer}, to the core {each.web_server_identity}" for each in config.issuers]
    if config.ws:
        lines.append("NOTE           ws is in clear: only for a TLS proxy before it, or a lab")
    return lines


def _needs_gateway(config: EpCscfConfig) -> None:
    if not config.gateways:
        raise ConfigError("gateways is missing: media gateways, [[gateways]] with name and address (HOST:PORT)")


async def _serve(config: EpCscfConfig) -> int:
    server = EpCscfServer(config)
    try:
        await server.start()
    except EpCscfError as error:
        print(f"imsbridge edge ep-cscf run: {error}", file=sys.stderr)
        return 1
    places = [f"wss {host} port {port}" for host, port in server.wss]
    places += [f"ws {host} port {port}" for host, port in server.ws]
    places += [f"json {host} port {port}" for host, port in server.json]
    expect_long_service()
    print(f"ready: ep-cscf {', '.join(places)}", file=sys.stderr, flush=True)
    await until_drained(server, config.drain_seconds)
    await server.close()
    return 0


async def until_drained(server: EpCscfServer, seconds: float) -> None:
    """Return after a first SIGTERM or SIGINT and then: no call left, a second signal, or ``seconds``."""
    stop, end = asyncio.Event(), asyncio.Event()

    def signalled() -> None:
        (end if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signalled)
    await stop.wait()
    server.drain()
    tasks = {spawn(server.drained(), "eP-CSCF calls"), spawn(_set(end), "eP-CSCF end")}
    _, pending = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()


async def _set(event: asyncio.Event) -> None:
    await event.wait()
