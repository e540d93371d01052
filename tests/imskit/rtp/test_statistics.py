"""Reception statistics: RFC 3550 appendices A.1, A.3 and A.8, with figures worked out by hand."""

import pytest

from imskit.rtp.rtcp import ReportBlock, SenderReport
from imskit.rtp.statistics import ReceiverStatistics, SenderStatistics, ntp_timestamp


def feed(statistics: ReceiverStatistics, numbers: list[int], start: float = 0.0) -> list[bool]:
    return [
        statistics.packet_received(number & 0xFFFF, number * 160 & 0xFFFFFFFF, start + number * 0.02)
        for number in numbers
    ]


def test_two_packets_in_sequence_make_a_source() -> None:
    """Appendix A.1: MIN_SEQUENTIAL is 2; the count starts with the second."""
    statistics = ReceiverStatistics(1, 8000)
    assert feed(statistics, [10]) == [False]
    assert statistics.report_block(1.0) is None and statistics.lost == 0
    assert feed(statistics, [12, 13]) == [False, True]
    assert statistics.valid and statistics.received == 1


def test_loss_in_an_interval_and_in_all() -> None:
    """Appendix A.3: 8 of 16 expected are lost: fraction 128/256; the next interval is clean."""
    statistics = ReceiverStatistics(1, 8000)
    feed(statistics, [0, *range(1, 17, 2)])  # 1 is the base; 3, 5 … 15 follow
    block = statistics.report_block(1.0)
    assert block is not None
    assert (block.cumulative_lost, block.highest_sequence_number) == (7, 15)
    assert block.fraction_lost == 7 * 256 // 15
    feed(statistics, list(range(16, 20)))
    block = statistics.report_block(2.0)
    assert block is not None
    assert (block.fraction_lost, block.cumulative_lost) == (0, 7)


def test_duplicates_make_loss_negative() -> None:
    statistics = ReceiverStatistics(1, 8000)
    feed(statistics, [0, 1, 2, 2, 2])
    block = statistics.report_block(1.0)
    assert block is not None
    assert (block.cumulative_lost, block.fraction_lost) == (-2, 0)


def test_sequence_numbers_wrap() -> None:
    statistics = ReceiverStatistics(1, 8000)
    feed(statistics, list(range(65530, 65545)))
    assert statistics.highest_sequence_number == 65544
    assert statistics.lost == 0
    # A straggler from before the wrap is no new cycle.
    feed(statistics, [65534])
    assert statistics.highest_sequence_number == 65544


def test_a_jump_is_believed_when_the_next_follows() -> None:
    """Appendix A.1: one stray packet is dropped, two in sequence restart the source."""
    statistics = ReceiverStatistics(1, 8000)
    feed(statistics, [0, 1, 2])
    assert feed(statistics, [30000]) == [False]
    assert feed(statistics, [3]) == [True]
    assert feed(statistics, [40000, 40001, 40002]) == [False, True, True]
    assert statistics.lost == 0 and statistics.received == 2


def test_jitter_of_steady_arrivals_is_zero_and_grows_with_one_late_packet() -> None:
    """Section 6.4.1: J += (|D| - J) / 16; 10 ms late at 8000 Hz: D = 80, then back: 80 again."""
    statistics = ReceiverStatistics(1, 8000)
    feed(statistics, [0, 1, 2])
    assert statistics.jitter == pytest.approx(0, abs=1e-9)
    statistics.packet_received(3, 480, 0.06 + 0.010)
    assert statistics.jitter * 8000 == pytest.approx(80 / 16)
    statistics.packet_received(4, 640, 0.08)
    assert statistics.jitter * 8000 == pytest.approx(5 + (80 - 5) / 16)
    block = statistics.report_block(1.0)
    assert block is not None and block.jitter == 9


def test_timestamp_wrap_is_no_jitter() -> None:
    statistics = ReceiverStatistics(1, 8000)
    for number in range(10):
        timestamp = 0xFFFFFFFF - 400 + number * 160 & 0xFFFFFFFF
        statistics.packet_received(number, timestamp, number * 0.02)
    assert statistics.jitter == pytest.approx(0, abs=1e-9)


def test_last_sender_report_and_delay() -> None:
    statistics = ReceiverStatistics(1, 8000)
    feed(statistics, [0, 1])
    statistics.sender_report_received(SenderReport(1, 0x1122334455667788, 0, 0, 0), 10.0)
    block = statistics.report_block(12.5)
    assert block is not None
    assert (block.last_sender_report, block.delay) == (0x33445566, int(2.5 * 65536))


def test_sender_report_extrapolates_the_timestamp() -> None:
    statistics = SenderStatistics(7, 16000)
    assert statistics.sender_report(ntp_timestamp(0), 5.0) is None
    statistics.packet_sent(1000, 33, 5.0)
    statistics.packet_sent(1320, 33, 5.02)
    report = statistics.sender_report(ntp_timestamp(100.5), 5.03)
    assert report == SenderReport(7, 2208988900 << 32 | 1 << 31, 1320 + 160, 2, 66)


def test_round_trip_time_of_figure_2() -> None:
    """RFC 3550 section 6.4.1, figure 2: A 0xb710:8000, LSR 0xb705:2000, DLSR 0x0005:4000 give 6.125 s."""
    statistics = SenderStatistics(7, 8000)
    block = ReportBlock(7, 12, 34, 0, 56, 0xB7052000, 0x00054000)
    statistics.report_received(block, 0xB7108000 << 16)
    assert statistics.round_trip_time == 6.125
    assert statistics.remote is block
    statistics.report_received(ReportBlock(8, 0, 0, 0, 0, 1, 1), 0)
    assert statistics.remote is block
    # A delay longer than the time passed is a peer's clock fault, not a round trip of a day.
    statistics.report_received(ReportBlock(7, 0, 0, 0, 0, 0xB7052000, 0x000C0000), 0xB7108000 << 16)
    assert statistics.round_trip_time == 6.125


def test_ntp_time_of_the_unix_epoch() -> None:
    """RFC 5905 section 6: 1 January 1970 is 2,208,988,800 s of era 0."""
    assert ntp_timestamp(0) == 2208988800 << 32
    assert ntp_timestamp(0.25) & 0xFFFFFFFF == 1 << 30
