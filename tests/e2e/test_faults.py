"""What fails is said in words, releases what it held, and recovers when its cause goes (issue 2, bad input and faults).

Each test breaks one part of the lab, looks at what the user is told (on the page, or by ``ue status``), mends it, and
sees that calls work again and that nothing is held: no call, no TURN allocation, no media port.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import psutil
import pytest
import pytest_asyncio

from simulators.lab.browser import Browser, PhonePage
from simulators.lab.control import until
from simulators.lab.lab import OTHER_URL, PHONE_KEYS, PHONE_NUMBER, PORTAL_URL, USER_NUMBER, Lab

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="session")]


# ---- what is looked at -----------------------------------------------------------------------------------------------


async def _status(lab: Lab, part: str, pattern: str, within: float = 20.0) -> None:
    """Wait until ``ue status`` says of ``part`` what the pattern asks for."""

    async def look() -> bool:
        said = (await lab.agent_status())[part]
        text = f"{said['ok']} {said['state']} {said.get('reason', '')}"
        return re.search(pattern, text) is not None

    await until(look, f"ue status says of {part}: {pattern}", within)


async def _nothing_held(lab: Lab, within: float = 20.0) -> None:
    """Neither the agent nor the phone holds anything of a call."""

    async def left() -> str:
        status = await lab.agent_status()
        held = [f"{status['calls']} calls"] if status["calls"] else []
        if status["turn"]["allocations"]:
            held.append(f"{status['turn']['allocations']} TURN allocations")
        ports = lab.net.handset.run("ss", "--no-header", "--udp", "--all", "--numeric", "src", "10.45.0.2")
        held += [f"port {port}" for port in re.findall(r"10\.45\.0\.2:(4\d{4})\b", ports)]
        if (await lab.phone("GET", "/status"))["call"] is not None:
            held.append("the phone's call")
        return ", ".join(held)

    async def nothing() -> bool:
        return not await left()

    try:
        await until(nothing, "everything is given back", within)
    except Exception as error:
        raise AssertionError(f"{error}; held: {await left()}") from error


async def _phone_call(lab: Lab, state: str | None, within: float = 20.0) -> None:
    """Wait until the phone's call is in this state; ``None``: until it has none."""

    async def look() -> bool:
        call = (await lab.phone("GET", "/status"))["call"]
        return (call or {}).get("state") == state

    await until(look, f"the phone's call is {state or 'over'}", within)


async def _talk(lab: Lab, page: PhonePage) -> None:
    """The page calls the phone, which answers."""
    await page.dial(PHONE_NUMBER)
    await page.until("call", "talking")


async def _call_works(lab: Lab, page: PhonePage) -> None:
    """A call from the page stands, ends, and leaves nothing."""
    await page.until("line", "ready")
    await page.until("call", "", "idle", "ended")
    await _talk(lab, page)
    await page.press("hangup")
    await page.until("call", "ended")
    await _nothing_held(lab)


@pytest_asyncio.fixture(loop_scope="session")
async def page(lab: Lab, browser: Browser) -> AsyncIterator[PhonePage]:
    """The operator's page, ready; the lab is whole before and must be whole and empty after."""
    await lab.registered()
    page = PhonePage(await browser.new_page())
    await page.open_ready(PORTAL_URL)
    yield page
    await page.page.close()
    await _nothing_held(lab)


@contextmanager
def _frozen(lab: Lab, name: str) -> Iterator[None]:
    """A program hangs: it has its sockets, and answers nothing."""
    process = psutil.Process(lab.processes[name].pid)
    process.suspend()
    try:
        yield
    finally:
        process.resume()


@asynccontextmanager
async def _manners(lab: Lab, behaviour: str) -> AsyncIterator[None]:
    """What the phone does with calls."""
    await lab.phone("POST", "/behaviour", behaviour=behaviour)
    try:
        yield
    finally:
        await lab.phone("POST", "/behaviour", behaviour="answer")


