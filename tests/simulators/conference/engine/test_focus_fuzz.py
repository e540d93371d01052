"""Nothing that a UE sends stops the conference focus or the message centre."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from imskit.engine import Tick
from imskit.sip.engine.events import Received
from imskit.sip.memory_network import counter
from imskit.sip.wire.flow import Flow, Target
from imskit.sip.wire.message import Request
from simulators.conference.engine.focus import Describe, Described, Focus
from simulators.sms_center.engine.gateway import SmsGateway

OWN, CORE = ("127.0.0.1", 5080), Target("UDP", ("127.0.0.1", 5070))
FLOW = Flow("UDP", OWN, CORE.address, 1)
SDP = b"v=0\r\no=- 1 1 IN IP4 10.45.0.1\r\ns=-\r\nc=IN IP4 10.45.0.1\r\nt=0 0\r\nm=audio 4 RTP/AVP 96\r\n"
NAMES = ["Refer-To", "Event", "Expires", "Content-Type", "P-Asserted-Identity", "Replaces", "Subscription-State",
         "Refer-Sub", "Contact", "To", "Require", "Session-Expires"]  # fmt: skip
VALUES = ["<sip:+15550200@x>", "<tel:+15550200>", "<tel:0>", "refer", "conference", "0", "99999999999", "x", "", "*",
          "application/vnd.3gpp.sms", "application/sdp", "text/plain", "active", "false", "<sip:a@b?Replaces=c>",
          "<sip:a@b>;tag=t", "a;to-tag=1;from-tag=2", "<sip:gone@conf-factory.x>", "100rel"]  # fmt: skip
requests = st.tuples(
    st.sampled_from(["INVITE", "REFER", "SUBSCRIBE", "NOTIFY", "MESSAGE", "BYE", "OPTIONS", "UPDATE", "ACK", "INFO"]),
    st.sampled_from(["sip:mmtel@conf-factory.x", "sip:gone@conf-factory.x", "tel:+1555", "urn:x:y", "sip:x"]),
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=6),
    st.sampled_from([b"", SDP, b"SIP/2.0 200 OK", b"\x00\x07\x00\x00\x02\x01\x00", b"\x02\x01"])
    | st.binary(max_size=40),
)


def built(number: int, method: str, uri: str, fields: list[tuple[str, str]], body: bytes) -> bytes:
    names = {name for name, _ in fields}
    usual = [
        ("Via", f"SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK{number}"),
        ("Max-Forwards", "70"),
        ("From", "<sip:a@x>;tag=f"),
        ("To", "<sip:b@x>"),
        ("Call-ID", "fuzz"),
        ("CSeq", f"{number + 1} {method}"),
        ("Contact", "<sip:a@127.0.0.1:5070>"),
        ("P-Asserted-Identity", "<sip:+15550100@x>"),
    ]
    request = Request.create(method, uri, [*(item for item in usual if item[0] not in names), *fields])
    request.body = body
    return request.encode()


def feed(engine: Any, items: list[Any], answer: Any) -> None:
    now = 0.0
    for number, item in enumerate(items):
        engine.handle(Received(built(number, *item), FLOW), now)
        while (output := engine.poll()) is not None:
            answer(output, now)
        now += 7.0
        engine.handle(Tick(), now)
    for _ in range(200):
        deadline = engine.deadline()
        if deadline is None:
            break
        now = max(now, deadline)
        engine.handle(Tick(), now)
        while (output := engine.poll()) is not None:
            answer(output, now)


@settings(max_examples=60, deadline=None)
@given(st.lists(requests, max_size=10))
def test_the_focus(items: list[Any]) -> None:
    focus = Focus("x", OWN, CORE, counter("f"))

    def answer(output: Any, now: float) -> None:
        if isinstance(output, Describe):
            focus.handle(Described(output.leg, SDP), now)

    feed(focus, items, answer)


@settings(max_examples=60, deadline=None)
@given(st.lists(requests, max_size=10))
def test_the_message_centre(items: list[Any]) -> None:
    gateway = SmsGateway("x", OWN, CORE, counter("s"), lambda: datetime(2026, 1, 1, tzinfo=UTC))
    feed(gateway, items, lambda output, now: None)
