"""The eP-CSCF drives a real rtpengine [A-IQ, A-EPCSCF]: JsSIP in a real Chromium before it, SIPp behind it.

None of the media passes through a program of ours: the browser hears from SIPp what it sang, through rtpengine.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from network_edge.ep_cscf.config import EpCscfConfig, GatewayConfig, MwConfig
from network_edge.ep_cscf.server import EpCscfServer
from network_edge.iq.gateway import GatewayUnavailableError
from network_edge.iq.ng_gateway import NgGateway
from simulators.lab.certificates import Authority

ROOT = Path(__file__).parents[2]
DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
BROWSER_TONE = 600.0
"""What the browser's microphone sings (``conftest.py``), Hz."""

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("rtpengine") is None, reason="rtpengine-daemon is not installed"),
    pytest.mark.skipif(shutil.which("sipp") is None, reason="SIPp (package sip-tester) is not installed"),
    pytest.mark.skipif(not (ROOT / "node_modules/jssip").exists(), reason="JsSIP is not installed (npm ci)"),
]


@pytest.fixture
async def rtpengine(tmp_path: Path) -> AsyncIterator[tuple[str, NgGateway]]:
    """A rtpengine in user space, answering: its control address, and a client of ours to look in."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        "rtpengine", "--config-file=none", "--table=-1", "--interface=127.0.0.1", f"--listen-ng=127.0.0.1:{port}",
        "--port-min=27000", "--port-max=28998", "--foreground", "--log-stderr", "--log-level=2",
        f"--pidfile={tmp_path / 'rtpengine.pid'}", "--delete-delay=0",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    look = await NgGateway.connect("127.0.0.1", port, timeout=1.0, watch=0)
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    await look.ping()
                    break
                except GatewayUnavailableError:
                    assert process.returncode is None, "rtpengine does not start"
        yield f"127.0.0.1:{port}", look
    finally:
        await look.close()
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def test_calls_both_ways(
    rtpengine: tuple[str, NgGateway], sipp_core: Any, stock_page: Any, tmp_path: Path
) -> None:
    page = await stock_page("jssip/edge_page.mjs")
    certificate, key = Authority.create("edge", tmp_path / "ca").server("ws.ims.example")
    config = EpCscfConfig(
        home_domain=DOMAIN,
        mw=MwConfig(address="127.0.0.1:0", core=sipp_core.address),
        wss=["127.0.0.1:0"],
        certificate=certificate,
        key=key,
        origins=[page.origin],
        gateways=[GatewayConfig("rtpengine", rtpengine[0])],
        reg_event=False,
    )
    edge = EpCscfServer(config)
    await edge.start()
    try:
        sipp_core.edge = f"{edge.mw[0]}:{edge.mw[1]}"
        registering = await sipp_core.plays("edge_register")
        registered = await page.do(
            "register",
            {
                "server": f"wss://127.0.0.1:{edge.wss[0][1]}",
                "uri": f"sip:+15550100@{DOMAIN}",
                "user": f"001010000000001@{DOMAIN}",
                "password": "correct horse",
            },
        )
        await registering
        assert registered == {"ok": True}
        path = re.findall(r"^Path: ?(.+?)\r?$", sipp_core.log, re.MULTILINE)[-1]
        contact = re.findall(r"^Contact: ?<(.+?)>", sipp_core.log, re.MULTILINE)[-1]

        phone = await sipp_core.plays("edge_callee")
        assert await page.do("call", f"sip:+15550200@{DOMAIN}") == {"ok": True}
        assert await page.do("pitch", BROWSER_TONE)
        assert len(await rtpengine[1].list()) == 1, "the call is rtpengine's"
        await page.do("hangUp")
        await phone

        phone = await sipp_core.plays("edge_caller", path=path, contact=contact)
        await page.do("incoming")
        assert await page.do("answer") == {"ok": True}
        assert await page.do("pitch", BROWSER_TONE)
        await page.do("hangUp")
        await phone
        async with asyncio.timeout(10):
            while await rtpengine[1].list():
                pass
    finally:
        await edge.close()
