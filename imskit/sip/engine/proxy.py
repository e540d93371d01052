"""The stateful proxy core (RFC 3261 section 16, with RFC 4320, 5393, 5658 and 6026), for P-, I-, S- and eP-CSCF.

An engine (`imskit.engine`) around a `TransactionLayer` of its own.  It decides nothing about where requests go: each
one that passes the checks comes out as `RouteRequest`, and the owner answers `Forward` or `Respond`.  Each response
that is to go back comes out as `ResponseReady`, and goes when the owner answers `RelayResponse`; so every request and
response can be looked at and edited, also when that takes time (an address to be resolved, media to be reserved).

In between the core forks, in parallel and in sequence; passes every provisional response on; chooses the best final
one; cancels what is pending after a 2xx, a 6xx or a CANCEL; tries the next destination when one is dead or says 503;
refuses loops, 483 and 420.  ACKs of 2xx come out as `RouteRequest` too and are forwarded without state.

Departures: a CANCEL that matches nothing is answered 481 rather than forwarded without state (section 16.10), since
this proxy forwards no request but ACK without state; responses that match nothing are dropped (RFC 6026 section 7.3).

The owner sends requests of its own (a NOTIFY, a SUBSCRIBE) with `SendRequest` and `SendCancel` under keys of its own.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace

from imskit.engine import Tokens
from imskit.sip.engine.events import (
    AckReceived,
    CancelReceived,
    Key,
    Output,
    RequestReceived,
    ResponseReceived,
    SendCancel,
    SendRequest,
    SendResponse,
    SendStateless,
    SentBy,
    TransactionEnded,
    TransactionFailed,
    TransactionTimeout,
)
from imskit.sip.engine.layer import MAGIC, TransactionLayer
from imskit.sip.engine.proxy_ack import AckForwarder
from imskit.sip.engine.proxy_context import (
    FLOW_FAILED,
    Branch,
    Final,
    ResponseContext,
    Waiting,
    choose_best,
    leaves_the_instance_unheard,
)
from imskit.sip.engine.proxy_events import (
    ContextEnded,
    FlowFailed,
    Forward,
    ForwardTarget,
    Origin,
    ProxyEvent,
    ProxyOutput,
    RecordRoute,
    RelayResponse,
    Resolve,
    Resolved,
    Respond,
    ResponseReady,
    RouteRequest,
)
from imskit.sip.engine.proxy_routing import (
    destinations_of,
    incoming_breadth,
    loop_mark,
    loops,
    prepare,
    take_own_routes,
    validate,
)
from imskit.sip.engine.timers import RFC3261, TimerProfile
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Address, Flow, Target, Transport
from imskit.sip.wire.message import Request, Response, response_to
from imskit.sip.wire.uri import SipUri

__all__ = [
    "ContextEnded",
    "FlowFailed",
    "Forward",
    "ForwardTarget",
    "Origin",
    "ProxyCore",
    "ProxyEvent",
    "ProxyOutput",
    "RecordRoute",
    "RelayResponse",
    "Resolve",
    "Resolved",
    "Respond",
    "ResponseReady",
    "RouteRequest",
]

_log = logging.getLogger(__name__)


class ProxyCore:
    """The engine of this module's text.

    ``own`` are the hosts (lower case) and ports by which Route and Request-URI name this proxy, ``(host, None)`` for
    every port.  ``understood`` are the option tags that Proxy-Require may ask for.  The rest is as in
    `TransactionLayer`.
    """

    def __init__(
        self,
        tokens: Tokens,
        profile: TimerProfile = RFC3261,
        *,
        own: Iterable[tuple[str, int | None]],
        understood: Iterable[str] = (),
        sent_by: Mapping[Transport, SentBy] | None = None,
        local_profiles: Mapping[Address, TimerProfile] | None = None,
        max_transactions: int = 20_000,
        retry_after: int = 10,
    ) -> None:
        self._layer = TransactionLayer(
            tokens,
            profile,
            sent_by=sent_by,
            local_profiles=local_profiles,
            refuse_merged=False,
            max_transactions=max_transactions,
            retry_after=retry_after,
        )
        self._tokens = tokens
        self._salt = tokens(32)
        self._own = frozenset(own)
        self._understood = frozenset(understood)
        self._contexts: dict[Key, ResponseContext] = {}
        self._branches: dict[Key, tuple[ResponseContext, Branch]] = {}
        self._resolving: dict[Key, tuple[ResponseContext, Branch]] = {}
        self._acks = AckForwarder(self._salt, self._own, self._understood)
        self._answered: set[Key] = set()
        """Server transactions that the core answered without a context."""
        self._outputs: deque[ProxyOutput] = deque()

    # ---- the engine's contract -------------------------------------------------------------------------------

    def handle(self, event: ProxyEvent, now: float) -> None:
        """Take in one event; raises `ValueError` for a `SendRequest` that the layer refuses, nothing else."""
        match event:
            case Forward():
                self._forward(event, now)
            case Respond(key, response):
                self._respond(key, response, now)
            case RelayResponse(key, response):
                self._relay(key, response, now)
            case Resolved(key, destinations):
                self._resolved(key, destinations, now)
            case _:
                self._layer.handle(event, now)
        self._drain(now)

    def poll(self) -> ProxyOutput | None:
        """Return the next output."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """When the next timer fires."""
        return self._layer.deadline()

    @property
    def contexts(self) -> int:
        """How many requests are on their way."""
        return len(self._contexts)

    @property
    def transactions(self) -> int:
        """How many transactions there are."""
        return self._layer.transactions

    def _drain(self, now: float) -> None:
        while (output := self._layer.poll()) is not None:
            self._take(output, now)

    def _take(self, output: Output, now: float) -> None:
        match output:
            case RequestReceived():
                self._request(output, now)
            case AckReceived(request, flow):
                self._put(self._acks.received(request, flow))
            case CancelReceived(key, request, _):
                self._cancel_received(key, request, now)
            case ResponseReceived(key, response, flow) if key in self._branches:
                self._response(*self._branches[key], key, response, flow, now)
            case TransactionTimeout(key) if key in self._branches:
                self._attempt_failed(*self._branches[key], key, "timeout", now)
            case TransactionFailed(key, reason) if key in self._branches:
                _log.info("branch %s: %s", key, reason)
                self._attempt_failed(*self._branches[key], key, "unreachable", now)
            case TransactionEnded(key) if key in self._branches:
                context, _ = self._branches.pop(key)
                context.live.discard(key)
                self._forget_if_over(context)
            case TransactionTimeout(key) | TransactionFailed(key) if key in self._contexts or key in self._answered:
                # Section 16.9: nothing is done about a response that could not be sent or was not acknowledged.
                _log.info("context %s: the response did not get through", key)
            case TransactionEnded(key) if key in self._contexts:
                self._server_ended(self._contexts[key], now)
            case TransactionEnded(key) if key in self._answered:
                self._answered.discard(key)
            case _:
                self._outputs.append(output)

    # ---- requests --------------------------------------------------------------------------------------------

    def _request(self, received: RequestReceived, now: float) -> None:
        key, request, flow = received.key, received.request.copy(), received.flow
        refusal: Response | None
        mark, breadth = "", 0
        own_routes: tuple[SipUri, ...] = ()
        try:
            refusal = response_to(request, 481) if request.method == "CANCEL" else validate(request, self._understood)
            if refusal is None:
                mark = loop_mark(request, self._salt)
                if loops(request, mark):
                    refusal = response_to(request, 482)
                breadth = incoming_breadth(request)
                own_routes = take_own_routes(request, self._own)
        except SipParseError as error:
            _log.info("bad %s over %s: %s", request.method, flow, error)
            refusal = response_to(received.request, error.status, error.reason)
        if refusal is not None:
            self._answered.add(key)
            self._send_own(key, refusal, now)
            return
        self._contexts[key] = ResponseContext(key, request, flow, mark, breadth)
        self._outputs.append(RouteRequest(key, request, flow, own_routes))

    def _forward(self, event: Forward, now: float) -> None:
        if event.context in self._acks:
            self._put_ack(self._acks.forward(event), now)
            return
        context = self._contexts.get(event.context)
        if context is None or context.server_ended:
            _log.debug("context %s has ended: not forwarded", event.context)
            return
        shown = context.shown
        if shown is not None and context.final_chosen and shown.response.status >= 300 and not context.cancelled:
            context.shown = None
            context.finals = [final for final in context.finals if final is not shown]
            context.final_chosen = context.closed = False
        if context.closed:
            _log.debug("context %s is closed: not forwarded", event.context)
            return
        request = event.request or context.request
        for target in sorted(event.targets, key=lambda each: each.group):
            context.waiting.append(Waiting(target, request))
        self._advance(context, now)

    def _advance(self, context: ResponseContext, now: float) -> None:
        """Start the branches whose turn it is, and choose the best response when nothing is left to wait for."""
        while context.waiting and not context.closed:
            group = context.waiting[0].target.group
            if any(branch.target.group != group for branch in context.pending):
                break
            batch = sum(1 for waiting in context.waiting if waiting.target.group == group)
            count = min(batch, context.free_breadth)
            if count <= 0:
                break
            share = context.free_breadth // count
            for waiting in [context.waiting.popleft() for _ in range(count)]:
                self._start_branch(context, waiting, share, now)
        if not context.pending and (context.closed or not context.waiting) and not context.final_chosen:
            self._choose(context)

    def _start_branch(self, context: ResponseContext, waiting: Waiting, breadth: int, now: float) -> None:
        target = waiting.target
        branch = Branch(len(context.branches) + 1, target, waiting.request, waiting.request, breadth)
        context.branches.append(branch)
        try:
            branch.request = prepare(waiting.request, target, breadth)
            where = destinations_of(target, branch.request)
        except SipParseError as error:
            _log.info("context %s cannot be forwarded: %s", context.key, error)
            self._finish(context, branch, error.status, "unreachable", now)
            return
        if where is None:
            self._finish(context, branch, 416, "unreachable", now)
        elif isinstance(where, SipUri):
            key = f"{context.key}.{branch.number}"
            self._resolving[key] = (context, branch)
            self._outputs.append(Resolve(key, where))
        else:
            branch.destinations.extend(where)
            self._attempt(context, branch, now)

    def _resolved(self, key: Key, destinations: tuple[Flow | Target, ...], now: float) -> None:
        if key in self._acks:
            self._put_ack(self._acks.resolved(key, destinations), now)
            return
        context, branch = self._resolving.pop(key, (None, None))
        if context is None or branch is None or branch.done:
            return
        branch.destinations.extend(destinations)
        if destinations:
            self._attempt(context, branch, now)
        else:
            self._finish(context, branch, 503, "unreachable", now)
        self._advance(context, now)

    def _attempt(self, context: ResponseContext, branch: Branch, now: float) -> None:
        destination = branch.destinations.popleft()
        branch.attempts += 1
        branch.heard = False
        key = f"{context.key}.{branch.number}.{branch.attempts}"
        target = branch.target
        value = f"{MAGIC}{self._tokens(16)}.{context.mark}"
        try:
            self._layer.handle(
                SendRequest(branch.request.copy(), destination, key, target.sent_by, value, target.profile), now
            )
        except ValueError as error:
            _log.error("context %s: %s", context.key, error)
            self._finish(context, branch, 503, "unreachable", now)
            return
        branch.current = key
        context.live.add(key)
        self._branches[key] = (context, branch)

    def _cancel_received(self, key: Key, cancel: Request, now: float) -> None:
        context = self._contexts.get(key)
        if context is None:
            return
        context.cancelled = True
        reasons = tuple(("Reason", value) for value in cancel.headers.get_all("Reason"))
        self._close(context, reasons, now)
        self._advance(context, now)

    def _close(self, context: ResponseContext, headers: tuple[tuple[str, str], ...], now: float) -> None:
        """Start nothing new and cancel what is pending (section 16.7 step 10)."""
        context.closed = True
        context.waiting.clear()
        for branch in context.pending:
            branch.destinations.clear()
            if branch.current is None:
                branch.done = True
            elif context.invite:
                self._layer.handle(SendCancel(branch.current, headers), now)

    def _put(self, output: ProxyOutput | None) -> None:
        if output is not None:
            self._outputs.append(output)

    def _put_ack(self, ack: SendStateless | Resolve | None, now: float) -> None:
        if isinstance(ack, SendStateless):
            try:
                self._layer.handle(ack, now)
            except ValueError as error:
                _log.error("an ACK cannot be forwarded: %s", error)
        else:
            self._put(ack)

    # ---- responses -------------------------------------------------------------------------------------------

    def _response(
        self, context: ResponseContext, branch: Branch, key: Key, response: Response, flow: Flow, now: float
    ) -> None:
        if response.provisional:
            branch.heard = True
        if response.status == 100:
            return
        response.headers.pop_element("Via")
        if "Via" not in response.headers:
            # Step 3 would end it here; but it is a response to what this proxy forwarded, and only its Vias are lost.
            _log.info("branch %s: the response has lost our caller's Via", key)
            response.headers.copy_from(context.request.headers, "Via")
        if response.provisional:
            # RFC 4320 section 4.1: none but 100 for other methods.
            if context.invite and not context.final_chosen:
                self._queue(context, Final(response, flow, "received"))
        elif response.success:
            branch.done = True
            if context.invite or not context.final_chosen:
                context.final_chosen = True
                self._queue(context, Final(response, flow, "received"))
            self._close(context, (), now)
        elif response.status == 503 and branch.destinations and not context.closed:
            self._attempt(context, branch, now)
            self._advance(context, now)
        else:
            if response.status == FLOW_FAILED:
                self._outputs.append(FlowFailed(context.key, branch.target))
            self._end_branch(context, branch, Final(response, flow, "received"), now)
            if response.status >= 600:
                self._close(context, (), now)
            self._advance(context, now)

    def _attempt_failed(self, context: ResponseContext, branch: Branch, key: Key, origin: Origin, now: float) -> None:
        if branch.done or key != branch.current:
            return
        if branch.destinations and not branch.heard and not context.closed:
            self._attempt(context, branch, now)
        else:
            self._finish(context, branch, 408 if origin == "timeout" else 503, origin, now)
        self._advance(context, now)

    def _finish(self, context: ResponseContext, branch: Branch, status: int, origin: Origin, now: float) -> None:
        """End a branch with a final response of the core's own making."""
        self._end_branch(context, branch, Final(response_to(context.request, status), None, origin), now)

    def _end_branch(self, context: ResponseContext, branch: Branch, final: Final, now: float) -> None:
        """Note the final response of a branch; another flow of the instance takes its place where it may."""
        branch.done = True
        context.finals.append(final)
        others = branch.target.alternatives
        if others and leaves_the_instance_unheard(final) and not context.closed:
            target = replace(others[0], group=branch.target.group, alternatives=others[1:])
            self._start_branch(context, Waiting(target, branch.unprepared), branch.breadth, now)

    def _choose(self, context: ResponseContext) -> None:
        context.final_chosen = context.closed = True
        if context.finals:
            best = choose_best(context.request, context.finals)
        else:
            # Section 9.2 before anything was forwarded; section 16.5 with nobody to forward to.
            status = 487 if context.cancelled else 480
            best = Final(response_to(context.request, status), None, "received")
        if best.flow is None:
            self._tag(best.response)
        self._queue(context, best)

    def _queue(self, context: ResponseContext, response: Final) -> None:
        if context.server_ended:
            return
        context.outbox.append(response)
        self._show(context)

    def _show(self, context: ResponseContext) -> None:
        if context.shown is None and context.outbox:
            shown = context.shown = context.outbox.popleft()
            self._outputs.append(ResponseReady(context.key, shown.response, shown.flow, shown.origin))

    def _relay(self, key: Key, response: Response | None, now: float) -> None:
        context = self._contexts.get(key)
        if context is None or context.shown is None:
            _log.debug("context %s has no response to relay", key)
            return
        context.shown = None
        if response is not None:
            self._layer.handle(SendResponse(key, response), now)
            self._drain(now)
        self._show(context)

    def _respond(self, key: Key, response: Response, now: float) -> None:
        self._acks.drop(key)
        context = self._contexts.get(key)
        if context is None:
            _log.debug("context %s has ended: %d not sent", key, response.status)
            return
        if not response.provisional:
            context.final_chosen = True
            context.outbox.clear()
            context.shown = None
            self._close(context, (), now)
        self._send_own(key, response, now)

    def _send_own(self, key: Key, response: Response, now: float) -> None:
        self._tag(response)
        self._layer.handle(SendResponse(key, response), now)

    def _tag(self, response: Response) -> None:
        """Give To a tag of the core's own if a response above 100 has none."""
        try:
            tagged = response.to.tag is not None
        except SipParseError:
            return
        if response.status > 100 and not tagged:
            value = response.headers.get("To")
            response.headers.remove("To")
            response.headers.add_parsed("To", f"{value};tag={self._tokens(16)}")

    # ---- the end ---------------------------------------------------------------------------------------------

    def _server_ended(self, context: ResponseContext, now: float) -> None:
        context.server_ended = context.final_chosen = True
        context.outbox.clear()
        self._close(context, (), now)
        self._forget_if_over(context)

    def _forget_if_over(self, context: ResponseContext) -> None:
        if context.over and self._contexts.pop(context.key, None) is not None:
            for branch in context.branches:
                self._resolving.pop(f"{context.key}.{branch.number}", None)
            self._outputs.append(ContextEnded(context.key))
