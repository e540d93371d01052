"""The DNS proxy as a state machine: answers what is ours, forwards the rest (RFC 1035, RFC 5625).

One query to the upstreams serves every client that asked the same in the meantime, so a forger gets one guess
and not many.  A response counts only if it comes by the path (upstream and socket) the query took, with its random
ID and its question (RFC 5452 section 9).  A query goes to the first upstream that works; to the next one
after a second of silence, at once when the network reports a failure or the upstream answers SERVFAIL or REFUSED.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from imskit.engine import Tick, Tokens
from ue_agent.dns_proxy.engine.cache import Cache, aged
from ue_agent.dns_proxy.wire.local import LocalAnswers
from ue_agent.dns_proxy.wire.message import (
    FORMERR,
    NOTIMP,
    REFUSED,
    SERVFAIL,
    TYPE_ANY,
    TYPE_HTTPS,
    TYPE_SVCB,
    DnsError,
    Query,
    is_within,
    parse_query,
    parse_response,
    refusal,
    truncated,
    wire_name,
)
from ue_agent.dns_proxy.wire.svcb import strip_hints

SOCKETS = 8
"""UDP sockets, each with a port of its own, to each upstream."""
RETRY_S = 1.0
"""Seconds of silence after which the next upstream is asked."""
GIVE_UP_S = 4.0
"""Seconds after which the client is told SERVFAIL; stub resolvers wait five."""
SILENT_LIMIT = 2
"""Queries in a row without an answer that put an upstream behind the others."""
PROBE_S = 5.0
"""Seconds between two queries that also go to an upstream that is down, to learn of its recovery."""
MAXIMUM_PENDING = 512
"""Queries waiting for an upstream at a time."""
MAXIMUM_WAITERS = 64
"""Clients waiting for the answer to one such query."""

_HINT_TYPES = (TYPE_SVCB, TYPE_HTTPS, TYPE_ANY)
_NO_REACHABLE_AUTHORITY = (22, "no upstream DNS server answered")
_TOO_MANY = (0, "too many queries are waiting")
_TRY_NEXT = (FORMERR, SERVFAIL, NOTIMP, REFUSED)


class ClientQuery(NamedTuple):
    """A message arrived from a client; ``client`` is any value that finds it again, in ``Reply``."""

    client: Hashable
    data: bytes
    stream: bool
    """It came over TCP."""


class UpstreamReply(NamedTuple):
    """A message arrived from an upstream, by the path that an ``Ask`` named."""

    upstream: int
    path: int
    data: bytes


class UpstreamFailed(NamedTuple):
    """The network refuses to carry queries to the upstream by this path (ICMP error, TCP failure)."""

    upstream: int
    path: int


class Reply(NamedTuple):
    """Send ``data`` to the client."""

    client: Hashable
    data: bytes


class Ask(NamedTuple):
    """Send ``data`` to an upstream: by its UDP socket number ``path``, or over TCP when ``path`` >= SOCKETS."""

    upstream: int
    path: int
    data: bytes


class Hangup(NamedTuple):
    """Close the connection of a client that sent, over TCP, what is no query at all."""

    client: Hashable


class UpstreamChanged(NamedTuple):
    """An upstream stopped answering, or answers again."""

    upstream: int
    up: bool


type Event = ClientQuery | UpstreamReply | UpstreamFailed
type Output = Reply | Ask | Hangup | UpstreamChanged


@dataclass(slots=True)
class Counters:
    """What happened so far."""

    answered_locally: int = 0
    answered_from_cache: int = 0
    forwarded: int = 0
    failed: int = 0
    """Queries that ended in our own SERVFAIL."""
    malformed: int = 0
    unexpected: int = 0
    """Messages from an upstream that match nothing asked: late, or forged."""


class _Waiter(NamedTuple):
    client: Hashable
    data: bytes
    query: Query


@dataclass(slots=True, eq=False)
class _Pending:
    key: bytes
    stream: bool
    query: Query
    data: bytes
    give_up: float
    waiters: list[_Waiter] = field(default_factory=list)
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    upstreams: list[int] = field(default_factory=list)
    """Those not yet asked, best first."""
    retry: float = 0.0
    refused: bytes | None = None
    """An upstream's negative answer, handed on when no other upstream has a better one."""


@dataclass(slots=True)
class _Health:
    silent: int = 0
    down: bool = False
    probe: float = 0.0


