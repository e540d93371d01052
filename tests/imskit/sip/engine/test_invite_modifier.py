"""Our UPDATE and re-INVITE: RFC 3311 section 5.1 and 8, RFC 3261 section 14.1, glare timers, refreshes."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.sip.engine import user_agent as ua
from imskit.sip.memory_network import Pair, Script, answer_to
from imskit.sip.wire.message import Request, Response

ALLOW = "INVITE, ACK, BYE, CANCEL, PRACK, UPDATE"


def confirmed(**fields: Any) -> tuple[Any, Script]:
    """Alice in a call with a bob of the test's writing."""
    script = Script()
    pair = Pair(b=script)
    pair.dial()
    pair.at(pair.b, answer_to(script.request("INVITE"), 200, "b1", b"answer", **{"Allow": ALLOW} | fields))
    pair.arrows()
    return pair, script


def sent(pair: Any, method: str) -> list[float]:
    """Return when alice sent a request, without retransmissions."""
    seen: dict[str, float] = {}
    for at, sender, message in pair.net.sent:
        if sender == "alice" and isinstance(message, Request) and message.method == method:
            seen.setdefault(message.top_via.branch or "", at)
    return list(seen.values())


def test_rfc3311_8_figure_1() -> None:
    """UPDATE in both directions in an early dialog."""
    pair = Pair()
    call = pair.dial()
    pair.at(pair.b, ua.Provisional(call, 180, sdp=b"answer 1"))
    pair.at(pair.a, ua.Modify("call", b"offer 2"))
    pair.at(pair.b, ua.AnswerOffer(pair.b.last(ua.OfferReceived).exchange, b"answer 2"))
    pair.at(pair.b, ua.Modify(call, b"offer 3"))
    pair.at(pair.a, ua.AnswerOffer(pair.a.last(ua.OfferReceived).exchange, b"answer 3"))
    pair.at(pair.b, ua.Answer(call))
    pair.expect("""
        > INVITE (sdp)
        < 180 INVITE (sdp)
        > PRACK
        < 200 PRACK
        > UPDATE (sdp)
        < 200 UPDATE (sdp)
        < UPDATE (sdp)
        > 200 UPDATE (sdp)
        < 200 INVITE
        > ACK
    """)
    assert [output.sdp for output in pair.a.all(ua.AnswerReceived)] == [b"answer 1", b"answer 2"]
    assert pair.b.last(ua.AnswerReceived).sdp == b"answer 3"


def test_an_update_waits_for_the_prack() -> None:
    """RFC 6337 section 4.3, UAC-IU: so it cannot overtake it."""
    script = Script()
    pair = Pair(b=script)
    pair.dial()
    invite = script.request("INVITE")
    pair.at(pair.b, answer_to(invite, 183, "b1", b"answer", Require="100rel", RSeq=1, Allow=ALLOW))
    pair.at(pair.a, ua.Modify("call", b"offer2"))
    assert not sent(pair, "UPDATE")
    pair.at(pair.b, answer_to(script.request("PRACK"), 200))
    assert script.request("UPDATE").cseq.number == script.request("PRACK").cseq.number + 1


def test_an_update_needs_a_peer_that_allows_it() -> None:
    pair, _ = confirmed(Allow="INVITE, ACK, BYE")
    pair.at(pair.a, ua.Modify("call", b"offer2"))
    assert pair.a.last(ua.Refused).refusal is ua.Refusal.UNSUPPORTED
    pair.at(pair.a, ua.Modify("call", b"offer2", "INVITE"))
    assert sent(pair, "INVITE")[1:]


def test_one_modification_at_a_time() -> None:
    pair, _ = confirmed()
    pair.at(pair.a, ua.Modify("call", b"offer2"))
    pair.at(pair.a, ua.Modify("call", b"offer3"), ua.Modify("call", b"offer3", "INVITE"), ua.Modify("call"))
    assert [output.refusal for output in pair.a.all(ua.Refused)] == [ua.Refusal.PENDING] * 3


def test_not_before_the_ack_of_our_2xx() -> None:
    """The UPDATE could overtake the 2xx that carries the answer."""
    script = Script()
    pair = Pair(a=script)
    pair.at(pair.a, script.build("INVITE", 1, b"offer", Allow=ALLOW))
    call = pair.b.last(ua.IncomingCall).call
    pair.at(pair.b, ua.Answer(call, b"answer"))
    for method in ("UPDATE", "INVITE"):
        pair.at(pair.b, ua.Modify(call, b"offer2", method))
        assert pair.b.last(ua.Refused).refusal is ua.Refusal.PENDING
    pair.at(pair.a, script.build("ACK", 1, to_tag=script.response("INVITE").to.tag))
    pair.at(pair.b, ua.Modify(call, b"offer2", "UPDATE"))
    assert script.request("UPDATE").body == b"offer2"


