"""What goes into and comes out of a `UserAgent`; every name here is also exported by ``user_agent``.

Names that travel both ways are opaque strings:

- ``call``: one INVITE usage.  The owner chooses it in `Call`; the user agent chooses it in `IncomingCall`.
- ``exchange``: one offer (or request for one) that the owner must answer, from `OfferReceived`, `OfferRequested`.
- ``request``: one request that the owner must answer, from `RequestReceived`.
- ``challenge``: one 401 or 407, from `Challenged`.
- ``subscription`` and ``key``: chosen by the owner.

A command that comes too late or at the wrong moment never raises: it comes back in `Refused`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from imskit.sip.engine.dialog import DialogId
from imskit.sip.engine.events import FlowClosed, Received, SentBy, Transmit, TransportFailed
from imskit.sip.engine.invite_offer_answer import Carrier
from imskit.sip.engine.user_agent_outputs import (
    Answered,
    AnswerReceived,
    Challenged,
    Confirmed,
    DialogEnded,
    Ended,
    IncomingCall,
    Notified,
    OfferFailed,
    OfferReceived,
    OfferRequested,
    OfferWithdrawn,
    PrackDue,
    PrackReceived,
    Progress,
    Refreshed,
    RequestReceived,
    ResponseReceived,
    Subscribed,
    SubscriptionEnded,
)
from imskit.sip.engine.user_agent_profile import Cause, Fields, HeaderRule, Hop, Profile, Refusal
from imskit.sip.wire.message import Request

__all__ = [
    "Answer",
    "AnswerOffer",
    "AnswerReceived",
    "Answered",
    "Authorize",
    "Call",
    "Carrier",
    "Cause",
    "Challenged",
    "Command",
    "Configure",
    "Confirmed",
    "Decline",
    "DialogEnded",
    "Ended",
    "Event",
    "Fields",
    "FlowClosed",
    "Hangup",
    "HeaderRule",
    "Hop",
    "IncomingCall",
    "Modify",
    "Notified",
    "OfferFailed",
    "OfferReceived",
    "OfferRequested",
    "OfferWithdrawn",
    "Output",
    "Prack",
    "PrackDue",
    "PrackReceived",
    "Profile",
    "Progress",
    "Provisional",
    "Received",
    "Refer",
    "Refreshed",
    "Refusal",
    "Refused",
    "Reject",
    "RejectOffer",
    "RequestReceived",
    "Reroute",
    "Respond",
    "ResponseReceived",
    "Send",
    "SendInDialog",
    "Subscribe",
    "Subscribed",
    "SubscriptionEnded",
    "Transmit",
    "TransportFailed",
    "Unsubscribe",
]

# ---- in: calls ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Configure:
    """Use another profile from now on; calls under way keep their Contact and their session timer policy."""

    profile: Profile


@dataclass(frozen=True, slots=True)
class Call:
    """Send an INVITE."""

    call: str
    uri: str
    """Request-URI."""
    from_: str
    """From without tag: ``"display" <uri>``."""
    to: str
    sdp: bytes | None = None
    """The offer; ``None``: the peer is to make it."""
    headers: Fields = ()
    """Further fields of the INVITE, repeated when it is sent again with credentials or after 422."""
    route: tuple[str, ...] | None = None
    """Route values; ``None``: those of the profile."""
    contact: str | None = None
    """Contact value; ``None``: that of the profile."""
    hop: Hop | None = None
    """Where the INVITE and all that follows goes; ``None``: as the profile says."""
    require: tuple[str, ...] = ()
    """Option tags for Require, such as 100rel."""
    manual_prack: bool = False
    """Ask the owner for each PRACK (`PrackDue`), for a new offer in it or to relay it."""
    no_answer: float | None = None
    """As in the profile; ``None``: the profile's."""


@dataclass(frozen=True, slots=True)
class Provisional:
    """Answer an incoming call 101..199."""

    call: str
    status: int = 180
    reason: str | None = None
    sdp: bytes | None = None
    """The answer, or the offer if the INVITE had none.  Unreliably sent, an answer is a preview only: it comes
    again in the 2xx, without the owner's doing."""
    headers: Fields = ()
    reliable: bool | None = None
    """RFC 3262; ``None``: if the peer requires it, or supports it and there is an SDP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer an incoming call 200.  It waits for the PRACK of a reliable response that carried SDP."""

    call: str
    sdp: bytes | None = None
    """Needed unless an answer or preview has been sent; ignored once an exchange is complete."""
    headers: Fields = ()
    contact: str | None = None
    """Contact value of the call from now on; ``None``: that of the profile.  A focus names itself so."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Answer an incoming call 300..699."""

    call: str
    status: int = 603
    reason: str | None = None
    headers: Fields = ()
    """Contact for 3xx, Retry-After, Warning, Reason …"""
    body: bytes = b""
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Hangup:
    """End a call, whatever its state: CANCEL, BYE, or 480 to an unanswered incoming one.

    With ``dialog`` only that early dialog of an outgoing call ends, with BYE.
    """

    call: str
    headers: Fields = ()
    """Such as Reason; also go into the CANCEL."""
    dialog: DialogId | None = None


