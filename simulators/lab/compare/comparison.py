"""The calls of a comparison: alternating over the paths, each measured from both ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path as File
from typing import Any

import psutil
from playwright.async_api import Error as BrowserError

from imskit.observe.events import read_events
from simulators.lab.compare import sound
from simulators.lab.compare.model import CallMeasure, Conditions, Path, Report
from simulators.lab.compare.page import WatchedPage
from simulators.lab.compare.system import Access, FarPhone, Progress, System
from simulators.lab.compare.usage import Meter
from simulators.lab.control import ControlError, ask, until
from simulators.lab.listening import listen
from simulators.lab.speech import RATE, Samples, read_wav, resample
from simulators.lab.world import LabError

_ANSWER_SECONDS = 60.0
_NO_SPEECH = "the known speech was not found in the recording"
_STRANGER = "only a phone of this release, on this machine, tells what it sees and hears"
_HANG_UP_SECONDS = 0.5
"""From the end of listening to the call's end, about."""
_SPEECH_FIGURES = ("delay_to_phone_ms", "delay_to_browser_ms", "pesq_to_phone", "pesq_to_browser")
_FAR_FIGURES = (
    *_SPEECH_FIGURES,
    "first_to_phone_ms",
    "jitter_to_phone_ms",
    "loss_to_phone_percent",
    "loss_to_browser_percent",
    "transcoding_to_phone",
    "transcoding_to_browser",
)


@dataclass(frozen=True)
class _Talk:
    statistics: dict[str, dict[str, Any]]
    """The browser's own figures at the end."""
    microphone: sound.Recording
    ear: sound.Recording
    uneven: str
    """Why speech says nothing of the path; empty if it does."""


