"""A network in memory on a virtual clock, for tests: SIP engines as hosts, seeded loss, duplication and reordering.

Everything that crosses it is encoded and parsed again.  It keeps a ladder: one line an arrow.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from imskit.engine import Tick
from imskit.sip.engine.events import Received, Transmit
from imskit.sip.engine.timers import RFC3261, TimerProfile
from imskit.sip.engine.user_agent import Answer, Answered, Call, Confirmed, IncomingCall, Profile, UserAgent
from imskit.sip.wire.flow import Address, Flow, Target, Transport
from imskit.sip.wire.message import Message, Request, Response, parse_message, response_to


class SipEngine(Protocol):
    """Any engine that takes `Received` and gives `Transmit`: transaction layer, proxy, user agent."""

    def handle(self, event: Any, now: float) -> None:
        """Take in an event."""

    def poll(self) -> Any:
        """Return the next output."""

    def deadline(self) -> float | None:
        """When to tick."""


@dataclass(frozen=True, slots=True)
class Link:
    """How the network treats a message."""

    delay: float = 0.01
    """Seconds, one way."""
    jitter: float = 0.0
    """Seconds at most added at random: reorders."""
    loss: float = 0.0
    """Probability of 0..1; none on streams."""
    duplication: float = 0.0


class Host:
    """One engine in the network."""

    def __init__(self, network: MemoryNetwork, name: str, engine: SipEngine, address: Address) -> None:
        self.name = name
        self.engine = engine
        self.address = address
        self.outputs: list[Any] = []
        """Everything but `Transmit`."""
        self.react: Callable[[Any], Iterable[Any]] = lambda _: ()
        """The owner: given an output, returns the events to feed next."""
        self._network = network

    def feed(self, event: Any) -> None:
        """Hand an event to the engine now, and let the owner react."""
        pending = [event]
        while pending:
            self.engine.handle(pending.pop(0), self._network.now)
            while (output := self.engine.poll()) is not None:
                if isinstance(output, Transmit):
                    self._network.send(self, output)
                else:
                    self.outputs.append(output)
                    pending += self.react(output)

    def all[T](self, kind: type[T]) -> list[T]:
        """Return every output of a kind."""
        return [output for output in self.outputs if isinstance(output, kind)]

    def last[T](self, kind: type[T]) -> T:
        """Return the last output of a kind; `IndexError` if there is none."""
        return self.all(kind)[-1]


class MemoryNetwork:
    """See the module's text.  ``now`` is the virtual clock, in seconds."""

    def __init__(self, link: Link = Link(), *, seed: int = 0, transport: Transport = "UDP") -> None:
        self.now = 0.0
        self.link = link
        self.transport = transport
        self.ladder: list[str] = []
        """``alice -> bob  180 INVITE (sdp)``, lost ones with ``-x``."""
        self.sent: list[tuple[float, str, Message]] = []
        """Time, sender and message of everything sent."""
        self.keys: list[str | None] = []
        """The key of each, for `TransportFailed`."""
        self.drop: Callable[[str, Message], bool] = lambda _sender, _message: False
        """Loses a message of one's choice."""
        self._random = Random(seed)
        self._hosts: dict[Address, Host] = {}
        self._flows: dict[tuple[Address, Address], Flow] = {}
        self._queue: list[tuple[float, int, Host, bytes, Flow]] = []
        self._count = 0

    def add(self, name: str, engine: SipEngine, address: Address) -> Host:
        """Put an engine at an address."""
        host = self._hosts[address] = Host(self, name, engine, address)
        return host

    def flow(self, local: Address, remote: Address) -> Flow:
        """Return the flow between two addresses, as ``local`` sees it."""
        known = self._flows.get((local, remote))
        if known is None:
            known = self._flows[local, remote] = Flow(self.transport, local, remote, len(self._flows) + 1)
        return known

    def send(self, sender: Host, transmit: Transmit) -> None:
        """Carry a message."""
        destination = transmit.destination
        address = destination.address if isinstance(destination, Target) else destination.remote
        receiver = self._hosts.get(address)
        message = transmit.message
        self.sent.append((self.now, sender.name, message.copy()))
        self.keys.append(transmit.key)
        lossy = self.transport == "UDP" and self._random.random() < self.link.loss
        lost = receiver is None or self.drop(sender.name, message) or lossy
        name = receiver.name if receiver is not None else f"{address[0]}:{address[1]}"
        self.ladder.append(f"{sender.name} {'-x' if lost else '->'} {name}  {describe(message)}")
        if receiver is None or lost:
            return
        data = message.encode()
        parse_message(data)
        copies = 1
        if self.transport == "UDP" and self._random.random() < self.link.duplication:
            copies = 2
        flow = self.flow(receiver.address, sender.address)
        for _ in range(copies):
            self._count += 1
            jitter = self.link.jitter * self._random.random() if self.transport == "UDP" else 0.0
            heapq.heappush(self._queue, (self.now + self.link.delay + jitter, self._count, receiver, data, flow))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while (due := self._next()) is not None and due <= until:
            self.now = max(self.now, due)
            if self._queue and self._queue[0][0] <= self.now:
                _, _, receiver, data, flow = heapq.heappop(self._queue)
                receiver.feed(Received(data, flow))
                continue
            for host in self._hosts.values():
                deadline = host.engine.deadline()
                if deadline is not None and deadline <= self.now:
                    host.feed(Tick())
        self.now = until

    def settle(self, limit: float = 100_000.0) -> None:
        """Let time pass until nothing is left to happen, at most ``limit`` seconds."""
        until = self.now + limit
        while (due := self._next()) is not None and due <= until:
            self.run(max(0.0, due - self.now))

    def _next(self) -> float | None:
        times = [deadline for host in self._hosts.values() if (deadline := host.engine.deadline()) is not None]
        if self._queue:
            times.append(self._queue[0][0])
        return min(times, default=None)


