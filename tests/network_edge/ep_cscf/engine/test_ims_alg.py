"""The IMS-ALG: offers and answers of both directions through the media gateway [A-EPCSCF, A-IQ, R-MUX, R-ICE].

Real descriptions of Chromium and of a VoLTE phone; the gateway's are those of the eIMS-AGW's own offer and answer.
"""

from __future__ import annotations

from typing import Any

import pytest

from imskit.engine import Tick
from imskit.sdp.attributes import Direction
from imskit.sip.engine.proxy_events import Forward, RelayResponse, Respond
from imskit.sip.wire.message import Request
from network_edge.ep_cscf.engine.effects import MediaLost, MediaOffer, Side
from network_edge.ep_cscf.engine.ims_alg import AlgLimits
from network_edge.iq.gateway import TOWARDS_IMS, TOWARDS_WEB, Loss

RELIABLE = (("Require", "100rel"), ("RSeq", "1"))
SDP = "application/sdp"


class TestFromTheWeb:
    """Calls that a browser makes."""

    def test_offer_and_answer(self, bench: Any, is_for_web: Any, is_for_ims: Any) -> None:
        """INVITE with offer, 200 with answer, BYE: the gateway writes both, and is told of the end without tags."""
        key, sent = bench.invite(bench.web, headers=(("Session-ID", "ab;remote=cd"),))
        assert is_for_ims(sent)
        assert sent.headers.get("Session-ID") == "ab;remote=cd"
        assert sent.content_type.essence == SDP
        assert f"Content-Length: {len(sent.body)}\r\n".encode() in sent.encode()
        answer = bench.reply(key, 200, bench.ims.answer(sent.body), tag="i1")
        assert is_for_web(answer)
        bench.inside("ACK", bench.web, cseq=bench.web.cseq)
        offer, reply = (question.request for question in bench.gateway.asked)
        assert (offer.from_tag, offer.to_tag, offer.flags) == ("w1", None, TOWARDS_IMS)
        assert (reply.from_tag, reply.to_tag, reply.flags) == ("w1", "i1", TOWARDS_WEB)
        assert offer.call_id == reply.call_id != bench.call_id
        bench.inside("BYE", bench.ims)
        assert bench.gateway.deleted == [offer.call_id]
        assert bench.alg.calls == 0
        assert bench.steps == ["began", "answered", "ended"]

    def test_request_waits_for_the_gateway(self, bench: Any) -> None:
        bench.auto = False
        bench.web.cseq += 1
        request = bench.message("INVITE", bench.web, bench.web.offer())
        _, result = bench.hand(request, Side.WEB)
        assert result is None
        assert len(bench.held) == 1
        bench.serve()
        (forward,) = bench.take()
        assert isinstance(forward, Forward)

    def test_unreliable_183_then_200_with_the_same_answer(self, bench: Any, is_for_web: Any) -> None:
        key, sent = bench.invite(bench.web)
        answer = bench.ims.answer(sent.body)
        early = bench.reply(key, 183, answer, tag="i1")
        final = bench.reply(key, 200, answer, tag="i1")
        assert is_for_web(early)
        assert final.body == early.body
        assert bench.gateway.answers == 1

    def test_200_without_description_after_an_unreliable_183(self, bench: Any) -> None:
        """A browser's user agent needs the answer in the 2xx; the network gave it in the 183 only."""
        key, sent = bench.invite(bench.web)
        early = bench.reply(key, 183, bench.ims.answer(sent.body), tag="i1")
        final = bench.reply(key, 200, tag="i1")
        assert final.body == early.body
        assert final.content_type.essence == SDP

    def test_another_answer_in_the_200(self, bench: Any) -> None:
        key, sent = bench.invite(bench.web)
        bench.reply(key, 183, bench.ims.answer(sent.body, version=1), tag="i1")
        bench.reply(key, 200, bench.ims.answer(sent.body, version=2), tag="i1")
        assert bench.gateway.answers == 2

    def test_200_that_comes_again(self, bench: Any) -> None:
        """A retransmitted 2xx asks nothing of the gateway and says the same."""
        key, sent = bench.invite(bench.web)
        answer = bench.ims.answer(sent.body)
        first = bench.reply(key, 200, answer, tag="i1")
        again = bench.reply(key, 200, answer, tag="i1")
        assert again.body == first.body
        assert (bench.gateway.offers, bench.gateway.answers) == (1, 1)

    def test_forks_answer_one_offer(self, bench: Any) -> None:
        """Several To tags: each early answer is put in force, at last the answerer's own, once more."""
        key, sent = bench.invite(bench.web)
        first = bench.ims.answer(sent.body, version=1)
        bench.reply(key, 183, first, tag="a")
        bench.reply(key, 183, bench.ims.answer(sent.body, version=2), tag="b")
        bench.reply(key, 200, first, tag="a")
        assert bench.gateway.offers == 1
        assert [question.request.to_tag for question in bench.gateway.asked[1:]] == ["a", "b", "a"]

    @pytest.mark.parametrize("again", [True, False])
    @pytest.mark.parametrize(("reliable", "known"), [(True, True), (True, False), (False, False)])
    def test_the_fork_that_answers_gets_the_media(self, bench: Any, reliable: bool, known: bool, again: bool) -> None:
        """RFC 3261 section 13.2.2.4: its early answer counts, though another's was the last, said again or not."""
        headers = (("Require", "100rel"), ("RSeq", "1")) if reliable else ()
        key, sent = bench.invite(bench.web, headers=(("Supported", "100rel"),) if known else ())
        first = bench.ims.answer(sent.body, version=1)
        early = bench.reply(key, 183, first, tag="a", headers=headers)
        bench.reply(key, 183, bench.ims.answer(sent.body, version=2), tag="b", headers=headers)
        final = bench.reply(key, 200, first if again else b"", tag="a")
        asked = [question.request.to_tag for question in bench.gateway.asked[1:]]
        assert asked == ["a", "b", "a"]
        assert bench.gateway.asked[-1].request.sdp.encode() == bench.gateway.asked[1].request.sdp.encode()
        # A WIC that had the answer reliably needs it no more (RFC 6337 section 3.1.1).
        assert final.body == (early.body if again or not known else b"")
        bench.reply(key, 200, first if again else b"", tag="a")
        assert len(bench.gateway.asked) == 4

    def test_the_fork_that_answers_and_gets_no_media(self, bench: Any) -> None:
        key, sent = bench.invite(bench.web)
        for number, tag in enumerate("ab", 1):
            answer = bench.ims.answer(sent.body, version=number)
            bench.reply(key, 183, answer, tag=tag, headers=(("Require", "100rel"), ("RSeq", "1")))
        bench.gateway.refuse["answer"] = (500, "gone")
        assert bench.reply(key, 200, tag="a").status == 500
        assert [release.callee_tags for release in bench.releases()] == [("a",)]
        assert len(bench.gateway.deleted) == 1

    def test_second_fork_is_answered_too(self, bench: Any, is_for_web: Any) -> None:
        """The media stay with the first 2xx; the caller ends the other, and the call goes on."""
        key, sent = bench.invite(bench.web)
        first = bench.reply(key, 200, bench.ims.answer(sent.body), tag="a")
        second = bench.reply(key, 200, bench.ims.answer(sent.body, version=3), tag="b")
        assert second.body == first.body
        assert bench.gateway.answers == 1
        bench.hand(bench.message("BYE", bench.web, to_tag="b"), Side.WEB)
        assert bench.gateway.deleted == []
        bench.hand(bench.message("BYE", bench.web, to_tag="a"), Side.WEB)
        assert len(bench.gateway.deleted) == 1

    def test_two_calls_with_the_same_names(self, bench: Any) -> None:
        """Equal Call-ID and tags of another registration (or a spiral) are another call, with other media."""
        _, first = bench.invite(bench.web)
        _, result = bench.hand(bench.message("INVITE", bench.web, bench.web.offer(), cseq=1), Side.WEB, "binding-2")
        assert isinstance(result, Forward)
        _, spiral = bench.hand(bench.message("INVITE", bench.web, first.body, cseq=1), Side.IMS, "binding-3")
        assert isinstance(spiral, Forward)
        assert bench.alg.calls == 3
        assert len({question.request.call_id for question in bench.gateway.asked}) == 3

    def test_the_same_invite_again_is_refused(self, bench: Any) -> None:
        bench.invite(bench.web)
        _, result = bench.hand(bench.message("INVITE", bench.web, bench.web.offer(), cseq=1), Side.WEB)
        assert isinstance(result, Respond)
        assert result.response.status == 482
        assert bench.gateway.offers == 1

    def test_offer_without_candidates(self, bench: Any, is_for_ims: Any) -> None:
        """Trickle ICE: candidates come later or never; the gateway is reached by peer-reflexive ones (RFC 8840)."""
        offer = bench.web.offer()
        lines = [line for line in offer.split(b"\r\n") if not line.startswith(b"a=candidate:")]
        _, sent = bench.invite(bench.web, b"\r\n".join(lines).replace(b"audio 44275", b"audio 9"))
        assert b"a=ice-options:trickle" in offer
        assert is_for_ims(sent)


