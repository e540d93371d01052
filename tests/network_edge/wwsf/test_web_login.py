"""Log-in by password and at an OpenID provider, over real HTTPS; tokens, limits, attacks [A-WWSF, A-REG2, A-REG3]."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import shutil
import sqlite3
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp
import pytest
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import KeySet, OctKey, RSAKey

from imskit.secrets import Secret
from network_edge.wwsf.config import TurnConfig, WwsfConfig
from network_edge.wwsf.identities.config import IdentitiesConfig
from network_edge.wwsf.identities.database import Database
from network_edge.wwsf.identities.model import Account, identities
from network_edge.wwsf.identities.ranges import RangeConfig
from network_edge.wwsf.identities.sql import SqlStore
from network_edge.wwsf.limits import RateLimit, address_key
from network_edge.wwsf.metrics import MetricsConfig
from network_edge.wwsf.oidc import ProviderConfig
from network_edge.wwsf.server import COOKIE, Wwsf, WwsfError
from network_edge.wwsf.tokens.config import ClientConfig, TokensConfig
from network_edge.wwsf.web_login import BROWSER_COOKIE

PORTAL = "portal.ims.example"
ORIGIN = {"Origin": f"https://{PORTAL}"}
IMPUS = ["sip:+15550300@ims.example", "tel:+15550300"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", place / "key.pem", "-out", place / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    return place


PROVIDER_KEY = RSAKey.generate_key(2048, {"kid": "p1", "use": "sig"}, private=True)


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database with its users, made once: hashing takes long, as it should."""
    path = tmp_path_factory.mktemp("users") / "w.db"

    async def fill() -> None:
        database = Database(Secret(f"sqlite:///{path}"))
        alice = Account("alice", identities("alice@ims.example", IMPUS, "Alice"))
        dora = Account("dora", identities("dora@ims.example", ["sip:dora@ims.example"]), registration="digest")
        guest = Account("guest", None, range="guests")
        await SqlStore(database).add([(user, Secret("right")) for user in (alice, dora, guest)])
        await database.close()

    asyncio.run(fill())
    return path


