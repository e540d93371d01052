"""The anti-replay window of an inbound association (RFC 4303 3.4.3)."""

from __future__ import annotations

WINDOW = 256
"""Packets that may come this much late; the RFC's default is 64."""

_MASK = (1 << WINDOW) - 1


class ReplayWindow:
    """Knows which of the latest sequence numbers have been seen."""

    __slots__ = ("_seen", "top")

    def __init__(self) -> None:
        self.top = 0
        """The highest authenticated sequence number."""
        self._seen = 1  # bit n: top - n; 0 is never sent, so it counts as seen

    def fresh(self, sequence: int) -> bool:
        """Whether a packet with this number may still be accepted."""
        behind = self.top - sequence
        return behind < 0 or (behind < WINDOW and not self._seen >> behind & 1)

    def accept(self, sequence: int) -> None:
        """Record an authenticated packet, whose number was ``fresh``."""
        ahead = sequence - self.top
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & _MASK if ahead < WINDOW else 1
            self.top = sequence
        else:
            self._seen |= 1 << -ahead
