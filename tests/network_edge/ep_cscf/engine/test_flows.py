"""Connections of clients: RFC 5626, loss and return within a call, floods [A-EPCSCF]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from imskit.sip.wire.message import Request, Response, response_to
from network_edge.ep_cscf.engine.effects import DropFlow, RegistrationStep
from network_edge.ep_cscf.engine.settings import EpCscfSettings, FlowLimits

HOME = "ims.example"
ALICE, BOB = f"sip:+15550300@{HOME}", f"sip:+15550200@{HOME}"


def answering(world: Any) -> None:
    """Let the core's side of calls answer and record itself."""

    def answer(request: Request) -> Response | None:
        if request.method not in ("INVITE", "BYE", "UPDATE", "MESSAGE"):
            return None
        response = response_to(request, 200, to_tag="bob")
        recorded = response.headers.elements("Record-Route")
        response.headers.remove("Record-Route")
        if recorded:
            response.headers.add("Record-Route", ", ".join(["<sip:10.45.0.1:5062;lr>", *recorded]))
        response.headers.add("Contact", "<sip:bob@10.46.0.2:5060>")
        return response

    world.on_request = answer


class Call:
    """A call of Alice's to Bob, answered; ``send`` and ``from_bob`` speak within it."""

    def __init__(self, world: Any, alice: Any) -> None:
        answering(world)
        self.world, self.alice = world, alice
        self.invite = alice.build("INVITE", BOB)
        self.response = alice.outcome(self.invite)
        assert self.response.status == 200
        self.send("ACK")

    def send(self, method: str) -> Response | None:
        number = self.invite.cseq.number if method == "ACK" else self.alice.cseq + 1
        request = self.alice.build(
            method,
            "sip:bob@10.46.0.2:5060",
            ("Route", ", ".join(reversed(self.response.headers.elements("Record-Route")))),
            ("To", self.response.headers.get("To")),
            ("Call-ID", self.invite.call_id),
            ("CSeq", f"{number} {method}"),
        )
        response: Response | None = self.alice.outcome(request)
        return response

    def from_bob(self, method: str, number: int) -> Request:
        routes = [f"<{route.uri}>" for route in self.world.to_core("INVITE")[0].record_routes]
        request: Request = self.world.core_request(
            method,
            self.alice.contact,
            ("Route", ", ".join(routes)),
            ("From", self.response.headers.get("To")),
            ("To", self.invite.headers.get("From")),
            ("Call-ID", self.invite.call_id),
            number=number,
        )
        self.world.from_core(request)
        return request


@pytest.fixture
def alice(edge_world: Any) -> Any:
    client = edge_world.client()
    assert client.register_with_token().status == 200
    return client


def test_a_call_outlives_its_connection(edge_world: Any, alice: Any) -> None:
    """A-EPCSCF: the new flow of the same instance takes the dialogs over, in both directions."""
    call = Call(edge_world, alice)
    path = edge_world.path()
    edge_world.close(alice)
    edge_world.run(5)
    assert edge_world.core_answer(call.from_bob("UPDATE", 1)).status == 430
    alice.reconnect()
    # Before the client has said who it is, nothing in the dialog is taken from it.
    assert call.send("UPDATE").status == 481
    assert alice.register_with_token().status == 200
    assert edge_world.path() == path
    assert call.send("UPDATE").status == 200
    alice.answer = lambda request: response_to(request, 200)
    assert edge_world.core_answer(call.from_bob("UPDATE", 2)).status == 200
    edge_world.run(100)
    assert not edge_world.to_core("BYE")
    assert call.send("BYE").status == 200


def test_another_caller_meanwhile_ends_no_call(edge_world: Any, alice: Any) -> None:
    """430 would make the registrar forget the client, whose call waits for it."""
    call = Call(edge_world, alice)
    path = edge_world.path()
    edge_world.close(alice)
    invite = edge_world.core_request("INVITE", alice.contact, ("Route", str(path)))
    edge_world.from_core(invite)
    assert edge_world.core_answer(invite).status == 480
    alice.reconnect()
    assert alice.register_with_token().status == 200
    assert call.send("BYE").status == 200


def test_a_second_connection_replaces_the_first_unheard(edge_world: Any, alice: Any) -> None:
    """A half-open connection: the client is back before its loss is noticed."""
    call = Call(edge_world, alice)
    old = alice.flow
    alice.reconnect()
    assert alice.register_with_token().status == 200
    assert [drop.flow for drop in edge_world.steps(DropFlow)] == [old]
    assert call.send("BYE").status == 200


