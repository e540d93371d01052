"""Log-in of the web: by password or at an OpenID provider; the identities and the token that go with it."""

from __future__ import annotations

import base64
import hmac
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from imskit.secrets import Secret
from network_edge.wwsf.identities.database import Database
from network_edge.wwsf.identities.ldap import LdapStore
from network_edge.wwsf.identities.leases import Leases
from network_edge.wwsf.identities.model import Account, IdentityStore, StoreError, normal_name
from network_edge.wwsf.identities.sql import SqlStore
from network_edge.wwsf.limits import RateLimit, address_key
from network_edge.wwsf.metrics import Metrics
from network_edge.wwsf.oidc import OidcError, OidcLogin
from network_edge.wwsf.sessions import Session, SessionStore
from network_edge.wwsf.tokens.issuer import MAX_TOKEN, Issuer
from network_edge.wwsf.tokens.keys import CACHE_SECONDS, KeyRing

if TYPE_CHECKING:
    from network_edge.wwsf.config import WwsfConfig

_log = logging.getLogger(__name__)

BROWSER_COOKIE = "__Host-sign-in"
"""Binds a log-in at a provider to the browser that began it."""
_TRY_AGAIN = {"Retry-After": "10"}
_TOKEN_LEEWAY = 60.0
"""How long after its end a signalling element whose clock is behind may still believe a token, seconds."""
_WRONG = "User name or password is wrong."

type Opened = tuple[str, int]
"""A session's token and its seconds."""


class LogInError(Exception):
    """Answer ``status`` and tell the user the text; ``wait`` in seconds goes to ``Retry-After``."""

    def __init__(self, status: int, text: str, wait: int = 0) -> None:
        super().__init__(text)
        self.status = status
        self.wait = wait


@dataclass(frozen=True)
class _Limits:
    account: RateLimit
    address: RateLimit


