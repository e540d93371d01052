"""The definitions that people read are those of the program."""

from __future__ import annotations

from pathlib import Path

from simulators.lab.compare.figures import ELEMENT_CPU, ELEMENT_MEMORY, FIGURES, POINTS


def test_the_document_defines_every_figure_as_the_report_does() -> None:
    """X-COMPARE: ``docs/compare.md``."""
    text = (Path(__file__).parents[4] / "docs" / "compare.md").read_text()
    for figure in FIGURES:
        assert f"| `{figure.key}` | {figure.unit or 'steps'} | {figure.definition} |" in text
    for name, definition in POINTS.items():
        assert f"| {name} | {definition} |" in text
    assert f"{ELEMENT_CPU} {ELEMENT_MEMORY}" in text
