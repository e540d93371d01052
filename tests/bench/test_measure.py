"""The measuring helpers: what they count, and the order of runs."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.measure import CpuMeter, Row, Sample, as_json, interleaved, main, print_table

_BUSY = """
import sys, threading, time
def burn():
    end = time.thread_time() + 0.1
    while time.thread_time() < end: pass
threads = [threading.Thread(target=burn) for _ in range(2)]
print("started", flush=True)
sys.stdin.readline()
for thread in threads: thread.start()
for thread in threads: thread.join()
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("wrapper", [[], ["sh", "-c", '"$@"; exit', "sh"]], ids=["itself", "child"])
def test_cpu_of_all_threads_and_children(wrapper: list[str]) -> None:
    """Two threads burn 0.1 s each and are gone when the second reading is taken."""
    with subprocess.Popen(
        [*wrapper, sys.executable, "-c", _BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "started\n"
        meter = CpuMeter(process.pid)
        before = meter.read()
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
        used = meter.read() - before
        process.stdin.close()
    assert 0.17 < used < 1.0


def test_what_has_ended_keeps_its_value() -> None:
    with subprocess.Popen(["sh", "-c", "read line"], stdin=subprocess.PIPE) as process:
        meter = CpuMeter(process.pid)
        before = meter.read()
    assert meter.read() == before


def test_interleaved_order() -> None:
    calls: list[str] = []

    def program(name: str) -> Sample:
        calls.append(name)
        return Sample(1.0, 10)

    samples = interleaved({name: lambda name=name: program(name) for name in "ab"}, 3)  # type: ignore[misc]
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(runs) for name, runs in samples.items()} == {"a": 3, "b": 3}


def test_row_of_samples() -> None:
    ours = [Sample(cpu, 100) for cpu in (0.003, 0.001, 0.002)]
    theirs = [Sample(0.001, 100, lost=2, wrong=1)]
    row = Row.of("work", "load", "us/unit", ours, theirs, peer="peer 1.0", goal=2.0, note="first")
    assert (row.ours, row.theirs, row.ratio, row.met) == (20.0, 10.0, 2.0, True)
    assert row.ours_runs == (30.0, 10.0, 20.0)
    assert row.note == "first; peer 1.0: 2 lost, 1 wrong of 100"
    assert Row.of("w", "l", "u", ours, theirs, goal=1.9).met is False
    alone = Row("w", "l", "%", 11.0, goal=10.0)
    assert alone.ratio is None and alone.met is False
    assert Row("w", "l", "%", 11.0).met is None


def test_a_wrong_packet_spoils_the_row() -> None:
    """A figure of a program that damages or loses what it handles is none."""
    assert Row.of("w", "l", "u", [Sample(0.001, 100, wrong=1)], [Sample(0.001, 100)], goal=2.0).met is False


def test_json_and_table(capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("TURN relay", "200 packets/s", "CPU us/packet", 30.0, 20.0, "coturn", 2.0)
    data = json.loads(json.dumps(as_json([row])))
    assert data["rows"][0]["ratio"] == 1.5 and data["rows"][0]["met"] is True
    assert data["machine"]["cores"] and data["machine"]["calibration_ms"] > 0
    print_table([row])
    shown = capsys.readouterr().out
    assert "1.50" in shown and "coturn" in shown and "met" in shown


def test_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["bench", "--json", str(file), "--runs", "7"])

    def measure(arguments: argparse.Namespace) -> list[Row]:
        return [Row("w", "l", "u", float(arguments.runs), goal=6.0)]

    assert main("test", measure) == 1
    assert json.loads(file.read_text())["rows"][0]["ours"] == 7.0
    assert "missed" in capsys.readouterr().out
