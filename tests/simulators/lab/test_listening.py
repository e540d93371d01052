"""Speech counts from a stretch in which the sound cards kept time."""

from __future__ import annotations

import time

import numpy as np
import pytest

from simulators.lab import listening
from simulators.lab.listening import Sleeper, last, listen
from simulators.lab.speech import RATE


class Card:
    """A sound card that stands still at certain times (seconds since it began to record), for so many milliseconds."""

    def __init__(self, clock: str, *stops: tuple[float, float]) -> None:
        self._clock = clock
        self._stops = stops
        self._begin = 0.0

    async def listen(self) -> None:
        self._begin = time.monotonic()

    async def clocks(self) -> dict[str, tuple[float, float]]:
        passed = time.monotonic() - self._begin
        behind = sum(ms for at, ms in self._stops if passed >= at)
        clocks = dict.fromkeys(("microphone", "loudspeaker", "recording"), (1000 * passed, 1000 * passed))
        clocks[self._clock] = (1000 * passed, 1000 * passed - behind)
        return clocks


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(listening, "_SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(listening, "_HELD_UP_SECONDS", 60.0)  # this machine's own stops are not the matter here


async def run(*cards: Card, longest: float = 10.0) -> tuple[float, str, list[str]]:
    """How long it took, what is noted, and what was told."""
    told: list[str] = []
    begin = time.monotonic()
    note = await listen(cards, told.append, seconds=0.4, longest=longest)
    return time.monotonic() - begin, note, told


async def test_an_even_stretch_is_enough() -> None:
    took, note, told = await run(Card("microphone"), Card("microphone"))
    assert (note, told) == ("", [])
    assert took >= 0.4


@pytest.mark.parametrize(("clock", "ms"), [("microphone", 30), ("loudspeaker", 30), ("recording", 500)])
async def test_what_was_heard_before_a_clock_stood_still_does_not_count(clock: str, ms: float) -> None:
    took, note, told = await run(Card("microphone"), Card(clock, (0.2, ms)))
    assert took >= 0.2 + 0.1 + 0.4
    assert note == ""
    assert told == [f"the machine was held up ({clock} {ms:.0f} ms): listening anew"]


async def test_a_buffer_of_the_sound_card_does_not_matter() -> None:
    _, note, told = await run(Card("microphone", (0.1, 10), (0.3, 10)), Card("recording", (0.2, 171)))
    assert (note, told) == ("", [])


async def test_a_machine_that_never_runs_evenly_is_said_so() -> None:
    stops = tuple((0.1 * index, 50.0) for index in range(1, 100))
    took, note, told = await run(Card("microphone", *stops), longest=1.0)
    assert 1.0 <= took < 5
    assert note == "this machine did not run evenly for 0 s within 1 s"
    assert told


async def test_the_machine_itself_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_HELD_UP_SECONDS", 0.04)
    lates = iter([0.0, 0.2])
    monkeypatch.setattr(Sleeper, "late", lambda self: next(lates, 0.0))
    _, note, told = await run(Card("microphone"))
    assert note == ""
    assert told == ["the machine was held up (machine 200 ms): listening anew"]


def test_a_sleeper_notices_that_it_could_not_run() -> None:
    with Sleeper() as sleeper:
        time.sleep(0.05)
        sleeper.late()
        sum(range(20_000_000))  # holds the interpreter all the while
        assert sleeper.late() > 0.05


def test_what_counts_is_the_end() -> None:
    samples = np.arange(3 * RATE, dtype=np.int16)
    assert last(samples, 1.0).tolist() == samples[-RATE:].tolist()
    assert len(last(samples, 10.0)) == 3 * RATE
