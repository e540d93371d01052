"""Where a UE learns of its P-CSCFs (TS 24.229 clause 9.2.1) [S7-IMS]."""

from __future__ import annotations

import pytest

from imskit.ims.p_cscf_names import Source, fitting, literal, p_cscf_uri, searches
from imskit.sip.wire.flow import Target, Transport

HOME = "ims.mnc001.mcc001.3gppnetwork.org"


@pytest.mark.parametrize(
    ("text", "transport", "uri", "target"),
    [
        ("10.45.0.1", "UDP", "sip:10.45.0.1", ("10.45.0.1", 5060)),
        ("10.45.0.1:5070", "TCP", "sip:10.45.0.1:5070", ("10.45.0.1", 5070)),
        ("10.45.0.1", "TLS", "sips:10.45.0.1", ("10.45.0.1", 5061)),
        ("2001:db8::1", "UDP", "sip:[2001:db8::1]", ("2001:db8::1", 5060)),
        ("[2001:db8::1]:5070", "UDP", "sip:[2001:db8::1]:5070", ("2001:db8::1", 5070)),
        ("pcscf.example", "UDP", "sip:pcscf.example", None),
        (" pcscf.example:5070 ", "UDP", "sip:pcscf.example:5070", None),
        ("sip:pcscf.example;lr", "UDP", "sip:pcscf.example;lr", None),
    ],
)
def test_addresses_and_names(text: str, transport: Transport, uri: str, target: tuple[str, int] | None) -> None:
    assert str(p_cscf_uri(text, transport)) == uri
    expected = Target(transport, target) if target else None
    assert literal(p_cscf_uri(text, transport), transport) == expected


@pytest.mark.parametrize("text", ["", "a b", "1.2.3.4:x", "1.2.3.4:99999", "[10.0.0.1]", "x:1:2", "sip:", "sip:\x00"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        p_cscf_uri(text, "UDP")


def test_the_configuration_alone_else_the_card_else_the_home_network() -> None:
    a, b, home = (p_cscf_uri(each, "UDP") for each in ("a.example", "b.example", HOME))
    assert searches(["a.example"], ["b.example"], HOME, "UDP") == [(Source.CONFIGURATION, (a,))]
    assert searches([], ["b.example", "not one"], HOME, "UDP") == [(Source.CARD, (b,)), (Source.HOME, (home,))]
    assert searches([], ["not one"], HOME, "UDP") == [(Source.HOME, (home,))]
    with pytest.raises(ValueError, match="is no address"):
        searches(["not one"], [], HOME, "UDP")


def test_only_what_the_own_address_can_reach_and_each_once() -> None:
    v4, v6 = Target("UDP", ("10.45.0.1", 5060)), Target("UDP", ("2001:db8::1", 5060))
    assert fitting([v6, v4, v4], ("10.45.0.2", 5060)) == (v4,)
    assert fitting([v6, v4], ("2001:db8::2", 5060)) == (v6,)
