"""SIP over TCP and TLS (RFC 3261 section 18.3), with the CRLF keep-alive of RFC 5626 section 4.4.1."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, cast

from imskit.sip.io.sockets import Binding, bound_socket
from imskit.sip.io.transport import Link, TransportError, next_flow_id, peer_address
from imskit.sip.wire.flow import Address, Flow, Target, Transport
from imskit.sip.wire.stream import Broken, Ping, Pong, StreamFramer

if TYPE_CHECKING:
    from imskit.sip.io.transport import Transports


class StreamTransport:
    """Listeners and connections over TCP and TLS."""

    def __init__(self, owner: Transports) -> None:
        self._owner = owner
        self._servers: dict[Address, asyncio.Server] = {}

    async def listen(self, address: Address, tls: ssl.SSLContext | None, binding: Binding) -> Address:
        """Start a listener and return its address."""
        loop = asyncio.get_running_loop()
        made = bound_socket(socket.SOCK_STREAM, address, binding)
        try:
            server = await loop.create_server(
                lambda: StreamLink(self._owner, "TLS" if tls else "TCP", None),
                sock=made,
                ssl=tls,
                ssl_handshake_timeout=self._owner.limits.connect_seconds if tls else None,
            )
        except BaseException:
            made.close()
            raise
        bound = peer_address(made.getsockname())
        self._servers[bound] = server
        return bound

    async def connect(
        self, target: Target, tls: ssl.SSLContext | None, source: Address | None, binding: Binding
    ) -> StreamLink:
        """Connect, from ``source`` if one is given (port 0: any); raises `OSError`."""
        loop = asyncio.get_running_loop()
        host, _ = target.address
        anywhere = ("::" if ":" in host else "0.0.0.0", 0)  # where a connection comes from
        made = bound_socket(socket.SOCK_STREAM, source or anywhere, binding)
        try:
            await loop.sock_connect(made, target.address)
            _, link = await loop.create_connection(
                lambda: StreamLink(self._owner, target.transport, target),
                ssl=tls,
                server_hostname=(target.host or host) if tls else None,
                sock=made,
            )
        except BaseException:
            made.close()
            raise
        return link

    def stop_listening(self, address: Address) -> None:
        """Close one listener, if it is there; its connections stay."""
        server = self._servers.pop(address, None)
        if server is not None:
            server.close()

    def stop(self) -> None:
        """Close all listeners; connections stay."""
        for address in list(self._servers):
            self.stop_listening(address)


class StreamLink(Link, asyncio.Protocol):
    """One TCP or TLS connection."""

    def __init__(self, owner: Transports, transport: Transport, outgoing: Target | None) -> None:
        self._owner = owner
        self._kind = transport
        self.outgoing = outgoing
        self._framer = StreamFramer(server=outgoing is None)
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._stall: asyncio.TimerHandle | None = None
        self._ping: asyncio.TimerHandle | None = None
        self._pong: asyncio.TimerHandle | None = None
        self._interval = 0.0
        self._reason = ""
        self._closed = self._loop.create_future()

    # ---- what the loop calls ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        local = peer_address(transport.get_extra_info("sockname"))
        remote = peer_address(transport.get_extra_info("peername"))
        self.flow = Flow(self._kind, local, remote, next_flow_id())
        if self.outgoing is None and not self._owner.admit(local, remote):
            self._transport.abort()
            return
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        """Cut out messages and hand them on."""
        frames = self._framer.feed(data)
        for frame in frames:
            if self._transport is None or self._transport.is_closing():
                return
            match frame:
                case bytes():
                    self._owner.receiver.received(frame, self.flow)
                case Ping():
                    self._write(b"\r\n")
                case Pong():
                    self._answered()
                case Broken(error, head):
                    self._owner.receiver.malformed(head, error, self.flow)
                    self.close(f"it lost its framing: {error.brief}")
        self._watch(bool(frames))

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        for timer in (self._stall, self._ping, self._pong):
            if timer is not None:
                timer.cancel()
        self._transport = None
        self._owner.lost(self, self._reason or (str(exc) if exc else "the peer closed it"))
        if not self._closed.done():
            self._closed.set_result(None)

    # ---- what the owner calls --------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send one message."""
        if self._transport is None or self._transport.is_closing():
            raise TransportError("the connection is gone")
        self._write(data)

    def keep_alive(self, seconds: float) -> None:
        """Send a double CRLF every ``seconds``."""
        self._interval = seconds
        if self._ping is not None:
            self._ping.cancel()
        self._ping = self._loop.call_later(seconds, self._send_ping)

    def close(self, reason: str) -> None:
        """Close after what is still to be written."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.close()

    async def wait_closed(self) -> None:
        """Wait for the end; a peer that does not take the rest is cut off."""
        _, pending = await asyncio.wait([self._closed], timeout=1.0)
        if pending and self._transport is not None:
            self._transport.abort()
            await asyncio.wait([self._closed])

    # ---- inside ----------------------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > self._owner.limits.unsent_bytes:
            self._reason = "the peer does not read"
            self._transport.abort()

    def _watch(self, progress: bool) -> None:
        if self._stall is not None and (progress or not self._framer.pending):
            self._stall.cancel()
            self._stall = None
        if self._framer.pending and self._stall is None:
            seconds = self._owner.limits.stall_seconds
            self._stall = self._loop.call_later(seconds, self.close, f"a message was not complete after {seconds:g} s")

    def _send_ping(self) -> None:
        self._ping = self._loop.call_later(self._interval, self._send_ping)
        if self._pong is None and self._transport is not None and not self._transport.is_closing():
            self._pong = self._loop.call_later(
                self._owner.limits.pong_seconds, self.close, "a keep-alive was not answered"
            )
            self._write(b"\r\n\r\n")

    def _answered(self) -> None:
        if self._pong is not None:
            self._pong.cancel()
            self._pong = None
