"""Joins an engine (`imskit.engine`) with the transports and the clock.

Messages that arrive become ``Received`` events, ``Transmit`` outputs are sent, one timer serves ``deadline()``, and
every other output goes to the owner's callback.  What cannot be parsed never reaches the engine: it is logged in
one line, and answered where `SipParseError` says so and the message can be answered.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace

from imskit.engine import Engine, Tick
from imskit.sip.engine.events import FlowClosed, Received, Transmit, TransportFailed
from imskit.sip.io.resolver import ResolutionError, Resolver, is_address
from imskit.sip.io.sockets import Binding
from imskit.sip.io.transport import HandshakeCheck, Limits, TransportError, Transports
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Address, Flow, Target, Transport
from imskit.sip.wire.message import Message, Request, Response
from imskit.sip.wire.validate import parse_and_validate, refusal
from imskit.tasks import spawn

_log = logging.getLogger(__name__)

_REMEMBERED = 1024
"""Targets with a name whose address is remembered, for `_REMEMBERED_SECONDS` or until a message to it fails."""
_REMEMBERED_SECONDS = 600.0
_COMPLAINTS = 20
"""Lines about malformed input in `_COMPLAINT_SECONDS`; the rest is counted."""
_COMPLAINT_SECONDS = 10.0


class Endpoint[Event, Output]:
    """Drives one engine; see the module's text.  Use it from one event loop only.

    ``on_output`` is called with every output but ``Transmit``; it may call `handle`: the event is then taken in
    when the engine has been drained.
    """

    def __init__(
        self,
        engine: Engine[Event | Received | TransportFailed | FlowClosed, Output | Transmit],
        on_output: Callable[[Output], None],
        *,
        client_tls: ssl.SSLContext | None = None,
        resolver: Resolver | None = None,
        limits: Limits | None = None,
        binding: Binding | None = None,
    ) -> None:
        self.engine = engine
        self._on_output = on_output
        self._loop = asyncio.get_running_loop()
        self.transports = Transports(self, client_tls=client_tls, limits=limits, binding=binding)
        self._resolver = resolver
        self._events: deque[Event | Received | TransportFailed | FlowClosed | Tick] = deque()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._closed = False
        self._complaints = 0
        self._complaint_window = 0.0
        self._malformed: Counter[int] = Counter()
        """Messages that could not be read, by the connection that they came on."""
        self._waiting: dict[Target, list[tuple[bytes, Callable[[str], None]]]] = {}
        self._reached: OrderedDict[Target, tuple[Target, float]] = OrderedDict()

    @property
    def now(self) -> float:
        """The clock that the engine is driven by, in seconds."""
        return self._loop.time()

    async def listen(
        self,
        transport: Transport,
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
        check: HandshakeCheck | None = None,
    ) -> Address:
        """Listen; as `Transports.listen`."""
        return await self.transports.listen(transport, address, tls=tls, check=check)

    def handle(self, event: Event) -> None:
        """Give the engine an event and carry out what it says.

        Raises what the engine raises for it, after the drain; from inside ``on_output`` it only queues the event.
        """
        self._events.append(event)
        if not self._busy:
            self._run(raising=True)

    async def close(self) -> None:
        """Stop the timer and close every socket; the engine gets no further event."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self.transports.close()

    # ---- the loop --------------------------------------------------------------------------------------------

    def _deliver(self, event: Received | TransportFailed | FlowClosed | Tick) -> None:
        if self._closed:
            return
        self._events.append(event)
        if not self._busy:
            self._run(raising=False)

    def _run(self, *, raising: bool) -> None:
        self._busy = True
        failure: Exception | None = None
        try:
            while self._events:
                event = self._events.popleft()
                try:
                    self.engine.handle(event, self.now)
                except Exception as error:
                    if raising and failure is None:
                        failure = error
                    else:
                        # A fault of one event must not stop the element for all others.
                        _log.exception("%s: %s failed", type(self.engine).__name__, type(event).__name__)
                raising = False
                self._drain()
        finally:
            self._busy = False
            self._arm()
        if failure is not None:
            raise failure

    def _drain(self) -> None:
        while (output := self.engine.poll()) is not None:
            if isinstance(output, Transmit):
                self._transmit(output)
                continue
            try:
                self._on_output(output)
            except Exception:
                _log.exception("handling %s failed", type(output).__name__)

    def _arm(self) -> None:
        deadline = None if self._closed else self.engine.deadline()
        if self._timer is not None:
            if deadline is not None and self._timer_at == deadline:
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            # uvloop gives a plain handle for what is due now: it has no when().
            self._timer, self._timer_at = self._loop.call_at(deadline, self._tick), deadline

    def _tick(self) -> None:
        self._timer = None
        self._deliver(Tick())

    # ---- out -------------------------------------------------------------------------------------------------

    def _transmit(self, transmit: Transmit) -> None:
        data = transmit.message.encode()
        destination = transmit.destination

        def failed(reason: str) -> None:
            if transmit.fallback is not None and isinstance(destination, Flow):
                # RFC 3261 section 18.2.2: the connection of the request is gone, open one to the Via's address.
                self._send(data, transmit.fallback, finally_failed)
            else:
                finally_failed(reason)

        def finally_failed(reason: str) -> None:
            _log.info("%s to %s not sent: %s", _summary(transmit.message), destination, reason)
            if transmit.key is not None:
                self._deliver(TransportFailed(transmit.key, reason))

        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("send %s to %s", _summary(transmit.message), destination)
        self._send(data, destination, failed)

    def _send(self, data: bytes, destination: Flow | Target, failed: Callable[[str], None]) -> None:
        if isinstance(destination, Flow) or is_address(destination.address[0]):
            self.transports.send(data, destination, failed)
        elif destination in self._waiting:
            self._waiting[destination].append((data, failed))
        elif (found := self._reached.get(destination)) is not None and found[1] > self.now:
            self._send_to_named(data, destination, found[0], failed)
        else:
            self._waiting[destination] = [(data, failed)]
            spawn(self._resolve_and_send(destination), f"resolve {destination}")

    async def _resolve_and_send(self, target: Target) -> None:
        try:
            attempt = await self._reach(target)
        except (ResolutionError, TransportError) as error:
            for _, failed in self._waiting.pop(target):
                failed(str(error))
            return
        # All messages of a transaction must go to one server (RFC 3263 section 4.4), so the outcome is kept.
        self._reached[target] = attempt, self.now + _REMEMBERED_SECONDS
        while len(self._reached) > _REMEMBERED:
            self._reached.popitem(last=False)
        for data, failed in self._waiting.pop(target):
            self._send_to_named(data, target, attempt, failed)

    async def _reach(self, target: Target) -> Target:
        host, port = target.address
        if self._resolver is None:
            self._resolver = Resolver()
        reasons = []
        for address in await self._resolver.addresses(host):
            attempt = replace(target, address=(address, port), host=target.host or host)
            try:
                await self.transports.open(attempt)
            except TransportError as error:
                reasons.append(str(error))
            else:
                return attempt
        raise TransportError("; ".join(reasons))

    def _send_to_named(self, data: bytes, target: Target, attempt: Target, failed: Callable[[str], None]) -> None:
        def forget_and_fail(reason: str) -> None:
            self._reached.pop(target, None)
            failed(reason)

        self.transports.send(data, attempt, forget_and_fail)

    # ---- in (the Receiver of the transports) -----------------------------------------------------------------

    def received(self, data: bytes, flow: Flow) -> None:
        """Take in the bytes of one whole message."""
        try:
            message = parse_and_validate(data)
        except SipParseError as error:
            self.malformed(data, error, flow)
            return
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("received %s over %s", _summary(message), flow)
        self._deliver(Received(message, flow))

    def malformed(self, head: bytes, error: SipParseError, flow: Flow) -> None:
        """Log a malformed message and answer it if it can be answered."""
        answer = refusal(head, error)
        self._complain(flow, error, answer)
        if answer is not None and not self._closed:
            self.transports.send(answer.encode(), flow, lambda _: None)
        if flow.transport in ("WS", "WSS") and (most := self.transports.limits.websocket_malformed):
            self._malformed[flow.id] += 1
            if self._malformed[flow.id] == most:
                _log.warning("%s is closed: %d messages could not be read", flow, self._malformed[flow.id])
                self.transports.drop(flow, "too many messages that cannot be read")

    def closed(self, flow: Flow, reason: str) -> None:
        """Tell the engine that a connection is gone."""
        self._malformed.pop(flow.id, None)
        self._deliver(FlowClosed(flow, reason))

    def _complain(self, flow: Flow, error: SipParseError, answer: Response | None) -> None:
        if self.now - self._complaint_window > _COMPLAINT_SECONDS:
            if self._complaints > _COMPLAINTS:
                _log.warning("%d more malformed messages", self._complaints - _COMPLAINTS)
            self._complaints, self._complaint_window = 0, self.now
        self._complaints += 1
        if self._complaints <= _COMPLAINTS:
            outcome = f"answered {answer.status}" if answer is not None else "dropped"
            _log.warning("malformed message over %s %s: %s", flow, outcome, error.brief)


def _summary(message: Message) -> str:
    """Name a message without identities."""
    try:
        cseq = str(message.cseq)
    except SipParseError:
        cseq = "?"
    if isinstance(message, Request):
        return f"{message.method} (CSeq {cseq})"
    return f"{message.status} (CSeq {cseq})" if isinstance(message, Response) else cseq