def test_update_without_sdp_reports_the_response() -> None:
    pair = Pair()
    pair.talk()
    pair.at(pair.a, ua.Modify("call", headers=(("P-Test", "1"),)))
    pair.expect("""
        > UPDATE
        < 200 UPDATE
    """)
    assert isinstance(pair.a.last(ua.Refreshed).message, Response)
    assert pair.b.last(ua.Refreshed).message.headers.get("P-Test") == "1"


def test_a_2xx_without_the_answer_fails_the_offer() -> None:
    pair, script = confirmed()
    pair.at(pair.a, ua.Modify("call", b"offer2"))
    pair.at(pair.b, answer_to(script.request("UPDATE"), 200))
    assert pair.a.last(ua.OfferFailed).cause is ua.Cause.PROTOCOL
    pair.at(pair.a, ua.Modify("call", b"offer3"))
    assert script.request("UPDATE").body == b"offer3"


# ---- glare ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["UPDATE", "INVITE"])
def test_rfc3261_14_1_glare_is_resolved_by_the_timers(method: str) -> None:
    """Both offer at once: both get 491; the owner of the Call-ID waits longer, so the other one goes first."""
    pair = Pair()
    call = pair.talk()
    for host in (pair.a, pair.b):
        host.react = lambda output: (
            [ua.AnswerOffer(output.exchange, b"yes")] if isinstance(output, ua.OfferReceived) else []
        )
    pair.a.feed(ua.Modify("call", b"from alice", method))
    pair.b.feed(ua.Modify(call, b"from bob", method))
    pair.net.run(10)
    assert [output.sdp for output in pair.a.all(ua.OfferReceived)] == [b"from bob"]
    assert pair.b.last(ua.AnswerReceived).sdp == b"yes"
    # Alice's offer is outdated by then: her owner decides anew.
    assert pair.a.last(ua.OfferFailed) == ua.OfferFailed("call", pair.a.last(ua.Answered).dialog, ua.Cause.GLARE)
    pair.at(pair.a, ua.Modify("call", b"anew", method))
    assert pair.a.last(ua.AnswerReceived).sdp == b"yes"


def test_491_is_retried_after_2_1_to_4_s_by_the_owner_of_the_call_id() -> None:
    pair, script = confirmed()
    pair.at(pair.a, ua.Modify("call", b"offer2", "INVITE"))
    start = pair.net.now
    first = script.request("INVITE")
    pair.at(pair.b, answer_to(first, 491), wait=5)
    second = script.request("INVITE")
    assert second.cseq.number == first.cseq.number + 1 and second.body == b"offer2"
    assert 2.1 <= sent(pair, "INVITE")[-1] - start <= 4.1
    assert not pair.a.all(ua.OfferFailed)


def test_491_is_retried_after_0_to_2_s_by_the_other_side() -> None:
    script = Script()
    pair = Pair(a=script)
    pair.at(pair.a, script.build("INVITE", 1, b"offer", Allow=ALLOW))
    call = pair.b.last(ua.IncomingCall).call
    pair.at(pair.b, ua.Answer(call, b"answer"))
    pair.at(pair.a, script.build("ACK", 1, to_tag=script.response("INVITE").to.tag))
    pair.at(pair.b, ua.Modify(call, b"offer2"))
    first = script.request("UPDATE")
    pair.at(pair.a, answer_to(first, 491), wait=2.2)
    assert script.request("UPDATE").cseq.number == first.cseq.number + 1


def test_500_with_retry_after_is_retried_then() -> None:
    pair, script = confirmed()
    pair.at(pair.a, ua.Modify("call", b"offer2"))
    start = pair.net.now
    pair.at(pair.b, answer_to(script.request("UPDATE"), 500, Retry_After=7), wait=9)
    assert round(sent(pair, "UPDATE")[-1] - start, 1) == 7.0


def test_glare_without_end_is_given_up() -> None:
    pair, script = confirmed()
    script_reacts = pair.b

    def refuse(message: Any) -> Any:
        return message

    pair.at(pair.a, ua.Modify("call", b"offer2"))
    for _ in range(5):
        pair.at(script_reacts, refuse(answer_to(script.request("UPDATE"), 491)), wait=5)
    failed = pair.a.last(ua.OfferFailed)
    assert failed.cause is ua.Cause.GLARE and failed.response is not None and failed.response.status == 491
    assert len(sent(pair, "UPDATE")) == 5


def test_a_500_without_retry_after_is_final() -> None:
    pair, script = confirmed()
    pair.at(pair.a, ua.Modify("call", b"offer2"))
    pair.at(pair.b, answer_to(script.request("UPDATE"), 500), wait=20)
    assert pair.a.last(ua.OfferFailed).cause is ua.Cause.REJECTED and len(sent(pair, "UPDATE")) == 1


