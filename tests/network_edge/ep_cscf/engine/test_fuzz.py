"""Whatever clients and the core send, nothing escapes the engine, and it serves on [A-EPCSCF]."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import response_to
from network_edge.ep_cscf.engine.effects import (
    Draining,
    MediaAnswer,
    MediaFailed,
    MediaOffer,
    TokenAccepted,
    TokenRefused,
)
from network_edge.ep_cscf.engine.ims_alg import ImsAlg
from network_edge.ep_cscf.engine.settings import EpCscfSettings, FlowLimits

HOME = "ims.example"
ALICE, BOB = f"sip:+15550300@{HOME}", f"sip:+15550200@{HOME}"
TOKEN = "aaaa.bbbb.cccc"
_count = itertools.count()

SDP = b"v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"

URIS = [
    ALICE,
    BOB,
    "tel:+15550300",
    "sip:alice@alice.invalid;transport=ws",
    "sip:10.45.0.3:5060;lr",
    "sip:203.0.113.11:443;transport=ws;lr;r2=on",
    "sip:evil.example;lr",
    "urn:service:sos",
    "mailto:x@y",
    "sip:",
    "sips:a@[::1]:99999",
]
HEADERS: dict[str, list[str]] = {
    "Authorization": [
        f"Bearer {TOKEN}",
        'Bearer access_token="x"',
        "Bearer",
        'Digest username="a", integrity-protected="auth-done"',
        "Digest username=",
        "Basic eA==",
        "",
    ],
    "Contact": ["*", "<sip:a@b.invalid>;expires=0", '<sip:a@b.invalid>;+sip.instance="<urn:x>";reg-id=1', "<", ""],
    "Expires": ["0", "60", "99999999999", "-1", "x"],
    "P-Preferred-Identity": [f"<{ALICE}>", f"<{BOB}>", "<", ","],
    "P-Asserted-Identity": [f"<{BOB}>"],
    "P-Access-Network-Info": ["x;network-provided", ";", '"'],
    "P-Charging-Vector": ["icid-value=1", ";;", ""],
    "P-Called-Party-ID": [f"<{ALICE}>", "<"],
    "Privacy": ["id", "none", '"'],
    "Record-Route": ["<sip:a;lr>", "<sip:10.45.0.3:5060;lr>", "<", ","],
    "Route": [*(f"<{uri}>" for uri in URIS), "<"],
    "Path": ["<sip:a;lr>"],
    "Require": ["path", "100rel", ","],
    "Proxy-Require": ["sec-agree"],
    "Event": ["reg", "presence", ";"],
    "Subscription-State": ["terminated", "active;expires=1", ";"],
    "Service-Route": ["<sip:evil;lr>", "<"],
    "P-Associated-URI": [f"<{ALICE}>", "<sip:x!.*!@ims.example>", "<mailto:a>", "<", ""],
    "Max-Forwards": ["0", "70", "x"],
    "Content-Type": ["application/sdp", "multipart/mixed;boundary=x", "x"],
}
METHODS = ["REGISTER", "INVITE", "ACK", "BYE", "CANCEL", "MESSAGE", "SUBSCRIBE", "NOTIFY", "UPDATE", "OPTIONS", "FOO"]

fields = st.lists(
    st.sampled_from(sorted(HEADERS)).flatmap(lambda name: st.tuples(st.just(name), st.sampled_from(HEADERS[name]))),
    max_size=5,
)
tags = st.sampled_from(["", ";tag=alice", ";tag=bob", ";tag=x"])
messages = st.tuples(
    st.sampled_from(METHODS),
    st.sampled_from(URIS),
    st.sampled_from(URIS),
    tags,
    tags,
    fields,
    st.binary(max_size=20) | st.just(SDP),
)
steps = st.one_of(
    st.tuples(st.just("web"), messages),
    st.tuples(st.just("core"), messages),
    st.tuples(st.just("answer"), st.tuples(st.integers(100, 699), tags, fields)),
    st.tuples(st.just("noise"), st.binary(max_size=200)),
    st.tuples(st.just("time"), st.floats(0, 400)),
    st.tuples(st.just("drop"), st.none()),
    st.tuples(st.just("token"), st.booleans()),
    st.tuples(st.just("draining"), st.booleans()),
)


def text_of(message: Any, number: int, via: str, token: str) -> bytes:
    method, uri, other, from_tag, to_tag, more, body = message
    lines = [
        f"{method} {uri} SIP/2.0",
        f"Via: SIP/2.0/{via};branch=z9hG4bK{number}",
        f"From: <{other}>{from_tag}",
        f"To: <{uri}>{to_tag}",
        "Call-ID: 1",
        f"CSeq: {number} {method}",
        *(f"{name}: {value}" for name, value in more),
        f"Content-Length: {len(body)}",
    ]
    text = "\r\n".join([*lines, "", ""])
    if number % 2:
        text = text.replace("sip:10.45.0.3", f"sip:{token}@10.45.0.3")
    return text.encode() + body


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(steps, max_size=25), st.booleans(), st.booleans())
def test_nothing_escapes(
    make_edge: Callable[..., Any], sequence: list[Any], registered: bool, with_media: bool
) -> None:
    alg = ImsAlg(lambda digits: f"{next(_count):0{digits}x}") if with_media else None
    world = make_edge(EpCscfSettings(HOME, "edge.example", limits=FlowLimits(messages_per_second=1e6)), alg)
    alice = world.client()
    token = "none"
    if registered:
        assert alice.register_with_token().status == 200
        token = world.path().uri.user
    world._serve = lambda request: None
    for number, (kind, value) in enumerate(sequence, 1):
        match kind:
            case "web":
                alice.send(text_of(value, number, "WSS x.invalid", token))
            case "core":
                world.from_core(text_of(value, number, "UDP 10.45.0.1:5062", token))
            case "noise":
                alice.send(value)
                world.from_core(value)
            case "answer":
                answer_all(world, *value)
            case "time":
                world.run(value)
            case "drop":
                world.close(alice)
                alice.reconnect()
            case "token":
                world.hold_tokens = value
                for key in list(world.edge._asking):
                    good = TokenAccepted(key, world.claims[TOKEN], 60.0)
                    world.feed(good if value else TokenRefused(key, "invalid_token"))
            case "draining":
                world.feed(Draining(value))
                world.feed(MediaFailed("nobody asked", 500, "x"))
                for asked in [*world.steps(MediaOffer), *world.steps(MediaAnswer)]:
                    world.feed(MediaFailed(asked.key, 503, "no gateway"))
    # Nothing that was made up keeps the edge from its work.
    world.feed(Draining(False))
    world.hold_tokens = False
    del world._serve
    world.run(700)
    late = world.client("late")
    assert late.register_with_token().status == 200
    assert b"auth-done" not in b"".join(m.encode() for c in world.clients for m in c.received)


def answer_all(world: Any, status: int, tag: str, more: Any) -> None:
    """Let both sides answer what they have got with nonsense."""
    for receiver, send in ((world.core, world.from_core), *((c.received, c.send) for c in world.clients)):
        for request in [m for m in receiver if hasattr(m, "method") and m.method != "ACK"][-3:]:
            try:
                response = response_to(request, status, to_tag=tag[5:] or None)
            except SipParseError:
                continue
            for name, value in more:
                response.headers.add(name, value)
            send(response)
