"""What fails at the network edge is told the user, releases what it held, and recovers when its cause goes.

Issue 4, bad input and faults: each test breaks one thing between a laptop's Chromium and the IMS core while it is in
use, looks at what the page says and at the phone, mends it, and sees that the next call works and that nothing is held.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from simulators.lab.browser import Browser, PhonePage
from simulators.lab.cable import Cable
from simulators.lab.control import until
from simulators.lab.edge_demo import DIGEST, TOKEN, log_in
from simulators.lab.lab import LAPTOP_NUMBER, PHONE_NUMBER, PORTAL_URL, Lab

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="session")]

_RETURN = 40.0
"""Seconds that a page may take to come back: JsSIP tries again every 15 s at most."""
_GATEWAYS = (2301, 2302)


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
    """Neither the edge nor the phone has a call left."""

    async def nothing() -> bool:
        status = await lab.edge_status()
        phone = await lab.phone("GET", "/status")
        return status["calls"] == 0 and phone["call"] is None

    await until(nothing, "no call is left")


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


# ---- the IMS core ----------------------------------------------------------------------------------------------------


async def _phone_registers_anew(lab: Lab) -> None:
    """Its user finds out that the core has forgotten it, and that alone makes it register."""

    async def known() -> bool:
        return PHONE_NUMBER in str(await lab.core("GET", "/registrations"))

    if not await known():
        await lab.phone("POST", "/dial", target=f"tel:{LAPTOP_NUMBER}")
        await _phone_call(lab, None)
        await until(known, "the phone is registered anew", within=50)


async def test_core_restarted_between_calls(edge: Lab, page: PhonePage) -> None:
    """It has forgotten everybody.  The first call is refused, with a reason; that alone makes the page register."""
    await edge.stop_one("core")
    await edge.start_core()
    await page.dial(PHONE_NUMBER)
    await page.until("call", "ended")
    await page.until_shows("not registered")
    await page.until("line", "ready")

    async def known() -> bool:
        return LAPTOP_NUMBER in str(await edge.core("GET", "/registrations"))

    await until(known, "the laptop is registered anew")
    await _phone_registers_anew(edge)


async def test_core_away(edge: Lab, page: PhonePage) -> None:
    """The page says that nobody answers, tries by itself, and is ready again once the core is."""
    await edge.stop_one("core")
    await page.dial(PHONE_NUMBER)
    await page.until("call", "ended", within=60)
    await page.until_shows("The network did not answer")
    await page.until("line", "failed", within=60)
    await page.until_shows("The line is tried again by itself")
    await edge.start_core()
    await page.until("line", "ready", within=90)
    await _phone_registers_anew(edge)


async def test_core_restarted_within_a_call(edge: Lab, page: PhonePage) -> None:
    """Those who talk do not notice; the next call finds out, and the one after it works."""
    await _talk(page)
    await edge.stop_one("core")
    await edge.start_core()
    await _speech_goes_on(page)
    await page.press("hangup")
    await page.until("call", "ended")
    await edge.phone("POST", "/hangup")
    await _phone_call(edge, None)
    await page.until("line", "ready")
    await page.press("hangup")  # closes what is left of the call
    await page.dial(PHONE_NUMBER)
    await page.until("call", "ended")
    await page.until("line", "ready")
    await _phone_registers_anew(edge)


# ---- the edge's own store --------------------------------------------------------------------------------------------


async def test_store_locked(edge: Lab, page: PhonePage, cable: Cable) -> None:
    """Who logs in or returns only reads, and does; a log-out that cannot be kept is said so, and works later."""
    locking = sqlite3.connect(edge.root / "edge-state" / "wwsf.db", isolation_level=None)
    locking.execute("BEGIN EXCLUSIVE")
    context = await page.page.context.browser.new_context()  # type: ignore[union-attr]
    try:
        other = PhonePage(await context.new_page())
        await log_in(other, TOKEN)
        cable.cut()
        await page.until("line", "connecting")
        await cable.mend()
        await page.until("line", "ready", within=_RETURN)
        await other.until("line", "ready", within=_RETURN)
        await other.page.click("#log-out")
        await other.page.wait_for_selector("#notice:not([hidden])", timeout=60_000)
        locking.execute("ROLLBACK")
        await other.page.click("#log-out")
        await other.until("session", "out", within=60)
    finally:
        locking.close()
        await context.close()


# ---- the edge is stopped and started ---------------------------------------------------------------------------------


async def test_sigterm_within_a_call(edge: Lab, page: PhonePage) -> None:
    """The running call goes on and can be ended; nothing new is taken; the process ends by itself, well."""
    context = await page.page.context.browser.new_context()  # type: ignore[union-attr]
    newcomer = PhonePage(await context.new_page())
    answers: list[str] = []
    newcomer.page.on(
        "websocket",
        lambda websocket: websocket.on("framereceived", lambda data: answers.append(str(data))),
    )
    await newcomer.open(PORTAL_URL)
    await newcomer.until("session", "out")
    await _talk(page)
    process = edge.processes["edge"].process
    process.terminate()

    async def draining() -> bool:
        return bool((await edge.edge_status())["draining"])

    await until(draining, "the edge drains")
    await newcomer.page.fill("#user-name", DIGEST.user)
    await newcomer.page.fill("#password", DIGEST.password)
    await newcomer.page.click("#log-in-form button")
    await newcomer.page.fill("#line-password", DIGEST.line_password)
    await newcomer.page.click("#line-log-in button")
    await newcomer.until_shows("The network is not available now")
    refused = next(answer for answer in answers if answer.startswith("SIP/2.0 503 "))
    assert re.search(r"\r\nRetry-After: *\d+\r\n", refused), refused
    await _speech_goes_on(page)
    assert process.returncode is None
    await page.press("hangup")
    await page.until("call", "ended")
    await _phone_call(edge, None)
    assert await asyncio.wait_for(process.wait(), 20) == 0
    await page.until("line", "connecting")
    await page.until_shows("Connection lost, trying again")
    await context.close()
    await edge.stop_one("edge")
    await edge.start_edge()
    # The log-ins of before are not kept: the page shows so by itself, and not at the next call.
    await page.until("session", "out", within=_RETURN)
    await log_in(page, TOKEN)


# ---- the media gateway -----------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="session")
async def gateways(edge: Lab, laptop: PhonePage) -> AsyncIterator[Lab]:
    """Two gateways as programs of their own, instead of the one in the edge's process."""
    await asyncio.gather(*(edge.start_gateway(port) for port in _GATEWAYS))
    await edge.stop_one("edge")
    await edge.start_edge(*_GATEWAYS)
    await laptop.until("session", "out", within=_RETURN)
    await log_in(laptop, TOKEN)
    yield edge
    for port in _GATEWAYS:
        await edge.stop_one(f"gateway-{port}")


