"""One call of an IMS UE: 100rel, preconditions and early media over the user agent's INVITE usage.

TS 24.229 clauses 5.1.3 and 5.1.4, RFC 3312, RFC 4032.  A call machine turns what the user agent tells of its call into
outputs for the owner, and the owner's events into commands to the user agent.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque

from imskit.ims.events import (
    Accept,
    Alert,
    Answered,
    AnswerOffer,
    Confirmed,
    Dial,
    Ended,
    Fields,
    Hangup,
    MediaAgreed,
    Modify,
    Offer,
    OfferFailed,
    Output,
    Prepare,
    Progress,
    Reject,
    RejectOffer,
    ReserveResources,
    ResourcesFailed,
    ResourcesReserved,
    Ring,
)
from imskit.ims.precondition import dress, read_table, renewed, same_media, undress
from imskit.sdp import preconditions
from imskit.sdp.errors import SdpError
from imskit.sdp.preconditions import Preconditions
from imskit.sip.engine import user_agent_events as ua
from imskit.sip.engine.dialog import DialogId
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Message, Request, Response

_log = logging.getLogger(__name__)

type CallEvent = (
    Prepare | ResourcesReserved | ResourcesFailed | Ring | Accept | Reject | Hangup | Modify | AnswerOffer | RejectOffer
)

_ANONYMOUS = '"Anonymous" <sip:anonymous@anonymous.invalid>'
"""From of a caller who is not to be known (RFC 3323 section 4.1.1.3)."""
_NOT_ACCEPTABLE = 488
_EXTENSION_REQUIRED = 421
_PRECONDITION_FAILURE = 580


class CallMachine(ABC):
    """What calls in both directions share."""

    def __init__(self, name: str, reserved: bool) -> None:
        self.name = name
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
            case Modify(_, sdp):
                self._modifying = True
                self._sdp = renewed(sdp, self._sdp)
                # In a confirmed dialog a re-INVITE asks a user where an UPDATE may not (RFC 3311 section 5.1).
                self._commands.append(ua.Modify(self.name, dress(self._sdp, self._table), "INVITE"))
            case AnswerOffer(_, exchange, sdp):
                self._sdp = renewed(sdp, self._sdp)
                self._commands.append(ua.AnswerOffer(exchange, dress(self._sdp, self._table)))
            case RejectOffer(_, exchange, status):
                self._commands.append(ua.RejectOffer(exchange, status))
            case _:
                self._own_event(event)

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
            case ua.Confirmed():
                self._outputs.append(Confirmed(self.name))
            case ua.Ended(_, cause, message):
                self._ended(cause, message)
            case _:
                self._own_word(output)

    @abstractmethod
    def _own_word(self, output: ua.Output) -> None:
        """Take in what only one direction hears."""

    def refused(self, command: ua.Command, refusal: ua.Refusal, text: str) -> None:
        """The user agent does not carry out a command of this call's."""
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
            self._modifying = False
            self._outputs.append(OfferFailed(self.name, response.status if response else None))

    def _offered(self, dialog: DialogId, exchange: str, sdp: bytes) -> None:
        """Hand a new offer to the owner."""
        try:
            peer, plain = read_table(sdp), undress(sdp)
        except SdpError as error:
            self._commands.append(_refusal(exchange, error))
            return
        self._table = preconditions.answer(peer, self._reserved) if peer is not None else None
        self._outputs.append(Offer(self.name, exchange, plain))

    def _ended(self, cause: ua.Cause, message: Message | None) -> None:
        local = self._local_end or cause is ua.Cause.LOCAL
        status = message.status if isinstance(message, Response) else None
        self._outputs.append(Ended(self.name, status, _story(cause, message), local, message, cause))

    def give_up(self, reason: str) -> None:
        """Nothing comes of it: over for the owner, whatever the user agent still has to do."""
        if not self._local_end:
            self._commands.append(ua.Hangup(self.name))
        self._outputs.append(Ended(self.name, None, reason, self._local_end, None, ua.Cause.TIMEOUT))

    def _protocol_error(self, error: SdpError) -> None:
        _log.warning("call ended: the peer's session description cannot be used: %s", error)
        self._commands.append(ua.Hangup(self.name, warning(str(error))))


