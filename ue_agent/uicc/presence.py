"""From where a card is seen to the reports that ``CardBackend.watch`` owes."""

from __future__ import annotations

from collections.abc import Callable

from ue_agent.uicc.transport import CardEvent, CardInserted, CardRemoved


class Presence:
    """Which reader holds our card, and the reports that follow from a change of it."""

    def __init__(self, report: Callable[[CardEvent | None], None]) -> None:
        self.reader: str | None = None
        self.started = False
        self._report = report

    def update(self, reader: str | None, *, swapped: bool = False) -> None:
        """Take in where the card is now; ``swapped``: it was pulled and inserted since."""
        before, self.reader = self.reader, reader
        if not self.started:
            self.started = True
            self._report(None if reader is None else CardInserted(reader))
        elif reader != before or swapped:
            if before is not None:
                self._report(CardRemoved(before))
            if reader is not None:
                self._report(CardInserted(reader))
