"""SIP digest at the S-CSCF (TS 24.229 5.4.1.2.1A ff., TS 33.203 annex N, RFC 8760): subscribers with a password."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from imskit.engine import Tokens
from imskit.secrets import Secret
from imskit.sip import digest
from imskit.sip.wire.auth import Challenge, Credentials
from imskit.sip.wire.message import Request, Response, response_to

NONCE_SECONDS = 300.0
MAXIMUM_NONCES = 10_000


@dataclass
class _Nonce:
    impi: str
    expires: float
    count: int = 0
    """The highest nc that was accepted."""


class DigestLogin:
    """Makes challenges and judges what answers them."""

    def __init__(self, domain: str, algorithms: Sequence[str], tokens: Tokens) -> None:
        self._domain = domain
        self._algorithms = tuple(algorithms)
        self._tokens = tokens
        self._nonces: OrderedDict[str, _Nonce] = OrderedDict()

    def challenge(self, request: Request, impi: str, now: float, *, stale: bool = False) -> Response:
        """Return the 401: one challenge for each algorithm, the preferred first (RFC 8760 section 2.2)."""
        while self._nonces:
            oldest = next(iter(self._nonces.values()))
            if oldest.expires > now and len(self._nonces) < MAXIMUM_NONCES:
                break
            self._nonces.popitem(last=False)
        nonce = self._tokens(32)
        self._nonces[nonce] = _Nonce(impi, now + NONCE_SECONDS)
        response = response_to(request, 401, to_tag=self._tokens(16))
        for name in self._algorithms:
            challenge = Challenge.digest(
                self._domain, nonce, algorithm=name, qop=("auth",), opaque=self._tokens(8), stale=stale or None
            )
            response.headers.add("WWW-Authenticate", challenge)
        return response

    def judge(
        self, request: Request, credentials: Credentials | None, impi: str, password: Secret[str], now: float
    ) -> Response | Credentials:
        """Return the credentials if they are right, else what to answer: a challenge, or 403 for a wrong password."""
        if credentials is None or not credentials.response:
            return self.challenge(request, impi, now)
        known = self._nonces.get(credentials.nonce or "")
        if known is None or known.impi != impi or known.expires <= now:
            return self.challenge(request, impi, now, stale=True)
        name = (credentials.algorithm or "MD5").lower()
        if name not in {each.lower() for each in self._algorithms}:
            return response_to(request, 400, "Digest Algorithm Was Not Offered", to_tag=self._tokens(16))
        if credentials.get("uri") != request.uri:
            return response_to(request, 400, "Digest Is For Another URI", to_tag=self._tokens(16))
        count = credentials.get("nc") or ""
        if credentials.qop is None or len(count) != 8 or not set(count.lower()) <= set("0123456789abcdef"):
            return response_to(request, 400, "Digest Without qop", to_tag=self._tokens(16))
        if int(count, 16) <= known.count:
            # RFC 7616 section 3.4: a count that does not grow is a replay.
            return self.challenge(request, impi, now, stale=True)
        if not digest.verify(credentials, password, request.method, request.body):
            del self._nonces[credentials.nonce or ""]
            return response_to(request, 403, "Wrong Password", to_tag=self._tokens(16))
        known.count = int(count, 16)
        return credentials
