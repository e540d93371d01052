"""The user's own typing is no part of a log-in."""

from __future__ import annotations

from simulators.lab.compare.page import _waited


def test_time_in_front_of_a_form_is_left_out() -> None:
    assert _waited([("out", 100.0), ("in", 950.0)], [700.0]) == 600.0
    assert _waited([("out", 100.0), ("out", 800.0), ("in", 1500.0)], [700.0, 1000.0]) == 800.0


def test_without_a_form_nothing_is_left_out() -> None:
    assert _waited([("in", 100.0)], []) == 0.0
    assert _waited([("in", 100.0)], [300.0]) == 0.0
