"""The load of the TURN bench sees what a server does wrong: otherwise its figures would mean nothing."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.turn import PAYLOAD, load_program

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

CHANNEL = 0x4000
PACKETS = 200


@pytest.fixture(scope="module")
def load() -> object:
    with load_program() as program:
        yield program


def _run(load: Path, spoil: Callable[[int, bytes], list[bytes]]) -> list[int]:
    """Let the load speak through a relay that spoils packets, and return what it prints (but the time)."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as relay,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
    ):
        for sock in (client, server, relay, peer):
            sock.bind(("127.0.0.1", 0))
        client.connect(server.getsockname())
        header = CHANNEL.to_bytes(2) + PAYLOAD.to_bytes(2)

        def up() -> None:
            for number in range(PACKETS // 2):
                data = server.recv(2048)
                assert data[:4] == header
                for out in spoil(2 * number, data[4:]):
                    relay.sendto(out, peer.getsockname())

        def down() -> None:
            for number in range(PACKETS // 2):
                for out in spoil(2 * number + 1, relay.recv(2048)):
                    server.sendto(CHANNEL.to_bytes(2) + len(out).to_bytes(2) + out, client.getsockname())

        threads = [threading.Thread(target=target, daemon=True) for target in (up, down)]
        for thread in threads:
            thread.start()
        numbers = (client.fileno(), CHANNEL, peer.fileno(), relay.getsockname()[1])
        output = subprocess.run(
            [str(load), "2000", str(PACKETS / 2000), str(PAYLOAD), "1", *map(str, numbers)],
            pass_fds=[client.fileno(), peer.fileno()],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout
        for thread in threads:
            thread.join(5)
    return [int(word) for word in output.split()[:4]]


def test_honest_relay(load: Path) -> None:
    assert _run(load, lambda number, data: [data]) == [PACKETS, PACKETS, 0, 0]


def test_lost_packets(load: Path) -> None:
    assert _run(load, lambda number, data: [] if number in (3, 10, 11) else [data]) == [PACKETS, PACKETS - 3, 0, 0]


def test_damaged_packets(load: Path) -> None:
    def damage(number: int, data: bytes) -> list[bytes]:
        if number == 7:
            return [data[:-1]]
        return [data[:-1] + bytes([data[-1] ^ 1])] if number == 8 else [data]

    assert _run(load, damage) == [PACKETS, PACKETS, 2, 0]


def test_duplicated_packets(load: Path) -> None:
    sent, received, wrong, duplicates = _run(load, lambda n, data: [data, data] if n == 5 else [data])
    assert (sent, wrong, duplicates) == (PACKETS, 0, 1)
    assert received in (PACKETS, PACKETS + 1)
