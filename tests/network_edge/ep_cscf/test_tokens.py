"""Access tokens: forged, expired, for somebody else, of issuers without authority [A-REG2, A-REG3]."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey

from imskit.secrets import Secret
from network_edge.ep_cscf.engine.effects import TokenAccepted, TokenRefused, ValidateToken
from network_edge.ep_cscf.tokens import (
    CACHE_SECONDS,
    REFETCH_SECONDS,
    REFUSED_SECONDS,
    IntrospectedTokens,
    SignedTokens,
    TokenSourceError,
    TokenValidator,
    TrustedIssuer,
    Verifier,
    WebSource,
    file_keys,
)
from simulators.lab.certificates import Authority

NOW = 1_800_000_000.0
ISSUER = "https://portal.example"
GOOD: dict[str, Any] = {
    "iss": ISSUER,
    "sub": "alice",
    "aud": "ep-cscf.example",
    "iat": int(NOW) - 10,
    "exp": int(NOW) + 300,
    "jti": "1",
    "scope": "ims other",
    "impi": "alice@ims.example",
    "impu": ["sip:+15550300@ims.example", "tel:+15550300"],
}


def new_key() -> ECKey:
    key = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, private=True)
    return ECKey.import_key({**key.as_dict(private=True), "kid": key.thumbprint()})


KEY = new_key()
OTHER = new_key()


def token(
    claims: Mapping[str, Any] | None = None, key: ECKey = KEY, header: Mapping[str, Any] | None = None, **changes: Any
) -> Secret[str]:
    found = {**(GOOD if claims is None else claims), **changes}
    found = {name: value for name, value in found.items() if value is not None}
    head = {"alg": "ES256", "typ": "at+jwt", "kid": key.kid} | dict(header or {})
    return Secret(jwt.encode(head, found, key, algorithms=["ES256"]))


def published(*keys: ECKey) -> dict[str, Any]:
    return {"keys": [dict(key.as_dict(private=False)) for key in keys]}


def issuer(verifier: Verifier, name: str = ISSUER, **changes: Any) -> TrustedIssuer:
    usual: dict[str, Any] = {
        "audience": "ep-cscf.example",
        "web_server_identity": "wwsf.ims.example",
        "identities": ("sip:*@ims.example", "tel:+1555*"),
        "private_identities": ("*@ims.example",),
    }
    return TrustedIssuer(name, verifier=verifier, **(usual | changes))


class Source:
    """Publishes keys; counts how often it is asked."""

    def __init__(self, *keys: ECKey) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.down = False

    async def load(self) -> Mapping[str, Any]:
        self.asked += 1
        if self.down:
            raise TokenSourceError("down")
        return published(*self.keys)


def validator(source: Source | None = None, **changes: Any) -> TokenValidator:
    known = source or Source(KEY)
    return TokenValidator([issuer(SignedTokens(known.load), **changes)], lambda: NOW)


async def check(subject: TokenValidator, text: Secret[str]) -> TokenAccepted | TokenRefused:
    answer = await subject.check(ValidateToken("key", text))
    assert answer.key == "key"
    return answer


async def test_a_good_token() -> None:
    """A-REG2: whose it is, until when, and what the core knows its issuer by."""
    answer = await check(validator(), token())
    assert isinstance(answer, TokenAccepted)
    claims = answer.claims
    assert (str(claims.impi), [str(impu) for impu in claims.impus]) == (GOOD["impi"], GOOD["impu"])
    assert claims.web_server_identity == "wwsf.ims.example"
    assert (answer.seconds_left, claims.expires_at) == (300.0, NOW + 300)
    assert "alice" not in repr(answer.claims)


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": int(NOW)},
        {"exp": int(NOW) - 1000},
        {"exp": None},
        {"exp": "never"},
        {"exp": True},
        {"nbf": int(NOW) + 60},
        {"iat": int(NOW) + 60},
        {"iss": "https://evil.example"},
        {"aud": "somebody else"},
        {"aud": ["a", "b"]},
        {"aud": None},
        {"impi": None},
        {"impi": "a b"},
        {"impu": []},
        {"impu": None},
        {"impu": "sip:+15550300@ims.example"},
        {"impu": ["sip:+15550300@ims.example", 5]},
        {"impu": ["mailto:a@ims.example"]},
        {"impu": ["sip:x!.*!@ims.example"]},
        {"impu": ["sip:a@ims.example>\r\nX: <sip:@ims.example"]},
        {"impu": [f"sip:{n}@ims.example" for n in range(100)]},
        {"scope": 7},
    ],
)
async def test_claims_that_do_not_do(changes: dict[str, Any]) -> None:
    answer = await check(validator(), token(**changes))
    assert isinstance(answer, TokenRefused) and answer.error == "invalid_token"


async def test_clocks_that_differ_a_little() -> None:
    assert isinstance(await check(validator(), token(iat=int(NOW) + 3, nbf=int(NOW) + 3)), TokenAccepted)


async def test_the_scope() -> None:
    answer = await check(validator(), token(scope="mail"))
    assert isinstance(answer, TokenRefused) and answer.error == "insufficient_scope"
    assert isinstance(await check(validator(scope=""), token(scope=None)), TokenAccepted)


@pytest.mark.parametrize(
    "changes",
    [
        {"impi": "alice@other.example"},
        {"impu": ["sip:+15550300@other.example"]},
        {"impu": ["sip:+15550300@ims.example", "tel:+4930123"]},
        {"impu": ["sip:+15550300@ims.example.evil.example"]},
    ],
)
async def test_an_issuer_speaks_for_its_own_users_only(changes: dict[str, Any]) -> None:
    """A-REG3: the authority of a third party's WWSF ends at its range."""
    answer = await check(validator(), token(**changes))
    assert isinstance(answer, TokenRefused) and "may not speak" in answer.description


