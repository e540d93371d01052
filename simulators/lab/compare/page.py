"""The operator's page, watched from within the browser: the same way on either path.

Nothing of the page is changed: its connections and its microphone are noted as it makes them, before any script of
its own runs.  Times are the browser's clock (``performance.timeOrigin + performance.now()``), given as monotonic
seconds of this machine.
"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from playwright.async_api import BrowserContext, Page, WebSocket

from simulators.lab.browser import PhonePage
from simulators.lab.compare.model import Traffic
from simulators.lab.compare.sound import Recording
from simulators.lab.speech import RATE, resample
from simulators.lab.world import LabError

_EAR_RATE = 48_000

_WATCH = """(() => {
  const now = () => performance.timeOrigin + performance.now();
  const seen = { steps: {}, states: [], submitted: [], microphone: null, connection: null };
  Object.defineProperty(window, '__compare', { value: seen });
  const step = (name) => { seen.steps[name] ??= now(); };
  const devices = navigator.mediaDevices;
  if (devices) {
    const ask = devices.getUserMedia.bind(devices);
    devices.getUserMedia = async (wanted) => { seen.microphone = await ask(wanted); return seen.microphone; };
  }
  const Plain = window.RTCPeerConnection;
  window.RTCPeerConnection = class extends Plain {
    constructor(...given) {
      super(...given);
      seen.connection = this;
      seen.steps = {};
      this.addEventListener('iceconnectionstatechange', () => {
        if (['connected', 'completed'].includes(this.iceConnectionState)) step('ice');
      });
      this.addEventListener('connectionstatechange', () => {
        if (this.connectionState === 'connected') step('dtls');
      });
      this.addEventListener('track', ({ track }) => {
        if (!track.muted) step('first');
        track.addEventListener('unmute', () => step('first'));
      });
    }
  };
  document.addEventListener('submit', () => seen.submitted.push(now()), true);
  new MutationObserver((changes) => {
    for (const { target } of changes) seen.states.push([target.dataset.session, now()]);
  }).observe(document, { subtree: true, attributes: true, attributeFilter: ['data-session'] });
})();"""
_LOADED = """() => {
  const [load] = performance.getEntriesByType('navigation');
  const resources = [load, ...performance.getEntriesByType('resource').filter((r) => r.name.startsWith(origin))];
  return {
    load: load.loadEventEnd,
    origin: performance.timeOrigin,
    requests: resources.length,
    bytes: resources.reduce((sum, r) => sum + r.transferSize, 0),
    states: window.__compare.states,
    submitted: window.__compare.submitted,
    agent: navigator.userAgent,
  };
}"""
_MARKS = "() => performance.getEntriesByType('mark').map(m => [m.name, performance.timeOrigin + m.startTime])"
_LISTEN = """async () => {
  const seen = window.__compare;
  const context = new AudioContext({ sampleRate: 48000 });
  await context.resume();
  const both = context.createChannelMerger(2);
  context.createMediaStreamSource(seen.microphone).connect(both, 0, 0);
  context.createMediaStreamSource(document.querySelector('#remote').srcObject).connect(both, 0, 1);
  // The page's policy forbids worklets from elsewhere; this older node needs no script of its own.
  const ear = context.createScriptProcessor(8192, 2, 1);
  const blocks = [];
  ear.onaudioprocess = ({ inputBuffer, playbackTime }) => {
    const at = performance.timeOrigin + performance.now();
    const sides = [0, 1].map((side) => inputBuffer.getChannelData(side).slice());
    blocks.push({ at, playbackTime, sides });
  };
  both.connect(ear);
  ear.connect(context.destination);
  window.__ear = { context, blocks };
}"""
# Milliseconds by the wall's clock, and those that the microphone, the loudspeaker and the recording have.
_CLOCKS = """async () => {
  const { context, blocks } = window.__ear;
  const clocks = {
    loudspeaker: [performance.now(), context.currentTime * 1000],
    recording: [context.currentTime * 1000, blocks.length * 8192 / 48],
  };
  for (const entry of (await window.__compare.connection.getStats()).values()) {
    if (entry.type === 'media-source' && entry.kind === 'audio') {
      clocks.microphone = [entry.timestamp, entry.totalSamplesDuration * 1000];
    }
  }
  return clocks;
}"""
_HEARD = """async () => {
  const { context, blocks } = window.__ear;
  await context.close();
  // The time that a block tells jitters by some milliseconds: blocks follow each other unless a whole half is missing.
  let length = 0;
  const first = blocks[0].playbackTime;
  for (const block of blocks) {
    const told = Math.round((block.playbackTime - first) * 48000);
    block.place = told - length > 4096 ? told : length;
    length = block.place + 8192;
  }
  // A block comes when its last sample is there, or later, never earlier: the least late one tells the time.
  const start = Math.min(...blocks.map((block) => block.at - (block.place + 8192) / 48));
  const sides = [0, 1].map((side) => {
    const samples = new Int16Array(length);
    for (const block of blocks) {
      block.sides[side].forEach((value, i) => {
        samples[block.place + i] = Math.max(-32768, Math.min(32767, Math.round(value * 32767)));
      });
    }
    const bytes = new Uint8Array(samples.buffer);
    let text = '';
    for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
    return btoa(text);
  });
  return { start, sides };
}"""
_STATISTICS = """async () => {
  const found = {};
  const report = await window.__compare.connection.getStats();
  for (const entry of report.values()) {
    if (entry.kind === 'audio' && ['inbound-rtp', 'outbound-rtp', 'remote-inbound-rtp'].includes(entry.type)) {
      found[entry.type] = { ...entry, codec: report.get(entry.codecId)?.mimeType ?? '' };
    }
  }
  return found;
}"""


@dataclass
class Loaded:
    """How opening the page went; milliseconds."""

    load_ms: float
    log_in_ms: float
    registration_ms: float | None
    w1: Traffic
    user_agent: str


@dataclass
class _Socket:
    frames: int = 0
    octets: int = 0


@dataclass(frozen=True)
class LogIn:
    """What a user types into the portal's form."""

    name: str
    password: str = field(repr=False)


