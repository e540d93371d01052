"""One dialog of a call, early or confirmed: its requests in both directions, its session timer, its end.

What our INVITEs bring is in `invite_client`, what we send to modify the session in `invite_modifier`, what the peer
sends to modify it in `invite_responder`.  Who made the dialog, and what its end means for the call, is its owner's
business: `invite_caller` or `invite_callee`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

from imskit.sip.engine.alarms import Alarm
from imskit.sip.engine.dialog import Dialog
from imskit.sip.engine.invite_answering import Answering
from imskit.sip.engine.invite_body import SDP, session_description
from imskit.sip.engine.invite_client import ClientInvite
from imskit.sip.engine.invite_modifier import Modifier
from imskit.sip.engine.invite_offer_answer import Carrier, OfferAnswer, OfferState
from imskit.sip.engine.invite_responder import Responder
from imskit.sip.engine.session_timer import SessionTimer
from imskit.sip.engine.user_agent_core import Core, Exchange, Failure, Outgoing, Reply
from imskit.sip.engine.user_agent_events import (
    AnswerReceived,
    Cause,
    Fields,
    Hop,
    OfferFailed,
    OfferWithdrawn,
    Output,
    ResponseReceived,
    SendInDialog,
)
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.headers import ReasonHeader
from imskit.sip.wire.message import Message, Request, Response

_log = logging.getLogger(__name__)

_FATAL = frozenset({404, 408, 410, 416, 481, 482, 483, 484, 485, 502, 604})
"""Responses to a request within a dialog that end it (RFC 3261 section 12.2.1.2, RFC 5057 section 5.1)."""

_EXPIRED: Fields = (("Reason", str(ReasonHeader.of("SIP", 408, "Session timer expired"))),)


def _ends_call(method: str, reply: Reply) -> bool:
    """Whether a failed request of this method says anything of the call (RFC 5057 sections 5.1 and 5.3).

    A NOTIFY belongs to a subscription beside it; a REFER that is refused with 404 or 416 may mean its Refer-To.
    """
    if method == "NOTIFY":
        return False
    return method != "REFER" or not isinstance(reply, Response) or reply.status == 481


class SessionOwner(Protocol):
    """The call that a dialog belongs to."""

    def over(self, session: Session, cause: Cause, message: Message | None) -> None:
        """The dialog has ended and is released."""

    def give_up(self, session: Session, cause: Cause, headers: Fields) -> None:
        """End the dialog: the owner chooses between CANCEL and BYE."""

    def confirmed(self, session: Session, request: Request) -> None:
        """The ACK of our 2xx to the initial INVITE came."""


class Session:
    """See the module's text."""

    def __init__(
        self,
        core: Core,
        call: str,
        owner: SessionOwner,
        dialog: Dialog,
        *,
        timer: SessionTimer,
        contact: str,
        hop: Hop | None,
    ) -> None:
        self.core = core
        self.call = call
        self.dialog = dialog
        self.offers = OfferAnswer()
        self.timer = timer
        self.contact = contact
        self.hop = hop
        self.client: ClientInvite | None = None
        """Our latest INVITE in this dialog."""
        self.server: Answering | None = None
        """The peer's latest INVITE in this dialog."""
        self.modifier = Modifier(self)
        self.responder = Responder(self)
        self.peer_methods: frozenset[str] | None = None
        """From the peer's Allow; ``None``: it has not said."""
        self.ended = False
        self._releasing = False
        self._owner = owner
        self._closing: Fields | None = None
        """We have hung up, and the BYE with these fields waits for the ACK of our 2xx."""
        self._queue: deque[Outgoing] = deque()
        self._sent: Outgoing | None = None
        self._refresh: Alarm | None = None
        self._expiry: Alarm | None = None
        core.dialogs[dialog.id] = self

    # ---- small services ---------------------------------------------------------------------------------------

    def emit(self, output: Output) -> None:
        """Tell the owner of the user agent, unless the call is over."""
        if not self.ended:
            self.core.emit(output)

    def learn(self, message: Message) -> None:
        """Remember what the peer says that it takes."""
        try:
            methods = message.allow
        except SipParseError as error:
            _log.info("call %s: %s", self.call, error)
            return
        if methods:
            self.peer_methods = frozenset(methods)

    def accepted(self, response: Response) -> None:
        """Take the session timer of a 2xx to our INVITE or UPDATE."""
        try:
            self.timer.accepted(response, self.core.now)
        except SipParseError as error:
            _log.info("call %s: no session timer: %s", self.call, error)
        self.watch()

    def request(self, method: str, headers: Fields = (), sdp: bytes | None = None) -> Request:
        """Build the next request of the dialog."""
        request = self.dialog.request(method)
        self.core.dress(request, method, headers, self.contact)
        if sdp is not None:
            request.set_body(sdp, SDP)
        return request

    def answer(self, request: Request, headers: Fields = (), sdp: bytes | None = None) -> Response:
        """Build a 200 that may refresh our target and carry an SDP."""
        return self.core.build_response(
            request, 200, None, headers, sdp or b"", SDP if sdp is not None else "", contact=self.contact
        )

    def cause_of(self, reply: Reply) -> Cause:
        """Return how a failed request is reported."""
        if isinstance(reply, Failure):
            return reply.cause
        if reply.status == 408:
            return Cause.TIMEOUT
        return Cause.GONE if reply.status in _FATAL else Cause.REJECTED

    # ---- questions to the owner of the user agent ---------------------------------------------------------------

    def ask(self, exchange: Exchange, patience: float | None = None, expire: Callable[[], None] = lambda: None) -> None:
        """Open an exchange; if the owner is silent for ``patience`` seconds, it is withdrawn, then ``expire`` done."""

        def withdrawn() -> None:
            self.emit(OfferWithdrawn(self.call, self.dialog.id, exchange.id))
            expire()

        self.core.ask(exchange, patience, withdrawn)

    def withdraw(self, exchange: Exchange) -> None:
        """Close an exchange that the owner has not answered."""
        if self.core.close(exchange):
            self.emit(OfferWithdrawn(self.call, self.dialog.id, exchange.id))

    # ---- requests out -------------------------------------------------------------------------------------------

    def enqueue(self, outgoing: Outgoing, *, first: bool = False) -> None:
        """Send a request, but INVITE, ACK and BYE, when the one before it is answered.

        So the peer never sees our requests out of order, which it would have to answer 500.
        """
        reply = outgoing.reply

        def replied(result: Reply) -> None:
            if isinstance(result, Response) and result.provisional:
                return  # RFC 4320 section 4.1: a 100 says nothing.
            self._sent = None
            try:
                reply(result)
            finally:
                self._send_next()

        outgoing.reply = replied
        if first:
            self._queue.appendleft(outgoing)
        else:
            self._queue.append(outgoing)
        self._send_next()

    def _send_next(self) -> None:
        while self._sent is None and self._queue and not self._releasing:
            self._sent = outgoing = self._queue.popleft()
            outgoing.hop = self.hop
            try:
                self.core.send(outgoing)
            except SipParseError as error:
                _log.warning("a request of call %s cannot be written: %s", self.call, error)
                outgoing.reply(Failure.PROTOCOL)

    def send(self, command: SendInDialog) -> None:
        """Send the owner's request."""

        def build(credentials: Fields) -> Request:
            request = self.request(command.method, (*command.headers, *credentials))
            if command.body:
                request.set_body(command.body, command.content_type)
            return request

        def reply(result: Reply) -> None:
            if isinstance(result, Failure):
                self.core.emit(ResponseReceived(command.key, None, result.cause))
            else:
                self.core.emit(ResponseReceived(command.key, result))
            if _ends_call(command.method, result):
                self.check_lost(result)

        self.enqueue(Outgoing(build, reply, self.hop, self.call))

    def check_lost(self, reply: Reply) -> None:
        """End the dialog if ``reply`` says that the peer does not have it, or that there is no peer."""
        if self.ended or (isinstance(reply, Failure) and reply is not Failure.TIMEOUT):
            return
        if isinstance(reply, Response) and reply.status not in _FATAL:
            return
        message = reply if isinstance(reply, Response) else None
        if self.dialog.confirmed:
            self.hang_up()
        else:
            self.finish()
        self._owner.over(self, self.cause_of(reply), message)

    # ---- requests in --------------------------------------------------------------------------------------------

    def accepts(self, request: Request) -> bool:
        """Judge the sequence of a request."""
        return self.dialog.accepts(request)

    def receive(self, key: str, request: Request, flow: Flow) -> None:
        """Take a request within the dialog."""
        if isinstance(self.hop, Flow) and self.hop.reliable and flow.reliable:
            # The peer's connection may have been replaced (RFC 5626 section 5.3, RFC 7118 section 5).
            self.hop = flow
        if request.method == "BYE":
            self.core.reply_to(key, request, 200)
            over = self._closing is None
            self.finish()
            if over:
                self._owner.over(self, Cause.REMOTE, request)
        elif self._closing is not None:
            self.core.reply_to(key, request, 481)
        elif request.method == "PRACK":
            self.responder.prack(key, request)
        elif request.method == "UPDATE":
            self.responder.update(key, request)
        elif request.method == "INVITE":
            self.responder.reinvite(key, request)
        else:
            self.core.hand_up(key, request, flow, self.call, self.dialog.id)

    def acknowledged(self, request: Request) -> None:
        """Take an ACK: it may carry the answer to the offer in our 2xx."""
        server = self.server
        if server is None or request.cseq.number != server.request.cseq.number or not server.confirm():
            return
        if self._closing is not None:
            self._send_bye(self._closing)
            return
        initial = server.request.to.tag is None
        if initial:
            self._owner.confirmed(self, request)
        if self.offers.state is not OfferState.LOCAL_OFFER or self.offers.carrier is not Carrier.SUCCESS:
            return
        sdp = session_description(request)
        if sdp is not None:
            self.offers.receive_answer(sdp)
            self.emit(AnswerReceived(self.call, self.dialog.id, sdp, Carrier.ACK, request))
            return
        self.offers.abandon()
        self.emit(OfferFailed(self.call, self.dialog.id, Cause.PROTOCOL))
        if initial:
            self.give_up(Cause.PROTOCOL)

    def confirm_without_ack(self, request: Request) -> None:
        """A re-INVITE proves that our 2xx arrived: its ACK was lost or is late."""
        if self.server is not None and self.server.confirm() and self.server.request.to.tag is None:
            self._owner.confirmed(self, request)

    # ---- session timer ------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Follow the session timer, after a 2xx to INVITE or UPDATE."""
        self._stop_watch()
        if not self.dialog.confirmed:
            return
        if (at := self.timer.refresh_at) is not None:
            self._refresh = self.core.alarm(max(0.0, at - self.core.now), self.modifier.refresh)
        if (at := self.timer.expires_at) is not None:
            self._expiry = self.core.alarm(max(0.0, at - self.core.now), lambda: self.give_up(Cause.EXPIRED, _EXPIRED))

    def _stop_watch(self) -> None:
        for alarm in (self._refresh, self._expiry):
            if alarm is not None:
                alarm.cancel()
        self._refresh = self._expiry = None

    # ---- the end ------------------------------------------------------------------------------------------------

    def give_up(self, cause: Cause, headers: Fields = ()) -> None:
        """Let the owner end this dialog."""
        if not self.ended:
            self._owner.give_up(self, cause, headers)

    def hang_up(self, headers: Fields = ()) -> None:
        """End the dialog from our side; the owner has been or will be told by the caller."""
        if self.ended:
            return
        if self.client is not None and self.client.finished and not self.client.complete:
            self.client.force_ack()
        server = self.server
        if server is not None and server.final is not None and not server.complete:
            # RFC 3261 section 15: no BYE before the ACK of our 2xx, or the end of its retransmission.
            self._release()
            self._closing = headers
        else:
            self._send_bye(headers)

    def no_ack(self) -> None:
        """The ACK of our 2xx never came (RFC 3261 sections 13.3.1.4, 14.2)."""
        if self._closing is not None:
            self._send_bye(self._closing)
        else:
            self.give_up(Cause.NO_ACK)

    def _send_bye(self, headers: Fields) -> None:
        def build(credentials: Fields) -> Request:
            return self.request("BYE", (*headers, *credentials))

        outgoing = Outgoing(build, lambda _: None, self.hop, self.call)
        try:
            self.core.send(outgoing)
        except SipParseError as error:
            _log.warning("the BYE of call %s cannot be written: %s", self.call, error)
        self.finish()

    def finish(self) -> None:
        """Release everything; pending requests of the peer are answered 487."""
        self._release()
        if self.server is not None:
            self.server.stop()
        self.core.dialogs.pop(self.dialog.id, None)

    def _release(self) -> None:
        if self._releasing:
            return
        self._releasing = True
        self._stop_watch()
        self.responder.stop()
        self.modifier.stop()
        if self.client is not None:
            self.client.drop_exchanges()
        self.ended = True
        if self._sent is not None:
            self.core.withdraw(self._sent)
        waiting = list(self._queue)
        self._queue.clear()
        for outgoing in waiting:
            outgoing.reply(Failure.ENDED)
