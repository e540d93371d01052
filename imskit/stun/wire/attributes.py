"""All STUN and TURN attributes as one table (RFC 8489 14, RFC 8656 18, RFC 8445 16.1).

Adding an attribute is one line: ``NAME = _attribute(code, "NAME", pack, unpack)``.  A descriptor is called to make
a field, ``LIFETIME(600)``, and handed to ``Message.get`` to read one, with its type: ``message.get(LIFETIME)``.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from imskit.stun.wire.errors import StunError

type Address = tuple[str, int]
"""IP address in its canonical text form, and port."""

MAGIC_COOKIE = 0x2112A442
COMPREHENSION_OPTIONAL = 0x8000
"""Types from here up may be ignored by who does not know them (RFC 8489 14)."""

_COOKIE = MAGIC_COOKIE.to_bytes(4)


@dataclass(frozen=True, slots=True)
class Field:
    """One attribute of a message: its type and decoded value; unknown types carry their bytes."""

    code: int
    value: Any

    def __repr__(self) -> str:
        # Values may be user names and payloads; types are enough for a log.
        known = TABLE.get(self.code)
        return known.name if known else f"0x{self.code:04X}"


@dataclass(frozen=True, slots=True, eq=False)
class Attribute[T]:
    """One row of the table: how a type is called and coded.  ``pack`` and ``unpack`` get the transaction id too."""

    code: int
    name: str
    pack: Callable[[T, bytes], bytes]
    unpack: Callable[[bytes, bytes], T]

    def __call__(self, value: T) -> Field:
        """Return a field with this type and ``value``."""
        return Field(self.code, value)

    @property
    def required(self) -> bool:
        """Whether a receiver that does not know the type must refuse the request (RFC 8489 14)."""
        return self.code < COMPREHENSION_OPTIONAL


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """ERROR-CODE: 300 to 699 and a phrase for people (RFC 8489 14.8)."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class AddressErrorCode:
    """ADDRESS-ERROR-CODE: why a family was not allocated (RFC 8656 18.12); ``family`` is 4 or 6."""

    family: int
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class PasswordAlgorithm:
    """An entry of PASSWORD-ALGORITHMS (RFC 8489 14.11): 1 is MD5, 2 is SHA-256."""

    number: int
    parameters: bytes = b""


@dataclass(frozen=True, slots=True)
class Icmp:
    """ICMP: type, code and error data of a packet that answered a relayed datagram (RFC 8656 18.13)."""

    type: int
    code: int
    data: bytes = bytes(4)


TABLE: dict[int, Attribute[Any]] = {}
"""Every attribute that this project knows, by type."""


def _attribute[T](
    code: int, name: str, pack: Callable[[T, bytes], bytes], unpack: Callable[[bytes, bytes], T]
) -> Attribute[T]:
    attribute = Attribute(code, name, pack, unpack)
    TABLE[code] = attribute
    return attribute


def _malformed(what: str, clause: str) -> StunError:
    # ``parse_message`` adds the place and the answer, which a value's decoder cannot know.
    return StunError(what, where="attribute", clause=clause)


def _exactly(data: bytes, length: int, clause: str) -> bytes:
    if len(data) != length:
        raise _malformed(f"value of {len(data)} bytes, must be {length}", clause)
    return data


# --- addresses (RFC 8489 14.1, 14.2) ---------------------------------------------------------------------------


def _pack_address(value: Address, transaction_id: bytes) -> bytes:
    host = ipaddress.ip_address(value[0])
    return struct.pack("!BBH", 0, 1 if host.version == 4 else 2, value[1]) + host.packed


def _unpack_address(data: bytes, transaction_id: bytes) -> Address:
    if len(data) < 4:
        raise _malformed("address shorter than its header", "RFC 8489 14.1")
    family, port = data[1], int.from_bytes(data[2:4])
    if family == 1 and len(data) == 8:
        return str(ipaddress.IPv4Address(data[4:])), port
    if family == 2 and len(data) == 20:
        return str(ipaddress.IPv6Address(data[4:])), port
    raise _malformed(f"address of family {family} and {len(data) - 4} bytes", "RFC 8489 14.1")


