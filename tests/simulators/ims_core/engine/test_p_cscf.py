"""The P-CSCF towards UEs with good and bad manners (TS 24.229 clauses 5.2 and 4.4) [S7-IMS]."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.sip.engine.events import FlowClosed
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.message import Request, Response, response_to

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
A, B = "sip:+15550100@" + DOMAIN, "sip:+15550200@" + DOMAIN


@pytest.fixture
def pair(world: Any) -> tuple[Any, Any]:
    """Two raw UEs, registered."""
    a, b = world.raw("0100", "10.45.0.2"), world.raw("0200", "10.46.0.2")
    assert (a.register().status, b.register().status) == (200, 200)
    return a, b


def pick_up(callee: Any, *fields: tuple[str, object]) -> None:
    """Let a raw UE answer what comes: INVITE with 200, the rest too."""

    def answer(request: Request) -> Response | None:
        if request.method == "ACK":
            return None
        response = response_to(request, 200, to_tag="callee")
        response.headers.add("Contact", callee.contact)
        for name, value in fields:
            response.headers.add(name, value)
        return response

    callee.answer = answer


def call(a: Any, *fields: tuple[str, object], uri: str = "tel:+15550200") -> tuple[Request, Response]:
    request = a.request("INVITE", uri, ("Call-ID", f"call-{a.world.tokens(6)}"), *fields)
    return request, a.ask(request)


def routes_of(response: Response) -> tuple[str, object]:
    return "Route", ", ".join(reversed(response.headers.elements("Record-Route")))


def test_what_only_the_network_may_say_is_removed(world: Any, pair: tuple[Any, Any]) -> None:
    """Clause 4.4: also from responses."""
    a, b = pair
    forged = [
        ("P-Asserted-Identity", "<sip:president@example.com>"),
        ("P-Charging-Vector", 'icid-value="x"'),
        ("P-Served-User", "<sip:x@y>"),
        ("P-Visited-Network-ID", "z"),
        ("P-Asserted-Service", "urn:x"),
        ("P-Called-Party-ID", "<sip:someone@else>"),
        ("Resource-Priority", "q735.0"),
        ("Restoration-Info", "x"),
        ("P-Access-Network-Info", '3GPP-E-UTRAN-FDD;utran-cell-id-3gpp="1";network-provided'),
        ("X-Harmless", "kept"),
    ]
    pick_up(b, ("P-Asserted-Identity", "<sip:president@example.com>"), ("P-Charging-Vector", "icid-value=y"))
    _, response = call(a, *forged)
    assert response.status == 200
    inside = world.request("P->S INVITE")
    assert inside.headers.get_all("P-Asserted-Identity") == [f"<{A}>"]
    assert inside.headers.get("X-Harmless") == "kept"
    assert 'icid-value="x"' not in (inside.headers.get("P-Charging-Vector") or "")
    for name in ("P-Served-User", "P-Asserted-Service", "Resource-Priority", "Restoration-Info"):
        assert name not in inside.headers
    assert "P-Access-Network-Info" not in inside.headers
    reached = b.requests("INVITE")[0]
    assert reached.headers.get("P-Called-Party-ID") == "<tel:+15550200>"
    assert not {"P-Charging-Vector", "P-Visited-Network-ID"} & {name for name, _ in reached.headers}
    # Who answers is who was called.
    assert response.headers.get_all("P-Asserted-Identity") == ["<tel:+15550200>"]
    assert "P-Charging-Vector" not in response.headers


@pytest.mark.parametrize(
    ("fields", "identity"),
    [
        ([], A),
        ([("P-Preferred-Identity", "<tel:+15550100>")], "tel:+15550100"),
        ([("P-Preferred-Identity", f"<{B}>")], A),
        ([("From", "<tel:+1-555-0100>;tag=x")], "tel:+15550100"),
        ([("From", '"Anonymous" <sip:anonymous@anonymous.invalid>;tag=x')], A),
    ],
)
def test_the_identity_is_one_of_its_own(
    world: Any, pair: tuple[Any, Any], fields: list[tuple[str, object]], identity: str
) -> None:
    """Clause 5.2.6.3.3."""
    a, b = pair
    pick_up(b)
    call(a, *fields)
    assert b.requests("INVITE")[0].headers.get_all("P-Asserted-Identity") == [f"<{identity}>"]
    assert "P-Preferred-Identity" not in b.requests("INVITE")[0].headers


def test_privacy_hides_the_caller(pair: tuple[Any, Any]) -> None:
    """RFC 3325 section 7."""
    a, b = pair
    pick_up(b)
    call(a, ("Privacy", "id"), ("From", '"Anonymous" <sip:anonymous@anonymous.invalid>;tag=x'))
    reached = b.requests("INVITE")[0]
    assert "P-Asserted-Identity" not in reached.headers
    assert b"0100" not in reached.encode().replace(b"10.45.0.2", b"").replace(reached.call_id.encode(), b"")


def test_a_route_of_its_own_does_not_lead_anywhere(world: Any, pair: tuple[Any, Any]) -> None:
    """The registrar's Service-Route is put in the place of whatever the UE writes."""
    a, b = pair
    pick_up(b)
    _, response = call(a, ("Route", "<sip:10.45.0.1;lr>, <sip:198.51.100.7;lr>, <sip:evil.example>"))
    assert response.status == 200
    assert world.request("P->S INVITE").routes[0].uri.user == "orig"


