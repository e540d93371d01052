"""The configured PIN and where it did not fit, so that a wrong one costs a card one try only, whatever is restarted."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from pathlib import Path

from imskit.secrets import Secret

_log = logging.getLogger(__name__)
_KEPT = 32
_SALT_LENGTH = 16
_MAX_FILE = 16384


class Pin:
    """A PIN, and the cards that have refused it.

    With ``memory``, a file, these are remembered: as hashes of card and PIN together, slow to try out, so that a wrong
    PIN and a card's number cannot simply be read from it.
    """

    def __init__(self, value: Secret[str] | None = None, memory: Path | None = None) -> None:
        self.value = value
        """``None``: none is configured."""
        self._memory = memory
        self._salt, self._refused = _load(memory) if memory is not None else (b"", [])
        self._salt = self._salt or secrets.token_bytes(_SALT_LENGTH)

    def was_refused_by(self, iccid: str | None) -> bool:
        """Whether the card of that number (``None``: any that does not tell its number) has refused this PIN."""
        return bool(self._refused) and self._hash(iccid) in self._refused

    def refuse(self, iccid: str | None) -> None:
        """The card has refused it."""
        self._refused = [*self._refused, self._hash(iccid)][-_KEPT:]
        if self._memory is None:
            return
        fresh = self._memory.with_name(self._memory.name + ".new")
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
                json.dump({"salt": self._salt.hex(), "refused": self._refused}, file)
            fresh.replace(self._memory)
        except OSError as error:
            _log.warning("a restart will forget that the PIN is wrong: %s", error)

    def _hash(self, iccid: str | None) -> str:
        pin = "" if self.value is None else self.value.reveal()
        return hashlib.scrypt(f"{iccid} {pin}".encode(), salt=self._salt, n=1 << 14, r=8, p=1, dklen=32).hex()


def _load(memory: Path) -> tuple[bytes, list[str]]:
    try:
        contents = json.loads(memory.read_bytes()[:_MAX_FILE])
        salt, refused = bytes.fromhex(contents["salt"]), contents["refused"]
        if len(salt) != _SALT_LENGTH or not all(isinstance(entry, str) for entry in refused):
            raise ValueError("not what was written")
        return salt, list(refused)[-_KEPT:]
    except FileNotFoundError:
        return b"", []
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        _log.warning("%s cannot be read, the PIN counts as not tried yet: %s", memory, error)
        return b"", []
