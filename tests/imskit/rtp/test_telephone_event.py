"""Telephone events: RFC 4733 sections 2.3-2.5, sender and receiver, at every clock rate of a call."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.rtp.errors import RtpError
from imskit.rtp.packet import RtpPacket
from imskit.rtp.telephone_event import (
    DTMF,
    MAX_DURATION,
    EventChange,
    EventEnded,
    EventPacket,
    EventReport,
    EventStarted,
    TelephoneEventReceiver,
    TelephoneEventSender,
    event_of,
    parse_reports,
)

RATES = [8000, 16000, 48000]


def run(sender: TelephoneEventSender, frame: int, count: int, start: int = 0) -> list[EventPacket | None]:
    return [sender.packet(start + index * frame & 0xFFFFFFFF) for index in range(count)]


def report(packet: EventPacket | None) -> EventReport:
    assert packet is not None
    (only,) = parse_reports(packet.payload)
    return only


def test_layout() -> None:
    """Figure 1: event, E, R, volume, duration."""
    assert EventReport(11, True, 10, 1600).encode() == bytes.fromhex("0b8a0640")
    assert parse_reports(bytes.fromhex("0bca0640")) == [EventReport(11, True, 10, 1600)]  # R is ignored
    assert [event_of(key) for key in DTMF] == list(range(16))
    assert event_of("d") == 15
    for wrong in ("", "x", "12"):
        with pytest.raises(RtpError):
            event_of(wrong)


@pytest.mark.parametrize("rate", RATES)
def test_a_digit_of_100_ms(rate: int) -> None:
    """Marker on the first only, one timestamp, growing duration, three end packets alike."""
    frame = rate // 50
    sender = TelephoneEventSender(rate, frame)
    sender.press(event_of("5"), duration=0.1)
    packets = run(sender, frame, 9, start=0xFFFFFF00)
    sent = [packet for packet in packets if packet is not None]
    assert len(sent) == 7  # 20, 40, 60, 80, 100 ms, the last three times
    assert [packet.marker for packet in sent] == [True] + [False] * 6
    assert {packet.timestamp for packet in sent} == {0xFFFFFF00}
    reports = [report(packet) for packet in sent]
    assert [item.duration for item in reports] == [frame * n for n in (1, 2, 3, 4, 5, 5, 5)]
    assert [item.end for item in reports] == [False] * 4 + [True] * 3
    assert {item.event for item in reports} == {5}
    assert packets[7:] == [None, None]
    assert not sender.active


# RFC 4733 table 5, "911" at 8000 Hz and 50 ms a packet: marker, timestamp, event, duration, end.  The rows that the
# table leaves out follow from its text.
TABLE_5 = [
    *[(n == 1, 0, 9, 400 * n, False) for n in range(1, 5)],
    *[(False, 0, 9, 1600, True)] * 2,
    *[(n == 1, 7040, 1, 400 * n, False) for n in range(1, 6)],
    *[(False, 7040, 1, 2000, True)] * 2,
    *[(n == 1, 11200, 1, 400 * n, False) for n in range(1, 5)],
    *[(False, 11200, 1, 1760, True)] * 3,
]


def test_sender_follows_table_5() -> None:
    """The same packets; the end bit is set at once, which section 2.5.1.4 leaves open and the third digit shows."""
    assert len(TABLE_5) == 20
    sender = TelephoneEventSender(8000, 400, pause=0.0)
    sent: list[tuple[bool, int, int, int]] = []
    for start, key, seconds in ((0, "9", 0.2), (7040, "1", 0.25), (11200, "1", 0.22)):
        sender.press(event_of(key), duration=seconds)
        for packet in run(sender, 400, 8, start):
            if packet is not None:
                item = report(packet)
                sent.append((packet.marker, packet.timestamp, item.event, item.duration))
    assert sent == [row[:4] for row in TABLE_5]


def test_receiver_follows_table_5() -> None:
    receiver = TelephoneEventReceiver(8000)
    changes: list[EventChange] = []
    for _, timestamp, event, duration, end in TABLE_5:
        now = (timestamp + duration) / 8000
        changes += receiver.expire(now)
        changes += receiver.received(timestamp, EventReport(event, end, 10, duration).encode(), now)
    assert changes == [
        EventStarted(9, 10),
        EventEnded(9, 0.2, True),
        EventStarted(1, 10),
        EventEnded(1, 0.25, True),
        EventStarted(1, 10),
        EventEnded(1, 0.22, True),
    ]


def test_figure_3_of_rfc_4733() -> None:
    """Packet 18 of table 5 as octets, RTP header included."""
    data = bytes.fromhex("80640012 00002bc0 005234a8 019406e0".replace(" ", ""))
    packet = RtpPacket.parse(data)
    assert (packet.payload_type, packet.sequence_number, packet.timestamp, packet.ssrc) == (100, 18, 11200, 0x5234A8)
    assert parse_reports(packet.payload) == [EventReport(1, True, 20, 1760)]
    assert RtpPacket(100, 18, 11200, 0x5234A8, EventReport(1, True, 20, 1760).encode()).encode() == data


def test_two_digits_are_apart() -> None:
    sender = TelephoneEventSender(8000, 160, pause=0.040)
    sender.press(1, duration=0.04)
    sender.press(1, duration=0.04)
    packets = run(sender, 160, 12)
    assert [packet is not None for packet in packets] == [True] * 4 + [False] * 2 + [True] * 4 + [False] * 2
    second = packets[6]
    assert second is not None and second.marker and second.timestamp == 6 * 160


def test_held_until_released() -> None:
    sender = TelephoneEventSender(16000, 320)
    sender.press(3)
    assert all(not report(packet).end for packet in run(sender, 320, 10))
    sender.release()
    ends = run(sender, 320, 4, start=3200)
    assert [report(packet).duration for packet in ends[:3]] == [3200, 3200, 3200]
    assert ends[3] is None


def test_a_relayed_length_is_kept() -> None:
    """Released early with a length: played on to it; released late: not beyond what was reported."""
    sender = TelephoneEventSender(16000, 320)
    sender.press(3)
    run(sender, 320, 2)
    sender.release(0.1)
    reports = [report(packet) for packet in run(sender, 320, 5, start=640)]
    assert [item.duration for item in reports] == [960, 1280, 1600, 1600, 1600]
    sender = TelephoneEventSender(16000, 320)
    sender.press(3)
    run(sender, 320, 6)
    sender.release(0.05)
    reports = [report(packet) for packet in run(sender, 320, 3, start=1920)]
    assert [(item.duration, item.end) for item in reports] == [(1920, True)] * 3


def test_pressed_and_released_within_a_frame() -> None:
    sender = TelephoneEventSender(8000, 160)
    sender.press(0)
    sender.release()
    packets = run(sender, 160, 4)
    assert [report(packet).duration for packet in packets[:3]] == [160, 160, 160]
    assert packets[0] is not None and packets[0].marker
    assert packets[3] is None


@pytest.mark.parametrize(("rate", "seconds"), [(8000, 20.0), (48000, 3.0), (8000, 2 * MAX_DURATION / 8000)])
def test_long_events_go_on_in_segments(rate: int, seconds: float) -> None:
    """Section 2.5.1.3: segments of 0xFFFF, no marker, no end bit, contiguous; the sum is the length."""
    frame = rate // 50
    sender = TelephoneEventSender(rate, frame)
    sender.press(7, duration=seconds)
    packets = [packet for packet in run(sender, frame, int(seconds * 50) + 10, start=5000) if packet]
    assert [packet.marker for packet in packets] == [True] + [False] * (len(packets) - 1)
    segments = sorted({packet.timestamp for packet in packets})
    assert segments == [5000 + MAX_DURATION * n for n in range(len(segments))]
    for start in segments:
        reports = [report(packet) for packet in packets if packet.timestamp == start]
        assert all(item.duration > 0 for item in reports)
        if start == segments[-1]:
            assert [item.end for item in reports][-3:] == [True] * 3
        else:
            assert not any(item.end for item in reports)
            assert [item.duration for item in reports][-3:] == [MAX_DURATION] * 3
    total = (len(segments) - 1) * MAX_DURATION + report(packets[-1]).duration
    assert total == round(seconds * rate)
    assert receive(rate, packets)[-1] == EventEnded(7, total / rate, True)


def receive(rate: int, packets: list[EventPacket]) -> list[EventChange]:
    receiver = TelephoneEventReceiver(rate)
    changes: list[EventChange] = []
    now = 0.0
    for packet in packets:
        now += 0.02
        changes += receiver.expire(now)
        changes += receiver.received(packet.timestamp, packet.payload, now)
    return changes + receiver.expire(now + 10)


@given(
    st.sampled_from(RATES),
    st.integers(0, 15),
    st.floats(0.04, 0.5),
    st.sets(st.integers(0, 40)),
    st.integers(0, 0xFFFFFFFF),
)
def test_one_start_and_one_end_whatever_is_lost(
    rate: int, event: int, seconds: float, lost: set[int], start: int
) -> None:
    frame = rate // 50
    sender = TelephoneEventSender(rate, frame)
    sender.press(event, duration=seconds)
    packets = [packet for packet in run(sender, frame, 40, start) if packet]
    heard = [packet for index, packet in enumerate(packets) if index not in lost]
    if not heard:
        return
    receiver = TelephoneEventReceiver(rate, timeout=1.0)
    changes: list[EventChange] = []
    for packet in heard:
        changes += receiver.received(packet.timestamp, packet.payload, 0.0)
    changes += receiver.expire(10.0)
    assert changes[0] == EventStarted(event, 10)
    (end,) = changes[1:]
    assert isinstance(end, EventEnded)
    assert end.duration == max(report(packet).duration for packet in heard) / rate
    assert end.complete == any(report(packet).end for packet in heard)


@pytest.mark.parametrize("rate", RATES)
def test_a_relayed_digit_keeps_its_length_across_clocks(rate: int) -> None:
    """Received at one clock, sent at another: 200 ms stay 200 ms (users' trouble list, DTMF clock rate)."""
    source = TelephoneEventSender(rate, rate // 50)
    source.press(9, duration=0.2)
    packets = [packet for packet in run(source, rate // 50, 20) if packet]
    for target in RATES:
        relay = TelephoneEventSender(target, target // 50)
        receiver = TelephoneEventReceiver(rate)
        sent: list[EventPacket] = []
        for index in range(20):
            if index < len(packets):
                packet = packets[index]
                for change in receiver.received(packet.timestamp, packet.payload, index * 0.02):
                    if isinstance(change, EventStarted):
                        relay.press(change.event, volume=change.volume)
                    else:
                        relay.release(change.duration)
            out = relay.packet(index * (target // 50))
            if out is not None:
                sent.append(out)
        assert receive(target, sent) == [EventStarted(9, 10), EventEnded(9, 0.2, True)]


def test_reordered_and_repeated_reports() -> None:
    receiver = TelephoneEventReceiver(8000)
    early, late, end = (
        EventReport(1, flag, 10, ticks).encode() for flag, ticks in [(False, 160), (False, 320), (True, 480)]
    )
    assert receiver.received(1000, late, 0.0) == [EventStarted(1, 10)]
    assert receiver.received(1000, early, 0.0) == []
    assert receiver.received(1000, end, 0.02) == [EventEnded(1, 0.06, True)]
    assert receiver.received(1000, late, 0.03) == []
    assert receiver.received(1000, end, 0.04) == []
    # An earlier timestamp after the end is an overtaken packet; minutes later it is a stream that began anew.
    assert receiver.received(500, early, 0.05) == []
    assert receiver.received(500, early, 100.0) == [EventStarted(1, 10)]


def test_next_event_ends_the_one_whose_end_was_lost() -> None:
    receiver = TelephoneEventReceiver(8000)
    receiver.received(0, EventReport(1, False, 10, 320).encode(), 0.0)
    assert receiver.received(1600, EventReport(2, False, 12, 160).encode(), 0.1) == [
        EventEnded(1, 0.04, False),
        EventStarted(2, 12),
    ]


def test_a_tone_does_not_get_stuck() -> None:
    receiver = TelephoneEventReceiver(8000, timeout=0.15)
    receiver.received(0, EventReport(1, False, 10, 320).encode(), 1.0)
    assert receiver.deadline() == 1.15
    assert receiver.expire(1.1) == []
    assert receiver.expire(1.15) == [EventEnded(1, 0.04, False)]
    assert receiver.deadline() is None
    # No restart once it has stopped (section 2.5.2.2).
    assert receiver.received(0, EventReport(1, True, 10, 640).encode(), 1.2) == []


def test_several_events_in_a_packet() -> None:
    """Section 2.5.1.5: contiguous; each begins where the one before ended."""
    receiver = TelephoneEventReceiver(8000)
    payload = EventReport(1, True, 10, 800).encode() + EventReport(2, True, 10, 400).encode()
    assert receiver.received(0, payload, 0.0) == [
        EventStarted(1, 10),
        EventEnded(1, 0.1, True),
        EventStarted(2, 10),
        EventEnded(2, 0.05, True),
    ]
    assert receiver.received(0, payload, 0.02) == []


def test_zero_duration_is_ignored() -> None:
    receiver = TelephoneEventReceiver(8000)
    assert receiver.received(0, EventReport(1, False, 10, 0).encode(), 0.0) == []


@given(st.lists(st.tuples(st.integers(0, 0xFFFFFFFF), st.binary(max_size=12))))
def test_noise_raises_only_rtp_error(noise: list[tuple[int, bytes]]) -> None:
    receiver = TelephoneEventReceiver(8000)
    for index, (timestamp, payload) in enumerate(noise):
        try:
            receiver.received(timestamp, payload, index * 0.02)
        except RtpError:
            assert len(payload) % 4 or not payload


def test_press_refuses_what_cannot_be_sent() -> None:
    sender = TelephoneEventSender(8000, 160)
    with pytest.raises(RtpError):
        sender.press(256)
    with pytest.raises(RtpError):
        sender.press(1, volume=64)
    sender.release()  # nothing is held down
    assert sender.packet(0) is None
