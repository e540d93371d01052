"""Bencoding (BitTorrent BEP 3), as the NG protocol uses it: strings are text, dictionaries keep their order.

Octets that are no UTF-8 pass through text unharmed (``surrogateescape``).  Reading is linear in the message and
bounded in size, depth and number of values.
"""

from __future__ import annotations

from network_edge.eims_agw.wire.errors import NgError

type Value = int | str | list[Value] | dict[str, Value]

MAX_OCTETS = 65535
"""Longest message read: a UDP datagram."""
MAX_DEPTH = 16
MAX_VALUES = 8192
_MAX_DIGITS = 19
_CLAUSE = "BEP 3"


def encode(value: Value) -> bytes:
    """Return the bencoding; keys are sorted, as BEP 3 wants them."""
    parts: list[bytes] = []
    _encode(value, parts)
    return b"".join(parts)


def _encode(value: Value, parts: list[bytes]) -> None:
    if isinstance(value, str):
        octets = value.encode("utf-8", "surrogateescape")
        parts += (b"%d:" % len(octets), octets)
    elif isinstance(value, int):
        parts.append(b"i%de" % value)
    elif isinstance(value, list):
        parts.append(b"l")
        for item in value:
            _encode(item, parts)
        parts.append(b"e")
    else:
        parts.append(b"d")
        for key, name in sorted((key.encode("utf-8", "surrogateescape"), key) for key in value):
            parts += (b"%d:" % len(key), key)
            _encode(value[name], parts)
        parts.append(b"e")


def decode(data: bytes) -> Value:
    """Read one value that fills ``data``; ``NgError`` when it is no bencoding or exceeds a bound."""
    if len(data) > MAX_OCTETS:
        raise NgError(f"{len(data)} octets", clause=f"limit of {MAX_OCTETS}")
    reader = _Reader(data)
    value = reader.value(0)
    if reader.at != len(data):
        raise reader.error("octets after the value")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._values = 0
        self.at = 0

    def error(self, what: str) -> NgError:
        return NgError(what, f"octet {self.at}", _CLAUSE)

    def value(self, depth: int) -> Value:
        self._values += 1
        if self._values > MAX_VALUES or depth > MAX_DEPTH:
            raise self.error(f"more than {MAX_VALUES} values or {MAX_DEPTH} levels")
        kind = self._data[self.at : self.at + 1]
        if kind == b"i":
            self.at += 1
            return self._number(b"e", signed=True)
        if kind == b"l":
            self.at += 1
            items: list[Value] = []
            while not self._end():
                items.append(self.value(depth + 1))
            return items
        if kind == b"d":
            self.at += 1
            members: dict[str, Value] = {}
            while not self._end():
                key = self._text()
                members[key] = self.value(depth + 1)
            return members
        return self._text()

    def _end(self) -> bool:
        if self._data[self.at : self.at + 1] == b"e":
            self.at += 1
            return True
        if self.at >= len(self._data):
            raise self.error("it ends inside a list or dictionary")
        return False

    def _number(self, end: bytes, *, signed: bool) -> int:
        stop = self._data.find(end, self.at, self.at + _MAX_DIGITS + 2)
        digits = self._data[self.at : stop] if stop >= 0 else b""
        bare = digits.removeprefix(b"-") if signed else digits
        if not bare.isdigit() or len(bare) > _MAX_DIGITS:
            raise self.error("no number here")
        self.at = stop + 1
        return int(digits)

    def _text(self) -> str:
        if not self._data[self.at : self.at + 1].isdigit():
            raise self.error("no string here")
        length = self._number(b":", signed=False)
        if length > len(self._data) - self.at:
            raise self.error(f"a string of {length} octets, with {len(self._data) - self.at} left")
        octets = self._data[self.at : self.at + length]
        self.at += length
        return octets.decode("utf-8", "surrogateescape")
