"""UDP and TCP sockets around the engine: listeners for clients, paths to the upstreams (RFC 1035, RFC 7766).

Datagrams are read by ``add_reader`` callbacks straight from the socket, one a wake-up: at the rate that a handset
asks, looking for a second one costs more than it finds.  Run it on uvloop.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple, cast

from imskit.engine import Tick
from imskit.tasks import spawn
from ue_agent.dns_proxy.engine.proxy import (
    GIVE_UP_S,
    SOCKETS,
    Ask,
    ClientQuery,
    Counters,
    DnsProxyEngine,
    Event,
    Hangup,
    Reply,
    UpstreamFailed,
    UpstreamReply,
)
from ue_agent.dns_proxy.wire.local import Address, LocalAnswers

_log = logging.getLogger(__name__)

SOCKET_LIFE_S = 60.0
"""Seconds after which an upstream socket in use is replaced by one with another port."""
TCP_IDLE_S = 10.0
"""Seconds that a client's TCP connection may stay without a query."""
TCP_CONNECTIONS = 64
"""Client connections at a time."""
TCP_QUERIES = 32
"""Queries in progress on one client connection at a time (RFC 7766 section 6.2.1.1 allows several)."""
_DATAGRAM = 65_535
_LARGEST_QUERY = 4096
_RECEIVE_BUFFER = 1 << 20


class Endpoint(NamedTuple):
    """An IP address and a port."""

    address: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int | None = None) -> Endpoint:
        """Read ``ADDR:PORT`` or ``[ADDR6]:PORT``, and ``ADDR`` alone where there is a default; ValueError else."""
        address, separator, port = text.rpartition(":")
        if default_port is not None and (not separator or (":" in address and not text.startswith("["))):
            address, port = text, str(default_port)
        if default_port is not None and text.startswith("[") and text.endswith("]"):
            address, port = text, str(default_port)
        if not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise ValueError(f"{text!r} is no ADDRESS:PORT, such as 127.0.0.1:53 or [::1]:53")
        return cls(str(ip_address(address.removeprefix("[").removesuffix("]"))), int(port))

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def family(self) -> socket.AddressFamily:
        """The socket family of the address."""
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET


@dataclass(frozen=True, slots=True)
class DnsProxyConfig:
    """What the proxy needs to know."""

    listen: Sequence[Endpoint]
    """Where clients ask, UDP and TCP; port 0 takes a free one, the same for both."""
    upstreams: Sequence[Endpoint]
    """Servers that everything else is forwarded to, best first."""
    answers: Mapping[str, Iterable[Address]]
    """Host names answered locally, with the device's addresses."""
    operator_domains: Sequence[str] = ()
    """Domains whose HTTPS and SVCB records lose ECH and HTTP/3 hints."""


