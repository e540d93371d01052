"""What is measured of a call, and how speech is judged: the same on every path."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from simulators.lab.speech import RATE, Samples, compare, read_wav, resample, through
from simulators.lab.world import LabError

PESQ_MARGIN = 0.3
"""How far the path may stay behind its codecs alone."""
LEAST_CORRELATION = 0.7
"""Other speech reaches about 0.3; a browser on a busy machine plays with gaps, which PESQ judges."""
PESQ_MARGIN_OF_TWO = 1.0
LEAST_CORRELATION_OF_TWO = 0.5


@dataclass
class Step:
    """One thing that must hold: when it happened, counted from the beginning of its part, or that it did not."""

    name: str
    ms: float | None = None
    ok: bool = True
    note: str = ""


@dataclass
class Direction:
    """Speech one way: the codecs on both sides, and how it arrived."""

    codecs: str = ""
    pesq: float | None = None
    pesq_codecs: float | None = None
    """Of the same speech through the same two codecs alone, without a network."""
    correlation: float = 0.0
    packets: int = 0
    added_ms: float | None = None
    ok: bool = False


@dataclass
class CallResult:
    """One call."""

    name: str
    steps: list[Step] = field(default_factory=list)
    to_phone: Direction = field(default_factory=Direction)
    to_browser: Direction = field(default_factory=Direction)
    near: str = "browser"
    """Who is called ``browser`` in ``to_browser``."""
    far: str = "phone"
    """Who is called ``phone`` in ``to_phone``."""

    @property
    def ok(self) -> bool:
        """Whether everything held."""
        return all(step.ok for step in self.steps) and self.to_phone.ok and self.to_browser.ok


def rate_speech(heard: Samples, speaker: Path, *codecs: str, browsers: int = 1) -> Direction:
    """Judge what was heard (16 kHz) of the speech in the file ``speaker``, against what ``codecs`` alone make of it.

    Of ``browsers`` that run side by side, each plays with more gaps when the machine is busy.
    """
    margin, least = (
        (PESQ_MARGIN, LEAST_CORRELATION) if browsers == 1 else (PESQ_MARGIN_OF_TWO, LEAST_CORRELATION_OF_TWO)
    )
    samples, rate = read_wav(speaker)
    spoken = resample(samples, rate, RATE)
    try:
        quality = compare(spoken, heard)
    except LabError:
        return Direction(ok=False)
    ideal = compare(spoken, through(np.tile(spoken, 3), *codecs))
    result = Direction(correlation=round(quality.correlation, 3), ok=quality.correlation >= least)
    if quality.pesq is not None and ideal.pesq is not None:
        result.pesq, result.pesq_codecs = round(quality.pesq, 2), round(ideal.pesq, 2)
        result.ok = result.ok and quality.pesq >= ideal.pesq - margin
    return result


def step(name: str, begin: float, at: float | None) -> Step:
    """Return the step ``name`` that happened at ``at`` (monotonic seconds), or did not."""
    if at is None:
        return Step(name, None, ok=False, note="did not happen")
    return Step(name, round(1000 * (at - begin), 1))
