"""Reliable provisional responses, PRACK and ACK as the caller: RFC 3262 section 4 and 5, RFC 6337 section 3."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.sip.engine import user_agent as ua
from imskit.sip.memory_network import Pair, Script, answer_to
from imskit.sip.wire.message import Request, Response


@pytest.fixture
def script() -> Any:
    """Alice, and a bob who does what the test writes."""
    peer = Script()
    return Pair(b=peer), peer


def reliable(request: Request, rseq: int, status: int = 183, tag: str = "b1", sdp: bytes = b"") -> Response:
    """Build a reliable provisional response."""
    return answer_to(request, status, tag, sdp, Require="100rel", RSeq=rseq, Allow="INVITE, PRACK, UPDATE, BYE")


def test_rfc3262_a_reliable_response_is_acknowledged_once(script: Any) -> None:
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    pair.at(pair.b, reliable(invite, 776656))
    prack = peer.request("PRACK")
    assert str(prack.rack) == f"776656 {invite.cseq.number} INVITE"
    assert prack.cseq.number == invite.cseq.number + 1 and prack.uri == "sip:b1@192.0.2.2:5060"
    assert "RSeq" not in prack.headers and prack.body == b""
    pair.at(pair.b, answer_to(prack, 200))
    # A retransmission is discarded (section 4).
    pair.arrows()
    pair.at(pair.b, reliable(invite, 776656))
    assert pair.arrows() == ["< 183 INVITE"]
    assert len(pair.a.all(ua.Progress)) == 1


def test_rfc3262_responses_out_of_order_are_not_acknowledged(script: Any) -> None:
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    pair.at(pair.b, reliable(invite, 10))
    pair.at(pair.b, answer_to(peer.request("PRACK"), 200))
    pair.arrows()
    pair.at(pair.b, reliable(invite, 12, 180))
    pair.at(pair.b, reliable(invite, 9, 182))
    assert pair.arrows() == ["< 180 INVITE", "< 182 INVITE"]
    pair.at(pair.b, reliable(invite, 11, 181))
    assert pair.arrows() == ["< 181 INVITE", "> PRACK"]
    assert [output.response.status for output in pair.a.all(ua.Progress)] == [183, 181]


def test_rfc3262_each_fork_has_its_own_numbers(script: Any) -> None:
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    pair.at(pair.b, reliable(invite, 5, tag="b1"), reliable(invite, 900, tag="b2"))
    racks = [str(each.rack) for each in peer.received if isinstance(each, Request) and each.method == "PRACK"]
    assert racks == [f"5 {invite.cseq.number} INVITE", f"900 {invite.cseq.number} INVITE"]


def test_a_100_is_never_reliable_and_rseq_alone_means_nothing(script: Any) -> None:
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    pair.arrows()
    pair.at(pair.b, answer_to(invite, 100, Require="100rel", RSeq=1), answer_to(invite, 180, "b1", RSeq=1))
    assert pair.arrows() == ["< 100 INVITE", "< 180 INVITE"]


def test_without_100rel_in_the_invite_nothing_is_acknowledged() -> None:
    peer = Script()
    pair = Pair(b=peer, supported=("timer",))
    pair.dial()
    pair.arrows()
    pair.at(pair.b, reliable(peer.request("INVITE"), 1))
    assert pair.arrows() == ["< 183 INVITE"]
    assert not pair.a.last(ua.Progress).reliable


def test_rfc6337_3_1_1_figure_1_preview_answer_and_the_rest(script: Any) -> None:
    """Only the first SDP in a reliable response is the answer; what follows is ignored."""
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    pair.at(pair.b, answer_to(invite, 183, "b1", b"answer", Allow="UPDATE, INVITE"))  # F2
    pair.at(pair.b, reliable(invite, 1))  # F3, no SDP
    pair.at(pair.b, answer_to(peer.request("PRACK"), 200))
    pair.at(pair.a, ua.Modify("call", b"offer2"))
    assert pair.a.last(ua.Refused).refusal is ua.Refusal.PENDING  # the exchange is not closed yet
    pair.at(pair.b, reliable(invite, 2, sdp=b"answer"))  # F6
    pair.at(pair.b, answer_to(peer.request("PRACK"), 200))
    answers = [(output.sdp, output.carrier.value, output.preview) for output in pair.a.all(ua.AnswerReceived)]
    assert answers == [(b"answer", "1xx", True), (b"answer", "1xx", False)]
    pair.at(pair.b, reliable(invite, 3, 180, sdp=b"nonsense"))  # F9
    pair.at(pair.b, answer_to(peer.request("PRACK"), 200))
    pair.at(pair.b, answer_to(invite, 200, "b1", b"nonsense"))  # F12
    assert len(pair.a.all(ua.AnswerReceived)) == 2
    assert pair.a.last(ua.Answered).call == "call"
    pair.expect("""
        > INVITE (sdp)
        < 183 INVITE (sdp)
        < 183 INVITE
        > PRACK
        < 200 PRACK
        < 183 INVITE (sdp)
        > PRACK
        < 200 PRACK
        < 180 INVITE (sdp)
        > PRACK
        < 200 PRACK
        < 200 INVITE (sdp)
        > ACK
    """)


def test_rfc6337_3_1_2_figure_2_offer_in_a_provisional_response(script: Any) -> None:
    """INVITE without SDP: the first reliable response makes the offer, its PRACK answers."""
    pair, peer = script
    pair.dial(None)
    invite = peer.request("INVITE")
    assert invite.body == b""
    pair.at(pair.b, answer_to(invite, 183, "b1", b"no offer, unreliable"))
    pair.at(pair.b, reliable(invite, 1, sdp=b"offer"))
    offer = pair.a.last(ua.OfferReceived)
    assert (offer.sdp, offer.carrier) == (b"offer", ua.Carrier.PROVISIONAL)
    assert not [each for each in peer.received if isinstance(each, Request) and each.method == "PRACK"]
    pair.at(pair.a, ua.AnswerOffer(offer.exchange, b"answer"))
    prack = peer.request("PRACK")
    assert prack.body == b"answer" and prack.content_type is not None
    pair.at(pair.b, answer_to(prack, 200))
    pair.at(pair.b, answer_to(invite, 200, "b1"))
    pair.expect("""
        > INVITE
        < 183 INVITE (sdp)
        < 183 INVITE (sdp)
        > PRACK (sdp)
        < 200 PRACK
        < 200 INVITE
        > ACK
    """)
    assert pair.a.last(ua.Answered).call == "call"


def test_late_offer_in_the_2xx_is_answered_in_the_ack(script: Any) -> None:
    """RFC 3261 section 13.2.1: the ACK waits for the owner, also when the 2xx is retransmitted."""
    pair, peer = script
    pair.dial(None)
    invite = peer.request("INVITE")
    pair.at(pair.b, answer_to(invite, 200, "b1", b"offer"), answer_to(invite, 200, "b1", b"offer"))
    assert not [each for each in peer.received if isinstance(each, Request) and each.method == "ACK"]
    offer = pair.a.last(ua.OfferReceived)
    assert offer.carrier is ua.Carrier.SUCCESS and pair.a.last(ua.Answered).call == "call"
    pair.at(pair.a, ua.AnswerOffer(offer.exchange, b"answer"))
    ack = peer.request("ACK")
    assert ack.body == b"answer" and ack.cseq.number == invite.cseq.number
    pair.at(pair.b, answer_to(invite, 200, "b1", b"offer"))
    assert pair.arrows()[-2:] == ["< 200 INVITE (sdp)", "> ACK (sdp)"]


def test_a_late_offer_refused_or_left_alone_ends_the_call(script: Any) -> None:
    """RFC 6337 section 2.3: a 2xx cannot be refused any more."""
    pair, peer = script
    pair.dial(None)
    pair.at(pair.b, answer_to(peer.request("INVITE"), 200, "b1", b"offer"))
    pair.arrows()
    pair.at(pair.a, ua.RejectOffer(pair.a.last(ua.OfferReceived).exchange))
    pair.expect("""
        > ACK
        > BYE
    """)
    assert pair.a.last(ua.Ended).cause is ua.Cause.LOCAL
    pair.at(pair.b, answer_to(peer.request("BYE"), 200))
    assert pair.quiet()

    pair.dial(None)
    pair.at(pair.b, answer_to(peer.request("INVITE"), 200, "b2", b"offer"), wait=33)
    assert pair.a.last(ua.OfferWithdrawn).exchange == pair.a.last(ua.OfferReceived).exchange
    assert peer.request("BYE").to.tag == "b2"


def test_hanging_up_before_the_late_offer_is_answered(script: Any) -> None:
    pair, peer = script
    pair.dial(None)
    pair.at(pair.b, answer_to(peer.request("INVITE"), 200, "b1", b"offer"))
    pair.arrows()
    pair.at(pair.a, ua.Hangup("call"))
    pair.expect("""
        > ACK
        > BYE
    """)
    pair.at(pair.a, ua.AnswerOffer(pair.a.last(ua.OfferReceived).exchange, b"x"))
    assert pair.a.last(ua.Refused).refusal is ua.Refusal.UNKNOWN


def test_a_2xx_without_the_offer_that_is_due_ends_the_call(script: Any) -> None:
    pair, peer = script
    pair.dial(None)
    pair.at(pair.b, answer_to(peer.request("INVITE"), 200, "b1"))
    assert pair.a.last(ua.Ended).cause is ua.Cause.PROTOCOL
    assert peer.request("BYE").to.tag == "b1"


def test_refusing_an_offer_in_a_provisional_response_cancels_the_call(script: Any) -> None:
    pair, peer = script
    pair.dial(None)
    pair.at(pair.b, reliable(peer.request("INVITE"), 1, sdp=b"offer"))
    pair.at(pair.a, ua.RejectOffer(pair.a.last(ua.OfferReceived).exchange))
    assert peer.request("CANCEL").cseq.number == peer.request("INVITE").cseq.number


# ---- PRACK with an offer, and in the owner's hands --------------------------------------------------------------


def test_rfc6337_pattern_5_a_new_offer_in_the_prack() -> None:
    pair = Pair()
    call = pair.dial(manual_prack=True)
    pair.at(pair.b, ua.Provisional(call, 183, sdp=b"answer"))
    due = pair.a.last(ua.PrackDue)
    assert due.response.status == 183
    pair.at(pair.a, ua.Prack(due.exchange, b"offer2"))
    offer = pair.b.last(ua.OfferReceived)
    assert (offer.sdp, offer.carrier) == (b"offer2", ua.Carrier.PRACK)
    assert pair.b.last(ua.PrackReceived).status == 183
    # The 200 waits until the offer is answered; nothing else may be offered.
    pair.at(pair.b, ua.Answer(call))
    pair.at(pair.a, ua.Modify("call", b"offer3"))
    assert pair.a.last(ua.Refused).refusal is ua.Refusal.PENDING
    pair.at(pair.b, ua.AnswerOffer(offer.exchange, b"answer2"))
    pair.expect("""
        > INVITE (sdp)
        < 183 INVITE (sdp)
        > PRACK (sdp)
        < 200 PRACK (sdp)
        < 200 INVITE
        > ACK
    """)
    answer = pair.a.last(ua.AnswerReceived)
    assert (answer.sdp, answer.carrier) == (b"answer2", ua.Carrier.PRACK)
    pair.at(pair.a, ua.Hangup("call"))
    assert pair.quiet()


def test_an_offer_in_a_prack_may_be_refused() -> None:
    pair = Pair()
    call = pair.dial(manual_prack=True)
    pair.at(pair.b, ua.Provisional(call, 183, sdp=b"answer"))
    pair.at(pair.a, ua.Prack(pair.a.last(ua.PrackDue).exchange, b"offer2"))
    pair.at(pair.b, ua.RejectOffer(pair.b.last(ua.OfferReceived).exchange, 488))
    failed = pair.a.last(ua.OfferFailed)
    assert failed.cause is ua.Cause.REJECTED and failed.response is not None and failed.response.status == 488
    pair.at(pair.b, ua.Answer(call))
    assert pair.a.last(ua.Answered).call == "call"
    # The session is as it was: a new offer can be made.
    pair.at(pair.a, ua.Modify("call", b"offer3"))
    assert pair.b.last(ua.OfferReceived).sdp == b"offer3"


def test_a_prack_may_not_offer_when_the_response_had_no_answer() -> None:
    pair = Pair()
    call = pair.dial(manual_prack=True)
    pair.at(pair.b, ua.Provisional(call, 180, reliable=True))
    due = pair.a.last(ua.PrackDue)
    pair.at(pair.a, ua.Prack(due.exchange, b"offer2"))
    assert pair.a.last(ua.Refused).refusal is ua.Refusal.NO_SDP
    pair.at(pair.a, ua.Prack(due.exchange, headers=(("P-Test", "1"),)))
    assert pair.b.last(ua.PrackReceived).request.headers.get("P-Test") == "1"
    pair.at(pair.a, ua.Prack(due.exchange))
    assert pair.a.last(ua.Refused).refusal is ua.Refusal.UNKNOWN


def test_a_prack_that_is_due_is_withdrawn_when_the_call_fails() -> None:
    pair = Pair()
    call = pair.dial(manual_prack=True)
    pair.at(pair.b, ua.Provisional(call, 180, reliable=True))
    pair.at(pair.b, ua.Reject(call, 486))
    assert [type(output) for output in pair.a.outputs[-2:]] == [ua.OfferWithdrawn, ua.Ended]
    assert pair.a.last(ua.OfferWithdrawn).exchange == pair.a.last(ua.PrackDue).exchange


# ---- PRACK that fails -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [481, 408])
def test_a_prack_answered_481_ends_the_early_dialog(script: Any, status: int) -> None:
    """RFC 3261 section 12.2.1.2.  It was the only branch: the call is cancelled."""
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    pair.at(pair.b, reliable(invite, 1))
    pair.at(pair.b, answer_to(peer.request("PRACK"), status))
    assert pair.a.last(ua.DialogEnded).cause in (ua.Cause.GONE, ua.Cause.TIMEOUT)
    pair.at(pair.b, answer_to(peer.request("CANCEL"), 200), answer_to(invite, 487, "b1"))
    assert pair.a.last(ua.Ended).cause is pair.a.last(ua.DialogEnded).cause
    assert pair.quiet()


def test_other_branches_survive_a_lost_one(script: Any) -> None:
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    pair.at(pair.b, answer_to(invite, 180, "b2"), reliable(invite, 1))
    pair.at(pair.b, answer_to(peer.request("PRACK"), 481))
    assert pair.a.last(ua.DialogEnded).dialog.remote_tag == "b1"
    assert "> CANCEL" not in pair.arrows()
    pair.at(pair.b, answer_to(invite, 200, "b2", b"answer"))
    assert pair.a.last(ua.Answered).dialog.remote_tag == "b2"


def test_a_prack_refused_for_another_reason_changes_nothing(script: Any) -> None:
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    pair.at(pair.b, reliable(invite, 1, sdp=b"answer"))
    pair.at(pair.b, answer_to(peer.request("PRACK"), 503))
    assert not pair.a.all(ua.DialogEnded)
    pair.at(pair.b, answer_to(invite, 200, "b1"))
    assert pair.a.last(ua.Answered).call == "call"


def test_target_refresh_by_a_reliable_response_only(script: Any) -> None:
    """RFC 6141 section 4.9."""
    pair, peer = script
    pair.dial()
    invite = peer.request("INVITE")
    pair.at(pair.b, answer_to(invite, 180, "b1"))
    moved = answer_to(invite, 180, "b1")
    moved.headers.set("Contact", "<sip:moved@192.0.2.2>")
    pair.at(pair.b, moved)
    first = reliable(invite, 1)
    first.headers.set("Contact", "<sip:there@192.0.2.2>")
    pair.at(pair.b, first)
    assert peer.request("PRACK").uri == "sip:there@192.0.2.2"