class Provider:
    """A small OpenID provider; a test bends what it answers with ``claims``, ``sign``, ``redirect``, ``document``."""

    def __init__(self, certificate: Path) -> None:
        self.key = PROVIDER_KEY
        self.codes: dict[str, dict[str, str]] = {}
        self.claims: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims
        self.sign: Callable[[dict[str, Any]], str] = lambda claims: jwt.encode(
            {"alg": "RS256", "kid": "p1"}, claims, self.key
        )
        self.document: dict[str, Any] = {}
        self.redeemed = 0
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/keys", self._keys)
        app.router.add_post("/token", self._token)
        self._runner = web.AppRunner(app)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        self.issuer = ""

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self.issuer = f"https://localhost:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    def authorize(self, location: str) -> dict[str, str]:
        """What the user's consent at the provider makes of the redirection: the query of the way back."""
        assert location.startswith(self.issuer + "/authorize?")
        query = dict(parse_qsl(urlsplit(location).query))
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        assert query["client_id"] == "wwsf"
        assert query["redirect_uri"] == f"https://{PORTAL}/login/test/callback"
        code = f"code-{len(self.codes)}"
        self.codes[code] = query
        return {"code": code, "state": query["state"], "iss": self.issuer}

    async def _discovery(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                "authorization_response_iss_parameter_supported": True,
            }
            | self.document
        )

    async def _keys(self, _: web.Request) -> web.Response:
        return web.json_response({"keys": [self.key.as_dict(private=False)]})

    async def _token(self, request: web.Request) -> web.Response:
        self.redeemed += 1
        form = await request.post()
        query = self.codes.pop(str(form["code"]), None)
        digest = hashlib.sha256(str(form["code_verifier"]).encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        basic = aiohttp.BasicAuth.decode(request.headers["Authorization"])
        if (
            query is None
            or query["code_challenge"] != challenge
            or (basic.login, basic.password) != ("wwsf", "client secret")
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        now = int(time.time())
        claims = {"iss": self.issuer, "sub": "u-1", "aud": "wwsf", "exp": now + 60, "iat": now, "nonce": query["nonce"]}
        return web.json_response(
            {"access_token": "x", "token_type": "Bearer", "id_token": self.sign(self.claims(claims))}
        )


class Lab:
    """The server, its provider, and a browser that keeps cookies by hand."""

    def __init__(self, place: Path, certificate: Path) -> None:
        self.place = place
        self.certificate = certificate
        self.provider = Provider(certificate)
        self.server: Wwsf | None = None
        self.trust = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        self.http: aiohttp.ClientSession

    async def start(self, **change: Any) -> None:
        if self.server is None:
            await self.provider.start()
        else:
            await self.server.stop()
        guests = RangeConfig("guests", "sip:guest!.*!@ims.example", "guest{}@ims.example", 1, 2)
        provider = ProviderConfig(
            "test",
            "Test",
            self.provider.issuer,
            "wwsf",
            Secret("client secret"),
            "guests",
            self.certificate / "cert.pem",
        )
        config = WwsfConfig(
            portal=PORTAL,
            websocket="wss://ws.ims.example/sip",
            certificate=self.certificate / "cert.pem",
            key=self.certificate / "key.pem",
            turn=TurnConfig(Secret("geheim"), ["turn:turn.ims.example:3478?transport=udp"]),
            port=0,
            identities=IdentitiesConfig(Secret(f"sqlite:///{self.place}/w.db"), None, [guests]),
            tokens=TokensConfig(
                "ep-cscf", self.place / "keys.json", clients=[ClientConfig("ep", Secret("0123456789abcdef"))]
            ),
            providers=[provider],
            metrics=MetricsConfig(port=0),
        )
        self.server = Wwsf(replace(config, **change), None)
        await self.server.start()

    async def ask(
        self, method: str, path: str, session: str | None = None, **arguments: Any
    ) -> tuple[aiohttp.ClientResponse, Any]:
        headers = arguments.pop("headers", ORIGIN if method == "POST" else {})
        if session:
            headers = headers | {"Cookie": f"{COOKIE}={session}"}
        assert self.server is not None
        url = f"https://localhost:{self.server.port}{path}"
        async with self.http.request(method, url, headers=headers, allow_redirects=False, **arguments) as response:
            body = await response.read()
            return response, json.loads(body) if response.content_type == "application/json" else body.decode()

    async def log_in(self, name: str = "alice", password: str = "right") -> str:
        response, body = await self.ask("POST", "/api/login", json={"name": name, "password": password})
        assert response.status == 200, body
        cookie = response.cookies[COOKIE]
        assert (cookie["secure"], cookie["httponly"], cookie["samesite"]) == (True, True, "Lax")
        return cookie.value

    async def introspect(self, token: str, secret: str = "0123456789abcdef") -> tuple[int, Any]:
        auth = aiohttp.BasicAuth("ep", secret)
        response, body = await self.ask("POST", "/oauth/introspect", headers={}, data={"token": token}, auth=auth)
        return response.status, body

    async def begin(self) -> tuple[dict[str, str], str]:
        """Go to the provider: the query of the way back, and the browser's cookie."""
        response, _ = await self.ask("GET", "/login/test")
        assert response.status == 302
        return self.provider.authorize(response.headers["Location"]), response.cookies[BROWSER_COOKIE].value

    async def come_back(self, query: dict[str, str], browser: str | None) -> tuple[aiohttp.ClientResponse, Any]:
        headers = {"Cookie": f"{BROWSER_COOKIE}={browser}"} if browser else {}
        return await self.ask("GET", f"/login/test/callback?{urlencode(query)}", headers=headers)


@pytest.fixture
async def lab(tmp_path: Path, certificate: Path, users: Path) -> AsyncIterator[Lab]:
    shutil.copy(users, tmp_path / "w.db")
    lab = Lab(tmp_path, certificate)
    await lab.start()
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=lab.trust), cookie_jar=aiohttp.DummyCookieJar()
    ) as http:
        lab.http = http
        yield lab
    assert lab.server is not None
    await lab.server.stop()
    await lab.provider.stop()


# ---- password ----------------------------------------------------------------------------------------------------


