"""A call that this UE makes: offer with preconditions, forks, early media (TS 24.229 clause 5.1.3)."""

from __future__ import annotations

import logging

from imskit.ims.call import CallEvent, CallMachine
from imskit.ims.call_words import call_waiting
from imskit.ims.events import (
    Answered,
    Dial,
    Fields,
    MediaAgreed,
    Progress,
    ReserveResources,
    ResourcesFailed,
    ResourcesReserved,
)
from imskit.ims.precondition import dress, read_table, renewed, undress
from imskit.sdp import preconditions
from imskit.sdp.errors import SdpError
from imskit.sdp.preconditions import Preconditions
from imskit.sip.engine import user_agent_events as ua
from imskit.sip.engine.dialog import DialogId
from imskit.sip.wire.message import Response

_log = logging.getLogger(__name__)

_ANONYMOUS = '"Anonymous" <sip:anonymous@anonymous.invalid>'
"""From of a caller who is not to be known (RFC 3323 section 4.1.1.3)."""


class OutgoingCallMachine(CallMachine):
    """A call that this UE makes (TS 24.229 clause 5.1.3)."""

    def __init__(self, dial: Dial, impu: str, contact: str, headers: Fields, *, preconditions: bool = True) -> None:
        super().__init__(dial.call, dial.reserved, peer=dial.target, preconditions=preconditions)
        self._dial = dial
        self._impu = impu
        self._contact = contact
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
        offer = dress(self._sdp, preconditions.first_offer(self._reserved) if self._uses_preconditions else None)
        self._commands.append(
            ua.Call(
                self.name,
                self._dial.target,
                _ANONYMOUS if self._dial.anonymous else f"<{self._impu}>",
                f"<{self._dial.target}>",
                offer,
                (*self._headers, *((("Privacy", "id"),) if self._dial.anonymous else ()), *self._dial.headers),
                contact=self._contact,
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
            case ua.Progress(_, dialog, response):
                if dialog is not None:
                    self.dialogs.setdefault(dialog, False)
                if response.status > 100:
                    early, waiting = _early_media(response), call_waiting(response)
                    self._outputs.append(Progress(self.name, response.status, early, waiting))
            case ua.AnswerReceived(_, dialog, sdp):
                self._answered(dialog, sdp)
            case ua.Answered(_, dialog, response):
                self.dialogs = {dialog: True}
                self._use(dialog)
                self._outputs.append(Answered(self.name, response))
            case ua.DialogEnded(_, dialog):
                self.dialogs.pop(dialog, None)
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
            self._change_done()
        try:
            peer, plain = read_table(sdp), undress(sdp)
        except SdpError as error:
            self._protocol_error(error)
            return
        first = dialog not in self._tables
        if not self._uses_preconditions:
            peer = None
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

    def refused(self, command: ua.Command, refusal: ua.Refusal, text: str, now: float) -> None:
        """See ``CallMachine``; a report that came at the wrong moment is made after the next event of the call."""
        if isinstance(command, ua.Modify) and command.dialog is not None and command.dialog == self._reporting:
            self._reporting = None
            if refusal is ua.Refusal.PENDING:
                self._reported.discard(command.dialog)
            return
        super().refused(command, refusal, text, now)

    def _offer_failed(self, dialog: DialogId | None, response: Response | None) -> None:
        if dialog is not None and dialog == self._reporting:
            self._reporting = None  # the peer knows best if it goes on without
            return
        super()._offer_failed(dialog, response)


def _early_media(response: Response) -> bool:
    """Whether the network sends media before the answer (RFC 5009 section 8)."""
    values = {element.partition(";")[0].strip().lower() for element in response.headers.elements("P-Early-Media")}
    return bool(values & {"sendrecv", "sendonly"})
