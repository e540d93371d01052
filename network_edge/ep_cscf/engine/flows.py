"""The WebSocket connections of clients, and what each may do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from imskit.sip.wire.flow import Flow
from network_edge.ep_cscf.engine.settings import FlowLimits


@dataclass(slots=True)
class _State:
    allowance: float
    """Messages that may come at once."""
    seen: float
    idle_since: float
    """Since when nobody is registered over it."""
    pending: int = 0
    dropped: int = 0


class Flows:
    """Live connections with their counters: a token bucket each, and requests on their way."""

    def __init__(self, limits: FlowLimits) -> None:
        self._limits = limits
        self._states: dict[Flow, _State] = {}

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, flow: object) -> bool:
        return flow in self._states

    def message(self, flow: Flow, now: float) -> bool:
        """Count a message; false if it is too many and must be dropped."""
        limits = self._limits
        state = self._states.get(flow)
        if state is None:
            state = self._states[flow] = _State(float(limits.burst), now, now)
        gained = max(0.0, now - state.seen) * limits.messages_per_second
        state.allowance = min(float(limits.burst), state.allowance + gained)
        state.seen = now
        if state.allowance < 1.0:
            state.dropped += 1
            return False
        state.allowance -= 1.0
        return True

    def floods(self, flow: Flow) -> bool:
        """Whether so much was dropped that the connection is to go; true once."""
        state = self._states.get(flow)
        if state is None or state.dropped < self._limits.burst:
            return False
        state.dropped = 0
        return True

    def began(self, flow: Flow, *, registered: bool) -> bool:
        """Count a request on its way; false, uncounted, if there are too many."""
        state = self._states.get(flow)
        most = self._limits.transactions if registered else self._limits.unregistered_transactions
        if state is None or state.pending >= most:
            return False
        state.pending += 1
        return True

    def ended(self, flow: Flow) -> None:
        """A request that ``began`` has its end."""
        if (state := self._states.get(flow)) is not None and state.pending:
            state.pending -= 1

    def unused(self, registered: Callable[[Flow], bool], seconds: float, now: float) -> list[Flow]:
        """Return the connections over which nobody was registered for so long; to be asked now and then."""
        found = []
        for flow, state in self._states.items():
            if registered(flow):
                state.idle_since = now
            elif now - state.idle_since >= seconds:
                found.append(flow)
        return found

    def closed(self, flow: Flow) -> None:
        """The connection is gone."""
        self._states.pop(flow, None)
