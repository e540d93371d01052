"""The UE as one engine: what it takes from whom, what it learns of its registration [S7-IMS]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from imskit.ims import events as ims
from imskit.ims.calls import SILENCE_SECONDS
from imskit.ims.registration import State
from imskit.ims.ue import _plain
from imskit.sip.engine import user_agent as ua
from imskit.sip.engine.events import FlowClosed
from imskit.sip.memory_network import answer_to
from imskit.sip.wire.message import Request

type Sdp = Callable[..., bytes]

RESTORATION = (
    b'<?xml version="1.0"?><ims-3gpp version="1"><alternative-service><type>restoration</type><reason/>'
    b"<action>initial-registration</action></alternative-service></ims-3gpp>"
)


def requests(bench: Any, method: str) -> list[Request]:
    return [m for _, who, m in bench.net.sent if who == "ue" and isinstance(m, Request) and m.method == method]


def test_an_invite_carries_what_ims_wants(bench: Any, sdp: Sdp) -> None:
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    (invite,) = requests(bench, "INVITE")
    assert invite.headers.get("P-Preferred-Identity") == "<sip:+15550100@ims.mnc001.mcc001.3gppnetwork.org>"
    assert invite.headers.get("P-Preferred-Service") == "urn:urn-7:3gpp-service.ims.icsi.mmtel"
    assert invite.headers.get("P-Early-Media") == "supported"
    assert invite.headers.get("P-Access-Network-Info")
    assert {"100rel", "precondition", "timer", "199"} <= set(invite.supported)
    assert {"replaces", "norefersub"} <= set(invite.supported)
    assert {"MESSAGE", "REFER"} <= set(invite.allow)
    assert "Privacy" not in invite.headers


def test_a_caller_who_is_not_to_be_known(bench: Any, sdp: Sdp) -> None:
    bench.tell(ims.Dial("c", "tel:+15550200", sdp(), anonymous=True))
    (invite,) = requests(bench, "INVITE")
    assert invite.headers.get("Privacy") == "id"
    assert str(invite.from_).startswith('"Anonymous" <sip:anonymous@anonymous.invalid>')
    assert "+15550100" in (invite.headers.get("P-Preferred-Identity") or "")


@pytest.mark.parametrize(
    ("fields", "caller"),
    [
        ((), "<sip:bob@x.example>"),
        (
            (("P-Asserted-Identity", '"Bob" <sip:+15550200@x.example>, <tel:+15550200>'),),
            '"Bob" <sip:+15550200@x.example>',
        ),
        ((("P-Asserted-Identity", "<tel:+15550200>"),), "<tel:+15550200>"),
        (
            (("P-Asserted-Identity", "<tel:+15550200>"), ("Privacy", "critical; id")),
            '"Anonymous" <sip:anonymous@anonymous.invalid>',
        ),
        ((("P-Asserted-Identity", "<tel:+15550200>"), ("Privacy", "none")), "<tel:+15550200>"),
    ],
)
def test_who_calls(bench: Any, sdp: Sdp, fields: tuple[tuple[str, str], ...], caller: str) -> None:
    bench.invite(sdp("10.46.0.2"), headers=fields)
    assert str(bench.one(ims.IncomingCall).caller.without_parameters("tag")) == caller


def test_who_is_called(bench: Any, sdp: Sdp) -> None:
    bench.invite(sdp("10.46.0.2"), headers=(("P-Called-Party-ID", "<tel:+15550100>"),))
    assert bench.one(ims.IncomingCall).called == "tel:+15550100"


def test_only_the_p_cscf_makes_the_ue_ring(bench: Any, sdp: Sdp) -> None:
    request = Request.create(
        "INVITE",
        "sip:10.45.0.2:5060",
        [
            ("Via", "SIP/2.0/UDP 10.45.0.66:5060;branch=z9hG4bKx"),
            ("Max-Forwards", 70),
            ("From", "<sip:evil@x>;tag=e"),
            ("To", "<sip:me@x>"),
            ("Call-ID", "e"),
            ("CSeq", "1 INVITE"),
            ("Contact", "<sip:evil@10.45.0.66>"),
        ],
    )
    request.set_body(sdp("10.45.0.66"), "application/sdp")
    bench.from_elsewhere(request.copy(), "10.45.0.66")
    assert not bench.said(ims.IncomingCall)
    assert not any("ue -> " in line and "10.45.0.66" in line for line in bench.net.ladder), "not even an answer"
    bench.from_elsewhere(request, "10.45.0.1")
    assert bench.said(ims.IncomingCall)


def test_one_spelling_of_an_address() -> None:
    assert _plain("2001:DB8:0::1") == _plain("[2001:db8::1]") == "2001:db8::1"
    assert _plain("P-CSCF.example") == "p-cscf.example"
    assert _plain("127.0.0.1") == _plain("::1") == _plain("127.0.0.7")


@pytest.mark.parametrize(
    ("method", "fields", "body", "status"),
    [
        ("MESSAGE", {}, b"hello", 200),
        ("MESSAGE", {}, b"", 415),
        ("REFER", {"Refer-To": "<sip:x@y>", "Contact": "<sip:10.45.0.1:5060>"}, b"", 202),
        ("REFER", {"Contact": "<sip:10.45.0.1:5060>"}, b"", 400),
        ("REFER", {"Refer-To": "<sip:x@y;method=BYE>", "Contact": "<sip:10.45.0.1:5060>"}, b"", 501),
        ("REFER", {"Refer-To": "<mailto:x@y>", "Contact": "<sip:10.45.0.1:5060>"}, b"", 416),
        ("INFO", {}, b"", 481),
        ("NOTIFY", {"Event": "reg", "Subscription-State": "active"}, b"", 481),
        ("OPTIONS", {}, b"", 200),
        ("PUBLISH", {}, b"", 405),
    ],
)
def test_requests_outside_a_call(bench: Any, method: str, fields: dict[str, str], body: bytes, status: int) -> None:
    request = Request.create(
        method,
        "sip:10.45.0.2:5060",
        [
            ("From", "<sip:bob@x>;tag=e"),
            ("To", "<sip:me@x>"),
            ("Call-ID", "e"),
            ("CSeq", f"1 {method}"),
            *fields.items(),
        ],
    )
    request.set_body(body, "text/plain" if body else "")
    bench.send(ua.Send("k", request))
    response = bench.heard(ua.ResponseReceived).response
    assert response is not None
    assert response.status == status


@pytest.mark.parametrize(
    ("fields", "body", "status"), [((), b"", 200), ((), b"x", 415), ((("Info-Package", "dtmf"),), b"x", 469)]
)
def test_info_within_a_call(bench: Any, sdp: Sdp, fields: Any, body: bytes, status: int) -> None:
    call = bench.invite(sdp("10.46.0.2"))
    bench.tell(ims.Prepare(call, sdp()), ims.Accept(call))
    bench.send(ua.SendInDialog("k", "n", "INFO", fields, body, "application/dtmf-relay" if body else ""))
    response = bench.heard(ua.ResponseReceived).response
    assert response is not None
    assert response.status == status
    assert bench.one(ims.RequestReceived).call == call


def test_a_name_that_is_in_use(bench: Any, sdp: Sdp) -> None:
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    with pytest.raises(ValueError, match="there is a call c already"):
        bench.ue.feed(ims.Dial("c", "tel:+15550200", sdp()))
    assert bench.engine.calls == ("c",)


@pytest.mark.parametrize("target", ["no uri", "sip:a b@c", "tel:", ""])
def test_a_target_that_cannot_be_called(bench: Any, sdp: Sdp, target: str) -> None:
    bench.tell(ims.Dial("c", target, sdp()))
    ended = bench.one(ims.Ended)
    assert ended.local
    assert "cannot be called" in ended.reason
    assert bench.engine.calls == ()


def test_a_description_that_is_none_is_the_owners_error(bench: Any) -> None:
    with pytest.raises(Exception, match="SDP"):
        bench.ue.feed(ims.Dial("c", "tel:+15550200", b"rubbish"))


def test_without_registration_there_are_no_calls(make_bench: Any, sdp: Sdp) -> None:
    bench = make_bench(script=True)
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    ended = bench.one(ims.Ended)
    assert ended.local
    assert "not registered" in ended.reason


@pytest.mark.parametrize("body", [b"rubbish", b"v=0\r\n"])
def test_an_invite_with_a_broken_description(bench: Any, body: bytes) -> None:
    bench.invite(body)
    assert not bench.said(ims.IncomingCall)
    assert bench.refusal().status == 400
    assert "SDP" in (bench.refusal().headers.get("Warning") or "")


def test_a_call_that_would_replace_one_that_is_not_here(bench: Any, sdp: Sdp) -> None:
    """RFC 3891 section 3."""
    bench.invite(sdp(), headers=(("Replaces", "c;to-tag=1;from-tag=2"),), require=("replaces",))
    assert bench.refusal().status == 481
    assert not bench.said(ims.IncomingCall)
    two = (("Replaces", "c;to-tag=1;from-tag=2"), ("Replaces", "d;to-tag=1;from-tag=2"))
    bench.invite(sdp(), call="second", headers=two)
    assert bench.refusal().status == 400


def test_an_invite_that_names_its_caller_wrongly(bench: Any, sdp: Sdp) -> None:
    bench.invite(sdp(), headers=(("P-Asserted-Identity", "<rubbish"),))
    assert bench.refusal().status == 400


# ---- what a call says of the registration ------------------------------------------------------------------


def test_a_refused_call_leads_to_a_new_registration_but_not_each_time(bench: Any, sdp: Sdp) -> None:
    for number in range(3):
        bench.tell(ims.Dial(f"c{number}", "tel:+15550200", sdp()))
        bench.send(ua.Reject(bench.heard(ua.IncomingCall).call, 403))
    assert bench.registers == 2
    bench.net.run(40)
    assert bench.registers == 3, "what came too early is made up for"
    assert bench.engine.status.state is State.REGISTERED


@pytest.mark.parametrize(("body", "registers"), [(RESTORATION, 2), (b"<x/>", 1), (b"", 1)])
def test_504_with_the_restoration_body(bench: Any, sdp: Sdp, body: bytes, registers: int) -> None:
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    kind = "application/3gpp-ims+xml" if body else ""
    bench.send(ua.Reject(bench.heard(ua.IncomingCall).call, 504, None, (), body, kind))
    assert bench.registers == registers


def test_a_p_cscf_that_does_not_answer_a_call(bench: Any, sdp: Sdp) -> None:
    bench.net.drop = lambda sender, message: sender == "ue"
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()), wait=SILENCE_SECONDS - 1)
    assert not bench.said(ims.Ended)
    bench.net.run(2)
    ended = bench.one(ims.Ended)
    assert ended.cause is ims.Cause.TIMEOUT
    assert not ended.local
    assert ended.message is None
    assert "does not answer" in ended.reason
    assert bench.engine.calls == ()
    assert bench.engine.status.state is State.REGISTERING
    bench.net.drop = lambda sender, message: False
    bench.net.run(60)
    assert bench.engine.status.state is State.REGISTERED


def test_a_call_hung_up_while_the_p_cscf_is_silent(bench: Any, sdp: Sdp) -> None:
    """CANCEL has to wait for a provisional response (RFC 3261 section 9.1); the user does not."""
    bench.net.drop = lambda sender, message: sender == "ue"
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    bench.tell(ims.Hangup("c"), wait=SILENCE_SECONDS)
    assert bench.one(ims.Ended).local
    assert bench.engine.calls == ()


def test_a_p_cscf_that_wakes_up_after_the_call_was_given_up(bench: Any, sdp: Sdp) -> None:
    """The call that nobody waits for any more is cancelled before it can be answered."""
    bench.net.drop = lambda sender, message: sender == "ue"
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()), wait=SILENCE_SECONDS + 1)
    bench.net.drop = lambda sender, message: False
    bench.net.run(20)
    incoming = bench.heard(ua.IncomingCall)
    bench.send(ua.Provisional(incoming.call, 180))
    assert bench.heard(ua.Ended).call == incoming.call
    assert len(bench.said(ims.Ended)) == 1


def test_a_callee_that_nobody_answers(bench: Any, sdp: Sdp) -> None:
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    bench.send(ua.Provisional(bench.heard(ua.IncomingCall).call, 180), wait=200)
    assert bench.one(ims.Ended).cause is ims.Cause.NO_ANSWER


def test_a_connection_that_is_gone_leads_to_a_new_registration(make_bench: Any) -> None:
    bench = make_bench(transport="TCP")
    flow = bench.net.flow(("10.45.0.2", 5060), ("10.45.0.1", 5060))
    bench.tell(FlowClosed(flow, "closed"))
    assert bench.registers == 2
    bench.tell(FlowClosed(flow, "closed"))
    assert bench.registers == 2, "a P-CSCF that closes again and again is not flooded"
    bench.net.run(31)
    assert bench.registers == 3


def test_a_connection_over_which_only_a_long_message_went(bench: Any) -> None:
    flow = bench.net.flow(("10.45.0.2", 5060), ("10.45.0.1", 5060))
    bench.tell(FlowClosed(flow, "closed"))
    assert bench.registers == 1


def notify(bench: Any, subscribe: Request) -> Request:
    """The NOTIFY that a SUBSCRIBE of the UE gets."""
    ok = next(m for _, who, m in bench.net.sent if who == "network" and m.call_id == subscribe.call_id)
    return Request.create(
        "NOTIFY",
        "sip:10.45.0.2:5060",
        [
            ("From", ok.headers.get("To") or ""),
            ("To", subscribe.headers.get("From") or ""),
            ("Call-ID", subscribe.call_id),
            ("CSeq", "1 NOTIFY"),
            ("Contact", "<sip:10.45.0.1:5060>"),
            ("Event", "reg"),
            ("Subscription-State", "active;expires=6000"),
        ],
    )


def test_the_subscription_of_an_old_registration_is_ended(bench: Any, sdp: Sdp) -> None:
    (old,) = requests(bench, "SUBSCRIBE")
    bench.send(ua.Send("n", notify(bench, old)))
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    bench.send(ua.Reject(bench.heard(ua.IncomingCall).call, 403))
    assert bench.registers == 2
    later = requests(bench, "SUBSCRIBE")[1:]
    assert [(each.call_id == old.call_id, each.expires) for each in later] == [(True, 0), (False, 600_000)]


# ---- switching off ----------------------------------------------------------------------------------------------


def test_stop_ends_calls_and_takes_no_new_ones(bench: Any, sdp: Sdp) -> None:
    call = bench.invite(sdp("10.46.0.2"))
    bench.tell(ims.Prepare(call, sdp()), ims.Accept(call))
    bench.ue.outputs.clear()
    bench.ue.feed(ims.Stop())
    assert bench.one(ims.Ended).local
    bench.invite(sdp("10.46.0.2"), call="second")
    assert not bench.said(ims.IncomingCall)
    assert bench.refusal().status == 480
    assert bench.engine.status.state is State.OFF
    assert requests(bench, "REGISTER")[-1].expires == 0
    bench.tell(ims.Start())
    assert bench.engine.status.state is State.REGISTERED
    assert bench.invite(sdp("10.46.0.2"), call="third")


def test_a_script_answers_a_call(make_bench: Any, sdp: Sdp) -> None:
    """The harness itself: a call made of single messages."""
    bench = make_bench(script=True)
    bench.scripted()
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    bench.answer(200, "t", sdp("10.46.0.2"))
    assert bench.one(ims.Answered).call == "c"
    assert bench.script.request("ACK")
    bench.send(answer_to(bench.script.request("ACK"), 200))
