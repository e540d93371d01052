"""Which P-CSCF next, and when (RFC 5626 section 4.5, TS 24.229 clause 9.2.1)."""

from __future__ import annotations

import pytest

from imskit.ims.p_cscf_list import PCscfList, RetryPolicy
from imskit.sip.wire.flow import Target

A, B, C = (Target("UDP", (f"10.45.0.{n}", 5060)) for n in range(3))


def proxies(*targets: Target, draw: str = "0") -> PCscfList:
    return PCscfList(targets, RetryPolicy(), lambda n: draw * n)


def test_each_is_tried_once_a_round() -> None:
    found = proxies(A, B, C)
    seen = [found.current]
    while found.next():
        seen.append(found.current)
    assert seen == [A, B, C]
    assert found.current == A
    assert not found.fresh_round
    found.back_off()
    assert found.fresh_round


@pytest.mark.parametrize(("draw", "share"), [("0", 0.5), ("f", 1.0)])
def test_the_wait_is_50_to_100_percent_of_the_bound(draw: str, share: float) -> None:
    found = proxies(A, draw=draw)
    waits = [found.back_off() for _ in range(8)]
    bounds = [60, 120, 240, 480, 960, 1800, 1800, 1800]
    assert waits == pytest.approx([bound * share for bound in bounds])
    found.succeeded()
    assert found.back_off() == pytest.approx(60 * share)


def test_a_new_list_begins_with_its_first_but_not_with_the_one_that_just_failed() -> None:
    found = proxies()
    assert found.current is None
    assert found.name == "the P-CSCF"
    assert not found.next()
    found.replace((A, B))
    assert found.current == A
    assert found.name == "the P-CSCF 10.45.0.0 port 5060"
    found.back_off()
    found.replace((A, B))
    assert found.current == B
    found.succeeded()
    found.replace((A,))
    assert found.current == A
