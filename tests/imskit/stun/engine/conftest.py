"""A client and an owner for the TURN server machine, on a virtual clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from imskit.engine import Tick
from imskit.secrets import Secret
from imskit.stun.engine import events as e
from imskit.stun.engine.credentials import ALGORITHMS, CredentialStore
from imskit.stun.engine.policy import CidrPolicy, PeerPolicy
from imskit.stun.engine.settings import TurnSettings
from imskit.stun.engine.turn import TurnServer
from imskit.stun.wire import attributes as a
from imskit.stun.wire.keys import long_term_key, userhash
from imskit.stun.wire.message import Message, MessageClass, Method, indication, parse_message, request

SERVER = ("203.0.113.2", 3478)
REALM = "ims.example"
PASSWORD = Secret("correct horse")


class Bench:
    """The machine with an owner that opens relays at once (``relays`` says how) and sorts the outputs."""

    def __init__(self, settings: TurnSettings, store: CredentialStore, policy: PeerPolicy) -> None:
        counter = itertools.count(1)
        self.store = store
        self.server = TurnServer(settings, store, policy, lambda digits: f"{next(counter):0{digits}x}")
        self.now = 1000.0
        self.to_client: list[tuple[e.Flow, bytes]] = []
        self.to_peer: list[e.SendToPeer] = []
        self.bound: dict[tuple[e.Flow, int], e.ChannelBound] = {}
        self.closed: list[e.RelayId] = []
        self.opened: list[e.OpenRelay] = []
        self.relays: Callable[[e.OpenRelay], e.RelayOpened | e.RelayFailed | None] = self.open_relay
        self._ports = itertools.count(50000, 2)

    def open_relay(self, wish: e.OpenRelay) -> e.RelayOpened | e.RelayFailed | None:
        host = "198.51.100.1" if wish.family == 4 else "2001:db8:1::1"
        return e.RelayOpened(wish.relay, (host, next(self._ports)))

    def handle(self, event: e.Event | Tick) -> None:
        self.server.handle(event, self.now)
        while (output := self.server.poll()) is not None:
            match output:
                case e.SendToClient(flow, data):
                    self.to_client.append((flow, data))
                case e.SendToPeer():
                    self.to_peer.append(output)
                case e.OpenRelay():
                    self.opened.append(output)
                    if (answer := self.relays(output)) is not None:
                        self.server.handle(answer, self.now)
                case e.CloseRelay(relay):
                    self.closed.append(relay)
                case e.ChannelBound(flow, channel):
                    self.bound[flow, channel] = output
                case e.ChannelUnbound(flow, channel):
                    self.bound.pop((flow, channel), None)

    def advance(self, seconds: float) -> None:
        """Let time pass, calling the machine whenever it asked to be called."""
        end = self.now + seconds
        while (deadline := self.server.deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.handle(Tick())
        self.now = end

    def exchange(self, flow: e.Flow, data: bytes) -> Message | None:
        """Send bytes as a client and return the answer, if there is one."""
        before = len(self.to_client)
        self.handle(e.Received(flow, data))
        answers = self.to_client[before:]
        assert len(answers) <= 1
        return parse_message(answers[0][1]) if answers else None


class Client:
    """A client of the machine with a credential."""

    def __init__(
        self, bench: Bench, host: str = "203.0.113.9", port: int = 4000, *, username: str = "alice",
        password: Secret[str] = PASSWORD, transport: str = "UDP", algorithm: int | None = None, hashed: bool = False,
    ) -> None:  # fmt: skip
        self.bench = bench
        self.flow = e.Flow(transport, SERVER, (host, port))  # type: ignore[arg-type]
        self.username, self.password, self.algorithm, self.hashed = username, password, algorithm, hashed
        self.nonce = ""
        self._ids = itertools.count(hash((host, port, transport)) & 0xFFFF)

    @property
    def key(self) -> Secret[bytes]:
        return long_term_key(self.algorithm or 1, self.username, REALM, self.password)

    def encode(self, method: int, *fields: a.Field, tid: bytes | None = None, nonce: str | None = None) -> bytes:
        name = a.USERHASH(userhash(self.username, REALM)) if self.hashed else a.USERNAME(self.username)
        auth = [name, a.REALM(REALM), a.NONCE(nonce or self.nonce)]
        if self.algorithm:
            auth += [a.PASSWORD_ALGORITHMS(ALGORITHMS), a.PASSWORD_ALGORITHM(a.PasswordAlgorithm(self.algorithm))]
        message = request(method, tid or self.tid(), [*fields, *auth])
        if self.algorithm:
            return message.encode(sha256=self.key)
        return message.encode(sha1=self.key)

    def tid(self) -> bytes:
        return next(self._ids).to_bytes(12)

    def challenge(self, method: int = Method.ALLOCATE) -> Message:
        answer = self.bench.exchange(self.flow, request(method, self.tid()).encode())
        assert answer is not None
        self.nonce = answer.get(a.NONCE) or ""
        return answer

    def call(self, method: int, *fields: a.Field) -> Message:
        """Make an authenticated request; the answer's integrity is checked where it must have one."""
        if not self.nonce:
            self.challenge()
        answer = self.bench.exchange(self.flow, self.encode(method, *fields))
        assert answer is not None
        error = answer.get(a.ERROR_CODE)
        if error is None or error.code not in (400, 401, 438):
            assert answer.verify(self.key)
            assert bool(answer.sha256_at) == bool(self.algorithm)
        return answer

    def allocate(self, *fields: a.Field) -> Message:
        return self.call(Method.ALLOCATE, a.REQUESTED_TRANSPORT(17), *fields)

    def permit(self, *hosts: str) -> Message:
        return self.call(Method.CREATE_PERMISSION, *(a.XOR_PEER_ADDRESS((host, 0)) for host in hosts))

    def bind(self, channel: int, peer: tuple[str, int]) -> Message:
        return self.call(Method.CHANNEL_BIND, a.CHANNEL_NUMBER(channel), a.XOR_PEER_ADDRESS(peer))

    def send(self, peer: tuple[str, int], data: bytes, *fields: a.Field) -> list[e.SendToPeer]:
        before = len(self.bench.to_peer)
        attributes = [a.XOR_PEER_ADDRESS(peer), a.DATA(data), *fields]
        self.bench.handle(e.Received(self.flow, indication(Method.SEND, self.tid(), attributes).encode()))
        return self.bench.to_peer[before:]


def code(answer: Message) -> int:
    """The answer's error code, 0 for success."""
    if answer.message_class is MessageClass.SUCCESS:
        return 0
    error = answer.get(a.ERROR_CODE)
    assert error is not None
    return error.code


@pytest.fixture
def error_code() -> Callable[[Message], int]:
    return code


@pytest.fixture
def make_bench() -> Callable[..., Bench]:
    def make(policy: PeerPolicy | None = None, store: CredentialStore | None = None, **settings: object) -> Bench:
        if store is None:
            store = CredentialStore(REALM)
            store.add("alice", PASSWORD)
            store.add("bob", PASSWORD)
        defaults: dict[str, object] = {"families": frozenset({4, 6}), "listening": frozenset({SERVER})}
        return Bench(
            TurnSettings(**defaults | settings),  # type: ignore[arg-type]
            store,
            policy or CidrPolicy(["0.0.0.0/0", "::/0"]),
        )

    return make


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


@pytest.fixture
def make_client() -> type[Client]:
    return Client


@pytest.fixture
def client(bench: Bench) -> Client:
    return Client(bench)
