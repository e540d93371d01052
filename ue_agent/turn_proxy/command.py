"""``imsbridge ue turn run``: the TURN proxy alone, without card or core."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from imskit.media.python_plane import PythonPlane
from imskit.observe import logs
from imskit.secrets import Secret
from imskit.stun.engine.credentials import CredentialStore
from imskit.stun.engine.policy import CidrPolicy
from imskit.stun.engine.settings import TurnSettings
from imskit.stun.wire.attributes import Address
from imskit.stun.wire.channel_data import LAST_CHANNEL_OF_RFC5766
from ue_agent.turn_proxy.io.relays import SocketRelays
from ue_agent.turn_proxy.io.server import TurnProxy

_log = logging.getLogger(__name__)

DEFAULT_PORT = 3478

_EPILOG = """\
What is answered here: STUN Binding requests of anybody; TURN (RFC 8656) for users with a credential, with relayed
addresses on the addresses listened on, ports 49152 to 65535.  Every client has to authenticate; a browser ignores a
server that does not ask.  Channel numbers up to 0x7FFF are taken: RFC 8656 ends at 0x4FFF, clients of RFC 5766 do not.

Peers: only those within --allow-peer.  The inside of a network (loopback, private, link-local, multicast …) is
reached only by a CIDR that lies within it: 0.0.0.0/0 opens the public internet, 127.0.0.0/8 the loopback.

example, with coturn's client programs against it:
  imsbridge ue turn run --listen 127.0.0.1:3478 --realm ims.example --user alice:secret --allow-peer 127.0.0.0/8
  turnutils_stunclient -p 3478 127.0.0.1
  turnutils_peer -p 3480 -L 127.0.0.1 &
  turnutils_uclient -u alice -w secret -e 127.0.0.1 -r 3480 -n 10 -p 3478 127.0.0.1

exit codes: 0 stopped by SIGTERM or SIGINT, 1 an address could not be had, 2 wrong arguments
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``turn run`` to the sub-commands of ``imsbridge ue``."""
    turn = subparsers.add_parser("turn", help="the STUN/TURN server that takes the page's media on this device")
    commands = turn.add_subparsers(dest="turn_command", required=True)
    parser = commands.add_parser(
        "run",
        help="run it alone, without card or core",
        description="A STUN and TURN server (RFC 8489, RFC 8656) over UDP and TCP, IPv4 and IPv6.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--listen",
        metavar="ADDR:PORT",
        type=_argument(parse_endpoint),
        action="append",
        required=True,
        help="address of this device to listen on, UDP and TCP; may be repeated; port 0 takes a free one",
    )
    parser.add_argument("--realm", required=True, help="realm of the credentials, usually the operator's domain")
    parser.add_argument(
        "--user",
        metavar="USER:PASSWORD",
        type=_argument(parse_user),
        action="append",
        default=[],
        help="let this user in; may be repeated; other users of this machine can see it, see --user-file",
    )
    parser.add_argument(
        "--user-file", metavar="FILE", type=Path, help="file with a USER:PASSWORD a line, to keep them out of sight"
    )
    parser.add_argument(
        "--rest-secret-file",
        metavar="FILE",
        type=Path,
        help="file with the secret shared with a web server that hands out time-limited credentials "
        "(user '<unix time>:<name>', password base64(HMAC-SHA1(secret, user)))",
    )
    parser.add_argument(
        "--allow-peer",
        metavar="CIDR",
        type=_argument(_network),
        action="append",
        default=[],
        help="let clients reach peers in this network; may be repeated; without it, none",
    )
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="(default info)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT; the return value is the exit code."""
    logs.set_up(arguments.log_level)
    try:
        credentials = _credentials(arguments)
    except (OSError, ValueError) as error:
        print(f"imsbridge ue turn run: {error}", file=sys.stderr)
        return 2
    policy = CidrPolicy(arguments.allow_peer)
    if not arguments.allow_peer:
        _log.warning("no --allow-peer: clients can allocate but reach nobody")
    main = _serve(arguments.listen, credentials, policy)
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


async def _serve(listen: Sequence[Address], credentials: CredentialStore, policy: CidrPolicy) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    plane = PythonPlane()
    relays = SocketRelays(plane, [host for host, _ in listen])
    settings = TurnSettings(last_channel=LAST_CHANNEL_OF_RFC5766)
    proxy = TurnProxy(plane, listen, credentials, policy, relays, settings)
    try:
        await proxy.start()
    except PermissionError as error:
        print(f"imsbridge ue turn run: {error}. Ports below 1024 need CAP_NET_BIND_SERVICE.", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"imsbridge ue turn run: {error}", file=sys.stderr)
        return 1
    print(f"ready: turn {' '.join(map(_show, proxy.endpoints))}", file=sys.stderr, flush=True)
    await stop.wait()
    _log.info("TURN proxy stops with %d allocations; %s", proxy.allocations, proxy.counters)
    await proxy.aclose()
    return 0


def _credentials(arguments: argparse.Namespace) -> CredentialStore:
    users: list[tuple[str, Secret[str]]] = list(arguments.user)
    if arguments.user_file is not None:
        lines = arguments.user_file.read_text(encoding="utf-8").splitlines()
        users += [parse_user(line) for line in lines if line and not line.startswith("#")]
    secret = None
    if arguments.rest_secret_file is not None:
        secret = Secret(arguments.rest_secret_file.read_text(encoding="utf-8").strip())
        if not secret:
            raise ValueError(f"{arguments.rest_secret_file} is empty")
    if not users and secret is None:
        raise ValueError("nobody could log in: give --user, --user-file or --rest-secret-file")
    store = CredentialStore(arguments.realm, rest_secret=secret, unix_time=lambda now: time.time())
    for username, password in users:
        store.add(username, password)
    return store


def parse_endpoint(text: str) -> Address:
    """Read ``ADDR:PORT``, ``[ADDR6]:PORT`` or an address alone; ``ValueError`` says what is wrong."""
    host, port = text, str(DEFAULT_PORT)
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else port if not rest else "?"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"{text!r} is no ADDRESS:PORT, such as 203.0.113.2:3478 or [2001:db8::2]:3478")
    try:
        address = ip_address(host)
    except ValueError:
        raise ValueError(f"{host!r} is no IP address; give one of this device's own") from None
    if address.is_unspecified or address.is_multicast:
        raise ValueError(
            f"{host} is not one address: answers and relayed addresses need one; give it, or several --listen"
        )
    return str(address), int(port)


def parse_user(text: str) -> tuple[str, Secret[str]]:
    """Read ``USER:PASSWORD``; the password may hold colons."""
    username, colon, password = text.partition(":")
    if not colon or not username or not password:
        raise ValueError("a user is given as USER:PASSWORD")  # without the text: it may be a password
    return username, Secret(password)


def _network(text: str) -> str:
    try:
        CidrPolicy([text])
    except ValueError as error:
        raise ValueError(f"{error}; give a network such as 203.0.113.0/24 or an address") from None
    return text


def _show(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _argument(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let argparse show the parser's own words instead of "invalid value"."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert
