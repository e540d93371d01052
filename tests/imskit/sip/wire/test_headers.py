"""Typed headers, each both ways."""

from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.sip.wire import headers, ims_headers
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.headers import (
    CSeq,
    Event,
    MediaType,
    MinSE,
    NameAddr,
    RAck,
    ReasonHeader,
    Replaces,
    RetryAfter,
    SessionExpires,
    SubscriptionState,
    Via,
)
from imskit.sip.wire.uri import SipUri, parse_uri


class Codec(Protocol):
    @classmethod
    def parse(cls, text: str) -> object: ...


CANONICAL: list[tuple[type[Codec], str]] = [
    (NameAddr, "<sip:a@b>"),
    (NameAddr, '"A. Bell" <sip:a@b;lr>;tag=x'),
    (NameAddr, '"q\\"uote\\\\" <sip:a@b>;+sip.instance="<urn:uuid:1>";reg-id=1;q=0.5'),
    (NameAddr, "<urn:service:sos>"),
    (Via, "SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK1;rport"),
    (Via, "SIP/2.0/WSS df7jal23ls0d.invalid;branch=z9hG4bK1;received=2001:db8::1;rport=4711"),
    (Via, "SIP/2.0/TCP [2001:db8::9:1]:6050;branch=z9hG4bKas3-111;keep=30"),
    (CSeq, "2147483647 INVITE"),
    (RAck, "776656 1 INVITE"),
    (Event, "reg"),
    (Event, "presence.winfo;id=7"),
    (SubscriptionState, "active;expires=600000"),
    (SubscriptionState, "terminated;reason=deactivated;retry-after=5"),
    (SessionExpires, "1800;refresher=uac"),
    (MinSE, "90"),
    (ReasonHeader, 'Q.850;cause=16;text="Terminated"'),
    (Replaces, "12345@192.168.118.3;to-tag=12345;from-tag=5FFE-3994;early-only"),
    (MediaType, 'multipart/mixed;boundary="a;b"'),
    (RetryAfter, "3600;duration=5"),
    (ims_headers.PAccessNetworkInfo, "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=0010100010000001;network-provided"),
    (ims_headers.PAccessNetworkInfo, "IEEE-802.11ac;i-wlan-node-id=00090bffff50"),
    (ims_headers.PChargingVector, 'icid-value="AyretyU0dm+6O2IrT5tAFrbHLso=023551024";orig-ioi="Type 1home1.net"'),
    (ims_headers.PChargingFunctionAddresses, "ccf=192.0.8.1;ccf=192.0.8.3;ecf=[2001:db8::b]"),
    (ims_headers.PVisitedNetworkId, '"Visited network number 1"'),
    (
        ims_headers.SecurityMechanism,
        "ipsec-3gpp;q=0.5;alg=hmac-sha-1-96;prot=esp;mod=trans;ealg=aes-cbc;spi-c=98765432;spi-s=4294967295"
        ";port-c=8642;port-s=7531",
    ),
    (ims_headers.FeatureParameters, '*;+g.3gpp.icsi-ref="urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel";explicit'),
]


@pytest.mark.parametrize(("codec", "text"), CANONICAL)
def test_canonical_form_survives(codec: type[Codec], text: str) -> None:
    assert str(codec.parse(text)) == text


@given(st.sampled_from(CANONICAL), st.integers(0, 120), st.text(max_size=12))
def test_only_the_documented_error_escapes(case: tuple[type[Codec], str], cut: int, noise: str) -> None:
    codec, text = case
    try:
        value = codec.parse(text[:cut] + noise + text[cut:])
    except SipParseError:
        return
    assert codec.parse(str(value)) == value
    for name in dir(value):
        if not name.startswith("_"):
            try:
                getattr(value, name)
            except SipParseError:
                pass


# ---- addresses ---------------------------------------------------------------------------------------------------


def test_bare_uri_leaves_its_parameters_to_the_header() -> None:
    """RFC 3261 section 20.10."""
    address = NameAddr.parse("sip:a@b;tag=1;transport=tcp")
    assert isinstance(address.uri, SipUri) and not address.uri.parameters
    assert address.tag == "1" and address.parameters.get("transport") == "tcp"


def test_display_names() -> None:
    assert NameAddr.parse("<sip:a@b>").display == ""
    assert NameAddr.parse("Mr. Watson <sip:a@b>").display == "Mr. Watson"
    assert NameAddr.parse("caller<sip:a@b>").display == "caller"
    assert NameAddr.parse('"a;b,c <sip:x@y>" <sip:a@b>').uri == parse_uri("sip:a@b")
    assert str(NameAddr(parse_uri("sip:a@b"), 'x" <sip:evil@c>, "')) == '"x\\" <sip:evil@c>, \\"" <sip:a@b>'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sip:a@b?x=y",
        "sip:a,b@c",
        '"a <sip:a@b>',
        '"a" sip:a@b',
        '"a" b <sip:a@b>',
        '"Eve" <sip:victim@x>, "Eve" <sip:eve@x>',
        "<sip:a@b",
        "<sip:a@b>x",
        "<sip:a@b>;",
        "<sip:a@b>;;a",
        "<sip:a@b>;a=",
        '<sip:a@b>;a="',
        "<sip:a@b>;a b",
        "a, b <sip:a@b>",
        "caf\u00e9 <sip:a@b>",
        "< sip:a@b>",
        "<sip:a@b >",
        "*",
    ],
)
def test_malformed_addresses_are_refused(text: str) -> None:
    with pytest.raises(SipParseError):
        NameAddr.parse(text)


