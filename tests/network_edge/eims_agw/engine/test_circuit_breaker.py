"""RTP circuit breakers of RFC 8083 on a virtual clock [A-AGW]."""

import pytest

from imskit.engine import Tick
from network_edge.eims_agw.engine.circuit_breaker import Breaker, CircuitBreaker, Report, Sent


def run(breaker, seconds, *, start=0.0, rate=50, octets=60, report=None, every=5.0, sent=0):
    """Send for ``seconds`` and report every ``every`` seconds; return when and why it tripped."""
    now, next_report = start, start + every
    while now < start + seconds:
        now = round(now + 0.1, 3)
        sent += rate / 10
        breaker.handle(Sent(int(sent), int(sent) * octets), now)
        if report is not None and now >= next_report:
            breaker.handle(report(int(sent)), now)
            next_report += every
        breaker.handle(Tick(), now)
        if (tripped := breaker.poll()) is not None:
            return now, tripped
    return None


def test_a_good_call_trips_nothing():
    assert run(CircuitBreaker(), 300, report=lambda sent: Report(sent, 0.02, 0.05)) is None


def test_rtcp_timeout():
    """Section 4.1: three reporting intervals without a report."""
    breaker = CircuitBreaker()
    assert run(breaker, 20, report=lambda sent: Report(sent, 0.0)) is None
    when, why = run(breaker, 60, start=20.0, sent=1000)
    assert why is Breaker.RTCP_TIMEOUT and 34.9 <= when <= 35.3
    assert breaker.poll() is None and breaker.tripped is why


def test_a_peer_without_rtcp_is_left_alone():
    assert run(CircuitBreaker(), 300) is None


def test_nothing_is_judged_while_nothing_is_sent():
    breaker = CircuitBreaker()
    assert run(breaker, 20, report=lambda sent: Report(sent, 0.0)) is None
    assert run(breaker, 300, start=20.0, sent=1000, rate=0) is None
    when, why = run(breaker, 60, start=320.0, sent=1000)
    assert why is Breaker.RTCP_TIMEOUT and when >= 335


def test_media_timeout():
    """Section 4.2: five reports that say nothing more has arrived."""
    when, why = run(CircuitBreaker(), 300, report=lambda sent: Report(7, 0.0))
    assert why is Breaker.MEDIA_TIMEOUT and when == pytest.approx(30, abs=0.3)


def test_one_report_of_progress_begins_the_count_again():
    reports = iter([7] * 5 + [8] * 5 + [9] * 100)
    when, why = run(CircuitBreaker(), 300, report=lambda sent: Report(next(reports), 0.0))
    assert why is Breaker.MEDIA_TIMEOUT and when == pytest.approx(80, abs=0.5)


@pytest.mark.parametrize("lost,trips", [(0.5, True), (0.05, False)])
def test_congestion(lost, trips):
    """Section 4.3: 1000 packets/s of 1000 octets over 200 ms; TCP would get 1/(0.2*sqrt(2p/3)) packets a second:
    8.7 at p = 0.5 (more than ten times that is sent), 27 at p = 0.05 -- so 200 packets/s are within it."""
    rate = 1000 if trips else 200
    found = run(CircuitBreaker(), 100, rate=rate, octets=1000, report=lambda sent: Report(sent, lost, 0.2))
    if trips:
        assert found is not None and found[1] is Breaker.CONGESTION
    else:
        assert found is None


def test_a_voice_call_with_heavy_loss_is_not_cut():
    """50 packets/s are within an order of magnitude of TCP on any short way."""
    assert run(CircuitBreaker(), 100, report=lambda sent: Report(sent, 0.3, 0.03)) is None