class TestFromIms:
    """Calls that come from IMS."""

    def test_offer_with_preconditions(self, bench: Any, is_for_web: Any, is_for_ims: Any) -> None:
        """The browser sees no precondition and no option tag of them; IMS gets an answer without."""
        key, sent = bench.invite(bench.ims, headers=(("Supported", "100rel, precondition, timer"),))
        assert b"curr:qos" in bench.ims.offer()
        assert is_for_web(sent)
        assert sent.supported == ["timer", "trickle-ice"]
        answer = bench.reply(key, 200, bench.web.answer(sent.body), tag="w1", headers=(("Supported", "timer"),))
        assert is_for_ims(answer)
        assert "qos" not in answer.body.decode()
        offer, reply = (question.request for question in bench.gateway.asked)
        assert (offer.from_tag, offer.flags) == ("i1", TOWARDS_WEB)
        assert (reply.from_tag, reply.to_tag, reply.flags) == ("i1", "w1", TOWARDS_IMS)

    @pytest.mark.parametrize("side", [Side.WEB, Side.IMS])
    def test_required_preconditions_are_refused(self, bench: Any, side: Side) -> None:
        party = bench.web if side is Side.WEB else bench.ims
        request = bench.message("INVITE", party, party.offer(), headers=(("Require", "precondition"),))
        _, result = bench.hand(request, side)
        assert isinstance(result, Respond)
        assert (result.response.status, result.response.unsupported) == (420, ["precondition"])
        assert bench.alg.calls == 0

    def test_delayed_offer(self, bench: Any, is_for_web: Any, is_for_ims: Any) -> None:
        """INVITE without description (TS 34.229-5 7.10): the 200 has the offer, the ACK the answer and waits for it."""
        key, sent = bench.invite(bench.ims, b"")
        assert not sent.body
        final = bench.reply(key, 200, bench.web.offer(), tag="w1")
        assert is_for_ims(final)
        bench.auto = False
        ack = bench.message("ACK", bench.ims, bench.ims.answer(final.body), to_tag="w1", cseq=1)
        _, result = bench.hand(ack, Side.IMS)
        assert result is None
        _, again = bench.hand(ack.copy(), Side.IMS)  # the 2xx and the ACK came again in the meantime
        assert isinstance(again, Respond)
        bench.serve()
        (forward,) = bench.take()
        assert is_for_web(forward.request)
        _, third = bench.hand(ack.copy(), Side.IMS)
        assert isinstance(third, Forward)
        assert third.request.body == forward.request.body
        offer, reply = (question.request for question in bench.gateway.asked)
        assert (offer.from_tag, offer.to_tag, offer.flags) == ("w1", None, TOWARDS_IMS)
        assert (reply.from_tag, reply.to_tag, reply.flags) == ("w1", "i1", TOWARDS_WEB)

    def test_delayed_offer_that_comes_again(self, bench: Any) -> None:
        key, _ = bench.invite(bench.ims, b"")
        first = bench.reply(key, 200, bench.web.offer(), tag="w1")
        again = bench.reply(key, 200, bench.web.offer(), tag="w1")
        assert again.body == first.body
        assert bench.gateway.offers == 1

    def test_delayed_offer_that_nobody_answers(self, bench: Any) -> None:
        key, _ = bench.invite(bench.ims, b"")
        bench.reply(key, 200, bench.web.offer(), tag="w1")
        bench.inside("ACK", bench.ims, cseq=1)
        bench.now = bench.alg.deadline()
        assert bench.now == 32.0
        bench.alg.handle(Tick(), bench.now)
        bench.drain()
        (release,) = bench.releases()
        assert release.callee_tags == ("w1",)
        assert "no-media" in release.reason
        assert len(bench.gateway.deleted) == 1


