"""Where known speech is found in recordings with a clock: mouth-to-ear delay and quality."""

from __future__ import annotations

from dataclasses import dataclass

from simulators.lab.speech import RATE, Samples, compare
from simulators.lab.world import LabError

LEAST_CORRELATION = 0.6
"""Of the envelopes: below it the speech was not found, and neither delay nor quality mean anything; other speech
reaches 0.5."""


@dataclass(frozen=True)
class Recording:
    """16 kHz mono, and when (monotonic seconds) its first sample was heard."""

    samples: Samples
    at: float

    def last(self, seconds: float) -> Recording:
        """Its end."""
        left_out = max(0, len(self.samples) - int(seconds * RATE))
        return Recording(self.samples[left_out:], self.at + left_out / RATE)


@dataclass(frozen=True)
class Heard:
    """Speech found in a recording."""

    at: float
    """When a round of it begins, monotonic seconds."""
    pesq: float | None
    correlation: float


def find(spoken: Samples, recording: Recording) -> Heard:
    """Find one round of ``spoken`` (16 kHz); `LabError` if it is not there."""
    quality = compare(spoken, recording.samples)
    if quality.correlation < LEAST_CORRELATION:
        raise LabError(f"the speech was not recognised in the recording (likeness {quality.correlation:.2f})")
    return Heard(recording.at + quality.offset_s, quality.pesq, quality.correlation)


def delay_ms(mouth: float, ear: float, period: float) -> float:
    """Milliseconds from a sound's leaving to its arriving.

    Rounds of the loop, ``period`` seconds each, are alike, so they do not count: the result begins at minus one second,
    because the clocks of two programs may differ by little, and a path's delay is not of seconds.
    """
    return 1000 * ((ear - mouth + 1.0) % period - 1.0)
