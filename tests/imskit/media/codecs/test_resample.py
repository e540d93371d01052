"""Doubling and halving the sample rate: what passes, what must not."""

from __future__ import annotations

import numpy as np
import pytest

from imskit.media.codecs import Resampler


def tone(rate: int, frequency: float, samples: int) -> np.ndarray:
    return 8000 * np.sin(2 * np.pi * frequency * np.arange(samples) / rate)


def convert(source: int, target: int, signal: np.ndarray) -> np.ndarray:
    resampler = Resampler(source, target)
    size = source // 50
    pcm = signal.astype(np.int16)
    return np.frombuffer(
        b"".join([resampler.convert(pcm[i : i + size].tobytes()) for i in range(0, len(pcm), size)]), np.int16
    ).astype(float)


@pytest.mark.parametrize("frequency", [100, 1000, 3200])
def test_speech_band_passes_with_a_delay_of_47_samples_of_the_higher_rate(frequency: float) -> None:
    up = convert(8000, 16000, tone(8000, frequency, 8000))
    expected = 8000 * np.sin(2 * np.pi * frequency * (np.arange(16000) - 47) / 16000)
    assert np.abs(up - expected)[200:].max() < 80
    down = convert(16000, 8000, tone(16000, frequency, 16000))
    expected = 8000 * np.sin(2 * np.pi * frequency * (2 * np.arange(8000) - 47) / 16000)
    assert np.abs(down - expected)[200:].max() < 80


@pytest.mark.parametrize("frequency", [4400, 5000, 7800])
def test_halving_does_not_alias(frequency: float) -> None:
    assert np.abs(convert(16000, 8000, tone(16000, frequency, 16000)))[200:].max() < 16


def test_doubling_makes_no_image() -> None:
    up = convert(8000, 16000, tone(8000, 3000, 8000))[400:]
    spectrum = np.abs(np.fft.rfft(up * np.hanning(len(up))))
    image = spectrum[int(4300 / 8000 * len(spectrum)) :].max()
    assert image < spectrum.max() / 500


def test_full_scale_is_clipped_not_wrapped() -> None:
    square = np.where(np.arange(1600) // 20 % 2, 32767, -32768)
    up = convert(8000, 16000, square)
    assert up.max() == 32767 and up.min() == -32768
    assert np.abs(np.diff(up)).max() < 50000


def test_other_ratios_are_refused() -> None:
    with pytest.raises(ValueError, match="neither"):
        Resampler(8000, 48000)
