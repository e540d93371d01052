"""Who hears whom in a conference."""

from __future__ import annotations

import numpy as np

from simulators.conference.mixer import Mixer
from simulators.phone.wav import FRAME_SAMPLES, SILENCE


def frame(value: int) -> bytes:
    return np.full(FRAME_SAMPLES, value, np.int16).tobytes()


def level(pcm: bytes) -> int:
    return int(np.frombuffer(pcm, np.int16)[0])


def test_everybody_hears_all_others() -> None:
    mixer = Mixer()
    a, b, c = mixer.port(), mixer.port(), mixer.port()
    for port, value in ((a, 100), (b, 200), (c, 400)):
        port.write(frame(value))
    assert [level(port.frame()) for port in (a, b, c)] == [600, 500, 300]
    assert a.frame() == SILENCE, "everything has been heard"


def test_loud_voices_are_limited() -> None:
    mixer = Mixer()
    a, b, c = mixer.port(), mixer.port(), mixer.port()
    b.write(frame(30000))
    c.write(frame(30000))
    assert level(a.frame()) == 32767
    b.write(frame(-30000))
    c.write(frame(-30000))
    assert level(a.frame()) == -32768


def test_one_who_speaks_too_fast_is_not_heard_late() -> None:
    mixer = Mixer()
    a, b = mixer.port(), mixer.port()
    for value in range(100):
        b.write(frame(value))
    assert level(a.frame()) == 95, "at most a tenth of a second waits"


def test_who_has_left_is_not_heard() -> None:
    mixer = Mixer()
    a, b, c = mixer.port(), mixer.port(), mixer.port()
    b.write(frame(1000))
    b.close()
    c.write(frame(5))
    b.write(frame(1000))
    assert level(a.frame()) == 5
    b.close()
    assert mixer.port().frame() == SILENCE


def test_half_a_frame_counts_for_nothing() -> None:
    mixer = Mixer()
    a, b = mixer.port(), mixer.port()
    b.write(frame(7)[:10])
    assert a.frame() == SILENCE
