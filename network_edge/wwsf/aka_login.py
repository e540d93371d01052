"""Log-in with the SIM card: HTTP Digest AKA, the server's side (TR 23.701 figure 5.7.2-1 step 4, RFC 3310).

A first request carries ``Authorization: Digest username="<IMPI>", nonce="", response=""`` and so names the subscriber;
it is challenged with a vector of the home network, and the next one carries the card's answer.
"""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imskit.aka.challenge import AkaAlgorithm, Challenge, decode_auts
from imskit.aka.errors import AkaError
from imskit.aka.vector import AuthenticationVector, Success
from imskit.secrets import Identity
from imskit.sip import digest
from imskit.sip.wire.auth import Challenge as DigestChallenge
from imskit.sip.wire.auth import Credentials
from imskit.sip.wire.errors import SipParseError
from network_edge.wwsf.home_network import HomeNetwork, HomeNetworkError

_log = logging.getLogger(__name__)

CHALLENGE_SECONDS = 60.0
MAX_PENDING = 10_000
"""Challenges waiting for an answer; the oldest is forgotten above this."""
MAX_RESYNCS = 1
"""How often a card may ask to resynchronise within one log-in."""


@dataclass(frozen=True)
class LoggedIn:
    """The card has answered rightly."""

    impi: Identity
    authentication_info: str
    """Value of ``Authentication-Info``: proof that the server knows RES too (RFC 7616 section 3.5)."""


@dataclass(frozen=True)
class Challenged:
    """Answer 401 with these ``WWW-Authenticate`` values, the preferred first."""

    challenges: tuple[str, ...]


@dataclass(frozen=True)
class Refused:
    """Answer ``status`` and tell the user ``reason``."""

    status: int
    reason: str


type Outcome = LoggedIn | Challenged | Refused


@dataclass(frozen=True)
class _Pending:
    impi: Identity
    vector: AuthenticationVector
    expires: float
    resyncs: int


class AkaLogin:
    """Pending challenges of one realm.  Each is good for one answer."""

    def __init__(self, realm: str, algorithms: Sequence[str], home: HomeNetwork, clock: Callable[[], float]) -> None:
        for name in algorithms:
            if AkaAlgorithm.parse(name) is None:
                raise ValueError(f"{name} is no AKA digest algorithm; known: AKAv1-MD5, AKAv2-MD5, AKAv2-SHA-256")
        self._realm = realm
        self._algorithms = tuple(algorithms)
        self._home = home
        self._clock = clock
        self._pending: OrderedDict[str, _Pending] = OrderedDict()

    async def handle(self, authorization: str, method: str, uri: str, body: bytes) -> Outcome:
        """Judge the ``Authorization`` value of a request for ``uri``."""
        try:
            credentials = Credentials.parse(authorization)
        except SipParseError as error:
            return Refused(400, f"Authorization: {error}")
        if not credentials.is_digest or credentials.realm != self._realm:
            return Refused(400, f"Authorization: a Digest for the realm {self._realm} is needed (RFC 7616 3.4)")
        impi = Identity(credentials.username or "")
        if not impi:
            return Refused(400, "Authorization: username (the private identity) is missing (RFC 7616 3.4)")
        if not credentials.nonce:
            return await self._challenge(impi, None, 0)
        pending = self._pending.pop(credentials.nonce, None)
        if pending is None or pending.expires <= self._clock() or pending.impi != impi:
            return await self._challenge(impi, None, 0, stale=True)
        if auts := credentials.auts:
            return await self._resynchronise(pending, auts)
        return self._verify(credentials, pending, method, uri, body)

    async def _challenge(
        self, impi: Identity, resync: tuple[bytes, bytes] | None, resyncs: int, *, stale: bool = False
    ) -> Outcome:
        try:
            vector = await self._home.vector(impi, resync)
        except HomeNetworkError as error:
            _log.warning("no vector for %r: %s", impi, error)
            status = 403 if error.unknown or resync else 503
            return Refused(status, f"The log-in with the SIM card failed: {error}.")
        nonce = Challenge(vector.rand, vector.autn, secrets.token_bytes(8)).encode()
        now = self._clock()
        while self._pending and (
            len(self._pending) >= MAX_PENDING or next(iter(self._pending.values())).expires <= now
        ):
            self._pending.popitem(last=False)
        self._pending[nonce] = _Pending(impi, vector, now + CHALLENGE_SECONDS, resyncs)
        _log.info("challenged %r%s", impi, " after resynchronisation" if resync else "")
        return Challenged(
            tuple(
                str(DigestChallenge.digest(self._realm, nonce, algorithm=name, qop=("auth",), stale=stale or None))
                for name in self._algorithms
            )
        )

    async def _resynchronise(self, pending: _Pending, auts: str) -> Outcome:
        if pending.resyncs >= MAX_RESYNCS:
            return Refused(403, "The SIM card asked to resynchronise twice: its sequence numbers do not settle.")
        try:
            octets = decode_auts(auts)
        except AkaError as error:
            return Refused(400, str(error))
        return await self._challenge(pending.impi, (pending.vector.rand, octets), pending.resyncs + 1)

    def _verify(self, credentials: Credentials, pending: _Pending, method: str, uri: str, body: bytes) -> Outcome:
        name = credentials.algorithm or ""
        algorithm = AkaAlgorithm.parse(name)
        if algorithm is None or name.lower() not in {known.lower() for known in self._algorithms}:
            return Refused(400, f"Authorization: algorithm {name or 'missing'} was not offered")
        if credentials.uri != uri:
            return Refused(400, "Authorization: uri is not that of the request (RFC 7616 3.4.6)")
        if not credentials.response:
            # RFC 3310 section 3.4, TS 24.229 5.1.1.5.3: the card did not accept the network's MAC.
            return Refused(403, "The SIM card does not accept this network as its own (wrong MAC).")
        vector = pending.vector
        password = algorithm.password(Success(vector.xres, vector.ck, vector.ik))
        try:
            genuine = digest.verify(credentials, password, method, body)
            proof = digest.authentication_info(credentials, password)
        except SipParseError as error:
            return Refused(400, f"Authorization: {error}")
        if not genuine:
            _log.warning("wrong answer of the card of %r", pending.impi)
            return Refused(403, "The SIM card's answer is wrong: this card does not belong to this identity.")
        _log.info("logged in %r", pending.impi)
        return LoggedIn(pending.impi, str(proof))
