"""Real WebRTC clients through the media gateways of the eP-CSCF [A-IQ, A-AGW, R-ICE, R-SEC].

aiortc and Chromium on one side, plain RTP or SDES-SRTP on the other; between them our own gateway (a full ICE agent,
or ICE-lite) or a real rtpengine, each steered as the eP-CSCF steers it: TOWARDS_IMS one way, TOWARDS_WEB the other.
Both ends speak a tone of their own and must hear the other's.
"""

from __future__ import annotations

import asyncio
import contextlib
import fractions
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import aioice.ice
import av
import numpy as np
import pytest
from aiohttp import web
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from playwright.async_api import Page, async_playwright

from imskit.media.python_plane import PythonPlane
from imskit.sdp.description import SessionDescription
from imskit.sdp.profile import AMR_WB_OCTET_ALIGNED, PCMA
from imskit.sdp.sdes import Suite
from network_edge.eims_agw.call_media import MediaNode, Network
from network_edge.eims_agw.gateway import Gateway, Limits
from network_edge.iq.gateway import (
    TOWARDS_IMS,
    TOWARDS_IMS_SDES,
    TOWARDS_WEB,
    AnswerRequest,
    DeleteRequest,
    MediaGateway,
    OfferRequest,
    QueryRequest,
)
from simulators.media_ends import PhoneEnd

CHROMIUM = shutil.which("chromium")
RTPENGINE = shutil.which("rtpengine")
HIGH, LOW = 900.0, 500.0
pytestmark = pytest.mark.interop


class WebClient(Protocol):
    """A WebRTC end that speaks ``LOW``."""

    async def offer(self) -> str: ...

    async def take_answer(self, sdp: str) -> None: ...

    async def take_offer(self, sdp: str) -> str: ...

    async def pitch(self) -> float: ...

    async def close(self) -> None: ...


