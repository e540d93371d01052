"""A call that this UE gets: 100rel, preconditions, late offers (TS 24.229 clause 5.1.4, RFC 3312)."""

from __future__ import annotations

import logging

from imskit.ims.call import CallEvent, CallMachine, refusal
from imskit.ims.call_words import CALL_WAITING
from imskit.ims.events import (
    Accept,
    Alert,
    Fields,
    MediaAgreed,
    Prepare,
    Reject,
    ReserveResources,
    ResourcesFailed,
    ResourcesReserved,
    Ring,
)
from imskit.ims.precondition import dress, read_table, renewed, same_media, undress
from imskit.sdp import preconditions
from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sdp.preconditions import Preconditions
from imskit.sip.engine import user_agent_events as ua
from imskit.sip.engine.dialog import DialogId

_log = logging.getLogger(__name__)

_EXTENSION_REQUIRED = 421
_PRECONDITION_FAILURE = 580


class IncomingCallMachine(CallMachine):
    """A call that this UE gets (TS 24.229 clause 5.1.4)."""

    def __init__(self, incoming: ua.IncomingCall, peer: str = "", *, preconditions: bool = True) -> None:
        super().__init__(incoming.call, False, peer=peer, preconditions=preconditions)
        self.dialogs[incoming.dialog] = False
        self.replaces = ""
        """Our call that this one takes over."""
        self.waits = False
        """Whether there is another call, so that this one is waiting."""
        self.offer: bytes | None = None
        """The caller's offer without precondition lines."""
        self._peer: Preconditions | None = None
        """The caller's own view of the preconditions."""
        if incoming.sdp is not None:
            self._peer, self.offer = read_table(incoming.sdp), undress(incoming.sdp)
            if not preconditions:
                self._peer = None
        request = incoming.request
        self._reliable = "100rel" in request.supported or "100rel" in request.require
        self._prepared = False
        self._unconfirmed = False
        """A reliable 183 of ours waits for its PRACK."""
        self._alerted = False
        self._described = False
        """Whether our description has been sent."""
        self._wants_preconditions = preconditions and "precondition" in (*request.supported, *request.require)
        self._late = False
        """The INVITE had no offer, and ours has preconditions."""
        self._told = False
        """Such a caller knows that our resources are there."""
        self._held: tuple[str, Preconditions] | None = None
        """An UPDATE of the caller's that waits for our resources."""

    def _own_event(self, event: CallEvent) -> None:
        match event:
            case Prepare(_, sdp, reserved):
                self._sdp, self._reserved, self._prepared = sdp, reserved, True
                self._prepare()
            case ResourcesReserved():
                self._reserved = True
                self._report()
                if self._held is not None:
                    (exchange, peer), self._held = self._held, None
                    self._answer_update(exchange, peer)
            case ResourcesFailed():
                self._commands.append(self._failure())
            case Ring():
                fields: Fields = (("Alert-Info", f"<{CALL_WAITING}>"),) if self.waits else ()
                self._commands.append(ua.Provisional(self.name, 180, None, None, fields))
            case Accept() if not self._prepared:
                _log.warning("call %s: accepted before it was prepared", self.name)
            case Accept():
                self.dialogs = dict.fromkeys(self.dialogs, True)
                self._commands.append(ua.Answer(self.name, None if self._described else self._sdp))
            case Reject(_, status, reason, headers):
                self._local_end = True
                self._commands.append(ua.Reject(self.name, status, reason, headers))
            case _:
                pass
        self._alert_if_ready()

    def _failure(self) -> ua.Reject:
        """The 580 for resources that cannot be had; it names them to whoever asked (RFC 3312 section 8)."""
        if self._table is None or self.offer is None:
            return ua.Reject(self.name, _PRECONDITION_FAILURE)
        offer = SessionDescription.parse(dress(self.offer, self._table))
        body = preconditions.failure(offer, self._table).encode()
        return ua.Reject(self.name, _PRECONDITION_FAILURE, None, (), body, "application/sdp")

    def _prepare(self) -> None:
        if self.offer is None:
            if self._reliable:
                # A late offer: ours goes in the first reliable response, the answer comes in its PRACK.
                if self._wants_preconditions:
                    self._late, self._told = True, self._reserved
                    self._table = preconditions.first_offer(self._reserved)
                fields: Fields = (("Require", "precondition"),) if self._late else ()
                self._describe(dress(self._sdp, self._table), fields)
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
                self._change_done()
                try:
                    self._answered(sdp)
                except SdpError as error:
                    self._protocol_error(error)
                    return
            case _:
                pass
        self._alert_if_ready()

    def _answered(self, sdp: bytes) -> None:
        """The caller answers our late offer, or what came after it."""
        peer, plain = read_table(sdp), undress(sdp)
        if self._late and not self._alerted:
            self._table = preconditions.after_answer(peer, self._reserved) if peer is not None else None
        if self.offer is None or not same_media(sdp, self.offer):
            self.offer = plain
            self._outputs.append(MediaAgreed(self.name, plain))
        self._report()

    def _report(self) -> None:
        """Tell the caller who answered our late offer that our resources are there (RFC 3312 section 5.1)."""
        if not self._late or self._table is None or self._told or not self._reserved or self._unconfirmed:
            return
        self._told = True
        self._table = preconditions.offer(self._table, self._reserved)
        self._sdp = renewed(self._sdp, self._sdp, force=True)
        self._commands.append(ua.Modify(self.name, dress(self._sdp, self._table), "UPDATE"))

    def _offered(self, dialog: DialogId, exchange: str, sdp: bytes) -> None:
        """An UPDATE (or PRACK) of the caller's that only reports its resources is answered without the owner."""
        try:
            peer = read_table(sdp)
            only_report = peer is not None and self.offer is not None and same_media(sdp, self.offer)
        except SdpError as error:
            self._commands.append(refusal(exchange, error))
            return
        if peer is None or not only_report or self._alerted or not self._uses_preconditions:
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
