"""A real Chromium takes our offers and answers, and we take its: JSEP both ways [S7-SIF, S7-RMF]."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Page, async_playwright

from imskit.sdp import web_side
from imskit.sdp.attributes import Candidate, Direction, Fingerprint
from imskit.sdp.description import SessionDescription
from imskit.sdp.negotiation import AgreedCodec, next_offer
from imskit.sdp.web_side import WebEndpoint

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

ENDPOINT = WebEndpoint(
    session_id=1234567890123456789,
    ice_ufrag="abcd",
    ice_pwd="abcdefghijklmnopqrstuv",
    candidates=(Candidate("1", 1, "udp", 2130706431, "192.0.2.9", 40000, "host"),),
    fingerprints=(Fingerprint("sha-256", ":".join(["AB"] * 32)),),
    ssrc=77,
    cname="agent",
)

SCRIPT = """
window.call = async (configuration, video, data) => {
  const pc = window.pc = new RTCPeerConnection(configuration);
  window.tracks = [];
  pc.ontrack = event => window.tracks.push([event.track.kind, event.streams.map(stream => stream.id)]);
  const stream = await navigator.mediaDevices.getUserMedia({audio: true, video});
  stream.getTracks().forEach(track => pc.addTrack(track, stream));
  if (data) pc.createDataChannel('chat');
};
window.gathered = async () => {
  if (pc.iceGatheringState !== 'complete')
    await new Promise(done => pc.onicegatheringstatechange = () => pc.iceGatheringState === 'complete' && done());
  return pc.localDescription.sdp;
};
window.offer = async () => { await pc.setLocalDescription(await pc.createOffer()); return await gathered(); };
window.answered = async sdp => { await pc.setRemoteDescription({type: 'answer', sdp}); return pc.signalingState; };
window.answer = async sdp => {
  await pc.setRemoteDescription({type: 'offer', sdp});
  await pc.setLocalDescription(await pc.createAnswer());
  return await gathered();
};
window.codecs = () => pc.getTransceivers().map(item => [item.currentDirection,
  item.sender.getParameters().codecs.map(codec => codec.mimeType + '/' + codec.clockRate)]);
"""


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    """An empty page of a loopback host in a headless Chromium."""
    application = web.Application()

    async def index(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>test</title>", content_type="text/html")

    application.router.add_get("/", index)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
            env={"HOME": str(tmp_path)},
        )
        try:
            opened = await browser.new_page()
            await opened.goto(f"http://127.0.0.1:{port}/")
            await opened.add_script_tag(content=SCRIPT)
            yield opened
        finally:
            await browser.close()
            await runner.cleanup()


async def evaluate(page: Page, expression: str, *arguments: Any) -> Any:
    """Call a function of the page; the whole must not take long."""
    return await asyncio.wait_for(
        page.evaluate(f"(arguments) => {expression}(...arguments)", list(arguments)), timeout=30
    )


@pytest.mark.parametrize("policy", ["balanced", "max-bundle", "max-compat"])
async def test_the_browser_takes_our_answer(page: Page, policy: str) -> None:
    """Sound accepted, video and data refused, whatever bundle policy the operator's page chose."""
    await evaluate(page, "call", {"bundlePolicy": policy}, True, True)
    offer = SessionDescription.parse(await evaluate(page, "offer"))
    answer, leg = web_side.make_answer(offer, ENDPOINT)
    assert await evaluate(page, "answered", answer.encode().decode()) == "stable"
    codecs = await evaluate(page, "codecs")
    # The refused video's transceiver is stopped and gone.
    assert codecs == [["sendrecv", ["audio/opus/48000", "audio/telephone-event/48000"]]]
    assert await page.evaluate("window.tracks") == [["audio", ["call"]]]
    assert leg.ice is not None and len(leg.ice.ufrag) >= 4

    # The page holds: same credentials, no new handshake, direction passes.
    await page.evaluate("pc.getTransceivers()[0].direction = 'sendonly'")
    hold = SessionDescription.parse(await evaluate(page, "offer"))
    held, second = web_side.make_answer(hold, ENDPOINT, previous=answer)
    assert second.direction is Direction.RECVONLY
    assert second.ice is not None and second.ice.ufrag == leg.ice.ufrag
    assert second.fingerprints == leg.fingerprints
    assert await evaluate(page, "answered", held.encode().decode()) == "stable"
    assert (await evaluate(page, "codecs"))[0][0] == "sendonly"

    # Then we offer, as for a hold from IMS.
    resumed = next_offer(held, second, direction=Direction.SENDRECV)
    back = SessionDescription.parse(await evaluate(page, "answer", resumed.encode().decode()))
    third = web_side.read_answer(resumed, back)
    assert third.codec.encoding == "opus"
    assert third.ice is not None and third.ice.ufrag == leg.ice.ufrag
    assert third.dtls_client == second.dtls_client


@pytest.mark.parametrize(("name", "rate", "number"), [("PCMA", 8000, 8), ("PCMU", 8000, 0), ("G722", 8000, 9)])
async def test_the_browser_takes_a_relayed_format(page: Page, name: str, rate: int, number: int) -> None:
    await evaluate(page, "call", {}, False, False)
    offer = SessionDescription.parse(await evaluate(page, "offer"))
    answer, leg = web_side.make_answer(offer, ENDPOINT, relayed=AgreedCodec(name, rate, 1, number, number))
    assert leg.codec.encoding == name
    await evaluate(page, "answered", answer.encode().decode())
    assert await evaluate(page, "codecs") == [["sendrecv", [f"audio/{name}/8000", "audio/telephone-event/8000"]]]


async def test_the_browser_answers_our_offer(page: Page) -> None:
    """A call to the page, then a refresh: the answer is read, roles and credentials fit."""
    await evaluate(page, "call", {}, False, False)
    offer = web_side.make_offer(ENDPOINT)
    answer = SessionDescription.parse(await evaluate(page, "answer", offer.encode().decode()))
    leg = web_side.read_answer(offer, answer)
    assert leg.accepted and leg.direction is Direction.SENDRECV
    assert leg.codec.encoding == "opus" and leg.codec.receive_payload_type == leg.codec.send_payload_type
    assert leg.dtls_client is False  # the browser is active
    assert leg.telephone_event is not None and leg.telephone_event.clock_rate == 48000
    assert leg.ice is not None and leg.ice.candidates
    assert await page.evaluate("window.tracks") == [["audio", ["call"]]]

    again = next_offer(offer, leg)
    second = web_side.read_answer(
        again, SessionDescription.parse(await evaluate(page, "answer", again.encode().decode()))
    )
    assert second.ice is not None and second.ice.ufrag == leg.ice.ufrag
    assert second.dtls_client is False


async def test_an_ice_restart_shows(page: Page) -> None:
    await evaluate(page, "call", {}, False, False)
    offer = SessionDescription.parse(await evaluate(page, "offer"))
    answer, leg = web_side.make_answer(offer, ENDPOINT)
    await evaluate(page, "answered", answer.encode().decode())
    await page.evaluate("pc.restartIce()")
    restarted = SessionDescription.parse(await evaluate(page, "offer"))
    fresh = replace(ENDPOINT, ice_ufrag="wxyz", ice_pwd="z" * 22)
    second_answer, second = web_side.make_answer(restarted, fresh, previous=answer)
    assert leg.ice is not None and second.ice is not None and second.ice.ufrag != leg.ice.ufrag
    assert second_answer.origin.version == answer.origin.version + 1
    assert await evaluate(page, "answered", second_answer.encode().decode()) == "stable"