async def test_password_log_in_gives_identities_and_a_token(lab: Lab) -> None:
    """A-REG2: session, token with the IMS identities, refresh, log-out that ends both."""
    response, body = await lab.ask("GET", "/api/session")
    assert response.status == 401
    assert body["log_in"] == {"password": True, "providers": [{"label": "Test", "href": "/login/test"}]}
    session = await lab.log_in()
    _, body = await lab.ask("GET", "/api/session", session)
    registration = body["sip"].pop("registration")
    assert body == {
        "display": "Alice",
        "sip": {
            "uri": IMPUS[0],
            "impi": "alice@ims.example",
            "display_name": "Alice",
            "websocket": "wss://ws.ims.example/sip",
        },
    }
    assert registration["method"] == "token"
    assert registration["expires_in"] == 300
    _, keys = await lab.ask("GET", "/.well-known/jwks.json")
    claims = jwt.decode(registration["token"], KeySet.import_key_set(keys), algorithms=["ES256"]).claims
    assert (claims["iss"], claims["sub"], claims["impu"]) == (f"https://{PORTAL}", "alice", IMPUS)
    _, fresh = await lab.ask("POST", "/api/token", session)
    assert fresh["token"] != registration["token"]
    assert (await lab.introspect(fresh["token"]))[1]["impi"] == "alice@ims.example"
    user = (await lab.ask("GET", "/api/turn", session))[1]["username"].partition(":")[2]
    assert (await lab.ask("GET", "/api/turn", await lab.log_in()))[1]["username"].partition(":")[2] == user
    assert user != (await lab.ask("GET", "/api/turn", await lab.log_in("dora")))[1]["username"].partition(":")[2]
    assert "alice" not in user
    await lab.ask("POST", "/api/logout", session)
    assert await lab.introspect(fresh["token"]) == (200, {"active": False})
    for method, path in (("GET", "/api/session"), ("POST", "/api/token"), ("GET", "/api/turn")):
        assert (await lab.ask(method, path, session))[0].status == 401


async def test_sip_digest(lab: Lab) -> None:
    """A-REG1: who registers by SIP digest is told so, and gets no token."""
    _, body = await lab.ask("GET", "/api/session", await lab.log_in("dora"))
    assert body["sip"]["registration"] == {"method": "digest", "username": "dora@ims.example"}


async def test_nobody_learns_who_exists(lab: Lab) -> None:
    answers = []
    for name, password in (("alice", "wrong"), ("nobody", "wrong"), ("alice", ""), ("", "x"), ("no name", "x")):
        response, body = await lab.ask("POST", "/api/login", json={"name": name, "password": password})
        answers.append((response.status, json.dumps(body), COOKIE in response.cookies))
    assert set(answers) == {(403, '{"error": "User name or password is wrong."}', False)}


async def test_limits(lab: Lab) -> None:
    """Too many tries for one account, or from one address: 429 with Retry-After, also for the right password."""
    await lab.start(tries_per_account=2, tries_per_address=7)

    async def attempt(name: str, password: str) -> aiohttp.ClientResponse:
        return (await lab.ask("POST", "/api/login", json={"name": name, "password": password}))[0]

    for name in ("alice", "nobody"):
        assert [(await attempt(name, "wrong")).status for _ in range(3)] == [403, 403, 429]
        refused = await attempt(name.upper(), "right")
        assert refused.status == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 300
    for _ in range(3):
        assert (await attempt("dora", "right")).status == 200  # who gets in starts anew
    assert (await attempt("dora", "right")).status == 429  # the seventh try of this address was the last
    metrics = await metrics_of(lab)
    assert 'wwsf_log_ins_total{kind="password",outcome="limited"} 5.0' in metrics


