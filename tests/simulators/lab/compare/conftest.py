"""A recorded comparison, and one with two paths made of it."""

from __future__ import annotations

import copy
from pathlib import Path as File

import pytest

from simulators.lab.compare.model import Path, Report

RECORDED = File(__file__).parents[3] / "data" / "compare" / "ue.json"


@pytest.fixture
def recorded() -> Report:
    """Three calls over the UE path, as ``imsbridge compare --json`` wrote them."""
    return Report.from_json(RECORDED.read_text())


@pytest.fixture
def both(recorded: Report) -> Report:
    """The same calls, and as many over the edge path: 100 ms later, and without the phone's half."""
    recorded.paths = [Path.UE, Path.EDGE]
    for call in copy.deepcopy(recorded.calls):
        call.path = Path.EDGE
        call.put("post_dial_delay_ms", call.values["post_dial_delay_ms"] + 100)
        call.put("delay_to_phone_ms", None, "the <phone> is not ours")
        call.points["Mw"] = call.points.pop("Gm")
        recorded.calls.append(call)
    return recorded
