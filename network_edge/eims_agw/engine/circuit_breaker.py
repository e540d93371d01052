"""RTP circuit breakers (RFC 8083 section 4) of one stream that the gateway sends.

Three of the four can be judged by a gateway: no reports come back (4.1), reports say that nothing arrives (4.2), the
stream takes more than ten times what TCP would (4.3).  Media usability (4.4) is the ends' own judgement.

The first is armed only when the peer has reported on the stream once: an end without RTCP is not an end without a way
(section 4).  Nothing is judged while nothing is sent, as on hold.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum

from imskit.engine import Tick

REPORTING_INTERVAL = 5.0
"""Td and Tdr, seconds: the deterministic interval with the fixed minimum of RFC 3550 (section 4.1)."""
TIMEOUT = 3 * REPORTING_INTERVAL
FRAME = 0.020
"""Tf: time between frames."""
NON_REPORTING = 5
"""k of section 4.2."""
TCP_FACTOR = 10
_GROUP = 1
"""G: frames in a group; speech frames stand alone."""
_ASSUMED_ROUND_TRIP = 0.1
"""Before the first estimate, seconds."""


class Breaker(Enum):
    """Which breaker tripped."""

    RTCP_TIMEOUT = "no RTCP report comes back"
    MEDIA_TIMEOUT = "the reports say that nothing arrives"
    CONGESTION = "more than ten times the fair share is sent"


@dataclass(frozen=True, slots=True)
class Sent:
    """How much of the stream was sent until now, in all."""

    packets: int
    octets: int


@dataclass(frozen=True, slots=True)
class Report:
    """A report block on the stream: extended highest sequence number, fraction lost (0-1), round trip (s, if known)."""

    highest: int
    fraction_lost: float
    round_trip: float | None = None


@dataclass(frozen=True, slots=True)
class _Interval:
    seconds: float
    lost: float
    packets: int
    octets: int


class CircuitBreaker:
    """The breakers of one stream; ``poll`` tells once when one trips."""

    def __init__(self) -> None:
        self._sent = Sent(0, 0)
        self._at_report = Sent(0, 0)
        self._reported_at: float | None = None
        self._waiting_since: float | None = None
        """Since when something is sent and no report has come."""
        self._highest: int | None = None
        self._unheard = 0
        self._unheard_limit = NON_REPORTING
        self._round_trip = _ASSUMED_ROUND_TRIP
        self._intervals: deque[_Interval] = deque(maxlen=64)
        self._output: Breaker | None = None
        self.tripped: Breaker | None = None
        """The first breaker that tripped; after it nothing more is judged."""

    def handle(self, event: Sent | Report | Tick, now: float) -> None:
        """Take in what was sent, what the peer reports, or the time."""
        if self.tripped is not None:
            return
        match event:
            case Sent():
                if event.packets > self._sent.packets and self._waiting_since is None:
                    self._waiting_since = now
                self._sent = event
            case Report():
                self._report(event, now)
            case Tick():
                pass
        deadline = self.deadline()
        if self.tripped is None and deadline is not None and now >= deadline:
            if self._sent.packets > self._at_report.packets:
                self._trip(Breaker.RTCP_TIMEOUT)
            else:
                self._waiting_since = None

    def poll(self) -> Breaker | None:
        """Return the breaker that has just tripped, once."""
        output, self._output = self._output, None
        return output

    def deadline(self) -> float | None:
        """When a missing report trips the first breaker."""
        if self._reported_at is None or self._waiting_since is None or self.tripped is not None:
            return None
        return max(self._reported_at, self._waiting_since) + TIMEOUT

    def _report(self, report: Report, now: float) -> None:
        if report.round_trip is not None:
            self._round_trip = report.round_trip
        packets = self._sent.packets - self._at_report.packets
        octets = self._sent.octets - self._at_report.octets
        elapsed = 0.0 if self._reported_at is None else now - self._reported_at
        if packets:
            self._judge_progress(report)
            if elapsed > 0:
                self._intervals.append(_Interval(elapsed, report.fraction_lost, packets, octets))
                self._judge_congestion()
        else:
            self._intervals.clear()
        self._highest = report.highest
        self._at_report = self._sent
        self._reported_at = now
        self._waiting_since = None

    def _judge_progress(self, report: Report) -> None:
        """Section 4.2; a smaller number than before is a new stream of the peer's counting, and progress."""
        limit = math.ceil(NON_REPORTING * max(FRAME, self._round_trip, REPORTING_INTERVAL) / REPORTING_INTERVAL)
        if self._highest is None or report.highest != self._highest:
            self._unheard, self._unheard_limit = 0, limit
            return
        self._unheard += 1
        self._unheard_limit = max(self._unheard_limit, limit)
        if self._unheard >= self._unheard_limit:
            self._trip(Breaker.MEDIA_TIMEOUT)

    def _judge_congestion(self) -> None:
        """Section 4.3, with the simplified throughput equation (b = 1: each packet is acknowledged)."""
        interval = max(10 * _GROUP * FRAME, 10 * self._round_trip, 3 * REPORTING_INTERVAL)
        count = math.ceil(3 * min(interval, max(15, 3 * REPORTING_INTERVAL)) / (3 * REPORTING_INTERVAL))
        if len(self._intervals) <= count:
            return
        recent = list(self._intervals)[-count:]
        seconds = sum(part.seconds for part in recent)
        lost = sum(part.lost * part.seconds for part in recent) / seconds
        packets, octets = sum(part.packets for part in recent), sum(part.octets for part in recent)
        if lost <= 0 or packets * max(REPORTING_INTERVAL, self._round_trip) < seconds:
            return
        size = octets / packets
        fair = size / (max(self._round_trip, 0.001) * math.sqrt(2 * lost / 3))
        if octets / seconds > TCP_FACTOR * fair:
            self._trip(Breaker.CONGESTION)

    def _trip(self, breaker: Breaker) -> None:
        if self.tripped is None:
            self.tripped = self._output = breaker