def test_a_dialog_as_it_should_be(world: Any, pair: tuple[Any, Any]) -> None:
    a, b = pair
    pick_up(b)
    request, response = call(a)
    fields = [("Call-ID", request.call_id), routes_of(response)]
    ack = a.request("ACK", b.contact[1:-1], *fields, to=str(response.to))
    a.send(ack)
    world.until(lambda: b.requests("ACK"))
    assert a.ask(a.request("BYE", b.contact[1:-1], *fields, to=str(response.to))).status == 200
    assert b.requests("BYE")
    assert not world.p_cscf._contexts or world.run(200) is None
    assert not world.p_cscf._contexts, "nothing is left behind, of ACKs either"


@pytest.mark.parametrize(
    "route",
    [
        None,
        "<sip:198.51.100.7;lr>",
        "<sip:10.45.0.1;lr>, <sip:198.51.100.7;lr>",
        "{gm}, <sip:198.51.100.7;lr>",
        "{gm}",
        "{gm}, <sip:evil.example;lr>",
        "{gm}, {mw}, <sip:198.51.100.7:5070;lr>",
    ],
)
def test_no_way_out_with_a_forged_dialog(world: Any, pair: tuple[Any, Any], route: str | None) -> None:
    """The P-CSCF is no open relay for requests with a To tag."""
    a, b = pair
    outside = world.raw("0300", "198.51.100.7")
    pick_up(b)
    _, response = call(a)
    mw, gm = response.headers.elements("Record-Route")[-2:]
    fields = [("Route", route.format(gm=gm, mw=mw) if route else None), ("Call-ID", "forged")]
    bye = a.request("BYE", "sip:198.51.100.7:5060", *fields, to="<sip:x@y>;tag=z")
    assert a.ask(bye).status == 403
    assert not outside.received


def test_only_its_own_dialogs(pair: tuple[Any, Any]) -> None:
    """Another UE that knows the route of a dialog cannot end it."""
    a, b = pair
    pick_up(b)
    request, response = call(a)
    route = routes_of(response)
    forged = b.request("BYE", b.contact[1:-1], ("Call-ID", request.call_id), route, to=str(response.to))
    assert b.ask(forged).status == 403


def test_a_record_route_that_the_callee_bends_is_put_right(world: Any, pair: tuple[Any, Any]) -> None:
    """Clause 5.2.6.4.4."""
    a, b = pair
    pick_up(b)
    honest = b.answer

    def bent(request: Request) -> Response | None:
        response = honest(request)
        if response is not None and request.method == "INVITE":
            response.headers.remove("Record-Route")
            response.headers.add("Record-Route", "<sip:198.51.100.7;lr>")
        return response  # type: ignore[no-any-return]

    b.answer = bent
    _, response = call(a)
    values = response.headers.elements("Record-Route")
    assert len(values) == 5
    assert not any("198.51.100.7" in value for value in values)


def test_a_stranger_may_not_call(world: Any, pair: tuple[Any, Any]) -> None:
    stranger = world.raw("0300", "10.45.0.66")
    _, response = call(stranger)
    assert response.status == 403
    # Nor from another port of a registered host.
    neighbour = world.raw("0300", "10.45.0.2", 5099)
    assert call(neighbour)[1].status == 403


def test_two_devices_behind_one_port_keep_their_own_names(world: Any) -> None:
    """As a load generator has them: the identity tells which registration counts."""
    callee = world.raw("0300", "10.46.0.3")
    callee.impu = f"sip:+15550300@{DOMAIN}"
    callee.register()
    pick_up(callee)
    a = world.raw("0100", "10.45.0.2")
    assert a.register(("Contact", "<sip:a@10.45.0.2:5060>")).status == 200
    b = world.raw("0200", "10.45.0.2")
    assert b.register(("Contact", "<sip:b@10.45.0.2:5060>")).status == 200
    call(b, uri="tel:+15550300")
    assert callee.requests("INVITE")[0].headers.get("P-Asserted-Identity") == f"<{B}>"
    b.answer, a.answer = (lambda request: None), (lambda request: None)
    call_a = b.request("INVITE", "tel:+15550300", ("From", f"<{A}>;tag=y"), ("Call-ID", "as-a"))
    assert b.ask(call_a).status == 200
    assert callee.requests("INVITE")[1].headers.get("P-Asserted-Identity") == f"<{A}>"


