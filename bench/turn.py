"""The TURN proxy beside coturn: CPU microseconds a relayed packet, ChannelData both ways over UDP.

Run it as ``python -m bench.turn [--json FILE]``.  Both servers run all the time with long-term credentials; on each
load they take turns.  The load (``turn_load.c``, compiled here) is a process of its own that plays clients and peers
and checks every packet; its CPU does not count.  Allocations and channels are made here, with the project's own
messages.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.measure import CpuMeter, Row, Sample, interleaved, main
from imskit.secrets import Secret
from imskit.stun.wire import attributes as a
from imskit.stun.wire.keys import MD5, long_term_key
from imskit.stun.wire.message import Message, MessageClass, Method, is_stun, parse_message, request

LOADS = ((200, 2), (2_000, 10), (10_000, 20))
"""Packets a second, both ways added, and allocations."""
PAYLOAD = 160
GOAL = 2.0
"""CPU a packet, at most this many times coturn's; issue: TURN relay."""

USER, PASSWORD, REALM = "bench", Secret("bench-password"), "bench.example"


@dataclass
class Server:
    """A running TURN server."""

    name: str
    process: subprocess.Popen[bytes]
    port: int


class Client:
    """One allocation with one channel to a peer socket, ready for the load."""

    def __init__(self, server: Server, number: int) -> None:
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client.connect(("127.0.0.1", server.port))
        self.client.settimeout(5)
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.bind(("127.0.0.1", 0))
        for sock in (self.client, self.peer):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._ids = itertools.count(number << 32)
        self._key = long_term_key(MD5, USER, REALM, PASSWORD)
        self._nonce = ""
        relayed = self._call(Method.ALLOCATE, a.REQUESTED_TRANSPORT(17), a.LIFETIME(3600)).get(a.XOR_RELAYED_ADDRESS)
        assert relayed is not None
        self.relayed_port = relayed[1]
        self.channel = 0x4000 + number
        self._call(
            Method.CHANNEL_BIND,
            a.CHANNEL_NUMBER(self.channel),
            a.XOR_PEER_ADDRESS(self.peer.getsockname()),
        )
        self.client.setblocking(False)
        self.peer.setblocking(False)

    def _call(self, method: int, *fields: a.Field) -> Message:
        refusal: a.ErrorCode | None = None
        for _ in range(2):
            auth = [a.USERNAME(USER), a.REALM(REALM), a.NONCE(self._nonce)] if self._nonce else []
            message = request(method, next(self._ids).to_bytes(12), [*fields, *auth])
            self.client.send(message.encode(sha1=self._key if auth else None))
            answer = self._answer(message.transaction_id)
            if answer.message_class is MessageClass.SUCCESS:
                return answer
            self._nonce = answer.get(a.NONCE) or ""
            refusal = answer.get(a.ERROR_CODE)
        raise RuntimeError(f"{Method(method).name} refused: {refusal}")

    def _answer(self, transaction_id: bytes) -> Message:
        while True:
            data = self.client.recv(2048)
            if is_stun(data) and data[8:20] == transaction_id:  # else data that came too late for the load
                return parse_message(data)

    def close(self) -> None:
        """Give up the allocation."""
        self.client.settimeout(5)
        self._call(Method.REFRESH, a.LIFETIME(0))
        self.client.close()
        self.peer.close()

    @property
    def arguments(self) -> list[str]:
        """The stream as ``turn_load`` takes it."""
        numbers = (self.client.fileno(), self.channel, self.peer.fileno(), self.relayed_port)
        return [str(number) for number in numbers]


