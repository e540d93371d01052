"""What the edge's programs have in common: their two sub-commands, and how they end."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from imskit.observe import logs
from imskit.tasks import spawn

type Command = Callable[[argparse.Namespace], int]
"""Takes the arguments, returns the exit code."""


def add_run_and_check(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    *,
    help: str,
    description: str,
    epilog: str,
    run: tuple[str, Command],
    check: tuple[str, Command],
) -> None:
    """Add ``name run`` and ``name check``, each with a configuration; the texts are their one-line helps."""
    commands = subparsers.add_parser(name, help=help).add_subparsers(dest="part_command", required=True)
    for command, (text, function) in (("run", run), ("check", check)):
        parser = commands.add_parser(
            command,
            help=text,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("-c", "--config", metavar="FILE", type=Path, required=True, help="configuration (TOML)")
        parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="(default info)")
        parser.set_defaults(run=function)


class Drainable(Protocol):
    """A service with calls."""

    def drain(self) -> None:
        """Take no new calls."""

    async def drained(self) -> None:
        """Return when no call is left."""


class Ending:
    """SIGTERM and SIGINT, from now on: the first one drains, the second ends.

    Make it with a running loop, and before the program says that it is ready: who has read that may send a signal.
    """

    def __init__(self) -> None:
        self._stop, self._end = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)

    async def wait(self, service: Drainable, seconds: float) -> None:
        """Return after a first signal, and then: no call left, a second signal, or ``seconds``."""
        await self._stop.wait()
        service.drain()
        tasks = {spawn(service.drained(), "running calls"), spawn(self._second(), "second signal")}
        _, pending = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()

    async def _second(self) -> None:
        await self._end.wait()

    def _signalled(self) -> None:
        (self._end if self._stop.is_set() else self._stop).set()
