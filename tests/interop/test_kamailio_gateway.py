"""A real Kamailio steers our gateway [A-IQ, A-AGW]: ``rtpengine_offer``, ``rtpengine_answer``, ``rtpengine_delete``.

A user agent with a browser's media at one side, one with a phone's at the other; sound is heard both ways.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import secrets
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imskit.media.events import Step
from imskit.media.python_plane import PythonPlane
from imskit.sdp.description import SessionDescription
from imskit.sdp.profile import AMR_WB, IMS, PCMA, WEBRTC, Format
from network_edge.eims_agw.call_media import MediaNode, Network
from network_edge.eims_agw.gateway import Gateway, Limits
from network_edge.eims_agw.ng_server import NgServer
from simulators.media_ends import BrowserEnd, PhoneEnd

KAMAILIO = shutil.which("kamailio", path="/usr/sbin:/usr/bin:/usr/local/sbin")
CONFIGURATION = Path(__file__).parent / "kamailio" / "rtpengine.cfg"

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(KAMAILIO is None, reason="kamailio is not installed"),
]


class Agent:
    """As much of a SIP user agent as one call needs."""

    def __init__(self, proxy: tuple[str, int]) -> None:
        self.proxy = proxy
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.bind(("127.0.0.1", 0))
        self.port: int = self.sock.getsockname()[1]
        self.tag = secrets.token_hex(4)

    async def receive(self, start: str) -> str:
        """Return the next message that begins with ``start``; others (100, repetitions) are passed by."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(15):
            while True:
                text = (await loop.sock_recv(self.sock, 65536)).decode()
                if text.startswith(start):
                    return text
                assert not re.match(r"SIP/2.0 [3-6]", text), text

    def send(self, text: str) -> None:
        self.sock.sendto(text.encode(), self.proxy)

    def request(self, method: str, uri: str, headers: str, body: str = "", number: int = 1) -> None:
        branch = "z9hG4bK" + secrets.token_hex(8)
        self.send(
            f"{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{self.port};branch={branch}\r\n"
            f"Max-Forwards: 70\r\n{headers}CSeq: {number} {method}\r\nContact: <sip:x@127.0.0.1:{self.port}>\r\n"
            + ("Content-Type: application/sdp\r\n" if body else "")
            + f"Content-Length: {len(body)}\r\n\r\n{body}"
        )

    def answer(self, request: str, status: str, body: str = "") -> None:
        lines = [
            line
            for line in request.partition("\r\n\r\n")[0].split("\r\n")
            if line.partition(":")[0] in ("Via", "From", "To", "Call-ID", "CSeq", "Record-Route")
        ]
        lines = [line + f";tag={self.tag}" if line.startswith("To:") and "tag=" not in line else line for line in lines]
        lines.append(f"Contact: <sip:x@127.0.0.1:{self.port}>")
        if body:
            lines.append("Content-Type: application/sdp")
        self.send(f"SIP/2.0 {status}\r\n" + "\r\n".join(lines) + f"\r\nContent-Length: {len(body)}\r\n\r\n{body}")


def body(message: str) -> SessionDescription:
    return SessionDescription.parse(message.partition("\r\n\r\n")[2])


def header(message: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*)\r$", message, re.MULTILINE)
    assert found is not None, message
    return found[1]


@pytest.fixture
async def gateway() -> AsyncIterator[tuple[Gateway, NgServer]]:
    network = Network("127.0.0.1", range(32000, 33998))
    gateway = Gateway(MediaNode(PythonPlane(), network, network), Limits(grace=0.0))
    server = NgServer(gateway, [ipaddress.ip_network("127.0.0.1/32")])
    await server.start("127.0.0.1", 0)
    yield gateway, server
    server.close()
    await gateway.close()


