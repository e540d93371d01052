"""What goes into and comes out of an `ImsUe`; every name here is also exported by ``ue``.

``call`` names a call in both directions: the owner chooses it in `Dial`, the UE in `IncomingCall`.  Session
descriptions are those of the IMS side without precondition lines: the UE adds and reads those itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from imskit.aka.vector import AkaResult
from imskit.engine import Tick
from imskit.ims.registration import AskCard, CardAnswer, CardFailed, RegistrationStatus, Start, Stop
from imskit.sip.engine.events import FlowClosed, Received, Transmit, TransportFailed
from imskit.sip.engine.user_agent_profile import Cause
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.message import Message, Request

__all__ = [
    "AkaResult",
    "AskCard",
    "CardAnswer",
    "CardFailed",
    "Cause",
    "FlowClosed",
    "Received",
    "Start",
    "Stop",
    "Tick",
    "Transmit",
    "TransportFailed",
]

type Fields = tuple[tuple[str, str], ...]

# ---- in ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dial:
    """Call ``target`` with an offer."""

    call: str
    target: str
    """SIP or tel URI."""
    sdp: bytes
    reserved: bool = True
    """Whether the media resources are there already; else `ResourcesReserved` follows."""
    headers: Fields = ()
    anonymous: bool = False
    """Ask the network to withhold our identity from the callee (OIR, TS 24.607 clause 4.5.2.1)."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Our session description for an incoming call: the answer, or the offer if the INVITE had none."""

    call: str
    sdp: bytes
    reserved: bool = True
    """As in `Dial`."""


@dataclass(frozen=True, slots=True)
class ResourcesReserved:
    """The media resources of a call are there."""

    call: str


@dataclass(frozen=True, slots=True)
class ResourcesFailed:
    """The media resources of a call cannot be had: it ends (580 to a caller)."""

    call: str


@dataclass(frozen=True, slots=True)
class Ring:
    """The user is being alerted: 180."""

    call: str


@dataclass(frozen=True, slots=True)
class Accept:
    """The user answers: 200."""

    call: str


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse an incoming call."""

    call: str
    status: int = 603
    """300..699: 486 busy, 480 not available, 603 declined …"""
    reason: str | None = None
    headers: Fields = ()


@dataclass(frozen=True, slots=True)
class Hangup:
    """End a call, whatever its state."""

    call: str
    headers: Fields = ()
    """Such as Reason (RFC 3326)."""


@dataclass(frozen=True, slots=True)
class Modify:
    """Offer something new within a call: hold, resume."""

    call: str
    sdp: bytes


@dataclass(frozen=True, slots=True)
class AnswerOffer:
    """Answer an `Offer`."""

    call: str
    exchange: str
    sdp: bytes


@dataclass(frozen=True, slots=True)
class RejectOffer:
    """Refuse an `Offer`; the call goes on as it was."""

    call: str
    exchange: str
    status: int = 488


type Event = (
    Start
    | Stop
    | Received
    | TransportFailed
    | FlowClosed
    | CardAnswer
    | CardFailed
    | Dial
    | Prepare
    | ResourcesReserved
    | ResourcesFailed
    | Ring
    | Accept
    | Reject
    | Hangup
    | Modify
    | AnswerOffer
    | RejectOffer
    | Tick
)

# ---- out --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RegistrationChanged:
    """The registration has another state; ``status.reason`` is a sentence for the user."""

    status: RegistrationStatus


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """Somebody calls: answer with `Prepare` or `Reject`."""

    call: str
    caller: NameAddr
    """P-Asserted-Identity where the network gives one, else From; anonymous if the caller wants privacy."""
    called: str
    """P-Called-Party-ID where the network gives one, else the Request-URI."""
    sdp: bytes | None
    request: Request


@dataclass(frozen=True, slots=True)
class ReserveResources:
    """Get the media resources of a call now; answer with `ResourcesReserved` or `ResourcesFailed`."""

    call: str


@dataclass(frozen=True, slots=True)
class Alert:
    """Both sides have their resources: alert the user, then `Ring`, `Accept` or `Reject`."""

    call: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A provisional response to our INVITE, 100 excepted."""

    call: str
    status: int
    early_media: bool = False
    """The network sends media already (P-Early-Media, RFC 5009)."""


@dataclass(frozen=True, slots=True)
class MediaAgreed:
    """An answer to our offer; the latest one counts."""

    call: str
    sdp: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """The peer answered our call; the media of the last `MediaAgreed` stand."""

    call: str
    message: Message


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The ACK to our 200 came: the call stands."""

    call: str


@dataclass(frozen=True, slots=True)
class Offer:
    """The peer offers something new; answer with `AnswerOffer` or `RejectOffer`.

    ``sdp`` is ``None`` if the peer wants us to make the offer.
    """

    call: str
    exchange: str
    sdp: bytes | None


@dataclass(frozen=True, slots=True)
class OfferFailed:
    """Our `Modify` was refused; the call goes on as it was."""

    call: str
    status: int | None
    """The peer's refusal; ``None``: it could not be asked, or did not answer."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A call is over; the last output of this call."""

    call: str
    status: int | None
    """The final response's, where there was one."""
    reason: str
    """A sentence for the log and the user."""
    local: bool = False
    """Whether this side ended it."""
    message: Message | None = None
    """The response, BYE or CANCEL that ended it."""
    cause: Cause | None = None
    """Why, where there was a call at all."""


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """A request outside calls (MESSAGE …) or a REFER, INFO within one; it was answered."""

    request: Request
    call: str | None


type Output = (
    Transmit
    | AskCard
    | RegistrationChanged
    | IncomingCall
    | ReserveResources
    | Alert
    | Progress
    | MediaAgreed
    | Answered
    | Confirmed
    | Offer
    | OfferFailed
    | Ended
    | RequestReceived
)
