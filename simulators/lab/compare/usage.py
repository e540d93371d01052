"""CPU and memory of the elements of a path while both sides talk."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping

import psutil

from simulators.lab.compare.model import Usage


class Meter:
    """Watches elements, each a program with all its children, from its making on."""

    def __init__(self, elements: Mapping[str, int]) -> None:
        """``elements``: process id by name."""
        self._roots = dict(elements)
        self._memory: dict[str, float] = {}
        self._begin = time.monotonic()
        self._cpu = {name: _cpu(pid) for name, pid in self._roots.items()}

    def look(self) -> None:
        """Note the memory of now."""
        for name, pid in self._roots.items():
            self._memory[name] = max(self._memory.get(name, 0.0), _memory(pid))

    def result(self) -> dict[str, Usage]:
        """What was used since the beginning."""
        seconds = time.monotonic() - self._begin
        used = {name: max(0.0, _cpu(pid) - self._cpu[name]) for name, pid in self._roots.items()}
        if not self._memory:
            self.look()
        return {
            name: Usage(round(100 * spent / seconds, 1), round(self._memory[name] / 1e6, 1))
            for name, spent in used.items()
        }


def _family(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _cpu(pid: int) -> float:
    total = 0.0
    for process in _family(pid):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _memory(pid: int) -> float:
    total = 0.0
    for process in _family(pid):
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total
