"""S7-IMS: timer profiles of RFC 3261 and TS 24.229 table 7.7.1."""

from __future__ import annotations

import pytest

from imskit.sip.engine.timers import RFC3261, TS24229_UE, Timer, TimerProfile

# RFC 3261 annex A (timers for unreliable transports), RFC 6026 for L and M; TS 24.229 table 7.7.1, column "UE".
EXPECTED = {
    Timer.A: (0.5, 2.0),
    Timer.B: (32.0, 128.0),
    Timer.E: (0.5, 2.0),
    Timer.F: (32.0, 128.0),
    Timer.G: (0.5, 2.0),
    Timer.H: (32.0, 128.0),
    Timer.I: (5.0, 17.0),
    Timer.J: (32.0, 128.0),
    Timer.K: (5.0, 17.0),
    Timer.L: (32.0, 128.0),
    Timer.M: (32.0, 128.0),
}


@pytest.mark.parametrize("timer", EXPECTED)
def test_values_over_udp(timer: Timer) -> None:
    core, ue = EXPECTED[timer]
    assert RFC3261.initial(timer, reliable=False) == core
    assert TS24229_UE.initial(timer, reliable=False) == ue


@pytest.mark.parametrize("profile", [RFC3261, TS24229_UE])
def test_reliable_transports_neither_retransmit_nor_linger(profile: TimerProfile) -> None:
    assert {timer: profile.initial(timer, reliable=True) for timer in (Timer.A, Timer.E, Timer.G)} == {
        Timer.A: None,
        Timer.E: None,
        Timer.G: None,
    }
    assert [profile.initial(timer, reliable=True) for timer in (Timer.D, Timer.I, Timer.J, Timer.K)] == [0, 0, 0, 0]
    assert profile.initial(Timer.H, reliable=True) == profile.timeout


def test_floors_of_c_and_d() -> None:
    for profile in (RFC3261, TS24229_UE):
        assert profile.initial(Timer.C, reliable=False) > 180
        assert profile.abandoned_invite > profile.c
    assert RFC3261.initial(Timer.D, reliable=False) >= 32
    assert TS24229_UE.initial(Timer.D, reliable=False) > 128


def test_100_to_non_invite_waits_until_timer_e_reaches_t2() -> None:
    # RFC 3261: E fires at 0.5, 1.5 and 3.5 s, then every 4 s; UE: at 2, 6 and 14 s, then every 16 s.
    assert RFC3261.trying_non_invite == 3.5
    assert TS24229_UE.trying_non_invite == 14.0


@pytest.mark.parametrize("wrong", [{"t1": 0}, {"t1": 5.0}, {"t4": 0}, {"c": 180}, {"d": 31}, {"trying": -1}])
def test_nonsense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="timer"):
        TimerProfile(**wrong)