class TestReliableResponses:
    """RFC 3262, RFC 3311."""

    def test_answer_in_a_reliable_183_then_update(self, bench: Any, is_for_web: Any, is_for_ims: Any) -> None:
        """183, PRACK, UPDATE of the callee before the answer, 200 that repeats an old answer (TS 24.229 ladder)."""
        key, sent = bench.invite(bench.web, headers=(("Supported", "100rel"),))
        answer = bench.ims.answer(sent.body)
        early = bench.reply(key, 183, answer, tag="i1", headers=RELIABLE)
        assert is_for_web(early)
        prack, _ = bench.inside("PRACK", bench.web)
        bench.reply(prack, 200, tag="i1")
        update, changed = bench.inside("UPDATE", bench.ims, bench.ims.offer())
        assert is_for_web(changed)
        assert is_for_ims(bench.reply(update, 200, bench.web.answer(changed.body), tag="w1"))
        later = [question.request for question in bench.gateway.asked[2:]]
        assert [(each.from_tag, each.to_tag) for each in later] == [("i1", "w1"), ("i1", "w1")]
        final = bench.reply(key, 200, answer, tag="i1")
        assert final.body == early.body
        assert (bench.gateway.offers, bench.gateway.answers) == (2, 2)

    def test_delayed_offer_in_183_answer_in_prack(self, bench: Any, is_for_web: Any, is_for_ims: Any) -> None:
        key, _ = bench.invite(bench.web, b"", headers=(("Supported", "100rel"),))
        early = bench.reply(key, 183, bench.ims.offer(), tag="i1", headers=RELIABLE)
        assert is_for_web(early)
        prack, sent = bench.inside("PRACK", bench.web, bench.web.answer(early.body))
        assert is_for_ims(sent)
        assert not bench.reply(prack, 200, tag="i1").body
        final = bench.reply(key, 200, tag="i1")
        assert not final.body
        assert (bench.gateway.offers, bench.gateway.answers) == (1, 1)

    def test_new_offer_in_prack(self, bench: Any, is_for_web: Any, is_for_ims: Any) -> None:
        key, sent = bench.invite(bench.web, headers=(("Supported", "100rel"),))
        bench.reply(key, 183, bench.ims.answer(sent.body), tag="i1", headers=RELIABLE)
        prack, again = bench.inside("PRACK", bench.web, bench.web.offer())
        assert is_for_ims(again)
        assert is_for_web(bench.reply(prack, 200, bench.ims.answer(again.body), tag="i1"))
        assert (bench.gateway.offers, bench.gateway.answers) == (2, 2)

    def test_offer_in_an_unreliable_183_is_none(self, bench: Any) -> None:
        key, _ = bench.invite(bench.web, b"")
        assert not bench.reply(key, 183, bench.ims.offer(), tag="i1").body
        assert bench.gateway.offers == 0

    @pytest.mark.parametrize(("supported", "left"), [("100rel", ["100rel"]), ("timer", [])])
    def test_precondition_marks_of_ims_do_not_reach_the_browser(
        self, bench: Any, supported: str, left: list[str]
    ) -> None:
        """Nor does 100rel, if it has none."""
        key, sent = bench.invite(bench.web, headers=(("Supported", supported),))
        assert "100rel" in sent.supported
        headers = (("Require", "100rel, precondition"), ("RSeq", "1"))
        early = bench.reply(key, 183, bench.ims.answer(sent.body), tag="i1", headers=headers)
        assert early.require == left
        assert ("RSeq" in early.headers) == bool(left)
        assert bench.alg.acknowledges(key) == (not left)

    @pytest.mark.parametrize("repeats", [True, False])
    def test_an_early_answer_that_is_confirmed_here_comes_again(self, bench: Any, repeats: bool) -> None:
        """RFC 6337 section 3.1.1: what came unreliably has to be in the 2xx."""
        key, sent = bench.invite(bench.web)
        answer = bench.ims.answer(sent.body)
        early = bench.reply(key, 183, answer, tag="i1", headers=RELIABLE)
        assert early.body and not early.require
        assert bench.reply(key, 200, answer if repeats else b"", tag="i1").body == early.body
        assert bench.gateway.answers == 1

    def test_without_an_offer_nothing_is_confirmed_here(self, bench: Any) -> None:
        """The PRACK would have to carry the browser's answer."""
        key, sent = bench.invite(bench.web, b"")
        assert "100rel" not in sent.supported and not bench.alg.acknowledges(key)
        bench.call_id = "back"
        key, sent = bench.invite(bench.ims)
        assert "100rel" not in sent.supported and not bench.alg.acknowledges(key)


