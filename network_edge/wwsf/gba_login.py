"""Log-in with a bootstrapped key: the WWSF as a NAF (TS 33.222, TS 24.109 clause 5.2).

A request that says ``3gpp-gba`` in its ``User-Agent`` is challenged with a realm that names the key; the next one
carries the B-TID as user name and an answer whose password is that key.
"""

from __future__ import annotations

import base64
import hmac
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from imskit.aka.errors import AkaError
from imskit.aka.gba import BTid, Realm, naf_id, naf_realm, ua_password
from imskit.secrets import Identity, Secret
from imskit.sip import digest
from imskit.sip.wire.auth import Challenge as DigestChallenge
from imskit.sip.wire.auth import Credentials
from imskit.sip.wire.errors import SipParseError
from network_edge.wwsf.aka_login import CHALLENGE_SECONDS, Challenged, Refused
from network_edge.wwsf.bsf import BsfError, KeySource

_log = logging.getLogger(__name__)

ALGORITHMS = ("SHA-256", "MD5")
"""Digest algorithms offered, the preferred first; older terminals know MD5 only."""
QOP = "auth-int"


@dataclass(frozen=True)
class LoggedInWithKey:
    """The user has shown the key."""

    impi: Identity
    seconds: float
    """How much longer the key lives; the session must not outlive it (TS 33.220 clause 4.5.3)."""
    _credentials: Credentials
    _password: Secret[bytes]

    def authentication_info(self, body: bytes) -> str:
        """Return ``Authentication-Info`` for a response with this body: proof that the server has the key too."""
        return str(digest.authentication_info(self._credentials, self._password, body))


type Outcome = LoggedInWithKey | Challenged | Refused


class GbaLogin:
    """Challenges of one host.  Each is good for one log-in.

    A nonce carries its time and a seal, so that nothing is kept of those who only ask: nobody can push out others.

    ``clock`` is any monotonic time, ``today`` universal time, both in seconds.  ``protocol`` is the Ua security
    protocol identifier.  With ``in_card`` only keys that a card has derived (GBA_U) will do.
    """

    def __init__(
        self,
        host: str,
        bsf: KeySource,
        protocol: bytes,
        *,
        in_card: bool,
        clock: Callable[[], float],
        today: Callable[[], float],
    ) -> None:
        self._naf_id = naf_id(host, protocol)
        self._realm = naf_realm(Realm.UICC if in_card else Realm.ME, host)
        self._bsf = bsf
        self._in_card = in_card
        self._clock = clock
        self._today = today
        self._seal = secrets.token_bytes(32)
        self._used: OrderedDict[str, float] = OrderedDict()
        """Until when a nonce that has logged somebody in is remembered."""

    def is_for_us(self, authorization: str) -> bool:
        """Whether an ``Authorization`` value answers a challenge of ours, rightly or not."""
        try:
            return (Credentials.parse(authorization).realm or "") == self._realm
        except SipParseError:
            return False

    def challenge(self, *, stale: bool = False) -> Challenged:
        """Return a new challenge: bootstrapping is required (TS 24.109 clauses 5.2.4, 5.2.5)."""
        nonce = self._nonce(int(self._clock()), secrets.token_bytes(16))
        return Challenged(
            tuple(
                str(DigestChallenge.digest(self._realm, nonce, algorithm=name, qop=(QOP,), stale=stale or None))
                for name in ALGORITHMS
            )
        )

    def _nonce(self, at: int, salt: bytes) -> str:
        words = at.to_bytes(8) + salt
        return base64.b64encode(words + hmac.digest(self._seal, words, "sha256")[:16]).decode("ascii")

    def _is_ours(self, nonce: str) -> bool:
        """Whether a nonce is one of the last minute, and has logged in nobody yet."""
        try:
            words = base64.b64decode(nonce, validate=True)
        except ValueError:
            return False
        at = int.from_bytes(words[:8])
        fresh = 0 <= self._clock() - at < CHALLENGE_SECONDS
        return fresh and hmac.compare_digest(nonce, self._nonce(at, words[8:24])) and nonce not in self._used

    def _use(self, nonce: str) -> None:
        now = self._clock()
        while self._used and next(iter(self._used.values())) <= now:
            self._used.popitem(last=False)
        self._used[nonce] = now + CHALLENGE_SECONDS

    async def handle(self, authorization: str, method: str, uri: str, body: bytes) -> Outcome:
        """Judge the ``Authorization`` value of a request for ``uri``."""
        try:
            credentials = Credentials.parse(authorization)
        except SipParseError as error:
            return Refused(400, f"Authorization: {error}")
        if not credentials.is_digest or credentials.realm != self._realm:
            return Refused(400, f"Authorization: a Digest for the realm {self._realm} is needed (RFC 7616 3.4)")
        nonce = credentials.nonce or ""
        if not self._is_ours(nonce):
            return self.challenge(stale=True)
        if (credentials.algorithm or "MD5").upper() not in ALGORITHMS or credentials.qop != QOP:
            return Refused(400, f"Authorization: {' or '.join(ALGORITHMS)} with qop={QOP} is needed (TS 24.109 5.2.4)")
        if credentials.uri != uri:
            return Refused(400, "Authorization: uri is not that of the request (RFC 7616 3.4.6)")
        try:
            btid = BTid(credentials.username or "")
            found = await self._bsf.key(btid.text, self._naf_id)
        except AkaError:
            return self.challenge()
        except BsfError as error:
            _log.warning("no key: %s", error)
            return self.challenge() if error.unknown else Refused(503, f"The log-in keys cannot be had: {error}.")
        if found.expires <= self._today():
            return self.challenge()
        if self._in_card and not found.in_card:
            return Refused(403, "This page wants keys that stay in the SIM card, and this SIM card has none.")
        password = ua_password(found.key)
        try:
            genuine = digest.verify(credentials, password, method, body)
        except SipParseError as error:
            return Refused(400, f"Authorization: {error}")
        if not genuine:
            _log.warning("wrong key of %r", found.impi)
            return self.challenge()
        if nonce in self._used:  # the same answer, twice at once
            return self.challenge(stale=True)
        self._use(nonce)
        _log.info("logged in %r with a bootstrapped key", found.impi)
        return LoggedInWithKey(found.impi, found.expires - self._today(), credentials, password)
