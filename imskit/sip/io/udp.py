"""SIP over UDP: one message a datagram (RFC 3261 section 18)."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import OrderedDict
from typing import cast

from imskit.sip.io.protected import ProtectedPortTable
from imskit.sip.io.sockets import Binding, bound_socket
from imskit.sip.io.transport import Receiver, TransportError, next_flow_id, peer_address, source_address
from imskit.sip.wire.flow import Address, Flow, Target

_log = logging.getLogger(__name__)
_REMEMBERED_SOURCES = 1024
_RECEIVE_BUFFER = 4 * 1024 * 1024


class UdpTransport:
    """The UDP sockets of an element."""

    def __init__(self, receiver: Receiver, protected: ProtectedPortTable) -> None:
        self._receiver = receiver
        self._protected = protected
        self._sockets: dict[Address, _UdpSocket] = {}
        self._sources: OrderedDict[str, str | None] = OrderedDict()

    async def listen(self, address: Address, binding: Binding) -> Address:
        """Bind a socket and return its address."""
        loop = asyncio.get_running_loop()
        made = bound_socket(socket.SOCK_DGRAM, address, binding)
        try:
            _, protocol = await loop.create_datagram_endpoint(
                lambda: _UdpSocket(self._receiver, self._protected), sock=made
            )
        except BaseException:
            made.close()
            raise
        self._sockets[protocol.local] = protocol
        return protocol.local

    def stop_listening(self, address: Address) -> None:
        """Close the socket bound to ``address``, if there is one."""
        found = self._sockets.pop(address, None)
        if found is not None:
            found.close()

    def send_on(self, data: bytes, flow: Flow) -> None:
        """Send a datagram on a flow."""
        sender = self._protected.sender(flow)
        found = self._sockets.get(sender)
        if found is None:
            raise TransportError("the UDP socket is gone")
        found.send(data, flow.remote)

    def send_to(self, data: bytes, target: Target) -> None:
        """Send a datagram from the target's source port, or from the socket that fits."""
        self._socket(target).send(data, target.address)

    def flow(self, target: Target) -> Flow:
        """Return the flow to an address."""
        return self._socket(target).flow(target.address)

    def close(self) -> None:
        """Close every socket."""
        for found in self._sockets.values():
            found.close()
        self._sockets.clear()

    def _socket(self, target: Target) -> _UdpSocket:
        if not target.source_port:
            return self._choose(target.address[0])
        found = self._sockets.get((target.source, target.source_port))
        if found is None:
            raise TransportError(f"no UDP socket is bound to {target.source} port {target.source_port}")
        return found

    def _choose(self, host: str) -> _UdpSocket:
        fitting = [
            own
            for address, own in self._sockets.items()
            if (":" in address[0]) == (":" in host) and not self._protected.protects(address)
        ]
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
    def __init__(self, receiver: Receiver, protected: ProtectedPortTable) -> None:
        self._receiver = receiver
        self._protected = protected
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
        peer = peer_address(addr)
        if self._protected.admits(self.local, peer):
            self._receiver.received(data, self.flow(peer))
        else:
            _log.info("a datagram in clear to protected port %d is dropped", self.local[1])

    def flow(self, remote: Address) -> Flow:
        return Flow("UDP", self.local, remote, self._protected.flow_id(self.local, remote, self._id))

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