class Comparison:
    """Runs the calls; ``report`` grows while it does."""

    def __init__(self, system: System, calls: int, paths: list[Path], progress: Progress) -> None:
        self._system = system
        self._phone = system.phone
        self._progress = progress
        self.report = Report(datetime.now(UTC).isoformat(timespec="seconds"), calls, paths)
        self._spoken: dict[str, Samples] = {}
        self._talk_seconds = 0.0
        self._accesses: Mapping[Path, Access] = {}

    async def run(self) -> Report:
        """Make the system ready, make all calls, take it down; what failed is in the report."""
        try:
            self._read_speech()
            self.report.conditions = _conditions(self._talk_seconds)
            async with self._system.open(self.report.paths, self.report.conditions) as self._accesses:
                for access in self._accesses.values():
                    self.report.conditions.versions["browser"] = access.browser.driver.version
                for number in range(1, self.report.wanted + 1):
                    for path in self.report.paths:
                        self.report.calls.append(await self._call(path, number))
        except LabError as error:
            self.report.error = str(error)
        return self.report

    # ---- parts --------------------------------------------------------------------------------

    def _read_speech(self) -> None:
        files = {"browser": self._system.microphone}
        if self._phone is not None:
            files["phone"] = self._phone.spoken
        for name, file in files.items():
            samples, rate = read_wav(file)
            self._spoken[name] = resample(samples, rate, RATE)
        # Long enough for one whole round of either loop, wherever it begins.
        self._talk_seconds = 2 * max(len(samples) for samples in self._spoken.values()) / RATE + 2.0

    async def _call(self, path: Path, number: int) -> CallMeasure:
        measure = CallMeasure(path, number)
        self._progress(f"call {number} of {self.report.wanted}, {path.label}")
        try:
            async with self._page(path) as page:
                await self._measure(page, measure)
        except (LabError, ControlError, BrowserError) as error:
            measure.error = str(error).splitlines()[0]
            self._progress(f"call {number}, {path.label}: {measure.error}")
            if self._phone is not None:
                with contextlib.suppress(ControlError):  # the next call wants a phone that is free
                    await ask(self._phone.control, "POST", "/hangup")
        measure.complete(f"the call failed: {measure.error}" if measure.error else "not observed")
        return measure

    @contextlib.asynccontextmanager
    async def _page(self, path: Path) -> AsyncIterator[WatchedPage]:
        page = await WatchedPage.open(self._accesses[path].browser.driver.contexts[0])
        try:
            yield page
        finally:
            with contextlib.suppress(Exception):  # a browser that died has closed it already
                await page.close()

    async def _measure(self, page: WatchedPage, measure: CallMeasure) -> None:
        access = self._accesses[measure.path]
        for capture in access.captures:
            capture.reset()
        loaded = await page.load(access.portal, access.log_in)
        measure.put("page_load_ms", loaded.load_ms)
        measure.put("log_in_ms", loaded.log_in_ms)
        measure.put("registration_ms", loaded.registration_ms, "the page did not mark it")
        await page.phone.plain_voice()
        await page.phone.clear_marks()
        since = time.monotonic()
        clicked = await page.phone.dial(self._system.number)
        await page.phone.until("call", "talking", within=_ANSWER_SECONDS)
        talk = await self._talk(page, access, measure)
        await page.phone.press("hangup")
        await page.phone.until("call", "idle", within=15)
        phone = await self._phone_ended(since)
        _set_up(measure, clicked, await page.steps(), phone)
        _packets(measure, talk.statistics, phone.get("ended", {}))
        if self._phone is None:
            for key in _FAR_FIGURES:
                measure.put(key, None, _STRANGER)
        else:
            await asyncio.to_thread(self._rate, measure, self._phone, talk, phone["answered"]["at"])
        measure.points["W1"], measure.points["W2"] = loaded.w1, page.w2
        for capture in access.captures:
            measure.points |= capture.result()

    async def _talk(self, page: WatchedPage, access: Access, measure: CallMeasure) -> _Talk:
        """Let both speak, for as long as it takes to judge it, and watch what everybody uses."""
        assert access.browser.process is not None
        begin = time.monotonic()
        meter = Meter({"browser": access.browser.process.pid, **access.elements()})
        looked = begin

        def look() -> None:
            nonlocal looked
            if time.monotonic() > looked + self._talk_seconds / 3:
                looked = time.monotonic()
                meter.look()

        uneven = await listen([page], self._progress, look, seconds=self._talk_seconds)
        measure.elements = meter.result()
        measure.talk_seconds = round(time.monotonic() - begin, 1)
        return _Talk(await page.statistics(), *await page.heard(), uneven)

    async def _phone_ended(self, since: float) -> dict[str, dict[str, Any]]:
        """The phone's events of this call, the first of each name, when it has ended there."""
        if self._phone is None:
            return {}
        events = self._phone.events

        async def look() -> dict[str, dict[str, Any]]:
            found: dict[str, dict[str, Any]] = {}
            for event in read_events(events):
                if event["at"] >= since:
                    found.setdefault(event["event"], event)
            return found if "ended" in found else {}

        found = await until(look, "the phone sees the call's end", within=15)
        if "answered" not in found:
            raise LabError("the phone did not answer this call")
        return found

    def _rate(self, measure: CallMeasure, phone: FarPhone, talk: _Talk, answered: float) -> None:
        """Speech each way.  The phone speaks its file from its first sample, and records, from answering on."""
        if talk.uneven:
            for key in _SPEECH_FIGURES:
                measure.put(key, None, talk.uneven)
            return
        samples, rate = read_wav(phone.recording)
        at_phone = sound.Recording(resample(samples, rate, RATE), answered).last(self._talk_seconds + _HANG_UP_SECONDS)
        microphone, ear = talk.microphone.last(self._talk_seconds), talk.ear.last(self._talk_seconds)
        try:
            spoken = self._spoken["phone"]
            heard = sound.find(spoken, ear)
            measure.put("delay_to_browser_ms", sound.delay_ms(answered, heard.at, len(spoken) / RATE))
            measure.put("pesq_to_browser", heard.pesq, "the package pesq is not installed")
        except LabError as error:
            measure.put("delay_to_browser_ms", None, f"{_NO_SPEECH}: {error}")
            measure.put("pesq_to_browser", None, f"{_NO_SPEECH}: {error}")
        try:
            spoken = self._spoken["browser"]
            heard = sound.find(spoken, at_phone)
            measure.put("pesq_to_phone", heard.pesq, "the package pesq is not installed")
            said = sound.find(spoken, microphone)
            measure.put("delay_to_phone_ms", sound.delay_ms(said.at, heard.at, len(spoken) / RATE))
        except LabError as error:
            for key in ("pesq_to_phone", "delay_to_phone_ms"):
                if key not in measure.values:
                    measure.put(key, None, f"{_NO_SPEECH}: {error}")


