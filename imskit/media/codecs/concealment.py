"""Loss concealment for codecs that have none: the last frame again, fading to silence (after G.711 appendix I)."""

from __future__ import annotations

import numpy as np

_FADE_FRAMES = 3


class Repeater:
    """Keeps the last good frame of 20 ms, and repeats it quieter and quieter."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._last = np.zeros(samples, np.float32)
        self._repeated = 0

    def heard(self, pcm: bytes) -> None:
        """Take decoded speech."""
        speech = np.frombuffer(pcm, np.int16)
        if len(speech) >= self._samples:
            self._last = speech[-self._samples :].astype(np.float32)
            self._repeated = 0

    def conceal(self) -> bytes:
        """Give the next frame in place of a lost one."""
        start = max(0.0, 1 - self._repeated / _FADE_FRAMES)
        end = max(0.0, 1 - (self._repeated + 1) / _FADE_FRAMES)
        self._repeated += 1
        fade = np.linspace(start, end, self._samples, endpoint=False, dtype=np.float32)
        return (self._last * fade).astype(np.int16).tobytes()
