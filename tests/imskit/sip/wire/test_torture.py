"""The torture messages of RFC 4475 and RFC 5118: the valid ones accepted, the invalid ones refused as the RFC says."""

import re
from pathlib import Path

import pytest

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.message import Message, Request, Response, parse_message
from imskit.sip.wire.uri import OtherUri, SipUri
from imskit.sip.wire.validate import parse_and_validate, refusal, validate

DATA = Path(__file__).parents[3] / "data"


def rfc4475(name: str) -> bytes:
    data = (DATA / "rfc4475" / f"{name}.dat").read_bytes()
    return data + b"\r\n" if name == "baddn" else data


def rfc5118(name: str) -> bytes:
    """The archive has LF for CRLF, wrong lengths of bodies and twice no empty line at the end: put right here."""
    text = (DATA / "rfc5118" / f"{name}.dat").read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    head, _, body = text.partition(b"\r\n\r\n")
    head = re.sub(rb"Content-Length: [0-9]+", b"Content-Length: %d" % len(body), head.removesuffix(b"\r\n"))
    return head + b"\r\n\r\n" + body


def touch(message: Message) -> None:
    """Read every typed value that these messages have."""
    _ = message.vias, message.from_, message.to, message.contacts, message.routes, message.record_routes
    _ = message.cseq, message.call_id, message.max_forwards, message.content_type
    _ = message.require, message.proxy_require, message.supported, message.allow
    if isinstance(message, Request):
        _ = message.request_uri


VALID = [
    # 3.1.1 valid messages
    *("wsinv", "intmeth", "esc01", "escnull", "esc02", "lwsdisp", "longreq", "dblreq", "semiuri", "transports"),
    *("mpart01", "unreason", "noreason"),
    # 3.1.2.12: "an element shouldn't [reject] unless the contents of the Date header field were important"
    "baddate",
    # 3.2, 3.3, 3.4: the syntax is right, what follows is for transaction, proxy and user agent
    *("badbranch", "unkscm", "novelsc", "unksm2", "bext01", "invut", "regaut01", "bcast", "zeromf"),
    *("cparam01", "cparam02", "regescrt", "sdp01", "inv2543"),
]


@pytest.mark.parametrize("name", VALID)
def test_valid_messages_are_accepted_and_kept_byte_for_byte(name: str) -> None:
    data = rfc4475(name)
    message = parse_and_validate(data)
    touch(message)
    encoded = message.encode()
    if name == "dblreq":
        assert encoded == data[: len(encoded)] and data[len(encoded) :].strip().startswith(b"INVITE")
    elif name == "inv2543":
        # No Content-Length came; the one that is put in is all that changes.
        head, _, body = data.partition(b"\r\n\r\n")
        assert encoded == head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    else:
        assert encoded == data


INVALID = {
    "badinv01": 400,  # 3.1.2.1
    "clerr": 400,  # 3.1.2.2
    "ncl": 400,  # 3.1.2.3
    "scalar02": 400,  # 3.1.2.4
    "quotbal": 400,  # 3.1.2.6
    "ltgtruri": 400,  # 3.1.2.7
    "lwsruri": 400,  # 3.1.2.8
    "lwsstart": 400,  # 3.1.2.9
    "trws": 400,  # 3.1.2.10
    "escruri": 400,  # 3.1.2.11
    "regbadct": 400,  # 3.1.2.13
    "badaspec": 400,  # 3.1.2.14
    "baddn": 400,  # 3.1.2.15
    "badvers": 505,  # 3.1.2.16
    "mismatch01": 400,  # 3.1.2.17
    "mismatch02": 400,  # 3.1.2.18: 501 or 400
    "multi01": 400,  # 3.3.8
    "mcl01": 400,  # 3.3.9
}


@pytest.mark.parametrize(("name", "status"), INVALID.items())
def test_invalid_requests_are_refused_with_the_right_status(name: str, status: int) -> None:
    data = rfc4475(name)
    with pytest.raises(SipParseError) as caught:
        parse_and_validate(data)
    assert caught.value.status == status
    assert caught.value.where
    answer = refusal(data, caught.value)
    assert answer is not None
    encoded = answer.encode()
    assert encoded.startswith(b"SIP/2.0 %d " % status)
    again = refusal(data, caught.value)
    assert again is not None and again.encode() == encoded, "RFC 3261 section 8.2.7: the same for a retransmission"
    for field in ("Via", "From", "Call-ID", "CSeq"):
        assert answer.headers.get(field)
    to = answer.headers.get("To")
    assert to is not None and "tag=" in to


