"""Distributions and differences of small samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 4000
_SEED = 1
"""Fixed: the same calls give the same interval."""
LEAST = 3
"""Fewer calls than this on a path say nothing about a difference."""


@dataclass(frozen=True)
class Summary:
    """A distribution."""

    n: int
    median: float
    p5: float
    p95: float
    """Percentiles interpolate linearly between order statistics (Hyndman and Fan's type 7)."""


@dataclass(frozen=True)
class Difference:
    """Of two medians, with a 95 % percentile-bootstrap confidence interval."""

    value: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def summary(values: Sequence[float]) -> Summary | None:
    """Return the distribution of ``values``, `None` of nothing."""
    if not values:
        return None
    low, middle, high = (float(value) for value in np.percentile(values, (5, 50, 95)))
    return Summary(len(values), round(middle, 4), round(low, 4), round(high, 4))


def difference(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Return median(second) - median(first); `None` where either has fewer than `LEAST` values."""
    if min(len(first), len(second)) < LEAST:
        return None
    generator = np.random.default_rng(_SEED)

    def medians(values: Sequence[float]) -> np.ndarray:
        sample = np.asarray(values, np.float64)
        return np.asarray(np.median(sample[generator.integers(0, len(sample), (_RESAMPLES, len(sample)))], axis=1))

    low, high = np.percentile(medians(second) - medians(first), (2.5, 97.5))
    value = float(np.median(second) - np.median(first))
    return Difference(round(value, 4), round(float(low), 4), round(float(high), 4))
