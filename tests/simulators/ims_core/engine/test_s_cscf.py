"""I-CSCF and S-CSCF: who may call whom, forking, loops (TS 24.229 clauses 5.3 and 5.4.3) [S7-IMS]."""

from __future__ import annotations

import re
from typing import Any

import pytest

from imskit.sip.wire.message import Request, Response, response_to

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"


def answering(ue: Any, status: int) -> None:
    def answer(request: Request) -> Response | None:
        if request.method in ("ACK", "CANCEL") and request.method == "ACK":
            return None
        response = response_to(request, status if request.method == "INVITE" else 200, to_tag=ue.call_id)
        response.headers.add("Contact", ue.contact)
        return response

    ue.answer = answer


@pytest.fixture
def caller(world: Any) -> Any:
    ue = world.raw("0100", "10.45.0.2")
    assert ue.register().status == 200
    return ue


def invite(ue: Any, uri: str = "tel:+15550200", *fields: tuple[str, object]) -> Response:
    found: Response = ue.ask(ue.request("INVITE", uri, ("Call-ID", ue.world.tokens(8)), *fields))
    return found


@pytest.mark.parametrize(
    ("uri", "status"),
    [
        ("tel:+15550200", 200),
        ("tel:+1-555-0200", 200),
        (f"sip:+15550200@{DOMAIN}", 200),
        (f"sip:+1-555-0200@{DOMAIN.upper()};user=phone", 200),
        (f"sip:%2B15550200@{DOMAIN}", 200),
        ("tel:+15559999", 404),
        (f"sip:+15559999@{DOMAIN}", 404),
        (f"sip:nobody@{DOMAIN}", 404),
        (f"sip:{DOMAIN}", 404),
        # Another domain's number is not ours, whatever its digits (TS 23.003 clause 13.4).
        ("sip:+15550200@elsewhere.example", 403),
        ("sip:+15550200@10.45.0.1", 403),
        ("tel:0200;phone-context=+1555", 404),
        ("tel:15550200;phone-context=example.com", 404),
        ("sip:10.46.0.2:5060", 403),
        (f"sip:+15550399@{DOMAIN}", 404),
        ("tel:+15550300", 480),
        ("mailto:a@b", 416),
    ],
)
def test_who_is_called(world: Any, caller: Any, uri: str, status: int) -> None:
    callee = world.raw("0200", "10.46.0.2")
    callee.register()
    answering(callee, 200)
    assert invite(caller, uri).status == status
    assert bool(callee.requests("INVITE")) == (status == 200)


def test_all_contacts_ring_and_the_first_to_answer_wins(world: Any, caller: Any) -> None:
    """RFC 3261 section 16.7: the other is cancelled."""
    one, two = world.raw("0200", "10.46.0.2"), world.raw("0200", "10.46.0.3")
    one.register()
    two.register()
    answering(one, 180)
    answering(two, 200)
    assert invite(caller).status == 200
    world.until(lambda: one.requests("CANCEL"))
    assert len(two.requests("INVITE")) == 1


def test_one_is_busy_the_other_answers(world: Any, caller: Any) -> None:
    one, two = world.raw("0200", "10.46.0.2"), world.raw("0200", "10.46.0.3")
    one.register()
    two.register()
    answering(one, 486)
    answering(two, 200)
    assert invite(caller).status == 200


@pytest.mark.parametrize(
    ("q", "fields", "rung"),
    [
        (("1.0", "0.5"), [], ["first", "second"]),
        (("0.5", "1.0"), [], ["second", "first"]),
        (("0.5", "1.0"), [("Request-Disposition", "no-fork")], ["second"]),
        (("1", "1"), [("Request-Disposition", "sequential")], ["first", "second"]),
        (("x", "nan"), [("Request-Disposition", "no-fork")], ["first"]),
    ],
)
def test_one_after_the_other_by_q(
    world: Any, caller: Any, q: tuple[str, str], fields: list[tuple[str, object]], rung: list[str]
) -> None:
    """RFC 3261 section 16.6, RFC 3841 section 9.1."""
    order: list[str] = []
    for name, host, value in (("first", "10.46.0.2", q[0]), ("second", "10.46.0.3", q[1])):
        ue = world.raw("0200", host)
        response = ue.register(("Contact", f"<sip:{host}:5060>;q={value}"))
        if response.status != 200:
            pytest.skip("the registrar refuses this q")
        answering(ue, 486)
        answer = ue.answer

        def noted(request: Request, name: str = name, answer: Any = answer) -> Any:
            if request.method == "INVITE" and name not in order:
                order.append(name)
            return answer(request)

        ue.answer = noted
    assert invite(caller, "tel:+15550200", *fields).status == 486
    assert order == rung


def test_the_sender_must_be_registered_at_the_registrar_too(world: Any, caller: Any) -> None:
    """The P-CSCF still knows a UE that the network has thrown out: its request is refused (clause 5.4.3.2)."""
    world.s_cscf.registrar.deregister(world.hss.by_impi(caller.impi), "deactivated")
    assert invite(caller).status == 403


def test_a_barred_identity_may_not_call(world: Any) -> None:
    ue = world.raw("0300", "10.45.0.9")
    ue.impu = f"sip:+15550399@{DOMAIN}"
    assert ue.register().status == 200
    callee = world.raw("0200", "10.46.0.2")
    callee.register()
    answering(callee, 200)
    assert invite(ue, "tel:+15550200", ("P-Preferred-Identity", f"<{ue.impu}>")).status == 200
    assert callee.requests("INVITE")[0].headers.get("P-Asserted-Identity") == f"<sip:+15550300@{DOMAIN}>"


def test_max_forwards_ends_a_way_that_is_too_long(world: Any, caller: Any) -> None:
    world.raw("0200", "10.46.0.2").register()
    assert invite(caller, "tel:+15550200", ("Max-Forwards", 1)).status == 483