def _card(lab: Lab, *, inserted: bool) -> None:
    """Pull the card out of the reader, or put it in."""
    os.kill(lab.processes["card"].pid, signal.SIGUSR2 if inserted else signal.SIGUSR1)


# ---- the other side --------------------------------------------------------------------------------------------------


async def test_phone_is_busy(lab: Lab, page: PhonePage) -> None:
    async with _manners(lab, "busy"):
        await page.dial(PHONE_NUMBER)
        await page.until("call", "ended")
        await page.until_shows("The other side is busy")


async def test_phone_declines(lab: Lab, page: PhonePage) -> None:
    async with _manners(lab, "decline"):
        await page.dial(PHONE_NUMBER)
        await page.until("call", "ended")
        await page.until_shows("The call was declined")


async def test_phone_does_not_answer(lab: Lab, page: PhonePage) -> None:
    """It rings until the caller gives up; then it does not ring any more."""
    async with _manners(lab, "ignore"):
        await page.dial(PHONE_NUMBER)
        await page.until("call", "ringing-out")
        await page.until_shows("Ringing")
        await page.press("hangup")
        await page.until_shows("Call cancelled")
        await _phone_call(lab, None)


async def test_phone_hangs_up(lab: Lab, page: PhonePage) -> None:
    await _talk(lab, page)
    await lab.phone("POST", "/hangup")
    await page.until("call", "ended")
    await page.until_shows("The other side hung up")


async def test_number_that_does_not_exist(lab: Lab, page: PhonePage) -> None:
    await page.dial("+15559999")
    await page.until("call", "ended")
    await page.until_shows("This number does not exist")


async def test_phone_gives_up_while_the_page_rings(lab: Lab, page: PhonePage) -> None:
    await lab.phone("POST", "/dial", target=f"tel:{USER_NUMBER}")
    await page.until("call", "ringing-in")
    await lab.phone("POST", "/hangup")
    await page.until_shows("Missed call")


async def test_page_declines(lab: Lab, page: PhonePage) -> None:
    await lab.phone("POST", "/dial", target=f"tel:{USER_NUMBER}")
    await page.until("call", "ringing-in")
    await page.press("hangup")
    await page.until_shows("Declined")
    await _phone_call(lab, None)
    assert "603" in str((await lab.phone("GET", "/status"))["last_call"])


# ---- the page --------------------------------------------------------------------------------------------------------


async def test_page_closed_during_a_call(lab: Lab, page: PhonePage, browser: Browser) -> None:
    """The user closes the tab: the phone is told at once."""
    await _talk(lab, page)
    await page.page.close(run_before_unload=False)
    await _phone_call(lab, None, within=15)
    await _nothing_held(lab)


async def test_browser_dies_during_a_call(lab: Lab) -> None:
    """Nobody says goodbye: the agent notices by itself, ends the call and takes the relay back."""
    async with Browser(lab.net.handset, lab.root / "browser.wav", "dies") as doomed:
        page = PhonePage(await doomed.new_page())
        await page.open(PORTAL_URL)
        await page.until("line", "ready")
        await _talk(lab, page)
        assert doomed.process is not None
        for process in (
            psutil.Process(doomed.process.pid),
            *psutil.Process(doomed.process.pid).children(recursive=True),
        ):
            process.kill()
        await _phone_call(lab, None, within=30)
        await _nothing_held(lab, within=30)


async def test_websocket_lost_between_calls(lab: Lab, page: PhonePage) -> None:
    """The web proxy dies and is started again: the page comes back by itself."""
    await _kill_web_proxy(lab)
    await page.until("line", "connecting")
    await page.until_shows("Connection lost, trying again")
    await page.until("line", "ready")
    await _call_works(lab, page)


async def test_websocket_lost_during_a_call(lab: Lab, page: PhonePage) -> None:
    """The call goes on, and can be ended properly afterwards."""
    await _talk(lab, page)
    await _kill_web_proxy(lab)
    await page.until("line", "connecting")
    await page.until("line", "ready")
    assert await page.data("call") == "talking"
    assert (await lab.agent_status())["calls"] == 1
    await page.press("hangup")
    await _phone_call(lab, None)
    await _nothing_held(lab)


