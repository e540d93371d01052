"""Distributions as SVG: every call a mark, p5 to p95 a bar, the median a line; both paths on one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from simulators.lab.compare.statistics import summary

_WIDTH, _LEFT, _RIGHT = 360, 46, 24
_ROW, _TOP, _AXIS = 34, 6, 22


@dataclass(frozen=True)
class Series:
    """What one path's calls gave."""

    name: str
    css: str
    """Class of its marks; the second path's marks are squares, so that print in black tells them apart."""
    values: Sequence[float]


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Return round numbers from at or below ``low`` to at or above ``high``, about ``wanted`` steps."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def distribution(title: str, unit: str, series: Sequence[Series]) -> str:
    """Return the plot, or nothing if no call gave the figure."""
    everything = [value for one in series for value in one.values]
    if not everything:
        return ""
    low, high = min(everything), max(everything)
    # Times, losses and counts are shown from zero unless that would flatten them.
    marks = ticks(0.0 if 0 <= low <= 0.7 * high or high == 0 else low, high)
    rows = [one for one in series if one.values]
    bottom = _TOP + _ROW * len(rows)
    said = "; ".join(f"{one.name}: {_words(one.values, unit)}" for one in rows)

    def x(value: float) -> float:
        return _LEFT + (value - marks[0]) / (marks[-1] - marks[0]) * (_WIDTH - _LEFT - _RIGHT)

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {bottom + _AXIS}" role="img" aria-label="{escape(f"{title}: {said}")}">',
        *(
            f'<line class="grid" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{_TOP}" y2="{bottom}"/>'
            f'<text class="tick" x="{x(at):.1f}" y="{bottom + 15}" text-anchor="middle">{at:,g}</text>'
            for at in marks
        ),
    ]
    for index, one in enumerate(rows):
        parts += _row(one, _TOP + _ROW * index + _ROW / 2, x)
    return "".join([*parts, "</svg>"])


def _row(one: Series, middle: float, x: object) -> list[str]:
    assert callable(x)
    found = summary(one.values)
    assert found is not None
    p5, p95, median = x(found.p5), x(found.p95), x(found.median)
    parts = [
        f'<text class="name" x="0" y="{middle + 4:.1f}">{escape(one.name.split()[0])}</text>',
        f'<g class="{one.css}">',
        f'<rect class="bar" x="{p5:.1f}" y="{middle - 8:.1f}" width="{max(p95 - p5, 1):.1f}" height="16" rx="3"/>',
    ]
    for index, value in enumerate(one.values):
        at, off = x(value), (-4, 0, 4, 2, -2)[index % 5]
        if one.css == "edge":
            parts.append(f'<rect class="dot" x="{at - 2.5:.1f}" y="{middle + off - 2.5:.1f}" width="5" height="5"/>')
        else:
            parts.append(f'<circle class="dot" cx="{at:.1f}" cy="{middle + off:.1f}" r="2.8"/>')
    line = f'<line class="median" x1="{median:.1f}" x2="{median:.1f}" y1="{middle - 12:.1f}" y2="{middle + 12:.1f}"/>'
    return [*parts, line, "</g>"]


def _words(values: Sequence[float], unit: str) -> str:
    found = summary(values)
    assert found is not None
    return f"median {found.median:g} {unit}, 5th to 95th percentile {found.p5:g} to {found.p95:g}, {found.n} calls"
