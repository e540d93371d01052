"""IMS-ALG: the descriptions of every call pass through the media gateway (TS 24.229 5.2.1, TS 23.228 annex U.2).

It follows the offers and answers of RFC 3261, 3262, 3311 and 6337 in requests and responses of both directions, and
asks the gateway for the description that goes on in the place of each.  Everything else of a message stays, but for the
option tags that do not pass (`option_tags`).  It is no B2BUA: dialogs are end to end.

``EpCscf`` hands over each request that it is about to forward, and each response that it is about to relay.  What
comes back goes on at once; None means that the gateway is asked, and that the message comes out of ``poll`` later.

Nothing that is not understood passes with a description in it: an offer out of turn is refused here (491, 500), in a
dialog that is not known with 481; a description where none belongs is taken out.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, replace

from imskit.engine import Tick, Tokens
from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sip.engine.alarms import Alarms
from imskit.sip.engine.events import Key
from imskit.sip.engine.proxy_events import Forward, RelayResponse, Respond, ResponseReady
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Request, Response
from network_edge.ep_cscf.engine import option_tags, refusals
from network_edge.ep_cscf.engine.call import Call, CallKey, Context, Dialog, Exchange, Job, other
from network_edge.ep_cscf.engine.calls import Calls
from network_edge.ep_cscf.engine.effects import (
    CallStep,
    CallStepKind,
    MediaAnswer,
    MediaDelete,
    MediaFailed,
    MediaLost,
    MediaOffer,
    MediaReady,
    ReleaseCall,
    Side,
)
from network_edge.ep_cscf.engine.refusals import refusal
from network_edge.ep_cscf.engine.session_body import SessionBody, remove_body, remove_session
from network_edge.ep_cscf.engine.trickle import MediaCandidates, is_trickle, read_info
from network_edge.iq.gateway import (
    TOWARDS_IMS,
    TOWARDS_WEB,
    AnswerRequest,
    DeleteRequest,
    MediaFlags,
    OfferRequest,
)

_log = logging.getLogger(__name__)

_WITH_SESSION = frozenset({"INVITE", "UPDATE", "PRACK", "OPTIONS"})
"""Methods whose responses may have descriptions."""

type AlgOutput = (
    Forward
    | Respond
    | RelayResponse
    | MediaOffer
    | MediaAnswer
    | MediaDelete
    | MediaCandidates
    | ReleaseCall
    | CallStep
)


@dataclass(frozen=True, slots=True)
class AlgLimits:
    """How much, and how long in seconds."""

    calls: int = 2000
    calls_per_party: int = 16
    """Of one registration, so that one client cannot take them all."""
    retry_after: int = 10
    """In a 503."""
    answer: float = 32.0
    """From a 2xx until there is an answer; a call without one is released (64*T1, RFC 3261 section 13.3.1.4)."""


class ImsAlg:
    """The engine of this module's text.

    ``party`` is everywhere the WIC's registration, whatever flow it uses.  ``towards_ims`` and ``towards_web`` say how
    the gateway is to write descriptions.
    """

    def __init__(
        self,
        tokens: Tokens,
        limits: AlgLimits = AlgLimits(),
        *,
        towards_ims: MediaFlags = TOWARDS_IMS,
        towards_web: MediaFlags = TOWARDS_WEB,
    ) -> None:
        self._tokens = tokens
        self._limits = limits
        self._flags = {Side.IMS: towards_ims, Side.WEB: towards_web}
        self._outputs: deque[AlgOutput] = deque()
        self._calls = Calls(tokens, self._outputs.append)
        self._contexts: dict[Key, Context] = {}
        self._alarms = Alarms()

    @property
    def calls(self) -> int:
        """Calls that have media or are about to."""
        return len(self._calls)

    # ---- the engine's contract -------------------------------------------------------------------------------

    def handle(self, event: MediaReady | MediaFailed | MediaLost | Tick, now: float) -> None:
        """Take in the gateway's answers and losses; those of calls that are over are dropped."""
        match event:
            case MediaReady(key, sdp):
                self._answered(key, sdp, now)
            case MediaFailed(key):
                self._answered(key, event, now)
            case MediaLost(media_id, loss, reason):
                call = self._calls.of_media(media_id)
                if call is not None:
                    self._step(CallStepKind.MEDIA_LOST, call, f"{loss}: {reason}" if reason else str(loss))
                    self._release(call, refusals.reason_of(loss), now)
            case Tick():
                while self._alarms.run_due(now):
                    pass

    def poll(self) -> AlgOutput | None:
        """Return the next output."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """When the next answer is overdue."""
        return self._alarms.deadline()

    def ended(self, context: Key, now: float) -> None:
        """Nothing more comes about this context (`ContextEnded`)."""
        known = self._contexts.pop(context, None)
        if known is None or not known.initial or (call := known.call) is None or call.ended:
            return
        call.invite_over = True
        call.dialogs = {tag: dialog for tag, dialog in call.dialogs.items() if dialog.confirmed}
        if not call.dialogs:
            self._end(call, "not answered", now)

    def flow_lost(self, party: str, now: float) -> None:
        """The WebSocket of a WIC is gone: its calls wait for the next one; `forget` ends them."""
        for call in self._calls.of_party(party):
            self._step(CallStepKind.FLOW_LOST, call)

    def flow_back(self, party: str, now: float) -> None:
        """The WIC is there again."""
        for call in self._calls.of_party(party):
            self._step(CallStepKind.FLOW_BACK, call)

    def forget(self, party: str, now: float) -> None:
        """End the media of all calls of a WIC; its dialogs are released by the caller of this."""
        for call in self._calls.of_party(party):
            self._end(call, "the registration is over", now)

    # ---- requests --------------------------------------------------------------------------------------------

    def request(
        self, forward: Forward, request: Request, side: Side, party: str, now: float
    ) -> Forward | Respond | None:
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
            if request.method not in _WITH_SESSION and request.method not in ("ACK", "BYE"):
                return replace(forward, request=request)
            call, dialog = self._calls.find(request, side, party)
            return self._route(forward, Context(key, request, side, call, dialog=dialog), party, now)
        except SipParseError as error:
            _log.info("%s refused with %d: %s", request.method, error.status, error.brief)
            return Respond(key, refusal(request, error.status, error.brief))
        except SdpError as error:
            _log.info("%s refused with %d: SDP: %s", request.method, error.status, error.clause)
            return Respond(key, refusal(request, error.status, str(error), error.warning))

    def _route(self, forward: Forward, context: Context, party: str, now: float) -> Forward | Respond | None:
        request, call, dialog = context.request, context.call, context.dialog
        go = replace(forward, request=request)
        if request.method == "BYE":
            if call is not None and dialog is not None:
                self._bye(call, dialog, now)
            return go
        body = SessionBody(request)
        if request.method == "OPTIONS":
            body.put(None)
            self._contexts[context.key] = context
            return go
        if request.method == "ACK":
            return self._ack(go, context, body, now)
        if request.method == "INVITE" and request.to.tag is None:
            return self._first_invite(go, context, body, party, now)
        if call is None or dialog is None:
            if request.method == "PRACK" and body.sdp is None:
                self._contexts[context.key] = context
                return go
            return Respond(context.key, refusal(request, 481, "no such call at this edge"))
        self._contexts[context.key] = context
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
                refused.headers.add("Retry-After", int(self._tokens(2), 16) % 11)
            else:
                refused = refusal(request, 491, "an offer is on its way to you")
            return Respond(context.key, refused)
        offer = SessionDescription.parse(body.sdp)
        context.exchange = dialog.exchange = Exchange(context.side, request.method, request.cseq.number)
        self._offer(go, context, call, dialog, body, offer)
        return None

    def _first_invite(
        self, go: Forward, context: Context, body: SessionBody, party: str, now: float
    ) -> Forward | Respond | None:
        request = context.request
        key: CallKey = (party, request.call_id, request.from_.tag or "", context.side)
        if key in self._calls:
            return Respond(context.key, refusal(request, 482, "this INVITE is here already"))
        mine = len(self._calls.of_party(party))
        if len(self._calls) >= self._limits.calls or mine >= self._limits.calls_per_party:
            _log.warning("INVITE refused with 503: %d calls, %d of this registration", len(self._calls), mine)
            return Respond(context.key, self._unavailable(request, "too many calls"))
        offer = None if body.sdp is None else SessionDescription.parse(body.sdp)  # refused before anything is kept
        call = context.call = self._calls.add(key, context.key)
        self._contexts[context.key] = context
        self._step(CallStepKind.BEGAN, call)
        if offer is None:
            return go
        context.exchange = Exchange(context.side, "INVITE", request.cseq.number)
        self._offer(go, context, call, None, body, offer)
        return None

    def _offer(
        self,
        go: Forward,
        context: Context,
        call: Call,
        dialog: Dialog | None,
        body: SessionBody,
        offer: SessionDescription,
    ) -> None:
        """Ask for the offer to send on in the place of ``body``'s."""
        side = context.side
        own = call.caller_tag if dialog is None else call.tag(side, dialog)
        peer = None if dialog is None else call.tag(other(side), dialog)
        question = OfferRequest(call.media_id, own, offer, self._flags[other(side)], peer)

        def done(sdp: SessionDescription, now: float) -> None:
            body.put(sdp.encode())
            self._outputs.append(go)

        def failed(failure: MediaFailed, now: float) -> None:
            if dialog is not None and dialog.exchange is context.exchange:
                dialog.exchange = None
            self._outputs.append(Respond(context.key, self._failure(context.request, failure)))
            if dialog is None and not call.ended:
                self._end(call, f"the gateway refused the offer: {failure.status}", now, but=context.key)

        self._calls.ask(call, Job(question, context.key, done, failed))

    def _ack(self, go: Forward, context: Context, body: SessionBody, now: float) -> Forward | Respond | None:
        request, call, dialog = context.request, context.call, context.dialog
        if body.sdp is None:
            return go
        if call is None or dialog is None:
            body.put(None)
            return go
        number, said = dialog.ack
        if number == request.cseq.number:  # the 2xx came again, and so does the ACK
            if said is None:
                return Respond(go.context, refusal(request, 491, "this ACK waits for the gateway"))
            body.put(said)
            return go
        offer = dialog.exchange
        if offer is None or offer.offerer is context.side or offer.cseq != request.cseq.number:
            body.put(None)
            return go
        dialog.ack = (request.cseq.number, None)
        return self._answer_in_request(go, context, call, dialog, body, now)

    def _answer_in_request(
        self, go: Forward, context: Context, call: Call, dialog: Dialog, body: SessionBody, now: float
    ) -> Forward | Respond | None:
        """The answer to an offer that came in a response: in ACK or PRACK."""
        assert body.sdp is not None
        ack = context.request.method == "ACK"
        try:
            question = self._answer_question(call, dialog, context.side, body.sdp)
        except SdpError as error:
            return self._answer_failed(go, context, call, body, error.status, str(error), now)
        received = body.sdp

        def done(sdp: SessionDescription, now: float) -> None:
            said = sdp.encode()
            if ack:
                dialog.ack = (context.request.cseq.number, said)
            body.put(said)
            self._agreed(call, dialog, call.tag(context.side, dialog), received, said)
            self._outputs.append(go)

        def failed(failure: MediaFailed, now: float) -> None:
            self._outputs.append(self._answer_failed(go, context, call, body, failure.status, failure.reason, now))

        self._calls.ask(call, Job(question, context.key, done, failed))
        return None

    def _answer_failed(
        self, go: Forward, context: Context, call: Call, body: SessionBody, status: int, reason: str, now: float
    ) -> Forward | Respond:
        """Both sides believe in an answer that cannot be had: nothing is left but to release the call."""
        self._release(call, refusals.NO_ANSWER, now, but=context.key)
        if context.request.method == "ACK":
            body.put(None)
            return go
        return Respond(context.key, self._failure(context.request, MediaFailed("", status, reason)))

    def _bye(self, call: Call, dialog: Dialog, now: float) -> None:
        confirmed = dialog.confirmed
        del call.dialogs[dialog.tag]
        if confirmed and not call.confirmed:
            self._end(call, "BYE", now)

    def _trickle(self, key: Key, request: Request, side: Side, party: str) -> Respond:
        """Candidates end here (RFC 8840 section 4.3): those of IMS are none of this edge's."""
        call, dialog = self._calls.find(request, side, party)
        if side is Side.IMS:
            refused = refusal(request, 469, "candidates are not exchanged with IMS")
            refused.headers.add("Recv-Info", "")
            return Respond(key, refused)
        if call is None or dialog is None:
            return Respond(key, refusal(request, 481, "no such call at this edge"))
        response, candidates = read_info(request, call.media_id)
        if candidates is not None:
            self._outputs.append(candidates)
        return Respond(key, response)

    # ---- responses -------------------------------------------------------------------------------------------

    def response(self, ready: ResponseReady, now: float) -> RelayResponse | Respond | None:
        """Take a response that is about to be relayed; None: the gateway is asked first.

        `Respond` stands for a response that cannot be relayed: the request fails.
        """
        context, response = self._contexts.get(ready.context), ready.response
        if context is None or response.status == 100:
            return RelayResponse(ready.context, response)
        try:
            option_tags.edit(response, context.side)
            if context.request.method == "INVITE" and response.status < 300 and context.side is Side.WEB:
                option_tags.offer_trickle(response)
            return self._response(context, response, now)
        except SipParseError as error:
            _log.info("a %d to %s loses its body: %s", response.status, context.request.method, error.brief)
            remove_body(response)
            if response.status >= 300:
                self._failed(context, response.status, now)
            return RelayResponse(ready.context, response)

    def _response(self, context: Context, response: Response, now: float) -> RelayResponse | Respond | None:
        relay = RelayResponse(context.key, response)
        call, tag = context.call, response.to.tag
        if response.status >= 300:
            remove_session(response)
            self._failed(context, response.status, now)
            return relay
        if call is None or call.ended or tag is None:
            remove_session(response)
            return relay
        dialog = context.dialog
        if context.initial:
            dialog = call.dialog(tag, context.exchange)
            if response.status == 199 and dialog is not None and not dialog.confirmed:
                del call.dialogs[tag]
        if dialog is None:
            remove_session(response)
            return relay
        first = not call.confirmed
        if context.initial and response.success and not dialog.confirmed:
            dialog.confirmed = True
            if first:
                self._step(CallStepKind.ANSWERED, call)
        reliable = response.success or (context.request.method == "INVITE" and "100rel" in response.require)
        try:
            body = SessionBody(response)
            if context.exchange is not None:
                result = self._answer_in_response(relay, context, call, dialog, body, first, reliable, now)
            else:
                result = self._offer_in_response(relay, context, call, dialog, body, reliable, now)
        except (SdpError, SipParseError) as error:
            return self._bad_response(relay, context, call, dialog, 502, str(error), reliable, now)
        if context.initial and response.success and call.answer_alarm is None and call.in_force is None:
            call.answer_alarm = self._alarms.set(
                now + self._limits.answer, lambda: self._no_answer(call, now + self._limits.answer)
            )
        return result

    def _answer_in_response(
        self,
        relay: RelayResponse,
        context: Context,
        call: Call,
        dialog: Dialog,
        body: SessionBody,
        first: bool,
        reliable: bool,
        now: float,
    ) -> RelayResponse | None:
        """``body`` may hold the answer to the offer of the request."""
        said = context.said.get(dialog.tag)
        if (
            dialog.exchange is not context.exchange
        ):  # there was a binding answer: this one is it again, or means nothing
            if body.sdp is not None:
                body.put(said)
            return relay
        if context.initial and reliable and not first:
            # A second fork was answered too; the caller will end it (RFC 3261 section 13.2.2.4).
            dialog.exchange = None
            if body.sdp is not None:
                body.put(self._said_to_caller(context, call, dialog))
            return relay
        if body.sdp is None:
            if not (reliable and isinstance(relay.response, Response) and relay.response.success):
                return relay
            dialog.exchange = None
            if said is not None and not relay.response.body:
                body.put(
                    said
                )  # only an unreliable 18x had the answer: the WIC needs it in the 2xx (RFC 6337 section 3.1.1)
            return relay
        received = body.sdp
        if call.in_force is not None and call.in_force[:2] == (dialog.tag, received) and said is not None:
            if reliable:
                dialog.exchange = None
            body.put(said)
            return relay
        question = self._answer_question(call, dialog, other(context.side), received)

        def done(sdp: SessionDescription, now: float) -> None:
            written = context.said[dialog.tag] = sdp.encode()
            body.put(written)
            self._agreed(call, dialog, dialog.tag, received, written, binding=reliable)
            self._outputs.append(relay)

        def failed(failure: MediaFailed, now: float) -> None:
            self._outputs.append(
                self._bad_response(relay, context, call, dialog, failure.status, failure.reason, reliable, now)
            )

        self._calls.ask(call, Job(question, context.key, done, failed))
        return None

    def _offer_in_response(
        self,
        relay: RelayResponse,
        context: Context,
        call: Call,
        dialog: Dialog,
        body: SessionBody,
        reliable: bool,
        now: float,
    ) -> RelayResponse | None:
        """The request had no offer: a reliable response to INVITE has it (RFC 3261 section 13.2.1)."""
        if body.sdp is None:
            return relay
        said = context.said.get(dialog.tag)
        if said is not None:
            body.put(said)
            return relay
        if not reliable or context.request.method != "INVITE":
            body.put(None)
            return relay
        side = other(context.side)
        own, peer = call.tag(side, dialog), call.tag(context.side, dialog)
        known = peer if call.in_force is not None else None
        question = OfferRequest(
            call.media_id, own, SessionDescription.parse(body.sdp), self._flags[context.side], known
        )
        exchange = dialog.exchange = Exchange(side, "INVITE", context.request.cseq.number)

        def done(sdp: SessionDescription, now: float) -> None:
            written = context.said[dialog.tag] = sdp.encode()
            body.put(written)
            self._outputs.append(relay)

        def failed(failure: MediaFailed, now: float) -> None:
            if dialog.exchange is exchange:
                dialog.exchange = None
            self._outputs.append(
                self._bad_response(relay, context, call, dialog, failure.status, failure.reason, reliable, now)
            )

        self._calls.ask(call, Job(question, context.key, done, failed))
        return None

    def _bad_response(
        self,
        relay: RelayResponse,
        context: Context,
        call: Call,
        dialog: Dialog,
        status: int,
        reason: str,
        reliable: bool,
        now: float,
    ) -> RelayResponse | Respond:
        """The description of a response cannot be sent on."""
        response = relay.response
        assert response is not None
        if not reliable:
            _log.info("call %s: a %d loses its description: %s", call.media_id, response.status, reason)
            remove_session(response)
            return relay
        _log.warning("call %s: a %d cannot be relayed: %s", call.media_id, response.status, reason)
        refused = self._failure(context.request, MediaFailed("", status, reason))
        if response.provisional:
            if context.initial and not call.ended:
                self._end(call, f"no early answer: {status}", now, but=context.key)
            return Respond(context.key, refused)
        if context.initial and len(call.confirmed) > 1 and not call.ended:
            del call.dialogs[dialog.tag]  # only this fork
            self._outputs.append(
                ReleaseCall(call.call_id, refusals.NO_ANSWER, call.party, call.caller_tag, (dialog.tag,))
            )
        else:
            self._release(call, refusals.NO_ANSWER, now, but=context.key)
        return RelayResponse(context.key, refused)

    def _failed(self, context: Context, status: int, now: float) -> None:
        """A final response without success: an offer in the request has not happened (RFC 6337 section 3.4)."""
        call, dialog = context.call, context.dialog
        if call is None or call.ended:
            return
        if context.initial:
            if not call.confirmed:
                self._end(call, str(status), now, but=context.key)
        elif dialog is not None:
            if dialog.exchange is not None and dialog.exchange is context.exchange:
                dialog.exchange = None
            if status == 481 and context.request.method in ("INVITE", "UPDATE"):
                self._bye(call, dialog, now)  # RFC 5057 section 5.1: the dialog is gone

    def _said_to_caller(self, context: Context, call: Call, dialog: Dialog) -> bytes | None:
        return next(
            (context.said[tag] for tag in call.confirmed if tag != dialog.tag and tag in context.said),
            context.said.get(dialog.tag),
        )

    # ---- the gateway -----------------------------------------------------------------------------------------

    def _answer_question(self, call: Call, dialog: Dialog, side: Side, sdp: bytes) -> AnswerRequest:
        """The question about an answer that ``side`` gave."""
        offerer = other(side)
        return AnswerRequest(
            call.media_id,
            call.tag(offerer, dialog),
            call.tag(side, dialog),
            SessionDescription.parse(sdp),
            self._flags[offerer],
        )

    def _agreed(
        self, call: Call, dialog: Dialog, tag: str, received: bytes, said: bytes, *, binding: bool = True
    ) -> None:
        call.in_force = (tag, received, said)
        if binding:
            dialog.exchange = None
        if call.answer_alarm is not None:
            call.answer_alarm.cancel()

    def _answered(self, key: str, answer: SessionDescription | MediaFailed, now: float) -> None:
        over = self._calls.answered(key, answer, now)
        if over is not None:
            self._outputs.append(MediaDelete(DeleteRequest(over.media_id)))

    # ---- the end ---------------------------------------------------------------------------------------------

    def _no_answer(self, call: Call, now: float) -> None:
        self._release(call, refusals.NO_ANSWER, now)

    def _release(self, call: Call, reason: str, now: float, but: Key = "") -> None:
        """End a call in the network's name; one whose INVITE was not sent on yet is just refused."""
        if call.ended:
            return
        if call.dialogs or not any(job.context == call.invite for job in self._calls.waiting(call)):
            self._outputs.append(ReleaseCall(call.call_id, reason, call.party, call.caller_tag, call.confirmed))
        self._end(call, reason, now, but, 503)

    def _end(self, call: Call, why: str, now: float, but: Key = "", status: int = 481) -> None:
        """Forget a call and delete its media; what waits for the gateway fails, except the context ``but``."""
        call.ended = True
        self._calls.remove(call)
        if call.answer_alarm is not None:
            call.answer_alarm.cancel()
        waiting = self._calls.waiting(call)
        call.jobs.clear()
        for job in waiting:
            if job.context != but:
                job.failed(MediaFailed("", status, "the call is over"), now)
        if call.job is None:
            self._outputs.append(MediaDelete(DeleteRequest(call.media_id)))
        self._step(CallStepKind.ENDED, call, why)

    # ---- helpers ---------------------------------------------------------------------------------------------

    def _failure(self, request: Request, failure: MediaFailed) -> Response:
        """The answer to a request that the gateway did not serve."""
        if failure.status == 503:
            return self._unavailable(request, "no media gateway")
        status = failure.status if 400 <= failure.status < 700 else 500
        return refusal(request, status, failure.reason, 304 if status == 488 else 399)

    def _unavailable(self, request: Request, words: str) -> Response:
        refused = refusal(request, 503, words)
        refused.headers.add("Retry-After", self._limits.retry_after)
        return refused

    def _step(self, kind: CallStepKind, call: Call, detail: str = "") -> None:
        _log.info("call %s of the %s side: %s%s", call.media_id, call.caller, kind, f" ({detail})" if detail else "")
        self._outputs.append(CallStep(kind, call.call_id, call.caller, detail))
