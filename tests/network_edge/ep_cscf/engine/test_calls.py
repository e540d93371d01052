"""Calls and other requests through the eP-CSCF: trust, identities, routes, release [A-EPCSCF]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from imskit.ims.alternative_service import asks_restoration, is_emergency
from imskit.sip.engine.events import Received
from imskit.sip.engine.proxy import Resolve
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.message import Request, Response, response_to
from network_edge.ep_cscf.engine.effects import Draining
from network_edge.ep_cscf.engine.settings import EpCscfSettings, FlowLimits

HOME = "ims.example"
ALICE, ALICE_TEL, BOB = f"sip:+15550300@{HOME}", "tel:+15550300", f"sip:+15550200@{HOME}"
TOKEN = "aaaa.bbbb.cccc"
S_CSCF = "<sip:10.45.0.1:5062;lr>"


@pytest.fixture
def alice(edge_world: Any) -> Any:
    client = edge_world.client()
    assert client.register_with_token().status == 200
    return client


def pick_up(status: int = 200, *fields: tuple[str, object], tag: str = "bob") -> Callable[[Request], Response | None]:
    """A core whose called party answers; it records itself in the route."""

    def answer(request: Request) -> Response | None:
        if request.method not in ("INVITE", "MESSAGE", "SUBSCRIBE", "BYE", "UPDATE", "NOTIFY", "OPTIONS"):
            return None
        if request.headers.get("Event") == "reg":
            return None
        response = response_to(request, status, to_tag=tag)
        recorded = response.headers.elements("Record-Route")
        response.headers.remove("Record-Route")
        if recorded:
            response.headers.add("Record-Route", ", ".join([S_CSCF, *recorded]))
        response.headers.add("Contact", "<sip:bob@10.46.0.2:5060>")
        for name, value in fields:
            response.headers.add(name, value)
        return response

    return answer


def call(world: Any, alice: Any, *fields: tuple[str, object]) -> tuple[Request, Response]:
    """Call Bob; the INVITE as Alice sent it and the 200, acknowledged."""
    world.on_request = pick_up()
    invite = alice.build("INVITE", BOB, *fields)
    response = alice.outcome(invite)
    assert response is not None
    if response.status == 200:
        alice.send(in_dialog(alice, "ACK", invite, response))
    return invite, response


def in_dialog(alice: Any, method: str, invite: Request, response: Response, *fields: tuple[str, object]) -> Request:
    """A request of the caller's within the dialog."""
    number = invite.cseq.number if method == "ACK" else alice.cseq + 1
    usual = {
        "Route": ", ".join(reversed(response.headers.elements("Record-Route"))),
        "From": invite.headers.get("From"),
        "To": response.headers.get("To"),
        "Call-ID": invite.call_id,
        "CSeq": f"{number} {method}",
    } | dict(fields)
    return alice.build(method, str(response.contacts[0].uri), *usual.items())


def ring(world: Any, alice: Any, *fields: tuple[str, object]) -> tuple[Request, Request]:
    """Bob calls: the INVITE as the core sent it, and as Alice got it."""
    usual: list[tuple[str, object]] = [
        ("Route", str(world.path())),
        ("Record-Route", S_CSCF),
        ("P-Called-Party-ID", f"<{ALICE_TEL}>"),
        ("P-Charging-Vector", 'icid-value="core-icid";orig-ioi="Type 1home"'),
        ("P-Asserted-Identity", f"<{BOB}>"),
    ]
    invite = world.core_request("INVITE", alice.contact, *usual, *fields)
    world.from_core(invite)
    return invite, alice.requests("INVITE")[-1]


def answer(alice: Any, invite: Request, status: int = 200, *fields: tuple[str, object]) -> None:
    response = response_to(invite, status, to_tag="alice-tag")
    if status < 300:
        response.headers.add("Contact", f"<{alice.contact}>")
    for name, value in fields:
        response.headers.add(name, value)
    alice.send(response)


