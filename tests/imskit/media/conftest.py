"""What tests of media share: a plane with loopback peers, and speech to send through it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import numpy as np
import numpy.typing as npt
import pytest

from imskit.media.events import LegEvent, Step
from imskit.media.plane import Address, LegId, MediaPlane, Notice, SocketId, Source
from imskit.media.python_plane import PythonPlane

type Samples = npt.NDArray[np.int16]


class Handler:
    """Keeps what the plane hands up."""

    def __init__(self) -> None:
        self.punted: list[tuple[bytes, Address]] = []
        self.rtcp_packets: list[bytes] = []
        self.notices: list[Notice] = []

    def punt(self, data: bytes, address: Address) -> None:
        self.punted.append((data, address))

    def rtcp(self, data: bytes, address: Address) -> None:
        self.rtcp_packets.append(data)

    def notice(self, notice: Notice, now: float) -> None:
        self.notices.append(notice)


class Peer:
    """A plain UDP socket of a test."""

    def __init__(self, family: socket.AddressFamily = socket.AF_INET) -> None:
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))

    @property
    def address(self) -> Address:
        host, port = self.sock.getsockname()[:2]
        return host, port

    def send(self, data: bytes, to: Address) -> None:
        self.sock.sendto(data, to)

    async def receive(self, timeout: float = 2) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 2048), timeout)

    def waiting(self) -> list[bytes]:
        """Return all that has arrived already."""
        arrived = []
        while True:
            try:
                arrived.append(self.sock.recv(2048))
            except BlockingIOError:
                return arrived

    def nothing(self) -> bool:
        return not self.waiting()


class Events:
    """The events of a leg, to be awaited."""

    def __init__(self) -> None:
        self.all: list[LegEvent] = []
        self._arrived = asyncio.Event()

    def __call__(self, event: LegEvent) -> None:
        self.all.append(event)
        self._arrived.set()

    @property
    def steps(self) -> list[Step]:
        return [event.step for event in self.all]

    async def until(self, step: Step, timeout: float = 10, count: int = 1) -> LegEvent:
        """Return the first (or ``count``-th) event of this step, waiting for it if need be."""
        async with asyncio.timeout(timeout):
            while True:
                found = [event for event in self.all if event.step is step]
                if len(found) >= count:
                    return found[count - 1]
                self._arrived.clear()
                await self._arrived.wait()


class Bench:
    """A plane, its sockets, and how to wait for it without sleeping."""

    def __init__(self) -> None:
        self.plane: MediaPlane = PythonPlane()
        self.peers: list[Peer] = []

    def peer(self, family: socket.AddressFamily = socket.AF_INET) -> Peer:
        peer = Peer(family)
        self.peers.append(peer)
        return peer

    def open(
        self,
        punt: Callable[[bytes, Address], None] | None = None,
        family: socket.AddressFamily = socket.AF_INET,
    ) -> tuple[SocketId, Address]:
        peer = self.peer(family)
        return self.plane.open_socket(peer.sock, punt or (lambda data, address: None)), peer.address

    def handler(self) -> Handler:
        return Handler()

    def events(self) -> Events:
        return Events()

    def plain_leg(self, remote: Peer, source: Source = Source.EXACT) -> tuple[LegId, Address, Handler]:
        handler = Handler()
        socket_id, address = self.open()
        leg = self.plane.leg_open(socket_id, handler, ssrc=0xAAAA, secured=False)
        self.plane.leg_remote(leg, remote.address, source=source)
        return leg, address, handler

    def secured_leg(self, remote: Peer) -> tuple[LegId, Address, Handler]:
        handler = Handler()
        socket_id, address = self.open()
        leg = self.plane.leg_open(socket_id, handler, ssrc=0xBBBB, secured=True)
        self.plane.leg_remote(leg, remote.address)
        return leg, address, handler

    async def settle(self) -> None:
        """Return when all that was sent to the plane on loopback before has been read."""
        arrived = asyncio.Event()
        marker, address = self.open(lambda data, source: arrived.set())
        sender = self.peer()
        for _ in range(3):  # readers of one poll round run in any order: the third round is behind all of the first
            arrived.clear()
            sender.send(b"\x00marker", address)
            await asyncio.wait_for(arrived.wait(), 2)
        self.plane.close_socket(marker)

    def close(self) -> None:
        assert isinstance(self.plane, PythonPlane)
        for socket_id in list(self.plane._sockets):
            self.plane.close_socket(socket_id)
        for peer in self.peers:
            peer.sock.close()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def _speech(rate: int, seconds: float = 1.0, seed: int = 1) -> Samples:
    rng = np.random.default_rng(seed)
    t = np.arange(int(rate * seconds)) / rate
    pitch = 2 * np.pi * np.cumsum(120 + 15 * np.sin(2 * np.pi * 1.3 * t)) / rate
    sound = sum(
        np.sin(k * pitch) * (np.exp(-(((k * 120 - 600) / 300) ** 2)) + 0.5 * np.exp(-(((k * 120 - 1500) / 400) ** 2)))
        for k in range(1, 26)
    )
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * t)
    return (3000 * sound * syllables + rng.normal(0, 20, len(t))).astype(np.int16)


def _correlation(reference: Samples, heard: Samples, longest_delay: int) -> float:
    best = 0.0
    for delay in range(longest_delay):
        a = reference[: len(reference) - delay].astype(float)
        b = heard[delay : delay + len(a)].astype(float)
        a = a[: len(b)]
        best = max(best, float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-9)))
    return best


@pytest.fixture
def speech() -> Callable[..., Samples]:
    """``speech(rate, seconds, seed)``: a voiced sound, a buzz at 120 Hz through two resonances, in syllables."""
    return _speech


@pytest.fixture
def correlation() -> Callable[[Samples, Samples, int], float]:
    """``correlation(reference, heard, delays)``: the best normalised one over delays of fewer samples."""
    return _correlation
