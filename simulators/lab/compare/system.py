"""What the calls of a comparison go through: the lab, or systems that somebody has configured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Protocol

from simulators.lab.browser import Browser
from simulators.lab.compare.capture import Capture
from simulators.lab.compare.model import Conditions, Path
from simulators.lab.compare.page import LogIn

type Progress = Callable[[str], None]


@dataclass(frozen=True)
class FarPhone:
    """A simulated phone of this release on this machine: it tells what it sees, on the clock of the browser."""

    control: File
    """Its Unix socket."""
    events: File
    spoken: File
    """What it says, in a loop."""
    recording: File
    """What it hears, begun anew with each call."""


@dataclass(frozen=True)
class Access:
    """One path, ready for calls."""

    portal: str
    browser: Browser
    log_in: LogIn | None = None
    captures: list[Capture] = field(default_factory=list)
    elements: Callable[[], Mapping[str, int]] = dict
    """Programs in the path by name, as process ids."""


class System(Protocol):
    """Where the calls are made."""

    number: str
    """Who is called."""

    @property
    def phone(self) -> FarPhone | None:
        """The called phone, if it is one of this release."""

    @property
    def microphone(self) -> File:
        """What the browsers' microphones hear, in a loop; 48 kHz mono."""

    def open(self, paths: list[Path], conditions: Conditions) -> AbstractAsyncContextManager[Mapping[Path, Access]]:
        """Make ``paths`` ready and say under what conditions; `LabError` where that cannot be."""