async def test_forged_requests(lab: Lab) -> None:
    """CSRF: another origin, none, a form, or another host's page in an opaque frame: no log-in, no token."""
    session = await lab.log_in()
    right = {"name": "alice", "password": "right"}
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {}, {"Origin": "https://["}):
        for path, token in (("/api/login", None), ("/api/token", session)):
            response, _ = await lab.ask("POST", path, token, headers=headers, json=right)
            assert response.status == 403, (path, headers)
            assert COOKIE not in response.cookies
    response, _ = await lab.ask("POST", "/api/login", data=right)
    assert response.status == 415
    for body in (b"", b"{", b"[]", b'{"name": 1, "password": []}', b"[" * 60000, b"\xff", b'"x"'):
        response, _ = await lab.ask(
            "POST", "/api/login", headers=ORIGIN | {"Content-Type": "application/json"}, data=body
        )
        assert response.status == 400, body[:20]
    response, _ = await lab.ask("POST", "/api/login", json=right | {"password": "x" * 70000})
    assert response.status == 413


async def test_introspection_is_for_clients(lab: Lab) -> None:
    assert (await lab.introspect("x", "wrong secret 1234"))[0] == 401
    assert (await lab.ask("POST", "/oauth/introspect", headers={}, data={"token": "x"}))[0].status == 401
    assert await lab.introspect("x") == (200, {"active": False})
    for header in ("Basic", "Basic !!!", "Bearer x", "Basic ZXA="):
        response, _ = await lab.ask("POST", "/oauth/introspect", headers={"Authorization": header}, data={"token": "x"})
        assert response.status == 401
        assert "Basic" in response.headers["WWW-Authenticate"]


async def test_a_range(lab: Lab) -> None:
    """A-REG3: one identity for a user however often logged in, given back by the last log-out; a full range is told."""
    first, second = await lab.log_in("guest"), await lab.log_in("guest")
    uris = [(await lab.ask("GET", "/api/session", each))[1]["sip"]["uri"] for each in (first, second)]
    assert uris[0] == uris[1]
    assert uris[0] in ("sip:guest0001@ims.example", "sip:guest0002@ims.example")
    assert (await lab.come_back(*await lab.begin()))[0].status == 303  # the other one
    lab.provider.claims = lambda claims: claims | {"sub": "u-2"}
    response, _ = await lab.come_back(*await lab.begin())
    assert response.status == 503
    assert "Retry-After" in response.headers
    assert 'wwsf_range_used{range="guests"} 2.0' in await metrics_of(lab)
    await lab.ask("POST", "/api/logout", first)
    assert (await lab.come_back(*await lab.begin()))[0].status == 503
    await lab.ask("POST", "/api/logout", second)
    assert (await lab.come_back(*await lab.begin()))[0].status == 503  # it rests: the tokens of its holder still count
    with sqlite3.connect(lab.place / "w.db") as kept:
        (until,) = kept.execute("SELECT min(expires) FROM leases").fetchone()
        assert 300 < until - time.time() < 400
        kept.execute("UPDATE leases SET expires = ? WHERE expires = ?", (time.time(), until))
    kept.close()
    assert (await lab.come_back(*await lab.begin()))[0].status == 303


async def test_the_store_fails(lab: Lab) -> None:
    """Locked by another program: 503 with Retry-After, nothing of the inside told; a log-out is not half done."""
    session = await lab.log_in()
    token = (await lab.ask("POST", "/api/token", session))[1]["token"]
    holder = sqlite3.connect(lab.place / "w.db")
    holder.execute("BEGIN IMMEDIATE")
    response, body = await lab.ask("POST", "/api/login", json={"name": "guest", "password": "right"})
    assert response.status == 503
    assert int(response.headers["Retry-After"]) > 0
    assert "sqlite" not in json.dumps(body)
    response, _ = await lab.ask("POST", "/api/logout", session)
    assert response.status == 503
    holder.rollback()
    assert (await lab.introspect(token))[1]["active"] is True
    assert (await lab.ask("POST", "/api/logout", session))[0].status == 200
    assert (await lab.introspect(token))[1] == {"active": False}
    holder.execute("DROP TABLE users")
    holder.commit()
    holder.close()
    response, body = await lab.ask("GET", "/healthz")
    assert (response.status, body) == (503, {"status": "the identity store does not answer"})


async def metrics_of(lab: Lab) -> str:
    assert lab.server is not None
    async with lab.http.get(f"http://127.0.0.1:{lab.server.metrics_port}/metrics") as response:
        assert response.content_type == "text/plain"
        return await response.text()


async def test_metrics_and_health(lab: Lab) -> None:
    """No identity is in the metrics, and users do not reach them."""
    await lab.log_in()
    assert (await lab.ask("GET", "/healthz"))[1] == {"status": "ok"}
    text = await metrics_of(lab)
    assert 'wwsf_log_ins_total{kind="password",outcome="done"} 1.0' in text
    assert "wwsf_sessions 1.0" in text
    assert 'wwsf_requests_total{status="200"}' in text
    assert "alice" not in text
    assert (await lab.ask("GET", "/metrics"))[0].status == 404


async def test_nothing_secret_is_logged(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "network_edge")
    session = await lab.log_in()
    token = (await lab.ask("POST", "/api/token", session))[1]["token"]
    await lab.ask("POST", "/api/login", json={"name": "alice", "password": "right but wrong"})
    assert "logged in" in caplog.text
    for secret in (session, token, "right but wrong", "+15550300", "alice@ims.example"):
        assert secret not in caplog.text


async def test_broken_keys_stop_the_start(lab: Lab) -> None:
    (lab.place / "keys.json").write_text("[]")
    with pytest.raises(WwsfError, match="Remove it"):
        await lab.start()


# ---- OpenID Connect ----------------------------------------------------------------------------------------------


async def test_openid_log_in(lab: Lab) -> None:
    """A-WWSF, A-REG3: at the provider, back, and in: with an identity of the range, and a token."""
    response, _ = await lab.come_back(*await lab.begin())
    assert (response.status, response.headers["Location"]) == (303, "/")
    _, body = await lab.ask("GET", "/api/session", response.cookies[COOKIE].value)
    assert body["sip"]["uri"].startswith("sip:guest000")
    assert body["sip"]["registration"]["method"] == "token"


async def test_a_known_subject_has_its_own_line(lab: Lab) -> None:
    database = Database(Secret(f"sqlite:///{lab.place}/w.db"))
    own = identities("carol@ims.example", ["sip:carol@ims.example"])
    await SqlStore(database).add([(Account("carol", own, issuer=lab.provider.issuer, subject="u-1"), None)])
    await database.close()
    response, _ = await lab.come_back(*await lab.begin())
    _, body = await lab.ask("GET", "/api/session", response.cookies[COOKIE].value)
    assert body["sip"]["uri"] == "sip:carol@ims.example"


async def refused(lab: Lab, query: dict[str, str], browser: str | None, text: str, status: int = 403) -> None:
    response, body = await lab.come_back(query, browser)
    assert (response.status, COOKIE in response.cookies) == (status, False), body
    assert text in body


async def test_state(lab: Lab) -> None:
    """Another browser, no cookie, an unknown state, a second use: refused before the code is redeemed."""
    query, browser = await lab.begin()
    await refused(lab, query | {"state": "x"}, browser, "has ended")
    await refused(lab, query, "another", "another browser")
    await refused(lab, query, browser, "has ended")  # it is used up
    query, browser = await lab.begin()
    await refused(lab, query, None, "another browser")
    assert lab.provider.redeemed == 0
    query, browser = await lab.begin()
    assert (await lab.come_back(query, browser))[0].status == 303
    await refused(lab, query, browser, "has ended")
    assert lab.provider.redeemed == 1


async def test_mix_up(lab: Lab) -> None:
    """RFC 9207: an answer of another provider, or of nobody, is not redeemed here."""
    for iss in ("https://evil.example", None):
        query, browser = await lab.begin()
        changed = {name: value for name, value in (query | {"iss": iss}).items() if value is not None}
        await refused(lab, changed, browser, "RFC 9207")
    assert lab.provider.redeemed == 0


async def test_the_user_stops(lab: Lab) -> None:
    query, browser = await lab.begin()
    denied = {"error": "access_denied", "state": query["state"], "iss": query["iss"], "error_description": "<script>"}
    await refused(lab, denied, browser, "you stopped it")


async def test_a_code_of_another_log_in(lab: Lab) -> None:
    """PKCE: an injected code does not fit this log-in's verifier."""
    stolen, _ = await lab.begin()
    query, browser = await lab.begin()
    await refused(lab, query | {"code": stolen["code"]}, browser, "did not accept")


