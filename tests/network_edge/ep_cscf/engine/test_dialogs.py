"""Dialogs through the eP-CSCF: how long they live, who may write in them, and by what they are found [A-EPCSCF]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from imskit.sip.wire.message import Request, Response, response_to
from network_edge.ep_cscf.engine.settings import EpCscfSettings, FlowLimits

HOME = "ims.example"
ALICE, ALICE_TEL, BOB = f"sip:+15550300@{HOME}", "tel:+15550300", f"sip:+15550200@{HOME}"
S_CSCF = "<sip:10.45.0.1:5062;lr>"
CONTACT = ("Contact", "<sip:bob@10.46.0.2:5060>")


class Dialog:
    """A dialog between Alice and Bob; Bob is behind the core, which records itself."""

    def __init__(
        self, world: Any, alice: Any, method: str = "INVITE", *fields: tuple[str, object], answer: Any = ()
    ) -> None:
        self.world, self.alice, self.answers = world, alice, {method: (200, (CONTACT, *answer))}
        world.on_request = self._answer
        self.request = alice.build(method, BOB, *fields)
        self.response = alice.outcome(self.request)
        (self.sent,) = (each for each in world.to_core(method) if each.call_id == self.request.call_id)
        if method == "INVITE" and self.response.status == 200:
            self.send("ACK")

    def _answer(self, request: Request) -> Response | None:
        if request.headers.get("Event") == "reg" or request.method in ("REGISTER", "ACK"):
            return None
        status, fields = self.answers.get(request.method, (200, (CONTACT,)))
        response = response_to(request, status, to_tag="bob")
        recorded = response.headers.elements("Record-Route")
        response.headers.remove("Record-Route")
        if recorded:
            response.headers.add("Record-Route", ", ".join([S_CSCF, *recorded]))
        for name, value in fields:
            response.headers.add(name, value)
        return response

    def build(self, method: str, *fields: tuple[str, object]) -> Request:
        number = self.request.cseq.number if method == "ACK" else self.alice.cseq + 1
        usual: dict[str, object] = {
            "From": self.request.headers.get("From"),
            "To": self.response.headers.get("To"),
            "Call-ID": self.request.call_id,
            "CSeq": f"{number} {method}",
        }
        return self.alice.build(method, "sip:bob@10.46.0.2:5060", *(usual | dict(fields)).items())

    def send(self, method: str, *fields: tuple[str, object]) -> Response | None:
        """Alice's request; its answer."""
        return self.alice.outcome(self.build(method, *fields))

    def from_bob(self, method: str, *fields: tuple[str, object], number: int = 1) -> Response | None:
        """Bob's request along the recorded route; what came back."""
        usual: dict[str, object] = {
            "Route": ", ".join(f"<{route.uri}>" for route in self.sent.record_routes),
            "From": self.response.headers.get("To"),
            "To": self.request.headers.get("From"),
            "Call-ID": self.request.call_id,
        }
        request = self.world.core_request(method, self.alice.contact, *(usual | dict(fields)).items(), number=number)
        self.world.from_core(request)
        return self.world.core_answer(request)


def agree(request: Request) -> Response:
    """What a client says to everything."""
    return response_to(request, 200)


@pytest.fixture
def alice(edge_world: Any) -> Any:
    client = edge_world.client()
    assert client.register_with_token().status == 200
    return client


# ---- how long calls live -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 481])
@pytest.mark.parametrize("method", ["INFO", "UPDATE", "INVITE", "PRACK"])
def test_a_call_outlives_a_request_without_answer(edge_world: Any, alice: Any, method: str, status: int) -> None:
    """RFC 3261 section 12.2.1.2: the BYE that follows has to get to the other side."""
    call = Dialog(edge_world, alice)
    call.answers[method] = (status, ())
    answered = call.send(method)
    # RFC 4320 section 4.2: a 408 to anything but INVITE is not relayed.
    assert answered.status == status if status == 481 or method == "INVITE" else answered is None
    assert call.send("BYE").status == 200
    assert len(edge_world.to_core("BYE")) == 1
    assert edge_world.edge.dialogs == 0


def test_nobody_answers_in_a_call(edge_world: Any, alice: Any) -> None:
    """The edge's own transaction times out."""
    call = Dialog(edge_world, alice)
    edge_world.on_request = lambda request: None
    call.send("INFO")
    edge_world.run(40)
    edge_world.on_request = call._answer
    assert call.send("BYE").status == 200


def test_the_other_sides_bye_finds_its_way_too(edge_world: Any, alice: Any) -> None:
    call = Dialog(edge_world, alice)
    alice.answer = lambda request: response_to(request, 481)
    assert call.from_bob("UPDATE").status == 481
    alice.answer = agree
    assert call.from_bob("BYE", number=2).status == 200
    assert len(alice.requests("BYE")) == 1


