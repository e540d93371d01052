"""REGISTER over WebSocket: CPU of the eP-CSCF beside a Kamailio, in clear and in TLS.

Run it as ``python -m bench.websocket_register [--json FILE]``.  A hundred clients in a process of their own register
again and again (``websocket_clients.py``), half of the REGISTERs are challenged.  Behind the edges stands the same
core that costs nothing (``edge_core.py``).  Kamailio is measured twice: as an edge proxy in the P-CSCF's place, and as
a registrar that answers them itself and so has a leg less.  All are refreshes on standing connections.

The two edges do the same to a REGISTER (``kamailio/edge.cfg``): transactions on both sides, header fields of the
network taken out in both directions, Path with Require, the P- fields, integrity-protected, TCP above 1,300 octets.
Ours alone also keeps the table of registrations, marks loops (RFC 5393) and limits what each connection may send.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.edge_core import DOMAIN
from bench.measure import CpuMeter, Row, Sample, interleaved, main
from simulators.lab.certificates import Authority

CLIENTS = 100
GOAL = 3.0
_PASSWORD = "benchmark"
_KAMAILIO = shutil.which("kamailio", path="/usr/sbin:/usr/bin:/usr/local/sbin")
_CONFIGURATION = Path(__file__).parent / "kamailio" / "edge.cfg"
_ROOT = Path(__file__).parent.parent


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port of 127.0.0.1 that nothing has now."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def core() -> Iterator[int]:
    """The core that costs nothing; gives its UDP port."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.edge_core"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        yield int(process.stdout.readline())
        process.stdin.close()


def wait_for(port: int, process: subprocess.Popen[Any], seconds: float = 30) -> None:
    """Return when something listens at a TCP port; ``SystemExit`` if the program ends before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"bench: {process.args!r} does not start")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise SystemExit(f"bench: nothing listens at port {port}")


@contextlib.contextmanager
def kamailio(folder: Path, certificate: tuple[Path, Path] | None, core_port: int | None) -> Iterator[tuple[int, int]]:
    """A Kamailio, as edge proxy before a core or (``None``) as registrar; gives its port and process."""
    if _KAMAILIO is None:
        raise SystemExit("bench.websocket_register needs kamailio, -websocket-modules and -tls-modules")
    port = free_port()
    run = Path(tempfile.mkdtemp(dir=folder))
    kind = "tls" if certificate else "tcp"
    mw = free_port(socket.SOCK_DGRAM)
    names = [f"LISTEN={kind}:127.0.0.1:{port}", f"CORE_SIDE=udp:127.0.0.1:{mw}", f"CORE_STREAM=tcp:127.0.0.1:{mw}"]
    names += [f'REALM="{DOMAIN}"', f'PASSWORD="{_PASSWORD}"', f'CORE="sip:127.0.0.1:{core_port or 9}"']
    if certificate:
        names += ["TLS=1", f'CERTIFICATE="{certificate[0]}"', f'KEY="{certificate[1]}"']
    if core_port is None:
        names.append("REGISTRAR=1")
    with subprocess.Popen(
        [_KAMAILIO, "-DD", "-E", "-f", str(_CONFIGURATION), "-m", "256", "-M", "16", "-Y", str(run),
         "-P", str(run / "pid"), *(word for name in names for word in ("-A", name))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            wait_for(port, process)
            yield port, process.pid
        finally:
            process.terminate()


def run(port: int, pid: int, seconds: float, *, tls: bool, tokens: list[str] | None = None) -> Sample:
    """Register for a while at one edge; the CPU is that of the process ``pid`` and its children."""
    order = {
        "work": "register",
        "port": port,
        "tls": tls,
        "connections": CLIENTS,
        "seconds": seconds,
        "password": _PASSWORD,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "bench.websocket_clients", json.dumps(order | {"tokens": tokens})],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        if process.stdout.readline() != "ready\n":
            raise SystemExit("bench.websocket_register: the clients have ended; the lines above say why")
        meter = CpuMeter(pid)
        before = meter.read()
        process.stdin.write("go\n")
        process.stdin.flush()
        found = json.loads(process.stdout.readline())
        cpu = meter.read() - before
    rate = found["registrations"] / found["seconds"]
    return Sample(cpu, found["registers"], found["seconds"], wrong=found["failed"], extra={"registrations_s": rate})


@contextlib.contextmanager
def edge(core_port: int, certificate: tuple[Path, Path], connections: int) -> Iterator[tuple[dict[str, int], Any]]:
    """Our edge (``edge_server.py``); gives its ports (``ws``, ``wss``) and its process."""
    order = {
        "core": core_port,
        "certificate": str(certificate[0]),
        "key": str(certificate[1]),
        "connections": connections,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "bench.edge_server", json.dumps(order)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        yield json.loads(process.stdout.readline()), process
        process.stdin.close()


def _row(kind: str, ours: list[Sample], theirs: list[Sample], peer: str, goal: float | None, note: str) -> Row:
    rates = [statistics.median(each.extra["registrations_s"] for each in samples) for samples in (ours, theirs)]
    note = f"{note}; {rates[0]:.0f} registrations a second, the peer {rates[1]:.0f}"
    return Row.of(
        f"REGISTER over {kind.upper()}", f"{CLIENTS} clients", "CPU us/REGISTER", ours, theirs, peer=peer, goal=goal,
        note=note,
    )  # fmt: skip


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Measure over WebSocket in clear and in TLS."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        folder = Path(directory)
        certificate = Authority.create("bench", folder / "ca").server("ws.ims.example")
        core_port = stack.enter_context(core())
        ports, process = stack.enter_context(edge(core_port, certificate, CLIENTS))
        for kind in ("ws", "wss"):
            tls = kind == "wss"
            with contextlib.ExitStack() as peers:
                places = {"ours": (ports[kind], process.pid)}
                for name, behind in (("proxy", core_port), ("registrar", None)):
                    places[name] = peers.enter_context(kamailio(folder, certificate if tls else None, behind))

                def one(port: int, pid: int, tls: bool = tls) -> Callable[[], Sample]:
                    return lambda: run(port, pid, arguments.seconds, tls=tls)

                found = interleaved({name: one(*place) for name, place in places.items()}, arguments.runs)
            rows.append(_row(kind, found["ours"], found["proxy"], "kamailio, proxy", GOAL, "both pass it to a core"))
            rows.append(
                _row(kind, found["ours"], found["registrar"], "kamailio, registrar", None, "it has no core to ask")
            )
    return rows


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
