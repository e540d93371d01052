"""A gateway on loopback with a browser's and a phone's media."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imskit.media.events import Step
from imskit.media.python_plane import PythonPlane
from imskit.observe.events import EventLog
from imskit.sdp.description import SessionDescription
from network_edge.eims_agw.call_media import MediaNode, Network
from network_edge.eims_agw.gateway import Gateway, Limits
from network_edge.iq.gateway import (
    TOWARDS_IMS,
    TOWARDS_WEB,
    AnswerRequest,
    MediaFlags,
    MediaGateway,
    MediaLost,
    OfferRequest,
)
from simulators.media_ends import BrowserEnd, PhoneEnd


class Bench:
    """Makes gateways and ends, and closes them all."""

    def __init__(self) -> None:
        self.plane = PythonPlane()
        self.gateways: list[Gateway] = []
        self.browsers: list[BrowserEnd] = []
        self.phones: list[PhoneEnd] = []
        self.lost: list[MediaLost] = []
        self.events: Path | None = None

    def gateway(self, node: dict[str, object] | None = None, **limits: float) -> Gateway:
        """``node`` holds options of ``MediaNode``."""
        network = Network("127.0.0.1", range(30000, 39998))
        options: dict[str, object] = {"web": network, "ims": network} | (node or {})
        media = MediaNode(PythonPlane(), **options)  # type: ignore[arg-type]
        gateway = Gateway(media, Limits(**limits), EventLog("eims-agw", self.events))  # type: ignore[arg-type]
        gateway.on_media_lost = self.lost.append
        self.gateways.append(gateway)
        return gateway

    def browser(self, *, offers: bool = True, **options: object) -> BrowserEnd:
        self.browsers.append(BrowserEnd(PythonPlane(), offers=offers, **options))  # type: ignore[arg-type]
        return self.browsers[-1]

    def phone(self, **options: object) -> PhoneEnd:
        self.phones.append(PhoneEnd(PythonPlane(), **options))  # type: ignore[arg-type]
        return self.phones[-1]

    @staticmethod
    async def from_browser(
        gateway: MediaGateway, browser: BrowserEnd, phone: PhoneEnd, call: str = "call", flags: MediaFlags = TOWARDS_IMS
    ) -> tuple[SessionDescription, SessionDescription]:
        """A call that the browser makes; returns the gateway's descriptions."""
        towards_ims = await gateway.offer(OfferRequest(call, "web", browser.offer(), flags))
        answer = phone.take_offer(towards_ims)
        towards_web = await gateway.answer(AnswerRequest(call, "web", "ims", answer, TOWARDS_WEB))
        browser.take_answer(towards_web)
        return towards_ims, towards_web

    @staticmethod
    async def from_phone(
        gateway: MediaGateway, browser: BrowserEnd, phone: PhoneEnd, call: str = "call"
    ) -> tuple[SessionDescription, SessionDescription]:
        """A call that the phone makes; returns the gateway's descriptions."""
        towards_web = await gateway.offer(OfferRequest(call, "ims", phone.offer(), TOWARDS_WEB))
        answer = browser.take_offer(towards_web)
        towards_ims = await gateway.answer(AnswerRequest(call, "ims", "web", answer, TOWARDS_IMS))
        phone.take_answer(towards_ims)
        return towards_web, towards_ims

    @staticmethod
    async def speak(browser: BrowserEnd, phone: PhoneEnd) -> None:
        """Both speak, each another tone; both hear the other's."""
        await browser.until(Step.DTLS_CONNECTED)
        async with asyncio.TaskGroup() as group:
            group.create_task(browser.talk(500, 0.8))
            group.create_task(phone.talk(900, 0.8))
            group.create_task(browser.hears(34))
            group.create_task(phone.hears(34))
        assert browser.pitch(28) == pytest.approx(900, abs=15)
        assert phone.pitch(28) == pytest.approx(500, abs=15)

    async def close(self) -> None:
        for browser in self.browsers:
            await browser.close()
        for phone in self.phones:
            phone.close()
        for gateway in self.gateways:
            await gateway.close()
            assert gateway.sessions == 0


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.close()