def _set_up(measure: CallMeasure, clicked: float, steps: dict[str, float], phone: dict[str, dict[str, Any]]) -> None:
    """The steps of the call from the click on."""
    first = phone.get("first-rtp-received", {})
    seen = {
        "post_dial_delay_ms": steps.get("call:180"),
        "time_to_answer_ms": steps.get("call:200"),
        "ice_ms": steps.get("ice"),
        "dtls_ms": steps.get("dtls"),
        "first_to_browser_ms": steps.get("first"),
        "first_to_phone_ms": first.get("packet_at") or first.get("at"),
    }
    for key, at in seen.items():
        measure.put(key, None if at is None else 1000 * (at - clicked), "it did not happen")


def _packets(measure: CallMeasure, browser: dict[str, dict[str, Any]], phone: dict[str, Any]) -> None:
    """Jitter, loss and codecs from the reports of both ends."""
    received, sent = browser.get("inbound-rtp", {}), browser.get("outbound-rtp", {})
    told = browser.get("remote-inbound-rtp", {})
    jitter = received.get("jitter")
    measure.put("jitter_to_browser_ms", None if jitter is None else 1000 * jitter, "no RTP came")
    measure.put("jitter_to_phone_ms", phone.get("jitter_ms"), "no RTP came")
    measure.put(
        "loss_to_phone_percent",
        _loss(
            _share(told.get("packetsLost"), sent.get("packetsSent")),
            _share(phone.get("packets_lost"), _sum(phone.get("packets_lost"), phone.get("packets_received"))),
        ),
        "no RTCP report came from the gateway",
    )
    measure.put(
        "loss_to_browser_percent",
        _loss(
            _share(phone.get("peer_lost"), phone.get("packets_sent")),
            _share(received.get("packetsLost"), _sum(received.get("packetsLost"), received.get("packetsReceived"))),
        ),
        "no RTCP report came from the gateway",
    )
    names = {
        "browser_sends": _codec(sent.get("codec", "")),
        "browser_receives": _codec(received.get("codec", "")),
        "phone": str(phone.get("codec") or ""),
    }
    measure.codecs = names
    for key, name in (("transcoding_to_phone", "browser_sends"), ("transcoding_to_browser", "browser_receives")):
        known = names[name] and names["phone"]
        steps = float(names[name].lower() != names["phone"].lower()) if known else None
        measure.put(key, steps, "the codecs are not known")


def _codec(mime_type: str) -> str:
    return mime_type.partition("/")[2]


def _sum(*parts: float | None) -> float | None:
    return None if None in parts else sum(part for part in parts if part is not None)


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else min(1.0, max(0.0, part / whole))


def _loss(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else 100 * (1 - (1 - first) * (1 - second))


def _conditions(talk_seconds: float) -> Conditions:
    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "from source"

    cpu = ""
    with contextlib.suppress(OSError):
        lines = File("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return Conditions(
        versions={"imsbridge": installed("imsbridge"), "Python": platform.python_version()},
        machine={
            "kernel": f"{platform.system()} {platform.release()}",
            "processor": cpu or platform.machine(),
            "cores": str(os.cpu_count()),
            "memory": f"{psutil.virtual_memory().total / 1e9:.1f} GB",
        },
        notes={"talking time of each call": f"{talk_seconds:.0f} s"},
    )
