"""UEs through the simulated core: registration, reg-event, the call variants of TS 34.229-5 (7.4 to 7.12) [S7-IMS]."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.ims import events as ims
from imskit.ims.registration import State
from imskit.sip.wire.message import Request
from simulators.ims_core.engine.s_cscf import Deregister


def sdp(host: str, version: int = 1) -> bytes:
    return (
        f"v=0\r\no=- 1 {version} IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
        "m=audio 40000 RTP/AVP 96\r\na=rtpmap:96 AMR-WB/16000\r\n"
    ).encode()


A_SDP, B_SDP = sdp("10.45.0.2"), sdp("10.46.0.2")
NUMBER = "tel:+15550200"


def test_registration_with_reg_event(world: Any) -> None:
    a = world.phone("0100", "10.45.0.2")
    world.tell(a, ims.Start())
    world.until(lambda: a.ue.status.state is State.REGISTERED)
    world.run(1)
    assert world.ladder[:8] == [
        "A->P REGISTER", "P->S REGISTER", "S->P 401", "P->A 401",
        "A->P REGISTER", "P->S REGISTER", "S->P 200", "P->A 200",
    ]  # fmt: skip
    assert "S->P NOTIFY" in world.ladder
    assert "P->A NOTIFY" in world.ladder
    challenge = next(data for arrow, data in world.messages if arrow == "P->A 401")
    assert b"ik=" not in challenge
    assert b"ck=" not in challenge
    register = world.request("P->S REGISTER")
    assert register.headers.get("P-Visited-Network-ID")
    assert 'integrity-protected="no"' in (register.headers.get("Authorization") or "")
    assert "path" in register.require


def call(world: Any, a: Any, b: Any, *, caller_ready: bool, callee_ready: bool) -> None:
    world.tell(a, ims.Dial("c", NUMBER, A_SDP, reserved=caller_ready))
    world.until(lambda: b.of(ims.IncomingCall))
    incoming = b.of(ims.IncomingCall)[0]
    world.tell(b, ims.Prepare(incoming.call, B_SDP, reserved=callee_ready))
    world.run(1)
    if not caller_ready:
        assert a.of(ims.ReserveResources)
        assert not b.of(ims.Alert), "alerted before the caller has its resources"
        world.tell(a, ims.ResourcesReserved("c"))
        world.run(1)
    if not callee_ready:
        assert not b.of(ims.Alert), "alerted before the callee has its resources"
        assert b.of(ims.ReserveResources)
        world.tell(b, ims.ResourcesReserved(incoming.call))
    world.until(lambda: b.of(ims.Alert))
    assert len(b.of(ims.Alert)) == 1
    world.tell(b, ims.Ring(incoming.call))
    world.until(lambda: any(p.status == 180 for p in a.of(ims.Progress)))
    world.tell(b, ims.Accept(incoming.call))
    world.until(lambda: a.of(ims.Answered) and b.of(ims.Confirmed))
    assert b"10.46.0.2" in a.of(ims.MediaAgreed)[-1].sdp
    assert b"a=curr" not in a.of(ims.MediaAgreed)[-1].sdp
    world.tell(a, ims.Hangup("c"))
    world.until(lambda: b.of(ims.Ended) and a.of(ims.Ended))
    assert a.of(ims.Ended)[0].local
    assert not b.of(ims.Ended)[0].local


@pytest.mark.parametrize("caller_ready", [True, False])
@pytest.mark.parametrize("callee_ready", [True, False])
def test_7_4_and_7_6_call_with_preconditions(world: Any, caller_ready: bool, callee_ready: bool) -> None:
    a, b = world.registered()
    call(world, a, b, caller_ready=caller_ready, callee_ready=callee_ready)
    invite = world.request("A->P INVITE")
    assert invite.routes[0].uri.host == "10.45.0.1"
    assert invite.headers.get("P-Preferred-Service") == "urn:urn-7:3gpp-service.ims.icsi.mmtel"
    assert invite.headers.get("P-Access-Network-Info")
    assert "precondition" in invite.supported
    body = invite.body.decode()
    assert f"a=curr:qos local {'sendrecv' if caller_ready else 'none'}" in body
    assert "a=des:qos optional remote sendrecv" in body
    updates = [arrow for arrow in world.ladder if arrow == "A->P UPDATE+SDP"]
    assert len(updates) == (0 if caller_ready else 1)
    reached = world.request("P->B INVITE")
    assert reached.uri.startswith("sip:10.46.0.2:5060")
    assert reached.headers.get("P-Asserted-Identity") == "<sip:+15550100@ims.mnc001.mcc001.3gppnetwork.org>"
    assert "P-Preferred-Identity" not in reached.headers
    assert "P-Charging-Vector" not in reached.headers
    assert "P-Access-Network-Info" not in reached.headers


def test_golden_ladder_of_7_4(world: Any) -> None:
    a, b = world.registered()
    call(world, a, b, caller_ready=False, callee_ready=True)
    seen = [arrow for arrow in world.ladder if arrow.startswith(("A->P", "P->A"))]
    assert [step for i, step in enumerate(seen) if step not in seen[:i]] == [
        "A->P INVITE+SDP", "P->A 183+SDP", "A->P PRACK", "P->A 200", "A->P UPDATE+SDP", "P->A 200+SDP",
        "P->A 180", "A->P ACK", "A->P BYE",
    ]  # fmt: skip


def test_the_callee_is_busy(world: Any) -> None:
    a, b = world.registered()
    world.tell(a, ims.Dial("c", NUMBER, A_SDP))
    world.until(lambda: b.of(ims.IncomingCall))
    world.tell(b, ims.Reject(b.of(ims.IncomingCall)[0].call, 486))
    world.until(lambda: a.of(ims.Ended))
    assert a.of(ims.Ended)[0].status == 486


def test_the_caller_gives_up_while_it_rings(world: Any) -> None:
    a, b = world.registered()
    world.tell(a, ims.Dial("c", NUMBER, A_SDP))
    world.until(lambda: b.of(ims.IncomingCall))
    incoming = b.of(ims.IncomingCall)[0].call
    world.tell(b, ims.Prepare(incoming, B_SDP))
    world.until(lambda: b.of(ims.Alert))
    world.tell(b, ims.Ring(incoming))
    world.run(1)
    world.tell(a, ims.Hangup("c"))
    world.until(lambda: a.of(ims.Ended) and b.of(ims.Ended))
    assert "gave up" in b.of(ims.Ended)[0].reason


def test_a_number_that_nobody_has(world: Any) -> None:
    a, _ = world.registered()
    world.tell(a, ims.Dial("c", "tel:+15559999", A_SDP))
    world.until(lambda: a.of(ims.Ended))
    ended = a.of(ims.Ended)[0]
    assert ended.status == 404
    assert "no subscriber has this number" in ended.reason


def test_a_phone_that_is_off(world: Any) -> None:
    a, b = world.registered()
    world.tell(b, ims.Stop())
    world.until(lambda: b.ue.status.state is State.OFF)
    world.tell(a, ims.Dial("c", NUMBER, A_SDP))
    world.until(lambda: a.of(ims.Ended))
    assert a.of(ims.Ended)[0].status == 480


def test_the_network_ends_the_registration(world: Any) -> None:
    a, _ = world.registered()
    subscriber = world.hss.by_impi(a.ue._profile.impi)
    world.s_cscf.handle(Deregister(subscriber, "deactivated"), world.now)
    world.until(lambda: "A->P REGISTER" in world.ladder)
    world.until(lambda: a.ue.status.state is State.REGISTERED)
    assert world.s_cscf.registrar.registration(subscriber) is not None


def test_the_core_is_restarted(world: Any) -> None:
    a, b = world.registered()
    world.restart_core()
    world.tell(a, ims.Dial("c", NUMBER, A_SDP))
    world.until(lambda: a.of(ims.Ended))
    assert a.of(ims.Ended)[0].status == 403
    world.until(lambda: a.ue.status.state is State.REGISTERED, 90)
    world.ladder.clear()
    world.tell(b, ims.Dial("d", "tel:+15550100", B_SDP))
    world.until(lambda: b.of(ims.Ended))
    world.until(lambda: b.ue.status.state is State.REGISTERED, 90)


def test_hold_and_resume(world: Any) -> None:
    a, b = world.registered()
    world.tell(a, ims.Dial("c", NUMBER, A_SDP))
    world.until(lambda: b.of(ims.IncomingCall))
    incoming = b.of(ims.IncomingCall)[0].call
    world.tell(b, ims.Prepare(incoming, B_SDP))
    world.until(lambda: b.of(ims.Alert))
    world.tell(b, ims.Accept(incoming))
    world.until(lambda: a.of(ims.Answered) and b.of(ims.Confirmed))
    hold = A_SDP + b"a=sendonly\r\n"
    world.tell(a, ims.Modify("c", hold))
    world.until(lambda: b.of(ims.Offer))
    offer = b.of(ims.Offer)[0]
    assert b"a=sendonly" in offer.sdp
    assert b"o=- 1 2 " in offer.sdp
    world.tell(b, ims.AnswerOffer(incoming, offer.exchange, B_SDP + b"a=recvonly\r\n"))
    world.until(lambda: b"a=recvonly" in a.of(ims.MediaAgreed)[-1].sdp)


def test_a_stranger_is_refused(world: Any) -> None:
    world.registered()
    stranger = world.phone("0100", "10.45.0.66")
    stranger.ue._registration.status = world.phones["0200"].ue.status  # it believes that it is registered
    world.tell(stranger, ims.Dial("c", NUMBER, A_SDP))
    world.until(lambda: stranger.of(ims.Ended))
    assert stranger.of(ims.Ended)[0].status == 403
    assert isinstance(world.request("A->P INVITE"), Request)
