"""Types for what must never be printed: keys and identities.

``repr``, ``str``, ``format`` and a traceback show ``<redacted>``; ``reveal()`` is the one way out, so that
``grep reveal`` lists every place where a secret or an identity leaves its wrapper.
"""

from __future__ import annotations

import hmac
from typing import Never

_REDACTED = "<redacted>"


class Secret[T: (bytes, str)]:
    """A key, response, token or password: K, OPc, RES, CK, IK, PIN, TURN password.

    Comparison is constant-time; hashing and pickling are refused.
    """

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value: T = value

    def reveal(self) -> T:
        """Return the value itself; keep it out of logs, errors and argument lists."""
        return self._value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_as_bytes(self._value), _as_bytes(other._value))

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return _REDACTED

    def __str__(self) -> str:
        return _REDACTED

    def __format__(self, spec: str) -> str:
        return _REDACTED

    def __copy__(self) -> Secret[T]:
        return self

    def __deepcopy__(self, memo: object) -> Secret[T]:
        return self

    def __reduce__(self) -> Never:
        raise TypeError("a Secret is not pickled")


class Identity(str):
    """An IMSI, IMPI, IMPU, MSISDN or IMEI: usable as text, shown shortened in ``repr``.

    ``str.__str__`` stays the value (protocol code needs it); log it with ``%r`` or ``.masked``.
    """

    __slots__ = ()

    @property
    def masked(self) -> str:
        """The value with its middle hidden, enough to tell two subscribers apart in a log."""
        scheme, colon, rest = self.rpartition(":")
        user, at, host = rest.partition("@")
        shown = user[:3] + "…" + user[-2:] if len(user) > 6 else "…"
        return f"{scheme}{colon}{shown}{at}{host}"

    def __repr__(self) -> str:
        return f"<{self.masked}>"


def _as_bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else value