def describe(message: Message) -> str:
    """Return the method, or status and method; ``(sdp)`` if there is one."""
    sdp = " (sdp)" if message.body and (message.headers.get("Content-Type") or "").startswith("application/sdp") else ""
    if isinstance(message, Response):
        return f"{message.status} {message.cseq.method}{sdp}"
    assert isinstance(message, Request)
    return f"{message.method}{sdp}"


class Script:
    """An engine without a stack: a test reads what it received and writes its messages."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.flow: Flow | None = None
        """Where messages go."""
        self._outputs: list[Transmit] = []
        self._branches = 0

    def handle(self, event: Any, now: float) -> None:
        """Keep a received message; send a `Message` that the test hands in."""
        if isinstance(event, Received):
            data = event.message
            self.received.append(parse_message(data) if isinstance(data, bytes) else data)
            self.flow = event.flow
        elif isinstance(event, Message):
            assert self.flow is not None, "nothing was received yet"
            self._outputs.append(Transmit(event, self.flow))

    def poll(self) -> Transmit | None:
        """Return the next message to send."""
        return self._outputs.pop(0) if self._outputs else None

    def deadline(self) -> float | None:
        """A script has no timers."""
        return None

    def request(self, method: str) -> Request:
        """Return the last request of a method."""
        return [each for each in self.received if isinstance(each, Request) and each.method == method][-1]

    def response(self, method: str) -> Response:
        """Return the last response to a method."""
        return [each for each in self.received if isinstance(each, Response) and each.cseq.method == method][-1]

    def build(
        self,
        method: str,
        sequence: int,
        sdp: bytes = b"",
        *,
        to_tag: str | None = None,
        branch: str = "",
        **fields: Any,
    ) -> Request:
        """Build a request of alice's to bob, with a fresh branch; ``fields`` are headers, ``_`` for ``-``."""
        self._branches += 1
        request = Request.create(
            method,
            "sip:bob@192.0.2.2",
            [
                ("Via", f"SIP/2.0/UDP 192.0.2.1:5060;branch={branch or f'z9hG4bKscript{self._branches}'}"),
                ("Max-Forwards", 70),
                ("From", "<sip:alice@example.org>;tag=a1"),
                ("To", "<sip:bob@example.org>" + (f";tag={to_tag}" if to_tag else "")),
                ("Call-ID", "script"),
                ("CSeq", f"{sequence} {method}"),
                ("Contact", "<sip:alice@192.0.2.1:5060>"),
            ],
        )
        for name, value in fields.items():
            request.headers.set(name.replace("_", "-"), value)
        if sdp:
            request.set_body(sdp, "application/sdp")
        return request


