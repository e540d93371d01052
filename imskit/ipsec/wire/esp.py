"""ESP packets of one association: sealed and opened (RFC 4303, 3602, 4106, 4543, 2404).

A transform holds the keys of one association and works in one direction.  Its order of work is RFC 4303's: the
integrity value is checked before anything inside the packet is looked at.  The replay window is the caller's, and
moves only after ``open`` has returned.

Initialisation vectors.  AES-GCM and AES-GMAC take SPI and sequence number: the four associations of an agreement
share a key and differ in SPI, a sequence number is used once, so no value comes twice.  For CBC they must be
unpredictable (RFC 3602 2.1): one cipher context lives as long as the association, and each packet begins with a block
of random octets; that block's ciphertext is the packet's vector.  On the way in, the block is deciphered and thrown
away.  The result is ordinary CBC and costs a tenth of a new context for every packet.
"""

from __future__ import annotations

import hmac as constant_time
from abc import ABC, abstractmethod
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from imskit.ipsec.algorithms import Encryption, Integrity
from imskit.ipsec.association import SecurityAssociation
from imskit.ipsec.errors import PacketRefused, Refusal

type RandomBytes = Callable[[int], bytes]
"""Returns ``n`` unpredictable octets."""

HEADER_BYTES = 8
HIGHEST_SEQUENCE = 0xFFFF_FFFF

_PADDING = [bytes(range(1, length + 1)) + bytes((length,)) for length in range(256)]
"""Padding and pad length, by the number of octets of padding (RFC 4303 2.4)."""


class Transform(ABC):
    """Seals or opens the packets of one association."""

    alignment: int
    """The sealed octets (payload, padding, pad length, next header) are a multiple of this."""
    vector_bytes: int
    icv_bytes: int

    def __init__(self, association: SecurityAssociation) -> None:
        self._spi = association.spi.to_bytes(4)

    @abstractmethod
    def seal(self, sequence: int, next_header: int, payload: bytes) -> bytes:
        """Return the ESP packet, from SPI to integrity value, that carries ``payload``."""

    def open(self, packet: bytes) -> tuple[int, bytes]:
        """Return next header and payload of an ESP packet; ``PacketRefused`` for one that is cut off or forged."""
        sealed = len(packet) - HEADER_BYTES - self.vector_bytes - self.icv_bytes
        if sealed < self.alignment or sealed % self.alignment:
            raise PacketRefused(Refusal.MALFORMED, f"an ESP packet of {len(packet)} octets", "RFC 4303 2")
        plain = self._open(packet)
        padding = plain[-2]
        end = len(plain) - 2 - padding
        if end < 0 or plain[end:-1] != _PADDING[padding]:
            raise PacketRefused(Refusal.MALFORMED, "ESP padding that is not 1, 2, 3 …", "RFC 4303 2.4")
        return plain[-1], plain[:end]

    @abstractmethod
    def _open(self, packet: bytes) -> bytes:
        """Verify and decipher ``packet``, of a fitting length; return payload, padding, pad length, next header."""

    def payload_limit(self, room: int) -> int:
        """How much payload fits an ESP packet of ``room`` octets."""
        inside = room - HEADER_BYTES - self.vector_bytes - self.icv_bytes
        return inside // self.alignment * self.alignment - 2

    def _trailer(self, next_header: int, size: int) -> bytes:
        return _PADDING[-(size + 2) % self.alignment] + bytes((next_header,))


class _Gcm(Transform):
    """AES-GCM: integrity and confidentiality (RFC 4106)."""

    alignment, vector_bytes, icv_bytes = 4, 8, 16

    def __init__(self, association: SecurityAssociation) -> None:
        super().__init__(association)
        key = association.keys.encryption.reveal()
        self._key, self._salt = AESGCM(key[:-4]), key[-4:]

    def seal(self, sequence: int, next_header: int, payload: bytes) -> bytes:
        header = self._spi + sequence.to_bytes(4)
        text = b"".join((payload, self._trailer(next_header, len(payload))))
        return b"".join((header, header, self._key.encrypt(self._salt + header, text, header)))

    def _open(self, packet: bytes) -> bytes:
        try:
            return self._key.decrypt(self._salt + packet[8:16], packet[16:], packet[:8])
        except InvalidTag:
            raise _forged() from None


