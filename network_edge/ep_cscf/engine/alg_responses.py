"""Responses that pass the IMS-ALG: answers to the offer of their request, or offers where it had none."""

from __future__ import annotations

import logging

from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sip.engine.proxy_events import RelayResponse, Respond, ResponseReady
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Response
from network_edge.ep_cscf.engine import option_tags, refusals
from network_edge.ep_cscf.engine.alg_state import AlgState
from network_edge.ep_cscf.engine.call import Call, Carried, Dialog, Exchange, Job, other
from network_edge.ep_cscf.engine.early_answers import RELIABLE, make_unreliable
from network_edge.ep_cscf.engine.effects import CallStepKind, MediaFailed, ReleaseCall, Side
from network_edge.ep_cscf.engine.session_body import SessionBody, remove_body, remove_session
from network_edge.iq.gateway import OfferRequest

_log = logging.getLogger(__name__)


class ResponseSide:
    """The half of the IMS-ALG that takes responses."""

    def __init__(self, state: AlgState) -> None:
        self._state = state

    def take(self, ready: ResponseReady, now: float) -> RelayResponse | Respond | None:
        """Take a response that is about to be relayed; None: the gateway is asked first.

        `Respond` stands for a response that cannot be relayed: the request fails.
        """
        context, response = self._state.contexts.get(ready.context), ready.response
        if context is None or response.status == 100:
            return RelayResponse(ready.context, response)
        try:
            option_tags.edit(response, context.side)
            reliable = response.success or (context.request.method == "INVITE" and RELIABLE in response.require)
            if context.acknowledges:
                make_unreliable(response)
            if context.request.method == "INVITE" and response.status < 300 and context.side is Side.WEB:
                option_tags.offer_trickle(response)
            return self._response(context, response, reliable, now)
        except SipParseError as error:
            _log.info("a %d to %s loses its body: %s", response.status, context.request.method, error.brief)
            remove_body(response)
            if response.status >= 300:
                self._failed(context, response.status, now)
            return RelayResponse(ready.context, response)

    def _response(
        self, context: Carried, response: Response, reliable: bool, now: float
    ) -> RelayResponse | Respond | None:
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
                self._state.step(CallStepKind.ANSWERED, call)
        try:
            body = SessionBody(response)
            if context.exchange is not None:
                result = self._answer_in_response(relay, context, call, dialog, body, first, reliable, now)
            else:
                result = self._offer_in_response(relay, context, call, dialog, body, reliable, now)
        except (SdpError, SipParseError) as error:
            return self._bad_response(relay, context, call, dialog, 502, str(error), reliable, now)
        if context.initial and response.success and call.answer_alarm is None and call.in_force is None:
            call.answer_alarm = self._state.alarms.set(
                now + self._state.limits.answer, lambda: self._state.no_answer(call, now + self._state.limits.answer)
            )
        return result

    def _answer_in_response(
        self,
        relay: RelayResponse,
        context: Carried,
        call: Call,
        dialog: Dialog,
        body: SessionBody,
        first: bool,
        reliable: bool,
        now: float,
    ) -> RelayResponse | None:
        """``body`` may hold the answer to the offer of the request."""
        said = context.said.get(dialog.tag)
        bound = dialog.exchange is not context.exchange  # a binding answer was there: this one is it again, or nothing
        success = relay.response is not None and relay.response.success
        if context.initial and success and first and (bound or body.sdp is None) and self._elsewhere(call, dialog):
            dialog.exchange = None
            return self._put_in_force(relay, context, call, dialog, body, now, bound=bound)
        if bound:
            # Who was told unreliably needs the answer in the 2xx (RFC 6337 section 3.1.1).
            if body.sdp is not None or (success and context.acknowledges and said is not None and not _has_body(relay)):
                body.put(said)
            return relay
        if context.initial and reliable and not first:
            # A second fork was answered too; the caller will end it (RFC 3261 section 13.2.2.4).
            dialog.exchange = None
            if body.sdp is not None:
                body.put(self._said_to_caller(context, call, dialog))
            return relay
        if body.sdp is None:
            if not success:
                return relay
            dialog.exchange = None
            if said is not None and not _has_body(relay):
                # Only an unreliable 18x had the answer: the WIC needs it in the 2xx (RFC 6337 section 3.1.1).
                body.put(said)
            return relay
        received = body.sdp
        if call.in_force is not None and call.in_force[:2] == (dialog.tag, received) and said is not None:
            if reliable:
                dialog.exchange = None
            body.put(said)
            return relay
        question = self._state.answer_question(call, dialog, other(context.side), received)

        def done(sdp: SessionDescription, now: float) -> None:
            written = context.said[dialog.tag] = sdp.encode()
            body.put(written)
            self._state.agreed(call, dialog, dialog.tag, received, written, binding=reliable)
            self._state.outputs.append(relay)

        def failed(failure: MediaFailed, now: float) -> None:
            self._state.outputs.append(
                self._bad_response(relay, context, call, dialog, failure.status, failure.reason, reliable, now)
            )

        self._state.calls.ask(call, Job(question, context.key, done, failed))
        return None

    def _elsewhere(self, call: Call, dialog: Dialog) -> bool:
        """Whether the media are another early dialog's, though this one had its answer, too."""
        return dialog.answer is not None and call.in_force is not None and call.in_force[0] != dialog.tag

    def _put_in_force(
        self,
        relay: RelayResponse,
        context: Carried,
        call: Call,
        dialog: Dialog,
        body: SessionBody,
        now: float,
        *,
        bound: bool,
    ) -> RelayResponse | None:
        """Each early dialog has a session of its own: of them the one of the 2xx counts (RFC 3261 section 13.2.2.4)."""
        assert dialog.answer is not None
        received = dialog.answer[0]
        question = self._state.answer_question(call, dialog, other(context.side), received)

        def done(sdp: SessionDescription, now: float) -> None:
            written = context.said[dialog.tag] = sdp.encode()
            if body.sdp is not None or ((not bound or context.acknowledges) and not _has_body(relay)):
                body.put(written)
            self._state.agreed(call, dialog, dialog.tag, received, written)
            self._state.outputs.append(relay)

        def failed(failure: MediaFailed, now: float) -> None:
            self._state.outputs.append(
                self._bad_response(relay, context, call, dialog, failure.status, failure.reason, True, now)
            )

        self._state.calls.ask(call, Job(question, context.key, done, failed))
        return None

    def _offer_in_response(
        self,
        relay: RelayResponse,
        context: Carried,
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
            call.media_id, own, SessionDescription.parse(body.sdp), self._state.flags[context.side], known
        )
        exchange = dialog.exchange = Exchange(side, "INVITE", context.request.cseq.number)

        def done(sdp: SessionDescription, now: float) -> None:
            written = context.said[dialog.tag] = sdp.encode()
            body.put(written)
            self._state.outputs.append(relay)

        def failed(failure: MediaFailed, now: float) -> None:
            if dialog.exchange is exchange:
                dialog.exchange = None
            self._state.outputs.append(
                self._bad_response(relay, context, call, dialog, failure.status, failure.reason, reliable, now)
            )

        self._state.calls.ask(call, Job(question, context.key, done, failed))
        return None

    def _bad_response(
        self,
        relay: RelayResponse,
        context: Carried,
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
        refused = self._state.failure(context.request, MediaFailed("", status, reason))
        if response.provisional:
            if context.initial and not call.ended:
                self._state.end(call, f"no early answer: {status}", now, but=context.key)
            return Respond(context.key, refused)
        if context.initial and len(call.confirmed) > 1 and not call.ended:
            del call.dialogs[dialog.tag]  # only this fork
            self._state.outputs.append(
                ReleaseCall(call.call_id, refusals.NO_ANSWER, call.party, call.caller_tag, (dialog.tag,))
            )
        else:
            self._state.release(call, refusals.NO_ANSWER, now, but=context.key)
        return RelayResponse(context.key, refused)

    def _failed(self, context: Carried, status: int, now: float) -> None:
        """A final response without success: an offer in the request has not happened (RFC 6337 section 3.4)."""
        call, dialog = context.call, context.dialog
        if call is None or call.ended:
            return
        if context.initial:
            if not call.confirmed:
                self._state.end(call, str(status), now, but=context.key)
        elif dialog is not None and dialog.exchange is not None and dialog.exchange is context.exchange:
            dialog.exchange = None

    def _said_to_caller(self, context: Carried, call: Call, dialog: Dialog) -> bytes | None:
        return next(
            (context.said[tag] for tag in call.confirmed if tag != dialog.tag and tag in context.said),
            context.said.get(dialog.tag),
        )


def _has_body(relay: RelayResponse) -> bool:
    return relay.response is not None and bool(relay.response.body)
