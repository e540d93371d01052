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
    """Print the table, and what did not hold."""
    from rich.console import Console
    from rich.text import Text

    from imsbridge.demo_table import problems, rows, table

    console = Console(highlight=False)
    if rows(result):
        console.print(table(result))
        console.print("\nTimes in ms from the click or the dialling on. PESQ: in brackets what the codecs alone give.")
    registration = result.registration
    if registration.security:
        console.print(
            f"\nIMS registration of the agent: {registration.security} by the {registration.backend} back end; set-up "
            f"{registration.protected_ms:.0f} ms, {registration.clear_ms:.0f} ms in clear (medians)"
        )
    if result.calls:
        load = result.load
        console.print(
            f"UE agent while talking: {load.cpu_percent} % of one core, {load.memory_mb:.0f} MB in all its processes "
            f"({load.media_memory_mb:.0f} MB without the web proxy)"
        )
    for problem in problems(result):
        console.print("[bold red]no[/]", Text(problem))
    if result.error:
        console.print("\n[bold red]failed:[/]", Text(result.error))
    console.print("\n[bold green]every step held[/]" if result.ok else "\n[bold red]not every step held[/]")
