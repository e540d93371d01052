"""The sockets of one SIP element: listeners, connections, and the table of its flows (RFC 3261 section 18).

UDP, TCP, TLS and WebSocket (RFC 7118), IPv4 and IPv6.  What comes in goes to a `Receiver` as the bytes of one whole
message with the `Flow` it came over; what goes out names a flow, or a `Target` for which a flow is found or made.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Literal, Protocol

from imskit.sip.io.sockets import Binding
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Address, Flow, ProtectedPorts, Target, Transport
from imskit.sip.wire.message import MAXIMUM_BODY, MAXIMUM_HEAD
from imskit.tasks import spawn

_log = logging.getLogger(__name__)
_ids = itertools.count(1)

type HandshakeCheck = Callable[[Mapping[str, str]], tuple[int, str] | None]
"""Judges a WebSocket handshake by its headers (lower-case names; values of repeated ones joined by a comma).

``None`` lets it in; an HTTP status and a reason keep it out: the place for Origin and shared secrets.
"""


class TransportError(Exception):
    """A message could not be sent, or no connection could be had; says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what peers may take."""

    connections: int = 10_000
    """Connections accepted at a time; more are closed at once."""
    websockets_per_address: int = 0
    """WebSocket connections from one IP address, or from one /64 of IPv6, with their handshakes; 0: no bound."""
    websocket_bytes: int = MAXIMUM_HEAD + MAXIMUM_BODY
    """Length of a WebSocket message; a longer one ends its connection (RFC 6455 section 7.4.1, 1009)."""
    websocket_malformed: int = 0
    """Messages on one WebSocket connection that cannot be read, until it is closed; 0: no bound."""
    connect_seconds: float = 10.0
    """For a connection with its TLS and WebSocket handshakes."""
    stall_seconds: float = 30.0
    """For the rest of a message that has begun on a stream."""
    unsent_bytes: int = 4 * 1024 * 1024
    """Waiting for a peer that does not read; more and the connection is closed."""
    ping_seconds: float = 30.0
    """Between WebSocket pings, and to wait for their answer."""
    pong_seconds: float = 10.0
    """To wait for the answer to a CRLF keep-alive (RFC 5626 section 4.4.1)."""


class Receiver(Protocol):
    """Takes what the transports receive."""

    def received(self, data: bytes, flow: Flow) -> None:
        """Take in the bytes of one whole message, well formed or not."""

    def malformed(self, head: bytes, error: SipParseError, flow: Flow) -> None:
        """Take note of a stream that lost its framing; it is closed after this call."""

    def closed(self, flow: Flow, reason: str) -> None:
        """Take note that a connection is gone."""


class Link(ABC):
    """One connection: TCP, TLS or WebSocket."""

    flow: Flow
    heard_at: float = 0.0
    """When a message came last, by the loop's clock; kept for WebSocket."""
    outgoing: Target | None = None
    """For what target it was made; ``None``: the peer made it."""

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Send one message; raises `TransportError`."""

    @abstractmethod
    def keep_alive(self, seconds: float) -> None:
        """Send a keep-alive every ``seconds``, and close the connection if one is not answered."""

    @abstractmethod
    def close(self, reason: str) -> None:
        """Close it; the receiver hears of it."""

    @abstractmethod
    async def wait_closed(self) -> None:
        """Wait until the socket is gone."""


def next_flow_id() -> int:
    """Return a number that no other flow of this process has."""
    return next(_ids)


def peer_address(name: object) -> Address:
    """Return host and port of what the socket layer calls an address; IPv4-mapped IPv6 comes as IPv4."""
    if isinstance(name, tuple) and len(name) >= 2:
        host = str(name[0]).partition("%")[0]
        if host.lower().startswith("::ffff:") and "." in host:
            host = host[7:]
        return host, int(name[1])
    return "", 0


def source_key(address: Address) -> str:
    """Return what stands for one peer: its IPv4 address, the /64 network of an IPv6 one."""
    try:
        parsed = ip_address(address[0])
    except ValueError:
        return address[0]
    return str(ip_network((parsed, 64), strict=False)) if isinstance(parsed, IPv6Address) else address[0]


class Transports:
    """The sockets and the flow table; see the module's text."""

    def __init__(
        self,
        receiver: Receiver,
        *,
        client_tls: ssl.SSLContext | None = None,
        limits: Limits | None = None,
        binding: Binding | None = None,
    ) -> None:
        """``client_tls`` verifies servers on TLS and WSS; ``None``: the system's certificates.

        ``binding`` is for every UDP and TCP socket that is given none of its own.
        """
        # Imported here because each of them builds on this module's Link.
        from imskit.sip.io.protected import ProtectedPortTable
        from imskit.sip.io.stream import StreamTransport
        from imskit.sip.io.udp import UdpTransport
        from imskit.sip.io.websocket import WebSocketTransport

        self.receiver = receiver
        self.limits = limits or Limits()
        self._client_tls = client_tls
        self._links: dict[int, Link] = {}
        self._outgoing: dict[Target, Link] = {}
        self._connecting: dict[Target, tuple[asyncio.Future[Link], asyncio.Task[None]]] = {}
        self._hosts: set[str] = set()
        """Where this element listens for SIP: the addresses that its connections come from."""
        self._accepted = 0
        self._closing = False
        self._binding = binding or Binding()
        self._bindings: dict[Address, Binding] = {}
        """Of own addresses that have one of their own."""
        self._protected = ProtectedPortTable()
        self._udp = UdpTransport(receiver, self._protected)
        self._streams = StreamTransport(self)
        self._websockets = WebSocketTransport(self)

    # ---- set-up ----------------------------------------------------------------------------------------------

    async def listen(
        self,
        transport: Transport,
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
        check: HandshakeCheck | None = None,
    ) -> Address:
        """Listen on one address and return it with its real port (0 lets the system choose).

        Use a definite IP address, not a wildcard: it stands in Via.  TLS and WSS need ``tls``; ``check`` judges
        WebSocket handshakes.  Raises `OSError`.
        """
        if (tls is None) == (transport in ("TLS", "WSS")):
            raise ValueError(f"a TLS context is for TLS and WSS, this is {transport}")
        if check is not None and transport not in ("WS", "WSS"):
            raise ValueError(f"a handshake check is for WS and WSS, this is {transport}")
        if transport == "UDP":
            bound = await self._udp.listen(address, self._binding)
        elif transport in ("TCP", "TLS"):
            bound = await self._streams.listen(address, tls, self._binding)
        else:
            bound = await self._websockets.listen(address, tls, check)
        if transport not in ("WS", "WSS"):
            self._hosts.add(bound[0])
        _log.info("listening on %s %s port %d", transport, *bound)
        return bound

    async def listen_protected(
        self, transport: Literal["UDP", "TCP"], address: Address, interface: str | None
    ) -> Address:
        """Listen at a port of security agreements and return its address; nobody is heard there but by `join`.

        ``interface`` is the one that protected packets come through, ``None``: that of all sockets.  Sockets and
        connections that leave from this address are bound in the same way.  Raises `OSError`.
        """
        binding = Binding(interface or self._binding.interface, self._binding.dscp)
        listen = self._udp.listen(address, binding) if transport == "UDP" else self._listen_stream(address, binding)
        bound = await listen
        self._protected.protect(bound)
        self._bindings[bound] = binding
        _log.debug("protected %s port %d of %s", transport, bound[1], bound[0])
        return bound

    async def _listen_stream(self, address: Address, binding: Binding) -> Address:
        return await self._streams.listen(address, None, binding)

    async def stop_protected(self, address: Address) -> None:
        """Close what listens at a port of security agreements, and its connections."""
        self._udp.stop_listening(address)
        self._streams.stop_listening(address)
        await self._end(lambda flow: flow.local == address, "its protected port is closed")
        self._protected.unprotect(address)
        self._bindings.pop(address, None)
        await asyncio.sleep(0)  # the loop closes a datagram socket in its next turn

    def join(self, ports: ProtectedPorts) -> None:
        """Let an agreement's far end in at our protected ports, and send what goes to its server port from ours.

        A `Target` that names no source port leaves from the agreement with that peer that was joined last.
        """
        self._protected.join(ports)

    async def part(self, ports: ProtectedPorts) -> None:
        """Undo `join`; returns when the agreement's connections are closed and its associations may go."""
        self._protected.part(ports)
        ends = {(ports.server, ports.peer_client), (ports.client, ports.peer_server)}
        await self._end(lambda flow: (flow.local, flow.remote) in ends, "its security agreement is over")

    async def _end(self, which: Callable[[Flow], bool], reason: str) -> None:
        links = [link for link in self._links.values() if which(link.flow)]
        for link in links:
            link.close(reason)
        await asyncio.gather(*(link.wait_closed() for link in links))

    async def close(self) -> None:
        """Close every listener and connection."""
        self._closing = True
        for future, task in list(self._connecting.values()):
            task.cancel()
            if not future.done():
                future.set_exception(TransportError("this side is shutting down"))
        await self._websockets.stop_listening()
        self._streams.stop()
        links = list(self._links.values())
        for link in links:
            link.close("this side is shutting down")
        await asyncio.gather(*(link.wait_closed() for link in links))
        self._udp.close()

    # ---- sending ---------------------------------------------------------------------------------------------

    def send(self, data: bytes, destination: Flow | Target, failed: Callable[[str], None]) -> None:
        """Send one message; ``failed`` is called with the reason, at once or later, if it cannot be sent.

        Messages to the same destination keep their order.
        """
        try:
            if isinstance(destination, Target):
                destination = self._protected.source(destination)
            if isinstance(destination, Flow):
                self._send_on_flow(data, destination)
            elif destination.transport == "UDP":
                self._udp.send_to(data, destination)
            elif (link := self._outgoing.get(destination)) is not None:
                link.send(data)
            else:
                spawn(self._connect_and_send(data, destination, failed), f"SIP connection to {destination}")
        except TransportError as error:
            failed(str(error))

    async def open(self, target: Target) -> Flow:
        """Return a flow to ``target``, connecting if there is none yet; raises `TransportError`."""
        target = self._protected.source(target)
        if target.transport == "UDP":
            return self._udp.flow(target)
        return (await self._link(target)).flow

    def keep_alive(self, flow: Flow, seconds: float) -> None:
        """Keep a connection open by RFC 5626 section 4.4.1 (CRLF) or WebSocket pings; UDP has STUN for that.

        Raises `TransportError` if the connection is gone.
        """
        self._link_of(flow).keep_alive(seconds)

    def drop(self, flow: Flow, reason: str) -> None:
        """Close the connection of a flow, if it is still there."""
        if (link := self._links.get(flow.id)) is not None:
            link.close(reason)

    def _send_on_flow(self, data: bytes, flow: Flow) -> None:
        if flow.transport == "UDP":
            self._udp.send_on(data, flow)
        else:
            self._link_of(flow).send(data)

    def _link_of(self, flow: Flow) -> Link:
        link = self._links.get(flow.id)
        if link is None:
            raise TransportError("the connection is gone")
        return link

    async def _connect_and_send(self, data: bytes, target: Target, failed: Callable[[str], None]) -> None:
        try:
            (await self._link(target)).send(data)
        except TransportError as error:
            failed(str(error))

    async def _link(self, target: Target) -> Link:
        if (link := self._outgoing.get(target)) is not None:
            return link
        if target not in self._connecting:
            future: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
            task = spawn(self._establish(target, future), f"SIP connection to {target}")
            self._connecting[target] = future, task
        # Several may wait for the same connection; one that is cancelled must not take it from the others.
        return await asyncio.shield(self._connecting[target][0])

    async def _establish(self, target: Target, future: asyncio.Future[Link]) -> None:
        try:
            link = await self._connect(target)
            if not future.done():
                future.set_result(link)
        except TransportError as error:
            if not future.done():
                future.set_exception(error)
        finally:
            del self._connecting[target]

    async def _connect(self, target: Target) -> Link:
        if self._closing:
            raise TransportError("this side is shutting down")
        tls = self._tls() if target.transport in ("TLS", "WSS") else None
        try:
            async with asyncio.timeout(self.limits.connect_seconds):
                if target.transport in ("TCP", "TLS"):
                    return await self._streams.connect(target, tls, *self._origin(target))
                return await self._websockets.connect(target, tls)
        except TimeoutError:
            raise TransportError(f"{target}: no connection within {self.limits.connect_seconds:g} s") from None
        except OSError as error:
            raise TransportError(f"{target}: {_why(error)}") from error

    def _origin(self, target: Target) -> tuple[Address | None, Binding]:
        """Return the own address that a connection is to come from, if it matters, and what it is bound to."""
        host = target.source or self._source(target.address[0])
        source = None if host is None else (host, target.source_port)
        return source, self._bindings.get(source, self._binding) if source is not None else self._binding

    def _source(self, destination: str) -> str | None:
        """Return the own address that a connection is to come from, ``None`` to leave it to the system.

        A UE is known by the address that it registered: its connections must not leave by another interface.
        """
        try:
            remote = ip_address(destination)
            fitting = [
                host
                for host in self._hosts
                if (own := ip_address(host)).version == remote.version
                and not own.is_unspecified
                and own.is_loopback == remote.is_loopback
            ]
        except ValueError:
            return None
        if len(fitting) > 1:
            source = source_address(destination)
            return source if source in fitting else None
        return fitting[0] if fitting else None

    def _tls(self) -> ssl.SSLContext:
        if self._client_tls is None:
            self._client_tls = ssl.create_default_context()
        return self._client_tls

    def silent_clients(self, seconds: float) -> list[Flow]:
        """Return the WebSocket connections of clients on which no SIP message has come for so long."""
        before = asyncio.get_running_loop().time() - seconds
        return [
            link.flow
            for link in self._links.values()
            if link.outgoing is None and link.flow.transport in ("WS", "WSS") and link.heard_at < before
        ]

    @property
    def clients(self) -> int:
        """WebSocket connections that clients have made, with those in their handshake."""
        return self._websockets.accepted

    @property
    def refused(self) -> int:
        """WebSocket connections that were too many, since the start."""
        return self._websockets.refused

    # ---- what links report -----------------------------------------------------------------------------------

    def admit(self, local: Address, remote: Address) -> bool:
        """Tell whether one more connection may be accepted."""
        if not self._protected.admits(local, remote):
            _log.info("a connection in clear to protected port %d is refused", local[1])
            return False
        return not self._closing and self._accepted < self.limits.connections

    def opened(self, link: Link) -> None:
        """Enter a connection into the table."""
        self._links[link.flow.id] = link
        if link.outgoing is None:
            self._accepted += 1
        else:
            self._outgoing[link.outgoing] = link
        _log.debug("opened %s", link.flow)

    def lost(self, link: Link, reason: str) -> None:
        """Take a connection out of the table and tell the receiver."""
        if self._links.pop(link.flow.id, None) is None:
            return
        if link.outgoing is None:
            self._accepted -= 1
        else:
            del self._outgoing[link.outgoing]
        _log.debug("closed %s: %s", link.flow, reason)
        self.receiver.closed(link.flow, reason)


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, ssl.SSLError) or not error.errno:
        return str(error)
    # asyncio's own text repeats the address and hides what the system said.
    return os.strerror(error.errno)


def source_address(destination: str) -> str | None:
    """Return the local address from which the system reaches ``destination``, ``None`` if it does not."""
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((destination, 9))
            return str(probe.getsockname()[0])
        except OSError:
            return None