class DnsProxyEngine:
    """The machine; see the module's text.

    ``upstreams`` is how many upstream servers there are, best first; ``operator_domains`` are those whose SVCB and
    HTTPS records lose their ECH and HTTP/3 hints; ``tokens`` gives the random IDs and socket choices.
    """

    def __init__(self, upstreams: int, answers: LocalAnswers, operator_domains: Sequence[str], tokens: Tokens) -> None:
        if upstreams < 1:
            raise ValueError("a DNS proxy needs an upstream server")
        self.answers = answers
        """What is answered locally; replaced when the device's address changes."""
        self.counters = Counters()
        self._domains = tuple(wire_name(domain) for domain in operator_domains)
        self._tokens = tokens
        self._health = [_Health() for _ in range(upstreams)]
        self._cache = Cache()
        self._outputs: deque[Output] = deque()
        self._pending: dict[tuple[bytes, bool], _Pending] = {}
        self._asked: dict[tuple[int, int, int], _Pending] = {}
        self._next_stream_path = SOCKETS
        # Every retry comes RETRY_S after it is entered here, so the queue is in order of time by itself.
        self._retries: deque[tuple[float, _Pending]] = deque()

    @property
    def upstreams_up(self) -> tuple[bool, ...]:
        """Which upstreams answer, as far as is known."""
        return tuple(not health.down for health in self._health)

    def handle(self, event: Event | Tick, now: float) -> None:
        """Take in what happened at ``now`` (seconds)."""
        if isinstance(event, ClientQuery):
            self._client_query(event, now)
        elif isinstance(event, UpstreamReply):
            self._upstream_reply(event, now)
        elif isinstance(event, UpstreamFailed):
            self._upstream_failed(event, now)
        else:
            self._tick(now)

    def poll(self) -> Output | None:
        """Return the next thing to send, ``None`` when there is none left."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """When to call ``handle(Tick(), now)`` next."""
        while self._retries:
            when, pending = self._retries[0]
            if pending.retry == when:
                return when
            self._retries.popleft()
        return None

    # -- clients

    def _client_query(self, event: ClientQuery, now: float) -> None:
        data = event.data
        try:
            query = parse_query(data)
        except DnsError as error:
            self.counters.malformed += 1
            if error.rcode is not None:
                self._outputs.append(Reply(event.client, refusal(data, None, error.rcode)))
            elif event.stream:
                self._outputs.append(Hangup(event.client))
            return
        if local := self.answers.find(data, query):
            self.counters.answered_locally += 1
            self._outputs.append(Reply(event.client, local))
            return
        end = query.question_end
        key = data[2:12] + query.name + data[end - 4 :]
        if entry := self._cache.find(key, now):
            self.counters.answered_from_cache += 1
            reply = data[:2] + aged(entry, data[12:end], now)[2:]
            self._reply(_Waiter(event.client, data, query), reply, entry.response.flags, event.stream)
            return
        self._forward(event, query, key, now)

    def _forward(self, event: ClientQuery, query: Query, key: bytes, now: float) -> None:
        waiter = _Waiter(event.client, event.data, query)
        pending = self._pending.get((key, event.stream))
        if pending is not None:
            if any(other.client == event.client and other.data == event.data for other in pending.waiters):
                return  # the client repeats itself
            if len(pending.waiters) < MAXIMUM_WAITERS:
                pending.waiters.append(waiter)
                return
        elif len(self._pending) < MAXIMUM_PENDING:
            pending = _Pending(key, event.stream, query, event.data, now + GIVE_UP_S, [waiter])
            pending.upstreams = self._order()
            self._pending[key, event.stream] = pending
            self.counters.forwarded += 1
            for index, health in enumerate(self._health):
                if health.down and now >= health.probe and index != pending.upstreams[0]:
                    health.probe = now + PROBE_S
                    pending.upstreams.remove(index)
                    self._ask(pending, index)
            self._ask_next(pending, now)
            return
        self.counters.failed += 1
        self._outputs.append(Reply(event.client, refusal(event.data, query, SERVFAIL, _TOO_MANY)))

    def _reply(self, waiter: _Waiter, reply: bytes, flags: int, stream: bool) -> None:
        if not stream and len(reply) > waiter.query.udp_limit():
            reply = truncated(waiter.data, waiter.query, flags)
        self._outputs.append(Reply(waiter.client, reply))

    # -- upstreams

    def _order(self) -> list[int]:
        return sorted(range(len(self._health)), key=lambda index: self._health[index].down)

    def _ask(self, pending: _Pending, upstream: int) -> None:
        token = int(self._tokens(8), 16)
        identifier = token & 0xFFFF
        if pending.stream:
            path = self._next_stream_path
            self._next_stream_path += 1
        else:
            path = (token >> 16) % SOCKETS
        asked = (upstream, path, identifier)
        if asked in self._asked:  # one chance in half a million for each query that waits
            identifier = next(n for n in range(0x10000) if (upstream, path, n) not in self._asked)
            asked = (upstream, path, identifier)
        self._asked[asked] = pending
        pending.asked.append(asked)
        self._outputs.append(Ask(upstream, path, identifier.to_bytes(2, "big") + pending.data[2:]))

    def _ask_next(self, pending: _Pending, now: float) -> None:
        if not pending.upstreams:  # another round
            pending.upstreams = self._order()
        self._ask(pending, pending.upstreams.pop(0))
        pending.retry = now + RETRY_S
        self._retries.append((pending.retry, pending))

    def _upstream_reply(self, event: UpstreamReply, now: float) -> None:
        data = event.data
        asked = (event.upstream, event.path, int.from_bytes(data[:2], "big"))
        pending = self._asked.get(asked)
        if pending is None:
            self.counters.unexpected += 1
            return
        query = pending.query
        try:
            response = parse_response(data)
            usable: bytes | None = data
            if response.question_end == 12:  # only an error may leave out the question, and it cannot be handed on
                usable = None
            elif response.name != query.name or (response.qtype, response.qclass) != (query.qtype, query.qclass):
                raise DnsError("response to another question", 12, "RFC 5452 section 9.1", None)
            if usable is None and response.rcode not in _TRY_NEXT:
                raise DnsError("response without a question", 4, "RFC 1035 4.1.1", None)
        except DnsError:
            self.counters.malformed += 1
            return
        self._working(event.upstream)
        if response.rcode in _TRY_NEXT:
            self._no_answer(pending, asked, usable, now)
            return
        if query.qtype in _HINT_TYPES and any(is_within(query.name, domain) for domain in self._domains):
            try:
                stripped = strip_hints(data)
            except DnsError:
                self.counters.malformed += 1
                self._no_answer(pending, asked, None, now)
                return
            if stripped is not data:
                data, response = stripped, parse_response(stripped)
        self._cache.store(pending.key, data, response, now)
        self._finish(pending, data, response.flags)

    def _working(self, upstream: int) -> None:
        health = self._health[upstream]
        health.silent = 0
        if health.down:
            health.down = False
            self._outputs.append(UpstreamChanged(upstream, True))

    def _down(self, upstream: int, now: float) -> None:
        health = self._health[upstream]
        if not health.down:
            health.down = True
            health.probe = now + PROBE_S
            self._outputs.append(UpstreamChanged(upstream, False))

    def _no_answer(self, pending: _Pending, asked: tuple[int, int, int], data: bytes | None, now: float) -> None:
        pending.asked.remove(asked)
        del self._asked[asked]
        pending.refused = data or pending.refused
        if pending.upstreams:
            self._ask_next(pending, now)
        elif not pending.asked:
            self._give_up(pending)

    def _upstream_failed(self, event: UpstreamFailed, now: float) -> None:
        if event.path < SOCKETS:
            self._down(event.upstream, now)
        lost = [asked for asked in self._asked if asked[:2] == (event.upstream, event.path)]
        for asked in lost:
            pending = self._asked[asked]
            self._no_answer(pending, asked, None, now)

    def _tick(self, now: float) -> None:
        while (when := self.deadline()) is not None and when <= now:
            _, pending = self._retries.popleft()
            upstream = pending.asked[-1][0]
            health = self._health[upstream]
            health.silent += not pending.stream
            if health.silent >= SILENT_LIMIT:
                self._down(upstream, now)
            if now >= pending.give_up:
                self._give_up(pending)
            else:
                self._ask_next(pending, now)

    def _give_up(self, pending: _Pending) -> None:
        if pending.refused is not None:
            flags = int.from_bytes(pending.refused[2:4], "big")
            self._finish(pending, pending.refused, flags)
            return
        self.counters.failed += len(pending.waiters)
        self._release(pending)
        for waiter in pending.waiters:
            self._outputs.append(
                Reply(waiter.client, refusal(waiter.data, waiter.query, SERVFAIL, _NO_REACHABLE_AUTHORITY))
            )

    def _finish(self, pending: _Pending, data: bytes, flags: int) -> None:
        """Hand the response to everyone who waits, each with the ID and the question that it sent."""
        self._release(pending)
        end = pending.query.question_end
        for waiter in pending.waiters:
            asked = waiter.data
            self._reply(waiter, asked[:2] + data[2:12] + asked[12:end] + data[end:], flags, pending.stream)

    def _release(self, pending: _Pending) -> None:
        del self._pending[pending.key, pending.stream]
        for asked in pending.asked:
            del self._asked[asked]
        pending.retry = -1.0
