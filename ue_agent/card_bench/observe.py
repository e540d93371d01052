"""A transport that lets somebody look on: every command with its answer and the time it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ue_agent.uicc.transport import CardTransport


@dataclass(frozen=True, slots=True)
class Exchange:
    """One command and its answer, as the transport carried them.  Not redacted."""

    at: float
    """When the command left, seconds since the epoch."""
    seconds: float
    """Until the answer was there."""
    command: bytes = field(repr=False)
    answer: bytes = field(repr=False)
    """Response data without the status word."""
    sw: int


type Observer = Callable[[Exchange], None]


class ObservedTransport:
    """See ``CardTransport``; ``observe`` is called after each command that was answered."""

    def __init__(self, transport: CardTransport, observe: Observer) -> None:
        self._transport = transport
        self._observe = observe
        self.t0 = transport.t0

    def transmit(self, apdu: bytes) -> tuple[bytes, int]:
        """See ``CardTransport``."""
        at, start = time.time(), time.perf_counter()
        answer, sw = self._transport.transmit(apdu)
        self._observe(Exchange(at, time.perf_counter() - start, apdu, answer, sw))
        return answer, sw

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See ``CardTransport``."""
        with self._transport.transaction():
            self.t0 = self._transport.t0  # another program's reset may have led to another protocol
            yield

    def reset(self) -> None:
        """See ``CardTransport``."""
        self._transport.reset()
        self.t0 = self._transport.t0

    def close(self) -> None:
        """See ``CardTransport``."""
        self._transport.close()
