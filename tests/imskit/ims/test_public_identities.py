"""Which spellings of a public identity are the same one, and which a UE prefers (TS 24.229 clause 5.2.6.3.3)."""

from __future__ import annotations

import pytest

from imskit.ims.public_identities import key_of, preferred
from imskit.sip.wire.message import Request


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("sip:alice@ims.example", "sips:alice@IMS.example;transport=tls", True),
        ("sip:%61lice@ims.example", "sip:alice@ims.example;user=phone", True),
        ("tel:+1-555-0100", "tel:+15550100", True),
        ("sip:Alice@ims.example", "sip:alice@ims.example", False),
        ("sip:alice@ims.example", "sip:alice@ims.example:5070", False),
        ("tel:+15550100", "sip:+15550100@ims.example", False),
        ("no uri", "no uri", True),
    ],
)
def test_spellings(one: str, other: str, same: bool) -> None:
    assert (key_of(one) == key_of(other)) is same


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (["<tel:+1-555-0100>"], "tel:+15550100"),
        (["<sip:nobody@ims.example>"], "sip:alice@ims.example"),
        (["<sip:nobody@ims.example>", "<tel:+15550100>"], "tel:+15550100"),
        ([], "sip:alice@ims.example"),
    ],
)
def test_preference(wanted: list[str], found: str) -> None:
    request = Request.create(
        "INVITE",
        "tel:+15550200",
        [("From", "<sips:alice@ims.example>;tag=1"), *(("P-Preferred-Identity", value) for value in wanted)],
    )
    assert preferred(request, ["tel:+15550100", "sip:alice@ims.example"]) == found
    assert preferred(request, ["tel:+15550999"]) is None
