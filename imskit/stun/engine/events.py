"""What goes into the TURN server machine and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, NewType

from imskit.stun.wire.attributes import Address

RelayId = NewType("RelayId", int)
"""A relayed transport address, named by the engine before it has an address."""


class Flow(NamedTuple):
    """The 5-tuple of a client: an allocation belongs to exactly one (RFC 8656 6)."""

    transport: Literal["UDP", "TCP"]
    server: Address
    client: Address

    @property
    def stream(self) -> bool:
        """Whether messages are framed on a stream."""
        return self.transport != "UDP"

    def __str__(self) -> str:
        return f"{self.transport} {self.client[0]} port {self.client[1]}"


# --- events ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """A datagram, or a frame cut from a stream, arrived from a client."""

    flow: Flow
    data: bytes


@dataclass(frozen=True, slots=True)
class FlowClosed:
    """A client's connection is gone, and with it its allocation."""

    flow: Flow


@dataclass(frozen=True, slots=True)
class RelayOpened:
    """Completes ``OpenRelay``."""

    relay: RelayId
    address: Address
    """The relayed transport address as clients and peers are to know it."""


@dataclass(frozen=True, slots=True)
class RelayFailed:
    """Completes ``OpenRelay``: there is no such address or port to be had."""

    relay: RelayId


@dataclass(frozen=True, slots=True)
class FromPeer:
    """A datagram arrived at a relayed transport address."""

    relay: RelayId
    peer: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class PolicyChanged:
    """The peer policy may now refuse what it allowed: drop permissions and channels that it refuses."""


@dataclass(frozen=True, slots=True)
class UserRemoved:
    """A user's credential was withdrawn: end the user's allocations at once."""

    username: str


type Event = Received | FlowClosed | RelayOpened | RelayFailed | FromPeer | PolicyChanged | UserRemoved


# --- outputs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendToClient:
    """Send to a client."""

    flow: Flow
    data: bytes
    relayed: bool = False
    """Whether this is a peer's data, which may be lost, and not an answer."""


@dataclass(frozen=True, slots=True)
class SendToPeer:
    """Send a datagram from a relayed transport address."""

    relay: RelayId
    peer: Address
    data: bytes
    dont_fragment: bool = False


@dataclass(frozen=True, slots=True)
class OpenRelay:
    """Get a relayed transport address; answered by ``RelayOpened`` or ``RelayFailed``.

    With ``reserve`` the next higher port is to be had as well, under that name, and announced by the same
    ``RelayOpened``; what arrives there is dropped by the engine until the reservation is used.
    """

    relay: RelayId
    flow: Flow
    family: int
    """4 or 6."""
    even: bool = False
    reserve: RelayId | None = None


@dataclass(frozen=True, slots=True)
class CloseRelay:
    """Give a relayed transport address back."""

    relay: RelayId


@dataclass(frozen=True, slots=True)
class ChannelBound:
    """A channel may carry data both ways until ``expires``; said again when that moves."""

    flow: Flow
    channel: int
    relay: RelayId
    relayed: Address
    peer: Address
    expires: float


@dataclass(frozen=True, slots=True)
class ChannelUnbound:
    """A channel must carry no more."""

    flow: Flow
    channel: int


type Output = SendToClient | SendToPeer | OpenRelay | CloseRelay | ChannelBound | ChannelUnbound
