"""Keys for servers from the SIM card: bootstraps when needed, answers their challenges (TS 33.220, TS 24.109 clause 5).

Ks and the servers' keys stay in this process; what leaves is a finished ``Authorization`` value.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import aiohttp
import yarl

from imskit.aka.errors import AkaError
from imskit.aka.gba import (
    USER_AGENT_ME,
    USER_AGENT_UICC,
    Bootstrapped,
    InCard,
    Realm,
    chosen_realm,
    derive_naf_key,
    naf_id,
    parse_naf_realm,
    ua_password,
)
from imskit.aka.vector import AkaResult
from imskit.engine import Tick
from imskit.secrets import Identity, Secret
from imskit.sip import digest
from imskit.sip.wire.auth import Challenge
from imskit.sip.wire.errors import SipParseError
from ue_agent.gba.engine.bootstrapping import (
    PATH,
    AskCard,
    Bootstrapping,
    CardAnswer,
    CardFailed,
    Cause,
    Done,
    Failed,
    HttpAnswer,
    HttpFailed,
    Request,
    Start,
)
from ue_agent.uicc.errors import UiccError

_log = logging.getLogger(__name__)

USER_AGENT = f"imsbridge {USER_AGENT_ME} {USER_AGENT_UICC}"
_TIMEOUT = aiohttp.ClientTimeout(total=15, connect=10)
_MAXIMUM_BODY = 64 * 1024
_HASHES = ("SHA-512-256", "SHA-256", "MD5")


class GbaError(Exception):
    """There is no key or no answer; the text is fit for the user."""

    def __init__(self, cause: Cause, text: str) -> None:
        super().__init__(text)
        self.cause = cause


class PhishingError(GbaError):
    """A server asks for the key of another one."""


class GbaCard(Protocol):
    """The card, as `UiccCard` is; every call may raise ``UiccError``."""

    async def bootstrap(self, rand: bytes, autn: bytes) -> AkaResult | InCard:
        """Run AKA, with GBA_U if the card can."""

    async def naf_key(self, naf_id: bytes, impi: str) -> Secret[bytes]:
        """Return Ks_ext_NAF of the run that the card keeps."""

    async def store_bootstrapping(self, run: Bootstrapped) -> None:
        """Write B-TID and lifetime to the card."""

    async def stored_bootstrapping(self, impi: Identity) -> Bootstrapped | None:
        """Return the run that the card remembers."""


@dataclass(frozen=True, slots=True)
class BsfAddress:
    """Where the BSF is."""

    name: str
    """Host name: the realm, and what is looked up."""
    port: int = 80


@dataclass(frozen=True, slots=True)
class NafCredential:
    """User name and password of the digest on Ua."""

    btid: str
    password: Secret[bytes]
    in_card: bool
    """Whether the key was derived inside the card (GBA_U)."""


class GbaClient:
    """One subscriber's keys.  ``bsf`` says where to bootstrap, ``today`` is universal time."""

    def __init__(
        self,
        card: GbaCard,
        impi: Identity,
        bsf: BsfAddress,
        protocol: bytes,
        on_step: Callable[[str], None] = lambda step: None,
        today: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``protocol`` is the Ua security protocol identifier, 5 octets."""
        self._card = card
        self._impi = impi
        self._bsf = bsf
        self._protocol = protocol
        self._on_step = on_step
        self._today = today
        self._turn = asyncio.Lock()
        self._run: Bootstrapped | None = None
        self._begun: datetime | None = None
        self._looked_at_card = False
        self.state = "no keys bootstrapped yet"
        """A sentence for the user."""

    @property
    def run(self) -> Bootstrapped | None:
        """The association in use."""
        return self._run

    async def answer(self, challenge: str, method: str, uri: str, host: str, *, renew: bool = False) -> str:
        """Answer a NAF's Digest challenge (``WWW-Authenticate`` value) for a request without body to ``host``.

        Returns the ``Authorization`` value.  ``renew``: the NAF did not take the last one, so bootstrap first.
        ``PhishingError`` if the realm is not this host's, ``GbaError`` if there is no key.
        """
        try:
            parsed = Challenge.parse(challenge, "WWW-Authenticate")
        except SipParseError as error:
            raise GbaError(Cause.BSF, f"The challenge of {host} cannot be read: {error}.") from error
        realms = parse_naf_realm(parsed.realm or "")
        if not realms:
            raise GbaError(Cause.BSF, f"The challenge of {host} does not ask for bootstrapped keys.")
        if set(realms.values()) != {host.lower().removesuffix(".")}:
            _log.warning("%s asks for the key of another server: refused", host)
            raise PhishingError(Cause.BSF, f"{host} asks for a key that belongs to another server.")
        algorithm = (parsed.algorithm or "MD5").upper().removesuffix("-SESS")
        if algorithm not in _HASHES:
            raise GbaError(Cause.BSF, f"The challenge of {host} wants an algorithm that is not known.")
        if "auth-int" in parsed.qop:
            parsed = parsed.with_("qop", "auth-int")
        # Where only the card's kind is asked for, a key from outside the card will not do.
        credential = await self.credential(host, renew=renew, in_card=Realm.ME not in realms)
        kind = Realm.UICC if Realm.UICC in realms and credential.in_card else Realm.ME
        parsed = parsed.with_("realm", chosen_realm(parsed.realm or "", kind))
        try:
            made = digest.answer(
                parsed,
                username=credential.btid,
                password=credential.password,
                method=method,
                uri=uri,
                cnonce=secrets.token_hex(16),
            )
        except SipParseError as error:
            raise GbaError(Cause.BSF, f"The challenge of {host} cannot be answered: {error}.") from error
        return str(made)

    async def credential(self, host: str, *, renew: bool = False, in_card: bool = False) -> NafCredential:
        """Return user name and password for the server ``host``; bootstraps if there is no live association.

        An association past half of its life is renewed (TS 33.220 clause 4.5.3); if that fails it is used to its end.
        """
        try:
            identifier = naf_id(host, self._protocol)
        except AkaError as error:
            raise GbaError(Cause.BSF, f"{host} is no name of a server: {error}.") from error
        async with self._turn:
            run = await self._association(renew)
            if in_card and not run.in_card:
                raise GbaError(Cause.CARD, f"{host} wants keys that stay in the SIM card, and this card has none.")
            try:
                key = await self._key(run, identifier)
            except UiccError as error:
                if renew:
                    raise GbaError(Cause.CARD, str(error)) from error
                # The card may have been replaced or may have forgotten its keys: once more from the beginning.
                _log.info("the card has no key any more (%s); bootstrapping", error)
                run = await self._bootstrap()
                try:
                    key = await self._key(run, identifier)
                except UiccError as again:
                    raise GbaError(Cause.CARD, str(again)) from again
            return NafCredential(run.info.btid.text, ua_password(key), run.in_card)

    async def bootstrap(self) -> Bootstrapped:
        """Bootstrap anew; ``GbaError`` says why that cannot be."""
        async with self._turn:
            return await self._bootstrap()

    async def _association(self, renew: bool) -> Bootstrapped:
        if renew:
            return await self._bootstrap()
        if self._run is None and not self._looked_at_card:
            self._looked_at_card = True
            try:
                self._run = await self._card.stored_bootstrapping(self._impi)
            except UiccError as error:
                _log.info("no bootstrapped keys on the card: %s", error)
        run, today = self._run, self._today()
        if run is None or run.info.lifetime <= today:
            return await self._bootstrap()
        if self._begun is not None and today >= self._begun + (run.info.lifetime - self._begun) / 2:
            try:
                return await self._bootstrap()
            except GbaError as error:
                _log.warning("keys past half of their life are not renewed: %s", error)
        return run

    async def _key(self, run: Bootstrapped, identifier: bytes) -> Secret[bytes]:
        impi = str.__str__(run.impi)
        if run.ks is None:
            return await self._card.naf_key(identifier, impi)
        return derive_naf_key(run.ks, run.rand, impi, identifier)

    # ---- Ub

    async def _bootstrap(self) -> Bootstrapped:
        engine = Bootstrapping(self._impi, self._bsf.name, lambda digits: secrets.token_hex((digits + 1) // 2)[:digits])
        engine.handle(Start(), time.monotonic())
        # A cookie may lead the second request to the machine of the first; it lives as long as the run.
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(timeout=_TIMEOUT, cookie_jar=jar) as http:
            while (output := engine.poll()) is not None:
                event: HttpAnswer | HttpFailed | CardAnswer | CardFailed | Tick
                match output:
                    case Request(authorization):
                        event = await self._within(engine, self._fetch(http, authorization))
                    case AskCard(rand, autn):
                        event = await self._within(engine, self._ask(rand, autn))
                    case Done(run):
                        return await self._done(run)
                    case Failed(cause, reason):
                        _log.warning("bootstrapping: %s", reason)
                        self.state = reason
                        self._on_step("gba-failed")
                        raise GbaError(cause, reason)
                now = time.monotonic()
                # The timer may fire a moment early.
                engine.handle(event, max(now, engine.deadline() or now) if isinstance(event, Tick) else now)
        raise RuntimeError("a bootstrapping run has ended without a result")

    @staticmethod
    async def _within[T](engine: Bootstrapping, effect: Awaitable[T]) -> T | Tick:
        """Wait for an effect, but not beyond the engine's deadline."""
        deadline = engine.deadline()
        assert deadline is not None
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await effect
        except TimeoutError:
            return Tick()

    async def _done(self, run: Bootstrapped) -> Bootstrapped:
        self._run, self._begun = run, self._today()
        kind = "GBA_U" if run.in_card else "GBA_ME"
        self.state = f"{kind}, good until {run.info.lifetime:%Y-%m-%d %H:%M} UTC"
        _log.info("bootstrapped with %s: %s", self._bsf.name, self.state)
        self._on_step("gba-bootstrapped")
        if run.in_card:
            try:
                await self._card.store_bootstrapping(run)
            except UiccError as error:
                _log.warning("B-TID and lifetime are not kept on the card: %s", error)
        return run

    async def _fetch(self, http: aiohttp.ClientSession, authorization: str) -> HttpAnswer | HttpFailed:
        name, port = self._bsf.name, self._bsf.port
        url = yarl.URL.build(scheme="http", host=name, port=port, path=PATH)
        headers = {"Authorization": authorization, "User-Agent": USER_AGENT, "Accept": "*/*"}
        try:
            async with http.get(url, headers=headers, allow_redirects=False) as response:
                body = await response.content.read(_MAXIMUM_BODY + 1)
                while len(body) <= _MAXIMUM_BODY and (more := await response.content.read(_MAXIMUM_BODY + 1)):
                    body += more
                if len(body) > _MAXIMUM_BODY:
                    return HttpFailed(f"the bootstrapping server {name} answers with more than {_MAXIMUM_BODY} octets")
                return HttpAnswer(response.status, tuple(response.headers.items()), body, self._today())
        except aiohttp.ClientConnectorDNSError:
            return HttpFailed(f"the name of the bootstrapping server, {name}, cannot be resolved; gba.bsf sets another")
        except TimeoutError:
            return HttpFailed(f"the bootstrapping server {name} does not answer")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return HttpFailed(f"the bootstrapping server {name} port {port} cannot be reached ({type(error).__name__})")

    async def _ask(self, rand: bytes, autn: bytes) -> CardAnswer | CardFailed:
        try:
            return CardAnswer(await self._card.bootstrap(rand, autn))
        except UiccError as error:
            return CardFailed(str(error))
