"""Hold, glare, session timer, forks, call waiting, refusals with a meaning, identities withheld [S7-IMS].

TS 34.229-1 cases 12.2, 12.2a, 15.2, 15.11, 15.12, TS 34.229-5 7.1, 7.2, TS 24.615, TS 24.607.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from imskit.ims import events as ims
from imskit.sip.engine import user_agent as ua
from imskit.sip.engine.session_timer import SessionTimerPolicy
from imskit.sip.memory_network import answer_to
from imskit.sip.wire.message import Message, Request

type Sdp = Callable[..., bytes]
type Table = Callable[[str, str], tuple[str, ...]]

RESTORATION = (
    b'<?xml version="1.0"?><ims-3gpp version="1"><alternative-service><type>restoration</type><reason/>'
    b"<action>initial-registration</action></alternative-service></ims-3gpp>"
)
EMERGENCY = (
    b'<?xml version="1.0"?><ims-3gpp version="1"><alternative-service><type>emergency</type>'
    b"<reason>urn:service:sos</reason></alternative-service></ims-3gpp>"
)


def sent(bench: Any, who: str, kind: str) -> list[Any]:
    """What one side has sent, in order; ``kind`` is a method, or status and method."""

    def name(message: Message) -> str:
        return message.method if isinstance(message, Request) else f"{message.status} {message.cseq.method}"

    return [message for _, sender, message in bench.net.sent if sender == who and name(message) == kind]


def times(bench: Any, who: str, method: str) -> list[float]:
    return [at for at, sender, m in bench.net.sent if sender == who and isinstance(m, Request) and m.method == method]


def mo(bench: Any, sdp: Sdp, *further: str) -> str:
    """A call of the UE's that stands; returns the network's name for it."""
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    call: str = bench.heard(ua.IncomingCall).call
    bench.send(ua.Provisional(call, 183, sdp=sdp("10.46.0.2", *further)))
    bench.send(ua.Answer(call))
    assert bench.said(ims.Answered)
    bench.ue.outputs.clear()
    return call


def mt(bench: Any, sdp: Sdp, name: str = "n") -> str:
    """A call of the network's that stands; returns the UE's name for it."""
    call: str = bench.invite(sdp("10.46.0.2"), call=name)
    bench.tell(ims.Prepare(call, sdp()), ims.Accept(call))
    assert bench.said(ims.Confirmed)
    bench.ue.outputs.clear()
    return call


# ---- hold and resume -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_15_11_mo_hold_and_resume(bench: Any, sdp: Sdp, method: str) -> None:
    """The peer has preconditions: a hold does not open them again (TS 24.610 annex A.1.3)."""
    met = (
        "a=curr:qos local sendrecv", "a=curr:qos remote sendrecv",
        "a=des:qos mandatory local sendrecv", "a=des:qos mandatory remote sendrecv",
    )  # fmt: skip
    mo(bench, sdp, *met)
    before = len(sent(bench, "ue", method))
    for step, (ours, theirs) in enumerate((("sendonly", "recvonly"), ("sendrecv", "sendrecv"))):
        bench.tell(ims.Modify("c", sdp("10.45.0.2", f"a={ours}"), method))
        request = sent(bench, "ue", method)[before + step]
        body = request.body.decode().split("\r\n")
        assert f"a={ours}" in body
        assert f"o=- 1 {step + 2} IN IP4 10.45.0.2" in body
        assert "a=curr:qos local sendrecv" in body
        assert "a=curr:qos remote sendrecv" in body
        bench.send(ua.AnswerOffer(bench.heard(ua.OfferReceived).exchange, sdp("10.46.0.2", f"a={theirs}", *met)))
        assert f"a={theirs}".encode() in bench.one(ims.MediaAgreed).sdp


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_15_12_mt_hold_and_resume(bench: Any, sdp: Sdp, method: str) -> None:
    call = mt(bench, sdp)
    for theirs, ours in (("sendonly", "recvonly"), ("sendrecv", "sendrecv")):
        bench.send(ua.Modify("n", sdp("10.46.0.2", f"a={theirs}"), method))
        offer = bench.one(ims.Offer)
        assert f"a={theirs}".encode() in offer.sdp
        bench.tell(ims.AnswerOffer(call, offer.exchange, sdp("10.45.0.2", f"a={ours}")))
        assert f"a={ours}".encode() in bench.heard(ua.AnswerReceived).sdp


# ---- both at once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outgoing", [True, False])
def test_both_hold_at_the_same_moment(bench: Any, sdp: Sdp, outgoing: bool) -> None:
    """491 to both; whoever owns the Call-ID waits 2.1..4 s, the other 0..2 s (RFC 3261 section 14.1)."""
    peer = mo(bench, sdp) if outgoing else "n"
    call = "c" if outgoing else mt(bench, sdp)
    invites = len(times(bench, "ue", "INVITE"))
    others = len(times(bench, "network", "INVITE"))
    start = bench.net.now
    bench.ue.feed(ims.Modify(call, sdp("10.45.0.2", "a=sendonly")))
    bench.network.feed(ua.Modify(peer, sdp("10.46.0.2", "a=sendonly"), "INVITE"))

    def answer(output: Any) -> Any:
        if isinstance(output, ua.OfferReceived):
            return (ua.AnswerOffer(output.exchange, sdp("10.46.0.2", "a=inactive")),)
        return ()

    bench.network.react = answer

    def answer_ue(output: Any) -> Any:
        if isinstance(output, ims.Offer):
            return (ims.AnswerOffer(output.call, output.exchange, sdp("10.45.0.2", "a=inactive")),)
        return ()

    bench.ue.react = answer_ue
    bench.net.run(10)
    assert sent(bench, "ue", "491 INVITE")
    assert sent(bench, "network", "491 INVITE")
    ours = [at - start for at in times(bench, "ue", "INVITE")[invites + 1 :]]
    theirs = [at - start for at in times(bench, "network", "INVITE")[others + 1 :]]
    owner, other = (ours, theirs) if outgoing else (theirs, ours)
    # Once the quicker one's exchange is complete, the other's offer is out of date and given up.
    assert len(other) == 1
    assert 0.0 <= other[0] <= 2.1
    assert owner == []
    assert bench.engine.calls == (call,)
    changed = bench.one(ims.MediaAgreed) if not outgoing else bench.one(ims.Offer)
    assert changed.call == call


def test_a_slower_change_that_glare_has_not_made_out_of_date(bench: Any, sdp: Sdp) -> None:
    """491 while the peer's own change fails: ours is sent again after 2.1 to 4 s."""
    mo(bench, sdp)
    start, before = bench.net.now, len(times(bench, "ue", "INVITE"))
    bench.ue.feed(ims.Modify("c", sdp("10.45.0.2", "a=sendonly")))
    bench.net.run(0.05)
    bench.send(ua.RejectOffer(bench.heard(ua.OfferReceived).exchange, 491))
    bench.net.run(5)
    (again,) = [at - start for at in times(bench, "ue", "INVITE")[before + 1 :]]
    assert 2.1 <= again <= 4.2


