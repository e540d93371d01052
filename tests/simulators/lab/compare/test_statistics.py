"""Distributions and their differences, against values from elsewhere."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from simulators.lab.compare.statistics import difference, summary


def test_summary_is_that_of_the_standard_library() -> None:
    """``statistics.quantiles(method="inclusive")`` is the same type 7."""
    values = [3.0, 1.0, 9.0, 4.0, 4.5, 12.0, 7.0]
    found = summary(values)
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    assert found is not None
    assert found.n == 7
    assert found.median == statistics.median(values)
    assert (found.p5, found.p95) == (pytest.approx(cuts[0]), pytest.approx(cuts[-1]))


def test_nothing_has_no_distribution() -> None:
    assert summary([]) is None


def test_one_value_is_its_own_distribution() -> None:
    found = summary([5.0])
    assert found is not None
    assert (found.median, found.p5, found.p95) == (5.0, 5.0, 5.0)


def test_difference_of_clearly_different_samples() -> None:
    found = difference([100.0, 101.0, 99.0, 102.0], [150.0, 151.0, 149.0, 152.0])
    assert found is not None
    assert found.value == 50.0
    assert 46.0 <= found.low < 50.0 < found.high <= 54.0
    assert found.significant


def test_difference_of_like_samples_is_not_significant() -> None:
    found = difference([100.0, 120.0, 90.0, 110.0], [105.0, 95.0, 115.0, 101.0])
    assert found is not None
    assert not found.significant


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """100 pairs of samples of 20 whose medians are 10 apart: coverage of a percentile bootstrap, roughly 95 %."""
    generator = np.random.default_rng(7)
    held = 0
    for _ in range(100):
        found = difference(list(generator.normal(100, 10, 20)), list(generator.normal(110, 10, 20)))
        assert found is not None
        held += found.low <= 10 <= found.high
    assert 0.86 <= held / 100 <= 1.0


def test_too_few_calls_say_nothing() -> None:
    assert difference([1.0, 2.0], [1.0, 2.0, 3.0]) is None


def test_the_same_calls_give_the_same_interval() -> None:
    first, second = [1.0, 5.0, 3.0], [2.0, 6.0, 9.0]
    assert difference(first, second) == difference(first, second)
