"""What is measured of a call, and how speech is judged: the same on every path."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from simulators.lab.speech import RATE, Samples, compare, read_wav, resample, through
from simulators.lab.world import LabError

PESQ_MARGIN = 0.3
"""How far the path may stay behind its codecs alone."""
PESQ_MARGIN_OF_TWO = 0.5
"""From browser to browser: what the first one's jitter does, the second one's buffer has to follow."""
_CODECS_OF_ONE = 2
LEAST_PACKETS = 600
"""Of those that were sent while both talked: 50 a second for 16 s at least."""
LATEST_SECONDS = 10.0
"""After which a step has not happened in time."""
LEAST_CORRELATION = 0.8
"""Other speech reaches 0.5, half of it 0.65, speech of which every tenth packet is lost 0.92."""


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
    note: str = ""
    """What is to be known of speech that was not good."""

    def count(self, packets: int) -> None:
        """Take how many packets were carried: too few are not good, however they sounded."""
        self.packets = packets
        if packets < LEAST_PACKETS:
            self.ok, self.note = False, f"only {packets} packets"


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


def rate_speech(heard: Samples, speaker: Path, *codecs: str, note: str = "") -> Direction:
    """Judge what was heard (16 kHz) of the speech in the file ``speaker``, against what ``codecs`` alone make of it.

    ``note`` is kept if it was not good.  `LabError` without the package ``pesq``: there is no judging without it.
    """
    samples, rate = read_wav(speaker)
    spoken = resample(samples, rate, RATE)
    ideal = compare(spoken, through(np.tile(spoken, 3), *codecs))
    if ideal.pesq is None:
        raise LabError("the package pesq, which judges speech, is not installed: run scripts/setup")
    try:
        quality = compare(spoken, heard)
    except LabError as error:
        return Direction(pesq_codecs=round(ideal.pesq, 2), note=str(error))
    pesq = quality.pesq or 0.0
    margin = PESQ_MARGIN if len(codecs) <= _CODECS_OF_ONE else PESQ_MARGIN_OF_TWO
    ok = quality.correlation >= LEAST_CORRELATION and pesq >= ideal.pesq - margin
    return Direction(
        pesq=round(pesq, 2),
        pesq_codecs=round(ideal.pesq, 2),
        correlation=round(quality.correlation, 3),
        ok=ok,
        note="" if ok else note,
    )


def step(name: str, begin: float, at: float | None) -> Step:
    """Return the step ``name`` that happened at ``at`` (monotonic seconds), or did not.

    One that took longer than `LATEST_SECONDS` does not hold.
    """
    if at is None:
        return Step(name, None, ok=False, note="did not happen")
    late = at - begin > LATEST_SECONDS
    return Step(name, round(1000 * (at - begin), 1), ok=not late, note="too late" if late else "")


def said(call: CallResult) -> str:
    """How speech was in ``call``, in a line."""
    ways = ((call.far, call.to_phone), (call.near, call.to_browser))
    return "; ".join(
        f"heard at the {name}: "
        + ("nothing" if way.pesq is None else f"PESQ {way.pesq:.2f} (its codecs alone {way.pesq_codecs:.2f})")
        + ("" if way.ok else f", not good{way.note and ': '}{way.note}")
        for name, way in ways
    )