@pytest.mark.parametrize("name", ["scalarlg", "bigcode"])
def test_invalid_responses_are_discarded(name: str) -> None:
    """RFC 4475 sections 3.1.2.5 and 3.1.2.19."""
    data = rfc4475(name)
    with pytest.raises(SipParseError) as caught:
        parse_and_validate(data)
    assert refusal(data, caught.value) is None


def test_missing_headers() -> None:
    """RFC 4475 section 3.3.1: refused; without From, To and Call-ID there is no answer to build."""
    data = rfc4475("insuf")
    with pytest.raises(SipParseError) as caught:
        parse_and_validate(data)
    assert caught.value.status == 400
    assert refusal(data, caught.value) is None


def test_wsinv_means_what_the_rfc_says() -> None:
    """RFC 4475 section 3.1.1.1."""
    message = parse_message(rfc4475("wsinv"))
    assert isinstance(message, Request)
    assert message.to.tag == "1918181833n"
    assert message.from_.display == 'J Rosenberg \\"'
    assert message.from_.tag == "98asjd8"
    assert message.max_forwards == 68
    assert message.call_id == "wsinv.ndaksdj@192.0.2.1"
    assert (message.cseq.number, message.cseq.method) == (9, "INVITE")
    assert [via.branch for via in message.vias] == ["390skdjuw", "z9hG4bK9ikj8", "z9hG4bK30239"]
    assert [via.transport for via in message.vias] == ["UDP", "TCP", "UDP"]
    assert message.headers.get("NewFangledHeader") == "newfangled value continued newfangled value"
    assert message.headers.get("UnknownHeaderWithUnusualValue") == ";;,,;;,;"
    assert message.content_type is not None and message.content_type.essence == "application/sdp"
    (route,) = message.routes
    assert str(route.uri) == "sip:services.example.com;lr;unknownwith=value;unknown-no-value"
    (contact,) = message.contacts
    assert isinstance(contact, NameAddr)
    assert contact.display == 'Quoted string ""' and contact.parameters.get("newparam") == "newvalue"
    assert contact.parameters.raw("secondparam") == ""
    assert contact.parameters.get("q") == "0.33"


def test_intmeth_means_what_the_rfc_says() -> None:
    """RFC 4475 section 3.1.1.2."""
    message = parse_message(rfc4475("intmeth"))
    assert isinstance(message, Request)
    assert message.method == "!interesting-Method0123456789_*+`.%indeed'~"
    uri = message.request_uri
    assert isinstance(uri, SipUri)
    assert uri.user == "1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"
    assert uri.password == "&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"
    assert uri.host == "example.com"
    assert message.to.display == "BEL:\x07 NUL:\x00 DEL:\x7f"
    assert message.from_.display == "token1~` token2'+_ token3*%!.-"
    assert (
        message.from_.parameters.get("fromParam''~+*_!.-%")
        == "\u0440\u0430\u0431\u043e\u0442\u0430\u044e\u0449\u0438\u0439"
    )


def test_escapes() -> None:
    """RFC 4475 sections 3.1.1.3 to 3.1.1.5 and 3.1.1.9."""
    esc01 = parse_message(rfc4475("esc01"))
    assert isinstance(esc01, Request)
    uri = esc01.request_uri
    assert isinstance(uri, SipUri) and uri.scheme == "sip"
    assert uri.user_text == "sips:user@example.com"
    escnull = parse_message(rfc4475("escnull"))
    contacts = escnull.contacts
    assert contacts != "*"
    users = [contact.uri.user_text for contact in contacts if isinstance(contact.uri, SipUri)]
    assert users == ["\0", "\0\0"]
    esc02 = parse_message(rfc4475("esc02"))
    assert isinstance(esc02, Request) and esc02.method == "RE%47IST%45R"
    assert esc02.to.display == "%Z%45"
    semiuri = parse_message(rfc4475("semiuri"))
    assert isinstance(semiuri, Request) and isinstance(semiuri.request_uri, SipUri)
    assert semiuri.request_uri.user_text == "user;par=u@example.net"
    assert len(semiuri.request_uri.parameters) == 0


def test_longreq_loses_no_via() -> None:
    """RFC 4475 section 3.1.1.7: 34 Vias, some as ``v :``."""
    message = parse_message(rfc4475("longreq"))
    assert len(message.vias) == 34
    assert message.vias[0].host == "sip33.example.com"
    assert message.vias[-1].host == "host.example.com"


def test_transports() -> None:
    """RFC 4475 section 3.1.1.10."""
    message = parse_message(rfc4475("transports"))
    assert [via.transport for via in message.vias] == ["UDP", "SCTP", "TLS", "UNKNOWN", "TCP"]


