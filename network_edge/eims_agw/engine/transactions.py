"""Commands answered once: a repeated one gets the same answer (the NG protocol's cookies).

UDP loses packets, so controllers repeat a command under the same cookie until an answer comes.  Doing it twice would
take ports twice.  Time is in seconds on any monotonic zero.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

KEEP_SECONDS = 30.0
"""Longer than any controller repeats."""
LIMIT = 20000
"""Answers kept at most; the oldest goes first."""


@dataclass(slots=True)
class _Entry:
    until: float
    answer: bytes | None = None


class Transactions:
    """The commands of late, by sender and cookie."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self.repeated = 0
        """Commands that came again."""

    def __len__(self) -> int:
        return len(self._entries)

    def begin(self, sender: str, cookie: str, now: float) -> tuple[bool, bytes | None]:
        """Take a command in; return whether it is new, and else its answer, None while it is being worked on."""
        while self._entries:
            oldest = next(iter(self._entries.values()))
            if oldest.until > now and len(self._entries) < self._limit:
                break
            self._entries.popitem(last=False)
        entry = self._entries.get((sender, cookie))
        if entry is not None:
            self.repeated += 1
            return False, entry.answer
        self._entries[(sender, cookie)] = _Entry(now + KEEP_SECONDS)
        return True, None

    def finish(self, sender: str, cookie: str, answer: bytes) -> None:
        """Keep the answer for repetitions."""
        entry = self._entries.get((sender, cookie))
        if entry is not None:
            entry.answer = answer
