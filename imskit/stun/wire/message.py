"""STUN messages: parse, build, message integrity, fingerprint (RFC 8489 5, 6, 7, 14)."""

from __future__ import annotations

import enum
import hmac
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from imskit.secrets import Secret
from imskit.stun.wire.attributes import (
    COMPREHENSION_OPTIONAL,
    FINGERPRINT,
    MAGIC_COOKIE,
    MESSAGE_INTEGRITY,
    MESSAGE_INTEGRITY_SHA256,
    TABLE,
    Attribute,
    Field,
)
from imskit.stun.wire.errors import StunError

HEADER_LENGTH = 20
_HEADER = struct.Struct("!HHI12s")
_TYPE_AND_LENGTH = struct.Struct("!HH")
_FINGERPRINT_XOR = 0x5354554E

_SHA1_FIELD = 4 + 20  # bytes of a whole MESSAGE-INTEGRITY attribute
_FINGERPRINT_FIELD = 4 + 4


class Method(enum.IntEnum):
    """Methods of RFC 8489 18.2 and RFC 8656 17; others are kept as plain numbers."""

    BINDING = 0x001
    ALLOCATE = 0x003
    REFRESH = 0x004
    SEND = 0x006
    DATA = 0x007
    CREATE_PERMISSION = 0x008
    CHANNEL_BIND = 0x009


class MessageClass(enum.IntEnum):
    """The two class bits of the message type (RFC 8489 5)."""

    REQUEST = 0
    INDICATION = 1
    SUCCESS = 2
    ERROR = 3


@dataclass(frozen=True, slots=True)
class Message:
    """A STUN message; ``attributes`` in order, after parsing only those that a receiver may look at."""

    message_class: MessageClass
    method: int
    transaction_id: bytes
    """12 bytes."""
    attributes: tuple[Field, ...] = ()
    raw: bytes = b""
    """The message as received; empty for one that was built here."""
    sha1_at: int = 0
    """Where MESSAGE-INTEGRITY begins in ``raw``, 0 for nowhere."""
    sha256_at: int = 0
    """Where MESSAGE-INTEGRITY-SHA256 begins in ``raw``, 0 for nowhere."""
    fingerprint: bool = False
    """Whether a received message ended with FINGERPRINT; so should its answer."""

    def get[T](self, attribute: Attribute[T]) -> T | None:
        """Return the value of the first such attribute (RFC 8489 14: later ones are ignored), or ``None``."""
        for field in self.attributes:
            if field.code == attribute.code:
                value: T = field.value
                return value
        return None

    def get_all[T](self, attribute: Attribute[T]) -> list[T]:
        """Return the values of all such attributes in order."""
        return [field.value for field in self.attributes if field.code == attribute.code]

    def __contains__(self, attribute: Attribute[Any]) -> bool:
        return any(field.code == attribute.code for field in self.attributes)

    @property
    def unknown_required(self) -> tuple[int, ...]:
        """Comprehension-required types that this project does not know: the list of a 420 (RFC 8489 6.3.1)."""
        codes = (field.code for field in self.attributes)
        return tuple(dict.fromkeys(c for c in codes if c < COMPREHENSION_OPTIONAL and c not in TABLE))

    def verify(self, key: Secret[bytes]) -> bool:
        """Check the integrity of a received message, MESSAGE-INTEGRITY-SHA256 first (RFC 8489 9.2.4).

        ``False`` also where the message carries neither attribute.  The comparison takes constant time.
        """
        if self.sha256_at:
            sent = self.get(MESSAGE_INTEGRITY_SHA256) or b""
            return hmac.compare_digest(_hmac(self.raw, self.sha256_at, len(sent), key, "sha256"), sent)
        if self.sha1_at:
            sent = self.get(MESSAGE_INTEGRITY) or b""
            return hmac.compare_digest(_hmac(self.raw, self.sha1_at, len(sent), key, "sha1"), sent)
        return False

    def encode(
        self, *, sha1: Secret[bytes] | None = None, sha256: Secret[bytes] | None = None, fingerprint: bool = False
    ) -> bytes:
        """Return the bytes; with a key, the integrity attribute made with it follows, then FINGERPRINT if asked.

        Raises ``ValueError`` where a value does not fit its attribute: a mistake of the caller.
        """
        body = bytearray()
        for field in self.attributes:
            attribute = TABLE.get(field.code)
            value = attribute.pack(field.value, self.transaction_id) if attribute else field.value
            body += _TYPE_AND_LENGTH.pack(field.code, len(value)) + value + bytes(-len(value) % 4)
        message = bytearray(_HEADER.pack(_message_type(self), len(body), MAGIC_COOKIE, self.transaction_id) + body)
        if sha1 is not None:
            _append(message, MESSAGE_INTEGRITY.code, _hmac(message, len(message), 20, sha1, "sha1"))
        if sha256 is not None:
            _append(message, MESSAGE_INTEGRITY_SHA256.code, _hmac(message, len(message), 32, sha256, "sha256"))
        if fingerprint:
            _append(message, FINGERPRINT.code, _crc(message, len(message)).to_bytes(4))
        return bytes(message)

    def __repr__(self) -> str:
        method = Method(self.method).name if self.method in _METHODS else f"0x{self.method:03x}"
        fields = " ".join(repr(field) for field in self.attributes)
        return f"<{method} {self.message_class.name} {self.transaction_id.hex()} {fields}>"


_METHODS = frozenset(Method)


def request(method: int, transaction_id: bytes, attributes: Iterable[Field] = ()) -> Message:
    """Build a request."""
    return Message(MessageClass.REQUEST, method, transaction_id, tuple(attributes))


def indication(method: int, transaction_id: bytes, attributes: Iterable[Field] = ()) -> Message:
    """Build an indication."""
    return Message(MessageClass.INDICATION, method, transaction_id, tuple(attributes))


