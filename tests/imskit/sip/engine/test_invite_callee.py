"""Incoming calls: RFC 3261 section 13.3 and 15.1.2, RFC 4028 section 9."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.sip.engine import user_agent as ua
from imskit.sip.memory_network import Pair, Script, answer_to, counter
from imskit.sip.wire.message import Response


@pytest.fixture
def script() -> Any:
    """An alice who does what the test writes, and bob."""
    peer = Script()
    return Pair(a=peer), peer


def invite(pair: Any, peer: Script, sdp: bytes = b"offer", **fields: Any) -> str:
    """Send an INVITE and return bob's name for the call."""
    pair.at(pair.a, peer.build("INVITE", 1, sdp, **fields))
    call: str = pair.b.last(ua.IncomingCall).call
    return call


def test_an_incoming_call_says_all(script: Any) -> None:
    pair, peer = script
    invite(pair, peer, Replaces="other;to-tag=1;from-tag=2", P_Asserted_Identity="<tel:+15550100>")
    incoming = pair.b.last(ua.IncomingCall)
    assert incoming.sdp == b"offer" and incoming.dialog.call_id == "script" and incoming.dialog.remote_tag == "a1"
    assert incoming.request.replaces is not None and incoming.request.headers.get("P-Asserted-Identity")
    assert incoming.flow.remote == pair.A


def test_responses_carry_what_makes_a_dialog(script: Any) -> None:
    """RFC 3261 sections 12.1.1 and 13.3.1.4: tag, Contact, Allow, Supported, Record-Route."""
    pair, peer = script
    call = invite(pair, peer, Record_Route="<sip:p1.example.org;lr>, <sip:p2.example.org;lr>")
    pair.at(pair.b, ua.Provisional(call, 180, "Klingelt", headers=(("Alert-Info", "<urn:alert:service:normal>"),)))
    ringing = peer.response("INVITE")
    assert ringing.reason == "Klingelt" and ringing.headers.get("Alert-Info")
    pair.at(pair.b, ua.Answer(call, b"answer"))
    final = peer.response("INVITE")
    assert final.to.tag == ringing.to.tag == pair.b.last(ua.IncomingCall).dialog.local_tag
    assert str(final.contacts[0].uri) == "sip:bob@192.0.2.2:5060"
    assert len(final.record_routes) == 2 and "INVITE" in final.allow and "100rel" in final.supported
    pair.at(pair.a, peer.build("ACK", 1, to_tag=final.to.tag))
    pair.at(pair.b, ua.Hangup(call))
    bye = peer.request("BYE")
    assert [str(route.uri) for route in bye.routes] == ["sip:p1.example.org;lr", "sip:p2.example.org;lr"]
    assert bye.uri == "sip:alice@192.0.2.1:5060" and bye.from_.tag == final.to.tag


def test_cancel_is_487_and_ends_the_call(script: Any) -> None:
    pair, peer = script
    branch = "z9hG4bKcancel"
    pair.at(pair.a, peer.build("INVITE", 1, b"offer", branch=branch))
    call = pair.b.last(ua.IncomingCall).call
    pair.at(pair.b, ua.Provisional(call))
    pair.at(pair.a, peer.build("CANCEL", 1, branch=branch, Reason='SIP;cause=200;text="elsewhere"'))
    assert (peer.response("CANCEL").status, peer.response("INVITE").status) == (200, 487)
    ended = pair.b.last(ua.Ended)
    assert ended.cause is ua.Cause.REMOTE and ended.message is not None
    assert ended.message.reasons[0].text == "elsewhere"
    pair.at(pair.b, ua.Answer(call, b"x"))
    assert pair.b.last(ua.Refused).refusal is ua.Refusal.UNKNOWN
    assert pair.quiet()


def test_cancel_after_the_answer_changes_nothing(script: Any) -> None:
    """RFC 3261 section 9.2."""
    pair, peer = script
    pair.at(pair.a, peer.build("INVITE", 1, b"offer", branch="z9hG4bKc"))
    call = pair.b.last(ua.IncomingCall).call
    pair.at(pair.b, ua.Answer(call, b"answer"))
    pair.at(pair.a, peer.build("CANCEL", 1, branch="z9hG4bKc"))
    assert peer.response("CANCEL").status == 200 and peer.response("INVITE").status == 200
    assert not pair.b.all(ua.Ended)


