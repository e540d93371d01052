"""The bridge between two legs on loopback sockets: relay, transcoding, DTMF, loss, reordering, hold, changes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from imskit.media.bridge import Bridge
from imskit.media.codecs import CodecSpec, make_decoder, make_encoder
from imskit.media.codecs.amr import payload_format
from imskit.media.plane import Address, LegId
from imskit.rtp.packet import RtpPacket
from imskit.rtp.telephone_event import DTMF, EventEnded, EventStarted, TelephoneEventReceiver, TelephoneEventSender
from imskit.sdp.attributes import Direction
from imskit.sdp.codec import AmrParameters
from imskit.sdp.interworking import plan as plan_of
from imskit.sdp.negotiation import AgreedCodec, LegMedia, MediaPlan

OPUS = AgreedCodec("opus", 48000, 2, 111, 111)
G722 = AgreedCodec("G722", 8000, 1, 9, 9)
WEB_PCMA = AgreedCodec("PCMA", 8000, 1, 8, 8)
IMS_PCMA = AgreedCodec("PCMA", 8000, 1, 8, 8)
AMR_WB = AgreedCodec("AMR-WB", 16000, 1, 104, 105, amr=AmrParameters())
EVENT_48 = AgreedCodec("telephone-event", 48000, 1, 110, 110)
EVENT_8 = AgreedCodec("telephone-event", 8000, 1, 126, 126)
IMS_EVENT_16 = AgreedCodec("telephone-event", 16000, 1, 96, 97)
IMS_EVENT_8 = AgreedCodec("telephone-event", 8000, 1, 98, 98)


def media(*codecs: AgreedCodec, direction: Direction = Direction.SENDRECV) -> LegMedia:
    sound = tuple(codec for codec in codecs if codec.encoding != "telephone-event")
    events = tuple(codec for codec in codecs if codec.encoding == "telephone-event")
    return LegMedia(0, True, sound, events, direction)


def plan(web: LegMedia, ims: LegMedia) -> MediaPlan:
    return plan_of(web, ims)


class Call:
    """A page and an IMS peer as plain sockets, two legs, the bridge."""

    def __init__(self, bench: Any, executor: ThreadPoolExecutor | None = None) -> None:
        self.bench = bench
        self.page, self.ims = bench.peer(), bench.peer()
        self.web_leg: LegId
        self.to_web: Address
        self.web_leg, self.to_web, _ = bench.plain_leg(self.page)
        self.ims_leg, self.to_ims, _ = bench.plain_leg(self.ims)
        self.bridge = Bridge(bench.plane, self.web_leg, self.ims_leg, executor=executor)

    def from_page(self, packet: RtpPacket) -> None:
        self.page.send(packet.encode(), self.to_web)

    def from_ims(self, packet: RtpPacket) -> None:
        self.ims.send(packet.encode(), self.to_ims)

    async def at_ims(self, count: int) -> list[RtpPacket]:
        return [RtpPacket.parse(await self.ims.receive()) for _ in range(count)]

    async def at_page(self, count: int) -> list[RtpPacket]:
        return [RtpPacket.parse(await self.page.receive()) for _ in range(count)]


@pytest.fixture
async def call(bench: Any) -> AsyncIterator[Call]:
    call = Call(bench)
    yield call
    call.bridge.close()


def opus_packets(pcm: np.ndarray, start: int = 100, ssrc: int = 0x1234) -> list[RtpPacket]:
    encoder = make_encoder(CodecSpec("opus"), 16000)
    frames = [pcm[i : i + 320].tobytes() for i in range(0, len(pcm) - 319, 320)]
    return [
        RtpPacket(111, (start + n) & 0xFFFF, 960 * n, ssrc, encoder.encode(frame) or b"")
        for n, frame in enumerate(frames)
    ]


def amr_packets(pcm: np.ndarray, spec: CodecSpec = CodecSpec("AMR-WB"), cmr: int | None = None) -> list[RtpPacket]:
    encoder, form = make_encoder(spec, 16000), payload_format(spec)
    packets = []
    for n, i in enumerate(range(0, len(pcm) - 319, 320)):
        payload = encoder.encode(pcm[i : i + 320].tobytes())
        if payload is not None:
            payload = form.pack(form.unpack(payload)[1], cmr)
            packets.append(RtpPacket(105, 7 + len(packets), 320 * n, 0x5678, payload))
    return packets


def heard(spec: CodecSpec, packets: list[RtpPacket], rate: int = 16000) -> np.ndarray:
    decoder = make_decoder(spec, rate)
    return np.frombuffer(b"".join([decoder.decode(packet.payload) for packet in packets]), np.int16)


def check_stream(packets: list[RtpPacket], step: int) -> None:
    """One source, no hole in the sequence numbers, timestamps ``step`` apart."""
    assert len({packet.ssrc for packet in packets}) == 1
    for before, after in itertools.pairwise(packets):
        assert (after.sequence_number - before.sequence_number) & 0xFFFF == 1
        assert (after.timestamp - before.timestamp) & 0xFFFFFFFF == step


async def test_speech_passes_both_ways_transcoded(
    call: Call, speech: Callable[..., np.ndarray], correlation: Callable[..., float]
) -> None:
    """S7-RMF: Opus at the page, AMR-WB at IMS."""
    call.bridge.apply(plan(media(OPUS, EVENT_48), media(AMR_WB, IMS_EVENT_16)))
    said, answered = speech(16000, 1.0, 1), speech(16000, 1.0, 2)
    for there, back in zip(opus_packets(said), amr_packets(answered), strict=True):
        call.from_page(there)
        call.from_ims(back)
    at_ims, at_page = await call.at_ims(50), await call.at_page(50)
    check_stream(at_ims, 320)
    check_stream(at_page, 960)
    assert {packet.payload_type for packet in at_ims} == {104}
    assert {packet.payload_type for packet in at_page} == {111}
    assert correlation(said, heard(CodecSpec("AMR-WB"), at_ims), 600) > 0.85
    assert correlation(answered, heard(CodecSpec("opus"), at_page), 600) > 0.85
    stats = call.bridge.stats()
    assert stats is not None
    assert [part.mode for part in stats] == ["transcode", "transcode"]
    assert (stats[0].source_codec, stats[0].target_codec) == ("opus", "AMR-WB")
    assert all(part.transcoding.frames == 50 and part.added_mean_ms > 0 for part in stats)


async def test_codec_work_in_threads_keeps_the_order(
    bench: Any, speech: Callable[..., np.ndarray], correlation: Callable[..., float]
) -> None:
    with ThreadPoolExecutor(2) as executor:
        call = Call(bench, executor)
        call.bridge.apply(plan(media(OPUS), media(AMR_WB)))
        said = speech(16000, 1.0)
        for there, back in zip(opus_packets(said), amr_packets(said), strict=True):
            call.from_page(there)
            call.from_ims(back)
        at_ims, at_page = await call.at_ims(50), await call.at_page(50)
        call.bridge.close()
    check_stream(at_ims, 320)
    check_stream(at_page, 960)
    assert correlation(said, heard(CodecSpec("AMR-WB"), at_ims), 600) > 0.85


async def test_a_shared_codec_is_relayed_untouched(call: Call) -> None:
    """S7-RMF: pass-through; DTMF of the same clock passes with it."""
    call.bridge.apply(plan(media(WEB_PCMA, EVENT_8), media(IMS_PCMA, IMS_EVENT_8)))
    for n in range(5):
        call.from_page(RtpPacket(8, n, 160 * n, 1, bytes([n]) * 160))
    call.from_page(RtpPacket(126, 5, 800, 1, b"\x05\x0a\x00\xa0", marker=True))
    call.from_page(RtpPacket(8, 7, 160 * 7, 1, b"after"))
    packets = await call.at_ims(7)
    assert [packet.payload[:1] for packet in packets] == [b"\0", b"\1", b"\2", b"\3", b"\4", b"\5", b"a"]
    assert [packet.payload_type for packet in packets] == [8] * 5 + [98, 8]
    steps = [(packet.sequence_number - packets[0].sequence_number) & 0xFFFF for packet in packets]
    assert steps == [0, 1, 2, 3, 4, 5, 7]  # a loss stays visible to the receiver
    stats = call.bridge.stats()
    assert stats is not None and stats[0].mode == "relay"
    assert stats[0].transcoding.frames == 0


async def test_reordering_and_loss_on_the_way_in(
    call: Call, speech: Callable[..., np.ndarray], correlation: Callable[..., float]
) -> None:
    """Neighbours exchanged are put right at no cost in frames, one loss in ten is made up; nothing comes twice."""
    call.bridge.apply(plan(media(OPUS), media(AMR_WB)))
    said = speech(16000, 1.0)
    packets = opus_packets(said)
    lost = {n for n in range(50) if n % 10 == 5}
    order = [n for n in range(50) if n not in lost]
    for n in range(2, len(order) - 1, 7):
        order[n], order[n + 1] = order[n + 1], order[n]
    for n in [*order[:20], order[19], *order[20:]]:
        call.from_page(packets[n])
    at_ims = await call.at_ims(50)
    check_stream(at_ims, 320)
    stats = call.bridge.stats()
    assert stats is not None
    assert stats[0].transcoding.concealed == len(lost)
    assert stats[0].late == 1
    assert correlation(said, heard(CodecSpec("AMR-WB"), at_ims), 600) > 0.75
    await call.bench.settle()
    assert call.ims.nothing()


async def test_a_missing_packet_delays_the_next_by_one_frame_at_most(
    call: Call, speech: Callable[..., np.ndarray]
) -> None:
    call.bridge.apply(plan(media(OPUS), media(AMR_WB)))
    packets = opus_packets(speech(16000, 0.2))
    call.from_page(packets[0])
    await call.at_ims(1)
    loop = asyncio.get_running_loop()
    start = loop.time()
    call.from_page(packets[2])
    await call.at_ims(2)
    assert 0.015 < loop.time() - start < 0.2  # the upper bound allows for a loaded machine
    stats = call.bridge.stats()
    assert stats is not None and stats[0].transcoding.concealed == 1


@pytest.mark.parametrize(
    ("web", "ims"),
    [
        ((OPUS, EVENT_48), (AMR_WB, IMS_EVENT_16)),
        ((OPUS, EVENT_8), (AMR_WB, IMS_EVENT_16)),
        ((OPUS, EVENT_48), (AMR_WB, IMS_EVENT_8)),
    ],
)
@pytest.mark.parametrize("length", [0.1, 1.5])  # 1.5 s is more than 16 bits of a 48 kHz clock
async def test_dtmf_is_played_anew_on_the_other_clock(
    call: Call,
    web: tuple[AgreedCodec, ...],
    ims: tuple[AgreedCodec, ...],
    length: float,
    speech: Callable[..., np.ndarray],
) -> None:
    """One digit in, one digit out, of the same length, in both directions; sound goes on after it."""
    call.bridge.apply(plan(media(*web), media(*ims)))
    sides = [
        (call.from_page, call.at_ims, web, ims, opus_packets(speech(16000, 0.1))),
        (call.from_ims, call.at_page, ims, web, amr_packets(speech(16000, 0.1))),
    ]
    for send, arrived, come, go, packets in sides:
        for packet in packets[:3]:
            send(packet)
        before = await arrived(3)
        source, target = come[1], go[1]
        sender = TelephoneEventSender(source.clock_rate, source.clock_rate // 50)
        sender.press(DTMF.index("7"), duration=length)
        timestamp = packets[2].timestamp + come[0].clock_rate // 50
        start, sequence, count = timestamp, packets[2].sequence_number, 0
        while sender.active:
            report = sender.packet(timestamp)
            assert report is not None
            sequence += 1
            send(
                RtpPacket(
                    source.receive_payload_type,
                    sequence,
                    report.timestamp,
                    packets[0].ssrc,
                    report.payload,
                    report.marker,
                )
            )
            timestamp += source.clock_rate // 50
            count += 1
        receiver = TelephoneEventReceiver(target.clock_rate, timeout=1.0)
        changes: list[EventStarted | EventEnded] = []
        events: list[RtpPacket] = []
        while len(changes) < 2:
            (packet,) = await arrived(1)
            assert packet.payload_type == target.send_payload_type
            events.append(packet)
            changes += receiver.received(packet.timestamp, packet.payload, 0.0)
        events += await arrived(2)
        assert isinstance(changes[0], EventStarted) and changes[0].event == 7
        assert isinstance(changes[1], EventEnded) and changes[1].complete
        assert changes[1].duration == pytest.approx(length, abs=0.021)
        assert [packet.payload[1] >> 7 for packet in events[-4:]] == [0, 1, 1, 1]
        assert events[0].marker and not any(packet.marker for packet in events[1:])
        resumed = replace(packets[3], sequence_number=sequence + 1, timestamp=start + count * come[0].clock_rate // 50)
        send(resumed)
        (after,) = await arrived(1)
        assert after.payload_type == go[0].send_payload_type
        assert after.sequence_number == (before[-1].sequence_number + len(events) + 1) & 0xFFFF
        moved = (after.timestamp - before[-1].timestamp) & 0xFFFFFFFF
        assert length * go[0].clock_rate <= moved < (length + 1.5) * go[0].clock_rate
        await call.bench.settle()
        assert not call.ims.waiting() and not call.page.waiting()


async def test_lost_end_of_a_digit_does_not_leave_it_on(call: Call, speech: Callable[..., np.ndarray]) -> None:
    call.bridge.apply(plan(media(OPUS, EVENT_48), media(AMR_WB, IMS_EVENT_16)))
    for n in range(1, 4):
        call.from_page(RtpPacket(110, n, 0, 1, bytes([3, 10]) + (960 * n).to_bytes(2), marker=n == 1))
    packets: list[RtpPacket] = []
    while not packets or not packets[-1].payload[1] & 0x80:
        packets += await call.at_ims(1)
    packets += await call.at_ims(2)
    assert {packet.payload_type for packet in packets} == {96}
    durations = [int.from_bytes(packet.payload[2:4]) for packet in packets]
    assert durations == sorted(durations)


async def test_mode_request_of_the_ims_peer_reaches_our_encoder(call: Call, speech: Callable[..., np.ndarray]) -> None:
    """RFC 4867 4.3.1: the request rides on what the peer sends, and is about what it receives."""
    call.bridge.apply(plan(media(OPUS), media(AMR_WB)))
    form = payload_format(CodecSpec("AMR-WB"))
    packets = opus_packets(speech(16000, 0.2))
    call.from_page(packets[0])
    (first,) = await call.at_ims(1)
    assert form.unpack(first.payload)[1][0].frame_type == 2
    call.from_ims(amr_packets(speech(16000, 0.02), cmr=0)[0])
    await call.at_page(1)
    call.from_page(packets[1])
    (second,) = await call.at_ims(1)
    assert form.unpack(second.payload)[1][0].frame_type == 0


async def test_silence_of_the_phone_reaches_the_page_as_noise(call: Call, speech: Callable[..., np.ndarray]) -> None:
    """A VoLTE phone stops sending in silence; the page goes on hearing its background, for a second at most."""
    call.bridge.apply(plan(media(OPUS), media(AMR_WB)))
    for packet in amr_packets(speech(16000, 0.2)):
        call.from_ims(packet)
    encoder = make_encoder(CodecSpec("AMR-WB", dtx=True), 16000)
    room = np.random.default_rng(4).normal(0, 30, 320 * 40).astype(np.int16)
    payloads = [encoder.encode(room[i : i + 320].tobytes()) for i in range(0, len(room), 320)]
    form = payload_format(CodecSpec("AMR-WB"))
    sid = [payload for payload in payloads if payload and form.unpack(payload)[1][0].frame_type == 9][-1]
    call.from_ims(RtpPacket(105, 17, 320 * 10, 0x5678, sid))
    packets = await call.at_page(11 + 20)
    check_stream(packets, 960)
    loud = np.std(heard(CodecSpec("opus"), packets[:10]).astype(float))
    quiet = np.std(heard(CodecSpec("opus"), packets)[-1600:].astype(float))
    assert quiet < loud / 4
    count = 0
    while True:  # without another SID frame it ends by itself
        try:
            await call.page.receive(0.3)
        except TimeoutError:
            break
        count += 1
    assert count < 45


async def test_hold_and_resume(call: Call, speech: Callable[..., np.ndarray]) -> None:
    """Directions are obeyed; on resuming neither sequence number nor timestamp jumps back, nothing is made up."""
    both, hold = Direction.SENDRECV, Direction.INACTIVE
    call.bridge.apply(plan(media(OPUS), media(AMR_WB)))
    packets = opus_packets(speech(16000, 1.0))
    for packet in packets[:5]:
        call.from_page(packet)
    before = await call.at_ims(5)
    call.bridge.apply(plan(media(OPUS, direction=both), media(AMR_WB, direction=hold)))
    for packet in packets[5:30]:
        call.from_page(packet)
    call.from_ims(amr_packets(speech(16000, 0.02))[0])
    await call.bench.settle()
    assert call.ims.nothing() and call.page.nothing()
    call.bridge.apply(plan(media(OPUS), media(AMR_WB)))
    for packet in packets[30:]:
        call.from_page(packet)
    after = await call.at_ims(20)
    check_stream(after, 320)
    assert (after[0].sequence_number - before[-1].sequence_number) & 0xFFFF == 1
    assert 0 < (after[0].timestamp - before[-1].timestamp) & 0xFFFFFFFF < 16000 * 5
    assert after[0].marker
    stats = call.bridge.stats()
    assert stats is not None and stats[0].transcoding.concealed == 0


async def test_one_way_hold(call: Call, speech: Callable[..., np.ndarray]) -> None:
    call.bridge.apply(plan(media(OPUS), media(AMR_WB, direction=Direction.SENDONLY)))
    call.from_page(opus_packets(speech(16000, 0.02))[0])
    call.from_ims(amr_packets(speech(16000, 0.02))[0])
    assert len(await call.at_ims(1)) == 1
    await call.bench.settle()
    assert call.page.nothing()


async def test_applying_the_same_plan_again_disturbs_nothing(call: Call, speech: Callable[..., np.ndarray]) -> None:
    """A session refresh is a media no-op."""
    call.bridge.apply(plan(media(OPUS), media(AMR_WB)))
    packets = opus_packets(speech(16000, 0.2))
    for n, packet in enumerate(packets):
        call.bridge.apply(plan(media(OPUS), media(AMR_WB)))
        call.from_page(packet)
        if n % 3 == 0:
            await call.bench.settle()
    check_stream(await call.at_ims(len(packets)), 320)


async def test_the_page_changes_its_payload_type_in_mid_call(call: Call, speech: Callable[..., np.ndarray]) -> None:
    call.bridge.apply(plan(media(OPUS, WEB_PCMA), media(AMR_WB)))
    for packet in opus_packets(speech(16000, 0.1)):
        call.from_page(packet)
    first = await call.at_ims(5)
    encoder = make_encoder(CodecSpec("PCMA"), 8000)
    pcm = speech(8000, 0.1)
    for n in range(5):
        payload = encoder.encode(pcm[160 * n : 160 * n + 160].tobytes()) or b""
        call.from_page(RtpPacket(8, 105 + n, 4800 + 160 * n, 0x1234, payload))
    second = await call.at_ims(5)
    check_stream(first + second, 320)


async def test_renegotiation_to_a_shared_codec_and_back(call: Call, speech: Callable[..., np.ndarray]) -> None:
    """From transcoding to relay and back the leaving stream stays one stream."""
    transcode = plan(media(OPUS), media(AMR_WB))
    relay = plan(media(WEB_PCMA), media(IMS_PCMA))
    packets = opus_packets(speech(16000, 0.2))
    call.bridge.apply(transcode)
    call.from_page(packets[0])
    (one,) = await call.at_ims(1)
    call.bridge.apply(relay)
    call.from_page(RtpPacket(8, 40000, 77, 0x1234, b"pcma"))
    (two,) = await call.at_ims(1)
    call.bridge.apply(transcode)
    call.from_page(packets[1])
    (three,) = await call.at_ims(1)
    assert [packet.payload_type for packet in (one, two, three)] == [104, 8, 104]
    assert two.payload == b"pcma"
    assert len({packet.ssrc for packet in (one, two, three)}) == 1
    for before, after in ((one, two), (two, three)):
        assert (after.sequence_number - before.sequence_number) & 0xFFFF == 1
        assert 0 < (after.timestamp - before.timestamp) & 0xFFFFFFFF < 16000 * 5
        assert after.marker


async def test_a_new_source_is_taken_over_without_a_break(call: Call, speech: Callable[..., np.ndarray]) -> None:
    """Early media from one place, the answer from another (forking, call forwarding)."""
    call.bridge.apply(plan(media(OPUS), media(AMR_WB)))
    tone, answer = amr_packets(speech(16000, 0.06)), amr_packets(speech(16000, 0.06))
    for packet in tone:
        call.from_ims(packet)
    first = await call.at_page(3)
    for n, packet in enumerate(answer):
        call.from_ims(
            replace(packet, ssrc=0x9999, sequence_number=(60000 + n) & 0xFFFF, timestamp=4_000_000_000 + 320 * n)
        )
    second = await call.at_page(3)
    assert len({packet.ssrc for packet in first + second}) == 1
    check_stream(second, 960)
    assert (second[0].sequence_number - first[-1].sequence_number) & 0xFFFF == 1
    assert 0 < (second[0].timestamp - first[-1].timestamp) & 0xFFFFFFFF < 48000 * 5


async def test_what_was_not_agreed_does_not_pass(call: Call) -> None:
    call.bridge.apply(plan(media(OPUS, EVENT_48), media(AMR_WB, IMS_EVENT_16)))
    call.from_page(RtpPacket(20, 1, 0, 1, b""))  # keep-alive
    call.from_page(RtpPacket(77, 2, 0, 1, b"noise"))
    call.from_page(RtpPacket(110, 3, 0, 1, b"odd"))
    call.from_page(RtpPacket(110, 4, 0, 1, b""))
    await call.bench.settle()
    assert call.ims.nothing()


async def test_an_unknown_codec_is_refused_when_the_plan_is_applied(call: Call) -> None:
    with pytest.raises(ValueError, match="EVS"):
        call.bridge.apply(plan(media(OPUS), media(AgreedCodec("EVS", 16000, 1, 127, 127))))


@pytest.mark.parametrize(
    ("web", "ims"),
    [
        ((OPUS, EVENT_48), (AMR_WB, IMS_EVENT_16)),
        ((WEB_PCMA, EVENT_8), (IMS_PCMA, IMS_EVENT_8)),
    ],
    ids=["transcoded", "relayed"],
)
async def test_a_key_that_came_in_signalling(
    call: Call, web: tuple[AgreedCodec, ...], ims: tuple[AgreedCodec, ...]
) -> None:
    """One key, played towards IMS on its clock, for its length; sound goes on."""
    with pytest.raises(ValueError, match="no media yet"):
        call.bridge.press("5", 0.1)
    call.bridge.apply(plan(media(*web), media(*ims)))
    with pytest.raises(ValueError, match="no DTMF key"):
        call.bridge.press("x", 0.1)
    call.bridge.press("5", 0.1)
    receiver = TelephoneEventReceiver(ims[1].clock_rate, timeout=1.0)
    changes: list[EventStarted | EventEnded] = []
    while len(changes) < 2:
        (packet,) = await call.at_ims(1)
        assert packet.payload_type == ims[1].send_payload_type
        changes += receiver.received(packet.timestamp, packet.payload, 0.0)
    assert changes == [EventStarted(5, 10), EventEnded(5, pytest.approx(0.1), True)]


async def test_a_key_for_who_takes_none(call: Call) -> None:
    call.bridge.apply(plan(media(OPUS, EVENT_48), media(AMR_WB)))
    with pytest.raises(ValueError, match="takes no telephone events"):
        call.bridge.press("5", 0.1)
