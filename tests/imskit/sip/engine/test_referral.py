"""REFER outside a dialog at a user agent: reports, refusals, silence (RFC 3515, RFC 4488)."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.sip.engine import user_agent as ua
from imskit.sip.memory_network import Pair, Script, answer_to
from imskit.sip.wire.message import Request

REFER = ua.Refer("r", "sip:bob@192.0.2.2", "<sip:alice@example.org>", "<sip:bob@example.org>", "<sip:focus@x>")


@pytest.fixture
def pair() -> Pair:
    pair = Pair(b=Script())
    pair.at(pair.a, REFER)
    return pair


def asked(pair: Pair) -> Request:
    assert isinstance(pair.b.engine, Script)
    return pair.b.engine.request("REFER")


def report(pair: Pair, sequence: int, body: bytes, **fields: Any) -> None:
    """NOTIFY of bob's in the dialog that the REFER makes."""
    request = asked(pair)
    values = {"Event": "refer", "Subscription-State": "active;expires=60"} | {
        name.replace("_", "-"): value for name, value in fields.items()
    }
    notify = Request.create(
        "NOTIFY",
        "sip:alice@192.0.2.1:5060",
        [
            ("Via", f"SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bKn{sequence}"),
            ("Max-Forwards", 70),
            ("From", f"{request.headers.get('To')};tag=t"),
            ("To", request.headers.get("From") or ""),
            ("Call-ID", request.call_id),
            ("CSeq", f"{sequence} NOTIFY"),
            ("Contact", "<sip:bob@192.0.2.2:5060>"),
            *values.items(),
        ],
    )
    notify.set_body(body, "message/sipfrag")
    pair.at(pair.b, notify)


def test_what_is_sent(pair: Pair) -> None:
    request = asked(pair)
    assert request.headers.get("Refer-To") == "<sip:focus@x>"
    assert request.to.tag is None
    assert request.contacts
    assert "Event" not in request.headers
    assert "Expires" not in request.headers


@pytest.mark.parametrize("first", ["answer", "report"])
def test_reports_until_the_last_one(pair: Pair, first: str) -> None:
    """A NOTIFY may overtake the 202 (RFC 6665 section 4.1.2.4)."""
    if first == "answer":
        pair.at(pair.b, answer_to(asked(pair), 202, "t"))
    report(pair, 1, b"SIP/2.0 100 Trying")
    if first == "report":
        pair.at(pair.b, answer_to(asked(pair), 202, "t"))
    number = asked(pair).cseq.number
    report(pair, 2, b"SIP/2.0 200 OK", Event=f"refer;id={number}", Subscription_State="terminated;reason=noresource")
    assert [told.message.body for told in pair.a.all(ua.Notified)] == [b"SIP/2.0 100 Trying", b"SIP/2.0 200 OK"]
    (ended,) = pair.a.all(ua.SubscriptionEnded)
    assert ended.reason == "noresource"
    assert pair.quiet()


@pytest.mark.parametrize("status", [404, 405, 603])
def test_a_refusal(pair: Pair, status: int) -> None:
    pair.at(pair.b, answer_to(asked(pair), status, "t"))
    (ended,) = pair.a.all(ua.SubscriptionEnded)
    assert ended.message is not None
    assert pair.quiet()


def test_nothing_will_be_told(pair: Pair) -> None:
    pair.at(pair.b, answer_to(asked(pair), 202, "t", Refer_Sub="false"))
    assert pair.a.all(ua.SubscriptionEnded)
    assert pair.quiet()


@pytest.mark.parametrize("answered", [True, False])
def test_silence_ends_it(pair: Pair, answered: bool) -> None:
    if answered:
        pair.at(pair.b, answer_to(asked(pair), 202, "t"))
        report(pair, 1, b"SIP/2.0 100 Trying")
    pair.net.run(400)
    assert len(pair.a.all(ua.SubscriptionEnded)) == 1


def test_another_subscription_is_not_meant(pair: Pair) -> None:
    pair.at(pair.b, answer_to(asked(pair), 202, "t"))
    report(pair, 1, b"SIP/2.0 200 OK", Event="refer;id=99999")
    report(pair, 2, b"x", Event="presence")
    assert not pair.a.all(ua.Notified)


@pytest.mark.parametrize("refer_to", ["", "no address <", "<sip:x\r\nEvil: 1>"])
def test_a_target_that_cannot_be_written(refer_to: str) -> None:
    pair = Pair(b=Script())
    pair.at(pair.a, ua.Refer("r", "sip:bob@192.0.2.2", "<sip:a@x>", "<sip:b@x>", refer_to))
    assert pair.a.last(ua.Refused).refusal is ua.Refusal.INVALID


def test_a_name_that_is_in_use(pair: Pair) -> None:
    pair.at(pair.a, REFER)
    assert pair.a.last(ua.Refused).refusal is ua.Refusal.DUPLICATE
