"""Whether an access token is good, and whose it is (TS 24.371 A.3.2, RFC 7519, RFC 9068, RFC 7662).

Several WWSFs or WAFs may issue tokens.  Each is trusted for the identities that its operator was given, and for no
others: a token of a third party cannot name somebody else's subscriber.  Tokens are never logged.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import ssl
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import aiohttp
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet

from imskit.secrets import Identity, Secret
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.uri import OtherUri, parse_uri
from network_edge.ep_cscf.engine.effects import (
    TokenAccepted,
    TokenClaims,
    TokenError,
    TokenRefused,
    ValidateToken,
)

_log = logging.getLogger(__name__)

MAXIMUM_TOKEN = 8192
LEEWAY_SECONDS = 5.0
"""How far clocks may differ where a token is not good yet."""
CACHE_SECONDS = 300.0
"""How long a key set is used before it is asked for anew."""
REFETCH_SECONDS = 10.0
"""Least time between two fetches: tokens with invented key names must not turn into a flood there."""
_ALGORITHM = "ES256"
_TYPES = frozenset({"at+jwt", "application/at+jwt"})
_MAXIMUM_IDENTITIES = 32
_MAXIMUM_ANSWER = 256 * 1024
REFUSED_SECONDS = 5.0
"""How long a token that the issuer refused counts as refused without being asked about again."""
_MAXIMUM_REFUSED = 10_000
_MAXIMUM_QUESTIONS = 100
"""To one issuer at a time; its connections are as many."""
_TIMEOUT = aiohttp.ClientTimeout(total=5)

type Loader = Callable[[], Awaitable[Mapping[str, Any]]]
"""Returns a JWK set (RFC 7517)."""
type Introspect = Callable[[Secret[str]], Awaitable[Mapping[str, Any]]]
"""Returns what RFC 7662 section 2.2 says of a token."""


class TokenSourceError(Exception):
    """Keys, or an answer about a token, cannot be had now; the text says why and never holds a token."""


class _Bad(Exception):
    """The token is refused."""

    def __init__(self, description: str, error: TokenError = "invalid_token") -> None:
        super().__init__(description)
        self.error: TokenError = error


class Verifier(Protocol):
    """How tokens of one issuer are looked at."""

    async def claims(self, token: Secret[str]) -> Mapping[str, Any] | None:
        """Return the claims of a genuine token, ``None`` for any other; `TokenSourceError` if nobody knows."""

    async def close(self) -> None:
        """Release connections."""


@dataclass(frozen=True)
class TrustedIssuer:
    """Whose tokens are taken, and for whom.

    ``identities`` and ``private_identities`` are patterns for public and private identities, each with at most one
    ``*``: ``sip:*@ims.example``, ``tel:+1555*``, ``*@ims.example``.
    """

    issuer: str
    """``iss`` of its tokens."""
    audience: str
    """``aud`` of its tokens: this edge."""
    web_server_identity: str
    """What the core knows it by: the value of ``authorization-entity``."""
    identities: tuple[str, ...]
    private_identities: tuple[str, ...]
    verifier: Verifier
    scope: str = "ims"
    """Word that the token's scope must have; empty: any."""

    def __post_init__(self) -> None:
        for pattern in (*self.identities, *self.private_identities):
            if pattern.count("*") > 1:
                raise ValueError(f"{pattern}: a pattern has at most one *")
        if not self.identities or not self.private_identities:
            raise ValueError(f"issuer {self.issuer}: say for which identities it may speak")