def test_phrases() -> None:
    """RFC 4475 sections 3.1.1.12 and 3.1.1.13."""
    noreason, unreason = parse_message(rfc4475("noreason")), parse_message(rfc4475("unreason"))
    assert isinstance(noreason, Response) and isinstance(unreason, Response)
    assert (noreason.status, noreason.reason) == (100, "")
    assert unreason.reason.startswith("= 2**3 * 5**2 \u043d\u043e ")


def test_unknown_schemes_are_kept_for_the_router_to_refuse() -> None:
    """RFC 4475 sections 3.3.2 to 3.3.4."""
    for name, scheme in (("unkscm", "nobodyknowsthisscheme"), ("novelsc", "soap.beep")):
        message = parse_and_validate(rfc4475(name))
        assert isinstance(message, Request)
        uri = message.request_uri
        assert isinstance(uri, OtherUri) and uri.scheme == scheme
    message = parse_and_validate(rfc4475("unksm2"))
    assert message.to.uri.scheme == "isbn"
    assert message.from_.uri.scheme == "http"


def test_contact_parameters_and_uri_parameters_are_told_apart() -> None:
    """RFC 4475 sections 3.3.12 to 3.3.14."""
    (one,) = parse_message(rfc4475("cparam01")).contacts
    (two,) = parse_message(rfc4475("cparam02")).contacts
    (three,) = parse_message(rfc4475("regescrt")).contacts
    assert isinstance(one, NameAddr) and isinstance(two, NameAddr) and isinstance(three, NameAddr)
    assert "unknownparam" in one.parameters and str(one.uri) == "sip:+19725552222@gw1.example.net"
    assert not two.parameters and isinstance(two.uri, SipUri) and "unknownparam" in two.uri.parameters
    assert isinstance(three.uri, SipUri) and three.uri.headers == "Route=%3Csip:sip.example.com%3E"


RFC5118_VALID = [
    *("ipv6-good", "port-ambiguous", "port-unambiguous", "via-received-param-with-delim"),
    *("via-received-param-no-delim", "ipv6-in-sdp", "mult-ip-in-header", "mult-ip-in-sdp", "ipv4-mapped-ipv6"),
    *("ipv6-bug-abnf-3-colons", "ipv6-correct-abnf-2-colons"),
]


@pytest.mark.parametrize("name", RFC5118_VALID)
def test_ipv6_messages_are_accepted(name: str) -> None:
    data = rfc5118(name)
    message = parse_message(data)
    validate(message)
    touch(message)
    assert message.encode() == data


def test_ipv6_without_brackets_is_refused() -> None:
    """RFC 5118 section 4.2."""
    data = rfc5118("ipv6-bad")
    with pytest.raises(SipParseError) as caught:
        parse_and_validate(data)
    assert caught.value.status == 400 and caught.value.where == "Request-URI"
    assert refusal(data, caught.value) is not None


def test_ipv6_values() -> None:
    """RFC 5118 sections 4.3 to 4.5, 4.7, 4.9, 4.10."""
    ambiguous, clear = parse_message(rfc5118("port-ambiguous")), parse_message(rfc5118("port-unambiguous"))
    assert isinstance(ambiguous, Request) and isinstance(ambiguous.request_uri, SipUri)
    assert (ambiguous.request_uri.host, ambiguous.request_uri.port) == ("2001:db8::10:5070", None)
    assert isinstance(clear, Request) and isinstance(clear.request_uri, SipUri)
    assert (clear.request_uri.host, clear.request_uri.port) == ("2001:db8::10", 5070)
    for name in ("via-received-param-with-delim", "via-received-param-no-delim"):
        via = parse_message(rfc5118(name)).top_via
        assert via.received == "2001:db8::9:255"
        assert via.host == "2001:db8::9:1"
    mixed = parse_message(rfc5118("mult-ip-in-header")).vias
    assert [(via.host, via.port, via.received) for via in mixed] == [
        ("2001:db8::9:1", 6050, None),
        ("192.0.2.1", None, None),
        ("2001:db8::9:255", None, "192.0.2.200"),
    ]
    mapped = parse_message(rfc5118("ipv4-mapped-ipv6")).top_via
    assert (mapped.host, mapped.port) == ("::ffff:192.0.2.10", 19823)
    bug = parse_message(rfc5118("ipv6-bug-abnf-3-colons"))
    assert isinstance(bug, Request) and isinstance(bug.request_uri, SipUri)
    assert bug.request_uri.host == "2001:db8::192.0.2.1"
