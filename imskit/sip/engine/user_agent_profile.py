"""The vocabulary of a `UserAgent`: what it says of itself, why things end, why commands are refused."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from imskit.sip.engine.events import SentBy
from imskit.sip.engine.session_timer import SessionTimerPolicy
from imskit.sip.wire.flow import Flow, Target

type Fields = tuple[tuple[str, str], ...]
"""Header fields, name and value, in the order in which they are written."""

type Hop = Flow | Target
"""Where a request goes next."""

METHODS = (
    "INVITE",
    "ACK",
    "CANCEL",
    "BYE",
    "PRACK",
    "UPDATE",
    "OPTIONS",
    "INFO",
    "MESSAGE",
    "NOTIFY",
    "REFER",
)


@dataclass(frozen=True, slots=True)
class HeaderRule:
    """Fields that go into every message of some kind, such as P-Access-Network-Info."""

    fields: Fields
    methods: frozenset[str] | None = None
    """Of these methods only; ``None``: of every method."""
    but: frozenset[str] = frozenset({"ACK", "CANCEL"})
    """Not of these methods."""
    responses: bool = False
    """Also into responses to these methods, 100 and the responses to CANCEL excepted."""

    def applies(self, method: str, *, response: bool) -> bool:
        """True if the fields go into a request, or response to a request, of ``method``."""
        return (
            (self.methods is None or method in self.methods)
            and method not in self.but
            and (self.responses or not response)
        )


@dataclass(frozen=True, slots=True)
class Profile:
    """What a user agent says of itself and how it behaves; replaced as a whole by `Configure`."""

    contact: str
    """The Contact value of dialog-forming messages: ``<sip:user@host:port>;+g.3gpp.icsi-ref="…"``."""
    hop: Hop | None = None
    """Where every request goes, such as the P-CSCF.  ``None``: by Route and Request-URI; host names are left to
    whoever sends."""
    route: tuple[str, ...] = ()
    """Route values of requests outside dialogs: the Service-Route of a registration."""
    sent_by: SentBy | None = None
    """What Via says; ``None``: as the user agent was made."""
    software: str = ""
    """User-Agent and Server; empty: neither."""
    allow: tuple[str, ...] = METHODS
    """Methods taken; any other is answered 405."""
    supported: tuple[str, ...] = ("100rel", "timer")
    """Option tags.  ``100rel`` and ``timer`` are done here, what the others promise is the owner's part."""
    accept: tuple[str, ...] = ("application/sdp",)
    """Bodies taken in an INVITE."""
    allow_events: tuple[str, ...] = ()
    rules: tuple[HeaderRule, ...] = ()
    session_timer: SessionTimerPolicy | None = SessionTimerPolicy()
    no_answer: float | None = 180.0
    """Seconds after which a call that nobody answers is given up: CANCEL as caller, 480 as callee."""


class Cause(Enum):
    """Why a call, dialog, exchange or request ended."""

    LOCAL = "ended here"
    """The owner hung up, cancelled or rejected."""
    REMOTE = "ended by the peer"
    """BYE, or CANCEL before the answer."""
    REJECTED = "refused by the peer"
    """A final response of 300 or above; it is in the output's ``message``."""
    NO_ANSWER = "nobody answered in time"
    TIMEOUT = "the peer does not respond"
    """Timer B or F, or 408."""
    TRANSPORT = "the peer cannot be reached"
    GONE = "the peer does not know the dialog"
    """481, or another response that ends a dialog (RFC 5057 section 5.1)."""
    NO_ACK = "no ACK came"
    NO_PRACK = "no PRACK came"
    EXPIRED = "the session timer ran out"
    PROTOCOL = "the peer broke the protocol"
    """No answer where one is due, a 2xx without Contact, …"""
    REPLACED = "another branch was answered"
    """Of a dialog only: a forked INVITE was answered elsewhere."""
    GLARE = "both sides made an offer at the same time"
    """Of an exchange only: retried in vain, or overtaken by the peer's offer."""


class Refusal(Enum):
    """Why a command was not carried out."""

    UNKNOWN = "it has ended or never was"
    DUPLICATE = "the name is in use"
    STATE = "not in this state"
    PENDING = "an offer or INVITE is under way"
    """Try again after it: a B2BUA answers its other side 491."""
    NEEDS_SDP = "an offer or answer is due in it"
    NO_SDP = "no offer or answer may be in it"
    UNSUPPORTED = "the peer does not support it"
    INVALID = "it cannot be written"
