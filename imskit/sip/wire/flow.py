"""Names for where a message came from and where one goes: flows and targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

type Address = tuple[str, int]
"""IP address (IPv6 without brackets) or host name, and port."""

type Transport = Literal["UDP", "TCP", "TLS", "WS", "WSS"]

RELIABLE: frozenset[str] = frozenset({"TCP", "TLS", "WS", "WSS"})
"""Transports on which nothing is retransmitted (RFC 3261 section 17)."""

SECURE: frozenset[str] = frozenset({"TLS", "WSS"})

DEFAULT_PORTS: dict[str, int] = {"UDP": 5060, "TCP": 5060, "TLS": 5061, "WS": 80, "WSS": 443}
"""RFC 3261 section 19.1.2, RFC 7118 section 5.2.4 (RFC 6455 ports)."""


@dataclass(frozen=True, slots=True)
class Flow:
    """A way to reach a peer that exists: a connection, or a pair of UDP addresses (RFC 5626 section 2)."""

    transport: Transport
    local: Address
    remote: Address
    id: int
    """Unique in its process; a new connection from the same address has another one."""

    @property
    def reliable(self) -> bool:
        """True on TCP, TLS and WebSocket."""
        return self.transport in RELIABLE

    @property
    def secure(self) -> bool:
        """True on TLS and WSS."""
        return self.transport in SECURE

    def __str__(self) -> str:
        return f"{self.transport} {_text(self.local)}<->{_text(self.remote)} #{self.id}"


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send when no flow exists yet."""

    transport: Transport
    address: Address
    host: str = ""
    """The name that a certificate must carry and a WebSocket asks for; empty: the address itself."""
    source: str = ""
    """Own IP address that a connection is to come from; empty: the one that fits."""
    source_port: int = 0
    """Own port that datagrams and connections come from, with ``source``; 0: any.  Protected ports of Gm need it."""

    @property
    def reliable(self) -> bool:
        """True on TCP, TLS and WebSocket."""
        return self.transport in RELIABLE

    def __str__(self) -> str:
        whence = f" from {_text((self.source, self.source_port))}" if self.source_port else ""
        return f"{self.transport} {_text(self.address)}{whence}"


@dataclass(frozen=True, slots=True)
class ProtectedPorts:
    """The four ports of one security agreement, as one side sees them (TS 33.203 clause 7.1).

    Over UDP requests and responses alike leave ``client`` towards ``peer_server`` and come from ``peer_client`` to
    ``server``.  Over TCP each side connects from its client port to the other's server port, and a response goes back
    on the connection of its request.
    """

    client: Address
    server: Address
    peer_client: Address
    peer_server: Address


def _text(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
