"""What the peer sends to modify a session: PRACK, UPDATE and re-INVITE, with glare (RFC 6337 section 4.3).

RFC 3262 section 3, RFC 3311 section 5.2, RFC 3261 section 14.2, RFC 4028 section 9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imskit.sip.engine.invite_answering import Answering
from imskit.sip.engine.invite_body import SDP, session_description
from imskit.sip.engine.invite_offer_answer import Carrier, OfferState
from imskit.sip.engine.layer import CancelReceived
from imskit.sip.engine.user_agent_core import Exchange, merge
from imskit.sip.engine.user_agent_events import (
    AnswerReceived,
    Fields,
    OfferReceived,
    OfferRequested,
    PrackReceived,
    Refreshed,
    RejectOffer,
)
from imskit.sip.wire.message import Request

if TYPE_CHECKING:
    from imskit.sip.engine.invite_session import Session


class Responder:
    """The server side of one dialog, but for the INVITE that made it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._open: dict[str, tuple[Request, Exchange]] = {}
        """PRACK and UPDATE that wait for the owner, by server transaction."""
        self._reinvite: Exchange | None = None
        self.offer_due = False
        """True while a re-INVITE waits for the offer that it wants of us."""

    @property
    def updating(self) -> bool:
        """True while an UPDATE waits for the owner."""
        return any(request.method == "UPDATE" for request, _ in self._open.values())

    # ---- PRACK --------------------------------------------------------------------------------------------------

    def prack(self, key: str, request: Request) -> None:
        """Take a PRACK."""
        session = self._session
        core, offers, server = session.core, session.offers, session.server
        rack = request.rack
        if rack is None:
            core.reply_to(key, request, 400, "Missing RAck")
            return
        provisional = server.matches(rack) if server is not None else None
        if server is None or provisional is None:
            core.reply_to(key, request, 481)
            return
        sdp = session_description(request)
        answers = offers.state is OfferState.LOCAL_OFFER and offers.carrier is Carrier.PROVISIONAL
        if answers != (sdp is not None) and (answers or not offers.stable):
            # RFC 3262 section 5: the answer is missing, or an offer is where none may be.
            core.reply_to(key, request, 400, "Answer Missing" if answers else "Offer Not Allowed")
            return
        session.emit(PrackReceived(session.call, session.dialog.id, provisional.status, request))
        if sdp is None or answers:
            core.reply_to(key, request, 200)
            if sdp is not None:
                offers.receive_answer(sdp)
                session.emit(AnswerReceived(session.call, session.dialog.id, sdp, Carrier.PRACK, request))
            server.acknowledge()
            return
        server.hold()
        server.acknowledge()
        self._ask(key, request, sdp, Carrier.PRACK, server)

    # ---- UPDATE -------------------------------------------------------------------------------------------------

    def update(self, key: str, request: Request) -> None:
        """Take an UPDATE."""
        session = self._session
        core = session.core
        if self._too_small(key, request):
            return
        sdp = session_description(request)
        status = self._glare_of_update(offer=sdp is not None)
        if status is not None:
            core.reply_to(key, request, status, headers=core.retry_later() if status == 500 else ())
            return
        session.learn(request)
        session.timer.requested(request)
        if sdp is not None:
            self._ask(key, request, sdp, Carrier.UPDATE)
            return
        session.dialog.refresh_target(request)
        core.respond(key, session.answer(request, self._timer_fields(request)))
        session.watch()
        session.emit(Refreshed(session.call, session.dialog.id, request))

    def _ask(self, key: str, request: Request, sdp: bytes, carrier: Carrier, held: Answering | None = None) -> None:
        """Ask the owner to answer an offer in PRACK or UPDATE."""
        session = self._session
        core, offers = session.core, session.offers
        offers.receive_offer(sdp, carrier)

        def answer(sdp: bytes, headers: Fields) -> None:
            fields = headers
            if carrier is Carrier.UPDATE:
                fields = merge(headers, self._timer_fields(request))
                session.dialog.refresh_target(request)
                response = session.answer(request, fields, sdp)
            else:
                response = core.build_response(request, 200, None, fields, sdp, SDP)
            self._open.pop(key, None)
            offers.send_answer(sdp)
            core.respond(key, response)
            session.watch()
            if held is not None:
                held.release()

        def reject(command: RejectOffer) -> None:
            self._open.pop(key, None)
            offers.abandon()
            core.reply_to(
                key,
                request,
                command.status,
                command.reason,
                command.headers,
                command.body,
                command.content_type,
            )
            if held is not None:
                held.release()

        def expire() -> None:
            # RFC 3311 section 5.2: what needs the user cannot be answered in time.
            reject(RejectOffer(exchange.id, 504))

        exchange = Exchange(answer=answer, reject=reject)
        self._open[key] = (request, exchange)
        session.ask(exchange, core.patience, expire)
        session.emit(OfferReceived(session.call, session.dialog.id, exchange.id, sdp, carrier, request))

    def _glare_of_update(self, *, offer: bool) -> int | None:
        session = self._session
        offers, client, server = session.offers, session.client, session.server
        if self.updating:
            return 500  # UAS-UsU, RFC 3311 section 5.2: with or without an offer
        if not offer:
            return None
        if session.modifier.updating:
            return 491  # UAS-UcU
        if client is not None and not client.complete and (client.prack_open or client.offer_due):
            return 491  # UAS-IcU
        if self.offer_due or (server is not None and server.owes_answer):
            return 500  # UAS-IsU
        if offers.state is OfferState.LOCAL_OFFER:
            return 491
        # An offer that we owe an answer to; or the first exchange, which is the INVITE's, has not begun.
        return None if offers.stable else 500

    # ---- re-INVITE ----------------------------------------------------------------------------------------------

    def reinvite(self, key: str, request: Request) -> None:
        """Take a re-INVITE."""
        session = self._session
        core, offers = session.core, session.offers
        status = self._glare_of_invite()
        if status is not None:
            core.reply_to(key, request, status, headers=core.retry_later() if status == 500 else ())
            return
        if self._too_small(key, request):
            return
        session.learn(request)
        session.timer.requested(request)
        sdp = session_description(request)
        session.confirm_without_ack(request)
        server = Answering(core, key, request, no_prack=lambda: None, no_ack=session.no_ack)
        session.server = server
        core.invites[key] = self
        self.offer_due = sdp is None
        if sdp is not None:
            offers.receive_offer(sdp, Carrier.INVITE)

        def answer(own: bytes, headers: Fields) -> None:
            fields = merge(headers, self._timer_fields(request))
            response = session.answer(request, fields, own)
            self._reinvite, self.offer_due = None, False
            if sdp is not None:
                offers.send_answer(own)
            else:
                offers.send_offer(own, Carrier.SUCCESS)
            session.dialog.refresh_target(request)
            server.accept(response, sdp=True, offer=sdp is None)
            session.watch()

        def reject(command: RejectOffer) -> None:
            response = core.build_response(
                request, command.status, command.reason, command.headers, command.body, command.content_type
            )
            self._end_reinvite()
            server.refuse(response)

        def expire() -> None:
            reject(RejectOffer(exchange.id, 504))

        self._reinvite = exchange = Exchange(answer=answer, reject=reject)
        session.ask(exchange, core.profile.no_answer, expire)
        if sdp is not None:
            session.emit(OfferReceived(session.call, session.dialog.id, exchange.id, sdp, Carrier.INVITE, request))
        else:
            session.emit(OfferRequested(session.call, session.dialog.id, exchange.id, request))

    def _glare_of_invite(self) -> int | None:
        session = self._session
        offers, client, server = session.offers, session.client, session.server
        if client is not None and not client.complete:
            return 491  # UAS-IcI
        if server is not None and (server.final is None or server.owes_answer):
            return 500  # UAS-IsI
        if session.modifier.updating:
            return 491  # UAS-UcI
        if self.updating:
            return 500  # UAS-UsI
        if offers.state is OfferState.LOCAL_OFFER:
            return 491
        return None if offers.stable else 500

    def cancelled(self, event: CancelReceived) -> None:
        """Take the CANCEL of a re-INVITE: the session stays as it was."""
        session = self._session
        server = session.server
        if server is not None and server.key == event.key:
            self._end_reinvite()
            server.refuse(session.core.build_response(server.request, 487))

    def _end_reinvite(self) -> None:
        session = self._session
        if self._reinvite is None:
            return
        exchange, self._reinvite, self.offer_due = self._reinvite, None, False
        if session.offers.carrier is Carrier.INVITE and session.offers.state is OfferState.REMOTE_OFFER:
            session.offers.abandon()
        session.withdraw(exchange)

    # ---- both ---------------------------------------------------------------------------------------------------

    def _too_small(self, key: str, request: Request) -> bool:
        least = self._session.timer.refusal(request)
        if least is not None:
            self._session.core.reply_to(key, request, 422, headers=(("Min-SE", str(least)),))
        return least is not None

    def _timer_fields(self, request: Request) -> Fields:
        session = self._session
        # Section 9: an UPDATE before the INVITE's 2xx is no refresh of a session that does not stand yet.
        return tuple(session.timer.answer(request, session.core.now)) if session.dialog.confirmed else ()

    def stop(self) -> None:
        """The dialog ends: what waits is answered 487 (RFC 3261 section 15.1.2)."""
        core = self._session.core
        for key, (request, exchange) in list(self._open.items()):
            self._session.withdraw(exchange)
            core.reply_to(key, request, 487)
        self._open.clear()
        server = self._session.server
        if self._reinvite is not None and server is not None:
            self._end_reinvite()
            server.refuse(core.build_response(server.request, 487))
