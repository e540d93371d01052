"""The RMF as the SIF sees it: peers admitted while a call lasts, ICE restarts, failures told [S7-RMF, S7-TURN]."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from imskit.media.python_plane import PythonPlane
from imskit.observe.events import EventLog, read_events
from imskit.sdp import ims_side, interworking
from imskit.sdp.description import SessionDescription
from imskit.sdp.ims_side import ImsEndpoint
from ue_agent.call_media import CallMedia
from ue_agent.rmf.rmf import Rmf

OFFER = (Path(__file__).parents[1] / "imskit/sdp/data/chromium_audio.sdp").read_bytes()
PHONE = ImsEndpoint("127.0.0.1", 60000, 99)


class Peers:
    def __init__(self) -> None:
        self.admitted: list[tuple[str, int]] = []

    def admit(self, address: tuple[str, int]) -> None:
        self.admitted.append(address)

    def retire(self, address: tuple[str, int]) -> None:
        self.admitted.remove(address)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.rmf = Rmf(PythonPlane(), ims_host=lambda: "127.0.0.1")
        self.peers = Peers()
        self.log = folder / "events"
        self.events = EventLog("test", self.log)
        self.media = CallMedia(self.rmf, self.peers, self.events)
        self.failures: list[str] = []

    async def closed(self) -> None:
        """All that was closed is closed."""
        async with asyncio.timeout(5):
            while self.rmf.calls:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    await bench.rmf.close()
    bench.events.close()


async def test_peers_are_admitted_while_the_call_lasts(bench: Bench) -> None:
    web, endpoint = await bench.media.open("out-1", controlling=False, on_failed=bench.failures.append)
    assert [(each.address, each.port) for each in web.candidates] == bench.peers.admitted
    assert endpoint.address == "127.0.0.1"
    bench.media.close("out-1")
    assert bench.peers.admitted == []
    await bench.closed()
    assert next(event["event"] for event in read_events(bench.log)) == "media-report"


async def test_an_unknown_call_is_nothing_to_close(bench: Bench) -> None:
    bench.media.close("nobody")
    bench.media.answered("nobody")


async def test_a_later_offer_restarts_ice_only_with_new_credentials(bench: Bench) -> None:
    web, endpoint = await bench.media.open("out-1", controlling=False, on_failed=bench.failures.append)
    page = SessionDescription.parse(OFFER)
    offer = interworking.ims_offer(page, endpoint)
    phone, _ = ims_side.make_answer(offer, PHONE)
    agreed = ims_side.read_answer(offer, phone)
    _, side = interworking.web_answer(page, agreed, web)
    bench.media.apply("out-1", interworking.plan(side, agreed))
    assert bench.media.page_offer("out-1", page).ice_ufrag == web.ice_ufrag
    fresh = SessionDescription.parse(OFFER.replace(b"humq", b"humr").replace(b"4y9Dljd", b"4y9Dlje"))
    renewed = bench.media.page_offer("out-1", fresh)
    assert renewed.ice_ufrag != web.ice_ufrag
    assert renewed.ice_pwd != web.ice_pwd
    assert (renewed.fingerprints, renewed.candidates) == (web.fingerprints, web.candidates)
    _, side = interworking.web_answer(fresh, agreed, renewed)
    bench.media.apply("out-1", interworking.plan(side, agreed))
    assert bench.media.page_offer("out-1", fresh).ice_ufrag == renewed.ice_ufrag


async def test_a_plan_that_cannot_be_is_a_value_error(bench: Bench) -> None:
    web, endpoint = await bench.media.open("out-1", controlling=False, on_failed=bench.failures.append)
    page = SessionDescription.parse(OFFER)
    offer = interworking.ims_offer(page, endpoint)
    phone, _ = ims_side.make_answer(offer, PHONE)
    agreed = ims_side.read_answer(offer, phone)
    _, side = interworking.web_answer(page, agreed, web)
    with pytest.raises(ValueError, match="ICE"):
        bench.media.apply("out-1", interworking.plan(replace(side, ice=None), agreed))


async def test_a_page_that_never_connects_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ue_agent.rmf.rmf.ANSWERED_SECONDS", 0.05)
    web, endpoint = await bench.media.open("out-1", controlling=False, on_failed=bench.failures.append)
    page = SessionDescription.parse(OFFER)
    offer = interworking.ims_offer(page, endpoint)
    phone, _ = ims_side.make_answer(offer, PHONE)
    agreed = ims_side.read_answer(offer, phone)
    _, side = interworking.web_answer(page, agreed, web)
    bench.media.apply("out-1", interworking.plan(side, agreed))
    bench.media.answered("out-1")
    async with asyncio.timeout(5):
        while not bench.failures:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert bench.failures[0].startswith("the media connection to the page failed: not connected in time")


async def test_no_port_is_free(tmp_path: Path) -> None:
    rmf = Rmf(PythonPlane(), ims_host=lambda: "192.0.2.77")
    media = CallMedia(rmf, Peers(), EventLog("test"))
    with pytest.raises(OSError):
        await media.open("out-1", controlling=False, on_failed=lambda _: None)
    assert rmf.calls == 0
