"""Calls of a UE: forks, early media, preconditions at odds, late offers, what goes wrong [S7-IMS]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from imskit.ims import events as ims
from imskit.ims.incoming_call import IncomingCallMachine
from imskit.ims.outgoing_call import OutgoingCallMachine
from imskit.sip.engine import user_agent as ua
from imskit.sip.engine.dialog import DialogId
from imskit.sip.memory_network import answer_to
from imskit.sip.wire.message import Request, response_to

type Sdp = Callable[..., bytes]
type Table = Callable[[str, str], tuple[str, ...]]


def hosts(bench: Any) -> list[str]:
    """Whose media counted, one after the other."""
    return [agreed.sdp.split(b"IN IP4 ")[1].split(b"\r\n")[0].decode() for agreed in bench.said(ims.MediaAgreed)]


# ---- forks -------------------------------------------------------------------------------------------------------


def test_the_media_of_the_branch_that_answers_count(make_bench: Any, sdp: Sdp) -> None:
    """The 200 of a branch whose answer came in a reliable 183 has none any more (RFC 6337 section 3.1.1)."""
    bench = make_bench(script=True)
    bench.scripted()
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    bench.answer(183, "a", sdp("10.46.0.1"), Require="100rel", RSeq=1)
    bench.send(answer_to(bench.script.request("PRACK"), 200))
    bench.answer(183, "b", sdp("10.46.0.2"), Require="100rel", RSeq=1)
    assert hosts(bench) == ["10.46.0.1", "10.46.0.2"]
    bench.answer(200, "a")
    assert hosts(bench)[2:] == ["10.46.0.1"]
    order = [type(output).__name__ for output in bench.ue.outputs if type(output).__name__ != "Progress"]
    assert order[-2:] == ["MediaAgreed", "Answered"]


def test_199_gives_the_media_back_to_another_branch(make_bench: Any, sdp: Sdp) -> None:
    bench = make_bench(script=True)
    bench.scripted()
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    bench.answer(183, "a", sdp("10.46.0.1"))
    bench.answer(183, "b", sdp("10.46.0.2"))
    bench.answer(199, "b")
    assert hosts(bench) == ["10.46.0.1", "10.46.0.2", "10.46.0.1"]
    bench.answer(199, "a")
    assert not bench.said(ims.Ended), "another branch may still answer"
    bench.answer(200, "d", sdp("10.46.0.4"))
    assert hosts(bench)[-1] == "10.46.0.4"
    assert bench.said(ims.Answered)


@pytest.mark.parametrize(
    ("value", "sends"),
    [("sendrecv", True), ("sendonly, gated", True), ("inactive", False), ("recvonly", False), ("", False)],
)
def test_early_media_is_told(make_bench: Any, sdp: Sdp, value: str, sends: bool) -> None:
    bench = make_bench(script=True)
    bench.scripted()
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    fields = {"P_Early_Media": value} if value else {}
    bench.answer(183, "a", **fields)
    assert bench.one(ims.Progress) == ims.Progress("c", 183, sends)


def test_a_cancel_that_crosses_the_answer(make_bench: Any, sdp: Sdp) -> None:
    bench = make_bench(script=True)
    bench.scripted()
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    bench.answer(180, "a")
    bench.ue.feed(ims.Hangup("c"))
    bench.answer(200, "a", sdp("10.46.0.2"))
    assert bench.script.request("CANCEL")
    assert bench.script.request("ACK")
    assert bench.script.request("BYE"), "what was answered is hung up"
    assert bench.one(ims.Ended).local
    assert bench.engine.calls == ()
    assert not bench.said(ims.Answered)


def test_a_broken_answer_ends_the_call(make_bench: Any) -> None:
    bench = make_bench(script=True)
    bench.scripted()
    bench.tell(ims.Dial("c", "tel:+15550200", b"v=0\r\no=- 1 1 IN IP4 1.2.3.4\r\ns=-\r\nt=0 0\r\n"))
    bench.answer(200, "a", b"rubbish")
    assert bench.script.request("BYE").headers.get("Warning")
    assert bench.engine.calls == ()


def test_the_networks_words_are_in_the_reason(make_bench: Any, sdp: Sdp) -> None:
    bench = make_bench(script=True)
    bench.scripted()
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    bench.answer(480, "a", Warning='399 core "the subscriber is not registered"')
    ended = bench.one(ims.Ended)
    assert ended.reason == "480 Temporarily Unavailable (the subscriber is not registered)"
    assert (ended.status, ended.cause, ended.local) == (480, ims.Cause.REJECTED, False)


# ---- preconditions at odds ----------------------------------------------------------------------------------


def test_a_caller_with_preconditions_but_without_100rel_that_is_ready(
    bench: Any, sdp: Sdp, status_table: Table
) -> None:
    """RFC 3312 section 11 wants 100rel; a caller whose resources are there needs no 183."""
    call = call_without_100rel(bench, sdp("10.46.0.2", *status_table("sendrecv", "none")))
    bench.tell(ims.Prepare(call, sdp()))
    assert bench.one(ims.Alert).call == call
    bench.tell(ims.Ring(call), ims.Accept(call))
    answer = bench.heard(ua.AnswerReceived).sdp
    assert b"a=curr:qos local sendrecv" in answer
    assert bench.said(ims.Confirmed)


def test_a_caller_with_preconditions_but_without_100rel_that_is_not_ready(
    bench: Any, sdp: Sdp, status_table: Table
) -> None:
    call = call_without_100rel(bench, sdp("10.46.0.2", *status_table("none", "none")))
    bench.tell(ims.Prepare(call, sdp()))
    assert not bench.said(ims.Alert)
    assert bench.refusal().status == 421
    assert bench.refusal().headers.get("Require") == "100rel"
    assert bench.engine.calls == ()


def call_without_100rel(bench: Any, offer: bytes) -> str:
    peer = bench.network.engine._core.profile
    from dataclasses import replace

    bench.send(ua.Configure(replace(peer, supported=("timer", "precondition"))))
    return str(bench.invite(offer))


def test_a_caller_without_preconditions_waits_for_our_resources(bench: Any, sdp: Sdp) -> None:
    """TS 24.229 clause U.3.1.4, TS 34.229-5 case 7.9."""
    call = bench.invite(sdp("10.46.0.2"))
    bench.tell(ims.Prepare(call, sdp(), reserved=False))
    assert bench.said(ims.ReserveResources)
    assert not bench.said(ims.Alert)
    assert bench.heard(ua.AnswerReceived).sdp, "in a reliable 183"
    bench.tell(ims.ResourcesReserved(call))
    assert bench.one(ims.Alert).call == call


def test_our_resources_cannot_be_had(bench: Any, sdp: Sdp) -> None:
    call = bench.invite(sdp("10.46.0.2"))
    bench.tell(ims.Prepare(call, sdp(), reserved=False), ims.ResourcesFailed(call))
    assert bench.refusal().status == 580
    bench.tell(ims.Dial("c", "tel:+15550200", sdp(), reserved=False), ims.ResourcesFailed("c"))
    assert bench.ue.last(ims.Ended).local


def test_an_unknown_mandatory_precondition(bench: Any, sdp: Sdp) -> None:
    bench.invite(sdp("10.46.0.2", "a=curr:sec e2e none", "a=des:sec mandatory e2e sendrecv"))
    assert bench.refusal().status == 580


# ---- late offers ---------------------------------------------------------------------------------------------------


def test_an_invite_without_an_offer_from_a_caller_with_100rel(bench: Any, sdp: Sdp) -> None:
    """TS 34.229-5 case 7.10: our offer in the 183, the answer in its PRACK."""
    call = bench.invite(None)
    assert bench.one(ims.IncomingCall).sdp is None
    bench.tell(ims.Prepare(call, sdp()))
    bench.send(ua.AnswerOffer(bench.heard(ua.OfferReceived).exchange, sdp("10.46.0.2")))
    assert hosts(bench) == ["10.46.0.2"]
    assert bench.one(ims.Alert).call == call
    bench.tell(ims.Ring(call), ims.Accept(call))
    assert bench.said(ims.Confirmed)


def test_an_invite_without_an_offer_from_a_caller_without_100rel(bench: Any, sdp: Sdp) -> None:
    from dataclasses import replace

    bench.send(ua.Configure(replace(bench.network.engine._core.profile, supported=())))
    call = bench.invite(None)
    bench.tell(ims.Prepare(call, sdp()))
    assert bench.one(ims.Alert).call == call
    bench.tell(ims.Accept(call))
    bench.send(ua.AnswerOffer(bench.heard(ua.OfferReceived).exchange, sdp("10.46.0.2")))
    assert hosts(bench) == ["10.46.0.2"], "in the ACK"


# ---- changes -------------------------------------------------------------------------------------------------------


def talk(bench: Any, sdp: Sdp) -> str:
    """A call of the network's that stands."""
    call: str = bench.invite(sdp("10.46.0.2"))
    bench.tell(ims.Prepare(call, sdp()), ims.Accept(call))
    assert bench.said(ims.Confirmed)
    bench.ue.outputs.clear()
    return call


