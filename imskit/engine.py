"""The one contract of every state machine in this project.

An engine has no clock, no socket and no randomness of its own.  Its owner

1. calls ``handle(event, now)`` with what happened (``now`` in seconds, any monotonic zero),
2. drains ``poll()`` until it returns ``None``: what to send, what to ask, what happened,
3. calls ``handle(Tick(), now)`` no later than ``deadline()`` (``None``: nothing is waiting).

Every ``handle`` is followed by a full drain.  An effect that needs an answer (ask the card, resolve a
name, reserve a port) is an output too, and is completed by a later event.  Random values (tags, branches,
nonces) come from a ``Tokens`` source handed in, so a test can replay a whole call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

type Tokens = Callable[[int], str]
"""Returns a fresh unguessable token of ``n`` hex digits."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: the engine looks at its own deadlines."""


class Engine[Event, Output](Protocol):
    """What every machine offers; see the module's text."""

    def handle(self, event: Event | Tick, now: float) -> None:
        """Take in what happened at ``now`` (seconds)."""

    def poll(self) -> Output | None:
        """Return the next output, ``None`` when there is none left."""

    def deadline(self) -> float | None:
        """When to call ``handle(Tick(), now)`` next, ``None`` for never."""
