"""What one client, one user or one address may take of the eP-CSCF; the rest goes on [A-EPCSCF A-REG1]."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.sip.wire.message import Request, Response, response_to
from network_edge.ep_cscf.engine.guesses import COUNT
from network_edge.ep_cscf.engine.settings import FlowLimits

HOME = "ims.example"


def digest(response: str = "abc", extra: str = "") -> str:
    return f'Digest username="alice@{HOME}", realm="{HOME}", nonce="n", uri="sip:{HOME}", response="{response}"{extra}'


def test_parameters_of_a_contact_make_no_new_places(edge_world: Any) -> None:
    """Most of them count only where both sides have them: for the registrar these are one contact."""
    client = edge_world.client()
    client.outbound = False
    for number in range(40):
        contact = f"<sip:m@a.invalid;transport=ws;p{number}>;expires=300"
        assert client.register_with_token(("Contact", contact)).status == 200
    assert edge_world.edge.registrations == 1
    paths = {str(request.path[0].uri.user) for request in edge_world.to_core("REGISTER")}
    assert len(paths) == 1


def test_one_user_takes_no_more_than_his_share(edge_world: Any) -> None:
    """A page that is killed comes back as another instance; the oldest that nobody is connected to gives way."""
    each = FlowLimits().each_user
    clients = []
    for number in range(each + 5):
        client = edge_world.client()
        client.instance = f"<urn:uuid:{number}>"
        assert client.register_with_token().status == 200
        clients.append(client)
        if number:
            edge_world.close(client)
    assert edge_world.edge.registrations == each
    assert edge_world.edge.registered(clients[0].flow)
    assert edge_world.edge.registered(clients[-1].flow) is False


def test_one_user_cannot_fill_the_table_with_what_has_ended(edge_world: Any) -> None:
    answers = []
    for number in range(3 * FlowLimits().each_user):
        client = edge_world.client()
        client.instance = f"<urn:uuid:{number}>"
        answers.append(client.register_with_token().status)
        edge_world.close(client)
    assert answers.count(200) == 2 * FlowLimits().each_user
    assert answers[-1] == 503
    edge_world.run(40)
    client = edge_world.client()
    client.instance = "<urn:uuid:last>"
    assert client.register_with_token().status == 200


def test_a_connection_that_came_back_and_went_again_is_given_up(edge_world: Any) -> None:
    """Lost again before the 200 to its REGISTER: its calls end when the time to return is over, not hours later."""
    held: list[Request] = []

    def hold(request: Request) -> Response | None:
        if request.method == "REGISTER":
            held.append(request)
            return response_to(request, 100)
        return None

    alice = edge_world.client()
    assert alice.register_with_token().status == 200
    edge_world.on_request = hold
    edge_world.close(alice)
    alice.reconnect()
    alice.register_with_token()
    edge_world.close(alice)
    edge_world.from_core(edge_world._serve(held[0]))
    assert edge_world.edge.deadline() <= edge_world.now + 61


@pytest.mark.parametrize(
    "extra",
    [
        ', opaque="integrity-protected=yes"',
        ", opaque=integrity-protected=auth-done",
        ', cnonce="authorization-entity"',
        ', cnonce="a\\"b"',
    ],
)
def test_words_of_trust_are_not_smuggled_in_values(edge_world: Any, extra: str) -> None:
    """Some cores look for them in the text of the whole field."""
    client = edge_world.client()
    assert client.register(("Authorization", digest(extra=extra))).status == 400
    assert not edge_world.to_core("REGISTER")


def test_a_digest_is_written_anew(edge_world: Any) -> None:
    client = edge_world.client()
    client.register(("Authorization", digest(extra=', qop=auth, nc=00000001, cnonce="c", x-mine="1", domain="d"')))
    (sent,) = edge_world.to_core("REGISTER")
    text = sent.headers.get("Authorization")
    assert text.startswith('Digest integrity-protected="tls-pending", username=')
    assert "x-mine" not in text
    assert "domain" not in text
    assert "nc=00000001" in text


def test_wrong_passwords_of_an_address_are_counted(edge_world: Any) -> None:
    edge_world.on_request = lambda request: response_to(request, 403) if request.method == "REGISTER" else None
    attacker = edge_world.client()
    for _ in range(COUNT):
        assert attacker.register(("Authorization", digest())).status == 403
    refused = attacker.register(("Authorization", digest()))
    assert refused.status == 503
    assert 0 < int(refused.headers.get("Retry-After")) <= 300
    assert len(edge_world.to_core("REGISTER")) == COUNT
    edge_world.on_request = lambda request: None
    bob = edge_world.client()
    assert bob.register(("Authorization", digest())).status == 200
    edge_world.now += 60
    assert attacker.register(("Authorization", digest())).status == 200


@pytest.mark.parametrize("stale", [True, False])
def test_a_stale_nonce_is_no_guess(edge_world: Any, stale: bool) -> None:
    def challenge(request: Request) -> Response | None:
        if request.method != "REGISTER":
            return None
        response = response_to(request, 401)
        more = ", stale=true" if stale else ""
        response.headers.add("WWW-Authenticate", f'Digest realm="{HOME}", nonce="m", qop="auth"{more}')
        return response

    edge_world.on_request = challenge
    client = edge_world.client()
    for _ in range(COUNT):
        assert client.register(("Authorization", digest())).status == 401
    assert client.register(("Authorization", digest())).status == (401 if stale else 503)


def test_a_first_register_is_no_guess(edge_world: Any) -> None:
    def challenge(request: Request) -> Response | None:
        response = response_to(request, 401)
        response.headers.add("WWW-Authenticate", f'Digest realm="{HOME}", nonce="m", qop="auth"')
        return response if request.method == "REGISTER" else None

    edge_world.on_request = challenge
    client = edge_world.client()
    for _ in range(2 * COUNT):
        assert client.register(("Authorization", digest(response=""))).status == 401


def test_who_is_not_registered_has_few_requests_on_their_way(edge_world: Any) -> None:
    edge_world.hold_tokens = True
    client = edge_world.client()
    most = FlowLimits().unregistered_transactions
    answers = [client.register_with_token() for _ in range(most + 1)]
    assert answers[-1].status == 503
    assert len(edge_world.asked) == most


def test_a_connection_where_nobody_registers_is_of_no_use(edge_world: Any) -> None:
    """Whatever is said there: one OPTIONS now and then keeps no place."""
    talker, alice = edge_world.client(), edge_world.client()
    talker.ask("OPTIONS", f"sip:{HOME}")
    assert alice.register_with_token().status == 200
    for _ in range(5):
        edge_world.now += 30
        talker.ask("OPTIONS", f"sip:{HOME}")
        found = edge_world.edge.unused(120, edge_world.now)
    assert found == [talker.flow]
