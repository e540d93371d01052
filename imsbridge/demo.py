"""``imsbridge demo``: see it work, on this machine, without root or hardware."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
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
    from simulators.lab.demo import Demo, DemoResult
    from simulators.lab.measures import CallResult

_DESCRIPTION = """\
Builds a lab of four hosts in network namespaces (handset, laptop, operator, phone), starts the UE agent with a
simulated SIM card behind a real pcscd, an IMS core, a VoLTE phone and a headless Chromium, and lets the browser call
the phone and the phone call the browser.  Then a second Chromium, on the laptop without agent and card, does the same
through the network edge, registered in three ways, and calls the first one.  Nothing of this machine's own
configuration is touched, and nothing is left behind.
"""
_EPILOG = """\
exit codes: 0 every step held, 1 a step did not, 2 wrong arguments, 3 the lab cannot be built here
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``demo`` to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="a browser calls a VoLTE phone and is called back, in a lab on this machine",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--path",
        choices=("ue", "edge"),
        help="only this one: through the agent on the device (ue), or through the network edge (edge); default: both",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the measurements here too (docs/demo-json.md)")
    parser.add_argument("--keep", action="store_true", help="leave the lab running afterwards, until Ctrl-C")
    parser.add_argument("--logs", metavar="DIR", type=Path, help="keep logs, recordings and event files here")
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="of all programs (default info)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; the return value is the exit code."""
    from simulators.lab.world import LabError, enter

    try:
        enter()
    except LabError as error:
        print(f"imsbridge demo: {error}", file=sys.stderr)
        return 3
    root = Path(tempfile.mkdtemp(prefix="imsbridge-"))
    try:
        result = asyncio.run(_run(arguments, root))
    except LabError as error:
        print(f"imsbridge demo: {error}", file=sys.stderr)
        return 3
    finally:
        if arguments.logs is not None:
            copy_files(root, arguments.logs)
        shutil.rmtree(root, ignore_errors=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(as_json(result), indent=2) + "\n")
    if not arguments.keep:
        show(result)
    return 0 if result.ok else 1


async def _run(arguments: argparse.Namespace, root: Path) -> DemoResult:
    from simulators.lab.demo import Demo

    started = time.monotonic()
    stop = asyncio.Event()
    task = asyncio.current_task()
    assert task is not None

    def interrupt() -> None:
        stop.set()
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, interrupt)

    def progress(text: str) -> None:
        print(f"  {time.monotonic() - started:5.1f} s  {text}", file=sys.stderr, flush=True)

    paths = ("ue", "edge") if arguments.path is None else (arguments.path,)
    demo = Demo(root, progress, arguments.log_level, paths)

    async def keep() -> None:
        if arguments.keep and not stop.is_set():
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            show(demo.result)
            print(_keep_text(demo), file=sys.stderr, flush=True)
            await stop.wait()

    try:
        return await demo.run(keep)
    except asyncio.CancelledError:
        demo.result.error = "interrupted"
        return demo.result


def _keep_text(demo: Demo) -> str:
    from simulators.lab.host import is_machine_root

    handset = demo.lab.net.handset
    into = f"nsenter -t {handset.pid}" + ("" if is_machine_root() else " -U --preserve-credentials")
    return (
        f"\nThe lab runs on. A browser of your own on the handset (end it before the lab):\n\n"
        f"  {into} -n -m env HOME={handset.home} chromium --no-sandbox https://portal.ims.example/\n\n"
        f"Logs are in {demo.lab.root}. Ctrl-C ends the lab.\n"
    )


def copy_files(root: Path, target: Path) -> None:
    """Copy what a person may want to read: logs, events, recordings; no keys."""
    target.mkdir(parents=True, exist_ok=True)
    for pattern in ("*/*.log", "*.events", "*.wav"):
        for path in root.glob(pattern):
            name = path.name if path.parent == root else f"{path.parent.name}-{path.name}"
            shutil.copyfile(path, target / name)


def as_json(result: DemoResult) -> dict[str, object]:
    """Return the stable, documented form of the measurements."""
    return {"version": 1, "ok": result.ok, **dataclasses.asdict(result)}


def show(result: DemoResult) -> None:
    """Print the tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if result.start:
        table = Table(title="Log-in", title_justify="left", box=None, padding=(0, 2, 0, 0))
        table.add_column("step")
        table.add_column("ms", justify="right")
        table.add_column("")
        for step in result.start:
            table.add_row(step.name, _number(step.ms), _verdict(step.ok, step.note))
        console.print(table)
    registration = result.registration
    if registration.security:
        console.print(
            f"\nIMS registration: {registration.security} by the {registration.backend} back end; set-up "
            f"{registration.protected_ms:.0f} ms, {registration.clear_ms:.0f} ms in clear (medians)"
        )
    for call in result.calls:
        console.print()
        _show_call(console, call)
    if result.edge.registrations:
        _show_edge(console, result)
    if result.calls:
        load = result.load
        console.print(
            f"\nUE agent while talking: {load.cpu_percent} % of one core, {load.memory_mb:.0f} MB in all its processes "
            f"({load.media_memory_mb:.0f} MB without the web proxy)"
        )
    if result.error:
        console.print(f"\n[bold red]failed:[/] {result.error}", highlight=False)
    console.print("\n[bold green]every step held[/]" if result.ok else "\n[bold red]not every step held[/]")


def _show_call(console: object, call: CallResult) -> None:
    from rich.console import Console
    from rich.table import Table

    assert isinstance(console, Console)
    table = Table(title=call.name[0].upper() + call.name[1:], title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("step")
    table.add_column("ms", justify="right")
    table.add_column("")
    for step in call.steps:
        table.add_row(step.name, _number(step.ms), _verdict(step.ok, step.note))
    console.print(table)
    speech = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("speech", "codecs", "packets", "PESQ", "codecs alone", "likeness", "added ms", ""):
        speech.add_column(name, justify="left" if name in ("speech", "codecs", "") else "right")
    for name, way in ((f"to {call.far}", call.to_phone), (f"to {call.near}", call.to_browser)):
        speech.add_row(
            name,
            way.codecs.replace(" > ", "→"),
            str(way.packets),
            "–" if way.pesq is None else f"{way.pesq:.2f}",
            "–" if way.pesq_codecs is None else f"{way.pesq_codecs:.2f}",
            f"{way.correlation:.2f}",
            "–" if way.added_ms is None else f"{way.added_ms:.1f}",
            _verdict(way.ok, ""),
        )
    console.print(speech)


def _show_edge(console: object, result: DemoResult) -> None:
    from rich.console import Console
    from rich.table import Table

    assert isinstance(console, Console)
    console.print()
    table = Table(title="Registration through the edge", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("way")
    table.add_column("ms", justify="right")
    table.add_column("")
    for step in result.edge.registrations:
        table.add_row(step.name, _number(step.ms), _verdict(step.ok, step.note))
    console.print(table)
    for call in result.edge.calls:
        console.print()
        _show_call(console, call)


def _number(ms: float | None) -> str:
    return "–" if ms is None else f"{ms:.0f}"


def _verdict(ok: bool, note: str) -> str:
    return f"[green]ok[/] {note}" if ok else f"[bold red]no[/] {note}"
