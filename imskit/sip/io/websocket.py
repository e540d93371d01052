"""SIP over WebSocket (RFC 7118): one message a WebSocket message, text or binary, subprotocol ``sip``."""

from __future__ import annotations

import asyncio
import http
import logging
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import Server, ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake, NegotiationError
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response as HttpResponse
from websockets.protocol import State
from websockets.typing import Subprotocol

from imskit.sip.io.transport import Link, TransportError, next_flow_id, peer_address, source_key
from imskit.sip.wire.flow import Address, Flow, Target, Transport
from imskit.sip.wire.grammar import host_port
from imskit.tasks import spawn

if TYPE_CHECKING:
    from imskit.sip.io.transport import HandshakeCheck, Transports

_log = logging.getLogger(__name__)
# At debug level the library writes every header and message: cookies, tokens and identities.
_library_log = logging.getLogger(f"{__name__}.library")
_library_log.setLevel(logging.WARNING)

_SIP = Subprotocol("sip")


class WebSocketTransport:
    """Listeners and connections over WebSocket."""

    def __init__(self, owner: Transports) -> None:
        self._owner = owner
        self._servers: list[Server] = []
        self._sources: Counter[str] = Counter()
        self.accepted = 0
        """Connections that clients have made, from their first byte in clear on."""
        self.refused = 0
        """Connections that were too many."""

    async def listen(self, address: Address, tls: ssl.SSLContext | None, check: HandshakeCheck | None) -> Address:
        """Start a listener and return its address."""
        limits = self._owner.limits
        kind: Transport = "WSS" if tls else "WS"

        def judge(connection: ServerConnection, request: HttpRequest) -> HttpResponse | None:
            return self._judge(connection, request, check)

        async def serve_one(connection: ServerConnection) -> None:
            await WebSocketLink(self._owner, kind, connection, None).run()

        server = await serve(
            serve_one,
            *address,
            create_connection=_counting(self._enter, self._leave),
            ssl=tls,
            process_request=judge,
            select_subprotocol=_select,
            compression=None,
            server_header=None,
            open_timeout=limits.connect_seconds,
            ping_interval=limits.ping_seconds,
            ping_timeout=limits.ping_seconds,
            close_timeout=1.0,
            max_size=limits.websocket_bytes,
            logger=_library_log,
        )
        self._servers.append(server)
        return peer_address(next(iter(server.sockets)).getsockname())

    async def connect(self, target: Target, tls: ssl.SSLContext | None) -> WebSocketLink:
        """Connect; raises `OSError` or `TransportError`."""
        limits = self._owner.limits
        host, port = target.address
        name = target.host or host
        scheme = "wss" if tls else "ws"
        try:
            connection = await connect(
                f"{scheme}://{host_port(name, port)}/",
                host=host,
                port=port,
                ssl=tls,
                subprotocols=[_SIP],
                compression=None,
                user_agent_header=None,
                proxy=None,
                open_timeout=None,
                ping_interval=limits.ping_seconds,
                ping_timeout=limits.ping_seconds,
                close_timeout=1.0,
                max_size=limits.websocket_bytes,
                logger=_library_log,
            )
        except InvalidHandshake as error:
            raise TransportError(f"{target}: {error}") from error
        if connection.subprotocol != _SIP:
            await connection.close()
            # RFC 7118 section 4: the client must fail the connection.
            raise TransportError(f"{target}: the server does not speak the subprotocol sip")
        link = WebSocketLink(self._owner, target.transport, connection, target)
        spawn(link.run(), f"SIP over {link.flow}")
        return link

    async def stop_listening(self) -> None:
        """Close the listeners; connections stay."""
        for server in self._servers:
            server.close(close_connections=False)
        self._servers.clear()

    def _enter(self, source: str) -> bool:
        """Count a connection; false, uncounted, if there are too many."""
        limits = self._owner.limits
        too_many = 0 < limits.websockets_per_address <= self._sources[source]
        if too_many or self.accepted >= limits.connections:
            if not self._sources[source]:
                del self._sources[source]
            self.refused += 1
            if self.refused & (self.refused - 1) == 0:  # the 1st, 2nd, 4th, 8th … so that a flood fills no log
                whose = f"from {source}" if too_many else "in all"
                _log.warning("too many WebSocket connections %s: %d were refused", whose, self.refused)
            return False
        self._sources[source] += 1
        self.accepted += 1
        return True

    def _leave(self, source: str) -> None:
        self.accepted -= 1
        self._sources[source] -= 1
        if not self._sources[source]:
            del self._sources[source]

    def _judge(
        self, connection: ServerConnection, request: HttpRequest, check: HandshakeCheck | None
    ) -> HttpResponse | None:
        if not self._owner.admit(peer_address(connection.local_address), peer_address(connection.remote_address)):
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n")
        if check is None:
            return None
        headers: dict[str, str] = {}
        for name, value in request.headers.raw_items():
            key = name.lower()
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        verdict = check(headers)
        if verdict is None:
            return None
        status, reason = verdict
        _log.warning("WebSocket handshake refused with %d: %s", status, reason)
        return connection.respond(http.HTTPStatus(status), f"{reason}\n")


