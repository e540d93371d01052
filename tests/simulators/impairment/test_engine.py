"""The impaired link on a virtual clock."""

from __future__ import annotations

import contextlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.engine import Tick
from simulators.impairment.engine import QUEUE_SECONDS, Frame, Impairment, Link


def run(impairment: Impairment, sent: list[float], size: int = 200, seed: int = 1) -> tuple[list[float], Link]:
    """Send packets at the given times; returns when each arrived."""
    link = Link(impairment, Random(seed).random)
    arrived: list[tuple[float, int]] = []

    def drain(now: float) -> None:
        while (frame := link.poll()) is not None:
            arrived.append((now, int.from_bytes(frame.data[:4])))

    for number, at in enumerate(sent):
        while (due := link.deadline()) is not None and due <= at:
            link.handle(Tick(), due)
            drain(due)
        link.handle(Frame(number.to_bytes(4) + bytes(size - 4)), at)
        drain(at)
    while (due := link.deadline()) is not None:
        link.handle(Tick(), due)
        drain(due)
    assert [number for _, number in arrived] == sorted(number for _, number in arrived), "packets keep their order"
    return [at for at, _ in arrived], link


def test_nothing_is_changed_without_impairment() -> None:
    arrived, link = run(Impairment(), [0.0, 1.0, 1.0])
    assert arrived == [0.0, 1.0, 1.0]
    assert (link.lost, link.dropped) == (0, 0)


def test_delay_is_added_to_every_packet() -> None:
    arrived, _ = run(Impairment(delay=0.05), [0.0, 0.02, 0.04])
    assert arrived == pytest.approx([0.05, 0.07, 0.09])


def test_loss_is_as_often_as_asked() -> None:
    """5000 draws at 10 %: three standard deviations are 1.3 %."""
    arrived, link = run(Impairment(loss=0.1), [0.02 * n for n in range(5000)])
    assert link.lost + len(arrived) == 5000
    assert link.lost / 5000 == pytest.approx(0.1, abs=0.013)


def test_jitter_varies_the_delay_evenly_to_both_sides() -> None:
    sent = [0.2 * n for n in range(500)]
    arrived, _ = run(Impairment(delay=0.05, jitter=0.02), sent)
    delays = [there - here for here, there in zip(sent, arrived, strict=True)]
    assert 0.03 <= min(delays) < 0.033
    assert 0.067 < max(delays) <= 0.07
    assert sum(delays) / len(delays) == pytest.approx(0.05, abs=0.003)


def test_rate_sends_one_packet_after_the_other() -> None:
    """1000 octets at 80 kbit/s take 100 ms."""
    arrived, _ = run(Impairment(rate=80e3), [0.0, 0.0, 0.5], size=1000)
    assert arrived == pytest.approx([0.1, 0.2, 0.6])


def test_a_narrow_link_drops_what_its_queue_has_no_room_for() -> None:
    arrived, link = run(Impairment(rate=80e3), [0.0] * 100, size=700)
    assert len(arrived) == int(QUEUE_SECONDS / 0.07) + 1
    assert link.dropped == 100 - len(arrived)
    assert link.lost == 0


@given(st.lists(st.floats(0, 5), max_size=60), st.floats(0, 0.02), st.integers(0, 5))
def test_every_packet_arrives_once_or_is_counted(times: list[float], jitter: float, seed: int) -> None:
    sent = sorted(times)
    arrived, link = run(Impairment(loss=0.2, delay=0.02, jitter=jitter, rate=64e3), sent, seed=seed)
    assert len(arrived) + link.lost + link.dropped == len(sent)


def test_the_words_of_the_command_line() -> None:
    found = Impairment.parse("loss=2%,delay=50ms,jitter=10ms,rate=256k")
    assert found == Impairment(0.02, 0.05, 0.01, 256e3)
    assert str(found) == "loss=2%,delay=50ms,jitter=10ms,rate=256k"
    assert Impairment.parse(str(found)) == found
    assert Impairment.parse("rate=1.5M, delay=1s").rate == 1.5e6


@pytest.mark.parametrize(
    "text",
    ["", "loss", "loss=2", "loss=101%", "delay=50", "delay=-1ms", "rate=1k", "speed=3", "loss=1%,loss=2%",
     "jitter=20ms", "delay=10ms,jitter=20ms", "loss=nan%", "delay=1e9s", "rate=256kk"],
)  # fmt: skip
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Impairment.parse(text)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        Impairment.parse(text)
