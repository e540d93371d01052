"""Where relayed transport addresses come from: real sockets, or addresses that exist in this process only."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from imskit.media.plane import MediaPlane, SocketId
from imskit.stun.engine.events import ChannelBound, OpenRelay, RelayId, SendToPeer
from imskit.stun.wire.attributes import Address

_log = logging.getLogger(__name__)

type Arrived = Callable[[RelayId, Address, bytes], None]
"""Takes a datagram of a peer at a relayed address."""

FIRST_PORT = 49152
LAST_PORT = 65535
"""Ports of relayed addresses (RFC 8656 7.2)."""
_ATTEMPTS = 64

# Linux's numbers; the socket module has no names for them.
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER = 10, 23
_PMTUDISC_DONT, _PMTUDISC_DO = 0, 2


class RelaySource(Protocol):
    """What the TURN proxy asks for relayed addresses."""

    families: frozenset[int]
    """Address families it can give, of 4 and 6."""
    dont_fragment: bool
    """Whether ``send`` honours DONT-FRAGMENT."""

    def attach(self, arrived: Arrived) -> None:
        """Say who takes what peers send; called once, before anything else."""

    def open(self, wish: OpenRelay) -> Address | None:
        """Get an address at once, and the next port where asked; ``None`` when there is none to be had."""

    def close(self, relay: RelayId) -> None:
        """Give an address back."""

    def send(self, datagram: SendToPeer) -> None:
        """Send a datagram from a relayed address."""

    def bind(self, server: SocketId, bound: ChannelBound) -> None:
        """Let the media plane carry a UDP client's channel."""

    def aclose(self) -> None:
        """Give everything back."""


@dataclass(slots=True)
class _SocketRelay:
    sock: socket.socket
    id: SocketId
    address: Address


class SocketRelays:
    """Relayed addresses on this machine's own addresses, one UDP socket each: the server that stands alone."""

    def __init__(self, plane: MediaPlane, hosts: Iterable[str]) -> None:
        self._plane = plane
        self._hosts: dict[int, str] = {}
        for host in hosts:
            self._hosts.setdefault(6 if ":" in host else 4, host)
        self.families = frozenset(self._hosts)
        self.dont_fragment = sys.platform == "linux"
        self._relays: dict[RelayId, _SocketRelay] = {}

    def attach(self, arrived: Arrived) -> None:
        """Say who takes what peers send."""
        self._arrived = arrived

    def open(self, wish: OpenRelay) -> Address | None:
        """Bind a socket at a random port, so that the next one cannot be guessed (RFC 6056)."""
        host = self._hosts[wish.family]
        step = 2 if wish.even else 1
        for _ in range(_ATTEMPTS):
            port = FIRST_PORT + secrets.randbelow((LAST_PORT + 1 - FIRST_PORT) // step) * step
            with contextlib.ExitStack() as opened:
                try:
                    sock = opened.enter_context(_bind(host, port))
                    following = opened.enter_context(_bind(host, port + 1)) if wish.reserve else None
                except OSError as error:
                    _log.debug("no relayed address at %s port %d: %s", host, port, error)
                    continue
                opened.pop_all()
            self._keep(wish.relay, sock)
            if wish.reserve is not None and following is not None:
                self._keep(wish.reserve, following)
            return host, port
        return None

    def _keep(self, relay: RelayId, sock: socket.socket) -> None:
        socket_id = self._plane.open_socket(sock, partial(self._punt, relay))
        self._relays[relay] = _SocketRelay(sock, socket_id, sock.getsockname()[:2])

    def _punt(self, relay: RelayId, data: bytes, peer: Address) -> None:
        self._arrived(relay, peer, data)

    def close(self, relay: RelayId) -> None:
        """Close the socket."""
        found = self._relays.pop(relay, None)
        if found is not None:
            self._plane.close_socket(found.id)
            found.sock.close()

    def send(self, datagram: SendToPeer) -> None:
        """Send from the relay's socket."""
        relay = self._relays[datagram.relay]
        if not datagram.dont_fragment:
            self._plane.send(relay.id, datagram.data, datagram.peer)
            return
        _discover_mtu(relay.sock, _PMTUDISC_DO)
        try:
            self._plane.send(relay.id, datagram.data, datagram.peer)
        finally:
            _discover_mtu(relay.sock, _PMTUDISC_DONT)

    def bind(self, server: SocketId, bound: ChannelBound) -> None:
        """Let the plane carry the channel between the two sockets."""
        self._plane.bind_channel(
            server,
            bound.flow.client,
            bound.channel,
            relay=self._relays[bound.relay].id,
            relayed=bound.relayed,
            peer=bound.peer,
            expiry=bound.expires,
        )

    def aclose(self) -> None:
        """Close all sockets."""
        for relay in list(self._relays):
            self.close(relay)


class VirtualRelays:
    """Relayed addresses that no interface has: the agent's, whose only peers are the media legs of its own process.

    ``hosts`` are addresses, at most one a family, that nothing on the device's networks uses (192.0.2.0/24 is for
    such); neither they nor the legs' addresses ever appear on a wire.
    """

    dont_fragment = True  # nothing is ever fragmented on the way

    def __init__(self, plane: MediaPlane, hosts: Iterable[str]) -> None:
        self._plane = plane
        self._hosts: Mapping[int, str] = {6 if ":" in host else 4: host for host in hosts}
        self.families = frozenset(self._hosts)
        self._addresses: dict[RelayId, Address] = {}

    def attach(self, arrived: Arrived) -> None:
        """Say who takes what legs send."""
        self._arrived = arrived

    def open(self, wish: OpenRelay) -> Address | None:
        """Take a random free port."""
        taken = set(self._addresses.values())
        host = self._hosts[wish.family]
        step = 2 if wish.even else 1
        for _ in range(_ATTEMPTS):
            port = FIRST_PORT + secrets.randbelow((LAST_PORT + 1 - FIRST_PORT) // step) * step
            wanted = [(wish.relay, (host, port))]
            if wish.reserve is not None:
                wanted.append((wish.reserve, (host, port + 1)))
            if any(address in taken or self._plane.owns(address) for _, address in wanted):
                continue
            for relay, address in wanted:
                self._addresses[relay] = address
                self._plane.set_relayed(address, partial(self._from_leg, relay))
            return host, port
        return None

    def _from_leg(self, relay: RelayId, data: bytes, peer: Address) -> None:
        self._arrived(relay, peer, data)

    def close(self, relay: RelayId) -> None:
        """Give the address back."""
        address = self._addresses.pop(relay, None)
        if address is not None:
            self._plane.set_relayed(address, None)

    def send(self, datagram: SendToPeer) -> None:
        """Hand the datagram to the leg with this address; if it is gone, so is the datagram."""
        self._plane.deliver_to_own(datagram.peer, datagram.data, self._addresses[datagram.relay])

    def bind(self, server: SocketId, bound: ChannelBound) -> None:
        """Let the plane carry the channel between the client and the leg."""
        self._plane.bind_channel(
            server,
            bound.flow.client,
            bound.channel,
            relay=None,
            relayed=bound.relayed,
            peer=bound.peer,
            expiry=bound.expires,
        )

    def aclose(self) -> None:
        """Give all addresses back."""
        for relay in list(self._addresses):
            self.close(relay)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if sys.platform == "linux":
            _discover_mtu(sock, _PMTUDISC_DONT)  # DF only where asked for (RFC 8656 14)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def _discover_mtu(sock: socket.socket, how: int) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, how)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, how)
