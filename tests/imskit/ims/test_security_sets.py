"""The life of security associations over a registration (TS 33.203 clause 7.4, TS 24.229 clause 5.1.1)."""

from __future__ import annotations

import itertools

from imskit.ims.registration_events import Output, ReleaseSecurity, RemoveSecurity, ReserveSecurity, SecurityInstalled
from imskit.ims.registration_events import SecurityReserved as Reserved
from imskit.ims.security_agreement import SecurityAgreement, SecurityPorts
from imskit.ims.security_sets import SecuritySets
from imskit.ipsec.algorithms import STANDARD_PAIRS
from imskit.secrets import Secret

KEY = Secret(bytes(16))


class Bench:
    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.sets = SecuritySets(lambda n: "0" * n, self.outputs.append, lambda _: False)
        self.numbers = itertools.count(1000)
        self.agreements: list[SecurityAgreement] = []

    def agree(self, now: float) -> str:
        """Reserve and install a set; returns its name."""
        n = self.numbers
        self.sets.reserve()
        reserve = self.outputs[-1]
        assert isinstance(reserve, ReserveSecurity)
        ours = SecurityPorts(next(n), next(n), next(n), reserve.keep_port_s or next(n))
        assert self.sets.reserved(Reserved(reserve.reservation, ours))
        theirs = SecurityPorts(next(n), next(n), next(n), 6101)
        agreement = SecurityAgreement("UDP", "10.0.0.2", "10.0.0.1", ours, theirs, STANDARD_PAIRS[0], KEY, KEY)
        self.agreements.append(agreement)
        self.sets.install(agreement, ("v",), now)
        assert self.sets.installed(SecurityInstalled(reserve.reservation))
        return reserve.reservation

    def removed(self) -> list[str]:
        return [each.name for each in self.outputs if isinstance(each, RemoveSecurity)]


def test_a_new_set_lives_as_long_as_the_old_one_would_have() -> None:
    """The greater of what is left of the old set and the registration with 30 s."""
    bench = Bench()
    old = bench.agree(0)
    bench.sets.confirm(3600)
    assert bench.sets.deadline() == 3630
    bench.agree(100)
    bench.sets.confirm(100 + 60)
    bench.sets.tick(3629)
    assert bench.removed() == []
    bench.sets.tick(3630)
    assert old in bench.removed()
    assert len(bench.removed()) == 2


def test_a_confirmed_set_lives_longer_with_each_refresh() -> None:
    bench = Bench()
    bench.agree(0)
    bench.sets.confirm(100)
    bench.sets.confirm(200)
    assert bench.sets.deadline() == 230
    bench.sets.confirm(150)
    assert bench.sets.deadline() == 230


def test_a_second_reservation_takes_the_server_port_over_before_the_first_is_given_back() -> None:
    """An invalid challenge: new SPIs and port-c, the same port-s (TS 24.229 clause 5.1.1.5.3)."""
    bench = Bench()
    bench.sets.reserve()
    first = bench.outputs.pop()
    assert isinstance(first, ReserveSecurity)
    bench.sets.reserved(Reserved(first.reservation, SecurityPorts(1, 2, 3, 4)))
    bench.sets.reserve()
    second = bench.outputs.pop()
    assert second == ReserveSecurity(second.reservation, 4) if isinstance(second, ReserveSecurity) else False
    assert bench.outputs == []
    assert isinstance(second, ReserveSecurity)
    bench.sets.reserved(Reserved(second.reservation, SecurityPorts(5, 6, 7, 4)))
    assert bench.outputs == [ReleaseSecurity(first.reservation)]


def test_what_nobody_waits_for_any_more_is_given_back() -> None:
    bench = Bench()
    bench.sets.reserve()
    reserve = bench.outputs[-1]
    assert isinstance(reserve, ReserveSecurity)
    bench.sets.abandon()
    assert bench.outputs[-1] == ReleaseSecurity(reserve.reservation)
    assert not bench.sets.reserved(Reserved(reserve.reservation, SecurityPorts(1, 2, 3, 4)))
    assert bench.outputs[-1] == ReleaseSecurity(reserve.reservation)
    assert not bench.sets.installed(SecurityInstalled("gm-9"))
    assert bench.outputs[-1] == RemoveSecurity("gm-9")


def test_a_retired_set_can_still_be_used_until_its_successor_is_heard() -> None:
    bench = Bench()
    old = bench.agree(0)
    bench.sets.confirm(1000)
    bench.sets.retire()
    assert bench.sets.current is None
    assert bench.sets.leaving is not None
    bench.agree(10)
    bench.sets.confirm(1010)
    new = bench.agreements[-1]
    bench.sets.heard(new.ours.port_s, (new.remote, new.theirs.port_c), 11)
    bench.sets.tick(11)
    assert bench.removed() == [old]
