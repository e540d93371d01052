"""The edge hears from the network that a registration has ended (TS 24.229 clauses 5.2.3, 5.2.5.2) [A-EPCSCF]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from imskit.ims.reginfo import MEDIA_TYPE, RegContact, RegInfo, Registration
from imskit.sip.wire.message import Request, Response, response_to
from network_edge.ep_cscf.engine.effects import RegistrationStep
from network_edge.ep_cscf.engine.settings import EpCscfSettings

HOME = "ims.example"
ALICE, BOB = f"sip:+15550300@{HOME}", f"sip:+15550200@{HOME}"


@pytest.fixture
def alice(edge_world: Any) -> Any:
    client = edge_world.client()
    assert client.register_with_token().status == 200
    return client


def subscribe_of(world: Any) -> Request:
    request: Request = [r for r in world.to_core("SUBSCRIBE") if r.headers.get("Event") == "reg"][-1]
    return request


def notify(
    world: Any, registrations: tuple[Registration, ...], *, version: int = 0, state: str = "active", body: bytes = b""
) -> Response:
    """Send a NOTIFY of the registrar's; return the answer."""
    subscribe = subscribe_of(world)
    request: Request = world.core_request(
        "NOTIFY",
        str(subscribe.contacts[0].uri),
        (
            "From",
            f"{subscribe.headers.get('To')};tag=notifier" if subscribe.to.tag is None else subscribe.headers.get("To"),
        ),
        ("To", subscribe.headers.get("From")),
        ("Call-ID", subscribe.call_id),
        ("Event", "reg"),
        ("Subscription-State", state),
        number=version + 1,
    )
    request.set_body(body or RegInfo(version, True, registrations).encode(), MEDIA_TYPE)
    world.from_core(request)
    answer: Response = world.core_answer(request)
    return answer


def ended(contact: str, event: str, state: str = "terminated") -> tuple[Registration, ...]:
    return (Registration(ALICE, state, (RegContact(contact, "terminated", event),)),)  # type: ignore[arg-type]


def message(world: Any, alice: Any) -> int:
    world.on_request = lambda request: response_to(request, 200, to_tag="x") if request.method == "MESSAGE" else None
    status: int = alice.ask("MESSAGE", BOB).status
    return status


def test_the_subscription(edge_world: Any, alice: Any) -> None:
    """In the edge's own name; one for a user, however often it registers; the client sees nothing of it."""
    second = edge_world.client("second")
    second.register_with_token()
    alice.register_with_token()
    (subscribe,) = edge_world.to_core("SUBSCRIBE")
    assert subscribe.uri == ALICE
    assert subscribe.headers.get("P-Asserted-Identity") == "<sip:10.45.0.3:5060>"
    assert subscribe.headers.get("Accept") == MEDIA_TYPE
    assert subscribe.expires == 600_000
    assert notify(edge_world, (Registration(ALICE, "active"),)).status == 200
    assert not alice.requests("NOTIFY")


@pytest.mark.parametrize("event", ["deactivated", "rejected", "probation", "unregistered"])
@pytest.mark.parametrize("state", ["active", "terminated"])
def test_the_network_ends_a_registration(edge_world: Any, alice: Any, event: str, state: str) -> None:
    """The client is told nothing; what it asks for later is refused."""
    heard = len(alice.received)
    assert notify(edge_world, ended(alice.contact, event, state)).status == 200
    assert len(alice.received) == heard
    assert message(edge_world, alice) == 403
    assert [step.kind.value for step in edge_world.steps(RegistrationStep)] == ["registered", "network-ended"]
    invite = edge_world.core_request("INVITE", alice.contact, ("Route", str(edge_world.path())))
    edge_world.from_core(invite)
    assert edge_world.core_answer(invite).status == 480
    # It may come again.
    assert alice.register_with_token().status == 200
    assert message(edge_world, alice) == 200


def test_another_contact_of_the_user(edge_world: Any, alice: Any) -> None:
    assert notify(edge_world, ended("sip:other@other.invalid", "deactivated", "active")).status == 200
    assert message(edge_world, alice) == 200


def test_another_user(edge_world: Any, alice: Any) -> None:
    gone = (Registration(BOB, "terminated", (RegContact(alice.contact, "terminated", "rejected"),)),)
    assert notify(edge_world, gone).status == 200
    assert message(edge_world, alice) == 200


def test_an_old_document_changes_nothing(edge_world: Any, alice: Any) -> None:
    notify(edge_world, (Registration(ALICE, "active"),), version=5)
    notify(edge_world, ended(alice.contact, "deactivated"), version=4)
    assert message(edge_world, alice) == 200


