"""URIs: parsing, writing, comparing."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.uri import OtherUri, SipUri, TelUri, parse_uri, uri_equal


@pytest.mark.parametrize(
    "text",
    [
        "sip:alice@atlanta.com",
        "sip:alice:secretword@atlanta.com;transport=tcp",
        "sips:alice@atlanta.com?subject=project%20x&priority=urgent",
        "sip:+1-212-555-1212:1234@gateway.com;user=phone",
        "sips:1212@gateway.com",
        "sip:alice@192.0.2.4",
        "sip:atlanta.com;method=REGISTER?to=alice%40atlanta.com",
        "sip:alice;day=tuesday@atlanta.com",
        "sip:pcscf1",
        "sip:[2001:db8::10]:5070;lr",
        "sip:[::ffff:192.0.2.10]",
        "sip:10.45.0.1:5060;lr;ob",
        "sip:*31#@ims.example;user=dialstring",
        "sip:bob@biloxi.com;maddr=[2001:db8::1]",
        "sip:a@b;gr=urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "sip:a@b;+sip.x=1;orig",
        "sip:a@host_with_underscore.example",
        "sip:transferee@b?Replaces=12345%40192.168.118.3%3Bto-tag%3D1%3Bfrom-tag%3D2",
        "tel:+1-201-555-0123",
        "tel:7042;phone-context=example.com",
        "tel:+15550100;npdi;rn=+15550101",
        "urn:service:sos",
        "urn:urn-7:3gpp-service.ims.icsi.mmtel",
        "mailto:a@b.example",
        "http://example.com/a?b=c#d",
    ],
)
def test_round_trip(text: str) -> None:
    assert str(parse_uri(text)) == text


def test_parts() -> None:
    uri = parse_uri("SIP:al%69ce:pw@Example.COM:5070;Transport=TCP;lr;x=%41?a=b&c=d")
    assert isinstance(uri, SipUri)
    assert (uri.scheme, uri.user, uri.password, uri.host, uri.port) == ("sip", "al%69ce", "pw", "Example.COM", 5070)
    assert uri.user_text == "alice" and uri.transport == "tcp" and uri.loose_router
    assert uri.parameters.get("X") == "%41" and uri.headers == "a=b&c=d"
    assert str(uri.address_of_record()) == "sip:alice@example.com:5070"
    assert str(uri.with_parameter("ob").without_parameters("transport", "x")) == (
        "sip:al%69ce:pw@Example.COM:5070;lr;ob?a=b&c=d"
    )


def test_emergency_and_other_schemes_are_kept() -> None:
    assert parse_uri("urn:service:sos.police") == OtherUri("urn", "service:sos.police")
    tel = parse_uri("tel:+1-(555)-0100;ext=12")
    assert isinstance(tel, TelUri) and tel.digits == "+15550100" and tel.scheme == "tel"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sip:",
        "sip",
        "alice@example.com",
        "sip:alice@",
        "sip:@example.com",
        "sip:a b@example.com",
        "sip:a@example.com;",
        "sip:a@example.com;;lr",
        "sip:a@example.com;x=",
        "sip:a@example.com?",
        "sip:a@good.example@evil.example",
        "sip:a@example.com:0",
        "sip:a@example.com:65536",
        "sip:a@example.com:port",
        "sip:a@2001:db8::10",
        "sip:a@[2001:db8::10",
        "sip:a@[192.0.2.1]",
        "sip:a@[2001:db8::zz]",
        "sip:a@[2001:db8::1%25eth0]",
        "sip:%4@example.com",
        "sip:a%zz@example.com",
        "sip:a<b>@example.com",
        "sip:\u00e4@example.com",
        "sip:a@ex\u00e4mple.com",
        "tel:",
        "tel:+",
        "tel:+abc",
        "tel:12 34",
        "tel:*21*%23;phone-context=ims.example",
        "urn:a b",
        "urn:<x>",
        "1x:y",
        "http://a\x00b",
    ],
)
def test_malformed_uris_are_refused(text: str) -> None:
    with pytest.raises(SipParseError) as caught:
        parse_uri(text, "To")
    assert caught.value.status == 400 and caught.value.where == "To"


def test_overlong_uri_is_414() -> None:
    with pytest.raises(SipParseError) as caught:
        parse_uri("sip:" + "a" * 9000 + "@b")
    assert caught.value.status == 414


@pytest.mark.parametrize(
    ("a", "b"),
    [
        # RFC 3261 section 19.1.4: equivalent
        ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
        (
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
        ),
        (
            "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
        ),
        # RFC 3966 section 4
        ("tel:+1-201-555-0123", "tel:+1(201)5550123"),
        ("tel:7042;phone-context=Example.com", "tel:7042;PHONE-CONTEXT=example.com"),
        ("urn:service:sos", "URN:service:sos"),
    ],
)
def test_equal(a: str, b: str) -> None:
    assert uri_equal(parse_uri(a), parse_uri(b)) and uri_equal(parse_uri(b), parse_uri(a))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        # RFC 3261 section 19.1.4: not equivalent
        ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
        ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
        ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
        ("sip:a@b", "sips:a@b"),
        ("sip:a@b", "sip:a:p@b"),
        ("sip:a@b", "sip:a@b;maddr=c"),
        ("tel:+15550100", "tel:5550100"),
        ("tel:+15550100", "sip:+15550100@b"),
        ("tel:7042;phone-context=a", "tel:7042;phone-context=b"),
    ],
)
def test_not_equal(a: str, b: str) -> None:
    assert not uri_equal(parse_uri(a), parse_uri(b)) and not uri_equal(parse_uri(b), parse_uri(a))


@given(st.text(max_size=80), st.sampled_from(["", "sip:", "sips:a@", "tel:+1", "urn:", "sip:a@b;"]))
def test_only_the_documented_error_escapes(noise: str, prefix: str) -> None:
    try:
        uri = parse_uri(prefix + noise)
    except SipParseError:
        return
    assert parse_uri(str(uri)) == uri
    assert uri_equal(uri, uri)


@pytest.mark.parametrize("unit", ["1", "a", "%41", ";a", "-", "(", "1x", ":", "[", "?a=b"])
def test_time_grows_with_length_only(unit: str) -> None:
    start = time.process_time()
    for prefix in ("sip:", "tel:+", "tel:", "urn:", "sip:a@b"):
        for end in ("", "\x01"):
            try:
                parse_uri((prefix + unit * 8000)[:8190] + end)
            except SipParseError:
                pass
    assert time.process_time() - start < 0.5
