"""Retransmission of reliable 1xx until PRACK and of 2xx until ACK: RFC 3262 section 3, RFC 3261 section 13.3.1."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.sip.engine import user_agent as ua
from imskit.sip.memory_network import Pair, Script
from imskit.sip.wire.message import Response


@pytest.fixture
def script() -> Any:
    """An alice who does what the test writes, and bob."""
    peer = Script()
    return Pair(a=peer), peer


def invite(pair: Any, peer: Script, sdp: bytes = b"offer", **fields: Any) -> str:
    """Send an INVITE with 100rel and return bob's name for the call."""
    pair.at(pair.a, peer.build("INVITE", 1, sdp, **{"Supported": "100rel", "Allow": "UPDATE"} | fields))
    call: str = pair.b.last(ua.IncomingCall).call
    return call


def prack_of(peer: Script, response: Response, sequence: int, sdp: bytes = b"", rack: str = "") -> Any:
    """Build the PRACK of a response."""
    value = rack or f"{response.rseq} {response.cseq.number} INVITE"
    return peer.build("PRACK", sequence, sdp, to_tag=response.to.tag or "", RAck=value)


def times(pair: Any, status: int) -> list[float]:
    """Return when bob sent a status, rounded."""
    return [round(at, 2) for at, sender, m in pair.net.sent if isinstance(m, Response) and m.status == status]


def test_rfc3262_retransmission_doubles_without_cap_then_504(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer)
    start = pair.net.now
    pair.at(pair.b, ua.Provisional(call, 183, sdp=b"answer"), wait=40)
    sent = [round(at - start, 2) for at in times(pair, 183)]
    assert sent == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert round(times(pair, 504)[0] - start, 2) == 32.0
    assert pair.b.last(ua.Ended).cause is ua.Cause.NO_PRACK


def test_rfc3262_prack_stops_it(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer)
    pair.at(pair.b, ua.Provisional(call, 183, sdp=b"answer"), wait=1)
    response = peer.response("INVITE")
    assert response.require == ["100rel"] and 1 <= (response.rseq or 0) < 2**31
    assert [each.status for each in peer.received if isinstance(each, Response)] == [183, 183]
    pair.at(pair.a, prack_of(peer, response, 2))
    assert peer.response("PRACK").status == 200
    acknowledged = pair.b.last(ua.PrackReceived)
    assert (acknowledged.status, acknowledged.call) == (183, call)
    before = len(times(pair, 183))
    pair.net.run(50)
    assert len(times(pair, 183)) == before


@pytest.mark.parametrize("rack", ["1 1 INVITE", "{rseq} 2 INVITE", "{rseq} 1 UPDATE"])
def test_rfc3262_a_prack_that_matches_nothing_is_481(script: Any, rack: str) -> None:
    pair, peer = script
    call = invite(pair, peer)
    pair.at(pair.b, ua.Provisional(call, 183, sdp=b"answer"))
    response = peer.response("INVITE")
    pair.at(pair.a, prack_of(peer, response, 2, rack=rack.format(rseq=response.rseq)))
    assert peer.response("PRACK").status == 481
    assert not pair.b.all(ua.PrackReceived)


def test_a_prack_without_rack_or_for_a_second_time(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer)
    pair.at(pair.b, ua.Provisional(call, 183, sdp=b"answer"))
    response = peer.response("INVITE")
    pair.at(pair.a, peer.build("PRACK", 2, to_tag=response.to.tag))
    assert peer.response("PRACK").status == 400
    pair.at(pair.a, prack_of(peer, response, 3), prack_of(peer, response, 4))
    assert peer.response("PRACK").status == 481
    assert len(pair.b.all(ua.PrackReceived)) == 1


def test_rfc3262_one_at_a_time_and_numbered_by_one(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer)
    pair.at(
        pair.b,
        ua.Provisional(call, 183, sdp=b"answer"),
        ua.Provisional(call, 180, reliable=True),
        ua.Provisional(call, 181, reliable=True),
    )
    first = peer.response("INVITE")
    assert first.status == 183
    pair.at(pair.a, prack_of(peer, first, 2))
    second = peer.response("INVITE")
    assert (second.status, second.rseq) == (180, (first.rseq or 0) + 1)
    pair.at(pair.a, prack_of(peer, second, 3))
    assert peer.response("INVITE").status == 181


