"""RTCP transmission interval: RFC 3550 sections 6.2-6.3, appendix A.7; RFC 3556 bandwidths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.rtp.rtcp_timer import RtcpTimer, rtcp_interval


def reference(
    members: int, senders: int, bandwidth: float, we_sent: bool, size: float, initial: bool, draw: float
) -> float:
    """Appendix A.7 ``rtcp_interval``, its fixed quarter, bandwidth in octets a second."""
    minimum = 2.5 if initial else 5.0
    n = members
    if senders <= members * 0.25:
        if we_sent:
            bandwidth *= 0.25
            n = senders
        else:
            bandwidth *= 0.75
            n -= senders
    return max(size * n / bandwidth, minimum) * (draw + 0.5) / (2.71828 - 1.5)


@given(
    st.integers(1, 200),
    st.integers(0, 200),
    st.floats(10, 1e5),
    st.booleans(),
    st.floats(20, 1500),
    st.booleans(),
    st.floats(0, 0.999),
)
def test_agrees_with_appendix_a_7(
    members: int, senders: int, bandwidth: float, we_sent: bool, size: float, initial: bool, draw: float
) -> None:
    senders = min(senders, members)
    ours = rtcp_interval(
        members=members,
        senders=senders,
        sender_bandwidth=bandwidth * 8 * 0.25,
        receiver_bandwidth=bandwidth * 8 * 0.75,
        we_sent=we_sent,
        average_size=size,
        initial=initial,
        random=draw,
    )
    assert ours == pytest.approx(reference(members, senders, bandwidth, we_sent, size, initial, draw))


def test_first_report_of_a_call() -> None:
    """Half the minimum before the first: 2.5 s, times 0.5-1.5, over 1.21828."""
    timer = RtcpTimer(sender_bandwidth=512, receiver_bandwidth=1537, random=lambda: 0.5, now=100.0)
    deadline = timer.deadline()
    assert deadline == pytest.approx(100 + 2.5 / 1.21828)
    assert deadline is not None
    assert not timer.due(deadline - 0.01)
    assert timer.due(deadline)
    timer.sent(100, deadline)
    assert timer.deadline() == pytest.approx(deadline + 5 / 1.21828)


def test_reconsideration_puts_the_report_off() -> None:
    """Section 6.3.6: at expiry T is drawn anew; a longer one moves the timer and sends nothing."""
    draws = iter([0.0, 0.9, 0.1])
    timer = RtcpTimer(sender_bandwidth=512, receiver_bandwidth=1537, random=lambda: next(draws), now=0.0)
    first = timer.deadline()
    assert first is not None
    assert not timer.due(first)
    second = timer.deadline()
    assert second == pytest.approx(2.5 * 1.4 / 1.21828)
    assert second is not None
    assert timer.due(second)


def test_rs_zero_of_the_conformance_offer() -> None:
    """b=RS:0, b=RR:2000 (TS 34.229-1): senders share the whole, no division by zero."""
    timer = RtcpTimer(sender_bandwidth=0, receiver_bandwidth=2000, random=lambda: 0.5, now=0.0)
    timer.rtp_sent(0.1)
    timer.rtp_received(0.1)
    deadline = timer.deadline()
    assert deadline is not None
    timer.due(10.0)
    timer.sent(100, 10.0)
    assert timer.deadline() == pytest.approx(10 + 5 / 1.21828)


def test_both_zero_turn_rtcp_off() -> None:
    timer = RtcpTimer(sender_bandwidth=0, receiver_bandwidth=0, random=lambda: 0.5, now=0.0)
    assert timer.deadline() is None
    assert not timer.due(1e9)
    timer.sent(100, 1.0)
    assert timer.deadline() is None
    timer.rtp_received(0.0)
    assert not timer.peer_silent(1e9)


def test_low_bandwidth_lengthens_the_interval() -> None:
    timer = RtcpTimer(sender_bandwidth=100, receiver_bandwidth=100, random=lambda: 0.5, now=0.0, report_size=1000)
    timer.rtp_received(0.0)
    timer.sent(1000, 0.0)
    assert timer.deadline() == pytest.approx(1000 * 8 * 2 / 200 / 1.21828)


def test_silent_peer() -> None:
    """Section 6.3.5: five deterministic intervals."""
    timer = RtcpTimer(sender_bandwidth=512, receiver_bandwidth=1537, random=lambda: 0.5, now=0.0)
    timer.sent(100, 1.0)
    assert not timer.peer_silent(1000.0)  # never heard: nothing to time out
    timer.rtcp_received(100, 10.0)
    assert not timer.peer_silent(34.9)
    assert timer.peer_silent(35.1)