class _Tone(MediaStreamTrack):
    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._frame = 0
        self._start = 0.0

    async def recv(self) -> av.AudioFrame:
        now = time.monotonic()
        if not self._frame:
            self._start = now
        await asyncio.sleep(max(0.0, self._start + 0.02 * self._frame - now))
        at = (960 * self._frame + np.arange(960)) / 48000
        pcm = (8000 * np.sin(2 * np.pi * LOW * at)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, 960 * self._frame, fractions.Fraction(1, 48000)
        self._frame += 1
        return frame


class Aiortc:
    """aiortc: its own ICE, DTLS, SRTP and Opus."""

    def __init__(self) -> None:
        self._connection = RTCPeerConnection(RTCConfiguration([]))
        self._tracks: asyncio.Queue[Any] = asyncio.Queue()
        self._connection.on("track", self._tracks.put_nowait)

    async def offer(self) -> str:
        self._connection.addTrack(_Tone())
        await self._connection.setLocalDescription(await self._connection.createOffer())
        return str(self._connection.localDescription.sdp)

    async def take_answer(self, sdp: str) -> None:
        await self._connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    async def take_offer(self, sdp: str) -> str:
        await self._connection.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        self._connection.addTrack(_Tone())
        await self._connection.setLocalDescription(await self._connection.createAnswer())
        return str(self._connection.localDescription.sdp)

    async def pitch(self) -> float:
        track = await asyncio.wait_for(self._tracks.get(), 15)
        resampler = av.AudioResampler("s16", "mono", 16000)
        pcm = b""
        for _ in range(100):
            frame = await asyncio.wait_for(track.recv(), 15)
            frame.pts = None
            pcm += b"".join([bytes(out.planes[0])[: 2 * out.samples] for out in resampler.resample(frame)])
        samples = np.frombuffer(pcm, np.int16)[-16000:].astype(float)
        return float(np.argmax(np.abs(np.fft.rfft(samples * np.hanning(len(samples))))[5:]) + 5)

    async def close(self) -> None:
        await self._connection.close()


_SCRIPT = """
(() => {
  const pc = new RTCPeerConnection();
  const audio = new AudioContext({sampleRate: 48000});
  const tone = new OscillatorNode(audio, {frequency: 500}), out = audio.createMediaStreamDestination();
  tone.connect(out);
  tone.start();
  const heard = new Promise(done => pc.ontrack = event => done(new MediaStream([event.track])));
  const add = () => out.stream.getTracks().forEach(track => pc.addTrack(track, out.stream));
  const local = async description => {
    await pc.setLocalDescription(description);
    while (pc.iceGatheringState !== 'complete')
      await new Promise(done => pc.addEventListener('icegatheringstatechange', done, {once: true}));
    return pc.localDescription.sdp;
  };
  window.offer = async () => { add(); return local(await pc.createOffer()); };
  window.takeAnswer = sdp => pc.setRemoteDescription({type: 'answer', sdp});
  window.takeOffer = async sdp => {
    await pc.setRemoteDescription({type: 'offer', sdp});
    add();
    return local(await pc.createAnswer());
  };
  window.pitch = async () => {
    const stream = await heard, element = new Audio();
    element.srcObject = stream;  // without an element Chromium decodes nothing
    await element.play();
    const meter = new AnalyserNode(audio, {fftSize: 8192, smoothingTimeConstant: 0});
    audio.createMediaStreamSource(stream).connect(meter);
    const bins = new Float32Array(meter.frequencyBinCount);
    for (;;) {
      await new Promise(done => setTimeout(done, 100));
      meter.getFloatFrequencyData(bins);
      const top = bins.indexOf(Math.max(...bins));
      if (bins[top] > -45) return top * audio.sampleRate / meter.fftSize;
    }
  };
})();
"""


class Chromium:
    """A page of a real Chromium."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def offer(self) -> str:
        return str(await self._page.evaluate("offer()"))

    async def take_answer(self, sdp: str) -> None:
        await self._page.evaluate("sdp => takeAnswer(sdp)", sdp)

    async def take_offer(self, sdp: str) -> str:
        return str(await self._page.evaluate("sdp => takeOffer(sdp)", sdp))

    async def pitch(self) -> float:
        return float(await asyncio.wait_for(self._page.evaluate("pitch()"), 30))

    async def close(self) -> None:
        await self._page.close()


@contextlib.asynccontextmanager
async def chromium(home: Path) -> AsyncIterator[Chromium]:
    """An empty page of a loopback host, free to use loopback addresses, which are no candidates by default."""
    application = web.Application()

    async def index(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>test</title>", content_type="text/html")

    application.router.add_get("/", index)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--allow-loopback-in-peer-connection",
                "--autoplay-policy=no-user-gesture-required",
                "--disable-features=WebRtcHideLocalIpsWithMdns",
            ],
            env={"HOME": str(home)},
        )
        try:
            page = await browser.new_page()
            await page.goto(f"http://127.0.0.1:{runner.addresses[0][1]}/")
            await page.add_script_tag(content=_SCRIPT)
            yield Chromium(page)
        finally:
            await browser.close()
            await runner.cleanup()


@pytest.fixture(
    params=["aiortc", pytest.param("chromium", marks=pytest.mark.skipif(not CHROMIUM, reason="no Chromium"))]
)
async def client(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[WebClient]:
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "chromium":
            yield await stack.enter_async_context(chromium(tmp_path))
            return
        monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])
        made = Aiortc()
        stack.push_async_callback(made.close)
        yield made


@pytest.fixture(
    params=["full", "lite", pytest.param("rtpengine", marks=pytest.mark.skipif(not RTPENGINE, reason="no rtpengine"))]
)
async def gateway(request: pytest.FixtureRequest, run_rtpengine: Any) -> AsyncIterator[MediaGateway]:
    if request.param == "rtpengine":
        async with run_rtpengine() as (made, _):
            yield made
        return
    network = Network("127.0.0.1", range(35000, 38998))
    own = Gateway(MediaNode(PythonPlane(), network, network, ice_lite=request.param == "lite"), Limits(grace=0.0))
    yield own
    await own.close()


async def both_hear(client: WebClient, phone: PhoneEnd) -> None:
    """The phone speaks until the client has heard its tone; the phone has heard the client's by then."""
    speaking = asyncio.ensure_future(phone.talk(HIGH, 40))
    try:
        assert await client.pitch() == pytest.approx(HIGH, abs=25)
        await phone.hears(50, timeout=20)
        assert phone.pitch(40) == pytest.approx(LOW, abs=20)
    finally:
        speaking.cancel()


@pytest.mark.parametrize("secured", [False, True], ids=["RTP", "SDES"])
async def test_a_call_from_the_client(gateway: MediaGateway, client: WebClient, secured: bool) -> None:
    """Offer and answer through the gateway; sound both ways; its figures; the end."""
    phone = PhoneEnd(PythonPlane(), formats=(PCMA,), suites=tuple(Suite) if secured else ())
    try:
        offer = SessionDescription.parse(await client.offer())
        flags = TOWARDS_IMS_SDES if secured else TOWARDS_IMS
        towards_ims = await gateway.offer(OfferRequest("call", "web", offer, flags))
        assert towards_ims.media[0].protocol == ("RTP/SAVP" if secured else "RTP/AVP")
        answer = phone.take_offer(towards_ims)
        towards_web = await gateway.answer(AnswerRequest("call", "web", "ims", answer, TOWARDS_WEB))
        await client.take_answer(str(towards_web))
        await both_hear(client, phone)
        figures = await gateway.query(QueryRequest("call"))
        assert figures.received["web"].packets >= 50 and figures.received["ims"].packets >= 50
        await gateway.delete(DeleteRequest("call", "web", delay=0))
    finally:
        phone.close()


async def test_a_call_to_the_client(gateway: MediaGateway, client: WebClient) -> None:
    """The phone calls, with AMR-WB, which the gateway has to transcode."""
    phone = PhoneEnd(PythonPlane(), formats=(AMR_WB_OCTET_ALIGNED,))
    try:
        towards_web = await gateway.offer(OfferRequest("call", "ims", phone.offer(), TOWARDS_WEB))
        answer = SessionDescription.parse(await client.take_offer(str(towards_web)))
        phone.take_answer(await gateway.answer(AnswerRequest("call", "ims", "web", answer, TOWARDS_IMS)))
        await both_hear(client, phone)
        await gateway.delete(DeleteRequest("call", "ims", delay=0))
    finally:
        phone.close()
