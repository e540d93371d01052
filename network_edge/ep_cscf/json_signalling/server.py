"""The WebSocket listener for JSON clients; each becomes a link among the eP-CSCF's own, as any WIC's connection."""

from __future__ import annotations

import asyncio
import http
import logging
import secrets
import ssl
from collections import Counter, deque
from collections.abc import Sequence

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, NegotiationError
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response as HttpResponse
from websockets.typing import Subprotocol

from imskit.engine import Tick
from imskit.sip.engine.events import Received, Transmit
from imskit.sip.io.transport import (
    HandshakeCheck,
    Link,
    TransportError,
    Transports,
    next_flow_id,
    peer_address,
    source_key,
)
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Address, Flow
from imskit.sip.wire.message import parse_message
from imskit.tasks import spawn
from network_edge.ep_cscf.engine.flows import Flows
from network_edge.ep_cscf.engine.settings import FlowLimits
from network_edge.ep_cscf.json_signalling.engine.client import JsonClient
from network_edge.ep_cscf.json_signalling.wire.messages import MAX_OCTETS, SUB_PROTOCOL, JsonError, parse

_log = logging.getLogger(__name__)
# At debug level the library writes every message: tokens and identities.
_library_log = logging.getLogger(f"{__name__}.library")
_library_log.setLevel(logging.WARNING)

_PROTOCOL = Subprotocol(SUB_PROTOCOL)
MOST_ERRORS = 20
"""Messages that cannot be read, of one client; then it is disconnected."""


class JsonSignalling:
    """Listens for JSON clients; ``transports`` are the eP-CSCF's, ``domain`` is the home domain."""

    def __init__(self, transports: Transports, domain: str) -> None:
        self._transports = transports
        self._domain = domain
        self._servers: list[Server] = []
        self._sources: Counter[str] = Counter()

    async def listen(
        self, address: Address, tls: ssl.SSLContext | None = None, check: HandshakeCheck | None = None
    ) -> Address:
        """Listen and return the address; ``check`` judges the handshake, the place for Origin.  Raises `OSError`."""
        limits = self._transports.limits

        def judge(connection: ServerConnection, request: HttpRequest) -> HttpResponse | None:
            return self._judge(connection, request, check)

        async def serve_one(connection: ServerConnection) -> None:
            source = source_key(peer_address(connection.remote_address))
            self._sources[source] += 1
            try:
                await JsonLink(self._transports, self._domain, connection, secure=tls is not None).run()
            finally:
                self._sources[source] -= 1
                if not self._sources[source]:
                    del self._sources[source]

        server = await serve(
            serve_one,
            *address,
            ssl=tls,
            process_request=judge,
            select_subprotocol=_select,
            compression=None,
            server_header=None,
            ssl_handshake_timeout=limits.connect_seconds if tls is not None else None,
            open_timeout=limits.connect_seconds,
            ping_interval=limits.ping_seconds,
            ping_timeout=limits.ping_seconds,
            close_timeout=1.0,
            max_size=MAX_OCTETS,
            logger=_library_log,
        )
        self._servers.append(server)
        bound = peer_address(next(iter(server.sockets)).getsockname())
        _log.info("listening for JSON over %s on %s port %d", "WSS" if tls else "WS", *bound)
        return bound

    async def close(self) -> None:
        """Close the listeners; connections end with the transports."""
        for server in self._servers:
            server.close(close_connections=False)
        self._servers.clear()

    def _judge(
        self, connection: ServerConnection, request: HttpRequest, check: HandshakeCheck | None
    ) -> HttpResponse | None:
        remote = peer_address(connection.remote_address)
        most = self._transports.limits.websockets_per_address
        crowded = 0 < most <= self._sources[source_key(remote)]
        if crowded or not self._transports.admit(peer_address(connection.local_address), remote):
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
        _log.warning("JSON handshake refused with %d: %s", status, reason)
        return connection.respond(http.HTTPStatus(status), f"{reason}\n")