def test_hold_by_the_ue(bench: Any, sdp: Sdp) -> None:
    call = talk(bench, sdp)
    bench.tell(ims.Modify(call, sdp("10.45.0.2", "a=sendonly")))
    offer = bench.heard(ua.OfferReceived)
    assert b"o=- 1 2 IN" in offer.sdp
    bench.send(ua.AnswerOffer(offer.exchange, sdp("10.46.0.2", "a=recvonly")))
    assert b"a=recvonly" in bench.one(ims.MediaAgreed).sdp


def test_a_change_that_the_peer_refuses(bench: Any, sdp: Sdp) -> None:
    call = talk(bench, sdp)
    bench.tell(ims.Modify(call, sdp("10.45.0.2", "a=sendonly")))
    bench.send(ua.RejectOffer(bench.heard(ua.OfferReceived).exchange, 488))
    assert bench.one(ims.OfferFailed) == ims.OfferFailed(call, 488)
    assert bench.engine.calls == (call,)


def test_a_change_while_another_is_under_way(bench: Any, sdp: Sdp) -> None:
    call = talk(bench, sdp)
    bench.tell(ims.Modify(call, sdp("10.45.0.2", "a=sendonly")))
    bench.tell(ims.Modify(call, sdp("10.45.0.2", "a=inactive")))
    assert bench.one(ims.OfferFailed) == ims.OfferFailed(call, None)


