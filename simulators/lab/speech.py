"""Known speech, and how well it came across.

Sentences of espeak-ng, others for each speaker, with silence around them so that they can be played in a loop; and
the comparison of what was heard with what was spoken: delay-aligned, by PESQ-WB (ITU-T P.862.2) where it is installed
and by the correlation of the envelopes.
"""

from __future__ import annotations

import subprocess
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imskit.media.codecs import CodecSpec, make_decoder, make_encoder
from simulators.lab.world import LabError

type Samples = NDArray[np.int16]

RATE = 16_000
_TEXTS = {
    "browser": "The quick brown fox jumps over the lazy dog. How much wood would a woodchuck chuck?",
    "phone": "She sells sea shells by the sea shore. Every good boy deserves fine things, and so do you.",
    "laptop": "Peter Piper picked a peck of pickled peppers. The rain in Spain stays mainly in the plain.",
}
_VOICES = {"browser": "en-us", "phone": "en-gb", "laptop": "en-us"}
LENGTH_SECONDS = 7.0
"""Of one round of the loop, silence included."""
_LEAD_SECONDS = 0.5
_ENVELOPE = 160


@dataclass(frozen=True)
class Quality:
    """What was heard against what was spoken."""

    pesq: float | None
    """PESQ-WB, 1.0 to 4.64; ``None`` where the package ``pesq`` is not installed."""
    correlation: float
    """Of the envelopes, -1 to 1."""
    offset_s: float
    """Where in the recording the best round begins."""


def make_speech(folder: Path) -> dict[str, Path]:
    """Write ``browser.wav``, ``laptop.wav`` (48 kHz), ``phone.wav`` (16 kHz), mono 16 bit; return paths by speaker."""
    paths = {}
    for speaker, text in _TEXTS.items():
        raw = folder / f"{speaker}-raw.wav"
        try:
            subprocess.run(
                ["espeak-ng", "-v", _VOICES[speaker], "-s", "165", "-w", str(raw), text],
                check=True,
                capture_output=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise LabError(f"espeak-ng cannot make the speech: {error}: run scripts/setup") from error
        samples, rate = read_wav(raw)
        spoken = resample(samples, rate, RATE)
        whole = np.zeros(int(LENGTH_SECONDS * RATE), np.int16)
        start = int(_LEAD_SECONDS * RATE)
        spoken = spoken[: len(whole) - start]
        whole[start : start + len(spoken)] = spoken
        target = RATE if speaker == "phone" else 48_000
        paths[speaker] = folder / f"{speaker}.wav"
        write_wav(paths[speaker], resample(whole, RATE, target), target)
    return paths


def read_wav(path: Path) -> tuple[Samples, int]:
    """Return samples and rate of a mono 16-bit WAV, also of one that is still being written."""
    with wave.open(str(path), "rb") as source:
        data = source.readframes(source.getnframes())
        return np.frombuffer(data, np.int16), source.getframerate()


def write_wav(path: Path, samples: Samples, rate: int) -> None:
    """Write a mono 16-bit WAV."""
    with wave.open(str(path), "wb") as sink:
        sink.setnchannels(1)
        sink.setsampwidth(2)
        sink.setframerate(rate)
        sink.writeframes(samples.tobytes())


def resample(samples: Samples, rate: int, target: int) -> Samples:
    """Change the sample rate."""
    if rate == target:
        return samples
    import soxr

    changed: Samples = soxr.resample(samples, rate, target)
    return changed


def through(samples: Samples, *names: str) -> Samples:
    """Return what codecs alone, one after the other, make of 16 kHz speech: the best that a path of them can give."""
    for name in names:
        spec = CodecSpec(name)
        encoder, decoder = make_encoder(spec, RATE), make_decoder(spec, RATE)
        data = resample(samples, RATE, encoder.sample_rate).tobytes()
        octets = encoder.sample_rate // 50 * 2
        parts = []
        for start in range(0, len(data) - octets + 1, octets):
            payload = encoder.encode(data[start : start + octets])
            parts.append(decoder.conceal() if payload is None else decoder.decode(payload))
        samples = resample(np.frombuffer(b"".join(parts), np.int16), decoder.sample_rate, RATE)
    return samples


def compare(spoken: Samples, heard: Samples) -> Quality:
    """Find ``spoken`` (one round, 16 kHz) in ``heard`` (16 kHz) and rate it; `LabError` if too little was heard."""
    if len(heard) < len(spoken):
        raise LabError(f"only {len(heard) / RATE:.1f} s of speech were heard, {len(spoken) / RATE:.1f} s are needed")
    offset = _align(spoken, heard)
    part = heard[offset : offset + len(spoken)]
    envelope = np.corrcoef(_envelope(spoken), _envelope(part))[0, 1]
    return Quality(_pesq(spoken, part), float(np.nan_to_num(envelope)), offset / RATE)


def _align(spoken: Samples, heard: Samples) -> int:
    """The offset of the best match: coarse by envelopes, fine by the waveform."""
    coarse_spoken, coarse_heard = _envelope(spoken), _envelope(heard)
    scores = np.correlate(coarse_heard - coarse_heard.mean(), coarse_spoken - coarse_spoken.mean(), "valid")
    # Only whole rounds count: the last position at which a round fits is the last one looked at.
    coarse = int(np.argmax(scores)) * _ENVELOPE
    reach = 2 * _ENVELOPE
    first, last = max(0, coarse - reach), min(len(heard) - len(spoken), coarse + reach)
    window = heard[first : last + len(spoken)].astype(np.float64)
    fine = np.fft.irfft(
        np.fft.rfft(window, 2 * len(window)) * np.conj(np.fft.rfft(spoken.astype(np.float64), 2 * len(window)))
    )[: last - first + 1]
    return first + int(np.argmax(np.abs(fine)))


def _envelope(samples: Samples) -> NDArray[np.float64]:
    whole = samples[: len(samples) // _ENVELOPE * _ENVELOPE].astype(np.float64)
    level: NDArray[np.float64] = np.sqrt((whole.reshape(-1, _ENVELOPE) ** 2).mean(axis=1))
    return level


def _pesq(spoken: Samples, heard: Samples) -> float | None:
    try:
        from pesq import NoUtterancesError, pesq
    except ImportError:
        return None
    try:
        return float(pesq(RATE, spoken, heard, "wb"))  # type: ignore[no-untyped-call]
    except NoUtterancesError:
        return 1.0