# ---- from the client -----------------------------------------------------------------------------------------


def test_a_call_goes_out(edge_world: Any, alice: Any) -> None:
    """A-EPCSCF: Service-Route, P-Asserted-Identity, charging, access network; recorded on both sides."""
    _, response = call(edge_world, alice, ("Authorization", f"Bearer {TOKEN}"))
    assert response.status == 200
    (invite,) = edge_world.to_core("INVITE")
    assert [str(route.uri) for route in invite.routes] == ["sip:orig@10.45.0.1:5062;lr"]
    assert invite.headers.get_all("P-Asserted-Identity") == [f"<{ALICE}>"]
    assert 'orig-ioi="Type 1edge.example"' in invite.headers.get("P-Charging-Vector")
    assert invite.headers.get("P-Access-Network-Info") == "IEEE-802.11;network-provided"
    assert "Authorization" not in invite.headers
    mw, w2 = invite.record_routes
    assert (mw.uri.host, w2.uri.host) == ("10.45.0.3", "203.0.113.11")
    assert w2.uri.transport == "ws"
    assert edge_world.to_core("ACK")
    assert edge_world.asked[-1] == TOKEN


def test_only_registered_clients(edge_world: Any) -> None:
    edge_world.on_request = pick_up()
    assert edge_world.client().ask("INVITE", BOB).status == 403
    assert not edge_world.core


@pytest.mark.parametrize(
    ("fields", "identity"),
    [
        ([], ALICE),
        ([("P-Preferred-Identity", f"<{ALICE_TEL}>")], ALICE_TEL),
        ([("P-Preferred-Identity", f"<{BOB}>")], ALICE),
        ([("From", "<tel:+1-555-0300>;tag=x")], ALICE_TEL),
        ([("From", '"Anonymous" <sip:anonymous@anonymous.invalid>;tag=x'), ("Privacy", "id")], ALICE),
    ],
)
def test_the_identity_is_one_of_the_users(
    edge_world: Any, alice: Any, fields: list[tuple[str, object]], identity: str
) -> None:
    """TS 24.229 clause 5.2.6.3.3."""
    call(edge_world, alice, *fields)
    (invite,) = edge_world.to_core("INVITE")
    assert invite.headers.get_all("P-Asserted-Identity") == [f"<{identity}>"]
    assert "P-Preferred-Identity" not in invite.headers


@pytest.mark.parametrize(
    "fields",
    [
        [("From", f"<{BOB}>;tag=x")],
        [("From", "<sip:+15550300@ims.example;cpc=operator>;tag=x")],
        [("From", "<tel:+15550300;oli=23>;tag=x")],
        [("To", f"<{BOB};iotl=homea-homeb>")],
    ],
)
def test_a_caller_is_who_it_is(edge_world: Any, alice: Any, fields: list[tuple[str, object]]) -> None:
    """A-EPCSCF: no other From, no calling party category."""
    _, response = call(edge_world, alice, *fields)
    assert response.status == 403
    assert not edge_world.to_core("INVITE")


FORGED = [
    ("P-Asserted-Identity", "<sip:evil@x>"),
    ("P-Asserted-Service", "urn:evil"),
    ("P-Charging-Vector", "icid-value=evil"),
    ("P-Charging-Function-Addresses", "ccf=evil"),
    ("P-Served-User", "<sip:evil@x>"),
    ("P-Profile-Key", "<sip:evil@x>"),
    ("P-Early-Media", "supported"),
    ("History-Info", "<sip:evil@x>;index=1"),
    ("Diversion", "<sip:evil@x>;reason=unconditional"),
    ("Remote-Party-ID", "<sip:evil@x>;party=calling"),
    ("Resource-Priority", "evil.0"),
    ("Feature-Caps", "*;+evil"),
    ("Cellular-Network-Info", "evil"),
    ("Restoration-Info", "evil"),
    ("Relayed-Charge", "evil"),
    ("Response-Source", "evil"),
    ("Attestation-Info", "evil"),
    ("Origination-Id", "evil"),
    ("Additional-Identity", "<sip:evil@x>"),
    ("Route", "<sip:evil.example;lr>"),
]
"""All of section 4.4."""