def test_the_other_side_hangs_up_twice(edge_world: Any, alice: Any) -> None:
    """A client that is away hears of it once; the registration's end clears what it never fetched."""
    call = Dialog(edge_world, alice)
    edge_world.close(alice)
    assert call.from_bob("BYE").status == 200
    assert call.from_bob("INFO", number=2).status == 481
    assert call.from_bob("BYE", number=3).status == 200
    edge_world.run(61)
    assert not edge_world.to_core("BYE")
    alice.reconnect()
    alice.answer = agree
    assert alice.register_with_token().status == 200
    assert len(alice.requests("BYE")) == 1
    assert edge_world.edge.dialogs == 0


def test_a_client_that_comes_back_too_late_is_told(edge_world: Any, alice: Any) -> None:
    """TS 24.229 clause 5.2.8.1.2: the BYE goes towards the UE as well."""
    Dialog(edge_world, alice)
    edge_world.close(alice)
    edge_world.run(61)
    assert len(edge_world.to_core("BYE")) == 1
    alice.reconnect()
    alice.answer = agree
    assert alice.register_with_token().status == 200
    (bye,) = alice.requests("BYE")
    assert "flow-lost" in bye.headers.get("Reason")
    assert edge_world.edge.dialogs == 0


def test_a_client_that_never_comes_back_leaves_nothing(edge_world: Any, alice: Any) -> None:
    Dialog(edge_world, alice)
    edge_world.close(alice)
    edge_world.run(400)
    edge = edge_world.edge
    assert (edge.registrations, edge.dialogs) == (0, 0)
    assert not edge._dialogs._roots and not edge._dialogs._by_context


def test_a_call_that_is_refused_leaves_nothing(edge_world: Any, alice: Any) -> None:
    edge_world.on_request = lambda request: response_to(request, 486) if request.method == "INVITE" else None
    assert alice.ask("INVITE", BOB).status == 486
    edge_world.run(70)
    assert not edge_world.edge._dialogs._roots and not edge_world.edge._dialogs._by_context


# ---- how long subscriptions live -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "fields", "answer", "lasts"),
    [
        ("SUBSCRIBE", [("Event", "presence"), ("Expires", 600)], [("Expires", 100)], 100),
        ("SUBSCRIBE", [("Event", "presence"), ("Expires", 200)], [], 200),
        ("SUBSCRIBE", [("Event", "presence"), ("Expires", 0)], [("Expires", 0)], 0),
        ("REFER", [("Refer-To", "<sip:x@y>")], [], 3600),
    ],
)
def test_a_subscription_runs_out(
    make_edge: Callable[..., Any], method: str, fields: list[Any], answer: list[Any], lasts: int
) -> None:
    """RFC 6665 section 4.1.2: nobody has to say anything.  The last NOTIFY has some time to come."""
    world = make_edge(EpCscfSettings(HOME, "edge.example", maximum_expires=10000))
    world.life = 10000.0
    alice = world.client()
    assert alice.register_with_token(expires=9000).status == 200
    subscription = Dialog(world, alice, method, *fields, answer=answer)
    alice.answer = agree
    assert world.edge.dialogs == 1
    world.run(lasts + 30)
    assert subscription.from_bob("NOTIFY", ("Subscription-State", "pending")).status == 200
    world.run(3)
    assert world.edge.dialogs == 0


def test_a_renewed_subscription_stays(edge_world: Any, alice: Any) -> None:
    subscription = Dialog(edge_world, alice, "SUBSCRIBE", ("Event", "presence"), answer=[("Expires", 60)])
    edge_world.run(50)
    subscription.answers["SUBSCRIBE"] = (200, (CONTACT, ("Expires", 100)))
    assert subscription.send("SUBSCRIBE", ("Event", "presence")).status == 200
    edge_world.run(70)
    assert edge_world.edge.dialogs == 1
    alice.answer = agree
    assert subscription.from_bob("NOTIFY", ("Subscription-State", "active;expires=20")).status == 200
    edge_world.run(53)
    assert edge_world.edge.dialogs == 0


def test_a_refer_without_reports_makes_no_dialog(edge_world: Any, alice: Any) -> None:
    """RFC 4488 section 4."""
    Dialog(edge_world, alice, "REFER", ("Refer-To", "<sip:x@y>"), answer=[("Refer-Sub", "false")])
    assert edge_world.edge.dialogs == 0


