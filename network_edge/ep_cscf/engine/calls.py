"""The calls of the edge by what names them, and their questions to the gateway, one at a time for each call."""

from __future__ import annotations

from collections.abc import Callable

from imskit.engine import Tokens
from imskit.sdp.description import SessionDescription
from imskit.sip.engine.events import Key
from imskit.sip.wire.message import Request
from network_edge.ep_cscf.engine.call import Call, CallKey, Dialog, Job, other
from network_edge.ep_cscf.engine.effects import MediaAnswer, MediaFailed, MediaOffer, Side


class Calls:
    """All calls; ``ask`` takes each question to the gateway."""

    def __init__(self, tokens: Tokens, ask: Callable[[MediaOffer | MediaAnswer], None]) -> None:
        self._random = tokens
        self._ask = ask
        self._calls: dict[CallKey, Call] = {}
        self._of_party: dict[str, dict[CallKey, Call]] = {}
        self._of_media: dict[str, Call] = {}
        self._jobs: dict[str, tuple[Call, Job]] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, key: CallKey) -> bool:
        return key in self._calls

    def add(self, key: CallKey, invite: Key) -> Call:
        """Begin a call."""
        call = self._calls[key] = Call(key, self._random(16), invite)
        self._of_party.setdefault(call.party, {})[key] = call
        self._of_media[call.media_id] = call
        return call

    def remove(self, call: Call) -> None:
        """Forget a call; a question that the gateway has before it stays known until it is answered."""
        del self._calls[call.key], self._of_media[call.media_id]
        mine = self._of_party[call.party]
        del mine[call.key]
        if not mine:
            del self._of_party[call.party]

    def of_party(self, party: str) -> list[Call]:
        """The calls of a registration."""
        return list(self._of_party.get(party, {}).values())

    def of_media(self, media_id: str) -> Call | None:
        """The call by its name at the gateway."""
        return self._of_media.get(media_id)

    def get(self, key: CallKey) -> Call | None:
        """The call of this name."""
        return self._calls.get(key)

    def find(self, request: Request, side: Side, party: str) -> tuple[Call | None, Dialog | None]:
        """The call and dialog of a request within one."""
        to_tag, from_tag = request.to.tag, request.from_.tag or ""
        if to_tag is None:
            return None, None
        for caller, callee, whose in ((from_tag, to_tag, side), (to_tag, from_tag, other(side))):
            call = self._calls.get((party, request.call_id, caller, whose))
            if call is not None and (dialog := call.dialogs.get(callee)) is not None:
                return call, dialog
        return None, None

    def ask(self, call: Call, job: Job) -> None:
        """Put a question behind those that the call has already."""
        call.jobs.append(job)
        self._next(call)

    def answered(self, key: str, answer: SessionDescription | MediaFailed, now: float) -> Call | None:
        """Do what waited for an answer; return the call if it is over, so that its media can be deleted now."""
        call, job = self._jobs.pop(key, (None, None))
        if call is None or job is None:
            return None
        call.job = None
        if call.ended:
            return call
        if isinstance(answer, MediaFailed):
            job.failed(answer, now)
        else:
            job.done(answer, now)
        if not call.ended:
            self._next(call)
        return None

    def waiting(self, call: Call) -> list[Job]:
        """What the call waits for."""
        asked = [self._jobs[call.job][1]] if call.job is not None else []
        return [*asked, *call.jobs]

    def _next(self, call: Call) -> None:
        if call.job is not None or not call.jobs:
            return
        job = call.jobs.popleft()
        self._count += 1
        call.job = f"media-{self._count}"
        self._jobs[call.job] = (call, job)
        self._ask(job.output(call.job))