class _Gmac(Transform):
    """AES-GMAC: integrity alone (RFC 4543); the vector is among what is authenticated (3.3)."""

    alignment, vector_bytes, icv_bytes = 4, 8, 16

    def __init__(self, association: SecurityAssociation) -> None:
        super().__init__(association)
        key = association.keys.integrity.reveal()
        self._key, self._salt = AESGCM(key[:-4]), key[-4:]

    def seal(self, sequence: int, next_header: int, payload: bytes) -> bytes:
        header = self._spi + sequence.to_bytes(4)
        packet = b"".join((header, header, payload, self._trailer(next_header, len(payload))))
        return packet + self._key.encrypt(self._salt + header, b"", packet)

    def _open(self, packet: bytes) -> bytes:
        try:
            self._key.decrypt(self._salt + packet[8:16], packet[-16:], packet[:-16])
        except InvalidTag:
            raise _forged() from None
        return packet[16:-16]


class _Hmac(Transform):
    """HMAC alone, truncated to 96 bits (RFC 2404, RFC 2403)."""

    alignment, vector_bytes, icv_bytes = 4, 0, 12

    def __init__(self, association: SecurityAssociation) -> None:
        super().__init__(association)
        sha1 = association.pair.integrity is Integrity.HMAC_SHA_1_96
        self._hmac = hmac.HMAC(association.keys.integrity.reveal(), hashes.SHA1() if sha1 else hashes.MD5())

    def seal(self, sequence: int, next_header: int, payload: bytes) -> bytes:
        trailer = self._trailer(next_header, len(payload))
        packet = b"".join((self._spi, sequence.to_bytes(4), payload, trailer))
        return packet + self._icv(packet)

    def _open(self, packet: bytes) -> bytes:
        self._verify(packet)
        return packet[8:-12]

    def _icv(self, packet: bytes) -> bytes:
        context = self._hmac.copy()
        context.update(packet)
        return context.finalize()[:12]

    def _verify(self, packet: bytes) -> None:
        if not constant_time.compare_digest(self._icv(packet[:-12]), packet[-12:]):
            raise _forged()


class _Cbc(_Hmac):
    """AES-CBC (RFC 3602) or DES-EDE3-CBC (RFC 2451) and a HMAC."""

    def __init__(self, association: SecurityAssociation, random: RandomBytes) -> None:
        super().__init__(association)
        key = association.keys.encryption.reveal()
        algorithm = AES(key) if association.pair.encryption is Encryption.AES_CBC else TripleDES(key)
        self.alignment = self.vector_bytes = algorithm.block_size // 8
        cipher = Cipher(algorithm, modes.CBC(bytes(self.vector_bytes)))
        self._random = random
        self._encryptor: CipherContext = cipher.encryptor()
        self._decryptor: CipherContext = cipher.decryptor()

    def seal(self, sequence: int, next_header: int, payload: bytes) -> bytes:
        trailer = self._trailer(next_header, len(payload))
        text = self._encryptor.update(b"".join((self._random(self.vector_bytes), payload, trailer)))
        packet = b"".join((self._spi, sequence.to_bytes(4), text))
        return packet + self._icv(packet)

    def _open(self, packet: bytes) -> bytes:
        self._verify(packet)
        return self._decryptor.update(packet[8:-12])[self.vector_bytes :]


def transform(association: SecurityAssociation, random: RandomBytes) -> Transform:
    """Return the transform of an association; ``random`` makes the vectors of CBC."""
    match association.pair.encryption:
        case Encryption.AES_GCM:
            return _Gcm(association)
        case Encryption.AES_CBC | Encryption.DES_EDE3_CBC:
            return _Cbc(association, random)
        case Encryption.NULL:
            return _Gmac(association) if association.pair.integrity is Integrity.AES_GMAC else _Hmac(association)


def _forged() -> PacketRefused:
    return PacketRefused(Refusal.BAD_INTEGRITY, "the integrity check value is wrong", "RFC 4303 3.4.4")
