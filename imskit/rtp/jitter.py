"""A reordering buffer: puts a stream back in sequence at the cost of at most one frame of delay.

It is no play-out buffer: a packet in order passes at once.  Only when a number is missing are later packets
held, until it comes or ``hold`` seconds have passed; then it is declared lost, so that the decoder conceals it.
"""

from __future__ import annotations

from dataclasses import dataclass

_MAX_GAP = 100
"""A jump of more packets than this is a new stream, not a loss."""


@dataclass(frozen=True, slots=True)
class Lost:
    """``count`` packets in a row did not come in time."""

    count: int


class ReorderBuffer[Item]:
    """One source's packets in sequence.  ``hold`` is seconds; times are on one monotonic clock."""

    def __init__(self, hold: float = 0.020) -> None:
        self._hold = hold
        self._expected: int | None = None
        self._held: dict[int, tuple[Item, float]] = {}
        self.late = 0
        """Packets dropped because they came after they were declared lost, or twice."""

    def push(self, sequence_number: int, item: Item, now: float) -> list[Item | Lost]:
        """Take in a packet; return what is to be played now, in order."""
        if self._expected is None:
            self._expected = sequence_number
        distance = (sequence_number - self._expected + 0x8000) % 0x10000 - 0x8000
        output: list[Item | Lost] = []
        if abs(distance) > _MAX_GAP:
            output = self._flush()
            self._expected, distance = sequence_number, 0
        if distance < 0 or sequence_number in self._held:
            self.late += 1
            return output + self.expire(now)
        if distance == 0 and not self._held:  # the usual case
            self._expected = sequence_number + 1 & 0xFFFF
            output.append(item)
            return output
        self._held[sequence_number] = (item, now)
        output += self._in_sequence()
        return output + self.expire(now)

    def expire(self, now: float) -> list[Item | Lost]:
        """Give up on what is missing for too long; call at ``deadline()``."""
        output: list[Item | Lost] = []
        while self._held and now >= min(at for _, at in self._held.values()) + self._hold:
            output.append(self._skip())
            output += self._in_sequence()
        return output

    def deadline(self) -> float | None:
        """When to call ``expire`` next, None while nothing is held."""
        return min(at for _, at in self._held.values()) + self._hold if self._held else None

    def _in_sequence(self) -> list[Item | Lost]:
        output: list[Item | Lost] = []
        while self._expected in self._held:
            output.append(self._held.pop(self._expected)[0])
            self._expected = self._expected + 1 & 0xFFFF
        return output

    def _skip(self) -> Lost:
        """Move to the next packet held, over what is missing."""
        assert self._expected is not None
        start = self._expected
        count = min((number - start) % 0x10000 for number in self._held)
        self._expected = start + count & 0xFFFF
        return Lost(count)

    def _flush(self) -> list[Item | Lost]:
        output: list[Item | Lost] = []
        while self._held:
            output.append(self._skip())
            output += self._in_sequence()
        return output
