"""A real rtpengine as the gateway [A-IQ]: our NG client drives it, with a WebRTC peer and plain RTP at its ends."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from imskit.media.events import Step
from imskit.media.python_plane import PythonPlane
from imskit.sdp.profile import AMR_WB, AMR_WB_OCTET_ALIGNED, IMS, OPUS, PCMA, Format
from imskit.sdp.sdes import Suite
from network_edge.eims_agw.call_media import MediaNode, Network
from network_edge.eims_agw.gateway import Gateway
from network_edge.iq.gateway import (
    TOWARDS_IMS,
    TOWARDS_IMS_SDES,
    TOWARDS_WEB,
    AnswerRequest,
    DeleteRequest,
    Dtls,
    Loss,
    MediaFlags,
    MediaLost,
    OfferRequest,
    QueryRequest,
    Transport,
    UnknownCallError,
)
from network_edge.iq.ng_gateway import NgGateway
from simulators.media_ends import BrowserEnd, PhoneEnd

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("rtpengine") is None, reason="rtpengine-daemon is not installed"),
]


@pytest.fixture
async def ends() -> AsyncIterator[dict[str, BrowserEnd | PhoneEnd]]:
    made: dict[str, BrowserEnd | PhoneEnd] = {}
    yield made
    for end in made.values():
        if isinstance(end, BrowserEnd):
            await end.close()
        else:
            end.close()


async def speak(browser: BrowserEnd, phone: PhoneEnd) -> None:
    """Both speak, each another tone, and hear the other's."""
    await browser.until(Step.DTLS_CONNECTED, timeout=20)
    async with asyncio.TaskGroup() as group:
        group.create_task(browser.talk(500, 1.5))
        group.create_task(phone.talk(900, 1.5))
        group.create_task(browser.hears(55))
        group.create_task(phone.hears(55))
    assert browser.pitch(30) == pytest.approx(900, abs=20)
    assert phone.pitch(30) == pytest.approx(500, abs=20)


@pytest.mark.parametrize("formats", [(AMR_WB_OCTET_ALIGNED,), (PCMA,)], ids=["AMR-WB", "PCMA"])
async def test_a_call_from_the_browser(
    rtpengine: tuple[NgGateway, asyncio.subprocess.Process],
    ends: dict[str, BrowserEnd | PhoneEnd],
    formats: tuple[Format, ...],
) -> None:
    """Offer, answer, query, list, delete; sound both ways through its transcoder and its relay."""
    gateway, _ = rtpengine
    ends["web"] = browser = BrowserEnd(PythonPlane(), offers=True, formats=(OPUS, PCMA))
    ends["ims"] = phone = PhoneEnd(PythonPlane(), formats=formats)
    towards_ims = await gateway.offer(OfferRequest("call", "web", browser.offer(), TOWARDS_IMS))
    kinds = [line for line in IMS.violations(towards_ims) if "a=" in line and "no a=" not in line]
    assert kinds == [], "nothing of WebRTC reaches IMS"
    answer = phone.take_offer(towards_ims)
    browser.take_answer(await gateway.answer(AnswerRequest("call", "web", "ims", answer, TOWARDS_WEB)))
    await speak(browser, phone)
    assert await gateway.list() == ("call",)
    figures = await gateway.query(QueryRequest("call"))
    assert figures.received["ims"].packets == 75 and figures.received["web"].packets >= 75
    await gateway.delete(DeleteRequest("call", "web", delay=0))
    with pytest.raises(UnknownCallError):
        await gateway.query(QueryRequest("call"))


async def test_a_call_from_ims(
    rtpengine: tuple[NgGateway, asyncio.subprocess.Process], ends: dict[str, BrowserEnd | PhoneEnd]
) -> None:
    gateway, _ = rtpengine
    ends["web"] = browser = BrowserEnd(PythonPlane(), offers=False, formats=(OPUS, PCMA))
    ends["ims"] = phone = PhoneEnd(PythonPlane(), formats=(AMR_WB,))
    towards_web = await gateway.offer(OfferRequest("call", "ims", phone.offer(), TOWARDS_WEB))
    answer = browser.take_offer(towards_web)
    phone.take_answer(await gateway.answer(AnswerRequest("call", "ims", "web", answer, TOWARDS_IMS)))
    await speak(browser, phone)


@pytest.mark.parametrize("suite", [suite.value for suite in Suite])
async def test_sdes_between_our_gateway_and_rtpengine(
    rtpengine: tuple[NgGateway, asyncio.subprocess.Process], ends: dict[str, BrowserEnd | PhoneEnd], suite: str
) -> None:
    """R-SEC: our gateway speaks SRTP with SDES to rtpengine as an IMS core's border, which gives the phone RTP."""
    border, _ = rtpengine
    network = Network("127.0.0.1", range(32000, 34998))
    gateway = Gateway(MediaNode(PythonPlane(), network, network))
    ends["web"] = browser = BrowserEnd(PythonPlane(), offers=True, formats=(PCMA,))
    ends["ims"] = phone = PhoneEnd(PythonPlane(), formats=(PCMA,))
    plain = MediaFlags(transport=Transport.AVP, sdes=("off",), replace=("origin", "session-connection"))
    secured = MediaFlags(transport=Transport.SAVP, dtls=Dtls.OFF, replace=("origin", "session-connection"))
    try:
        towards_ims = replace(TOWARDS_IMS_SDES, sdes=(f"only-{suite}",))
        offer = await gateway.offer(OfferRequest("call", "web", browser.offer(), towards_ims))
        answer = phone.take_offer(await border.offer(OfferRequest("border", "web", offer, plain)))
        answer = await border.answer(AnswerRequest("border", "web", "ims", answer, secured))
        assert [value.split()[1] for value in answer.media[0].attributes("crypto")] == [suite]
        browser.take_answer(await gateway.answer(AnswerRequest("call", "web", "ims", answer, TOWARDS_WEB)))
        await speak(browser, phone)
    finally:
        await gateway.close()


async def test_its_death_within_a_call_is_noticed(
    rtpengine: tuple[NgGateway, asyncio.subprocess.Process], ends: dict[str, BrowserEnd | PhoneEnd]
) -> None:
    gateway, process = rtpengine
    lost: asyncio.Queue[MediaLost] = asyncio.Queue()
    gateway.on_media_lost = lost.put_nowait
    ends["web"] = browser = BrowserEnd(PythonPlane(), offers=True)
    await gateway.offer(OfferRequest("call", "web", browser.offer(), TOWARDS_IMS))
    process.kill()
    told = await asyncio.wait_for(lost.get(), 10)
    assert (told.call_id, told.loss) == ("call", Loss.GATEWAY)
