"""S7-IMS: the proxy core: forking tables, CANCEL, failover, in-dialog requests, checks, on a virtual clock.

Lines name the peer by the last number of its address: the caller is 10, the callees are 21, 22, 23.
"""

from __future__ import annotations

from typing import Any

import pytest

from imskit.sip.engine.events import (
    FlowClosed,
    Received,
    ResponseReceived,
    SendRequest,
    SentBy,
    Transmit,
    TransportFailed,
)
from imskit.sip.engine.proxy import (
    ContextEnded,
    FlowFailed,
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
from imskit.sip.engine.timers import TS24229_UE
from imskit.sip.wire.flow import Flow, Target
from imskit.sip.wire.message import Request, Response, parse_message, response_to
from imskit.sip.wire.uri import SipUri, parse_uri

CALLER = Flow("UDP", ("192.0.2.1", 5060), ("192.0.2.10", 5060), 1)


def callee(number: int, transport: Any = "UDP") -> Flow:
    return Flow(transport, ("192.0.2.1", 5060), (f"192.0.2.{number}", 5060), number)


def to(number: int, group: int = 0, **more: Any) -> ForwardTarget:
    return ForwardTarget(f"sip:bob@192.0.2.{number}", (callee(number),), group=group, **more)


def uri(text: str) -> SipUri:
    parsed = parse_uri(text)
    assert isinstance(parsed, SipUri)
    return parsed


class Bench:
    """A proxy core and an owner that lets every response go on, unless ``relay`` is off."""

    def __init__(self, sip: Any, **options: Any) -> None:
        self.sip = sip
        options = {"own": {("192.0.2.1", 5060), ("proxy.example", None)}, **options}
        self.core = ProxyCore(sip.Tokens(), **options)
        self.book = sip.Playbook(self.core, self.describe)
        self.relay = True

    def describe(self, output: Any) -> str:
        match output:
            case Transmit(message, destination):
                address = destination.remote if isinstance(destination, Flow) else destination.address
                return f"-> {self.sip.summary(message)} @{address[0].rpartition('.')[2]}"
            case RouteRequest(_, request):
                return f"route {request.method}"
            case Resolve(_, where):
                return f"resolve {where}"
            case ResponseReady(_, response, _, origin):
                return f"ready {response.status} {origin}"
            case ContextEnded():
                return "over"
            case _:
                return self.sip.describe(output)  # type: ignore[no-any-return]

    def feed(self, event: Any) -> list[str]:
        """Hand in an event, relay what is ready, and return the lines."""
        outputs = self.book.feed(event)
        lines = []
        while outputs:
            output = outputs.pop(0)
            if isinstance(output, ResponseReady) and self.relay:
                outputs += self.book.feed(RelayResponse(output.context, output.response))
            else:
                lines.append(self.describe(output))
        return lines

    def wait(self, seconds: float) -> list[str]:
        """Let time pass, relaying, and return the lines with times; retransmissions are left out."""
        until = self.book.now + seconds
        lines = []
        seen = {id(output.message) for _, output in self.book.log if isinstance(output, Transmit)}
        while True:
            due = self.core.deadline()
            outputs = self.book.run(min(until, due if due is not None else until) - self.book.now)
            while outputs:
                time, output = outputs.pop(0)
                if isinstance(output, ResponseReady) and self.relay:
                    outputs += [(time, more) for more in self.book.feed(RelayResponse(output.context, output.response))]
                elif not isinstance(output, Transmit) or id(output.message) not in seen:
                    lines.append(f"{time:g} {self.describe(output)}")
                    if isinstance(output, Transmit):
                        seen.add(id(output.message))
            if self.book.now >= until:
                return lines

    def begin(self, method: str = "INVITE", flow: Flow = CALLER, **fields: str) -> RouteRequest:
        """Let a request of the caller's come in."""
        fields = {"uri": "sip:bob@example.org", **fields}
        host = flow.remote[0]
        lines = self.feed(Received(self.sip.received(method, host=host, transport=flow.transport, **fields), flow))
        assert lines == [f"route {method}"], lines
        return self.book.last(RouteRequest)  # type: ignore[no-any-return]

    def start(self, *targets: ForwardTarget, method: str = "INVITE", **fields: str) -> RouteRequest:
        """Begin and forward."""
        route = self.begin(method, **fields)
        self.feed(Forward(route.context, targets))
        return route

    def sent_to(self, number: int, method: str | None = None) -> Request:
        """Return the last request sent to a peer."""
        for _, output in reversed(self.book.log):
            if isinstance(output, Transmit) and isinstance(output.message, Request):
                destination = output.destination
                address = destination.remote if isinstance(destination, Flow) else destination.address
                right = output.message.method == method if method else output.message.method not in ("ACK", "CANCEL")
                if address[0] == f"192.0.2.{number}" and right:
                    request = parse_message(output.message.encode())
                    assert isinstance(request, Request)
                    return request
        raise AssertionError(f"nothing was sent to {number}")

    def answer(self, number: int, status: int, method: str | None = None, **fields: str) -> list[str]:
        """Let a callee answer its last request."""
        response = response_to(self.sent_to(number, method), status, to_tag=f"tag{number}")
        for name, value in fields.items():
            response.headers.add(name.replace("_", "-"), value)
        return self.feed(Received(response.encode(), callee(number)))

    def back(self) -> Response:
        """Return the last response sent to the caller."""
        for _, output in reversed(self.book.log):
            if isinstance(output, Transmit) and isinstance(output.message, Response):
                response = parse_message(output.message.encode())
                assert isinstance(response, Response)
                return response
        raise AssertionError("no response was sent")


@pytest.fixture
def bench(sip: Any) -> Bench:
    return Bench(sip)


# ---- one branch ----------------------------------------------------------------------------------------------------


def test_a_call_through(bench: Bench) -> None:
    """RFC 3261 section 16.6 and 16.7, one target: every hop's own Via, Max-Forwards, provisional responses, 2xx."""
    route = bench.begin()
    assert bench.feed(Forward(route.context, (to(21),))) == ["-> INVITE @21"]
    invite = bench.sent_to(21)
    assert invite.uri == "sip:bob@192.0.2.21"
    assert invite.max_forwards == 69
    assert [via.host for via in invite.vias] == ["192.0.2.1", "192.0.2.10"]
    assert bench.wait(1) == ["0.2 -> 100 INVITE @10"]
    assert bench.answer(21, 100) == []
    assert bench.answer(21, 180) == ["-> 180 INVITE @10"]
    assert bench.answer(21, 183) == ["-> 183 INVITE @10"]
    assert bench.answer(21, 200) == ["-> 200 INVITE @10"]
    back = bench.back()
    assert [via.host for via in back.vias] == ["192.0.2.10"]
    assert back.to.tag == "tag21"
    # RFC 6026: the retransmitted 2xx goes through for 64*T1.
    assert bench.answer(21, 200) == ["-> 200 INVITE @10"]
    assert bench.wait(100) == ["33 over"]
    assert (bench.core.contexts, bench.core.transactions, bench.core.deadline()) == (0, 0, None)


def test_untouched_headers_stay_as_they_are(bench: Bench) -> None:
    """RFC 3261 section 16.6 step 1: order, case and unknown fields; the body is the caller's."""
    request = bench.sip.received(uri="sip:bob@example.org", host="192.0.2.10")
    for name, value in (("X-odd", " a ,,b"), ("s", "compact"), ("Date", "nonsense"), ("P-Access-Network-Info", "x")):
        request.headers.add(name, value)
    request.set_body(b"v=0\r\n\xff\x00", "application/sdp")
    data = request.encode()
    bench.feed(Received(data, CALLER))
    bench.feed(Forward(bench.book.last(RouteRequest).context, (to(21),)))
    head = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    out = bench.sent_to(21)
    ours = {"Max-Forwards", "Max-Breadth", "Via", "Content-Length"}
    kept = [line for line in out.headers.lines() if line.partition(":")[0] not in ours]
    assert kept == [line for line in head if line.partition(":")[0] not in ours]
    assert out.body == request.body


def test_failure_of_the_only_branch(bench: Bench) -> None:
    bench.start(to(21))
    assert bench.answer(21, 486) == ["-> ACK @21", "-> 486 INVITE @10"]
    ack = bench.sip.received("ACK", host="192.0.2.10", uri="sip:bob@example.org", to="<sip:bob@example.org>;tag=tag21")
    assert bench.feed(Received(ack, CALLER)) == []
    assert bench.wait(100) == ["32 over"]


def test_non_invite(bench: Bench) -> None:
    """RFC 4320: no provisional response but 100 goes back, and no 408."""
    bench.start(to(21), method="MESSAGE")
    assert bench.answer(21, 180) == []
    assert bench.answer(21, 200) == ["-> 200 MESSAGE @10"]
    assert bench.answer(21, 200) == []
    assert bench.wait(100) == ["32 over"]
    bench.start(to(22), method="MESSAGE", call_id="2", branch="z9hG4bK2")
    lines = bench.wait(100)
    assert [line.partition(" ")[2] for line in lines] == ["-> 100 MESSAGE @10", "over"]


def test_max_forwards_is_added_where_it_is_missing(bench: Bench) -> None:
    request = bench.sip.received(uri="sip:bob@example.org", host="192.0.2.10")
    request.headers.remove("Max-Forwards")
    bench.feed(Received(request, CALLER))
    bench.feed(Forward(bench.book.last(RouteRequest).context, (to(21),)))
    assert bench.sent_to(21).max_forwards == 70


# ---- forking -------------------------------------------------------------------------------------------------------

# What three parallel branches answer, in this order, and what the caller gets (RFC 3261 section 16.7 steps 5 and 6).
BEST = [
    ((486, 404, 480), 486),  # within 4xx the first one that says something
    ((486, 503, 301), 301),  # the lowest class
    ((486, 600, 301), 600),  # 6xx wins over all
    ((404, 401, 486), 401),  # one that tells how to try again
    ((484, 420, 415), 415),
    ((407, 401, 404), 401),
    ((408, 486, 487), 486),  # 408 and 487 say nothing of the callee's
    ((503, 501, 500), 501),
    ((503, 503, 503), 500),  # a 503 is not passed on
    ((500, 599, 603), 603),
]


@pytest.mark.parametrize(("answers", "expected"), BEST)
def test_best_response_of_parallel_branches(bench: Bench, answers: tuple[int, ...], expected: int) -> None:
    route = bench.begin()
    lines = bench.feed(Forward(route.context, (to(21), to(22), to(23))))
    assert lines == ["-> INVITE @21", "-> INVITE @22", "-> INVITE @23"]
    for number, status in zip((21, 22, 23), answers, strict=True):
        lines = bench.answer(number, status)
        assert lines[0] == f"-> ACK @{number}"
    assert lines[-1] == f"-> {expected} INVITE @10"
    assert bench.back().to.tag
    assert bench.wait(200)[-1].endswith("over")


def test_first_2xx_wins_and_the_others_are_cancelled(bench: Bench) -> None:
    bench.start(to(21), to(22), to(23))
    assert bench.answer(21, 180) == ["-> 180 INVITE @10"]
    assert bench.answer(22, 180) == ["-> 180 INVITE @10"]
    # 23 has said nothing yet: its CANCEL waits for a provisional response (section 9.1).
    assert bench.answer(22, 200) == ["-> CANCEL @21", "-> 200 INVITE @10"]
    assert bench.answer(23, 180) == ["-> CANCEL @23"]
    bench.relay = False
    assert bench.answer(21, 183) == []
    bench.relay = True
    assert bench.answer(21, 487) == ["-> ACK @21"]
    # Section 16.7 step 5: a 2xx that crossed the CANCEL goes on as well.
    assert bench.answer(23, 200) == ["-> 200 INVITE @10"]
    assert bench.back().to.tag == "tag23"
    assert bench.wait(200)[-1].endswith("over")


def test_6xx_waits_for_the_others_and_yields_to_a_2xx(bench: Bench) -> None:
    """Section 16.7 step 5: never a 6xx followed by a 2xx."""
    bench.start(to(21), to(22))
    bench.answer(21, 180)
    assert bench.answer(22, 603) == ["-> ACK @22", "-> CANCEL @21"]
    assert bench.answer(21, 200) == ["-> 200 INVITE @10"]
    bench = Bench(bench.sip)
    bench.start(to(21), to(22), to(23, group=1))
    bench.answer(21, 180)
    bench.answer(22, 603)
    assert bench.answer(21, 487) == ["-> ACK @21", "-> 603 INVITE @10"]


def test_sequential_search(bench: Bench) -> None:
    route = bench.begin()
    assert bench.feed(Forward(route.context, (to(22, group=2), to(21, group=1)))) == ["-> INVITE @21"]
    assert bench.answer(21, 486) == ["-> ACK @21", "-> INVITE @22"]
    assert bench.answer(22, 480) == ["-> ACK @22", "-> 486 INVITE @10"]


def test_groups_are_parallel_inside(bench: Bench) -> None:
    bench.start(to(21), to(22), to(23, group=1))
    assert bench.answer(21, 486) == ["-> ACK @21"]
    assert bench.answer(22, 486) == ["-> ACK @22", "-> INVITE @23"]
    assert bench.answer(23, 200) == ["-> 200 INVITE @10"]


def test_sequential_search_stops_at_2xx(bench: Bench) -> None:
    bench.start(to(21), to(22, group=1))
    assert bench.answer(21, 200) == ["-> 200 INVITE @10"]
    assert bench.wait(200) == ["32 over"]
    with pytest.raises(AssertionError):
        bench.sent_to(22)


def test_non_invite_forks_and_takes_the_first_2xx(bench: Bench) -> None:
    bench.start(to(21), to(22), method="MESSAGE")
    assert bench.answer(21, 404) == []
    assert bench.answer(22, 200) == ["-> 200 MESSAGE @10"]
    bench.start(to(21), to(22), method="MESSAGE", branch="z9hG4bK2", call_id="2")
    assert bench.answer(21, 200) == ["-> 200 MESSAGE @10"]
    assert bench.answer(22, 200) == []


def test_challenges_of_all_branches_are_joined(bench: Bench) -> None:
    """Section 16.7 step 7."""
    bench.start(to(21), to(22), to(23))
    bench.answer(21, 401, WWW_Authenticate='Digest realm="one", nonce="1"')
    bench.answer(22, 407, Proxy_Authenticate='Digest realm="two", nonce="2"')
    bench.answer(23, 401, WWW_Authenticate='Digest realm="three", nonce="3", qop="auth,auth-int"')
    back = bench.back()
    assert back.status == 401
    assert back.headers.get_all("WWW-Authenticate") == [
        'Digest realm="one", nonce="1"',
        'Digest realm="three", nonce="3", qop="auth,auth-int"',
    ]
    assert back.headers.get_all("Proxy-Authenticate") == ['Digest realm="two", nonce="2"']


def test_contacts_of_redirections_are_joined(bench: Bench) -> None:
    bench.start(to(21), to(22))
    bench.answer(21, 302, Contact="<sip:a@example.org>, <sip:b@example.org>")
    bench.answer(22, 302, Contact="<sip:b@example.org>, <sip:c@example.org>")
    assert bench.back().headers.elements("Contact") == [
        "<sip:a@example.org>",
        "<sip:b@example.org>",
        "<sip:c@example.org>",
    ]


def test_nobody_to_forward_to(bench: Bench) -> None:
    """Section 16.5: 480."""
    route = bench.begin()
    assert bench.feed(Forward(route.context, ())) == ["-> 480 INVITE @10"]
    assert bench.back().to.tag


def test_breadth_is_shared(bench: Bench) -> None:
    """RFC 5393 section 5.3.3."""
    bench.start(to(21), to(22), to(23))
    assert [bench.sent_to(number).headers.get("Max-Breadth") for number in (21, 22, 23)] == ["20", "20", "20"]
    bench.start(to(21), branch="z9hG4bK2", call_id="2", max_breadth="99")
    assert bench.sent_to(21).headers.get("Max-Breadth") == "60"
    bench.start(to(21), branch="z9hG4bK3", call_id="3", max_breadth="7")
    assert bench.sent_to(21).headers.get_all("Max-Breadth") == ["7"]


def test_too_little_breadth_makes_the_search_sequential(bench: Bench) -> None:
    route = bench.begin(max_breadth="2")
    assert bench.feed(Forward(route.context, (to(21), to(22), to(23)))) == ["-> INVITE @21", "-> INVITE @22"]
    assert bench.answer(22, 486) == ["-> ACK @22", "-> INVITE @23"]


# ---- the owner's part ----------------------------------------------------------------------------------------------


def test_responses_wait_for_the_owner_one_at_a_time(bench: Bench) -> None:
    bench.relay = False
    route = bench.start(to(21))
    assert bench.answer(21, 180) == ["ready 180 received"]
    assert bench.answer(21, 183) == []
    assert bench.answer(21, 200) == []
    shown = bench.book.last(ResponseReady)
    assert shown.flow == callee(21)
    shown.response.headers.add("P-Asserted-Identity", "<sip:bob@example.org>")
    assert bench.feed(RelayResponse(route.context, shown.response)) == ["-> 180 INVITE @10", "ready 183 received"]
    assert bench.back().headers.get("P-Asserted-Identity") == "<sip:bob@example.org>"
    assert bench.feed(RelayResponse(route.context, None)) == ["ready 200 received"]
    assert bench.feed(RelayResponse(route.context, bench.book.last(ResponseReady).response)) == ["-> 200 INVITE @10"]
    assert bench.feed(RelayResponse(route.context, None)) == []


def test_owner_edits_the_request(bench: Bench) -> None:
    route = bench.begin()
    edited = route.request.copy()
    edited.headers.set("P-Asserted-Identity", "<sip:alice@example.org>")
    edited.headers.remove("P-Preferred-Identity")
    branch = to(21, headers=(("P-Called-Party-ID", "<sip:bob@example.org>"), ("Call-Info", None)))
    bench.feed(Forward(route.context, (branch, to(22)), edited))
    for number, called in ((21, "<sip:bob@example.org>"), (22, None)):
        sent = bench.sent_to(number)
        assert sent.headers.get("P-Asserted-Identity") == "<sip:alice@example.org>"
        assert sent.headers.get("P-Called-Party-ID") == called


@pytest.mark.parametrize("status", [403, 200])
def test_owner_answers_itself(bench: Bench, status: int) -> None:
    route = bench.begin("REGISTER")
    assert bench.feed(Respond(route.context, response_to(route.request, status))) == [f"-> {status} REGISTER @10"]
    assert bench.back().to.tag
    assert bench.feed(Respond(route.context, response_to(route.request, 500))) == []
    assert bench.wait(100) == ["32 over"]


def test_owner_answers_while_branches_ring(bench: Bench) -> None:
    route = bench.start(to(21), to(22, group=1))
    bench.answer(21, 180)
    assert bench.feed(Respond(route.context, response_to(route.request, 503))) == ["-> CANCEL @21", "-> 503 INVITE @10"]
    assert bench.answer(21, 487) == ["-> ACK @21"]
    assert bench.feed(Forward(route.context, (to(22),))) == []


def test_owner_retargets_a_failure(bench: Bench) -> None:
    """Call forwarding on busy, or recursion on 3xx: the failure is forgotten, the call goes elsewhere."""
    bench.relay = False
    route = bench.start(to(21))
    assert bench.answer(21, 486) == ["-> ACK @21", "ready 486 received"]
    assert bench.feed(Forward(route.context, (to(22),))) == ["-> INVITE @22"]
    assert bench.answer(22, 404) == ["-> ACK @22", "ready 404 received"]
    assert bench.feed(RelayResponse(route.context, bench.book.last(ResponseReady).response)) == ["-> 404 INVITE @10"]
    assert bench.feed(Forward(route.context, (to(23),))) == []


def test_owner_that_never_answers_costs_nothing_forever(bench: Bench) -> None:
    bench.begin("MESSAGE")
    bench.begin(branch="z9hG4bK2")
    bench.relay = False
    bench.start(to(21), branch="z9hG4bK3")
    bench.answer(21, 486)
    assert bench.core.contexts == 3
    lines = bench.wait(600)
    assert sum(line.endswith("over") for line in lines) == 3
    assert (bench.core.contexts, bench.core.transactions, bench.core.deadline()) == (0, 0, None)


def test_owner_sends_requests_of_its_own(bench: Bench) -> None:
    """A NOTIFY of the S-CSCF, a SUBSCRIBE of the P-CSCF."""
    notify = bench.sip.build_request("NOTIFY")
    assert bench.feed(SendRequest(notify, callee(21), "mine")) == ["-> NOTIFY @21"]
    assert bench.answer(21, 200) == ["mine got 200"]
    assert bench.book.last(ResponseReceived).response.headers.get("Via") is not None
    assert bench.wait(100) == ["5 mine ended"]


# ---- CANCEL --------------------------------------------------------------------------------------------------------


def cancel(bench: Bench, **fields: str) -> Received:
    return Received(bench.sip.received("CANCEL", host="192.0.2.10", uri="sip:bob@example.org", **fields), CALLER)


def test_cancel_goes_to_every_pending_branch(bench: Bench) -> None:
    """Section 16.10; the Reason goes along (RFC 3326)."""
    bench.start(to(21), to(22), to(23), ForwardTarget("sip:later@192.0.2.24", (callee(24),), group=1))
    bench.answer(21, 180)
    bench.answer(22, 486)
    lines = bench.feed(cancel(bench, reason='SIP;cause=200;text="completed elsewhere"'))
    assert lines == ["-> 200 CANCEL @10", "-> CANCEL @21"]
    assert bench.sent_to(21, "CANCEL").headers.get("Reason") == 'SIP;cause=200;text="completed elsewhere"'
    assert bench.sent_to(21, "CANCEL").top_via == bench.sent_to(21).top_via
    assert bench.answer(21, 200, "CANCEL") == []
    assert bench.answer(21, 487) == ["-> ACK @21"]
    assert bench.answer(23, 100) == ["-> CANCEL @23"]
    assert bench.answer(23, 487) == ["-> ACK @23", "-> 486 INVITE @10"]


def test_cancel_of_a_ringing_call(bench: Bench) -> None:
    bench.start(to(21))
    bench.answer(21, 180)
    bench.feed(cancel(bench))
    assert bench.answer(21, 487) == ["-> ACK @21", "-> 487 INVITE @10"]


def test_cancel_before_the_owner_has_decided(bench: Bench) -> None:
    route = bench.begin()
    assert bench.feed(cancel(bench)) == ["-> 200 CANCEL @10", "-> 487 INVITE @10"]
    assert bench.feed(Forward(route.context, (to(21),))) == []


def test_cancel_while_a_name_is_looked_up(bench: Bench) -> None:
    route = bench.begin()
    assert bench.feed(Forward(route.context)) == ["resolve sip:bob@example.org"]
    assert bench.feed(cancel(bench)) == ["-> 200 CANCEL @10", "-> 487 INVITE @10"]
    assert bench.feed(Resolved(bench.book.last(Resolve).branch, (callee(21),))) == []


def test_cancelled_callee_that_says_nothing_more(bench: Bench) -> None:
    """Section 9.1: after 64*T1 the INVITE counts as over; the caller gets a 408."""
    bench.start(to(21))
    bench.answer(21, 180)
    bench.feed(cancel(bench))
    assert [line for line in bench.wait(100) if "@10" in line] == ["32 -> 408 INVITE @10"]


def test_cancel_that_matches_nothing(bench: Bench) -> None:
    assert bench.feed(cancel(bench)) == ["-> 481 CANCEL @10"]


def test_timer_c(bench: Bench) -> None:
    """Section 16.8: a callee that rings without end is cancelled; one without provisional response gives 408."""
    bench.start(to(21))
    bench.answer(21, 180)
    assert bench.wait(186) == ["185 -> CANCEL @21"]
    assert bench.answer(21, 487) == ["-> ACK @21", "-> 487 INVITE @10"]
    bench = Bench(bench.sip)
    bench.start(to(21))
    assert [line for line in bench.wait(100) if "@10" in line] == ["0.2 -> 100 INVITE @10", "32 -> 408 INVITE @10"]


# ---- next hop ------------------------------------------------------------------------------------------------------


def test_dead_destination_is_replaced_by_the_next(bench: Bench) -> None:
    """Section 16.6 step 7: time-out, transport failure and 503 (RFC 3263 section 4.3), each a new branch value."""
    route = bench.begin()
    hops = (callee(21), callee(22), callee(23), callee(24))
    bench.feed(Forward(route.context, (ForwardTarget("sip:bob@example.net", hops),)))
    first = bench.sent_to(21).top_via.branch
    key = bench.book.last(Transmit).key
    assert bench.feed(TransportFailed(key, "unreachable")) == ["-> INVITE @22"]
    assert bench.answer(22, 503) == ["-> ACK @22", "-> INVITE @23"]
    assert [line for line in bench.wait(33) if "INVITE @2" in line] == ["32 -> INVITE @24"]
    branches = {first, *(bench.sent_to(number).top_via.branch for number in (22, 23, 24))}
    assert len(branches) == 4
    assert bench.answer(24, 180) == ["-> 180 INVITE @10"]
    assert bench.answer(24, 503) == ["-> ACK @24", "-> 500 INVITE @10"]


def test_callee_that_was_reached_is_not_replaced(bench: Bench) -> None:
    """It rang and then fell silent: the next address of the same target would ring the same user again."""
    route = bench.begin()
    bench.feed(Forward(route.context, (ForwardTarget("sip:bob@example.net", (callee(21), callee(22))),)))
    bench.answer(21, 180)
    lines = bench.wait(300)
    assert [line for line in lines if "ended" not in line] == ["185 -> CANCEL @21", "217 -> 408 INVITE @10", "249 over"]


def test_undeliverable_ack_of_a_failure_changes_nothing(bench: Bench) -> None:
    route = bench.begin()
    first = ForwardTarget("sip:bob@example.net", (callee(21), callee(22)))
    bench.feed(Forward(route.context, (first, to(23))))
    bench.answer(21, 486)
    assert bench.feed(TransportFailed(bench.book.last(Transmit).key, "unreachable")) == []
    assert bench.answer(23, 500) == ["-> ACK @23", "-> 486 INVITE @10"]


def test_caller_that_is_gone_frees_the_callee(bench: Bench) -> None:
    """The owner no longer relays anything: the server transaction ends and what rings is cancelled."""
    bench.relay = False
    bench.start(to(21))
    lines = []
    for _ in range(8):
        bench.answer(21, 180)
        lines += bench.wait(60)
    assert [line for line in lines if "ready" not in line] == [
        "0.2 -> 100 INVITE @10",
        "370 -> CANCEL @21",
        "402 over",
    ]


def test_unreachable_next_hop(bench: Bench) -> None:
    """Section 16.9: as if 503, which becomes 500 (16.7 step 6); the owner is told that it was the core's word."""
    bench.relay = False
    bench.start(to(21))
    key = bench.book.last(Transmit).key
    assert bench.feed(TransportFailed(key, "refused")) == ["ready 500 unreachable"]
    assert bench.book.last(ResponseReady).flow is None


def test_closed_websocket_of_the_callee(bench: Bench) -> None:
    flow = callee(21, "WSS")
    route = bench.begin()
    bench.feed(Forward(route.context, (ForwardTarget("sip:x@a.invalid", (flow,)),)))
    assert bench.feed(FlowClosed(flow, "closed")) == ["-> 500 INVITE @10"]


def test_next_hop_by_request_uri_and_route(bench: Bench) -> None:
    sent_by = {"UDP": SentBy("192.0.2.1", 5060), "TCP": SentBy("192.0.2.1", 5060), "TLS": SentBy("192.0.2.1", 5061)}
    for fields, destination in (
        ({"uri": "sip:bob@192.0.2.21"}, Target("UDP", ("192.0.2.21", 5060))),
        ({"uri": "sip:bob@192.0.2.21:5070;transport=tcp"}, Target("TCP", ("192.0.2.21", 5070))),
        ({"uri": "sips:bob@192.0.2.21"}, Target("TLS", ("192.0.2.21", 5061))),
        ({"uri": "sip:bob@[2001:db8::1]"}, Target("UDP", ("2001:db8::1", 5060))),
        ({"route": "<sip:192.0.2.22;lr>"}, Target("UDP", ("192.0.2.22", 5060))),
        ({"route": "<sip:192.0.2.1;lr>, <sip:192.0.2.22:5080;lr;transport=TCP>"}, Target("TCP", ("192.0.2.22", 5080))),
        ({"uri": "tel:+15550100", "route": "<sip:192.0.2.22;lr>"}, Target("UDP", ("192.0.2.22", 5060))),
        ({"uri": "sip:bob@example.org;maddr=192.0.2.23"}, Target("UDP", ("192.0.2.23", 5060))),
    ):
        one = Bench(bench.sip, sent_by=sent_by)
        route = one.begin(**fields)
        one.feed(Forward(route.context))
        assert one.book.last(Transmit).destination == destination, fields


def test_names_are_looked_up(bench: Bench) -> None:
    route = bench.begin()
    pushed = ForwardTarget(routes=("<sip:scscf.example;lr>",))
    assert bench.feed(Forward(route.context, (pushed,))) == ["resolve sip:scscf.example;lr"]
    key = bench.book.last(Resolve).branch
    assert bench.feed(Resolved(key, (callee(21), callee(22)))) == ["-> INVITE @21"]
    assert bench.sent_to(21).headers.get_all("Route") == ["<sip:scscf.example;lr>"]
    assert bench.answer(21, 503) == ["-> ACK @21", "-> INVITE @22"]
    assert bench.feed(Resolved(key, (callee(23),))) == []


def test_unknown_name_and_unroutable_scheme(bench: Bench) -> None:
    route = bench.begin()
    bench.feed(Forward(route.context))
    assert bench.feed(Resolved(bench.book.last(Resolve).branch, ())) == ["-> 500 INVITE @10"]
    route = bench.begin(branch="z9hG4bK2", uri="tel:+15550100")
    assert bench.feed(Forward(route.context)) == ["-> 416 INVITE @10"]


def test_no_name_of_its_own_for_a_transport(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A slip in the configuration ends in 500 and a line in the log, not in an exception."""
    route = bench.begin()
    assert bench.feed(Forward(route.context, (ForwardTarget("", (Target("TLS", ("192.0.2.21", 5061)),)),))) == [
        "-> 500 INVITE @10"
    ]
    assert "no sent-by for TLS" in caplog.text


def test_profile_and_via_of_a_branch(bench: Bench) -> None:
    bench.start(to(21, profile=TS24229_UE, sent_by=SentBy("pcscf.example", 5060, ())))
    assert str(bench.sent_to(21).top_via).startswith("SIP/2.0/UDP pcscf.example:5060;branch=")
    lines = bench.wait(200)
    assert [line for line in lines if "408" in line] == ["128 -> 408 INVITE @10"]


# ---- checks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"max_forwards": "0"}, 483),
        ({"uri": "mailto:bob@example.org"}, 416),
        ({"proxy_require": "path, foo, bar"}, 420),
        ({"max_breadth": "0"}, 400),
        ({"record_route": "<sip:no-bracket"}, 400),
    ],
)
def test_request_validation(bench: Bench, fields: dict[str, str], status: int) -> None:
    """Section 16.3."""
    bench = Bench(bench.sip, understood={"path"})
    uri = fields.pop("uri", "sip:bob@example.org")
    request = bench.sip.received(host="192.0.2.10", uri=uri, **fields)
    assert bench.feed(Received(request, CALLER)) == [f"-> {status} INVITE @10"]
    if status == 420:
        assert bench.back().unsupported == ["foo", "bar"]
    ack = bench.sip.received("ACK", host="192.0.2.10", uri=uri, to=bench.back().headers.get("To"))
    assert bench.feed(Received(ack, CALLER)) == []
    assert bench.wait(100) == []
    assert bench.core.transactions == 0


def test_loop_is_found_and_a_spiral_is_not(bench: Bench) -> None:
    """RFC 5393 section 4.2: the same request again; not if the Request-URI or Route has changed."""
    bench.start(ForwardTarget("", (callee(21),)))
    looped = bench.sent_to(21)
    again = looped.copy()
    again.headers.prepend("Via", "SIP/2.0/UDP 192.0.2.21;branch=z9hG4bKnext")
    assert bench.feed(Received(again.copy(), callee(21))) == ["-> 482 INVITE @21"]
    spiral = looped.copy()
    spiral.headers.prepend("Via", "SIP/2.0/UDP 192.0.2.21;branch=z9hG4bKother")
    spiral.uri = "sip:carol@example.org"
    assert bench.feed(Received(spiral, callee(21))) == ["route INVITE"]
    routed = looped.copy()
    routed.headers.prepend("Via", "SIP/2.0/UDP 192.0.2.21;branch=z9hG4bKthird")
    routed.headers.add("Route", "<sip:proxy.example;lr>")
    assert bench.feed(Received(routed, callee(21))) == ["route INVITE"]
    # Another proxy's branch of the same look is not ours: the mark is salted.
    other = Bench(bench.sip, own={("other.example", None)})
    other.core._salt = "different"
    assert other.feed(Received(again, callee(21))) == ["route INVITE"]


def test_merged_requests_are_not_refused(bench: Bench) -> None:
    """Section 16.3: that is for the user agent server."""
    bench.begin()
    bench.begin(branch="z9hG4bKother")


# ---- dialogs -------------------------------------------------------------------------------------------------------


def test_single_and_double_record_route(bench: Bench) -> None:
    """RFC 5658: two values where the sides differ, the next hop's on top; taken off together again."""
    same = RecordRoute(uri("sip:192.0.2.1"), uri("sip:192.0.2.1"))
    bench.start(to(21, record_route=same), record_route="<sip:earlier.example;lr>")
    assert bench.sent_to(21).headers.elements("Record-Route") == ["<sip:192.0.2.1;lr>", "<sip:earlier.example;lr>"]
    double = RecordRoute(uri("sip:ue17@192.0.2.1;transport=ws;lr"), uri("sip:proxy.example;lr"))
    bench.start(to(22, record_route=double), branch="z9hG4bK2", call_id="2")
    recorded = bench.sent_to(22).headers.elements("Record-Route")
    assert recorded == ["<sip:proxy.example;lr;r2=on>", "<sip:ue17@192.0.2.1;transport=ws;lr;r2=on>"]


def test_in_dialog_request_follows_the_route_set(bench: Bench) -> None:
    """Section 16.4 and 16.12: own values go, the owner sees them, the rest leads on."""
    bench = Bench(bench.sip, own={("192.0.2.1", 80), ("proxy.example", None)})
    route = bench.begin(
        "BYE",
        uri="sip:bob@192.0.2.21",
        to="<sip:bob@example.org>;tag=b",
        route="<sip:ue17@192.0.2.1;transport=ws;lr;r2=on>, <sip:proxy.example;lr;r2=on>, <sip:192.0.2.22;lr>",
    )
    assert [str(own) for own in route.own_routes] == [
        "sip:ue17@192.0.2.1;transport=ws;lr;r2=on",
        "sip:proxy.example;lr;r2=on",
    ]
    assert bench.feed(Forward(route.context, (ForwardTarget(destinations=(callee(22),)),))) == ["-> BYE @22"]
    bye = bench.sent_to(22)
    assert (bye.uri, bye.headers.elements("Route")) == ("sip:bob@192.0.2.21", ["<sip:192.0.2.22;lr>"])


def test_second_own_route_of_a_spiral_stays(bench: Bench) -> None:
    route = bench.begin("BYE", route="<sip:proxy.example;lr>, <sip:orig@proxy.example;lr>")
    assert len(route.own_routes) == 1
    assert route.request.headers.elements("Route") == ["<sip:orig@proxy.example;lr>"]


def test_strict_router_before_us_is_undone(bench: Bench) -> None:
    """Section 16.4, 16.12.1.2: our Record-Route value is the Request-URI, the target stands last in Route."""
    route = bench.begin("BYE", uri="sip:abc@proxy.example;lr", route="<sip:192.0.2.22;lr>, <sip:bob@192.0.2.21>")
    assert route.request.uri == "sip:bob@192.0.2.21"
    assert route.request.headers.elements("Route") == ["<sip:192.0.2.22;lr>"]
    assert [str(own) for own in route.own_routes] == ["sip:abc@proxy.example;lr"]
    only = bench.begin("BYE", branch="z9hG4bK2", uri="sip:proxy.example;lr", route="<sip:bob@192.0.2.21>")
    assert (only.request.uri, "Route" in only.request.headers) == ("sip:bob@192.0.2.21", False)


def test_strict_router_behind_us_gets_its_form(bench: Bench) -> None:
    """Section 16.6 step 6."""
    route = bench.begin("BYE", uri="sip:bob@192.0.2.21", route="<sip:192.0.2.22>, <sip:192.0.2.23;lr>")
    bench.feed(Forward(route.context, (ForwardTarget(destinations=(callee(22),)),)))
    bye = bench.sent_to(22)
    assert bye.uri == "sip:192.0.2.22"
    assert bye.headers.elements("Route") == ["<sip:192.0.2.23;lr>", "<sip:bob@192.0.2.21>"]


def test_ack_of_2xx_is_forwarded_without_state(bench: Bench) -> None:
    bench.start(to(21))
    bench.answer(21, 200)
    fields = {"uri": "sip:bob@192.0.2.21", "to": "<sip:bob@example.org>;tag=tag21", "route": "<sip:proxy.example;lr>"}
    before = bench.core.transactions
    route = bench.begin("ACK", branch="z9hG4bKack", **fields)
    assert bench.feed(Forward(route.context, (ForwardTarget(destinations=(callee(21),)),))) == ["-> ACK @21"]
    first = bench.sent_to(21, "ACK")
    assert (first.max_forwards, len(first.vias), "Route" in first.headers) == (69, 2, False)
    again = bench.begin("ACK", branch="z9hG4bKack", **fields)
    bench.feed(Forward(again.context, (ForwardTarget(destinations=(callee(21),)),)))
    assert bench.sent_to(21, "ACK").encode() == first.encode()
    assert bench.core.transactions == before
    assert bench.feed(Forward(again.context, (to(22),))) == []


def test_ack_to_a_name_and_bad_acks(bench: Bench) -> None:
    route = bench.begin("ACK", branch="z9hG4bK1", uri="sip:bob@phone.example")
    assert bench.feed(Forward(route.context)) == ["resolve sip:bob@phone.example"]
    key = bench.book.last(Resolve).branch
    assert bench.feed(Resolved(key, (callee(21),))) == ["-> ACK @21"]
    assert bench.feed(Resolved(key, (callee(21),))) == []
    for fields in ({"max_forwards": "0"}, {"max_forwards": "x"}, {"max_breadth": "0"}):
        ack = bench.sip.received("ACK", host="192.0.2.10", uri="sip:bob@192.0.2.21", branch="z9hG4bK2", **fields)
        assert bench.feed(Received(ack, CALLER)) == []
    route = bench.begin("ACK", branch="z9hG4bK3")
    assert bench.feed(Respond(route.context, response_to(route.request, 400))) == []
    route = bench.begin("ACK", branch="z9hG4bK4")
    assert bench.feed(Forward(route.context, ())) == []


def test_waiting_acks_are_bounded(bench: Bench) -> None:
    for number in range(1100):
        bench.begin("ACK", branch=f"z9hG4bK{number}")
    assert len(bench.core._acks._waiting) == 1000


def test_late_and_stray_responses_are_not_forwarded(bench: Bench) -> None:
    """RFC 6026 section 7.3."""
    bench.start(to(21))
    bench.answer(21, 200)
    bench.wait(100)
    assert bench.answer(21, 200) == ["stray 200"]


def test_response_that_lost_the_callers_via_still_reaches_the_caller(bench: Bench) -> None:
    bench.start(to(21))
    response = response_to(bench.sent_to(21), 486, to_tag="b")
    response.headers.set("Via", response.headers.first_element("Via"))
    assert bench.feed(Received(response, callee(21))) == ["-> ACK @21", "-> 486 INVITE @10"]
    assert [via.host for via in bench.back().vias] == ["192.0.2.10"]


def test_overload(bench: Bench) -> None:
    bench = Bench(bench.sip, max_transactions=2)
    bench.start(to(21))
    request = bench.sip.received(host="192.0.2.10", branch="z9hG4bK2", uri="sip:bob@example.org")
    assert bench.feed(Received(request, CALLER)) == ["-> 503 INVITE @10"]


@pytest.mark.parametrize("status", [430, 408])
def test_another_flow_takes_the_place_of_one_that_failed(bench: Bench, status: int) -> None:
    """RFC 5626 section 7: while the other branch rings on, and in the failed one's group."""
    bench.start(to(21, alternatives=(to(22, alternatives=(to(24),)), to(23))), to(25), to(26, group=1))
    lines = bench.answer(21, status)
    assert [line for line in lines if line.startswith("->")] == ["-> ACK @21", "-> INVITE @22"]
    failed = [each.target.uri for _, each in bench.book.log if isinstance(each, FlowFailed)]
    assert failed == (["sip:bob@192.0.2.21"] if status == 430 else [])
    assert bench.sent_to(22).uri == "sip:bob@192.0.2.22"
    assert bench.answer(25, 486) == ["-> ACK @25"]
    assert bench.answer(22, 480)[-1] == "-> INVITE @26"
    assert bench.answer(26, 480)[-1] == "-> 486 INVITE @10"


def test_no_other_flow_after_an_answer(bench: Bench) -> None:
    """RFC 5626 section 7: the instance has provided its response."""
    bench.start(to(21, alternatives=(to(22),)))
    assert bench.answer(21, 486) == ["-> ACK @21", "-> 486 INVITE @10"]


def test_other_flows_are_tried_in_turn_when_nobody_can_be_reached(bench: Bench) -> None:
    bench.start(to(21, alternatives=(to(22), to(23))))
    lines = [line.partition(" ")[2] for line in bench.wait(100)]
    assert [line for line in lines if "@2" in line] == ["-> INVITE @22", "-> INVITE @23"]
    assert "-> 408 INVITE @10" in lines
