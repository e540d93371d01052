"""S7-IMS: whatever comes in whatever order, the proxy core neither raises nor keeps anything."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from imskit.sip.engine import events
from imskit.sip.engine.proxy import (
    ContextEnded,
    Forward,
    ForwardTarget,
    ProxyCore,
    RecordRoute,
    RelayResponse,
    Resolve,
    Resolved,
    Respond,
    ResponseReady,
    RouteRequest,
)
from imskit.sip.wire.flow import Target
from imskit.sip.wire.message import Request, Response, response_to
from imskit.sip.wire.uri import SipUri

METHODS = ("INVITE", "MESSAGE", "CANCEL", "ACK")
STATUSES = (100, 180, 200, 302, 401, 404, 408, 487, 503, 603)
TRANSPORTS = ("UDP", "TCP", "WSS")
ROUTES = ("", "<sip:192.0.2.1;lr>", "<sip:192.0.2.1;lr;r2=on>, <sip:proxy.example;lr;r2=on>", "<sip:192.0.2.22>", "<")
URIS = ("sip:bob@192.0.2.21", "sip:bob@example.org", "tel:+15550100", "sip:proxy.example;lr", "urn:service:sos")

small = st.integers(0, 3)
step = st.one_of(
    st.tuples(
        st.just("request"),
        st.sampled_from(METHODS),
        small,
        st.sampled_from(URIS),
        st.sampled_from(ROUTES),
        st.sampled_from(TRANSPORTS),
    ),
    st.tuples(st.just("forward"), small, st.lists(st.tuples(small, small, st.integers(0, 2)), max_size=3)),
    st.tuples(st.just("forward plain"), small),
    st.tuples(st.just("respond"), small, st.sampled_from(STATUSES)),
    st.tuples(st.just("relay"), small, st.booleans()),
    st.tuples(st.just("resolved"), small, small),
    st.tuples(st.just("response"), small, st.sampled_from(STATUSES), small),
    st.tuples(st.just("failed"), small),
    st.tuples(st.just("closed"), st.sampled_from(TRANSPORTS)),
    st.tuples(st.just("time"), st.sampled_from((0.1, 0.5, 4.0, 33.0, 190.0))),
)


def pick(things: list[Any], number: int) -> Any:
    return things[-1 - number % len(things)] if things else None


def play(sip: Any, book: Any, steps: list[Any]) -> None:
    def outputs(kind: Any) -> list[Any]:
        return [output for _, output in book.log if isinstance(output, kind)]

    for kind, *what in steps:
        route = pick(outputs(RouteRequest), what[0]) if isinstance(what[0], int) else None
        match kind, what:
            case "request", (method, number, uri, route_field, transport):
                fields = {"route": route_field} if route_field else {}
                message = sip.received(method, branch=f"z9hG4bK{number}", transport=transport, uri=uri, **fields)
                book.feed(events.Received(message.encode(), sip.build_flow(transport, remote="192.0.2.10")))
            case "forward", (_, targets) if route is not None:
                own = RecordRoute(SipUri("sip", "a", None, "192.0.2.1"), SipUri("sip", None, None, "proxy.example"))
                flows = [
                    [],
                    [sip.build_flow()],
                    [sip.build_flow("WSS"), sip.build_flow("TCP")],
                    [Target("TLS", ("x", 1))],
                ]
                forward = tuple(
                    ForwardTarget("sip:x@192.0.2.9" if group else "", tuple(flows[at]), group=group, record_route=own)
                    for at, _, group in targets
                )
                book.feed(Forward(route.context, forward))
            case "forward plain", _ if route is not None:
                book.feed(Forward(route.context))
            case "respond", (_, status) if route is not None:
                book.feed(Respond(route.context, response_to(route.request, status)))
            case "relay", (number, keep):
                if (ready := pick(outputs(ResponseReady), number)) is not None:
                    book.feed(RelayResponse(ready.context, ready.response if keep else None))
            case "resolved", (number, found):
                if (resolve := pick(outputs(Resolve), number)) is not None:
                    book.feed(Resolved(resolve.branch, (sip.build_flow(),) * found))
            case "response", (number, status, tag):
                requests = [
                    output.message
                    for output in outputs(events.Transmit)
                    if isinstance(output.message, Request) and output.message.method != "ACK"
                ]
                if (request := pick(requests, number)) is not None:
                    response = response_to(request, status, to_tag=f"t{tag}")
                    book.feed(events.Received(response.encode(), sip.build_flow(request.top_via.transport)))
            case "failed", (number,):
                if (transmit := pick(outputs(events.Transmit), number)) is not None:
                    book.feed(events.TransportFailed(transmit.key, "failed"))
            case "closed", (transport,):
                book.feed(events.FlowClosed(sip.build_flow(transport), "closed"))
            case "time", (seconds,):
                book.run(seconds)


@given(steps=st.lists(step, max_size=40))
@settings(max_examples=400, deadline=None)
def test_any_order_of_events(sip: Any, steps: list[Any]) -> None:
    """No exception; after 10 virtual minutes nothing is left; each context is said to end exactly once."""
    core = ProxyCore(sip.Tokens(), own={("192.0.2.1", 5060), ("proxy.example", None)}, max_transactions=12)
    book = sip.Playbook(core)
    play(sip, book, steps)
    book.run(600)
    assert (core.contexts, core.transactions, core.deadline()) == (0, 0, None)
    assert not (core._branches or core._resolving or core._answered)
    opened = [o.context for _, o in book.log if isinstance(o, RouteRequest) and o.request.method != "ACK"]
    assert sorted(opened) == sorted(o.context for _, o in book.log if isinstance(o, ContextEnded))


@given(steps=st.lists(step, max_size=40))
@settings(max_examples=200, deadline=None)
def test_caller_gets_one_answer(sip: Any, steps: list[Any]) -> None:
    """RFC 3261 section 16.7: one final response to a request, or (INVITE) one or more 2xx; nothing after a failure.

    The owner relays everything at once here, and does not answer itself.
    """
    core = ProxyCore(sip.Tokens(), own={("192.0.2.1", 5060), ("proxy.example", None)})
    book = sip.Playbook(core)
    feed = book.feed

    def relaying(event: Any) -> list[Any]:
        outputs = feed(event)
        for output in outputs:
            if isinstance(output, ResponseReady):
                outputs += relaying(RelayResponse(output.context, output.response))
        return outputs  # type: ignore[no-any-return]

    book.feed = relaying
    play(sip, book, [one for one in steps if one[0] not in ("respond", "relay")])
    book.run(600)
    assert (core.contexts, core.transactions) == (0, 0)
    finals: dict[str, list[int]] = {}
    seen: set[int] = set()
    for _, output in book.log:
        if isinstance(output, events.Transmit) and isinstance(output.message, Response):
            message = output.message
            if message.status >= 200 and output.key and id(message) not in seen:
                seen.add(id(message))
                finals.setdefault(output.key, []).append(message.status)
    for key, statuses in finals.items():
        assert len(statuses) == 1 or all(status < 300 for status in statuses), (key, statuses)
