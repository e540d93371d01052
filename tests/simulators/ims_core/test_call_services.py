"""Transfer between three UEs through the core: blind, attended, refused, gone wrong [S7-IMS] (TS 24.629, RFC 3515)."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.ims import events as ims
from imskit.ims.registration import State
from imskit.sip.wire.message import Request, parse_message

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"


def sdp(host: str) -> bytes:
    return (
        f"v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
        "m=audio 40000 RTP/AVP 96\r\na=rtpmap:96 AMR-WB/16000\r\n"
    ).encode()


def three(world: Any) -> tuple[Any, Any, Any]:
    """Three registered UEs."""
    a, b = world.registered()
    c = world.phone("0300", "10.47.0.2")
    world.tell(c, ims.Start())
    world.until(lambda: c.ue.status.state is State.REGISTERED)
    world.run(1)
    world.ladder.clear()
    world.messages.clear()
    return a, b, c


def own(phone: Any) -> bytes:
    return sdp(phone.address[0])


def answer(world: Any, phone: Any, number: int = 0) -> str:
    """Let a phone answer its incoming call."""
    world.until(lambda: len(phone.of(ims.IncomingCall)) > number)
    call: str = phone.of(ims.IncomingCall)[number].call
    world.tell(phone, ims.Prepare(call, own(phone)))
    world.until(lambda: any(alert.call == call for alert in phone.of(ims.Alert)))
    world.tell(phone, ims.Accept(call))
    world.until(lambda: any(confirmed.call == call for confirmed in phone.of(ims.Confirmed)))
    return call


def talk(world: Any, caller: Any, callee: Any, name: str) -> str:
    """A call that stands; returns the callee's name for it."""
    count = len(callee.of(ims.IncomingCall))
    world.tell(caller, ims.Dial(name, f"tel:+1555{callee.name}", own(caller)))
    return answer(world, callee, count)


def requests(world: Any, method: str, arrow: str = "") -> list[Request]:
    found = [parse_message(data) for name, data in world.messages if name.startswith(f"{arrow}") and method in name]
    return [message for message in found if isinstance(message, Request) and message.method == method]


def progress(phone: Any) -> list[tuple[int | None, bool]]:
    return [(told.status, told.final) for told in phone.of(ims.ReferralProgress)]


def ended(phone: Any, call: str) -> Any:
    return next((output for output in phone.of(ims.Ended) if output.call == call), None)


def test_blind_transfer(world: Any) -> None:
    """A talks to B and sends it to C: B calls C, A is told how it goes, and its call ends."""
    a, b, c = three(world)
    at_b = talk(world, a, b, "ab")
    world.tell(a, ims.Transfer("ab", "tel:+15550300"))
    world.until(lambda: b.of(ims.ReferralReceived))
    referral = b.of(ims.ReferralReceived)[0]
    assert (referral.call, referral.target, referral.replaces) == (at_b, "tel:+15550300", "")
    assert referral.referred_by == f"sip:+15550100@{DOMAIN}"
    world.tell(b, ims.Dial("bc", referral.target, own(b), referral=referral.referral))
    at_c = answer(world, c)
    world.until(lambda: ended(a, "ab"))
    assert progress(a) == [(100, False), (183, False), (200, True)]
    assert ended(a, "ab").local
    world.until(lambda: ended(b, at_b))
    assert b.ue.calls == ("bc",)
    assert c.ue.calls == (at_c,)
    (invite,) = requests(world, "INVITE", "B->P")
    assert invite.headers.get("Referred-By") == f"<sip:+15550100@{DOMAIN}>"
    (refer,) = requests(world, "REFER", "A->P")
    assert refer.headers.get("Refer-To") == "<tel:+15550300>"
    reports = requests(world, "NOTIFY", "B->P")
    assert [report.body.split()[1] for report in reports] == [b"100", b"183", b"200"]
    assert str(reports[-1].subscription_state) == "terminated;reason=noresource"
    assert {str(report.event) for report in reports} == {f"refer;id={refer.cseq.number}"}


def test_blind_transfer_while_it_rings(world: Any) -> None:
    """Provisional responses are told too."""
    a, b, c = three(world)
    talk(world, a, b, "ab")
    world.tell(a, ims.Transfer("ab", "tel:+15550300"))
    world.until(lambda: b.of(ims.ReferralReceived))
    world.tell(b, ims.Dial("bc", "tel:+15550300", own(b), referral=b.of(ims.ReferralReceived)[0].referral))
    world.until(lambda: c.of(ims.IncomingCall))
    call = c.of(ims.IncomingCall)[0].call
    world.tell(c, ims.Prepare(call, own(c)))
    world.until(lambda: c.of(ims.Alert))
    world.tell(c, ims.Ring(call))
    world.until(lambda: (180, False) in progress(a))
    world.tell(c, ims.Reject(call, 486))
    world.until(lambda: (486, True) in progress(a))
    world.run(1)
    assert a.ue.calls == ("ab",), "the call that could not be transferred is still there"