def test_an_answer_of_an_earlier_connection_comes_late(edge_world: Any) -> None:
    """The REGISTER of a connection that is gone must not take the new one's place."""
    held: list[Request] = []

    def hold_first(request: Request) -> Response | None:
        if request.method == "REGISTER" and not held:
            held.append(request)
            return response_to(request, 100)
        return None

    edge_world.on_request = hold_first
    alice = edge_world.client()
    alice.register_with_token()
    edge_world.close(alice)
    alice.reconnect()
    assert alice.register_with_token().status == 200
    path = edge_world.path()
    edge_world.from_core(edge_world._serve(held[0]))
    alice.answer = lambda request: response_to(request, 200, to_tag="x")
    message = edge_world.core_request("MESSAGE", alice.contact, ("Route", str(path)))
    edge_world.from_core(message)
    assert edge_world.core_answer(message).status == 200


def test_another_instance_takes_nothing_over(edge_world: Any, alice: Any) -> None:
    """The same user elsewhere is another registration with a token of its own."""
    call = Call(edge_world, alice)
    path = edge_world.path()
    other = edge_world.client("laptop")
    assert other.register_with_token().status == 200
    assert edge_world.path() != path
    assert edge_world.edge.registrations == 2
    call.alice = other
    assert call.send("BYE").status == 481


def test_two_connections_of_one_instance(edge_world: Any, alice: Any) -> None:
    """RFC 5626 section 4.2: another reg-id is another flow; each has its own token."""
    first = edge_world.path()
    second = edge_world.client("alice2")
    contact = f'<{alice.contact}>;+sip.instance="{alice.instance}";reg-id=2;expires=300'
    assert second.register_with_token(("Contact", contact)).status == 200
    assert edge_world.path() != first
    for path, client in ((first, alice), (edge_world.path(), second)):
        client.answer = lambda request: response_to(request, 200, to_tag="x")
        message = edge_world.core_request("MESSAGE", alice.contact, ("Route", str(path)))
        edge_world.from_core(message)
        assert edge_world.core_answer(message).status == 200
        assert len(client.requests("MESSAGE")) == 1


def test_without_outbound_the_contact_is_the_instance(edge_world: Any) -> None:
    """SIP.js's and other clients' way."""
    client = edge_world.client()
    client.outbound = False
    assert client.register_with_token().status == 200
    path = edge_world.path()
    edge_world.close(client)
    client.reconnect()
    assert client.register_with_token().status == 200
    assert edge_world.path() == path
    assert edge_world.edge.registrations == 1


def test_a_flow_that_is_gone(edge_world: Any, alice: Any) -> None:
    """RFC 5626 section 5.3.1: 430, so the core takes another flow or forgets this one."""
    edge_world.close(alice)
    invite = edge_world.core_request("INVITE", alice.contact, ("Route", str(edge_world.path())))
    edge_world.from_core(invite)
    assert edge_world.core_answer(invite).status == 430


def test_a_flow_that_goes_with_a_request_on_it(edge_world: Any, alice: Any) -> None:
    invite = edge_world.core_request("INVITE", alice.contact, ("Route", str(edge_world.path())))
    edge_world.from_core(invite)
    assert alice.requests("INVITE")
    edge_world.close(alice)
    assert edge_world.core_answer(invite).status == 430


def test_a_client_that_stays_away_loses_its_calls(edge_world: Any, alice: Any) -> None:
    """A-EPCSCF: network-initiated release, TS 24.229 clause 5.2.8.1."""
    Call(edge_world, alice)
    edge_world.close(alice)
    edge_world.run(59)
    assert not edge_world.to_core("BYE")
    edge_world.run(2)
    (bye,) = edge_world.to_core("BYE")
    assert bye.to.tag == "bob" and bye.from_.tag == "alice"
    assert bye.reasons
    # What is left of it is what the client is still to hear.
    edge_world.run(300)
    assert edge_world.edge.dialogs == 0


def test_the_other_side_hangs_up_meanwhile(edge_world: Any, alice: Any) -> None:
    """The other side is answered at once, the client hears of it when it is back."""
    call = Call(edge_world, alice)
    edge_world.close(alice)
    bye = call.from_bob("BYE", 1)
    assert edge_world.core_answer(bye).status == 200
    alice.reconnect()
    assert alice.register_with_token().status == 200
    (told,) = alice.requests("BYE")
    assert told.to.tag == "alice" and told.from_.tag == "bob"
    assert not edge_world.to_core("BYE")
    assert edge_world.edge.dialogs == 0


