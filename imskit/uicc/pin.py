"""PIN1 of a card and its PUK (ETSI TS 102 221 clauses 9.5, 11.1.9 to 11.1.13)."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping

from imskit.secrets import Secret

_log = logging.getLogger(__name__)
_DONE, _WRONG_LENGTH, _BLOCKED, _DISABLED, _NOT_NOW = 0x9000, 0x6700, 0x6983, 0x6984, 0x6985
_TRIES_LEFT = 0x63C0
_PUK_TRIES = 10
_LENGTH = 8


class CardPin:
    """One PIN.  An operation takes the data of its command and returns the status word; without data: tries left."""

    def __init__(self, pin: Secret[str] | None, tries: int, puk: Secret[str] | None) -> None:
        """``pin``: ``None`` for a disabled one, which is 0000 then.  ``tries``: 0 for a blocked one."""
        self._value = _padded(pin or Secret("0000"))
        self._puk = None if puk is None else _padded(puk)
        self._tries = tries or 3
        self.enabled = pin is not None
        self.verified = False
        """Since the last reset."""
        self.tries_left = tries
        self.puk_tries_left = _PUK_TRIES if puk is not None else 0

    @property
    def satisfied(self) -> bool:
        """Whether the card gives what the PIN guards."""
        return self.verified or not self.enabled

    def remember(self) -> dict[str, object]:
        """What outlives power, as JSON has it; it holds the PIN."""
        return {
            "value": self._value.reveal().hex(),
            "enabled": self.enabled,
            "tries_left": self.tries_left,
            "puk_tries_left": self.puk_tries_left,
        }

    def recall(self, memory: Mapping[str, object]) -> None:
        """Take back what ``remember`` gave; ``ValueError`` or ``KeyError`` if it is something else."""
        tries, puk_tries, enabled = memory["tries_left"], memory["puk_tries_left"], memory["enabled"]
        value = bytes.fromhex(str(memory["value"]))
        if not (type(tries) is type(puk_tries) is int and type(enabled) is bool and len(value) == _LENGTH):
            raise ValueError("the PIN's memory is wrong")
        self._value, self.enabled = Secret(value), enabled
        self.tries_left, self.puk_tries_left = min(max(tries, 0), 15), min(max(puk_tries, 0), 15)

    def verify(self, data: bytes) -> int:
        """VERIFY PIN."""
        if not self.enabled:
            return _DISABLED
        return self._check(data) or _DONE

    def change(self, data: bytes) -> int:
        """CHANGE PIN: old and new."""
        if not self.enabled:
            return _DISABLED
        if len(data) != 2 * _LENGTH:
            return _WRONG_LENGTH
        if (refusal := self._check(data[:_LENGTH])) is not None:
            return refusal
        self._value = Secret(data[_LENGTH:])
        return _DONE

    def disable(self, data: bytes) -> int:
        """DISABLE PIN."""
        return self._switch(data, on=False)

    def enable(self, data: bytes) -> int:
        """ENABLE PIN."""
        return self._switch(data, on=True)

    def unblock(self, data: bytes) -> int:
        """UNBLOCK PIN: PUK and new PIN, which is enabled then."""
        if self.puk_tries_left == 0 or self._puk is None:
            return _BLOCKED
        if not data:
            return _TRIES_LEFT | self.puk_tries_left
        if len(data) != 2 * _LENGTH:
            return _WRONG_LENGTH
        if not hmac.compare_digest(data[:_LENGTH], self._puk.reveal()):
            self.puk_tries_left -= 1
            return _TRIES_LEFT | self.puk_tries_left if self.puk_tries_left else _BLOCKED
        self._value, self.puk_tries_left, self.tries_left = Secret(data[_LENGTH:]), _PUK_TRIES, self._tries
        self.enabled = self.verified = True
        return _DONE

    def _switch(self, data: bytes, *, on: bool) -> int:
        if self.enabled == on:
            return _NOT_NOW if on else _DISABLED
        refusal = self._check(data)
        if refusal is None:
            self.enabled = on
        return refusal or _DONE

    def _check(self, data: bytes) -> int | None:
        """Compare the PIN and count; ``None`` if it is right."""
        if self.tries_left == 0:
            return _BLOCKED
        if not data:
            return _TRIES_LEFT | self.tries_left
        if len(data) != _LENGTH:
            return _WRONG_LENGTH
        if hmac.compare_digest(data, self._value.reveal()):
            self.tries_left, self.verified = self._tries, True
            return None
        self.tries_left, self.verified = self.tries_left - 1, False
        _log.info("wrong PIN, %d tries left", self.tries_left)
        return _TRIES_LEFT | self.tries_left


def _padded(digits: Secret[str]) -> Secret[bytes]:
    return Secret(digits.reveal().encode().ljust(_LENGTH, b"\xff"))
