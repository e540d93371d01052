"""Requests outside calls, requests within them that are the owner's, and what is refused: RFC 3261 section 8."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from imskit.sip.engine import user_agent as ua
from imskit.sip.memory_network import Pair, Script, answer_to
from imskit.sip.wire.flow import Target
from imskit.sip.wire.message import Request, Response


@pytest.fixture
def script() -> Any:
    """An alice who does what the test writes, and bob."""
    peer = Script()
    return Pair(a=peer), peer


def plain(method: str, sequence: int = 1, **fields: Any) -> Request:
    """Build a request as an owner does: no Via."""
    request = Request.create(
        method,
        "sip:example.org",
        [
            ("From", "<sip:alice@example.org>;tag=mine"),
            ("To", "<sip:alice@example.org>"),
            ("Call-ID", "registration"),
            ("CSeq", f"{sequence} {method}"),
        ],
    )
    for name, value in fields.items():
        request.headers.add(name.replace("_", "-"), value)
    return request


# ---- requests of the owner --------------------------------------------------------------------------------------


def test_rfc3665_2_1_registration_is_the_owners_business() -> None:
    """401 comes up as the outcome; the owner sends the next REGISTER itself."""
    script = Script()
    pair = Pair(b=script, software="test/1")
    pair.at(pair.a, ua.Send("r1", plain("REGISTER", Contact="<sip:alice@192.0.2.1>", Expires=600000)))
    register = script.request("REGISTER")
    assert register.headers.get("User-Agent") == "test/1" and register.max_forwards == 70
    assert str(register.contacts[0]) == "<sip:alice@192.0.2.1>" and "Route" not in register.headers
    pair.at(pair.b, answer_to(register, 401, WWW_Authenticate='Digest realm="x", nonce="n", algorithm=AKAv1-MD5'))
    received = pair.a.last(ua.ResponseReceived)
    assert received.key == "r1" and received.response is not None and received.response.status == 401
    assert not pair.a.all(ua.Challenged)
    pair.at(pair.a, ua.Send("r2", plain("REGISTER", 2, Authorization="Digest x=1")))
    pair.at(pair.b, answer_to(script.request("REGISTER"), 200, Service_Route="<sip:s;lr>"))
    received = pair.a.last(ua.ResponseReceived)
    assert received.key == "r2" and received.response is not None and received.response.service_route
    assert pair.quiet()


def test_a_request_nobody_answers() -> None:
    pair = Pair(b=Script())
    pair.at(pair.a, ua.Send("m", plain("MESSAGE")), wait=33)
    assert pair.a.last(ua.ResponseReceived) == ua.ResponseReceived("m", None, ua.Cause.TIMEOUT)
    assert pair.quiet()


def test_a_request_that_cannot_be_sent() -> None:
    pair = Pair(b=Script())
    pair.at(pair.a, ua.Send("m", plain("MESSAGE"), Target("TCP", ("192.0.2.2", 5060))))
    assert pair.a.last(ua.ResponseReceived) == ua.ResponseReceived("m", None, ua.Cause.TRANSPORT)
    for method in ("INVITE", "CANCEL", "ACK"):
        pair.at(pair.a, ua.Send("x", plain(method)))
        assert pair.a.last(ua.Refused).refusal is ua.Refusal.INVALID


def test_a_transport_failure_ends_what_waits_for_it() -> None:
    pair = Pair(b=Script())
    pair.dial(wait=0)
    pair.at(pair.a, ua.TransportFailed(pair.net.keys[0], "refused"))
    assert pair.a.last(ua.Ended) == ua.Ended("call", ua.Cause.TRANSPORT)


def test_message_to_and_fro() -> None:
    """RFC 3428."""
    pair = Pair()
    request = plain("MESSAGE")
    request.set_body(b"hello", "text/plain")
    pair.at(pair.a, ua.Send("m", request))
    received = pair.b.last(ua.RequestReceived)
    assert received.message.body == b"hello" and received.call is None and received.dialog is None
    pair.at(pair.b, ua.Respond(received.request, 202, headers=(("X-Test", "1"),)))
    outcome = pair.a.last(ua.ResponseReceived).response
    assert outcome is not None and (outcome.status, outcome.headers.get("X-Test")) == (202, "1")
    pair.at(pair.b, ua.Respond(received.request))
    assert pair.b.last(ua.Refused).refusal is ua.Refusal.UNKNOWN
    assert pair.quiet()


def test_a_request_the_owner_leaves_alone_is_500(script: Any) -> None:
    pair, peer = script
    pair.at(pair.a, peer.build("MESSAGE", 1), wait=17)
    assert peer.response("MESSAGE").status == 500
    assert pair.quiet()


def test_requests_within_a_call() -> None:
    """INFO, MESSAGE, REFER, OPTIONS, NOTIFY: handed up with the call, answered by the owner."""
    pair = Pair()
    call = pair.talk()
    for method in ("INFO", "MESSAGE", "REFER", "OPTIONS", "NOTIFY"):
        pair.at(
            pair.a,
            ua.SendInDialog(method, "call", method, (("X-Test", method),), b"body", "text/plain"),
        )
        received = pair.b.last(ua.RequestReceived)
        assert (received.message.method, received.call, received.message.body) == (method, call, b"body")
        assert received.dialog == pair.b.last(ua.IncomingCall).dialog
        pair.at(pair.b, ua.Respond(received.request, 202))
        outcome = pair.a.last(ua.ResponseReceived)
        assert outcome.key == method and outcome.response is not None and outcome.response.status == 202
    assert "Contact" in pair.b.all(ua.RequestReceived)[2].message.headers  # REFER
    for method in ("BYE", "INVITE", "ACK", "CANCEL", "PRACK", "UPDATE", "a b"):
        pair.at(pair.a, ua.SendInDialog("x", "call", method))
        assert pair.a.last(ua.Refused).refusal is ua.Refusal.INVALID


def test_requests_within_a_call_keep_their_order() -> None:
    pair = Pair()
    pair.talk()
    pair.at(pair.a, *[ua.SendInDialog(str(n), "call", "INFO") for n in range(3)])
    assert len(pair.b.all(ua.RequestReceived)) == 1
    for _ in range(3):
        pair.at(pair.b, ua.Respond(pair.b.last(ua.RequestReceived).request))
    assert [output.key for output in pair.a.all(ua.ResponseReceived)] == ["0", "1", "2"]


def test_requests_that_wait_are_told_when_the_call_ends() -> None:
    pair = Pair()
    pair.talk()
    pair.at(pair.a, *[ua.SendInDialog(str(n), "call", "INFO") for n in range(2)], ua.Hangup("call"))
    assert ua.ResponseReceived("1", None, ua.Cause.GONE) in pair.a.outputs
    pair.at(pair.a, ua.SendInDialog("2", "call", "INFO"))
    assert pair.a.last(ua.Refused).refusal is ua.Refusal.UNKNOWN
    assert pair.quiet()


def test_info_answered_481_ends_the_call() -> None:
    script = Script()
    pair = Pair(b=script)
    pair.dial()
    pair.at(pair.b, answer_to(script.request("INVITE"), 200, "b1", b"answer"))
    pair.at(pair.a, ua.SendInDialog("i", "call", "INFO"))
    pair.at(pair.b, answer_to(script.request("INFO"), 481))
    assert pair.a.last(ua.Ended).cause is ua.Cause.GONE
    response = pair.a.last(ua.ResponseReceived).response
    assert response is not None and response.status == 481


def test_a_challenged_bye_is_repeated_after_the_end() -> None:
    script = Script()
    pair = Pair(b=script)
    pair.dial()
    pair.at(pair.b, answer_to(script.request("INVITE"), 200, "b1", b"answer"))
    pair.at(pair.a, ua.Hangup("call"))
    pair.at(pair.b, answer_to(script.request("BYE"), 407, Proxy_Authenticate='Digest realm="x", nonce="n"'))
    challenged = pair.a.last(ua.Challenged)
    assert challenged.call == "call" and pair.a.outputs.index(challenged) > pair.a.outputs.index(pair.a.last(ua.Ended))
    pair.at(pair.a, ua.Authorize(challenged.challenge, (("Proxy-Authorization", "Digest x=1"),)))
    assert script.request("BYE").headers.get("Proxy-Authorization") == "Digest x=1"
    pair.at(pair.b, answer_to(script.request("BYE"), 200))
    assert pair.quiet()


def test_another_profile() -> None:
    pair = Pair()
    pair.talk()
    rules = (ua.HeaderRule((("P-Access-Network-Info", "new cell"),)),)
    pair.at(pair.a, ua.Configure(replace(pair.profile_a, rules=rules, contact="<sip:new@192.0.2.1>")))
    pair.at(pair.a, ua.Modify("call"))
    update = pair.b.last(ua.Refreshed).message
    assert update.headers.get("P-Access-Network-Info") == "new cell"
    assert str(update.contacts[0].uri) == "sip:alice@192.0.2.1:5060"  # type: ignore[union-attr]
    pair.at(pair.a, ua.Configure(replace(pair.profile_a, contact="nonsense")))
    assert pair.a.last(ua.Refused).refusal is ua.Refusal.INVALID


# ---- requests in ------------------------------------------------------------------------------------------------


def test_rfc3261_11_2_options_outside_a_dialog(script: Any) -> None:
    pair, peer = script
    pair.at(pair.a, peer.build("OPTIONS", 1))
    response = peer.response("OPTIONS")
    assert response.status == 200 and "INVITE" in response.allow and response.supported == ["100rel", "timer"]
    assert response.headers.get("Accept") == "application/sdp" and "Contact" in response.headers
    assert not pair.b.outputs


@pytest.mark.parametrize(
    ("method", "fields", "status", "header", "value"),
    [
        ("SUBSCRIBE", {}, 405, "Allow", "INVITE, ACK"),
        ("NONSENSE", {}, 405, "Allow", "INVITE, ACK"),
        ("INVITE", {"Require": "100rel, nothing, timer"}, 420, "Unsupported", "nothing"),
        ("OPTIONS", {"Require": "nothing"}, 420, "Unsupported", "nothing"),
        ("INVITE", {"Content-Type": "text/plain"}, 415, "Accept", "application/sdp"),
        ("INVITE", {"Content-Encoding": "gzip"}, 415, "Accept-Encoding", "identity"),
        ("INVITE", {"Contact": "*"}, 400, None, None),
        ("INVITE", {"Contact": "<sip:a@[::>"}, 400, None, None),
        ("INVITE", {"Expires": "soon"}, 400, None, None),
        ("BYE", {}, 481, None, None),
        ("PRACK", {}, 481, None, None),
        ("UPDATE", {}, 481, None, None),
        ("NOTIFY", {}, 481, None, None),
        ("CANCEL", {}, 481, None, None),
    ],
)
def test_refusals(script: Any, method: str, fields: dict[str, str], status: int, header: Any, value: Any) -> None:
    """RFC 3261 section 8.2."""
    pair, peer = script
    request = peer.build(method, 1, b"v=0" if method == "INVITE" else b"")
    for name, text in fields.items():
        request.headers.set(name, text)
    pair.at(pair.a, request)
    response = peer.response(method)
    assert response.status == status
    if header is not None:
        assert (response.headers.get(header) or "").startswith(value)
    assert not pair.b.all(ua.IncomingCall)
    assert pair.quiet()


def test_rfc3261_8_2_2_1_an_unknown_scheme_is_416(script: Any) -> None:
    pair, peer = script
    request = peer.build("INVITE", 1, b"v=0")
    request.uri = "http://example.org"
    pair.at(pair.a, request)
    assert peer.response("INVITE").status == 416
    request = peer.build("INVITE", 2, b"v=0")
    request.uri = "tel:+15550100"
    pair.at(pair.a, request)
    assert pair.b.all(ua.IncomingCall)


def test_rfc3261_8_2_2_2_a_merged_request_is_482(script: Any) -> None:
    pair, peer = script
    pair.at(pair.a, peer.build("INVITE", 1, b"v=0"), peer.build("INVITE", 1, b"v=0"))
    assert 482 in {each.status for each in peer.received if isinstance(each, Response)}
    assert len(pair.b.all(ua.IncomingCall)) == 1


def test_an_optional_body_of_another_type_does_no_harm(script: Any) -> None:
    """RFC 3261 section 8.2.3: handling=optional."""
    pair, peer = script
    request = peer.build("INVITE", 1, b"x")
    request.headers.set("Content-Type", "application/x-unknown")
    request.headers.set("Content-Disposition", "session;handling=optional")
    pair.at(pair.a, request)
    assert pair.b.last(ua.IncomingCall).sdp is None


def test_the_deadline_is_the_nearest_of_all() -> None:
    pair = Pair()
    assert pair.a.engine.deadline() is None
    pair.dial(wait=0)
    first = pair.a.engine.deadline()
    assert first is not None and first <= 0.5
    assert not pair.a.engine.idle  # type: ignore[attr-defined]
