"""The TURN proxy against clients that nobody here wrote: coturn's programs and aioice (S7-STUN, S7-TURN)."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aioice.stun
import aioice.turn
import pytest

pytestmark = pytest.mark.interop

USER, PASSWORD, REALM = "alice", "correct-horse", "ims.example"


@dataclass
class Proxy:
    """The stand-alone proxy, its port on both loopback addresses, and the port of coturn's echoing peer."""

    process: asyncio.subprocess.Process
    port: int
    peer_port: int

    async def uclient(self, server: str, *options: str, password: str = PASSWORD) -> tuple[int, str]:
        return await _program(
            "turnutils_uclient", "-u", USER, "-w", password, "-p", str(self.port),
            "-r", str(self.peer_port), "-n", "5", "-m", "2", "-z", "5", *options, server,
        )  # fmt: skip


async def _program(*command: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 60)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


def _free_port() -> int:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::", 0))
        return int(sock.getsockname()[1])


@contextlib.asynccontextmanager
async def _running(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    port, peer_port = _free_port(), _free_port()
    arguments = ["turn", "run", "--realm", REALM, "--user", f"{USER}:{PASSWORD}"]
    for host, network in (("127.0.0.1", "127.0.0.1/32"), ("[::1]", "::1/128")):
        arguments += ["--listen", f"{host}:{port}", "--allow-peer", network]
    peer_command = ("turnutils_peer", "-p", str(peer_port), "-L", "127.0.0.1", "-L", "::1")
    async with _running(sys.executable, "-m", "imsbridge", "ue", *arguments) as process, _running(*peer_command):
        assert process.stderr is not None
        async with asyncio.timeout(20):
            while not (await process.stderr.readline()).startswith(b"ready: turn"):
                assert process.returncode is None
        await _echoes(peer_port)
        yield Proxy(process, port, peer_port)


async def _echoes(port: int) -> None:
    """Wait until coturn's peer echoes: it says nothing when it is ready."""
    loop = asyncio.get_running_loop()
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect((host, port))
            async with asyncio.timeout(10):
                while True:
                    try:
                        sock.send(b"there?")
                        async with asyncio.timeout(0.1):
                            await loop.sock_recv(sock, 100)
                        break
                    except (TimeoutError, ConnectionRefusedError):
                        continue


def _nothing_lost(output: str) -> bool:
    sent = re.search(r"tot_send_msgs=(\d+), tot_recv_msgs=(\d+)", output)
    lost = re.search(r"Total lost packets (\d+)", output)
    assert sent and lost, output
    received = re.findall(r"tot_recv_msgs=(\d+)", output)[-1]
    return int(lost[1]) == 0 and int(received) > 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_stunclient(proxy: Proxy, host: str) -> None:
    status, output = await _program("turnutils_stunclient", "-p", str(proxy.port), host)
    assert status == 0
    assert re.search(r"IPv[46]\. UDP reflexive addr: .*" + re.escape(host), output)


@pytest.mark.parametrize(
    "runs",
    [
        ["127.0.0.1 -e 127.0.0.1", "127.0.0.1 -e 127.0.0.1 -s", "127.0.0.1 -e 127.0.0.1 -g", "127.0.0.1 -y"],
        ["127.0.0.1 -e 127.0.0.1 -t", "127.0.0.1 -e 127.0.0.1 -s -t", "127.0.0.1 -y -t", "127.0.0.1 -y -s"],
        ["127.0.0.1 -e 127.0.0.1 -c -l 1200", "127.0.0.1 -e 127.0.0.1 -G", "127.0.0.1 -e 127.0.0.1 -D"],
        ["::1 -e ::1 -x", "::1 -e ::1 -x -t", "::1 -y -x", "127.0.0.1 -e ::1 -x", "::1 -e 127.0.0.1 -X"],
    ],
    ids=["UDP", "TCP", "variants", "IPv6"],
)
async def test_uclient(proxy: Proxy, runs: list[str]) -> None:
    """Channels and Send, UDP and TCP, IPv4, IPv6 and across, EVEN-PORT with reservation, DONT-FRAGMENT.

    coturn's client waits for seconds before it sends, so several run at a time.
    """
    results = await asyncio.gather(*(proxy.uclient(*run.split()) for run in runs))
    for run, (status, output) in zip(runs, results, strict=True):
        assert status == 0, f"{run}: {output}"
        assert _nothing_lost(output), f"{run}: {output}"


async def test_wrong_password(proxy: Proxy) -> None:
    status, output = await proxy.uclient("127.0.0.1", "-e", "127.0.0.1", password="wrong")
    assert status != 0
    assert "Cannot complete Allocation" in output, output


async def test_peer_that_is_not_allowed(proxy: Proxy) -> None:
    status, output = await proxy.uclient("127.0.0.1", "-e", "127.0.0.2")
    assert status != 0
    assert "403 (Forbidden)" in output, output


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[bytes, tuple[str, int]]] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.received.put_nowait((data, addr))


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_aioice(proxy: Proxy, transport: str) -> None:
    """aioice's TURN client: allocation, channel, echo, deletion."""
    relay, receiver = await aioice.turn.create_turn_endpoint(
        _Receiver, ("127.0.0.1", proxy.port), USER, PASSWORD, lifetime=600, transport=transport
    )
    try:
        relayed = relay.get_extra_info("sockname")
        assert relayed[0] == "127.0.0.1"
        peer = ("127.0.0.1", proxy.peer_port)
        for size in (1, 160, 1200):
            relay.sendto(bytes(size), peer)
            data, source = await asyncio.wait_for(receiver.received.get(), 10)
            assert (data, tuple(source)) == (bytes(size), peer)
    finally:
        relay.close()


async def test_aioice_with_a_wrong_password(proxy: Proxy) -> None:
    with pytest.raises(aioice.stun.TransactionFailed) as caught:
        await aioice.turn.create_turn_endpoint(_Receiver, ("127.0.0.1", proxy.port), USER, "wrong")
    assert caught.value.response.attributes["ERROR-CODE"][0] == 401