def answer_to(request: Request, status: int, tag: str = "", sdp: bytes = b"", **fields: Any) -> Response:
    """Build a response as bob's branch ``tag`` would send it; ``fields`` are headers, ``_`` for ``-``."""
    response = response_to(request, status, to_tag=tag or None)
    if status < 300:
        response.headers.add("Contact", f"<sip:{tag or 'bob'}@192.0.2.2:5060>")
    for name, value in fields.items():
        response.headers.add(name.replace("_", "-"), value)
    if sdp:
        response.set_body(sdp, "application/sdp")
    return response


def counter(prefix: str = "") -> Callable[[int], str]:
    """Return a source of tokens that counts: every run is the same."""
    count = 0

    def tokens(digits: int) -> str:
        nonlocal count
        count += 1
        return f"{prefix}{count:0{max(0, digits - len(prefix))}x}"

    return tokens


class Pair:
    """Two user agents, ``a`` (alice) and ``b`` (bob), or one of them a `Script`; its ladder has ``>`` and ``<``."""

    A: Address = ("192.0.2.1", 5060)
    B: Address = ("192.0.2.2", 5060)

    def __init__(
        self,
        link: Link = Link(),
        *,
        seed: int = 0,
        transport: Transport = "UDP",
        a: SipEngine | None = None,
        b: SipEngine | None = None,
        timers: TimerProfile = RFC3261,
        **profile: Any,
    ) -> None:
        self.net = MemoryNetwork(link, seed=seed, transport=transport)
        self.profile_a = self._profile("alice", self.A, self.B, **profile)
        self.profile_b = self._profile("bob", self.B, self.A, **profile)
        self.a = self.net.add("alice", a or UserAgent(self.profile_a, counter("a"), timers), self.A)
        self.b = self.net.add("bob", b or UserAgent(self.profile_b, counter("b"), timers), self.B)
        for engine, own, peer in ((a, self.A, self.B), (b, self.B, self.A)):
            if isinstance(engine, Script):
                engine.flow = self.net.flow(own, peer)
        self._shown = 0

    def _profile(self, name: str, own: Address, peer: Address, **profile: Any) -> Profile:
        defaults: dict[str, Any] = {"contact": f"<sip:{name}@{own[0]}:{own[1]}>", "hop": self.net.flow(own, peer)}
        return Profile(**(defaults | profile))

    def dial(self, sdp: bytes | None = b"offer", *, wait: float = 0.1, **fields: Any) -> str:
        """Let alice call bob, as call ``call``, wait, and return bob's name for it (empty if he has none)."""
        self.a.feed(
            Call("call", "sip:bob@192.0.2.2", "<sip:alice@example.org>", "<sip:bob@example.org>", sdp=sdp, **fields)
        )
        self.net.run(wait)
        calls = self.b.all(IncomingCall)
        return calls[-1].call if calls else ""

    def talk(self, **fields: Any) -> str:
        """Let alice call bob and bob answer; forget the ladder of it."""
        name = self.dial(**fields)
        self.b.feed(Answer(name, b"answer"))
        self.net.run(0.1)
        assert self.a.last(Answered).call == "call" and self.b.last(Confirmed).call == name
        self.arrows()
        return name

    def at(self, host: Host, *events: Any, wait: float = 0.1) -> None:
        """Feed events to a host, one after the other, then wait."""
        for event in events:
            host.feed(event)
        self.net.run(wait)

    def arrows(self) -> list[str]:
        """Return the arrows since the last time: ``> INVITE (sdp)``, ``< 200 INVITE``, ``x> BYE`` if lost."""
        lines = self.net.ladder[self._shown :]
        self._shown = len(self.net.ladder)
        shown = []
        for line in lines:
            sender, arrow, rest = line.split(" ", 2)
            head = ">" if sender == "alice" else "<"
            shown.append(("x" if arrow == "-x" else "") + f"{head} {rest.split('  ', 1)[1]}")
        return shown

    def expect(self, ladder: str) -> None:
        """Assert the arrows since the last time, one a line."""
        wanted = [" ".join(line.split()) for line in ladder.strip().splitlines()]
        shown = self.arrows()
        assert shown == wanted, "\n".join(["the ladder was", *shown, "", "and should be", *wanted])

    def quiet(self) -> bool:
        """Let everything end; True if both user agents have released everything."""
        self.net.settle()
        return all(
            not isinstance(host.engine, UserAgent) or (host.engine.idle and host.engine.deadline() is None)
            for host in (self.a, self.b)
        )
