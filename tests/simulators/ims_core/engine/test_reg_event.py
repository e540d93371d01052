"""The reg event package at the S-CSCF (TS 24.229 clause 5.4.2.1, RFC 3680) [S7-IMS]."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.ims.reginfo import RegInfo
from imskit.sip.wire.message import Request, Response, response_to
from simulators.ims_core.engine.s_cscf import Deregister

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
A = f"sip:+15550100@{DOMAIN}"


@pytest.fixture
def ue(world: Any) -> Any:
    found = world.raw("0100", "10.45.0.2")
    assert found.register().status == 200

    def answer(request: Request) -> Response | None:
        return response_to(request, 200, to_tag="ue")

    found.answer = answer
    return found


def subscribe(ue: Any, uri: str = A, *fields: tuple[str, object], call: str = "sub") -> Response:
    usual = {"Event": "reg", "Expires": 600_000, "Accept": "application/reginfo+xml", "Call-ID": call}
    found: Response = ue.ask(ue.request("SUBSCRIBE", uri, *((usual | dict(fields)).items())))
    return found


def test_the_state_at_once_and_every_change(world: Any, ue: Any) -> None:
    assert subscribe(ue).status == 200
    world.until(lambda: ue.requests("NOTIFY"))
    first = RegInfo.parse(ue.requests("NOTIFY")[0].body)
    assert (first.version, first.full) == (0, True)
    assert {r.aor for r in first.registrations} == {A, "tel:+15550100"}
    assert first.registrations[0].contacts[0].state == "active"

    other = world.raw("0100", "10.45.0.77")
    other.register()
    world.until(lambda: len(ue.requests("NOTIFY")) == 2)
    second = RegInfo.parse(ue.requests("NOTIFY")[1].body)
    assert second.version == 1
    assert [c.event for c in second.registrations[0].contacts] == ["registered", "registered"]

    world.s_cscf.handle(Deregister(world.hss.by_impi(ue.impi), "rejected"), world.now)
    world.until(lambda: len(ue.requests("NOTIFY")) == 3)
    last = ue.requests("NOTIFY")[2]
    document = RegInfo.parse(last.body)
    assert document.registrations[0].state == "terminated"
    assert {c.event for c in document.registrations[0].contacts} == {"rejected"}
    assert last.subscription_state.state == "terminated"
    world.run(100)
    assert not world.s_cscf._notifier._subscriptions


@pytest.mark.parametrize(
    ("uri", "fields", "status"),
    [
        (f"sip:+15550200@{DOMAIN}", [], 403),
        (f"sip:nobody@{DOMAIN}", [], 404),
        (A, [("Event", "presence")], 404),
        (A, [("Accept", "text/plain")], 406),
        (A, [("Accept", "application/*;q=0.1")], 200),
        (A, [("Accept", None)], 200),
    ],
)
def test_who_may_see_it(ue: Any, world: Any, uri: str, fields: list[tuple[str, object]], status: int) -> None:
    if fields == [("Event", "presence")]:
        # No notifier of that package here: the request goes to the subscriber's own device.
        assert subscribe(ue, uri, *fields).status == 200
        assert ue.requests("SUBSCRIBE")
        return
    assert subscribe(ue, uri, *fields).status == status


def test_a_ue_that_comes_anew_leaves_no_subscription_behind(world: Any, ue: Any) -> None:
    for number in range(5):
        assert subscribe(ue, call=f"sub-{number}").status == 200
    world.run(5)
    assert len(world.s_cscf._notifier._subscriptions) == 1


def test_subscriptions_of_one_user_are_bounded(world: Any, ue: Any) -> None:
    for number in range(40):
        contact = ("Contact", f"<sip:{number}@10.45.0.2:5060>")
        assert subscribe(ue, A, contact, call=f"sub-{number}").status == 200
        world.run(1)
    assert len(world.s_cscf._notifier._subscriptions) <= 16


def test_refresh_and_end(world: Any, ue: Any) -> None:
    opened = subscribe(ue)
    world.until(lambda: ue.requests("NOTIFY"))
    route = ("Route", ", ".join(reversed(opened.headers.elements("Record-Route"))))
    target = str(opened.contacts[0].uri)
    for expires, state in ((300, "active"), (0, "terminated")):
        count = len(ue.requests("NOTIFY"))
        fields = {"Event": "reg", "Expires": expires, "Call-ID": "sub"}
        again = ue.request("SUBSCRIBE", target, *fields.items(), route, to=str(opened.to))
        assert ue.ask(again).status == 200
        world.until(lambda count=count: len(ue.requests("NOTIFY")) > count)
        assert ue.requests("NOTIFY")[-1].subscription_state.state == state
    world.run(100)
    assert not world.s_cscf._notifier._subscriptions


def test_it_ends_with_its_time(world: Any, ue: Any) -> None:
    subscribe(ue, A, ("Expires", 60))
    world.run(61)
    states = [n.subscription_state.state for n in ue.requests("NOTIFY")]
    assert states == ["active", "terminated"]


def test_a_subscriber_that_does_not_answer_is_forgotten(world: Any, ue: Any) -> None:
    ue.answer = lambda request: None
    subscribe(ue)
    world.run(300)
    assert not world.s_cscf._notifier._subscriptions
