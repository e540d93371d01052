"""rtpengine's own command-line client drives our gateway [A-IQ]: the other reading of the NG protocol."""

from __future__ import annotations

import asyncio
import ipaddress
import shutil

import pytest

from imskit.media.python_plane import PythonPlane
from network_edge.eims_agw.call_media import MediaNode, Network
from network_edge.eims_agw.gateway import Gateway
from network_edge.eims_agw.ng_server import NgServer
from simulators.media_ends import BrowserEnd

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("rtpengine-ng-client") is None, reason="rtpengine-utils is not installed"),
]


async def test_every_command() -> None:
    """Ping, offer with flags in its spelling, list, query, delete, and an error that it shows."""
    network = Network("127.0.0.1", range(34000, 34998))
    gateway = Gateway(MediaNode(PythonPlane(), network, network))
    server = NgServer(gateway, [ipaddress.ip_network("127.0.0.1/32")])
    await server.start("127.0.0.1", 0)
    browser = BrowserEnd(PythonPlane(), offers=True)

    async def client(command: str, *options: str) -> str:
        process = await asyncio.create_subprocess_exec(
            "rtpengine-ng-client", "--proxy-address=127.0.0.1", f"--proxy-port={server.address[1]}", *options, command,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(), 20)
        return output.decode()

    try:
        assert "'pong'" in await client("ping")
        call = ("--call-id=call", "--from-tag=web")
        offer = await client(
            "offer", *call, "--protocol=RTP/AVP", "--ICE=remove", "--rtcp-mux=demux", "--codec-mask=opus",
            "--codec-transcode=AMR-WB", "--replace-origin", "--trust-address", f"--sdp={browser.offer()}",
        )  # fmt: skip
        offer = offer.partition("New SDP")[2]
        assert "RTP/AVP" in offer and "AMR-WB/16000" in offer and "opus" not in offer and "a=ice" not in offer
        assert "call" in await client("list")
        assert "'web'" in await client("query", *call)
        other = ("--call-id=other", "--from-tag=x", "--protocol=RTP/SAVP", f"--sdp={browser.offer()}")
        assert "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" in await client("offer", *other)
        assert "totals" in await client("delete", *call, "--delete-delay=0")
        assert await gateway.list() == ("other",)
    finally:
        server.close()
        await gateway.close()
        await browser.close()
