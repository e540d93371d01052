"""S7-IMS: whatever comes in whatever order, the layer neither raises nor keeps anything."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imskit.sip.engine import events
from imskit.sip.engine.layer import TransactionLayer
from imskit.sip.engine.timers import RFC3261, TS24229_UE
from imskit.sip.wire.message import Request, response_to

METHODS = ("INVITE", "MESSAGE", "CANCEL", "ACK", "BYE")
STATUSES = (100, 180, 183, 200, 302, 404, 487, 503, 603)
TRANSPORTS = ("UDP", "TCP", "WSS")

small = st.integers(0, 3)
step = st.one_of(
    st.tuples(st.just("request"), st.sampled_from(METHODS), small, st.booleans(), st.sampled_from(TRANSPORTS)),
    st.tuples(st.just("send"), st.sampled_from(("INVITE", "MESSAGE")), small, st.sampled_from(TRANSPORTS)),
    st.tuples(st.just("response"), small, st.sampled_from(STATUSES), small),
    st.tuples(st.just("answer"), small, st.sampled_from(STATUSES), small),
    st.tuples(st.just("cancel"), small),
    st.tuples(st.just("failed"), small, st.booleans()),
    st.tuples(st.just("closed"), st.sampled_from(TRANSPORTS)),
    st.tuples(st.just("large"), small),
    st.tuples(st.just("time"), st.sampled_from((0.1, 0.5, 1.0, 7.0, 33.0, 150.0))),
)


def play(sip: Any, book: Any, steps: list[Any]) -> None:
    """Run the steps; numbers pick among what there is."""
    for kind, *what in steps:
        sent = [output.message for _, output in book.log if isinstance(output, events.Transmit)]
        requests = [message for message in sent if isinstance(message, Request)]
        received = [output for _, output in book.log if isinstance(output, events.RequestReceived)]
        match kind, what:
            case "request", (method, number, tagged, transport):
                to = f"<sip:bob@example.org>{';tag=b' if tagged else ''}"
                branch = f"z9hG4bK{number}" if number else ""
                message = sip.received(method, branch=branch, transport=transport, to=to)
                book.feed(events.Received(message.encode(), sip.build_flow(transport)))
            case "send", (method, number, transport):
                if f"k{number}" not in book.engine._clients:
                    book.feed(events.SendRequest(sip.build_request(method), sip.build_flow(transport), f"k{number}"))
            case "large", (number,):
                request = sip.build_request("MESSAGE")
                request.set_body(b"x" * 1400, "text/plain")
                if f"k{number}" not in book.engine._clients:
                    book.feed(events.SendRequest(request, sip.build_flow(), f"k{number}"))
            case "response", (number, status, tag) if requests:
                request = requests[-1 - number % len(requests)]
                if request.method != "ACK":
                    response = response_to(request, status, to_tag=f"t{tag}")
                    book.feed(events.Received(response.encode(), sip.build_flow(request.top_via.transport)))
            case "answer", (number, status, tag) if received:
                request = received[-1 - number % len(received)]
                response = response_to(request.request, status, to_tag=f"t{tag}")
                book.feed(events.SendResponse(request.key, response))
            case "cancel", (number,):
                book.feed(events.SendCancel(f"k{number}"))
            case "failed", (number, client):
                keys = [f"k{number}"] if client else [each.key for each in received[-1 - number :]][:1]
                for key in keys:
                    book.feed(events.TransportFailed(key, "failed"))
            case "closed", (transport,):
                book.feed(events.FlowClosed(sip.build_flow(transport), "closed"))
            case "time", (seconds,):
                book.run(seconds)


@pytest.mark.parametrize("profile", [RFC3261, TS24229_UE], ids=["core", "ue"])
@given(steps=st.lists(step, max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_order_of_events(sip: Any, profile: Any, steps: list[Any]) -> None:
    """No exception; after 10 virtual minutes of silence no transaction, no index entry, no timer is left."""
    layer = TransactionLayer(sip.Tokens(), profile, max_transactions=6)
    book = sip.Playbook(layer)
    play(sip, book, steps)
    book.run(600)
    assert layer.transactions == 0
    assert layer.deadline() is None
    for index in ("_clients", "_client_matches", "_servers", "_server_matches", "_merges", "_detours", "_queue"):
        assert not getattr(layer, index), index
    check_endings(book)


def check_endings(book: Any) -> None:
    """Each key that was heard of ends exactly once per use, and nothing is said about it between two uses."""
    alive: dict[str, bool] = {}
    for _, output in book.log:
        match output:
            case events.RequestReceived(key):
                assert key not in alive, "a server key came twice"
                alive[key] = True
            case events.TransactionEnded(key):
                assert alive.pop(key, True)
                if key.startswith("server-"):
                    alive[key] = False
            case events.ResponseReceived(key) | events.TransactionTimeout(key) | events.TransactionFailed(key):
                assert alive.get(key, True), f"{key} was ended"


def _valid() -> bytes:
    return (
        b"INVITE sip:bob@192.0.2.20 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.20;branch=z9hG4bK1;rport\r\n"
        b"Max-Forwards: 70\r\nFrom: <sip:alice@example.org>;tag=a\r\nTo: <sip:bob@example.org>\r\n"
        b"Call-ID: 1\r\nCSeq: 1 INVITE\r\nRoute: <sip:192.0.2.1;lr>\r\nContent-Length: 0\r\n\r\n"
    )


@given(cut=st.integers(0, len(_valid())), noise=st.binary(max_size=60), tail=st.booleans())
@settings(max_examples=500, deadline=None)
def test_noise_in_a_valid_message(sip: Any, cut: int, noise: bytes, tail: bool) -> None:
    """A request, spoilt anywhere: answered, passed up or dropped."""
    layer = TransactionLayer(sip.Tokens())
    book = sip.Playbook(layer)
    book.feed(events.Received(_valid()[:cut] + noise + (_valid()[cut:] if tail else b""), sip.build_flow()))
    book.run(600)
    assert layer.transactions == 0


@given(cut=st.integers(0, 400), noise=st.binary(max_size=40), tail=st.booleans())
@settings(max_examples=300, deadline=None)
def test_noise_in_a_response(sip: Any, cut: int, noise: bytes, tail: bool) -> None:
    layer = TransactionLayer(sip.Tokens())
    book = sip.Playbook(layer)
    book.feed(events.SendRequest(sip.build_request(), sip.build_flow(), "k"))
    data = response_to(book.sent(), 486, to_tag="b").encode()
    book.feed(events.Received(data[:cut] + noise + (data[cut:] if tail else b""), sip.build_flow()))
    book.run(600)
    assert layer.transactions == 0


def test_truncation_at_each_byte(sip: Any) -> None:
    layer = TransactionLayer(sip.Tokens())
    book = sip.Playbook(layer)
    for cut in range(len(_valid())):
        book.feed(events.Received(_valid()[:cut], sip.build_flow()))
    assert layer.transactions == 0