def _xor(data: bytes, transaction_id: bytes) -> bytes:
    """Apply the XOR of XOR-MAPPED-ADDRESS to port and address; it is its own inverse (RFC 8489 14.2)."""
    mask = (bytes(2) + _COOKIE[:2] + _COOKIE + transaction_id)[: len(data)]
    return (int.from_bytes(data) ^ int.from_bytes(mask)).to_bytes(len(data))


def _pack_xor_address(value: Address, transaction_id: bytes) -> bytes:
    return _xor(_pack_address(value, transaction_id), transaction_id)


def _unpack_xor_address(data: bytes, transaction_id: bytes) -> Address:
    if len(data) not in (8, 20):
        raise _malformed(f"address of {len(data)} bytes, must be 8 or 20", "RFC 8489 14.2")
    return _unpack_address(_xor(data, transaction_id), transaction_id)


# --- text, numbers, flags --------------------------------------------------------------------------------------


def _text(
    limit: int, clause: str, errors: str = "strict"
) -> tuple[Callable[[str, bytes], bytes], Callable[[bytes, bytes], str]]:
    """UTF-8 text of at most ``limit`` bytes (what a receiver must still take, RFC 8489 14.3)."""

    def pack(value: str, transaction_id: bytes) -> bytes:
        data = value.encode()
        if len(data) > limit:
            raise ValueError(f"text of {len(data)} bytes, at most {limit} ({clause})")
        return data

    def unpack(data: bytes, transaction_id: bytes) -> str:
        if len(data) > limit:
            raise _malformed(f"text of {len(data)} bytes, at most {limit}", clause)
        try:
            return data.decode(errors=errors)
        except UnicodeDecodeError:
            raise _malformed("text is not UTF-8", clause) from None

    return pack, unpack


def _number(
    length: int, width: int, clause: str
) -> tuple[Callable[[int, bytes], bytes], Callable[[bytes, bytes], int]]:
    """A number in the first ``width`` bytes of a value of ``length``; the rest is reserved, ignored on reception."""

    def pack(value: int, transaction_id: bytes) -> bytes:
        return value.to_bytes(width) + bytes(length - width)

    def unpack(data: bytes, transaction_id: bytes) -> int:
        return int.from_bytes(_exactly(data, length, clause)[:width])

    return pack, unpack


def _opaque(clause: str, *lengths: int) -> tuple[Callable[[bytes, bytes], bytes], Callable[[bytes, bytes], bytes]]:
    """Bytes as they are; with ``lengths``, of one of these."""

    def check(data: bytes, transaction_id: bytes) -> bytes:
        if lengths and len(data) not in lengths:
            raise _malformed(f"value of {len(data)} bytes, must be one of {lengths}", clause)
        return bytes(data)

    return check, check


def _flag(clause: str) -> tuple[Callable[[bool, bytes], bytes], Callable[[bytes, bytes], bool]]:
    """An attribute without a value: it is there or not."""

    def pack(value: bool, transaction_id: bytes) -> bytes:
        return b""

    def unpack(data: bytes, transaction_id: bytes) -> bool:
        _exactly(data, 0, clause)
        return True

    return pack, unpack


def _pack_family(value: int, transaction_id: bytes) -> bytes:
    return bytes([{4: 1, 6: 2}.get(value, -value), 0, 0, 0])


def _unpack_family(data: bytes, transaction_id: bytes) -> int:
    """4, 6, or the negative of a value that no one has defined, which the server answers with 440."""
    family = _exactly(data, 4, "RFC 8656 18.6")[0]
    return {1: 4, 2: 6}.get(family, -family)


def _pack_even_port(value: bool, transaction_id: bytes) -> bytes:
    return b"\x80" if value else b"\x00"


def _unpack_even_port(data: bytes, transaction_id: bytes) -> bool:
    return bool(_exactly(data, 1, "RFC 8656 18.7")[0] & 0x80)


# --- errors and algorithms -------------------------------------------------------------------------------------

_MAX_PHRASE = 763  # bytes; RFC 8489 14.8