async def _gateways_are(lab: Lab, **states: str) -> None:
    async def look() -> bool:
        found = (await lab.edge_status())["gateways"]
        return all(found[name.removeprefix("g")].startswith(state) for name, state in states.items())

    await until(look, f"the gateways are {states}", within=40)


async def test_gateway_killed_within_a_call(gateways: Lab, page: PhonePage) -> None:
    """Both sides are released with the reason; the other gateway takes the next call, and the first one is back."""
    edge = gateways
    await _gateways_are(edge, g2301="up", g2302="up")
    await _talk(page)
    busy = next(name for name, state in (await edge.edge_status())["gateways"].items() if "1 calls" in state)
    idle = next(str(port) for port in _GATEWAYS if str(port) != busy)
    os.kill(edge.processes[f"gateway-{busy}"].pid, signal.SIGKILL)
    await page.until("call", "ended", within=60)
    await page.until_shows("The media gateway is gone")
    await _phone_call(edge, None)
    assert "gateway" in str((await edge.phone("GET", "/status"))["last_call"])
    assert edge.processes["edge"].process.returncode is None
    await _gateways_are(edge, **{f"g{busy}": "down", f"g{idle}": "up"})
    await _call_works(edge, page)
    await edge.stop_one(f"gateway-{busy}")
    await edge.start_gateway(int(busy))
    await _gateways_are(edge, g2301="up", g2302="up")