class WatchedPage:
    """A tab with the operator's page; nothing in it is known of earlier ones."""

    def __init__(self, page: Page) -> None:
        self.tab = page
        self.phone = PhonePage(page)
        self._w2 = _Socket()
        self._skew = time.time() - time.monotonic()
        page.on("websocket", self._opened)

    @classmethod
    async def open(cls, context: BrowserContext) -> WatchedPage:
        """Make the tab, without cookies."""
        await context.clear_cookies()
        page = await context.new_page()
        await page.add_init_script(_WATCH)
        return cls(page)

    def _opened(self, socket: WebSocket) -> None:
        def passed(payload: str | bytes) -> None:
            self._w2.frames += 1
            self._w2.octets += len(payload.encode() if isinstance(payload, str) else payload)

        socket.on("framesent", passed)
        socket.on("framereceived", passed)

    def monotonic(self, browser_ms: float) -> float:
        """Seconds of this machine's monotonic clock from the browser's milliseconds."""
        return browser_ms / 1000 - self._skew

    async def load(self, url: str, log_in: LogIn | None) -> Loaded:
        """Open ``url``, log in (with the form if it asks), and wait until the line is ready; `LabError` if not."""
        try:
            await self.tab.goto(url)
        except Exception as error:
            raise LabError(f"the page cannot be opened: {str(error).splitlines()[0]}") from error
        if await self.phone.until("session", "in", "out") == "out":
            if log_in is None:
                raise LabError(f"the page is not logged in: {await self.phone.shown()}")
            await self.tab.fill("#user-name", log_in.name)
            await self.tab.fill("#password", log_in.password)
            await self.tab.click("#log-in-form button[type=submit]")
            await self.phone.until("session", "in")
        await self.phone.until("line", "ready")
        seen = await self.tab.evaluate(_LOADED)
        marks: dict[str, float] = dict(await self.tab.evaluate(_MARKS))
        if "page:session" not in marks:
            raise LabError("the page does not say when its user was logged in: another page than this release's")
        waited = _waited(seen["states"], seen["submitted"])
        registered = marks.get("page:registered")
        return Loaded(
            seen["load"],
            marks["page:session"] - seen["origin"] - waited,
            registered - marks["page:session"] if registered is not None else None,
            Traffic(seen["requests"], None, round(seen["bytes"])),
            seen["agent"],
        )

    async def steps(self) -> dict[str, float]:
        """Marks of the call and the steps of its connection, monotonic seconds."""
        seen: dict[str, float] = await self.tab.evaluate("() => window.__compare.steps")
        marks: dict[str, float] = dict(await self.tab.evaluate(_MARKS))
        return {name: self.monotonic(at) for name, at in {**marks, **seen}.items()}

    async def listen(self) -> None:
        """Begin to record what the microphone gives and what the page plays."""
        await self.tab.evaluate(_LISTEN)

    async def clocks(self) -> dict[str, tuple[float, float]]:
        """Of ``microphone``, ``loudspeaker`` and ``recording``: a true clock, and its own; milliseconds."""
        found: dict[str, tuple[float, float]] = await self.tab.evaluate(_CLOCKS)
        return found

    async def heard(self) -> tuple[Recording, Recording]:
        """Stop; returns the microphone's and the page's sound."""
        found: dict[str, Any] = await self.tab.evaluate(_HEARD)
        at = self.monotonic(found["start"])
        microphone, ear = (
            Recording(resample(np.frombuffer(base64.b64decode(side), np.int16), _EAR_RATE, RATE), at)
            for side in found["sides"]
        )
        return microphone, ear

    async def statistics(self) -> dict[str, dict[str, Any]]:
        """The browser's own figures of the call: ``inbound-rtp``, ``outbound-rtp``, ``remote-inbound-rtp``."""
        found: dict[str, dict[str, Any]] = await self.tab.evaluate(_STATISTICS)
        return found

    @property
    def w2(self) -> Traffic:
        """WebSocket frames since the tab was opened."""
        return Traffic(self._w2.frames, None, self._w2.octets)

    async def close(self) -> None:
        """Close the tab."""
        await self.tab.close()


def _waited(states: list[tuple[str, float]], submitted: list[float]) -> float:
    """How long forms waited for their user, milliseconds: each from being shown to being submitted."""
    shown = [at for state, at in states if state == "out"]
    total = 0.0
    for at in submitted:
        before = [begin for begin in shown if begin <= at]
        if before:
            total += at - before[-1]
            shown = [begin for begin in shown if begin > at]
    return total
