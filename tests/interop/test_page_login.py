"""A real Chromium without agent logs in on the page and registers by JsSIP [A-WIC, A-REG1, A-REG2, X-SAMEPAGE]."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import WSMsgType, web
from playwright.async_api import Page, async_playwright

from imskit.secrets import Secret
from imskit.sip import digest
from imskit.sip.wire.auth import Challenge, Credentials
from network_edge.wwsf.config import TurnConfig, WwsfConfig
from network_edge.wwsf.identities.config import IdentitiesConfig
from network_edge.wwsf.identities.database import Database
from network_edge.wwsf.identities.model import Account, identities
from network_edge.wwsf.identities.sql import SqlStore
from network_edge.wwsf.oidc import ProviderConfig
from network_edge.wwsf.server import Wwsf
from network_edge.wwsf.tokens.config import ClientConfig, TokensConfig

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


class Registrar:
    """The far end of the page's WebSocket: it notes each REGISTER and answers it, as a test wants it answered."""

    def __init__(self, certificate: Path) -> None:
        self.seen: asyncio.Queue[str] = asyncio.Queue()
        self.realm = ""
        self.refuse = 0
        app = web.Application()
        app.router.add_get("/sip", self._socket)
        self._runner = web.AppRunner(app)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        self.port = 0

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("sip",))
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT and message.data.startswith("REGISTER "):
                self.seen.put_nowait(message.data)
                await socket.send_str(self._answer(message.data))
        return socket

    def _answer(self, request: str) -> str:
        kept = re.findall(r"(?m)^((?:Via|From|Call-ID|CSeq): .*)\r$", request)
        to = re.findall(r"(?m)^(To: .*)\r$", request)[0] + ";tag=r"
        contact = re.findall(r"(?m)^(Contact: .*)\r$", request)[0]
        status, more = "200 OK", [contact]
        credentials = re.search(r"(?m)^Authorization: (Digest .*)\r$", request)
        if self.refuse:
            self.refuse -= 1
            status, more = "401 Unauthorized", ['WWW-Authenticate: Bearer error="invalid_token"']
        elif self.realm and not (credentials and self._right(credentials[1])):
            challenge = Challenge.digest(self.realm, "n0nce", algorithm="MD5", qop=("auth",))
            status, more = "401 Unauthorized", [f"WWW-Authenticate: {challenge}"]
        return "\r\n".join([f"SIP/2.0 {status}", *kept, to, *more, "Content-Length: 0", "", ""])

    def _right(self, value: str) -> bool:
        credentials = Credentials.parse(value)
        return credentials.username == "dora@ims.example" and digest.verify(
            credentials, Secret(b"line secret"), "REGISTER", b""
        )

    async def next(self) -> str:
        return await asyncio.wait_for(self.seen.get(), 20)


class Lab:
    """Server, registrar, browser."""

    def __init__(self, server: Wwsf, registrar: Registrar, page: Page) -> None:
        self.server = server
        self.registrar = registrar
        self.page = page
        self.complaints: list[str] = []

    async def fill(self, name: str, password: str) -> None:
        await self.page.fill("#user-name", name)
        await self.page.fill("#password", password)
        await self.page.click("#log-in-form button")

    async def line(self, state: str) -> None:
        await self.page.wait_for_selector(f'main[data-line="{state}"]')


@pytest.fixture
def certificate(tmp_path: Path) -> None:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )


@pytest.fixture
async def lab(tmp_path: Path, certificate: None) -> AsyncIterator[Lab]:
    url = Secret(f"sqlite:///{tmp_path}/w.db")
    database = Database(url)
    alice = Account("alice", identities("alice@ims.example", ["sip:alice@ims.example"], "+1 555 0300"))
    dora = Account("dora", identities("dora@ims.example", ["sip:dora@ims.example"]), registration="digest")
    await SqlStore(database).add([(alice, Secret("right")), (dora, Secret("right"))])
    await database.close()
    registrar = Registrar(tmp_path)
    await registrar.start()
    config = WwsfConfig(
        portal="localhost",
        websocket=f"wss://localhost:{registrar.port}/sip",
        certificate=tmp_path / "cert.pem",
        key=tmp_path / "key.pem",
        turn=TurnConfig(Secret("geheim"), ["turn:127.0.0.1:9?transport=udp"]),
        port=0,
        identities=IdentitiesConfig(url),
        tokens=TokensConfig(
            "ep-cscf", tmp_path / "keys.json", seconds=30, clients=[ClientConfig("ep", Secret("0123456789abcdef"))]
        ),
        providers=[ProviderConfig("example", "Example", "https://id.example", "wwsf", Secret("x"))],
    )
    server = Wwsf(config, None)
    await server.start()
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page(ignore_https_errors=True, viewport={"width": 390, "height": 844})
        lab = Lab(server, registrar, page)
        page.on("console", lambda message: lab.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: lab.complaints.append(str(error)))
        await page.goto(f"https://localhost:{server.port}/")
        yield lab
        await browser.close()
    await server.stop()
    await registrar.stop()


