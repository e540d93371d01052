"""An outgoing call: one INVITE, its forks, its CANCEL, until one branch is answered (RFC 3261 sections 9, 13.2)."""

from __future__ import annotations

import logging

from imskit.sip.engine.alarms import Alarm
from imskit.sip.engine.dialog import Dialog, DialogId
from imskit.sip.engine.invite_body import SDP
from imskit.sip.engine.invite_client import ClientInvite, Outcome
from imskit.sip.engine.invite_offer_answer import Carrier
from imskit.sip.engine.invite_session import Session
from imskit.sip.engine.session_timer import SessionTimer
from imskit.sip.engine.user_agent_core import Core, Failure, Outgoing, Reply, merge
from imskit.sip.engine.user_agent_events import (
    Answered,
    Call,
    Cause,
    DialogEnded,
    Ended,
    Fields,
    Hangup,
    Hop,
    Progress,
    Refusal,
)
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Message, Request, Response

_log = logging.getLogger(__name__)

FORKS = 32
"""How many early dialogs of one call are followed."""
RETRIES_422 = 3


class CallerCall:
    """See the module's text."""

    def __init__(self, core: Core, command: Call) -> None:
        self.key = command.call
        self.hop: Hop | None = command.hop
        self._core = core
        self._command = command
        self._contact = command.contact or core.profile.contact
        self._policy = core.profile.session_timer
        self._timer = SessionTimer(self._policy)
        """What a 422 teaches before there is a dialog."""
        self._from = f"{command.from_};tag={core.tokens(16)}"
        self._call_id = core.tokens(32)
        self._sequence = core.random(2**16)
        self._sessions: dict[str, Session] = {}
        """By the peer's tag."""
        self._confirmed: Session | None = None
        self._ending: Cause | None = None
        """Why the call is being cancelled."""
        self._over = False
        self._retries = 0
        self._patience: Alarm | None = None
        self._outgoing = Outgoing(
            self._build, self._take, command.hop, command.call, restart=lambda: self._drop_all(Cause.REJECTED, None)
        )

    def start(self) -> None:
        """Send the INVITE.  Raises `SipParseError` if it cannot be written."""
        self._core.send(self._outgoing)
        seconds = self._command.no_answer
        if seconds is None:
            seconds = self._core.profile.no_answer
        if seconds is not None:
            self._patience = self._core.alarm(seconds, lambda: self._cancel(Cause.NO_ANSWER, ()))

    def _build(self, credentials: Fields) -> Request:
        command, core = self._command, self._core
        self._sequence += 1
        route = core.profile.route if command.route is None else command.route
        fields = [
            *(("Route", value) for value in route),
            ("From", self._from),
            ("To", command.to),
            ("Call-ID", self._call_id),
            ("CSeq", f"{self._sequence} INVITE"),
        ]
        request = Request.create("INVITE", command.uri, fields)
        if command.require:
            request.headers.add("Require", ", ".join(command.require))
        timer = self._timer.request_fields()
        core.dress(request, "INVITE", merge(command.headers, credentials, timer), self._contact)
        if command.sdp is not None:
            request.set_body(command.sdp, SDP)
        return request

    # ---- the INVITE's responses ---------------------------------------------------------------------------------

    def _take(self, reply: Reply) -> None:
        if isinstance(reply, Failure):
            self._failed(reply.cause, None)
        elif reply.provisional:
            self._provisional(reply)
        elif reply.success:
            self._success(reply)
        elif reply.status == 422 and self._retry(reply):
            pass
        else:
            self._failed(Cause.TIMEOUT if reply.status == 408 else Cause.REJECTED, reply)

    def _provisional(self, response: Response) -> None:
        if self._over or self._ending is not None:
            return
        tag = response.to.tag
        if response.status == 100 or not tag:
            self._core.emit(Progress(self.key, None, response))
            return
        session = self._sessions.get(tag)
        if response.status == 199:
            # RFC 6228: the early dialog is over; one that 199 alone would make never was.
            if session is not None and not session.ended:
                session.finish()
                self.over(session, Cause.REJECTED, response)
            return
        if session is None:
            if len(self._sessions) >= FORKS:
                _log.warning("call %s: more than %d early dialogs", self.key, FORKS)
                return
            try:
                session = self._fork(response)
            except SipParseError:
                # Without a Contact it makes no dialog, but it still says that the phone rings.
                self._core.emit(Progress(self.key, None, response))
                return
        if session.ended or session.client is None:
            return
        session.learn(response)
        session.client.provisional(response, progress=True)

    def _fork(self, response: Response) -> Session:
        request = self._outgoing.request
        assert request is not None
        session = Session(
            self._core,
            self.key,
            self,
            Dialog.from_response(request, response),
            timer=SessionTimer(self._policy),
            contact=self._contact,
            hop=self.hop,
        )
        session.client = ClientInvite(session, request, manual_prack=self._command.manual_prack)
        if self._command.sdp is not None:
            session.offers.send_offer(self._command.sdp, Carrier.INVITE)
        self._sessions[session.dialog.id.remote_tag] = session
        return session

    def _success(self, response: Response) -> None:
        tag = response.to.tag or ""
        session = self._sessions.get(tag)
        if session is not None and session.client is not None and session.client.finished:
            session.client.repeat_ack()
            return
        if self._over or self._ending is not None or self._confirmed is not None or (session and session.ended):
            self._too_late(tag, response)
            return
        if session is None:
            session = self._fork(response)
        session.dialog.confirm(response)
        session.learn(response)
        session.accepted(response)
        self._confirmed = session
        self._stop_patience()
        self._drop_all(Cause.REPLACED, None, but=session)
        client = session.client
        assert client is not None
        outcome = client.success(response)
        if outcome is Outcome.BROKEN:
            _log.info("call %s: the 2xx lacks an offer or answer", self.key)
            session.hang_up()
            self._end(Cause.PROTOCOL, response)
            return
        self._core.emit(Answered(self.key, session.dialog.id, response))

    def _too_late(self, tag: str, response: Response) -> None:
        """Another branch was answered, or the CANCEL crossed the 2xx: ACK, then BYE (section 13.2.2.4)."""
        early = self._sessions.pop(tag, None)
        if early is not None and not early.ended:
            early.finish()
        session = self._fork(response)
        if early is not None:
            session.dialog.local_sequence = early.dialog.local_sequence
        if session.client is not None:
            session.client.finished = True
        session.hang_up()
        if self._confirmed is None:
            # Cancelled, or the branch that answered is the one that we ended: no other will be put through.
            self._end(self._ending or Cause.LOCAL, response)

    def _retry(self, response: Response) -> bool:
        if self._over or self._ending is not None or self._retries >= RETRIES_422:
            return False
        if not self._timer.too_small(response):
            return False
        self._retries += 1
        self._drop_all(Cause.REJECTED, response)
        self._core.send(self._outgoing)
        return True

    def _failed(self, cause: Cause, response: Response | None) -> None:
        if self._over:
            return
        if self._confirmed is not None:
            return  # The transaction of an answered INVITE ended in the layer.
        self._end(self._ending or cause, response)

    # ---- the owner's commands -----------------------------------------------------------------------------------

    def hang_up(self, command: Hangup) -> Refusal | None:
        """Carry out the owner's command."""
        if command.dialog is not None and (self._confirmed is None or self._confirmed.dialog.id != command.dialog):
            session = self.session(command.dialog)
            if session is None:
                return Refusal.UNKNOWN
            session.hang_up(command.headers)
            self.over(session, Cause.LOCAL, None)
        elif self._confirmed is not None:
            self._confirmed.hang_up(command.headers)
            self._end(Cause.LOCAL, None)
        elif self._ending is None:
            self._cancel(Cause.LOCAL, command.headers)
        else:
            return Refusal.STATE
        return None

    def session(self, dialog: DialogId | None) -> Session | None:
        """Return the dialog meant, or the confirmed or only one."""
        if dialog is not None:
            session = self._sessions.get(dialog.remote_tag)
            return session if session is not None and not session.ended else None
        if self._confirmed is not None:
            return self._confirmed
        alive = [session for session in self._sessions.values() if not session.ended]
        return alive[0] if len(alive) == 1 else None

    def reroute(self, hop: Hop) -> None:
        """Use another hop from now on."""
        self.hop = hop
        for session in self._sessions.values():
            session.hop = hop

    def _cancel(self, cause: Cause, headers: Fields) -> None:
        if self._over or self._ending is not None or self._confirmed is not None:
            return
        self._ending = cause
        self._stop_patience()
        if self._outgoing.done:
            # A challenge waits for credentials: there is no transaction to cancel.
            self._core.withdraw(self._outgoing)
            return
        self._core.cancel(self._outgoing, headers)

    # ---- what the dialogs report --------------------------------------------------------------------------------

    def over(self, session: Session, cause: Cause, message: Message | None) -> None:
        """A dialog has ended."""
        if self._over:
            return
        if session is self._confirmed:
            self._end(cause, message)
            return
        self._core.emit(DialogEnded(self.key, session.dialog.id, cause, message))
        if cause not in (Cause.LOCAL, Cause.REJECTED) and not any(not other.ended for other in self._sessions.values()):
            # The only branch is lost to us; what it might still answer is of no use.
            self._cancel(cause, ())

    def give_up(self, session: Session, cause: Cause, headers: Fields) -> None:
        """A dialog cannot go on."""
        alive = [other for other in self._sessions.values() if not other.ended]
        if session is self._confirmed:
            session.hang_up(headers)
            self._end(cause, None)
        elif alive == [session]:
            self._cancel(cause, headers)
        else:
            session.hang_up(headers)
            self.over(session, Cause.LOCAL, None)

    def confirmed(self, session: Session, request: Request) -> None:
        """Not for a caller."""

    # ---- the end ------------------------------------------------------------------------------------------------

    def _drop_all(self, cause: Cause, message: Message | None, but: Session | None = None) -> None:
        """End every early dialog; the INVITE itself is answered or will be repeated."""
        for tag, session in list(self._sessions.items()):
            if session is but:
                continue
            del self._sessions[tag]
            if not session.ended:
                if session.client is not None:
                    session.client.failed()
                session.finish()
                self._core.emit(DialogEnded(self.key, session.dialog.id, cause, message))

    def _stop_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _end(self, cause: Cause, message: Message | None) -> None:
        if self._over:
            return
        self._over = True
        self._stop_patience()
        for session in self._sessions.values():
            if not session.ended and session is not self._confirmed:
                if session.client is not None:
                    session.client.failed()
                session.finish()
        self._core.calls.pop(self.key, None)
        self._core.emit(Ended(self.key, cause, message))
