"""Signing keys: made at first start, replaced in time, published until nothing signed by them is alive.

A key is published one lead ahead of its first signature, so that whoever caches the set has it by then.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet

_log = logging.getLogger(__name__)

CACHE_SECONDS = 300
"""How long others may keep the published set."""


class KeyFileError(Exception):
    """The file of the keys cannot be used; the text says why and what to do."""


@dataclass(frozen=True)
class _Signer:
    key: ECKey
    since: float
    """Universal time in seconds from which it signs."""


class KeyRing:
    """Keys in one file.  ``today`` is universal time, ``lifetime`` that of the longest token, in seconds."""

    def __init__(self, path: Path, rotate: float, lifetime: float, today: Callable[[], float]) -> None:
        """Read or make the file; ``KeyFileError`` if that fails."""
        self._path = path
        self._rotate = rotate
        self._keep = lifetime + CACHE_SECONDS
        self._today = today
        self._signers = self._read()
        self._turn()

    def signing(self) -> ECKey:
        """Return the key that signs now."""
        self._turn()
        now = self._today()
        return next((each for each in reversed(self._signers) if each.since <= now), self._signers[0]).key

    def published(self) -> dict[str, Any]:
        """Return the public keys as a JWK set (RFC 7517)."""
        self._turn()
        return {"keys": [_public(each.key) for each in self._signers]}

    def verifying(self) -> KeySet:
        """Return the keys that a living token may have been signed with."""
        self._turn()
        return KeySet([each.key for each in self._signers])

    def _turn(self) -> None:
        """Add the key that signs next in time, drop those whose tokens have all ended."""
        now = self._today()
        signers = list(self._signers)
        if not signers or signers[-1].since + self._rotate <= now:
            signers.append(_Signer(_new_key(), now))
        elif signers[-1].since + self._rotate - CACHE_SECONDS <= now:
            signers.append(_Signer(_new_key(), signers[-1].since + self._rotate))
        while len(signers) > 1 and signers[1].since + self._keep <= now:
            signers.pop(0)
        if len(signers) == len(self._signers) and signers[-1] is self._signers[-1]:
            return
        try:
            self._write(signers)
        except OSError as error:
            if not self._signers:
                raise KeyFileError(f"{self._path}: the keys cannot be written: {error.strerror}") from error
            # The old key goes on signing: a token that somebody can verify is better than none after a restart.
            _log.error("%s: a new signing key cannot be written: %s", self._path, error.strerror)
            return
        _log.info("signing keys: %d, the newest %s", len(signers), signers[-1].key.kid)
        self._signers = signers

    def _read(self) -> list[_Signer]:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise KeyFileError(f"{self._path}: the keys cannot be read: {error.strerror}") from error
        with os.fdopen(descriptor) as file:
            if os.fstat(descriptor).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise KeyFileError(f"{self._path}: others may read the signing keys. Run: chmod 600 {self._path}")
            try:
                items = json.load(file)
                if not isinstance(items, list) or not items:
                    raise ValueError("no list of keys")
                found = [_Signer(ECKey.import_key(item["key"]), float(item["since"])) for item in items]
            except (ValueError, TypeError, KeyError, JoseError):
                raise KeyFileError(
                    f"{self._path}: holds no signing keys. Remove it: new ones are made, and who is logged in "
                    "registers anew"
                ) from None
        if any(not each.key.is_private or each.key.curve_name != "P-256" or not each.key.kid for each in found):
            raise KeyFileError(f"{self._path}: holds a key that is no private P-256 one. Remove the file")
        return sorted(found, key=lambda each: each.since)

    def _write(self, signers: list[_Signer]) -> None:
        """Replace the file as a whole: after a loss of power there is the old or the new one."""
        new = self._path.with_name(self._path.name + ".new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump([{"since": each.since, "key": each.key.as_dict(private=True)} for each in signers], file)
            file.flush()
            os.fsync(descriptor)
        new.replace(self._path)


def _new_key() -> ECKey:
    key = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, private=True)
    return ECKey.import_key({**key.as_dict(private=True), "kid": key.thumbprint()})


def _public(key: ECKey) -> dict[str, Any]:
    return dict(key.as_dict(private=False))
