"""``imsbridge edge eims-agw …``: the media gateway as a program of its own."""

from __future__ import annotations

import argparse
import socket
import sys

import uvloop
from aiohttp import web

from imskit.config.model import ConfigError, load
from imskit.long_service import expect_long_service
from imskit.media.python_plane import PythonPlane
from imskit.observe import logs
from imskit.observe.events import EventLog
from network_edge.eims_agw.call_media import MediaNode
from network_edge.eims_agw.config import AgwConfig
from network_edge.eims_agw.gateway import Gateway
from network_edge.eims_agw.metrics import application
from network_edge.eims_agw.ng_server import NgServer
from network_edge.iq.gateway import Transport
from network_edge.programs import Ending, add_run_and_check

_EPILOG = """\
  imsbridge config sample eims-agw > eims-agw.toml

SIGTERM and SIGINT: no new calls are taken, running ones finish; a second signal ends them.

exit codes: 0 stopped by a signal, 1 an address could not be used, 2 wrong configuration
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``eims-agw run`` and ``eims-agw check`` to the sub-commands of ``imsbridge edge``."""
    add_run_and_check(
        subparsers,
        "eims-agw",
        help="the media gateway between browsers and IMS",
        description="eIMS-AGW (TS 23.228 annex U): ICE and DTLS-SRTP on one side, RTP on the other,\n"
        "steered by the NG protocol, as rtpengine is.",
        epilog=_EPILOG,
        run=("run the gateway", run),
        check=("look at a configuration, and whether its addresses can be used", check),
    )


def run(arguments: argparse.Namespace) -> int:
    """Run until a signal; the return value is the exit code."""
    logs.set_up(arguments.log_level)
    try:
        config = load(AgwConfig, arguments.config)
    except ConfigError as error:
        print(f"imsbridge edge eims-agw run: {error}", file=sys.stderr)
        return 2
    return uvloop.run(_serve(config))


def check(arguments: argparse.Namespace) -> int:
    """Say whether the gateway could run."""
    logs.set_up(arguments.log_level)
    try:
        config = load(AgwConfig, arguments.config)
    except ConfigError as error:
        print(f"imsbridge edge eims-agw check: {error}", file=sys.stderr)
        return 2
    problem = _unusable(config)
    if problem:
        print(f"imsbridge edge eims-agw check: {problem}", file=sys.stderr)
        return 1
    print(f"{arguments.config}: good; NG protocol on {config.control_address} port {config.control_port}")
    return 0


def make_gateway(config: AgwConfig) -> Gateway:
    """The gateway of a configuration, on a media plane of its own; call it with a running loop."""
    node = MediaNode(
        PythonPlane(),
        config.web.network,
        config.ims.network,
        config.source,
        ice_lite=config.ice == "lite",
        ims_transport=Transport(config.ims_transport),
        denied=config.denied_networks,
    )
    return Gateway(node, config.limits, EventLog("eims-agw", config.events))


def _unusable(config: AgwConfig) -> str:
    """Return what is wrong with the addresses of the media, empty if nothing is."""
    for name, network in (("web", config.web), ("ims", config.ims)):
        family = socket.AF_INET6 if ":" in network.address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            try:
                sock.bind((network.address, 0))
            except OSError as error:
                reason = f"address {network.address} cannot be used: {error.strerror}. See: ip address"
                return f"[{name}] {reason}"
    return ""


async def _serve(config: AgwConfig) -> int:
    problem = _unusable(config)
    if problem:
        print(f"imsbridge edge eims-agw run: {problem}", file=sys.stderr)
        return 1
    gateway = make_gateway(config)
    server = NgServer(gateway, config.networks)
    runner = web.AppRunner(application(gateway, server), access_log=None)
    try:
        await server.start(config.control_address, config.control_port)
        await runner.setup()
        if config.http_port:
            await web.TCPSite(runner, config.http_address, config.http_port).start()
    except OSError as error:
        print(f"imsbridge edge eims-agw run: {error}", file=sys.stderr)
        await runner.cleanup()
        server.close()
        return 1
    expect_long_service()
    ending = Ending()
    print(f"ready: eims-agw port {server.address[1]}", file=sys.stderr, flush=True)
    await ending.wait(gateway, config.drain)
    server.close()
    await gateway.close()
    await runner.cleanup()
    return 0