@pytest.fixture
async def agents(gateway: tuple[Gateway, NgServer], tmp_path: Path) -> AsyncIterator[tuple[Agent, Agent]]:
    """Kamailio between a browser's and a phone's user agent."""
    assert KAMAILIO is not None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        proxy = free.getsockname()
    browser, phone = Agent(proxy), Agent(proxy)
    host, port = gateway[1].address
    process = await asyncio.create_subprocess_exec(
        KAMAILIO, "-DD", "-E", "-f", str(CONFIGURATION), "-m", "32", "-M", "4", "-Y", str(tmp_path),
        "-P", str(tmp_path / "pid"),
        "-A", f"LISTEN=udp:127.0.0.1:{proxy[1]}", "-A", f'GATEWAY="udp:{host}:{port}"',
        "-A", f'BROWSER="sip:127.0.0.1:{browser.port}"', "-A", f'PHONE="sip:127.0.0.1:{phone.port}"',
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    errors: list[bytes] = []

    async def read() -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            errors.append(line)

    reader = asyncio.create_task(read())
    try:
        async with asyncio.timeout(30):  # it pings the gateway when it is up
            while not gateway[1].counters["Ping"]:
                assert process.returncode is None, b"".join(errors).decode()
                await asyncio.sleep(0.1)
        async with asyncio.timeout(30):
            while True:  # and answers SIP
                browser.request(
                    "OPTIONS", "sip:x@127.0.0.1", "From: <sip:a@x>;tag=1\r\nTo: <sip:a@x>\r\nCall-ID: o\r\n"
                )
                try:
                    await asyncio.wait_for(asyncio.get_running_loop().sock_recv(browser.sock, 65536), 0.3)
                    break
                except TimeoutError:
                    continue
        yield browser, phone
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reader
        browser.sock.close()
        phone.sock.close()


async def talk(caller: Agent, callee: Agent, name: str, offer: SessionDescription) -> tuple[str, str]:
    """Send an INVITE through the proxy; return its Call-ID and what arrived at the callee."""
    call_id = secrets.token_hex(8)
    headers = f"From: <sip:caller@x>;tag={caller.tag}\r\nTo: <sip:{name}@x>\r\nCall-ID: {call_id}\r\n"
    caller.request("INVITE", f"sip:{name}@127.0.0.1:{caller.proxy[1]}", headers, str(offer))
    return call_id, await callee.receive("INVITE")


async def finish(caller: Agent, callee: Agent, ok: str, call_id: str, media: Gateway) -> None:
    route = header(ok, "Record-Route")
    headers = f"Route: {route}\r\nFrom: {header(ok, 'From')}\r\nTo: {header(ok, 'To')}\r\nCall-ID: {call_id}\r\n"
    target = header(ok, "Contact").strip("<>")
    caller.request("BYE", target, headers, number=2)
    callee.answer(await callee.receive("BYE"), "200 OK")
    await caller.receive("SIP/2.0 200")
    async with asyncio.timeout(5):
        await media.drained()


async def speak(browser: BrowserEnd, phone: PhoneEnd) -> None:
    await browser.until(Step.DTLS_CONNECTED, timeout=20)
    async with asyncio.TaskGroup() as group:
        group.create_task(browser.talk(500, 1))
        group.create_task(phone.talk(900, 1))
        group.create_task(browser.hears(40))
        group.create_task(phone.hears(40))
    assert browser.pitch(30) == pytest.approx(900, abs=20)
    assert phone.pitch(30) == pytest.approx(500, abs=20)


@pytest.mark.parametrize("formats", [(AMR_WB,), (PCMA,)], ids=["AMR-WB", "PCMA"])
async def test_the_browser_calls(
    gateway: tuple[Gateway, NgServer], agents: tuple[Agent, Agent], formats: tuple[Format, ...]
) -> None:
    web, ims = agents
    browser, phone = BrowserEnd(PythonPlane(), offers=True), PhoneEnd(PythonPlane(), formats=formats)
    try:
        call_id, invite = await talk(web, ims, "phone", browser.offer())
        assert IMS.violations(body(invite)) == []
        ims.answer(invite, "200 OK", str(phone.take_offer(body(invite))))
        ok = await web.receive("SIP/2.0 200")
        assert WEBRTC.violations(body(ok), offer=False) == []
        browser.take_answer(body(ok))
        await speak(browser, phone)
        assert await gateway[0].list() == (call_id,)
        await finish(web, ims, ok, call_id, gateway[0])
    finally:
        await browser.close()
        phone.close()


async def test_the_phone_calls(gateway: tuple[Gateway, NgServer], agents: tuple[Agent, Agent]) -> None:
    web, ims = agents
    browser, phone = BrowserEnd(PythonPlane(), offers=False), PhoneEnd(PythonPlane())
    try:
        call_id, invite = await talk(ims, web, "browser", phone.offer())
        assert WEBRTC.violations(body(invite)) == []
        web.answer(invite, "200 OK", str(browser.take_offer(body(invite))))
        ok = await ims.receive("SIP/2.0 200")
        assert IMS.violations(body(ok), offer=False) == []
        phone.take_answer(body(ok))
        await speak(browser, phone)
        await finish(ims, web, ok, call_id, gateway[0])
    finally:
        await browser.close()
        phone.close()


async def test_an_offer_that_is_refused_becomes_488(
    gateway: tuple[Gateway, NgServer], agents: tuple[Agent, Agent]
) -> None:
    web, _ = agents
    phone = PhoneEnd(PythonPlane())
    try:
        call_id = secrets.token_hex(8)
        headers = f"From: <sip:a@x>;tag=1\r\nTo: <sip:phone@x>\r\nCall-ID: {call_id}\r\n"
        web.request("INVITE", f"sip:phone@127.0.0.1:{web.proxy[1]}", headers, str(phone.offer()))
        with pytest.raises(AssertionError, match="488"):
            await web.receive("SIP/2.0 2")
        assert gateway[0].sessions == 0
    finally:
        phone.close()
