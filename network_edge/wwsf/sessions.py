"""Who is logged in: sessions of the portal, and the TURN credentials that go with them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from imskit.secrets import Identity, Secret

MAX_SESSIONS = 100_000
"""The oldest session makes room for a new one above this."""


@dataclass(frozen=True)
class Session:
    """A logged-in user: the IMS identities that the home network has for the log-in."""

    impi: Identity
    impus: tuple[Identity, ...]
    """Public identities, the default first."""
    display: str
    expires: float
    """On the clock of the store, seconds."""
    registration: Literal["network", "token", "digest"] = "network"
    """How the page registers: as the network knows it already, with a token, by SIP digest."""
    subject: str = ""
    """The web identity; empty if the SIM card has logged in."""
    range: str = ""
    """The range that the identities were drawn from, if any."""
    sid: str = ""
    """Names this log-in towards other servers; opens nothing."""

    @property
    def sip_uri(self) -> str:
        """The first SIP URI among the identities: what the page registers as."""
        return next((str.__str__(impu) for impu in self.impus if impu.startswith("sip:")), str.__str__(self.impus[0]))


class SessionStore:
    """Sessions by an unguessable token; only a hash of the token is kept."""

    def __init__(self, lifetime: float, clock: Callable[[], float]) -> None:
        self._lifetime = lifetime
        self._clock = clock
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def open(
        self,
        impi: Identity,
        impus: tuple[Identity, ...],
        display: str,
        at_most: float | None = None,
        *,
        registration: Literal["network", "token", "digest"] = "network",
        subject: str = "",
        range: str = "",
    ) -> tuple[str, int]:
        """Start a session, of ``at_most`` so many seconds; return its token and its seconds."""
        life = self._lifetime if at_most is None else min(self._lifetime, at_most)
        token = secrets.token_urlsafe(32)
        self._drop_expired()
        while len(self._sessions) >= MAX_SESSIONS:
            self._sessions.popitem(last=False)
        self._sessions[_digest(token)] = Session(
            impi, impus, display, self._clock() + life, registration, subject, range, secrets.token_urlsafe(16)
        )
        return token, int(life)

    def find(self, token: str | None) -> Session | None:
        """Return the live session of ``token``."""
        if not token:
            return None
        session = self._sessions.get(_digest(token))
        return session if session is not None and session.expires > self._clock() else None

    def close(self, token: str) -> None:
        """End a session."""
        self._sessions.pop(_digest(token), None)

    def remaining(self, session: Session) -> float:
        """Return how many seconds a session still has."""
        return max(0.0, session.expires - self._clock())

    def has_other(self, session: Session) -> bool:
        """Whether the same web identity has another live session with identities of the same range."""
        now = self._clock()
        return any(
            each.subject == session.subject and each.range == session.range and each.sid != session.sid
            for each in self._sessions.values()
            if each.expires > now
        )

    def __len__(self) -> int:
        self._drop_expired()
        return len(self._sessions)

    def _drop_expired(self) -> None:
        # Most sessions live equally long, so the oldest expire first; what is behind a longer one is dropped with it.
        while self._sessions and next(iter(self._sessions.values())).expires <= self._clock():
            self._sessions.popitem(last=False)


def turn_credential(secret: Secret[str], user: str, expires: int) -> tuple[str, Secret[str]]:
    """Return user name and password of a time-limited TURN credential.

    The scheme that TURN servers share (``use-auth-secret``): name ``expiry:user`` with the expiry in Unix seconds,
    password base64(HMAC-SHA1(secret, name)).
    """
    name = f"{expires}:{user}"
    mac = hmac.new(secret.reveal().encode(), name.encode(), hashlib.sha1).digest()
    return name, Secret(base64.b64encode(mac).decode())


def turn_user(secret: Secret[str], impi: Identity) -> str:
    """Return a name for one subscriber by which a TURN server can count; it logs it, so the identity is not in it."""
    return hmac.new(secret.reveal().encode(), b"user:" + impi.encode(), hashlib.sha256).hexdigest()[:20]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