async def _kill_web_proxy(lab: Lab) -> None:
    agent = psutil.Process(lab.processes["agent"].pid)
    found = [child for child in agent.children() if "ue_agent.wwpf" in child.cmdline()]
    assert len(found) == 1
    found[0].kill()


# ---- the agent -------------------------------------------------------------------------------------------------------


async def test_agent_restarted_while_the_page_is_open(lab: Lab, page: PhonePage) -> None:
    await lab.stop_one("agent")
    await page.until("line", "connecting")
    await page.until_shows("Connection lost, trying again")
    await lab.start_agent()
    await lab.registered()
    await _call_works(lab, page)


async def test_agent_stopped_during_a_call(lab: Lab, page: PhonePage) -> None:
    await _talk(lab, page)
    await lab.stop_one("agent")
    await _phone_call(lab, None)
    await page.until("call", "ended")
    await lab.start_agent()
    await lab.registered()
    await _call_works(lab, page)


# ---- the SIM card ----------------------------------------------------------------------------------------------------


async def test_no_card_at_start(lab: Lab, page: PhonePage) -> None:
    await lab.stop_one("agent")
    _card(lab, inserted=False)
    await lab.start_agent()
    await _status(lab, "card", "False.*no card in reader")
    await page.page.context.clear_cookies()
    await until(lambda: _portal_shows(page, "The SIM card is not ready"), "the browser finds the web proxy again")
    await page.until_shows("no card in reader")
    _card(lab, inserted=True)
    await lab.registered()
    await page.page.click("a:text-is('Try again')")
    await _call_works(lab, page)


async def _portal_shows(page: PhonePage, text: str) -> bool:
    """Load the page anew: a browser that went without the agent takes seconds to look for its proxy again."""
    await page.open(PORTAL_URL)
    return text in await page.shown()


async def test_card_pulled_and_put_back(lab: Lab, page: PhonePage) -> None:
    """The page that is open is told, and comes back by itself."""
    _card(lab, inserted=False)
    await _status(lab, "card", "False.*(removed|no card)")
    await page.until("line", "failed", "connecting")
    _card(lab, inserted=True)
    await lab.registered()
    await _call_works(lab, page)


async def test_card_pulled_during_a_call(lab: Lab, page: PhonePage) -> None:
    await _talk(lab, page)
    _card(lab, inserted=False)
    await page.until("call", "ended")
    await _phone_call(lab, None)
    await _nothing_held(lab)
    _card(lab, inserted=True)
    await lab.registered()
    await _call_works(lab, page)


async def test_card_pulled_during_a_registration(lab: Lab, page: PhonePage) -> None:
    with _frozen(lab, "core"):
        _card(lab, inserted=False)
        await _status(lab, "card", "False.*(removed|no card)")
        _card(lab, inserted=True)
        await _status(lab, "registration", "False registering")
        _card(lab, inserted=False)
        await _status(lab, "card", "False.*(removed|no card)")
    # The core's challenge meets an empty reader.
    await _status(lab, "registration", "False not registered")
    _card(lab, inserted=True)
    await lab.registered()
    await _call_works(lab, page)


async def test_wrong_card(lab: Lab, page: PhonePage) -> None:
    """A card whose key is not the one that the home network has: neither believes the other."""
    await _change_card(lab, k=PHONE_KEYS[0])
    await _status(lab, "registration", "False.*challenge")
    await page.page.context.clear_cookies()
    await page.open(PORTAL_URL)
    await page.until_shows("The SIM card does not trust this page")
    await _change_card(lab)
    await lab.registered()
    await page.page.click("a:text-is('Try again')")
    await _call_works(lab, page)


