"""Reception and transmission statistics behind RTCP reports: RFC 3550 sections 6.4 and appendices A.1, A.3, A.8.

Times are seconds on one monotonic clock, except ``ntp_time`` (64-bit NTP time stamps, see ``ntp_timestamp``).
"""

from __future__ import annotations

from imskit.rtp.rtcp import ReportBlock, SenderReport

_SEQUENCE = 1 << 16
_MAX_DROPOUT = 3000
_MAX_MISORDER = 100
_MIN_SEQUENTIAL = 2
_NTP_EPOCH = 2208988800  # 1900 to 1970 in seconds


def ntp_timestamp(unix_time: float) -> int:
    """Return the 64-bit NTP time stamp of a Unix time in seconds (RFC 3550 section 4)."""
    seconds = int(unix_time // 1)
    return (seconds + _NTP_EPOCH & 0xFFFFFFFF) << 32 | int((unix_time - seconds) * 4294967296)


class ReceiverStatistics:
    """What one received source (SSRC) looks like from here; make a new one when the SSRC changes."""

    def __init__(self, ssrc: int, clock_rate: int) -> None:
        self.ssrc = ssrc
        self.clock_rate = clock_rate
        """Ticks a second of the source's timestamps."""
        self.received = 0
        """Valid packets so far, late and duplicate ones included."""
        self._probation = _MIN_SEQUENTIAL
        self._base = self._max = self._cycles = 0
        self._bad = -1
        self._started = False
        self._expected_prior = self._received_prior = 0
        self._jitter = 0.0
        self._transit: float | None = None
        self._last_timestamp = 0
        self._timestamp = 0
        self._last_report: tuple[int, float] | None = None

    @property
    def valid(self) -> bool:
        """Whether two packets in sequence have come (appendix A.1); before that nothing is reported."""
        return self._probation == 0

    @property
    def highest_sequence_number(self) -> int:
        """Extended highest sequence number received, cycles in the upper bits (32 bits on the wire)."""
        return self._cycles + self._max

    @property
    def lost(self) -> int:
        """Packets expected less received since the start (negative with duplicates); 24 bits signed."""
        return max(-0x800000, min(self._expected - self.received, 0x7FFFFF)) if self.valid else 0

    @property
    def jitter(self) -> float:
        """Interarrival jitter in seconds (section 6.4.1)."""
        return self._jitter / self.clock_rate

    @property
    def _expected(self) -> int:
        return self._cycles + self._max - self._base + 1

    def packet_received(self, sequence_number: int, timestamp: int, now: float) -> bool:
        """Take in one packet; return whether it counts as part of the stream (appendix A.1)."""
        if not self._update_sequence(sequence_number):
            return False
        # Timestamps wrap every 2^32 ticks: unwrapped here, so that a wrap is no jump in transit time.
        step = (timestamp - self._last_timestamp + 0x80000000) % 0x100000000 - 0x80000000
        self._timestamp += step
        self._last_timestamp = timestamp
        transit = now * self.clock_rate - self._timestamp
        if self._transit is not None:
            self._jitter += (abs(transit - self._transit) - self._jitter) / 16
        self._transit = transit
        return True

    def sender_report_received(self, report: SenderReport, now: float) -> None:
        """Remember the source's report for the "last SR" fields of the next block."""
        self._last_report = (report.ntp_time >> 16 & 0xFFFFFFFF, now)

    def report_block(self, now: float) -> ReportBlock | None:
        """The block about this source, None while it is not valid; starts the next loss interval."""
        if not self.valid:
            return None
        expected = self._expected
        expected_interval = expected - self._expected_prior
        lost_interval = expected_interval - (self.received - self._received_prior)
        self._expected_prior, self._received_prior = expected, self.received
        fraction = 0
        if expected_interval > 0 and lost_interval > 0:
            fraction = min(255, (lost_interval << 8) // expected_interval)
        last, delay = 0, 0
        if self._last_report is not None:
            last = self._last_report[0]
            delay = min(0xFFFFFFFF, max(0, int((now - self._last_report[1]) * 65536)))
        return ReportBlock(
            self.ssrc,
            fraction,
            self.lost,
            self.highest_sequence_number & 0xFFFFFFFF,
            min(0xFFFFFFFF, int(self._jitter)),
            last,
            delay,
        )

    def _update_sequence(self, number: int) -> bool:
        """Appendix A.1, ``update_seq``."""
        if self._probation:
            if self._started and number == (self._max + 1) % _SEQUENCE:
                self._probation -= 1
                self._max = number
                if self._probation == 0:
                    self._restart(number)
                    self.received = 1
                    return True
            else:
                self._probation = _MIN_SEQUENTIAL - 1
                self._max = number
                self._started = True
            return False
        ahead = (number - self._max) % _SEQUENCE
        if ahead < _MAX_DROPOUT:
            if number < self._max:
                self._cycles += _SEQUENCE
            self._max = number
        elif ahead <= _SEQUENCE - _MAX_MISORDER:
            if number != self._bad:
                self._bad = (number + 1) % _SEQUENCE
                return False
            self._restart(number)  # two in a row: the source restarted without telling us
        self.received += 1
        return True

    def _restart(self, number: int) -> None:
        self._base = self._max = number
        self._bad = -1
        self._cycles = 0
        self.received = self._received_prior = self._expected_prior = 0
        self._transit = None


class SenderStatistics:
    """What we have sent as one source, and what its receivers report of it."""

    def __init__(self, ssrc: int, clock_rate: int) -> None:
        self.ssrc = ssrc
        self.clock_rate = clock_rate
        self.packets = 0
        self.octets = 0
        """Payload octets, without headers and padding (section 6.4.1)."""
        self.remote: ReportBlock | None = None
        """The newest report about this source."""
        self.round_trip_time: float | None = None
        """Seconds, from the newest report that names one of our sender reports."""
        self._sent: tuple[int, float] | None = None

    def packet_sent(self, timestamp: int, payload_octets: int, now: float) -> None:
        """Count one packet."""
        self.packets += 1
        self.octets += payload_octets
        self._sent = (timestamp, now)

    def sender_report(self, ntp_time: int, now: float, reports: tuple[ReportBlock, ...] = ()) -> SenderReport | None:
        """The report for the instant ``now`` (= ``ntp_time``); None while nothing was sent (then send an RR)."""
        if self._sent is None:
            return None
        timestamp, at = self._sent
        timestamp += round((now - at) * self.clock_rate)
        return SenderReport(
            self.ssrc,
            ntp_time & 0xFFFFFFFFFFFFFFFF,
            timestamp & 0xFFFFFFFF,
            self.packets & 0xFFFFFFFF,
            self.octets & 0xFFFFFFFF,
            reports,
        )

    def report_received(self, block: ReportBlock, ntp_time: int) -> None:
        """Take in a block about this source that arrived at ``ntp_time``; blocks of other sources are ignored."""
        if block.ssrc != self.ssrc:
            return
        self.remote = block
        if block.last_sender_report:
            elapsed = (ntp_time >> 16) - block.last_sender_report - block.delay & 0xFFFFFFFF
            # A negative value wraps: a peer with a coarse clock; more than an hour is no round trip.
            if elapsed < 3600 << 16:
                self.round_trip_time = elapsed / 65536
