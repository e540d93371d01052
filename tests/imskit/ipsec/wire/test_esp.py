"""ESP packets: published vectors, then what must not pass."""

from __future__ import annotations

import hashlib
import hmac
import os

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from hypothesis import given
from hypothesis import strategies as st

from imskit.ipsec.algorithms import LAB_PAIRS, STANDARD_PAIRS, AlgorithmPair, SaKeys
from imskit.ipsec.association import Address, SecurityAssociation
from imskit.ipsec.errors import PacketRefused, Refusal
from imskit.ipsec.wire.esp import transform
from imskit.secrets import Secret


def association(pair: str, integrity: str, encryption: str, spi: int) -> SecurityAssociation:
    keys = SaKeys(Secret(bytes.fromhex(integrity)), Secret(bytes.fromhex(encryption)))
    return SecurityAssociation(
        spi, Address("192.0.2.1", 5061), Address("192.0.2.2", 5062), AlgorithmPair.parse(pair), keys
    )


# RFC 3602 section 4, cases 5 to 8: key, SPI, sequence number, vector, next header, payload, ciphertext.
RFC_3602 = {
    "case 5": (
        "90d382b410eeba7ad938c46cec1a82bf",
        0x4321,
        1,
        "e96e8c08ab465763fd098d45dd3ff893",
        1,
        "08000ebda70a00008e9c083db95b070008090a0b0c0d0e0f1011121314151617"
        "18191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637",
        "f663c25d325c18c6a9453e194e120849a4870b66cc6b9965330013b4898dc856"
        "a4699e523a55db080b59ec3a8e4b7e52775b07d1db34ed9c538ab50c551b874a"
        "a269add047ad2d5913ac19b7cfbad4a6",
    ),
    "case 6": (
        "90d382b410eeba7ad938c46cec1a82bf",
        0x4321,
        8,
        "69d08df7d203329db093fc4924e5bd80",
        1,
        "0800b5e8a80a0500a69c083d0b660e00777777777777777777777777",
        "f51995881ec4e0c4488987ce742e8109689bb379d2d750c0d915dca346a89f75",
    ),
    "case 7": (
        "0123456789abcdef0123456789abcdef",
        0x8765,
        2,
        "f4e765244f6407adf13dc1380f673f37",
        4,
        "45000054090400004001f988c0a87b03c0a87bc808009f76a90a0100b49c083d"
        "02a2040008090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223"
        "2425262728292a2b2c2d2e2f3031323334353637",
        "773b5241a4c449225e4f3ce5ed611b0c237ca96cf74a93013c1b0ea1a0cf70f8"
        "e4ecaec78ac53aad7a0f022b859243c647752e94a859352b8a4d4d2decd136e5"
        "c177f132ad3fbfb2201ac9904c74ee0a109e0ca1e4dfe9d5a100b842f1c22f0d",
    ),
    "case 8": (
        "0123456789abcdef0123456789abcdef",
        0x8765,
        5,
        "85d47224b5f3dd5d2101d4ea8dffab22",
        4,
        "45000044090c00004001f990c0a87b03c0a87bc80800d63caa0a0200c69c083da3de0300" + "ff" * 32,
        "15b92683819596a8047232cc00f7048fe45318e11f8a0f62ede3c3fc61203bb5"
        "0f980a08c9843fd3a1b06d5c07ff9639b7eb7dfb3512e5de435e7207ed971ef3"
        "d2726d9b5ef6affc6d17a0decbb13892",
    ),
}


@pytest.mark.parametrize("case", RFC_3602)
def test_rfc_3602_vectors(case: str) -> None:
    """AES-CBC with the RFC's vectors, both ways; the integrity value is a HMAC by Python's own library."""
    key, spi, sequence, vector, next_header, payload, ciphertext = RFC_3602[case]
    integrity = bytes(range(20))
    made = association("hmac-sha-1-96/aes-cbc", integrity.hex(), key, spi)
    packet = spi.to_bytes(4) + sequence.to_bytes(4) + bytes.fromhex(vector + ciphertext)
    packet += hmac.digest(integrity, packet, hashlib.sha1)[:12]
    assert transform(made, os.urandom).open(packet) == (next_header, bytes.fromhex(payload))

    # The first block of random octets, enciphered, is the first packet's vector: choose the octets that give it.
    decryptor = Cipher(AES(bytes.fromhex(key)), modes.ECB()).decryptor()
    first = decryptor.update(bytes.fromhex(vector))
    assert transform(made, lambda _: first).seal(sequence, next_header, bytes.fromhex(payload)) == packet


# draft-mcgrew-gcm-test-01, those with 128-bit keys and 32-bit sequence numbers: key and salt, packet, what is inside.
GCM = {
    "dns": (
        "feffe9928665731c6d6a8f9467308308cafebabe",
        "0000a5f80000000afacedbaddecaf888"
        "deb22cd9b07c72c16e3a65beeb8df304a5a5897d33ae530f1ba76d5d114d2a5c"
        "3de81827c10e9a4f51330d0eec416642cfbb85a5b47e48a4ec3b9ba95d918bd1"
        "83b70d3aa8bc6ee4c309e9d85a41ad4a",
        1,
        "4500003e698f000080114dccc0a80102c0a801010a980035002a2343b2d00100"
        "0001000000000000037369700963796265726369747902646b0000010001",
    ),
    "empty": (
        "7d773d00c144c525ac619d18c84a3f47d9664267",
        "335467aeffffffff43457e9182443bc6437f866bcb3f699fe9b0822bac961c4504bef270",
        1,
        "",
    ),
}