class OutgoingCallMachine(CallMachine):
    """A call that this UE makes (TS 24.229 clause 5.1.3)."""

    def __init__(self, dial: Dial, impu: str, headers: Fields) -> None:
        super().__init__(dial.call, dial.reserved)
        self._dial = dial
        self._impu = impu
        self._headers = headers
        self._sdp = dial.sdp
        self._asked = dial.reserved
        self._tables: dict[DialogId, Preconditions | None] = {}
        """The preconditions of every dialog that has answered."""
        self._agreed: dict[DialogId, bytes] = {}
        """The last answer of each."""
        self._current: DialogId | None = None
        """The dialog whose answer the owner knows."""
        self._reported: set[DialogId] = set()
        """Dialogs whose peer has been told that our resources are there."""
        self._reporting: DialogId | None = None
        """The dialog in which such an UPDATE is under way."""

    def start(self) -> None:
        """Send the INVITE."""
        offer = dress(self._sdp, preconditions.first_offer(self._reserved))
        self._commands.append(
            ua.Call(
                self.name,
                self._dial.target,
                _ANONYMOUS if self._dial.anonymous else f"<{self._impu}>",
                f"<{self._dial.target}>",
                offer,
                (*self._headers, *((("Privacy", "id"),) if self._dial.anonymous else ()), *self._dial.headers),
            )
        )

    def _own_event(self, event: CallEvent) -> None:
        match event:
            case ResourcesReserved():
                self._reserved = True
                for dialog in self._tables:
                    self._report(dialog)
            case ResourcesFailed():
                self._local_end = True
                self._commands.append(ua.Hangup(self.name, (("Reason", 'SIP;cause=580;text="no resources"'),)))
            case _:
                _log.warning("%s means nothing in a call that this side makes", type(event).__name__)

    def _own_word(self, output: ua.Output) -> None:
        match output:
            case ua.Progress(_, _, response):
                if response.status > 100:
                    self._outputs.append(Progress(self.name, response.status, _early_media(response)))
            case ua.AnswerReceived(_, dialog, sdp):
                self._answered(dialog, sdp)
            case ua.Answered(_, dialog, response):
                self._use(dialog)
                self._outputs.append(Answered(self.name, response))
            case ua.DialogEnded(_, dialog):
                self._tables.pop(dialog, None)
                self._agreed.pop(dialog, None)
                if dialog == self._current and self._agreed:
                    self._use(next(reversed(self._agreed)))
            case _:
                pass
        for dialog in self._tables:
            self._report(dialog)

    def _use(self, dialog: DialogId) -> None:
        """Let the media of this one of the forked dialogs count."""
        if dialog != self._current and dialog in self._agreed:
            self._current, self._table = dialog, self._tables[dialog]
            self._outputs.append(MediaAgreed(self.name, self._agreed[dialog]))

    def _answered(self, dialog: DialogId, sdp: bytes) -> None:
        if dialog == self._reporting:
            self._reporting = None
        else:
            self._modifying = False
        try:
            peer, plain = read_table(sdp), undress(sdp)
        except SdpError as error:
            self._protocol_error(error)
            return
        first = dialog not in self._tables
        self._table = preconditions.after_answer(peer, self._reserved) if peer is not None else None
        self._tables[dialog] = self._table
        self._agreed.pop(dialog, None)  # the latest one comes last
        self._agreed[dialog] = plain
        self._current = dialog
        self._outputs.append(MediaAgreed(self.name, plain))
        if not self._asked:
            self._asked = True
            self._outputs.append(ReserveResources(self.name))
        if first and self._dial.reserved:
            self._reported.add(dialog)  # the INVITE has said so

    def _report(self, dialog: DialogId) -> None:
        """Tell the peer that our resources are there, with an UPDATE (RFC 3312 section 5.1)."""
        table = self._tables.get(dialog)
        if table is None or not self._reserved or dialog in self._reported or self._reporting is not None:
            return
        self._reported.add(dialog)
        self._reporting = dialog
        self._table = preconditions.offer(table, self._reserved)
        self._sdp = renewed(self._sdp, self._sdp, force=True)
        self._commands.append(ua.Modify(self.name, dress(self._sdp, self._table), "UPDATE", dialog=dialog))

    def refused(self, command: ua.Command, refusal: ua.Refusal, text: str) -> None:
        """See ``CallMachine``; a report that came at the wrong moment is made after the next event of the call."""
        if isinstance(command, ua.Modify) and command.dialog is not None and command.dialog == self._reporting:
            self._reporting = None
            if refusal is ua.Refusal.PENDING:
                self._reported.discard(command.dialog)
            return
        super().refused(command, refusal, text)

    def _offer_failed(self, dialog: DialogId | None, response: Response | None) -> None:
        if dialog is not None and dialog == self._reporting:
            self._reporting = None  # the peer knows best if it goes on without
            return
        super()._offer_failed(dialog, response)


