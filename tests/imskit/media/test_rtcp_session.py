"""RTCP of a leg: what is reported of a stream that loses packets, what is learnt, when nothing may be sent."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.media.plane import LegId
from imskit.media.rtcp_session import RtcpSession
from imskit.rtp.packet import RtpPacket
from imskit.rtp.rtcp import ReceiverReport, ReportBlock, SenderReport, encode_compound, parse_compound


class Session:
    def __init__(self, bench: Any, **bandwidths: int) -> None:
        self.bench = bench
        self.peer = bench.peer()
        self.leg: LegId
        self.leg, self.address, self.handler = bench.plain_leg(self.peer)
        self.rtcp = RtcpSession(bench.plane, self.leg, cname="me", clock_rate=8000, **bandwidths)

    def hear(self, *sequence: int) -> None:
        for number in sequence:
            self.peer.send(RtpPacket(8, number & 0xFFFF, 160 * number & 0xFFFFFFFF, 77, b"x").encode(), self.address)

    async def block(self) -> ReportBlock:
        await self.bench.settle()
        (block,) = parse_compound(self.rtcp.report())[0].reports  # type: ignore[union-attr]
        assert isinstance(block, ReportBlock)
        return block


async def test_loss_is_reported_as_rfc_3550_says(bench: Any) -> None:
    """Fraction since the last report, cumulative number, extended highest sequence number across a wrap."""
    session = Session(bench)
    session.hear(65530, 65531, 65534, 65535)
    block = await session.block()
    assert (block.ssrc, block.fraction_lost, block.cumulative_lost) == (77, 256 * 2 // 6, 2)
    assert block.highest_sequence_number == 65535
    session.hear(65536, 65537, 65538, 65539)
    block = await session.block()
    assert (block.fraction_lost, block.cumulative_lost) == (0, 2)
    assert block.highest_sequence_number == 65539
    session.hear(65539, 65539)
    assert (await session.block()).cumulative_lost == 0
    session.rtcp.close()


async def test_last_sender_report_and_delay(bench: Any) -> None:
    session = Session(bench)
    session.hear(1, 2)
    session.rtcp.packet_received(encode_compound([SenderReport(77, 0x1122334455667788, 0, 0, 0)]))
    block = await session.block()
    assert block.last_sender_report == 0x33445566
    assert 0 <= block.delay < 65536
    session.rtcp.packet_received(encode_compound([SenderReport(99, 1, 0, 0, 0)]))  # of another source
    assert (await session.block()).last_sender_report == 0
    session.rtcp.close()


async def test_what_the_peer_says_of_us(bench: Any) -> None:
    session = Session(bench)
    bench.plane.inject(session.leg, 8, 0, b"x")
    ssrc = bench.plane.stats(session.leg).sending.ssrc
    (report, _) = parse_compound(session.rtcp.report())
    assert isinstance(report, SenderReport)
    middle = report.ntp_time >> 16 & 0xFFFFFFFF
    session.rtcp.packet_received(
        encode_compound([ReceiverReport(5, (ReportBlock(ssrc, 25, 3, 9, 12, (middle - 65536) & 0xFFFFFFFF, 32768),))])
    )
    assert session.rtcp.remote is not None and session.rtcp.remote.cumulative_lost == 3
    assert session.rtcp.round_trip_time == pytest.approx(0.5, abs=0.2)
    session.rtcp.close()


async def test_reports_are_sent_by_themselves(bench: Any) -> None:
    """The first within three seconds (half of 5 s, halved at most, over 1.2 of compensation)."""
    session = Session(bench)
    bench.plane.inject(session.leg, 8, 0, b"x")
    await session.peer.receive()
    packets = parse_compound(await session.peer.receive(4))
    assert isinstance(packets[0], SenderReport)
    session.rtcp.close()


async def test_no_bandwidth_means_no_rtcp(bench: Any) -> None:
    """RFC 3556: b=RS:0 and b=RR:0 turn RTCP off, BYE included; it can be turned on later."""
    session = Session(bench, sender_bandwidth=0, receiver_bandwidth=0)
    assert session.rtcp._handle is None
    session.rtcp.configure(clock_rate=16000, sender_bandwidth=800, receiver_bandwidth=2400)
    assert session.rtcp._handle is not None and session.rtcp.clock_rate == 16000
    session.rtcp.configure(clock_rate=16000, sender_bandwidth=0, receiver_bandwidth=0)
    bench.plane.inject(session.leg, 8, 0, b"x")
    await session.peer.receive()
    session.rtcp.close()
    await bench.settle()
    assert session.peer.nothing()


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\xc8\x00\x06" + bytes(3), b"\x00" * 40, b"\x81\xc8\xff\xff"])
async def test_malformed_packets_are_dropped(bench: Any, data: bytes) -> None:
    session = Session(bench)
    session.rtcp.packet_received(data)
    assert session.rtcp.received == 0
    session.rtcp.close()
