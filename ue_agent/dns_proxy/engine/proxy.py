"""The DNS proxy as a state machine: answers what is ours, forwards the rest (RFC 1035, RFC 5625).

One query to the upstreams serves every client that asked the same in the meantime, so a forger gets one guess
and not many.  A response counts only if it comes by the path (upstream and socket) the query took, with its random
ID and its question (RFC 5452 section 9).  A query goes to the first upstream that works; to the next one
after a second of silence, at once when the network reports a failure or the upstream answers SERVFAIL or REFUSED.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from imskit.engine import Tick, Tokens
from ue_agent.dns_proxy.engine.cache import Cache
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
    refusal,
    truncated,
    wire_name,
)
from ue_agent.dns_proxy.wire.svcb import strip_hints

SOCKETS = 4
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
MAXIMUM_KNOWN = 64
"""Spellings of local queries (type, flags, EDNS) whose answers are kept ready."""
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


type _Waiter = tuple[ClientQuery, Query]


class _Pending:
    """A query on its way to the upstreams, and who waits for its answer."""

    __slots__ = ("asked", "give_up", "key", "order", "refused", "retry", "stream", "waiters")

    def __init__(self, key: bytes, waiter: _Waiter, order: tuple[int, ...], give_up: float) -> None:
        self.key = key
        self.stream = waiter[0].stream
        self.waiters = [waiter]
        """Whose first one's bytes were sent on."""
        self.order = order
        """Upstreams not yet asked in this round, best first."""
        self.give_up = give_up
        self.retry = 0.0
        self.asked: list[tuple[int, int, int]] = []
        self.refused: bytes | None = None
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
        self._answers = answers
        self._known: dict[bytes, bytes] = {}
        """Queries that were answered locally, and those answers, all but their IDs."""
        self.counters = Counters()
        self._domains = tuple(wire_name(domain) for domain in operator_domains)
        self._tokens = tokens
        self._randoms: list[int] = []
        """Unused random numbers of 32 bits."""
        self._health = [_Health() for _ in range(upstreams)]
        self._order = tuple(range(upstreams))
        """The upstreams, those that work first."""
        self._all_up = True
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

    def set_answers(self, answers: LocalAnswers) -> None:
        """Replace what is answered locally: the device has another address."""
        self._answers = answers
        self._known.clear()

    def known_answer(self, data: bytes) -> bytes | None:
        """Return the answer to a query that was answered locally before; ``None``: let ``handle`` see to it.

        A way past ``handle`` and ``poll`` for the one kind of query that needs neither time nor memory: a third of
        the work.
        """
        known = self._known.get(data[2:])
        if known is None:
            return None
        self.counters.answered_locally += 1
        return data[:2] + known

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
        client, data, stream = event
        try:
            query = parse_query(data)
        except DnsError as error:
            self.counters.malformed += 1
            if error.rcode is not None:
                self._outputs.append(Reply(client, refusal(data, None, error.rcode)))
            elif stream:
                self._outputs.append(Hangup(client))
            return
        if query.name in self._answers:
            local = self._answers.find(data, query)
            if local is not None:
                self.counters.answered_locally += 1
                if len(self._known) < MAXIMUM_KNOWN:
                    self._known[data[2:]] = local[2:]
                self._outputs.append(Reply(client, local))
                return
        end = query.question_end
        key = data[2:12] + query.name + data[end - 4 :]
        if key in self._cache:
            kept = self._cache.find(key, data[12:end], now)
            if kept is not None:
                self.counters.answered_from_cache += 1
                self._reply((event, query), data[:2] + kept[2:])
                return
        pending = self._pending.get((key, stream))
        if pending is not None:
            self._wait(pending, (event, query))
        elif len(self._pending) < MAXIMUM_PENDING:
            self.counters.forwarded += 1
            order = self._order
            pending = _Pending(key, (event, query), order[1:], now + GIVE_UP_S)
            self._pending[key, stream] = pending
            if not self._all_up:
                self._probe(pending, now)
            self._ask(pending, order[0], now)
        else:
            self._too_many((event, query))

    def _wait(self, pending: _Pending, waiter: _Waiter) -> None:
        if any(other == waiter[0] for other, _ in pending.waiters):
            return  # the client repeats itself
        if len(pending.waiters) < MAXIMUM_WAITERS:
            pending.waiters.append(waiter)
        else:
            self._too_many(waiter)

    def _too_many(self, waiter: _Waiter) -> None:
        event, query = waiter
        self.counters.failed += 1
        self._outputs.append(Reply(event.client, refusal(event.data, query, SERVFAIL, _TOO_MANY)))

    def _reply(self, waiter: _Waiter, reply: bytes) -> None:
        event, query = waiter
        if not event.stream and len(reply) > 512 and len(reply) > query.udp_limit():
            reply = truncated(event.data, query, int.from_bytes(reply[2:4], "big"))
        self._outputs.append(Reply(event.client, reply))

    # -- upstreams

    def _probe(self, pending: _Pending, now: float) -> None:
        """Let the query also go to upstreams that are down, from time to time."""
        for index, health in enumerate(self._health):
            if health.down and now >= health.probe and index in pending.order:
                health.probe = now + PROBE_S
                pending.order = tuple(other for other in pending.order if other != index)
                self._ask(pending, index, now)

    def _ask(self, pending: _Pending, upstream: int, now: float) -> None:
        if not self._randoms:
            self._randoms = list(memoryview(bytes.fromhex(self._tokens(512))).cast("I"))
        random = self._randoms.pop()
        identifier = random & 0xFFFF
        if pending.stream:
            path = self._next_stream_path
            self._next_stream_path += 1
        else:
            path = (random >> 16) % SOCKETS
        asked = (upstream, path, identifier)
        if asked in self._asked:  # one chance in a quarter of a million for each query that waits
            identifier = next(n for n in range(0x10000) if (upstream, path, n) not in self._asked)
            asked = (upstream, path, identifier)
        self._asked[asked] = pending
        pending.asked.append(asked)
        pending.retry = now + RETRY_S
        self._retries.append((pending.retry, pending))
        data = pending.waiters[0][0].data
        self._outputs.append(Ask(upstream, path, identifier.to_bytes(2, "big") + data[2:]))

    def _ask_next(self, pending: _Pending, now: float) -> None:
        order = pending.order or self._order  # another round, if need be
        pending.order = order[1:]
        self._ask(pending, order[0], now)

    def _upstream_reply(self, event: UpstreamReply, now: float) -> None:
        upstream, path, data = event
        asked = (upstream, path, int.from_bytes(data[:2], "big"))
        pending = self._asked.get(asked)
        if pending is None:
            self.counters.unexpected += 1
            return
        (_, sent, _), query = pending.waiters[0]
        end = query.question_end
        repeats: bool | None = data[4:6] == b"\0\1" and data[12:end] == sent[12:end] and data[2] & 0xF8 == 0x80
        if not repeats:
            repeats = _repeats_question(data, sent, query)
        if repeats is None:
            self.counters.malformed += 1
            return
        health = self._health[upstream]
        health.silent = 0
        if health.down:
            self._set_down(upstream, False, now)
        if data[3] & 15 in _TRY_NEXT:
            self._no_answer(pending, asked, data if repeats else None, now)
            return
        if query.qtype in _HINT_TYPES and any(is_within(query.name, domain) for domain in self._domains):
            try:
                data = strip_hints(data)
            except DnsError:
                self.counters.malformed += 1
                self._no_answer(pending, asked, None, now)
                return
        if not data[2] & 2:  # TC
            self._cache.store(pending.key, data, now)
        self._finish(pending, data)

    def _set_down(self, upstream: int, down: bool, now: float) -> None:
        health = self._health[upstream]
        if health.down != down:
            health.down = down
            health.probe = now + PROBE_S
            self._order = tuple(sorted(range(len(self._health)), key=lambda index: self._health[index].down))
            self._all_up = not any(other.down for other in self._health)
            self._outputs.append(UpstreamChanged(upstream, not down))

    def _no_answer(self, pending: _Pending, asked: tuple[int, int, int], data: bytes | None, now: float) -> None:
        """This upstream cannot help (``data``: its own words, if usable); another may."""
        pending.asked.remove(asked)
        del self._asked[asked]
        pending.refused = data or pending.refused
        if pending.order:
            self._ask_next(pending, now)
        elif not pending.asked:
            self._give_up(pending)

    def _upstream_failed(self, event: UpstreamFailed, now: float) -> None:
        if event.path < SOCKETS:
            self._set_down(event.upstream, True, now)
        lost = [asked for asked in self._asked if asked[:2] == (event.upstream, event.path)]
        for asked in lost:
            self._no_answer(self._asked[asked], asked, None, now)

    def _tick(self, now: float) -> None:
        while (when := self.deadline()) is not None and when <= now:
            _, pending = self._retries.popleft()
            upstream = pending.asked[-1][0]
            health = self._health[upstream]
            health.silent += not pending.stream
            if health.silent >= SILENT_LIMIT:
                self._set_down(upstream, True, now)
            if now >= pending.give_up:
                self._give_up(pending)
            else:
                self._ask_next(pending, now)

    def _give_up(self, pending: _Pending) -> None:
        if pending.refused is not None:
            self._finish(pending, pending.refused)
            return
        self.counters.failed += len(pending.waiters)
        self._release(pending)
        for event, query in pending.waiters:
            reply = refusal(event.data, query, SERVFAIL, _NO_REACHABLE_AUTHORITY)
            self._outputs.append(Reply(event.client, reply))

    def _finish(self, pending: _Pending, data: bytes) -> None:
        """Hand the response to everyone who waits, each with the ID and the question that it sent."""
        self._release(pending)
        for waiter in pending.waiters:
            (client, asked, _), query = waiter
            end = query.question_end
            if len(data) > 512 or data[12:end] != asked[12:end]:
                self._reply(waiter, asked[:2] + data[2:12] + asked[12:end] + data[end:])
            else:
                self._outputs.append(Reply(client, asked[:2] + data[2:]))

    def _release(self, pending: _Pending) -> None:
        del self._pending[pending.key, pending.stream]
        for asked in pending.asked:
            del self._asked[asked]
        pending.retry = -1.0


def _repeats_question(data: bytes, sent: bytes, query: Query) -> bool | None:
    """Tell whether ``data`` responds to ``sent``: True; False for an error without a question; None: it does not.

    RFC 5452 section 9.1: a response counts only if its question is the one that was asked.
    """
    end = query.question_end
    if len(data) < 12 or data[2] & 0xF8 != 0x80:
        return None
    if data[4:6] == b"\0\1":
        if data[12:end] == sent[12:end]:
            return True
        same = data[12 : end - 4].lower() == query.name and data[end - 4 : end] == sent[end - 4 : end]
        return True if same else None
    return False if data[4:6] == b"\0\0" and data[3] & 15 in _TRY_NEXT else None
