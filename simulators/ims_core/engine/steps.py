"""The story of registrations and calls as the core sees it, without identities."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened once: ``register-401``, ``registered``, ``invite``, ``180``, ``200``, ``bye`` …"""

    name: str
    subscriber: int | None = None
    """The subscriber's place in the configuration, from 1."""
    call: str | None = None
    """Names the call: the same in all its steps."""


class CallSteps:
    """Makes each step of a call once, whatever is sent again."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()

    def step(self, name: str, call_id: str, subscriber: int | None = None) -> Step | None:
        """Return the step, ``None`` if this call has had it."""
        call = hashlib.sha256(call_id.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        if (name, call) in self._seen:
            return None
        self._seen[name, call] = None
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return Step(name, subscriber, call)
