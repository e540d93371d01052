"""What interop tests share: a Chromium that sings, pages with a library of npm, an edge with all around it, SIPp."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import secrets
import socket
import struct
import tempfile
import wave
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from playwright.async_api import Browser, Page, async_playwright

from imskit.media.python_plane import PythonPlane
from imskit.secrets import Secret
from imskit.tasks import spawn
from network_edge.eims_agw.call_media import MediaNode, Network
from network_edge.eims_agw.gateway import Gateway, Limits
from network_edge.ep_cscf.config import EpCscfConfig, MwConfig
from network_edge.ep_cscf.server import EpCscfServer
from network_edge.iq.gateway import GatewayUnavailableError
from network_edge.iq.ng_gateway import NgGateway
from simulators.ims_core.config import CoreConfig, EdgeConfig
from simulators.ims_core.core import ImsCore
from simulators.ims_core.subscribers import SubscriberConfig, WebSubscriberConfig
from simulators.lab.browser import FLAGS, find_chromium
from simulators.lab.certificates import Authority
from simulators.phone.config import PhoneConfig
from simulators.phone.phone import Phone

ROOT = Path(__file__).parents[2]
BROWSER_TONE, PHONE_TONE = 600.0, 900.0
"""What the fake microphone sings, and the phone, Hz."""


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


_DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
_CORE = "127.0.0.2"
_PHONE = f"001010000000002@{_DOMAIN}"
_K, _OPC = Secret("465b5ce8b199b49faa5f0a2ee238a6bc"), Secret("cd63cb71954a9f4e48a5994e37a02baf")


def free_port(host: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((host, 0))
        return int(udp.getsockname()[1])


class SippCore:
    """SIPp at the core's address, one scenario after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port(_CORE)
        self.address = f"{_CORE}:{self.port}"
        self.edge = ""
        self.log = ""
        """What the last scenario sent and received."""

    async def plays(self, scenario: str, **keys: str) -> asyncio.Task[None]:
        """Start a scenario that waits for the edge; returns when it listens."""
        task = spawn(self._run(scenario, keys), f"sipp {scenario}")
        # SIPp says nothing when it listens, so there is no event to wait for.
        while not self._bound() and not task.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return task

    async def _run(self, scenario: str, keys: dict[str, str]) -> None:
        text = (ROOT / "tests/interop/sipp" / f"{scenario}.xml").read_text()
        name = f"{scenario}-{secrets.token_hex(2)}"
        words = {
            "domain": _DOMAIN,
            "identity": f"sip:+15550100@{_DOMAIN}",
            "impi": f"001010000000001@{_DOMAIN}",
            "password": "correct horse",
            **keys,
        }
        # Attributes of actions know no keywords.
        for key in ("impi", "password", "identity"):
            value = re.escape(words[key]) if key == "identity" else words[key]
            text = re.sub(rf'((?:username|password|regexp)=")\[{key}\]', lambda m, v=value: m[1] + v, text)
        path = self.folder / f"{name}.xml"
        path.write_text(text)
        errors, messages = self.folder / f"{name}.errors", self.folder / f"{name}.messages"
        process = await asyncio.create_subprocess_exec(
            "sipp", self.edge, "-sf", str(path), "-i", _CORE, "-p", str(self.port), "-m", "1", "-l", "1", "-nostdin",
            "-mi", _CORE, "-mp", str(free_port(_CORE)), "-rtp_echo", "-timeout", "40s", "-timeout_error", "-nd",
            "-trace_err", "-error_file", str(errors), "-trace_msg", "-message_file", str(messages),
            *(word for key, value in words.items() for word in ("-key", key, value)),
            cwd=self.folder, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            status = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        told = errors.read_text(errors="replace") if errors.exists() else ""
        self.log = messages.read_text(errors="replace") if messages.exists() else ""
        assert status == 0, f"{name} ended with {status}:\n{told}\n{self.log[-6000:]}"

    def _bound(self) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((_CORE, self.port))
            except OSError:
                return True
        return False


@pytest.fixture
def sipp_core(tmp_path: Path) -> SippCore:
    """SIPp in the core's place; set ``edge`` to the eP-CSCF's address on Mw before it plays."""
    return SippCore(tmp_path)


PHONE_TONE = 900.0
"""What the phone speaks, Hz."""


class EdgeWorld:
    """A core, a VoLTE phone (+15550200) and a network edge with its media gateway, on loopback."""

    def __init__(self, core: ImsCore, phone: Phone, edge: EpCscfServer, gateway: Gateway, folder: Path) -> None:
        self.core, self.phone, self.edge, self.gateway = core, phone, edge, gateway
        self.folder = folder
        self.domain = _DOMAIN

    @property
    def account(self) -> dict[str, str]:
        """What a page needs to register +15550400 by SIP digest."""
        return {
            "server": f"wss://127.0.0.1:{self.edge.wss[0][1]}",
            "uri": f"sip:+15550400@{_DOMAIN}",
            "user": f"web@{_DOMAIN}",
            "password": "correct horse",
        }

    async def until(self, condition: Callable[[], bool], within: float = 20.0) -> None:
        """Wait for what nobody tells: the inside of core, phone and gateway."""
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def phone_is(self, state: str) -> bool:
        """Whether the phone's call is ``alerting``, ``up`` … or ``idle``."""
        return (self.phone.status()["call"] or {}).get("state", "idle") == state

    async def phone_hears(self, hertz: float, within: float = 30.0) -> None:
        """Wait until the strongest frequency of the last second that the phone recorded is this one."""
        heard = 0.0
        try:
            async with asyncio.timeout(within):
                while abs(heard - hertz) > 20:
                    await asyncio.sleep(0.2)
                    with contextlib.suppress(FileNotFoundError):
                        heard = _pitch((self.folder / "heard.wav").read_bytes()[44:])
        except TimeoutError:
            raise AssertionError(f"the phone hears {heard:.0f} Hz, not {hertz:.0f}") from None


def _pitch(data: bytes) -> float:
    samples = np.frombuffer(data[: len(data) // 2 * 2], np.int16)[-16000:].astype(float)
    if len(samples) < 16000 or np.abs(samples).max() < 500:
        return 0.0
    return float(np.argmax(np.abs(np.fft.rfft(samples * np.hanning(len(samples))))))


@pytest.fixture
async def edge_world(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Make the world for the pages of the given origins; the phone is registered when it is there."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(*origins: str) -> EdgeWorld:
            core = ImsCore(
                CoreConfig(
                    _DOMAIN,
                    ["127.0.0.1:0"],
                    [SubscriberConfig(_PHONE, [f"sip:+15550200@{_DOMAIN}", "tel:+15550200"], k=_K, opc=_OPC)],
                    web_subscribers=[
                        WebSubscriberConfig(
                            f"web@{_DOMAIN}",
                            [f"sip:+15550400@{_DOMAIN}", "tel:+15550400"],
                            password=Secret("correct horse"),
                        )
                    ],
                    edges=[EdgeConfig("127.0.0.1", _DOMAIN)],
                    # JsSIP and SIP.js look at the first challenge only and know no other algorithm.
                    digest_algorithms=["MD5"],
                )
            )
            await core.start()
            stack.push_async_callback(core.close)
            phone = Phone(
                PhoneConfig(
                    impi=_PHONE,
                    impus=[f"sip:+15550200@{_DOMAIN}"],
                    domain=_DOMAIN,
                    k=_K,
                    opc=_OPC,
                    address="127.0.0.1",
                    port=0,
                    p_cscf="{}:{}".format(*core.gm[0]),
                    # A bearer takes its time: the phone answers early, in a 183, where the caller has 100rel.
                    reservation=0.05,
                    answer_after=0.3,
                    play=write_tone(tmp_path / "phone.wav", PHONE_TONE, 16000),
                    loop=True,
                    record=tmp_path / "heard.wav",
                )
            )
            await phone.start()
            stack.push_async_callback(phone.close)
            network = Network("127.0.0.1", range(30000, 39998))
            gateway = Gateway(MediaNode(PythonPlane(), network, network), Limits(grace=0.0))
            stack.push_async_callback(gateway.close)
            certificate, key = Authority.create("edge", tmp_path / "ca").server("ws.ims.example")
            edge = EpCscfServer(
                EpCscfConfig(
                    home_domain=_DOMAIN,
                    mw=MwConfig(address="127.0.0.1:0", core="{}:{}".format(*core.core)),
                    wss=["127.0.0.1:0"],
                    certificate=certificate,
                    key=key,
                    origins=list(origins),
                ),
                gateway=gateway,
            )
            await edge.start()
            stack.push_async_callback(edge.close)
            world = EdgeWorld(core, phone, edge, gateway, tmp_path)
            await world.until(lambda: phone.status()["registration"] == "registered")
            return world

        yield make


@contextlib.asynccontextmanager
async def _run_rtpengine() -> AsyncIterator[tuple[NgGateway, asyncio.subprocess.Process]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        process = await asyncio.create_subprocess_exec(
            "rtpengine", "--config-file=none", "--table=-1", "--interface=127.0.0.1",
            f"--listen-ng=127.0.0.1:{port}", "--port-min=31000", "--port-max=31998", "--foreground", "--log-stderr",
            "--log-level=2", f"--pidfile={Path(directory) / 'pid'}", "--delete-delay=0",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        gateway = await NgGateway.connect("127.0.0.1", port, timeout=1.0, watch=0.2)
        try:
            async with asyncio.timeout(30):
                while True:
                    try:
                        await gateway.ping()
                        break
                    except GatewayUnavailableError:
                        assert process.returncode is None, "rtpengine does not start"
            yield gateway, process
        finally:
            await gateway.close()
            if process.returncode is None:
                process.terminate()
            await process.wait()


@pytest.fixture
def run_rtpengine() -> Callable[
    [], contextlib.AbstractAsyncContextManager[tuple[NgGateway, asyncio.subprocess.Process]]
]:
    """Runs rtpengine in user space on loopback; the context is entered when it answers our NG client."""
    return _run_rtpengine


@pytest.fixture
async def rtpengine() -> AsyncIterator[tuple[NgGateway, asyncio.subprocess.Process]]:
    """A running rtpengine and our NG client of it."""
    async with _run_rtpengine() as running:
        yield running
