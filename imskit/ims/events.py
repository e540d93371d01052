"""What goes into and comes out of an `ImsUe`; every name here is also exported by ``ue``.

``call`` names a call in both directions: the owner chooses it in `Dial`, the UE in `IncomingCall`.  Session
descriptions are those of the IMS side without precondition lines: the UE adds and reads those itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from imskit.aka.vector import AkaResult
from imskit.engine import Tick
from imskit.ims.conference import ConferenceUser
from imskit.ims.registration_events import (
    AskCard,
    CardAnswer,
    CardFailed,
    FindPCscfs,
    InstallSecurity,
    KeepAlive,
    PCscfsFound,
    RegistrationStatus,
    ReleaseSecurity,
    RemoveSecurity,
    ReserveSecurity,
    SecurityFailed,
    SecurityInstalled,
    SecurityReserved,
    Start,
    Stop,
)
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
    "FindPCscfs",
    "FlowClosed",
    "InstallSecurity",
    "KeepAlive",
    "PCscfsFound",
    "Received",
    "ReleaseSecurity",
    "RemoveSecurity",
    "ReserveSecurity",
    "SecurityFailed",
    "SecurityInstalled",
    "SecurityReserved",
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
    referral: str = ""
    """The `ReferralReceived` that this call carries out: Replaces, Referred-By and the reports are put in."""


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
    method: str = "INVITE"
    """``INVITE`` or ``UPDATE``; a re-INVITE asks a user where an UPDATE may not (RFC 3311 section 5.1)."""


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


@dataclass(frozen=True, slots=True)
class Transfer:
    """Ask the peer of ``call`` to call ``target`` instead (TS 24.629); `ReferralProgress` tells how it goes.

    When the peer has done so, ``call`` is ended from here.
    """

    call: str
    target: str
    """SIP or tel URI."""
    consult: str = ""
    """Our call with ``target``, which the peer is to take over (attended transfer); empty: blind transfer."""


@dataclass(frozen=True, slots=True)
class Invite:
    """Bring somebody into the conference that ``call`` leads to (TS 24.147 clause 5.3.1.5)."""

    call: str
    target: str
    replaces: str = ""
    """Our call with ``target``, which the focus is to take over (clause 5.3.1.3.3)."""
    through_focus: bool = True
    """Ask the focus to call ``target``; else ask ``target`` to call the focus."""


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Send a text as SIP MESSAGE (pager mode, RFC 3428); `MessageSent` tells what came of it."""

    key: str
    target: str
    """SIP or tel URI."""
    text: str


@dataclass(frozen=True, slots=True)
class SendSms:
    """Send a text as short messages over IP (TS 24.341); `MessageSent` tells what came of it."""

    key: str
    number: str
    """``+15550200``."""
    text: str
    centre: str
    """Public service identity of the message centre: a SIP or tel URI (TS 24.341 clause 5.3.1.2)."""


@dataclass(frozen=True, slots=True)
class RejectReferral:
    """Do not carry out a `ReferralReceived`."""

    referral: str
    status: int = 603


type Event = (
    Start
    | Stop
    | Received
    | TransportFailed
    | FlowClosed
    | CardAnswer
    | CardFailed
    | SecurityReserved
    | SecurityInstalled
    | SecurityFailed
    | PCscfsFound
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
    | Transfer
    | Invite
    | RejectReferral
    | SendMessage
    | SendSms
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
    replaces: str = ""
    """Our call that this one takes over (RFC 3891): `Accept` it without alerting anybody, and that one ends."""


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
    waiting: bool = False
    """The callee is in another call and hears that somebody waits (TS 24.615)."""


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
class ReferralReceived:
    """Somebody asks us to make a call: transfer, or the way into a conference.

    Answer with `Dial` that names it, or `RejectReferral`.
    """

    referral: str
    call: str
    """The call whose peer asks; empty: somebody outside calls."""
    target: str
    """Whom to call."""
    replaces: str
    """Value of Replaces: the call of the target's that ours takes over; empty: a new call."""
    referred_by: str
    """Who asks, as they say; empty: they do not."""


@dataclass(frozen=True, slots=True)
class ReferralProgress:
    """How our `Transfer` or `Invite` goes."""

    call: str
    target: str
    status: int | None
    """What the target's side answers; ``None``: the peer does not say."""
    final: bool
    """No more will come; below 300 it was done."""


@dataclass(frozen=True, slots=True)
class ConferenceChanged:
    """Who is in the conference that a call leads to (RFC 4575)."""

    call: str
    users: tuple[ConferenceUser, ...]


@dataclass(frozen=True, slots=True)
class MessageSent:
    """What came of a `SendMessage` or `SendSms`."""

    key: str
    status: int | None
    """Below 300 it was taken; ``None``: nothing was answered."""
    reason: str
    """A word for the user."""


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """Somebody sent a text."""

    sender: str
    """Who, as the network asserts or the message centre says: a URI, or a name."""
    text: str
    sms: bool
    """Whether it came as a short message."""
    asserted: bool = False
    """Whether the network or the message centre vouches for the sender."""


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """A request outside calls (MESSAGE …) or a REFER, INFO within one; it was answered."""

    request: Request
    call: str | None


type Output = (
    Transmit
    | AskCard
    | ReserveSecurity
    | InstallSecurity
    | RemoveSecurity
    | ReleaseSecurity
    | FindPCscfs
    | KeepAlive
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
    | ReferralReceived
    | ReferralProgress
    | ConferenceChanged
    | MessageSent
    | MessageReceived
    | RequestReceived
)
