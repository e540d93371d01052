"""Passwords in the store: argon2id (RFC 9106), verified off the event loop, a few at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from imskit.secrets import Secret

_AT_ONCE = 2
"""Each takes 64 MiB and a core: a flood of log-ins waits instead of taking the machine."""


@dataclass(frozen=True)
class Verdict:
    """Whether the password was right, and its hash by today's parameters if the kept one is of older ones."""

    right: bool
    rehashed: str | None = None


class Passwords:
    """Hashes and verifies; the default parameters are those of RFC 9106 section 4 for limited memory."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._decoy = self._hasher.hash("nobody's password")
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def hash(self, password: Secret[str]) -> str:
        """Return the hash to keep."""
        async with self._gate:
            return await asyncio.to_thread(self._hasher.hash, password.reveal())

    async def verify(self, kept: str | None, password: Secret[str]) -> Verdict:
        """Compare with the ``kept`` hash; without one, do the same work and say no."""
        async with self._gate:
            return await asyncio.to_thread(self._verify, kept, password)

    def _verify(self, kept: str | None, password: Secret[str]) -> Verdict:
        try:
            self._hasher.verify(kept or self._decoy, password.reveal())
        except (VerificationError, InvalidHashError):
            return Verdict(False)
        if not kept:
            return Verdict(False)
        stale = self._hasher.check_needs_rehash(kept)
        return Verdict(True, self._hasher.hash(password.reveal()) if stale else None)
