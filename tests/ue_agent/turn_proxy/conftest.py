"""A TURN client on real sockets, and a proxy to speak to."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from imskit.media.python_plane import PythonPlane
from imskit.secrets import Secret
from imskit.stun.engine.credentials import CredentialStore
from imskit.stun.engine.policy import CidrPolicy, PeerPolicy
from imskit.stun.engine.settings import TurnSettings
from imskit.stun.wire import attributes as a
from imskit.stun.wire.channel_data import StreamFramer, pack_channel_data
from imskit.stun.wire.keys import long_term_key
from imskit.stun.wire.message import Message, MessageClass, Method, indication, parse_message, request
from ue_agent.turn_proxy.io.relays import RelaySource, SocketRelays
from ue_agent.turn_proxy.io.server import TurnProxy

REALM = "ims.example"
PASSWORD = Secret("correct horse")


class Client:
    """Enough of a TURN client to drive the proxy over one real socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.stream = sock.type == socket.SOCK_STREAM
        self._framer = StreamFramer()
        self._frames: list[bytes] = []
        self._ids = itertools.count(1)
        self._nonce = ""
        self.key = long_term_key(1, "alice", REALM, PASSWORD)

    @classmethod
    async def connect(cls, server: tuple[str, int], kind: socket.SocketKind) -> Client:
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        sock = socket.socket(family, kind)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, server)
        return cls(sock)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def receive(self) -> bytes:
        """Return the next frame; ``b""`` at the end of a stream."""
        async with asyncio.timeout(5):
            while not self._frames:
                data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
                if not self.stream:
                    return data
                if not data:
                    return b""
                self._frames += self._framer.feed(data)
            return self._frames.pop(0)

    async def is_cut_off(self) -> bool:
        """Wait for the end of the stream, without a frame before it."""
        try:
            return await self.receive() == b""
        except ConnectionResetError:
            return True

    async def receive_nothing(self, seconds: float = 0.05) -> bool:
        try:
            async with asyncio.timeout(seconds):
                data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
        except TimeoutError:
            return True
        raise AssertionError(f"received {data!r}")

    async def exchange(self, message: Message, **protection: Any) -> Message:
        await self.send(message.encode(**protection))
        return parse_message(await self.receive())

    async def call(self, method: int, *fields: a.Field) -> Message:
        if not self._nonce:
            challenge = await self.exchange(request(Method.ALLOCATE, self.tid()))
            self._nonce = challenge.get(a.NONCE) or ""
        auth = [a.USERNAME("alice"), a.REALM(REALM), a.NONCE(self._nonce)]
        answer = await self.exchange(request(method, self.tid(), [*fields, *auth]), sha1=self.key)
        assert answer.verify(self.key)
        return answer

    def tid(self) -> bytes:
        return next(self._ids).to_bytes(12)

    async def allocate(self, *fields: a.Field) -> tuple[str, int]:
        answer = await self.call(Method.ALLOCATE, a.REQUESTED_TRANSPORT(17), *fields)
        assert answer.message_class is MessageClass.SUCCESS, answer.get(a.ERROR_CODE)
        relayed = answer.get(a.XOR_RELAYED_ADDRESS)
        assert relayed is not None
        return relayed

    async def permit(self, host: str) -> Message:
        return await self.call(Method.CREATE_PERMISSION, a.XOR_PEER_ADDRESS((host, 0)))

    async def bind(self, channel: int, peer: tuple[str, int]) -> Message:
        return await self.call(Method.CHANNEL_BIND, a.CHANNEL_NUMBER(channel), a.XOR_PEER_ADDRESS(peer))

    async def send_to(self, peer: tuple[str, int], data: bytes, *fields: a.Field) -> None:
        attributes = [a.XOR_PEER_ADDRESS(peer), a.DATA(data), *fields]
        await self.send(indication(Method.SEND, self.tid(), attributes).encode())

    async def send_on(self, channel: int, data: bytes) -> None:
        await self.send(pack_channel_data(channel, data, stream=self.stream))


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Any]]:
    with contextlib.ExitStack() as sockets:

        async def make(server: tuple[str, int], kind: socket.SocketKind = socket.SOCK_DGRAM) -> Client:
            client = await Client.connect(server, kind)
            sockets.callback(client.sock.close)
            return client

        yield make


@pytest.fixture
async def plane() -> PythonPlane:
    return PythonPlane()


@pytest.fixture
async def start_proxy(plane: PythonPlane) -> AsyncIterator[Callable[..., Any]]:
    async with contextlib.AsyncExitStack() as running:

        async def start(
            hosts: tuple[str, ...] = ("127.0.0.1", "::1"),
            policy: PeerPolicy | None = None,
            relays: RelaySource | None = None,
            settings: TurnSettings | None = None,
            device: str = "",
        ) -> TurnProxy:
            store = CredentialStore(REALM)
            store.add("alice", PASSWORD)
            proxy = TurnProxy(
                plane,
                [(host, 0) for host in hosts],
                store,
                policy or CidrPolicy(["127.0.0.0/8", "::1/128"]),
                relays or SocketRelays(plane, hosts),
                settings,
                device,
            )
            await proxy.start()
            running.push_async_callback(proxy.aclose)
            return proxy

        yield start


@pytest.fixture
async def open_peer() -> AsyncIterator[Callable[[str], socket.socket]]:
    """Open a UDP socket that plays the peer."""
    with contextlib.ExitStack() as sockets:

        def make(host: str) -> socket.socket:
            sock = sockets.enter_context(
                socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
            )
            sock.setblocking(False)
            sock.bind((host, 0))
            return sock

        yield make
