"""Who may use the SIF, and what a page hears of the device's service [S7-SIF]."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.ims import events as ims
from imskit.ims.registration import State
from imskit.secrets import Identity
from imskit.sip.engine import user_agent as page
from imskit.sip.wire.message import Request
from ue_agent.sif.engine.events import DropPage
from ue_agent.sif.engine.pages import GRACE_SECONDS, HOLD_SECONDS, MAXIMUM_PAGES

ME = "sip:+15550100@ims.mnc001.mcc001.3gppnetwork.org"


def status(desk: Any, request: str) -> int:
    return next(
        each.command.status
        for each in reversed(desk.outputs)
        if isinstance(getattr(each, "command", None), page.Respond) and each.command.request == request
    )


def test_a_page_registers_with_an_identity_of_the_card(desk: Any) -> None:
    desk.service()
    desk.register(1)
    answer = desk.last(page.Respond)
    assert answer.status == 200
    assert dict(answer.headers)["Contact"].endswith(";expires=600")
    assert desk.gateway.pages == 1


@pytest.mark.parametrize(
    ("to", "from_"),
    [
        ("sip:+15550200@ims.mnc001.mcc001.3gppnetwork.org", None),
        ("sip:+15550100@evil.example", None),
        (ME, "sip:+15550200@ims.mnc001.mcc001.3gppnetwork.org"),
    ],
)
def test_a_foreign_identity_is_refused(desk: Any, to: str, from_: str | None) -> None:
    desk.service()
    desk.register(1, to=to, from_=from_)
    assert desk.last(page.Respond).status == 403
    assert "not the one of the SIM card" in dict(desk.last(page.Respond).headers)["Warning"]
    assert desk.gateway.pages == 0


def test_a_foreign_identity_is_refused_before_there_is_service(desk: Any) -> None:
    desk.service(State.REGISTERING)
    desk.register(1, to="sip:+15550200@ims.mnc001.mcc001.3gppnetwork.org")
    assert desk.last(page.Respond).status == 403


def test_another_way_to_write_the_identity(desk: Any) -> None:
    desk.service()
    desk.register(1, to="tel:+1-555-0100")
    assert desk.last(page.Respond).status == 200


def test_a_page_takes_its_registration_back(desk: Any) -> None:
    desk.ready()
    desk.register(1, expires=0)
    assert desk.last(page.Respond).status == 200
    assert desk.gateway.pages == 0
    assert desk.gateway.deadline() is None


def test_a_query_changes_nothing(desk: Any) -> None:
    desk.ready()
    request = Request.create(
        "REGISTER",
        "sip:x",
        [("From", f"<{ME}>;tag=a"), ("To", f"<{ME}>"), ("Call-ID", "x"), ("CSeq", "1 REGISTER")],
    )
    desk.page(page.RequestReceived("r-9", request, desk_flow(1)))
    assert desk.last(page.Respond).status == 200
    assert desk.gateway.pages == 1


def test_a_register_that_cannot_be_read(desk: Any) -> None:
    desk.service()
    request = Request.create("REGISTER", "sip:x", [("From", "<sip:a>;tag=1"), ("To", "<sip:b>"), ("Contact", "<x")])
    desk.page(page.RequestReceived("r-9", request, desk_flow(1)))
    assert desk.last(page.Respond).status == 400


def test_a_registration_runs_out(desk: Any) -> None:
    desk.service()
    desk.register(1, expires=60)
    desk.wait(61)
    assert desk.gateway.pages == 0


def test_a_page_waits_for_the_devices_registration(desk: Any) -> None:
    desk.service(State.REGISTERING, ())
    request = desk.register(1)
    desk.wait(2)
    assert not desk.said(page.Respond)
    desk.service()
    assert status(desk, request) == 200
    assert desk.gateway.pages == 1


def test_a_foreign_page_that_waited_is_refused(desk: Any) -> None:
    desk.service(State.REGISTERING, ())
    request = desk.register(1, to="sip:+15550200@ims.mnc001.mcc001.3gppnetwork.org")
    desk.service()
    assert status(desk, request) == 403


def test_a_page_does_not_wait_for_ever_and_is_brought_back(desk: Any) -> None:
    desk.service(State.REGISTERING)
    request = desk.register(1)
    desk.wait(HOLD_SECONDS + 1)
    assert status(desk, request) == 503
    fields = dict(desk.last(page.Respond).headers)
    assert "there is no IMS service: it is registering" in fields["Warning"]
    assert fields["Retry-After"]
    assert not desk.said(DropPage)
    desk.service()
    assert desk.last(DropPage).flow == desk_flow(1), "it comes back, and registers"


def test_a_page_makes_the_device_try_at_once(desk: Any) -> None:
    desk.service(State.WAITING)
    desk.register(1)
    assert desk.last(ims.Start) == ims.Start()
    desk.register(1)
    assert desk.said(ims.Start) == 1, "but not at every REGISTER"
    desk.wait(20)
    desk.register(1)
    assert desk.said(ims.Start) == 2


def test_a_second_register_of_a_waiting_page_replaces_the_first(desk: Any) -> None:
    desk.service(State.REGISTERING)
    first, second = desk.register(1), desk.register(1)
    assert status(desk, first) == 503
    desk.service()
    assert status(desk, second) == 200


def test_a_waiting_page_that_goes_is_forgotten(desk: Any) -> None:
    desk.service(State.REGISTERING)
    desk.register(1)
    desk.gone()
    desk.service()
    assert not desk.said(page.Respond)
    assert desk.gateway.deadline() is None


def test_a_short_loss_of_service_is_not_told(desk: Any) -> None:
    desk.ready()
    desk.service(State.REGISTERING)
    desk.wait(GRACE_SECONDS - 1)
    desk.service()
    desk.wait(60)
    assert not desk.said(DropPage)


def test_a_page_that_loses_service_is_told_by_its_next_register(desk: Any) -> None:
    desk.ready()
    desk.service(State.WAITING)
    desk.wait(GRACE_SECONDS + 1)
    assert desk.last(DropPage).flow == desk_flow(1)
    assert desk.gateway.pages == 0


def test_another_card(desk: Any) -> None:
    desk.ready()
    desk.service(identities=(Identity("sip:+15550999@ims.example"),))
    assert desk.last(DropPage).flow == desk_flow(1)
    assert desk.gateway.pages == 0


def test_many_pages(desk: Any) -> None:
    desk.service()
    for number in range(MAXIMUM_PAGES + 5):
        desk.register(number, f"i{number}")
    assert desk.gateway.pages == MAXIMUM_PAGES
    desk.service(State.REGISTERING)
    desk.take()
    for number in range(100, 100 + MAXIMUM_PAGES + 5):
        desk.register(number, f"i{number}")
    assert desk.said(page.Respond) == 5


def desk_flow(number: int) -> Any:
    from imskit.sip.wire.flow import Flow

    return Flow("WS", ("127.0.0.1", 7000), ("127.0.0.1", 9000 + number), number)