def test_hanging_up_ends_the_retries() -> None:
    pair, script = confirmed()
    pair.at(pair.a, ua.Modify("call", b"offer2"))
    pair.at(pair.b, answer_to(script.request("UPDATE"), 491))
    pair.at(pair.a, ua.Hangup("call"))
    pair.at(pair.b, answer_to(script.request("BYE"), 200), wait=10)
    assert len(sent(pair, "UPDATE")) == 1
    assert pair.quiet()


# ---- losing the dialog ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["UPDATE", "INVITE"])
@pytest.mark.parametrize(("status", "cause"), [(481, ua.Cause.GONE), (408, ua.Cause.TIMEOUT), (404, ua.Cause.GONE)])
def test_rfc3261_12_2_1_2_481_and_408_end_the_call_with_bye(method: str, status: int, cause: ua.Cause) -> None:
    pair, script = confirmed()
    pair.at(pair.a, ua.Modify("call", b"offer2", method))
    pair.at(pair.b, answer_to(script.request(method), status))
    ended = pair.a.last(ua.Ended)
    assert ended.cause is cause and isinstance(ended.message, Response) and ended.message.status == status
    pair.at(pair.b, answer_to(script.request("BYE"), 481))
    assert pair.quiet()


def test_no_response_at_all_ends_the_call() -> None:
    pair, _ = confirmed()
    pair.at(pair.a, ua.Modify("call", b"offer2"), wait=70)
    assert pair.a.last(ua.Ended).cause is ua.Cause.TIMEOUT
    assert pair.quiet()


# ---- re-INVITE --------------------------------------------------------------------------------------------------


def test_a_re_invite_with_reliable_provisional_responses() -> None:
    """RFC 3262 in a re-INVITE: the answer comes early, the numbers begin anew."""
    pair, script = confirmed()
    pair.at(pair.a, ua.Modify("call", b"offer2", "INVITE"))
    again = script.request("INVITE")
    pair.at(pair.b, answer_to(again, 183, "b1", b"answer2", Require="100rel", RSeq=50))
    prack = script.request("PRACK")
    assert str(prack.rack) == f"50 {again.cseq.number} INVITE"
    assert pair.a.last(ua.AnswerReceived).sdp == b"answer2"
    pair.at(pair.b, answer_to(prack, 200), answer_to(again, 200, "b1"))
    assert script.request("ACK").cseq.number == again.cseq.number
    pair.at(pair.b, answer_to(again, 200, "b1"))
    pair.expect("""
        > INVITE (sdp)
        < 183 INVITE (sdp)
        > PRACK
        < 200 PRACK
        < 200 INVITE
        > ACK
        < 200 INVITE
        > ACK
    """)


def test_a_re_invite_that_the_bye_crosses_is_still_acked() -> None:
    pair, script = confirmed()
    pair.at(pair.a, ua.Modify("call", b"offer2", "INVITE"))
    again = script.request("INVITE")
    pair.at(pair.a, ua.Hangup("call"))
    pair.at(pair.b, answer_to(script.request("BYE"), 200), answer_to(again, 200, "b1", b"answer2"))
    assert script.request("ACK").cseq.number == again.cseq.number
    pair.at(pair.b, answer_to(again, 200, "b1", b"answer2"))
    assert pair.arrows()[-1] == "> ACK"
    assert not [output for output in pair.a.all(ua.AnswerReceived) if output.sdp == b"answer2"]


def test_a_challenged_re_invite_is_repeated() -> None:
    pair, script = confirmed()
    pair.at(pair.a, ua.Modify("call", b"offer2", "INVITE"))
    first = script.request("INVITE")
    pair.at(pair.b, answer_to(first, 401, WWW_Authenticate='Digest realm="x", nonce="n"'))
    challenged = pair.a.last(ua.Challenged)
    assert challenged.call == "call" and challenged.request.method == "INVITE"
    pair.at(pair.a, ua.Authorize(challenged.challenge, (("Authorization", "Digest x=1"),)))
    second = script.request("INVITE")
    assert second.headers.get("Authorization") == "Digest x=1" and second.body == b"offer2"
    assert second.cseq.number == first.cseq.number + 1 and second.to.tag == "b1"
    pair.at(pair.b, answer_to(second, 200, "b1", b"answer2"))
    assert pair.a.last(ua.AnswerReceived).sdp == b"answer2"
    assert script.request("ACK").headers.get("Authorization") == "Digest x=1"


# ---- session timer ----------------------------------------------------------------------------------------------


