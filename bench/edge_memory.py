"""Idle registrations over secure WebSocket, held in one process: 10,000 of them, and the memory that they take.

Run it as ``python -m bench.edge_memory [--json FILE]``.  The clients are four
processes of their own (``websocket_clients.py``), TLS 1.3 with a P-256 certificate, pings every 30 s.  When all stand,
the edge's resident memory is read, and every client registers once more: what has been lost meanwhile counts as wrong.
One process needs a file descriptor for each connection: the limit is raised as far as the system lets it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.measure import CpuMeter, Row, main
from bench.websocket_register import core, edge
from simulators.lab.certificates import Authority

REGISTRATIONS = 10_000
GOAL_KILOBYTES = 150.0
_CLIENTS = 4
_ROOT = Path(__file__).parent.parent


def resident(process: subprocess.Popen[str]) -> int:
    """Memory of the edge, kB."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("memory\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def raise_limit(wanted: int) -> int:
    """Let this process and its children have this many file descriptors; returns how many they may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limits in ((max(soft, wanted), max(hard, wanted)), (min(max(soft, wanted), hard), hard)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            return limits[0]
    return soft


def clients(order: dict[str, Any]) -> subprocess.Popen[str]:
    """Start a process of clients (``websocket_clients.py``)."""
    return subprocess.Popen(
        [sys.executable, "-m", "bench.websocket_clients", json.dumps(order)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    )


def ready(process: subprocess.Popen[str]) -> None:
    """Wait for a process of clients; ``SystemExit`` if it has ended."""
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise SystemExit("bench: the clients have ended; the lines above say why")


def go(process: subprocess.Popen[str]) -> None:
    """Let a process of clients begin."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def hold(registrations: int) -> Row:
    """Hold this many registrations in one edge."""
    limit = raise_limit(registrations + 1000)
    if limit < registrations + 200:
        print(f"bench.edge_memory: only {limit} file descriptors are allowed here (ulimit -n)", file=sys.stderr)
        registrations = limit - 200
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        certificate = Authority.create("bench", Path(directory) / "ca").server("ws.ims.example")
        core_port = stack.enter_context(core())
        ports, process = stack.enter_context(edge(core_port, certificate, registrations))
        empty = resident(process)
        meter = CpuMeter(process.pid)
        before, share = meter.read(), registrations // _CLIENTS
        order = {"work": "hold", "port": ports["wss"], "tls": True, "connections": share, "seconds": 0, "password": "x"}
        groups = [stack.enter_context(clients(order | {"first": n * share})) for n in range(_CLIENTS)]
        for group in groups:
            ready(group)
        cpu = meter.read() - before
        full = resident(process)
        for group in groups:
            go(group)
        found = []
        for group in groups:
            assert group.stdout is not None
            found.append(json.loads(group.stdout.readline()))
        lost = sum(each["failed"] for each in found)
        seconds = max(each["connecting_seconds"] for each in found)
    held = share * _CLIENTS
    return Row(
        "idle WSS registrations",
        f"{held} in one process",
        "kB/registration",
        (full - empty) / held,
        goal=GOAL_KILOBYTES,
        note=f"{full / 1024:.0f} MB in all, {empty / 1024:.0f} MB without; {held / seconds:.0f} a second "
        f"({cpu * 1e3 / held:.1f} CPU ms each: TCP, TLS, WebSocket, two REGISTERs); {lost} lost; at most "
        f"{limit} file descriptors, {held + 100} by configuration",
        wrong=lost,
    )


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Hold 10,000."""
    return [hold(REGISTRATIONS)]


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
