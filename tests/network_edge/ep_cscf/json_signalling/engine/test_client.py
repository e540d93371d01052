"""A JSON client through the real eP-CSCF, before a core that the test plays (virtual clock)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imskit.engine import Tick
from imskit.sip.engine.events import Received, Transmit
from imskit.sip.wire.message import Message, Request, Response, response_to
from network_edge.ep_cscf.json_signalling.engine.client import MOST_CALLS, JsonClient
from network_edge.ep_cscf.json_signalling.wire.messages import parse

ALICE = "sip:+15550300@ims.example"
BOB = "tel:+15550200"
TOKEN = "aaaa.bbbb.cccc"
OFFER, ANSWER = "v=0\r\no=offer\r\n", "v=0\r\no=answer\r\n"


class JsonWic:
    """The engine as one client of the `EdgeWorld`."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.flow = world.new_flow("WSS")
        self.client = JsonClient("ims.example", self.flow, world.tokens)
        self.said: list[dict[str, Any]] = []
        world.clients.append(self)

    def take(self, message: Message) -> None:
        self.client.handle(Received(message.encode(), self.flow), self.world.now)
        self.drain()

    def say(self, kind: str, **members: Any) -> list[dict[str, Any]]:
        """Say something; return what the edge says to it."""
        before = len(self.said)
        self.client.handle(parse(json.dumps({"type": kind, **members})), self.world.now)
        self.drain()
        return self.said[before:]

    def drain(self) -> None:
        while (output := self.client.poll()) is not None:
            if isinstance(output, Transmit):
                self.world.feed(Received(output.message.encode(), self.flow))
            else:
                self.said.append(json.loads(output.encode()))

    def tick(self) -> None:
        self.client.handle(Tick(), self.world.now)
        self.drain()

    def heard(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.said if message["type"] == kind]


@pytest.fixture
def wic(edge_world: Any) -> JsonWic:
    return JsonWic(edge_world)


@pytest.fixture
def alice(wic: JsonWic) -> JsonWic:
    wic.say("login", token=TOKEN, identity=ALICE)
    wic.say("register", id="r")
    return wic


def _answer(world: Any, request: Request, status: int, body: str = "", **more: Any) -> None:
    response = response_to(request, status, to_tag="bob")
    response.headers.prepend("Record-Route", "<sip:10.45.0.1:5062;lr>")
    response.headers.add("Contact", "<sip:bob@10.46.0.2:5060>")
    if body:
        response.set_body(body.encode(), "application/sdp")
    world.from_core(response)


def _call(alice: JsonWic) -> Request:
    assert alice.say("call", id="c", call="one", to=BOB, sdp=OFFER)[0] == {"type": "ok", "id": "c"}
    (invite,) = alice.world.to_core("INVITE")
    return invite


def _incoming(alice: JsonWic, sdp: str = OFFER) -> tuple[Request, str]:
    world = alice.world
    path = world.path()
    contact = world.to_core("REGISTER")[-1].contacts[0].uri
    asserted = ("P-Asserted-Identity", "<tel:+15550200>")
    invite = world.core_request("INVITE", str(contact), ("Route", str(path)), asserted, body=sdp.encode())
    world.from_core(invite)
    return invite, alice.heard("incoming")[-1]["call"]


def test_registration(alice: JsonWic) -> None:
    """The token goes to the edge in REGISTER, and never on to the core (RFC 8898, TS 24.371 A.3.2)."""
    assert alice.world.asked == [TOKEN]
    (registered,) = alice.heard("registered")
    assert (registered["id"], registered["identity"], registered["expires"]) == ("r", ALICE, 600)
    (register,) = alice.world.to_core("REGISTER")
    assert TOKEN not in register.encode().decode()


def test_registration_is_renewed(alice: JsonWic) -> None:
    alice.world.now += 299.0
    alice.tick()
    assert len(alice.world.to_core("REGISTER")) == 1
    alice.world.now += 2.0
    alice.tick()
    assert len(alice.world.to_core("REGISTER")) == 2
    assert alice.heard("registered")[-1].get("id") is None


def test_unregister(alice: JsonWic) -> None:
    (gone,) = alice.say("unregister", id="u")
    assert gone == {"type": "unregistered", "id": "u"}
    assert alice.client.deadline() is None or alice.client.deadline() > alice.world.now


def test_bad_token(wic: JsonWic) -> None:
    wic.say("login", token="forged", identity=ALICE)
    (error,) = wic.say("register", id="r")
    assert (error["type"], error["id"], error["code"], error["status"]) == ("error", "r", "register", 401)
    assert wic.world.to_core("REGISTER") == []