def _pack_error(value: ErrorCode, transaction_id: bytes) -> bytes:
    return struct.pack("!HBB", 0, value.code // 100, value.code % 100) + value.reason.encode()


def _unpack_error(data: bytes, transaction_id: bytes) -> ErrorCode:
    if len(data) < 4 or len(data) > 4 + _MAX_PHRASE:
        raise _malformed(f"error code of {len(data)} bytes", "RFC 8489 14.8")
    hundreds, rest = data[2] & 7, data[3]
    if not 3 <= hundreds <= 6 or rest > 99:
        raise _malformed(f"error class {hundreds}, number {rest}", "RFC 8489 14.8")
    # The phrase is for people only: a bad byte in it is no reason to lose the code.
    return ErrorCode(hundreds * 100 + rest, data[4:].decode(errors="replace"))


def _pack_address_error(value: AddressErrorCode, transaction_id: bytes) -> bytes:
    packed = bytearray(_pack_error(ErrorCode(value.code, value.reason), transaction_id))
    packed[0] = 1 if value.family == 4 else 2
    return bytes(packed)


def _unpack_address_error(data: bytes, transaction_id: bytes) -> AddressErrorCode:
    error = _unpack_error(data, transaction_id)
    return AddressErrorCode({1: 4, 2: 6}.get(data[0], -data[0]), error.code, error.reason)


def _pack_unknown(value: tuple[int, ...], transaction_id: bytes) -> bytes:
    return struct.pack(f"!{len(value)}H", *value)


def _unpack_unknown(data: bytes, transaction_id: bytes) -> tuple[int, ...]:
    if len(data) % 2:
        raise _malformed("odd number of bytes in a list of types", "RFC 8489 14.13")
    return struct.unpack(f"!{len(data) // 2}H", data)


def _pack_algorithms(value: tuple[PasswordAlgorithm, ...], transaction_id: bytes) -> bytes:
    packed = b""
    for entry in value:
        padding = bytes(-len(entry.parameters) % 4)
        packed += struct.pack("!HH", entry.number, len(entry.parameters)) + entry.parameters + padding
    return packed


def _unpack_algorithms(data: bytes, transaction_id: bytes) -> tuple[PasswordAlgorithm, ...]:
    entries, position = [], 0
    while position < len(data):
        if len(data) - position < 4:
            raise _malformed("truncated algorithm", "RFC 8489 14.11")
        number, length = struct.unpack_from("!HH", data, position)
        end = position + 4 + length
        if end > len(data):
            raise _malformed("algorithm parameters longer than the value", "RFC 8489 14.11")
        entries.append(PasswordAlgorithm(number, bytes(data[position + 4 : end])))
        position = end + -length % 4
    return tuple(entries)


def _pack_algorithm(value: PasswordAlgorithm, transaction_id: bytes) -> bytes:
    return _pack_algorithms((value,), transaction_id)


def _unpack_algorithm(data: bytes, transaction_id: bytes) -> PasswordAlgorithm:
    entries = _unpack_algorithms(data, transaction_id)
    if len(entries) != 1:
        raise _malformed(f"{len(entries)} algorithms, must be one", "RFC 8489 14.12")
    return entries[0]


def _pack_icmp(value: Icmp, transaction_id: bytes) -> bytes:
    return struct.pack("!HBB4s", 0, value.type, value.code, value.data)


def _unpack_icmp(data: bytes, transaction_id: bytes) -> Icmp:
    _, kind, code, rest = struct.unpack("!HBB4s", _exactly(data, 8, "RFC 8656 18.13"))
    return Icmp(kind, code, rest)


# --- the table -------------------------------------------------------------------------------------------------

MAPPED_ADDRESS = _attribute(0x0001, "MAPPED-ADDRESS", _pack_address, _unpack_address)
USERNAME = _attribute(0x0006, "USERNAME", *_text(763, "RFC 8489 14.3"))
MESSAGE_INTEGRITY = _attribute(0x0008, "MESSAGE-INTEGRITY", *_opaque("RFC 8489 14.5", 20))
ERROR_CODE = _attribute(0x0009, "ERROR-CODE", _pack_error, _unpack_error)
UNKNOWN_ATTRIBUTES = _attribute(0x000A, "UNKNOWN-ATTRIBUTES", _pack_unknown, _unpack_unknown)
CHANNEL_NUMBER = _attribute(0x000C, "CHANNEL-NUMBER", *_number(4, 2, "RFC 8656 18.1"))
LIFETIME = _attribute(0x000D, "LIFETIME", *_number(4, 4, "RFC 8656 18.2"))
XOR_PEER_ADDRESS = _attribute(0x0012, "XOR-PEER-ADDRESS", _pack_xor_address, _unpack_xor_address)
DATA = _attribute(0x0013, "DATA", *_opaque("RFC 8656 18.4"))
REALM = _attribute(0x0014, "REALM", *_text(763, "RFC 8489 14.9"))
NONCE = _attribute(0x0015, "NONCE", *_text(763, "RFC 8489 14.10"))
XOR_RELAYED_ADDRESS = _attribute(0x0016, "XOR-RELAYED-ADDRESS", _pack_xor_address, _unpack_xor_address)
REQUESTED_ADDRESS_FAMILY = _attribute(0x0017, "REQUESTED-ADDRESS-FAMILY", _pack_family, _unpack_family)
EVEN_PORT = _attribute(0x0018, "EVEN-PORT", _pack_even_port, _unpack_even_port)
REQUESTED_TRANSPORT = _attribute(0x0019, "REQUESTED-TRANSPORT", *_number(4, 1, "RFC 8656 18.8"))
DONT_FRAGMENT = _attribute(0x001A, "DONT-FRAGMENT", *_flag("RFC 8656 18.9"))
MESSAGE_INTEGRITY_SHA256 = _attribute(0x001C, "MESSAGE-INTEGRITY-SHA256", *_opaque("RFC 8489 14.6", 32))
PASSWORD_ALGORITHM = _attribute(0x001D, "PASSWORD-ALGORITHM", _pack_algorithm, _unpack_algorithm)
USERHASH = _attribute(0x001E, "USERHASH", *_opaque("RFC 8489 14.4", 32))
XOR_MAPPED_ADDRESS = _attribute(0x0020, "XOR-MAPPED-ADDRESS", _pack_xor_address, _unpack_xor_address)
RESERVATION_TOKEN = _attribute(0x0022, "RESERVATION-TOKEN", *_opaque("RFC 8656 18.10", 8))
PRIORITY = _attribute(0x0024, "PRIORITY", *_number(4, 4, "RFC 8445 16.1"))
USE_CANDIDATE = _attribute(0x0025, "USE-CANDIDATE", *_flag("RFC 8445 16.1"))
ADDITIONAL_ADDRESS_FAMILY = _attribute(0x8000, "ADDITIONAL-ADDRESS-FAMILY", _pack_family, _unpack_family)
ADDRESS_ERROR_CODE = _attribute(0x8001, "ADDRESS-ERROR-CODE", _pack_address_error, _unpack_address_error)
PASSWORD_ALGORITHMS = _attribute(0x8002, "PASSWORD-ALGORITHMS", _pack_algorithms, _unpack_algorithms)
ALTERNATE_DOMAIN = _attribute(0x8003, "ALTERNATE-DOMAIN", *_text(255, "RFC 8489 14.16"))
ICMP = _attribute(0x8004, "ICMP", _pack_icmp, _unpack_icmp)
SOFTWARE = _attribute(0x8022, "SOFTWARE", *_text(763, "RFC 8489 14.14", errors="replace"))
ALTERNATE_SERVER = _attribute(0x8023, "ALTERNATE-SERVER", _pack_address, _unpack_address)
FINGERPRINT = _attribute(0x8028, "FINGERPRINT", *_number(4, 4, "RFC 8489 14.7"))
ICE_CONTROLLED = _attribute(0x8029, "ICE-CONTROLLED", *_number(8, 8, "RFC 8445 16.1"))
ICE_CONTROLLING = _attribute(0x802A, "ICE-CONTROLLING", *_number(8, 8, "RFC 8445 16.1"))