# ---- session timer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refresher", ["uac", "uas"])
def test_session_timer_of_a_call_that_the_ue_makes(make_bench: Any, sdp: Sdp, refresher: str) -> None:
    """RFC 4028 sections 7 to 10: whoever is told refreshes at half, the other hangs up in time."""
    bench = make_bench(script=True)
    bench.scripted()
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    invite = bench.script.request("INVITE")
    assert "timer" in invite.supported
    assert (invite.session_expires.seconds, invite.session_expires.refresher) == (1800, None)
    fields = {"Session_Expires": f"90;refresher={refresher}", "Require": "timer", "Allow": "INVITE, ACK, BYE, UPDATE"}
    bench.answer(200, "a", sdp("10.46.0.2"), **fields)
    start = bench.net.now
    bench.net.run(46)
    if refresher == "uac":
        update = bench.script.request("UPDATE")
        assert str(update.session_expires) == "90;refresher=uac"
        assert bench.net.now - start >= 45
        bench.send(answer_to(update, 200, "a", Session_Expires="90;refresher=uac", Require="timer"))
        bench.net.run(40)
        assert bench.engine.calls == ("c",)
    else:
        assert not sent(bench, "ue", "UPDATE")
        bench.net.run(15)
        assert sent(bench, "ue", "BYE"), "nobody has refreshed: a third before the end"
        assert bench.one(ims.Ended).cause is ims.Cause.EXPIRED


@pytest.mark.parametrize("refresher", ["uac", "uas"])
def test_session_timer_of_a_call_that_the_ue_gets(bench: Any, sdp: Sdp, refresher: str) -> None:
    policy = SessionTimerPolicy(90, 90, refresher)
    bench.send(ua.Configure(replace(bench.network.engine._core.profile, session_timer=policy)))
    call = bench.invite(sdp("10.46.0.2"))
    bench.tell(ims.Prepare(call, sdp()), ims.Accept(call))
    (ok,) = sent(bench, "ue", "200 INVITE")
    assert str(ok.session_expires) == f"90;refresher={refresher}"
    assert ("timer" in ok.require) is True
    before = bench.net.now
    bench.net.run(46)
    who = "network" if refresher == "uac" else "ue"
    assert [at - before for at in times(bench, who, "UPDATE")] == [pytest.approx(45, abs=0.3)]
    bench.net.run(300)
    assert bench.engine.calls == (call,), "it is refreshed again and again"


