"""The DNS proxy beside dnsmasq: CPU microseconds a query, answered locally and forwarded without a cache hit.

Run it as ``python -m bench.dns_proxy``.  The load (``dns_load.c``, compiled here) is a process of its own that plays
client and upstream server and checks every answer; its CPU does not count.  Every forwarded query asks for another
name, so neither program can answer from its cache.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.measure import CpuMeter, Row, Sample, interleaved, main

RATE = 2000
"""Queries a second."""
_QUERY = b"\0\0\1\0\0\1\0\0\0\0\0\0\4turn\3ims\7example\0\0\1\0\1"


def _ours(upstream: int) -> list[str]:
    code = (
        "import argparse, sys\n"
        "from ue_agent.dns_proxy import command\n"
        "parser = argparse.ArgumentParser()\n"
        "command.register(parser.add_subparsers())\n"
        "arguments = parser.parse_args()\n"
        "sys.exit(arguments.run(arguments))\n"
    )
    listen = f"127.0.0.1:{_free_port()}"
    return [
        *(sys.executable, "-c", code, "dns", "run", "--log-level", "warning", "--listen", listen),
        *("--upstream", f"127.0.0.1:{upstream}", "--operator-domain", "ims.example"),
        *("--answer", "turn.ims.example=10.99.0.1"),
    ]


def _dnsmasq(upstream: int) -> list[str]:
    return [
        *("/usr/sbin/dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null"),
        *("--bind-interfaces", "--listen-address=127.0.0.1", f"--port={_free_port()}", "--pid-file"),
        *("--cache-size=0", "--dns-forward-max=1000", f"--server=127.0.0.1#{upstream}", "--user=root"),
        *("--host-record=turn.ims.example,10.99.0.1", "--local-ttl=10"),
    ]


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _port_of(command: Sequence[str]) -> int:
    text = " ".join(command)
    found = re.search(r"--port=(\d+)|--listen 127\.0\.0\.1:(\d+)", text)
    assert found is not None
    return int(found[1] or found[2])


@contextlib.contextmanager
def _running(command: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Start a server and yield its process ID and port once it answers."""
    port = _port_of(command)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stderr=log, cwd=Path(__file__).parent.parent)
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(0.1)
                sock.connect(("127.0.0.1", port))
                for _ in range(100):
                    try:
                        sock.send(_QUERY)
                        sock.recv(512)
                        break
                    except OSError:
                        time.sleep(0.05)
                else:
                    log.seek(0)
                    raise RuntimeError(f"{command[0]} does not answer: {log.read().decode()}")
            yield process.pid, port
        finally:
            process.terminate()
            process.wait(10)


def _load(
    program: Path, server: tuple[int, int], upstream: socket.socket, local: bool, total: int, first: int
) -> Sample:
    """Offer the load and return what the server used for it."""
    pid, port = server
    meter = CpuMeter(pid)
    arguments = (port, upstream.fileno(), RATE, total, first, int(local))
    before, began = meter.read(), time.perf_counter()
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, pass_fds=[upstream.fileno()], capture_output=True, text=True, check=True)
    wall, used = time.perf_counter() - began, meter.read() - before
    right, wrong = map(int, done.stdout.split())
    return Sample(used, right + wrong, wall, lost=total - right - wrong, wrong=wrong)


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Both programs under both loads."""
    if shutil.which("/usr/sbin/dnsmasq") is None:
        raise SystemExit("bench.dns_proxy: dnsmasq is missing (package dnsmasq-base)")
    version = subprocess.run(["/usr/sbin/dnsmasq", "--version"], capture_output=True, text=True, check=True).stdout
    peer = "dnsmasq " + version.split()[2]
    rows: list[Row] = []
    asked = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as upstream,
    ):
        program = Path(folder) / "dns_load"
        source = Path(__file__).with_name("dns_load.c")
        subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source)], check=True)
        upstream.bind(("127.0.0.1", 0))
        port = upstream.getsockname()[1]
        with _running(_ours(port)) as ours, _running(_dnsmasq(port)) as theirs:
            for work, local, goal in (("DNS answered locally", True, 2.0), ("DNS forwarded", False, 1.5)):

                def run(server: tuple[int, int], local: bool = local) -> Sample:
                    nonlocal asked
                    asked += 1_000_000
                    return _load(program, server, upstream, local, int(RATE * arguments.seconds), asked)

                samples = interleaved({"ours": lambda: run(ours), peer: lambda: run(theirs)}, arguments.runs)
                rows.append(
                    Row.of(
                        work,
                        f"{RATE} queries/s",
                        "CPU us/query",
                        samples["ours"],
                        samples[peer],
                        peer=peer,
                        goal=goal,
                        note="" if local else "every name new",
                    )
                )
    return rows


if __name__ == "__main__":
    sys.exit(main("DNS proxy beside dnsmasq.", measure))