def test_a_contact_that_points_back_into_the_core_does_not_loop(world: Any, caller: Any) -> None:
    """Whatever a contact says, requests for it go to where it registered from."""
    evil = world.raw("0200", "10.46.0.2")
    assert evil.register(("Contact", "<sip:orig@127.0.0.1:5070;lr>")).status == 200
    answering(evil, 200)
    assert invite(caller).status == 200
    assert len([arrow for arrow, _ in world.messages if arrow == "S->P INVITE"]) == 1


def test_requests_within_dialogs_lead_to_proxies_only(world: Any, caller: Any) -> None:
    """A request with a To tag that names no way through a P-CSCF ends here."""
    outside = world.raw("0300", "198.51.100.7")
    for fields in ([], [("Route", "<sip:127.0.0.1:5070;lr>, <sip:198.51.100.7;lr>")]):
        bye = caller.request("BYE", "sip:198.51.100.7", *fields, to="<sip:x@y>;tag=1")
        world.inject(("127.0.0.1", 5060), ("127.0.0.1", 5070), bye.encode())
    world.run(1)
    assert [arrow for arrow, _ in world.messages if arrow.startswith("S->P 481")]
    assert not outside.received


def flow(world: Any, host: str, instance: str, reg_id: int) -> Any:
    """A flow of an instance of the called user's, registered (RFC 5626), as if the P-CSCF kept flows."""
    world.edit = lambda data: re.sub(rb"(Path: <[^>]*)>", rb"\1;ob>", data) if data.startswith(b"REG") else data
    ue = world.raw("0200", host)
    contact = f'<sip:{host}:5060>;+sip.instance="<urn:uuid:{instance}>";reg-id={reg_id}'
    assert ue.register(("Contact", contact), ("Supported", "path, outbound")).status == 200
    return ue


def contacts(world: Any) -> list[str]:
    known = world.s_cscf.registrar.registration(world.hss.by_impi(f"001010000000000200@{DOMAIN}"))
    return [binding.uri for binding in known.bindings] if known else []


def test_an_instance_is_reached_over_one_flow_at_a_time(world: Any, caller: Any) -> None:
    """RFC 5626 section 7: the newest flow; the others are left alone as the instance has answered."""
    old, other, new = (
        flow(world, "10.46.0.2", "a", 1),
        flow(world, "10.46.0.3", "b", 1),
        flow(world, "10.46.0.4", "a", 2),
    )
    for ue in (old, other, new):
        answering(ue, 486)
    assert invite(caller).status == 486
    assert (old.requests("INVITE"), len(other.requests("INVITE")), len(new.requests("INVITE"))) == ([], 1, 1)


def test_a_dead_flow_gives_way_to_another_of_its_instance_and_is_forgotten(world: Any, caller: Any) -> None:
    """RFC 5626 sections 7 and 9.3: 430, the binding is removed and the next flow is tried."""
    alive, dead = flow(world, "10.46.0.2", "a", 1), flow(world, "10.46.0.3", "a", 2)
    answering(alive, 200)
    answering(dead, 430)
    assert invite(caller).status == 200
    assert contacts(world) == ["sip:10.46.0.2:5060"]
    assert invite(caller).status == 200
    assert len(dead.requests("INVITE")) == 1


def test_a_silent_flow_gives_way_but_is_kept(world: Any, caller: Any) -> None:
    """RFC 5626 section 7: 408 allows another flow; it says nothing about the flow itself."""
    alive, silent = flow(world, "10.46.0.2", "a", 1), flow(world, "10.46.0.3", "a", 2)
    answering(alive, 200)
    answering(silent, 408)
    assert invite(caller).status == 200
    assert contacts(world) == ["sip:10.46.0.2:5060", "sip:10.46.0.3:5060"]


def test_a_dead_flow_does_not_hide_what_another_phone_says(world: Any, caller: Any) -> None:
    dead, busy = flow(world, "10.46.0.2", "a", 1), flow(world, "10.46.0.3", "b", 1)
    answering(dead, 430)
    answering(busy, 486)
    assert invite(caller).status == 486


def test_no_caller_hears_430(world: Any, caller: Any) -> None:
    """RFC 5626 section 11.5; what watches the registration hears that it is to register again (RFC 3680 5.3)."""
    dead = flow(world, "10.46.0.2", "a", 1)
    answering(dead, 430)
    subscribe = dead.request("SUBSCRIBE", f"sip:+15550200@{DOMAIN}", ("Event", "reg"), ("Expires", 600))
    assert dead.ask(subscribe).status == 200
    answer = invite(caller)
    assert (answer.status, answer.reason) == (480, "Temporarily Unavailable")
    assert not contacts(world)
    world.until(lambda: len(dead.requests("NOTIFY")) > 1)
    assert b'event="deactivated"' in dead.requests("NOTIFY")[-1].body


def test_a_flow_registered_again_meanwhile_is_kept(world: Any, caller: Any) -> None:
    ue = flow(world, "10.46.0.2", "a", 1)
    ue.answer = lambda request: None
    request = caller.request("INVITE", "tel:+15550200", ("Call-ID", "meanwhile"))
    caller.send(request)
    world.until(lambda: ue.requests("INVITE"))
    contact = '<sip:10.46.0.2:5060>;+sip.instance="<urn:uuid:a>";reg-id=1'
    assert ue.register(("Contact", contact), ("Supported", "path, outbound")).status == 200
    ue.send(response_to(ue.requests("INVITE")[0], 430, to_tag="t"))
    world.until(lambda: [r for r in caller.responses(request) if r.status == 480])
    assert contacts(world) == ["sip:10.46.0.2:5060"]
