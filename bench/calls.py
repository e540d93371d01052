"""Calls in the lab: how quickly they stand, what the agent adds, uses and costs in quality.

Run it as ``python -m bench.calls [--json FILE]``.  It runs ``imsbridge demo`` and holds its figures against the goals;
speech quality is compared with the same two codecs alone, on the same speech, in the same run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.measure import Row, main

SETUP_GOAL_MS = 1000.0
ADDED_GOAL_MS = 60.0
CPU_GOAL_PERCENT = 10.0
MEMORY_GOAL_MB = 200.0
PESQ_GOAL = 0.3


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Run the demo ``--runs`` times, at most three, and return the medians."""
    runs = [_demo() for _ in range(min(arguments.runs, 3))]
    first = [_step(run, 0, "first packet to the phone") for run in runs]
    ways = ("to_phone", "to_browser")
    rows = [
        Row("set-up", "click to first sound at the phone", "ms", median(first), goal=SETUP_GOAL_MS),
        Row("agent", "CPU while talking", "% of a core", _load(runs, "cpu_percent"), goal=CPU_GOAL_PERCENT),
        Row("agent", "memory of all its processes", "MB", _load(runs, "memory_mb"), goal=MEMORY_GOAL_MB),
    ]
    for way in ways:
        added = median(call[way]["added_ms"] for run in runs for call in run["calls"])
        rows.append(Row("delay added", way.replace("_", " "), "ms", added, goal=ADDED_GOAL_MS))
    for way in ways:
        behind = [call[way]["pesq_codecs"] - call[way]["pesq"] for run in runs for call in run["calls"]]
        rows.append(Row("PESQ-WB behind the codecs", way.replace("_", " "), "MOS", median(behind), goal=PESQ_GOAL))
    return rows


def _demo() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demo.json"
        done = subprocess.run([sys.executable, "-m", "imsbridge", "demo", "--json", str(path)], check=False)
        if not path.exists():
            raise SystemExit(f"imsbridge demo ended with {done.returncode} and without figures")
        figures: dict[str, Any] = json.loads(path.read_text())
    if figures["error"]:
        raise SystemExit(f"imsbridge demo: {figures['error']}")
    return figures


def _step(run: dict[str, Any], call: int, name: str) -> float:
    return next(float(step["ms"]) for step in run["calls"][call]["steps"] if step["name"] == name)


def _load(runs: Sequence[dict[str, Any]], name: str) -> float:
    return median(float(run["load"][name]) for run in runs)


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
