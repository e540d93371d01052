"""Issues tokens, says whether one is good, ends those of a log-in."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from joserfc import jwt
from joserfc.errors import JoseError

from imskit.secrets import Identity, Secret
from network_edge.wwsf.identities.database import Database, revocations
from network_edge.wwsf.tokens.config import TokensConfig
from network_edge.wwsf.tokens.keys import KeyRing

MAX_TOKEN = 8192
_ALGORITHM = "ES256"
_TYPE = "at+jwt"


@dataclass(frozen=True)
class Token:
    """A signed token and how long it is good, in seconds."""

    text: Secret[str]
    seconds: int


class Issuer:
    """Tokens of one server.  Ended log-ins are kept in the database, so that a restart does not revive them."""

    def __init__(
        self, config: TokensConfig, name: str, keys: KeyRing, database: Database, today: Callable[[], float]
    ) -> None:
        """``name`` is the ``iss`` of the tokens; ``today`` universal time in seconds."""
        self.name = name
        self._config = config
        self._keys = keys
        self._database = database
        self._today = today

    def issue(
        self, subject: str, sid: str, impi: Identity, impus: Sequence[Identity], until: float | None = None
    ) -> Token:
        """Return a token of log-in ``sid``, good until ``until`` (universal time) at the latest."""
        now = int(self._today())
        expires = now + self._config.seconds
        if until is not None:
            expires = min(expires, int(until))
        key = self._keys.signing()
        claims = {
            "iss": self.name,
            "sub": subject,
            "aud": self._config.audience,
            "iat": now,
            "exp": expires,
            "jti": secrets.token_urlsafe(16),
            "sid": sid,
            "scope": self._config.scope,
            "impi": str.__str__(impi),
            "impu": [str.__str__(impu) for impu in impus],
        }
        header = {"alg": _ALGORITHM, "typ": _TYPE, "kid": key.kid}
        return Token(Secret(jwt.encode(header, claims, key, algorithms=[_ALGORITHM])), expires - now)

    async def introspect(self, token: str) -> Mapping[str, Any]:
        """Return the claims with ``active``, or only that it is not (RFC 7662 section 2.2).

        ``StoreUnavailableError`` if nobody can know whether the log-in has ended.
        """
        claims = self._verified(token)
        if claims is None:
            return {"active": False}
        async with self._database.transaction() as connection:
            ended = await connection.execute(sa.select(revocations.c.sid).where(revocations.c.sid == claims["sid"]))
            if ended.first() is not None:
                return {"active": False}
        return {"active": True, "token_type": "Bearer", **claims}

    async def revoke(self, sid: str) -> None:
        """End all tokens of a log-in; ``StoreUnavailableError`` if that cannot be kept."""
        now = self._today()
        async with self._database.transaction() as connection:
            await connection.execute(sa.delete(revocations).where(revocations.c.expires <= now))
            known = await connection.execute(sa.select(revocations.c.sid).where(revocations.c.sid == sid))
            if known.first() is None:
                until = now + self._config.seconds + 60
                await connection.execute(sa.insert(revocations).values(sid=sid, expires=until))

    def published(self) -> dict[str, Any]:
        """Return the public keys as a JWK set."""
        return self._keys.published()

    def _verified(self, token: str) -> dict[str, Any] | None:
        if not 0 < len(token) <= MAX_TOKEN or not token.isascii():
            return None
        try:
            found = jwt.decode(token, self._keys.verifying(), algorithms=[_ALGORITHM])
        except (JoseError, ValueError, KeyError, TypeError):
            return None
        claims = found.claims
        good = (
            found.header.get("typ") == _TYPE
            and claims.get("iss") == self.name
            and claims.get("aud") == self._config.audience
            and isinstance(claims.get("sid"), str)
            and isinstance(claims.get("exp"), int)
            and claims["exp"] > self._today()
        )
        return dict(claims) if good else None
