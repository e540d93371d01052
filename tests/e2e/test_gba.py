"""A stock browser at a portal that wants bootstrapped keys: agent, card, BSF and DNS as installed (S7-GBA)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from imskit.observe.events import read_events
from simulators.lab.browser import Browser, PhonePage
from simulators.lab.control import until
from simulators.lab.lab import PORTAL_URL, Lab

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def lab(root: Path) -> AsyncIterator[Lab]:
    lab = Lab(root, login="gba")
    try:
        await lab.start_operator()
        await lab.start_card()
        await lab.start_agent()
        await card_read(lab)
        yield lab
    finally:
        await lab.stop()


async def card_read(lab: Lab) -> None:
    """Wait until the agent knows whose card it has."""

    async def known() -> bool:
        return bool((await lab.agent_status())["card"]["ok"])

    await until(known, "the agent reads the card", 30)


def steps(lab: Lab, name: str, prefix: str) -> list[str]:
    return [event["event"] for event in read_events(lab.events(name)) if event["event"].startswith(prefix)]


async def log_in(lab: Lab, profile: str) -> None:
    async with Browser(lab.net.handset, lab.root / f"{profile}.wav", profile) as browser:
        page = PhonePage(await browser.new_page())
        await page.open(PORTAL_URL)
        await page.until("session", "in")


async def test_the_page_is_logged_in_to_with_a_key_from_the_card(lab: Lab) -> None:
    """S7-GBA: the BSF is found by its derived name; a second browser profile needs no second run; no IMPI is told."""
    await log_in(lab, "first")
    await log_in(lab, "second")
    assert steps(lab, "agent", "gba") == ["gba-bootstrapped"]
    assert steps(lab, "bsf", "bsf") == ["bsf-challenged", "bsf-bootstrapped", "bsf-key-given", "bsf-key-given"]
    assert steps(lab, "wwsf", "gba") == ["gba-challenged", "gba-done"] * 2
    assert steps(lab, "wwsf", "aka") == []
    status = await lab.agent_status()
    assert status["gba"]["state"].startswith("GBA_U, good until")


async def test_a_bsf_that_was_started_anew(lab: Lab) -> None:
    """It knows no B-TID any more; the user sees nothing of it."""
    await lab.stop_one("bsf")
    await lab.start_bsf()
    await log_in(lab, "third")
    assert steps(lab, "agent", "gba")[-1] == "gba-bootstrapped"
    assert len(steps(lab, "agent", "gba")) == 2
    assert steps(lab, "wwsf", "gba")[-3:] == ["gba-challenged", "gba-challenged", "gba-done"]


async def test_no_bsf(lab: Lab) -> None:
    """The card remembers its key over a new start of the agent; the portal says that it cannot have its own.

    (An agent that has no key names the server: ``tests/interop/test_gba.py::test_a_bsf_that_is_not_there``.)
    """
    runs = len(steps(lab, "agent", "gba"))
    await lab.stop_one("agent")
    await lab.start_agent()
    await card_read(lab)
    await lab.stop_one("bsf")
    async with Browser(lab.net.handset, lab.root / "fourth.wav", "fourth") as browser:
        page = await browser.new_page()
        response = await page.goto(PORTAL_URL)
        assert response is not None
        assert response.status == 503
        text = await page.inner_text("body")
    assert "The log-in keys cannot be had" in text
    assert len(steps(lab, "agent", "gba")) == runs, "no new run was tried"