def one_run(server: Server, load: Path, rate: int, allocations: int, seconds: float) -> Sample:
    """Offer ``rate`` packets a second for ``seconds`` and return what it cost the server."""
    clients = [Client(server, number) for number in range(allocations)]
    descriptors = [sock.fileno() for client in clients for sock in (client.client, client.peer)]
    streams = [argument for client in clients for argument in client.arguments]
    meter = CpuMeter(server.process.pid)
    before = meter.read()
    output = subprocess.run(
        [str(load), str(rate), str(seconds), str(PAYLOAD), str(allocations), *streams],
        pass_fds=descriptors,
        check=True,
        capture_output=True,
        text=True,
        timeout=seconds + 30,
    ).stdout
    cpu = meter.read() - before
    for client in clients:
        client.close()
    sent, received, wrong, duplicates, took = output.split()
    return Sample(
        cpu,
        int(received),
        float(took),
        lost=int(sent) - int(received),
        wrong=int(wrong) + int(duplicates),
        extra={"offered_per_second": int(sent) / float(took)},
    )


@contextlib.contextmanager
def ours() -> Iterator[Server]:
    """Run the TURN proxy alone, with its standard settings."""
    port = _free_port()
    command = [
        sys.executable,
        "-m",
        "imsbridge",
        "ue",
        "turn",
        "run",
        "--listen",
        f"127.0.0.1:{port}",
        "--realm",
        REALM,
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".users") as users:
        users.write(f"{USER}:{PASSWORD.reveal()}\n")
        users.flush()
        command += ["--user-file", users.name, "--allow-peer", "127.0.0.0/8", "--log-level", "warning"]
        with _running("imsbridge", command, port) as server:
            yield server


@contextlib.contextmanager
def coturn() -> Iterator[Server]:
    """Run coturn with one relay thread, the cheaper of its set-ups; the credential is in a file of its own."""
    port = _free_port()
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as conf:
        conf.write(f"user={USER}:{PASSWORD.reveal()}\nrealm={REALM}\n")
        conf.flush()
        command = [
            "turnserver", "-c", conf.name, "--lt-cred-mech", "--no-cli", "-m", "1",
            "-L", "127.0.0.1", "-E", "127.0.0.1", "-p", str(port), "--allow-loopback-peers",
            "--no-tls", "--no-dtls", "--log-file", "/dev/null",
            "--pidfile", f"{conf.name}.pid",
        ]  # fmt: skip
        with _running("coturn", command, port) as server:
            yield server
    Path(f"{conf.name}.pid").unlink(missing_ok=True)


@contextlib.contextmanager
def _running(name: str, command: Sequence[str], port: int) -> Iterator[Server]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(process, name, port)
        yield Server(name, process, port)
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(process: subprocess.Popen[bytes], name: str, port: int) -> None:
    """Wait until the server answers a Binding request."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        sock.settimeout(0.2)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended at once with status {process.returncode}")
            try:
                sock.send(request(Method.BINDING, os.urandom(12)).encode())
                sock.recv(2048)
                return
            except (TimeoutError, ConnectionRefusedError):
                continue
    raise RuntimeError(f"{name} does not answer")


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def coturn_version() -> str:
    """Return the name and version of the installed coturn."""
    output = subprocess.run(["turnserver", "--version"], capture_output=True, text=True, check=False).stdout
    return f"coturn {output.split()[-1]}" if output.split() else "coturn"


@contextlib.contextmanager
def load_program() -> Iterator[Path]:
    """Compile the load generator."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "turn_load"
        source = Path(__file__).with_name("turn_load.c")
        subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source)], check=True)
        yield program


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Measure all loads."""
    if shutil.which("turnserver") is None:
        raise SystemExit("bench.turn needs coturn: apt-get install coturn")
    rows = []
    with load_program() as load, ours() as first, coturn() as second:
        peer = coturn_version()
        for rate, allocations in LOADS:
            samples = interleaved(
                {
                    server.name: partial(one_run, server, load, rate, allocations, arguments.seconds)
                    for server in (first, second)
                },
                arguments.runs,
            )
            rows.append(
                Row.of(
                    "TURN relay",
                    f"{rate} packets/s, {allocations} allocations, {PAYLOAD} B",
                    "CPU us/packet",
                    samples[first.name],
                    samples[second.name],
                    peer=peer,
                    goal=GOAL,
                )
            )
    return rows


if __name__ == "__main__":
    sys.exit(main("TURN relay beside coturn.", measure))
