"""SIPp, which nobody here wrote, registers at the lab core and calls the agent's user: the page rings (done-when 3)."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from simulators.lab.browser import PhonePage
from simulators.lab.lab import DOMAIN, GUEST_K, GUEST_NUMBER, GUEST_OP, USER_NUMBER, Lab
from simulators.lab.topology import P_CSCF_PHONE_SIDE, PHONE_IMS

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(shutil.which("sipp") is None, reason="SIPp (package sip-tester) is not installed"),
]

SCENARIOS = Path(__file__).parents[1] / "interop" / "sipp"
IMPI = f"001010000000003@{DOMAIN}"
PORT = 5075


async def sipp(lab: Lab, scenario: str, **keys: object) -> int:
    """Run a scenario on the phone's host; returns SIPp's exit code."""
    text = (SCENARIOS / f"{scenario}.xml").read_text()
    for name, value in (("IMPI", IMPI), ("OP", GUEST_OP.decode()), ("KEY", GUEST_K.decode())):
        text = text.replace(f"={name}", f"={value}")
    # The user takes a moment to answer, and speaks a little longer than in the quick tests.
    text = text.replace('<pause milliseconds="600"/>', '<pause milliseconds="2500"/>')
    path = lab.root / f"sipp-{scenario}.xml"
    path.write_text(text)
    words = {"number": GUEST_NUMBER, "impi": IMPI, "domain": DOMAIN, "expires": 600, **keys}
    argv = [
        *("sipp", f"{P_CSCF_PHONE_SIDE}:5060", "-sf", str(path), "-t", "u1", "-i", PHONE_IMS, "-p", str(PORT)),
        *("-m", "1", "-l", "1", "-nostdin", "-timeout", "60s", "-timeout_error", "-nd"),
        *(word for key, value in words.items() for word in ("-key", key, str(value))),
    ]
    process = await lab.net.phone.start(f"sipp-{scenario}", argv)
    return await process.process.wait()


async def test_sipp_calls_the_agents_user(lab: Lab, phone_page: PhonePage) -> None:
    """S7-IMS, S7-NOCHANGE: another program's REGISTER with AKAv1-MD5, INVITE, ACK and BYE; the browser answers."""
    for _ in range(4):
        # SIPp takes RES for a C string: one in 32 has a NUL octet, and then its answer is wrong.
        if await sipp(lab, "register") == 0:
            break
    else:
        pytest.fail("SIPp did not register in four attempts; see sipp-register.log")
    calling = asyncio.get_running_loop().create_task(
        sipp(lab, "caller", target=f"sip:{USER_NUMBER}@{DOMAIN}", media=40400)
    )
    await phone_page.until("call", "ringing-in")
    assert GUEST_NUMBER in await phone_page.shown()
    await phone_page.press("answer")
    await phone_page.until("call", "talking")
    assert await calling == 0
    await phone_page.until("call", "ended", "idle")
    assert (await lab.agent_status())["calls"] == 0