async def test_two_issuers_stay_apart() -> None:
    """A key of one does not sign for the other."""
    ours = issuer(SignedTokens(Source(KEY).load))
    theirs = issuer(SignedTokens(Source(OTHER).load), "https://third.example", identities=("sip:+1666*@ims.example",))
    both = TokenValidator([ours, theirs], lambda: NOW)
    assert isinstance(await check(both, token()), TokenAccepted)
    pool = {"iss": "https://third.example", "impu": ["sip:+16660001@ims.example"]}
    assert isinstance(await check(both, token(key=OTHER, **pool)), TokenAccepted)
    for forged in (token(key=OTHER), token(**pool), token(key=OTHER, iss="https://third.example")):
        assert isinstance(await check(both, forged), TokenRefused)


def forgeries() -> list[str]:
    good = token().reveal()
    head, body, signature = good.split(".")
    none = base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "at+jwt", "kid": KEY.kid}).encode()).decode()
    evil = base64.urlsafe_b64encode(json.dumps({**GOOD, "impi": "bob@ims.example"}).encode()).decode().rstrip("=")
    public = json.dumps(dict(KEY.as_dict(private=False))).encode()
    confused = jwt.encode(
        {"alg": "HS256", "typ": "at+jwt", "kid": KEY.kid}, GOOD, OctKey.import_key(public), algorithms=["HS256"]
    )
    return [
        f"{head}.{evil}.{signature}",
        f"{head}.{body}.",
        f"{head}.{body}.{signature[:-4]}AAAA",
        f"{none.rstrip('=')}.{body}.",
        confused,
        token(key=OTHER).reveal(),
        token(key=OTHER, header={"kid": KEY.kid}).reveal(),
        token(header={"typ": "JWT"}).reveal(),
        token(header={"kid": ""}).reveal(),
        good + ".x",
        "x" * 9000,
        "ümlaut.a.b",
        "",
        "..",
    ]


FORGERIES = forgeries()


@pytest.mark.parametrize("number", range(len(FORGERIES)))
async def test_forgeries(number: int, caplog: pytest.LogCaptureFixture) -> None:
    """A-REG2: other key, no signature, public key as secret, ID token, changed claims; nothing of them is logged."""
    caplog.set_level(logging.DEBUG)
    text = FORGERIES[number]
    answer = await check(validator(), Secret(text))
    assert isinstance(answer, TokenRefused) and answer.error == "invalid_token"
    assert len(text) < 4 or text not in caplog.text + answer.description


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=300))
async def test_anything_is_refused(text: str) -> None:
    assert isinstance(await check(validator(), Secret(text)), TokenRefused)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from([*GOOD, "nbf"]), st.recursive(st.none() | st.integers() | st.text(), st.lists)))
