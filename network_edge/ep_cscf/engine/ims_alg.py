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

from imskit.engine import Tick, Tokens
from imskit.sip.engine.events import Key
from imskit.sip.engine.proxy_events import Forward, RelayResponse, Respond, ResponseReady
from imskit.sip.wire.message import Request
from network_edge.ep_cscf.engine import refusals
from network_edge.ep_cscf.engine.alg_requests import RequestSide
from network_edge.ep_cscf.engine.alg_responses import ResponseSide
from network_edge.ep_cscf.engine.alg_state import AlgLimits, AlgOutput, AlgState
from network_edge.ep_cscf.engine.effects import CallStepKind, MediaFailed, MediaLost, MediaReady, Side
from network_edge.iq.gateway import TOWARDS_IMS, TOWARDS_WEB, MediaFlags

__all__ = ["AlgLimits", "AlgOutput", "ImsAlg"]


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
        self._state = AlgState(tokens, limits, {Side.IMS: towards_ims, Side.WEB: towards_web})
        self._requests = RequestSide(self._state)
        self._responses = ResponseSide(self._state)

    @property
    def calls(self) -> int:
        """Calls that have media or are about to."""
        return len(self._state.calls)

    def request(
        self, forward: Forward, request: Request, side: Side, party: str, now: float
    ) -> Forward | Respond | None:
        """Take a request that is about to be forwarded; ``side`` is where it came from.

        None: the gateway is asked first.  For an ACK `Respond` means that it is not forwarded.
        """
        return self._requests.take(forward, request, side, party, now)

    def response(self, ready: ResponseReady, now: float) -> RelayResponse | Respond | None:
        """Take a response that is about to be relayed; None: the gateway is asked first.

        `Respond` stands for a response that cannot be relayed: the request fails.
        """
        return self._responses.take(ready, now)

    def acknowledges(self, context: Key) -> bool:
        """Whether reliable provisional responses to this INVITE are confirmed at this edge, in the WIC's place."""
        known = self._state.contexts.get(context)
        return known is not None and known.acknowledges

    def handle(self, event: MediaReady | MediaFailed | MediaLost | Tick, now: float) -> None:
        """Take in the gateway's answers and losses; those of calls that are over are dropped."""
        state = self._state
        match event:
            case MediaReady(key, sdp):
                state.answered(key, sdp, now)
            case MediaFailed(key):
                state.answered(key, event, now)
            case MediaLost(media_id, loss, reason):
                call = state.calls.of_media(media_id)
                if call is not None:
                    state.step(CallStepKind.MEDIA_LOST, call, f"{loss}: {reason}" if reason else str(loss))
                    state.release(call, refusals.reason_of(loss), now)
            case Tick():
                while state.alarms.run_due(now):
                    pass

    def poll(self) -> AlgOutput | None:
        """Return the next output."""
        return self._state.outputs.popleft() if self._state.outputs else None

    def deadline(self) -> float | None:
        """When the next answer is overdue."""
        return self._state.alarms.deadline()

    def ended(self, context: Key, now: float) -> None:
        """Nothing more comes about this context (`ContextEnded`)."""
        known = self._state.contexts.pop(context, None)
        if known is None or not known.initial or (call := known.call) is None or call.ended:
            return
        call.dialogs = {tag: dialog for tag, dialog in call.dialogs.items() if dialog.confirmed}
        if not call.dialogs:
            self._state.end(call, "not answered", now)

    def dialog_over(self, party: str, call_id: str, web_tag: str, ims_tag: str, now: float) -> None:
        """A dialog is over, whatever ended it; one that has no media here is nobody's business."""
        for caller, callee, side in ((web_tag, ims_tag, Side.WEB), (ims_tag, web_tag, Side.IMS)):
            call = self._state.calls.get((party, call_id, caller, side))
            if call is not None and (dialog := call.dialogs.get(callee)) is not None:
                self._state.bye(call, dialog, now)

    def flow_lost(self, party: str, now: float) -> None:
        """The WebSocket of a WIC is gone: its calls wait for the next one, until `forget` ends them."""
        for call in self._state.calls.of_party(party):
            self._state.step(CallStepKind.FLOW_LOST, call)

    def flow_back(self, party: str, now: float) -> None:
        """The WIC is there again."""
        for call in self._state.calls.of_party(party):
            self._state.step(CallStepKind.FLOW_BACK, call)

    def forget(self, party: str, now: float) -> None:
        """End the media of all calls of a WIC; its dialogs are released by the caller of this."""
        for call in self._state.calls.of_party(party):
            self._state.end(call, "the registration is over", now, status=480)
