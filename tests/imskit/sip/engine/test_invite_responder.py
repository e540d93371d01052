"""PRACK, UPDATE and re-INVITE from the peer, and what they are answered when offers meet: RFC 6337 section 4.3."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.sip.engine import user_agent as ua
from imskit.sip.memory_network import Pair, Script, answer_to
from imskit.sip.wire.message import Request, Response


class Peer:
    """A caller of one's own writing, with bob in an early or confirmed dialog."""

    def __init__(self, *, confirmed: bool = True, answer_early: bool = True) -> None:
        self.script = Script()
        self.pair = Pair(a=self.script)
        self.sequence = 1
        invite = self.script.build("INVITE", 1, b"offer", Supported="100rel, timer", Allow="INVITE, UPDATE, PRACK, BYE")
        self.pair.at(self.pair.a, invite)
        self.call: str = self.pair.b.last(ua.IncomingCall).call
        self.bob = self.pair.b
        if not confirmed:
            if answer_early:
                self.pair.at(self.bob, ua.Provisional(self.call, 183, sdp=b"answer"))
                self.prack()
            else:
                self.pair.at(self.bob, ua.Provisional(self.call, 180, reliable=False))
            return
        self.pair.at(self.bob, ua.Answer(self.call, b"answer"))
        self.send(self.script.build("ACK", 1, to_tag=self.tag))

    @property
    def tag(self) -> str:
        """Bob's tag."""
        return self.bob.last(ua.IncomingCall).dialog.local_tag

    def send(self, *messages: Any) -> None:
        """Send messages."""
        self.pair.at(self.pair.a, *messages)

    def request(self, method: str, sdp: bytes = b"", **fields: Any) -> Any:
        """Send the next request of the dialog and return its response, ``None`` if there is none yet."""
        self.sequence += 1
        count = len(self.script.received)
        self.send(self.script.build(method, self.sequence, sdp, to_tag=self.tag, **fields))
        new = [m for m in self.script.received[count:] if isinstance(m, Response) and m.cseq.number == self.sequence]
        return new[-1] if new else None

    def prack(self, sdp: bytes = b"") -> Any:
        """Acknowledge the latest reliable response."""
        rseq = self.script.response("INVITE").rseq
        return self.request("PRACK", sdp, RAck=f"{rseq} 1 INVITE")

    def offered(self) -> Any:
        """Return bob's latest `OfferReceived`."""
        return self.bob.last(ua.OfferReceived)


# ---- UPDATE -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("confirmed", [False, True])
def test_rfc3311_an_update_with_an_offer_is_answered_by_the_owner(confirmed: bool) -> None:
    peer = Peer(confirmed=confirmed)
    assert peer.request("UPDATE", b"offer2") is None
    offer = peer.offered()
    assert (offer.sdp, offer.carrier, offer.call) == (b"offer2", ua.Carrier.UPDATE, peer.call)
    peer.pair.at(peer.bob, ua.AnswerOffer(offer.exchange, b"answer2", (("P-Early-Media", "supported"),)))
    response = peer.script.response("UPDATE")
    assert (response.status, response.body) == (200, b"answer2")
    assert str(response.contacts[0].uri) == "sip:bob@192.0.2.2:5060" and response.headers.get("P-Early-Media")  # type: ignore[union-attr]


def test_an_update_without_an_offer_is_answered_at_once_and_refreshes_the_target() -> None:
    peer = Peer()
    assert peer.request("UPDATE", Contact="<sip:moved@192.0.2.1>", P_Early_Media="inactive").status == 200
    refreshed = peer.bob.last(ua.Refreshed)
    assert refreshed.message.headers.get("P-Early-Media") == "inactive"
    peer.pair.at(peer.bob, ua.Hangup(peer.call))
    assert peer.script.request("BYE").uri == "sip:moved@192.0.2.1"


def test_an_update_may_be_refused_and_the_session_stays() -> None:
    """RFC 3311 section 5.2; RFC 6141 section 4.6: no target refresh either."""
    peer = Peer()
    peer.request("UPDATE", b"offer2", Contact="<sip:moved@192.0.2.1>")
    warning = (("Warning", '370 bob "bandwidth"'),)
    peer.pair.at(peer.bob, ua.RejectOffer(peer.offered().exchange, 488, headers=warning))
    response = peer.script.response("UPDATE")
    assert response.status == 488 and response.headers.get("Warning")
    peer.pair.at(peer.bob, ua.Hangup(peer.call))
    assert peer.script.request("BYE").uri == "sip:alice@192.0.2.1:5060"


