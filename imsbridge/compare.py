"""``imsbridge compare``: the same calls over both paths, measured side by side."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from imskit.observe import logs

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from simulators.lab.compare.model import Report
    from simulators.lab.compare.statistics import Difference, Summary

_DESCRIPTION = """\
Makes the same calls over both paths from the same browser, alternating, in the lab of `imsbridge demo` or through
systems of your own (--against), and measures each from both ends: set-up by phase, mouth-to-ear delay, jitter, loss,
speech quality, CPU and memory of every element, what passes each reference point.  Every figure's definition is in
the report and in docs/compare.md.
"""
_EPILOG = """\
examples:
  imsbridge compare --calls 20 --html report.html
  imsbridge compare --calls 10 --impairment loss=2%,delay=50ms,jitter=10ms,rate=256k --json bad-radio.json
  imsbridge config sample compare > mine.toml                    fill it in, and
  imsbridge compare --against mine.toml --calls 20 --html report.html
  imsbridge compare --from bad-radio.json --html report.html     the report of an earlier run

exit codes: 0 every call was made and measured, 1 one was not, 2 wrong arguments,
3 the lab cannot be built here, or the system cannot be reached at all
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``compare`` to the command line."""
    parser = subparsers.add_parser(
        "compare",
        help="the same calls over both paths, measured side by side; a report with plots",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--calls", metavar="N", type=_calls, default=10, help="per path, 1 to 1000 (default 10)")
    parser.add_argument("--path", choices=("ue", "edge", "both"), default="both", help="default both")
    parser.add_argument(
        "--against",
        metavar="FILE",
        type=Path,
        help="call through the systems that this file names, from this machine, instead of the lab",
    )
    parser.add_argument(
        "--impairment",
        metavar="WHAT",
        type=_impairment,
        help="of the access: loss=2%%,delay=50ms,jitter=10ms,rate=256k",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the measurements here (docs/compare.md)")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write the report here: one file, for any browser")
    parser.add_argument("--from", dest="source", metavar="FILE", type=Path, help="make no calls: show this JSON again")
    parser.add_argument("--logs", metavar="DIR", type=Path, help="keep logs and event files here")
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="of all programs (default info)")
    parser.set_defaults(run=run)


def _calls(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 1000")
    return int(text)


def _impairment(text: str) -> object:
    from simulators.impairment.engine import Impairment

    try:
        return Impairment.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(arguments: argparse.Namespace) -> int:
    """Make the calls, or read them; the return value is the exit code."""
    from imskit.config.model import ConfigError
    from simulators.lab.compare.model import ReportError
    from simulators.lab.world import LabError

    for target in (arguments.json, arguments.html):
        if target is not None and not target.absolute().parent.is_dir():
            return _refuse(f"{target}: there is no such folder", 2)
    if arguments.against is not None and arguments.impairment is not None:
        return _refuse("--impairment is the lab's: there is no access to impair with --against", 2)
    try:
        report = _report(arguments)
    except (ConfigError, ReportError) as error:
        return _refuse(str(error), 2)
    except LabError as error:
        return _refuse(str(error), 3)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    if arguments.html is not None:
        from simulators.lab.compare.html import render

        arguments.html.write_text(render(report), encoding="utf-8")
    show(report)
    return 0 if report.ok else 1


def _refuse(text: str, code: int) -> int:
    print(f"imsbridge compare: {text}", file=sys.stderr)
    return code


def _report(arguments: argparse.Namespace) -> Report:
    from simulators.lab.compare.model import Report, ReportError

    if arguments.source is None:
        return _called(arguments)
    try:
        return Report.from_json(arguments.source.read_text(encoding="utf-8"))
    except (OSError, ReportError, UnicodeDecodeError) as error:
        raise ReportError(f"{arguments.source}: {error}") from error


def _called(arguments: argparse.Namespace) -> Report:
    from imsbridge.demo import copy_files
    from simulators.lab.world import enter

    if arguments.against is None:
        enter()
    root = Path(tempfile.mkdtemp(prefix="imsbridge-"))
    try:
        return asyncio.run(_run(arguments, root))
    finally:
        if arguments.logs is not None:
            copy_files(root, arguments.logs)
        shutil.rmtree(root, ignore_errors=True)


async def _run(arguments: argparse.Namespace, root: Path) -> Report:
    from imskit.config.model import ConfigError
    from simulators.lab.compare.comparison import Comparison
    from simulators.lab.compare.configured import ConfiguredSystem, read_systems
    from simulators.lab.compare.lab_system import LabSystem
    from simulators.lab.compare.model import Path as Way
    from simulators.lab.compare.system import System

    started = time.monotonic()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)

    def progress(text: str) -> None:
        print(f"  {time.monotonic() - started:5.1f} s  {text}", file=sys.stderr, flush=True)

    ways = list(Way) if arguments.path == "both" else [Way(arguments.path)]
    system: System
    if arguments.against is None:
        system = LabSystem(root, progress, arguments.impairment, arguments.log_level)
    else:
        config = read_systems(arguments.against)
        if arguments.path == "both":
            ways = config.paths
        elif ways[0] not in config.paths:
            raise ConfigError(f"{arguments.against}: [{arguments.path}] is missing, and --path wants it")
        system = ConfiguredSystem(config, root, progress)
    comparison = Comparison(system, arguments.calls, ways, progress)
    try:
        return await comparison.run()
    except asyncio.CancelledError:
        comparison.report.error = "interrupted"
        return comparison.report


# ---- the table ------------------------------------------------------------------------------------------------


def show(report: Report, console: Console | None = None) -> None:
    """Print the summary; it fits 80 columns."""
    from rich.console import Console

    console = console or Console(highlight=False)
    _show_figures(report, console)
    for path in report.paths:
        _show_elements(report, path, console)
        _show_points(report, path, console)
    _show_missing(report, console)
    failed = [call for call in report.calls if call.error]
    for call in failed:
        console.print(f"[bold red]call {call.number}, {call.path.label}:[/] ", end="")
        console.print(call.error, markup=False)
    if report.error:
        console.print("[bold red]failed:[/] ", end="")
        console.print(report.error, markup=False)
    verdict = "[bold green]every call was made and measured[/]" if report.ok else "[bold red]not every call[/]"
    console.print(f"\n{verdict}")


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), min_width=len(title.strip()))
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    return table


def _show_figures(report: Report, console: Console) -> None:
    from simulators.lab.compare.figures import FIGURES

    calls = " and ".join(f"{len(report.of(path))} over the {path.label}" for path in report.paths)
    both = len(report.paths) == 2
    columns = ["figure", *(path.label if both else f"{path.label}: median" for path in report.paths)]
    table = _table(f"Calls: {calls}", *columns, *(["edge - UE [95 %]"] if both else ["p5", "p95", "n"]))
    for figure in FIGURES:
        title = f"{figure.title} {figure.unit}".strip()
        cells = []
        for path in report.paths:
            found = report.summary(path, figure.key)
            cells.append(_number(found.median if found else None, figure.digits))
            if not both:
                cells += [_number(value, figure.digits) for value in ((found.p5, found.p95) if found else (None, None))]
                cells.append(str(found.n if found else 0))
        if both:
            cells.append(_difference(report.difference(figure.key), figure.digits))
        table.add_row(title, *cells)
    console.print(table)


def _show_elements(report: Report, path: object, console: Console) -> None:
    from simulators.lab.compare.model import Path as Way

    assert isinstance(path, Way)
    table = _table(
        f"\n{path.label[0].upper()}{path.label[1:]}: elements while talking", "element", "CPU %", "memory MB"
    )
    for name in report.element_names(path):
        cpu, memory = report.element(path, name)
        table.add_row(name, _number(cpu.median if cpu else None, 1), _number(memory.median if memory else None, 0))
    if table.row_count:
        console.print(table)


def _show_points(report: Report, path: object, console: Console) -> None:
    from simulators.lab.compare.model import Path as Way

    assert isinstance(path, Way)
    table = _table("\nReference points, per call", "point", "messages", "packets", "bytes")
    for name in report.point_names(path):
        found = report.point(path, name)
        table.add_row(name, *(_median(found[what]) for what in ("messages", "packets", "bytes")))
    if table.row_count:
        console.print(table)


def _show_missing(report: Report, console: Console) -> None:
    for path in report.paths:
        for reason, figures in report.missing(path).items():
            names = ", ".join(figure.title for figure in figures)
            console.print(f"\n{path.label}, not measured: {names}\n  because: {reason}", markup=False)


def _difference(apart: Difference | None, digits: int) -> str:
    if apart is None:
        return "–"
    value, low, high = (f"{number:+.{digits}f}" for number in (apart.value, apart.low, apart.high))
    return f"{value} [{low}, {high}]"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _median(found: Summary | None) -> str:
    return _number(found.median if found else None, 0)
