"""Requests that pass the IMS-ALG: which descriptions in them are offers, which are answers, which are neither."""

from __future__ import annotations

import logging
from dataclasses import replace

from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sip.engine.events import Key
from imskit.sip.engine.proxy_events import Forward, Respond
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Request
from network_edge.ep_cscf.engine import option_tags, refusals
from network_edge.ep_cscf.engine.alg_state import AlgState
from network_edge.ep_cscf.engine.call import Call, CallKey, Carried, Dialog, Exchange, Job, other
from network_edge.ep_cscf.engine.early_answers import acknowledge_here
from network_edge.ep_cscf.engine.effects import CallStepKind, MediaFailed, Side
from network_edge.ep_cscf.engine.refusals import refusal
from network_edge.ep_cscf.engine.session_body import SessionBody, remove_body
from network_edge.ep_cscf.engine.trickle import is_trickle, read_info
from network_edge.iq.gateway import OfferRequest

_log = logging.getLogger(__name__)

_WITH_SESSION = frozenset({"INVITE", "UPDATE", "PRACK", "OPTIONS", "ACK", "BYE"})
"""Methods that are looked at; the others pass."""


class RequestSide:
    """The half of the IMS-ALG that takes requests."""

    def __init__(self, state: AlgState) -> None:
        self._state = state

    def take(self, forward: Forward, request: Request, side: Side, party: str, now: float) -> Forward | Respond | None:
        """Take a request that is about to be forwarded; ``side`` is where it came from.

        None: the gateway is asked first.  For an ACK `Respond` means that it is not forwarded.
        """
        key = forward.context
        request = request.copy()
        try:
            refused = option_tags.refuse_required(request) if request.method != "ACK" else None
            if refused is not None:
                return Respond(key, refused)
            option_tags.edit(request, other(side))
            if request.method == "INFO" and is_trickle(request):
                return self._trickle(key, request, side, party)
            if side is Side.IMS and request.method == "INVITE":
                option_tags.offer_trickle(request)
            if request.method not in _WITH_SESSION:
                return replace(forward, request=request)
            call, dialog = self._state.calls.find(request, side, party)
            return self._route(forward, Carried(key, request, side, call, dialog=dialog), party, now)
        except (SipParseError, SdpError) as error:
            if request.method == "ACK":  # nobody can be told, and the 2xx needs it
                remove_body(request)
                return replace(forward, request=request)
            _log.info("%s refused with %d: %s", request.method, error.status, type(error).__name__)
            if isinstance(error, SipParseError):
                return Respond(key, refusal(request, error.status, error.brief))
            return Respond(key, refusal(request, error.status, str(error), error.warning))

    def _route(self, forward: Forward, context: Carried, party: str, now: float) -> Forward | Respond | None:
        request, call, dialog = context.request, context.call, context.dialog
        go = replace(forward, request=request)
        if request.method == "BYE":
            if call is not None and dialog is not None:
                self._state.bye(call, dialog, now)
            return go
        body = SessionBody(request)
        if request.method == "OPTIONS":
            body.put(None)
            self._state.contexts[context.key] = context
            return go
        if request.method == "ACK":
            return self._ack(go, context, body, now)
        if request.method == "INVITE" and request.to.tag is None:
            return self._first_invite(go, context, body, party, now)
        if call is None or dialog is None:
            if request.method == "PRACK" and body.sdp is None:
                self._state.contexts[context.key] = context
                return go
            return Respond(context.key, refusal(request, 481, "no such call at this edge"))
        self._state.contexts[context.key] = context
        if body.sdp is None:
            return go
        open_ = dialog.exchange
        if (
            request.method == "PRACK"
            and open_ is not None
            and open_.method == "INVITE"
            and open_.offerer is not context.side
        ):
            return self._answer_in_request(go, context, call, dialog, body, now)
        if open_ is not None:
            # RFC 3261 section 14.2, RFC 3311 section 5.2.
            if open_.offerer is context.side:
                refused = refusal(request, 500, "the last offer has no answer yet")
                refused.headers.add("Retry-After", int(self._state.random(2), 16) % 11)
            else:
                refused = refusal(request, 491, "an offer is on its way to you")
            return Respond(context.key, refused)
        offer = SessionDescription.parse(body.sdp)
        context.exchange = dialog.exchange = Exchange(context.side, request.method, request.cseq.number)
        self._offer(go, context, call, dialog, body, offer)
        return None

    def _first_invite(
        self, go: Forward, context: Carried, body: SessionBody, party: str, now: float
    ) -> Forward | Respond | None:
        request = context.request
        key: CallKey = (party, request.call_id, request.from_.tag or "", context.side)
        if key in self._state.calls:
            return Respond(context.key, refusal(request, 482, "this INVITE is here already"))
        mine = len(self._state.calls.of_party(party))
        if len(self._state.calls) >= self._state.limits.calls or mine >= self._state.limits.calls_per_party:
            _log.warning("INVITE refused with 503: %d calls, %d of this registration", len(self._state.calls), mine)
            return Respond(context.key, self._state.unavailable(request, "too many calls"))
        offer = None if body.sdp is None else SessionDescription.parse(body.sdp)  # refused before anything is kept
        call = context.call = self._state.calls.add(key, context.key)
        self._state.contexts[context.key] = context
        self._state.step(CallStepKind.BEGAN, call)
        if offer is None:
            return go
        context.exchange = Exchange(context.side, "INVITE", request.cseq.number)
        context.acknowledges = context.side is Side.WEB and acknowledge_here(request)
        self._offer(go, context, call, None, body, offer)
        return None

    def _offer(
        self,
        go: Forward,
        context: Carried,
        call: Call,
        dialog: Dialog | None,
        body: SessionBody,
        offer: SessionDescription,
    ) -> None:
        """Ask for the offer to send on in the place of ``body``'s."""
        side = context.side
        own = call.caller_tag if dialog is None else call.tag(side, dialog)
        peer = None if dialog is None else call.tag(other(side), dialog)
        question = OfferRequest(call.media_id, own, offer, self._state.flags[other(side)], peer)

        def done(sdp: SessionDescription, now: float) -> None:
            body.put(sdp.encode())
            self._state.outputs.append(go)

        def failed(failure: MediaFailed, now: float) -> None:
            if dialog is not None and dialog.exchange is context.exchange:
                dialog.exchange = None
            self._state.outputs.append(Respond(context.key, self._state.failure(context.request, failure)))
            if dialog is None and not call.ended:
                self._state.end(call, f"the gateway refused the offer: {failure.status}", now, but=context.key)

        self._state.calls.ask(call, Job(question, context.key, done, failed))

    def _ack(self, go: Forward, context: Carried, body: SessionBody, now: float) -> Forward | Respond | None:
        request, call, dialog = context.request, context.call, context.dialog
        if body.sdp is None:
            return go
        if call is None or dialog is None:
            body.put(None)
            return go
        sender, number, said = dialog.ack
        if (sender, number) == (context.side, request.cseq.number):  # the 2xx came again, and so does the ACK
            if said is None:
                return Respond(go.context, refusal(request, 491, "this ACK waits for the gateway"))
            body.put(said)
            return go
        offer = dialog.exchange
        if offer is None or offer.offerer is context.side or offer.cseq != request.cseq.number:
            body.put(None)
            return go
        dialog.ack = (context.side, request.cseq.number, None)
        return self._answer_in_request(go, context, call, dialog, body, now)

    def _answer_in_request(
        self, go: Forward, context: Carried, call: Call, dialog: Dialog, body: SessionBody, now: float
    ) -> Forward | Respond | None:
        """The answer to an offer that came in a response: in ACK or PRACK."""
        assert body.sdp is not None
        ack = context.request.method == "ACK"
        try:
            question = self._state.answer_question(call, dialog, context.side, body.sdp)
        except SdpError as error:
            result = self._answer_refused(go, context, body, MediaFailed("", error.status, str(error)))
            self._state.release(call, refusals.NO_ANSWER, now, but=context.key)
            return result
        received = body.sdp

        def done(sdp: SessionDescription, now: float) -> None:
            said = sdp.encode()
            if ack:
                dialog.ack = (context.side, context.request.cseq.number, said)
            body.put(said)
            self._state.agreed(call, dialog, call.tag(context.side, dialog), received, said)
            self._state.outputs.append(go)

        def failed(failure: MediaFailed, now: float) -> None:
            self._state.outputs.append(self._answer_refused(go, context, body, failure))
            self._state.release(call, refusals.NO_ANSWER, now, but=context.key)

        self._state.calls.ask(call, Job(question, context.key, done, failed))
        return None

    def _answer_refused(
        self, go: Forward, context: Carried, body: SessionBody, failure: MediaFailed
    ) -> Forward | Respond:
        """Both sides believe in an answer that cannot be had: what becomes of its request, before the release."""
        if context.request.method == "ACK":
            body.put(None)
            return go
        return Respond(context.key, self._state.failure(context.request, failure))

    def _trickle(self, key: Key, request: Request, side: Side, party: str) -> Respond:
        """Candidates end here (RFC 8840 section 4.3): those of IMS are none of this edge's."""
        call, dialog = self._state.calls.find(request, side, party)
        if side is Side.IMS:
            refused = refusal(request, 469, "candidates are not exchanged with IMS")
            refused.headers.add("Recv-Info", "")
            return Respond(key, refused)
        if call is None or dialog is None:
            return Respond(key, refusal(request, 481, "no such call at this edge"))
        response, candidates = read_info(request, call.media_id)
        if candidates is not None:
            self._state.outputs.append(candidates)
        return Respond(key, response)