def test_an_update_that_the_owner_leaves_alone_is_504() -> None:
    peer = Peer()
    peer.request("UPDATE", b"offer2")
    peer.pair.net.run(17)
    assert peer.script.response("UPDATE").status == 504
    assert peer.bob.last(ua.OfferWithdrawn).exchange == peer.offered().exchange
    assert peer.request("UPDATE", b"offer3") is None  # the next one is free to come


# ---- glare: the rules of RFC 6337 section 4.3, by name ----------------------------------------------------------


def retry_after(response: Response) -> int:
    """Return the seconds of Retry-After."""
    assert response.retry_after is not None
    return response.retry_after.seconds


def test_uas_usu_a_second_update_before_the_first_is_answered_is_500() -> None:
    """Figure 15; RFC 3311 section 5.2: Retry-After between 0 and 10, offer or not."""
    peer = Peer()
    peer.request("UPDATE", b"offer2")
    for sdp in (b"offer3", b""):
        response = peer.request("UPDATE", sdp)
        assert response.status == 500 and 0 <= retry_after(response) <= 10


def test_uas_ucu_an_update_that_meets_ours_is_491() -> None:
    """Figure 14."""
    peer = Peer()
    peer.pair.at(peer.bob, ua.Modify(peer.call, b"mine"))
    assert peer.request("UPDATE", b"offer2").status == 491
    peer.send(answer_to(peer.script.request("UPDATE"), 200, sdp=b"yours"))
    assert peer.bob.last(ua.AnswerReceived).sdp == b"yours"


def test_uas_uci_a_re_invite_that_meets_our_update_is_491() -> None:
    """Figure 16."""
    peer = Peer()
    peer.pair.at(peer.bob, ua.Modify(peer.call, b"mine"))
    assert peer.request("INVITE").status == 491


def test_uas_usi_a_re_invite_behind_an_unanswered_update_is_500() -> None:
    """Figure 17."""
    peer = Peer()
    peer.request("UPDATE", b"offer2")
    assert peer.request("INVITE").status == 500


def test_uas_ici_a_re_invite_that_meets_ours_is_491() -> None:
    peer = Peer()
    peer.pair.at(peer.bob, ua.Modify(peer.call, b"mine", "INVITE"))
    assert peer.request("INVITE", b"offer2").status == 491


def test_uas_isi_a_second_re_invite_before_the_first_is_answered_is_500() -> None:
    """RFC 3261 section 14.2."""
    peer = Peer()
    assert peer.request("INVITE", b"offer2") is None
    response = peer.request("INVITE", b"offer3")
    assert response.status == 500 and 0 <= retry_after(response) <= 10


def test_uas_isi_also_while_the_answer_in_the_ack_is_due() -> None:
    peer = Peer()
    peer.request("INVITE")
    peer.pair.at(peer.bob, ua.AnswerOffer(peer.bob.last(ua.OfferRequested).exchange, b"mine"))
    assert peer.request("INVITE", b"offer3").status == 500
    # Figure 19: an UPDATE in the same place too.
    assert peer.request("UPDATE", b"offer3").status == 500


def test_uas_isu_an_update_before_the_prack_of_an_answer_is_500() -> None:
    peer = Peer(confirmed=False, answer_early=False)
    peer.pair.at(peer.bob, ua.Provisional(peer.call, 183, sdp=b"answer"))
    assert peer.request("UPDATE", b"offer2").status == 500


def test_an_update_before_the_first_offer_is_answered_is_500() -> None:
    """RFC 3311 section 5.2: an offer was received that has no answer yet."""
    peer = Peer(confirmed=False, answer_early=False)
    assert peer.request("UPDATE", b"offer2").status == 500


def test_uas_icu_an_update_that_meets_our_prack_is_491() -> None:
    """Figure 18, between caller and callee of the initial INVITE."""
    script = Script()
    pair = Pair(b=script)
    pair.dial()
    invite = script.request("INVITE")
    pair.at(pair.b, answer_to(invite, 183, "b1", b"answer", Require="100rel", RSeq=1))
    update = script.build("UPDATE", 1, b"offer2", to_tag=invite.from_.tag or "")
    for name, value in (("From", "<sip:bob@example.org>;tag=b1"), ("Call-ID", invite.call_id)):
        update.headers.set(name, value)
    update.headers.set("To", f"<sip:alice@example.org>;tag={invite.from_.tag}")
    pair.at(pair.b, update)
    assert script.response("UPDATE").status == 491


