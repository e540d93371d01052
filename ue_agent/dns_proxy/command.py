"""``imsbridge ue dns run``: the DNS proxy alone, without card or core."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from imskit.observe import logs
from ue_agent.dns_proxy.io.server import DnsProxy, DnsProxyConfig, Endpoint
from ue_agent.dns_proxy.wire.local import Address, LocalAnswers

_log = logging.getLogger(__name__)

_EPILOG = """\
What is answered here: the A and AAAA records given with --answer; NXDOMAIN for use-application-dns.net, so that
Firefox does not switch to DNS over HTTPS; nothing for resolver.arpa.  Every other query goes to the upstream servers
unchanged, the first one that works, and is kept for as long as its TTL says.

example, for a page that names turn.ims.example as its TURN server:
  imsbridge ue dns run --listen 127.0.0.1:5353 --upstream 203.0.113.1 \\
      --operator-domain ims.example --answer turn.ims.example=10.99.0.1
  dig @127.0.0.1 -p 5353 turn.ims.example

exit codes: 0 stopped by SIGTERM or SIGINT, 1 an address could not be had, 2 wrong arguments
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``dns run`` to the sub-commands of ``imsbridge ue``."""
    dns = subparsers.add_parser("dns", help="the DNS proxy that resolves the operator's TURN names to this device")
    commands = dns.add_subparsers(dest="dns_command", required=True)
    parser = commands.add_parser(
        "run",
        help="run it alone, without card or core",
        description="A DNS proxy that answers a few names with this device's address and forwards all else.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--listen",
        metavar="ADDR:PORT",
        type=_argument(Endpoint.parse),
        action="append",
        required=True,
        help="where clients ask, over UDP and TCP; may be repeated; port 0 takes a free one",
    )
    parser.add_argument(
        "--upstream",
        metavar="ADDR[:PORT]",
        type=_argument(lambda text: Endpoint.parse(text, 53)),
        action="append",
        required=True,
        help="server to forward to; repeat it, best first, for failover",
    )
    parser.add_argument(
        "--answer",
        metavar="NAME=ADDR",
        type=_argument(_answer),
        action="append",
        default=[],
        help="answer NAME with this address; repeat it for further names and for an IPv6 address",
    )
    parser.add_argument(
        "--operator-domain",
        metavar="DOMAIN",
        type=_argument(_domain),
        action="append",
        default=[],
        help="take ECH and HTTP/3 hints out of this domain's HTTPS records, so that its pages reach the web proxy",
    )
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="(default info)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT; the return value is the exit code."""
    logs.set_up(arguments.log_level)
    answers: dict[str, list[Address]] = {}
    for name, address in arguments.answer:
        answers.setdefault(name, []).append(address)
    config = DnsProxyConfig(arguments.listen, arguments.upstream, answers, arguments.operator_domain)
    if clash := set(config.listen) & set(config.upstreams):
        print(f"imsbridge ue dns run: {clash.pop()} cannot be both --listen and --upstream", file=sys.stderr)
        return 2
    try:
        import uvloop

        return uvloop.run(_serve(config))
    except ImportError:
        return asyncio.run(_serve(config))


async def _serve(config: DnsProxyConfig) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        proxy = DnsProxy(config)
        await proxy.start()
    except PermissionError as error:
        print(f"imsbridge ue dns run: {error}. Ports below 1024 need CAP_NET_BIND_SERVICE.", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"imsbridge ue dns run: {error}", file=sys.stderr)
        return 1
    print(f"ready: dns {' '.join(map(str, proxy.endpoints))}", file=sys.stderr, flush=True)
    await stop.wait()
    _log.info("DNS proxy stops; %s", proxy.counters)
    await proxy.aclose()
    return 0


def _answer(text: str) -> tuple[str, Address]:
    name, separator, address = text.partition("=")
    if not separator:
        raise ValueError(f"{text!r} is no NAME=ADDR, such as turn.ims.example=10.99.0.1")
    value = ip_address(address)
    LocalAnswers({name: [value]})
    return name, value


def _domain(text: str) -> str:
    LocalAnswers({text: [ip_address("192.0.2.1")]})
    return text


def _argument(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let argparse show the parser's own words instead of "invalid value"."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert
