"""The AT port as an engine: one command at a time, its answer told from echo and unsolicited lines (V.250 clause 5)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from imskit.engine import Tick
from ue_agent.uicc.wire.at import Final, LineReader, final_result

MAX_LINES = 256
"""Lines that may come during one command; a port that says more is no AT port."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a command line.  Only one at a time.  Not shown: it may hold a PIN or a challenge."""

    command: str = field(repr=False)
    """Without its carriage return."""
    prefix: str = ""
    """What the information lines of its answer begin with, such as ``+CSIM:``."""
    bare: bool = False
    """Whether an information line of digits alone is an answer too (AT+CCHO)."""
    seconds: float = 10.0
    """How long the final result may take."""


@dataclass(frozen=True, slots=True)
class Octets:
    """Came from the port."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class Write:
    """To the port.  Not shown: a command may hold a PIN or a challenge."""

    octets: bytes

    def __repr__(self) -> str:
        return f"Write({len(self.octets)} octets)"


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to the command."""

    lines: tuple[str, ...] = field(repr=False)
    """Information lines with the wanted prefix."""
    final: Final


@dataclass(frozen=True, slots=True)
class Unsolicited:
    """A line that belongs to no answer.  Not shown: it may be an answer that comes too late, with keys in it."""

    line: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Silence:
    """There is no answer to the command; ``reason`` ends the sentence "the modem …"."""

    reason: str


type Event = Ask | Octets
type Output = Write | Reply | Unsolicited | Silence


class AtLine:
    """See the module's text."""

    def __init__(self) -> None:
        self._reader = LineReader()
        self._outputs: deque[Output] = deque()
        self._asked: Ask | None = None
        self._deadline: float | None = None
        self._lines: list[str] = []
        self._count = 0
        self._dropped_before = 0

    def handle(self, event: Event | Tick, now: float) -> None:
        """See ``Engine``; ``ValueError`` for a second command before the first is done."""
        match event:
            case Ask():
                self._ask(event, now)
            case Octets(octets):
                for line in self._reader.feed(octets):
                    self._line(line)
            case Tick():
                if self._deadline is not None and now >= self._deadline:
                    self._give_up(self._why_silent())

    def poll(self) -> Output | None:
        """See ``Engine``."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """See ``Engine``."""
        return self._deadline

    def _ask(self, ask: Ask, now: float) -> None:
        if self._asked is not None:
            raise ValueError("one AT command at a time")
        self._asked, self._deadline = ask, now + ask.seconds
        self._lines, self._count, self._dropped_before = [], 0, self._reader.dropped
        self._outputs.append(Write(ask.command.encode("ascii") + b"\r"))

    def _line(self, line: str) -> None:
        asked = self._asked
        if asked is None:
            self._outputs.append(Unsolicited(line))
            return
        self._count += 1
        if self._count > MAX_LINES:
            self._give_up(f"sent {MAX_LINES} lines and no result: it is no AT port")
        elif line == asked.command:
            pass  # the echo
        elif (final := final_result(line)) is not None:
            self._asked = self._deadline = None
            self._outputs.append(Reply(tuple(self._lines), final))
        elif (asked.prefix and line.startswith(asked.prefix)) or (asked.bare and line.strip('"').isdecimal()):
            self._lines.append(line)
        else:
            self._outputs.append(Unsolicited(line))

    def _give_up(self, reason: str) -> None:
        self._asked = self._deadline = None
        self._outputs.append(Silence(reason))

    def _why_silent(self) -> str:
        assert self._asked is not None
        waited = f"did not answer within {self._asked.seconds:g} s"
        if noise := self._reader.dropped - self._dropped_before:
            return f"{waited} but sent {noise} lines without end: is the speed right?"
        return waited