def test_a_re_invite_in_an_early_dialog_is_500() -> None:
    """UAS-IsI: the initial INVITE is not answered."""
    peer = Peer(confirmed=False)
    assert peer.request("INVITE", b"offer2").status == 500


def test_a_re_invite_before_the_ack_shows_that_the_2xx_arrived() -> None:
    script = Script()
    pair = Pair(a=script)
    pair.at(pair.a, script.build("INVITE", 1, b"offer"))
    call = pair.b.last(ua.IncomingCall).call
    pair.at(pair.b, ua.Answer(call, b"answer"))
    tag = script.response("INVITE").to.tag or ""
    pair.at(pair.a, script.build("INVITE", 2, b"offer2", to_tag=tag))
    assert pair.b.last(ua.Confirmed).request.method == "INVITE"
    assert pair.b.last(ua.OfferReceived).sdp == b"offer2"
    pair.at(pair.a, script.build("ACK", 1, to_tag=tag), wait=60)
    assert len(pair.b.all(ua.Confirmed)) == 1 and not pair.b.all(ua.Ended)


# ---- re-INVITE --------------------------------------------------------------------------------------------------


def test_rfc3665_3_7_re_invite() -> None:
    pair = Pair()
    call = pair.talk()
    pair.at(pair.b, ua.Modify(call, b"offer2", "INVITE"))
    pair.at(pair.a, ua.AnswerOffer(pair.a.last(ua.OfferReceived).exchange, b"answer2"))
    pair.expect("""
        < INVITE (sdp)
        > 200 INVITE (sdp)
        < ACK
    """)
    assert pair.b.last(ua.AnswerReceived).sdp == b"answer2"
    pair.at(pair.a, ua.Modify("call", method="INVITE"))
    pair.at(pair.b, ua.AnswerOffer(pair.b.last(ua.OfferRequested).exchange, b"offer3"))
    pair.at(pair.a, ua.AnswerOffer(pair.a.last(ua.OfferReceived).exchange, b"answer3"))
    pair.expect("""
        > INVITE
        < 200 INVITE (sdp)
        > ACK (sdp)
    """)
    assert pair.b.last(ua.AnswerReceived).sdp == b"answer3"
    assert len(pair.b.all(ua.Confirmed)) == 1
    pair.at(pair.a, ua.Hangup("call"))
    assert pair.quiet()


def test_a_re_invite_refused_leaves_the_session() -> None:
    pair = Pair()
    call = pair.talk()
    pair.at(pair.a, ua.Modify("call", b"offer2", "INVITE"))
    pair.at(pair.b, ua.RejectOffer(pair.b.last(ua.OfferReceived).exchange, 488))
    pair.expect("""
        > INVITE (sdp)
        < 488 INVITE
        > ACK
    """)
    assert pair.a.last(ua.OfferFailed).cause is ua.Cause.REJECTED
    pair.at(pair.b, ua.Modify(call, b"offer3"))
    assert pair.a.last(ua.OfferReceived).sdp == b"offer3"


def test_a_re_invite_may_be_cancelled() -> None:
    """RFC 3261 section 9.2: 487, and the session stays."""
    peer = Peer()
    peer.sequence += 1
    peer.send(peer.script.build("INVITE", peer.sequence, b"offer2", to_tag=peer.tag, branch="z9hG4bKre"))
    exchange = peer.offered().exchange
    peer.send(peer.script.build("CANCEL", peer.sequence, to_tag=peer.tag, branch="z9hG4bKre"))
    assert peer.script.response("INVITE").status == 487
    assert peer.bob.last(ua.OfferWithdrawn).exchange == exchange
    peer.pair.at(peer.bob, ua.AnswerOffer(exchange, b"x"))
    assert peer.bob.last(ua.Refused).refusal is ua.Refusal.UNKNOWN
    assert not peer.bob.all(ua.Ended)
    assert peer.request("UPDATE", b"offer3") is None


def test_a_re_invite_nobody_answers_is_504() -> None:
    peer = Peer()
    peer.request("INVITE", b"offer2")
    peer.pair.net.run(181)
    assert peer.script.response("INVITE").status == 504
    assert peer.bob.last(ua.OfferWithdrawn).exchange == peer.offered().exchange


