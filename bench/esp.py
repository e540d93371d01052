"""ESP by suite and back end: CPU microseconds a packet for both ends together, and packets a second.

Run it as ``python -m bench.esp``.  Two hosts (network namespaces) with a back end each; one protected UDP socket sends
to the other, 64 packets under way at a time, none lost (``esp_world.py``).  The userspace back end's CPU is that of
its processes.  The kernel works inside the system calls of the load, so its CPU is what the load needs more than
without IPsec.  Where the kernel has no ESP its rows are missing, and a line on standard error says so.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.esp_world import SIZE, UNDER_WAY
from bench.measure import Row, Sample, interleaved, main
from imskit.ipsec.algorithms import STANDARD_PAIRS

type Ask = Callable[..., dict[str, Any]]


class _Refused(Exception):
    """The world could not do what it was asked."""


@contextlib.contextmanager
def _world() -> Iterator[Ask]:
    namespaces = ["unshare", "--net", "--mount"] if os.geteuid() == 0 else ["unshare", "-U", "-r", "--net", "--mount"]
    with subprocess.Popen(
        [*namespaces, sys.executable, "-m", "bench.esp_world"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def ask(**order: Any) -> dict[str, Any]:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise SystemExit("bench.esp: its hosts have ended; the lines above say why")
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise _Refused(answer["error"])
            return answer

        yield ask
        process.stdin.close()


def _sample(ask: Ask, backend: str, pair: str, seconds: float, plain_cpu: float = 0.0) -> Sample:
    """One run; ``plain_cpu`` is the load's own CPU for a packet, taken off where the back end is the kernel."""
    figures = ask(backend=backend, pair=pair, version=4, seconds=seconds)
    right = figures["right"]
    userspace = backend == "userspace"
    cpu = figures["backend_cpu"] if userspace else max(figures["load_cpu"] - plain_cpu * right, 0.0)
    rate = right / figures["seconds"]
    return Sample(cpu, right, figures["seconds"], figures["lost"], figures["wrong"], {"packets_per_second": rate})


def _rate(samples: list[Sample]) -> float:
    return statistics.median(sample.extra["packets_per_second"] for sample in samples)


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Every standard pair of algorithms with every back end that works here."""
    rows: list[Row] = []
    with _world() as ask:
        backends = ["userspace"]
        try:
            ask(backend="kernel", pair=str(STANDARD_PAIRS[0]), version=4, seconds=0.1)
            backends.append("kernel")
        except _Refused as why:
            print(f"bench.esp: no rows for the kernel back end: {why}", file=sys.stderr, flush=True)
        for pair in map(str, STANDARD_PAIRS):
            one_plain = _sample(ask, "none", pair, min(arguments.seconds, 1.0))
            programs: dict[str, Callable[[], Sample]] = {
                backend: functools.partial(_sample, ask, backend, pair, arguments.seconds, one_plain.micros * 1e-6)
                for backend in backends
            }
            programs["none"] = functools.partial(_sample, ask, "none", pair, arguments.seconds)
            samples = interleaved(programs, arguments.runs)
            rows += [
                Row.of(
                    f"ESP {pair}, {backend}",
                    f"UDP of {SIZE} octets, one way, {UNDER_WAY} under way",
                    "CPU us/packet, both ends",
                    samples[backend],
                    note=f"{_rate(samples[backend]):.0f} packets/s; without IPsec {_rate(samples['none']):.0f}",
                )
                for backend in backends
            ]
    return rows


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
