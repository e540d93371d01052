"""Things to do at a time, on the engine's clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Alarm:
    """One thing to do at a time; `cancel` may be called at any moment, more than once."""

    __slots__ = ("action", "at")

    def __init__(self, at: float, action: Callable[[], None]) -> None:
        self.at = at
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Do not do it."""
        self.action = None


class Alarms:
    """A queue of `Alarm`."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, Alarm]] = []
        self._count = 0

    def set(self, at: float, action: Callable[[], None]) -> Alarm:
        """Do ``action`` at ``at`` seconds, after what was set for the same time before."""
        alarm = Alarm(at, action)
        self._count += 1
        heapq.heappush(self._queue, (at, self._count, alarm))
        return alarm

    def deadline(self) -> float | None:
        """When the next alarm is due."""
        while self._queue and self._queue[0][2].action is None:
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else None

    def run_due(self, now: float) -> bool:
        """Do the next thing that is due; False if there is none."""
        if (due := self.deadline()) is None or due > now:
            return False
        _, _, alarm = heapq.heappop(self._queue)
        action, alarm.action = alarm.action, None
        if action is not None:
            action()
        return True