def test_rfc3261_15_1_2_bye_before_the_answer_is_200_and_the_invite_487(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer)
    pair.at(pair.b, ua.Provisional(call))
    pair.at(pair.a, peer.build("BYE", 2, to_tag=peer.response("INVITE").to.tag))
    assert (peer.response("BYE").status, peer.response("INVITE").status) == (200, 487)
    assert pair.b.last(ua.Ended).cause is ua.Cause.REMOTE
    pair.at(pair.a, peer.build("ACK", 1, to_tag=peer.response("INVITE").to.tag))
    assert pair.quiet()


def test_bye_before_the_ack_stops_the_2xx(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer)
    pair.at(pair.b, ua.Answer(call, b"answer"))
    pair.at(pair.a, peer.build("BYE", 2, to_tag=peer.response("INVITE").to.tag))
    count = len(peer.received)
    pair.net.run(60)
    assert len(peer.received) == count
    assert pair.b.last(ua.Ended).cause is ua.Cause.REMOTE
    assert pair.quiet()


def test_nobody_answers_in_time(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer)
    pair.at(pair.b, ua.Provisional(call), wait=181)
    assert peer.response("INVITE").status == 480
    assert pair.b.last(ua.Ended) == ua.Ended(call, ua.Cause.NO_ANSWER)


def test_rfc3261_13_3_1_an_invitation_expires(script: Any) -> None:
    pair, peer = script
    invite(pair, peer, Expires=5)
    pair.net.run(6)
    assert peer.response("INVITE").status == 487
    assert pair.b.last(ua.Ended).cause is ua.Cause.NO_ANSWER


def test_rfc4028_9_a_session_interval_too_small_is_422(script: Any) -> None:
    pair, peer = script
    pair.at(pair.a, peer.build("INVITE", 1, b"offer", Supported="timer", Session_Expires="60"))
    refused = peer.response("INVITE")
    assert refused.status == 422 and refused.min_se is not None and refused.min_se.seconds == 90
    assert not pair.b.all(ua.IncomingCall)


def test_hangup_of_an_unanswered_call_is_480(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer)
    pair.at(pair.b, ua.Hangup(call, (("Retry-After", "5"),)))
    response = peer.response("INVITE")
    assert response.status == 480 and response.headers.get("Retry-After") == "5"
    assert pair.b.last(ua.Ended).cause is ua.Cause.LOCAL


def test_reject_with_a_body(script: Any) -> None:
    """RFC 3312 section 8: 580 with an SDP that says what failed."""
    pair, peer = script
    call = invite(pair, peer)
    pair.at(pair.b, ua.Reject(call, 580, body=b"v=0", content_type="application/sdp"))
    response = peer.response("INVITE")
    assert (response.status, response.body) == (580, b"v=0")
    assert response.content_type is not None and response.content_type.essence == "application/sdp"
    assert "Contact" not in response.headers