async def test_token(lab: Lab, tmp_path: Path) -> None:
    """A-REG2: the form, a wrong password, the right one; the token on REGISTER, a fresh one later; log-out."""
    page = lab.page
    await page.wait_for_selector("#log-in-form")
    assert await page.get_attribute("#providers a", "href") == "/login/example"
    assert await page.is_hidden("#dialler")
    await page.screenshot(path=tmp_path / "log-in-phone.png")
    await page.set_viewport_size({"width": 1280, "height": 800})
    await page.screenshot(path=tmp_path / "log-in-desktop.png")
    width = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert width <= 0
    await page.set_viewport_size({"width": 320, "height": 640})
    assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    await lab.fill("alice", "wrong")
    await page.wait_for_selector("#log-in .problem:not([hidden])")
    assert await page.text_content("#log-in .problem") == "User name or password is wrong."
    await page.screenshot(path=tmp_path / "log-in-wrong.png")
    lab.complaints.clear()  # the browser notes each 401 and 403
    await lab.fill("alice", "right")
    register = await lab.registrar.next()
    assert re.search(r"(?m)^To: (?:\".*\" )?<sip:alice@ims\.example>\r$", register)
    first = re.findall(r"(?m)^Authorization: Bearer (\S+)\r$", register)
    assert len(first) == 1
    await lab.line("ready")
    assert await page.text_content("#identity strong") == "+1 555 0300"
    await page.screenshot(path=tmp_path / "ready.png")
    async with page.expect_response("**/api/token"):
        pass  # at 70 % of the token's 30 s
    # A refused token is replaced, and the page registers again by itself.
    lab.registrar.refuse = 1
    await page.reload()
    refused = re.findall(r"(?m)^Authorization: Bearer (\S+)\r$", await lab.registrar.next())
    again = re.findall(r"(?m)^Authorization: Bearer (\S+)\r$", await lab.registrar.next())
    assert len({*first, *refused, *again}) == 3
    await lab.line("ready")
    await page.click("#log-out")
    leaving = await lab.registrar.next()
    assert re.search(r"(?m)^(?:Expires: 0|Contact: .*;expires=0)\r$", leaving)
    await page.wait_for_selector("#log-in-form")
    assert not [text for text in lab.complaints if "401" not in text]


async def test_digest(lab: Lab, tmp_path: Path) -> None:
    """A-REG1: the line's own password, asked for again if the network refuses it; the portal never sees it."""
    lab.registrar.realm = "ims.example"
    sent: list[str] = []
    lab.page.on("request", lambda request: sent.append(request.url + (request.post_data or "")))
    await lab.fill("dora", "right")
    await lab.page.wait_for_selector("#line-log-in:not([hidden])")
    await lab.page.screenshot(path=tmp_path / "line.png")
    await lab.page.fill("#line-password", "wrong secret")
    await lab.page.click("#line-log-in button")
    await lab.page.wait_for_selector("#line-log-in .problem:not([hidden])")
    await lab.page.fill("#line-password", "line secret")
    await lab.page.click("#line-log-in button")
    await lab.line("ready")
    assert not any("line secret" in text for text in sent)


async def test_the_page_knows_no_agent(lab: Lab) -> None:
    """X-SAMEPAGE: nothing in what the browser gets names an agent."""
    for path in ("/", "/assets/phone.js", "/assets/phone.css"):
        response = await lab.page.request.get(f"https://localhost:{lab.server.port}{path}")
        assert response.ok
        assert not re.search(r"(?i)imsbridge|ue.?agent|\bwwpf\b", await response.text())
