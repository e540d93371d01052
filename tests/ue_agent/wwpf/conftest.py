"""A stage for the WWPF: an operator's HTTPS server with AKA log-in, a card, a SIF, and this test as the browser."""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from imskit.aka.milenage import Milenage
from imskit.aka.sqn import SqnGenerator, check_auts
from imskit.aka.vector import AuthenticationVector, Usim
from imskit.secrets import Identity, Secret
from ue_agent.wwpf import card_login, handover
from ue_agent.wwpf.agent import AgentError, ChallengeAnswer, LoginIdentity
from ue_agent.wwpf.config import Address, Browser, Handover, Site, WwpfConfig
from ue_agent.wwpf.proxy import WebProxy
from ue_agent.wwpf.service import WwpfService

IMPI = "001010000000001@ims.mnc001.mcc001.3gppnetwork.org"
# TS 35.208 test set 1.
K = bytes.fromhex("465b5ce8b199b49faa5f0a2ee238a6bc")
OPC = bytes.fromhex("cd63cb71954a9f4e48a5994e37a02baf")
PYTHON = str(Path(sys.executable).resolve())
NAMES = ("portal.ims.example", "ws.ims.example", "turn.ims.example", "www.other.example")


class TestCa:
    """The CA of the operator's (and others') servers."""

    __test__ = False

    def __init__(self, directory: Path) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Public CA of the test")])
        certificate = self._build(self.name, self.key, [], True)
        self.file = directory / "public-ca.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.directory = directory

    def context(self, *names: str) -> ssl.SSLContext:
        """Return a server context for ``names``."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = self._build(subject, key, list(names), False)
        path = self.directory / f"{names[0]}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, names: list[str], ca: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .issuer_name(self.name)
            .subject_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca, None), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)
        )
        if ca:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False)
        return builder.sign(self.key, hashes.SHA256())


class Operator:
    """Portal, WebSocket host and a host of somebody else, on one port.  Digest is computed here by hand."""

    def __init__(self) -> None:
        self.algorithms = ["AKAv1-MD5"]
        self.milenage = Milenage(Secret(K), Secret(OPC))
        self.sqn = SqnGenerator()
        self.number = 0
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        """Method, path and headers of every request."""
        self.vectors: dict[str, AuthenticationVector] = {}
        self.sessions: set[str] = set()
        self.cookie = "Domain=ims.example; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=3600"
        self.resyncs = 0
        self.behaviour = ""
        """``reject``: any answer is wrong; ``stale``: the first nonce has grown old; ``ignore-resync``."""
        self.port = 0
        self.runner: web.AppRunner | None = None

    async def start(self, context: ssl.SSLContext, other: ssl.SSLContext) -> None:
        def choose(ssl_socket: ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
            if name == "www.other.example":
                ssl_socket.context = other

        context.sni_callback = choose
        app = web.Application(client_max_size=1 << 23)
        app.router.add_route("*", "/{path:.*}", self.serve)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port, ssl_context=context).start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    def of(self, path: str) -> list[dict[str, str]]:
        """Return the headers of every request for ``path``."""
        return [headers for _, own, headers in self.seen if own == path]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.raw_path, dict(request.headers)))
        if request.headers.get("Upgrade", "").lower() == "websocket":
            websocket = web.WebSocketResponse()
            await websocket.prepare(request)
            await websocket.send_str("from the operator")
            await websocket.close()
            return websocket
        logged_in = request.cookies.get("session") in self.sessions
        if request.path == "/api/turn":
            relay = web.json_response({"username": "1700000000:web", "password": "turn-secret", "ttl": 600, "uris": []})
            if logged_in:
                return relay
            if "Authorization" not in request.headers:
                return web.json_response({"error": "not logged in"}, status=401)
            outcome = await self._digest(request)
            if outcome.status == 200:
                for value in outcome.headers.getall("Set-Cookie"):
                    relay.headers.add("Set-Cookie", value)
                return relay
            return outcome
        if request.path == "/api/strict" and not logged_in:
            return await self._digest(request)
        if request.path == "/logout":
            response = web.Response(text="bye")
            response.headers["Set-Cookie"] = "session=; Max-Age=0; Secure; HttpOnly"
            return response
        if request.path == "/rotate":
            response = web.Response(text="rotated")
            self._open(response)
            return response
        if request.path == "/body":
            return web.Response(body=await request.read(), headers={"X-Length": str(len(await request.read()))})
        if "Authorization" in request.headers and request.headers["Authorization"].startswith("Digest"):
            return await self._digest(request)
        if request.path == "/protected" and not logged_in:
            return await self._digest(request)
        return web.Response(text=f"page for {'a user' if logged_in else 'anyone'}", headers={"X-Page": "yes"})

    async def _digest(self, request: web.Request) -> web.StreamResponse:
        fields = dict(re.findall(r'(\w+)="?([^",]*)"?', request.headers.get("Authorization", "")))
        vector = self.vectors.pop(fields.get("nonce", ""), None)
        if vector is None:
            return self._challenge()
        if "auts" in fields:
            self.resyncs += 1
            number = check_auts(self.milenage, vector.rand, base64.b64decode(fields["auts"]))
            assert number is not None
            if self.behaviour != "ignore-resync":
                self.sqn = SqnGenerator(number)
            return self._challenge()
        if self.behaviour == "stale":
            self.behaviour = ""
            return self._challenge(stale=True)
        if self.behaviour == "reject":
            return self._challenge()
        if self.behaviour == "forbid":
            return web.Response(status=403, text="the operator's own words")
        assert fields["uri"] == request.raw_path
        assert fields["username"] == IMPI
        if fields["response"] != self._expected(fields, vector, request.method):
            return web.Response(status=403, text="wrong answer")
        response = web.Response(text="welcome", headers={"Authentication-Info": 'rspauth="x"'})
        self._open(response)
        return response

    def _expected(self, fields: dict[str, str], vector: AuthenticationVector, method: str) -> str:
        """RFC 7616 section 3.4.1, RFC 3310 section 3.3, RFC 4169 section 2.1; written out."""
        name = "sha256" if "SHA-256" in fields["algorithm"] else "md5"
        password = vector.xres.reveal()
        if fields["algorithm"].startswith("AKAv2"):
            import hmac

            key = password + vector.ik.reveal() + vector.ck.reveal()
            password = base64.b64encode(hmac.new(key, b"http-digest-akav2-password", name).digest())

        def h(*parts: bytes | str) -> str:
            octets = [part.encode() if isinstance(part, str) else part for part in parts]
            return hashlib.new(name, b":".join(octets)).hexdigest()

        a1 = h(fields["username"], fields["realm"], password)
        a2 = h(method, fields["uri"])
        return h(a1, fields["nonce"], fields["nc"], fields["cnonce"], fields["qop"], a2)

    def _challenge(self, stale: bool = False) -> web.Response:
        response = web.Response(status=401, text="log in")
        rand = hashlib.sha256(f"{len(self.seen)}".encode()).digest()[:16]
        milenage = Milenage(Secret(bytes(16)), Secret(OPC)) if self.behaviour == "wrong-mac" else self.milenage
        self.number = self.number if self.behaviour == "ignore-resync" else self.sqn.next()
        vector = AuthenticationVector.generate(milenage, rand, self.number)
        nonce = base64.b64encode(vector.rand + vector.autn).decode()
        self.vectors[nonce] = vector
        for algorithm in self.algorithms:
            value = f'Digest realm="portal.ims.example", nonce="{nonce}", algorithm={algorithm}, qop="auth"'
            response.headers.add("WWW-Authenticate", value + (", stale=true" if stale else ""))
        return response

    def _open(self, response: web.Response) -> None:
        token = f"token-of-a-session-{len(self.seen)}"
        self.sessions.add(token)
        response.headers.add("Set-Cookie", f"session={token}; {self.cookie}")
        response.headers.add("Set-Cookie", "language=en; Path=/")


class Card:
    """The agent's side with a software card; ``LoginHandler``."""

    def __init__(self) -> None:
        self.usim = Usim(Milenage(Secret(K), Secret(OPC)))
        self.error: AgentError | None = None
        self.answers = 0
        self.turn: list[tuple[str, str, float]] = []

    async def identity(self) -> LoginIdentity:
        if self.error is not None:
            raise self.error
        return LoginIdentity(Identity(IMPI), "ims.mnc001.mcc001.3gppnetwork.org")

    async def answer_challenge(self, challenge: str, method: str, uri: str) -> ChallengeAnswer:
        self.answers += 1

        async def authenticate(rand: bytes, autn: bytes) -> Any:
            return self.usim.verify(rand, autn)

        return await card_login.answer_challenge(await self.identity(), authenticate, challenge, method, uri)

    async def turn_credential(self, username: str, password: Secret[str], ttl: float) -> None:
        self.turn.append((username, password.reveal(), ttl))


