"""SRTP and SRTCP (RFC 3711, RFC 7714) in place in one buffer, by libsrtp.

The one place that knows the insides of pylibsrtp: its ``Session`` copies every packet in and out, which costs more
than the cryptography.  Here libsrtp works directly on the plane's buffers.  A test pins what is used.
"""

from __future__ import annotations

import enum
from typing import Any

import pylibsrtp
from pylibsrtp._binding import ffi, lib

from imskit.media.plane import SrtpProfile
from imskit.secrets import Secret

TRAILER = 4 + 16
"""Octets a protected packet may grow by: SRTCP index and the longest tag (no MKI)."""

_PROFILES = {
    SrtpProfile.AES128_CM_SHA1_80: pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    SrtpProfile.AES128_CM_SHA1_32: pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
    SrtpProfile.AEAD_AES_128_GCM: pylibsrtp.Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
    SrtpProfile.AEAD_AES_256_GCM: pylibsrtp.Policy.SRTP_PROFILE_AEAD_AES_256_GCM,
}
_REPLAY_WINDOW = 1024


class Outcome(enum.IntEnum):
    """Why a packet was refused; ``OK`` is what libsrtp calls ok."""

    OK = 0
    AUTHENTICATION = 7
    CIPHER = 8
    REPLAY = 9
    OLD = 10


class Buffer:
    """Octets shared between Python (``view``) and libsrtp (``at``)."""

    __slots__ = ("_head", "_octets", "_usual", "view")

    def __init__(self, size: int, usual: int = 0) -> None:
        """``usual`` is the offset asked for most."""
        self._octets = ffi.new("unsigned char[]", size)
        self._usual = usual
        self._head = self._octets + usual
        self.view = memoryview(ffi.buffer(self._octets))

    def at(self, offset: int) -> Any:
        """Pointer to the octet at ``offset``."""
        return self._head if offset == self._usual else self._octets + offset


# Looked up once: a function of a cffi library is found anew at each use.
_protect, _unprotect = lib.srtp_protect, lib.srtp_unprotect
_protect_rtcp, _unprotect_rtcp = lib.srtp_protect_rtcp, lib.srtp_unprotect_rtcp


class SrtpContext:
    """One direction of one SRTP association; any number of SSRCs."""

    __slots__ = ("_handle", "_length", "_session")

    def __init__(self, profile: SrtpProfile, key: Secret[bytes], *, outbound: bool) -> None:
        """Raise ``ValueError`` when the key and salt have not the profile's length."""
        octets = key.reveal()
        if len(octets) != profile.key_length + profile.salt_length:
            raise ValueError(f"{profile.name} needs {profile.key_length + profile.salt_length} octets of key and salt")
        policy = pylibsrtp.Policy(
            key=octets,
            ssrc_type=pylibsrtp.Policy.SSRC_ANY_OUTBOUND if outbound else pylibsrtp.Policy.SSRC_ANY_INBOUND,
            srtp_profile=_PROFILES[profile],
        )
        policy.window_size = _REPLAY_WINDOW
        self._session = pylibsrtp.Session(policy)
        self._handle = self._session._srtp[0]
        self._length = ffi.new("int *")

    def protect(self, packet: Any, length: int) -> int:
        """Protect RTP in place; return the new length, or less than zero for an ``Outcome``."""
        self._length[0] = length
        status = _protect(self._handle, packet, self._length)
        return -status if status else self._length[0]  # type: ignore[no-any-return]

    def unprotect(self, packet: Any, length: int) -> int:
        """Verify and decrypt SRTP in place; return as ``protect``."""
        self._length[0] = length
        status = _unprotect(self._handle, packet, self._length)
        return -status if status else self._length[0]  # type: ignore[no-any-return]

    def protect_rtcp(self, packet: Any, length: int) -> int:
        """Protect RTCP in place; return as ``protect``."""
        self._length[0] = length
        status = _protect_rtcp(self._handle, packet, self._length)
        return -status if status else self._length[0]  # type: ignore[no-any-return]

    def unprotect_rtcp(self, packet: Any, length: int) -> int:
        """Verify and decrypt SRTCP in place; return as ``protect``."""
        self._length[0] = length
        status = _unprotect_rtcp(self._handle, packet, self._length)
        return -status if status else self._length[0]  # type: ignore[no-any-return]
