"""What the phone speaks and what it heard: WAV files of 16 kHz, mono, 16 bit."""

from __future__ import annotations

import wave
from pathlib import Path

SAMPLE_RATE = 16000
FRAME_SAMPLES = SAMPLE_RATE // 50
FRAME_OCTETS = 2 * FRAME_SAMPLES
SILENCE = bytes(FRAME_OCTETS)


class WavError(Exception):
    """A WAV file that cannot be used; says which and why."""


class Speaker:
    """Gives a recording in frames of 20 ms, then silence."""

    def __init__(self, path: Path | None, *, loop: bool = False) -> None:
        """Raise ``WavError`` if the file cannot be read or has another format; without a path it is all silence."""
        self._pcm = _read(path) if path is not None else b""
        self._loop = loop and bool(self._pcm)
        self._position = 0

    @property
    def finished(self) -> bool:
        """Whether the recording has been spoken to its end."""
        return not self._loop and self._position >= len(self._pcm)

    def frame(self) -> bytes:
        """Return the next 20 ms at 16 kHz."""
        if self.finished:
            return SILENCE
        frame = self._pcm[self._position : self._position + FRAME_OCTETS]
        self._position += FRAME_OCTETS
        if len(frame) < FRAME_OCTETS:
            frame += bytes(FRAME_OCTETS - len(frame))
        if self._loop and self._position >= len(self._pcm):
            self._position = 0
        return frame


class Recorder:
    """Writes a WAV file; what has been written is in it at any moment."""

    def __init__(self, path: Path) -> None:
        """Begin the file anew; ``WavError`` if it cannot be written."""
        try:
            self._raw = path.open("wb")
        except OSError as error:
            raise WavError(f"{path} cannot be written: {error.strerror}") from error
        self._wave = wave.open(self._raw, "wb")  # noqa: SIM115  # closed by close()
        self._wave.setnchannels(1)
        self._wave.setsampwidth(2)
        self._wave.setframerate(SAMPLE_RATE)

    def write(self, pcm: bytes) -> None:
        """Append samples."""
        self._wave.writeframes(pcm)

    def close(self) -> None:
        """Complete the file."""
        try:
            self._wave.close()
        finally:
            self._raw.close()


def _read(path: Path) -> bytes:
    try:
        with wave.open(str(path), "rb") as source:
            shape = source.getframerate(), source.getnchannels(), source.getsampwidth()
            pcm = source.readframes(source.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise WavError(f"{path} cannot be played: {error}") from error
    if shape != (SAMPLE_RATE, 1, 2):
        raise WavError(
            f"{path} has {shape[0]} Hz, {shape[1]} channels, {8 * shape[2]} bit: 16000 Hz, mono, 16 bit are needed. "
            f"Convert it: sox {path} -r 16000 -c 1 -b 16 out.wav"
        )
    return pcm
