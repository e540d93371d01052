"""One call of an IMS UE: 100rel, preconditions and early media over the user agent's INVITE usage.

TS 24.229 clauses 5.1.3 and 5.1.4, RFC 3312, RFC 4032.  A call machine turns what the user agent tells of its call into
outputs for the owner, and the owner's events into commands to the user agent.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque

from imskit.ims.call_words import story, warning
from imskit.ims.events import (
    Accept,
    AnswerOffer,
    Confirmed,
    Ended,
    Hangup,
    Modify,
    Offer,
    OfferFailed,
    Output,
    Prepare,
    Reject,
    RejectOffer,
    ResourcesFailed,
    ResourcesReserved,
    Ring,
)
from imskit.ims.precondition import dress, read_table, renewed, undress
from imskit.sdp import preconditions
from imskit.sdp.errors import SdpError
from imskit.sdp.preconditions import Preconditions
from imskit.sip.engine import user_agent_events as ua
from imskit.sip.engine.dialog import DialogId
from imskit.sip.wire.message import Message, Response

_log = logging.getLogger(__name__)

type CallEvent = (
    Prepare | ResourcesReserved | ResourcesFailed | Ring | Accept | Reject | Hangup | Modify | AnswerOffer | RejectOffer
)

_NOT_ACCEPTABLE = 488
_TRIES = 20
_PAUSE_SECONDS = 0.25
"""A change that finds another exchange under way is tried again after this long, so often."""


class CallMachine(ABC):
    """What calls in both directions share."""

    def __init__(self, name: str, reserved: bool, *, peer: str, preconditions: bool) -> None:
        self.name = name
        self.peer = peer
        """URI of the other side."""
        self.dialogs: dict[DialogId, bool] = {}
        """Early and confirmed ones; True where the call stands."""
        self._uses_preconditions = preconditions
        """Whether the mechanism may be used at all (TS 24.229 clause 5.1.5A)."""
        self._commands: deque[ua.Command] = deque()
        self._outputs: deque[Output] = deque()
        self._sdp = b""
        """Our last session description, without precondition lines."""
        self._reserved = reserved
        self._local_end = False
        self._table: Preconditions | None = None
        """Our view of the preconditions; ``None``: the call has none."""
        self._modifying = False
        """Whether the owner waits for the outcome of its `Modify`."""
        self._change: Modify | None = None
        """A change that has not been sent yet, because another exchange is not complete (RFC 6337 section 4.3)."""
        self._again_at: float | None = None
        """When to try."""
        self._tries = 0

    @property
    def dialog(self) -> DialogId | None:
        """The dialog of a call that stands."""
        return next((dialog for dialog, confirmed in self.dialogs.items() if confirmed), None)

    def next_command(self) -> ua.Command | None:
        """Return the next command to the user agent."""
        return self._commands.popleft() if self._commands else None

    def next_output(self) -> Output | None:
        """Return the next output to the owner."""
        return self._outputs.popleft() if self._outputs else None

    def handle(self, event: CallEvent, now: float) -> None:
        """Take in an event of the owner's."""
        match event:
            case Hangup(_, headers):
                self._local_end = True
                self._commands.append(ua.Hangup(self.name, headers))
            case Modify() if self._modifying:
                self._outputs.append(OfferFailed(self.name, None))
            case Modify():
                self._modifying, self._change, self._tries = True, event, 0
                self._send_change()
            case AnswerOffer(_, exchange, sdp):
                self._sdp = renewed(sdp, self._sdp)
                self._commands.append(ua.AnswerOffer(exchange, dress(self._sdp, self._table)))
            case RejectOffer(_, exchange, status):
                self._commands.append(ua.RejectOffer(exchange, status))
            case _:
                self._own_event(event)

    def _send_change(self) -> None:
        change, self._again_at = self._change, None
        if change is not None:
            self._tries += 1
            self._sdp = renewed(change.sdp, self._sdp)
            self._commands.append(ua.Modify(self.name, dress(self._sdp, self._table), change.method))

    def _change_done(self) -> None:
        self._modifying, self._change, self._again_at = False, None, None

    def deadline(self) -> float | None:
        """When `tick` is due."""
        return self._again_at

    def tick(self, now: float) -> None:
        """Time has passed: what could not be sent may be possible now."""
        if self._again_at is not None and now >= self._again_at:
            self._send_change()

    @abstractmethod
    def _own_event(self, event: CallEvent) -> None:
        """Take in an event that means something in one direction only."""

    def told(self, output: ua.Output, now: float) -> None:
        """Take in what the user agent says of this call."""
        match output:
            case ua.OfferReceived(_, dialog, exchange, sdp):
                self._offered(dialog, exchange, sdp)
            case ua.OfferRequested(_, _, exchange):
                self._outputs.append(Offer(self.name, exchange, None))
            case ua.OfferFailed(_, dialog, _, response):
                self._offer_failed(dialog, response)
            case ua.Confirmed(_, dialog):
                self.dialogs[dialog] = True
                self._outputs.append(Confirmed(self.name))
            case ua.Ended(_, cause, message):
                self._ended(cause, message)
            case _:
                self._own_word(output)

    @abstractmethod
    def _own_word(self, output: ua.Output) -> None:
        """Take in what only one direction hears."""

    def refused(self, command: ua.Command, refusal: ua.Refusal, text: str, now: float) -> None:
        """The user agent does not carry out a command of this call's."""
        if isinstance(command, ua.Modify) and refusal is ua.Refusal.PENDING and self._tries < _TRIES:
            self._again_at = now + _PAUSE_SECONDS  # an ACK or an answer is on its way
            return
        _log.warning("call %s: %s not done: %s %s", self.name, type(command).__name__, refusal.value, text)
        match command:
            case ua.Call():
                reason = f"this cannot be called: {text or refusal.value}"
                self._outputs.append(Ended(self.name, None, reason, local=True))
            case ua.Modify(dialog=dialog):
                self._offer_failed(dialog, None)
            case ua.Reject(status=status, headers=headers) if refusal is ua.Refusal.INVALID and headers:
                self._commands.append(ua.Reject(self.name, status))  # the words could not be written
            case ua.Provisional() | ua.Answer() if refusal not in (ua.Refusal.UNKNOWN, ua.Refusal.STATE):
                self._commands.append(ua.Reject(self.name, 500))
            case _:
                pass

    def _offer_failed(self, dialog: DialogId | None, response: Response | None) -> None:
        if self._modifying:
            self._change_done()
            self._outputs.append(OfferFailed(self.name, response.status if response else None))

    def _offered(self, dialog: DialogId, exchange: str, sdp: bytes) -> None:
        """Hand a new offer to the owner."""
        try:
            peer, plain = read_table(sdp), undress(sdp)
        except SdpError as error:
            self._commands.append(refusal(exchange, error))
            return
        if peer is not None and not self._uses_preconditions:
            peer = None
        self._table = preconditions.answer(peer, self._reserved) if peer is not None else None
        self._outputs.append(Offer(self.name, exchange, plain))

    def _ended(self, cause: ua.Cause, message: Message | None) -> None:
        local = self._local_end or cause is ua.Cause.LOCAL
        status = message.status if isinstance(message, Response) else None
        self._outputs.append(Ended(self.name, status, story(cause, message), local, message, cause))

    def give_up(self, reason: str) -> None:
        """Nothing comes of it: over for the owner, whatever the user agent still has to do."""
        if not self._local_end:
            self._commands.append(ua.Hangup(self.name))
        self._outputs.append(Ended(self.name, None, reason, self._local_end, None, ua.Cause.TIMEOUT))

    def _protocol_error(self, error: SdpError) -> None:
        _log.warning("call ended: the peer's session description cannot be used: %s", error)
        self._commands.append(ua.Hangup(self.name, warning(str(error))))


def refusal(exchange: str, error: SdpError) -> ua.RejectOffer:
    _log.warning("offer refused: %s", error)
    return ua.RejectOffer(exchange, error.status or _NOT_ACCEPTABLE, None, warning(str(error)))
