"""Who may use the TURN server: the credential store and the long-term credential mechanism (RFC 8489 9.2)."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from dataclasses import dataclass

from imskit.engine import Tokens
from imskit.secrets import Secret
from imskit.stun.wire import attributes as a
from imskit.stun.wire.keys import MD5, SHA256, long_term_key, userhash
from imskit.stun.wire.message import Message

NONCE_LIFETIME = 3600.0
"""Seconds; a nonce is to expire at least once an hour (RFC 8656 5)."""

ALGORITHMS = (a.PasswordAlgorithm(SHA256), a.PasswordAlgorithm(MD5))
"""PASSWORD-ALGORITHMS offered, best first (RFC 8489 9.2.4)."""

_COOKIE = "obMatJos2"
_PASSWORD_ALGORITHMS_BIT = 1 << 23
_ANONYMITY_BIT = 1 << 22


@dataclass(frozen=True, slots=True)
class _Entry:
    keys: dict[int, Secret[bytes]]
    expires: float | None


class CredentialStore:
    """Long-term credentials of one realm, changeable at run time, and time-limited ("REST") ones.

    Passwords are not kept, only their keys (RFC 8656 6).  With ``rest_secret``, a user name ``<unix time>:<anything>``
    is good until that time with the password base64(HMAC-SHA1(secret, user name)), as coturn and other servers do;
    ``unix_time`` turns an engine's ``now`` into Unix time.  Such names are not known in advance, so with
    ``rest_secret`` user name anonymity (USERHASH) is not offered.
    """

    def __init__(
        self,
        realm: str,
        *,
        rest_secret: Secret[str] | None = None,
        unix_time: Callable[[float], float] | None = None,
    ) -> None:
        if not 0 < len(realm) < 128 or not realm.isprintable():
            raise ValueError("a realm has 1 to 127 printable characters (RFC 8489 14.9)")
        if rest_secret is not None and unix_time is None:
            raise ValueError("time-limited credentials need unix_time")
        self.realm = realm
        self._rest_secret = rest_secret
        self._unix_time = unix_time
        self._entries: dict[str, _Entry] = {}
        self._by_hash: dict[bytes, str] = {}

    def add(self, username: str, password: Secret[str], expires: float | None = None) -> None:
        """Let ``username`` in with ``password`` until ``expires`` (an engine's ``now``); replaces what was there."""
        if not 0 < len(username.encode()) < 509:
            raise ValueError("a user name has 1 to 508 bytes (RFC 8489 14.3)")
        keys = {number: long_term_key(number, username, self.realm, password) for number in (MD5, SHA256)}
        self._entries[username] = _Entry(keys, expires)
        self._by_hash[userhash(username, self.realm)] = username

    def remove(self, username: str) -> None:
        """Refuse ``username`` from now on; unknown ones are ignored."""
        if self._entries.pop(username, None) is not None:
            del self._by_hash[userhash(username, self.realm)]

    @property
    def anonymity(self) -> bool:
        """Whether every user can be found by USERHASH."""
        return self._rest_secret is None

    def username_of(self, digest: bytes) -> str | None:
        """Return the user with this USERHASH."""
        return self._by_hash.get(digest)

    def key(self, username: str, algorithm: int, now: float) -> Secret[bytes] | None:
        """Return the user's key, ``None`` for an unknown or expired user or an unknown algorithm."""
        entry = self._entries.get(username)
        if entry is not None:
            if entry.expires is not None and entry.expires <= now:
                return None
            return entry.keys.get(algorithm)
        return self._rest_key(username, algorithm, now)

    def _rest_key(self, username: str, algorithm: int, now: float) -> Secret[bytes] | None:
        if self._rest_secret is None or self._unix_time is None or algorithm not in (MD5, SHA256):
            return None
        stamp = username.partition(":")[0]
        # Twelve digits last until the year 33658 and keep the conversion of hostile input short.
        if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12) or int(stamp) <= self._unix_time(now):
            return None
        digest = hmac.digest(self._rest_secret.reveal().encode(), username.encode(), "sha1")
        password = Secret(base64.b64encode(digest).decode())
        return long_term_key(algorithm, username, self.realm, password)


@dataclass(frozen=True, slots=True)
class Authenticated:
    """A request that passed; how to protect its answer."""

    username: str
    key: Secret[bytes]
    sha256: bool
    """Whether answers carry MESSAGE-INTEGRITY-SHA256 (else MESSAGE-INTEGRITY), RFC 8489 9.2.4."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that did not pass: the error to answer with."""

    code: int
    attributes: tuple[a.Field, ...] = ()


class Authenticator:
    """The server side of the long-term credential mechanism; its nonces hold their own state.

    A nonce is the RFC 8489 cookie, the time of issue and a MAC over that and the client's address, so a nonce is no
    use to any other address, and nothing is stored for clients that have shown no credential.
    """

    def __init__(self, store: CredentialStore, tokens: Tokens, lifetime: float = NONCE_LIFETIME) -> None:
        self._store = store
        self._lifetime = lifetime
        self._mac_key = bytes.fromhex(tokens(64))
        bits = _PASSWORD_ALGORITHMS_BIT | (_ANONYMITY_BIT if store.anonymity else 0)
        self._cookie = _COOKIE + base64.b64encode(bits.to_bytes(3)).decode()

    def check(self, request: Message, client: str, now: float) -> Authenticated | Refused:
        """Authenticate ``request`` of ``client`` (any text that stands for its transport address); RFC 8489 9.2.4."""
        if not request.sha1_at and not request.sha256_at:
            return self._challenge(401, client, now)
        username, digest = request.get(a.USERNAME), request.get(a.USERHASH)
        nonce, realm = request.get(a.NONCE), request.get(a.REALM)
        if (username is None and digest is None) or realm is None or nonce is None:
            return Refused(400)
        named, offered = request.get(a.PASSWORD_ALGORITHM), request.get(a.PASSWORD_ALGORITHMS)
        algorithm = MD5
        # Every nonce made here has the "password algorithms" bit, so the rules for it always apply.
        if named is not None or offered is not None:
            if named is None or offered != ALGORITHMS or named not in ALGORITHMS:
                return Refused(400)
            algorithm = named.number
        if username is None and digest is not None:
            username = self._store.username_of(digest)
        key = self._store.key(username, algorithm, now) if username is not None else None
        if username is None or key is None or not request.verify(key):
            return self._challenge(401, client, now)
        if not self._fresh(nonce, client, now):
            return self._challenge(438, client, now)
        return Authenticated(username, key, named is not None)

    def _challenge(self, code: int, client: str, now: float) -> Refused:
        return Refused(
            code,
            (
                a.REALM(self._store.realm),
                a.NONCE(self._nonce(int(now), client)),
                a.PASSWORD_ALGORITHMS(ALGORITHMS),
            ),
        )

    def _nonce(self, issued: int, client: str) -> str:
        text = f"{issued & 0xFFFFFFFF:08x}"
        mac = hmac.digest(self._mac_key, f"{text} {client}".encode(), "sha256").hex()
        return f"{self._cookie}{text}{mac[:20]}"

    def _fresh(self, nonce: str, client: str, now: float) -> bool:
        stamp = nonce[len(self._cookie) :][:8]
        try:
            issued = int(stamp, 16)
        except ValueError:
            return False
        genuine = hmac.compare_digest(self._nonce(issued, client).encode(), nonce.encode())
        return genuine and (int(now) - issued) & 0xFFFFFFFF <= self._lifetime
