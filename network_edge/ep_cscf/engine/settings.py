"""What an eP-CSCF is told about itself, its network and its limits."""

from __future__ import annotations

from dataclasses import dataclass, field

from imskit.sip.wire.ims_headers import PAccessNetworkInfo


@dataclass(frozen=True, slots=True)
class FlowLimits:
    """What one WebSocket connection may do."""

    transactions: int = 64
    """Requests on their way at a time; more get 503."""
    unregistered_transactions: int = 8
    """The same while nobody is registered over it: a browser has one or two."""
    registrations: int = 16
    """Registrations at a time; more get 403."""
    messages_per_second: float = 50.0
    """Long-term rate; what is more is dropped."""
    burst: int = 200
    """Messages at once.  A client that has had as many dropped loses its connection."""
    each_user: int = 16
    """Registrations of one private identity at a time, over whatever connections; the oldest gives way."""
    dialogs: int = 64
    """Calls of one registration, and as many subscriptions."""


@dataclass(frozen=True, slots=True)
class EpCscfSettings:
    """Names, addresses and limits of one eP-CSCF.  ``ValueError`` for what cannot be."""

    home_domain: str
    """Home network domain name, the realm towards the core."""
    visited_network: str
    """P-Visited-Network-ID, by which the I-CSCF knows this edge, and the name in charging (orig-ioi)."""
    core_addresses: frozenset[str] = frozenset()
    """IP addresses whose messages are believed on Mw, beside that of the I-CSCF."""
    access_network_info: str = "IEEE-802.11"
    """P-Access-Network-Info of every client, without ``network-provided``."""
    authz_server: str = ""
    """https URI where clients get tokens (RFC 8898 section 4); empty: not told."""
    authorization_entity: str = "authorization-entity"
    """Name of the parameter of Authorization that carries the WWSF's identity; published stage 3 may differ."""
    minimum_expires: int = 30
    """Shortest registration that a client may ask for, seconds; shorter ones get 423."""
    maximum_expires: int = 3600
    """Longest registration, seconds; what asks for more gets this."""
    retry_after: int = 10
    """Seconds in Retry-After of a 503."""
    flow_return_seconds: float = 60.0
    """How long calls survive without their client's connection."""
    emergency_numbers: frozenset[str] = frozenset({"112", "911"})
    """What people dial for help here, digits only (TS 22.101 clause 10); such calls are refused with 380."""
    reg_event: bool = True
    """Whether to subscribe to the registrations of the users; off only for cores without reg-event."""
    maximum_registrations: int = 100_000
    maximum_transactions: int = 20_000
    limits: FlowLimits = field(default_factory=FlowLimits)

    def __post_init__(self) -> None:
        if not 0 < self.minimum_expires <= self.maximum_expires:
            raise ValueError("minimum_expires must be above 0 and no more than maximum_expires")
        if not all(number.isascii() and number.isdigit() for number in self.emergency_numbers):
            raise ValueError("emergency_numbers: digits only, as they are dialled")
        if any(character in self.visited_network for character in '"\\\r\n\0'):
            raise ValueError("visited_network: quotes, backslashes and line ends have no place in a network's name")
        PAccessNetworkInfo.parse(self.access_network_info)