class Sif:
    """What the operator's WebSocket is handed to: greets whoever shows the secret."""

    def __init__(self) -> None:
        self.secret = handover.new_secret()
        self.requests: list[dict[str, str]] = []
        self.refused = 0
        self.address = Address("127.0.0.1", 0)
        self.runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.serve)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.address = Address("127.0.0.1", self.runner.addresses[0][1])

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if not handover.is_genuine(request.headers.get(handover.SECRET_HEADER), self.secret):
            self.refused += 1
            return web.Response(status=403)
        self.requests.append(dict(request.headers))
        websocket = web.WebSocketResponse(protocols=["sip"])
        await websocket.prepare(request)
        async for message in websocket:
            await websocket.send_str(f"SIF: {message.data}")
        return websocket


PAGE_LOAD = {
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Site": "none",
    "Accept": "text/html",
}


@dataclass
class Stage:
    """All of it."""

    operator: Operator
    card: Card
    sif: Sif
    service: WwpfService
    proxy: WebProxy
    config: WwpfConfig
    ca: TestCa
    client: aiohttp.ClientSession
    names: set[str] = field(default_factory=lambda: set(NAMES))

    @property
    def portal(self) -> str:
        return f"https://portal.ims.example:{self.operator.port}"

    @property
    def websocket(self) -> str:
        return f"https://ws.ims.example:{self.operator.port}"

    async def get(self, path: str = "/", **headers: str) -> tuple[aiohttp.ClientResponse, str]:
        """Do as a browser does; a page load unless told otherwise."""
        return await self.request("GET", path, PAGE_LOAD | {k.replace("_", "-"): v for k, v in headers.items()})

    async def request(
        self, method: str, path: str, headers: dict[str, str], base: str | None = None, body: bytes | None = None
    ) -> tuple[aiohttp.ClientResponse, str]:
        url = (base or self.portal) + path
        async with self.client.request(
            method, url, headers=headers, data=body, proxy=f"http://{self.proxy.address}", allow_redirects=False
        ) as response:
            return response, await response.text()

    async def log_in(self) -> str:
        """Load the page and return the cookie that it sets."""
        response, text = await self.get("/")
        assert text == "welcome", text
        return response.headers.getall("Set-Cookie")[0].partition(";")[0]

    async def curl(self, url: str, *arguments: str) -> tuple[int, str]:
        """Another program on this device."""
        process = await asyncio.create_subprocess_exec(
            *("curl", "-sS", "--http1.1", "-w", "\n%{http_code}", "--max-time", "10"),
            *("--proxy", f"http://{self.proxy.address}", "--cacert", str(self.config.state / "ca.pem")),
            *arguments,
            url,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, error = await process.communicate()
        text, _, status = out.decode().rpartition("\n")
        assert status.isdigit(), error
        return int(status), text


@pytest.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    """Start all of it; names resolve to loopback."""
    names = set(NAMES)
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        text = host.decode() if isinstance(host, bytes) else host
        if isinstance(text, str) and text.endswith(".example"):
            if text not in names:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return real("127.0.0.1", *arguments, **options)
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with AsyncExitStack() as stack:
        ca = TestCa(tmp_path)
        operator, card, sif = Operator(), Card(), Sif()
        await operator.start(
            ca.context("portal.ims.example", "ws.ims.example", "turn.ims.example"), ca.context("www.other.example")
        )
        stack.push_async_callback(operator.stop)
        await sif.start()
        assert sif.runner is not None
        stack.push_async_callback(sif.runner.cleanup)
        service = WwpfService(card, tmp_path / "run" / "agent.sock")
        await service.start()
        stack.push_async_callback(service.aclose)
        config = WwpfConfig(
            listen=Address("127.0.0.1", 0),
            pac=Address("127.0.0.1", 0),
            state=tmp_path / "wwpf",
            operator_domains=("ims.example",),
            direct_hosts=("turn.ims.example",),
            portals=(Site("portal.ims.example", operator.port),),
            websockets=(Site("ws.ims.example", operator.port),),
            browsers=(Browser(PYTHON),),
            trust=ca.file,
            handover=Handover(sif.address, sif.secret),
            agent=service.socket,
        )
        proxy = WebProxy(config)
        await proxy.start()
        stack.push_async_callback(proxy.aclose)
        trust = ssl.create_default_context(cafile=config.state / "ca.pem")
        trust.load_verify_locations(ca.file)
        client = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust), cookie_jar=aiohttp.DummyCookieJar())
        stack.push_async_callback(client.close)
        yield Stage(operator, card, sif, service, proxy, config, ca, client, names)