def test_an_sdp_after_the_exchange_is_not_sent(script: Any) -> None:
    """RFC 6337 section 3.1.1: once answered reliably, no SDP in what follows."""
    pair, peer = script
    call = invite(pair, peer, Supported="100rel")
    pair.at(pair.b, ua.Provisional(call, 183, sdp=b"answer"))
    first = peer.response("INVITE")
    pair.at(pair.a, peer.build("PRACK", 2, to_tag=first.to.tag, RAck=f"{first.rseq} 1 INVITE"))
    pair.at(pair.b, ua.Provisional(call, 183, sdp=b"again"))
    assert pair.b.last(ua.Refused).refusal is ua.Refusal.NO_SDP
    pair.at(pair.b, ua.Answer(call, b"again"))
    assert peer.response("INVITE").status == 200 and peer.response("INVITE").body == b""


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        (lambda call: ua.Provisional(call, 200), ua.Refusal.INVALID),
        (lambda call: ua.Provisional(call, 100), ua.Refusal.INVALID),
        (lambda call: ua.Reject(call, 200), ua.Refusal.INVALID),
        (lambda call: ua.Provisional(call, 180, "bad\r\nX: y"), ua.Refusal.INVALID),
        (lambda call: ua.Answer(call, b"x", (("X", "a\r\nb"),)), ua.Refusal.INVALID),
        (lambda call: ua.Answer(call, b"x", (("CSeq", "1 INVITE"),)), ua.Refusal.INVALID),
        (lambda call: ua.Answer(call), ua.Refusal.NEEDS_SDP),
        (lambda call: ua.Modify(call, b"x"), ua.Refusal.PENDING),
        (lambda call: ua.Modify(call, b"x", "INVITE"), ua.Refusal.STATE),
        (lambda call: ua.Modify(call, b"x", "INFO"), ua.Refusal.INVALID),
    ],
)
def test_refused_commands_change_nothing(script: Any, command: Any, refusal: ua.Refusal) -> None:
    pair, peer = script
    call = invite(pair, peer)
    pair.at(pair.b, command(call))
    assert pair.b.last(ua.Refused).refusal is refusal
    pair.at(pair.b, ua.Answer(call, b"answer"))
    assert peer.response("INVITE").body == b"answer"
    pair.at(pair.b, ua.Answer(call, b"answer"), ua.Reject(call), ua.Provisional(call))
    assert [output.refusal for output in pair.b.all(ua.Refused)[-3:]] == [ua.Refusal.STATE] * 3


def test_over_a_connection_the_dialog_stays_on_it() -> None:
    """RFC 5626, RFC 7118: without a fixed hop, requests go where the INVITE came from, later where the latest came."""
    peer = Script()
    pair = Pair(a=peer, transport="TCP", hop=None)
    pair.at(pair.a, peer.build("INVITE", 1, b"offer", Contact="<sip:x@abc.invalid;transport=ws>"))
    call = pair.b.last(ua.IncomingCall).call
    pair.at(pair.b, ua.Answer(call, b"answer"))
    tag = peer.response("INVITE").to.tag
    pair.at(pair.a, peer.build("ACK", 1, to_tag=tag))
    pair.at(pair.b, ua.SendInDialog("info", call, "INFO"))
    assert peer.request("INFO").uri == "sip:x@abc.invalid;transport=ws"
    # Another request waits for this one, and goes to where the owner says by then.
    pair.at(pair.b, ua.SendInDialog("i2", call, "INFO"), ua.Reroute(call, pair.net.flow(pair.B, ("192.0.2.9", 5060))))
    pair.at(pair.a, answer_to(peer.request("INFO"), 200))
    assert pair.net.ladder[-1] == "bob -x 192.0.2.9:5060  INFO"
    # A request of the peer's over a new connection: that is where it is now.
    peer.flow = None
    other = pair.net.add("alice again", peer, ("192.0.2.5", 5060))
    peer.flow = pair.net.flow(other.address, pair.B)
    pair.at(other, peer.build("OPTIONS", 7, to_tag=tag))
    pair.at(pair.b, ua.Hangup(call))
    assert pair.net.ladder[-1] == "bob -> alice again  BYE"


def test_over_udp_without_a_fixed_hop_the_route_set_says_where() -> None:
    peer = Script()
    pair = Pair(a=peer, hop=None)
    pair.b.engine = ua.UserAgent(pair.profile_b, counter("b"), sent_by={"UDP": ua.SentBy("192.0.2.2", 5060)})
    pair.at(pair.a, peer.build("INVITE", 1, b"offer", Record_Route="<sip:192.0.2.7:5070;lr>"))
    call = pair.b.last(ua.IncomingCall).call
    pair.at(pair.b, ua.Answer(call, b"answer"))
    tag = peer.response("INVITE").to.tag
    pair.at(pair.a, peer.build("ACK", 1, to_tag=tag))
    pair.at(pair.b, ua.Hangup(call))
    assert pair.net.ladder[-1] == "bob -x 192.0.2.7:5070  BYE"


def test_a_late_response_status_is_not_a_response(script: Any) -> None:
    pair, peer = script
    call = invite(pair, peer)
    pair.at(pair.b, ua.Answer(call, b"answer"), wait=40)
    statuses = {each.status for each in peer.received if isinstance(each, Response)}
    assert statuses == {200}