def test_a_query_does_not_disturb_the_registration(pair: tuple[Any, Any]) -> None:
    a, b = pair
    pick_up(b)
    assert a.register(("Contact", None)).status == 200
    assert call(a)[1].status == 200


def test_after_de_registration(world: Any, pair: tuple[Any, Any]) -> None:
    a, b = pair
    pick_up(a)
    assert a.register(("Expires", 0)).status == 200
    assert call(a)[1].status == 403
    assert call(b, uri="tel:+15550100")[1].status == 480


def test_the_last_notify_still_gets_through(world: Any, pair: tuple[Any, Any]) -> None:
    """The NOTIFY of a de-registration comes after the 200: the way to the UE is kept for it."""
    a, _ = pair
    pick_up(a)
    fields = [("Event", "reg"), ("Expires", 600), ("Accept", "application/reginfo+xml"), ("Call-ID", "sub")]
    assert a.ask(a.request("SUBSCRIBE", A, *fields)).status == 200
    assert a.register(("Expires", 0)).status == 200
    world.until(lambda: len(a.requests("NOTIFY")) == 2)
    last = a.requests("NOTIFY")[-1]
    assert last.subscription_state is not None
    assert last.subscription_state.state == "terminated"


def test_emergency_calls_are_sent_elsewhere(pair: tuple[Any, Any]) -> None:
    """Clause 5.2.10: 380 with the body that says so."""
    response = call(pair[0], uri="urn:service:sos")[1]
    assert response.status == 380
    assert b"<type>emergency</type>" in response.body


def test_a_core_that_is_silent_asks_for_a_new_registration(world: Any, pair: tuple[Any, Any]) -> None:
    """Clause 5.2.6.3.3: 504 with the restoration body and the Service-Route as asserted identity."""
    a, _ = pair
    world.lost = lambda arrow, data: arrow.startswith("P->S INVITE")
    response = call(a)[1]
    assert response.status == 504
    assert b"<action>initial-registration</action>" in response.body
    assert response.content_type is not None
    assert response.content_type.essence == "application/3gpp-ims+xml"
    assert "orig@" in (response.headers.get("P-Asserted-Identity") or "")


def test_the_ue_is_reached_at_its_contact_when_its_connection_is_gone(world: Any) -> None:
    a, b = world.raw("0100", "10.45.0.2"), world.raw("0200", "10.46.0.2", transport="TCP")
    a.register()
    assert b.register().status == 200
    pick_up(b)
    flow = next(iter(world.p_cscf._bindings._by_token.values()))
    flows = [binding.flow for binding in world.p_cscf._bindings._by_token.values() if binding.flow.transport == "TCP"]
    assert flows
    assert flow
    world.p_cscf.handle(FlowClosed(flows[0], "gone"), world.now)
    assert call(a)[1].status == 200


def test_a_connection_without_a_listener_behind_it(world: Any) -> None:
    """A contact on another host is not believed."""
    b = world.raw("0200", "10.46.0.2", transport="TCP")
    assert b.register(("Contact", "<sip:192.0.2.99:5060;transport=tcp>")).status == 200
    flow = next(binding.flow for binding in world.p_cscf._bindings._by_token.values())
    assert isinstance(flow, Flow)
    world.p_cscf.handle(FlowClosed(flow, "gone"), world.now)
    assert len(world.p_cscf._bindings) == 0


def test_sec_agree_without_security_is_refused(world: Any) -> None:
    """A P-CSCF that makes no security agreements says so (RFC 3329 section 2.3.1, RFC 3261 section 16.3)."""
    a = world.raw("0100", "10.45.0.2")
    fields = [("Require", "sec-agree"), ("Proxy-Require", "sec-agree"), ("Security-Client", "ipsec-3gpp;alg=x")]
    response = a.register(*fields)
    assert response.status == 420
    assert response.headers.get("Unsupported") == "sec-agree"


def test_several_authorizations_all_say_how_they_are_protected(world: Any) -> None:
    a = world.raw("0100", "10.45.0.2")
    lie = f'Digest username="{a.impi}",realm="other",nonce="",uri="sip:{DOMAIN}",response="",integrity-protected="yes"'
    fields = [*a.register_fields(), ("Authorization", lie)]
    request = a.request("REGISTER", f"sip:{DOMAIN}")
    request.headers.set("To", f"<{a.impu}>")
    for name, value in fields[1:]:
        request.headers.add(name, value)
    assert a.ask(request).status == 401
    values = world.request("P->S REGISTER").headers.get_all("Authorization")
    assert len(values) == 2
    assert all('integrity-protected="no"' in value for value in values)
    assert not any("yes" in value for value in values)