@pytest.mark.parametrize("kind", ["register", "call", "message"])
def test_log_in_first(wic: JsonWic, kind: str) -> None:
    members = {"call": {"call": "x", "to": BOB, "sdp": OFFER}, "message": {"to": BOB, "text": "hi"}}.get(kind, {})
    (error,) = wic.say(kind, id="1", **members)
    assert (error["type"], error["id"], error["code"]) == ("error", "1", "login")


def test_outgoing_call(alice: JsonWic) -> None:
    world = alice.world
    invite = _call(alice)
    assert invite.body.decode() == OFFER
    assert [str(each.uri) for each in invite.addresses("P-Asserted-Identity")] == [ALICE, "tel:+15550300"][:1]
    _answer(world, invite, 180)
    assert alice.heard("progress")[-1] == {"type": "progress", "call": "one", "status": 180}
    _answer(world, invite, 200, ANSWER)
    assert alice.said[-2:] == [
        {"type": "answer", "call": "one", "sdp": ANSWER},
        {"type": "answered", "call": "one"},
    ]
    assert len(world.to_core("ACK")) == 1
    assert alice.say("hangup", id="h", call="one")[0] == {"type": "ok", "id": "h"}
    (bye,) = world.to_core("BYE")
    _answer(world, bye, 200)
    assert alice.heard("ended")[-1]["call"] == "one"
    assert alice.say("hangup", id="h", call="one")[0]["code"] == "unknown-call"


def test_cancel(alice: JsonWic) -> None:
    invite = _call(alice)
    _answer(alice.world, invite, 180)
    alice.say("hangup", call="one")
    assert len(alice.world.to_core("CANCEL")) == 1
    _answer(alice.world, invite, 487)
    assert len(alice.heard("ended")) == 1


def test_refused_call(alice: JsonWic) -> None:
    _answer(alice.world, _call(alice), 486)
    assert alice.heard("ended") == [{"type": "ended", "call": "one", "status": 486, "reason": "refused by the peer"}]


def test_incoming_call(alice: JsonWic) -> None:
    world = alice.world
    invite, call = _incoming(alice)
    (incoming,) = alice.heard("incoming")
    assert (incoming["sdp"], incoming["from"]) == (OFFER, BOB)
    alice.say("ring", call=call)
    alice.say("answer", id="a", call=call, sdp=ANSWER)
    final = world.core_answer(invite)
    assert isinstance(final, Response)
    assert (final.status, final.body.decode()) == (200, ANSWER)
    assert alice.heard("ok")[-1]["id"] == "a"
    assert alice.say("answer", id="b", call=call, sdp=ANSWER)[0]["code"] == "state"


@pytest.mark.parametrize(("reason", "status"), [("busy", 486), ("declined", 603), ("normal", 480)])
def test_refusing_a_call(alice: JsonWic, reason: str, status: int) -> None:
    invite, call = _incoming(alice)
    alice.say("hangup", call=call, reason=reason)
    assert alice.world.core_answer(invite).status == status
    assert len(alice.heard("ended")) == 1


def test_keys_and_candidates(alice: JsonWic) -> None:
    """DTMF by INFO in the dialog, one for each key; candidates as RFC 8840 wants them."""
    world = alice.world
    _answer(world, _call(alice), 200, ANSWER)
    alice.say("dtmf", id="d", call="one", digits="5#")
    for number, key in enumerate("5#", 1):
        infos = world.to_core("INFO")
        assert len(infos) == number
        assert infos[-1].body == f"Signal={key}\r\nDuration=160\r\n".encode()
        _answer(world, infos[-1], 200)
    assert alice.heard("ok")[-1]["id"] == "d"
    alice.say("candidates", call="one", ufrag="abcd", pwd="p" * 22, candidates=["1 1 udp 1 ::1 9 typ host"], ended=True)
    info = world.to_core("INFO")[-1]
    assert info.headers.get("Info-Package") == "trickle-ice"
    assert b"a=candidate:1 1 udp 1 ::1 9 typ host\r\na=end-of-candidates\r\n" in info.body


def test_messages(alice: JsonWic) -> None:
    world = alice.world
    alice.say("message", id="m", to=BOB, text="Grüße")
    (message,) = world.to_core("MESSAGE")
    assert message.body.decode() == "Grüße"
    _answer(world, message, 202)
    assert alice.heard("ok")[-1]["id"] == "m"
    contact = str(world.to_core("REGISTER")[-1].contacts[0].uri)
    fields = (("Route", str(world.path())), ("Content-Type", "text/plain"), ("P-Asserted-Identity", f"<{BOB}>"))
    received = world.core_request("MESSAGE", contact, *fields)
    received.body = b"hello"
    world.from_core(received)
    assert alice.heard("message") == [{"type": "message", "text": "hello", "from": BOB}]
    assert world.core_answer(received).status == 200


