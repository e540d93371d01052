"""Speech with a known delay is found with that delay."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.lab.compare.sound import Recording, delay_ms, find
from simulators.lab.speech import LENGTH_SECONDS, RATE, Samples
from simulators.lab.world import LabError


@pytest.fixture(scope="module")
def spoken() -> Samples:
    """One round: noise in syllables, which nothing else is like."""
    generator = np.random.default_rng(3)
    loudness = np.repeat(generator.uniform(0, 1, int(LENGTH_SECONDS * 5)) ** 3, RATE // 5)
    return (9000 * loudness * generator.standard_normal(len(loudness)).clip(-3, 3)).astype(np.int16)


@pytest.mark.parametrize("milliseconds", [0, 1, 85, 1500])
def test_the_delay_is_found_to_the_millisecond(spoken: Samples, milliseconds: int) -> None:
    """Both are recorded from different moments on, and the ear is in another round than the mouth."""
    loop = np.tile(spoken, 4)
    mouth = Recording(loop[3 * RATE :][: 16 * RATE], at=103.0)
    late = np.concatenate([np.zeros(milliseconds * RATE // 1000, np.int16), loop])
    ear = Recording(late[5 * RATE :][: 16 * RATE], at=105.0)
    there, here = find(spoken, ear), find(spoken, mouth)
    assert delay_ms(here.at, there.at, LENGTH_SECONDS) == pytest.approx(milliseconds, abs=1.0)


def test_other_sound_is_not_taken_for_it(spoken: Samples) -> None:
    noise = (3000 * np.random.default_rng(9).standard_normal(16 * RATE)).clip(-9000, 9000).astype(np.int16)
    with pytest.raises(LabError, match="not recognised"):
        find(spoken, Recording(noise, 0.0))


def test_too_short_a_recording_says_so(spoken: Samples) -> None:
    with pytest.raises(LabError, match=r"only 2\.0 s"):
        find(spoken, Recording(spoken[: 2 * RATE], 0.0))


def test_rounds_of_the_loop_do_not_count() -> None:
    assert delay_ms(10.0, 10.1, LENGTH_SECONDS) == pytest.approx(100)
    assert delay_ms(10.0, 10.1 + 3 * LENGTH_SECONDS, LENGTH_SECONDS) == pytest.approx(100)
    assert delay_ms(10.0 + LENGTH_SECONDS, 10.1, LENGTH_SECONDS) == pytest.approx(100)
    assert delay_ms(10.0, 9.99, LENGTH_SECONDS) == pytest.approx(-10)