def test_a_session_timer_that_is_too_small_is_refused(bench: Any, sdp: Sdp) -> None:
    """RFC 4028 section 9: 422 with Min-SE."""
    bench.send(ua.Configure(replace(bench.network.engine._core.profile, session_timer=None)))
    bench.invite(sdp(), headers=(("Session-Expires", "30"), ("Supported", "timer")))
    (refusal,) = sent(bench, "ue", "422 INVITE")
    assert refusal.headers.get("Min-SE") == "90"


def test_a_peer_that_wants_a_longer_session(make_bench: Any, sdp: Sdp) -> None:
    """RFC 4028 section 7.3: the INVITE is sent again with what the 422 asks for."""
    bench = make_bench(script=True)
    bench.scripted()
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    first = bench.script.request("INVITE")
    bench.answer(422, "a", Min_SE="3600")
    second = bench.script.request("INVITE")
    assert second.call_id == first.call_id
    assert second.cseq.number == first.cseq.number + 1
    assert (str(second.session_expires), str(second.min_se)) == ("3600", "3600")


# ---- forks ---------------------------------------------------------------------------------------------------------


def test_three_early_dialogs_each_with_its_own_preconditions(make_bench: Any, sdp: Sdp) -> None:
    """Every branch is told of our resources; one ends with 199, one answers, the third is forgotten (RFC 6228)."""
    bench = make_bench(script=True)
    bench.scripted()
    bench.tell(ims.Dial("c", "tel:+15550200", sdp(), reserved=False))
    wants = (
        "a=curr:qos local none", "a=curr:qos remote none", "a=des:qos mandatory local sendrecv",
        "a=des:qos mandatory remote sendrecv", "a=conf:qos remote sendrecv",
    )  # fmt: skip
    for number, tag in enumerate("xyz"):
        host = f"10.46.0.{number + 2}"
        bench.answer(183, tag, sdp(host, *wants), Require="100rel, precondition", RSeq=1)
        bench.send(answer_to(bench.script.request("PRACK"), 200))
    bench.tell(ims.ResourcesReserved("c"))
    for _ in range(3):
        update = bench.script.request("UPDATE")
        bench.send(answer_to(update, 200, "", sdp("10.46.0.9", *(line.replace("none", "sendrecv") for line in wants))))
    told = {message.to.tag for message in sent(bench, "ue", "UPDATE")}
    assert told == {"x", "y", "z"}
    bench.answer(199, "z")
    bench.answer(180, "y")
    bench.answer(200, "y")
    assert bench.one(ims.Answered).call == "c"
    assert bench.script.request("ACK").to.tag == "y"
    bench.answer(200, "x")
    assert bench.script.request("BYE").to.tag == "x", "who answers too late is hung up"
    assert bench.engine.calls == ("c",)


# ---- call waiting --------------------------------------------------------------------------------------------------


def test_call_waiting_and_swap(bench: Any, sdp: Sdp) -> None:
    """TS 24.615: the second caller hears that it waits; then the calls change places."""
    first = mt(bench, sdp, "n1")
    second = bench.invite(sdp("10.46.0.3"), call="n2")
    bench.tell(ims.Prepare(second, sdp()), ims.Ring(second))
    ringing = sent(bench, "ue", "180 INVITE")[-1]
    assert ringing.headers.get("Alert-Info") == "<urn:alert:service:call-waiting>"
    bench.tell(ims.Modify(first, sdp("10.45.0.2", "a=sendonly")))
    bench.send(ua.AnswerOffer(bench.heard(ua.OfferReceived).exchange, sdp("10.46.0.2", "a=recvonly")))
    bench.tell(ims.Accept(second))
    assert set(bench.engine.calls) == {first, second}
    for held, resumed in ((second, first), (first, second)):
        bench.tell(ims.Modify(held, sdp("10.45.0.2", "a=sendonly")))
        bench.send(ua.AnswerOffer(bench.heard(ua.OfferReceived).exchange, sdp("10.46.0.2", "a=recvonly")))
        bench.tell(ims.Modify(resumed, sdp("10.45.0.2", "a=sendrecv")))
        bench.send(ua.AnswerOffer(bench.heard(ua.OfferReceived).exchange, sdp("10.46.0.2", "a=sendrecv")))
    assert not bench.said(ims.OfferFailed)
    bench.tell(ims.Hangup(second))
    assert bench.engine.calls == (first,)


