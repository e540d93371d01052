"""Client and server transactions: the objects that run the machines of `imskit.sip.engine.machines`.

Also what a transaction makes itself: the ACK of a failed INVITE, CANCEL, and the way of a response.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from imskit.sip.engine.events import (
    AckReceived,
    Key,
    Output,
    RequestReceived,
    ResponseReceived,
    TransactionEnded,
    TransactionFailed,
    TransactionTimeout,
    Transmit,
)
from imskit.sip.engine.machines import (
    INVITE_CLIENT,
    INVITE_SERVER,
    NON_INVITE_CLIENT,
    NON_INVITE_SERVER,
    Do,
    Input,
    Machine,
    State,
)
from imskit.sip.engine.timers import Timer, TimerProfile
from imskit.sip.wire.flow import DEFAULT_PORTS, Flow, Target
from imskit.sip.wire.message import Request, Response, response_to

_log = logging.getLogger(__name__)


class Transaction:
    """What client and server transactions share: a machine's state, its timers, and what it last sent."""

    def __init__(
        self,
        machine: Machine,
        key: Key,
        request: Request,
        profile: TimerProfile,
        reliable: bool,
        emit: Callable[[Output], None],
        quiet: bool,
    ) -> None:
        self.key = key
        self.request = request
        self.state = machine.initial
        self.quiet = quiet
        """Nothing but `Transmit` is said about it: a CANCEL that the layer itself sends or answers."""
        self.scheduled: float | None = None
        """The deadline that the layer's queue holds for this transaction."""
        self._machine = machine
        self.profile = profile
        self._reliable = reliable
        self._emit = emit
        self._timers: dict[Timer, float] = {}
        self._intervals: dict[Timer, float] = {}
        self._reason = ""

    @property
    def ended(self) -> bool:
        """True once the transaction is to be forgotten."""
        return self.state is State.TERMINATED

    @property
    def deadline(self) -> float | None:
        """When the next timer fires."""
        return min(self._timers.values(), default=None)

    def fail(self, what: Input, reason: str, now: float) -> None:
        """Feed `Input.TRANSPORT_ERROR` or `Input.FLOW_CLOSED` with the reason to report."""
        self._reason = reason
        self.step(what, now)

    def end(self) -> None:
        """Say that the key is free."""
        if not self.quiet:
            self._emit(TransactionEnded(self.key))

    def start(self, now: float) -> None:
        """Do what the machine does on entering its initial state; call once."""
        self._perform(self._machine.start, None, None, now)

    def fire_due(self, now: float) -> None:
        """Fire every timer that is due, the earliest first."""
        while self._timers:
            timer = min(self._timers, key=self._timers.__getitem__)
            if self._timers[timer] > now:
                return
            del self._timers[timer]
            self.step(timer, now)

    def step(self, what: Input | Timer, now: float, message: Request | Response | None = None) -> bool:
        """Feed one input; False if the machine absorbs it in this state."""
        rule = self._machine.rules.get((self.state, what))
        if rule is None:
            return False
        if rule.next is not self.state:
            if _log.isEnabledFor(logging.DEBUG):
                _log.debug("%s %s: %s -> %s", self._machine.name, self.key, self.state.name, rule.next.name)
            self.state = rule.next
            allowed = self._machine.timers.get(rule.next, frozenset())
            self._timers = {timer: due for timer, due in self._timers.items() if timer in allowed}
        self._perform(rule.actions, what, message, now)
        return True

    def _perform(
        self,
        actions: tuple[Do | Timer, ...],
        what: Input | Timer | None,
        message: Request | Response | None,
        now: float,
    ) -> None:
        for action in actions:
            if isinstance(action, Timer):
                self._start_timer(action, self.profile.initial(action, reliable=self._reliable), now)
            elif action in (Do.BACK_OFF, Do.BACK_OFF_T2):
                assert isinstance(what, Timer)
                interval = self.profile.t2
                if action is Do.BACK_OFF:
                    doubled = 2 * self._intervals[what]
                    interval = doubled if what is Timer.A else min(doubled, self.profile.t2)
                self._start_timer(what, interval, now)
            else:
                self._do(action, message, now)

    def _start_timer(self, timer: Timer, interval: float | None, now: float) -> None:
        if interval is not None:
            self._intervals[timer] = interval
            self._timers[timer] = now + interval

    def _do(self, action: Do, message: Request | Response | None, now: float) -> None:
        raise NotImplementedError