async def test_any_claims(claims: dict[str, Any]) -> None:
    """Signed by the issuer and still nonsense."""
    assert (await check(validator(), token({**GOOD, **claims}))).key == "key"


# ---- keys ----------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_rotation_is_followed_and_nobody_can_make_us_ask_all_the_time() -> None:
    source, clock = Source(KEY), Clock()
    verifier = SignedTokens(source.load, clock)
    subject = TokenValidator([issuer(verifier)], lambda: NOW)
    assert isinstance(await check(subject, token()), TokenAccepted)
    source.keys = [KEY, OTHER]
    for _ in range(50):
        assert isinstance(await check(subject, token(key=OTHER)), TokenRefused)
    assert source.asked == 1
    clock.now += REFETCH_SECONDS
    assert isinstance(await check(subject, token(key=OTHER)), TokenAccepted)
    assert source.asked == 2
    # What is no longer published is no longer good.
    source.keys = [OTHER]
    clock.now += CACHE_SECONDS
    assert isinstance(await check(subject, token()), TokenRefused)


async def test_the_issuer_is_down() -> None:
    """The known keys are used on; without any, nobody knows."""
    source, clock = Source(KEY), Clock()
    subject = TokenValidator([issuer(SignedTokens(source.load, clock))], lambda: NOW)
    source.down = True
    for _ in range(2):
        answer = await check(subject, token())
        assert isinstance(answer, TokenRefused) and answer.error == "unavailable"
    source.down = False
    clock.now += REFETCH_SECONDS
    assert isinstance(await check(subject, token()), TokenAccepted)
    source.down = True
    clock.now += CACHE_SECONDS
    assert isinstance(await check(subject, token()), TokenAccepted)


async def test_keys_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    subject = TokenValidator([issuer(SignedTokens(file_keys(path), lambda: 0.0))], lambda: NOW)
    missing = await check(subject, token())
    assert isinstance(missing, TokenRefused) and missing.error == "unavailable"
    rsa = {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "r"}
    path.write_text(json.dumps({"keys": [rsa, *published(KEY)["keys"]]}))
    subject = TokenValidator([issuer(SignedTokens(file_keys(path), lambda: 0.0))], lambda: NOW)
    assert isinstance(await check(subject, token()), TokenAccepted)


@pytest.mark.parametrize("content", ["[]", "{}", '{"keys": 5}', "no json", '{"keys": [{"kty": "EC", "crv": "P-256"}]}'])
async def test_a_key_set_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(content)
    answer = await check(TokenValidator([issuer(SignedTokens(file_keys(path)))], lambda: NOW), token())
    assert isinstance(answer, TokenRefused) and answer.error == "unavailable"


# ---- over https ----------------------------------------------------------------------------------------------


class Portal:
    """An issuer's server."""

    def __init__(self) -> None:
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] = self._introspect
        self.ended = False
        self.url = ""

    async def introspect(self, request: web.Request) -> web.StreamResponse:
        return await self.answer(request)

    async def _introspect(self, request: web.Request) -> web.StreamResponse:
        if request.headers["Authorization"] != f"Basic {base64.b64encode(b'edge:sixteen-letters-').decode()}":
            return web.Response(status=401)
        form = await request.post()
        active = not self.ended and form["token"] == "opaque"
        return web.json_response({"active": True, **GOOD} if active else {"active": False})


@pytest.fixture
async def portal(tmp_path: Path) -> AsyncIterator[Portal]:
    authority = Authority.create("portal's authority", tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.server("localhost"))
    portal = Portal()
    app = web.Application()
    app.router.add_get("/jwks", _keys)
    app.router.add_post("/introspect", portal.introspect)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "localhost", 0, ssl_context=context)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    portal.url = f"https://localhost:{port}"
    yield portal
    await runner.cleanup()


async def _keys(_request: web.Request) -> web.StreamResponse:
    return web.json_response(published(KEY))


