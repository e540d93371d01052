"""The subscriber: RFC 6665 section 4.1, TS 24.229 section 5.1.1.3, against a script and the notifier (S7-IMS)."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.sip.engine import user_agent as ua
from imskit.sip.memory_network import Pair, Script, answer_to
from imskit.sip.wire.message import Request

SUBSCRIBE = ua.Subscribe(
    "reg",
    "sip:alice@example.org",
    "<sip:alice@example.org>",
    "<sip:alice@example.org>",
    "reg",
    expires=600_000,
    accept=("application/reginfo+xml",),
    headers=(("P-Preferred-Identity", "<sip:alice@example.org>"),),
    route=("<sip:pcscf;lr>", "<sip:scscf;lr>"),
)


@pytest.fixture
def script() -> Any:
    """Alice, and a registrar that does what the test writes."""
    peer = Script()
    return Pair(b=peer), peer


def subscribed(pair: Any, peer: Script, expires: int = 600_000) -> Request:
    """Subscribe and accept; return the SUBSCRIBE."""
    pair.at(pair.a, SUBSCRIBE)
    request = peer.request("SUBSCRIBE")
    pair.at(pair.b, answer_to(request, 200, "n1", Expires=expires))
    return request


def notify(peer: Script, subscribe: Request, sequence: int, state: str, tag: str = "n1", **fields: Any) -> Request:
    """Build a NOTIFY of the subscription."""
    request = peer.build("NOTIFY", sequence, **{"Subscription-State": state, "Event": "reg"} | fields)
    request.headers.set("From", f"<sip:alice@example.org>;tag={tag}")
    request.headers.set("To", f"<sip:alice@example.org>;tag={subscribe.from_.tag}")
    request.headers.set("Call-ID", subscribe.call_id)
    request.headers.set("Contact", "<sip:notifier@192.0.2.2>")
    request.set_body(b"<reginfo/>", "application/reginfo+xml")
    return request


def subscribes(peer: Script) -> list[Request]:
    """Return every SUBSCRIBE that came, without retransmissions."""
    came = [each for each in peer.received if isinstance(each, Request) and each.method == "SUBSCRIBE"]
    return list({each.top_via.branch: each for each in came}.values())


def test_a_subscription_lives(script: Any) -> None:
    pair, peer = script
    request = subscribed(pair, peer)
    assert request.headers.get("Event") == "reg" and request.expires == 600_000
    assert [str(route) for route in request.routes] == ["<sip:pcscf;lr>", "<sip:scscf;lr>"]
    assert request.headers.get("Accept") == "application/reginfo+xml" and request.headers.get("P-Preferred-Identity")
    assert pair.a.last(ua.Subscribed).expires == 600_000
    pair.at(pair.b, notify(peer, request, 1, "active;expires=599999", Record_Route="<sip:scscf-rr;lr>"))
    assert peer.response("NOTIFY").status == 200
    notified = pair.a.last(ua.Notified)
    assert (notified.subscription, notified.state.state, notified.message.body) == ("reg", "active", b"<reginfo/>")
    # Refreshed 600 s before the end, within the dialog that the NOTIFY made (RFC 6665 section 4.4.1).
    pair.net.run(599_300)
    assert len(subscribes(peer)) == 1
    pair.net.run(200)
    again = peer.request("SUBSCRIBE")
    assert again.to.tag == "n1" and again.uri == "sip:notifier@192.0.2.2"
    assert [str(route) for route in again.routes] == ["<sip:scscf-rr;lr>"]
    assert again.cseq.number == request.cseq.number + 1


def test_a_short_subscription_is_refreshed_at_half_of_it(script: Any) -> None:
    pair, peer = script
    request = subscribed(pair, peer, 1000)
    pair.at(pair.b, notify(peer, request, 1, "active;expires=1000"), wait=498)
    assert len(subscribes(peer)) == 1
    pair.net.run(4)
    assert peer.request("SUBSCRIBE").to.tag == "n1"


def test_the_notify_may_come_before_the_response(script: Any) -> None:
    """RFC 6665 section 4.1.2.4."""
    pair, peer = script
    pair.at(pair.a, SUBSCRIBE)
    request = peer.request("SUBSCRIBE")
    pair.at(pair.b, notify(peer, request, 1, "pending;expires=600"))
    assert peer.response("NOTIFY").status == 200 and pair.a.last(ua.Notified).state.state == "pending"
    pair.at(pair.b, answer_to(request, 200, "n1", Expires=600))
    pair.at(pair.b, notify(peer, request, 2, "active;expires=600"))
    assert pair.a.last(ua.Notified).state.state == "active"


def test_without_a_notify_timer_n_ends_it(script: Any) -> None:
    pair, peer = script
    subscribed(pair, peer)
    pair.net.run(33)
    assert pair.a.last(ua.SubscriptionEnded).cause is ua.Cause.TIMEOUT
    assert pair.quiet()


def test_unsubscribe(script: Any) -> None:
    """Expires 0, and the final NOTIFY ends it (section 4.1.2.3)."""
    pair, peer = script
    request = subscribed(pair, peer)
    pair.at(pair.b, notify(peer, request, 1, "active;expires=600000"))
    pair.at(pair.a, ua.Unsubscribe("reg"))
    leaving = peer.request("SUBSCRIBE")
    assert leaving.expires == 0 and leaving.to.tag == "n1"
    pair.at(pair.b, answer_to(leaving, 200, Expires=0))
    assert not pair.a.all(ua.SubscriptionEnded)
    pair.at(pair.b, notify(peer, request, 2, "terminated;reason=timeout"))
    ended = pair.a.last(ua.SubscriptionEnded)
    assert (ended.cause, ended.reason) == (ua.Cause.LOCAL, "timeout")
    assert ua.retry_delay(ended) == 0.0
    pair.at(pair.a, ua.Unsubscribe("reg"))
    assert pair.a.last(ua.Refused).refusal is ua.Refusal.UNKNOWN
    assert pair.quiet()


def test_unsubscribe_before_the_first_notify_waits_for_it(script: Any) -> None:
    pair, peer = script
    request = subscribed(pair, peer)
    pair.at(pair.a, ua.Unsubscribe("reg"), ua.Unsubscribe("reg"))
    assert pair.a.last(ua.Refused).refusal is ua.Refusal.STATE
    assert len(subscribes(peer)) == 1
    pair.at(pair.b, notify(peer, request, 1, "active;expires=600000"))
    assert peer.request("SUBSCRIBE").expires == 0
    pair.net.run(70)
    assert pair.a.last(ua.SubscriptionEnded).cause is ua.Cause.LOCAL
    assert pair.quiet()


@pytest.mark.parametrize(
    ("parameters", "reason", "delay"),
    [
        ("reason=deactivated;retry-after=99", "deactivated", 0.0),
        ("reason=probation;retry-after=5", "probation", 5.0),
        ("reason=probation", "probation", 0.0),
        ("reason=rejected;retry-after=5", "rejected", None),
        ("reason=timeout", "timeout", 0.0),
        ("reason=giveup;retry-after=60", "giveup", 60.0),
        ("reason=noresource", "noresource", None),
        ("reason=invariant;retry-after=31536000", "invariant", None),
        ("retry-after=7", None, 7.0),
        ("", None, 0.0),
    ],
)
def test_rfc6665_4_1_3_reasons_say_when_to_subscribe_again(
    script: Any, parameters: str, reason: str | None, delay: float | None
) -> None:
    pair, peer = script
    request = subscribed(pair, peer)
    pair.at(pair.b, notify(peer, request, 1, "active"))
    pair.at(pair.b, notify(peer, request, 2, "terminated" + (f";{parameters}" if parameters else "")))
    ended = pair.a.last(ua.SubscriptionEnded)
    assert (ended.cause, ended.reason) == (ua.Cause.REMOTE, reason)
    assert ua.retry_delay(ended) == delay
    assert pair.a.last(ua.Notified).state.state == "terminated"
    assert pair.quiet()


def test_a_refused_subscription_keeps_retry_after(script: Any) -> None:
    """TS 24.229: 503 with Retry-After."""
    pair, peer = script
    pair.at(pair.a, SUBSCRIBE)
    pair.at(pair.b, answer_to(peer.request("SUBSCRIBE"), 503, Retry_After=120))
    ended = pair.a.last(ua.SubscriptionEnded)
    assert (ended.cause, ended.retry_after, ua.retry_delay(ended)) == (ua.Cause.REJECTED, 120, 120.0)
    pair.at(pair.a, SUBSCRIBE)
    pair.at(pair.b, answer_to(peer.request("SUBSCRIBE"), 403))
    assert ua.retry_delay(pair.a.last(ua.SubscriptionEnded)) is None
    assert subscribes(peer)[0].call_id != subscribes(peer)[1].call_id
    assert pair.quiet()


def test_423_is_retried_with_the_longer_interval(script: Any) -> None:
    pair, peer = script
    pair.at(pair.a, ua.Subscribe("reg", "sip:a@x", "<sip:a@x>", "<sip:a@x>", "reg", expires=60))
    pair.at(pair.b, answer_to(peer.request("SUBSCRIBE"), 423, Min_Expires=1800))
    assert peer.request("SUBSCRIBE").expires == 1800
    pair.at(pair.b, answer_to(peer.request("SUBSCRIBE"), 423, Min_Expires=1800))
    assert pair.a.last(ua.SubscriptionEnded).cause is ua.Cause.REJECTED


def test_a_challenge_goes_to_the_owner(script: Any) -> None:
    pair, peer = script
    pair.at(pair.a, SUBSCRIBE)
    first = peer.request("SUBSCRIBE")
    pair.at(pair.b, answer_to(first, 401, WWW_Authenticate='Digest realm="x", nonce="n"'))
    challenged = pair.a.last(ua.Challenged)
    assert challenged.subscription == "reg" and challenged.call is None
    pair.at(pair.a, ua.Authorize(challenged.challenge, (("Authorization", "Digest x=1"),)))
    assert peer.request("SUBSCRIBE").cseq.number == first.cseq.number + 1


@pytest.mark.parametrize("status", [481, 489, 404])
def test_rfc6665_4_1_2_2_some_failures_of_a_refresh_end_it(script: Any, status: int) -> None:
    pair, peer = script
    request = subscribed(pair, peer, 1000)
    pair.at(pair.b, notify(peer, request, 1, "active;expires=1000"), wait=501)
    pair.at(pair.b, answer_to(peer.request("SUBSCRIBE"), status))
    assert pair.a.last(ua.SubscriptionEnded).cause in (ua.Cause.GONE, ua.Cause.REJECTED)
    assert pair.quiet()


def test_other_failures_leave_it_the_time_it_has(script: Any) -> None:
    pair, peer = script
    request = subscribed(pair, peer, 1000)
    pair.at(pair.b, notify(peer, request, 1, "active;expires=1000"), wait=501)
    pair.at(pair.b, answer_to(peer.request("SUBSCRIBE"), 500), wait=400)
    assert not pair.a.all(ua.SubscriptionEnded)
    pair.at(pair.b, notify(peer, request, 2, "active"))
    assert peer.response("NOTIFY").status == 200
    pair.net.run(120)
    assert pair.a.last(ua.SubscriptionEnded).cause is ua.Cause.EXPIRED
    assert pair.quiet()


def test_notifies_that_are_not_ours(script: Any) -> None:
    pair, peer = script
    request = subscribed(pair, peer)
    pair.at(pair.b, notify(peer, request, 1, "active;expires=600", Event="presence"))
    assert peer.response("NOTIFY").status == 481
    pair.at(pair.b, notify(peer, request, 1, "active;expires=600"))
    # A fork: a second notifier (RFC 3680 section 4.9).
    pair.at(pair.b, notify(peer, request, 1, "active", tag="n2"))
    assert peer.response("NOTIFY").status == 481
    pair.at(pair.b, notify(peer, request, 2, "active", Event="presence"))
    assert peer.response("NOTIFY").status == 489
    broken = notify(peer, request, 3, "active")
    broken.headers.remove("Subscription-State")
    pair.at(pair.b, broken, notify(peer, request, 4, "active;expires=soon"))
    assert peer.response("NOTIFY").status == 400
    assert len(pair.a.all(ua.Notified)) == 1


def test_a_notify_may_shorten_the_subscription(script: Any) -> None:
    pair, peer = script
    request = subscribed(pair, peer)
    pair.at(pair.b, notify(peer, request, 1, "active;expires=100"), wait=55)
    assert len(subscribes(peer)) == 2


def test_the_same_name_twice_and_nonsense_are_refused(script: Any) -> None:
    pair, _ = script
    bad = ua.Subscribe("x", "sip:a@x", "<sip:a@x>", "<sip:a@x>", "no event;;")
    pair.at(pair.a, SUBSCRIBE, SUBSCRIBE, bad)
    assert [output.refusal for output in pair.a.all(ua.Refused)] == [ua.Refusal.DUPLICATE, ua.Refusal.INVALID]
