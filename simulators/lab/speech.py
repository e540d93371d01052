"""Known speech, and how well it came across.

Sentences of espeak-ng, others for each speaker, with silence around them so that they can be played in a loop; and
the comparison of what was heard with what was spoken: delay-aligned, by PESQ-WB (ITU-T P.862.2) where it is installed
and by the correlation of the envelopes.  A receiver changes its delay while it plays (NetEQ stretches and shortens
speech to follow the network), and a listener does not mind: as PESQ does, the envelopes are aligned piece by piece.
"""

from __future__ import annotations

import subprocess
import wave
from dataclasses import dataclass
from itertools import pairwise
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
_LOUD = 0.02
"""Of the loudest: what is below it is a pause."""
_PAUSE = 8
_LONGEST_PIECE = 80
"""Of the envelope's steps (10 ms): a longer pause parts two pieces, a longer piece is parted where it is quietest."""
_REACH = 25
"""How far a piece may be from where the whole round has it."""


@dataclass(frozen=True)
class Quality:
    """What was heard against what was spoken."""

    pesq: float | None
    """PESQ-WB, 1.0 to 4.64; ``None`` where the package ``pesq`` is not installed."""
    correlation: float
    """Of the envelopes, aligned piece by piece, -1 to 1.  Other speech reaches 0.5."""
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
    return Quality(_pesq(spoken, part), _likeness(spoken, heard, offset), offset / RATE)


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


def _likeness(spoken: Samples, heard: Samples, offset: int) -> float:
    """The correlation of the envelopes, each piece of speech taken from where it is to be found near its place."""
    pieces = _pieces(spoken)
    # What parts two pieces goes half with the one and half with the other.
    bounds = [0, *((end + begin) // 2 for (_, end), (begin, _) in pairwise(pieces)), len(spoken) // _ENVELOPE]
    found = np.zeros(bounds[-1] * _ENVELOPE, np.int16)
    for (begin, end), (first, last) in zip(pieces, pairwise(bounds), strict=True):
        shift = offset + _shift(spoken[begin * _ENVELOPE : end * _ENVELOPE], heard, offset + begin * _ENVELOPE)
        low, high = max(0, first * _ENVELOPE + shift), max(0, min(len(heard), last * _ENVELOPE + shift))
        found[low - shift : high - shift] = heard[low:high]
    with np.errstate(invalid="ignore"):
        correlation = np.corrcoef(_envelope(spoken), _envelope(found))[0, 1]
    return float(np.nan_to_num(correlation))


def _pieces(spoken: Samples) -> list[tuple[int, int]]:
    """Begin and end of each piece, in steps of the envelope."""
    envelope = _envelope(spoken)
    loud = np.flatnonzero(envelope > _LOUD * envelope.max())
    if not len(loud):
        raise LabError("nothing was spoken")
    parted = np.flatnonzero(np.diff(loud) > _PAUSE)
    begins, ends = loud[[0, *(parted + 1)]], loud[[*parted, len(loud) - 1]] + 1
    pieces = []
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        while end - begin > _LONGEST_PIECE:
            half = begin + _LONGEST_PIECE // 2
            middle = half + int(np.argmin(envelope[half : begin + _LONGEST_PIECE]))
            pieces.append((begin, middle))
            begin = middle
        pieces.append((begin, end))
    return pieces


def _shift(piece: Samples, heard: Samples, expected: int) -> int:
    """How many samples after ``expected`` the piece is, by the waveform."""
    reach = _REACH * _ENVELOPE
    first, last = max(0, expected - reach), min(len(heard), expected + len(piece) + reach)
    if last - first < len(piece):
        return 0
    window = heard[first:last].astype(np.float64)
    size = 2 * len(window)
    product = np.fft.rfft(window, size) * np.conj(np.fft.rfft(piece.astype(np.float64), size))
    match = np.fft.irfft(product)[: len(window) - len(piece) + 1]
    power = np.cumsum(np.concatenate(([0.0], window**2)))
    level = np.sqrt(power[len(piece) :] - power[: -len(piece)]) + 1.0  # of silence too
    return first + int(np.argmax(np.abs(match) / level)) - expected


def _envelope(samples: Samples) -> NDArray[np.float64]:
    whole = samples[: len(samples) // _ENVELOPE * _ENVELOPE].astype(np.float64)
    level: NDArray[np.float64] = np.sqrt((whole.reshape(-1, _ENVELOPE) ** 2).mean(axis=1))
    return level


def _pesq(spoken: Samples, heard: Samples) -> float | None:
    try:
        from pesq import NoUtterancesError, pesq
    except ImportError:
        return None
    if not heard.any():
        return 1.0  # of which the package makes an error
    try:
        return float(pesq(RATE, spoken, heard, "wb"))  # type: ignore[no-untyped-call]
    except NoUtterancesError:
        return 1.0