@pytest.mark.parametrize("case", GCM)
def test_gcm_vectors(case: str) -> None:
    key, packet, next_header, payload = GCM[case]
    sealed = bytes.fromhex(packet)
    made = association("null/aes-gcm", "", key, int.from_bytes(sealed[:4]))
    assert transform(made, os.urandom).open(sealed) == (next_header, bytes.fromhex(payload))


def test_gmac_vector() -> None:
    """draft-mcgrew-gcm-test-01, also a self-test of Linux' rfc4543(gcm(aes)): the vector is authenticated too."""
    made = association("aes-gmac/null", "4c80cdefbb5d10da906ac73c3613a63422433c64", "", 0x4321)
    inside = "45000030da3a00008001df3bc0a80005c0a800010800c6cd020007006162636465666768696a6b6c6d6e6f7071727374"
    packet = "00004321000000070000000000000000" + inside + "01020201" + "f2a9a836e155106aa8dcd618e4099aaa"
    assert transform(made, os.urandom).open(bytes.fromhex(packet)) == (1, bytes.fromhex(inside))


@pytest.fixture(params=STANDARD_PAIRS + LAB_PAIRS, ids=str)
def both(request, agreement):
    """Sender's and receiver's transform of one association."""
    ue, p_cscf = agreement(request.param)
    return transform(ue.outbound[0], os.urandom), transform(p_cscf.inbound[0], os.urandom)


def test_every_length(both) -> None:
    """Padding, alignment and what a path's MTU has room for."""
    sender, receiver = both
    for length in range(80):
        payload = os.urandom(length)
        packet = sender.seal(length + 1, 17, payload)
        assert receiver.open(packet) == (17, payload)
        assert len(packet) % 4 == 0
        assert sender.payload_limit(len(packet)) >= length > sender.payload_limit(len(packet) - 1) - sender.alignment
    assert len(sender.seal(99, 6, bytes(sender.payload_limit(1480)))) <= 1480
    assert len(sender.seal(99, 6, bytes(sender.payload_limit(1480) + 1))) > 1480


def test_vectors_never_repeat(agreement, pair) -> None:
    """Over all four associations, which share their keys; for CBC the same packet never looks the same."""
    seen = set()
    for associations in agreement(pair):
        for outbound in associations.outbound:
            sender = transform(outbound, os.urandom)
            for sequence in range(1, 50):
                seen.add(sender.seal(sequence, 17, bytes(16))[8 : 8 + (sender.vector_bytes or 16)])
    if sender.vector_bytes:
        assert len(seen) == 4 * 49


def test_every_flipped_bit_is_refused(both) -> None:
    sender, receiver = both
    packet = sender.seal(1, 17, b"REGISTER sip:ims.example SIP/2.0")
    for position in range(4, len(packet) * 8):  # the SPI's first bits choose the association
        changed = bytearray(packet)
        changed[position // 8] ^= 0x80 >> position % 8
        with pytest.raises(PacketRefused) as refused:
            receiver.open(bytes(changed))
        assert refused.value.reason is Refusal.BAD_INTEGRITY
    assert receiver.open(packet)[0] == 17  # the forgeries have left no trace in the cipher


def test_truncation_at_each_octet(both) -> None:
    sender, receiver = both
    packet = sender.seal(1, 17, bytes(40))
    for length in range(len(packet)):
        with pytest.raises(PacketRefused):
            receiver.open(packet[:length])


def test_padding_is_checked_after_integrity() -> None:
    """RFC 4303 2.4: padding must be 1, 2, 3 …; here a sender with the right key sends another one."""
    key = bytes(range(20))
    receiver = transform(association("hmac-sha-1-96/null", key.hex(), "", 0x4321), os.urandom)
    for trailer in (b"\2\1\2\x11", b"\0\0\2\x11", b"\1\2\xff\x11"):
        packet = bytes.fromhex("0000432100000001") + bytes(4) + trailer
        packet += hmac.digest(key, packet, "sha1")[:12]
        with pytest.raises(PacketRefused) as refused:
            receiver.open(packet)
        assert refused.value.reason is Refusal.MALFORMED


@given(st.sampled_from(STANDARD_PAIRS + LAB_PAIRS), st.binary(max_size=200))
def test_noise_is_refused(pair: AlgorithmPair, noise: bytes) -> None:
    lengths = {
        "aes-gcm": 20, "aes-cbc": 16, "des-ede3-cbc": 24, "hmac-sha-1-96": 20, "hmac-md5-96": 16, "aes-gmac": 20,
        "null": 0,
    }  # fmt: skip
    made = association(str(pair), "11" * lengths[pair.integrity], "22" * lengths[pair.encryption], 0x4321)
    with pytest.raises(PacketRefused):
        transform(made, os.urandom).open(bytes.fromhex("0000432100000001") + noise)
