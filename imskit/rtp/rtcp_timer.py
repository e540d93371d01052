"""When to send RTCP: RFC 3550 sections 6.2, 6.3 and appendix A.7, with RS and RR of RFC 3556, for a call of two.

``random`` values are uniform in [0, 1) and handed in; times are seconds on one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable

_COMPENSATION = 2.71828 - 1.5
MINIMUM_INTERVAL = 5.0
"""Seconds between reports, half of it before the first (section 6.2)."""


def rtcp_interval(
    *,
    members: int,
    senders: int,
    sender_bandwidth: float,
    receiver_bandwidth: float,
    we_sent: bool,
    average_size: float,
    initial: bool,
    random: float | None,
) -> float:
    """Return the calculated interval T in seconds (section 6.3.1), or Td when ``random`` is None.

    Bandwidths are in bit/s (b=RS, b=RR), ``average_size`` is octets with lower-layer headers.  Both bandwidths
    zero is "no RTCP" and must not come here.
    """
    total = sender_bandwidth + receiver_bandwidth
    bandwidth, count = total, members
    if senders <= members * sender_bandwidth / total:
        if we_sent:
            bandwidth, count = sender_bandwidth, senders
        else:
            bandwidth, count = receiver_bandwidth, members - senders
    interval = MINIMUM_INTERVAL / 2 if initial else MINIMUM_INTERVAL
    # A share of zero with nobody in it (RR:0, no pure receivers) leaves the minimum.
    if bandwidth > 0:
        interval = max(interval, average_size * 8 * count / bandwidth)
    if random is None:
        return interval
    return interval * (random + 0.5) / _COMPENSATION


class RtcpTimer:
    """The report schedule of one RTP session with one peer.

    Feed it what is sent and received, call ``due`` at ``deadline``; when ``due`` is true, send a report and call
    ``sent``.  With ``sender_bandwidth`` and ``receiver_bandwidth`` both 0 (b=RS:0, b=RR:0) RTCP is off and
    ``deadline`` is None.
    """

    def __init__(
        self,
        *,
        sender_bandwidth: int,
        receiver_bandwidth: int,
        random: Callable[[], float],
        now: float,
        report_size: int = 100,
    ) -> None:
        self._bandwidths = (sender_bandwidth, receiver_bandwidth)
        self._random = random
        self._average = float(report_size)
        self._initial = True
        self._last = now
        self._we_sent_at: float | None = None
        self._peer_heard_at: float | None = None
        self._peer_sent_at: float | None = None
        self._next: float | None = None
        if sender_bandwidth + receiver_bandwidth > 0:
            self._next = now + self._interval(now)

    def deadline(self) -> float | None:
        """When to call ``due`` next."""
        return self._next

    def rtp_sent(self, now: float) -> None:
        """We sent media."""
        self._we_sent_at = now

    def rtp_received(self, now: float) -> None:
        """The peer sent media."""
        self._peer_sent_at = self._peer_heard_at = now

    def rtcp_received(self, octets: int, now: float) -> None:
        """A valid RTCP datagram came; ``octets`` with IP and UDP headers."""
        self._peer_heard_at = now
        self._average += (octets - self._average) / 16

    def due(self, now: float) -> bool:
        """Timer reconsideration (section 6.3.6): whether to report now; sets a later ``deadline`` if not."""
        if self._next is None or now < self._next:
            return False
        again = self._last + self._interval(now)
        if again <= now:
            return True
        self._next = again
        return False

    def sent(self, octets: int, now: float) -> None:
        """We sent a report of ``octets``, IP and UDP headers included."""
        self._average += (octets - self._average) / 16
        self._last = now
        self._initial = False
        if self._next is not None:
            self._next = now + self._interval(now)

    def peer_silent(self, now: float) -> bool:
        """Whether the peer, once heard, has sent nothing for five deterministic intervals (section 6.3.5)."""
        if self._peer_heard_at is None or self._next is None:
            return False
        return now - self._peer_heard_at > 5 * self._interval(now, deterministic=True)

    def _interval(self, now: float, deterministic: bool = False) -> float:
        sender, receiver = self._bandwidths
        recent = 2 * MINIMUM_INTERVAL
        we_sent = self._we_sent_at is not None and now - self._we_sent_at <= recent
        peer_sent = self._peer_sent_at is not None and now - self._peer_sent_at <= recent
        return rtcp_interval(
            members=2 if self._peer_heard_at is not None else 1,
            senders=we_sent + peer_sent,
            sender_bandwidth=sender,
            receiver_bandwidth=receiver,
            we_sent=we_sent and not deterministic,
            average_size=self._average,
            initial=self._initial,
            random=None if deterministic else self._random(),
        )
