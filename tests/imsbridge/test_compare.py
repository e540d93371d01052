"""The command line of the comparison, without a lab: arguments, an earlier run shown again."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from imsbridge.cli import main
from imsbridge.compare import show
from simulators.lab.compare.figures import FIGURES
from simulators.lab.compare.model import Report

RECORDED = Path(__file__).parents[1] / "data" / "compare" / "ue.json"


def test_an_earlier_run_is_shown_again_with_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again, document = tmp_path / "again.json", tmp_path / "report.html"
    argv = ["compare", "--from", str(RECORDED), "--json", str(again), "--html", str(document)]
    assert main(argv) == 0
    assert Report.from_json(again.read_text()) == Report.from_json(RECORDED.read_text())
    assert document.read_text().startswith("<!doctype html>")
    assert "every call was made and measured" in capsys.readouterr().out


def test_the_table_fits_80_columns_and_has_every_figure() -> None:
    sink = io.StringIO()
    show(Report.from_json(RECORDED.read_text()), Console(file=sink, width=80, highlight=False))
    lines = sink.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in sink.getvalue()
    for figure in FIGURES:
        assert any(line.startswith(figure.title) for line in lines), figure.title


def test_a_report_with_failed_calls_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report.from_json(RECORDED.read_text())
    report.calls[0].error = "nobody [red]answered[/]"
    sink = io.StringIO()
    show(report, Console(file=sink, width=80))
    assert "nobody [red]answered[/]" in sink.getvalue()
    assert "not every call" in sink.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [["--calls", "0"], ["--calls", "many"], ["--calls", "1001"], ["--impairment", "loss=2"], ["--path", "air"]],
)
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["compare", *arguments])
    assert refused.value.code == 2


def test_files_that_cannot_be_read_or_written_are_refused_before_any_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no.json").write_text("{}")
    assert main(["compare", "--from", str(tmp_path / "no.json")]) == 2
    assert main(["compare", "--from", str(tmp_path / "none.json")]) == 2
    assert main(["compare", "--html", str(tmp_path / "no" / "report.html")]) == 2
    said = capsys.readouterr().err
    assert "no report of imsbridge compare" in said
    assert "no such folder" in said
