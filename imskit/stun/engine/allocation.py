"""The state of an allocation: relayed addresses, permissions, channels (RFC 8656 6, 9, 12)."""

from __future__ import annotations

from dataclasses import dataclass, field

from imskit.stun.engine.credentials import Authenticated
from imskit.stun.engine.events import Flow, RelayId
from imskit.stun.wire.attributes import Address
from imskit.stun.wire.message import Message

PERMISSION_LIFETIME = 300.0
"""Seconds; fixed by RFC 8656 9."""
CHANNEL_LIFETIME = 600.0
"""Seconds; fixed by RFC 8656 12."""
RESERVATION_LIFETIME = 30.0
"""Seconds that the next higher port is held for its token (RFC 8656 7.2)."""


@dataclass(slots=True, eq=False)
class Relay:
    """One relayed transport address of an allocation, with what belongs to it alone."""

    id: RelayId
    family: int
    address: Address
    expires: float
    allocation: Allocation
    permissions: dict[str, float] = field(default_factory=dict)
    """Expiry by peer host."""
    by_peer: dict[Address, Channel] = field(default_factory=dict)

    def permits(self, host: str, now: float) -> bool:
        """Whether a permission for ``host`` is alive."""
        expires = self.permissions.get(host)
        return expires is not None and expires > now


@dataclass(slots=True, eq=False)
class Channel:
    """A channel binding."""

    number: int
    relay: Relay
    peer: Address
    expires: float

    @property
    def carries_until(self) -> float:
        """When data stops: with the binding or with the peer's permission, whichever ends first.

        RFC 8656 asks for the permission only from peer to client; one moment for both directions means that what
        a client may not hear it cannot send to either.
        """
        return min(self.expires, self.relay.permissions.get(self.peer[0], 0.0))


@dataclass(slots=True, eq=False)
class Allocation:
    """What a client's 5-tuple holds: one relayed address, or one of each family."""

    flow: Flow
    username: str
    relays: dict[int, Relay] = field(default_factory=dict)
    """By address family, 4 and 6."""
    channels: dict[int, Channel] = field(default_factory=dict)
    """By number; numbers are the allocation's, whatever the family."""


@dataclass(slots=True, eq=False)
class Reservation:
    """The next higher port, held for who brings the token."""

    relay: RelayId
    family: int
    address: Address
    expires: float


@dataclass(slots=True, eq=False)
class PendingAllocation:
    """An Allocate request that waits for its relayed addresses."""

    flow: Flow
    request: Message
    auth: Authenticated
    lifetime: float
    waiting: dict[RelayId, int]
    """Family by relay that has not been answered yet."""
    opened: dict[int, tuple[RelayId, Address]] = field(default_factory=dict)
    """By family."""
    failed: dict[int, int] = field(default_factory=dict)
    """Error code by family."""
    reserve: RelayId | None = None
    abandoned: bool = False
    """The client is gone: close what still opens."""