class ClientTransaction(Transaction):
    """A request sent: INVITE or not, by its method."""

    def __init__(
        self,
        key: Key,
        request: Request,
        destination: Flow | Target,
        profile: TimerProfile,
        emit: Callable[[Output], None],
        *,
        quiet: bool = False,
    ) -> None:
        machine = INVITE_CLIENT if request.method == "INVITE" else NON_INVITE_CLIENT
        super().__init__(machine, key, request, profile, destination.reliable, emit, quiet)
        self.destination = destination
        via = request.top_via
        self.branch = via.branch or ""
        self.sent_by = via.sent_by
        """As `Via.sent_by`; a response must bring it back (RFC 3261 section 18.1.2)."""
        self.via_count = len(request.headers.elements("Via"))
        self.cancel_headers: tuple[tuple[str, str], ...] | None = None
        """What the owner wants in the CANCEL, once it has asked for one."""
        self.cancel_now = False
        """The layer is to send the CANCEL."""
        self._flow: Flow | None = None

    def respond(self, response: Response, flow: Flow, now: float) -> None:
        """Take in a response that matches."""
        self._flow = flow
        self.step(_response_input(response), now, response)

    def cancel(self, headers: tuple[tuple[str, str], ...]) -> None:
        """Ask for a CANCEL, now or as soon as the RFC lets it out (section 9.1)."""
        invite = self._machine is INVITE_CLIENT
        if invite and self.cancel_headers is None and self.state in (State.CALLING, State.PROCEEDING):
            self.cancel_headers = headers
            self.cancel_now = self.state is State.PROCEEDING

    def cancelled(self, now: float) -> None:
        """The CANCEL has gone out: the INVITE has 64*T1 to end."""
        self.cancel_now = False
        self._timers.pop(Timer.C, None)
        self._start_timer(Timer.CANCELLED, self.profile.timeout, now)

    def resend_over(self, destination: Flow | Target, now: float) -> None:
        """Begin again over another transport, nothing having left over the first (RFC 3261 section 18.1.1)."""
        self.destination = destination
        self.sent_by = self.request.top_via.sent_by
        self._reliable = destination.reliable
        self._timers.clear()
        self.start(now)

    def _do(self, action: Do, message: Request | Response | None, now: float) -> None:
        match action:
            case Do.SEND_REQUEST:
                self._emit(Transmit(self.request, self.destination, self.key))
            case Do.SEND_ACK:
                assert isinstance(message, Response)
                self._emit(Transmit(ack_of(self.request, message), self.destination, self.key))
            case Do.SEND_CANCEL:
                self.cancel(())
            case Do.SEND_DUE_CANCEL:
                self.cancel_now = self.cancel_headers is not None
            case _ if self.quiet:
                pass
            case Do.PASS_UP:
                assert isinstance(message, Response)
                assert self._flow is not None
                self._emit(ResponseReceived(self.key, message, self._flow))
            case Do.INFORM_TIMEOUT:
                self._emit(TransactionTimeout(self.key))
            case Do.INFORM_FAILURE:
                self._emit(TransactionFailed(self.key, self._reason))
            case _:
                raise AssertionError(action)


