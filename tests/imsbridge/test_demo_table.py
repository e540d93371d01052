"""What the demo prints: both paths in one table that fits a terminal, and what did not hold."""

from __future__ import annotations

import pytest

from imsbridge.demo import show
from imsbridge.demo_table import ACROSS, AGENT, EDGE, rows
from simulators.lab.demo import DemoResult
from simulators.lab.measures import LATEST_SECONDS, LEAST_PACKETS, CallResult, Direction, Step, said, step

_OUT = ("INVITE sent by the page", "180 at the page", "200 at the page", "ICE connected", "first packet to the phone")
_IN = ("page rings", "user answers", "200 at the phone", "ICE connected", "first packet to the phone")


def _steps(*names: str) -> list[Step]:
    return [Step(name, 1000.0 + index) for index, name in enumerate(names)]


def _way(codecs: str) -> Direction:
    return Direction(codecs, 2.55, 2.58, 0.993, 812, None, True)


def _call(name: str, steps: tuple[str, ...], codecs: tuple[str, str], near: str, far: str = "phone") -> CallResult:
    return CallResult(name, _steps(*steps), _way(codecs[0]), _way(codecs[1]), near, far)


@pytest.fixture
def result() -> DemoResult:
    """Of a run in which every step held."""
    found = DemoResult()
    found.start = _steps("page loaded", "AKA with the SIM card done", "page registered")
    found.edge.registrations = _steps(
        "token (scenario 2)", "SIP digest (scenario 1)", "identity of a range (scenario 3)"
    )
    ways = ("opus > AMR-WB", "AMR-WB > opus")
    found.calls = [
        _call("browser calls phone", _OUT, ways, "browser"),
        _call("phone calls browser", _IN, ways, "browser"),
    ]
    found.edge.calls = [
        _call("laptop calls phone", _OUT, ways, "laptop"),
        _call("phone calls laptop", _IN, ways, "laptop"),
        _call("across", ("180 at the page", "user answers"), ("opus > AMR-WB > opus",) * 2, "laptop", "handset"),
    ]
    return found


def test_both_paths_stand_side_by_side(result: DemoResult) -> None:
    by_label = {row.label: row.cells for row in rows(result)}
    assert set(by_label["180 at the page"]) == {ACROSS}  # the last of three
    found = [
        row for row in rows(result) if row.label in ("200 at the page", "200 at the phone", "heard at the phone: PESQ")
    ]
    assert len(found) == 4
    for row in found:
        assert set(row.cells) == {AGENT, EDGE}
    labels = [row.label for row in rows(result)]
    assert labels.index("page registered") < labels.index("token (scenario 2)")
    assert labels.index("180 at the page") < labels.index("200 at the page")


def test_it_fits_eighty_columns(result: DemoResult, capsys: pytest.CaptureFixture[str]) -> None:
    show(result)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 80
    text = "\n".join(lines)
    assert "…" not in text, "nothing is cut off"
    assert "every step held" in text
    assert text.count("UE agent") == 2, "one table, and the agent's load"


@pytest.mark.parametrize("path", ["ue", "edge"])
def test_one_path_alone_has_its_columns_only(result: DemoResult, path: str) -> None:
    if path == "ue":
        result.edge.calls, result.edge.registrations = [], []
    else:
        result.calls, result.start = [], []
    shown = {name for row in rows(result) for name in row.cells}
    assert shown == ({AGENT} if path == "ue" else {EDGE, ACROSS})


def test_what_did_not_hold_is_said(result: DemoResult, capsys: pytest.CaptureFixture[str]) -> None:
    result.calls[0].steps[3] = step("ICE connected", 0.0, None)
    result.edge.calls[1].to_phone.count(3)
    show(result)
    shown = capsys.readouterr().out
    assert "no UE agent, browser calls phone, ICE connected: did not happen" in shown
    assert "no edge, phone calls laptop, heard at the phone: only 3 packets" in shown
    assert "not every step held" in shown


def test_a_step_that_comes_too_late_does_not_hold() -> None:
    assert step("ICE connected", 5.0, 5.0 + LATEST_SECONDS).ok
    assert not step("ICE connected", 5.0, 5.1 + LATEST_SECONDS).ok


def test_too_few_packets_are_not_good_however_they_sounded() -> None:
    way = _way("opus > AMR-WB")
    way.count(LEAST_PACKETS)
    assert way.ok
    way.count(LEAST_PACKETS - 1)
    assert not way.ok


def test_how_speech_was_is_said_while_it_runs(result: DemoResult) -> None:
    call = result.calls[0]
    call.to_browser = Direction(pesq_codecs=2.28, note="nothing came")
    assert said(call) == (
        "heard at the phone: PESQ 2.55 (its codecs alone 2.58); heard at the browser: nothing, not good: nothing came"
    )
