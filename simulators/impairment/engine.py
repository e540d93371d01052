"""What an impaired link does to packets, one direction at a time; no clock and no randomness of its own."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from imskit.engine import Tick

QUEUE_SECONDS = 0.3
"""What a narrow link holds back at most, in time to send it; more is dropped (tail drop)."""

_VALUE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(%|ms|s|k|M|)")
_UNITS = {
    "loss": {"%": 0.01},
    "delay": {"ms": 0.001, "s": 1.0},
    "jitter": {"ms": 0.001, "s": 1.0},
    "rate": {"": 1.0, "k": 1e3, "M": 1e6},
}
_LIMITS = {"loss": (0.0, 1.0), "delay": (0.0, 10.0), "jitter": (0.0, 10.0), "rate": (8e3, 1e10)}


@dataclass(frozen=True)
class Impairment:
    """Of each direction of a link."""

    loss: float = 0.0
    """Share of packets that are lost, each by itself: 0 to 1."""
    delay: float = 0.0
    """Seconds, added to every packet."""
    jitter: float = 0.0
    """Seconds: the delay varies evenly by so much to both sides; packets keep their order."""
    rate: float | None = None
    """Bits per second of IP and Ethernet header, `None`: no limit."""

    @classmethod
    def parse(cls, text: str) -> Impairment:
        """Read ``loss=2%,delay=50ms,jitter=10ms,rate=256k``; ``ValueError`` says what is wrong and what is meant."""
        found: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            if name not in _UNITS:
                raise ValueError(f"{name!r} is none of {', '.join(_UNITS)}; write loss=2%,delay=50ms")
            if name in found:
                raise ValueError(f"{name} is given twice")
            match = _VALUE.fullmatch(value)
            if match is None or match[2] not in _UNITS[name]:
                units = " or ".join(unit or "no unit" for unit in _UNITS[name])
                raise ValueError(f"{name}={value}: a number and {units} is wanted")
            found[name] = float(match[1]) * _UNITS[name][match[2]]
            low, high = _LIMITS[name]
            if not low <= found[name] <= high:
                raise ValueError(f"{name}={value} is out of range")
        if found.get("jitter", 0.0) > found.get("delay", 0.0):
            raise ValueError("jitter must not be more than delay: no packet comes before it was sent")
        return cls(**found)

    def __str__(self) -> str:
        parts = []
        if self.loss:
            parts.append(f"loss={100 * self.loss:g}%")
        if self.delay:
            parts.append(f"delay={1000 * self.delay:g}ms")
        if self.jitter:
            parts.append(f"jitter={1000 * self.jitter:g}ms")
        if self.rate is not None:
            parts.append(f"rate={self.rate / 1e6:g}M" if self.rate >= 1e6 else f"rate={self.rate / 1e3:g}k")
        return ",".join(parts)


@dataclass(frozen=True, slots=True)
class Frame:
    """A packet: enters the link as an event, leaves it as an output."""

    data: bytes


class Link:
    """One direction of a link: `Frame` in; `Frame` out, in order, when its time has come."""

    def __init__(self, impairment: Impairment, chance: Callable[[], float]) -> None:
        """``chance`` draws evenly from 0 up to, not including, 1."""
        self._impairment = impairment
        self._chance = chance
        self._free = 0.0
        self._last = 0.0
        self._under_way: deque[tuple[float, Frame]] = deque()
        self._out: deque[Frame] = deque()
        self.lost = 0
        """Packets that the link lost by chance."""
        self.dropped = 0
        """Packets for which its queue had no room."""

    def handle(self, event: Frame | Tick, now: float) -> None:
        """Take a packet, or notice the time."""
        if isinstance(event, Frame):
            self._enter(event, now)
        while self._under_way and self._under_way[0][0] <= now:
            self._out.append(self._under_way.popleft()[1])

    def _enter(self, frame: Frame, now: float) -> None:
        wanted = self._impairment
        if wanted.loss and self._chance() < wanted.loss:
            self.lost += 1
            return
        sent = now
        if wanted.rate is not None:
            begin = max(now, self._free)
            if begin - now > QUEUE_SECONDS:
                self.dropped += 1
                return
            sent = self._free = begin + 8 * len(frame.data) / wanted.rate
        vary = wanted.jitter * (2 * self._chance() - 1) if wanted.jitter else 0.0
        self._last = max(self._last, sent + wanted.delay + vary)
        self._under_way.append((self._last, frame))

    def poll(self) -> Frame | None:
        """The next packet that arrives, if its time has come."""
        return self._out.popleft() if self._out else None

    def deadline(self) -> float | None:
        """When the next packet arrives."""
        return self._under_way[0][0] if self._under_way else None
