"""Our INVITE or re-INVITE as one dialog sees it: reliable provisional responses, PRACK, the 2xx and its ACK.

RFC 3262 section 4, RFC 3261 section 13.2.2.  A forked INVITE has one `ClientInvite` for each early dialog.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from imskit.sip.engine.invite_body import SDP, description_in, session_description
from imskit.sip.engine.invite_offer_answer import Carrier, OfferState
from imskit.sip.engine.user_agent_core import Ack, Exchange, Outgoing, Reply
from imskit.sip.engine.user_agent_events import (
    AnswerReceived,
    Cause,
    Fields,
    OfferFailed,
    OfferReceived,
    PrackDue,
    Progress,
    Refusal,
    RejectOffer,
)
from imskit.sip.wire.message import Request, Response

if TYPE_CHECKING:
    from imskit.sip.engine.invite_session import Session


class Outcome(Enum):
    """What became of a 2xx."""

    ACKNOWLEDGED = auto()
    AWAITS_ANSWER = auto()
    """It carries an offer: the ACK waits for the owner."""
    BROKEN = auto()
    """An offer or answer is missing; it is ACKed."""


class ClientInvite:
    """See the module's text."""

    def __init__(self, session: Session, invite: Request, *, manual_prack: bool = False) -> None:
        self.offered = session_description(invite) is not None
        self.finished = False
        """A final response came."""
        self._session = session
        self._sequence = invite.cseq.number
        self._reliable = "100rel" in invite.supported or "100rel" in invite.require
        self._credentials = tuple(
            (name, value) for name in ("Authorization", "Proxy-Authorization") for value in invite.headers.get_all(name)
        )
        self._manual = manual_prack
        self._rseq: int | None = None
        self._exchanged = self.offered
        self._open_pracks = 0
        self._ack: Ack | None = None
        self._failed = False
        self._exchanges: list[Exchange] = []
        """The PRACKs and the ACK that wait for the owner."""

    @property
    def complete(self) -> bool:
        """True after a final response and, if that was 2xx, our ACK."""
        return self._failed or self._ack is not None

    @property
    def offer_due(self) -> bool:
        """True while the offer that our INVITE wants of the peer has not come."""
        return not self._exchanged and not self._failed

    @property
    def prack_open(self) -> bool:
        """True while a PRACK that concerns an offer or answer is not answered (RFC 6337 section 4.3, UAC-IU)."""
        return self._open_pracks > 0

    # ---- provisional ------------------------------------------------------------------------------------------

    def provisional(self, response: Response, *, progress: bool) -> None:
        """Take a 101..199 response in this dialog; with ``progress`` tell the owner."""
        session = self._session
        rseq = response.rseq
        reliable = self._reliable and rseq is not None and "100rel" in response.require
        if reliable and rseq is not None:
            if self._rseq is not None and rseq != self._rseq + 1:
                return  # A retransmission, or one that came too early and will come again.
            self._rseq = rseq
            session.dialog.refresh_target(response)
        sdp = description_in(response)
        offer = None if sdp is None else self._provisional_sdp(response, sdp, reliable)
        concerns_sdp = sdp is not None and reliable
        if progress:
            session.emit(Progress(session.call, session.dialog.id, response, reliable))
        if not reliable or rseq is None:
            return
        if concerns_sdp:
            self._open_pracks += 1
        if offer is not None:
            offer.answer = lambda sdp, headers: self._answer_provisional(rseq, sdp, headers)
        elif self._manual:
            self._ask_for_prack(response, rseq, concerns_sdp)
        else:
            self._send_prack(rseq, None, (), concerns_sdp)

    def _provisional_sdp(self, response: Response, sdp: bytes, reliable: bool) -> Exchange | None:
        """Process an SDP; return the exchange if it is an offer."""
        session = self._session
        offers = session.offers
        if self.offered:
            if offers.state is not OfferState.LOCAL_OFFER or offers.carrier is not Carrier.INVITE:
                return None  # RFC 6337 section 3.1.1: the exchange is complete, the SDP is ignored.
            if reliable:
                offers.receive_answer(sdp)
            elif offers.preview is None:
                offers.preview = sdp
            else:
                return None
            session.emit(
                AnswerReceived(session.call, session.dialog.id, sdp, Carrier.PROVISIONAL, response, not reliable)
            )
            return None
        if not reliable or self._exchanged:
            return None
        self._exchanged = True
        offers.receive_offer(sdp, Carrier.PROVISIONAL)
        exchange = Exchange(reject=self._refuse_offer)
        self._keep(exchange)
        session.ask(exchange)
        session.emit(OfferReceived(session.call, session.dialog.id, exchange.id, sdp, Carrier.PROVISIONAL, response))
        return exchange

    def _answer_provisional(self, rseq: int, sdp: bytes, headers: Fields) -> None:
        self._session.offers.send_answer(sdp)
        self._send_prack(rseq, sdp, headers, True)

    def _refuse_offer(self, command: RejectOffer) -> None:
        """RFC 6337 section 2.3: an offer in a response cannot be refused; the dialog ends."""
        self._session.offers.abandon()
        if self.finished:
            self._send_ack(None, ())
        self._session.give_up(Cause.LOCAL, command.headers)

    def _ask_for_prack(self, response: Response, rseq: int, concerns_sdp: bool) -> None:
        session = self._session

        def send(sdp: bytes | None, headers: Fields) -> Refusal | None:
            if sdp is not None:
                # RFC 6337 section 3.2: only where the response carried the answer.
                if not concerns_sdp or not session.offers.stable:
                    return Refusal.NO_SDP
                session.offers.send_offer(sdp, Carrier.PRACK)
            self._send_prack(rseq, sdp, headers, concerns_sdp or sdp is not None, offers=sdp is not None)
            return None

        exchange = Exchange(prack=send)
        self._keep(exchange)
        session.ask(exchange)
        session.emit(PrackDue(session.call, session.dialog.id, exchange.id, response))

    def _send_prack(
        self, rseq: int, sdp: bytes | None, headers: Fields, concerns_sdp: bool, *, offers: bool = False
    ) -> None:
        session = self._session

        def build(credentials: Fields) -> Request:
            request = session.request("PRACK", (*headers, *credentials), sdp)
            request.headers.add("RAck", f"{rseq} {self._sequence} INVITE")
            return request

        def reply(reply: Reply) -> None:
            if concerns_sdp:
                self._open_pracks -= 1
            self._prack_answered(reply, offers)

        session.enqueue(Outgoing(build, reply, session.hop, session.call), first=True)

    def _prack_answered(self, reply: Reply, offered: bool) -> None:
        session = self._session
        success = isinstance(reply, Response) and reply.success
        if offered and session.offers.carrier is Carrier.PRACK:
            sdp = description_in(reply) if isinstance(reply, Response) and reply.success else None
            if sdp is not None and isinstance(reply, Response):
                session.offers.receive_answer(sdp)
                session.emit(AnswerReceived(session.call, session.dialog.id, sdp, Carrier.PRACK, reply))
            else:
                session.offers.abandon()
                response = reply if isinstance(reply, Response) else None
                cause = Cause.PROTOCOL if success else session.cause_of(reply)
                session.emit(OfferFailed(session.call, session.dialog.id, cause, response))
        if not success:
            session.check_lost(reply)

    # ---- final ------------------------------------------------------------------------------------------------

    def success(self, response: Response) -> Outcome:
        """Take the first 2xx in this dialog; the dialog's target has been refreshed."""
        session = self._session
        offers = session.offers
        sdp = description_in(response)
        self.finished = True
        self.drop_exchanges()
        if self.offered:
            if offers.state is OfferState.LOCAL_OFFER and offers.carrier is Carrier.INVITE:
                answer = sdp if sdp is not None else offers.preview
                if answer is None:
                    self._send_ack(None, ())
                    return Outcome.BROKEN
                offers.receive_answer(answer)
                session.emit(AnswerReceived(session.call, session.dialog.id, answer, Carrier.SUCCESS, response))
        elif not self._exchanged:
            if sdp is None:
                self._send_ack(None, ())
                return Outcome.BROKEN
            self._exchanged = True
            self._offer_in_success(response, sdp)
            return Outcome.AWAITS_ANSWER
        elif offers.state is OfferState.REMOTE_OFFER and offers.carrier is Carrier.PROVISIONAL:
            # Our answer, due in the PRACK, was never given; the peer should not have gone on.
            self._send_ack(None, ())
            return Outcome.BROKEN
        self._send_ack(None, ())
        return Outcome.ACKNOWLEDGED

    def _offer_in_success(self, response: Response, sdp: bytes) -> None:
        session = self._session
        session.offers.receive_offer(sdp, Carrier.SUCCESS)

        def answer(sdp: bytes, headers: Fields) -> None:
            session.offers.send_answer(sdp)
            self._send_ack(sdp, headers)

        def expire() -> None:
            self._refuse_offer(RejectOffer(exchange.id))

        exchange = Exchange(answer=answer, reject=self._refuse_offer)
        self._keep(exchange)
        # The peer gives up after 64*T1 without ACK.
        session.ask(exchange, session.core.timers.timeout, expire)
        session.emit(OfferReceived(session.call, session.dialog.id, exchange.id, sdp, Carrier.SUCCESS, response))

    def failed(self) -> None:
        """Take the final failure of the INVITE in this dialog: nothing more comes or is due."""
        self.finished = self._failed = True
        self.drop_exchanges()

    def _send_ack(self, sdp: bytes | None, headers: Fields) -> None:
        session = self._session
        ack = session.dialog.request("ACK", sequence=self._sequence)
        session.core.dress(ack, "ACK", (*headers, *self._credentials))
        if sdp is not None:
            ack.set_body(sdp, SDP)
        self._ack = Ack(ack, session.hop, "z9hG4bK" + session.core.tokens(20))
        session.core.send_ack(self._ack)

    def repeat_ack(self) -> None:
        """The 2xx came again; not yet, if the ACK waits for the owner's answer."""
        if self._ack is not None:
            self._session.core.send_ack(self._ack)

    def force_ack(self) -> None:
        """Send the ACK without the answer that is due, to end the dialog with BYE."""
        if self._ack is None:
            self._send_ack(None, ())

    # ---- the owner's part -------------------------------------------------------------------------------------

    def _keep(self, exchange: Exchange) -> None:
        self._exchanges.append(exchange)

    def drop_exchanges(self) -> None:
        """Withdraw what the owner was asked."""
        for exchange in self._exchanges:
            self._session.withdraw(exchange)
        self._exchanges.clear()