NOW = time.time()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"aud": "another"}, "somebody else"),
        ({"aud": ["wwsf", "another"]}, "none of them named"),
        ({"azp": "another"}, "used by somebody else"),
        ({"exp": NOW - 3600}, "expired"),
        ({"exp": "never"}, "expired"),
        ({"iat": NOW + 3600}, "of the future"),
        ({"iat": NOW - 3600}, "too old"),
        ({"nbf": NOW + 3600}, "not yet valid"),
        ({"nonce": "another"}, "another log-in"),
        ({"nonce": None}, "another log-in"),
        ({"sub": ""}, "names no user"),
        ({"sub": 7}, "names no user"),
    ],
)
async def test_wrong_id_tokens(lab: Lab, change: dict[str, Any], text: str) -> None:
    """OpenID Connect Core 3.1.3.7, one claim after the other."""
    lab.provider.claims = lambda claims: claims | change
    query, browser = await lab.begin()
    await refused(lab, query, browser, text, 502 if "sub" in change else 403)


async def test_wrong_signatures(lab: Lab) -> None:
    """Another key, the public key as an HMAC secret, no signature at all, no token."""
    stranger = RSAKey.generate_key(2048, {"kid": "p1"}, private=True)
    secret = OctKey.import_key("client secret that is long enough to be a key")

    def unsigned(claims: dict[str, Any]) -> str:
        parts = ({"alg": "none"}, claims)
        return (
            ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."
        )

    signers: list[Callable[[dict[str, Any]], str]] = [
        lambda claims: jwt.encode({"alg": "RS256", "kid": "p1"}, claims, stranger),
        lambda claims: jwt.encode({"alg": "HS256", "kid": "p1"}, claims, secret),
        unsigned,
        lambda claims: "nonsense",
    ]
    for sign in signers:
        lab.provider.sign = sign
        query, browser = await lab.begin()
        await refused(lab, query, browser, "not signed by the provider")


async def test_the_provider_fails(lab: Lab) -> None:
    """Another issuer's document, endpoints without TLS, nobody there: said so, and the server lives on."""
    for document, text in (
        ({"issuer": "https://evil.example"}, "another issuer"),
        ({"token_endpoint": "http://x/"}, "https"),
    ):
        lab.provider.document = document
        response, body = await lab.ask("GET", "/login/test")
        assert response.status == 502
        assert text in body
    await lab.provider.stop()
    response, body = await lab.ask("GET", "/login/test")
    assert (response.status, response.headers["Retry-After"]) == (503, "10")
    assert "does not answer" in body
    assert (await lab.ask("GET", "/login/none"))[0].status == 404
    await lab.log_in()


# ---- limits ------------------------------------------------------------------------------------------------------


def test_rate_limit() -> None:
    now = 0.0
    limit = RateLimit(2, 10, lambda: now)
    for _ in range(2):
        assert limit.wait("a") == 0
        limit.count("a")
    assert limit.wait("a") == 10
    assert limit.wait("b") == 0
    now = 9.5
    assert limit.wait("a") == 1
    now = 10.0
    assert limit.wait("a") == 0


def test_address_keys() -> None:
    """A /64 is one customer; a zone and an IPv4 in IPv6 change nothing."""
    assert address_key("2001:db8::1") == address_key("2001:db8::ffff") == "2001:db8::/64"
    assert address_key("2001:db8:0:1::1") != address_key("2001:db8::1")
    assert address_key("::ffff:192.0.2.1") == address_key("192.0.2.1")
    assert address_key("fe80::1%eth0") == "fe80::/64"
    assert address_key(None) == "unknown"


async def test_many_log_ins_at_once(lab: Lab) -> None:
    """Hashing does not stop the server: it answers others meanwhile."""
    log_ins = [asyncio.ensure_future(lab.log_in()) for _ in range(6)]
    assert (await lab.ask("GET", "/.well-known/jwks.json"))[0].status == 200
    assert not all(each.done() for each in log_ins)
    assert len(set(await asyncio.gather(*log_ins))) == 6
