"""AKA runs a second over the virtual reader, and where their time goes: reader, card, us.

Run it as ``python -m bench.aka``.  The card is a process of its own behind a real pcscd and vpcd.  The card's share is
what the same runs take on the same card inside this process; the reader's is the rest of the time between a command and
its answer; ours is what is left of a run.  There is no peer: a figure counts beside the others of its run only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench.measure import Row, main
from imskit.config.model import parse
from imskit.uicc.profile import CardProfile
from imskit.uicc.uicc import Uicc
from ue_agent.card_bench.aka_runs import AkaBench, Stopwatch, Timing, percentile
from ue_agent.card_bench.lab_hss import LabHss, LabKeys
from ue_agent.card_bench.observe import ObservedTransport
from ue_agent.uicc.application import UiccSession
from ue_agent.uicc.in_process import InProcessReader
from ue_agent.uicc.pin import Pin
from ue_agent.uicc.spec import open_backend, parse_spec
from ue_agent.uicc.transport import CardTransport

OURS_GOAL_MS = 1.0
_ALGORITHMS = {
    "Milenage": f'imsi = "001010000000001"\nk = "{"a5" * 16}"\nopc = "{"5a" * 16}"\n',
    "TUAK": f'imsi = "001010000000001"\nalgorithm = "tuak"\nk = "{"a5" * 16}"\nopc = "{"5a" * 32}"\n',
}


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Run both algorithm sets; each for ``--seconds``, ``--runs`` times in turn with the card alone."""
    rows: list[Row] = []
    for name, text in _ALGORITHMS.items():
        with _virtual_reader(text):
            over_reader, alone = [], []
            for _ in range(arguments.runs):
                over_reader.append(_timings(open_backend(parse_spec("")).connect(), text, arguments.seconds))
                alone.append(_timings(InProcessReader(_card(text)).connect(), text, arguments.seconds / 4))
        rows += _rows(name, over_reader, alone)
    return rows


def _rows(name: str, over_reader: Sequence[list[Timing]], alone: Sequence[list[Timing]]) -> list[Row]:
    totals = [median(t.total for t in run) for run in over_reader]
    commands = median(median(t.card for t in run) for run in over_reader)
    card = median(median(t.card for t in run) for run in alone)
    ours = [median(t.total - t.card for t in run) for run in over_reader]
    flat = [t.total for run in over_reader for t in run]
    tail = ", ".join(f"p{p} {percentile(flat, p):.2f} ms" for p in (50, 90, 99))
    load = f"{name}, virtual reader"
    return [
        Row("AKA", load, "runs/s", 1000 / median(totals), note=f"{tail}; SELECT and AUTHENTICATE"),
        Row("AKA: reader", load, "ms/run", commands - card, note="pcscd, vpcd and the socket to the card"),
        Row("AKA: card", load, "ms/run", card, note="the simulated card alone"),
        Row("AKA: us", load, "ms/run", median(ours), goal=OURS_GOAL_MS, ours_runs=tuple(round(o, 4) for o in ours)),
    ]


def _timings(transport: CardTransport, text: str, seconds: float) -> list[Timing]:
    profile, watch = parse(CardProfile, text), Stopwatch()
    session = UiccSession(ObservedTransport(transport, watch), Pin())
    keys = LabKeys(k=profile.k, opc=profile.opc, algorithm=profile.algorithm)
    bench = AkaBench(session, "USIM", watch, LabHss(keys))
    try:
        if (failed := bench.synchronise()) is not None:
            raise SystemExit(f"the card does not run AKA: {failed.text}")
        timings: list[Timing] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            run = bench.run("success")
            if not run.ok:
                raise SystemExit(f"a run failed: {run.text}")
            timings.append(run.timing)
        return timings
    finally:
        session.close()


def _card(text: str) -> Uicc:
    return Uicc(parse(CardProfile, text))


@contextmanager
def _virtual_reader(text: str) -> Iterator[None]:
    """A simulated card in a virtual reader, in a process of its own; this process's PC/SC calls go there."""
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "card.toml"
        profile.touch(0o600)
        profile.write_text(text)
        link = _link()
        command = [sys.executable, "-m", "imsbridge", "sim", "card", "run", "-c", str(profile), "--pcscd"]
        command += ["--link", str(link), "--log-level", "error"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("ready"):
                    break
            else:
                raise SystemExit("the simulated card did not start (packages pcscd, vsmartcard-vpcd)")
            _wait_for_card()
            yield
        finally:
            process.terminate()
            process.wait()


def _wait_for_card() -> None:
    from ue_agent.uicc.inventory import readers

    end = time.monotonic() + 5
    while not any(reader.atr for reader in readers()):
        if time.monotonic() > end:
            raise SystemExit("the virtual reader does not see the card")
        time.sleep(0.05)


def _link() -> Path:
    """One path for the life of this process: the PC/SC library reads the variable once."""
    link = Path(os.environ.get("PCSCLITE_CSOCK_NAME") or Path(tempfile.gettempdir()) / f"bench-pcsc-{os.getpid()}")
    os.environ["PCSCLITE_CSOCK_NAME"] = str(link)
    return link


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
