"""The seam under the card: one function that carries a command to it and its answer back.

Back ends: ``pcsc`` (readers), ``modem`` (an AT port), ``software`` (a card in a file, for laboratories) and
``in_process`` (tests).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


class CardTransport(Protocol):
    """A powered card.  All calls block and come from one thread.

    Every call may raise ``CardRemovedError``, ``CardUnresponsiveError`` and ``NoDaemonError``.
    """

    @property
    def t0(self) -> bool:
        """Whether the T=0 protocol is in use: a command then has no Le behind its data (ISO/IEC 7816-3 clause 12)."""

    def transmit(self, apdu: bytes) -> tuple[bytes, int]:
        """Send one command; return response data and status word, 61xx and 6Cxx included."""

    def transaction(self) -> AbstractContextManager[None]:
        """Keep other programs from the card; what was selected before it need not be selected any more."""

    def reset(self) -> None:
        """Reset the card: it forgets the PIN and what is selected."""

    def close(self) -> None:
        """Give the card back; never raises."""


@dataclass(frozen=True, slots=True)
class CardInserted:
    """A card is in the reader."""

    reader: str


@dataclass(frozen=True, slots=True)
class CardRemoved:
    """The reader is empty or gone."""

    reader: str


type CardEvent = CardInserted | CardRemoved


class CardBackend(Protocol):
    """Where cards come from."""

    laboratory: bool
    """Whether this is no SIM card at all but its key in a file."""

    def connect(self) -> CardTransport:
        """Power the card; raises ``NoDaemonError``, ``NoReaderError``, ``NoCardError``, ``CardUnresponsiveError``."""

    def watch(self, report: Callable[[CardEvent | None], None]) -> None:
        """Report each insertion and removal until ``stop``; runs in a thread of its own.

        Its first report is an insertion if a card is there, ``None`` if none is; then only changes follow.
        """

    def stop(self) -> None:
        """End ``watch``; callable from any thread, once."""
