"""Which cookies show that a browser profile was logged in with the card.  Only their hashes are kept."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

MAXIMUM_LIFE_S = 24 * 3600.0
"""Seconds after which a log-in is forgotten here, whatever the cookie says."""
CAPACITY = 256
SHORTEST_VALUE = 16
"""Characters; a shorter cookie could be guessed."""


@dataclass(frozen=True, slots=True)
class SetCookie:
    """What the log-in needs of a ``Set-Cookie`` value (RFC 6265 section 5.2)."""

    name: str
    value: str
    secure: bool
    http_only: bool
    max_age: int | None

    @classmethod
    def parse(cls, text: str) -> SetCookie | None:
        """Read one value; ``None`` for what is no cookie."""
        pair, *attributes = text.split(";")
        name, separator, value = pair.partition("=")
        if not separator or not name.strip():
            return None
        names: dict[str, str] = {}
        for attribute in attributes:
            key, _, content = attribute.partition("=")
            names[key.strip().lower()] = content.strip()
        age = names.get("max-age", "")
        digits = age.removeprefix("-")
        max_age = int(age) if digits.isascii() and digits.isdigit() and len(digits) < 12 else None
        return cls(name.strip(), value.strip(), "secure" in names, "httponly" in names, max_age)


def read_cookies(headers: Iterable[str]) -> list[tuple[str, str]]:
    """Return the name-value pairs of ``Cookie`` header values."""
    pairs = []
    for header in headers:
        for item in header.split(";"):
            name, separator, value = item.partition("=")
            if separator:
                pairs.append((name.strip(), value.strip()))
    return pairs


class LoginSessions:
    """Hashes of the cookies that log-ins with the card have set, with their ends on ``clock`` (seconds)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._ends)

    def opened(self, set_cookies: Iterable[str]) -> list[tuple[str, float]]:
        """A log-in succeeded and its answer sets these cookies; returns hash and end of those that count.

        Only what scripts cannot read, travels encrypted and cannot be guessed stands for a log-in.
        """
        added = []
        for text in set_cookies:
            cookie = SetCookie.parse(text)
            if cookie is None or not (cookie.secure and cookie.http_only) or len(cookie.value) < SHORTEST_VALUE:
                continue
            life = MAXIMUM_LIFE_S if cookie.max_age is None else min(float(cookie.max_age), MAXIMUM_LIFE_S)
            if life > 0:
                added.append((_digest(cookie.name, cookie.value), self._clock() + life))
        for digest, end in added:
            self._restore(digest, end)
        return added

    def replace(self, sessions: Iterable[tuple[str, float]]) -> None:
        """Know these and no others: what the agent remembers."""
        self._ends.clear()
        for digest, end in sessions:
            self._restore(digest, end)

    def _restore(self, digest: str, end: float) -> None:
        self._ends[digest] = end
        self._ends.move_to_end(digest)
        while len(self._ends) > CAPACITY:
            self._ends.popitem(last=False)

    def find(self, cookies: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Return the hashes of those cookies that stand for a live log-in, by cookie name."""
        now = self._clock()
        digests = {name: _digest(name, value) for name, value in cookies}
        return {name: digest for name, digest in digests.items() if self._ends.get(digest, 0.0) > now}

    def closed(self, digests: Iterable[str]) -> None:
        """The operator does not accept these any more."""
        for digest in digests:
            self._ends.pop(digest, None)


def _digest(name: str, value: str) -> str:
    return hashlib.sha256(f"{name}={value}".encode("utf-8", "surrogateescape")).hexdigest()
