"""SIP over UDP: one message a datagram (RFC 3261 section 18)."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import OrderedDict
from typing import cast

from imskit.sip.io.transport import Receiver, TransportError, next_flow_id, peer_address, source_address
from imskit.sip.wire.flow import Address, Flow

_log = logging.getLogger(__name__)
_REMEMBERED_SOURCES = 1024
_RECEIVE_BUFFER = 4 * 1024 * 1024


class UdpTransport:
    """The UDP sockets of an element."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._sockets: dict[Address, _UdpSocket] = {}
        self._sources: OrderedDict[str, str | None] = OrderedDict()

    async def listen(self, address: Address) -> Address:
        """Bind a socket and return its address."""
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_datagram_endpoint(lambda: _UdpSocket(self._receiver), local_addr=address)
        self._sockets[protocol.local] = protocol
        return protocol.local

    def send(self, data: bytes, remote: Address, local: Address | None) -> None:
        """Send a datagram from the socket bound to ``local``, or from the one that fits ``remote``."""
        found = self._sockets.get(local) if local is not None else self._choose(remote[0])
        if found is None:
            raise TransportError("the UDP socket is gone")
        found.send(data, remote)

    def flow(self, remote: Address) -> Flow:
        """Return the flow to an address."""
        return self._choose(remote[0]).flow(remote)

    def close(self) -> None:
        """Close every socket."""
        for found in self._sockets.values():
            found.close()
        self._sockets.clear()

    def _choose(self, host: str) -> _UdpSocket:
        fitting = [own for own in self._sockets.values() if (":" in own.local[0]) == (":" in host)]
        if not fitting:
            raise TransportError(f"there is no UDP socket that reaches {host}")
        if len(fitting) > 1:
            if host not in self._sources:
                self._sources[host] = source_address(host)
                while len(self._sources) > _REMEMBERED_SOURCES:
                    self._sources.popitem(last=False)
            source = self._sources[host]
            for own in fitting:
                if own.local[0] == source:
                    return own
        return fitting[0]


class _UdpSocket(asyncio.DatagramProtocol):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._id = next_flow_id()
        self._transport: asyncio.DatagramTransport | None = None
        self.local: Address = ("", 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        self.local = peer_address(transport.get_extra_info("sockname"))
        raw = transport.get_extra_info("socket")
        if raw is not None:
            # A burst of registrations must not be lost to the default of 200 kB.
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        if len(data) < 8 or data[0] < 4:
            # Keep-alives of RFC 5626 (CRLF, or STUN, whose first two bits are zero) and of older NAT practice.
            return
        self._receiver.received(data, self.flow(peer_address(addr)))

    def flow(self, remote: Address) -> Flow:
        return Flow("UDP", self.local, remote, self._id)

    def send(self, data: bytes, remote: Address) -> None:
        if self._transport is None or self._transport.is_closing():
            raise TransportError("the UDP socket is gone")
        try:
            self._transport.sendto(data, remote)
        except OSError as error:
            raise TransportError(f"{error.strerror or error}") from error

    def error_received(self, exc: Exception) -> None:
        # An ICMP error names no message; the transaction's timer decides.
        _log.debug("UDP port %d: %s", self.local[1], exc)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