async def test_keys_over_https(portal: Portal, tmp_path: Path) -> None:
    source = WebSource(f"{portal.url}/jwks", tmp_path / "root.pem")
    subject = TokenValidator([issuer(SignedTokens(source.keys, close=source.close))], lambda: NOW)
    assert isinstance(await check(subject, token()), TokenAccepted)
    await subject.close()
    # A server that our authority does not know is not asked.
    stranger = WebSource(f"{portal.url}/jwks")
    subject = TokenValidator([issuer(SignedTokens(stranger.keys, close=stranger.close))], lambda: NOW)
    answer = await check(subject, token())
    assert isinstance(answer, TokenRefused) and answer.error == "unavailable"
    await subject.close()


async def test_introspection(portal: Portal, tmp_path: Path) -> None:
    """RFC 7662: an opaque token, and a log-out that is heard of at once."""
    source = WebSource(f"{portal.url}/introspect", tmp_path / "root.pem", ("edge", Secret("sixteen-letters-")))
    subject = TokenValidator([issuer(IntrospectedTokens(source.introspect, source.close))], lambda: NOW)
    assert isinstance(await check(subject, Secret("opaque")), TokenAccepted)
    assert isinstance(await check(subject, Secret("other")), TokenRefused)
    portal.ended = True
    answer = await check(subject, Secret("opaque"))
    assert isinstance(answer, TokenRefused) and answer.error == "invalid_token"
    await subject.close()


@pytest.mark.parametrize("how", ["401", "500", "long", "no json", "list"])
async def test_an_introspection_that_goes_wrong(portal: Portal, tmp_path: Path, how: str) -> None:
    async def wrong(_request: web.Request) -> web.StreamResponse:
        if how.isdigit():
            return web.Response(status=int(how))
        return web.Response(body={"long": b" " * 300_000, "no json": b"{", "list": b"[]"}[how])

    portal.answer = wrong
    source = WebSource(f"{portal.url}/introspect", tmp_path / "root.pem", ("edge", Secret("sixteen-letters-")))
    subject = TokenValidator([issuer(IntrospectedTokens(source.introspect, source.close))], lambda: NOW)
    answer = await check(subject, Secret("opaque"))
    assert isinstance(answer, TokenRefused) and answer.error == "unavailable"
    await subject.close()


async def test_a_refused_token_is_not_asked_about_again_at_once() -> None:
    """Whoever invents tokens keeps nobody busy but himself [A-REG2]."""
    asked: list[str] = []
    now = 0.0

    async def ask(token: Secret[str]) -> dict[str, Any]:
        asked.append(token.reveal())
        return {"active": False}

    subject = IntrospectedTokens(ask, clock=lambda: now)
    for _ in range(10):
        assert await subject.claims(Secret("forged")) is None
    assert asked == ["forged"]
    now = REFUSED_SECONDS
    assert await subject.claims(Secret("forged")) is None
    assert asked == ["forged", "forged"]


async def test_questions_at_a_time_are_bounded() -> None:
    gate = asyncio.Event()

    async def ask(token: Secret[str]) -> dict[str, Any]:
        await gate.wait()
        return {"active": False}

    subject = IntrospectedTokens(ask)
    waiting = [asyncio.ensure_future(subject.claims(Secret(f"t{number}"))) for number in range(100)]
    await asyncio.sleep(0)
    with pytest.raises(TokenSourceError, match="too many questions"):
        await subject.claims(Secret("one more"))
    gate.set()
    assert await asyncio.gather(*waiting) == [None] * 100


async def test_an_expired_token_asks_nobody() -> None:
    async def ask(token: Secret[str]) -> dict[str, Any]:
        raise AssertionError("asked")

    payload = base64.urlsafe_b64encode(json.dumps({"iss": ISSUER, "exp": NOW - 1}).encode()).decode().rstrip("=")
    subject = TokenValidator([issuer(IntrospectedTokens(ask))], lambda: NOW)
    answer = await check(subject, Secret(f"e30.{payload}.x"))
    assert isinstance(answer, TokenRefused)
    assert answer.error == "invalid_token"


def test_only_https_and_only_with_authority() -> None:
    with pytest.raises(ValueError, match="https"):
        WebSource("http://portal.example/jwks")
    with pytest.raises(ValueError, match="at most one"):
        issuer(SignedTokens(Source(KEY).load), identities=("*@*",))
    with pytest.raises(ValueError, match="which identities"):
        issuer(SignedTokens(Source(KEY).load), identities=())