def is_stun(data: bytes) -> bool:
    """Tell by first byte, length and cookie whether ``data`` looks like STUN (RFC 7983 7, RFC 8489 6.3)."""
    return len(data) >= HEADER_LENGTH and data[0] < 4 and data[4:8] == MAGIC_COOKIE.to_bytes(4)


def parse_message(data: bytes) -> Message:
    """Parse exactly one STUN message.

    Attributes after MESSAGE-INTEGRITY are left out, but for the SHA-256 one and FINGERPRINT (RFC 8489 14.5, 14.6).
    Unknown attributes stay, as bytes: see ``Message.unknown_required``.  A FINGERPRINT, if there, must be right.
    Integrity is checked by ``verify``.  Linear in the length of ``data``, which is bounded by the datagram's size.

    Raises ``StunError``: with code 400 for a request with a bad attribute, else to be dropped.
    """
    if len(data) < HEADER_LENGTH:
        raise StunError(f"{len(data)} bytes, a header has 20", where="header", clause="RFC 8489 5")
    message_type, length, cookie, transaction_id = _HEADER.unpack_from(data)
    if message_type & 0xC000:
        raise StunError("first two bits are not zero", where="header", clause="RFC 8489 5")
    if cookie != MAGIC_COOKIE:
        raise StunError("no magic cookie", where="header", clause="RFC 8489 5")
    if length % 4 or length != len(data) - HEADER_LENGTH:
        raise StunError(f"length {length} in {len(data)} bytes", where="header", clause="RFC 8489 5")
    message_class = MessageClass((message_type >> 4 & 1) | (message_type >> 7 & 2))
    method = message_type & 0xF | message_type >> 1 & 0x70 | message_type >> 2 & 0xF80
    try:
        fields, sha1_at, sha256_at, fingerprint = _parse_attributes(bytes(data), transaction_id)
    except StunError as error:
        # Only a request is answered; a bad fingerprint means that this may be no STUN at all (RFC 8489 6.3).
        if message_class is MessageClass.REQUEST and error.where != FINGERPRINT.name:
            error.code, error.method, error.transaction_id = 400, method, transaction_id
        raise
    return Message(message_class, method, transaction_id, fields, bytes(data), sha1_at, sha256_at, fingerprint)


def _parse_attributes(data: bytes, transaction_id: bytes) -> tuple[tuple[Field, ...], int, int, bool]:
    fields: list[Field] = []
    position, sha1_at, sha256_at = HEADER_LENGTH, 0, 0
    while position < len(data):
        # The header's length is a multiple of 4 and every step is one too, so four bytes are always there.
        code, length = _TYPE_AND_LENGTH.unpack_from(data, position)
        start, end = position + 4, position + 4 + length
        if end > len(data):
            raise StunError(
                f"{length} bytes announced, {len(data) - start} left", where=_name(code), clause="RFC 8489 14"
            )
        attribute = TABLE.get(code)
        if code == FINGERPRINT.code:
            _check_fingerprint(data, position, data[start:end])
            return tuple(fields), sha1_at, sha256_at, True
        after_integrity = sha256_at or (sha1_at and code != MESSAGE_INTEGRITY_SHA256.code)
        if not after_integrity:
            if attribute is None:
                fields.append(Field(code, data[start:end]))
            else:
                try:
                    fields.append(Field(code, attribute.unpack(data[start:end], transaction_id)))
                except StunError as error:
                    raise StunError(error.what, where=attribute.name, clause=error.clause) from None
            if code == MESSAGE_INTEGRITY.code:
                sha1_at = position
            elif code == MESSAGE_INTEGRITY_SHA256.code:
                sha256_at = position
        position = end + -length % 4
    return tuple(fields), sha1_at, sha256_at, False


def _check_fingerprint(data: bytes, position: int, value: bytes) -> None:
    if position + _FINGERPRINT_FIELD != len(data) or len(value) != 4:
        raise StunError("not the last attribute", where=FINGERPRINT.name, clause="RFC 8489 14.7")
    if int.from_bytes(value) != _crc(data, position):
        raise StunError("wrong checksum", where=FINGERPRINT.name, clause="RFC 8489 14.7")


def _name(code: int) -> str:
    attribute = TABLE.get(code)
    return attribute.name if attribute else f"attribute 0x{code:04X}"


def _message_type(message: Message) -> int:
    """Interleave method and class bits (RFC 8489 figure 3)."""
    method, message_class = message.method, message.message_class
    bits = method & 0xF | (method & 0x70) << 1 | (method & 0xF80) << 2
    return bits | (message_class & 1) << 4 | (message_class & 2) << 7


def _append(message: bytearray, code: int, value: bytes) -> None:
    message += _TYPE_AND_LENGTH.pack(code, len(value)) + value
    message[2:4] = (len(message) - HEADER_LENGTH).to_bytes(2)


def _hmac(data: bytes | bytearray, position: int, length: int, key: Secret[bytes], algorithm: str) -> bytes:
    """HMAC of what precedes ``position``, the header's length counting the attribute itself (RFC 8489 14.5, 14.6)."""
    through = position - HEADER_LENGTH + 4 + length
    text = bytes(data[:2]) + through.to_bytes(2) + bytes(data[4:position])
    return hmac.digest(key.reveal(), text, algorithm)[:length]


def _crc(data: bytes | bytearray, position: int) -> int:
    """CRC-32 of what precedes ``position``, the header's length counting FINGERPRINT itself (RFC 8489 14.7)."""
    through = position - HEADER_LENGTH + _FINGERPRINT_FIELD
    return zlib.crc32(bytes(data[:2]) + through.to_bytes(2) + bytes(data[4:position])) ^ _FINGERPRINT_XOR