@pytest.mark.parametrize("body", [b"<", b"<a/>", b"<!DOCTYPE x [<!ENTITY a 'b'>]><a/>", b"\xff\xfe"])
def test_a_document_that_cannot_be_read(edge_world: Any, alice: Any, body: bytes) -> None:
    assert notify(edge_world, (), body=body).status == 400
    assert message(edge_world, alice) == 200


def test_a_client_cannot_notify_the_edge(edge_world: Any, alice: Any) -> None:
    """Also not when it knows the subscription's Contact."""
    subscribe = subscribe_of(edge_world)
    eve = edge_world.client("eve")
    body = RegInfo(9, True, ended(alice.contact, "deactivated")).encode()
    request = eve.build(
        "NOTIFY",
        str(subscribe.contacts[0].uri),
        ("To", subscribe.headers.get("From")),
        ("Call-ID", subscribe.call_id),
        ("Subscription-State", "active"),
    )
    request.set_body(body, MEDIA_TYPE)
    assert eve.outcome(request).status == 481
    assert message(edge_world, alice) == 200


def test_the_subscription_is_kept_alive(edge_world: Any) -> None:
    edge_world.subscribed = 1200
    assert edge_world.client().register_with_token(expires=3600).status == 200
    edge_world.run(590)
    assert len(edge_world.to_core("SUBSCRIBE")) == 1
    edge_world.run(20)
    first, second = edge_world.to_core("SUBSCRIBE")
    assert (second.call_id, second.from_.tag, second.to.tag) == (first.call_id, first.from_.tag, "notifier")
    assert second.cseq.number == first.cseq.number + 1
    assert second.uri == "sip:10.45.0.1:5062"


def test_a_subscription_that_is_refused_is_tried_again(edge_world: Any) -> None:
    edge_world.on_request = lambda request: response_to(request, 503) if request.method == "SUBSCRIBE" else None
    alice = edge_world.client()
    assert alice.register_with_token().status == 200
    edge_world.on_request = lambda request: None
    edge_world.run(70)
    first, second = edge_world.to_core("SUBSCRIBE")
    assert first.call_id != second.call_id
    assert notify(edge_world, ended(alice.contact, "deactivated")).status == 200
    assert message(edge_world, alice) == 403


def test_a_core_that_refuses_is_asked_less_and_less(edge_world: Any) -> None:
    """10,000 users must not mean 10,000 SUBSCRIBEs a minute to a core that knows no reg-event."""
    edge_world.on_request = lambda request: response_to(request, 489) if request.method == "SUBSCRIBE" else None
    assert edge_world.client().register_with_token(expires=600_000).status == 200
    edge_world.run(3500)
    assert len(edge_world.to_core("SUBSCRIBE")) == 6  # after 0, 60, 180, 420, 900 and 1860 s


def test_a_core_says_when_to_ask_again(edge_world: Any) -> None:
    def busy(request: Request) -> Response | None:
        response = response_to(request, 503)
        response.headers.add("Retry-After", 500)
        return response if request.method == "SUBSCRIBE" else None

    edge_world.on_request = busy
    assert edge_world.client().register_with_token(expires=600_000).status == 200
    edge_world.run(490)
    assert len(edge_world.to_core("SUBSCRIBE")) == 1
    edge_world.run(20)
    assert len(edge_world.to_core("SUBSCRIBE")) == 2


@pytest.mark.parametrize(
    ("state", "seconds"),
    [
        ("terminated;reason=deactivated", 2),
        ("terminated;reason=timeout", 2),
        ("terminated;reason=probation;retry-after=100", 101),
        ("terminated;reason=giveup", 61),
        ("terminated;reason=noresource", None),
        ("active;expires=100", 51),
    ],
)
def test_what_the_notifier_says_of_the_subscription(
    edge_world: Any, alice: Any, state: str, seconds: int | None
) -> None:
    """RFC 6665 sections 4.1.2.2 and 4.1.3."""
    assert notify(edge_world, (Registration(ALICE, "active"),), state=state).status == 200
    if seconds is None:
        edge_world.run(200)
        assert len(edge_world.to_core("SUBSCRIBE")) == 1
        return
    edge_world.run(seconds - 2)
    assert len(edge_world.to_core("SUBSCRIBE")) == 1
    edge_world.run(2)
    assert len(edge_world.to_core("SUBSCRIBE")) == 2


def test_a_core_without_reg_event(make_edge: Callable[..., Any]) -> None:
    world = make_edge(EpCscfSettings(HOME, "edge.example", reg_event=False))
    assert world.client().register_with_token().status == 200
    assert not world.to_core("SUBSCRIBE")
