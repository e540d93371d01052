"""Listening to a call for as long as it takes to judge its speech.

A machine can stop for a tenth of a second: its hypervisor gives the processor to another guest, or programs crowd it.
Real sound cards go on meanwhile, the browser's fake one does not: its microphone's time stands still, and whoever
listens at the other end hears a gap in the middle of a word, whatever the path is like.  So the measuring
instruments are watched, and speech counts from a stretch in which they kept time.  What the path itself does to
speech changes no clock, and counts.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, Self

from simulators.lab.speech import LENGTH_SECONDS, RATE, Samples

TALK_SECONDS = 2 * LENGTH_SECONDS + 2.0
"""Long enough for one whole round of the loop each way, wherever it begins."""
LONGEST_SECONDS = 60.0
"""After which what there is must do."""
_SETTLE_SECONDS = 4.0
"""How long a browser takes to catch up after it was held up."""
_LOOK_SECONDS = 0.5
_LOST_MS = {"microphone": 25.0, "loudspeaker": 25.0, "recording": 400.0}
"""Two and a half buffers of the sound card; a recording comes in blocks of 171 ms, and two may be on their way."""
_HELD_UP_SECONDS = 0.060


class SoundCard(Protocol):
    """A browser's page with a call."""

    async def listen(self) -> None:
        """Begin to record."""

    async def clocks(self) -> dict[str, tuple[float, float]]:
        """Of each part of the sound card: a true clock, and its own; milliseconds."""


class Sleeper:
    """A thread that does nothing but sleep; ``with`` it.  When it wakes up late, nothing else ran in time either."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self._longest = 0.0
        self._thread = threading.Thread(target=self._sleep, name="sleeper", daemon=True)

    def _sleep(self) -> None:
        before = time.monotonic()
        while not self._end.wait(0.01):
            now = time.monotonic()
            self._longest = max(self._longest, now - before - 0.01)
            before = now

    def late(self) -> float:
        """The longest that it was late since last asked, seconds."""
        longest, self._longest = self._longest, 0.0
        return longest

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


class _Keeper:
    """Tells which clocks have stood still since the last look."""

    def __init__(self) -> None:
        self._before: dict[str, float] = {}

    def lost(self, clocks: dict[str, tuple[float, float]]) -> dict[str, float]:
        """Milliseconds by clock, of those that lost more than they may."""
        behind = {name: true - own for name, (true, own) in clocks.items()}
        found = {name: behind[name] - self._before.get(name, behind[name]) for name in behind}
        self._before = behind
        return {name: ms for name, ms in found.items() if ms > _LOST_MS[name]}


async def listen(
    pages: Sequence[SoundCard],
    tell: Callable[[str], None],
    look: Callable[[], None] = lambda: None,
    *,
    seconds: float = TALK_SECONDS,
    longest: float = LONGEST_SECONDS,
) -> str:
    """Record until all clocks have kept time for ``seconds`` on end; that is what the recordings then end with.

    ``tell`` gets told of whatever made this take longer, ``look`` is called all the while.  Returns what is to be said
    of speech that was not good: empty, or that the machine never ran evenly for so long within ``longest`` seconds.
    """
    for page in pages:
        await page.listen()
    keepers = [_Keeper() for _ in pages]
    for page, keeper in zip(pages, keepers, strict=True):
        keeper.lost(await page.clocks())
    begin = since = time.monotonic()
    with Sleeper() as sleeper:
        while (now := time.monotonic()) < since + seconds:
            if now > begin + longest:
                return f"this machine did not run evenly for {seconds:.0f} s within {longest:.0f} s"
            await asyncio.sleep(min(_LOOK_SECONDS, max(0.0, since + seconds - now)))
            look()
            lost: dict[str, float] = {}
            for page, keeper in zip(pages, keepers, strict=True):
                lost |= keeper.lost(await page.clocks())
            if (late := sleeper.late()) > _HELD_UP_SECONDS:
                lost["machine"] = 1000 * late
            if lost:
                what = ", ".join(f"{name} {ms:.0f} ms" for name, ms in lost.items())
                if time.monotonic() > since:
                    tell(f"the machine was held up ({what}): listening anew")
                since = time.monotonic() + _SETTLE_SECONDS
    return ""


def last(samples: Samples, seconds: float = TALK_SECONDS) -> Samples:
    """The end of a recording (16 kHz): what was heard while all clocks kept time."""
    return samples[-int(seconds * RATE) :]
