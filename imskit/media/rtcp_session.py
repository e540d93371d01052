"""RTCP of one leg: our own reports and description towards its peer, and what the peer reports of us (RFC 3550 6).

Nothing of RTCP crosses the bridge: each side is an RTP session of its own, ended and regenerated here.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from imskit.media.plane import LegId, LegStats, MediaPlane, Reception
from imskit.rtp.errors import RtpError
from imskit.rtp.rtcp import (
    CNAME,
    Goodbye,
    ReceiverReport,
    ReportBlock,
    RtcpPacket,
    SenderReport,
    SourceChunk,
    SourceDescription,
    encode_compound,
    parse_compound,
)
from imskit.rtp.rtcp_timer import RtcpTimer
from imskit.rtp.statistics import SenderStatistics, ntp_timestamp

_log = logging.getLogger(__name__)

_LOWER_LAYERS = 28
"""Octets of IPv4 and UDP headers, which count into the average size (RFC 3550 6.2)."""
DEFAULT_SENDER_BANDWIDTH = 800
DEFAULT_RECEIVER_BANDWIDTH = 2400
"""Bit/s: 1.25 % and 3.75 % of a session of 64 kbit/s (RFC 3550 6.2), where no b=RS and b=RR were signalled."""


class RtcpSession:
    """Sends compound reports of a leg when they are due, and reads those that come."""

    def __init__(
        self,
        plane: MediaPlane,
        leg: LegId,
        *,
        cname: str,
        clock_rate: int,
        sender_bandwidth: int = DEFAULT_SENDER_BANDWIDTH,
        receiver_bandwidth: int = DEFAULT_RECEIVER_BANDWIDTH,
        on_bye: Callable[[], None] | None = None,
    ) -> None:
        """``clock_rate`` is that of our RTP timestamps; bandwidths are bit/s, both 0 for no RTCP (RFC 3556 2)."""
        self._plane = plane
        self._leg = leg
        self._cname = cname.encode()
        self._on_bye = on_bye
        self._loop = asyncio.get_running_loop()
        stats = plane.stats(leg)
        self._sender = SenderStatistics(stats.sending.ssrc, clock_rate)
        self._bandwidths = (sender_bandwidth, receiver_bandwidth)
        self._timer = self._new_timer()
        self._seen_sent = self._seen_received = 0
        self._prior: tuple[int, int, int] = (0, 0, 0)
        """SSRC, packets expected and packets received at the last report."""
        self._peer_report: tuple[int, int, float] | None = None
        """SSRC, middle of the NTP time and time of arrival of the peer's last sender report."""
        self._handle: asyncio.TimerHandle | None = None
        self.received = 0
        """RTCP packets taken from the peer."""
        self.last_received: float | None = None
        self._arm()

    @property
    def round_trip_time(self) -> float | None:
        """Seconds to the peer and back, from its last report that answers one of ours."""
        return self._sender.round_trip_time

    @property
    def remote(self) -> ReportBlock | None:
        """What the peer last said of our stream."""
        return self._sender.remote

    @property
    def clock_rate(self) -> int:
        """Timestamp units a second of the stream we send."""
        return self._sender.clock_rate

    def configure(self, *, clock_rate: int, sender_bandwidth: int, receiver_bandwidth: int) -> None:
        """Take what was negotiated: the clock of the stream we send, b=RS and b=RR in bit/s."""
        self._sender.clock_rate = clock_rate
        if self._bandwidths != (sender_bandwidth, receiver_bandwidth):
            self._bandwidths = (sender_bandwidth, receiver_bandwidth)
            self._disarm()
            self._timer = self._new_timer()
            self._arm()

    def packet_received(self, data: bytes) -> None:
        """Take a compound packet in the clear; a malformed one is dropped."""
        now = time.monotonic()
        try:
            packets = parse_compound(data)
        except RtpError as error:
            _log.debug("RTCP dropped: %s", error)
            return
        self.received += 1
        self.last_received = now
        self._timer.rtcp_received(len(data) + _LOWER_LAYERS, now)
        ntp = ntp_timestamp(time.time())
        for packet in packets:
            self._packet(packet, now, ntp)

    def report(self) -> bytes:
        """Build the compound packet for this moment: SR or RR, and SDES."""
        now = time.monotonic()
        stats = self._plane.stats(self._leg)
        block = self._block(stats.reception, now)
        blocks = () if block is None else (block,)
        report: RtcpPacket | None = None
        sending = stats.sending
        if sending.at is not None:
            self._sender.packet_sent(sending.timestamp, 0, sending.at)
            self._sender.packets, self._sender.octets = stats.packets_sent, stats.octets_sent
            report = self._sender.sender_report(ntp_timestamp(time.time()), now, blocks)
        if report is None:
            report = ReceiverReport(sending.ssrc, blocks)
        return encode_compound([report, self._description(sending.ssrc)])

    def close(self) -> None:
        """Say BYE, if RTP was sent, and stop."""
        self._disarm()
        stats = self._plane.stats(self._leg)
        if stats.sending.at is None or self._bandwidths == (0, 0):
            return
        ssrc = stats.sending.ssrc
        packets: list[RtcpPacket] = [ReceiverReport(ssrc), self._description(ssrc), Goodbye((ssrc,))]
        self._plane.send_rtcp(self._leg, encode_compound(packets))

    def _description(self, ssrc: int) -> SourceDescription:
        return SourceDescription((SourceChunk(ssrc, ((CNAME, self._cname),)),))

    def _packet(self, packet: RtcpPacket, now: float, ntp: int) -> None:
        match packet:
            case SenderReport():
                self._peer_report = (packet.ssrc, packet.ntp_time >> 16 & 0xFFFFFFFF, now)
            case Goodbye() if self._on_bye is not None:
                self._on_bye()
        if isinstance(packet, SenderReport | ReceiverReport):
            for block in packet.reports:
                self._sender.report_received(block, ntp)

    def _block(self, reception: Reception | None, now: float) -> ReportBlock | None:
        """Build the report of the stream that arrives (RFC 3550 A.3)."""
        if reception is None:
            return None
        ssrc, expected, received = self._prior
        if ssrc != reception.ssrc or reception.expected < expected:
            expected = received = 0
        expected_since, received_since = reception.expected - expected, reception.received - received
        self._prior = (reception.ssrc, reception.expected, reception.received)
        lost_since = expected_since - received_since
        fraction = min(255, lost_since * 256 // expected_since) if expected_since > 0 and lost_since > 0 else 0
        last, delay = 0, 0
        if self._peer_report is not None and self._peer_report[0] == reception.ssrc:
            last = self._peer_report[1]
            delay = min(0xFFFFFFFF, round((now - self._peer_report[2]) * 65536))
        return ReportBlock(
            reception.ssrc,
            fraction,
            max(-0x800000, min(reception.lost, 0x7FFFFF)),
            reception.highest & 0xFFFFFFFF,
            min(0xFFFFFFFF, int(reception.jitter)),
            last,
            delay,
        )

    def _new_timer(self) -> RtcpTimer:
        sender, receiver = self._bandwidths
        return RtcpTimer(
            sender_bandwidth=sender, receiver_bandwidth=receiver, random=random.random, now=time.monotonic()
        )

    def _disarm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        deadline = self._timer.deadline()
        if deadline is not None:
            self._handle = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._due)

    def _due(self) -> None:
        now = time.monotonic()
        stats = self._plane.stats(self._leg)
        self._note_traffic(stats, now)
        if self._timer.due(now):
            data = self.report()
            self._plane.send_rtcp(self._leg, data)
            self._timer.sent(len(data) + _LOWER_LAYERS, now)
        self._arm()

    def _note_traffic(self, stats: LegStats, now: float) -> None:
        if stats.packets_sent > self._seen_sent:
            self._timer.rtp_sent(now)
        if stats.packets_received > self._seen_received:
            self._timer.rtp_received(now)
        self._seen_sent, self._seen_received = stats.packets_sent, stats.packets_received
