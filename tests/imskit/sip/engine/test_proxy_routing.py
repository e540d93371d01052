"""S7-IMS: the stateless parts of the proxy: Path, Service-Route, own routes, next hop, loop mark."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.sip.engine.proxy_events import ForwardTarget
from imskit.sip.engine.proxy_routing import (
    add_path,
    incoming_breadth,
    is_own,
    literal_destination,
    loop_mark,
    loops,
    next_hop,
    prepare,
    route_values,
    take_own_routes,
)
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Target
from imskit.sip.wire.message import Headers, response_to
from imskit.sip.wire.uri import SipUri, parse_uri

OWN = frozenset({("pcscf.example", None), ("192.0.2.1", 5060)})


def uri(text: str) -> SipUri:
    parsed = parse_uri(text)
    assert isinstance(parsed, SipUri)
    return parsed


def test_path_of_rfc3327_5_5_1(sip: Any) -> None:
    """P1 and P3 put themselves in; the registrar keeps and copies the vector; the home proxy uses it as Route."""
    register = sip.build_request("REGISTER", "sip:registrar.examplehome.com", supported="path")
    assert add_path(register, uri("sip:P1.EXAMPLEVISITED.COM;lr"))
    assert add_path(register, uri("sip:P3.EXAMPLEHOME.COM"))
    path = ("<sip:P3.EXAMPLEHOME.COM;lr>", "<sip:P1.EXAMPLEVISITED.COM;lr>")
    assert route_values(register.headers, "Path") == path
    assert register.require == ["path"]
    accepted = response_to(register, 200)
    accepted.headers.copy_from(register.headers, "Path")
    assert route_values(accepted.headers, "Path") == path
    invite = prepare(sip.build_request(), ForwardTarget("sip:UA1@192.0.2.4", routes=path), 60)
    assert invite.headers.elements("Route") == list(path)
    assert invite.uri == "sip:UA1@192.0.2.4"


def test_path_needs_the_ua(sip: Any) -> None:
    """RFC 3327 section 5.2."""
    register = sip.build_request("REGISTER", supported="gruu")
    before = register.encode()
    assert not add_path(register, uri("sip:p1.example"))
    assert register.encode() == before
    register.headers.add("Supported", "path")
    assert add_path(register, uri("sip:p1.example"), require=False)
    assert "Require" not in register.headers


def test_path_vector_goes_before_what_is_there(sip: Any) -> None:
    request = sip.build_request(route="<sip:left.example;lr>")
    sent = prepare(request, ForwardTarget(routes=("<sip:a.example;lr>", "<sip:b.example;lr>")), 60)
    assert sent.headers.elements("Route") == ["<sip:a.example;lr>", "<sip:b.example;lr>", "<sip:left.example;lr>"]


def test_service_route_values() -> None:
    """RFC 3608 section 6.4.1, the example of the text, in one and in two fields."""
    one = Headers([("Service-Route", "<sip:P2.HOME.EXAMPLE.COM;lr>, <sip:HSP.HOME.EXAMPLE.COM;lr>")])
    two = Headers(
        [("Service-Route", "<sip:P2.HOME.EXAMPLE.COM;lr>"), ("Service-Route", "<sip:HSP.HOME.EXAMPLE.COM;lr>")]
    )
    expected = ("<sip:P2.HOME.EXAMPLE.COM;lr>", "<sip:HSP.HOME.EXAMPLE.COM;lr>")
    assert route_values(one, "Service-Route") == route_values(two, "Service-Route") == expected
    assert route_values(Headers(), "Service-Route") == ()


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("sip:pcscf.example", True),
        ("sip:user@PCSCF.Example:5091;transport=tcp;lr", True),
        ("sip:192.0.2.1", True),
        ("sip:192.0.2.1:5060", True),
        ("sip:192.0.2.1:5061", False),
        ("sips:192.0.2.1", False),
        ("sip:192.0.2.1;transport=tls", False),
        ("sip:192.0.2.1;transport=ws", False),
        ("sip:192.0.2.2", False),
        ("tel:+15550100", False),
        ("urn:service:sos", False),
    ],
)
def test_own_uris(text: str, own: bool) -> None:
    assert is_own(parse_uri(text), OWN) is own


def test_maddr_of_our_own_is_taken_off(sip: Any) -> None:
    """RFC 3261 section 16.4."""
    request = sip.build_request(uri="sip:bob@example.org:5060;maddr=192.0.2.1;transport=udp;x=y")
    assert take_own_routes(request, OWN) == ()
    assert request.uri == "sip:bob@example.org;x=y"
    other = sip.build_request(uri="sip:bob@example.org;maddr=192.0.2.99")
    take_own_routes(other, OWN)
    assert other.uri == "sip:bob@example.org;maddr=192.0.2.99"


def test_no_more_than_a_double_record_route_is_taken(sip: Any) -> None:
    value = "<sip:pcscf.example;lr;r2=on>"
    request = sip.build_request(route=", ".join([value] * 4))
    assert len(take_own_routes(request, OWN)) == 2
    assert len(request.routes) == 2


def test_loose_request_uri_of_ours_without_route_stays(sip: Any) -> None:
    request = sip.build_request(uri="sip:pcscf.example;lr")
    assert take_own_routes(request, OWN) == ()
    assert request.uri == "sip:pcscf.example;lr"


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("sip:a@192.0.2.7", Target("UDP", ("192.0.2.7", 5060))),
        ("sip:a@192.0.2.7:5070;transport=TCP", Target("TCP", ("192.0.2.7", 5070))),
        ("sip:a@192.0.2.7;transport=ws", Target("WS", ("192.0.2.7", 80))),
        ("sips:a@192.0.2.7;transport=ws", Target("WSS", ("192.0.2.7", 443))),
        ("sips:a@192.0.2.7;transport=tcp", Target("TLS", ("192.0.2.7", 5061))),
        ("sip:a@[2001:db8::7]:5070", Target("UDP", ("2001:db8::7", 5070))),
        ("sip:a@192.0.2.7;transport=sctp", Target("UDP", ("192.0.2.7", 5060))),
        ("sip:a@host.example", None),
        ("sip:a@192.0.2.7;maddr=host.example", None),
    ],
)
def test_literal_destinations(text: str, target: Target | None) -> None:
    """RFC 3263 sections 4.1 and 4.2 for numeric hosts."""
    assert literal_destination(uri(text)) == target


def test_next_hop_of_sips_stays_secure(sip: Any) -> None:
    """RFC 3261 section 16.6 step 7."""
    request = sip.build_request(uri="sips:bob@example.org", route="<sip:192.0.2.7;lr>")
    hop = next_hop(request)
    assert hop is not None
    assert literal_destination(hop) == Target("TLS", ("192.0.2.7", 5061))


def test_request_uri_loses_what_it_may_not_have(sip: Any) -> None:
    """RFC 3261 section 19.1.1 table 1."""
    sent = prepare(sip.build_request(), ForwardTarget("sip:bob@192.0.2.7;method=INVITE;user=phone?Subject=x"), 60)
    assert sent.uri == "sip:bob@192.0.2.7;user=phone"


@pytest.mark.parametrize("text", ["", "-1", "x", "1.5", "٣", "9" * 30])
def test_breadth_that_is_no_number(sip: Any, text: str) -> None:
    request = sip.build_request()
    request.headers.add("Max-Breadth", text)
    with pytest.raises(SipParseError):
        incoming_breadth(request)


def test_loop_mark_depends_on_what_routes_and_not_on_the_method(sip: Any) -> None:
    """RFC 5393 section 4.2.1."""
    mark = loop_mark(sip.build_request(), "salt")
    assert loop_mark(sip.build_request("CANCEL"), "salt") == mark
    changed: list[tuple[str, dict[str, str]]] = [
        ("salt", {"uri": "sip:carol@example.org"}),
        ("salt", {"route": "<sip:p.example;lr>"}),
        ("salt", {"call_id": "other"}),
        ("salt", {"cseq": "2 INVITE"}),
        ("salt", {"proxy_require": "x"}),
        ("salt", {"proxy_authorization": 'Digest realm="x"'}),
        ("salt", {"to": "<sip:bob@example.org>;tag=b"}),
        ("other", {}),
    ]
    marks = [loop_mark(sip.build_request(**fields), salt) for salt, fields in changed]
    assert len({mark, *marks}) == len(changed) + 1


def test_unreadable_vias_of_others_do_not_disturb_the_loop_check(sip: Any) -> None:
    request = sip.build_request()
    request.headers.add("Via", "SIP/3.0/UDP ???, SIP/2.0/UDP h.example;branch=z9hG4bKx.abc")
    assert loops(request, "abc")
    assert not loops(request, "abd")


# RFC 3261 section 16.12.1, the examples of the text: what arrives at a proxy, the proxy, what it sends on.
EXAMPLES = [
    # 16.12.1.1 basic SIP trapezoid, the BYE of U1
    (
        "p1.example.com",
        ("sip:callee@u2.domain.com", ["<sip:p1.example.com;lr>,<sip:p2.domain.com;lr>"]),
        ("sip:callee@u2.domain.com", ["<sip:p2.domain.com;lr>"]),
    ),
    (
        "p2.domain.com",
        ("sip:callee@u2.domain.com", ["<sip:p2.domain.com;lr>"]),
        ("sip:callee@u2.domain.com", []),
    ),
    # 16.12.1.2 traversing a strict-routing proxy, the BYE of U2
    (
        "p4.domain.com",
        (
            "sip:caller@u1.example.com",
            ["<sip:p4.domain.com;lr>", "<sip:p3.middle.com>", "<sip:p2.example.com;lr>", "<sip:p1.example.com;lr>"],
        ),
        (
            "sip:p3.middle.com",
            ["<sip:p2.example.com;lr>", "<sip:p1.example.com;lr>", "<sip:caller@u1.example.com>"],
        ),
    ),
    (
        "p2.example.com",
        ("sip:p2.example.com;lr", ["<sip:p1.example.com;lr>", "<sip:caller@u1.example.com>"]),
        ("sip:caller@u1.example.com", ["<sip:p1.example.com;lr>"]),
    ),
    (
        "p1.example.com",
        ("sip:caller@u1.example.com", ["<sip:p1.example.com;lr>"]),
        ("sip:caller@u1.example.com", []),
    ),
    # 16.12.1.3 between two namespaces
    (
        "gateway.leftprivatespace.com",
        ("sip:callee@u2.rightprivatespace.com", ["<sip:gateway.leftprivatespace.com;lr>"]),
        ("sip:callee@u2.rightprivatespace.com", []),
    ),
]


@pytest.mark.parametrize(("host", "arrives", "leaves"), EXAMPLES)
def test_examples_of_rfc3261_16_12_1(
    sip: Any, host: str, arrives: tuple[str, list[str]], leaves: tuple[str, list[str]]
) -> None:
    request = sip.build_request("BYE", arrives[0])
    for value in arrives[1]:
        request.headers.add("Route", value)
    take_own_routes(request, frozenset({(host, None)}))
    sent = prepare(request, ForwardTarget(), 60)
    assert (sent.uri, sent.headers.elements("Route")) == leaves