def test_hold_by_the_other_side(alice: JsonWic) -> None:
    """A later offer of IMS is the client's to answer."""
    world = alice.world
    invite = _call(alice)
    _answer(world, invite, 200, ANSWER)
    (ack,) = world.to_core("ACK")
    routes = [("Route", str(route)) for route in invite.record_routes]
    again = world.core_request(
        "INVITE", ack.contacts[0].uri if ack.contacts else str(invite.contacts[0].uri), *routes,
        ("From", "<tel:+15550200>;tag=bob"), ("To", invite.headers.get("From")), ("Call-ID", invite.call_id),
        body=OFFER.encode(),
    )  # fmt: skip
    world.from_core(again)
    assert alice.heard("offer") == [{"type": "offer", "call": "one", "sdp": OFFER}]
    alice.say("answer", call="one", sdp=ANSWER)
    assert world.core_answer(again).body.decode() == ANSWER


def test_most_calls(alice: JsonWic) -> None:
    for number in range(MOST_CALLS):
        alice.say("call", call=f"c{number}", to=BOB, sdp=OFFER)
    (error,) = alice.say("call", call="more", to=BOB, sdp=OFFER)
    assert error["code"] == "too-many"


def test_a_name_twice(alice: JsonWic) -> None:
    _call(alice)
    (error,) = alice.say("call", call="one", to=BOB, sdp=OFFER)
    assert error["code"] == "call"


def test_the_client_goes(alice: JsonWic) -> None:
    """Its calls and its registration end with the connection."""
    world = alice.world
    _answer(world, _call(alice), 200, ANSWER)
    alice.client.close(world.now)
    alice.drain()
    bye = world.to_core("BYE")[0]
    assert bye.reasons[0].cause == 480
    assert world.to_core("REGISTER")[-1].contacts[0].expires == 0


SAYINGS = st.sampled_from(
    [
        ("login", {"token": TOKEN, "identity": ALICE}),
        ("login", {"token": "forged", "identity": BOB}),
        ("register", {}),
        ("unregister", {}),
        ("call", {"call": "one", "to": BOB, "sdp": OFFER}),
        ("ring", {"call": "CALL"}),
        ("answer", {"call": "CALL", "sdp": ANSWER}),
        ("offer", {"call": "CALL", "sdp": OFFER}),
        ("candidates", {"call": "CALL", "ufrag": "abcd", "pwd": "p" * 22, "candidates": []}),
        ("hangup", {"call": "CALL"}),
        ("dtmf", {"call": "CALL", "digits": "1"}),
        ("message", {"to": BOB, "text": "hi"}),
    ]
)
EVENTS = st.one_of(
    SAYINGS, st.sampled_from([("core", 180), ("core", 200), ("core", 486), ("ring-in", 0), ("time", 31), ("time", 301)])
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(EVENTS, max_size=25))
def test_any_order_of_things(make_edge: Any, events: list[tuple[str, Any]]) -> None:
    """No exception, an answer to everything that has an id, and nothing left when the client goes."""
    world = make_edge()
    alice = JsonWic(world)
    for number, (kind, what) in enumerate(events):
        if kind == "core":
            pending = [
                each for each in world.core if isinstance(each, Request) and each.method not in ("ACK", "REGISTER")
            ]
            if pending:
                _answer(world, pending[-1], what, ANSWER if pending[-1].method == "INVITE" and what < 300 else "")
        elif kind == "ring-in":
            if alice.heard("registered"):
                contact, path = world.to_core("REGISTER")[-1].contacts[0].uri, str(world.path())
                world.from_core(world.core_request("INVITE", str(contact), ("Route", path), body=OFFER.encode()))
        elif kind == "time":
            world.run(what)
            alice.tick()
        else:
            calls = [message["call"] for message in alice.said if message["type"] in ("incoming", "answered")]
            members = {name: (calls or ["none"])[-1] if value == "CALL" else value for name, value in what.items()}
            alice.say(kind, id=str(number), **members)
    alice.client.close(world.now)
    alice.drain()
    for _ in range(20):
        world.run(200.0)
        alice.tick()
    assert alice.client.deadline() is None or alice.client.deadline() > world.now
    known = {message.get("id") for message in alice.said}
    said = [str(number) for number, (kind, _) in enumerate(events) if kind not in ("core", "ring-in", "time")]
    assert set(said) <= known