class TestLaterOffers:
    """re-INVITE and UPDATE in a call that runs."""

    def test_hold_and_resume(self, bench: Any) -> None:
        """TS 34.229-1 15.11/15.12: the directions pass, the origin goes on."""
        bench.establish(bench.web)
        held = bench.web.offer().replace(b"a=sendrecv", b"a=sendonly")
        key, sent = bench.inside("INVITE", bench.web, held)
        assert b"a=sendonly" in sent.body
        answer = bench.reply(key, 200, bench.ims.answer(sent.body, Direction.RECVONLY), tag="i1")
        assert b"a=recvonly" in answer.body
        bench.inside("ACK", bench.web, cseq=bench.web.cseq)
        key, sent = bench.inside("INVITE", bench.ims, bench.ims.offer())
        assert b"a=sendrecv" in sent.body
        bench.reply(key, 200, bench.web.answer(sent.body), tag="w1")
        assert (bench.gateway.offers, bench.gateway.answers) == (3, 3)
        assert bench.gateway.asked[-1].request.from_tag == "i1"

    def test_failed_reinvite_leaves_the_call(self, bench: Any) -> None:
        """RFC 6337 section 3.4: the old state, and the next offer is a new one."""
        bench.establish(bench.web)
        key, _ = bench.inside("INVITE", bench.ims, bench.ims.offer())
        refused = bench.reply(key, 488, bench.web.offer(), tag="w1")
        assert not refused.body
        assert bench.alg.calls == 1
        assert bench.gateway.deleted == []
        key, sent = bench.inside("INVITE", bench.web, bench.web.offer())
        bench.reply(key, 200, bench.ims.answer(sent.body), tag="i1")

    def test_offers_of_both_sides_with_one_number(self, bench: Any) -> None:
        """Each side counts for itself: an ACK of the other side's INVITE is another ACK."""
        bench.establish(bench.web)
        for caller in (bench.web, bench.ims):
            callee = bench.other(caller)
            key, _ = bench.inside("INVITE", caller, cseq=77)
            offered = bench.reply(key, 200, callee.offer(), tag=callee.tag)
            asked = bench.gateway.answers
            bench.inside("ACK", caller, caller.answer(offered.body), cseq=77)
            assert bench.gateway.answers == asked + 1

    def test_glare(self, bench: Any) -> None:
        """RFC 3261 section 14.2, RFC 3311 section 5.2: 491 across, 500 with Retry-After behind."""
        bench.establish(bench.web)
        key, sent = bench.inside("INVITE", bench.web, bench.web.offer())
        offers = bench.gateway.offers
        for party, status in ((bench.ims, 491), (bench.web, 500)):
            other = bench.other(party)
            _, result = bench.hand(bench.message("UPDATE", party, party.offer(), to_tag=other.tag), party.side)
            assert isinstance(result, Respond)
            assert result.response.status == status
            assert (result.response.retry_after is not None) == (status == 500)
        assert bench.gateway.offers == offers
        bench.reply(key, 200, bench.ims.answer(sent.body), tag="i1")
        bench.inside("UPDATE", bench.ims, bench.ims.offer())

    @pytest.mark.parametrize("status", [408, 481])
    def test_a_call_outlives_a_request_without_answer(self, bench: Any, status: int) -> None:
        """RFC 3261 section 12.2.1.2: its dialog's end is the end of its media, and nothing else."""
        bench.establish(bench.web)
        key, _ = bench.inside("UPDATE", bench.web, bench.web.offer())
        bench.reply(key, status, tag="i1")
        assert not bench.gateway.deleted
        bench.alg.dialog_over(bench.party, bench.call_id, "w1", "another", bench.now)
        bench.drain()
        assert not bench.gateway.deleted
        bench.alg.dialog_over(bench.party, bench.call_id, "w1", "i1", bench.now)
        bench.drain()
        assert len(bench.gateway.deleted) == 1

    def test_refresh_without_description_passes(self, bench: Any) -> None:
        bench.establish(bench.web)
        asked = len(bench.gateway.asked)
        key, sent = bench.inside("UPDATE", bench.ims)
        assert not sent.body
        assert not bench.reply(key, 200, bench.web.offer(), tag="w1").body
        assert len(bench.gateway.asked) == asked

    @pytest.mark.parametrize("method", ["INVITE", "UPDATE", "PRACK"])
    def test_a_dialog_that_is_not_known(self, bench: Any, method: str) -> None:
        _, result = bench.hand(bench.message(method, bench.web, bench.web.offer(), to_tag="gone"), Side.WEB)
        assert isinstance(result, Respond)
        assert result.response.status == 481
        assert bench.gateway.asked == []

    def test_a_dialog_of_another_registration(self, bench: Any) -> None:
        """An attacker who knows Call-ID and tags reaches nothing of the call."""
        bench.establish(bench.web)
        asked = len(bench.gateway.asked)
        for method in ("INVITE", "BYE"):
            bench.hand(bench.message(method, bench.web, bench.web.offer(), to_tag="i1"), Side.WEB, "binding-of-another")
        assert (len(bench.gateway.asked), bench.gateway.deleted, bench.alg.calls) == (asked, [], 1)

    def test_stray_ack_loses_its_description(self, bench: Any) -> None:
        bench.establish(bench.web)
        _, sent = bench.inside("ACK", bench.web, bench.web.offer(), cseq=bench.web.cseq)
        assert not sent.body


