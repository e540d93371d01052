"""AKA inside HTTP Digest: the nonce, ``auts`` and the password (RFC 3310, RFC 4169)."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from dataclasses import dataclass

from imskit.aka.algorithm import RAND_LENGTH
from imskit.aka.errors import AkaError, need_length
from imskit.aka.sqn import AUTS_LENGTH
from imskit.aka.vector import AUTN_LENGTH, Success
from imskit.secrets import Secret

MAX_NONCE = 4096
"""Characters of a nonce that are looked at; a longer one is refused."""
_AKAV2_LABEL = b"http-digest-akav2-password"
_TOKEN = re.compile(r"AKAv([12])-(MD5|SHA-256|SHA-512-256)(-sess)?", re.IGNORECASE)
_HASHES = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a nonce carries: base64 of RAND || AUTN || server data (RFC 3310 clause 3.2)."""

    rand: bytes
    """16 octets."""
    autn: bytes
    """16 octets."""
    server_data: bytes = b""
    """Anything, for the server's own use."""

    def __post_init__(self) -> None:
        need_length("RAND", self.rand, RAND_LENGTH, "RFC 3310 3.2")
        need_length("AUTN", self.autn, AUTN_LENGTH, "RFC 3310 3.2")

    def encode(self) -> str:
        """Return the nonce."""
        return base64.b64encode(self.rand + self.autn + self.server_data).decode("ascii")

    @classmethod
    def decode(cls, nonce: str) -> Challenge:
        """Take a nonce apart; ``AkaError`` if it is not base64 or too short to hold RAND and AUTN."""
        octets = _decode("nonce", nonce, "RFC 3310 3.2")
        if len(octets) < RAND_LENGTH + AUTN_LENGTH:
            raise AkaError(
                f"nonce holds {len(octets)} octets, not the {RAND_LENGTH + AUTN_LENGTH} of RAND and AUTN",
                "RFC 3310 3.2",
            )
        autn_end = RAND_LENGTH + AUTN_LENGTH
        return cls(octets[:RAND_LENGTH], octets[RAND_LENGTH:autn_end], octets[autn_end:])


def encode_auts(auts: bytes) -> str:
    """Return the value of the ``auts`` parameter, without quotes (RFC 3310 clause 3.4)."""
    need_length("AUTS", auts, AUTS_LENGTH, "RFC 3310 3.4")
    return base64.b64encode(auts).decode("ascii")


def decode_auts(value: str) -> bytes:
    """Return the 14 octets of an ``auts`` parameter; ``AkaError`` if it holds anything else."""
    auts = _decode("auts", value, "RFC 3310 3.4")
    need_length("AUTS", auts, AUTS_LENGTH, "RFC 3310 3.4")
    return auts


@dataclass(frozen=True, slots=True)
class AkaAlgorithm:
    """A digest ``algorithm`` token of the AKA family, such as AKAv1-MD5 or AKAv2-SHA-256."""

    version: int
    """1 or 2."""
    digest: str
    """The digest algorithm below it as RFC 8760 names it: MD5, SHA-256, SHA-512-256, with -sess or without."""

    @classmethod
    def parse(cls, token: str) -> AkaAlgorithm | None:
        """Return what ``token`` (case ignored) stands for, ``None`` if it is not AKA or not known."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            return None
        return cls(int(match[1]), match[2].upper() + ("-sess" if match[3] else ""))

    def password(self, run: Success) -> Secret[bytes]:
        """Return the digest password of an AKA run.

        AKAv1: the octets of RES (RFC 3310 clause 3.3).  AKAv2: base64 of
        HMAC(RES || IK || CK, "http-digest-akav2-password") with the digest's own hash (RFC 4169 clause 2.1).
        """
        if self.version == 1:
            return run.res
        key = run.res.reveal() + run.ik.reveal() + run.ck.reveal()
        prf = hmac.digest(key, _AKAV2_LABEL, _HASHES[self.digest.removesuffix("-sess")])
        return Secret(base64.b64encode(prf))


def _decode(what: str, text: str, clause: str) -> bytes:
    if len(text) > MAX_NONCE:
        raise AkaError(f"{what} has {len(text)} characters, more than {MAX_NONCE}", clause)
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise AkaError(f"{what} is not base64", clause) from None