def test_no_ack_for_a_re_invite_ends_the_call() -> None:
    """RFC 3261 section 14.2."""
    peer = Peer()
    peer.request("INVITE", b"offer2")
    peer.pair.at(peer.bob, ua.AnswerOffer(peer.offered().exchange, b"answer2"), wait=33)
    assert peer.bob.last(ua.Ended).cause is ua.Cause.NO_ACK
    assert peer.script.request("BYE").to.tag == "a1"


def test_no_answer_in_the_ack_of_a_re_invite_leaves_the_session() -> None:
    peer = Peer()
    peer.request("INVITE")
    peer.pair.at(peer.bob, ua.AnswerOffer(peer.bob.last(ua.OfferRequested).exchange, b"mine"))
    peer.send(peer.script.build("ACK", peer.sequence, to_tag=peer.tag))
    assert peer.bob.last(ua.OfferFailed).cause is ua.Cause.PROTOCOL
    assert not peer.bob.all(ua.Ended)


def test_a_bye_while_offers_wait_answers_them_487() -> None:
    """RFC 3261 section 15.1.2."""
    peer = Peer()
    peer.request("UPDATE", b"offer2")
    exchange = peer.offered().exchange
    peer.request("BYE")
    assert (peer.script.response("UPDATE").status, peer.script.response("BYE").status) == (487, 200)
    assert peer.bob.last(ua.OfferWithdrawn).exchange == exchange
    peer = Peer()
    peer.request("INVITE", b"offer2")
    peer.request("BYE")
    assert (peer.script.response("INVITE").status, peer.script.response("BYE").status) == (487, 200)
    peer.send(peer.script.build("ACK", 2, to_tag=peer.tag))
    assert peer.pair.quiet()


# ---- PRACK ------------------------------------------------------------------------------------------------------


def test_an_offer_in_a_prack_before_the_answer_is_400() -> None:
    peer = Peer(confirmed=False, answer_early=False)
    peer.pair.at(peer.bob, ua.Provisional(peer.call, 180, reliable=True))
    assert peer.prack(b"offer2").status == 400


def test_a_prack_with_an_offer_waits_for_the_owner_and_times_out_504() -> None:
    peer = Peer(confirmed=False, answer_early=False)
    peer.pair.at(peer.bob, ua.Provisional(peer.call, 183, sdp=b"answer"))
    assert peer.prack(b"offer2") is None
    peer.pair.at(peer.bob, ua.Answer(peer.call), wait=17)
    assert peer.script.response("PRACK").status == 504
    assert peer.script.response("INVITE").status == 200  # it was held back for the PRACK


# ---- 422 and the sequence ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["UPDATE", "INVITE"])
def test_rfc4028_an_interval_too_small_is_422(method: str) -> None:
    peer = Peer()
    response = peer.request(method, b"offer2", Supported="timer", Session_Expires="89")
    assert response.status == 422 and response.min_se.seconds == 90
    assert not peer.bob.all(ua.OfferReceived)


def test_rfc3261_12_2_2_a_lower_cseq_is_500() -> None:
    peer = Peer()
    peer.request("INFO")
    peer.pair.at(peer.bob, ua.Respond(peer.bob.last(ua.RequestReceived).request))
    peer.sequence = 1
    assert peer.request("INFO").status == 500


def test_malformed_headers_are_400_before_anything_is_done() -> None:
    peer = Peer()
    assert peer.request("UPDATE", b"offer2", Session_Expires="soon").status == 400
    assert peer.request("INVITE", b"offer2", Contact="<sip:>").status == 400
    assert not peer.bob.all(ua.OfferReceived)
    assert peer.request("UPDATE", b"offer2") is None


def test_a_request_for_no_dialog_is_481() -> None:
    peer = Peer()
    for method in ("UPDATE", "INVITE", "BYE", "PRACK", "INFO", "OPTIONS", "NOTIFY"):
        peer.send(peer.script.build(method, 9, to_tag="nobody", RAck="1 1 INVITE"))
        assert peer.script.response(method).status == 481
    # And an ACK to nothing is nothing.
    peer.send(peer.script.build("ACK", 9, to_tag="nobody"))
    assert not isinstance(peer.script.received[-1], Request)
