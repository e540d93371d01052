"""SIP.js of npm in a real Chromium registers and calls through the network edge [A-EPCSCF, A-REG1, A-AGW, X-SAMEPAGE].

The library is unmodified and connects as in its own demo (``sipjs/edge_page.mjs``): one WebSocket URL, an identity
and a password.  Behind the edge stand the simulated core and VoLTE phone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BROWSER_TONE, PHONE_TONE = 600.0, 900.0
"""What browser and phone sing (``conftest.py``), Hz."""
PHONE = "sip:+15550200@ims.mnc001.mcc001.3gppnetwork.org"

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(not (ROOT / "node_modules/sip.js").exists(), reason="SIP.js is not installed (npm ci)"),
]


async def both_hear(there: Any, page: Any) -> None:
    assert await page.do("pitch", PHONE_TONE)
    await there.phone_hears(BROWSER_TONE)


async def test_registers_and_calls_both_ways(edge_world: Any, stock_page: Any) -> None:
    """SIP digest end to end; sound both ways in each call, Opus to AMR-WB; hold; either side hangs up."""
    page = await stock_page("sipjs/edge_page.mjs")
    there = await edge_world(page.origin)
    assert await page.do("register", there.account) == {"ok": True}
    assert any("+15550400" in impu for user in there.core.registrations() for impu in user["impus"])

    assert await page.do("call", PHONE) == {"ok": True}
    await both_hear(there, page)
    assert await page.do("hold")
    assert await page.do("unhold")
    await both_hear(there, page)
    await page.do("hangUp")
    await there.until(lambda: there.phone_is("idle") and not there.gateway.sessions)

    there.phone.dial("tel:+15550400")
    await page.do("incoming")
    assert await page.do("answer") == {"ok": True}
    await both_hear(there, page)
    there.phone.hang_up()
    await page.do("ended")
    await there.until(lambda: not there.gateway.sessions)


async def test_a_wrong_password(edge_world: Any, stock_page: Any) -> None:
    page = await stock_page("sipjs/edge_page.mjs")
    there = await edge_world(page.origin)
    refused = await page.do("register", there.account | {"password": "guessed"})
    assert refused["status"] in (401, 403)
    assert not any("+15550400" in impu for user in there.core.registrations() for impu in user["impus"])


async def test_a_page_of_another_origin(edge_world: Any, stock_page: Any) -> None:
    """The WebSocket is not opened, whatever the page knows."""
    page = await stock_page("sipjs/edge_page.mjs")
    there = await edge_world("https://portal.ims.example")
    assert (
        await page.page.evaluate(
            """(server) => new Promise((done) => {
          const socket = new WebSocket(server, 'sip');
          socket.onopen = () => done('open');
          socket.onerror = () => done('refused');
        })""",
            there.account["server"],
        )
        == "refused"
    )