def test_the_first_call_does_not_wait(bench: Any, sdp: Sdp) -> None:
    call = bench.invite(sdp("10.46.0.2"))
    bench.tell(ims.Prepare(call, sdp()), ims.Ring(call))
    assert "Alert-Info" not in sent(bench, "ue", "180 INVITE")[-1].headers


@pytest.mark.parametrize(
    ("status", "alert", "waiting"),
    [
        (180, "<urn:alert:service:call-waiting>", True),
        (180, "<http://x.example/tone.wav>, <URN:alert:service:call-waiting>", True),
        (180, "<urn:alert:source:external>", False),
        (182, "", False),
    ],
)
def test_the_callee_is_in_another_call(make_bench: Any, sdp: Sdp, status: int, alert: str, waiting: bool) -> None:
    bench = make_bench(script=True)
    bench.scripted()
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    bench.answer(status, "a", **({"Alert_Info": alert} if alert else {}))
    assert bench.one(ims.Progress) == ims.Progress("c", status, False, waiting)


# ---- refusals with a meaning -----------------------------------------------------------------------------------


def test_12_2_mo_call_503_with_retry_after(bench: Any, sdp: Sdp) -> None:
    """Also TS 34.229-5 7.1: nothing is sent again by itself, and the user learns when to try."""
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    bench.send(ua.Reject(bench.heard(ua.IncomingCall).call, 503, None, (("Retry-After", "60"),)))
    ended = bench.one(ims.Ended)
    assert (ended.status, ended.reason) == (503, "503 Service Unavailable, try again in 60 s")
    bench.net.run(120)
    assert len(sent(bench, "ue", "INVITE")) == 1
    assert bench.registers == 1
    bench.tell(ims.Dial("d", "tel:+15550200", sdp()))
    assert len(sent(bench, "ue", "INVITE")) == 2


def test_12_2a_mo_call_504_restoration(bench: Any, sdp: Sdp) -> None:
    """Also TS 34.229-5 7.2: an initial registration; the next call goes through."""
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    kind = "application/3gpp-ims+xml"
    bench.send(ua.Reject(bench.heard(ua.IncomingCall).call, 504, None, (), RESTORATION, kind))
    assert bench.one(ims.Ended).status == 504
    assert bench.registers == 2
    bench.tell(ims.Dial("d", "tel:+15550200", sdp()))
    bench.send(ua.Answer(bench.heard(ua.IncomingCall).call, sdp("10.46.0.2")))
    assert bench.one(ims.Answered).call == "d"


def test_380_an_emergency_call_is_left_to_the_device(bench: Any, sdp: Sdp) -> None:
    bench.tell(ims.Dial("c", "urn:service:sos", sdp()))
    kind = 'application/3gpp-ims+xml;sv="1"'
    bench.send(ua.Reject(bench.heard(ua.IncomingCall).call, 380, None, (), EMERGENCY, kind))
    ended = bench.one(ims.Ended)
    assert ended.status == 380
    assert "emergency call" in ended.reason
    assert "device's own dialler" in ended.reason
    bench.net.run(60)
    assert len(sent(bench, "ue", "INVITE")) == 1, "this UE does not try elsewhere"


def test_380_that_is_no_emergency(bench: Any, sdp: Sdp) -> None:
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    bench.send(ua.Reject(bench.heard(ua.IncomingCall).call, 380))
    assert bench.one(ims.Ended).reason == "380 Alternative Service"


# ---- identities --------------------------------------------------------------------------------------------------


def test_15_2_oir_per_call(bench: Any, sdp: Sdp) -> None:
    """TS 24.607 clause 4.5.2.1."""
    bench.tell(ims.Dial("c", "tel:+15550200", sdp(), anonymous=True))
    (invite,) = sent(bench, "ue", "INVITE")
    assert invite.headers.get("Privacy") == "id"
    assert "15550100" not in str(invite.from_)
    assert isinstance(bench.heard(ua.IncomingCall).request, Request)


def test_15_1_oip(bench: Any, sdp: Sdp) -> None:
    """The user sees what the network asserts, not what the caller says (TS 24.607 clause 4.5.2.9)."""
    bench.invite(sdp("10.46.0.2"), headers=(("P-Asserted-Identity", '"Alice" <sip:+15550300@x.example>'),))
    assert str(bench.one(ims.IncomingCall).caller) == '"Alice" <sip:+15550300@x.example>'
