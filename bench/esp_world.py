"""Two hosts with a back end each, for ``bench.esp``: ``python -m bench.esp_world`` inside namespaces of its own.

It reads one JSON object a line, ``{"backend": "userspace", "pair": "null/aes-gcm", "version": 4, "seconds": 2}``
(``"backend": "none"`` for no IPsec at all), and answers each with a line of figures or ``{"error": …}``.  Each back
end is a process of its own on its host; this one plays the protected sockets of both and checks every packet.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imskit.ipsec.algorithms import AlgorithmPair, expand_keys
from imskit.ipsec.association import AssociationSet, Party
from imskit.ipsec.errors import IpsecError
from imskit.ipsec.io.backend import IpsecBackend
from imskit.secrets import Secret

SIZE = 800
"""Octets of UDP payload."""
UNDER_WAY = 64
"""Packets sent before the first of them has arrived."""

_PORT_C, _PORT_S = 5061, 5062
_ADDRESSES = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
_FAR = "bench-far"


async def _backend(kind: str) -> IpsecBackend:
    if kind == "userspace":
        from imskit.ipsec.io.userspace import UserspaceBackend

        return await UserspaceBackend.open()
    from imskit.ipsec.io import probe

    return (await probe.choose("kernel")).backend


def _parties(version: int, side: int) -> tuple[Party, Party]:
    both = [Party(ip, 1000 + 2 * n, 1001 + 2 * n, _PORT_C, _PORT_S) for n, ip in enumerate(_ADDRESSES[version])]
    return both[side], both[1 - side]


async def _host(side: int) -> None:
    """One host's back end: installs as told, answers with its own CPU seconds."""
    loop = asyncio.get_running_loop()
    backend: IpsecBackend | None = None
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        if order["do"] == "install":
            try:
                backend = await _backend(order["backend"])
            except IpsecError as error:
                print(json.dumps({"error": str(error)}), flush=True)
                continue
            pair = AlgorithmPair.parse(order["pair"])
            keys = expand_keys(pair, Secret(bytes(16)), Secret(bytes(range(16))))
            await backend.install(AssociationSet.between("bench", *_parties(order["version"], side), pair, keys))
        answer: dict[str, Any] = {"cpu": time.process_time(), "device": backend.device if backend else None}
        if order["do"] == "close" and backend is not None:
            answer["statistics"] = dataclasses.asdict(backend.statistics())
            await backend.close()
            backend = None
        print(json.dumps(answer), flush=True)


class _Host:
    """The process of one host's back end."""

    def __init__(self, side: int, pid: int | None) -> None:
        command = [sys.executable, "-m", "bench.esp_world", str(side)]
        if pid is not None:
            command = ["nsenter", "-t", str(pid), "-n", "--", *command]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **order: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline() or '{"error": "its process has ended"}')
        if "error" in answer:
            raise IpsecError(answer["error"])
        return answer


@contextlib.contextmanager
def _inside(pid: int) -> Iterator[None]:
    with Path("/proc/thread-self/ns/net").open("rb") as home, Path(f"/proc/{pid}/ns/net").open("rb") as there:
        os.setns(there.fileno(), os.CLONE_NEWNET)
        try:
            yield
        finally:
            os.setns(home.fileno(), os.CLONE_NEWNET)


def _socket(version: int, side: int, port: int, device: str | None) -> socket.socket:
    made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    if device is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    made.bind((_ADDRESSES[version][side], port))
    made.setblocking(False)
    return made


def _run(hosts: list[_Host], far_pid: int, order: dict[str, Any]) -> dict[str, Any]:
    """One run: UNDER_WAY packets at a time from one protected socket to the other, for so many seconds."""
    version, protected = order["version"], order["backend"] != "none"
    near, far = [host.ask(do="install", **order)["device"] if protected else None for host in hosts]
    with _inside(far_pid):
        sink = _socket(version, 1, _PORT_S, far)
    source = _socket(version, 0, _PORT_C, near)
    source.connect((_ADDRESSES[version][1], _PORT_S))
    filler = os.urandom(SIZE - 8)
    sent = right = wrong = 0
    poll = select.poll()
    poll.register(sink, select.POLLIN)
    before = [host.ask(do="look") for host in hosts]
    began = time.perf_counter()
    end = began + order["seconds"]
    while time.perf_counter() < end:
        expected = {number.to_bytes(8) + filler for number in range(sent, sent + UNDER_WAY)}
        for packet in sorted(expected):
            source.send(packet)
        sent += UNDER_WAY
        while expected and poll.poll(500):
            with contextlib.suppress(BlockingIOError):
                while True:
                    got = sink.recv(2 * SIZE)
                    right, wrong = (right + 1, wrong) if got in expected else (right, wrong + 1)
                    expected.discard(got)
    wall = time.perf_counter() - began
    cpu = 0.0
    if protected:
        after = [host.ask(do="close") for host in hosts]
        cpu = sum(new["cpu"] - old["cpu"] for new, old in zip(after, before, strict=True))
        through = after[1]["statistics"]["sets"]["bench"]["packets_in"]
        if through < right:
            raise IpsecError(f"{right} packets arrived, but only {through} by ESP")
    source.close()
    sink.close()
    return {
        "backend_cpu": cpu,
        "right": right,
        "wrong": wrong,
        "lost": sent - right - wrong,
        "seconds": wall,
    }


def _main() -> None:
    with subprocess.Popen(["unshare", "--net", "sleep", "infinity"]) as far:
        while os.readlink(f"/proc/{far.pid}/ns/net") == os.readlink("/proc/self/ns/net"):  # noqa: PTH115
            time.sleep(0.01)
        for side, command in (
            (0, f"link add wan type veth peer name {_FAR}"),
            (0, f"link set {_FAR} netns {far.pid}"),
            (1, f"link set {_FAR} name wan"),
            *((n, "link set lo up") for n in (0, 1)),
            *((n, "link set wan up") for n in (0, 1)),
            *((n, f"addr add {ip}/{24 if v == 4 else 64} dev wan {'nodad' if v == 6 else ''}")
              for v, ips in _ADDRESSES.items() for n, ip in enumerate(ips)),
        ):  # fmt: skip
            with _inside(far.pid if side else os.getpid()):
                subprocess.run(["ip", *command.split()], check=True)
        hosts = [_Host(0, None), _Host(1, far.pid)]
        try:
            for line in sys.stdin:
                try:
                    figures = _run(hosts, far.pid, json.loads(line))
                except IpsecError as error:
                    figures = {"error": str(error)}
                print(json.dumps(figures), flush=True)
        finally:
            for host in hosts:
                host.process.kill()
            far.kill()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(_host(int(sys.argv[1])))
    else:
        _main()
