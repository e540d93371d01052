"""What the two halves of the IMS-ALG share: the calls, the way to the gateway, and how calls end."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

from imskit.engine import Tokens
from imskit.sdp.description import SessionDescription
from imskit.sip.engine.alarms import Alarms
from imskit.sip.engine.events import Key
from imskit.sip.engine.proxy_events import Forward, RelayResponse, Respond
from imskit.sip.wire.message import Request, Response
from network_edge.ep_cscf.engine import refusals
from network_edge.ep_cscf.engine.call import Call, Carried, Dialog, other
from network_edge.ep_cscf.engine.calls import Calls
from network_edge.ep_cscf.engine.effects import (
    CallStep,
    CallStepKind,
    MediaAnswer,
    MediaDelete,
    MediaFailed,
    MediaOffer,
    ReleaseCall,
    Side,
)
from network_edge.ep_cscf.engine.refusals import refusal
from network_edge.ep_cscf.engine.trickle import MediaCandidates
from network_edge.iq.gateway import AnswerRequest, DeleteRequest, MediaFlags

_log = logging.getLogger(__name__)

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


class AlgState:
    """The shared state; ``flags`` are by the side that a description is written for."""

    def __init__(self, tokens: Tokens, limits: AlgLimits, flags: dict[Side, MediaFlags]) -> None:
        self.random = tokens
        self.limits = limits
        self.flags = flags
        self.outputs: deque[AlgOutput] = deque()
        self.calls = Calls(tokens, self.outputs.append)
        self.contexts: dict[Key, Carried] = {}
        self.alarms = Alarms()

    def answer_question(self, call: Call, dialog: Dialog, side: Side, sdp: bytes) -> AnswerRequest:
        """The question about an answer that ``side`` gave."""
        offerer = other(side)
        return AnswerRequest(
            call.media_id,
            call.tag(offerer, dialog),
            call.tag(side, dialog),
            SessionDescription.parse(sdp),
            self.flags[offerer],
        )

    def agreed(
        self, call: Call, dialog: Dialog, tag: str, received: bytes, said: bytes, *, binding: bool = True
    ) -> None:
        """The gateway has taken the answer of ``tag``; ``binding``: no other follows it."""
        call.in_force = (tag, received, said)
        dialog.answer = (received, said) if tag == dialog.tag else None
        if binding:
            dialog.exchange = None
        if call.answer_alarm is not None:
            call.answer_alarm.cancel()

    def bye(self, call: Call, dialog: Dialog, now: float) -> None:
        """A dialog is over; with the last one that was answered the call is."""
        call.dialogs.pop(dialog.tag, None)
        if dialog.confirmed and not call.confirmed:
            self.end(call, "BYE", now)

    def no_answer(self, call: Call, now: float) -> None:
        """Release a call that was answered and never got an answer to its offer."""
        self.release(call, refusals.NO_ANSWER, now)

    def release(self, call: Call, reason: str, now: float, but: Key = "") -> None:
        """End a call in the network's name; one whose INVITE was not sent on yet is just refused."""
        if call.ended:
            return
        if call.dialogs or not any(job.context == call.invite for job in self.calls.waiting(call)):
            self.outputs.append(ReleaseCall(call.call_id, reason, call.party, call.caller_tag, call.confirmed))
        self.end(call, reason, now, but, 503)

    def end(self, call: Call, why: str, now: float, but: Key = "", status: int = 481) -> None:
        """Forget a call and delete its media; what waits for the gateway fails, except the context ``but``."""
        call.ended = True
        self.calls.remove(call)
        if call.answer_alarm is not None:
            call.answer_alarm.cancel()
        waiting = self.calls.waiting(call)
        call.jobs.clear()
        for job in waiting:
            if job.context != but:
                job.failed(MediaFailed("", status, "the call is over"), now)
        if call.job is None:
            self.outputs.append(MediaDelete(DeleteRequest(call.media_id)))
        self.step(CallStepKind.ENDED, call, why)

    def failure(self, request: Request, failure: MediaFailed) -> Response:
        """The answer to a request that the gateway did not serve."""
        if failure.status == 503:
            return self.unavailable(request, "no media gateway")
        status = failure.status if 400 <= failure.status < 700 else 500
        return refusal(request, status, failure.reason, 304 if status == 488 else 399)

    def unavailable(self, request: Request, words: str) -> Response:
        """503 with Retry-After."""
        refused = refusal(request, 503, words)
        refused.headers.add("Retry-After", self.limits.retry_after)
        return refused

    def step(self, kind: CallStepKind, call: Call, detail: str = "") -> None:
        """Tell log and metrics."""
        _log.info("call %s of the %s side: %s%s", call.media_id, call.caller, kind, f" ({detail})" if detail else "")
        self.outputs.append(CallStep(kind, call.call_id, call.caller, detail))

    def answered(self, key: str, answer: SessionDescription | MediaFailed, now: float) -> None:
        """Take the gateway's answer; that of a call which is over lets its media be deleted."""
        over = self.calls.answered(key, answer, now)
        if over is not None:
            self.outputs.append(MediaDelete(DeleteRequest(over.media_id)))
