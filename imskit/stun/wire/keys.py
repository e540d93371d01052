"""Keys and hashes of the long-term credential mechanism (RFC 8489 9.2.2, 14.4, 18.5.1)."""

from __future__ import annotations

import hashlib
import unicodedata

from imskit.secrets import Secret

MD5 = 1
SHA256 = 2
"""Password algorithms of RFC 8489 18.5."""


def long_term_key(algorithm: int, username: str, realm: str, password: Secret[str]) -> Secret[bytes]:
    """Return the HMAC key of a user: ``algorithm`` 1 is MD5, 2 is SHA-256 (RFC 8489 9.2.2, 18.5.1)."""
    text = f"{username}:{opaque_string(realm)}:{opaque_string(password.reveal())}".encode()
    if algorithm == MD5:
        return Secret(hashlib.md5(text, usedforsecurity=False).digest())
    if algorithm == SHA256:
        return Secret(hashlib.sha256(text).digest())
    raise ValueError(f"password algorithm {algorithm} is not defined (RFC 8489 18.5)")


def userhash(username: str, realm: str) -> bytes:
    """Return the value of USERHASH (RFC 8489 14.4)."""
    return hashlib.sha256(f"{opaque_string(username)}:{opaque_string(realm)}".encode()).digest()


def opaque_string(text: str) -> str:
    """Apply the OpaqueString profile: non-ASCII spaces to space, then NFC (RFC 8265 4.2.2)."""
    spaced = "".join(" " if unicodedata.category(letter) == "Zs" else letter for letter in text)
    return unicodedata.normalize("NFC", spaced)