def test_rfc4028_refresh_by_update_at_half_the_interval() -> None:
    pair = Pair(session_timer=ua.SessionTimerPolicy(interval=200))
    pair.talk()
    start = pair.net.now
    pair.net.run(350)
    assert [round(at - start) for at in sent(pair, "UPDATE")] == [100, 200, 300]
    update = next(m for _, _, m in pair.net.sent if isinstance(m, Request) and m.method == "UPDATE")
    assert str(update.session_expires) == "200;refresher=uac" and update.body == b""
    assert not pair.a.all(ua.Refreshed) and not pair.a.all(ua.Ended)
    pair.at(pair.a, ua.Hangup("call"))
    assert pair.quiet()


def test_rfc4028_the_callee_refreshes_if_the_caller_asks() -> None:
    pair = Pair(session_timer=ua.SessionTimerPolicy(interval=200, refresher="uas"))
    pair.talk()
    pair.net.run(250)
    assert not sent(pair, "UPDATE")
    updates = [m for _, sender, m in pair.net.sent if isinstance(m, Request) and m.method == "UPDATE"]
    assert len(updates) == 2 and str(updates[0].session_expires) == "200;refresher=uac"


def test_rfc4028_refresh_by_re_invite_with_the_same_offer() -> None:
    pair, script = confirmed(
        Allow="INVITE, ACK, BYE", Session_Expires="200;refresher=uac", Require="timer", Supported="timer"
    )
    pair.net.run(101)
    again = script.request("INVITE")
    assert again.to.tag == "b1" and again.body == b"offer"
    assert str(again.session_expires) == "200;refresher=uac"
    pair.at(pair.b, answer_to(again, 200, "b1", b"answer", Session_Expires="200;refresher=uac", Require="timer"))
    assert script.request("ACK").cseq.number == again.cseq.number


def test_rfc4028_10_a_session_that_is_not_refreshed_ends_with_bye() -> None:
    pair, script = confirmed(Session_Expires="300;refresher=uas", Require="timer")
    start = pair.net.now
    pair.net.run(267)
    assert not pair.a.all(ua.Ended)
    pair.net.run(2)
    ended = pair.a.last(ua.Ended)
    assert ended.cause is ua.Cause.EXPIRED
    assert round(sent(pair, "BYE")[0] - start) == 268  # 300 - 32
    assert script.request("BYE").reasons[0].cause == 408


def test_rfc4028_a_refresh_of_the_peer_extends_the_session() -> None:
    pair = Pair(session_timer=ua.SessionTimerPolicy(interval=300, refresher="uac"))
    pair.talk()
    pair.net.run(2000)
    assert not pair.b.all(ua.Ended) and not pair.a.all(ua.Ended)


def test_rfc4028_a_422_to_a_refresh_is_retried_greater() -> None:
    pair, script = confirmed(Session_Expires="200;refresher=uac", Require="timer")
    pair.net.run(101)
    first = script.request("UPDATE")
    pair.at(pair.b, answer_to(first, 422, Min_SE="500"))
    second = script.request("UPDATE")
    assert second.session_expires is not None and second.session_expires.seconds == 500
    assert second.min_se is not None and second.min_se.seconds == 500
    pair.at(pair.b, answer_to(second, 200, "b1", Session_Expires="500;refresher=uac", Require="timer"), wait=240)
    assert len(sent(pair, "UPDATE")) == 2


def test_rfc4028_a_refused_refresh_is_tried_again_and_then_the_session_ends() -> None:
    pair, script = confirmed(Session_Expires="400;refresher=uac", Require="timer")
    start = pair.net.now
    answered = 0
    for _ in range(400):
        pair.net.run(1)
        updates = [each for each in script.received if isinstance(each, Request) and each.method == "UPDATE"]
        if len(updates) > answered:
            answered = len(updates)
            pair.at(pair.b, answer_to(updates[-1], 503))
    assert [round((at - start) / 10) * 10 for at in sent(pair, "UPDATE")] == [200, 280, 330, 350, 360]
    assert pair.a.last(ua.Ended).cause is ua.Cause.EXPIRED
    assert round(sent(pair, "BYE")[0] - start) == 368


def test_rfc4028_a_2xx_without_session_expires_leaves_us_to_refresh_alone() -> None:
    """Section 7.2: the peer does not know the extension."""
    pair, script = confirmed()
    pair.net.run(901)
    assert script.request("UPDATE").session_expires is not None


def test_a_refresh_waits_for_what_is_under_way() -> None:
    pair, script = confirmed(Session_Expires="200;refresher=uac", Require="timer")
    pair.net.run(95)
    pair.at(pair.a, ua.Modify("call", b"offer2", "INVITE"), wait=6)
    assert not sent(pair, "UPDATE")
    response = answer_to(script.request("INVITE"), 200, "b1", b"answer2", Session_Expires="200;refresher=uac")
    pair.at(pair.b, response, wait=10)
    assert not sent(pair, "UPDATE")  # the re-INVITE has refreshed it
    pair.net.run(95)
    assert len(sent(pair, "UPDATE")) == 1