def _select(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol:
    if _PROTOCOL not in offered:
        raise NegotiationError(f"the subprotocol {SUB_PROTOCOL} is needed")
    return _PROTOCOL


class JsonLink(Link):
    """One JSON client: its WebSocket on one side, SIP with the eP-CSCF on the other."""

    outgoing = None

    def __init__(self, owner: Transports, domain: str, connection: ServerConnection, *, secure: bool) -> None:
        self._owner = owner
        self._connection = connection
        local, remote = peer_address(connection.local_address), peer_address(connection.remote_address)
        self.flow = Flow("WSS" if secure else "WS", local, remote, next_flow_id())
        self._client = JsonClient(domain, self.flow, lambda digits: secrets.token_hex((digits + 1) // 2)[:digits])
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._rate = Flows(FlowLimits())
        self._unsent: deque[str] = deque()
        self._unsent_octets = 0
        self._wake = asyncio.Event()
        self._reason = ""
        self._over = False
        self._done = asyncio.Event()
        self._errors = 0
        self.heard_at = self._loop.time()
        owner.opened(self)

    async def run(self) -> None:
        """Receive until the connection ends."""
        writer = spawn(self._write(), f"write JSON {self.flow}")
        try:
            async for data in self._connection:
                self._take(data)
        except ConnectionClosed as error:
            self._reason = self._reason or str(error)
        finally:
            self._client.close(self._loop.time())
            self._drive()
            self._over = True
            if self._timer is not None:
                self._timer.cancel()
            writer.cancel()
            self._owner.lost(self, self._reason or "the peer closed it")
            self._done.set()

    # ---- what the transports call ----------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Take a SIP message of the eP-CSCF for this client."""
        if self._over:
            raise TransportError("the connection is gone")
        try:
            message = parse_message(data)
        except SipParseError as error:
            raise TransportError(f"the eP-CSCF's own message cannot be read: {error.brief}") from error
        self._client.handle(Received(message, self.flow), self._loop.time())
        self._drive()

    def keep_alive(self, seconds: float) -> None:
        """Do nothing: WebSocket pings run on every connection."""

    def close(self, reason: str) -> None:
        """Close the WebSocket."""
        if not self._reason:
            self._reason = reason
            self._wake.set()

    async def wait_closed(self) -> None:
        """Wait for the end; a client that does not take the rest is cut off."""
        try:
            async with asyncio.timeout(2.0):
                await self._done.wait()
        except TimeoutError:
            self._connection.transport.abort()
            await self._done.wait()

    # ---- the client ------------------------------------------------------------------------------------------

    def _take(self, data: str | bytes) -> None:
        if self._reason:
            return
        now = self.heard_at = self._loop.time()
        if not self._rate.message(self.flow, now):
            if self._rate.floods(self.flow):
                _log.warning("%s floods: closed", self.flow)
                self.close("too many messages")
            return
        try:
            message = parse(data)
        except JsonError as error:
            self._errors += 1
            _log.info("a JSON message over %s is refused: %s", self.flow, error.what)
            self._client.refuse(error)
            if self._errors >= MOST_ERRORS:
                self.close("too many messages that cannot be read")
        else:
            self._client.handle(message, now)
        self._drive()

    def _tick(self) -> None:
        self._timer = None
        self._client.handle(Tick(), self._loop.time())
        self._drive()

    def _drive(self) -> None:
        while (output := self._client.poll()) is not None:
            if isinstance(output, Transmit):
                self.heard_at = self._loop.time()
                self._owner.receiver.received(output.message.encode(), self.flow)
            elif self._unsent_octets < self._owner.limits.unsent_bytes:
                text = output.encode()
                self._unsent.append(text)
                self._unsent_octets += len(text)
                self._wake.set()
            else:
                self.close("the peer does not read")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._client.deadline()
        if deadline is not None and not self._over:
            self._timer = self._loop.call_at(deadline, self._tick)

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._unsent:
                    text = self._unsent.popleft()
                    await self._connection.send(text)
                    self._unsent_octets -= len(text)
                if self._reason:
                    await self._connection.close(1001, self._reason[:100])
                    return
        except ConnectionClosed:
            return
