"""S7-IMS: the choice of the best response; the cases through a whole proxy are in test_proxy.py."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from imskit.sip.engine.proxy_context import Final, choose_best
from imskit.sip.wire.message import response_to


def finals(sip: Any, *statuses: int) -> list[Final]:
    return [Final(response_to(sip.received(), status), sip.build_flow(), "received") for status in statuses]


@pytest.mark.parametrize(
    ("statuses", "best"),
    [
        # RFC 3261 section 16.7 step 6, the example of the text.
        ((503, 407, 501, 404), 407),
        ((302, 404, 500, 603), 603),
        ((302, 404, 500), 302),
        ((404, 415, 420), 415),
        ((408, 404), 404),
        ((487, 480), 480),
        ((500, 503), 500),
        ((503,), 500),
        # RFC 5626 section 11.5: 430 is for the authoritative proxy alone.
        ((430, 486), 486),
        ((430, 408, 500), 408),
        ((430, 500), 500),
        ((430,), 430),
    ],
)
def test_order_of_arrival_does_not_matter(sip: Any, statuses: tuple[int, ...], best: int) -> None:
    for order in permutations(statuses):
        assert choose_best(sip.received(), finals(sip, *order)).response.status == best


def test_first_of_equals_is_chosen(sip: Any) -> None:
    both = finals(sip, 486, 480)
    assert choose_best(sip.received(), both) is both[0]


def test_unreadable_contacts_do_not_disturb_the_join(sip: Any) -> None:
    both = finals(sip, 302, 302)
    both[0].response.headers.add("Contact", "<sip:a@example.org>")
    both[1].response.headers.add("Contact", "<sip:b@example.org>, ,")
    assert choose_best(sip.received(), both).response.headers.elements("Contact") == ["<sip:a@example.org>"]


def test_503_becomes_500_of_the_proxys_own(sip: Any) -> None:
    best = choose_best(sip.received(), finals(sip, 503, 503))
    assert (best.response.status, best.flow) == (500, None)
