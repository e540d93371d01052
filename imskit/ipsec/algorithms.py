"""Algorithms of ``ipsec-3gpp`` and the keys they get from AKA (TS 33.203 clause 7.1, annexes H and I).

A pair is an integrity and an encryption algorithm, by the names that ``alg`` and ``ealg`` have in Security-Client.
Which pairs mean something: HMAC with AES-CBC or with no encryption; AES-GMAC alone (RFC 4543); AES-GCM alone, which
does both (RFC 4106), so its integrity is called ``null``.  HMAC-MD5-96 and DES-EDE3-CBC were removed from the
specification; networks in the field still speak them, so they exist here, for laboratories only (``LAB_PAIRS``).
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from dataclasses import dataclass

from imskit.ipsec.errors import IpsecError
from imskit.secrets import Secret


class Integrity(enum.StrEnum):
    """``alg`` (annex H)."""

    HMAC_SHA_1_96 = "hmac-sha-1-96"
    AES_GMAC = "aes-gmac"
    NULL = "null"
    HMAC_MD5_96 = "hmac-md5-96"


class Encryption(enum.StrEnum):
    """``ealg`` (annex H); absent means ``null``."""

    NULL = "null"
    AES_CBC = "aes-cbc"
    AES_GCM = "aes-gcm"
    DES_EDE3_CBC = "des-ede3-cbc"


_HMACS = (Integrity.HMAC_SHA_1_96, Integrity.HMAC_MD5_96)
_REMOVED = (Integrity.HMAC_MD5_96, Encryption.DES_EDE3_CBC)


@dataclass(frozen=True, slots=True)
class AlgorithmPair:
    """An integrity and an encryption algorithm that go together; ``IpsecError`` for two that do not."""

    integrity: Integrity
    encryption: Encryption

    def __post_init__(self) -> None:
        if self.encryption is Encryption.AES_GCM:
            good = self.integrity is Integrity.NULL
        elif self.integrity is Integrity.AES_GMAC:
            good = self.encryption is Encryption.NULL
        else:
            good = self.integrity in _HMACS
        if not good:
            raise IpsecError(
                f"integrity {self.integrity} does not go with encryption {self.encryption}",
                "TS 33.203 annex H",
                "Use one of " + ", ".join(map(str, STANDARD_PAIRS)) + ".",
            )

    @classmethod
    def parse(cls, text: str) -> AlgorithmPair:
        """Read ``hmac-sha-1-96/aes-cbc``, as ``str`` writes it; ``IpsecError`` if it names no known pair."""
        integrity, _, encryption = text.strip().partition("/")
        try:
            return cls(Integrity(integrity), Encryption(encryption or "null"))
        except ValueError as error:
            raise IpsecError(
                f"{text!r} is no pair of IPsec algorithms",
                str(error),
                "Write integrity/encryption, one of " + ", ".join(map(str, (*STANDARD_PAIRS, *LAB_PAIRS))) + ".",
            ) from None

    @property
    def removed(self) -> bool:
        """Whether the specification no longer has it: for laboratories only."""
        return self.integrity in _REMOVED or self.encryption in _REMOVED

    def __str__(self) -> str:
        return f"{self.integrity}/{self.encryption}"


STANDARD_PAIRS = (
    AlgorithmPair(Integrity.NULL, Encryption.AES_GCM),
    AlgorithmPair(Integrity.HMAC_SHA_1_96, Encryption.AES_CBC),
    AlgorithmPair(Integrity.AES_GMAC, Encryption.NULL),
    AlgorithmPair(Integrity.HMAC_SHA_1_96, Encryption.NULL),
)
"""What the specification has today, in our order of preference: with confidentiality before without."""

LAB_PAIRS = (
    AlgorithmPair(Integrity.HMAC_MD5_96, Encryption.AES_CBC),
    AlgorithmPair(Integrity.HMAC_SHA_1_96, Encryption.DES_EDE3_CBC),
    AlgorithmPair(Integrity.HMAC_MD5_96, Encryption.DES_EDE3_CBC),
    AlgorithmPair(Integrity.HMAC_MD5_96, Encryption.NULL),
)
"""Pairs with an algorithm that was removed: only behind a switch for laboratories."""


@dataclass(frozen=True, slots=True)
class SaKeys:
    """Key material of the four associations of one agreement, as the ESP transforms want it.

    ``integrity``: 20 octets (HMAC-SHA-1-96), 16 (HMAC-MD5-96), 16 and a salt of 4 (AES-GMAC), or none.
    ``encryption``: 16 octets (AES-CBC), 24 (DES-EDE3-CBC), 16 and a salt of 4 (AES-GCM), or none.
    """

    integrity: Secret[bytes]
    encryption: Secret[bytes]


def expand_keys(pair: AlgorithmPair, ck: Secret[bytes], ik: Secret[bytes]) -> SaKeys:
    """Derive the keys of ``pair`` from CK and IK of the AKA run, 16 octets each (TS 33.203 annex I).

    ``IpsecError`` if one has another length.
    """
    c, i = ck.reveal(), ik.reveal()
    if len(c) != 16 or len(i) != 16:
        raise IpsecError("CK and IK have 16 octets each", "TS 33.102 6.3", "Check what the card or the HSS returned.")
    match pair.integrity:
        case Integrity.HMAC_SHA_1_96:
            integrity = i + bytes(4)
        case Integrity.HMAC_MD5_96:
            integrity = i
        case Integrity.AES_GMAC:
            integrity = i + _salt(c + i, 0x58, b"AES_GMAC_SALT")
        case Integrity.NULL:
            integrity = b""
    match pair.encryption:
        case Encryption.AES_CBC:
            encryption = c
        case Encryption.DES_EDE3_CBC:
            encryption = c + c[:8]
        case Encryption.AES_GCM:
            encryption = c + _salt(c + i, 0x59, b"AES_GCM_SALT")
        case Encryption.NULL:
            encryption = b""
    return SaKeys(Secret(integrity), Secret(encryption))


def _salt(key: bytes, fc: int, parameter: bytes) -> bytes:
    """The 32 least significant bits of the key derivation function of TS 33.220 annex B.2."""
    text = bytes((fc,)) + parameter + len(parameter).to_bytes(2)
    return hmac.digest(key, text, hashlib.sha256)[-4:]
