"""What comes out of a `UserAgent`; see `user_agent_events`, which exports every name here."""

from __future__ import annotations

from dataclasses import dataclass

from imskit.sip.engine.dialog import DialogId
from imskit.sip.engine.invite_offer_answer import Carrier
from imskit.sip.engine.user_agent_profile import Cause
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.headers import SubscriptionState
from imskit.sip.wire.message import Message, Request, Response

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