def test_rfc3262_5_the_2xx_waits_for_the_prack_of_an_answer(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer)
    pair.at(pair.b, ua.Provisional(call, 183, sdp=b"answer"), ua.Answer(call), wait=1)
    first = peer.response("INVITE")
    assert first.status == 183
    pair.at(pair.a, prack_of(peer, first, 2))
    final = peer.response("INVITE")
    assert final.status == 200 and final.body == b""


def test_the_2xx_does_not_wait_for_a_prack_without_sdp(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer)
    pair.at(pair.b, ua.Provisional(call, 180, reliable=True), ua.Provisional(call, 181, reliable=True))
    ringing = peer.response("INVITE")
    pair.at(pair.b, ua.Answer(call, b"answer"))
    assert peer.response("INVITE").status == 200
    assert not times(pair, 181)  # outdated before it was sent
    # The PRACK that is under way is still taken (section 3).
    pair.at(pair.a, prack_of(peer, ringing, 2))
    assert peer.response("PRACK").status == 200
    assert len(times(pair, 180)) == 1


def test_rfc3262_required_100rel_makes_every_provisional_reliable(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer, Require="100rel")
    pair.at(pair.b, ua.Provisional(call, 180, reliable=False))
    assert pair.b.last(ua.Refused).refusal is ua.Refusal.STATE
    pair.at(pair.b, ua.Provisional(call, 180))
    assert peer.response("INVITE").require == ["100rel"]


def test_a_peer_without_100rel_gets_no_reliable_response(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer, Supported="timer")
    pair.at(pair.b, ua.Provisional(call, 183, sdp=b"answer", reliable=True))
    assert pair.b.last(ua.Refused).refusal is ua.Refusal.UNSUPPORTED
    pair.at(pair.b, ua.Provisional(call, 183, sdp=b"answer"))
    assert "RSeq" not in peer.response("INVITE").headers
    # The preview is the answer, and comes again in the 2xx whatever the owner says (RFC 6337 section 3.1.1).
    pair.at(pair.b, ua.Answer(call, b"other"))
    assert peer.response("INVITE").body == b"answer"


def test_rfc3261_13_3_1_1_an_unreliable_response_is_repeated_every_minute(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer)
    start = pair.net.now
    pair.at(pair.b, ua.Provisional(call, 180), wait=130)
    assert [round(at - start) for at in times(pair, 180)] == [0, 60, 120]


def test_a_reliable_response_is_followed_by_another_after_150_s(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer)
    pair.at(pair.b, ua.Provisional(call, 183, sdp=b"answer"))
    first = peer.response("INVITE")
    pair.at(pair.a, prack_of(peer, first, 2), wait=151)
    second = peer.response("INVITE")
    assert (second.status, second.rseq, second.body) == (183, (first.rseq or 0) + 1, b"")


def test_rfc3261_13_3_1_4_the_2xx_is_retransmitted_until_the_ack(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer)
    start = pair.net.now
    pair.at(pair.b, ua.Answer(call, b"answer"), wait=12)
    assert [round(at - start, 2) for at in times(pair, 200)] == [0, 0.5, 1.5, 3.5, 7.5, 11.5]
    response = peer.response("INVITE")
    pair.at(pair.a, peer.build("ACK", 1, to_tag=response.to.tag), wait=60)
    assert len(times(pair, 200)) == 6
    assert pair.b.last(ua.Confirmed).call == call
    # A second ACK says nothing new.
    pair.at(pair.a, peer.build("ACK", 1, to_tag=response.to.tag))
    assert len(pair.b.all(ua.Confirmed)) == 1


