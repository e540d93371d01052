"""The SRTP adapter against RFC 3711's test vectors, and what it uses of pylibsrtp."""

from __future__ import annotations

import hashlib
import hmac

import pylibsrtp
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from pylibsrtp import _binding

from imskit.media.plane import SrtpProfile
from imskit.media.srtp import TRAILER, Buffer, Outcome, SrtpContext
from imskit.secrets import Secret

MASTER_KEY = bytes.fromhex("E1F97A0D3E018BE0D64FA32C06DE4139")
MASTER_SALT = bytes.fromhex("0EC675AD498AFEEBB6960B3AABE6")
# RFC 3711 B.3: the session keys that follow from them.
CIPHER_KEY = bytes.fromhex("C61E7A93744F39EE10734AFE3FF7A087")
CIPHER_SALT = bytes.fromhex("30CBBC08863D8C85D49DB34A9AE1")
AUTHENTICATION_KEY = bytes.fromhex("CEBE321F6FF7716B6FD4AB49AF256A156D38BAA4")


def packet(sequence: int = 1, payload: bytes = b"speech of twenty milliseconds") -> bytes:
    return b"\x80\x08" + sequence.to_bytes(2) + bytes(4) + (0xCAFE).to_bytes(4) + payload


def by_the_rfc(plain: bytes) -> bytes:
    """AES-CM and HMAC-SHA1-80 written out from RFC 3711 4.1.1 and 4.2.1, roll-over counter 0."""
    index = int.from_bytes(plain[2:4])
    ssrc = int.from_bytes(plain[8:12])
    counter = (int.from_bytes(CIPHER_SALT) << 16) ^ (ssrc << 64) ^ (index << 16)
    cipher = Cipher(algorithms.AES(CIPHER_KEY), modes.CTR(counter.to_bytes(16))).encryptor()
    protected = plain[:12] + cipher.update(plain[12:])
    return protected + hmac.digest(AUTHENTICATION_KEY, protected + bytes(4), hashlib.sha1)[:10]


def context(*, outbound: bool) -> SrtpContext:
    return SrtpContext(SrtpProfile.AES128_CM_SHA1_80, Secret(MASTER_KEY + MASTER_SALT), outbound=outbound)


def put(data: bytes) -> Buffer:
    buffer = Buffer(2048, 64)
    buffer.view[64 : 64 + len(data)] = data
    return buffer


@pytest.mark.parametrize("sequence", [1, 2, 65535])
def test_protects_as_the_rfc_says(sequence: int) -> None:
    plain = packet(sequence)
    buffer = put(plain)
    length = context(outbound=True).protect(buffer.at(64), len(plain))
    assert bytes(buffer.view[64 : 64 + length]) == by_the_rfc(plain)


def test_unprotects_what_the_rfc_says_and_refuses_the_rest() -> None:
    receiver = context(outbound=False)
    protected = by_the_rfc(packet(1))
    buffer = put(protected)
    length = receiver.unprotect(buffer.at(64), len(protected))
    assert bytes(buffer.view[64 : 64 + length]) == packet(1)
    assert receiver.unprotect(put(protected).at(64), len(protected)) == -Outcome.REPLAY
    for position in (0, 3, 9, 15, len(protected) - 1):
        spoilt = bytearray(by_the_rfc(packet(2)))
        spoilt[position] ^= 0x01
        assert receiver.unprotect(put(bytes(spoilt)).at(64), len(spoilt)) < 0
    assert receiver.unprotect(put(protected).at(64), 12) < 0


@pytest.mark.parametrize("profile", list(SrtpProfile))
def test_every_profile_round_trips_within_the_trailer(profile: SrtpProfile) -> None:
    key = Secret(bytes(range(profile.key_length + profile.salt_length)))
    sender = SrtpContext(profile, key, outbound=True)
    receiver = SrtpContext(profile, key, outbound=False)
    plain = packet()
    buffer = put(plain)
    length = sender.protect(buffer.at(64), len(plain))
    assert len(plain) < length <= len(plain) + TRAILER
    assert receiver.unprotect(buffer.at(64), length) == len(plain)
    report = bytes.fromhex("80c90001") + (0xCAFE).to_bytes(4)
    buffer = put(report)
    length = sender.protect_rtcp(buffer.at(64), len(report))
    assert len(report) < length <= len(report) + TRAILER
    assert receiver.unprotect_rtcp(buffer.at(64), length) == len(report)
    assert bytes(buffer.view[64 : 64 + len(report)]) == report


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="30 octets"):
        SrtpContext(SrtpProfile.AES128_CM_SHA1_80, Secret(bytes(28)), outbound=True)


def test_what_is_used_of_pylibsrtp_is_there() -> None:
    """Private names: if this fails after an upgrade, ``imskit.media.srtp`` has to follow."""
    session = pylibsrtp.Session(pylibsrtp.Policy(key=bytes(30), ssrc_type=pylibsrtp.Policy.SSRC_ANY_OUTBOUND))
    assert session._srtp[0]
    for name in ("srtp_protect", "srtp_unprotect", "srtp_protect_rtcp", "srtp_unprotect_rtcp"):
        assert callable(getattr(_binding.lib, name))
    assert [pylibsrtp.ERRORS[outcome] for outcome in Outcome] == [
        "nothing to report",
        "authentication failure",
        "cipher failure",
        "replay check failed (bad index)",
        "replay check failed (index too old)",
    ]
