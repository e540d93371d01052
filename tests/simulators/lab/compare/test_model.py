"""The measurements as values and as JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.lab.compare.figures import FIGURES
from simulators.lab.compare.model import CallMeasure, Path, Report, ReportError


def test_a_figure_has_a_value_or_a_reason() -> None:
    call = CallMeasure(Path.UE, 1)
    call.put("ice_ms", 12.345)
    call.put("dtls_ms", None, "no handshake")
    call.complete("not observed")
    assert call.values == {"ice_ms": 12.35}
    assert call.reasons["dtls_ms"] == "no handshake"
    assert set(call.values) | set(call.reasons) == {figure.key for figure in FIGURES}
    call.put("ice_ms", None, "gone")
    assert "ice_ms" not in call.values
    call.put("dtls_ms", 1.0)
    assert "dtls_ms" not in call.reasons
    with pytest.raises(KeyError):
        call.put("speed", 1.0)


def test_json_and_back(both: Report) -> None:
    text = json.dumps(both.as_json())
    again = Report.from_json(text)
    assert again == both
    assert json.dumps(again.as_json()) == text


def test_json_has_every_figure_of_every_call_and_path(both: Report) -> None:
    """X-COMPARE: what could not be measured is null, with the reason."""
    found = both.as_json()
    assert found["version"] == 1
    assert found["ok"] is True
    assert set(found["figures"]) == {figure.key for figure in FIGURES}
    for call in found["calls"]:
        assert set(call["values"]) == {figure.key for figure in FIGURES}
        assert all(value is not None or call["reasons"][key] for key, value in call["values"].items())
    post_dial = found["figures"]["post_dial_delay_ms"]
    assert post_dial["ue"]["n"] == post_dial["edge"]["n"] == 3
    assert post_dial["edge_minus_ue"]["value"] == pytest.approx(100)
    missing = found["figures"]["delay_to_phone_ms"]
    assert missing["edge"] is None
    assert missing["edge_reason"] == "the <phone> is not ours"
    assert missing["edge_minus_ue"] is None


def test_a_report_is_whole_when_every_call_was_made_and_measured(both: Report) -> None:
    assert both.ok
    both.calls[0].error = "no answer"
    assert not both.ok
    both.calls[0].error = ""
    both.wanted += 1
    assert not both.ok


def test_what_is_no_report_is_refused(recorded: Report) -> None:
    whole = recorded.as_json()
    for wrong in (
        "",
        "[]",
        "{}",
        "null",
        json.dumps({**whole, "version": 2}),
        json.dumps({**whole, "paths": ["sideways"]}),
        json.dumps({**whole, "calls": [{}]}),
        json.dumps({**whole, "conditions": {"weather": "fine"}}),
    ):
        with pytest.raises(ReportError):
            Report.from_json(wrong)


@given(st.text(max_size=80) | st.integers(0, 4000))
def test_only_its_own_error_escapes(noise: str | int) -> None:
    text = noise if isinstance(noise, str) else '{"version":1,"calls":' + "[" * noise
    with pytest.raises(ReportError):
        Report.from_json(text)


def test_what_is_missing_is_told_by_reason(both: Report) -> None:
    for call in both.of(Path.EDGE):
        call.put("pesq_to_phone", None, "the <phone> is not ours")
    assert both.missing(Path.UE) == {}
    ((reason, figures),) = both.missing(Path.EDGE).items()
    assert reason == "the <phone> is not ours"
    assert [figure.key for figure in figures] == ["delay_to_phone_ms", "pesq_to_phone"]