def test_rfc3261_13_3_1_4_without_ack_the_session_ends_with_bye(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer)
    start = pair.net.now
    pair.at(pair.b, ua.Answer(call, b"answer"), wait=33)
    bye_at = next(at for at, sender, each in pair.net.sent if getattr(each, "method", "") == "BYE")
    assert round(bye_at - start, 2) == 32.0
    assert pair.b.last(ua.Ended) == ua.Ended(call, ua.Cause.NO_ACK)


def test_rfc3261_15_a_bye_of_the_callee_waits_for_the_ack(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer)
    pair.at(pair.b, ua.Answer(call, b"answer"), ua.Hangup(call, (("Reason", "SIP;cause=200"),)), wait=1)
    assert pair.b.last(ua.Ended).cause is ua.Cause.LOCAL
    assert not [each for each in peer.received if getattr(each, "method", "") == "BYE"]
    tag = peer.response("INVITE").to.tag
    pair.at(pair.a, peer.build("INFO", 2, to_tag=tag))
    assert peer.response("INFO").status == 481
    pair.at(pair.a, peer.build("ACK", 1, to_tag=tag))
    assert peer.request("BYE").reasons[0].cause == 200


def test_rfc3261_15_or_for_64_t1(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer)
    pair.at(pair.b, ua.Answer(call, b"answer"), ua.Hangup(call), wait=33)
    assert peer.request("BYE").to.tag == "a1"
    assert len(pair.b.all(ua.Ended)) == 1
    assert pair.quiet()


def test_crossing_bye_while_waiting_for_the_ack(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer)
    pair.at(pair.b, ua.Answer(call, b"answer"), ua.Hangup(call))
    pair.at(pair.a, peer.build("BYE", 2, to_tag=peer.response("INVITE").to.tag), wait=60)
    assert peer.response("BYE").status == 200
    assert not [each for each in peer.received if getattr(each, "method", "") == "BYE"]
    assert len(pair.b.all(ua.Ended)) == 1
    assert pair.quiet()


def test_late_offer_in_our_2xx_needs_an_answer_in_the_ack(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer, b"")
    pair.at(pair.b, ua.Answer(call))
    assert pair.b.last(ua.Refused).refusal is ua.Refusal.NEEDS_SDP
    pair.at(pair.b, ua.Answer(call, b"offer"))
    response = peer.response("INVITE")
    assert response.body == b"offer"
    pair.at(pair.a, peer.build("ACK", 1, b"answer", to_tag=response.to.tag))
    answer = pair.b.last(ua.AnswerReceived)
    assert (answer.sdp, answer.carrier) == (b"answer", ua.Carrier.ACK)


def test_late_offer_without_an_answer_in_the_ack_ends_the_call(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer, b"")
    pair.at(pair.b, ua.Answer(call, b"offer"))
    pair.at(pair.a, peer.build("ACK", 1, to_tag=peer.response("INVITE").to.tag))
    assert pair.b.last(ua.OfferFailed).cause is ua.Cause.PROTOCOL
    assert pair.b.last(ua.Ended).cause is ua.Cause.PROTOCOL
    assert peer.request("BYE").to.tag == "a1"


def test_rfc6337_3_1_2_an_offer_in_our_provisional_response(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer, b"")
    pair.at(pair.b, ua.Provisional(call, 180, reliable=True))
    assert pair.b.last(ua.Refused).refusal is ua.Refusal.NEEDS_SDP
    pair.at(pair.b, ua.Provisional(call, 183, sdp=b"x", reliable=False))
    assert pair.b.last(ua.Refused).refusal is ua.Refusal.NO_SDP
    pair.at(pair.b, ua.Provisional(call, 183, sdp=b"offer"), ua.Answer(call))
    first = peer.response("INVITE")
    assert (first.status, first.body) == (183, b"offer")
    pair.at(pair.a, prack_of(peer, first, 2))
    assert peer.response("PRACK").status == 400  # the answer is missing
    pair.at(pair.a, prack_of(peer, first, 3, b"answer"))
    assert peer.response("PRACK").status == 200
    assert pair.b.last(ua.AnswerReceived).carrier is ua.Carrier.PRACK
    assert peer.response("INVITE").status == 200 and peer.response("INVITE").body == b""
