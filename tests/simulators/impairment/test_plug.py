"""What the kernel is told where it has netem."""

from __future__ import annotations

from simulators.impairment.engine import Impairment
from simulators.impairment.plug import netem_arguments


def test_netem_gets_the_same_impairment() -> None:
    words = netem_arguments(Impairment(loss=0.02, delay=0.05, jitter=0.01, rate=1e6))
    assert " ".join(words) == "delay 50000us 10000us loss 2% rate 1000000bit limit 30"


def test_what_is_not_impaired_is_not_named() -> None:
    assert netem_arguments(Impairment(loss=0.5)) == ["loss", "50%"]