class IncomingCallMachine(CallMachine):
    """A call that this UE gets (TS 24.229 clause 5.1.4)."""

    def __init__(self, incoming: ua.IncomingCall) -> None:
        super().__init__(incoming.call, False)
        self.offer: bytes | None = None
        """The caller's offer without precondition lines."""
        self._peer: Preconditions | None = None
        """The caller's own view of the preconditions."""
        if incoming.sdp is not None:
            self._peer, self.offer = read_table(incoming.sdp), undress(incoming.sdp)
        request = incoming.request
        self._reliable = "100rel" in request.supported or "100rel" in request.require
        self._prepared = False
        self._unconfirmed = False
        """A reliable 183 of ours waits for its PRACK."""
        self._alerted = False
        self._described = False
        """Whether our description has been sent."""
        self._held: tuple[str, Preconditions] | None = None
        """An UPDATE of the caller's that waits for our resources."""

    def _own_event(self, event: CallEvent) -> None:
        match event:
            case Prepare(_, sdp, reserved):
                self._sdp, self._reserved, self._prepared = sdp, reserved, True
                self._prepare()
            case ResourcesReserved():
                self._reserved = True
                if self._held is not None:
                    (exchange, peer), self._held = self._held, None
                    self._answer_update(exchange, peer)
            case ResourcesFailed():
                self._commands.append(ua.Reject(self.name, _PRECONDITION_FAILURE))
            case Ring():
                self._commands.append(ua.Provisional(self.name, 180))
            case Accept() if not self._prepared:
                _log.warning("call %s: accepted before it was prepared", self.name)
            case Accept():
                self._commands.append(ua.Answer(self.name, None if self._described else self._sdp))
            case Reject(_, status, reason, headers):
                self._local_end = True
                self._commands.append(ua.Reject(self.name, status, reason, headers))
            case _:
                pass
        self._alert_if_ready()

    def _prepare(self) -> None:
        if self.offer is None:
            if self._reliable:
                # A late offer: ours goes in the first reliable response, the answer comes in its PRACK.
                self._describe(self._sdp)
        elif self._peer is not None:
            # TS 24.229 5.1.4.1: no alerting before both sides have their resources.
            self._table = preconditions.answer(self._peer, self._reserved)
            if not self._reliable:
                # RFC 3312 section 11: without 100rel the caller cannot be told, nor tell us.
                if self._table.remote.met and self._reserved:
                    self._sdp = dress(self._sdp, self._table)
                else:
                    self._commands.append(ua.Reject(self.name, _EXTENSION_REQUIRED, None, (("Require", "100rel"),)))
                return
            self._describe(dress(self._sdp, self._table), (("Require", "precondition"),))
        elif not self._reserved and self._reliable:
            self._describe(self._sdp)
        if not self._reserved:
            self._outputs.append(ReserveResources(self.name))

    def _describe(self, sdp: bytes, headers: Fields = ()) -> None:
        self._described = self._unconfirmed = True
        self._commands.append(ua.Provisional(self.name, 183, None, sdp, headers, reliable=True))

    def _own_word(self, output: ua.Output) -> None:
        match output:
            case ua.PrackReceived(_, _, 183):
                self._unconfirmed = False
            case ua.AnswerReceived(_, _, sdp):
                self._modifying = False
                try:
                    self._outputs.append(MediaAgreed(self.name, undress(sdp)))
                except SdpError as error:
                    self._protocol_error(error)
                    return
            case _:
                pass
        self._alert_if_ready()

    def _offered(self, dialog: DialogId, exchange: str, sdp: bytes) -> None:
        """An UPDATE (or PRACK) of the caller's that only reports its resources is answered without the owner."""
        try:
            peer = read_table(sdp)
            only_report = peer is not None and self.offer is not None and same_media(sdp, self.offer)
        except SdpError as error:
            self._commands.append(_refusal(exchange, error))
            return
        if peer is None or not only_report or self._alerted:
            self._peer = peer
            super()._offered(dialog, exchange, sdp)
        elif self._reserved:
            self._answer_update(exchange, peer)
        else:
            self._held = (exchange, peer)
        self._alert_if_ready()

    def _answer_update(self, exchange: str, peer: Preconditions) -> None:
        self._peer = peer
        self._table = preconditions.answer(peer, self._reserved)
        self._sdp = renewed(self._sdp, self._sdp, force=True)
        self._commands.append(ua.AnswerOffer(exchange, dress(self._sdp, self._table)))

    def _alert_if_ready(self) -> None:
        met = self._table is None or self._table.remote.met
        if self._prepared and self._reserved and met and not self._unconfirmed and not self._alerted:
            self._alerted = True
            self._outputs.append(Alert(self.name))


