"""The network edge, end to end: a laptop's Chromium without agent or card (issue 4, done-when 1).

The edge takes the portal's place in the session's lab while these tests run.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from simulators.lab.browser import Browser, PhonePage
from simulators.lab.edge_demo import DIGEST, TOKEN, EdgeDemo, log_in
from simulators.lab.lab import DOMAIN, LAPTOP_NUMBER, LAPTOP_USER, PORTAL_URL, WEB_SERVER, Lab
from simulators.lab.topology import P_CSCF

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def edge(lab: Lab) -> AsyncIterator[Lab]:
    """The lab with the edge."""
    await lab.start_edge()
    yield lab
    await lab.stop_edge()


@pytest_asyncio.fixture(loop_scope="session")
async def laptop(edge: Lab) -> AsyncIterator[PhonePage]:
    """A tab of a browser on the laptop, nobody logged in."""
    async with Browser(edge.net.laptop, edge.root / "laptop.wav", "laptop") as browser:
        yield PhonePage(await browser.new_page())


async def test_three_scenarios_with_calls_both_ways_and_across_the_paths(edge: Lab) -> None:
    """A-REG1, A-REG2, A-REG3, X-SAMEPAGE: speech arrives both ways in a call of each, also from behind the agent."""
    speech = {name: edge.root / f"{name}.wav" for name in ("browser", "phone", "laptop")}
    demo = EdgeDemo(edge, speech, edge.root / "phone-heard.wav", lambda text: None)
    await demo.run()
    assert demo.result.ok, demo.result


async def test_wrong_passwords_are_refused_in_words(laptop: PhonePage) -> None:
    """The portal's for the log-in, the network's for the line; the right ones do afterwards."""
    await laptop.open(PORTAL_URL)
    await laptop.until("session", "out")
    await laptop.page.fill("#user-name", DIGEST.user)
    await laptop.page.fill("#password", "something else")
    await laptop.page.click("#log-in-form button")
    await laptop.page.wait_for_selector("#log-in .problem:not([hidden])")
    await laptop.page.fill("#password", DIGEST.password)
    await laptop.page.click("#log-in-form button")
    await laptop.page.fill("#line-password", "not the line's")
    await laptop.page.click("#line-log-in button")
    await laptop.until_shows("The network refused this password")
    await laptop.page.fill("#line-password", DIGEST.line_password)
    await laptop.page.click("#line-log-in button")
    await laptop.until("line", "ready")


async def test_hanging_up_ends_the_call_as_the_user_ended_it(edge: Lab, laptop: PhonePage) -> None:
    """The browser closes DTLS with its BYE: no loss of media, and the line takes the next call at once.

    The gateway waits a second for the word of a BYE before it takes DTLS's end for a loss: each call lasts two, so
    that what it makes of the one before is seen.
    """
    await log_in(laptop, TOKEN)
    for _ in range(3):
        await edge.phone("POST", "/dial", target=f"tel:{LAPTOP_NUMBER}")
        await laptop.until("call", "ringing-in")
        await laptop.press("answer")
        await laptop.until("call", "talking")
        await laptop.until_shows("0:02")
        await laptop.press("hangup")
        await laptop.until("call", "ended")
        await laptop.page.click("#hangup")  # closes what is left of it on the page
        await laptop.until("call", "idle")
    assert "media-lost" not in edge.events("edge").read_text()


async def test_who_is_no_edge_cannot_say_that_a_user_is_authenticated(edge: Lab) -> None:
    """TS 33.203 annex U: `auth-done` straight from the laptop to the core is refused."""
    said = await _to_core(edge)
    assert said.startswith(b"SIP/2.0 403 "), said


async def _to_core(edge: Lab) -> bytes:
    """Send a REGISTER as the edge would, from the laptop; returns the status line of the answer."""

    sock = edge.net.laptop.socket(socket.AF_INET, socket.SOCK_STREAM)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (P_CSCF, 5062))
    host = sock.getsockname()[0]
    identity = f"sip:{LAPTOP_NUMBER}@{DOMAIN}"
    lines = [
        f"REGISTER sip:{DOMAIN} SIP/2.0",
        f"Via: SIP/2.0/TCP {host};branch=z9hG4bKmallory",
        f"From: <{identity}>;tag=mallory",
        f"To: <{identity}>",
        "Call-ID: mallory",
        "CSeq: 1 REGISTER",
        "Max-Forwards: 70",
        f"Contact: <sip:mallory@{host}>",
        f"Path: <sip:{host};lr>",
        "Require: path",
        f"P-Visited-Network-ID: {DOMAIN}",
        f'Authorization: Digest username="{LAPTOP_USER}@{DOMAIN}", realm="{DOMAIN}", nonce="", uri="sip:{DOMAIN}", '
        f'response="", integrity-protected="auth-done", authorization-entity="{WEB_SERVER}"',
        "Content-Length: 0",
    ]
    with sock:
        await loop.sock_sendall(sock, "".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        return (await asyncio.wait_for(loop.sock_recv(sock, 4096), 10)).partition(b"\r\n")[0]
