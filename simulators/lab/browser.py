"""A real Chromium on a host of the lab, driven over its DevTools protocol.

No extension, and no flag that touches proxy, DNS, certificates, permissions or WebRTC beyond the fake microphone: what
the browser needs comes from the files that an installation puts on the device.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from playwright.async_api import Browser as PlaywrightBrowser
from playwright.async_api import BrowserContext, Page, Playwright, async_playwright, expect

from imskit.tasks import spawn
from simulators.lab.host import Machine, Process
from simulators.lab.speech import RATE, Samples, resample
from simulators.lab.world import LabError

_DEBIAN = ("/usr/bin/chromium", "/usr/lib/chromium/chromium")
_PLAYWRIGHT = ".cache/ms-playwright/chromium-*/chrome-linux*/chrome"
_START_SECONDS = 30.0
_NO_SANDBOX = "--no-sandbox"
"""The lab's root is no real one, or a real one: Chromium's own sandbox refuses both."""
FLAGS = (
    "--headless=new",
    _NO_SANDBOX,
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
)


def find_chromium() -> tuple[str, str]:
    """Return the command that starts Chromium and the executable that then runs; `LabError` if there is none.

    Debian's package, else the build that Playwright fetches (on Ubuntu the package is a snap, which cannot enter the
    lab).
    """
    if Path(_DEBIAN[1]).exists():
        return _DEBIAN
    found = sorted(Path.home().glob(_PLAYWRIGHT))
    if not found:
        raise LabError("no Chromium is installed: run scripts/setup")
    return str(found[-1]), str(found[-1])


class Browser:
    """One browser with a profile of its own; ``async with`` it."""

    def __init__(self, host: Machine, microphone: Path, name: str = "browser", flags: Sequence[str] = ()) -> None:
        """``flags`` are further ones of Chromium's, for where a file of the device cannot say it."""
        self._host = host
        self._microphone = microphone
        self._name = name
        self._flags = flags
        self._profile = host.root / f"{name}-profile"
        self._stack = contextlib.AsyncExitStack()
        self.process: Process | None = None

    async def __aenter__(self) -> Browser:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        argv = [
            find_chromium()[0],
            *(flag for flag in FLAGS if flag != _NO_SANDBOX or os.geteuid() == 0),
            *self._flags,
            f"--use-file-for-fake-audio-capture={self._microphone}",
            f"--user-data-dir={self._profile}",
            "--remote-debugging-port=0",
            "about:blank",
        ]
        # The line that names the port ends with the address of the browser's own target.
        self.process = await self._host.start(self._name, argv, ready="/devtools/browser/", within=_START_SECONDS)
        self._stack.push_async_callback(self.process.stop)
        found = re.findall(r"ws://127\.0\.0\.1:(\d+)/devtools", self.process.tail(200))
        if not found:
            raise LabError(f"Chromium did not say where DevTools listens:\n{self.process.tail()}")
        local = int(found[-1])
        if self._host.pid is not None:
            forwarder = await _forward(self._host.pid, local)
            self._stack.callback(forwarder.close)
            local = forwarder.sockets[0].getsockname()[1]
        playwright: Playwright = await self._stack.enter_async_context(async_playwright())
        self.driver: PlaywrightBrowser = await playwright.chromium.connect_over_cdp(f"http://127.0.0.1:{local}")
        await self.driver.contexts[0].add_init_script(_WATCH)
        self._stack.push_async_callback(self._close)

    async def _close(self) -> None:
        with contextlib.suppress(Exception):  # the browser goes in any case, its answer does not matter
            session = await self.driver.new_browser_cdp_session()
            await session.send("Browser.close")

    async def new_page(self) -> Page:
        """Open a tab in the default profile."""
        return await self.driver.contexts[0].new_page()

    async def new_context(self) -> BrowserContext:
        """Make a profile that has no cookie of anybody's."""
        context = await self.driver.new_context()
        await context.add_init_script(_WATCH)
        return context