def test_what_only_the_network_may_say(edge_world: Any, alice: Any) -> None:
    """A-EPCSCF: TS 24.229 clause 4.4, from the client, in requests."""
    call(edge_world, alice, *FORGED, ("X-Harmless", "kept"))
    (invite,) = edge_world.to_core("INVITE")
    assert b"evil" not in invite.encode()
    assert "P-Early-Media" not in invite.headers
    assert invite.headers.get("X-Harmless") == "kept"


def test_what_only_the_network_may_say_in_responses(edge_world: Any, alice: Any) -> None:
    """A-EPCSCF: in responses; and the token that JsSIP puts there stays here."""
    invite, heard = ring(edge_world, alice)
    answer(alice, heard, 200, *FORGED[:-1], ("Authorization", f"Bearer {TOKEN}"))
    response = edge_world.core_answer(invite)
    assert response.status == 200
    assert b"evil" not in response.encode() and TOKEN.encode() not in response.encode()
    # Who answers is who was called; the charging vector has our side's name.
    assert response.headers.get_all("P-Asserted-Identity") == [f"<{ALICE_TEL}>"]
    vector = response.headers.get("P-Charging-Vector")
    assert 'icid-value="core-icid"' in vector and 'term-ioi="Type 1edge.example"' in vector
    assert response.headers.get("P-Access-Network-Info") == "IEEE-802.11;network-provided"


def test_what_clients_are_not_told(edge_world: Any, alice: Any) -> None:
    """A-EPCSCF: towards the client, in requests and responses."""
    secret = [("P-Charging-Function-Addresses", "ccf=secret"), ("P-Early-Media", "gated")]
    _, heard = ring(edge_world, alice, *secret)
    for name in ("P-Charging-Vector", "P-Charging-Function-Addresses", "P-Early-Media"):
        assert name not in heard.headers
    assert heard.headers.get("P-Asserted-Identity") == f"<{BOB}>"
    edge_world.on_request = pick_up(200, *secret, ("P-Charging-Vector", "icid-value=secret"))
    response = alice.ask("INVITE", BOB)
    assert response.status == 200 and b"secret" not in response.encode()


def test_privacy_hides_the_caller(edge_world: Any, alice: Any) -> None:
    """RFC 3325 section 7."""
    _, heard = ring(edge_world, alice, ("Privacy", "id"))
    assert "P-Asserted-Identity" not in heard.headers


@pytest.mark.parametrize(("claimed", "status"), [("other", 403), ("forged", 401)])
def test_the_token_of_a_later_request_is_looked_at(edge_world: Any, alice: Any, claimed: str, status: int) -> None:
    """A-REG2: RFC 8898; another user's token and a bad one are refused, in and outside of dialogs."""
    from network_edge.ep_cscf.engine.effects import TokenClaims

    edge_world.claims["other"] = TokenClaims(
        type(edge_world.claims[TOKEN].impi)("mallory@x"), edge_world.claims[TOKEN].impus, "m", "i", "w", 2e9
    )
    bearer = ("Authorization", f"Bearer {claimed}")
    edge_world.on_request = pick_up()
    assert alice.ask("INVITE", BOB, bearer).status == status
    invite, response = call(edge_world, alice)
    assert alice.outcome(in_dialog(alice, "UPDATE", invite, response, bearer)).status == status
    good = in_dialog(alice, "BYE", invite, response, ("Authorization", f"Bearer {TOKEN}"))
    assert alice.outcome(good).status == 200
    assert TOKEN.encode() not in edge_world.to_core("BYE")[0].encode()


