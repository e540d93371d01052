"""Asks the access network for its SIP servers: one DHCPINFORM, repeated once (RFC 2131 section 3.4, RFC 3361)."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from ipaddress import IPv4Address, ip_address

from imskit.ims.dhcp_sip_servers import CLIENT_PORT, LARGEST, SERVER_PORT, DhcpError, build_inform, parse_answer

_log = logging.getLogger(__name__)

SECONDS = (1.0, 2.0)
"""How long each try waits."""


async def ask_for_sip_servers(address: str, interface: str | None = None) -> tuple[str, ...]:
    """Return the names or addresses that the network of ``address`` announces; none where it does not answer.

    ``address`` is this host's, on the interface to ask over; only IPv4 has this option.  Never raises: what is in the
    way, such as the right to use port 68, is logged.
    """
    own = ip_address(address)
    if not isinstance(own, IPv4Address):
        return ()
    try:
        return await _ask(own, interface)
    except OSError as error:
        _log.info("the access network cannot be asked for P-CSCFs (DHCP): %s", error.strerror or error)
        return ()


async def _ask(own: IPv4Address, interface: str | None) -> tuple[str, ...]:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a DHCP client may hold the port too
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if interface is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sock.bind((str(own), CLIENT_PORT))  # a broadcast leaves by the interface that has the source address
        xid = secrets.randbits(32)
        for seconds in SECONDS:
            await loop.sock_sendto(sock, build_inform(xid, own), ("255.255.255.255", SERVER_PORT))
            try:
                async with asyncio.timeout(seconds):
                    return await _answer(loop, sock, xid)
            except TimeoutError:
                continue
    return ()


async def _answer(loop: asyncio.AbstractEventLoop, sock: socket.socket, xid: int) -> tuple[str, ...]:
    while True:
        data, sender = await loop.sock_recvfrom(sock, LARGEST)
        try:
            found = parse_answer(data, xid) if sender[1] == SERVER_PORT else None
        except DhcpError as error:
            _log.warning("an answer of the access network is passed over: %s", error)
            continue
        if found is not None:
            return found