async def _forward(holder: int, port: int) -> asyncio.Server:
    """Let this process reach a loopback port in the network that process ``holder`` keeps: DevTools has no other."""
    executor = ThreadPoolExecutor(1)
    namespace = os.open(f"/proc/{holder}/ns/net", os.O_RDONLY)
    # A thread of its own enters the host's network; the sockets it makes stay there.
    await asyncio.get_running_loop().run_in_executor(executor, os.setns, namespace, os.CLONE_NEWNET)
    os.close(namespace)

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", port))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = await asyncio.get_running_loop().run_in_executor(executor, connect)
        far_reader, far_writer = await asyncio.open_connection(sock=sock)
        there = spawn(_pump(reader, far_writer), "devtools out")
        await _pump(far_reader, writer)
        there.cancel()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, asyncio.CancelledError):
        pass
    finally:
        writer.close()


# ---- the operator's page ----------------------------------------------------------------------------------

# Nothing of the page is changed: its connections are noted as it makes them, and when something is heard first.
_WATCH = """(() => {
  const Plain = window.RTCPeerConnection;
  window.RTCPeerConnection = class extends Plain {
    constructor(...given) {
      super(...given);
      window.__connection = this;
      const first = () => performance.mark('lab:first-packet');
      this.addEventListener('track', ({ track }) => {
        if (track.muted) track.addEventListener('unmute', first, { once: true });
        else first();
      });
    }
  };
})();"""
_LISTEN = """async () => {
  const stream = document.querySelector('#remote').srcObject;
  const context = new AudioContext({ sampleRate: 48000 });
  await context.resume();
  // The page's policy forbids worklets from elsewhere; this older node needs no script of its own.
  const ear = context.createScriptProcessor(8192, 1, 1);
  const blocks = [];
  ear.onaudioprocess = ({ inputBuffer }) => blocks.push(inputBuffer.getChannelData(0).slice());
  context.createMediaStreamSource(stream).connect(ear);
  ear.connect(context.destination);
  window.__ear = { context, blocks };
}"""
# Milliseconds by the wall's clock, and those that the microphone, the loudspeaker and the recording have.
_CLOCKS = """async () => {
  const { context, blocks } = window.__ear;
  const loudspeaker = [performance.now(), context.currentTime * 1000];
  const recording = [context.currentTime * 1000, blocks.length * 8192 / 48];
  for (const entry of (await window.__connection.getStats()).values()) {
    if (entry.type === 'media-source' && entry.kind === 'audio') {
      return { microphone: [entry.timestamp, entry.totalSamplesDuration * 1000], loudspeaker, recording };
    }
  }
  return { loudspeaker, recording };
}"""
_HEARD = """async () => {
  const { context, blocks } = window.__ear;
  await context.close();
  const samples = new Int16Array(blocks.length * 8192);
  blocks.forEach((block, i) => block.forEach((value, j) => {
    samples[i * 8192 + j] = Math.max(-32768, Math.min(32767, Math.round(value * 32767)));
  }));
  const bytes = new Uint8Array(samples.buffer);
  let text = '';
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
}"""
_RECEIVED = """async () => {
  let packets = 0;
  for (const entry of (await window.__connection.getStats()).values()) {
    if (entry.type === 'inbound-rtp' && entry.kind === 'audio') packets += entry.packetsReceived;
  }
  return packets;
}"""
_MARKS = "() => performance.getEntriesByType('mark').map(m => [m.name, performance.timeOrigin + m.startTime])"