def test_requests_in_a_dialog_go_along_its_route(edge_world: Any, alice: Any) -> None:
    """A-EPCSCF: TS 24.229 clause 5.2.6.3.5; another Route that the client writes leads nowhere."""
    invite, response = call(edge_world, alice)
    bye = in_dialog(alice, "BYE", invite, response, ("Route", "<sip:203.0.113.11:443;lr>, <sip:192.0.2.66;lr>"))
    assert alice.outcome(bye).status == 200
    (sent,) = edge_world.to_core("BYE")
    assert [str(route) for route in sent.routes] == [S_CSCF]
    icid = edge_world.to_core("INVITE")[0].headers.get("P-Charging-Vector")
    assert sent.headers.get("P-Charging-Vector") == icid
    assert edge_world.edge.dialogs == 0


def test_the_core_is_not_led_anywhere(edge_world: Any, alice: Any) -> None:
    """The Request-URI within a dialog is its remote target, too."""
    invite, response = call(edge_world, alice)
    update = in_dialog(alice, "UPDATE", invite, response)
    update.uri = "sip:192.0.2.66:25"
    assert alice.outcome(update).status == 200
    assert edge_world.to_core("UPDATE")[0].uri == "sip:bob@10.46.0.2:5060"


def test_the_end_of_a_transfers_reports_is_not_the_calls_end(edge_world: Any, alice: Any) -> None:
    """RFC 5057: REFER's subscription shares the dialog of the call."""
    invite, response = call(edge_world, alice)
    alice.answer = lambda request: response_to(request, 481)
    notify = edge_world.core_request(
        "NOTIFY",
        alice.contact,
        ("Route", ", ".join(f"<{route.uri}>" for route in edge_world.to_core("INVITE")[0].record_routes)),
        ("From", response.headers.get("To")),
        ("To", invite.headers.get("From")),
        ("Call-ID", invite.call_id),
        ("Event", "refer"),
        ("Subscription-State", "terminated;reason=noresource"),
    )
    edge_world.from_core(notify)
    assert edge_world.core_answer(notify).status == 481
    assert alice.outcome(in_dialog(alice, "BYE", invite, response)).status == 200


def test_a_subscription_of_the_clients_ends_with_its_last_notify(edge_world: Any, alice: Any) -> None:
    edge_world.on_request = pick_up(200, ("Expires", 600))
    subscribe = alice.build("SUBSCRIBE", BOB, ("Event", "presence"), ("Expires", 600))
    response = alice.outcome(subscribe)
    assert edge_world.edge.dialogs == 1
    alice.answer = lambda request: response_to(request, 200)
    sent = next(each for each in edge_world.to_core("SUBSCRIBE") if each.headers.get("Event") == "presence")
    notify = edge_world.core_request(
        "NOTIFY",
        alice.contact,
        ("Route", ", ".join(f"<{route.uri}>" for route in sent.record_routes)),
        ("From", response.headers.get("To")),
        ("To", subscribe.headers.get("From")),
        ("Call-ID", subscribe.call_id),
        ("Event", "presence"),
        ("Subscription-State", "terminated"),
    )
    edge_world.from_core(notify)
    assert edge_world.core_answer(notify).status == 200
    assert edge_world.edge.dialogs == 0


def test_a_dialog_of_nobodys(edge_world: Any, alice: Any) -> None:
    """Neither a made-up dialog nor somebody else's."""
    invite, response = call(edge_world, alice)
    assert alice.ask("BYE", BOB, ("To", f"<{BOB}>;tag=made-up"), ("Route", S_CSCF)).status == 481
    edge_world.claims["eve"] = edge_world.claims[TOKEN]
    eve = edge_world.client("eve")
    assert eve.register_with_token().status == 200
    assert eve.outcome(in_dialog(eve, "BYE", invite, response)).status == 481
    assert not edge_world.to_core("BYE")


