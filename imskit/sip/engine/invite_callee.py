"""An incoming call: one INVITE and the owner's responses to it (RFC 3261 section 13.3, RFC 3262 section 3)."""

from __future__ import annotations

import logging

from imskit.sip.engine.alarms import Alarm
from imskit.sip.engine.dialog import Dialog, DialogId
from imskit.sip.engine.invite_answering import Answering
from imskit.sip.engine.invite_body import SDP, session_description
from imskit.sip.engine.invite_offer_answer import Carrier, OfferState
from imskit.sip.engine.invite_session import Session
from imskit.sip.engine.layer import CancelReceived
from imskit.sip.engine.session_timer import SessionTimer
from imskit.sip.engine.user_agent_core import Core, merge
from imskit.sip.engine.user_agent_events import (
    Answer,
    Cause,
    Confirmed,
    Ended,
    Fields,
    Hangup,
    Hop,
    IncomingCall,
    Provisional,
    Refusal,
    Reject,
)
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.message import Message, Request

_log = logging.getLogger(__name__)


class CalleeCall:
    """See the module's text."""

    def __init__(self, core: Core, call: str, key: str, request: Request, flow: Flow) -> None:
        """Raises `SipParseError` if ``request`` can make no dialog."""
        self.key = call
        self._core = core
        self._request = request
        self._over = False
        tag = core.tokens(16)
        self._sdp = session_description(request)
        dialog = Dialog.from_request(request, tag)
        timer = SessionTimer(core.profile.session_timer)
        timer.requested(request)
        # Without a fixed hop the dialog stays on a connection; over UDP its route set says where to send to.
        hop: Hop | None = flow if core.profile.hop is None and flow.reliable else None
        self._session = Session(core, call, self, dialog, timer=timer, contact=core.profile.contact, hop=hop)
        self._session.learn(request)
        self._answering = Answering(core, key, request, no_prack=self._no_prack, no_ack=self._session.no_ack)
        self._session.server = self._answering
        if self._sdp is not None:
            self._session.offers.receive_offer(self._sdp, Carrier.INVITE)
        core.invites[key] = self
        self._patience: list[Alarm] = []
        if core.profile.no_answer is not None:
            self._patience.append(core.alarm(core.profile.no_answer, self._no_answer))
        if (expires := request.expires) is not None and expires < 86400:
            # Section 13.3.1: an invitation that expires is answered 487.
            self._patience.append(core.alarm(float(expires), lambda: self._refuse(487, Cause.NO_ANSWER)))

    def announce(self, flow: Flow) -> None:
        """Tell the owner."""
        self._core.emit(IncomingCall(self.key, self._session.dialog.id, self._request, self._sdp, flow))

    # ---- the owner's commands -----------------------------------------------------------------------------------

    def provisional(self, command: Provisional) -> Refusal | None:
        """Send a provisional response."""
        answering, session = self._answering, self._session
        if not 101 <= command.status <= 199:
            return Refusal.INVALID
        if answering.final is not None or answering.accepting:
            return Refusal.STATE
        reliable = command.reliable
        if reliable is None:
            wanted = command.sdp is not None and "100rel" in self._core.profile.supported
            reliable = answering.reliable_only or (answering.reliable and wanted)
        if reliable and not answering.reliable:
            return Refusal.UNSUPPORTED
        if answering.reliable_only and not reliable:
            return Refusal.STATE
        offers = session.offers
        if command.sdp is None:
            if reliable and offers.state is OfferState.NONE:
                return Refusal.NEEDS_SDP  # RFC 3262 section 5: the first reliable message makes the offer.
        elif offers.state is OfferState.REMOTE_OFFER and offers.carrier is Carrier.INVITE:
            pass
        elif offers.state is not OfferState.NONE or not reliable:
            return Refusal.NO_SDP
        response = self._core.build_response(
            self._request,
            command.status,
            command.reason,
            command.headers,
            command.sdp or b"",
            SDP if command.sdp is not None else "",
            to_tag=session.dialog.id.local_tag,
            contact=session.contact,
        )
        if command.sdp is not None:
            if offers.state is OfferState.NONE:
                offers.send_offer(command.sdp, Carrier.PROVISIONAL)
            elif reliable:
                offers.send_answer(command.sdp)
            else:
                offers.preview = command.sdp
        answering.provisional(response, reliable=reliable, sdp=command.sdp is not None)
        return None

    def answer(self, command: Answer) -> Refusal | None:
        """Send the 200."""
        answering, session = self._answering, self._session
        if answering.final is not None or answering.accepting:
            return Refusal.STATE
        offers = session.offers
        sdp: bytes | None = None
        if offers.state is OfferState.NONE or (
            offers.state is OfferState.REMOTE_OFFER and offers.carrier is Carrier.INVITE
        ):
            # RFC 6337 section 3.1.1: what was previewed is the answer.
            sdp = offers.preview if offers.preview is not None else command.sdp
            if sdp is None:
                return Refusal.NEEDS_SDP
        if command.contact is not None:
            session.contact = command.contact
        timer = session.timer.answer(self._request, self._core.now)
        response = self._core.build_response(
            self._request,
            200,
            None,
            merge(command.headers, timer),
            sdp or b"",
            SDP if sdp is not None else "",
            to_tag=session.dialog.id.local_tag,
            contact=session.contact,
        )
        if sdp is not None:
            if offers.state is OfferState.NONE:
                offers.send_offer(sdp, Carrier.SUCCESS)
            else:
                offers.send_answer(sdp)
        self._stop_patience()
        session.dialog.confirmed = True
        answering.accept(response, sdp=sdp is not None, offer=offers.state is OfferState.LOCAL_OFFER)
        session.watch()
        return None

    def reject(self, command: Reject) -> Refusal | None:
        """Send a 3xx..6xx."""
        if not 300 <= command.status <= 699:
            return Refusal.INVALID
        if self._answering.final is not None:
            return Refusal.STATE
        response = self._core.build_response(
            self._request,
            command.status,
            command.reason,
            command.headers,
            command.body,
            command.content_type,
            to_tag=self._session.dialog.id.local_tag,
        )
        self._answering.refuse(response)
        self._end(Cause.LOCAL, None)
        return None

    def hang_up(self, command: Hangup) -> Refusal | None:
        """End the call."""
        if command.dialog is not None and command.dialog != self._session.dialog.id:
            return Refusal.UNKNOWN
        if self._answering.final is None:
            self._refuse(480, Cause.LOCAL, command.headers)
        else:
            self._session.hang_up(command.headers)
            self._end(Cause.LOCAL, None)
        return None

    def session(self, dialog: DialogId | None) -> Session | None:
        """Return the dialog, if it is the one meant."""
        return self._session if dialog is None or dialog == self._session.dialog.id else None

    def reroute(self, hop: Hop) -> None:
        """Use another hop from now on."""
        self._session.hop = hop

    # ---- what happens to the INVITE -----------------------------------------------------------------------------

    def cancelled(self, event: CancelReceived) -> None:
        """The caller gave up (section 9.2)."""
        if self._answering.final is None:
            self._refuse(487, Cause.REMOTE, message=event.request)

    def _no_prack(self) -> None:
        self._refuse(504, Cause.NO_PRACK)

    def _no_answer(self) -> None:
        self._refuse(480, Cause.NO_ANSWER)

    def _refuse(self, status: int, cause: Cause, headers: Fields = (), message: Message | None = None) -> None:
        if self._over or self._answering.final is not None:
            return
        tag = self._session.dialog.id.local_tag
        self._answering.refuse(self._core.build_response(self._request, status, None, headers, to_tag=tag))
        self._end(cause, message)

    # ---- what the dialog reports --------------------------------------------------------------------------------

    def over(self, session: Session, cause: Cause, message: Message | None) -> None:
        """The dialog has ended: a BYE before the answer leaves the INVITE to be answered 487 (section 15.1.2)."""
        self._refuse(487 if cause is Cause.REMOTE else 500, cause, message=message)
        self._end(cause, message)

    def give_up(self, session: Session, cause: Cause, headers: Fields) -> None:
        """The dialog cannot go on."""
        if self._answering.final is None:
            self._refuse(500, cause, headers)
        else:
            session.hang_up(headers)
            self._end(cause, None)

    def confirmed(self, session: Session, request: Request) -> None:
        """The ACK came."""
        self._core.emit(Confirmed(self.key, session.dialog.id, request))

    def _stop_patience(self) -> None:
        for alarm in self._patience:
            alarm.cancel()
        self._patience.clear()

    def _end(self, cause: Cause, message: Message | None) -> None:
        if self._over:
            return
        self._over = True
        self._stop_patience()
        if not self._session.ended:
            self._session.finish()
        self._core.calls.pop(self.key, None)
        self._core.emit(Ended(self.key, cause, message))
