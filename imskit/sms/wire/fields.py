"""Pieces of short messages: numbers in semi-octets, addresses, time stamps, the data coding scheme.

TS 23.040 clauses 9.1.2.3 to 9.1.2.5, 9.2.3.10, 9.2.3.11; TS 23.038 clause 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum

from imskit.sms.wire import gsm7
from imskit.sms.wire.errors import SmsError

_DIGITS = "0123456789*#abc"
_INTERNATIONAL, _UNKNOWN, _ALPHANUMERIC = 0x91, 0x81, 0xD0
MAXIMUM_DIGITS = 20
"""Of an address (clause 9.1.2.5)."""


class Reader:
    """Octets that are read one piece after the other; ``SmsError`` where they end too soon."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def octet(self) -> int:
        """Return the next octet."""
        return self.take(1)[0]

    def take(self, count: int) -> bytes:
        """Return the next octets."""
        end = self._position + count
        if end > len(self._data):
            raise SmsError(f"octet {len(self._data)}: {count} more were to come", "TS 23.040 clause 9", cause=96)
        piece = self._data[self._position : end]
        self._position = end
        return piece

    def rest(self) -> bytes:
        """Return what is left."""
        return self.take(len(self._data) - self._position)

    @property
    def left(self) -> int:
        """How many octets are left."""
        return len(self._data) - self._position


@dataclass(frozen=True, slots=True)
class Number:
    """An address: ``+15550100``, a national or short number, or letters (from the network only)."""

    text: str
    alphanumeric: bool = False

    def encode(self) -> bytes:
        """Return length, type and digits as in a TPDU; ``SmsError`` for what is no number."""
        if self.alphanumeric:
            codes = gsm7.encode(self.text)
            if codes is None or not 1 <= sum(map(len, codes)) <= 11:
                raise SmsError(f"{self.text!r} is no name of 11 characters", "TS 23.040 clause 9.1.2.5")
            packed = gsm7.pack(bytes(code for pair in codes for code in pair))
            return bytes((2 * len(packed), _ALPHANUMERIC)) + packed
        digits = self.text.removeprefix("+")
        return bytes((len(digits), self._type)) + semi_octets(digits)

    def encode_rp(self) -> bytes:
        """Return length and value as in RP (TS 24.011 clause 8.2.5.1): the length counts octets."""
        digits = semi_octets(self.text.removeprefix("+"))
        return bytes((1 + len(digits), self._type)) + digits

    @property
    def _type(self) -> int:
        return _INTERNATIONAL if self.text.startswith("+") else _UNKNOWN

    @classmethod
    def read(cls, reader: Reader) -> Number:
        """Read an address of a TPDU."""
        length, kind = reader.octet(), reader.octet()
        if length > MAXIMUM_DIGITS + 2:
            raise SmsError(f"an address of {length} digits", "TS 23.040 clause 9.1.2.5", cause=96)
        value = reader.take((length + 1) // 2)
        if kind & 0x70 == 0x50:
            return cls(gsm7.decode(gsm7.unpack(value, length * 4 // 7)), alphanumeric=True)
        return cls(("+" if kind & 0x70 == 0x10 else "") + digits_of(value)[:length])

    @classmethod
    def read_rp(cls, reader: Reader) -> Number | None:
        """Read an address of RP; ``None`` if it is empty."""
        length = reader.octet()
        if length == 0:
            return None
        kind = reader.octet()
        if length > 12:
            raise SmsError(f"an RP address of {length} octets", "TS 24.011 clause 8.2.5", cause=96)
        return cls(("+" if kind & 0x70 == 0x10 else "") + digits_of(reader.take(length - 1)))


def semi_octets(digits: str) -> bytes:
    """Return digits, two an octet, the first in the low half; ``SmsError`` for what is no digit, and for too many."""
    if not digits or len(digits) > MAXIMUM_DIGITS or any(digit not in _DIGITS for digit in digits):
        raise SmsError(f"{digits!r} is no number of 1 to {MAXIMUM_DIGITS} digits", "TS 23.040 clause 9.1.2.3")
    values = [_DIGITS.index(digit) for digit in digits] + [0xF] * (len(digits) % 2)
    return bytes(low | high << 4 for low, high in zip(values[::2], values[1::2], strict=True))


def digits_of(octets: bytes) -> str:
    """Return the digits in octets; a filler ends them."""
    digits = ""
    for octet in octets:
        for half in (octet & 0xF, octet >> 4):
            if half == 0xF:
                return digits
            digits += _DIGITS[half]
    return digits


def write_time(time: datetime) -> bytes:
    """Return a time stamp, local time with its zone (clause 9.2.3.11); without a zone it is UTC."""
    offset = time.utcoffset() or timedelta()
    quarters = round(offset.total_seconds() / 900)
    pairs = (time.year % 100, time.month, time.day, time.hour, time.minute, time.second, abs(quarters))
    octets = bytearray(value % 10 << 4 | value // 10 for value in pairs)
    if quarters < 0:
        octets[6] |= 0x08
    return bytes(octets)


def read_time(octets: bytes) -> datetime | None:
    """Return what a time stamp says, ``None`` if that is no time: the message counts all the same."""
    values = [(octet & 0xF) * 10 + (octet >> 4) for octet in octets[:6]]
    zone = octets[6]
    quarters = (zone & 0x7) * 10 + (zone >> 4)
    if zone & 0x08:
        quarters = -quarters
    year = values[0] + (2000 if values[0] < 90 else 1900)
    try:
        where = timezone(timedelta(minutes=15 * quarters)) if quarters else UTC
        return datetime(year, *values[1:6], tzinfo=where)  # type: ignore[arg-type,misc]
    except ValueError:
        return None


class Coding(Enum):
    """How the text of a message is written."""

    GSM7 = 0x00
    OCTETS = 0x04
    UCS2 = 0x08

    @classmethod
    def of(cls, scheme: int) -> Coding:
        """Return the alphabet of a data coding scheme (TS 23.038 clause 4); ``SmsError`` for a compressed text."""
        group = scheme >> 4
        if group < 8:
            if scheme & 0x20:
                raise SmsError("the text is compressed", "TS 23.042", cause=111)
            return {0: cls.GSM7, 1: cls.OCTETS, 2: cls.UCS2}.get(scheme >> 2 & 3, cls.GSM7)
        if group == 0xF:
            return cls.OCTETS if scheme & 0x04 else cls.GSM7
        return cls.UCS2 if group == 0xE else cls.GSM7
