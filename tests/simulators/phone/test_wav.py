"""WAV files in and out."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest

from simulators.phone.wav import FRAME_OCTETS, SILENCE, Recorder, Speaker, WavError


def make(path: Path, samples: int, *, rate: int = 16000, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as target:
        target.setnchannels(channels)
        target.setsampwidth(2)
        target.setframerate(rate)
        target.writeframes(b"\x01\x02" * samples * channels)
    return path


def test_once_and_then_silence(tmp_path: Path) -> None:
    speaker = Speaker(make(tmp_path / "a.wav", 400))
    assert speaker.frame() == b"\x01\x02" * 320
    assert speaker.frame() == b"\x01\x02" * 80 + bytes(480)
    assert speaker.finished
    assert speaker.frame() == SILENCE


def test_in_a_loop(tmp_path: Path) -> None:
    speaker = Speaker(make(tmp_path / "a.wav", 320), loop=True)
    assert {speaker.frame() for _ in range(5)} == {b"\x01\x02" * 320}
    assert not speaker.finished
    assert Speaker(make(tmp_path / "empty.wav", 0), loop=True).frame() == SILENCE
    assert Speaker(None, loop=True).frame() == SILENCE


@pytest.mark.parametrize(("rate", "channels", "words"), [(8000, 1, "8000 Hz"), (16000, 2, "2 channels")])
def test_another_format_is_refused_with_the_remedy(tmp_path: Path, rate: int, channels: int, words: str) -> None:
    with pytest.raises(WavError, match=words) as caught:
        Speaker(make(tmp_path / "a.wav", 320, rate=rate, channels=channels))
    assert "sox" in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"RIFF", b"no wave file at all, whatever its name says"])
def test_what_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WavError, match=r"a\.wav"):
        Speaker(path)


def test_the_recording_is_whole_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "r.wav"
    recorder = Recorder(path)
    for _ in range(3):
        recorder.write(bytes(FRAME_OCTETS))
    with wave.open(str(path), "rb") as source:
        assert source.getnframes() == 960
    recorder.close()
    with pytest.raises(WavError, match="cannot be written"):
        Recorder(tmp_path / "nowhere" / "r.wav")