def test_a_core_without_record_route(edge_world: Any, alice: Any) -> None:
    """The remote target is the next hop then, not what the client writes as Request-URI."""

    def plain(request: Request) -> Response | None:
        if request.method not in ("INVITE", "BYE"):
            return None
        response = response_to(request, 200, to_tag="bob")
        response.headers.add("Contact", "<sip:bob@10.45.0.1:5062>")
        return response

    edge_world.on_request = plain
    invite = alice.build("INVITE", BOB)
    response = alice.outcome(invite)
    bye = in_dialog(alice, "BYE", invite, response)
    bye.uri = "sip:192.0.2.66"
    assert alice.outcome(bye).status == 200
    assert edge_world.to_core("BYE")[0].uri == "sip:bob@10.45.0.1:5062"


def test_a_peers_contact_is_no_way_out_of_the_core(edge_world: Any, alice: Any) -> None:
    """Without a recorded route what is for a host that is not the core's still goes to the core (the world checks)."""
    invite = edge_world.core_request("INVITE", alice.contact, ("Route", str(edge_world.path())))
    edge_world.from_core(invite)
    answer(alice, alice.requests("INVITE")[-1])
    edge_world.on_request = pick_up()
    bye = alice.build(
        "BYE",
        "sip:bob@10.46.0.2:5060",
        ("From", f"<{ALICE}>;tag=alice-tag"),
        ("To", invite.headers.get("From")),
        ("Call-ID", invite.call_id),
    )
    assert alice.outcome(bye).status == 200
    assert edge_world.to_core("BYE")[0].uri == "sip:bob@10.46.0.2:5060"


def test_a_peers_record_route_is_no_way_out_of_the_core(edge_world: Any, alice: Any) -> None:
    """Nor is a route that a peer has recorded behind a core that records none."""

    def rogue(request: Request) -> Response | None:
        if request.method not in ("INVITE", "BYE"):
            return None
        response = response_to(request, 200, to_tag="bob")
        recorded = response.headers.elements("Record-Route")
        response.headers.remove("Record-Route")
        response.headers.add("Record-Route", ", ".join(["<sip:192.0.2.66;lr>", *recorded]))
        response.headers.add("Contact", "<sip:bob@192.0.2.66>")
        return response

    edge_world.on_request = rogue
    invite = alice.build("INVITE", BOB)
    response = alice.outcome(invite)
    assert alice.outcome(in_dialog(alice, "BYE", invite, response)).status == 200
    assert [str(route) for route in edge_world.to_core("BYE")[0].routes] == ["<sip:192.0.2.66;lr>"]


@pytest.mark.parametrize(
    "uri",
    [
        "urn:service:sos",
        "urn:service:SOS.police",
        "tel:112",
        "tel:1-1-2;phone-context=+49",
        f"sip:911@{HOME}",
        "sip:911@elsewhere.example;user=phone",
        f"sip:112;phone-context=+49@{HOME};user=phone",
    ],
)
def test_emergency_calls_are_left_to_a_telephone(edge_world: Any, alice: Any, uri: str) -> None:
    """TS 24.229 clause 5.2.10: 380 with the body that says so, registered or not."""
    for client in (alice, edge_world.client("stranger")):
        answered = client.ask("INVITE", uri, ("To", f"<{uri}>"))
        assert is_emergency(answered)
        assert str(answered.contacts[0].uri) == "urn:service:sos"
    assert not edge_world.to_core("INVITE")


@pytest.mark.parametrize(
    "uri", ["urn:service:sosi", "tel:+49112", f"sip:1120@{HOME}", "sip:112@elsewhere.example", f"sip:{HOME}"]
)
def test_what_is_no_emergency(edge_world: Any, alice: Any, uri: str) -> None:
    edge_world.on_request = pick_up()
    assert alice.ask("INVITE", uri, ("To", f"<{uri}>")).status == 200