@dataclass(frozen=True, slots=True)
class Modify:
    """Send UPDATE or re-INVITE.  The outcome is `AnswerReceived`, `Refreshed` or `OfferFailed`.

    Without ``sdp``, an UPDATE refreshes session and target, a re-INVITE asks the peer for an offer.
    491 and 500 with Retry-After are retried after the time that RFC 3261 section 14.1 sets.
    """

    call: str
    sdp: bytes | None = None
    method: str = "UPDATE"
    """``UPDATE``, or ``INVITE`` in a confirmed dialog."""
    headers: Fields = ()
    dialog: DialogId | None = None
    """Which early dialog of a forked call; ``None``: the confirmed or only one."""


@dataclass(frozen=True, slots=True)
class AnswerOffer:
    """Answer an `OfferReceived`, or make the offer that an `OfferRequested` wants."""

    exchange: str
    sdp: bytes
    headers: Fields = ()


@dataclass(frozen=True, slots=True)
class RejectOffer:
    """Refuse an `OfferReceived` or `OfferRequested`.

    An offer that came in a response cannot be refused in SIP: the call or early dialog ends.
    """

    exchange: str
    status: int = 488
    reason: str | None = None
    headers: Fields = ()
    body: bytes = b""
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Prack:
    """Send the PRACK that a `PrackDue` asked for."""

    exchange: str
    sdp: bytes | None = None
    """A new offer, if the provisional response carried the answer."""
    headers: Fields = ()


@dataclass(frozen=True, slots=True)
class SendInDialog:
    """Send any other request within a call's dialog: INFO, MESSAGE, REFER, OPTIONS, NOTIFY …"""

    key: str
    """Comes back in `ResponseReceived`."""
    call: str
    method: str
    headers: Fields = ()
    body: bytes = b""
    content_type: str = ""
    dialog: DialogId | None = None


@dataclass(frozen=True, slots=True)
class Reroute:
    """Send what follows in this call to another hop: its connection was replaced."""

    call: str
    hop: Hop


# ---- in: everything else ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request outside any dialog: REGISTER, MESSAGE, OPTIONS, PUBLISH …

    The request is the owner's, with From tag, Call-ID and CSeq; Via, and if absent Max-Forwards and the profile's
    fields, are put in.
    """

    key: str
    request: Request
    hop: Hop | None = None
    sent_by: SentBy | None = None
    """What its Via says; ``None``: as the profile says."""


@dataclass(frozen=True, slots=True)
class Respond:
    """Answer a `RequestReceived` with a final response."""

    request: str
    status: int = 200
    reason: str | None = None
    headers: Fields = ()
    body: bytes = b""
    content_type: str = ""
    to_tag: str | None = None
    """Of the dialog that the owner makes of the request, such as a REFER's; ``None``: any."""


@dataclass(frozen=True, slots=True)
class Authorize:
    """Repeat a challenged request with these fields (Authorization, Proxy-Authorization)."""

    challenge: str
    headers: Fields


@dataclass(frozen=True, slots=True)
class Decline:
    """Let a challenged request fail."""

    challenge: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Subscribe to an event package (RFC 6665); refreshed until `Unsubscribe`."""

    subscription: str
    uri: str
    from_: str
    to: str
    event: str
    """Event value: ``reg``."""
    expires: int = 3600
    """Seconds to ask for."""
    accept: tuple[str, ...] = ()
    headers: Fields = ()
    """In every SUBSCRIBE."""
    route: tuple[str, ...] | None = None
    contact: str | None = None
    hop: Hop | None = None


@dataclass(frozen=True, slots=True)
class Refer:
    """Send REFER outside any dialog; what comes of it is told as of a subscription to ``refer`` (RFC 3515)."""

    subscription: str
    uri: str
    """Who is to make the call."""
    from_: str
    to: str
    refer_to: str
    """Refer-To: whom to call."""
    headers: Fields = ()
    route: tuple[str, ...] | None = None
    hop: Hop | None = None


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """End a subscription: SUBSCRIBE with Expires 0."""

    subscription: str


type Command = (
    Configure
    | Call
    | Provisional
    | Answer
    | Reject
    | Hangup
    | Modify
    | AnswerOffer
    | RejectOffer
    | Prack
    | SendInDialog
    | Reroute
    | Send
    | Respond
    | Authorize
    | Decline
    | Subscribe
    | Refer
    | Unsubscribe
)

type Event = Received | TransportFailed | FlowClosed | Command

# ---- out -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refused:
    """A command was not carried out."""

    command: Command
    refusal: Refusal
    text: str = field(default="")
    """What exactly, for the log."""


type Output = (
    Transmit
    | IncomingCall
    | Progress
    | Answered
    | Confirmed
    | PrackReceived
    | PrackDue
    | OfferReceived
    | OfferRequested
    | OfferWithdrawn
    | AnswerReceived
    | OfferFailed
    | Refreshed
    | DialogEnded
    | Ended
    | RequestReceived
    | ResponseReceived
    | Challenged
    | Subscribed
    | Notified
    | SubscriptionEnded
    | Refused
)
