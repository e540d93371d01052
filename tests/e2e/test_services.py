"""The page's further buttons on a real browser: hold, keys, texts, a conference [S7-IMS, S7-SIF].

Browser, agent, IPsec, core and phone as in the demo.
"""

from __future__ import annotations

from typing import Any

import pytest

from simulators.lab.browser import PhonePage
from simulators.lab.control import until
from simulators.lab.lab import Lab

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="session")]


async def call_of(lab: Lab) -> dict[str, Any]:
    return (await lab.phone("GET", "/status"))["call"] or {}


async def talk(lab: Lab, page: PhonePage) -> None:
    await page.dial("+15550200")
    await page.until("call", "talking")


async def end(lab: Lab, page: PhonePage) -> None:
    await page.press("hangup")
    await page.until("call", "ended")

    await until(lambda: idle(lab), "the phone's call has ended")


async def test_hold_and_resume_by_the_page_and_by_the_phone(lab: Lab, phone_page: PhonePage) -> None:
    """TS 34.229-1 15.11 and 15.12 with a browser's button."""
    await talk(lab, phone_page)

    async def direction(wanted: str) -> bool:
        return bool((await call_of(lab)).get("direction") == wanted)

    await phone_page.press("hold")
    await phone_page.until("call", "held")
    await until(lambda: direction("recvonly"), "the phone is held")
    await phone_page.press("hold")
    await phone_page.until("call", "talking")
    await until(lambda: direction("sendrecv"), "the phone is talked to again")
    await lab.phone("POST", "/hold")
    await until(lambda: direction("sendonly"), "the phone holds the page")
    await lab.phone("POST", "/resume")
    await until(lambda: direction("sendrecv"), "the phone talks again")
    await end(lab, phone_page)


async def test_keys_of_the_page_arrive_at_the_phone(lab: Lab, phone_page: PhonePage) -> None:
    """The browser's own telephone events, on the clock of AMR-WB (RFC 4733)."""
    await talk(lab, phone_page)
    await phone_page.press("keypad")
    for key in "42#":
        await phone_page.page.click(f'#tones button[data-key="{key}"]')

    async def heard() -> bool:
        return bool((await call_of(lab)).get("keys") == "42#")

    await until(heard, "the phone hears the keys")
    await end(lab, phone_page)


async def test_texts_both_ways(lab: Lab, phone_page: PhonePage) -> None:
    before = len((await lab.phone("GET", "/status"))["messages"])
    await phone_page.page.fill("#to", "+1 555 0200")
    await phone_page.page.fill("#text", "Grüße aus dem Browser")
    await phone_page.page.click("#send")

    async def arrived() -> bool:
        messages = (await lab.phone("GET", "/status"))["messages"]
        return len(messages) > before and messages[-1]["text"] == "Grüße aus dem Browser"

    await until(arrived, "the text arrives at the phone")
    await lab.phone("POST", "/message", target="+15550100", text="und zurück")
    await phone_page.until_shows("und zurück")
    assert await phone_page.page.locator("#thread li.failed").count() == 0
    await phone_page.page.fill("#to", "+15559999")
    await phone_page.page.fill("#text", "x")
    await phone_page.page.click("#send")
    await phone_page.until_shows("This number does not exist")


async def test_15_19_the_page_is_brought_into_a_conference(lab: Lab, phone_page: PhonePage) -> None:
    await lab.phone("POST", "/conference")

    async def users(count: int) -> bool:
        return len((await call_of(lab)).get("users", [])) == count

    await until(lambda: users(1), "the phone is in its conference")
    await lab.phone("POST", "/invite", target="+15550100")
    await phone_page.until("call", "ringing-in")
    await phone_page.press("answer")
    await phone_page.until("call", "talking")
    await until(lambda: users(2), "both are in the conference")
    await lab.phone("POST", "/hangup")
    await end(lab, phone_page)


async def test_a_second_call_waits_and_the_two_are_swapped(lab: Lab, phone_page: PhonePage) -> None:
    """Call waiting at the page; the phone is the other side of both calls (TS 24.615)."""
    await talk(lab, phone_page)
    await lab.phone("POST", "/behaviour", waiting=True)
    await lab.phone("POST", "/dial", target="+15550100")
    await phone_page.until_shows("Another call")

    async def directions(*wanted: str) -> bool:
        calls = (await lab.phone("GET", "/status"))["calls"]
        return [call["direction"] for call in calls if call["state"] == "answered"] == list(wanted)

    await phone_page.press("second-yes")
    # The phone holds its first call for the second one, and so does the page: nobody speaks in it.
    await until(lambda: directions("inactive", "sendrecv"), "the second call is talked in")
    assert await phone_page.data("call") == "talking"
    await phone_page.until_shows("Swap")
    await phone_page.press("second-yes")
    await until(lambda: directions("sendonly", "recvonly"), "the first call is back")
    await phone_page.press("second-no")

    async def one() -> bool:
        return len((await lab.phone("GET", "/status"))["calls"]) == 1

    await until(one, "the second call has ended")
    await lab.phone("POST", "/behaviour", waiting=False)
    await end(lab, phone_page)


@pytest.mark.parametrize("agreed", [True, False])
async def test_the_user_decides_on_a_transfer(lab: Lab, phone_page: PhonePage, agreed: bool) -> None:
    """The other side sends the page somewhere else: that may cost money, so the page asks first."""
    await talk(lab, phone_page)
    factory = "sip:mmtel@conf-factory.ims.mnc001.mcc001.3gppnetwork.org"
    await lab.phone("POST", "/transfer", target=factory)
    await phone_page.until_shows("wants to connect you with mmtel")
    await phone_page.press("second-yes" if agreed else "second-no")

    async def told() -> bool:
        transfer = (await lab.phone("GET", "/status"))["transfer"]
        return transfer == {"target": factory, "status": 200 if agreed else 603, "final": True}

    await until(told, "the phone hears what came of it")
    if agreed:
        await until(lambda: idle(lab), "the phone is out of it")
        await phone_page.until("call", "talking")
        await phone_page.press("hangup")
        await phone_page.until("call", "ended")
    else:
        assert await phone_page.data("call") == "talking"
        await end(lab, phone_page)


async def idle(lab: Lab) -> bool:
    return not await call_of(lab)
