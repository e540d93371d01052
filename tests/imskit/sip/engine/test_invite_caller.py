"""Outgoing calls, against a user agent and against a script: RFC 3665, RFC 3261 sections 9 and 13.2, RFC 6228."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.sip.engine import user_agent as ua
from imskit.sip.memory_network import Link, Pair, Script, answer_to
from imskit.sip.wire.message import Request, Response, response_to


@pytest.fixture
def script() -> Any:
    """Alice, and a bob who does what the test writes."""
    peer = Script()
    return Pair(b=peer), peer


def test_rfc3665_3_1_session_establishment() -> None:
    pair = Pair()
    call = pair.dial()
    pair.at(pair.b, ua.Provisional(call, 180), wait=3)
    pair.at(pair.b, ua.Answer(call, b"answer"), wait=5)
    pair.at(pair.b, ua.Hangup(call))
    pair.expect("""
        > INVITE (sdp)
        < 180 INVITE
        < 200 INVITE (sdp)
        > ACK
        < BYE
        > 200 BYE
    """)
    names = [type(output).__name__ for output in pair.a.outputs]
    assert names == ["Progress", "AnswerReceived", "Answered", "Ended"]
    answer = pair.a.last(ua.AnswerReceived)
    assert (answer.sdp, answer.carrier, answer.preview) == (b"answer", ua.Carrier.SUCCESS, False)
    assert pair.a.last(ua.Ended).cause is ua.Cause.REMOTE
    assert pair.b.last(ua.Ended).cause is ua.Cause.LOCAL
    assert pair.b.last(ua.Confirmed).dialog == pair.b.last(ua.IncomingCall).dialog
    assert pair.quiet()


def test_rfc3665_3_7_session_with_re_invite_is_not_needed_to_hang_up_from_the_caller() -> None:
    pair = Pair()
    pair.talk()
    pair.at(pair.a, ua.Hangup("call", (("Reason", 'SIP;cause=200;text="done"'),)))
    pair.expect("""
        > BYE
        < 200 BYE
    """)
    bye = pair.b.last(ua.Ended).message
    assert bye is not None and bye.reasons[0].cause == 200
    assert pair.quiet()


def test_rfc3665_3_8_unsuccessful_no_answer() -> None:
    """The caller cancels after the 180; Reason goes with the CANCEL (RFC 3326)."""
    pair = Pair()
    call = pair.dial()
    pair.at(pair.b, ua.Provisional(call))
    pair.at(pair.a, ua.Hangup("call", (("Reason", "SIP;cause=487"),)))
    pair.expect("""
        > INVITE (sdp)
        < 180 INVITE
        > CANCEL
        < 200 CANCEL
        < 487 INVITE
        > ACK
    """)
    ended = pair.a.last(ua.Ended)
    assert ended.cause is ua.Cause.LOCAL and isinstance(ended.message, Response) and ended.message.status == 487
    assert pair.b.last(ua.Ended).cause is ua.Cause.REMOTE
    cancel = pair.b.last(ua.Ended).message
    assert isinstance(cancel, Request) and cancel.method == "CANCEL" and cancel.reasons[0].cause == 487
    assert pair.quiet()


@pytest.mark.parametrize(
    ("status", "name"), [(486, "3.9 busy"), (480, "3.11 temporarily unavailable"), (603, "decline")]
)
def test_rfc3665_unsuccessful(status: int, name: str) -> None:
    pair = Pair()
    call = pair.dial()
    fields = (("Retry-After", "30"), ("Warning", '399 bob "asleep"'), ("Reason", "Q.850;cause=17"))
    pair.at(pair.b, ua.Reject(call, status, headers=fields))
    pair.expect(f"""
        > INVITE (sdp)
        < {status} INVITE
        > ACK
    """)
    ended = pair.a.last(ua.Ended)
    assert ended.cause is ua.Cause.REJECTED and ended.message is not None
    assert ended.message.retry_after is not None and ended.message.retry_after.seconds == 30
    assert ended.message.headers.get("Warning") == '399 bob "asleep"'
    assert ended.message.reasons[0].protocol == "Q.850"
    assert pair.quiet()


def test_redirect_hands_up_the_contacts() -> None:
    pair = Pair()
    call = pair.dial()
    pair.at(pair.b, ua.Reject(call, 302, headers=(("Contact", "<sip:carol@192.0.2.3>"),)))
    message = pair.a.last(ua.Ended).message
    assert message is not None and str(message.contacts[0]) == "<sip:carol@192.0.2.3>"  # type: ignore[union-attr]


def test_rfc3665_3_10_no_response_ends_with_timer_b() -> None:
    pair = Pair()
    pair.net.drop = lambda sender, _: sender == "alice"
    pair.dial()
    pair.net.run(40)
    assert pair.arrows() == ["x> INVITE (sdp)"] * 7
    assert pair.a.last(ua.Ended) == ua.Ended("call", ua.Cause.TIMEOUT)
    assert pair.quiet()


def test_cancel_before_any_response_waits_for_the_first() -> None:
    """RFC 3261 section 9.1."""
    pair = Pair()
    pair.dial(wait=0.0)
    pair.at(pair.a, ua.Hangup("call"), wait=1)
    pair.expect("""
        > INVITE (sdp)
        < 100 INVITE
        > CANCEL
        < 200 CANCEL
        < 487 INVITE
        > ACK
    """)
    assert pair.a.last(ua.Ended).cause is ua.Cause.LOCAL
    assert pair.quiet()


def test_cancel_that_crosses_the_200_is_followed_by_ack_and_bye() -> None:
    """RFC 3261 section 9.1 and 15: the call was answered; it is taken back."""
    pair = Pair()
    call = pair.dial()
    pair.at(pair.b, ua.Provisional(call))
    pair.b.feed(ua.Answer(call, b"answer"))
    pair.at(pair.a, ua.Hangup("call"))
    pair.expect("""
        > INVITE (sdp)
        < 180 INVITE
        < 200 INVITE (sdp)
        > CANCEL
        > ACK
        > BYE
        < 200 CANCEL
        < 200 BYE
    """)
    assert pair.a.last(ua.Ended).cause is ua.Cause.LOCAL
    assert not pair.a.all(ua.Answered)
    assert pair.quiet()


def test_a_peer_that_ignores_the_cancel_is_left_after_64_t1(script: Any) -> None:
    pair, peer = script
    pair.dial()
    pair.at(pair.b, answer_to(peer.request("INVITE"), 180, "b1"))
    pair.at(pair.a, ua.Hangup("call"), wait=31)
    assert not pair.a.all(ua.Ended)
    pair.net.run(2)
    assert pair.a.last(ua.Ended).cause is ua.Cause.LOCAL
    assert pair.quiet()


def test_nobody_answers_in_time() -> None:
    pair = Pair()
    call = pair.dial(no_answer=20.0)
    pair.at(pair.b, ua.Provisional(call), wait=25)
    assert pair.arrows()[-4:] == ["> CANCEL", "< 200 CANCEL", "< 487 INVITE", "> ACK"]
    assert pair.a.last(ua.Ended).cause is ua.Cause.NO_ANSWER
    assert pair.quiet()


# ---- forks ------------------------------------------------------------------------------------------------------


def test_forked_early_dialogs_are_told_apart(script: Any) -> None:
    """RFC 3261 section 13.2.2.1: each To tag is an early dialog with an exchange of its own."""
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    pair.at(pair.b, answer_to(invite, 183, "b1", b"one"), answer_to(invite, 183, "b2", b"two"))
    pair.at(pair.b, answer_to(invite, 180, "b2"))
    previews = [(output.dialog.remote_tag, output.sdp, output.preview) for output in pair.a.all(ua.AnswerReceived)]
    assert previews == [("b1", b"one", True), ("b2", b"two", True)]
    assert [output.dialog.remote_tag for output in pair.a.all(ua.Progress) if output.dialog] == ["b1", "b2", "b2"]
    pair.at(pair.b, answer_to(invite, 200, "b2", b"two"))
    assert pair.a.last(ua.Answered).dialog.remote_tag == "b2"
    ended = pair.a.last(ua.DialogEnded)
    assert (ended.dialog.remote_tag, ended.cause) == ("b1", ua.Cause.REPLACED)
    assert peer.request("ACK").uri == "sip:b2@192.0.2.2:5060"


def test_a_second_2xx_is_acked_and_byed(script: Any) -> None:
    """RFC 3261 section 13.2.2.4: the first branch that answers has the call."""
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    pair.at(pair.b, answer_to(invite, 180, "b1"), answer_to(invite, 180, "b2"))
    pair.at(pair.b, answer_to(invite, 200, "b1", b"one"))
    pair.arrows()
    pair.at(pair.b, answer_to(invite, 200, "b2", b"two"))
    pair.expect("""
        < 200 INVITE (sdp)
        > ACK
        > BYE
    """)
    assert peer.request("BYE").uri == "sip:b2@192.0.2.2:5060"
    assert peer.request("BYE").to.tag == "b2"
    pair.at(pair.b, answer_to(peer.request("BYE"), 200))
    pair.arrows()
    # Its retransmission is ACKed again, by the same ACK, and not byed again.
    first = peer.request("ACK")
    pair.at(pair.b, answer_to(invite, 200, "b2", b"two"))
    pair.expect("""
        < 200 INVITE (sdp)
        > ACK
    """)
    assert peer.request("ACK").encode() == first.encode()
    assert not pair.a.all(ua.Ended)
    # A third branch that nobody heard of before.
    pair.at(pair.b, answer_to(invite, 200, "b3", b"three"))
    assert peer.request("BYE").to.tag == "b3"
    pair.at(pair.b, answer_to(peer.request("BYE"), 200))
    assert len(pair.a.all(ua.Answered)) == 1


def test_a_retransmitted_2xx_is_acked_again(script: Any) -> None:
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    for _ in range(3):
        pair.at(pair.b, answer_to(invite, 200, "b1", b"answer"))
    assert pair.arrows() == ["> INVITE (sdp)", *["< 200 INVITE (sdp)", "> ACK"] * 3]
    assert len({each.encode() for each in peer.received if isinstance(each, Request) and each.method == "ACK"}) == 1
    assert len(pair.a.all(ua.Answered)) == 1


def test_an_ack_repeats_the_credentials_of_the_invite(script: Any) -> None:
    """RFC 3261 section 13.2.2.4 with 22.1."""
    pair, peer = script
    pair.dial(headers=(("Proxy-Authorization", 'Digest username="a"'),))
    pair.at(pair.b, answer_to(peer.request("INVITE"), 200, "b1", b"answer"))
    assert peer.request("ACK").headers.get("Proxy-Authorization") == 'Digest username="a"'


def test_one_early_dialog_may_be_ended_by_bye(script: Any) -> None:
    """RFC 3261 section 15: the caller may end one branch and keep the others."""
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    pair.at(pair.b, answer_to(invite, 180, "b1"), answer_to(invite, 180, "b2"))
    dialog = pair.a.all(ua.Progress)[0].dialog
    pair.arrows()
    pair.at(pair.a, ua.Hangup("call", dialog=dialog))
    pair.expect("> BYE")
    assert peer.request("BYE").to.tag == "b1"
    pair.at(pair.b, answer_to(peer.request("BYE"), 200))
    assert pair.a.last(ua.DialogEnded).cause is ua.Cause.LOCAL
    pair.at(pair.b, answer_to(invite, 200, "b2", b"two"))
    assert pair.a.last(ua.Answered).dialog.remote_tag == "b2"


def test_rfc6228_199_ends_one_early_dialog(script: Any) -> None:
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    pair.at(pair.b, answer_to(invite, 180, "b1"), answer_to(invite, 180, "b2"))
    pair.at(pair.b, answer_to(invite, 199, "b1", Reason="SIP;cause=486"))
    ended = pair.a.last(ua.DialogEnded)
    assert ended.dialog.remote_tag == "b1" and ended.message is not None and ended.message.reasons[0].cause == 486
    pair.at(pair.a, ua.Modify("call", b"new"))
    assert pair.a.last(ua.Refused).refusal is ua.Refusal.PENDING  # b2 alone is left, its offer is not answered
    # A 199 for a dialog that never was makes none.
    pair.at(pair.b, answer_to(invite, 199, "b9"))
    assert len(pair.a.all(ua.DialogEnded)) == 1


def test_a_failure_ends_all_early_dialogs(script: Any) -> None:
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    pair.at(pair.b, answer_to(invite, 180, "b1"), answer_to(invite, 180, "b2"))
    pair.at(pair.b, answer_to(invite, 600, "b1"))
    assert pair.a.last(ua.Ended).cause is ua.Cause.REJECTED
    assert pair.quiet()


def test_more_forks_than_anybody_needs_are_ignored(script: Any) -> None:
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    for number in range(40):
        pair.at(pair.b, answer_to(invite, 180, f"b{number}"))
    assert len({output.dialog for output in pair.a.all(ua.Progress)}) == 32


# ---- retries ----------------------------------------------------------------------------------------------------


def test_rfc3665_3_3_challenged_by_a_proxy(script: Any) -> None:
    """407: the owner gives credentials, the INVITE goes out again with the next CSeq and the same Call-ID."""
    pair, peer = script
    pair.dial()
    first = peer.request("INVITE")
    pair.at(pair.b, answer_to(first, 407, "p", Proxy_Authenticate='Digest realm="x", nonce="n"'))
    challenged = pair.a.last(ua.Challenged)
    assert challenged.call == "call" and challenged.response.status == 407
    pair.at(pair.a, ua.Authorize(challenged.challenge, (("Proxy-Authorization", "Digest response=1"),)))
    second = peer.request("INVITE")
    assert second.cseq.number == first.cseq.number + 1
    assert (second.call_id, second.from_) == (first.call_id, first.from_)
    assert second.to.tag is None and second.body == b"offer"
    assert second.headers.get("Proxy-Authorization") == "Digest response=1"
    pair.at(pair.b, answer_to(second, 200, "b1", b"answer"))
    assert peer.request("ACK").headers.get("Proxy-Authorization") == "Digest response=1"
    assert pair.a.last(ua.Answered).call == "call"
    pair.arrows()


def test_a_challenge_ends_the_early_dialogs(script: Any) -> None:
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    pair.at(pair.b, answer_to(invite, 180, "b1"))
    pair.at(pair.b, answer_to(invite, 401, "b1"))
    assert pair.a.last(ua.DialogEnded).dialog.remote_tag == "b1"
    pair.at(pair.a, ua.Decline(pair.a.last(ua.Challenged).challenge))
    ended = pair.a.last(ua.Ended)
    assert ended.cause is ua.Cause.REJECTED and isinstance(ended.message, Response) and ended.message.status == 401
    assert pair.quiet()


def test_a_challenge_nobody_answers_is_declined(script: Any) -> None:
    pair, peer = script
    pair.dial()
    pair.at(pair.b, answer_to(peer.request("INVITE"), 401, "b1"), wait=17)
    assert pair.a.last(ua.Ended).cause is ua.Cause.REJECTED
    pair.at(pair.a, ua.Authorize(pair.a.last(ua.Challenged).challenge, ()))
    assert pair.a.last(ua.Refused).refusal is ua.Refusal.UNKNOWN


def test_hanging_up_declines_the_challenge(script: Any) -> None:
    pair, peer = script
    pair.dial()
    pair.at(pair.b, answer_to(peer.request("INVITE"), 401, "b1"))
    pair.at(pair.a, ua.Hangup("call"))
    assert pair.a.last(ua.Ended).cause is ua.Cause.LOCAL
    assert pair.quiet()


def test_the_fourth_challenge_is_the_outcome(script: Any) -> None:
    pair, peer = script
    pair.dial()
    for _ in range(3):
        pair.at(pair.b, answer_to(peer.request("INVITE"), 401, "b1"))
        pair.at(pair.a, ua.Authorize(pair.a.last(ua.Challenged).challenge, (("Authorization", "Digest x=1"),)))
    pair.at(pair.b, answer_to(peer.request("INVITE"), 401, "b1"))
    assert len(pair.a.all(ua.Challenged)) == 3
    assert pair.a.last(ua.Ended).cause is ua.Cause.REJECTED


def test_rfc4028_7_3_a_422_is_retried_with_the_greater_min_se(script: Any) -> None:
    pair, peer = script
    pair.dial()
    first = peer.request("INVITE")
    assert str(first.session_expires) == "1800" and first.min_se is None
    pair.at(pair.b, answer_to(first, 422, "b1", Min_SE="3600"))
    second = peer.request("INVITE")
    assert second.cseq.number == first.cseq.number + 1
    assert second.session_expires is not None and second.session_expires.seconds == 3600
    assert second.min_se is not None and second.min_se.seconds == 3600
    # The same Min-SE again makes no sense: the call fails.
    pair.at(pair.b, answer_to(second, 422, "b1", Min_SE="3600"))
    assert pair.a.last(ua.Ended).cause is ua.Cause.REJECTED


# ---- broken peers -----------------------------------------------------------------------------------------------


def test_a_2xx_without_an_answer_ends_the_call(script: Any) -> None:
    pair, peer = script
    pair.dial()
    pair.arrows()
    pair.at(pair.b, answer_to(peer.request("INVITE"), 200, "b1"))
    pair.expect("""
        < 200 INVITE
        > ACK
        > BYE
    """)
    assert pair.a.last(ua.Ended).cause is ua.Cause.PROTOCOL
    pair.at(pair.b, answer_to(peer.request("BYE"), 200))
    assert pair.quiet()


def test_a_preview_stands_for_the_answer_that_the_2xx_lacks(script: Any) -> None:
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    pair.at(pair.b, answer_to(invite, 183, "b1", b"early"))
    pair.at(pair.b, answer_to(invite, 200, "b1"))
    assert pair.a.last(ua.AnswerReceived).sdp == b"early" and not pair.a.last(ua.AnswerReceived).preview
    assert pair.a.last(ua.Answered).call == "call"


def test_a_2xx_without_contact_ends_the_call(script: Any) -> None:
    pair, peer = script
    pair.dial()
    response = response_to(peer.request("INVITE"), 200, to_tag="b1")
    pair.at(pair.b, response)
    assert pair.a.last(ua.Ended).cause is ua.Cause.PROTOCOL
    assert pair.quiet()


def test_a_180_without_contact_or_tag_rings_without_a_dialog(script: Any) -> None:
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    pair.at(pair.b, response_to(invite, 180, to_tag="b1"), response_to(invite, 180))
    assert [(output.dialog, output.response.status) for output in pair.a.all(ua.Progress)] == [(None, 180), (None, 180)]


def test_a_multipart_body_holds_the_answer(script: Any) -> None:
    pair, peer = script
    pair.dial()
    response = answer_to(peer.request("INVITE"), 200, "b1")
    body = (
        b"--x\r\nContent-Type: text/plain\r\n\r\nhi\r\n--x\r\nContent-Type: application/sdp\r\n\r\nanswer\r\n--x--\r\n"
    )
    response.set_body(body, "multipart/mixed;boundary=x")
    pair.at(pair.b, response)
    assert pair.a.last(ua.AnswerReceived).sdp == b"answer"


# ---- commands ---------------------------------------------------------------------------------------------------


def test_a_name_in_use_and_unknown_names_are_refused() -> None:
    pair = Pair()
    pair.dial()
    pair.dial()
    pair.at(pair.a, ua.Hangup("other"), ua.Answer("call", b"x"), ua.Modify("call", b"x"))
    refusals = [output.refusal for output in pair.a.all(ua.Refused)]
    assert refusals == [ua.Refusal.DUPLICATE, ua.Refusal.UNKNOWN, ua.Refusal.STATE, ua.Refusal.STATE]


def test_the_invite_says_what_is_supported_and_takes_the_owners_fields() -> None:
    rules = (
        ua.HeaderRule((("P-Access-Network-Info", "3GPP-E-UTRAN-FDD"),), responses=True),
        ua.HeaderRule((("Security-Verify", "x"),), methods=frozenset({"INVITE"})),
        ua.HeaderRule((("P-Everywhere", "1"),), but=frozenset()),
    )
    pair = Pair(rules=rules, route=("<sip:pcscf.example.org;lr>",), software="test")
    call = pair.dial(headers=(("P-Preferred-Identity", "<sip:alice@example.org>"),), require=("100rel",))
    invite = pair.b.last(ua.IncomingCall).request
    assert invite.supported == ["100rel", "timer"] and invite.require == ["100rel"]
    assert "UPDATE" in invite.allow and invite.headers.get("Accept") == "application/sdp"
    assert [str(route) for route in invite.routes] == ["<sip:pcscf.example.org;lr>"]
    assert invite.headers.get("P-Preferred-Identity") and invite.headers.get("P-Access-Network-Info")
    assert invite.headers.get("Security-Verify") and invite.max_forwards == 70
    assert str(invite.contacts[0]) == "<sip:alice@192.0.2.1:5060>"  # type: ignore[union-attr]
    pair.at(pair.b, ua.Provisional(call, 183, sdp=b"answer"))
    prack = pair.b.last(ua.PrackReceived).request
    assert prack.headers.get("P-Access-Network-Info") and "Security-Verify" not in prack.headers
    pair.at(pair.b, ua.Answer(call))
    messages = {(getattr(m, "method", None) or f"{m.status} {m.cseq.method}"): m for _, _, m in pair.net.sent}  # type: ignore[attr-defined]
    assert "P-Access-Network-Info" not in messages["ACK"].headers and "P-Everywhere" in messages["ACK"].headers
    assert "P-Access-Network-Info" in messages["200 INVITE"].headers
    assert "P-Everywhere" not in messages["200 INVITE"].headers
    assert "Contact" not in messages["PRACK"].headers and "Contact" not in messages["ACK"].headers


def test_several_calls_at_once() -> None:
    pair = Pair()
    for name in ("one", "two", "three"):
        pair.a.feed(ua.Call(name, "sip:bob@192.0.2.2", "<sip:alice@example.org>", "<sip:bob@example.org>", sdp=b"o"))
    pair.net.run(0.1)
    first, second, third = (output.call for output in pair.b.all(ua.IncomingCall))
    pair.at(pair.b, ua.Answer(second, b"a"), ua.Reject(first, 486), ua.Provisional(third))
    assert pair.a.last(ua.Answered).call == "two"
    assert [output.call for output in pair.a.all(ua.Ended)] == ["one"]
    assert pair.a.engine.calls == ("two", "three")  # type: ignore[attr-defined]
    pair.at(pair.a, ua.Hangup("two"), ua.Hangup("three"))
    assert pair.quiet()


@pytest.mark.parametrize("seed", range(12))
def test_a_call_gets_through_a_bad_network(seed: int) -> None:
    """Loss, duplication and reordering: the story is the same, whatever is retransmitted."""
    pair = Pair(Link(delay=0.05, jitter=0.3, loss=0.25, duplication=0.2), seed=seed)
    call = pair.dial(wait=20)
    pair.at(pair.b, ua.Provisional(call, 183, sdp=b"answer"), wait=20)
    pair.b.react = lambda output: (
        [ua.AnswerOffer(output.exchange, b"answer2")] if isinstance(output, ua.OfferReceived) else []
    )
    pair.at(pair.a, ua.Modify("call", b"offer2"), wait=20)
    pair.at(pair.b, ua.Provisional(call, 180), wait=20)
    pair.at(pair.b, ua.Answer(call), wait=30)
    assert [output.sdp for output in pair.a.all(ua.AnswerReceived)] == [b"answer", b"answer2"]
    assert len(pair.a.all(ua.Answered)) == len(pair.b.all(ua.Confirmed)) == 1
    pair.at(pair.b, ua.Hangup(call), wait=40)
    assert pair.a.last(ua.Ended).cause is ua.Cause.REMOTE
    assert pair.quiet()


def test_the_answer_of_a_branch_that_was_ended_ends_the_call(script: Any) -> None:
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    pair.at(pair.b, answer_to(invite, 180, "b1"))
    pair.at(pair.a, ua.Hangup("call", dialog=pair.a.last(ua.Progress).dialog))
    pair.at(pair.b, answer_to(peer.request("BYE"), 200), answer_to(invite, 200, "b1", b"answer"))
    assert peer.request("ACK").to.tag == "b1" and peer.request("BYE").cseq.number > invite.cseq.number + 1
    assert pair.a.last(ua.Ended).cause is ua.Cause.LOCAL
    pair.at(pair.b, answer_to(peer.request("BYE"), 200))
    assert pair.quiet()