async def test_pin_blocked(lab: Lab, page: PhonePage) -> None:
    await _change_card(lab, pin_tries=0)
    await _status(lab, "card", "False.*(?i:blocked.*PUK)")
    await page.page.context.clear_cookies()
    await page.open(PORTAL_URL)
    await page.until_shows("The SIM card is not ready")
    await page.until_shows("PUK")
    await _change_card(lab)
    await lab.registered()
    await page.page.click("a:text-is('Try again')")
    await _call_works(lab, page)


async def _change_card(lab: Lab, **changes: str | int) -> None:
    """Put another card in, reader and PC/SC daemon with it."""
    await lab.stop_one("card")
    await lab.start_card(**changes)


# ---- the IMS core ----------------------------------------------------------------------------------------------------


async def test_core_restarted_between_calls(lab: Lab, page: PhonePage) -> None:
    """It has forgotten everybody.  The first call is refused, with a reason; that alone makes the agent register."""
    await lab.stop_one("core")
    await lab.start_core()
    await page.dial(PHONE_NUMBER)
    await page.until("call", "ended")
    await page.until_shows("The network")
    await lab.registered()
    await lab.phone("POST", "/dial", target=f"tel:{USER_NUMBER}")  # as its user finds out, too
    await _phone_call(lab, None)
    await until(lambda: _knows_both(lab), "both are registered anew", within=50)  # a UE looks at most every 30 s
    await _call_works(lab, page)


async def _knows_both(lab: Lab) -> bool:
    return len((await lab.core("GET", "/registrations"))["answer"]) == 2


async def test_core_restarted_during_a_call(lab: Lab, page: PhonePage) -> None:
    await _talk(lab, page)
    await lab.stop_one("core")
    await lab.start_core()
    await page.press("hangup")
    await page.until("call", "ended")
    await page.until("line", "ready")
    await page.dial(PHONE_NUMBER)  # the agent finds out
    await page.until("call", "ended")
    await lab.phone("POST", "/hangup")
    await lab.phone("POST", "/dial", target=f"tel:{USER_NUMBER}")
    await _phone_call(lab, None)
    await until(lambda: _knows_both(lab), "both are registered anew", within=50)


async def test_p_cscf_silent(lab: Lab, page: PhonePage) -> None:
    with _frozen(lab, "core"):
        await page.dial(PHONE_NUMBER)
        await page.until("call", "ended", within=60)
        await page.until_shows("The network did not answer")
        await _status(lab, "registration", "False.*not answer", within=60)
    await lab.registered()
    await _call_works(lab, page)


# ---- names and pages -------------------------------------------------------------------------------------------------


async def test_dns_upstream_down(lab: Lab, page: PhonePage) -> None:
    """An open page goes on calling: its TURN name is answered on the device.  Unknown names fail, until it is back."""
    await lab.stop_one("dns")
    await _call_works(lab, page)
    other = await page.page.context.new_page()
    with pytest.raises(Exception, match="ERR_NAME_NOT_RESOLVED"):
        await other.goto(OTHER_URL.replace("www", "unknown"))
    await other.close()
    await lab.start_dns()
    other = await page.page.context.new_page()
    await other.goto(OTHER_URL)
    await other.close()
    await _call_works(lab, page)


async def test_portal_unreachable(lab: Lab, page: PhonePage) -> None:
    await lab.stop_one("wwsf")
    await page.open(PORTAL_URL)
    await page.until_shows("The operator's page cannot be loaded")
    await page.until_shows("cannot be reached")
    await lab.start_portal()
    await page.page.click("a:text-is('Try again')")
    await page.until("session", "in")
    await _call_works(lab, page)


async def test_portal_away_while_a_page_is_open(lab: Lab, page: PhonePage) -> None:
    """A page that is loaded needs the portal no more until its TURN credential runs out."""
    await lab.stop_one("wwsf")
    await _call_works(lab, page)
    await lab.start_portal()


async def test_portal_hangs_while_the_page_loads(lab: Lab, page: PhonePage) -> None:
    with _frozen(lab, "wwsf"):
        loading = asyncio.ensure_future(page.open(PORTAL_URL))
        await asyncio.sleep(1)
    await loading
    await page.until("session", "in")
    await _call_works(lab, page)
