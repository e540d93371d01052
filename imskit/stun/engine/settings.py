"""What an operator of the TURN server decides, and what an Allocate request asks of it (RFC 8656 7.2)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from imskit.stun.engine.answers import Reject
from imskit.stun.wire import attributes as a
from imskit.stun.wire.attributes import Address
from imskit.stun.wire.channel_data import LAST_CHANNEL
from imskit.stun.wire.message import Message

_UDP = 17


@dataclass(frozen=True, slots=True)
class TurnSettings:
    """Limits and abilities of a server."""

    families: frozenset[int] = frozenset({4})
    """Address families of relayed addresses, of 4 and 6."""
    listening: frozenset[Address] = frozenset()
    """The server's own addresses: no peer may be one of them (RFC 8656 21.1.7, loops)."""
    dont_fragment: bool = False
    """Whether the owner can set the DF bit."""
    default_lifetime: float = 600.0
    """Seconds (RFC 8656 7.2)."""
    maximum_lifetime: float = 3600.0
    """Seconds (RFC 8656 7.2)."""
    allocations_per_user: int = 32
    """A page takes one for each network, transport and media line."""
    allocations: int = 1024
    permissions: int = 64
    """For each relayed address."""
    channels: int = 64
    """For each allocation."""
    last_channel: int = LAST_CHANNEL
    """Highest channel number taken; ``LAST_CHANNEL_OF_RFC5766`` for clients older than RFC 8656."""
    software: str = "imsbridge"

    def lifetime(self, request: Message) -> float:
        """Return the lifetime granted to a request, between the default and the maximum (RFC 8656 7.2)."""
        wanted = request.get(a.LIFETIME) or 0
        return max(min(float(wanted), self.maximum_lifetime), self.default_lifetime)


@dataclass(slots=True)
class TurnCounters:
    """What happened since the start; for status and logs."""

    allocations: int = 0
    """Allocations made."""
    errors: Counter[int] = field(default_factory=Counter)
    """Error responses by code."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Input dropped, by reason."""


@dataclass(frozen=True, slots=True)
class Wish:
    """The relayed addresses that an Allocate request asks for, after all checks that need no state."""

    token: bytes | None
    """A reservation to take; then the rest is empty."""
    families: tuple[int, ...] = ()
    """Families to open, all of them supported."""
    unsupported: tuple[int, ...] = ()
    """Families asked for as well that the server does not have."""
    even: bool = False
    reserve: bool = False
    """Whether the next higher port is wanted too."""

    @classmethod
    def of(cls, request: Message, settings: TurnSettings) -> Wish:
        """Check the attributes of an Allocate request; the numbers are those of RFC 8656 7.2.  Raises ``Reject``."""
        transport = request.get(a.REQUESTED_TRANSPORT)  # 3
        if transport is None:
            raise Reject(400, "no REQUESTED-TRANSPORT")
        if transport != _UDP:
            raise Reject(442, f"transport {transport}")
        if a.DONT_FRAGMENT in request and not settings.dont_fragment:  # 4
            raise Reject(420, "DONT-FRAGMENT", a.UNKNOWN_ATTRIBUTES((a.DONT_FRAGMENT.code,)))
        token, even = request.get(a.RESERVATION_TOKEN), request.get(a.EVEN_PORT)
        family, additional = request.get(a.REQUESTED_ADDRESS_FAMILY), request.get(a.ADDITIONAL_ADDRESS_FAMILY)
        if token is not None:  # 5
            if even is not None or family is not None or additional is not None:
                raise Reject(400, "RESERVATION-TOKEN together with another choice of address")
            return cls(token)
        if family is not None and additional is not None:  # 6
            raise Reject(400, "REQUESTED- and ADDITIONAL-ADDRESS-FAMILY together")
        if additional is not None and (even or additional != 6):  # 8, 9
            raise Reject(400, "ADDITIONAL-ADDRESS-FAMILY other than IPv6, or with a reservation")
        wanted = (4, 6) if additional is not None else (family if family is not None else 4,)
        supported = tuple(number for number in wanted if number in settings.families)
        if not supported:  # 7
            raise Reject(440, f"no relayed addresses of family {wanted}")
        unsupported = tuple(number for number in wanted if number not in supported)
        return cls(None, supported, unsupported, even is not None, bool(even))