def test_a_client_that_notifies_ends_the_subscription(edge_world: Any, alice: Any) -> None:
    """SUBSCRIBE of IMS to the client: its NOTIFY is the last."""
    subscribe = edge_world.core_request(
        "SUBSCRIBE", alice.contact, ("Route", str(edge_world.path())), ("Record-Route", S_CSCF), ("Event", "presence")
    )
    edge_world.from_core(subscribe)
    response = response_to(alice.requests("SUBSCRIBE")[-1], 200, to_tag="alice-tag")
    response.headers.add("Contact", f"<{alice.contact}>")
    response.headers.add("Expires", "300")
    alice.send(response)
    assert edge_world.edge.dialogs == 1
    edge_world.on_request = lambda request: agree(request) if request.method == "NOTIFY" else None
    notify = alice.build(
        "NOTIFY",
        "sip:bob@10.46.0.2:5060",
        ("From", f"<{ALICE}>;tag=alice-tag"),
        ("To", subscribe.headers.get("From")),
        ("Call-ID", subscribe.call_id),
        ("Subscription-State", "terminated;reason=timeout"),
    )
    assert alice.outcome(notify).status == 200
    assert edge_world.edge.dialogs == 0


def test_a_notify_that_overtakes_the_answer(edge_world: Any, alice: Any) -> None:
    """RFC 6665 section 4.1.2.4: it passes by the mark of the SUBSCRIBE; from anybody else it does not."""
    edge_world.on_request = lambda request: None
    subscribe = alice.build("SUBSCRIBE", BOB, ("Event", "presence"))
    alice.send(subscribe)
    alice.answer = agree
    sent = edge_world.to_core("SUBSCRIBE")[-1]
    usual = [
        ("Route", ", ".join(f"<{route.uri}>" for route in sent.record_routes)),
        ("From", f"<{BOB}>;tag=bob"),
        ("To", subscribe.headers.get("From")),
        ("Subscription-State", "active"),
    ]
    for method, call_id, status in (
        ("NOTIFY", subscribe.call_id, 200),
        ("NOTIFY", "another", 481),
        ("INVITE", subscribe.call_id, 481),
    ):
        request = edge_world.core_request(method, alice.contact, *usual, ("Call-ID", call_id))
        edge_world.from_core(request)
        assert edge_world.core_answer(request).status == status
    assert [request.method for request in alice.received if isinstance(request, Request)] == ["NOTIFY"]


def test_subscriptions_take_no_calls_place(make_edge: Callable[..., Any]) -> None:
    world = make_edge(EpCscfSettings(HOME, "edge.example", limits=FlowLimits(dialogs=2)))
    alice = world.client()
    alice.register_with_token()
    event = ("Event", "presence")
    assert [Dialog(world, alice, "SUBSCRIBE", event).response.status for _ in range(2)] == [200, 200]
    assert alice.ask("SUBSCRIBE", BOB, event).status == 503
    assert Dialog(world, alice).response.status == 200


# ---- who writes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["MESSAGE", "UPDATE", "INVITE", "REFER", "SUBSCRIBE"])
def test_within_a_dialog_a_client_says_who_it_is(edge_world: Any, alice: Any, method: str) -> None:
    """RFC 3325: asserted by this edge, whatever the client writes."""
    call = Dialog(edge_world, alice)
    forged = ("P-Asserted-Identity", f"<{BOB}>")
    assert call.send(method, forged, ("Event", "presence"), ("Refer-To", "<sip:x@y>")).status == 200
    sent = [each for each in edge_world.to_core(method) if each.to.tag == "bob"][-1]
    assert sent.headers.get_all("P-Asserted-Identity") == [f"<{ALICE}>"]


def test_another_identity_of_its_own_within_a_dialog(edge_world: Any, alice: Any) -> None:
    """RFC 4916: From may change, among the client's own."""
    call = Dialog(edge_world, alice)
    tag = call.request.from_.tag
    assert call.send("UPDATE", ("From", f"<{ALICE_TEL}>;tag={tag}")).status == 200
    assert edge_world.to_core("UPDATE")[-1].headers.get_all("P-Asserted-Identity") == [f"<{ALICE_TEL}>"]


@pytest.mark.parametrize(
    "sender", [f'"Your bank" <{BOB}>', "<sip:bank@evil.example>", f"<{ALICE};cpc=operator>", "<tel:+15550301>"]
)
@pytest.mark.parametrize("method", ["MESSAGE", "UPDATE", "INVITE", "INFO"])
def test_nobody_elses_name_within_a_dialog(edge_world: Any, alice: Any, sender: str, method: str) -> None:
    call = Dialog(edge_world, alice)
    before = len(edge_world.core)
    refused = call.send(method, ("From", f"{sender};tag={call.request.from_.tag}"))
    assert refused.status == 403
    assert len(edge_world.core) == before


