"""Doubling and halving the sample rate by a linear-phase FIR filter: all that codecs at 8 and 16 kHz need."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_TAPS = 95
_CUT_OFF = 0.2375
"""Of the higher sample rate: 3.8 kHz between 8 and 16 kHz, which leaves the filter 0.4 kHz to fall."""


def _low_pass() -> npt.NDArray[np.float32]:
    position = np.arange(_TAPS) - (_TAPS - 1) / 2
    taps = 2 * _CUT_OFF * np.sinc(2 * _CUT_OFF * position) * np.kaiser(_TAPS, 7.0)
    scaled: npt.NDArray[np.float32] = (taps / taps.sum()).astype(np.float32)
    return scaled


class Resampler:
    """Converts a stream between two rates of which one is the double of the other; delay 47 samples of the higher."""

    def __init__(self, source_rate: int, target_rate: int) -> None:
        if target_rate not in (source_rate * 2, source_rate // 2) or source_rate % 2:
            raise ValueError(f"{source_rate} to {target_rate} Hz is neither doubling nor halving")
        self._up = target_rate > source_rate
        taps = _low_pass()
        self._phases = (2 * taps[0::2], 2 * taps[1::2]) if self._up else (taps, taps)
        self._history = np.zeros(max(len(phase) for phase in self._phases) - 1, np.float32)

    def convert(self, pcm: bytes) -> bytes:
        """Convert the next piece; it has an even number of samples."""
        samples = np.concatenate([self._history, np.frombuffer(pcm, np.int16).astype(np.float32)])
        kept = len(self._history)
        self._history = samples[-kept:]
        if self._up:
            result = np.empty(2 * (len(samples) - kept), np.float32)
            for phase, taps in enumerate(self._phases):
                result[phase::2] = np.convolve(samples[kept + 1 - len(taps) :], taps, "valid")
        else:
            result = np.convolve(samples, self._phases[0], "valid")[::2]
        return np.clip(np.rint(result), -32768, 32767).astype(np.int16).tobytes()