class TokenValidator:
    """Answers `ValidateToken`.  ``today`` is universal time in seconds."""

    def __init__(self, issuers: Sequence[TrustedIssuer], today: Callable[[], float] = time.time) -> None:
        self._issuers = {issuer.issuer: issuer for issuer in issuers}
        self._today = today

    async def check(self, question: ValidateToken) -> TokenAccepted | TokenRefused:
        """Judge a token; raises nothing."""
        try:
            claims = await self._judge(question.token)
        except _Bad as bad:
            return TokenRefused(question.key, bad.error, str(bad))
        except TokenSourceError as error:
            _log.warning("tokens cannot be validated: %s", error)
            return TokenRefused(question.key, "unavailable", str(error))
        left = claims.expires_at - self._today()
        if left <= 0:
            return TokenRefused(question.key, "invalid_token", "it has expired")
        return TokenAccepted(question.key, claims, left)

    async def close(self) -> None:
        """Release connections."""
        for issuer in self._issuers.values():
            await issuer.verifier.close()

    async def _judge(self, token: Secret[str]) -> TokenClaims:
        text = token.reveal()
        if not 0 < len(text) <= MAXIMUM_TOKEN or not text.isascii():
            raise _Bad("it is no token")
        issuer = self._issuer_of(text)
        ends = _unverified(text).get("exp")
        if _number(ends) and ends <= self._today():
            raise _Bad("it has expired")  # and nobody needs to be asked
        claims = await issuer.verifier.claims(token)
        if claims is None:
            raise _Bad("it is forged, ended or of an unknown key")
        return self._read(issuer, claims)

    def _issuer_of(self, text: str) -> TrustedIssuer:
        """Return whose token it says it is; nothing is believed yet.  An opaque one is the only issuer's."""
        named = _unverified(text).get("iss") if text.count(".") == 2 else None
        if named is None and len(self._issuers) == 1:
            return next(iter(self._issuers.values()))
        issuer = self._issuers.get(named) if isinstance(named, str) else None
        if issuer is None:
            raise _Bad("nobody trusted has issued it")
        return issuer

    def _read(self, issuer: TrustedIssuer, claims: Mapping[str, Any]) -> TokenClaims:
        now = self._today()
        if claims.get("iss") != issuer.issuer:
            raise _Bad("it is of another issuer")
        audience = claims.get("aud")
        if issuer.audience not in (audience if isinstance(audience, list) else [audience]):
            raise _Bad("it is for another audience")
        expires = claims.get("exp")
        if not _number(expires):
            raise _Bad("it does not say when it ends")
        for name in ("nbf", "iat"):
            start = claims.get(name)
            if start is not None and (not _number(start) or start > now + LEEWAY_SECONDS):
                raise _Bad("it is not good yet")
        if expires <= now:
            raise _Bad("it has expired")
        scope = claims.get("scope", "")
        if not isinstance(scope, str):
            raise _Bad("its scope cannot be read")
        if issuer.scope and issuer.scope not in scope.split():
            raise _Bad("it is for something else", "insufficient_scope")
        impi, impus, subject = claims.get("impi"), claims.get("impu"), claims.get("sub", "")
        if not _text(impi) or not isinstance(impus, list) or not isinstance(subject, str):
            raise _Bad("it names no IMS identities")
        if not 0 < len(impus) <= _MAXIMUM_IDENTITIES or not all(_public(impu) for impu in impus):
            raise _Bad("its public identities cannot be used")
        # The WWSF's authority (TS 24.371 clause 6): it speaks for its own users only.
        if not _matches(impi, issuer.private_identities):
            raise _Bad("its issuer may not speak for this private identity")
        if not all(_matches(impu, issuer.identities) for impu in impus):
            raise _Bad("its issuer may not speak for this public identity")
        return TokenClaims(
            impi=Identity(impi),
            impus=tuple(Identity(impu) for impu in impus),
            web_identity=Identity(subject),
            issuer=issuer.issuer,
            web_server_identity=issuer.web_server_identity,
            expires_at=float(expires),
            scope=scope,
        )


