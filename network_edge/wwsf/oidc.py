"""Log-in at an OpenID provider: authorization code with PKCE (OpenID Connect Core 1.0, RFC 7636, RFC 9700).

One pending log-in is bound to the browser by a cookie, to the provider, and used once.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import secrets
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from imskit.config.model import setting
from imskit.secrets import Secret

_log = logging.getLogger(__name__)

PENDING_SECONDS = 600.0
MAX_PENDING = 10_000
_TIMEOUT = aiohttp.ClientTimeout(total=8)
_MAX_ANSWER = 256 * 1024
_LEEWAY = 60
_KNOWN_SECONDS = 3600.0
_ALGORITHMS = ["RS256", "PS256", "ES256", "ES384", "EdDSA"]


class OidcError(Exception):
    """The log-in at the provider failed; ``status`` is the HTTP status for the user: 403, 502 or 503."""

    def __init__(self, text: str, status: int = 403) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class ProviderConfig:
    """An OpenID provider."""

    id: str = setting("short name, in this server's URLs; the redirect URI is https://PORTAL/login/ID/callback")
    label: str = setting("what the button says after 'Sign in with'")
    issuer: str = setting("issuer, an https URL; everything else is discovered below it")
    client_id: str = setting("this server's name there")
    client_secret: Secret[str] = setting("this server's secret there")
    range: str = setting("range for users who are not in the database; empty: they are refused", "")
    ca: Path | None = setting("certificates of the provider's authority, PEM; without: the system's", None)

    def __post_init__(self) -> None:
        if not self.id.isascii() or not self.id.replace("-", "").isalnum():
            raise ValueError("id has letters, digits and - only")
        if not _is_https(self.issuer):
            raise ValueError("issuer must be an https URL")


@dataclass(frozen=True)
class _Pending:
    provider: str
    browser: str
    nonce: str
    verifier: Secret[str]
    expires: float


class OidcLogin:
    """Log-ins under way at one provider.  ``clock`` is monotonic, ``today`` universal time, in seconds."""

    def __init__(
        self, config: ProviderConfig, redirect: str, clock: Callable[[], float], today: Callable[[], float] = time.time
    ) -> None:
        self.config = config
        self._redirect = redirect
        self._clock = clock
        self._today = today
        self._pending: OrderedDict[str, _Pending] = OrderedDict()
        self._http: aiohttp.ClientSession | None = None
        self._known: tuple[Mapping[str, Any], float] | None = None
        self._keys: KeySet | None = None
        self._keys_at = float("-inf")
        self._lock = asyncio.Lock()

    async def start(self, browser: str) -> str:
        """Return where to send the browser; ``browser`` is the secret in its cookie.  ``OidcError``."""
        endpoint = (await self._discovered())["authorization_endpoint"]
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        now = self._clock()
        while self._pending and (
            len(self._pending) >= MAX_PENDING or next(iter(self._pending.values())).expires <= now
        ):
            self._pending.popitem(last=False)
        self._pending[state] = _Pending(self.config.id, browser, nonce, Secret(verifier), now + PENDING_SECONDS)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        query = {
            "response_type": "code",
            "client_id": self.config.client_id,
            "redirect_uri": self._redirect,
            "scope": "openid",
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(query)}"

    async def finish(self, query: Mapping[str, str], browser: str) -> str:
        """Judge what the browser has brought back; return the user's ``sub`` there.  ``OidcError``."""
        pending = self._pending.pop(query.get("state", ""), None)
        if pending is None or pending.expires <= self._clock():
            raise OidcError("this log-in has ended or was used already; start again")
        if not browser or not hmac.compare_digest(pending.browser.encode(), browser.encode()):
            raise OidcError("this log-in was started in another browser; start again")
        known = await self._discovered()
        issuer = query.get("iss")
        # RFC 9207: an answer of another provider, mixed up by an attacker, is not sent on to this one.
        if issuer is None and known.get("authorization_response_iss_parameter_supported") is True:
            raise OidcError("the answer does not say which provider it is of (RFC 9207)")
        if issuer is not None and issuer != self.config.issuer:
            raise OidcError("the answer is of another provider (RFC 9207)")
        if "error" in query:
            raise OidcError("the provider refused the log-in, or you stopped it there")
        code = query.get("code", "")
        if not 0 < len(code) <= 4096:
            raise OidcError("the provider sent no code")
        token = await self._redeem(known["token_endpoint"], code, pending.verifier)
        return await self._subject(known, token, pending.nonce)

    async def close(self) -> None:
        """Release connections."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def _discovered(self) -> Mapping[str, Any]:
        async with self._lock:
            if self._known is not None and self._known[1] > self._clock():
                return self._known[0]
            found = await self._ask("GET", f"{self.config.issuer.rstrip('/')}/.well-known/openid-configuration")
            if found.get("issuer") != self.config.issuer:
                raise OidcError("the provider's discovery document is of another issuer", 502)
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                if not isinstance(found.get(name), str) or not _is_https(found[name]):
                    raise OidcError(f"the provider's {name} is no https URL", 502)
            self._known = (found, self._clock() + _KNOWN_SECONDS)
            return found

    async def _redeem(self, endpoint: str, code: str, verifier: Secret[str]) -> str:
        body = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect,
            "code_verifier": verifier.reveal(),
        }
        auth = aiohttp.BasicAuth(self.config.client_id, self.config.client_secret.reveal())
        answer = await self._ask("POST", endpoint, data=body, auth=auth)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise OidcError("the provider sent no ID token", 502)
        return token

    async def _subject(self, known: Mapping[str, Any], token: str, nonce: str) -> str:
        """Validate an ID token (OpenID Connect Core 3.1.3.7)."""
        claims = None
        for again in (False, True):
            try:
                keys = await self._key_set(known["jwks_uri"], fresh=again)
                claims = jwt.decode(token, keys, algorithms=_ALGORITHMS).claims
                break
            except (JoseError, ValueError, KeyError, TypeError):
                continue  # the provider may have new keys
        if claims is None:
            raise OidcError("the provider's ID token is not signed by the provider")
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        now = self._today()
        problems = {
            "of another issuer": claims.get("iss") != self.config.issuer,
            "for somebody else": self.config.client_id not in audiences,
            "for several, none of them named": len(audiences) > 1 and "azp" not in claims,
            "used by somebody else": claims.get("azp", self.config.client_id) != self.config.client_id,
            "expired": not _number(claims.get("exp")) or claims["exp"] <= now - _LEEWAY,
            "of the future": not _number(claims.get("iat")) or claims["iat"] > now + _LEEWAY,
            "too old": _number(claims.get("iat")) and claims["iat"] < now - PENDING_SECONDS,
            "not yet valid": "nbf" in claims and (not _number(claims["nbf"]) or claims["nbf"] > now + _LEEWAY),
            "of another log-in": not isinstance(claims.get("nonce"), str)
            or not hmac.compare_digest(claims["nonce"].encode(), nonce.encode()),
        }
        for problem, found in problems.items():
            if found:
                _log.warning("ID token of %s refused: %s", self.config.id, problem)
                raise OidcError(f"the provider's ID token is {problem}")
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= 255 or not subject.isprintable():
            raise OidcError("the provider's ID token names no user", 502)
        return subject

    async def _key_set(self, uri: str, *, fresh: bool) -> KeySet:
        # At most one fetch for unknown keys a minute: a forged token must not make a flood of them.
        stale = self._keys_at + (60 if fresh else _KNOWN_SECONDS) <= self._clock()
        if self._keys is None or stale:
            answer = await self._ask("GET", uri)
            usable = [key for key in answer.get("keys", []) if isinstance(key, dict) and key.get("kty") != "oct"]
            self._keys = KeySet.import_key_set({"keys": usable})
            self._keys_at = self._clock()
        return self._keys

    async def _ask(self, method: str, url: str, **arguments: Any) -> Mapping[str, Any]:
        if self._http is None:
            trust = ssl.create_default_context(cafile=str(self.config.ca) if self.config.ca else None)
            self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust), timeout=_TIMEOUT)
        try:
            async with self._http.request(method, url, allow_redirects=False, **arguments) as response:
                if 400 <= response.status < 500 and method == "POST":
                    raise OidcError("the provider did not accept its own code")
                if response.status != 200:
                    raise OidcError(f"the provider answered {response.status}", 503)
                body = await response.content.read(_MAX_ANSWER + 1)
                while len(body) <= _MAX_ANSWER and (more := await response.content.read(_MAX_ANSWER)):
                    body += more
                if len(body) > _MAX_ANSWER:
                    raise OidcError("the provider's answer is too long", 502)
                answer = json.loads(body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise OidcError(f"the provider does not answer ({type(error).__name__})", 503) from error
        except ValueError as error:
            raise OidcError("the provider answered with something that is no JSON", 502) from error
        if not isinstance(answer, dict):
            raise OidcError("the provider answered with something that is no object", 502)
        return answer


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_https(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" and bool(parts.hostname) and not parts.fragment and parts.username is None
