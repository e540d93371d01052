"""The portal over real HTTPS: page, AKA log-in, session, TURN credentials, refusals [S7-AUTH, A-WWSF]."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from imskit.aka.challenge import AkaAlgorithm, Challenge, encode_auts
from imskit.aka.milenage import Milenage
from imskit.aka.vector import AuthenticationVector, Success, SyncFailure, Usim
from imskit.secrets import Identity, Secret
from imskit.sip import digest
from imskit.sip.wire.auth import Challenge as DigestChallenge
from imskit.sip.wire.auth import Credentials
from network_edge.wwsf.config import TurnConfig, WwsfConfig
from network_edge.wwsf.home_network import HomeNetworkError, Profile
from network_edge.wwsf.limits import RateLimit
from network_edge.wwsf.server import COOKIE, Wwsf
from simulators.ims_core.subscribers import Hss, SubscriberConfig, UnknownSubscriberError

K, OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"  # TS 35.208 set 1
IMPI = "001010000000001@ims.mnc001.mcc001.3gppnetwork.org"
IMPU = "sip:+15550100@ims.mnc001.mcc001.3gppnetwork.org"


class Home:
    """The home network in this process; ``down`` makes it silent."""

    def __init__(self) -> None:
        config = SubscriberConfig(IMPI, [IMPU, "tel:+15550100"], k=Secret(K), opc=Secret(OPC), display="+1 555 0100")
        self.hss = Hss([config], lambda n: bytes(range(n)))
        self.down = False

    async def vector(self, impi: Identity, resync: tuple[bytes, bytes] | None = None) -> AuthenticationVector:
        if self.down:
            raise HomeNetworkError("the HSS does not answer")
        try:
            return self.hss.vector(impi, resync)
        except UnknownSubscriberError as error:
            raise HomeNetworkError(str(error), unknown=True) from error
        except ValueError as error:
            raise HomeNetworkError(str(error)) from error

    async def profile(self, impi: Identity) -> Profile:
        subscriber = self.hss.by_impi(impi)
        return Profile(subscriber.usable, subscriber.display)

    async def close(self) -> None:
        pass


@dataclass
class Portal:
    base: str
    http: aiohttp.ClientSession
    home: Home
    server: Wwsf

    async def get(self, path: str, **headers: str) -> tuple[aiohttp.ClientResponse, str]:
        async with self.http.get(self.base + path, headers=headers) as response:
            return response, await response.text()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "2", "-subj", "/CN=portal.ims.example", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    return tmp_path


@pytest.fixture
async def portal(certificate: Path) -> AsyncIterator[Portal]:
    tmp_path = certificate
    config = WwsfConfig(
        portal="portal.ims.example",
        websocket="wss://ws.ims.example/sip",
        certificate=tmp_path / "cert.pem",
        key=tmp_path / "key.pem",
        hss=tmp_path / "unused.sock",
        turn=TurnConfig(Secret("geheim"), ["turn:turn.ims.example:3478?transport=udp"]),
        port=0,
    )
    home = Home()
    server = Wwsf(config, home)
    await server.start()
    trust = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as http:
        yield Portal(f"https://localhost:{server.port}", http, home, server)
    await server.stop()


def first_authorization(impi: str = IMPI, uri: str = "/") -> str:
    empty = Credentials.digest(username=impi, realm="portal.ims.example", nonce="", uri=uri, response="")
    return str(empty)


def answer(challenge: DigestChallenge, usim: Usim, *, impi: str = IMPI, uri: str = "/") -> str:
    vector = Challenge.decode(challenge.nonce or "")
    algorithm = AkaAlgorithm.parse(challenge.algorithm or "")
    assert algorithm is not None
    result = usim.verify(vector.rand, vector.autn)
    password = algorithm.password(result) if isinstance(result, Success) else None
    auts = encode_auts(result.auts) if isinstance(result, SyncFailure) else None
    return str(
        digest.answer(
            challenge, username=impi, password=password, method="GET", uri=uri, cnonce="0123456789abcdef", auts=auts
        )
    )


def usim(k: str = K) -> Usim:
    return Usim(Milenage(Secret(bytes.fromhex(k)), Secret(bytes.fromhex(OPC))))


async def challenges(portal: Portal) -> list[DigestChallenge]:
    response, _ = await portal.get("/", Authorization=first_authorization())
    assert response.status == 401
    return [DigestChallenge.parse(value) for value in response.headers.getall("WWW-Authenticate")]


async def test_the_page_is_shown_without_log_in_and_says_nothing_of_an_agent(portal: Portal) -> None:
    response, text = await portal.get("/")
    assert response.status == 200
    assert COOKIE not in response.cookies
    csp = response.headers["Content-Security-Policy"]
    assert "connect-src 'self' wss://ws.ims.example" in csp
    script, code = await portal.get("/assets/phone.js")
    assert script.status == 200
    style = (await portal.get("/assets/phone.css"))[1]
    for content in (text, code, style):
        assert "imsbridge" not in content.lower()
        assert "127.0.0.1" not in content
        assert "localhost" not in content
    assert (await portal.get("/api/session"))[0].status == 401
    assert (await portal.get("/api/turn"))[0].status == 401
    assert (await portal.get("/assets/../config.py"))[0].status == 404


@pytest.mark.parametrize("choice", [0, 1])
async def test_log_in_with_the_card(portal: Portal, choice: int) -> None:
    offered = await challenges(portal)
    assert [c.algorithm for c in offered] == ["AKAv2-SHA-256", "AKAv1-MD5"]
    response, text = await portal.get("/", Authorization=answer(offered[choice], usim()))
    assert response.status == 200
    assert "<main" in text
    assert "rspauth=" in response.headers["Authentication-Info"]
    cookie = response.cookies[COOKIE]
    assert cookie["secure"]
    assert cookie["httponly"]
    session, _ = await portal.get("/api/session")
    assert await session.json() == {
        "display": "+1 555 0100",
        "sip": {
            "uri": IMPU,
            "impi": IMPI,
            "display_name": "+1 555 0100",
            "websocket": "wss://ws.ims.example/sip",
            "registration": {"method": "network"},
        },
    }
    relay, _ = await portal.get("/api/turn")
    credential = await relay.json()
    mac = hmac.new(b"geheim", credential["username"].encode(), hashlib.sha1).digest()
    assert credential["password"] == base64.b64encode(mac).decode()
    assert IMPI not in credential["username"]
    assert relay.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/api/session", "/api/turn"])
async def test_log_in_anew_with_what_the_page_asks_for(portal: Portal, path: str) -> None:
    """The session of a page that is open has ended: it need not be loaded again."""
    assert (await portal.get(path))[0].status == 401
    refusal, _ = await portal.get(path, Authorization=first_authorization(uri=path))
    assert refusal.status == 401
    challenge = DigestChallenge.parse(refusal.headers["WWW-Authenticate"])
    response, text = await portal.get(path, Authorization=answer(challenge, usim(), uri=path))
    assert response.status == 200
    assert ("password" in text) == (path == "/api/turn")
    assert "rspauth=" in response.headers["Authentication-Info"]
    assert COOKIE in response.cookies
    assert (await portal.get(path))[0].status == 200


async def test_an_answer_is_good_once(portal: Portal) -> None:
    value = answer((await challenges(portal))[0], usim())
    assert (await portal.get("/", Authorization=value))[0].status == 200
    again, _ = await portal.get("/", Authorization=value)
    assert again.status == 401
    assert "stale=true" in again.headers["WWW-Authenticate"]


async def test_resynchronisation(portal: Portal) -> None:
    card = usim()
    for index in range(32):
        card.sqn.accept((1 << 20) + index)
    value = answer((await challenges(portal))[1], card)
    assert "auts=" in value
    response, _ = await portal.get("/", Authorization=value)
    assert response.status == 401
    challenge = DigestChallenge.parse(response.headers.getall("WWW-Authenticate")[1])
    assert (await portal.get("/", Authorization=answer(challenge, card)))[0].status == 200


async def test_a_wrong_card_is_refused(portal: Portal) -> None:
    challenge = (await challenges(portal))[1]
    value = answer(challenge, usim("00" * 16))  # its MAC check fails: an empty response
    response, text = await portal.get("/", Authorization=value)
    assert response.status == 403
    assert "wrong MAC" in text
    assert COOKIE not in response.cookies
    forged = Credentials.parse(answer((await challenges(portal))[1], usim())).with_("response", "0" * 32)
    response, text = await portal.get("/", Authorization=str(forged))
    assert response.status == 403
    assert "answer is wrong" in text


async def test_a_stranger_and_a_silent_home_network(portal: Portal) -> None:
    response, text = await portal.get("/", Authorization=first_authorization("nobody@example"))
    assert response.status == 403
    assert "no subscriber has this private identity" in text
    portal.home.down = True
    response, text = await portal.get("/", Authorization=first_authorization())
    assert response.status == 503
    assert "does not answer" in text


async def test_challenges_of_one_address_are_bounded(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs a vector of the home network; a card that logs in makes room again (A-WWSF)."""
    monkeypatch.setattr(portal.server, "_card_tries", RateLimit(4, 60.0, time.monotonic))
    for _ in range(3):
        await challenges(portal)
    response, _ = await portal.get("/", Authorization=answer((await challenges(portal))[0], usim()))
    assert response.status == 429
    assert 0 < int(response.headers["Retry-After"]) <= 60


@pytest.mark.parametrize(
    "value", ["Digest", "Basic QWxhZGRpbg==", 'Digest username="', 'Digest username="a", realm="other", nonce=""']
)
async def test_a_malformed_authorization_is_named(portal: Portal, value: str) -> None:
    response, text = await portal.get("/", Authorization=value)
    assert response.status == 400
    assert "Authorization" in text


async def test_another_origin_gets_nothing(portal: Portal) -> None:
    value = answer((await challenges(portal))[0], usim())
    await portal.get("/", Authorization=value)
    response, _ = await portal.get("/api/turn", Origin="https://www.other.example")
    assert response.status == 403
    assert (await portal.get("/api/turn", Origin="https://portal.ims.example"))[0].status == 200


async def test_log_out(portal: Portal) -> None:
    await portal.get("/", Authorization=answer((await challenges(portal))[0], usim()))
    async with portal.http.post(portal.base + "/api/logout") as response:
        assert response.status == 200
    assert (await portal.get("/api/session"))[0].status == 401
