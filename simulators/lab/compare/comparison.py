"""The calls of a comparison, in the lab: alternating over the paths, each measured from both ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path as File
from typing import Any

import psutil
from playwright.async_api import Error as BrowserError

from imskit.observe.events import read_events
from simulators.impairment.engine import Impairment
from simulators.impairment.plug import Plug, impair
from simulators.lab.browser import Browser
from simulators.lab.compare import sound
from simulators.lab.compare.capture import Capture
from simulators.lab.compare.model import CallMeasure, Conditions, Path, Report
from simulators.lab.compare.page import LogIn, WatchedPage
from simulators.lab.compare.traffic import UDP, Rule
from simulators.lab.compare.usage import Meter
from simulators.lab.control import ControlError, until
from simulators.lab.host import Host
from simulators.lab.lab import LAPTOP_PASSWORD, LAPTOP_USER, PHONE_NUMBER, PORTAL_URL, Lab
from simulators.lab.speech import LENGTH_SECONDS, RATE, Samples, make_speech, read_wav, resample
from simulators.lab.topology import EDGE_IMS, HANDSET_TURN, OPERATOR_EDGE, P_CSCF, PHONE_IMS
from simulators.lab.world import LabError

TALK_SECONDS = 2 * LENGTH_SECONDS + 2.0
"""Long enough for one whole round of the loop each way, wherever it begins."""
_NO_SPEECH = "the known speech was not found in the recording"

type Progress = Callable[[str], None]


@dataclass(frozen=True)
class Device:
    """A device of the lab, and what is between its browser and IMS."""

    path: Path
    host: Host
    access: tuple[tuple[str, Host, str], ...]
    """Interfaces of its access: name, the far host, the name there."""
    taps: tuple[tuple[Host, tuple[Rule, ...]], ...]
    elements: tuple[str, ...]
    """Programs of the lab in this path."""
    log_in: LogIn | None = None


def ue_device(lab: Lab) -> Device:
    """The handset with its agent."""
    rules = (
        Rule("W3", HANDSET_TURN, interface="lo"),
        Rule("Gm", P_CSCF, interface="ims0", sip=True),
        Rule("Gm", P_CSCF, counted=False, sip=True),  # inside IPsec, on the device that it makes
        Rule("Mb", PHONE_IMS, interface="ims0"),
    )
    handset, operator = lab.net.handset, lab.net.operator
    access = (("wan0", operator, "wan0"), ("ims0", operator, "ims0"))
    return Device(Path.UE, handset, access, ((handset, rules),), ("agent", "core", "wwsf", "edge"))


def edge_device(lab: Lab) -> Device:
    """The laptop, which has nothing but a browser; its user logs in with a password."""
    laptop, operator = lab.net.laptop, lab.net.operator
    at_laptop = (Rule("W3", OPERATOR_EDGE, protocols=(UDP,)),)
    at_operator = (
        Rule("Mw", EDGE_IMS, P_CSCF, interface="lo", sip=True),
        Rule("Mb", EDGE_IMS, PHONE_IMS, interface="ims1", protocols=(UDP,)),
    )
    access = (("wan0", operator, "wan1"),)
    log_in = LogIn(LAPTOP_USER, LAPTOP_PASSWORD)
    return Device(Path.EDGE, laptop, access, ((laptop, at_laptop), (operator, at_operator)), ("edge", "core"), log_in)


class Comparison:
    """Runs the calls; ``report`` grows while it does."""

    def __init__(
        self,
        root: File,
        calls: int,
        paths: list[Path],
        progress: Progress,
        impairment: Impairment | None = None,
        log_level: str = "info",
    ) -> None:
        self._root = root
        self._progress = progress
        self._impairment = impairment
        self.lab = Lab(root, log_level=log_level, progress=progress)
        self.report = Report(datetime.now(UTC).isoformat(timespec="seconds"), calls, paths)
        self._recording = root / "phone-heard.wav"
        self._speech: dict[str, File] = {}
        self._spoken: dict[str, Samples] = {}
        self._meters: dict[Path, tuple[Device, Browser, list[Capture]]] = {}

    async def run(self) -> Report:
        """Start the lab, make all calls, take it down; what failed is in the report."""
        try:
            self._speech = make_speech(self._root)
            for name, file in self._speech.items():
                samples, rate = read_wav(file)
                self._spoken[name] = resample(samples, rate, RATE)
            async with contextlib.AsyncExitStack() as stack:
                stack.push_async_callback(self.lab.stop)
                await self._start(stack)
                for number in range(1, self.report.wanted + 1):
                    for path in self.report.paths:
                        self.report.calls.append(await self._call(path, number))
        except LabError as error:
            self.report.error = str(error)
        return self.report

    # ---- parts --------------------------------------------------------------------------------

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        devices = [self._device(path) for path in self.report.paths]
        self.report.conditions = _conditions(self._impairment)
        if self._impairment is not None:
            self._progress(f"the access of each device: {self._impairment}")
            for device in devices:
                for interface, far, far_interface in device.access:
                    near = Plug(device.host, interface)
                    by = await impair(near, Plug(far, far_interface), self._impairment, stack, self._root)
                    self.report.conditions.impairment_by = by
        await self.lab.start(play=self._speech["phone"], record=self._recording)
        if Path.EDGE in self.report.paths:
            await self.lab.start_edge()
        await self.lab.registered()
        for device in devices:
            browser = Browser(device.host, self._speech["browser"], f"compare-{device.path}")
            await stack.enter_async_context(browser)
            captures = [Capture(host, rules) for host, rules in device.taps]
            for capture in captures:
                stack.callback(capture.close)
            self._meters[device.path] = (device, browser, captures)
            self.report.conditions.versions["browser"] = browser.driver.version

    def _device(self, path: Path) -> Device:
        return ue_device(self.lab) if path is Path.UE else edge_device(self.lab)

    async def _call(self, path: Path, number: int) -> CallMeasure:
        measure = CallMeasure(path, number)
        self._progress(f"call {number} of {self.report.wanted}, {path.label}")
        try:
            async with self._page(path) as page:
                await self._measure(page, measure)
        except (LabError, ControlError, BrowserError) as error:
            measure.error = str(error).splitlines()[0]
            self._progress(f"call {number}, {path.label}: {measure.error}")
            with contextlib.suppress(Exception):  # the next call wants a phone that is free
                await self.lab.phone("POST", "/hangup")
        measure.complete(f"the call failed: {measure.error}" if measure.error else "not observed")
        return measure

    @contextlib.asynccontextmanager
    async def _page(self, path: Path) -> AsyncIterator[WatchedPage]:
        page = await WatchedPage.open(self._meters[path][1].driver.contexts[0])
        try:
            yield page
        finally:
            with contextlib.suppress(Exception):  # a browser that died has closed it already
                await page.close()

    async def _measure(self, page: WatchedPage, measure: CallMeasure) -> None:
        device, browser, captures = self._meters[measure.path]
        for capture in captures:
            capture.reset()
        loaded = await page.load(PORTAL_URL, device.log_in)
        measure.put("page_load_ms", loaded.load_ms)
        measure.put("log_in_ms", loaded.log_in_ms)
        measure.put("registration_ms", loaded.registration_ms, "the page did not mark it")
        await page.phone.plain_voice()
        await page.phone.clear_marks()
        since = time.monotonic()
        clicked = await page.phone.dial(PHONE_NUMBER)
        await page.phone.until("call", "talking", within=30)
        microphone, ear, statistics = await self._talk(page, browser, device, measure)
        await page.phone.press("hangup")
        await page.phone.until("call", "idle", within=15)
        phone = await self._phone_ended(since)
        _set_up(measure, clicked, await page.steps(), phone)
        _packets(measure, statistics, phone["ended"])
        await asyncio.to_thread(self._rate, measure, microphone, ear, phone["answered"]["at"])
        measure.points["W1"], measure.points["W2"] = loaded.w1, page.w2
        for capture in captures:
            measure.points |= capture.result()

    async def _talk(
        self, page: WatchedPage, browser: Browser, device: Device, measure: CallMeasure
    ) -> tuple[sound.Recording, sound.Recording, dict[str, dict[str, Any]]]:
        """Let both speak, and watch what everybody uses."""
        await page.listen()
        assert browser.process is not None
        pids = {"browser": browser.process.pid}
        pids |= {name: self.lab.processes[name].pid for name in device.elements if name in self.lab.processes}
        loop = asyncio.get_running_loop()
        begin = loop.time()
        meter = Meter(pids)
        for part in (0.5, 1.0):
            await asyncio.sleep(max(0.0, begin + part * TALK_SECONDS - loop.time()))
            await asyncio.to_thread(meter.look)
        measure.elements = meter.result()
        measure.talk_seconds = round(loop.time() - begin, 1)
        statistics = await page.statistics()
        microphone, ear = await page.heard()
        return microphone, ear, statistics

    async def _phone_ended(self, since: float) -> dict[str, dict[str, Any]]:
        """The phone's events of this call, the first of each name, when it has ended there."""

        async def look() -> dict[str, dict[str, Any]]:
            found: dict[str, dict[str, Any]] = {}
            for event in read_events(self.lab.events("phone")):
                if event["at"] >= since:
                    found.setdefault(event["event"], event)
            return found if "ended" in found else {}

        found = await until(look, "the phone sees the call's end", within=15)
        if "answered" not in found:
            raise LabError("the phone did not answer this call")
        return found

    def _rate(self, measure: CallMeasure, microphone: sound.Recording, ear: sound.Recording, answered: float) -> None:
        """Speech each way.  The phone speaks its file from its first sample, and records, from answering on."""
        samples, rate = read_wav(self._recording)
        at_phone = sound.Recording(resample(samples, rate, RATE), answered)
        try:
            heard = sound.find(self._spoken["phone"], ear)
            measure.put("delay_to_browser_ms", sound.delay_ms(answered, heard.at))
            measure.put("pesq_to_browser", heard.pesq, "the package pesq is not installed")
        except LabError as error:
            measure.put("delay_to_browser_ms", None, f"{_NO_SPEECH}: {error}")
            measure.put("pesq_to_browser", None, f"{_NO_SPEECH}: {error}")
        try:
            heard = sound.find(self._spoken["browser"], at_phone)
            measure.put("pesq_to_phone", heard.pesq, "the package pesq is not installed")
            spoken = sound.find(self._spoken["browser"], microphone)
            measure.put("delay_to_phone_ms", sound.delay_ms(spoken.at, heard.at))
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


def _conditions(impairment: Impairment | None) -> Conditions:
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
        impairment="" if impairment is None else str(impairment),
        versions={"imsbridge": installed("imsbridge"), "Python": platform.python_version()},
        machine={
            "kernel": f"{platform.system()} {platform.release()}",
            "processor": cpu or platform.machine(),
            "cores": str(os.cpu_count()),
            "memory": f"{psutil.virtual_memory().total / 1e9:.1f} GB",
        },
        notes={
            "phone": "rings for 1 s before it answers; jitter buffer included in mouth to ear",
            "talking time of each call": f"{TALK_SECONDS:.0f} s",
        },
    )
