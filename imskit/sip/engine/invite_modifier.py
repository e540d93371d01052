"""What we send to modify a session: UPDATE and re-INVITE, their glare and retries, refreshes by the session timer.

RFC 3261 section 14.1, RFC 3311 section 5.1, RFC 4028 sections 7 and 10, RFC 6337 section 4.3.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imskit.sip.engine.alarms import Alarm
from imskit.sip.engine.invite_body import description_in
from imskit.sip.engine.invite_client import ClientInvite, Outcome
from imskit.sip.engine.invite_offer_answer import Carrier, OfferState
from imskit.sip.engine.user_agent_core import Outgoing, Reply, merge
from imskit.sip.engine.user_agent_events import (
    AnswerReceived,
    Cause,
    Fields,
    Modify,
    OfferFailed,
    Refreshed,
    Refusal,
)
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Request, Response

if TYPE_CHECKING:
    from imskit.sip.engine.invite_session import Session

_log = logging.getLogger(__name__)

TRIES = 5
"""How often one modification is sent, glare and 422 included."""
_LONGEST_WAIT = 60
"""Seconds of Retry-After that are waited for."""
_LEAST_LEFT = 10
"""Seconds before the end of a session below which it is not refreshed again."""


@dataclass(slots=True, eq=False)
class _Modification:
    sdp: bytes | None
    method: str
    headers: Fields
    session_version: int
    """How many exchanges were complete when it was asked for."""
    own: bool = False
    """It refreshes the session timer: the owner did not ask for it."""
    tries: int = 0


class Modifier:
    """The client side of one dialog, but for the INVITE that made it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._current: _Modification | None = None
        self._sent: Outgoing | None = None
        self._retry: Alarm | None = None

    @property
    def updating(self) -> bool:
        """True while an UPDATE with an offer of ours is not answered."""
        current = self._current
        return current is not None and self._retry is None and current.method == "UPDATE" and current.sdp is not None

    # ---- start --------------------------------------------------------------------------------------------------

    def modify(self, command: Modify) -> Refusal | None:
        """Carry out the owner's command."""
        modification = _Modification(command.sdp, command.method, command.headers, self._session.offers.completed)
        refusal = self._refusal(modification)
        if refusal is None:
            self._send(modification)
        return refusal

    def refresh(self) -> None:
        """Refresh the session timer, by UPDATE if the peer takes it (RFC 4028 section 7.4)."""
        session = self._session
        methods = session.peer_methods
        if methods is not None and "UPDATE" in methods:
            modification = _Modification(None, "UPDATE", (), session.offers.completed, own=True)
        else:
            modification = _Modification(session.offers.local, "INVITE", (), session.offers.completed, own=True)
        if self._refusal(modification) is None:
            self._send(modification)
        else:
            # Something is under way; it refreshes too if it is an UPDATE or re-INVITE of ours.
            session.core.alarm(1 + session.core.random(3000) / 1000, self._refresh_if_due)

    def _refresh_if_due(self) -> None:
        session = self._session
        at = session.timer.refresh_at
        if not session.ended and at is not None and at <= session.core.now:
            self.refresh()

    def _refusal(self, modification: _Modification) -> Refusal | None:
        session = self._session
        client, server, offers = session.client, session.server, session.offers
        methods = session.peer_methods
        if modification.method not in ("UPDATE", "INVITE"):
            return Refusal.INVALID
        if methods is not None and modification.method not in methods and modification.method == "UPDATE":
            return Refusal.UNSUPPORTED
        if modification.method == "INVITE" and not session.dialog.confirmed:
            return Refusal.STATE
        if self._current is not None or session.responder.updating:
            return Refusal.PENDING  # UAC-UU, UAC-UI
        if modification.method == "INVITE":
            incomplete = (client is not None and not client.complete) or (server is not None and not server.complete)
            return Refusal.PENDING if incomplete or not offers.stable else None  # UAC-II
        if modification.sdp is None:
            return None
        if offers.state is OfferState.NONE:
            return Refusal.STATE
        # UAC-IU; a PRACK of ours that is under way is waited for by the queue.
        due = session.responder.offer_due or (server is not None and server.unconfirmed_sdp)
        if not offers.stable or due:
            return Refusal.PENDING
        return None

    def _send(self, modification: _Modification) -> None:
        self._current = modification
        self._retry = None
        modification.tries += 1
        session = self._session
        if modification.sdp is not None:
            carrier = Carrier.UPDATE if modification.method == "UPDATE" else Carrier.INVITE
            session.offers.send_offer(modification.sdp, carrier)
        if modification.method == "UPDATE":
            self._sent = Outgoing(self._build, self._update_answered, session.hop, session.call)
            session.enqueue(self._sent)
            return
        self._sent = Outgoing(self._build_invite, self._invite_answered, session.hop, session.call)
        try:
            session.core.send(self._sent)
        except SipParseError as error:
            _log.warning("a re-INVITE of call %s cannot be written: %s", session.call, error)
            self._fail(Cause.PROTOCOL, None)

    def _build(self, credentials: Fields) -> Request:
        session, current = self._session, self._current
        assert current is not None
        fields = merge(current.headers, credentials)
        if session.dialog.confirmed:
            fields = merge(fields, session.timer.request_fields())
        return session.request(current.method, fields, current.sdp)

    def _build_invite(self, credentials: Fields) -> Request:
        request = self._build(credentials)
        self._session.client = ClientInvite(self._session, request)
        return request

    # ---- outcome ------------------------------------------------------------------------------------------------

    def _update_answered(self, reply: Reply) -> None:
        session, current = self._session, self._current
        if session.ended or current is None:
            return
        if not isinstance(reply, Response) or not reply.success:
            self._refused(reply)
            return
        self._accepted(reply)
        sdp = description_in(reply)
        if current.sdp is None:
            self._current = None
            if not current.own:
                session.emit(Refreshed(session.call, session.dialog.id, reply))
        elif sdp is not None:
            self._current = None
            session.offers.receive_answer(sdp)
            session.emit(AnswerReceived(session.call, session.dialog.id, sdp, Carrier.UPDATE, reply))
        else:
            self._fail(Cause.PROTOCOL, reply)

    def _invite_answered(self, reply: Reply) -> None:
        session = self._session
        client = session.client
        if client is None:
            return
        if isinstance(reply, Response) and reply.provisional:
            if reply.status > 100 and not session.ended:
                client.provisional(reply, progress=False)
            return
        if isinstance(reply, Response) and reply.success:
            if client.finished:
                client.repeat_ack()
            elif session.ended:
                client.finished = True
                client.force_ack()
            else:
                self._accepted(reply)
                self._succeeded(client, reply)
            return
        client.failed()
        if not session.ended:
            self._refused(reply)

    def _succeeded(self, client: ClientInvite, response: Response) -> None:
        outcome = client.success(response)
        if outcome is Outcome.BROKEN:
            self._fail(Cause.PROTOCOL, response)
        else:
            self._current = None

    def _accepted(self, response: Response) -> None:
        session = self._session
        session.dialog.refresh_target(response)
        session.learn(response)
        if session.dialog.confirmed:
            session.accepted(response)

    def _refused(self, reply: Reply) -> None:
        """Take a failure: retry, or give up and go on with the session as it was."""
        session, current = self._session, self._current
        if current is None:
            return
        self._drop_offer(current)
        delay = self._delay(reply)
        if delay is not None and current.tries < TRIES:
            self._retry = session.core.alarm(delay, self._again)
            return
        cause = session.cause_of(reply)
        glare = isinstance(reply, Response) and reply.status == 491
        self._fail(Cause.GLARE if glare else cause, reply if isinstance(reply, Response) else None)
        session.check_lost(reply)

    def _delay(self, reply: Reply) -> float | None:
        """Return when to send again, seconds; ``None``: not at all."""
        session = self._session
        if not isinstance(reply, Response):
            return None
        if reply.status == 491:
            # RFC 3261 section 14.1, in units of 10 ms.
            if session.dialog.caller:
                return (210 + session.core.random(191)) / 100
            return session.core.random(201) / 100
        if reply.status == 422 and session.timer.too_small(reply):
            return 0.0
        if reply.status == 500 and (after := reply.retry_after) is not None:
            return float(after.seconds) if after.seconds <= _LONGEST_WAIT else None
        return None

    def _again(self) -> None:
        current, self._current = self._current, None
        self._retry = None
        if current is None:
            return
        session = self._session
        if current.sdp is not None and current.session_version != session.offers.completed:
            # The peer changed the session in the meantime: the offer is outdated.
            self._current = current
            self._fail(Cause.GLARE, None)
            return
        refusal = self._refusal(current)
        if refusal is None:
            self._send(current)
            return
        self._current = current
        if refusal is Refusal.PENDING and current.tries < TRIES:
            current.tries += 1
            self._retry = session.core.alarm((210 + session.core.random(191)) / 100, self._again)
        else:
            self._fail(Cause.GLARE, None)

    def _fail(self, cause: Cause, response: Response | None) -> None:
        session, current = self._session, self._current
        self._current = None
        if current is None:
            return
        self._drop_offer(current)
        if current.own:
            self._refresh_again()
        else:
            session.emit(OfferFailed(session.call, session.dialog.id, cause, response))

    def _refresh_again(self) -> None:
        # RFC 4028 section 10: not continuously; each time half of what is left goes by first.
        session = self._session
        left = (session.timer.expires_at or 0.0) - session.core.now
        if left > _LEAST_LEFT and not session.ended:
            session.core.alarm(left / 2, self._refresh_if_due)

    def _drop_offer(self, current: _Modification) -> None:
        # Not the peer's offer, nor one that was answered in a reliable provisional response.
        offers = self._session.offers
        if current.sdp is not None and offers.state is OfferState.LOCAL_OFFER and offers.pending is current.sdp:
            offers.abandon()

    def stop(self) -> None:
        """The dialog ends."""
        self._current = None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._sent is not None:
            self._session.core.withdraw(self._sent)