def test_other_countries_numbers(make_edge: Callable[..., Any]) -> None:
    world = make_edge(EpCscfSettings(HOME, "edge.example", emergency_numbers=frozenset({"999"})))
    world.on_request = pick_up()
    alice = world.client()
    assert alice.register_with_token().status == 200
    assert [alice.ask("INVITE", f"tel:{number}").status for number in ("999", "911")] == [380, 200]
    with pytest.raises(ValueError, match="emergency_numbers"):
        EpCscfSettings(HOME, "edge.example", emergency_numbers=frozenset({"1-1-2"}))


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "SUBSCRIBE"])
def test_a_core_that_cannot_be_reached(edge_world: Any, alice: Any, method: str) -> None:
    """TS 24.229 clause 5.2.6.3.3: 504 that lets the client register anew, not 500."""
    edge_world.core_unreachable = True
    answered = alice.ask(method, BOB)
    assert asks_restoration(answered)
    assert answered.headers.get("P-Asserted-Identity") == "<sip:orig@10.45.0.1:5062;lr>"


def test_a_core_that_says_nothing(edge_world: Any, alice: Any) -> None:
    edge_world.on_request = lambda request: None
    invite = alice.build("INVITE", BOB)
    alice.send(invite)
    edge_world.run(33)
    assert asks_restoration(alice.answer_to(invite))


def test_a_core_that_is_gone_within_a_call(edge_world: Any, alice: Any) -> None:
    """The registration is not to blame; it may be there again in a moment."""
    invite, response = call(edge_world, alice)
    edge_world.core_unreachable = True
    answered = alice.outcome(in_dialog(alice, "UPDATE", invite, response))
    assert answered.status == 503 and answered.headers.get("Retry-After") == "10"
    edge_world.core_unreachable = False
    assert alice.outcome(in_dialog(alice, "BYE", invite, response)).status == 200


def test_a_refusal_of_the_cores_own_passes(edge_world: Any, alice: Any) -> None:
    edge_world.on_request = pick_up(500, ("Retry-After", 77))
    answered = alice.ask("INVITE", BOB)
    assert answered.status == 500 and answered.headers.get("Retry-After") == "77"


# ---- from the core -------------------------------------------------------------------------------------------


def test_a_call_comes_in_and_is_hung_up(edge_world: Any, alice: Any) -> None:
    """A-EPCSCF: by the Path's token over the client's connection; ``.invalid`` is never looked up."""
    invite, heard = ring(edge_world, alice)
    assert heard.uri == alice.contact
    # A client that gives another route back does not change it.
    answer(alice, heard, 180, ("Record-Route", "<sip:evil.example;lr>"))
    answer(alice, heard, 200, ("Record-Route", "<sip:evil.example;lr>"))
    response = edge_world.core_answer(invite)
    assert response.status == 200
    hosts = [route.uri.host for route in response.record_routes]
    assert hosts == ["203.0.113.11", "10.45.0.3", "10.45.0.1"]
    usual = [
        ("Route", ", ".join(f"<{route.uri}>" for route in response.record_routes[1::-1])),
        ("From", invite.headers.get("From")),
        ("To", response.headers.get("To")),
        ("Call-ID", invite.call_id),
    ]
    ack = edge_world.core_request("ACK", alice.contact, *usual)
    edge_world.from_core(ack)
    assert alice.requests("ACK")
    alice.answer = lambda request: response_to(request, 200)
    bye = edge_world.core_request("BYE", alice.contact, *usual, number=2)
    edge_world.from_core(bye)
    assert edge_world.core_answer(bye).status == 200
    assert edge_world.edge.dialogs == 0
    assert not edge_world.steps(Resolve)


def test_the_called_client_hangs_up(edge_world: Any, alice: Any) -> None:
    invite, heard = ring(edge_world, alice)
    answer(alice, heard)
    edge_world.on_request = pick_up()
    bye = alice.build(
        "BYE",
        "sip:bob@10.46.0.2:5060",
        ("Route", ", ".join(heard.headers.elements("Record-Route"))),
        ("From", f"<{ALICE}>;tag=alice-tag"),
        ("To", invite.headers.get("From")),
        ("Call-ID", invite.call_id),
    )
    assert alice.outcome(bye).status == 200
    (sent,) = edge_world.to_core("BYE")
    assert [str(route) for route in sent.routes] == [S_CSCF]
    assert 'icid-value="core-icid"' in sent.headers.get("P-Charging-Vector")


