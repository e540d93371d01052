"""A reader inside this process, for tests: the card is an object, inserted and pulled by calls."""

from __future__ import annotations

import queue
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from ue_agent.uicc.errors import CardRemovedError, NoCardError
from ue_agent.uicc.transport import CardEvent, CardInserted, CardRemoved, CardTransport


class Card(Protocol):
    """What is inserted."""

    def reset(self) -> None:
        """The reader resets or powers the card."""

    def transmit(self, apdu: bytes) -> bytes:
        """Answer one command: data and status word."""


class InProcessReader:
    """A ``CardBackend`` with one slot."""

    name = "in-process reader"
    laboratory = False

    def __init__(self, card: Card | None = None, *, t0: bool = True) -> None:
        self._card = card
        self._t0 = t0
        self._events: queue.SimpleQueue[CardEvent | StopIteration] = queue.SimpleQueue()

    def insert(self, card: Card) -> None:
        """Put a card in."""
        card.reset()
        self._card = card
        self._events.put(CardInserted(self.name))

    def remove(self) -> None:
        """Pull the card: the command under way, if any, fails."""
        self._card = None
        self._events.put(CardRemoved(self.name))

    def holds(self, card: Card) -> bool:
        """Whether that very card is in."""
        return self._card is card

    def connect(self) -> CardTransport:
        """See ``CardBackend``."""
        if self._card is None:
            raise NoCardError(f"no card in {self.name}")
        self._card.reset()
        return _InProcessTransport(self, self._card, self._t0)

    def watch(self, report: Callable[[CardEvent | None], None]) -> None:
        """See ``CardBackend``."""
        report(CardInserted(self.name) if self._card is not None else None)
        while not isinstance(event := self._events.get(), StopIteration):
            report(event)

    def stop(self) -> None:
        """See ``CardBackend``."""
        self._events.put(StopIteration())


class _InProcessTransport:
    def __init__(self, reader: InProcessReader, card: Card, t0: bool) -> None:
        self.t0 = t0
        self._reader = reader
        self._card = card

    def transmit(self, apdu: bytes) -> tuple[bytes, int]:
        self._check()
        answer = self._card.transmit(apdu)
        self._check()
        return answer[:-2], int.from_bytes(answer[-2:])

    def transaction(self) -> AbstractContextManager[None]:
        self._check()
        return nullcontext()

    def reset(self) -> None:
        self._check()
        self._card.reset()

    def close(self) -> None:
        pass

    def _check(self) -> None:
        if not self._reader.holds(self._card):
            raise CardRemovedError("the card was pulled out of the reader")
