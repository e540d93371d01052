"""Whatever two ends and a gateway do: no exception, no foreign description, no call left over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imskit.engine import Tick
from imskit.sip.engine.proxy_events import Forward, RelayResponse
from imskit.sip.wire.message import Message
from network_edge.ep_cscf.engine.effects import MediaLost, Side
from network_edge.iq.gateway import Loss

METHODS = st.sampled_from(["INVITE", "ACK", "PRACK", "UPDATE", "BYE", "OPTIONS", "INFO"])
BODIES = st.sampled_from(["none", "offer", "answer", "broken", "cut", "multipart", "noise"])
STATUSES = st.sampled_from([180, 183, 199, 200, 200, 404, 481, 487, 491])
ACTIONS = st.one_of(
    st.tuples(st.just("request"), METHODS, st.booleans(), BODIES, st.sampled_from([None, "w1", "i1", "x"])),
    st.tuples(st.just("response"), STATUSES, st.integers(0, 8), BODIES, st.sampled_from(["w1", "i1", "f"])),
    st.tuples(st.just("other"), st.sampled_from(["ended", "lost", "time", "forget", "fail", "mend", "serve"]),
              st.integers(0, 8), BODIES, st.none()),
)  # fmt: skip


def _body(bench: Any, party: Any, kind: str, noise: bytes) -> tuple[bytes, str]:
    offer = party.offer()
    match kind:
        case "offer":
            return offer, "application/sdp"
        case "answer":
            try:
                return party.answer(bench.other(party).offer()), "application/sdp"
            except ValueError:  # the other kind of party's offer is none for this one
                return offer, "application/sdp"
        case "broken":
            return b"v=0\r\nm=audio", "application/sdp"
        case "cut":
            return offer[: len(noise) * 37 % len(offer)], "application/sdp"
        case "multipart":
            return (
                b"--B\r\nContent-Type: application/sdp\r\n\r\n" + offer + b"\r\n--B--\r\n",
                "multipart/mixed;boundary=B",
            )
        case "noise":
            return noise, "application/sdp"
    return b"", ""


def _foreign(message: Message, towards: Side) -> bool:
    """True if the message shows one side's addresses to the other."""
    if towards is Side.IMS:
        return b"fingerprint" in message.body or b"203.0.113." in message.body or b"192.0.2.2" in message.body
    return b"10.20.30.4" in message.body or b"qos" in message.body or b"10.46.0.2" in message.body


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(ACTIONS, max_size=30), st.booleans(), st.sampled_from(["", "early", "web", "ims"]), st.binary(max_size=40)
)
def test_any_order_of_things(
    make_bench: Callable[..., Any], actions: list[Any], reliable: bool, start: str, noise: bytes
) -> None:
    bench = make_bench()
    contexts: list[tuple[str, Side]] = []
    if start == "early":
        contexts.append((bench.invite(bench.web, b"" if reliable else None)[0], Side.WEB))
    elif start:
        contexts.append((bench.establish(getattr(bench, start)), Side(start)))
    headers = (("Require", "100rel"), ("RSeq", "1")) if reliable else ()
    for kind, what, number, body_kind, tag in actions:
        if kind == "request":
            party = bench.web if number else bench.ims
            body, content = _body(bench, party, body_kind, noise)
            request = bench.message(what, party, body, to_tag=tag, kind=content)
            key, _ = bench.hand(request, party.side)
            bench.requests.setdefault(key, request)
            contexts.append((key, party.side))
        elif kind == "response" and contexts:
            key, side = contexts[number % len(contexts)]
            party = bench.ims if side is Side.WEB else bench.web
            body, content = _body(bench, party, body_kind, noise)
            result = bench.respond(key, what, body, tag=tag, headers=headers, kind=content)
            known = bench.requests[key].method in ("INVITE", "UPDATE", "PRACK", "OPTIONS")
            if known and isinstance(result, RelayResponse) and key in bench.alg._state.contexts:
                assert not _foreign(result.response, side)
        elif kind == "other":
            asked = bench.gateway.asked
            if what == "ended" and contexts:
                bench.alg.ended(contexts[number % len(contexts)][0], bench.now)
            elif what == "lost" and asked:
                bench.alg.handle(MediaLost(asked[number % len(asked)].request.call_id, Loss.CONSENT), bench.now)
            elif what == "time":
                bench.now += 40.0
                bench.alg.handle(Tick(), bench.now)
            elif what == "forget":
                bench.alg.forget(bench.party, bench.now)
            elif what == "fail":
                bench.gateway.refuse = (
                    {"offer": (503, ""), "answer": (488, "")} if number % 2 else {"answer": (500, "")}
                )
            elif what == "mend":
                bench.gateway.refuse = {}
            elif what == "serve":
                bench.auto = not bench.auto
                bench.serve()
            bench.drain()
    bench.auto = True
    bench.serve()
    sides = dict(contexts)
    for output in bench.out:
        if isinstance(output, Forward) and output.request.method in ("INVITE", "ACK", "PRACK", "UPDATE", "OPTIONS"):
            side = sides.get(output.context)
            assert side is None or not _foreign(output.request, Side.IMS if side is Side.WEB else Side.WEB)
    bench.alg.forget(bench.party, bench.now)
    bench.drain()
    for key, _ in contexts:
        bench.alg.ended(key, bench.now)
    assert bench.alg.calls == 0
    began = {question.request.call_id for question in bench.gateway.asked}
    assert began <= set(bench.gateway.deleted)
    assert len(bench.gateway.deleted) == len(set(bench.gateway.deleted))
    assert not bench.alg._state.contexts
    assert bench.alg.deadline() is None