class ServerTransaction(Transaction):
    """A request received: INVITE or not, by its method."""

    def __init__(
        self,
        key: Key,
        request: Request,
        flow: Flow,
        profile: TimerProfile,
        emit: Callable[[Output], None],
        match: tuple[object, ...],
        *,
        quiet: bool = False,
    ) -> None:
        machine = INVITE_SERVER if request.method == "INVITE" else NON_INVITE_SERVER
        super().__init__(machine, key, request, profile, flow.reliable, emit, quiet)
        self.flow = flow
        self.match = match
        """What later requests of the same transaction have in common with this one."""
        self.last_response: Response | None = None
        self._destination, self._fallback = response_route(request, flow)

    def respond(self, response: Response, now: float) -> None:
        """Take in a response of the owner."""
        if self._machine is NON_INVITE_SERVER and response.status in (100, 408):
            # RFC 4320 section 4: the 100 is sent when it is due, a 408 would be of no use to anyone.
            return
        if not self.step(_response_input(response), now, response):
            _log.debug("%s %s in %s: %d not sent", self._machine.name, self.key, self.state.name, response.status)

    def _do(self, action: Do, message: Request | Response | None, now: float) -> None:
        match action:
            case Do.SEND_RESPONSE:
                assert isinstance(message, Response)
                self.last_response = message
                self._send(message)
            case Do.SEND_LAST_RESPONSE:
                if self.last_response is not None:
                    self._send(self.last_response)
            case Do.SEND_TRYING:
                if self.last_response is None:
                    self.last_response = response_to(self.request, 100)
                    self._send(self.last_response)
            case _ if self.quiet:
                pass
            case Do.PASS_UP:
                if message is None:
                    self._emit(RequestReceived(self.key, self.request, self.flow))
                else:
                    assert isinstance(message, Request)
                    self._emit(AckReceived(message, self.flow))
            case Do.INFORM_TIMEOUT:
                self._emit(TransactionTimeout(self.key))
            case Do.INFORM_FAILURE:
                self._emit(TransactionFailed(self.key, self._reason))
            case _:
                raise AssertionError(action)

    def _send(self, response: Response) -> None:
        self._emit(Transmit(response, self._destination, self.key, self._fallback))


def _response_input(response: Response) -> Input:
    if response.status == 100:
        return Input.RESPONSE_100
    if response.status < 200:
        return Input.RESPONSE_1XX
    return Input.RESPONSE_2XX if response.status < 300 else Input.RESPONSE_3XX_6XX


def ack_of(invite: Request, response: Response) -> Request:
    """Build the ACK of a 300..699 (RFC 3261 section 17.1.1.3); ``invite`` as it was sent."""
    ack = _same_hop(invite, "ACK")
    ack.headers.copy_from(response.headers, "To")
    _identify(ack, invite)
    return ack


def cancel_of(invite: Request, headers: tuple[tuple[str, str], ...] = ()) -> Request:
    """Build the CANCEL of an INVITE as it was sent (RFC 3261 section 9.1)."""
    cancel = _same_hop(invite, "CANCEL")
    cancel.headers.copy_from(invite.headers, "To")
    _identify(cancel, invite)
    for name, value in headers:
        cancel.headers.add(name, value)
    return cancel


def _same_hop(invite: Request, method: str) -> Request:
    request = Request(method, invite.uri)
    request.headers.add("Via", invite.headers.first_element("Via"))
    request.headers.add("Max-Forwards", 70)
    request.headers.copy_from(invite.headers, "Route")
    request.headers.copy_from(invite.headers, "From")
    return request


def _identify(request: Request, invite: Request) -> None:
    request.headers.copy_from(invite.headers, "Call-ID")
    request.headers.add("CSeq", f"{invite.cseq.number} {request.method}")


def response_route(request: Request, flow: Flow) -> tuple[Flow | Target, Target | None]:
    """Return where a response to ``request`` goes, and where when that connection is gone.

    RFC 3261 section 18.2.2 and RFC 3581 section 4; the top Via has its ``received`` already.
    """
    via = request.top_via
    port = via.port or DEFAULT_PORTS[flow.transport]
    if flow.reliable:
        # Nobody listens behind a WebSocket's client (RFC 7118 section 5).
        alone = flow.transport in ("WS", "WSS")
        return flow, None if alone else Target(flow.transport, (via.received or via.host, port))
    if via.maddr is not None:
        return Target(flow.transport, (via.maddr, port)), None
    if via.wants_rport:
        return flow, None
    return replace(flow, remote=(flow.remote[0], port)), None