def test_a_change_of_a_call_that_is_not_answered(bench: Any, sdp: Sdp) -> None:
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()), ims.Modify("c", sdp("10.45.0.2", "a=sendonly")))
    assert bench.one(ims.OfferFailed) == ims.OfferFailed("c", None)


def test_hold_by_the_peer(bench: Any, sdp: Sdp) -> None:
    call = talk(bench, sdp)
    bench.send(ua.Modify("n", sdp("10.46.0.2", "a=sendonly"), "INVITE"))
    offer = bench.one(ims.Offer)
    assert b"a=sendonly" in (offer.sdp or b"")
    bench.tell(ims.AnswerOffer(call, offer.exchange, sdp("10.45.0.2", "a=recvonly")))
    assert b"a=recvonly" in bench.heard(ua.AnswerReceived).sdp
    bench.send(ua.Modify("n", None, "INVITE"))
    asked = bench.one(ims.Offer)
    assert asked.sdp is None
    bench.tell(ims.RejectOffer(call, asked.exchange))
    assert bench.engine.calls == (call,)


def test_the_session_timer_ends_a_call_with_a_dead_peer(bench: Any, sdp: Sdp) -> None:
    call = talk(bench, sdp)
    bench.net.drop = lambda sender, message: sender == "network"
    bench.net.run(2000)
    ended = next(output for output in bench.ue.outputs if isinstance(output, ims.Ended))
    assert ended.call == call
    assert bench.engine.calls == ()


