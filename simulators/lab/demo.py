"""The demo: a browser calls a VoLTE phone and is called back, measured step by step.

The result is a plain structure (``docs/demo-json.md``); showing it is the command line's part.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from imskit.observe.events import read_events
from simulators.lab.browser import Browser, PhonePage
from simulators.lab.edge_demo import EdgeDemo, EdgeResult
from simulators.lab.lab import PHONE_NUMBER, PORTAL_URL, USER_NUMBER, Lab
from simulators.lab.listening import TALK_SECONDS, last, listen
from simulators.lab.measures import CallResult, Step, rate_speech, said, step
from simulators.lab.speech import make_speech, read_wav
from simulators.lab.world import LabError

type Progress = Callable[[str], None]


@dataclass
class Load:
    """What the agent (with its children) used during the calls."""

    cpu_percent: float = 0.0
    """Of one core, mean over the talking time of both calls."""
    memory_mb: float = 0.0
    """Proportional set size of all its processes, largest seen."""
    media_memory_mb: float = 0.0
    """Of the agent's own process alone."""


@dataclass
class Registration:
    """How Gm is protected, and what that costs: medians of the same UE's registrations, one after the other."""

    security: str = ""
    """Of the agent's registration: ``IPsec null/aes-gcm``."""
    backend: str = ""
    """What does ESP on the device: ``kernel`` or ``userspace``."""
    protected_ms: float = 0.0
    """From the decision to register to the 200, with a security agreement."""
    clear_ms: float = 0.0
    """The same without."""