class SignedTokens:
    """Looks at the signature (ES256), with the issuer's published keys: from ``load``, kept, asked for in time.

    ``clock`` is monotonic, in seconds.
    """

    def __init__(
        self,
        load: Loader,
        clock: Callable[[], float] = time.monotonic,
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._load = load
        self._clock = clock
        self._close = close
        self._keys: dict[str, ECKey] = {}
        self._fetched = self._tried = float("-inf")
        self._lock = asyncio.Lock()

    async def claims(self, token: Secret[str]) -> Mapping[str, Any] | None:
        """As in `Verifier`."""
        header = _unverified(token.reveal(), 0)
        kid = header.get("kid")
        if header.get("alg") != _ALGORITHM or str(header.get("typ", "")).lower() not in _TYPES or not _text(kid):
            return None
        key = await self._key(kid)
        if key is None:
            return None
        try:
            found = jwt.decode(token.reveal(), key, algorithms=[_ALGORITHM])
        except (JoseError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return found.claims if isinstance(found.claims, dict) else None

    async def close(self) -> None:
        """Release connections."""
        if self._close is not None:
            await self._close()

    async def _key(self, kid: str) -> ECKey | None:
        if self._clock() - self._fetched >= CACHE_SECONDS or kid not in self._keys:
            async with self._lock:
                stale = self._clock() - self._fetched >= CACHE_SECONDS
                if (stale or kid not in self._keys) and self._clock() - self._tried >= REFETCH_SECONDS:
                    await self._fetch(kid)
        if self._fetched == float("-inf"):
            raise TokenSourceError("the issuer's keys could not be had yet")
        return self._keys.get(kid)

    async def _fetch(self, kid: str) -> None:
        self._tried = self._clock()
        try:
            published = await self._load()
            keys = KeySet.import_key_set({"keys": [each for each in published["keys"] if _is_ours(each)]})
        except TokenSourceError:
            if kid not in self._keys:
                raise
            _log.warning("the issuer's keys cannot be had: the known ones are used on")
            return
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise TokenSourceError(f"the issuer's key set cannot be read: {type(error).__name__}") from None
        self._keys = {key.kid: key for key in keys.keys if isinstance(key, ECKey) and key.kid}
        self._fetched = self._clock()


class IntrospectedTokens:
    """Asks the issuer about every token, so that a log-out is heard of at once."""

    def __init__(
        self,
        ask: Introspect,
        close: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._close = close
        self._clock = clock
        self._bad: OrderedDict[bytes, float] = OrderedDict()
        """When the issuer refused a token, by its hash: whoever repeats one is not worth another question."""
        self._questions = 0

    async def claims(self, token: Secret[str]) -> Mapping[str, Any] | None:
        """As in `Verifier`."""
        name = hashlib.sha256(token.reveal().encode()).digest()
        if self._clock() - self._bad.get(name, float("-inf")) < REFUSED_SECONDS:
            return None
        if self._questions >= _MAXIMUM_QUESTIONS:
            raise TokenSourceError("the issuer has too many questions to answer")
        self._questions += 1
        try:
            answer = await self._ask(token)
        finally:
            self._questions -= 1
        if answer.get("active") is True:
            return answer
        self._bad[name] = self._clock()
        self._bad.move_to_end(name)
        while len(self._bad) > _MAXIMUM_REFUSED:
            self._bad.popitem(last=False)
        return None

    async def close(self) -> None:
        """Release connections."""
        if self._close is not None:
            await self._close()


class WebSource:
    """An issuer's server: its key set and its introspection endpoint, over https.

    ``ca`` are the certificates (PEM) that it is checked against, ``None`` for the system's.
    """

    def __init__(self, url: str, ca: Path | None = None, client: tuple[str, Secret[str]] | None = None) -> None:
        """``client`` is who we are at the introspection endpoint: name and secret."""
        if not url.startswith("https://"):
            raise ValueError(f"{url}: must begin with https://")
        self._url = url
        self._ca = ca
        self._client = client
        self._http: aiohttp.ClientSession | None = None

    async def keys(self) -> Mapping[str, Any]:
        """Fetch the JWK set; `TokenSourceError`."""
        return await self._request("GET", None)

    async def introspect(self, token: Secret[str]) -> Mapping[str, Any]:
        """Ask about a token; `TokenSourceError`."""
        return await self._request("POST", {"token": token.reveal(), "token_type_hint": "access_token"})

    async def close(self) -> None:
        """Release connections."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def _request(self, method: str, form: dict[str, str] | None) -> Mapping[str, Any]:
        headers = {"Accept": "application/json"}
        if self._client is not None:
            pair = f"{self._client[0]}:{self._client[1].reveal()}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        try:
            if self._http is None:
                trust = ssl.create_default_context(cafile=str(self._ca) if self._ca else None)
                self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust), timeout=_TIMEOUT)
            async with self._http.request(
                method, self._url, data=form, allow_redirects=False, headers=headers
            ) as response:
                if response.status != 200:
                    raise TokenSourceError(f"{self._url} says {response.status}")
                body = await response.content.read(_MAXIMUM_ANSWER + 1)
                while len(body) <= _MAXIMUM_ANSWER and (more := await response.content.read(_MAXIMUM_ANSWER)):
                    body += more
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TokenSourceError(f"{self._url} cannot be asked: {type(error).__name__}") from None
        if len(body) > _MAXIMUM_ANSWER:
            raise TokenSourceError(f"{self._url}: the answer is longer than {_MAXIMUM_ANSWER} bytes")
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            raise TokenSourceError(f"{self._url}: the answer is no JSON") from None
        if not isinstance(found, dict):
            raise TokenSourceError(f"{self._url}: the answer is no JSON object")
        return found


def file_keys(path: Path) -> Loader:
    """Return what loads a key set from a local file."""

    async def load() -> Mapping[str, Any]:
        try:
            found = json.loads(await asyncio.to_thread(path.read_bytes))
        except OSError as error:
            raise TokenSourceError(f"{path}: {error.strerror}") from None
        except ValueError:
            raise TokenSourceError(f"{path}: is no JSON") from None
        if not isinstance(found, dict):
            raise TokenSourceError(f"{path}: is no key set")
        return found

    return load


def _unverified(text: str, part: int = 1) -> dict[str, Any]:
    """Return what a part of a JWT says, believed by nobody; empty if it cannot be read."""
    pieces = text.split(".")
    if len(pieces) != 3 or len(text) > MAXIMUM_TOKEN:
        return {}
    try:
        piece = pieces[part]
        found = json.loads(base64.urlsafe_b64decode(piece + "=" * (-len(piece) % 4)))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_ours(key: object) -> bool:
    """Whether an entry of a key set is a public key for our algorithm; others are for somebody else."""
    return isinstance(key, dict) and key.get("kty") == "EC" and key.get("crv") == "P-256" and "d" not in key


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53


def _text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable() and " " not in value


def _public(value: object) -> bool:
    """Whether a claim is one usable public identity: SIP or tel URI, no wildcard."""
    if not isinstance(value, str) or not _text(value) or any(bad in value for bad in '!<>"?;,'):
        return False
    try:
        uri = parse_uri(value)
    except SipParseError:
        return False
    return not isinstance(uri, OtherUri)


def _matches(identity: str, patterns: tuple[str, ...]) -> bool:
    for pattern in patterns:
        before, star, after = pattern.partition("*")
        if (
            identity == pattern
            if not star
            else (
                len(identity) >= len(before) + len(after) and identity.startswith(before) and identity.endswith(after)
            )
        ):
            return True
    return False
