"""Where a dialog stands in the offer/answer exchange (RFC 3264, RFC 3262 section 5, RFC 3311, RFC 6337).

Session descriptions are opaque here.  The machine is the table `RULES`; what is not in it is a violation, raised as
`OfferAnswerError`.  It does not know methods: who may put an offer where, and what a glare is answered with, is
`invite_session`'s business.
"""

from __future__ import annotations

from enum import Enum, auto


class OfferState(Enum):
    """Whose turn it is."""

    NONE = auto()
    """Nothing was exchanged yet: an INVITE without offer, unanswered."""
    LOCAL_OFFER = auto()
    """We offered and wait for the answer."""
    REMOTE_OFFER = auto()
    """The peer offered and waits for our answer."""
    STABLE = auto()
    """An exchange is complete."""


class Step(Enum):
    """What can happen to an exchange."""

    SEND_OFFER = auto()
    RECEIVE_OFFER = auto()
    SEND_ANSWER = auto()
    RECEIVE_ANSWER = auto()


class Carrier(Enum):
    """The message that carried a session description (rows of RFC 6337 table 1)."""

    INVITE = "INVITE"
    """An INVITE or re-INVITE."""
    PROVISIONAL = "1xx"
    """A 101..199 response to INVITE."""
    SUCCESS = "2xx"
    """A 2xx response to INVITE."""
    ACK = "ACK"
    PRACK = "PRACK"
    """A PRACK or its 2xx."""
    UPDATE = "UPDATE"
    """An UPDATE or its 2xx."""


RULES: dict[tuple[OfferState, Step], OfferState] = {
    (OfferState.NONE, Step.SEND_OFFER): OfferState.LOCAL_OFFER,
    (OfferState.NONE, Step.RECEIVE_OFFER): OfferState.REMOTE_OFFER,
    (OfferState.STABLE, Step.SEND_OFFER): OfferState.LOCAL_OFFER,
    (OfferState.STABLE, Step.RECEIVE_OFFER): OfferState.REMOTE_OFFER,
    (OfferState.LOCAL_OFFER, Step.RECEIVE_ANSWER): OfferState.STABLE,
    (OfferState.REMOTE_OFFER, Step.SEND_ANSWER): OfferState.STABLE,
}
"""RFC 3264 section 4: one offer at a time, each answered once."""


class OfferAnswerError(Exception):
    """A session description where none of its kind may be: which step, in which state."""


class OfferAnswer:
    """The exchange of one dialog.

    ``local`` and ``remote`` are the descriptions in force, ``pending`` the unanswered offer.
    """

    def __init__(self) -> None:
        self.state = OfferState.NONE
        self.local: bytes | None = None
        self.remote: bytes | None = None
        self.pending: bytes | None = None
        self.carrier: Carrier | None = None
        """What carried the pending offer."""
        self.preview: bytes | None = None
        """A description sent or received in an unreliable provisional response ahead of the answer."""
        self.completed = 0
        """How many exchanges are complete."""
        self._before = OfferState.NONE

    @property
    def stable(self) -> bool:
        """True if an exchange is complete and none is under way."""
        return self.state is OfferState.STABLE

    def send_offer(self, sdp: bytes, carrier: Carrier) -> None:
        """We offer."""
        self._offer(Step.SEND_OFFER, sdp, carrier)

    def receive_offer(self, sdp: bytes, carrier: Carrier) -> None:
        """The peer offers."""
        self._offer(Step.RECEIVE_OFFER, sdp, carrier)

    def send_answer(self, sdp: bytes) -> None:
        """We answer."""
        self._enter(Step.SEND_ANSWER)
        self.local, self.remote = sdp, self.pending
        self.completed += 1
        self._settle()

    def receive_answer(self, sdp: bytes) -> None:
        """The peer answers."""
        self._enter(Step.RECEIVE_ANSWER)
        self.local, self.remote = self.pending, sdp
        self.completed += 1
        self._settle()

    def abandon(self) -> None:
        """The pending offer was rejected or withdrawn: back to what was before; nothing to do without one."""
        if self.pending is not None:
            self.state = self._before
            self._settle()

    def _offer(self, step: Step, sdp: bytes, carrier: Carrier) -> None:
        before = self.state
        self._enter(step)
        self._before, self.pending, self.carrier, self.preview = before, sdp, carrier, None

    def _enter(self, step: Step) -> None:
        following = RULES.get((self.state, step))
        if following is None:
            raise OfferAnswerError(f"{step.name} in state {self.state.name}")
        self.state = following

    def _settle(self) -> None:
        self.pending = self.carrier = self.preview = None