class PhonePage:
    """The operator's page as a user sees it: what it shows, and its buttons."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._skew = time.time() - time.monotonic()

    async def open(self, url: str) -> float:
        """Load the page; returns when (monotonic seconds) its document was complete."""
        await self.page.goto(url)
        return time.monotonic()

    async def open_ready(self, url: str, within: float = 40.0) -> None:
        """Load the page until its line is ready: a browser whose proxy was away looks for it only every few seconds."""
        end = time.monotonic() + within
        while True:
            await self.open(url)
            try:
                await self.until("line", "ready", within=10)
                return
            except LabError:
                if time.monotonic() > end:
                    raise

    async def until(self, attribute: str, *values: str, within: float = 30.0) -> str:
        """Wait until ``main``'s data attribute has one of ``values``; `LabError` says what is shown instead."""
        wanted = ",".join(f'main[data-{attribute}="{value}"]' for value in values)
        try:
            await self.page.wait_for_selector(wanted, timeout=within * 1000, state="attached")
        except Exception as error:
            state, shown = "/".join(values), await self.shown()
            raise LabError(
                f"the page did not show {attribute}={state} within {within:.0f} s; it shows: {shown}"
            ) from error
        return await self.data(attribute)

    async def until_shows(self, text: str, within: float = 30.0) -> None:
        """Wait until a user can read ``text`` on whatever page is there; `LabError` says what is shown instead."""
        try:
            await expect(self.page.locator("body")).to_contain_text(
                text, use_inner_text=True, ignore_case=True, timeout=within * 1000
            )
        except AssertionError as error:
            shown = await self.shown()
            raise LabError(f"the page did not show {text!r} within {within:.0f} s; it shows: {shown}") from error

    async def data(self, attribute: str) -> str:
        """The data attribute of ``main``."""
        return await self.page.get_attribute("main", f"data-{attribute}") or ""

    async def shown(self) -> str:
        """What a user can read, in one line."""
        with contextlib.suppress(Exception):
            return " ".join((await self.page.inner_text("body")).split())[:600]
        return "nothing"

    async def dial(self, number: str) -> float:
        """Type a number and press Call; returns when."""
        await self.page.fill("#number", number)
        at = time.monotonic()
        await self.page.click("#call")
        return at

    async def press(self, button: str) -> float:
        """Press one of ``answer``, ``hangup``, ``mute``, ``keypad``; returns when."""
        at = time.monotonic()
        await self.page.click(f"#{button}")
        return at

    async def plain_voice(self) -> None:
        """Turn off what the browser does to the microphone's sound, as for a measurement."""
        if await self.page.is_checked("#processing"):
            await self.page.evaluate("document.querySelector('#settings').open = true")
            await self.page.uncheck("#processing")

    async def listen(self) -> None:
        """Begin to record what the page plays."""
        await self.page.evaluate(_LISTEN)

    async def clocks(self) -> dict[str, tuple[float, float]]:
        """Of ``microphone``, ``loudspeaker`` and ``recording``: a true clock, and theirs; milliseconds.

        The browser's fake sound card has no buffer as a real one has: while it is not run, its time stands still.
        """
        found: dict[str, list[float]] = await self.page.evaluate(_CLOCKS)
        return {name: (true, own) for name, (true, own) in found.items()}

    async def packets_received(self) -> int:
        """How many packets of sound have come in this call, by the browser's own count."""
        return int(await self.page.evaluate(_RECEIVED))

    async def heard(self) -> Samples:
        """Stop recording; returns 16 kHz."""
        recorded = base64.b64decode(await self.page.evaluate(_HEARD))
        return resample(np.frombuffer(recorded, np.int16), 48_000, RATE)

    async def marks(self) -> dict[str, float]:
        """The page's marks in monotonic seconds, the last one of each name."""
        found: list[tuple[str, float]] = [tuple(item) for item in await self.page.evaluate(_MARKS)]
        return {name: at / 1000 - self._skew for name, at in found}

    async def clear_marks(self) -> None:
        """Forget the marks so far."""
        await self.page.evaluate("performance.clearMarks()")

    async def on_console(self, take: Callable[[str], Any]) -> None:
        """Hand console messages to ``take``."""
        self.page.on("console", lambda message: take(message.text))
