"""Measuring helpers shared by every bench: CPU of a process, interleaved runs, ratios, one table, one JSON form.

A figure here is never absolute: our program and its peer (coturn, rtpengine, dnsmasq …) take turns on the same load
in the same run, and what counts is the ratio of the two medians.  A neighbour on the host then disturbs both alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

_NS = 1e-9


class CpuMeter:
    """CPU time of a process with all its threads and (by default) all its children, user and system together.

    The sum of ``/proc/<pid>/task/*/schedstat`` counts nanoseconds but forgets threads that have ended;
    ``/proc/<pid>/stat`` remembers them but counts ticks of 10 ms.  The greater of the two is right in both cases.  A
    child that has ended keeps the last value seen.
    """

    def __init__(self, pid: int, *, children: bool = True) -> None:
        self._process = psutil.Process(pid)
        self._children = children
        self._seen: dict[int, float] = {}

    def read(self) -> float:
        """Return CPU seconds used so far; only differences of two readings mean anything."""
        for process in self._tree():
            self._seen[process.pid] = max(self._seen.get(process.pid, 0.0), _cpu_seconds(process))
        return sum(self._seen.values())

    def _tree(self) -> Iterable[psutil.Process]:
        yield self._process
        if self._children:
            try:
                yield from self._process.children(recursive=True)
            except psutil.NoSuchProcess:
                return


def _cpu_seconds(process: psutil.Process) -> float:
    nanoseconds = 0
    for schedstat in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
        try:
            nanoseconds += int(schedstat.read_text().split()[0])
        except (OSError, ValueError, IndexError):
            continue  # the thread has just ended
    try:
        usage = process.cpu_times()
    except psutil.Error:
        return nanoseconds * _NS
    return max(nanoseconds * _NS, usage.user + usage.system)


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one program under one load."""

    cpu_seconds: float
    """CPU that the measured program used for the run."""
    units: int
    """Packets, messages, queries or frames that it handled, both directions added."""
    seconds: float = 0.0
    """Wall time of the run."""
    lost: int = 0
    """Units that were sent and never came out."""
    wrong: int = 0
    """Units that came out damaged or at the wrong place; anything but 0 makes the figure worthless."""
    extra: Mapping[str, float] = field(default_factory=dict)
    """Further figures of the run, units in the names (``p50_ms``)."""

    @property
    def micros(self) -> float:
        """CPU microseconds a unit."""
        return self.cpu_seconds * 1e6 / self.units if self.units else float("nan")


def interleaved(programs: Mapping[str, Callable[[], Sample]], runs: int) -> dict[str, list[Sample]]:
    """Run every program ``runs`` times in turn (A B A B …), the order reversed each round, and return all samples."""
    samples: dict[str, list[Sample]] = {name: [] for name in programs}
    order = list(programs)
    for _ in range(runs):
        for name in order:
            samples[name].append(programs[name]())
        order.reverse()
    return samples


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a load, our figure, the peer's, their ratio and the goal."""

    work: str
    """What is done: ``TURN relay`` …"""
    load: str
    """How much: ``2000 packets/s, 10 allocations``."""
    unit: str
    """Unit of ``ours`` and ``theirs``: ``CPU us/packet``."""
    ours: float
    """Median of our runs."""
    theirs: float | None = None
    """Median of the peer's runs in the same session; ``None`` where there is no peer."""
    peer: str = ""
    """The peer program, with its version where known."""
    goal: float | None = None
    """The ratio (or, without a peer, the value of ``ours``) must be at most this."""
    note: str = ""
    """What the reader has to know: losses, settings that differ."""
    ours_runs: tuple[float, ...] = ()
    their_runs: tuple[float, ...] = ()
    wrong: int = 0
    """Units that ours damaged or misdelivered: with any, no goal is met."""

    @property
    def ratio(self) -> float | None:
        """Ours divided by the peer's; below 1 we need less."""
        return self.ours / self.theirs if self.theirs else None

    @property
    def met(self) -> bool | None:
        """Whether the goal holds; ``None`` where there is no goal."""
        if self.goal is None:
            return None
        if self.wrong:
            return False
        return (self.ours if self.ratio is None else self.ratio) <= self.goal

    @classmethod
    def of(
        cls,
        work: str,
        load: str,
        unit: str,
        ours: Sequence[Sample],
        theirs: Sequence[Sample] = (),
        *,
        peer: str = "",
        goal: float | None = None,
        note: str = "",
    ) -> Row:
        """Build a row from the samples of both programs: medians of CPU microseconds a unit, losses noted."""
        notes = [note] if note else []
        for name, samples in (("ours", ours), (peer or "peer", theirs)):
            lost, wrong = sum(sample.lost for sample in samples), sum(sample.wrong for sample in samples)
            if lost or wrong:
                notes.append(f"{name}: {lost} lost, {wrong} wrong of {sum(sample.units for sample in samples)}")
        ours_runs = tuple(round(sample.micros, 3) for sample in ours)
        their_runs = tuple(round(sample.micros, 3) for sample in theirs)
        return cls(
            work,
            load,
            unit,
            statistics.median(ours_runs),
            statistics.median(their_runs) if their_runs else None,
            peer,
            goal,
            "; ".join(notes),
            ours_runs,
            their_runs,
            sum(sample.wrong for sample in ours),
        )


def as_json(rows: Sequence[Row]) -> dict[str, object]:
    """Return the rows and the machine they were measured on, ready for ``json``."""
    return {
        "machine": machine(),
        "rows": [asdict(row) | {"ratio": row.ratio, "met": row.met} for row in rows],
    }


def machine() -> dict[str, object]:
    """Describe the machine: what a reader needs to judge a figure, no host name."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "calibration_ms": round(calibrate() * 1000, 2),
        "date": time.strftime("%Y-%m-%d"),
    }


def calibrate() -> float:
    """CPU seconds of a fixed piece of Python work; compare it between sessions before comparing figures."""
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        total = 0
        for number in range(200_000):
            total += number ^ 0x2A
        best = min(best, time.process_time() - start)
    return best


def print_table(rows: Sequence[Row]) -> None:
    """Print the rows for people; ``ratio`` below 1 means that we need less than the peer."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="bench: ours beside the peer, same load, same run, medians")
    for heading in ("work", "load", "unit", "ours", "peer", "ratio", "goal", "note"):
        right = heading in ("ours", "ratio", "goal")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in rows:
        met = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[row.met]
        table.add_row(
            row.work,
            row.load,
            row.unit,
            f"{row.ours:.1f}",
            f"{row.theirs:.1f} {row.peer}" if row.theirs is not None else "-",
            f"{row.ratio:.2f}" if row.ratio is not None else "-",
            f"{row.goal:g} {met}" if row.goal is not None else "-",
            row.note,
        )
    Console(width=None if sys.stdout.isatty() else 150).print(table)


def main(description: str, measure: Callable[[argparse.Namespace], Sequence[Row]]) -> int:
    """Command line of one bench: ``--json FILE``, ``--runs N``, ``--seconds S``; returns 1 if a goal was missed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures here")
    parser.add_argument("--runs", type=int, default=5, help="runs of each program and load (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a run (default 2)")
    arguments = parser.parse_args()
    rows = measure(arguments)
    print_table(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(rows), indent=2) + "\n")
    return 1 if any(row.met is False for row in rows) else 0
