"""``imsbridge edge ep-cscf …``: the eP-CSCF as a program of its own."""

from __future__ import annotations

import argparse
import sys

import uvloop

from imskit.config.model import ConfigError, load
from imskit.long_service import expect_long_service
from imskit.observe import logs
from network_edge.ep_cscf.config import EpCscfConfig
from network_edge.ep_cscf.server import EpCscfError, EpCscfServer, server_tls
from network_edge.programs import Ending, add_run_and_check

_EPILOG = """\
  imsbridge config sample ep-cscf > ep-cscf.toml

SIGTERM and SIGINT: new calls and registrations are refused, running calls finish; a second signal ends them.

exit codes: 0 stopped by a signal, 1 an address, a certificate or the core could not be used, 2 wrong configuration
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``ep-cscf run`` and ``ep-cscf check`` to the sub-commands of ``imsbridge edge``."""
    add_run_and_check(
        subparsers,
        "ep-cscf",
        help="SIP over WebSocket of browsers, Mw of an IMS core",
        description="eP-CSCF (TS 24.371, TS 23.228 annex U): the P-CSCF of WebRTC clients.",
        epilog=_EPILOG,
        run=("run it", run),
        check=("look at a configuration, its certificates and its gateways", check),
    )


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
    ending = Ending()
    print(f"ready: ep-cscf {', '.join(places)}", file=sys.stderr, flush=True)
    await ending.wait(server, config.drain_seconds)
    await server.close()
    return 0