class TestEnds:
    """Everything that ends a call ends its media, once."""

    @pytest.mark.parametrize("status", [302, 404, 486, 487, 503, 603])
    def test_final_failure(self, bench: Any, status: int) -> None:
        key, _ = bench.invite(bench.web)
        bench.reply(key, 180, tag="i1")
        assert not bench.reply(key, status, bench.ims.offer(), tag="i1").body
        assert len(bench.gateway.deleted) == 1
        bench.alg.ended(key, bench.now)
        bench.drain()
        assert (bench.alg.calls, len(bench.gateway.deleted)) == (0, 1)

    def test_cancel_while_the_gateway_is_asked(self, bench: Any) -> None:
        """The core answers 487 itself; the deletion waits for the gateway's word, else the call stayed there."""
        bench.auto = False
        request = bench.message("INVITE", bench.web, bench.web.offer())
        key, _ = bench.hand(request, Side.WEB)
        bench.requests[key] = request
        bench.reply(key, 487, tag="own")
        assert bench.gateway.deleted == []
        bench.serve()
        assert len(bench.gateway.deleted) == 1
        assert bench.take() == []

    def test_invite_that_vanishes(self, bench: Any) -> None:
        key, _ = bench.invite(bench.web)
        bench.alg.ended(key, bench.now)
        bench.drain()
        assert (bench.alg.calls, len(bench.gateway.deleted)) == (0, 1)

    def test_update_in_flight_when_bye_comes(self, bench: Any) -> None:
        bench.establish(bench.web)
        bench.auto = False
        bench.hand(bench.message("UPDATE", bench.ims, bench.ims.offer(), to_tag="w1"), Side.IMS)
        bench.inside("BYE", bench.web)
        (refused,) = bench.take()
        assert isinstance(refused, Respond)
        assert refused.response.status == 481
        bench.serve()
        assert len(bench.gateway.deleted) == 1
        assert bench.take() == []

    def test_registration_over(self, bench: Any) -> None:
        bench.establish(bench.web)
        bench.alg.flow_lost(bench.party, 1.0)
        bench.alg.flow_back(bench.party, 2.0)
        bench.alg.forget(bench.party, 3.0)
        bench.drain()
        assert (bench.alg.calls, len(bench.gateway.deleted), bench.releases()) == (0, 1, [])
        assert bench.steps == ["began", "answered", "flow-lost", "flow-back", "ended"]


