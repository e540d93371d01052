"""The anti-replay window (RFC 4303 3.4.3)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imskit.ipsec.engine.replay import WINDOW, ReplayWindow


def test_zero_is_never_good() -> None:
    assert not ReplayWindow().fresh(0)


def test_late_packets_within_the_window() -> None:
    window = ReplayWindow()
    window.accept(1000)
    assert not window.fresh(1000)
    assert window.fresh(1000 - WINDOW + 1) and not window.fresh(1000 - WINDOW)
    window.accept(1000 - WINDOW + 1)
    assert not window.fresh(1000 - WINDOW + 1)
    window.accept(0xFFFFFFFF)
    assert not window.fresh(1000) and window.fresh(0xFFFFFFFE)


@given(st.lists(st.integers(0, 1000), max_size=300))
def test_like_a_set_of_all_numbers(numbers: list[int]) -> None:
    """Beside the plainest implementation: remember everything."""
    window, seen, top = ReplayWindow(), {0}, 0
    for number in numbers:
        fresh = number not in seen and number > top - WINDOW
        assert window.fresh(number) is fresh
        if fresh:
            window.accept(number)
            seen.add(number)
            top = max(top, number)
    assert window.top == top
