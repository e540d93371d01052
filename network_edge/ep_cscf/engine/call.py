"""One call through the edge: its dialogs, and which offer in them waits for an answer (RFC 3264, RFC 6337).

The edge stands between exactly two sides, so a party of a dialog is named by its side.  An INVITE may have several
dialogs, one for each To tag of its responses; all of them answer the same offer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from imskit.sdp.description import SessionDescription
from imskit.sip.engine.alarms import Alarm
from imskit.sip.engine.events import Key
from imskit.sip.wire.message import Request
from network_edge.ep_cscf.engine.effects import MediaAnswer, MediaFailed, MediaOffer, Side
from network_edge.iq.gateway import AnswerRequest, OfferRequest

FORKS = 32
"""Most dialogs of one INVITE."""

type CallKey = tuple[str, str, str, Side]
"""The WIC's registration, Call-ID, the caller's tag, the caller's side."""


def other(side: Side) -> Side:
    """The side across."""
    return Side.IMS if side is Side.WEB else Side.WEB


@dataclass(eq=False, slots=True)
class Exchange:
    """An offer; where it stands in ``Dialog.exchange`` it has no binding answer yet."""

    offerer: Side
    method: str
    """Of the request that carried the offer, or whose response did."""
    cseq: int


@dataclass(eq=False, slots=True)
class Dialog:
    """One dialog of a call."""

    tag: str
    """The callee's."""
    exchange: Exchange | None = None
    confirmed: bool = False
    """A 2xx has come."""
    answer: tuple[bytes, bytes] | None = None
    """The callee's last answer, as it was received and as it was sent on; None if the caller gave the last one."""
    ack: tuple[Side | None, int, bytes | None] = (None, -1, None)
    """Who sent the last ACK with an answer, its CSeq number, and the answer sent on; None while the gateway has it."""


@dataclass(eq=False, slots=True)
class Job:
    """A question to the gateway, and what to do with its answer."""

    question: OfferRequest | AnswerRequest
    context: Key
    """The request that it is about, or whose response."""
    done: Callable[[SessionDescription, float], None]
    failed: Callable[[MediaFailed, float], None]

    def output(self, key: str) -> MediaOffer | MediaAnswer:
        """The effect to give."""
        if isinstance(self.question, OfferRequest):
            return MediaOffer(key, self.question)
        return MediaAnswer(key, self.question)


@dataclass(eq=False, slots=True)
class Call:
    """What the IMS-ALG knows of a call."""

    key: CallKey
    media_id: str
    """The gateway's name for it."""
    invite: Key
    """Context of the first INVITE."""
    dialogs: dict[str, Dialog] = field(default_factory=dict)
    in_force: tuple[str, bytes, bytes] | None = None
    """The answer that the gateway has: the answerer's tag, as it was received, as it was sent on."""
    ended: bool = False
    job: str | None = None
    """Key of the question that the gateway has before it: one at a time, so that none overtakes another."""
    jobs: deque[Job] = field(default_factory=deque)
    answer_alarm: Alarm | None = None
    """Set while a confirmed dialog waits for its first answer."""

    @property
    def party(self) -> str:
        """The WIC's registration."""
        return self.key[0]

    @property
    def call_id(self) -> str:
        """The Call-ID."""
        return self.key[1]

    @property
    def caller_tag(self) -> str:
        """From tag of the first INVITE."""
        return self.key[2]

    @property
    def caller(self) -> Side:
        """Where the first INVITE came from."""
        return self.key[3]

    @property
    def confirmed(self) -> tuple[str, ...]:
        """The callee's tags of the dialogs that have a 2xx."""
        return tuple(dialog.tag for dialog in self.dialogs.values() if dialog.confirmed)

    def tag(self, side: Side, dialog: Dialog) -> str:
        """The tag of the party on ``side``."""
        return self.caller_tag if side is self.caller else dialog.tag

    def dialog(self, tag: str, exchange: Exchange | None) -> Dialog | None:
        """The dialog of a response with this To tag, made if it is new; None beyond `FORKS`."""
        found = self.dialogs.get(tag)
        if found is None and len(self.dialogs) < FORKS:
            found = self.dialogs[tag] = Dialog(tag, exchange)
        return found


@dataclass(eq=False, slots=True)
class Carried:
    """A request on its way that may carry a description or have it in its responses."""

    key: Key
    request: Request
    side: Side
    """Where the request came from."""
    call: Call | None
    exchange: Exchange | None = None
    """The offer that the request carried."""
    dialog: Dialog | None = None
    """None in the first INVITE."""
    acknowledges: bool = False
    """The edge confirms reliable provisional responses in the WIC's place; the WIC gets unreliable ones."""
    said: dict[str, bytes] = field(default_factory=dict)
    """What was sent on in responses of each To tag: the same again when they come again."""

    @property
    def initial(self) -> bool:
        """The first INVITE of a call."""
        return self.request.method == "INVITE" and self.dialog is None