class TestMediaLost:
    """The gateway tells that the media have ended."""

    @pytest.mark.parametrize(
        ("loss", "cause", "word"),
        [
            (Loss.CONSENT, 27, "consent-lost"),
            (Loss.MEDIA_TIMEOUT, 102, "media-timeout"),
            (Loss.CIRCUIT_BREAKER, 42, "circuit-breaker"),
            (Loss.TRANSPORT, 47, "transport-failed"),
            (Loss.GATEWAY, 38, "gateway-lost"),
        ],
    )
    def test_each_loss_has_its_own_reason(self, bench: Any, loss: Loss, cause: int, word: str) -> None:
        bench.establish(bench.web)
        media_id = bench.gateway.asked[0].request.call_id
        for _ in range(2):
            bench.alg.handle(MediaLost(media_id, loss, "told"), bench.now)
        bench.drain()
        (release,) = bench.releases()
        assert (release.call_id, release.party, release.caller_tag, release.callee_tags) == (
            bench.call_id, bench.party, "w1", ("i1",),
        )  # fmt: skip
        carrier = Request.create("BYE", "sip:x@example", [("Reason", release.reason)])
        sip, q850 = carrier.reasons
        assert (sip.protocol, sip.cause, q850.protocol, q850.cause) == ("SIP", 503, "Q.850", cause)
        assert q850.text.startswith(word)
        assert bench.gateway.deleted == [media_id]
        assert bench.steps[-2:] == ["media-lost", "ended"]

    def test_before_the_answer(self, bench: Any) -> None:
        bench.invite(bench.web)
        bench.alg.handle(MediaLost(bench.gateway.asked[0].request.call_id, Loss.GATEWAY), bench.now)
        bench.drain()
        (release,) = bench.releases()
        assert (release.callee_tags, release.status) == ((), 503)

    def test_unknown_call(self, bench: Any) -> None:
        bench.alg.handle(MediaLost("?", Loss.GATEWAY), bench.now)
        bench.drain()
        assert bench.out == []


