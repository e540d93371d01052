"""The report of a recorded comparison: whole, self-contained, and true to the figures."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from simulators.lab.compare.figures import FIGURES, POINTS
from simulators.lab.compare.html import render
from simulators.lab.compare.model import Report
from simulators.lab.compare.plots import Series, distribution, ticks

_VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Checks that every element is closed where it was opened, and collects words and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("rect", "circle", "line")

    def handle_data(self, data: str) -> None:
        self.words += data


def read(document: str) -> Reader:
    reader = Reader()
    reader.feed(document)
    assert reader.open == []
    return reader


def test_report_is_one_file_without_script_or_anything_from_elsewhere(both: Report) -> None:
    """X-COMPARE: a report with plots that can be sent."""
    document = render(both)
    reader = read(document)
    assert reader.addresses == []
    assert "<script" not in document
    assert "url(" not in document
    assert "default-src 'none'" in document
    assert document.count("<svg") > 10


def test_every_figure_is_shown_and_defined(both: Report) -> None:
    words = " ".join(read(render(both)).words.split())
    for figure in FIGURES:
        assert words.count(figure.title) >= 2
        assert figure.definition in words
    for text in POINTS.values():
        assert text in words
    median = both.as_json()["figures"]["post_dial_delay_ms"]["ue"]["median"]
    assert f"{median:,.0f}" in words
    assert "delay_to_phone_ms" not in words
    assert "edge path: mouth to ear, to the phone: the <phone> is not ours" in words


def test_a_single_path_has_no_difference(recorded: Report) -> None:
    words = read(render(recorded)).words
    assert "edge − UE" not in words
    assert "UE path" in words


def test_what_failed_is_said(both: Report) -> None:
    both.calls[1].error = "the page did not show <b>talking</b>"
    both.calls[1].values.clear()
    words = read(render(both)).words
    assert "Incomplete" in words
    assert "the page did not show <b>talking</b>" in words


def test_a_comparison_without_calls_is_a_report_too(recorded: Report) -> None:
    recorded.calls.clear()
    recorded.error = "the lab fell over"
    assert "the lab fell over" in read(render(recorded)).words


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 100, [0, 25, 50, 75, 100]), (1.2, 1.9, [1.2, 1.4, 1.6, 1.8, 2.0]), (0, 0, [0, 0.25, 0.5, 0.75, 1.0])],
)
def test_axes_have_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_marks_are_where_their_values_are() -> None:
    picture = distribution("x", "ms", [Series("UE path", "ue", [0.0, 50.0, 100.0])])
    places = [float(at) for at in re.findall(r'cx="([\d.]+)"', picture)]
    assert len(places) == 3
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2)
    grid = [float(at) for at in re.findall(r'class="grid" x1="([\d.]+)"', picture)]
    assert (places[0], places[2]) == (pytest.approx(grid[0]), pytest.approx(grid[-1]))


def test_a_screen_reader_gets_the_figures() -> None:
    picture = distribution("loss", "%", [Series("UE path", "ue", [1.0]), Series("edge path", "edge", [])])
    assert 'aria-label="loss: UE path: median 1 %' in picture
    assert distribution("loss", "%", [Series("UE path", "ue", [])]) == ""
