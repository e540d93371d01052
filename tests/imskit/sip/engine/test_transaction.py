"""S7-IMS: what transactions make themselves: ACK, CANCEL, and the way of a response."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.sip.engine.transaction import ack_of, cancel_of, response_route
from imskit.sip.wire.flow import Target
from imskit.sip.wire.message import Request, parse_message, response_to

# RFC 3261 section 17.1.1.3, the example of the text.
INVITE = b"""INVITE sip:bob@biloxi.com SIP/2.0\r
Via: SIP/2.0/UDP pc33.atlanta.com;branch=z9hG4bKkjshdyff\r
To: Bob <sip:bob@biloxi.com>\r
From: Alice <sip:alice@atlanta.com>;tag=88sja8x\r
Max-Forwards: 70\r
Call-ID: 987asjd97y7atg\r
CSeq: 986759 INVITE\r
\r
"""
ACK = {
    "Via": "SIP/2.0/UDP pc33.atlanta.com;branch=z9hG4bKkjshdyff",
    "To": "Bob <sip:bob@biloxi.com>;tag=99sa0xk",
    "From": "Alice <sip:alice@atlanta.com>;tag=88sja8x",
    "Max-Forwards": "70",
    "Call-ID": "987asjd97y7atg",
    "CSeq": "986759 ACK",
}


@pytest.fixture
def invite() -> Request:
    request = parse_message(INVITE)
    assert isinstance(request, Request)
    return request


def test_ack_of_rfc3261_17_1_1_3(invite: Request) -> None:
    ack = ack_of(invite, response_to(invite, 486, to_tag="99sa0xk"))
    assert ack.start_line == "ACK sip:bob@biloxi.com SIP/2.0"
    assert dict(iter(ack.headers)) == ACK


def test_ack_and_cancel_keep_the_route_and_only_the_top_via(invite: Request) -> None:
    invite.headers.prepend("Via", "SIP/2.0/UDP p1.example;branch=z9hG4bKtop, SIP/2.0/TCP p0.example;branch=z9hG4bKp0")
    invite.headers.add("Route", "<sip:p2.example;lr>")
    invite.headers.add("Route", "<sip:p3.example;lr>")
    invite.headers.add("Require", "100rel")
    for request in (ack_of(invite, response_to(invite, 404, to_tag="x")), cancel_of(invite)):
        assert request.headers.get_all("Via") == ["SIP/2.0/UDP p1.example;branch=z9hG4bKtop"]
        assert request.headers.elements("Route") == ["<sip:p2.example;lr>", "<sip:p3.example;lr>"]
        assert "Require" not in request.headers
        assert request.uri == invite.uri


def test_cancel_of_section_9_1(invite: Request) -> None:
    cancel = cancel_of(invite, (("Reason", "SIP;cause=200"),))
    assert cancel.method == "CANCEL"
    assert dict(iter(cancel.headers)) == {
        **ACK,
        "To": "Bob <sip:bob@biloxi.com>",
        "CSeq": "986759 CANCEL",
        "Reason": "SIP;cause=200",
    }


def test_response_over_udp_goes_to_the_source_address_and_sent_by_port(sip: Any) -> None:
    """RFC 3261 section 18.2.2."""
    request = sip.received()
    request.headers.set("Via", "SIP/2.0/UDP phone.example:5070;branch=z9hG4bK1;received=192.0.2.20")
    where, fallback = response_route(request, sip.build_flow(port=40000))
    assert (where.remote, where.local, fallback) == (("192.0.2.20", 5070), ("192.0.2.1", 5060), None)
    request.headers.set("Via", "SIP/2.0/UDP phone.example;branch=z9hG4bK1")
    assert response_route(request, sip.build_flow(port=40000))[0].remote == ("192.0.2.20", 5060)


def test_response_with_rport_goes_to_the_source_port(sip: Any) -> None:
    """RFC 3581 section 4."""
    request = sip.received()
    request.headers.set("Via", "SIP/2.0/UDP phone.example:5070;branch=z9hG4bK1;rport=40000")
    assert response_route(request, sip.build_flow(port=40000)) == (sip.build_flow(port=40000), None)


def test_response_with_maddr_goes_there(sip: Any) -> None:
    request = sip.received()
    request.headers.set("Via", "SIP/2.0/UDP phone.example;branch=z9hG4bK1;maddr=192.0.2.99")
    assert response_route(request, sip.build_flow()) == (Target("UDP", ("192.0.2.99", 5060)), None)


@pytest.mark.parametrize(("transport", "port"), [("TCP", 5060), ("TLS", 5061)])
def test_response_over_a_stream_has_a_second_way(sip: Any, transport: str, port: int) -> None:
    request = sip.received()
    request.headers.set("Via", f"SIP/2.0/{transport} phone.example;branch=z9hG4bK1;received=192.0.2.20")
    flow = sip.build_flow(transport, port=40000)
    assert response_route(request, flow) == (flow, Target(transport, ("192.0.2.20", port)))  # type: ignore[arg-type]


@pytest.mark.parametrize("transport", ["WS", "WSS"])
def test_response_over_a_websocket_has_none(sip: Any, transport: str) -> None:
    """RFC 7118 section 5: the client's Via names nobody."""
    request = sip.received()
    request.headers.set("Via", f"SIP/2.0/{transport} df7jal23ls0d.invalid;branch=z9hG4bK1")
    flow = sip.build_flow(transport, port=40000)
    assert response_route(request, flow) == (flow, None)
