"""SIP digest at the S-CSCF (TS 24.229 5.4.1.2.1A ff., TS 33.203 annex N, RFC 8760): subscribers with a password.

Nonces are kept by nobody until they have been used with the right password: each proves by its own text when and for
whom it was made.  So REGISTERs in somebody's name, however many, take no challenge away from anyone.  Names that
nobody has are challenged and refused as if they had a password.
"""

from __future__ import annotations

import hmac
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from imskit.engine import Tokens
from imskit.secrets import Secret
from imskit.sip import digest
from imskit.sip.wire.auth import Challenge, Credentials
from imskit.sip.wire.message import Request, Response, response_to

NONCE_SECONDS = 300.0
NONCES_EACH = 64
"""Nonces of one subscriber that may be used again with a higher count; older ones are stale."""
FREE_ATTEMPTS = 3
"""Wrong passwords in a row before there is a wait."""
LONGEST_WAIT = 32.0
"""Seconds.  Who floods in another's name delays a new device of his by no more than that, a registered one not."""
_FORGOTTEN = 900.0
"""Seconds after the last wrong password."""
_STRANGERS = 4096
"""Counters that all names which nobody has share: there is no end of them."""
_TIME, _SALT, _PROOF = 12, 16, 40
"""Hexadecimal digits of a nonce's parts."""


@dataclass(slots=True)
class _Used:
    """What one subscriber has used of its nonces."""

    counts: OrderedDict[str, int] = field(default_factory=OrderedDict)
    """The highest nc that was accepted."""
    before: int = -1
    """Nonces made until then are good no longer, unless they are in ``counts``; in milliseconds."""


@dataclass(slots=True)
class _Wrong:
    """Wrong passwords for one name."""

    count: int = 0
    last: float = -math.inf
    until: float = -math.inf


class DigestLogin:
    """Makes challenges and judges what answers them."""

    def __init__(self, domain: str, algorithms: Sequence[str], tokens: Tokens) -> None:
        self._domain = domain
        self._algorithms = tuple(algorithms)
        self._tokens = tokens
        self._key = tokens(64).encode()
        self._used: dict[str, _Used] = {}
        self._wrong: dict[str, _Wrong] = {}
        self._nobodys = Secret(tokens(32))
        """A password that opens nothing."""

    def challenge(self, request: Request, impi: str, now: float, *, stale: bool = False) -> Response:
        """Return the 401: one challenge for each algorithm, the preferred first (RFC 8760 section 2.2)."""
        made = f"{int(now * 1000):0{_TIME}x}"[-_TIME:] + self._tokens(_SALT)
        nonce = made + self._proof(made, impi)
        response = response_to(request, 401, to_tag=self._tokens(16))
        for name in self._algorithms:
            challenge = Challenge.digest(
                self._domain, nonce, algorithm=name, qop=("auth",), opaque=self._tokens(8), stale=stale or None
            )
            response.headers.add("WWW-Authenticate", challenge)
        return response

    def judge(
        self,
        request: Request,
        credentials: Credentials | None,
        impi: str,
        password: Secret[str] | None,
        now: float,
        *,
        registered: bool = False,
    ) -> Response | Credentials:
        """Return the credentials if they are right, else what to answer: a challenge, 403 or 500 for a wrong password.

        ``password`` is ``None`` where nobody has the name, or it has no password: nothing is right then.
        ``registered``: the request belongs to a registration that stands (its Call-ID is nobody else's to know), and
        has not to wait for the wrong passwords of others.
        """
        if credentials is None or not credentials.response:
            return self.challenge(request, impi, now)
        nonce = credentials.nonce or ""
        if (made := self._made(nonce, impi)) is None or now >= made / 1000 + NONCE_SECONDS:
            return self.challenge(request, impi, now, stale=True)
        name = (credentials.algorithm or "MD5").lower()
        if name not in {each.lower() for each in self._algorithms}:
            return response_to(request, 400, "Digest Algorithm Was Not Offered", to_tag=self._tokens(16))
        if credentials.get("uri") != request.uri:
            return response_to(request, 400, "Digest Is For Another URI", to_tag=self._tokens(16))
        count = credentials.get("nc") or ""
        if credentials.qop is None or len(count) != 8 or not set(count.lower()) <= set("0123456789abcdef"):
            return response_to(request, 400, "Digest Without qop", to_tag=self._tokens(16))
        if int(count, 16) <= self._accepted(impi, nonce, made):
            # RFC 7616 section 3.4: a count that does not grow is a replay.
            return self.challenge(request, impi, now, stale=True)
        name = impi if password is not None else self._stranger(impi)
        wrong = self._wrong.get(name)
        if wrong is not None and now < wrong.until and not registered:
            response = response_to(request, 500, "Too Many Wrong Passwords", to_tag=self._tokens(16))
            response.headers.add("Retry-After", math.ceil(wrong.until - now))
            return response
        right = digest.verify(credentials, password or self._nobodys, request.method, request.body)
        if not right or password is None:
            self._failed(name, now)
            return response_to(request, 403, "Wrong Password", to_tag=self._tokens(16))
        self._accept(impi, nonce, int(count, 16), now)
        return credentials

    # ---- nonces -----------------------------------------------------------------------------------------------------

    def _proof(self, made: str, impi: str) -> str:
        return hmac.digest(self._key, f"{made}{impi}".encode("utf-8", "surrogateescape"), "sha256").hex()[:_PROOF]

    def _made(self, nonce: str, impi: str) -> int | None:
        """When a nonce was made for a name, in milliseconds; ``None`` if it is not ours for it."""
        made, proof = nonce[: _TIME + _SALT], nonce[_TIME + _SALT :]
        if not hmac.compare_digest(proof.encode("utf-8", "surrogateescape"), self._proof(made, impi).encode()):
            return None
        return int(made[:_TIME], 16)

    def _accepted(self, impi: str, nonce: str, made: int) -> float:
        """The highest nc that a nonce has been used with; without end if it may be used no longer."""
        used = self._used.get(impi)
        if used is None:
            return 0
        return used.counts.get(nonce, math.inf if made <= used.before else 0)

    def _accept(self, impi: str, nonce: str, count: int, now: float) -> None:
        used = self._used.setdefault(impi, _Used())
        used.counts[nonce] = count
        used.counts.move_to_end(nonce)
        while len(used.counts) > NONCES_EACH or self._old(next(iter(used.counts)), now):
            gone, _ = used.counts.popitem(last=False)
            used.before = max(used.before, int(gone[:_TIME], 16))

    @staticmethod
    def _old(nonce: str, now: float) -> bool:
        return now >= int(nonce[:_TIME], 16) / 1000 + NONCE_SECONDS

    # ---- wrong passwords --------------------------------------------------------------------------------------------

    def _stranger(self, impi: str) -> str:
        """The counter of a name that nobody has; no private identity begins with a blank."""
        digits = hmac.digest(self._key, impi.encode("utf-8", "surrogateescape"), "sha256").hex()
        return f" {int(digits[:8], 16) % _STRANGERS}"

    def _failed(self, name: str, now: float) -> None:
        wrong = self._wrong.setdefault(name, _Wrong())
        if now > wrong.last + _FORGOTTEN:
            wrong.count = 0
        wrong.count += 1
        wrong.last = now
        if wrong.count > FREE_ATTEMPTS:
            wrong.until = now + min(LONGEST_WAIT, 2.0 ** min(16, wrong.count - FREE_ATTEMPTS))