def _select(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol:
    if _SIP not in offered:
        raise NegotiationError("the subprotocol sip is needed (RFC 7118 section 4)")
    return _SIP


def _counting(enter: Callable[[str], bool], leave: Callable[[str], None]) -> type[ServerConnection]:
    """Return connections that are counted before anything of them is read: one that is too many ends at once."""

    class Counted(ServerConnection):
        source = ""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            source = source_key(peer_address(transport.get_extra_info("peername")))
            if enter(source):
                self.source = source
            else:
                self.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self.source:
                leave(self.source)
                self.source = ""

    return Counted


class WebSocketLink(Link):
    """One WebSocket connection."""

    def __init__(
        self,
        owner: Transports,
        transport: Transport,
        connection: ClientConnection | ServerConnection,
        outgoing: Target | None,
    ) -> None:
        self._owner = owner
        self._connection: Connection = connection
        self.outgoing = outgoing
        self.flow = Flow(
            transport,
            peer_address(connection.local_address),
            peer_address(connection.remote_address),
            next_flow_id(),
        )
        self.heard_at = asyncio.get_running_loop().time()
        self._reason = ""
        self._done = asyncio.Event()
        owner.opened(self)

    async def run(self) -> None:
        """Receive until the connection ends."""
        try:
            async for data in self._connection:
                self._take(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else bytes(data))
        except ConnectionClosed as error:
            self._reason = self._reason or str(error)
        finally:
            self._owner.lost(self, self._reason or "the peer closed it")
            self._done.set()

    def send(self, data: bytes) -> None:
        """Send one message: as text if it is UTF-8, which every peer takes, else as binary."""
        if self._reason or self._connection.state is not State.OPEN:
            raise TransportError("the connection is gone")
        if self._connection.transport.get_write_buffer_size() + len(data) > self._owner.limits.unsent_bytes:
            self.close("the peer does not read")
            raise TransportError("the peer does not read")
        message: str | bytes
        try:
            message = data.decode()
        except UnicodeDecodeError:
            message = data
        # The library's way to send without waiting: its own send() would need a task for every connection.
        broadcast([self._connection], message)

    def keep_alive(self, seconds: float) -> None:
        """Do nothing: WebSocket pings run on every connection (`Limits.ping_seconds`)."""

    def close(self, reason: str) -> None:
        """Close it."""
        if not self._reason:
            self._reason = reason
            spawn(self._connection.close(1001, reason[:100]), f"close {self.flow}")

    async def wait_closed(self) -> None:
        """Wait for the end; a peer that does not take the rest is cut off."""
        try:
            async with asyncio.timeout(2.0):
                await self._done.wait()
        except TimeoutError:
            self._connection.transport.abort()
            await self._done.wait()

    def _take(self, data: bytes) -> None:
        if not data.strip(b"\r\n"):
            # A CRLF keep-alive, as some browser stacks send it (RFC 5626 section 4.4.1).
            if data == b"\r\n\r\n" and not self._reason:
                self.send(b"\r\n")
            return
        self.heard_at = asyncio.get_running_loop().time()
        self._owner.receiver.received(data, self.flow)
