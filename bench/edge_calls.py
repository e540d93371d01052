"""Calls through the network edge without browsers: calls a second, CPU and memory of the edge for each.

Run it as ``python -m bench.edge_calls [--json FILE]``.  Clients in a process of their own (``websocket_clients.py``)
offer what a Chromium offers, a core that costs nothing (``edge_core.py``) answers as a VoLTE phone does, and the
client hangs up: eP-CSCF, IMS-ALG and the media gateway with its sockets in one process, no media.  Memory is that of
calls that stand.  There is no peer with the same work in one process: see ``bench.gateway`` for the media beside
rtpengine and ``bench.websocket_register`` for the signalling beside Kamailio.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from pathlib import Path

from bench.edge_memory import clients, go, raise_limit, ready, resident
from bench.measure import CpuMeter, Row, main
from bench.websocket_register import core, edge
from simulators.lab.certificates import Authority

CALLERS = 10
STANDING = 200


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Measure calls one after the other, and calls that stand."""
    raise_limit(8 * STANDING)
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        certificate = Authority.create("bench", Path(directory) / "ca").server("ws.ims.example")
        core_port = stack.enter_context(core())
        ports, process = stack.enter_context(edge(core_port, certificate, STANDING + CALLERS))
        order = {"port": ports["wss"], "tls": True, "password": "x", "seconds": arguments.seconds}
        meter = CpuMeter(process.pid)
        rates, costs, wrong = [], [], 0
        for _ in range(arguments.runs):
            with clients(order | {"work": "call", "connections": CALLERS}) as group:
                ready(group)
                before = meter.read()
                go(group)
                assert group.stdout is not None
                found = json.loads(group.stdout.readline())
                costs.append((meter.read() - before) * 1e3 / max(found["calls"], 1))
            rates.append(found["calls"] / found["seconds"])
            wrong += found["failed"]
        with clients(order | {"work": "talk", "connections": STANDING, "first": CALLERS}) as group:
            ready(group)
            empty = resident(process)
            go(group)
            ready(group)
            full = resident(process)
            go(group)
            assert group.stdout is not None
            found = json.loads(group.stdout.readline())
            wrong += found["failed"]
    return [
        Row(
            "calls through the edge",
            f"{CALLERS} callers over WSS",
            "CPU ms/call",
            statistics.median(costs),
            note=f"{statistics.median(rates):.0f} calls a second, each set up and ended, with legs at the gateway; "
            f"{wrong} failed",
            ours_runs=tuple(round(cost, 3) for cost in costs),
            wrong=wrong,
        ),
        Row(
            "calls that stand",
            f"{STANDING} calls",
            "kB/call",
            (full - empty) / STANDING,
            note=f"{full / 1024:.0f} MB in all; signalling and both legs, no media yet",
            wrong=wrong,
        ),
    ]


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
