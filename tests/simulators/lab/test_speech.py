"""Speech is recognised, however a receiver has stretched it, and what is not the speech is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simulators.lab.measures import LEAST_CORRELATION, PESQ_MARGIN, rate_speech
from simulators.lab.speech import RATE, Samples, compare, make_speech, read_wav, resample, through
from simulators.lab.world import LabError


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_speech(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="module")
def spoken(files: dict[str, Path]) -> dict[str, Samples]:
    return {name: resample(*read_wav(path), RATE) for name, path in files.items()}


def looped(samples: Samples) -> Samples:
    """A recording that begins somewhere."""
    return np.tile(samples, 3)[int(1.3 * RATE) :]


def lost(share: float) -> Callable[[Samples], Samples]:
    """Without packets of 20 ms, at random."""

    def lose(samples: Samples) -> Samples:
        found = samples.copy()
        chance = np.random.default_rng(7)
        for start in range(0, len(found), RATE // 50):
            if chance.random() < share:
                found[start : start + RATE // 50] = 0
        return found

    return lose


def every_second_half_missing(samples: Samples) -> Samples:
    found = samples.copy()
    for start in range(0, len(found), RATE):
        found[start : start + RATE // 2] = 0
    return found


@pytest.mark.parametrize("speaker", ["browser", "phone", "laptop"])
def test_speech_through_its_codecs_is_good(files: dict[str, Path], spoken: dict[str, Samples], speaker: str) -> None:
    heard = looped(through(np.tile(spoken[speaker], 3), "opus", "AMR-WB"))
    found = rate_speech(heard, files[speaker], "opus", "AMR-WB", note="of no use")
    assert found.ok
    assert found.note == ""
    assert found.correlation > 0.97


@pytest.mark.parametrize("other", ["phone", "laptop"])
def test_other_speech_is_not_taken_for_it(files: dict[str, Path], spoken: dict[str, Samples], other: str) -> None:
    found = rate_speech(looped(spoken[other]), files["browser"], "opus", "AMR-WB", note="the reason")
    assert not found.ok
    assert found.note == "the reason"
    assert found.correlation < 0.6


@pytest.mark.parametrize("spoil", [lost(0.1), lost(0.3), every_second_half_missing, np.zeros_like])
def test_broken_speech_is_not_good(
    files: dict[str, Path], spoken: dict[str, Samples], spoil: Callable[[Samples], Samples]
) -> None:
    assert not rate_speech(spoil(looped(spoken["browser"])), files["browser"], "opus", "AMR-WB").ok


def test_half_of_the_speech_is_not_like_it(spoken: dict[str, Samples]) -> None:
    heard = every_second_half_missing(looped(spoken["browser"]))
    assert compare(spoken["browser"], heard).correlation < LEAST_CORRELATION


@pytest.mark.parametrize("milliseconds", [-80, -30, 30, 140])
def test_a_change_of_delay_between_words_is_followed(spoken: dict[str, Samples], milliseconds: int) -> None:
    """A jitter buffer does so; one alignment of the whole round made 0.5 to 0.8 of it."""
    speech = spoken["browser"]
    quiet = int(3.4 * RATE)  # between its two sentences
    shift = abs(milliseconds) * RATE // 1000
    changed = (
        np.concatenate([speech[:quiet], np.zeros(shift, np.int16), speech[quiet:-shift]])
        if milliseconds > 0
        else np.concatenate([speech[: quiet - shift], speech[quiet:], np.zeros(shift, np.int16)])
    )
    quality = compare(speech, np.tile(changed, 2))
    assert quality.correlation > 0.97
    assert quality.pesq is not None
    assert quality.pesq > 4.64 - PESQ_MARGIN


def test_too_little_was_heard(files: dict[str, Path], spoken: dict[str, Samples]) -> None:
    found = rate_speech(spoken["browser"][:RATE], files["browser"], "opus")
    assert not found.ok
    assert "only 1.0 s" in found.note


def test_there_is_no_judging_without_pesq(
    files: dict[str, Path], spoken: dict[str, Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pesq", None)
    with pytest.raises(LabError, match="pesq"):
        rate_speech(looped(spoken["browser"]), files["browser"], "opus")
