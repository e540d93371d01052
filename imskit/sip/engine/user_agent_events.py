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
from imskit.sip.engine.events import FlowClosed, Received, Transmit, TransportFailed
from imskit.sip.engine.invite_offer_answer import Carrier
from imskit.sip.engine.user_agent_profile import Cause, Fields, HeaderRule, Hop, Profile, Refusal
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.headers import SubscriptionState
from imskit.sip.wire.message import Message, Request, Response

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


@dataclass(frozen=True, slots=True)
class Respond:
    """Answer a `RequestReceived` with a final response."""

    request: str
    status: int = 200
    reason: str | None = None
    headers: Fields = ()
    body: bytes = b""
    content_type: str = ""


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
    | Unsubscribe
)

type Event = Received | TransportFailed | FlowClosed | Command

# ---- out: calls ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """An INVITE; answer with `Provisional`, `Answer`, `Reject` or `Hangup`."""

    call: str
    dialog: DialogId
    request: Request
    sdp: bytes | None
    """The offer; ``None``: we are to make it."""
    flow: Flow


@dataclass(frozen=True, slots=True)
class Progress:
    """A provisional response to our INVITE; an SDP in it has come just before, as an output of its own."""

    call: str
    dialog: DialogId | None
    """``None``: it makes no dialog (100, or without To tag)."""
    response: Response
    reliable: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """A 2xx to our INVITE: the call stands.  The ACK is sent, or waits for our answer to the 2xx's offer."""

    call: str
    dialog: DialogId
    response: Response


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The ACK of our 2xx to the initial INVITE came, or a re-INVITE that proves that it was sent."""

    call: str
    dialog: DialogId
    request: Request


@dataclass(frozen=True, slots=True)
class PrackReceived:
    """Our reliable provisional response has arrived."""

    call: str
    dialog: DialogId
    status: int
    """Of that response."""
    request: Request
    """The PRACK."""


@dataclass(frozen=True, slots=True)
class PrackDue:
    """With ``manual_prack``: send `Prack` for this response."""

    call: str
    dialog: DialogId
    exchange: str
    response: Response


@dataclass(frozen=True, slots=True)
class OfferReceived:
    """The peer offers; answer with `AnswerOffer` or `RejectOffer`.

    It is answered 500 after 32*T1 if nothing is done; a re-INVITE waits as long as ``no_answer`` says.
    """

    call: str
    dialog: DialogId
    exchange: str
    sdp: bytes
    carrier: Carrier
    message: Message


@dataclass(frozen=True, slots=True)
class OfferRequested:
    """A re-INVITE without SDP: make an offer with `AnswerOffer`; the answer comes in its ACK."""

    call: str
    dialog: DialogId
    exchange: str
    message: Request


@dataclass(frozen=True, slots=True)
class OfferWithdrawn:
    """What an `OfferReceived`, `OfferRequested` or `PrackDue` asked for is not needed any more."""

    call: str
    dialog: DialogId
    exchange: str


@dataclass(frozen=True, slots=True)
class AnswerReceived:
    """The peer's answer to our offer."""

    call: str
    dialog: DialogId
    sdp: bytes
    carrier: Carrier
    message: Message
    preview: bool = False
    """True in an unreliable provisional response: the same answer follows reliably (RFC 6337 section 3.1.1)."""


@dataclass(frozen=True, slots=True)
class OfferFailed:
    """Our offer, or UPDATE without one, was not accepted: the session is as it was before."""

    call: str
    dialog: DialogId
    cause: Cause
    response: Response | None = None


@dataclass(frozen=True, slots=True)
class Refreshed:
    """An UPDATE without SDP was completed, ours (a response) or the peer's (a request)."""

    call: str
    dialog: DialogId
    message: Message


@dataclass(frozen=True, slots=True)
class DialogEnded:
    """One early dialog of a call ended; the call goes on."""

    call: str
    dialog: DialogId
    cause: Cause
    message: Message | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The call is over; the last output of this call, but for `Challenged` of its BYE.

    ``message`` is what ended it, with Reason, Retry-After, Warning and Contact: a final response (`REJECTED`,
    `GONE`, `TIMEOUT`), the peer's BYE or CANCEL (`REMOTE`).
    """

    call: str
    cause: Cause
    message: Message | None = None


# ---- out: everything else -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """A request that the owner must answer with `Respond`; 500 is sent after 32*T1."""

    request: str
    message: Request
    flow: Flow
    call: str | None = None
    """The call within which it came; ``None``: outside any."""
    dialog: DialogId | None = None


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """The outcome of a `Send` or `SendInDialog`."""

    key: str
    response: Response | None
    """The final response; ``None``: there is none, see ``cause``."""
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class Challenged:
    """A request of a call or subscription was answered 401 or 407: `Authorize` or `Decline`.

    It is declined after 32*T1.  A `Send` is not repeated: its 401 is its outcome.
    """

    challenge: str
    request: Request
    response: Response
    call: str | None = None
    subscription: str | None = None


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The subscription was accepted or refreshed; ``expires`` seconds are left."""

    subscription: str
    dialog: DialogId
    expires: int
    response: Response


@dataclass(frozen=True, slots=True)
class Notified:
    """A NOTIFY; it has been answered 200."""

    subscription: str
    state: SubscriptionState
    message: Request


@dataclass(frozen=True, slots=True)
class SubscriptionEnded:
    """The subscription is over.  `subscription.retry_delay` says if and when to subscribe again."""

    subscription: str
    cause: Cause
    reason: str | None = None
    """Of the last NOTIFY: ``deactivated``, ``probation``, ``rejected``, ``timeout``, …"""
    retry_after: int | None = None
    """Seconds, from the NOTIFY or the response."""
    message: Message | None = None


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
