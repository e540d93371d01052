"""ESP by suite and back end: time a packet, beside the same link without IPsec.

Run it as ``python -m bench.esp``.  Two hosts (network namespaces) with a back end each; one protected UDP socket sends
to the other, 64 packets under way at a time (``esp_world.py``).  The time is that of both ends and the load, for all
share the machine's processors; its inverse, packets a second, is in the note.  Where the kernel has no ESP, both back
ends are measured in user-mode Linux too, where every system call is dearer: compare those rows with each other only.
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
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from bench.esp_world import SIZE, UNDER_WAY
from bench.measure import Row, Sample, interleaved, main
from imskit.ipsec.algorithms import STANDARD_PAIRS
from simulators.lab import user_mode_linux

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


def _sample(ask: Ask, backend: str, pair: str, seconds: float) -> Sample:
    figures = ask(backend=backend, pair=pair, version=4, seconds=seconds)
    right = figures["right"]
    return Sample(figures["backend_cpu"], right, figures["seconds"], figures["lost"], figures["wrong"])


def _row(pair: str, backend: str, ours: list[Sample], plain: list[Sample]) -> Row:
    ours_runs, plain_runs = (
        tuple(round(each.seconds * 1e6 / max(each.units, 1), 3) for each in samples) for samples in (ours, plain)
    )
    median = statistics.median(ours_runs)
    note = f"{1e6 / median:.0f} packets/s"
    if backend == "userspace":  # the kernel's share cannot be told from the load's
        note += f"; CPU of both back ends {statistics.median(each.micros for each in ours):.0f} us/packet"
    if lost := sum(each.lost for each in ours):
        note += f"; {lost} lost"
    return Row(
        f"ESP {pair}, {backend}",
        f"UDP of {SIZE} octets, one way, {UNDER_WAY} under way",
        "us/packet",
        median,
        statistics.median(plain_runs),
        "no IPsec",
        note=note,
        ours_runs=ours_runs,
        their_runs=plain_runs,
        wrong=sum(each.wrong for each in ours),
    )


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Every standard pair of algorithms with every back end that works here."""
    rows: list[Row] = []
    with _world() as ask:
        backends = ["userspace"]
        try:
            ask(backend="kernel", pair=str(STANDARD_PAIRS[0]), version=4, seconds=0.1)
            backends.append("kernel")
        except _Refused as why:
            print(f"bench.esp: the kernel's ESP only in user-mode Linux: {why}", file=sys.stderr, flush=True)
        for pair in map(str, STANDARD_PAIRS):
            programs: dict[str, Callable[[], Sample]] = {
                backend: functools.partial(_sample, ask, backend, pair, arguments.seconds)
                for backend in (*backends, "none")
            }
            samples = interleaved(programs, arguments.runs)
            rows += [_row(pair, backend, samples[backend], samples["none"]) for backend in backends]
    return rows if "kernel" in backends else rows + _in_a_guest(arguments)


def _in_a_guest(arguments: argparse.Namespace) -> list[Row]:
    """Measure both back ends on a kernel that has ESP."""
    missing = "this is a guest already" if user_mode_linux.in_guest() else user_mode_linux.missing()
    if missing is not None:
        print(f"bench.esp: no rows for the kernel back end: {missing}", file=sys.stderr, flush=True)
        return []
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "rows.json"
        options = ["--runs", str(arguments.runs), "--seconds", str(arguments.seconds), "--json", str(figures)]
        done = user_mode_linux.run(
            [sys.executable, "-P", "-m", "bench.esp", *options],
            within=120 + 30 * arguments.runs * arguments.seconds,
            directory=root,
            environment={"PYTHONPATH": str(root)},
        )
        if not figures.exists():
            print(f"bench.esp: no rows for the kernel back end:\n{done.output}", file=sys.stderr, flush=True)
            return []
        measured = json.loads(figures.read_text())["rows"]
    names = [each.name for each in fields(Row)]
    rows = [Row(**{name: row[name] for name in names}) for row in measured]
    return [replace(row, work=f"{row.work}, user-mode Linux") for row in rows]


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