def test_who_calls_without_a_name_goes_on_without(edge_world: Any, alice: Any) -> None:
    anonymous = ("From", '"Anonymous" <sip:anonymous@anonymous.invalid>;tag=x')
    call = Dialog(edge_world, alice, "INVITE", anonymous, ("Privacy", "id"))
    assert call.response.status == 200
    assert call.send("UPDATE", ("Privacy", "id")).status == 200
    assert edge_world.to_core("UPDATE")[-1].headers.get_all("P-Asserted-Identity") == [f"<{ALICE}>"]


def test_a_called_client_writes_as_it_was_called(edge_world: Any, alice: Any) -> None:
    """To of the INVITE may be any name; what this edge asserts is the identity that was called."""
    path, called = ("Route", str(edge_world.path())), ("P-Called-Party-ID", f"<{ALICE_TEL}>")
    invite = edge_world.core_request("INVITE", alice.contact, path, called, ("To", "<sip:sales@company.example>"))
    edge_world.from_core(invite)
    answer = response_to(alice.requests("INVITE")[-1], 200, to_tag="alice-tag")
    answer.headers.add("Contact", f"<{alice.contact}>")
    alice.send(answer)
    edge_world.on_request = lambda request: agree(request) if request.method == "MESSAGE" else None
    usual = (("To", invite.headers.get("From")), ("Call-ID", invite.call_id))
    own = ("From", "<sip:sales@company.example>;tag=alice-tag")
    assert alice.ask("MESSAGE", "sip:bob@10.46.0.2", own, *usual).status == 200
    assert edge_world.to_core("MESSAGE")[-1].headers.get_all("P-Asserted-Identity") == [f"<{ALICE_TEL}>"]


def test_a_dialog_without_target_leads_nowhere(edge_world: Any, alice: Any) -> None:
    """A confederate answers without Contact: the client's own Request-URI is not what the core gets."""
    edge_world.on_request = lambda request: (
        response_to(request, 180, to_tag="bob") if request.method == "INVITE" else None
    )
    invite = alice.build("INVITE", BOB)
    ringing = alice.outcome(invite)
    update = alice.build(
        "UPDATE",
        "sip:10.0.0.9:25",
        ("From", invite.headers.get("From")),
        ("To", ringing.headers.get("To")),
        ("Call-ID", invite.call_id),
    )
    assert alice.outcome(update).status == 481
    assert not edge_world.to_core("UPDATE")


# ---- by what a dialog is found -------------------------------------------------------------------------------


def test_each_dialog_has_a_mark_of_its_own(edge_world: Any, alice: Any) -> None:
    """Two calls of one client have nothing in common that the other side could know it by, nor the Path's token."""
    first, second = Dialog(edge_world, alice), Dialog(edge_world, alice, "INVITE", ("Privacy", "id"))
    marks = [{route.uri.user for route in call.sent.record_routes} for call in (first, second)]
    assert all(len(each) == 1 for each in marks)
    assert not marks[0] & marks[1]
    assert edge_world.path().uri.user not in marks[0] | marks[1]
    alice.answer = agree
    # The mark of one leads to no other.
    route = ("Route", ", ".join(f"<{each.uri}>" for each in first.sent.record_routes))
    assert second.from_bob("MESSAGE", route).status == 481
    assert second.from_bob("MESSAGE", number=2).status == 200


def test_the_core_brings_no_dialog_that_is_none(edge_world: Any, alice: Any) -> None:
    """RFC 3261 section 12.2.2: neither by Path nor by the mark of another dialog, with a To tag of one's own making."""
    call = Dialog(edge_world, alice)
    alice.answer = agree
    for route in (str(edge_world.path()), ", ".join(f"<{each.uri}>" for each in call.sent.record_routes)):
        answered = call.from_bob("INVITE", ("Route", route), ("Call-ID", "made-up"), ("To", f"<{ALICE}>;tag=x"))
        assert answered.status == 481
    assert not alice.requests("INVITE")


def test_a_mark_is_no_way_to_begin(edge_world: Any, alice: Any) -> None:
    call = Dialog(edge_world, alice)
    assert call.from_bob("INVITE", ("To", f"<{ALICE}>"), ("Call-ID", "new")).status == 430
    assert not alice.requests("INVITE")


def test_an_ack_tells_nobody_the_access_network(edge_world: Any, alice: Any) -> None:
    """RFC 7315: P-Access-Network-Info is in all methods but ACK and CANCEL."""
    Dialog(edge_world, alice)
    (ack,) = edge_world.to_core("ACK")
    assert "P-Access-Network-Info" not in ack.headers
