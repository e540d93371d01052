"""SIPp in the core's place behind a real eP-CSCF: it registers, calls and is called over Mw [A-EPCSCF, A-REG1].

SIPp checks the digest, the headers of Mw and the descriptions with its own parser (``sipp/edge_*.xml``) and echoes the
sound; the WebRTC client is ours, with real ICE and DTLS.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from imskit.media.events import Step
from imskit.media.python_plane import PythonPlane
from imskit.sdp.description import SessionDescription
from imskit.sdp.profile import OPUS, PCMA
from imskit.secrets import Secret
from network_edge.eims_agw.call_media import MediaNode, Network
from network_edge.eims_agw.gateway import Gateway, Limits
from network_edge.ep_cscf.config import EpCscfConfig, MwConfig
from network_edge.ep_cscf.server import EpCscfServer
from simulators.media_ends import BrowserEnd
from simulators.web_client import Message, WebClient

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("sipp") is None, reason="SIPp (package sip-tester) is not installed"),
]

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
USER, PASSWORD = "+15550100", "correct horse"
IMPI = f"001010000000001@{DOMAIN}"


class World:
    """An edge with its gateway in process, SIPp behind it, a client before it."""

    def __init__(self, core: Any, client: WebClient, browser: BrowserEnd, gateway: Gateway) -> None:
        self.core, self.client, self.browser, self.gateway = core, client, browser, gateway

    async def register(self) -> str:
        """Register; returns the Path that the core was told."""
        task = await self.core.plays("edge_register")
        answer = await self.client.register(user=IMPI, password=Secret(PASSWORD))
        await task
        assert answer.status == 200, answer.first
        return re.findall(r"^Path: ?(.+?)\r?$", self.core.log, re.MULTILINE)[-1]

    async def speaks(self) -> None:
        """What the browser says comes back from SIPp, through the gateway both ways."""
        await self.browser.until(Step.DTLS_CONNECTED, timeout=20)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.browser.talk(500, 1.5))
            group.create_task(self.browser.hears(50))
        assert self.browser.pitch(30) == pytest.approx(500, abs=20)

    async def released(self) -> None:
        """The gateway has no call any more; it tells nobody."""
        async with asyncio.timeout(10):
            while self.gateway.sessions:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def world(stack: AsyncExitStack, core: Any, *, offers: bool) -> World:
    network = Network("127.0.0.1", range(30000, 39998))
    gateway = Gateway(MediaNode(PythonPlane(), network, network), Limits(grace=0.0))
    stack.push_async_callback(gateway.close)
    config = EpCscfConfig(
        home_domain=DOMAIN,
        mw=MwConfig(address="127.0.0.1:0", core=core.address),
        wss=[],
        ws=["127.0.0.1:0"],
        origins=["https://portal.ims.example"],
        reg_event=False,
    )
    edge = EpCscfServer(config, gateway=gateway)
    await edge.start()
    stack.push_async_callback(edge.close)
    core.edge = f"{edge.mw[0]}:{edge.mw[1]}"
    client = await WebClient.connect(edge.ws[0], USER, DOMAIN)
    stack.push_async_callback(client.close)
    browser = BrowserEnd(PythonPlane(), offers=offers, formats=(OPUS, PCMA))
    stack.push_async_callback(browser.close)
    return World(core, client, browser, gateway)


def route_set(message: Message, *, reverse: bool) -> list[str]:
    routes = [part.strip() for value in message.values("Record-Route") for part in value.split(",")]
    return [f"Route: {route}" for route in (reversed(routes) if reverse else routes)]


async def test_a_registration_and_a_call_from_the_client(stack: AsyncExitStack, sipp_core: Any) -> None:
    """REGISTER with Path and marks, the digest checked by SIPp; INVITE along Service-Route; sound both ways; BYE."""
    there = await world(stack, sipp_core, offers=True)
    await there.register()
    sipp = await there.core.plays("edge_callee")
    client, target = there.client, f"sip:+15550200@{DOMAIN}"
    routes = [f"Route: {route}" for route in client.routes]
    offer = there.browser.offer().encode().decode()
    call = {"to": f"<{target}>", "call_id": secrets.token_hex(8), "tag": "web"}
    fields = (f"Contact: {client.contact}", "P-Asserted-Identity: <sip:somebody@else.example>")
    await client.send(client.request("INVITE", target, *routes, *fields, body=offer, **call))
    await client.receive(r"SIP/2\.0 180")
    answer = await client.receive(r"SIP/2\.0 [2-6]")
    assert answer.status == 200, answer
    there.browser.take_answer(SessionDescription.parse(answer.body))
    remote = answer.value("Contact").partition("<")[2].partition(">")[0]
    call["to"] = answer.value("To")
    within = route_set(answer, reverse=True)
    number = int(answer.value("CSeq").split()[0])
    await client.send(client.request("ACK", remote, *within, sequence=number, **call))
    await there.speaks()
    assert there.gateway.sessions == 1
    await client.send(client.request("BYE", remote, *within, **call))
    assert (await client.receive(r"SIP/2\.0 [2-6]")).status == 200
    await sipp
    await there.released()


async def test_a_call_along_the_path(stack: AsyncExitStack, sipp_core: Any) -> None:
    there = await world(stack, sipp_core, offers=False)
    path = await there.register()
    client = there.client
    contact = re.findall(r"^Contact: ?<(.+?)>", there.core.log, re.MULTILINE)[-1]
    sipp = await there.core.plays("edge_caller", path=path, contact=contact)
    invite = await client.receive("INVITE ")
    assert "precondition" not in "".join(invite.values("Supported")), "the client has none"
    assert not invite.values("P-Charging-Vector"), "TS 24.229 clause 4.4: nothing of charging reaches a client"
    answer = there.browser.take_offer(SessionDescription.parse(invite.body)).encode().decode()
    own = f"Contact: {client.contact}"
    await client.send(client.answer(invite, "180 Ringing", own, tag="web"))
    await client.send(client.answer(invite, "200 OK", own, tag="web", body=answer))
    ack = await client.receive("ACK ")
    await there.speaks()
    remote = invite.value("Contact").partition("<")[2].partition(">")[0]
    bye = client.request(
        "BYE",
        remote,
        *route_set(invite, reverse=False),
        to=invite.value("From"),
        call_id=invite.value("Call-ID"),
        tag="web",
    )
    # Our From is what the network called us, with our tag.
    await client.send(re.sub(r"From: .*?\r\n", lambda _: f"From: {ack.value('To')}\r\n", bye, count=1))
    assert (await client.receive(r"SIP/2\.0 [2-6]")).status == 200
    await sipp
    await there.released()


async def test_a_wrong_password_is_refused_by_the_core(stack: AsyncExitStack, sipp_core: Any) -> None:
    there = await world(stack, sipp_core, offers=True)
    sipp = await there.core.plays("edge_register")
    answer = await there.client.register(user=IMPI, password=Secret("another"))
    await sipp
    assert answer.status == 403
    await there.client.send(
        there.client.request("INVITE", f"sip:+15550200@{DOMAIN}", f"Contact: {there.client.contact}", call_id="x")
    )
    assert (await there.client.receive(r"SIP/2\.0 [3-6]")).status == 403
