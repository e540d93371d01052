"""What fails at the network edge is told the user, releases what it held, and recovers when its cause goes.

Issue 4, bad input and faults: each test breaks one thing between a laptop's Chromium and the IMS core while it is in
use, looks at what the page says and at the phone, mends it, and sees that the next call works and that nothing is held.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from simulators.lab.browser import Browser, PhonePage
from simulators.lab.cable import Cable
from simulators.lab.control import until
from simulators.lab.edge_demo import TOKEN, log_in
from simulators.lab.lab import LAPTOP_NUMBER, PHONE_NUMBER, Lab

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="session")]

_RETURN = 40.0
"""Seconds that a page may take to come back: JsSIP tries again every 15 s at most."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def edge(lab: Lab) -> AsyncIterator[Lab]:
    """The lab with the edge."""
    await lab.start_edge()
    yield lab
    await lab.stop_edge()
    await lab.stop_agent()  # it knows nothing yet of the core's restarts
    await lab.start_agent()
    await lab.registered()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cable(edge: Lab) -> AsyncIterator[Cable]:
    """The laptop's connection to the eP-CSCF."""
    cable = Cable(edge)
    await cable.mend()
    yield cable
    cable.remove()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def laptop(edge: Lab, cable: Cable) -> AsyncIterator[PhonePage]:
    """A browser on the laptop, logged in; its page stays open over all these faults."""
    async with Browser(edge.net.laptop, edge.root / "laptop.wav", "laptop-faults") as browser:
        page = PhonePage(await browser.new_page())
        await log_in(page, TOKEN)
        assert cable.connections == 1
        yield page


@pytest_asyncio.fixture(loop_scope="session")
async def page(edge: Lab, laptop: PhonePage) -> AsyncIterator[PhonePage]:
    """The page, ready; the edge must be whole and empty after."""
    await laptop.until("line", "ready", within=_RETURN)
    yield laptop
    await _call_works(edge, laptop)


# ---- what is looked at -----------------------------------------------------------------------------------------------


async def _phone_call(lab: Lab, state: str | None, within: float = 20.0) -> None:
    """Wait until the phone's call is in this state; ``None``: until it has none."""

    async def look() -> bool:
        call = (await lab.phone("GET", "/status"))["call"]
        return (call or {}).get("state") == state

    await until(look, f"the phone's call is {state or 'over'}", within)


async def _nothing_held(lab: Lab) -> None:
    """Neither the edge nor the phone has a call left, and the laptop is registered once."""

    async def nothing() -> bool:
        status = await lab.edge_status()
        phone = await lab.phone("GET", "/status")
        return status["calls"] == 0 and status["registrations"] == 1 and phone["call"] is None

    await until(nothing, "no call is left, and one registration")


async def _talk(page: PhonePage) -> None:
    """The page calls the phone, which answers, and both hear each other."""
    await page.until("call", "", "idle", "ended")
    if await page.data("call") == "ended":
        await page.press("hangup")  # closes what is left of the last one
    await page.dial(PHONE_NUMBER)
    await page.until("call", "talking")
    await _speech_goes_on(page)


async def _call_works(lab: Lab, page: PhonePage) -> None:
    """A call stands, ends, and leaves nothing."""
    await page.until("line", "ready", within=_RETURN)
    await _talk(page)
    await page.press("hangup")
    await page.until("call", "ended")
    await _nothing_held(lab)


async def _speech_goes_on(page: PhonePage) -> None:
    """From now on packets arrive and leave, more than what is on its way."""
    begin = await _packets(page)

    async def more() -> bool:
        nonlocal begin
        now = await _packets(page)
        begin = min(begin[0], now[0]), min(begin[1], now[1])  # what was there first may have been of an earlier call
        return now[0] > begin[0] + 50 and now[1] > begin[1] + 50

    await until(more, "speech goes on both ways")


async def _packets(page: PhonePage) -> tuple[int, int]:
    """How many packets were sent and received, as the page shows it."""
    text = await page.page.text_content("#statistics dl") or ""
    found = [re.search(rf"{name}\s*(\d+) packets", text) for name in ("Sent", "Received")]
    return tuple(int(match[1]) if match else 0 for match in found)  # type: ignore[return-value]


# ---- WebSocket lost within a call ------------------------------------------------------------------------------------


async def _lost_and_back(lab: Lab, page: PhonePage, cable: Cable) -> None:
    """In a call the connection is reset: the page says so, comes back as the same flow, and speech goes on."""
    await _talk(page)
    cable.cut()
    await page.until("line", "connecting")
    await page.until_shows("Connection lost, trying again")
    await _speech_goes_on(page)
    await cable.mend()
    await page.until("line", "ready", within=_RETURN)
    assert await page.data("call") == "talking"
    await _speech_goes_on(page)
    status = await lab.edge_status()
    assert (status["calls"], status["registrations"]) == (1, 1)


async def test_websocket_lost_within_a_call_then_the_page_hangs_up(edge: Lab, page: PhonePage, cable: Cable) -> None:
    await _lost_and_back(edge, page, cable)
    await page.press("hangup")
    await page.until("call", "ended")
    await page.until_shows("Call ended")
    await _phone_call(edge, None)
    await _nothing_held(edge)


async def test_websocket_lost_within_a_call_then_the_phone_hangs_up(edge: Lab, page: PhonePage, cable: Cable) -> None:
    await _lost_and_back(edge, page, cable)
    await edge.phone("POST", "/hangup")
    await page.until("call", "ended")
    await page.until_shows("The other side hung up")
    await _nothing_held(edge)


async def test_phone_hangs_up_while_the_websocket_is_away(edge: Lab, page: PhonePage, cable: Cable) -> None:
    """Nobody can tell the page now; it learns of it when it is back."""
    await _talk(page)
    cable.cut()
    await page.until("line", "connecting")
    await _speech_goes_on(page)
    await edge.phone("POST", "/hangup")
    await _phone_call(edge, None)
    await cable.mend()
    await page.until("call", "ended", within=_RETURN)
    await page.until_shows("The other side hung up")
    await page.until("line", "ready", within=_RETURN)
    await _nothing_held(edge)


async def test_page_hangs_up_while_the_websocket_is_away(edge: Lab, page: PhonePage, cable: Cable) -> None:
    """Its BYE goes nowhere: the gateway sees that the browser has left, and the phone is released."""
    await _talk(page)
    cable.cut()
    await page.until("line", "connecting")
    await page.press("hangup")
    await page.until("call", "ended")
    await _phone_call(edge, None)
    await cable.mend()
    await page.until("line", "ready", within=_RETURN)
    await _nothing_held(edge)


async def test_phone_calls_while_the_websocket_is_away(edge: Lab, page: PhonePage, cable: Cable) -> None:
    """The caller hears at once that nobody is there (RFC 5626: 430), and gets through once the page is back."""
    cable.cut()
    await page.until("line", "connecting")
    await edge.phone("POST", "/dial", target=f"tel:{LAPTOP_NUMBER}")
    await _phone_call(edge, None)
    await cable.mend()
    await page.until("line", "ready", within=_RETURN)
    await edge.phone("POST", "/dial", target=f"tel:{LAPTOP_NUMBER}")
    await page.until("call", "ringing-in")
    await page.press("answer")
    await page.until("call", "talking")
    await page.press("hangup")
    await page.until("call", "ended")
    await _nothing_held(edge)