def test_a_cancelled_call(edge_world: Any, alice: Any) -> None:
    invite, heard = ring(edge_world, alice)
    answer(alice, heard, 180)
    cancel = edge_world.core_request("CANCEL", invite.uri, ("Route", str(edge_world.path())))
    for name in ("Via", "From", "To", "Call-ID"):
        cancel.headers.set(name, invite.headers.get(name))
    edge_world.from_core(cancel)
    assert alice.requests("CANCEL")
    answer(alice, heard, 487)
    assert edge_world.core_answer(invite).status == 487
    assert edge_world.edge.dialogs == 0


@pytest.mark.parametrize("token", ["0" * 32, "x", ""])
def test_a_token_that_was_never_given(edge_world: Any, alice: Any, token: str) -> None:
    """A-EPCSCF: flow tokens cannot be made up; 430 lets the registrar forget a flow of before a restart."""
    at = f"{token}@" if token else ""
    invite = edge_world.core_request("INVITE", alice.contact, ("Route", f"<sip:{at}10.45.0.3:5060;lr>"))
    edge_world.from_core(invite)
    assert edge_world.core_answer(invite).status == (430 if token else 404)
    assert not alice.requests("INVITE")


def test_a_client_cannot_come_as_the_core(edge_world: Any, alice: Any) -> None:
    """The token in a Route is worth something only on Mw."""
    bob = edge_world.client("bob")
    response = bob.ask("INVITE", alice.contact, ("Route", str(edge_world.path())))
    assert response.status == 403
    assert not alice.requests("INVITE")


def test_strangers_on_mw(edge_world: Any, alice: Any) -> None:
    """A-EPCSCF: on Mw only the core's addresses are believed."""
    stranger = Flow("UDP", ("10.45.0.3", 5060), ("192.0.2.66", 5060), 99)
    invite = edge_world.core_request("INVITE", alice.contact, ("Route", str(edge_world.path())))
    edge_world.from_core(invite, stranger)
    assert not alice.requests("INVITE")
    edge_world.from_core(invite.encode())
    assert alice.requests("INVITE")


def test_a_further_address_of_the_core(make_edge: Callable[..., Any]) -> None:
    world = make_edge(EpCscfSettings(HOME, "edge.example", core_addresses=frozenset({"10.45.0.9"})))
    alice = world.client()
    alice.register_with_token()
    invite = world.core_request("INVITE", alice.contact, ("Route", str(world.path())))
    world.feed(Received(invite.encode(), Flow("UDP", ("10.45.0.3", 5060), ("10.45.0.9", 5060), 7)))
    assert alice.requests("INVITE")


def test_health_checks_of_the_core(edge_world: Any) -> None:
    options = edge_world.core_request("OPTIONS", "sip:10.45.0.3:5060")
    edge_world.from_core(options)
    assert edge_world.core_answer(options).status == 200


def test_draining_refuses_new_calls_both_ways(edge_world: Any, alice: Any) -> None:
    """A-EPCSCF: calls that run finish."""
    invite, response = call(edge_world, alice)
    edge_world.feed(Draining(True))
    refused = alice.ask("INVITE", BOB)
    assert refused.status == 503 and "Retry-After" in refused.headers
    incoming = edge_world.core_request("INVITE", alice.contact, ("Route", str(edge_world.path())))
    edge_world.from_core(incoming)
    assert edge_world.core_answer(incoming).status == 503
    assert alice.outcome(in_dialog(alice, "BYE", invite, response)).status == 200


def test_dialogs_of_one_registration_are_limited(make_edge: Callable[..., Any]) -> None:
    world = make_edge(EpCscfSettings(HOME, "edge.example", limits=FlowLimits(dialogs=2)))
    alice = world.client()
    alice.register_with_token()
    assert [call(world, alice)[1].status for _ in range(3)] == [200, 200, 503]