def test_the_owner_accepts_before_it_has_prepared(bench: Any, sdp: Sdp) -> None:
    call = bench.invite(sdp("10.46.0.2"))
    bench.tell(ims.Accept(call))
    assert not bench.said(ims.Confirmed)
    bench.tell(ims.Prepare(call, sdp()), ims.Accept(call))
    assert bench.said(ims.Confirmed)


def test_a_caller_who_gives_up(bench: Any, sdp: Sdp) -> None:
    bench.invite(sdp("10.46.0.2"))
    bench.send(ua.Hangup("n", (("Reason", 'SIP;cause=200;text="Call completed elsewhere"'),)))
    ended = bench.one(ims.Ended)
    assert ended.reason == "the caller gave up (Call completed elsewhere)"
    assert not ended.local


# ---- the machines alone --------------------------------------------------------------------------------------

DIALOG = DialogId("c", "t", "f")


def commands(machine: Any) -> list[Any]:
    found = []
    while (command := machine.next_command()) is not None:
        found.append(command)
    return found


def invite(*fields: tuple[str, str]) -> Request:
    return Request.create(
        "INVITE",
        "sip:x",
        [
            ("Via", "SIP/2.0/UDP x"),
            ("From", "<sip:a>;tag=1"),
            ("To", "<sip:b>"),
            ("Call-ID", "c"),
            ("CSeq", "1 INVITE"),
            *fields,
        ],
    )


def test_a_report_that_comes_at_the_wrong_moment_is_made_later(sdp: Sdp, status_table: Table) -> None:
    machine = OutgoingCallMachine(ims.Dial("c", "tel:1", sdp(), reserved=False), "sip:me", "<sip:me>", ())
    machine.start()
    commands(machine)
    ok = response_to(invite(), 183, to_tag="t")
    answer = sdp("10.46.0.2", *status_table("none", "none"))
    machine.told(ua.AnswerReceived("c", DIALOG, answer, ua.Carrier.PROVISIONAL, ok), 0)
    assert commands(machine) == []
    machine.handle(ims.ResourcesReserved("c"), 0)
    (update,) = commands(machine)
    assert update.method == "UPDATE"
    machine.refused(update, ua.Refusal.PENDING, "", 0)
    assert commands(machine) == []
    machine.told(ua.OfferWithdrawn("c", DIALOG, "x"), 0)
    (again,) = commands(machine)
    assert (again.method, again.dialog) == ("UPDATE", DIALOG)
    machine.told(ua.OfferFailed("c", DIALOG, ua.Cause.REJECTED, ok), 0)
    outputs = []
    while (output := machine.next_output()) is not None:
        outputs.append(type(output).__name__)
    assert "OfferFailed" not in outputs, "the owner has not asked for it"


def test_words_that_cannot_be_written_do_not_keep_a_call_unanswered(sdp: Sdp) -> None:
    incoming = ua.IncomingCall("c", DIALOG, invite(), sdp("10.46.0.2"), None)  # type: ignore[arg-type]
    machine = IncomingCallMachine(incoming)
    machine.handle(ims.Reject("c", 486, None, (("Warning", "x\r\ny"),)), 0)
    (reject,) = commands(machine)
    machine.refused(reject, ua.Refusal.INVALID, "CR", 0)
    assert commands(machine) == [ua.Reject("c", 486)]


def test_an_answer_that_cannot_be_given_refuses_the_call(sdp: Sdp) -> None:
    incoming = ua.IncomingCall("c", DIALOG, invite(), sdp("10.46.0.2"), None)  # type: ignore[arg-type]
    machine = IncomingCallMachine(incoming)
    machine.refused(ua.Answer("c"), ua.Refusal.NEEDS_SDP, "", 0)
    assert commands(machine) == [ua.Reject("c", 500)]
    machine.refused(ua.Answer("c"), ua.Refusal.STATE, "", 0)
    assert commands(machine) == []