def test_contact_expires() -> None:
    assert NameAddr.parse("<sip:a@b>;expires=60").expires == 60
    for text in ("<sip:a@b>", "<sip:a@b>;expires=x", "<sip:a@b>;expires=-1", "<sip:a@b>;expires=99999999999"):
        assert NameAddr.parse(text).expires is None


def test_changes_make_copies() -> None:
    address = NameAddr.parse("<sip:a@b>;x=1;Tag=old")
    assert str(address.with_tag("new")) == "<sip:a@b>;x=1;tag=new"
    assert str(address.without_parameters("TAG")) == "<sip:a@b>;x=1"
    with pytest.raises(SipParseError):
        address.with_tag("a;b=c")
    with pytest.raises(SipParseError):
        address.with_parameter("a", '"x" y')
    with pytest.raises(SipParseError):
        address.with_parameter("a", "x\r\ny")


# ---- Via ---------------------------------------------------------------------------------------------------------


def test_via_with_spaces() -> None:
    via = Via.parse("SIP  / 2.0  / TCP     spindle.example.com   ;  branch  =   z9hG4bK9ikj8  ,".rstrip(" ,"))
    assert (via.transport, via.host, via.branch) == ("TCP", "spindle.example.com", "z9hG4bK9ikj8")
    assert Via.parse("sip/2.0/udp h : 5070").port == 5070


def test_via_values() -> None:
    via = Via.parse("SIP/2.0/UDP h;rport;received=[2001:db8::1];maddr=224.2.0.1;ttl=1")
    assert via.wants_rport and via.rport is None
    assert via.received == "2001:db8::1" and via.maddr == "224.2.0.1"
    assert via.with_parameter("rport", "5").rport == 5
    assert Via.parse("SIP/2.0/UDP h;rport=99999").rport is None
    assert Via.parse("SIP/2.0/UDP H:5060").sent_by == "h:5060"
    with pytest.raises(SipParseError):
        _ = Via.parse("SIP/2.0/UDP h;received=a:b").received


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SIP/2.0/UDP",
        "SIP/2.0 UDP h",
        "SIP/3.0/UDP h",
        "HTTP/2.0/TCP h",
        "SIP/2.0/U(P h",
        "SIP/2.0/UDP h:",
        "SIP/2.0/UDP h x",
        "SIP/2.0/UDP h:70000",
        "SIP/2.0/UDP [::1",
        "SIP/2.0/UDP 2001:db8::1",
        "SIP/2.0/UDP h;;branch=1",
    ],
)
def test_malformed_vias_are_refused(text: str) -> None:
    with pytest.raises(SipParseError):
        Via.parse(text)


# ---- the rest ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        (CSeq, "INVITE"),
        (CSeq, "1"),
        (CSeq, "1 INVITE x"),
        (CSeq, "-1 INVITE"),
        (CSeq, "2147483648 INVITE"),
        (CSeq, "1 INV(TE"),
        (CSeq, "\u0661 INVITE"),
        (RAck, "1 INVITE"),
        (RAck, "1 2"),
        (RAck, "4294967296 1 INVITE"),
        (Event, ""),
        (Event, "a b"),
        (Event, ";id=1"),
        (SessionExpires, "x"),
        (SessionExpires, "4294967296"),
        (SessionExpires, ";refresher=uac"),
        (MinSE, "-90"),
        (ReasonHeader, ""),
        (Replaces, "a;to-tag=1"),
        (Replaces, "a;from-tag=1"),
        (Replaces, ";from-tag=1;to-tag=2"),
        (MediaType, "application"),
        (MediaType, "a/b c"),
        (MediaType, "/sdp"),
        (RetryAfter, "soon"),
        (ims_headers.PAccessNetworkInfo, ""),
        (ims_headers.PChargingVector, "orig-ioi=a"),
        (ims_headers.PChargingVector, ""),
        (ims_headers.PVisitedNetworkId, "a b"),
        (ims_headers.PVisitedNetworkId, '"'),
        (ims_headers.SecurityMechanism, "ipsec 3gpp"),
        (ims_headers.FeatureParameters, "+g.x"),
    ],
)
def test_malformed_values_are_refused(codec: type[Codec], text: str) -> None:
    with pytest.raises(SipParseError) as caught:
        codec.parse(text)
    assert caught.value.status == 400 and caught.value.where


def test_meaning() -> None:
    assert SessionExpires.of(1800, "uas").refresher == "uas"
    assert SessionExpires.of(1800) == SessionExpires(1800)
    assert str(ReasonHeader.of("SIP", 200, 'Call completed "elsewhere"')) == (
        'SIP;cause=200;text="Call completed \\"elsewhere\\""'
    )
    reason = ReasonHeader.parse("Q.850 ;cause=16")
    assert reason.cause == 16 and reason.text == ""
    state = SubscriptionState.parse("Terminated;reason=Probation;retry-after=30")
    assert (state.state, state.reason, state.retry_after, state.expires) == ("terminated", "probation", 30, None)
    replaces = Replaces.parse("a@b;from-tag=1;to-tag=2")
    assert (replaces.call_id, replaces.to_tag, replaces.from_tag, replaces.early_only) == ("a@b", "2", "1", False)
    assert MediaType.parse("Application/SDP ; charset=x").essence == "application/sdp"
    assert RetryAfter.parse("120 (I'm in a meeting (really))").seconds == 120
    assert RetryAfter.parse("18000;duration=3600").parameters.get("duration") == "3600"
    assert Event.parse("reg;id=4").id == "4"
    assert headers.CSeq.parse(" 00001 \t ACK ") == CSeq(1, "ACK")