def _refusal(exchange: str, error: SdpError) -> ua.RejectOffer:
    _log.warning("offer refused: %s", error)
    return ua.RejectOffer(exchange, error.status or _NOT_ACCEPTABLE, None, warning(str(error)))


def _early_media(response: Response) -> bool:
    """Whether the network sends media before the answer (RFC 5009 section 8)."""
    values = {element.partition(";")[0].strip().lower() for element in response.headers.elements("P-Early-Media")}
    return bool(values & {"sendrecv", "sendonly"})


def warning(text: str) -> Fields:
    """A Warning that carries ``text`` (RFC 3261 section 20.43, code 399)."""
    shown = "".join(c if " " <= c <= "~" else "?" for c in text)[:200].replace("\\", "/").replace('"', "'")
    return (("Warning", f'399 imsbridge "{shown}"'),)


def _story(cause: ua.Cause, message: Message | None) -> str:
    """What ended a call, in words, with those of the network where it gives any."""
    words = _network_words(message)
    if isinstance(message, Response):
        text = f"{message.status} {message.reason}".rstrip()
        return f"{text} ({words})" if words else text
    if isinstance(message, Request) and message.method == "CANCEL":
        return f"the caller gave up ({words})" if words else "the caller gave up"
    if isinstance(message, Request):
        return f"the other side hung up ({words})" if words else "the other side hung up"
    return cause.value


def _network_words(message: Message | None) -> str:
    if message is None:
        return ""
    for value in message.headers.get_all("Warning"):
        _, quote, rest = value.partition('"')
        if quote:
            return rest.rpartition('"')[0]
    try:
        return next((reason.text for reason in message.reasons if reason.text), "")
    except SipParseError:
        return ""
