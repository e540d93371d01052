"""The portal as a NAF over real HTTPS; the client is aiohttp's own HTTP Digest, which nobody here wrote (S7-GBA)."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from imskit.aka.gba import UA_HTTP_DIGEST, BTid, naf_id, ua_password
from imskit.config.model import ConfigError, parse
from imskit.secrets import Identity, Secret
from imskit.sip import digest
from imskit.sip.wire.auth import AuthenticationInfo, Credentials
from imskit.sip.wire.auth import Challenge as DigestChallenge
from imskit.sockets import unix_socket
from network_edge.wwsf.bsf import BsfClient, BsfError, NafKey
from network_edge.wwsf.config import GbaConfig, TurnConfig, WwsfConfig
from network_edge.wwsf.gba_login import GbaLogin, LoggedInWithKey
from network_edge.wwsf.home_network import Profile
from network_edge.wwsf.server import COOKIE, Wwsf

PORTAL = "portal.ims.example"
IMPI = Identity("001010000000001@ims.example")
BTID = BTid.make(bytes(range(16)), "bsf.ims.example").text
KEY = Secret(bytes(range(32)))
TERMINAL = {"User-Agent": "Mozilla/5.0 3gpp-gba 3gpp-gba-uicc"}


class Home:
    """The home network, which is asked for identities only."""

    async def vector(self, impi: Identity, resync: tuple[bytes, bytes] | None = None) -> Any:
        raise AssertionError("a bootstrapped key needs no vector")

    async def profile(self, impi: Identity) -> Profile:
        assert impi == IMPI
        return Profile((Identity("sip:+15550100@ims.example"),), "+1 555 0100")

    async def close(self) -> None:
        pass


@dataclass
class Bsf:
    """The BSF as the portal sees it."""

    known: dict[str, NafKey] = field(default_factory=lambda: {BTID: NafKey(IMPI, KEY, False, time.time() + 900)})
    down: bool = False
    asked: list[bytes] = field(default_factory=list)

    async def key(self, btid: str, naf_id: bytes) -> NafKey:
        self.asked.append(naf_id)
        if self.down:
            raise BsfError("the BSF does not answer")
        if btid not in self.known:
            raise BsfError("the BSF does not know this B-TID", unknown=True)
        return self.known[btid]

    async def close(self) -> None:
        pass


@dataclass
class Portal:
    base: str
    trust: ssl.SSLContext
    bsf: Bsf

    async def get(
        self, path: str = "/api/session", user: str = BTID, key: Secret[bytes] = KEY, **headers: str
    ) -> aiohttp.ClientResponse:
        """Log in as any client of HTTP Digest does."""
        middleware = aiohttp.DigestAuthMiddleware(user, ua_password(key).reveal().decode())
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self.trust),
                middlewares=(middleware,),
                cookie_jar=aiohttp.DummyCookieJar(),
            ) as http,
            http.get(self.base + path, headers=TERMINAL | headers) as response,
        ):
            await response.read()
            return response

    async def plain(self, path: str = "/api/session", **headers: str) -> tuple[aiohttp.ClientResponse, bytes]:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self.trust), cookie_jar=aiohttp.DummyCookieJar()
            ) as http,
            http.get(self.base + path, headers=headers) as response,
        ):
            return response, await response.read()

    async def challenges(self) -> list[DigestChallenge]:
        response, _ = await self.plain(**TERMINAL)
        assert response.status == 401
        return [DigestChallenge.parse(value) for value in response.headers.getall("WWW-Authenticate")]

    def answer(self, challenge: DigestChallenge, uri: str = "/api/session", user: str = BTID) -> str:
        return str(
            digest.answer(
                challenge, username=user, password=ua_password(KEY), method="GET", uri=uri, cnonce="0123456789abcdef"
            )
        )


@pytest.fixture
def settings() -> dict[str, Any]:
    """What of the configuration differs; a test may set it with parametrize."""
    return {"login": "gba"}


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "2", "-subj", f"/CN={PORTAL}", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    return tmp_path


@pytest.fixture
async def portal(certificate: Path, settings: dict[str, Any]) -> AsyncIterator[Portal]:
    tmp_path = certificate
    in_card = settings.pop("in_card", False)
    config = WwsfConfig(
        portal=PORTAL,
        websocket="wss://ws.ims.example/sip",
        certificate=tmp_path / "cert.pem",
        key=tmp_path / "key.pem",
        hss=tmp_path / "unused.sock",
        turn=TurnConfig(Secret("geheim"), ["turn:turn.ims.example:3478?transport=udp"]),
        port=0,
        gba=GbaConfig(tmp_path / "unused.sock", Secret("x"), in_card=in_card),
        **settings,
    )
    bsf = Bsf()
    server = Wwsf(config, Home(), bsf)
    await server.start()
    yield Portal(f"https://localhost:{server.port}", ssl.create_default_context(cafile=tmp_path / "cert.pem"), bsf)
    await server.stop()


async def test_a_client_that_nobody_here_wrote(portal: Portal) -> None:
    """S7-GBA, TS 24.109 5.2: B-TID and base64 of Ks_NAF are the user name and password of HTTP Digest, auth-int."""
    response = await portal.get()
    assert response.status == 200
    assert portal.bsf.asked == [naf_id(PORTAL)]
    cookie = response.headers["Set-Cookie"]
    assert cookie.startswith(COOKIE)
    age = int(cookie.partition("Max-Age=")[2].partition(";")[0])
    assert 800 < age <= 900, "the session does not outlive the key"
    sent = Credentials.parse(response.request_info.headers["Authorization"])
    assert (sent.qop, sent.username) == ("auth-int", BTID)


async def test_the_portal_proves_that_it_has_the_key(portal: Portal) -> None:
    """RFC 7616 3.5 with auth-int: rspauth covers the body of the response."""
    challenge = (await portal.challenges())[0]
    text = portal.answer(challenge)
    response, body = await portal.plain(Authorization=text)
    info = AuthenticationInfo.parse(response.headers["Authentication-Info"])
    assert digest.verify_info(info, Credentials.parse(text), ua_password(KEY), body)
    assert not digest.verify_info(info, Credentials.parse(text), ua_password(KEY), body + b" ")


async def test_challenges(portal: Portal) -> None:
    first, second = await portal.challenges()
    assert (first.algorithm, second.algorithm) == ("SHA-256", "MD5")
    assert first.realm == f"3GPP-bootstrapping@{PORTAL}"
    assert first.qop == ("auth-int",)
    assert not first.stale


async def test_a_browser_without_gba_gets_the_page(portal: Portal) -> None:
    response, body = await portal.plain("/")
    assert response.status == 200
    assert b"<html" in body
    assert (await portal.plain("/assets/phone.css", **TERMINAL))[0].status == 200


async def test_who_is_logged_in_is_not_asked_again(portal: Portal) -> None:
    response = await portal.get("/")
    cookie = response.headers["Set-Cookie"].partition(";")[0]
    assert (await portal.plain("/api/session", Cookie=cookie, **TERMINAL))[0].status == 200
    assert (await portal.plain("/api/session", Cookie=cookie + "x", **TERMINAL))[0].status == 401


async def test_the_same_answer_again(portal: Portal) -> None:
    """Replay: the nonce is used up."""
    text = portal.answer((await portal.challenges())[0])
    assert (await portal.plain(Authorization=text))[0].status == 200
    response, _ = await portal.plain(Authorization=text)
    assert response.status == 401
    assert DigestChallenge.parse(response.headers["WWW-Authenticate"]).stale


def _login(clock: list[float]) -> GbaLogin:
    return GbaLogin(
        PORTAL,
        Bsf(),
        UA_HTTP_DIGEST,
        in_card=False,
        clock=lambda: clock[0],
        today=time.time,  # type: ignore[arg-type]
    )


def _nonces(login: GbaLogin) -> str:
    return DigestChallenge.parse(login.challenge().challenges[0]).nonce or ""


def test_who_only_asks_pushes_nobody_out() -> None:
    """Nothing is kept of challenges: a nonce is good for its minute, whatever comes meanwhile."""
    clock = [1000.0]
    login = _login(clock)
    first = _nonces(login)
    for _ in range(20_000):
        login.challenge()
    assert login._is_ours(first)
    assert not login._used
    clock[0] += 61
    assert not login._is_ours(first)


@pytest.mark.parametrize("place", [0, 10, 20, 30, 40])
def test_nonces_that_are_made_up(place: int) -> None:
    login = _login([1000.0])
    nonce = _nonces(login)
    other = "B" if nonce[place] != "B" else "C"
    assert login._is_ours(nonce)
    assert not login._is_ours(nonce[:place] + other + nonce[place + 1 :])
    assert not login._is_ours(nonce[:place])
    assert not login._is_ours("!" + nonce)
    assert not _login([1000.0])._is_ours(nonce)


async def test_a_key_that_is_wrong(portal: Portal) -> None:
    """TS 24.109 5.2.5: the terminal is asked to bootstrap anew."""
    assert (await portal.get(key=Secret(bytes(32)))).status == 401


async def test_a_btid_that_is_unknown_or_none(portal: Portal) -> None:
    challenge = (await portal.challenges())[0]
    for user in (BTid.make(bytes(16), "bsf.ims.example").text, "nobody", ""):
        response, _ = await portal.plain(Authorization=portal.answer(challenge, user=user))
        assert response.status == 401
        challenge = DigestChallenge.parse(response.headers.getall("WWW-Authenticate")[0])


async def test_a_key_that_has_ended(portal: Portal) -> None:
    portal.bsf.known[BTID] = NafKey(IMPI, KEY, False, time.time() - 1)
    assert (await portal.get()).status == 401


async def test_a_bsf_that_is_silent(portal: Portal) -> None:
    portal.bsf.down = True
    assert (await portal.get()).status == 503


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (("qop=auth-int", "qop=auth"), 400),
        (('uri="/api/session"', 'uri="/"'), 400),
        (("algorithm=SHA-256", "algorithm=AKAv1-MD5"), 400),
        (("cnonce=", "xnonce="), 400),
        ((f"3GPP-bootstrapping@{PORTAL}", "3GPP-bootstrapping@other.example"), 401),
    ],
)
async def test_answers_that_do_not_fit(portal: Portal, change: tuple[str, str], status: int) -> None:
    text = portal.answer((await portal.challenges())[0])
    assert change[0] in text
    assert (await portal.plain(Authorization=text.replace(*change)))[0].status == status


@pytest.mark.parametrize("settings", [{"login": "gba", "in_card": True}])
async def test_only_keys_of_the_card(portal: Portal) -> None:
    """S7-GBA: realm 3GPP-bootstrapping-uicc@; a key from outside the card is refused."""
    assert (await portal.challenges())[0].realm == f"3GPP-bootstrapping-uicc@{PORTAL}"
    assert (await portal.get()).status == 403
    portal.bsf.known[BTID] = NafKey(IMPI, KEY, True, time.time() + 60)
    assert (await portal.get()).status == 200


@pytest.mark.parametrize("settings", [{"login": "gba"}, {"login": "either"}], ids=["gba", "either"])
async def test_the_card_itself(portal: Portal, settings: dict[str, Any]) -> None:
    """A request that names the private identity gets a card's challenge only where the portal takes either."""
    first = Credentials.digest(username=IMPI, realm=PORTAL, nonce="", uri="/", response="")
    if settings["login"] == "either":
        response, _ = await portal.plain("/", Authorization=str(first).replace(PORTAL, "x"))
        assert response.status == 400, "the card's log-in judges it"
    else:
        response, _ = await portal.plain("/", Authorization=str(first))
        assert response.status == 401
        assert "3GPP-bootstrapping@" in response.headers["WWW-Authenticate"]