class WebLogin:
    """Accounts, their sessions and tokens.  ``open()``-like methods raise ``LogInError``."""

    def __init__(
        self,
        config: WwsfConfig,
        sessions: SessionStore,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], float] = time.time,
        store: IdentityStore | None = None,
    ) -> None:
        """``KeyFileError`` if the signing keys cannot be used; ``store`` is the configured one unless given."""
        if config.identities is None or config.tokens is None:
            raise ValueError("the log-in without a SIM card needs [identities] and [tokens]")
        self._sessions = sessions
        self._metrics = metrics
        self._today = today
        self._lifetime = config.session_hours * 3600
        self._database = Database(config.identities.database)
        ldap = config.identities.ldap
        # Users of a provider are looked up in the database in any case.
        self._local = SqlStore(self._database)
        self._store: IdentityStore = store or (LdapStore(ldap) if ldap is not None else self._local)
        tokens = config.tokens
        self._leases = Leases(self._database, config.identities.ranges, today, tokens.seconds + _TOKEN_LEEWAY)
        keys = KeyRing(tokens.keys, tokens.rotate_hours * 3600, tokens.seconds, today)
        self._issuer = Issuer(tokens, tokens.issuer or config.origin, keys, self._database, today)
        self._clients = {client.id: client.secret for client in tokens.clients}
        self._limits = _Limits(
            RateLimit(config.tries_per_account, 300, clock), RateLimit(config.tries_per_address, 300, clock)
        )
        self._providers = {
            provider.id: OidcLogin(provider, f"{config.origin}/login/{provider.id}/callback", clock, today)
            for provider in config.providers
        }

    @property
    def issuer(self) -> Issuer:
        """Who issues the tokens: for a signalling element in the same process."""
        return self._issuer

    @property
    def offered(self) -> dict[str, object]:
        """What the page offers somebody who is not logged in."""
        providers = [
            {"label": provider.config.label, "href": f"/login/{name}"} for name, provider in self._providers.items()
        ]
        return {"password": True, "providers": providers}

    async def by_password(self, name: str, password: Secret[str], address: str | None) -> Opened:
        """Log in with a password.  What is wrong of the two is not said, nor is it seen by time."""
        try:
            account_key = normal_name(name)
        except ValueError:
            account_key = ""  # no name at all: all of them share one limit
        address_name = address_key(address)
        wait = max(self._limits.account.wait(account_key), self._limits.address.wait(address_name))
        if wait:
            self._metrics.log_ins.labels("password", "limited").inc()
            raise LogInError(429, f"Too many tries. Wait {wait} seconds.", wait)
        # Counted before the password is looked at: tries at once count as well.
        self._limits.account.count(account_key)
        self._limits.address.count(address_name)
        try:
            account = await self._store.log_in(name, password)
        except StoreError as error:
            raise self._unavailable("password", error) from error
        if account is None:
            _log.warning("a wrong password or user name from %s", address_name)
            self._metrics.log_ins.labels("password", "wrong").inc()
            raise LogInError(403, _WRONG)
        self._limits.account.forget(account_key)
        return await self._open(account, "password")

    async def start(self, provider: str, browser: str, address: str | None) -> str:
        """Return where to send the browser for a log-in at a provider."""
        found = self._provider(provider)
        key = address_key(address)
        if wait := self._limits.address.wait(key):
            raise LogInError(429, f"Too many tries. Wait {wait} seconds.", wait)
        self._limits.address.count(key)
        try:
            return await found.start(browser)
        except OidcError as error:
            raise self._failed(error) from error

    async def finish(self, provider: str, query: dict[str, str], browser: str) -> Opened:
        """Judge what the browser has brought back from a provider."""
        found = self._provider(provider)
        try:
            subject = await found.finish(query, browser)
        except OidcError as error:
            raise self._failed(error) from error
        try:
            account = await self._local.by_subject(found.config.issuer, subject)
        except StoreError as error:
            raise self._unavailable("openid", error) from error
        if account is None:
            if not found.config.range:
                self._metrics.log_ins.labels("openid", "unknown").inc()
                raise LogInError(403, "You are known there, but have no line here. Ask the operator.")
            # A web identity is the provider's name for the user together with the provider (OpenID Connect Core 2).
            name = f"{found.config.id}|{subject}"
            account = Account(name, None, found.config.range, "token", found.config.issuer, subject)
        return await self._open(account, "openid")

    def registration(self, session: Session) -> dict[str, object]:
        """Return how the page registers."""
        if session.registration == "digest":
            return {"method": "digest", "username": str.__str__(session.impi)}
        if session.registration != "token":
            return {"method": session.registration}
        remaining = self._sessions.remaining(session)
        token = self._issuer.issue(session.subject, session.sid, session.impi, session.impus, self._today() + remaining)
        self._metrics.tokens.inc()
        return {"method": "token", "token": token.text.reveal(), "expires_in": token.seconds}

    async def log_out(self, session: Session) -> None:
        """End the tokens of a session, give an identity of a range back; before the session itself is ended."""
        try:
            await self._issuer.revoke(session.sid)
            if session.range and not self._sessions.has_other(session):
                await self._leases.release(session.range, session.subject)
        except StoreError as error:
            raise LogInError(503, f"The log-out cannot be kept now: {error}. Try again.", 10) from error

    async def check(self) -> None:
        """Return if the stores answer; ``StoreError``."""
        await self._store.check()
        await self._local.check()

    async def count(self) -> None:
        """Bring the gauges up to date."""
        self._metrics.sessions.set(len(self._sessions))
        for name, (used, size) in (await self._leases.used()).items():
            self._metrics.range_used.labels(name).set(used)
            self._metrics.range_size.labels(name).set(size)

    async def close(self) -> None:
        """Release connections."""
        for provider in self._providers.values():
            await provider.close()
        await self._store.close()
        await self._database.close()

    # ---- for other servers -------------------------------------------------------------------------------------

    async def get_keys(self, _: web.Request) -> web.StreamResponse:
        """Answer with the public keys (RFC 7517)."""
        return web.json_response(
            self._issuer.published(), headers={"Cache-Control": f"public, max-age={CACHE_SECONDS}"}
        )

    async def introspect(self, request: web.Request) -> web.StreamResponse:
        """Say whether a token is good (RFC 7662)."""
        if not self._is_client(request.headers.get("Authorization", "")):
            self._metrics.introspections.labels("refused").inc()
            headers = {"WWW-Authenticate": 'Basic realm="introspection", charset="UTF-8"'}
            return web.json_response({"error": "invalid_client"}, status=401, headers=headers)
        if request.content_type != "application/x-www-form-urlencoded":
            return web.json_response({"error": "invalid_request"}, status=400)
        token = (await request.post()).get("token")
        if not isinstance(token, str) or not 0 < len(token) <= MAX_TOKEN:
            return web.json_response({"error": "invalid_request"}, status=400)
        try:
            answer = await self._issuer.introspect(token)
        except StoreError as error:
            _log.error("a token cannot be judged: %s", error)
            return web.json_response({"error": "temporarily_unavailable"}, status=503, headers=_TRY_AGAIN)
        self._metrics.introspections.labels("active" if answer["active"] else "inactive").inc()
        return web.json_response(dict(answer))

    def _is_client(self, authorization: str) -> bool:
        scheme, _, value = authorization.partition(" ")
        try:
            id, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
        except ValueError:
            return False
        kept = self._clients.get(id)
        right = hmac.compare_digest((kept.reveal() if kept else secrets.token_hex()).encode(), secret.encode())
        return scheme.lower() == "basic" and kept is not None and right

    # ---- inside ------------------------------------------------------------------------------------------------

    async def _open(self, account: Account, kind: str) -> Opened:
        identities = account.identities
        if identities is None:
            try:
                until = self._today() + self._lifetime
                identities = await self._leases.draw(account.range, account.name, until)
            except StoreError as error:
                raise self._unavailable(kind, error) from error
        self._metrics.log_ins.labels(kind, "done").inc()
        _log.info("logged in %r by %s", identities.impi, kind)
        return self._sessions.open(
            identities.impi,
            identities.impus,
            identities.display,
            registration=account.registration,
            subject=account.name,
            range=account.range,
        )

    def _provider(self, name: str) -> OidcLogin:
        if name not in self._providers:
            raise LogInError(404, "There is no such way to log in.")
        return self._providers[name]

    def _failed(self, error: OidcError) -> LogInError:
        self._metrics.log_ins.labels("openid", "refused" if error.status == 403 else "unavailable").inc()
        return LogInError(error.status, f"The log-in failed: {error}.", 10 if error.status == 503 else 0)

    def _unavailable(self, kind: str, error: StoreError) -> LogInError:
        """What is wrong inside stays in the log: the page is everyone's."""
        _log.error("log-in refused: %s", error)
        self._metrics.log_ins.labels(kind, "unavailable").inc()
        return LogInError(503, "You cannot be logged in now. Nothing is lost; try again in a few minutes.", 10)