@pytest.mark.parametrize("callee_called", [True, False])
def test_attended_transfer(world: Any, callee_called: bool) -> None:
    """A talks to B and to C, and joins the two: the new call takes the place of that between A and C."""
    a, b, c = three(world)
    at_b = talk(world, a, b, "ab")
    if callee_called:
        at_c, consult = talk(world, a, c, "ac"), "ac"
    else:
        consult, at_c = talk(world, c, a, "ca"), "ca"
    world.tell(a, ims.Transfer("ab", "", consult=consult))
    world.until(lambda: b.of(ims.ReferralReceived))
    referral = b.of(ims.ReferralReceived)[0]
    assert referral.target.startswith(f"sip:+15550300@{DOMAIN}")
    assert referral.replaces
    count = len(c.of(ims.IncomingCall))
    world.tell(b, ims.Dial("bc", referral.target, own(b), referral=referral.referral))
    world.until(lambda: len(c.of(ims.IncomingCall)) > count)
    incoming = c.of(ims.IncomingCall)[-1]
    assert incoming.replaces == at_c, "it says which call it takes over"
    answer(world, c, count)
    world.until(lambda: ended(c, at_c) and ended(a, consult) and ended(a, "ab") and ended(b, at_b))
    assert a.ue.calls == ()
    assert b.ue.calls == ("bc",)
    assert c.ue.calls == (incoming.call,)
    invite = requests(world, "INVITE", "B->P")[-1]
    assert "replaces" in invite.require


def test_the_transferee_does_not_want_to(world: Any) -> None:
    a, b, _ = three(world)
    at_b = talk(world, a, b, "ab")
    world.tell(a, ims.Transfer("ab", "tel:+15550300"))
    world.until(lambda: b.of(ims.ReferralReceived))
    world.tell(b, ims.RejectReferral(b.of(ims.ReferralReceived)[0].referral))
    world.until(lambda: (603, True) in progress(a))
    assert a.ue.calls == ("ab",)
    assert b.ue.calls == (at_b,)


def test_the_target_does_not_exist(world: Any) -> None:
    a, b, _ = three(world)
    talk(world, a, b, "ab")
    world.tell(a, ims.Transfer("ab", "tel:+15559999"))
    world.until(lambda: b.of(ims.ReferralReceived))
    world.tell(b, ims.Dial("bc", "tel:+15559999", own(b), referral=b.of(ims.ReferralReceived)[0].referral))
    world.until(lambda: (404, True) in progress(a))
    assert a.ue.calls == ("ab",)


def test_the_transferor_hangs_up_before_it_hears(world: Any) -> None:
    """The reports have nowhere to go then; the new call stands."""
    a, b, c = three(world)
    at_b = talk(world, a, b, "ab")
    world.tell(a, ims.Transfer("ab", "tel:+15550300"))
    world.until(lambda: b.of(ims.ReferralReceived))
    world.tell(a, ims.Hangup("ab"))
    world.until(lambda: ended(b, at_b))
    assert progress(a)[-1] == (None, True)
    world.tell(b, ims.Dial("bc", "tel:+15550300", own(b), referral=b.of(ims.ReferralReceived)[0].referral))
    answer(world, c)
    assert b.ue.calls == ("bc",)


def test_nobody_hears_of_a_transfer(world: Any) -> None:
    """The transferee says nothing more: the transferor gives up waiting, and keeps its call."""
    a, b, _ = three(world)
    talk(world, a, b, "ab")
    world.tell(a, ims.Transfer("ab", "tel:+15550300"))
    world.until(lambda: b.of(ims.ReferralReceived))
    world.run(310)
    assert progress(a)[-1] == (None, True)
    assert a.ue.calls == ("ab",)


def test_a_transfer_with_a_call_that_is_not_there(world: Any) -> None:
    a, b, _ = three(world)
    talk(world, a, b, "ab")
    world.tell(a, ims.Transfer("ab", "", consult="gone"))
    assert progress(a) == [(None, True)]
    world.tell(a, ims.Transfer("gone", "tel:+15550300"))
    assert progress(a)[-1] == (None, True)
    assert not requests(world, "REFER")


def test_a_call_that_is_taken_over_while_it_rings(world: Any) -> None:
    """RFC 3891 section 3: an early dialog is replaced only at whoever makes that call; others get 481."""
    a, b, c = three(world)
    world.tell(a, ims.Dial("ab", "tel:+15550200", own(a)))
    world.until(lambda: b.of(ims.IncomingCall))
    ringing = b.of(ims.IncomingCall)[0].call
    world.tell(b, ims.Prepare(ringing, own(b)))
    world.until(lambda: b.of(ims.Alert))
    world.tell(b, ims.Ring(ringing))
    world.until(lambda: any(told.status == 180 for told in a.of(ims.Progress)))
    dialog = next(iter(a.ue._calls._calls["ab"].dialogs))
    for number, (target, local, remote) in enumerate(
        (("0200", dialog.remote_tag, dialog.local_tag), ("0100", dialog.local_tag, dialog.remote_tag))
    ):
        header = ("Replaces", f"{dialog.call_id};to-tag={local};from-tag={remote}")
        world.tell(c, ims.Dial(f"c{number}", f"tel:+1555{target}", own(c), headers=(header, ("Require", "replaces"))))
        world.run(2)
    assert ended(c, "c0").status == 481
    assert a.of(ims.IncomingCall)[0].replaces == "ab"
    answer(world, a)
    world.until(lambda: ended(b, ringing))
    assert "gave up" in ended(b, ringing).reason
