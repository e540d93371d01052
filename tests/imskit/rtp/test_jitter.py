"""The reordering buffer: order restored, at most one frame of delay, losses declared once."""

from hypothesis import given
from hypothesis import strategies as st

from imskit.rtp.jitter import Lost, ReorderBuffer


def test_in_order_passes_at_once() -> None:
    buffer: ReorderBuffer[str] = ReorderBuffer()
    assert buffer.push(65535, "a", 0.0) == ["a"]
    assert buffer.push(0, "b", 0.02) == ["b"]
    assert buffer.deadline() is None


def test_swapped_packets_come_out_in_order() -> None:
    buffer: ReorderBuffer[str] = ReorderBuffer()
    buffer.push(1, "a", 0.0)
    assert buffer.push(3, "c", 0.021) == []
    assert buffer.deadline() == 0.021 + 0.020
    assert buffer.push(2, "b", 0.025) == ["b", "c"]
    assert buffer.deadline() is None


def test_a_loss_is_declared_after_one_frame() -> None:
    buffer: ReorderBuffer[str] = ReorderBuffer()
    buffer.push(1, "a", 0.0)
    assert buffer.push(4, "d", 0.020) == []
    assert buffer.expire(0.039) == []
    assert buffer.expire(0.040) == [Lost(2), "d"]
    assert buffer.push(2, "b", 0.050) == []
    assert buffer.late == 1


def test_the_next_packet_declares_it_too() -> None:
    buffer: ReorderBuffer[str] = ReorderBuffer()
    buffer.push(1, "a", 0.0)
    assert buffer.push(3, "c", 0.020) == []
    assert buffer.push(4, "d", 0.041) == [Lost(1), "c", "d"]


def test_duplicates_are_dropped() -> None:
    buffer: ReorderBuffer[str] = ReorderBuffer()
    buffer.push(1, "a", 0.0)
    assert buffer.push(1, "a", 0.0) == []
    buffer.push(3, "c", 0.0)
    assert buffer.push(3, "c", 0.0) == []
    assert buffer.late == 2


def test_a_far_jump_starts_afresh() -> None:
    buffer: ReorderBuffer[str] = ReorderBuffer()
    buffer.push(1, "a", 0.0)
    buffer.push(3, "c", 0.02)
    assert buffer.push(30000, "x", 0.03) == [Lost(1), "c", "x"]
    assert buffer.push(30001, "y", 0.05) == ["y"]


@given(st.permutations(range(30)), st.integers(0, 0xFFFF), st.sets(st.integers(1, 29)))
def test_everything_is_accounted_for(order: list[int], base: int, missing: set[int]) -> None:
    """Whatever the order and loss: output is in sequence, each number delivered, lost or late; none waits long."""
    buffer: ReorderBuffer[int] = ReorderBuffer(hold=0.020)
    arrived: dict[int, float] = {}
    position = 0
    late = 0
    order = [0, *[number for number in order if number and number not in missing]]
    for index, number in enumerate(order):
        now = index * 0.003
        arrived[number] = now
        before = buffer.late
        output = buffer.push(base + number & 0xFFFF, number, now)
        late += buffer.late - before
        for item in output:
            if isinstance(item, Lost):
                position += item.count
            else:
                assert item == position
                assert now - arrived[item] < 0.020 + 0.003
                position += 1
    for item in buffer.expire(1000.0):
        if isinstance(item, Lost):
            position += item.count
        else:
            assert item == position
            position += 1
    assert position == max(order) + 1
    assert buffer.deadline() is None
