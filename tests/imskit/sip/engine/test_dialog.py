"""Dialogs: RFC 3261 section 12, strict and loose routing of section 16.12.1, targets of RFC 6141."""

from __future__ import annotations

import pytest

from imskit.sip.engine.dialog import Dialog, DialogId, next_hop, target_of
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Request, Response, response_to


def invite(**fields: str) -> Request:
    """Build the INVITE of RFC 3261 section 24.2."""
    values = {
        "Via": "SIP/2.0/UDP pc33.atlanta.com;branch=z9hG4bKnashds8",
        "From": "Alice <sip:alice@atlanta.com>;tag=1928301774",
        "To": "Bob <sip:bob@biloxi.com>",
        "Call-ID": "a84b4c76e66710",
        "CSeq": "314159 INVITE",
        "Contact": "<sip:alice@pc33.atlanta.com>",
    }
    values |= {name.replace("_", "-"): value for name, value in fields.items()}
    return Request.create("INVITE", "sip:bob@biloxi.com", values.items())


def answer(request: Request, status: int = 200, **fields: str) -> Response:
    """Build bob's response."""
    response = response_to(request, status, to_tag="a6c85cf")
    for name, value in ({"Contact": "<sip:bob@192.0.2.4>"} | fields).items():
        response.headers.set(name.replace("_", "-"), value)
    return response


def test_uac_side() -> None:
    """Section 12.1.2: the route set is the Record-Route reversed."""
    request = invite()
    response = answer(request, Record_Route="<sip:p3;lr>, <sip:p2;lr>, <sip:p1;lr>")
    dialog = Dialog.from_response(request, response)
    assert dialog.id == DialogId("a84b4c76e66710", "1928301774", "a6c85cf") == DialogId.of_response(response)
    assert dialog.confirmed and dialog.caller
    bye = dialog.request("BYE")
    assert bye.uri == "sip:bob@192.0.2.4" and str(bye.cseq) == "314160 BYE"
    assert [str(route) for route in bye.routes] == ["<sip:p1;lr>", "<sip:p2;lr>", "<sip:p3;lr>"]
    assert bye.headers.get("From") == "Alice <sip:alice@atlanta.com>;tag=1928301774"
    assert bye.headers.get("To") == "Bob <sip:bob@biloxi.com>;tag=a6c85cf"
    assert str(dialog.request("ACK", sequence=314159).cseq) == "314159 ACK"
    assert dialog.local_sequence == 314160


def test_uas_side() -> None:
    """Section 12.1.1: the route set is the Record-Route in order; numbers are counted from the request's."""
    request = invite(Record_Route="<sip:p2;lr>, <sip:p1;lr>")
    dialog = Dialog.from_request(request, "a6c85cf")
    assert dialog.id == DialogId("a84b4c76e66710", "a6c85cf", "1928301774")
    assert not dialog.confirmed and not dialog.caller
    bye = dialog.request("BYE")
    assert bye.uri == "sip:alice@pc33.atlanta.com" and str(bye.cseq) == "1 BYE"
    assert [str(route) for route in bye.routes] == ["<sip:p2;lr>", "<sip:p1;lr>"]
    assert bye.from_.tag == "a6c85cf" and bye.to.tag == "1928301774"
    assert DialogId.of_request(bye) == DialogId("a84b4c76e66710", "1928301774", "a6c85cf")  # as the peer sees it


def test_sequence() -> None:
    """Section 12.2.2: higher is taken, with any gap; the same or a lower one is not."""
    dialog = Dialog.from_request(invite(), "t")
    assert [dialog.accepts(invite(CSeq=f"{n} BYE")) for n in (314159, 5, 314160, 400000, 314161)] == [
        False,
        False,
        True,
        True,
        False,
    ]


def test_the_2xx_computes_the_route_set_anew() -> None:
    """Section 13.2.2.4."""
    request = invite()
    dialog = Dialog.from_response(request, answer(request, 183, Record_Route="<sip:early;lr>"))
    assert not dialog.confirmed
    dialog.confirm(answer(request, 200, Record_Route="<sip:late;lr>", Contact="<sip:b@late>"))
    assert dialog.confirmed and str(dialog.route_set[0]) == "<sip:late;lr>" and dialog.remote_target == "sip:b@late"


def test_target_refresh() -> None:
    request = invite()
    dialog = Dialog.from_response(request, answer(request))
    dialog.refresh_target(answer(request, Contact="<sip:moved@192.0.2.5>"))
    assert dialog.remote_target == "sip:moved@192.0.2.5"
    unchanged = answer(request)
    unchanged.headers.remove("Contact")
    dialog.refresh_target(unchanged)
    assert dialog.remote_target == "sip:moved@192.0.2.5"


def test_rfc3261_16_12_1_2_a_strict_router_in_front() -> None:
    request = invite()
    response = answer(request, Record_Route="<sip:p2.middle.com;lr>, <sip:p1.example.com;method=INVITE>")
    bye = Dialog.from_response(request, response).request("BYE")
    assert bye.uri == "sip:p1.example.com"
    assert [str(route) for route in bye.routes] == ["<sip:p2.middle.com;lr>", "<sip:bob@192.0.2.4>"]


@pytest.mark.parametrize("contact", ["*", "", "<sip:"])
def test_a_dialog_needs_a_contact(contact: str) -> None:
    request = invite(Contact=contact)
    with pytest.raises(SipParseError):
        Dialog.from_request(request, "t")
    request.headers.remove("Contact")
    with pytest.raises(SipParseError, match="needs a Contact"):
        target_of(request)


def test_a_quoted_nul_survives() -> None:
    """RFC 4475 section 3.1.1.4: legal in what is received, and written again as it came."""
    request = invite()
    request.headers.remove("From")
    request.headers.add_parsed("From", '"\\\0" <sip:alice@atlanta.com>;tag=1')
    request.headers.add_parsed("Record-Route", '"\\\0" <sip:p;lr>')
    bye = Dialog.from_request(request, "t").request("BYE")
    assert bye.headers.get("To") == '"\\\0" <sip:alice@atlanta.com>;tag=1'
    assert bye.headers.get("Route") == '"\\\0" <sip:p;lr>'


@pytest.mark.parametrize(
    ("uri", "route", "expected"),
    [
        ("sip:bob@192.0.2.4", None, "UDP 192.0.2.4:5060"),
        ("sip:bob@192.0.2.4:5070;transport=tcp", None, "TCP 192.0.2.4:5070"),
        ("sip:bob@example.org;transport=TLS", None, "TLS example.org:5061"),
        ("sips:bob@example.org", None, "TLS example.org:5061"),
        ("sips:bob@example.org;transport=tcp", None, "TLS example.org:5061"),
        ("sips:bob@example.org;transport=ws", None, "WSS example.org:443"),
        ("sip:bob@x;maddr=192.0.2.9", None, "UDP 192.0.2.9:5060"),
        ("tel:+15550100", "<sip:[2001:db8::1];lr>, <sip:other;lr>", "UDP [2001:db8::1]:5060"),
    ],
)
def test_next_hop(uri: str, route: str | None, expected: str) -> None:
    """Section 8.1.2, RFC 3263 section 4.1."""
    request = Request.create("OPTIONS", uri, [("Route", route)] if route else [])
    assert str(next_hop(request)) == expected


@pytest.mark.parametrize("uri", ["tel:+15550100", "urn:service:sos", "sip:x;transport=sctp", "sips:x;transport=udp"])
def test_no_next_hop(uri: str) -> None:
    with pytest.raises(SipParseError):
        next_hop(Request.create("OPTIONS", uri))
