"""Registrations inside a security agreement: CPU of the simulated core and of the client side, beside those in clear.

Run it as ``python -m bench.registration``.  Twenty UEs on one host register and de-register with a core on another, as
fast as they can (``registration_world.py``): each round is two REGISTERs with AKA and a 200 each way, so four
messages each way, a set of four associations on both sides, and their end.  Registrations a second are in the note.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from bench.measure import Row, Sample, interleaved, main

type Part = Literal["core", "clients"]


def _figures(security: str, seconds: float) -> dict[str, Any]:
    namespaces = ["unshare", "--net", "--mount"] if os.geteuid() == 0 else ["unshare", "-U", "-r", "--net", "--mount"]
    order = json.dumps({"security": security, "seconds": seconds})
    done = subprocess.run(
        [*namespaces, sys.executable, "-m", "bench.registration_world", order],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        check=False,
    )
    if done.returncode:
        raise SystemExit("bench.registration: its hosts have ended; the lines above say why")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _row(part: Part, ours: list[Sample], clear: list[Sample], figures: dict[str, list[dict[str, Any]]]) -> Row:
    key = f"{part}_cpu"
    ours_runs, clear_runs = (
        tuple(round(each[key] * 1e3 / max(each["registrations"], 1), 3) for each in figures[security])
        for security in ("ipsec", "off")
    )
    rates = [each["registrations"] / each["seconds"] for each in figures["ipsec"]]
    plain = [each["registrations"] / each["seconds"] for each in figures["off"]]
    return Row(
        f"registration with IPsec, {part}",
        f"{figures['ipsec'][0]['ues']} UEs register and de-register",
        "CPU ms/registration",
        statistics.median(ours_runs),
        statistics.median(clear_runs),
        "in clear",
        note=f"{statistics.median(rates):.0f} a second, {statistics.median(plain):.0f} in clear; "
        f"{figures['ipsec'][0]['backend']} back end",
        ours_runs=ours_runs,
        their_runs=clear_runs,
        wrong=sum(each.wrong for each in ours),
    )


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Both sides, with security agreements and in clear by turns."""
    figures: dict[str, list[dict[str, Any]]] = {"ipsec": [], "off": []}

    def run(security: str) -> Sample:
        found = _figures(security, arguments.seconds)
        figures[security].append(found)
        return Sample(found["core_cpu"], found["registrations"], found["seconds"], 0, found["failed"])

    programs: dict[str, Callable[[], Sample]] = {name: functools.partial(run, name) for name in figures}
    samples = interleaved(programs, arguments.runs)
    parts: tuple[Part, ...] = ("core", "clients")
    return [_row(part, samples["ipsec"], samples["off"], figures) for part in parts]


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