@dataclass
class DemoResult:
    """Everything that the demo measured."""

    registration: Registration = field(default_factory=Registration)
    start: list[Step] = field(default_factory=list)
    calls: list[CallResult] = field(default_factory=list)
    load: Load = field(default_factory=Load)
    edge: EdgeResult = field(default_factory=EdgeResult)
    """The path through the network edge."""
    paths: tuple[str, ...] = ("ue", "edge")
    """Which paths were wanted."""
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether everything held."""
        ue = len(self.calls) == 2 and all(call.ok for call in self.calls) and all(step.ok for step in self.start)
        return not self.error and ("ue" not in self.paths or ue) and ("edge" not in self.paths or self.edge.ok)


class Demo:
    """Runs the calls of one or both paths in a `Lab`."""

    def __init__(
        self, root: Path, progress: Progress, log_level: str = "info", paths: tuple[str, ...] = ("ue", "edge")
    ) -> None:
        self._root = root
        self._progress = progress
        self.lab = Lab(root, log_level=log_level, progress=progress)
        self.result = DemoResult(paths=paths)
        self._speech: dict[str, Path] = {}
        self._recording = root / "phone-heard.wav"
        self._usage: list[tuple[float, float]] = []

    async def run(self, keep: Callable[[], Any] | None = None) -> DemoResult:
        """Start the lab, make both calls; ``keep`` is awaited before the lab is taken down."""
        try:
            self._speech = make_speech(self._root)
            await self.lab.start(play=self._speech["phone"], record=self._recording)
            await self._registered()
            if "ue" in self.result.paths:
                await self._ue()
            if "edge" in self.result.paths:
                await self._edge()
        except LabError as error:
            self.result.error = str(error)
        finally:
            if keep is not None:
                await keep()
            await self.lab.stop()
        return self.result

    # ---- parts --------------------------------------------------------------------------------

    async def _registered(self) -> None:
        self._progress("the SIM card registers with the IMS core")
        await self._until(self._agent_registered, "the agent registers with the IMS core")
        await self._until(self._phone_registered, "the phone registers with the IMS core")

    async def _ue(self) -> None:
        async with Browser(self.lab.net.handset, self._speech["browser"]) as browser:
            page = PhonePage(await browser.new_page())
            await self._log_in(page)
            await self._call(page, CallResult("browser calls phone"), self._browser_calls)
            await self._call(page, CallResult("phone calls browser"), self._phone_calls)

    async def _edge(self) -> None:
        await self.lab.start_edge()
        part = EdgeDemo(self.lab, self._speech, self._recording, self._progress)
        self.result.edge = part.result
        await part.run()

    async def _log_in(self, page: PhonePage) -> None:
        await self._registration()
        self._progress("Chromium opens the operator's page")
        begin = time.monotonic()
        loaded = await page.open(PORTAL_URL)
        await page.until("session", "in", "out")
        if await page.data("session") != "in":
            raise LabError(f"the page is not logged in: {await page.shown()}")
        await page.until("line", "ready")
        marks = await page.marks()
        wwsf = _latest(self.lab.events("wwsf"), "aka-done", begin)
        self.result.start = [
            step("page loaded", begin, loaded),
            step("AKA with the SIM card done", begin, wwsf),
            step("page registered", begin, marks.get("page:registered")),
        ]
        await page.plain_voice()

    async def _registration(self) -> None:
        """Look how the agent is registered, and measure what the protection costs."""
        gm = (await self.lab.agent_status())["gm_security"]
        if not gm["agreed"].startswith("IPsec") or not gm["sets"]:
            raise LabError(f"the agent's signalling is not protected by IPsec: {gm}")
        self._progress("a third subscriber registers, in clear and inside a security agreement")
        times = await self.lab.registration_times()
        self.result.registration = Registration(
            gm["agreed"],
            gm["backend"],
            round(statistics.median(times["ipsec"]), 1),
            round(statistics.median(times["off"]), 1),
        )

    async def _call(self, page: PhonePage, result: CallResult, make: Callable[..., Any]) -> None:
        self._progress(f"{result.name}: setting up")
        self.result.calls.append(result)
        await page.clear_marks()
        before = time.monotonic()
        await make(page, result, before)
        await page.until("call", "idle", within=15)
        await self._media_report(result, before)

    async def _browser_calls(self, page: PhonePage, result: CallResult, since: float) -> None:
        begin = await page.dial(PHONE_NUMBER)
        await page.until("call", "talking", within=30)
        await self._talk(page, result)
        await page.press("hangup")
        marks = await page.marks()
        phone = self._phone_steps(since)
        result.steps = [
            step("INVITE sent by the page", begin, marks.get("call:invite")),
            step("180 at the page", begin, marks.get("call:180")),
            step("200 at the page", begin, marks.get("call:200")),
            step("ICE connected", begin, marks.get("call:ice")),
            step("DTLS connected", begin, marks.get("call:dtls")),
            step("first packet to the phone", begin, phone.get("first-rtp-received")),
            step("first packet to the browser", begin, marks.get("lab:first-packet")),
        ]

    async def _phone_calls(self, page: PhonePage, result: CallResult, since: float) -> None:
        begin = time.monotonic()
        await self.lab.phone("POST", "/dial", target=f"tel:{USER_NUMBER}")
        await page.until("call", "ringing-in", within=30)
        pressed = await page.press("answer")
        await page.until("call", "talking", within=30)
        await self._talk(page, result)
        await self.lab.phone("POST", "/hangup")
        await page.until("call", "ended", "idle")
        marks = await page.marks()
        phone = self._phone_steps(since)
        result.steps = [
            step("page rings", begin, marks.get("call:ring")),
            step("user answers", begin, pressed),
            step("200 at the phone", begin, phone.get("answered")),
            step("ICE connected", begin, marks.get("call:ice")),
            step("DTLS connected", begin, marks.get("call:dtls")),
            step("first packet to the phone", begin, phone.get("first-rtp-received")),
            step("first packet to the browser", begin, marks.get("lab:first-packet")),
        ]

    async def _talk(self, page: PhonePage, result: CallResult) -> None:
        """Let both speak, record both, and watch what the agent uses."""
        self._progress(f"{result.name}: talking for {TALK_SECONDS:.0f} s")
        before, started = self._agent_cpu(), time.monotonic()
        note = await listen([page], lambda text: self._progress(f"{result.name}: {text}"), self._note_memory)
        self._usage.append((self._agent_cpu() - before, time.monotonic() - started))
        heard = last(await page.heard())
        recorded = last((await asyncio.to_thread(read_wav, self._recording))[0])
        result.to_browser = rate_speech(heard, self._speech["phone"], "AMR-WB", "opus", note=note)
        result.to_phone = rate_speech(recorded, self._speech["browser"], "opus", "AMR-WB", note=note)
        self._progress(f"{result.name}: {said(result)}")
        cpu, seconds = (sum(part) for part in zip(*self._usage, strict=True))
        self.result.load.cpu_percent = round(100 * cpu / seconds, 1)

    # ---- what the programs noted --------------------------------------------------------------------------------

    def _phone_steps(self, since: float) -> dict[str, float]:
        found: dict[str, float] = {}
        for event in read_events(self.lab.events("phone")):
            if event["at"] >= since:
                found.setdefault(event["event"], event["at"])
        return found

    async def _media_report(self, result: CallResult, since: float) -> None:
        reports: list[dict[str, Any]] = []

        def arrived() -> bool:
            reports[:] = [
                event
                for event in read_events(self.lab.events("agent"))
                if event["event"] == "media-report" and event["at"] >= since
            ]
            return bool(reports)

        async def look() -> bool:
            return arrived()

        await self._until(look, "the agent reports the call's media", within=10)
        report = reports[0]
        result.to_phone.codecs = report.get("to_ims_codecs", "")
        result.to_phone.count(report.get("ims_sent", 0))
        result.to_phone.added_ms = report.get("to_ims_added_ms")
        result.to_browser.codecs = report.get("to_web_codecs", "")
        result.to_browser.count(report.get("web_sent", 0))
        result.to_browser.added_ms = report.get("to_web_added_ms")

    async def _agent_registered(self) -> bool:
        status = await self.lab.agent_status()
        return bool(status["registration"]["ok"])

    async def _phone_registered(self) -> bool:
        return any(event["event"] == "registered" for event in read_events(self.lab.events("phone")))

    async def _until(self, condition: Callable[[], Any], what: str, within: float = 20.0) -> None:
        """Ask again until it holds: the programs are other processes, their files and sockets can only be looked at."""
        end = time.monotonic() + within
        while not await condition():
            if time.monotonic() > end:
                detail = ""
                with contextlib.suppress(Exception):
                    detail = f" ({(await self.lab.agent_status())['registration']['reason']})"
                raise LabError(f"{what}: not within {within:.0f} s{detail}")
            await asyncio.sleep(0.05)

    # ---- what the agent uses --------------------------------------------------------------------------------

    def _agent_processes(self) -> list[psutil.Process]:
        agent = psutil.Process(self.lab.processes["agent"].pid)
        return [agent, *agent.children(recursive=True)]

    def _agent_cpu(self) -> float:
        total = 0.0
        for process in self._agent_processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def _note_memory(self) -> None:
        sizes = []
        for process in self._agent_processes():
            with contextlib.suppress(psutil.Error):
                sizes.append(process.memory_full_info().pss / 1e6)
        if sizes:
            load = self.result.load
            load.memory_mb = max(load.memory_mb, round(sum(sizes), 1))
            load.media_memory_mb = max(load.media_memory_mb, round(sizes[0], 1))


def _latest(path: Path, name: str, since: float) -> float | None:
    found = [event["at"] for event in read_events(path) if event["event"] == name and event["at"] >= since]
    return found[-1] if found else None