@given(
    st.text(max_size=120)
    | st.text(max_size=60).map(lambda noise: f'Digest realm="3GPP-bootstrapping@{PORTAL}", username="{BTID}", {noise}')
)
def test_any_authorization_may_come(text: str) -> None:
    """Nothing escapes and nobody is logged in; also with a nonce that is ours."""
    login = GbaLogin(PORTAL, Bsf(), UA_HTTP_DIGEST, in_card=False, clock=lambda: 0.0, today=time.time)
    nonce = DigestChallenge.parse(login.challenge().challenges[0]).nonce
    for value in (text, f'{text}, nonce="{nonce}"'):
        login.is_for_us(value)
        assert not isinstance(asyncio.run(login.handle(value, "GET", "/", b"")), LoggedInWithKey)


@pytest.mark.parametrize(
    "body", [[], {}, {"impi": "a", "me_key": "00", "uicc_key": None, "expires": 1}, {"me_key": "zz"}, "x"]
)
async def test_a_bsf_that_talks_nonsense(tmp_path: Path, body: object) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(body)

    app = web.Application()
    app.router.add_post("/keys", answer)
    client = BsfClient(tmp_path / "zn.sock", Secret("x"))
    async with unix_socket(app, tmp_path / "zn.sock"):
        with pytest.raises(BsfError, match="the BSF sent"):
            await client.key(BTID, naf_id(PORTAL))
        await client.close()


async def test_a_bsf_client_without_a_bsf(tmp_path: Path) -> None:
    client = BsfClient(tmp_path / "none.sock", Secret("x"))
    with pytest.raises(BsfError, match="does not answer") as caught:
        await client.key(BTID, naf_id(PORTAL))
    assert not caught.value.unknown
    await client.close()


def test_configurations() -> None:
    good = (
        'portal = "p.example"\nwebsocket = "wss://w.example"\ncertificate = "c"\nkey = "k"\nhss = "h"\nlogin = "gba"\n'
        '[turn]\nsecret = "s"\nuris = ["turn:t"]\n[gba]\nzn = "z"\nsecret = "s"\n'
    )
    assert parse(WwsfConfig, good).gba is not None
    with pytest.raises(ConfigError, match=r"needs the table \[gba\]"):
        parse(WwsfConfig, good.partition("[gba]")[0])
    with pytest.raises(ConfigError, match="10 hex digits"):
        parse(WwsfConfig, good + 'protocol = "01"\n')
