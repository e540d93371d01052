"""The demo's result as one table: a row for each step and figure, a column for each path.

PESQ has in brackets what the codecs alone make of the same speech.  From browser to browser the laptop, behind the
edge, calls the handset, behind its agent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from simulators.lab.demo import DemoResult
    from simulators.lab.measures import CallResult, Direction, Step

AGENT, EDGE, ACROSS = "UE agent", "edge", "edge to agent"
_WIDTH = 80
_FIGURES: tuple[tuple[str, Callable[[Direction], str]], ...] = (
    ("PESQ", lambda way: f"{_decimal(way.pesq)} ({_decimal(way.pesq_codecs)})"),
    ("likeness", lambda way: f"{way.correlation:.2f}"),
    ("packets", lambda way: str(way.packets)),
    ("codecs", lambda way: way.codecs.replace(" > ", "→")),
)


@dataclass(frozen=True)
class Cell:
    """What one path has to say of a row."""

    text: str
    ok: bool = True


@dataclass
class Row:
    """One step or figure; ``cells`` by path.  Without cells it is the heading of those that follow."""

    label: str
    cells: dict[str, Cell]


def rows(result: DemoResult) -> list[Row]:
    """Return the whole table."""
    found: list[Row] = []
    log_in = {AGENT: result.start, EDGE: result.edge.registrations}
    if any(log_in.values()):
        found += [Row("Log-in and registration", {}), *_steps(log_in)]
    theirs = result.edge.calls
    groups = (
        ("The browser calls the phone", {AGENT: result.calls[:1], EDGE: theirs[:1]}),
        ("The phone calls the browser", {AGENT: result.calls[1:2], EDGE: theirs[1:2]}),
        ("Browser to browser", {ACROSS: theirs[2:3]}),
    )
    for title, called in groups:
        calls = {path: call[0] for path, call in called.items() if call}
        if calls:
            found += [Row(title, {}), *_call(calls)]
    return found


def _call(calls: dict[str, CallResult]) -> Iterator[Row]:
    yield from _steps({path: call.steps for path, call in calls.items()})
    far = next(iter(calls.values())).far
    for place, ways in (
        (f"heard at the {far}", {path: call.to_phone for path, call in calls.items()}),
        ("heard at the browser", {path: call.to_browser for path, call in calls.items()}),
    ):
        for index, (name, figure) in enumerate(_FIGURES):
            # A verdict is one on the whole way: it stands with the first figure.
            cells = {path: Cell(figure(way), way.ok or index > 0) for path, way in ways.items()}
            yield Row(f"{place}: {name}" if index == 0 else f"  {name}", cells)


def _steps(by_path: dict[str, list[Step]]) -> Iterator[Row]:
    """The steps of all paths in their order; those that only one path has stand where it has them."""
    order: list[str] = []
    for steps in by_path.values():
        at = 0 if any(step.name in order for step in steps) else len(order)
        for step in steps:
            if step.name in order:
                at = order.index(step.name) + 1
            else:
                order.insert(at, step.name)
                at += 1
    for name in order:
        cells = {
            path: Cell("–" if step.ms is None else f"{step.ms:.0f}", step.ok)
            for path, steps in by_path.items()
            for step in steps
            if step.name == name
        }
        yield Row(name, cells)


def problems(result: DemoResult) -> list[str]:
    """What did not hold and says why."""
    found = []
    for path, calls in ((AGENT, result.calls), (EDGE, result.edge.calls)):
        for call in calls:
            found += [f"{path}, {call.name}, {step.name}: {step.note}" for step in call.steps if not step.ok]
            for name, way in ((call.far, call.to_phone), (call.near, call.to_browser)):
                if not way.ok:
                    reason = way.note or ("no speech" if way.pesq is None else "not as good as the codecs alone")
                    found.append(f"{path}, {call.name}, heard at the {name}: {reason}")
    for path, steps in ((AGENT, result.start), (EDGE, result.edge.registrations)):
        found += [f"{path}, {step.name}: {step.note}" for step in steps if not step.ok]
    return found


def table(result: DemoResult) -> Table:
    """Return what is printed: at most 80 columns wide."""
    from rich.table import Table

    found = rows(result)
    paths = [path for path in (AGENT, EDGE, ACROSS) if any(path in row.cells for row in found)]
    shown = Table(box=None, padding=(0, 1, 0, 0), width=_WIDTH, show_edge=False)
    shown.add_column("", no_wrap=True, ratio=1)
    for path in paths:
        shown.add_column(path, justify="right", no_wrap=True)
    for row in found:
        if not row.cells:
            shown.add_row()
            shown.add_row(f"[bold]{row.label}[/]")
            continue
        shown.add_row(row.label, *(_shown(row.cells.get(path)) for path in paths))
    return shown


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return cell.text if cell.ok else f"[bold red]no[/] {cell.text}"


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