class TestRefusals:
    """What the gateway or the description refuses."""

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [(b"v=0\r\nbroken", 400, "399"), (b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\n", 400, "399")],
    )
    def test_broken_offer(self, bench: Any, body: bytes, status: int, code: str) -> None:
        _, result = bench.hand(bench.message("INVITE", bench.web, body), Side.WEB)
        assert isinstance(result, Respond)
        assert result.response.status == status
        assert result.response.headers.get("Warning").startswith(f"{code} ep-cscf ")
        assert (bench.alg.calls, bench.gateway.asked) == (0, [])

    def test_unacceptable_offer(self, bench: Any) -> None:
        """488 with a Warning from the gateway's own words."""
        body = bench.web.offer().replace(b"m=audio", b"m=video")
        _, result = bench.hand(bench.message("INVITE", bench.web, body), Side.WEB)
        assert isinstance(result, Respond)
        assert result.response.status == 488
        assert result.response.headers.get("Warning").startswith("304 ")
        assert bench.alg.calls == 0

    def test_no_gateway(self, bench: Any) -> None:
        bench.gateway.refuse["offer"] = (503, "all are down")
        _, result = bench.hand(bench.message("INVITE", bench.web, bench.web.offer()), Side.WEB)
        assert isinstance(result, Respond)
        assert (result.response.status, result.response.retry_after.seconds) == (503, 10)
        assert "all are down" not in str(result.response.headers.get("Warning"))

    def test_gateway_refuses_a_later_offer(self, bench: Any) -> None:
        bench.establish(bench.web)
        bench.gateway.refuse["offer"] = (488, "no")
        _, result = bench.hand(bench.message("INVITE", bench.ims, bench.ims.offer(), to_tag="w1"), Side.IMS)
        assert isinstance(result, Respond)
        assert (result.response.status, bench.alg.calls) == (488, 1)
        del bench.gateway.refuse["offer"]
        bench.inside("INVITE", bench.ims, bench.ims.offer())

    def test_gateway_refuses_the_answer_of_a_200(self, bench: Any) -> None:
        """The caller gets the failure, the callee an ACK and a BYE."""
        key, sent = bench.invite(bench.web)
        bench.gateway.refuse["answer"] = (488, "no")
        result = bench.respond(key, 200, bench.ims.answer(sent.body), tag="i1")
        assert isinstance(result, RelayResponse)
        assert result.response.status == 488
        (release,) = bench.releases()
        assert release.callee_tags == ("i1",)
        assert len(bench.gateway.deleted) == 1

    def test_gateway_refuses_a_reliable_183(self, bench: Any) -> None:
        key, sent = bench.invite(bench.web)
        bench.gateway.refuse["answer"] = (503, "gone")
        result = bench.respond(key, 183, bench.ims.answer(sent.body), tag="i1", headers=RELIABLE)
        assert isinstance(result, Respond)
        assert result.response.status == 503
        assert (bench.alg.calls, bench.releases()) == (0, [])

    def test_gateway_refuses_an_unreliable_183(self, bench: Any) -> None:
        key, sent = bench.invite(bench.web)
        bench.gateway.refuse["answer"] = (488, "no")
        assert not bench.reply(key, 183, bench.ims.answer(sent.body), tag="i1").body
        del bench.gateway.refuse["answer"]
        assert bench.reply(key, 200, bench.ims.answer(sent.body), tag="i1").body

    def test_gateway_refuses_the_answer_of_an_ack(self, bench: Any) -> None:
        key, _ = bench.invite(bench.ims, b"")
        final = bench.reply(key, 200, bench.web.offer(), tag="w1")
        bench.gateway.refuse["answer"] = (488, "no")
        _, sent = bench.inside("ACK", bench.ims, bench.ims.answer(final.body), cseq=1)
        assert not sent.body
        assert len(bench.releases()) == 1

    def test_broken_answer_of_a_200(self, bench: Any) -> None:
        key, _ = bench.invite(bench.web)
        result = bench.respond(key, 200, b"v=1\r\n", tag="i1")
        assert isinstance(result, RelayResponse)
        assert result.response.status == 502
        assert len(bench.releases()) == 1

    def test_most_calls(self, make_bench: Any) -> None:
        bench = make_bench(limits=AlgLimits(calls=2, calls_per_party=2))
        for number in range(2):
            bench.call_id = f"call-{number}"
            bench.invite(bench.web)
        bench.call_id = "one more"
        _, result = bench.hand(bench.message("INVITE", bench.web, bench.web.offer()), Side.WEB, "another")
        assert isinstance(result, Respond)
        assert (result.response.status, result.response.retry_after.seconds) == (503, 10)

    def test_most_calls_of_one_client(self, make_bench: Any) -> None:
        bench = make_bench(limits=AlgLimits(calls_per_party=1))
        bench.invite(bench.web)
        bench.call_id = "call-2"
        _, result = bench.hand(bench.message("INVITE", bench.web, bench.web.offer()), Side.WEB)
        assert isinstance(result, Respond)
        _, result = bench.hand(bench.message("INVITE", bench.web, bench.web.offer()), Side.WEB, "another")
        assert isinstance(result, Forward)


class TestBodies:
    """What else a message may carry."""

    def test_multipart(self, bench: Any, is_for_ims: Any) -> None:
        """The description inside is replaced, the other part and its fields stay octet for octet (RFC 5621)."""
        offer = bench.web.offer()
        other = b"Content-Type: application/x-note\r\nContent-ID: <1>\r\n\r\nline 1\r\nline 2"
        body = b"\r\n".join(
            [
                b"--B",
                b"Content-Type: application/sdp",
                b"Content-Length: %d" % len(offer),
                b"",
                offer + b"\r\n--B",
                other,
                b"--B--",
                b"",
            ]
        )
        _, sent = bench.invite(bench.web, body, kind='multipart/mixed; boundary="B"')
        assert other in sent.body
        assert b"candidate" not in sent.body
        assert b"Content-Length" not in sent.body
        assert sent.headers.get("Content-Type") == 'multipart/mixed; boundary="B"'
        assert b" RTP/AVP " in sent.body
        assert sent.body.endswith(b"--B--\r\n")

    @pytest.mark.parametrize(
        ("kind", "body", "more", "status"),
        [
            ("application/sdp", b"v=0", (("Content-Encoding", "gzip"),), 415),
            ("application/sdp", b"v=0", (("Content-Disposition", "early-session"),), 415),
            (
                "multipart/mixed; boundary=B",
                b"--B\r\nContent-Type: multipart/mixed; boundary=C\r\n\r\n\r\n--B--",
                (),
                415,
            ),
            ("multipart/mixed; boundary=B", b"--B\r\nContent-Type: application/sdp\r\n\r\nv=0", (), 400),
            ("multipart/mixed", b"--B\r\n\r\n\r\n--B--", (), 400),
        ],
    )
    def test_bodies_that_are_refused(self, bench: Any, kind: str, body: bytes, more: Any, status: int) -> None:
        _, result = bench.hand(bench.message("INVITE", bench.web, body, kind=kind, headers=more), Side.WEB)
        assert isinstance(result, Respond)
        assert result.response.status == status
        assert ("Accept" in result.response.headers) == (status == 415)

    def test_body_without_a_type(self, bench: Any) -> None:
        request = bench.message("INVITE", bench.web, bench.web.offer())
        request.headers.remove("Content-Type")
        _, result = bench.hand(request, Side.WEB)
        assert isinstance(result, Respond)
        assert result.response.status == 400

    def test_early_session_part_does_not_pass(self, bench: Any) -> None:
        early = b"Content-Type: application/sdp\r\nContent-Disposition: early-session\r\n\r\n" + bench.web.offer()
        body = (
            b"--B\r\n"
            + early
            + b"\r\n--B\r\nContent-Type: application/sdp\r\n\r\n"
            + bench.web.offer()
            + b"\r\n--B--\r\n"
        )
        _, sent = bench.invite(bench.web, body, kind="multipart/mixed;boundary=B")
        assert b"early-session" not in sent.body
        assert b"fingerprint" not in sent.body

    def test_other_methods_and_bodies_pass(self, bench: Any) -> None:
        request = bench.message("MESSAGE", bench.web, b"Hello", kind="text/plain")
        _, result = bench.hand(request, Side.WEB)
        assert isinstance(result, Forward)
        assert result.request.encode() == request.encode()

    def test_options_has_no_description(self, bench: Any) -> None:
        key, result = bench.hand(bench.message("OPTIONS", bench.ims, bench.ims.offer()), Side.IMS)
        assert isinstance(result, Forward)
        assert not result.request.body
        assert not bench.reply(key, 200, bench.web.offer(), tag="w1").body


def test_offers_of_one_call_go_to_the_gateway_one_after_the_other(bench: Any) -> None:
    """Over UDP two commands could overtake each other."""
    key, sent = bench.invite(bench.web)
    bench.auto = False
    answer = bench.ims.answer(sent.body)
    assert bench.respond(key, 183, answer, tag="a", headers=RELIABLE) is None
    bench.serve()
    bench.take()
    bench.hand(bench.message("UPDATE", bench.web, bench.web.offer(), to_tag="a"), Side.WEB)
    bench.respond(key, 183, bench.ims.answer(sent.body, version=4), tag="b", headers=RELIABLE)
    assert len(bench.held) == 1
    assert isinstance(bench.held[0], MediaOffer)
    bench.serve()
    assert len(bench.take()) == 2


def test_broken_ack_goes_without_its_body(bench: Any) -> None:
    """The 2xx must be acknowledged, whatever the ACK holds."""
    bench.establish(bench.web)
    _, sent = bench.inside("ACK", bench.web, b"x", cseq=bench.web.cseq, kind="multipart/mixed")
    assert not sent.body
