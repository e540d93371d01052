"""For tests with a browser: a Chromium with a known voice, and pages with a library of npm on them."""

from __future__ import annotations

import asyncio
import math
import struct
import wave
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser, Page, async_playwright

from simulators.lab.browser import FLAGS, find_chromium

ROOT = Path(__file__).parents[2]
BROWSER_TONE = 600.0
"""What the fake microphone sings, Hz."""


def write_tone(path: Path, hertz: float, rate: int, seconds: float = 2.0) -> Path:
    """Write a tone that can be played in a loop: mono, 16 bit."""
    count = round(rate * seconds)
    samples = (round(8000 * math.sin(2 * math.pi * hertz * index / rate)) for index in range(count))
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, count, "NONE", ""))
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return path


@pytest.fixture
async def chromium(tmp_path: Path) -> AsyncIterator[Browser]:
    """A headless Chromium whose microphone sings; it takes self-signed certificates and loopback media."""
    voice = write_tone(tmp_path / "voice.wav", BROWSER_TONE, 48000)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=find_chromium()[0],
            args=[
                *FLAGS[1:],  # playwright sets headless itself
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={voice}",
                "--autoplay-policy=no-user-gesture-required",
                "--ignore-certificate-errors",
                "--allow-loopback-in-peer-connection",
            ],
            env={"HOME": str(tmp_path)},
        )
        try:
            yield browser
        finally:
            await browser.close()


class StockPage:
    """A page with an unmodified library of npm in a real browser; ``window.phone`` is what the page's buttons do."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.origin = origin
        self.console: list[str] = []
        page.on("console", lambda message: self.console.append(message.text))
        page.on("pageerror", lambda error: self.console.append(str(error)))

    async def do(self, action: str, *arguments: Any, within: float = 40.0) -> Any:
        """Call a function of ``window.phone`` and return what it resolves to."""
        call = self.page.evaluate(f"(arguments) => window.phone.{action}(...arguments)", list(arguments))
        try:
            return await asyncio.wait_for(call, within)
        except TimeoutError:
            heard = await self.page.evaluate("window.heard ?? null")
            said = "\n".join(self.console[-60:])
            raise AssertionError(f"{action} did not end; heard {heard}; the page said:\n{said}") from None


@pytest.fixture
async def stock_page(chromium: Browser, tmp_path: Path) -> AsyncIterator[Callable[[str], Any]]:
    """Make a page out of a script beside these tests (``jssip/edge_page.mjs``), bundled as any site would do it."""
    runners: list[web.AppRunner] = []

    async def make(script: str) -> StockPage:
        bundle = tmp_path / f"{script.replace('/', '-')}.js"
        bundler = await asyncio.create_subprocess_exec(
            str(ROOT / "node_modules/.bin/esbuild"), str(ROOT / "tests/interop" / script), "--bundle", "--format=esm",
            "--target=es2022", f"--outfile={bundle}", "--log-level=warning",
        )  # fmt: skip
        assert await bundler.wait() == 0

        async def index(_: web.Request) -> web.Response:
            html = (
                "<!doctype html><meta charset=utf-8><title>test</title><body><script type=module src=page.js></script>"
            )
            return web.Response(text=html, content_type="text/html")

        async def code(_: web.Request) -> web.FileResponse:
            return web.FileResponse(bundle, headers={"Content-Type": "text/javascript"})

        application = web.Application()
        application.router.add_get("/", index)
        application.router.add_get("/page.js", code)
        runner = web.AppRunner(application)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
        stock = StockPage(await chromium.new_page(), origin)
        await stock.page.goto(f"{origin}/")
        await stock.page.wait_for_function("window.phone")
        return stock

    yield make
    for runner in runners:
        await runner.cleanup()
