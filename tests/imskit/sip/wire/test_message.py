"""Messages: lossless, typed on demand, safe against hostile input."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.message import (
    MAXIMUM_BODY,
    MAXIMUM_HEAD,
    Headers,
    Request,
    Response,
    parse_message,
    response_to,
)
from imskit.sip.wire.uri import SipUri, TelUri
from imskit.sip.wire.validate import refusal, validate

INVITE = b"""INVITE tel:+15550200 SIP/2.0\r
Via: SIP/2.0/TCP 10.45.0.2:5060;branch=z9hG4bKabc;rport, SIP/2.0/WSS df7jal23ls0d.invalid;branch=z9hG4bKx\r
max-forwards :70\r
Route: <sip:10.45.0.1:5060;lr>,\r
 <sip:orig@scscf.ims.mnc001.mcc001.3gppnetwork.org;lr>\r
f: "Alice, \\"A\\"" <sip:+15550100@ims.mnc001.mcc001.3gppnetwork.org>;tag=abc\r
TO: <tel:+15550200>\r
i: abcdefgh@10.45.0.2\r
CSeq: 1 INVITE\r
Contact: <sip:001010000000001@10.45.0.2:5060>;+g.3gpp.icsi-ref="urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel";audio;\
+sip.instance="<urn:gsma:imei:35209900-176148-0>"\r
P-Early-Media: supported\r
X-Unknown:  kept  as it is \t\r
Supported: 100rel, timer\r
k: precondition\r
Session-Expires: 1800;refresher=UAC\r
Content-Type: application/sdp\r
l: 5\r
\r
v=0\r
"""


def test_untouched_message_is_byte_identical() -> None:
    """Order, case, compact forms, folds, odd spaces and unknown headers survive."""
    assert parse_message(INVITE).encode() == INVITE


def test_touched_field_changes_alone() -> None:
    message = parse_message(INVITE)
    message.headers.set("Max-Forwards", 69)
    assert message.encode() == INVITE.replace(b"max-forwards :70", b"Max-Forwards: 69")


def test_typed_values() -> None:
    message = parse_message(INVITE)
    assert isinstance(message, Request)
    assert message.request_uri == TelUri("+15550200")
    assert [via.branch for via in message.vias] == ["z9hG4bKabc", "z9hG4bKx"]
    assert message.top_via.transport == "TCP" and message.top_via.wants_rport
    assert message.max_forwards == 70
    assert [str(route.uri) for route in message.routes] == [
        "sip:10.45.0.1:5060;lr",
        "sip:orig@scscf.ims.mnc001.mcc001.3gppnetwork.org;lr",
    ]
    assert message.from_.display == 'Alice, "A"'
    assert message.from_.tag == "abc" and message.to.tag is None
    assert message.call_id == "abcdefgh@10.45.0.2"
    assert (message.cseq.number, message.cseq.method) == (1, "INVITE")
    assert message.supported == ["100rel", "timer", "precondition"]
    assert message.session_expires is not None
    assert (message.session_expires.seconds, message.session_expires.refresher) == (1800, "uac")
    assert message.content_type is not None and message.content_type.essence == "application/sdp"
    assert message.expires is None and message.event is None and message.rack is None
    (contact,) = message.contacts
    assert isinstance(contact, NameAddr)
    assert contact.parameters.raw("+g.3gpp.icsi-ref") == '"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel"', (
        "feature tags keep their exact text"
    )
    assert contact.parameters.get("+sip.instance") == "<urn:gsma:imei:35209900-176148-0>"
    assert str(contact) in INVITE.decode()


def test_contact_star() -> None:
    request = Request.create("REGISTER", "sip:example.com", [("Contact", "*"), ("Expires", 0)])
    assert request.contacts == "*"
    request.headers.add("m", "<sip:a@b>")
    with pytest.raises(SipParseError):
        _ = request.contacts


@pytest.mark.parametrize("name", ["Via", "From", "To", "CSeq", "Call-ID"])
def test_missing_header_is_the_documented_error(name: str) -> None:
    message = parse_message(INVITE)
    message.headers.remove(name)
    attribute = {"Via": "top_via", "From": "from_", "To": "to", "CSeq": "cseq", "Call-ID": "call_id"}[name]
    with pytest.raises(SipParseError, match=name):
        getattr(message, attribute)


def test_content_length_is_put_right() -> None:
    request = Request.create("MESSAGE", "sip:a@b", body=b"hello", content_type="text/plain")
    assert b"\r\nContent-Length: 5\r\n\r\nhello" in request.encode()
    request.set_body(b"", "")
    encoded = request.encode()
    assert encoded.endswith(b"\r\nContent-Length: 0\r\n\r\n") and b"Content-Type" not in encoded
    long = parse_message(INVITE)
    long.body = b"v=0\r\nmore"
    assert b"\r\nContent-Length: 9\r\n" in long.encode()


def test_body_is_opaque_bytes() -> None:
    body = bytes(range(256))
    data = b"MESSAGE sip:a@b SIP/2.0\r\nContent-Length: 256\r\n\r\n" + body + b"trailing"
    message = parse_message(data)
    assert message.body == body
    assert message.encode() == data.removesuffix(b"trailing")


def test_octets_that_are_no_utf8_survive() -> None:
    data = b'MESSAGE sip:a@b SIP/2.0\r\nSubject: \xff\xfe\r\nFrom: "\xe4" <sip:a@b>\r\nContent-Length: 0\r\n\r\n'
    message = parse_message(data)
    assert message.encode() == data
    assert message.from_.display == "\udce4"


def test_leading_crlf_is_ignored() -> None:
    """RFC 3261 section 7.5."""
    assert parse_message(b"\r\n\r\n" + INVITE).encode() == INVITE


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"\r\n\r\n", 400),
        (b"INVITE sip:a@b SIP/2.0\r\n", 400),
        (b"INVITE sip:a@b SIP/2.0\r\nX\r\n\r\n", 400),
        (b"INVITE sip:a@b SIP/2.0\r\nViax\r\n\r\n", 400),
        (b"INVITE sip:a@b SIP/2.0\r\n folded: first\r\n\r\n", 400),
        (b"INVITE sip:a@b SIP/2.0\r\nBad Name: x\r\n\r\n", 400),
        (b"INVITE sip:a@b SIP/2.0\r\nX: a\nVia: b\r\n\r\n", 400),
        (b"INVITE sip:a@b SIP/2.0\r\nX: a\rVia: b\r\n\r\n", 400),
        (b"INVITE sip:a@b SIP/3.0\r\n\r\n", 505),
        (b"INVITE sip:a@b HTTP/1.1\r\n\r\n", 400),
        (b"INV ITE sip:a@b SIP/2.0\r\n\r\n", 400),
        (b"SIP/2.0 -1_0 OK\r\n\r\n", 400),
        (b"SIP/2.0 099 OK\r\n\r\n", 400),
        (b"SIP/2.0 700 OK\r\n\r\n", 400),
        (b"SIP/2.0 200\r\n\r\n", 400),
        (b"INVITE sip:a@b SIP/2.0\r\nl: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"INVITE sip:a@b SIP/2.0\r\nl: +1\r\n\r\nab", 400),
        (b"INVITE sip:a@b SIP/2.0\r\nl: 0x1\r\n\r\nab", 400),
        ("INVITE sip:a@b SIP/2.0\r\nl: \u0661\r\n\r\nab".encode(), 400),
        (b"INVITE sip:a@b SIP/2.0\r\nl: 3\r\n\r\nab", 400),
        (b"INVITE sip:a@b SIP/2.0\r\n" + b"X: y\r\n" * 257 + b"\r\n", 513),
        (b"INVITE sip:a@b SIP/2.0\r\nX: " + b"y" * MAXIMUM_HEAD + b"\r\n\r\n", 513),
        (b"INVITE sip:a@b SIP/2.0\r\n\r\n" + b"y" * (MAXIMUM_BODY + 1), 413),
    ],
)
def test_malformed_messages_are_refused(data: bytes, status: int) -> None:
    with pytest.raises(SipParseError) as caught:
        parse_message(data)
    assert caught.value.status == status


def test_error_shows_no_control_characters_and_stays_short() -> None:
    with pytest.raises(SipParseError) as caught:
        parse_message(b"\x1b[2J" + b"x" * 5000 + b"\r\n\r\n")
    text = str(caught.value)
    assert text.isascii() or "\u2026" in text
    assert "\x1b" not in text and len(text) < 200


def test_response_copies_what_it_must() -> None:
    """RFC 3261 section 8.2.6, 12.1.1."""
    request = parse_message(INVITE)
    assert isinstance(request, Request)
    request.headers.prepend("Record-Route", "<sip:p1;lr>")
    request.headers.add("Timestamp", "54")
    ringing = response_to(request, 180, to_tag="totag")
    assert ringing.encode().startswith(b"SIP/2.0 180 Ringing\r\nVia: SIP/2.0/TCP 10.45.0.2:5060;")
    assert ringing.to.tag == "totag"
    assert ringing.headers.get_all("Record-Route") == ["<sip:p1;lr>"]
    assert ringing.from_ == request.from_ and ringing.call_id == request.call_id
    assert ringing.cseq == request.cseq and ringing.vias == request.vias
    trying = response_to(request, 100, to_tag="totag")
    assert trying.to.tag is None and trying.headers.get("Timestamp") == "54"
    busy = response_to(request, 486, "No time", to_tag="totag")
    assert busy.reason == "No time" and "Record-Route" not in busy.headers
    request.headers.set("To", "<tel:+15550200>;tag=mine")
    assert response_to(request, 200, to_tag="other").to.tag == "mine"
    with pytest.raises(SipParseError):
        response_to(request, 200, "OK\r\nX: y")
    with pytest.raises(SipParseError):
        Response(700)


def test_response_to_a_quoted_nul_is_possible() -> None:
    """RFC 4475 section 3.1.1.2 has a NUL in a display name, which may not stop the answer."""
    request = parse_message(INVITE.replace(b"TO: <tel", b'TO: "\\\x00" <tel'))
    assert isinstance(request, Request)
    assert b'"\\\x00" <tel:+15550200>;tag=x' in response_to(request, 200, to_tag="x").encode()


def test_create_refuses_injection() -> None:
    with pytest.raises(SipParseError):
        Request.create("INVITE", "sip:a@b SIP/2.0\r\nX: y")
    with pytest.raises(SipParseError):
        Request.create("INVITE\r\n", "sip:a@b")
    with pytest.raises(SipParseError):
        Request.create("INVITE", "sip:a@b", [("Subject", "x\r\nX: y")])
    with pytest.raises(SipParseError):
        Request.create("INVITE", "sip:a@b", [("Sub ject", "x")])
    assert Request.create("INVITE", SipUri("sip", "a", None, "2001:db8::1", 5062)).uri == "sip:a@[2001:db8::1]:5062"


def test_copies_are_independent() -> None:
    first = parse_message(INVITE)
    second = first.copy()
    second.headers.remove("Route")
    second.body = b""
    assert first.encode() == INVITE and second.encode() != INVITE


def test_repr_shows_no_identity() -> None:
    assert "15550100" not in repr(parse_message(INVITE)) + repr(parse_message(INVITE).headers)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(INVITE)), st.binary(max_size=40), st.integers(0, 40))
def test_only_the_documented_error_escapes(cut: int, noise: bytes, skip: int) -> None:
    """A valid prefix, noise, and the rest: parsed or refused, whatever is then asked of it."""
    data = INVITE[:cut] + noise + INVITE[cut + skip :]
    try:
        message = parse_message(data)
        encoded = message.encode()
        assert parse_message(encoded).encode() == encoded
        validate(message)
    except SipParseError as error:
        answer = refusal(data, error)
        if answer is not None:
            assert parse_message(answer.encode()).encode() == answer.encode()
        return
    for name in dir(message):
        if not name.startswith("_"):
            try:
                getattr(message, name)
            except SipParseError:
                pass


def test_truncation_at_each_byte() -> None:
    for length in range(len(INVITE)):
        with pytest.raises(SipParseError) as caught:
            parse_message(INVITE[:length])
        refusal(INVITE[:length], caught.value)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("From", '"\\'),
        ("From", "<"),
        ("From", "a "),
        ("From", ';a="'),
        ("To", "sip:a@b;"),
        ("Via", "SIP/2.0/UDP a,"),
        ("Via", "SIP / 2.0 / UDP "),
        ("Via", " : 1"),
        ("Contact", '"a" <sip:b@c>,'),
        ("Contact", '",<'),
        ("Route", "<sip:" + "%41" * 20 + "@b>,"),
        ("X", "\r\n "),
        ("X", "\r\n a"),
        ("CSeq", "1 "),
    ],
)
def test_time_grows_with_length_only(name: str, unit: str) -> None:
    head = f"INVITE sip:a@b SIP/2.0\r\n{name}: {unit * (60_000 // len(unit))}\r\n\r\n".encode()
    start = time.process_time()
    for attribute in ("from_", "to", "vias", "contacts", "routes", "cseq"):
        try:
            message = parse_message(head)
            getattr(message, attribute)
            message.headers.get(name)
        except SipParseError:
            pass
    assert time.process_time() - start < 1.5


def test_headers_equal_and_empty() -> None:
    assert Headers([("a", "b")]) == Headers([("a", "b")])
    assert len(Headers()) == 0 and list(Headers([("To", "x"), ("t", "y")])) == [("To", "x"), ("t", "y")]