def test_a_registration_that_ends_takes_its_calls_along(edge_world: Any) -> None:
    """A-EPCSCF, A-REG2: the token's end is the end of the call; both sides get a BYE."""
    edge_world.life = 90.0
    alice = edge_world.client()
    alice.register_with_token()
    Call(edge_world, alice)
    alice.answer = lambda request: response_to(request, 200)
    edge_world.run(91)
    assert len(edge_world.to_core("BYE")) == len(alice.requests("BYE")) == 1
    told = alice.requests("BYE")[0]
    assert told.uri == alice.contact
    assert "P-Charging-Vector" not in told.headers
    assert edge_world.edge.dialogs == 0


def test_a_registration_that_ends_while_it_rings(edge_world: Any) -> None:
    edge_world.life = 90.0
    alice = edge_world.client()
    alice.register_with_token()
    edge_world.run(80)

    def ringing(request: Request) -> Response | None:
        return response_to(request, 180, to_tag="bob") if request.method == "INVITE" else None

    edge_world.on_request = ringing
    invite = alice.build("INVITE", BOB)
    assert alice.outcome(invite).status == 180
    edge_world.run(11)
    assert alice.answer_to(invite).status == 480
    assert edge_world.to_core("CANCEL")


def test_a_flood_is_dropped_and_the_connection_closed(make_edge: Callable[..., Any]) -> None:
    """A-EPCSCF: WebSocket flood."""
    limits = FlowLimits(messages_per_second=10, burst=20)
    world = make_edge(EpCscfSettings(HOME, "edge.example", limits=limits))
    eve, alice = world.client("eve"), world.client()
    for _ in range(45):
        eve.send(b"OPTIONS sip:x SIP/2.0\r\n\r\n")
    assert [drop.flow for drop in world.steps(DropFlow)] == [eve.flow]
    # Others are served on.
    assert alice.register_with_token().status == 200


def test_who_keeps_to_the_rate_is_never_dropped(make_edge: Callable[..., Any]) -> None:
    limits = FlowLimits(messages_per_second=10, burst=5)
    world = make_edge(EpCscfSettings(HOME, "edge.example", limits=limits))
    alice = world.client()
    assert alice.register_with_token().status == 200
    answering(world)
    for _ in range(50):
        world.run(0.2)
        assert alice.ask("MESSAGE", BOB).status == 200


def test_requests_on_their_way_are_limited(make_edge: Callable[..., Any]) -> None:
    world = make_edge(EpCscfSettings(HOME, "edge.example", limits=FlowLimits(transactions=3)))
    alice = world.client()
    assert alice.register_with_token().status == 200
    asked = [alice.build("MESSAGE", BOB) for _ in range(5)]
    answers = [alice.outcome(request) for request in asked]
    assert [answer.status if answer is not None else None for answer in answers] == [None, None, None, 503, 503]
    for waiting in world.to_core("MESSAGE"):
        world.from_core(response_to(waiting, 200, to_tag="x"))
    answering(world)
    assert alice.ask("MESSAGE", BOB).status == 200


def test_registrations_of_one_connection_are_limited(make_edge: Callable[..., Any]) -> None:
    world = make_edge(EpCscfSettings(HOME, "edge.example", limits=FlowLimits(registrations=2)))
    alice = world.client()
    alice.outbound = False
    statuses = []
    for number in range(3):
        alice.contact = f"sip:a{number}@x.invalid"
        statuses.append(alice.register_with_token().status)
    assert statuses == [200, 200, 403]


def test_a_full_table_says_so(make_edge: Callable[..., Any]) -> None:
    world = make_edge(EpCscfSettings(HOME, "edge.example", maximum_registrations=1))
    assert world.client().register_with_token().status == 200
    refused = world.client("late").register_with_token()
    assert refused.status == 503 and "Retry-After" in refused.headers


def test_nothing_stays_behind(edge_world: Any, alice: Any) -> None:
    """After its last registration and call nothing is kept of a user."""
    call = Call(edge_world, alice)
    call.send("BYE")
    alice.register_with_token(expires=0)
    edge_world.close(alice)
    edge_world.run(200)
    edge = edge_world.edge
    assert (edge.registrations, edge.dialogs, edge.flows, edge.requests) == (0, 0, 0, 0)
    assert len(edge._bindings._by_token) == len(edge._bindings._by_impi) == len(edge._reg_events) == 0
    assert not edge._contexts and not edge._drafts and not edge._asking and not edge._counted
    assert [step.kind.value for step in edge_world.steps(RegistrationStep)] == ["registered", "deregistered"]
    assert edge.deadline() is None
