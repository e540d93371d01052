"""The demo's second path: a plain laptop without agent or card, through the network edge.

Each of the three ways to register (TS 24.371: SIP digest, a token for an identity of one's own, a token for one of a
range) makes a call: with the VoLTE phone, and with the handset's browser behind its agent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import BrowserContext

from imskit.observe.events import read_events
from simulators.lab.browser import Browser, PhonePage
from simulators.lab.control import until
from simulators.lab.lab import (
    DIGEST_NUMBER,
    DIGEST_PASSWORD,
    DIGEST_USER,
    LAPTOP_PASSWORD,
    LAPTOP_USER,
    LINE_PASSWORD,
    PHONE_NUMBER,
    PORTAL_URL,
    RANGE_PASSWORD,
    RANGE_USER,
    USER_NUMBER,
    Lab,
)
from simulators.lab.listening import TALK_SECONDS, last, listen
from simulators.lab.measures import CallResult, Direction, Step, rate_speech, said, step
from simulators.lab.speech import Samples, read_wav
from simulators.lab.world import LabError


@dataclass(frozen=True)
class Scenario:
    """A way to register."""

    name: str
    user: str
    password: str
    line_password: str = ""


TOKEN = Scenario("token (scenario 2)", LAPTOP_USER, LAPTOP_PASSWORD)
DIGEST = Scenario("SIP digest (scenario 1)", DIGEST_USER, DIGEST_PASSWORD, LINE_PASSWORD)
RANGE = Scenario("identity of a range (scenario 3)", RANGE_USER, RANGE_PASSWORD)


@dataclass
class EdgeResult:
    """What was measured on the edge path."""

    registrations: list[Step] = field(default_factory=list)
    calls: list[CallResult] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything held."""
        complete = len(self.registrations) == 3 and len(self.calls) == 3
        return complete and all(step.ok for step in self.registrations) and all(call.ok for call in self.calls)


async def log_in(page: PhonePage, scenario: Scenario) -> tuple[float, float]:
    """Open the page as this user, until its line is ready; returns when the log-in was sent, and registered."""
    await page.open(PORTAL_URL)
    await page.until("session", "out")
    await page.page.fill("#user-name", scenario.user)
    await page.page.fill("#password", scenario.password)
    begin = time.monotonic()
    await page.page.click("#log-in-form button")
    if scenario.line_password:
        await page.page.fill("#line-password", scenario.line_password)
        begin = time.monotonic()
        await page.page.click("#line-log-in button")
    await page.until("line", "ready")
    return begin, (await page.marks())["page:registered"]