class DnsProxy:
    """The running proxy."""

    def __init__(self, config: DnsProxyConfig) -> None:
        self._config = config
        self._engine = DnsProxyEngine(
            len(config.upstreams),
            LocalAnswers(config.answers),
            config.operator_domains,
            lambda digits: secrets.token_hex((digits + 1) // 2)[:digits],
        )
        self._listeners: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._connections: set[_TcpClient] = set()
        self._paths: list[_UpstreamSocket | None] = [None] * (SOCKETS * len(config.upstreams))
        self._asking: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def counters(self) -> Counters:
        """What happened so far."""
        return self._engine.counters

    @property
    def upstreams_up(self) -> dict[str, bool]:
        """Which upstreams answer, as far as is known."""
        return dict(zip(map(str, self._config.upstreams), self._engine.upstreams_up, strict=True))

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where it listens."""
        return tuple(Endpoint(*sock.getsockname()[:2]) for sock in self._listeners)

    def set_answers(self, answers: Mapping[str, Iterable[Address]]) -> None:
        """Replace what is answered locally: the device has another address."""
        self._engine.set_answers(LocalAnswers(answers))

    async def start(self) -> None:
        """Bind every listener; OSError, with the address in its text, when one cannot be had."""
        loop = asyncio.get_running_loop()
        try:
            for endpoint in self._config.listen:
                udp, tcp = _bind(endpoint)
                self._listeners.append(udp)
                loop.add_reader(udp, self._read_client, udp)
                self._servers.append(await loop.create_server(lambda: _TcpClient(self), sock=tcp))
        except OSError:
            await self.aclose()
            raise
        for endpoint in self.endpoints:
            _log.info("DNS proxy listens on %s (UDP and TCP)", endpoint)

    async def aclose(self) -> None:
        """Close every socket."""
        self._closed = True
        loop = asyncio.get_running_loop()
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.close()
        for sock in self._listeners:
            loop.remove_reader(sock)
            sock.close()
        self._listeners.clear()
        for path in self._paths:
            if path is not None:
                path.close()
        for task in self._asking:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()

    # -- clients

    def _read_client(self, sock: socket.socket) -> None:
        try:
            data, address = sock.recvfrom(_LARGEST_QUERY)
        except OSError:  # nothing there after all, or an ICMP error for an earlier reply
            return
        known = self._engine.known_answer(data)
        if known is None:
            self.feed(ClientQuery((sock, address), data, False))
        else:
            self._reply((sock, address), known)

    def feed(self, event: Event | Tick) -> None:
        """Give the engine an event and carry out what it wants."""
        if self._closed:
            return
        now = time.monotonic()
        engine = self._engine
        engine.handle(event, now)
        while (output := engine.poll()) is not None:
            if isinstance(output, Reply):
                self._reply(output.client, output.data)
            elif isinstance(output, Ask):
                self._ask(output, now)
            elif isinstance(output, Hangup):
                if isinstance(output.client, _TcpQuery):
                    output.client.connection.close()
            else:
                state = "answers again" if output.up else "does not answer"
                _log.warning("upstream DNS server %s %s", self._config.upstreams[output.upstream], state)
        if self._timer is None and (deadline := engine.deadline()) is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, deadline - now), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.feed(Tick())

    def _reply(self, client: Hashable, data: bytes) -> None:
        if isinstance(client, _TcpQuery):
            client.connection.reply(data)
            return
        try:
            client[0].sendto(data, client[1])  # type: ignore[index]  # (socket, address), see _read_client
        except OSError as error:  # buffer full, client gone: as good as a lost datagram
            _log.debug("reply not sent: %s", error)

    # -- upstreams

    def _ask(self, ask: Ask, now: float) -> None:
        if ask.path >= SOCKETS:
            task = spawn(self._ask_over_tcp(ask), f"dns-tcp-{ask.path}")
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
            return
        number = ask.upstream * SOCKETS + ask.path
        path = self._paths[number]
        try:
            if path is None or now > path.replace:
                endpoint = self._config.upstreams[ask.upstream]
                self._paths[number] = fresh = _UpstreamSocket(self, ask.upstream, ask.path, endpoint)
                if path is not None:  # an answer may still be on its way
                    asyncio.get_running_loop().call_later(GIVE_UP_S, path.close)
                path = fresh
            path.sock.send(ask.data)
        except BlockingIOError:
            pass  # lost, as datagrams are: the engine asks again
        except OSError as error:
            if path is not None:
                path.close()
            self._path_failed(ask.upstream, ask.path, error)

    def _path_failed(self, upstream: int, path: int, error: OSError) -> None:
        _log.debug("upstream %s, path %d: %s", self._config.upstreams[upstream], path, error)
        failed = UpstreamFailed(upstream, path)
        # Not from within the drain of another event.
        asyncio.get_running_loop().call_soon(self.feed, failed)

    async def _ask_over_tcp(self, ask: Ask) -> None:
        endpoint = self._config.upstreams[ask.upstream]
        event: Event = UpstreamFailed(ask.upstream, ask.path)
        try:
            async with asyncio.timeout(GIVE_UP_S):
                reader, writer = await asyncio.open_connection(endpoint.address, endpoint.port)
                try:
                    writer.write(len(ask.data).to_bytes(2, "big") + ask.data)
                    length = int.from_bytes(await reader.readexactly(2), "big")
                    event = UpstreamReply(ask.upstream, ask.path, await reader.readexactly(length))
                finally:
                    writer.close()
        except (OSError, EOFError, TimeoutError) as error:
            _log.debug("upstream %s over TCP: %s", endpoint, error or type(error).__name__)
        self.feed(event)


class _UpstreamSocket:
    """A connected UDP socket: the kernel drops what comes from elsewhere, and reports ICMP errors."""

    def __init__(self, proxy: DnsProxy, upstream: int, path: int, endpoint: Endpoint) -> None:
        self._proxy = proxy
        self._upstream = upstream
        self._path = path
        self.replace = time.monotonic() + SOCKET_LIFE_S
        """When a socket with another port takes its place."""
        self.sock = socket.socket(endpoint.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self.sock.connect(endpoint)  # binds to a random port
        except OSError:
            self.sock.close()
            raise
        asyncio.get_running_loop().add_reader(self.sock, self._read)

    def close(self) -> None:
        """Close the socket."""
        self.replace = 0.0
        if self.sock.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.sock)
            self.sock.close()

    def _read(self) -> None:
        try:
            data = self.sock.recv(_DATAGRAM)
        except BlockingIOError:
            return
        except OSError as error:
            self.close()
            self._proxy._path_failed(self._upstream, self._path, error)
            return
        self._proxy.feed(UpstreamReply(self._upstream, self._path, data))


@dataclass(frozen=True, slots=True, eq=False)
class _TcpQuery:
    """One query on a connection; each is a client of its own to the engine."""

    connection: _TcpClient


class _TcpClient(asyncio.Protocol):
    """A client's connection: queries may be pipelined, answers leave in the order they become known."""

    def __init__(self, proxy: DnsProxy) -> None:
        self._proxy = proxy
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._waiting = 0
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        if len(self._proxy._connections) >= TCP_CONNECTIONS:
            self._transport.abort()
            return
        self._proxy._connections.add(self)
        self._restart_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._proxy._connections.discard(self)
        self._transport = None
        if self._idle is not None:
            self._idle.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._take()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def reply(self, data: bytes) -> None:
        """Send an answer, if the client is still there."""
        self._waiting -= 1
        if self._transport is None:
            return
        if self._transport.get_write_buffer_size() > _DATAGRAM * 4:
            self._transport.abort()  # asks, but does not read
            return
        self._transport.write(len(data).to_bytes(2, "big") + data)
        asyncio.get_running_loop().call_soon(self._take)

    def _take(self) -> None:
        while self._transport is not None and not self._transport.is_closing() and len(self._buffer) >= 2:
            end = 2 + int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < end:
                break
            if self._waiting >= TCP_QUERIES:
                self._transport.pause_reading()
                return
            message, self._buffer = self._buffer[2:end], self._buffer[end:]
            self._restart_idle()  # for whole queries only: octets that drip in hold no connection
            self._waiting += 1
            self._proxy.feed(ClientQuery(_TcpQuery(self), message, True))
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _restart_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(TCP_IDLE_S, self.close)


def _bind(endpoint: Endpoint) -> tuple[socket.socket, socket.socket]:
    """Bind UDP and TCP to the same port; tries again when a free UDP port turns out taken for TCP."""
    if ip_address(endpoint.address).is_unspecified:
        # The answer to a query at one of several addresses must leave from that address.
        raise OSError(f"cannot listen on {endpoint}: name one address of this device, not the wildcard")
    for attempt in range(10):
        udp = socket.socket(endpoint.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        tcp = socket.socket(endpoint.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            udp.bind(endpoint)
            tcp.bind((endpoint.address, udp.getsockname()[1]))
            tcp.listen(TCP_CONNECTIONS)
        except OSError as error:
            udp.close()
            tcp.close()
            if endpoint.port or attempt == 9:
                raise OSError(error.errno, f"cannot listen on {endpoint}: {error.strerror}") from error
        else:
            return udp, tcp
    raise AssertionError("unreachable")