class EdgeDemo:
    """Runs the part in a `Lab` whose edge, phone and agent run; ``result`` grows while it does."""

    def __init__(self, lab: Lab, speech: dict[str, Path], recording: Path, progress: Callable[[str], None]) -> None:
        self._lab = lab
        self._speech = speech
        self._recording = recording
        self._progress = progress
        self.result = EdgeResult()

    async def run(self) -> None:
        """Register in all three ways and make the calls; `LabError`."""
        async with Browser(self._lab.net.laptop, self._speech["laptop"], "laptop") as browser:
            page, context = await self._register(browser, TOKEN)
            await self._laptop_calls(page, self._begin("laptop calls phone"))
            await context.close()
            page, context = await self._register(browser, DIGEST)
            await self._phone_calls(page, self._begin("phone calls laptop"))
            await context.close()
            page, context = await self._register(browser, RANGE)
            await self._across(page, self._begin("laptop calls handset, browser to browser", "handset"))
            await context.close()

    def _begin(self, name: str, far: str = "phone") -> CallResult:
        self._progress(f"{name}: setting up")
        self.result.calls.append(CallResult(name, near="laptop", far=far))
        return self.result.calls[-1]

    async def _register(self, browser: Browser, scenario: Scenario) -> tuple[PhonePage, BrowserContext]:
        self._progress(f"the laptop's Chromium registers: {scenario.name}")
        context = await browser.new_context()
        page = PhonePage(await context.new_page())
        begin, at = await log_in(page, scenario)
        self.result.registrations.append(step(scenario.name, begin, at))
        await page.plain_voice()
        return page, context

    async def _laptop_calls(self, page: PhonePage, call: CallResult) -> None:
        begin = await page.dial(PHONE_NUMBER)
        await page.until("call", "talking")
        await self._talk_with_phone(page, call)
        await page.press("hangup")
        phone = await self._phone_ended(begin, call)
        marks = await page.marks()
        call.steps = [
            step("INVITE sent by the page", begin, marks.get("call:invite")),
            step("180 at the page", begin, marks.get("call:180")),
            step("200 at the page", begin, marks.get("call:200")),
            *_media_steps(begin, marks, phone),
        ]

    async def _phone_calls(self, page: PhonePage, call: CallResult) -> None:
        begin = time.monotonic()
        await self._lab.phone("POST", "/dial", target=f"tel:{DIGEST_NUMBER}")
        await page.until("call", "ringing-in")
        pressed = await page.press("answer")
        await page.until("call", "talking")
        await self._talk_with_phone(page, call)
        await self._lab.phone("POST", "/hangup")
        await page.until("call", "ended", "idle")
        phone = await self._phone_ended(begin, call)
        marks = await page.marks()
        call.steps = [
            step("page rings", begin, marks.get("call:ring")),
            step("user answers", begin, pressed),
            step("200 at the phone", begin, phone.get("answered")),
            *_media_steps(begin, marks, phone),
        ]

    async def _across(self, page: PhonePage, call: CallResult) -> None:
        async with Browser(self._lab.net.handset, self._speech["browser"], "handset") as browser:
            other = PhonePage(await browser.new_page())
            await other.open_ready(PORTAL_URL)
            await other.plain_voice()
            begin = await page.dial(USER_NUMBER)
            await other.until("call", "ringing-in")
            pressed = await other.press("answer")
            for each in (page, other):
                await each.until("call", "talking")
            note = await self._listen(call, page, other)
            codecs = ("opus", "AMR-WB", "opus")
            heard = last(await page.heard()), last(await other.heard())
            call.to_browser = self._rate(heard[0], "browser", codecs, await page.packets_received(), note)
            call.to_phone = self._rate(heard[1], "laptop", codecs, await other.packets_received(), note)
            self._progress(f"{call.name}: {said(call)}")
            await page.press("hangup")
            await other.until("call", "ended", "idle")
            marks, others = await page.marks(), await other.marks()
            call.steps = [
                step("INVITE sent by the page", begin, marks.get("call:invite")),
                step("180 at the page", begin, marks.get("call:180")),
                step("user answers", begin, pressed),
                step("200 at the page", begin, marks.get("call:200")),
                step("ICE connected", begin, marks.get("call:ice")),
                step("DTLS connected", begin, marks.get("call:dtls")),
                step("first packet to the handset", begin, others.get("lab:first-packet")),
                step("first packet to the browser", begin, marks.get("lab:first-packet")),
            ]

    async def _talk_with_phone(self, page: PhonePage, call: CallResult) -> None:
        note = await self._listen(call, page)
        heard = last(await page.heard())
        recorded = last((await asyncio.to_thread(read_wav, self._recording))[0])
        call.to_browser = self._rate(heard, "phone", ("AMR-WB", "opus"), await page.packets_received(), note)
        call.to_phone = rate_speech(recorded, self._speech["laptop"], "opus", "AMR-WB", note=note)
        self._progress(f"{call.name}: {said(call)}")

    async def _listen(self, call: CallResult, *pages: PhonePage) -> str:
        self._progress(f"{call.name}: talking for {TALK_SECONDS:.0f} s")
        return await listen(pages, lambda text: self._progress(f"{call.name}: {text}"))

    def _rate(self, heard: Samples, speaker: str, codecs: tuple[str, ...], packets: int, note: str) -> Direction:
        found = rate_speech(heard, self._speech[speaker], *codecs, note=note)
        found.codecs = " > ".join(codecs)
        found.count(packets)
        return found

    async def _phone_ended(self, since: float, call: CallResult) -> dict[str, float]:
        """Await the phone's own account of the call, and return when it saw what."""
        events: list[dict[str, Any]] = []

        async def look() -> bool:
            events[:] = [event for event in read_events(self._lab.events("phone")) if event["at"] >= since]
            return any(event["event"] == "ended" for event in events)

        await until(look, "the phone's call ends")
        ended = next(event for event in events if event["event"] == "ended")
        if ended["codec"] is None:
            raise LabError(f"the phone had no media: {ended}")
        call.to_phone.codecs = f"opus > {ended['codec']}"
        call.to_phone.count(ended["packets_received"])
        found: dict[str, float] = {}
        for event in events:
            found.setdefault(event["event"], event["at"])
        return found


def _media_steps(begin: float, marks: dict[str, float], phone: dict[str, float]) -> list[Step]:
    return [
        step("ICE connected", begin, marks.get("call:ice")),
        step("DTLS connected", begin, marks.get("call:dtls")),
        step("first packet to the phone", begin, phone.get("first-rtp-received")),
        step("first packet to the browser", begin, marks.get("lab:first-packet")),
    ]
