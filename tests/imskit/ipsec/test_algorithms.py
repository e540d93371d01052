"""Pairs of algorithms and their keys (TS 33.203 annexes H and I)."""

from __future__ import annotations

import pytest

from imskit.ipsec.algorithms import LAB_PAIRS, STANDARD_PAIRS, AlgorithmPair, Encryption, Integrity, expand_keys
from imskit.ipsec.errors import IpsecError
from imskit.secrets import Secret

# CK and IK of TS 35.208 test set 1.
CK = "b40ba9a3c58b2a05bbf0d987b21bf8cb"
IK = "f769bcd751044604127672711c6d3441"

# The salts are the last four octets of what openssl makes of the strings of annex I:
#   printf '\x58AES_GMAC_SALT\x00\x0d' | openssl dgst -sha256 -mac HMAC -macopt hexkey:CK||IK
#   printf '\x59AES_GCM_SALT\x00\x0c'  | openssl dgst -sha256 -mac HMAC -macopt hexkey:CK||IK
KEYS = {
    "null/aes-gcm": ("", CK + "89273db6"),
    "hmac-sha-1-96/aes-cbc": (IK + "00000000", CK),
    "aes-gmac/null": (IK + "dbc2b1c2", ""),
    "hmac-sha-1-96/null": (IK + "00000000", ""),
    "hmac-md5-96/aes-cbc": (IK, CK),
    "hmac-sha-1-96/des-ede3-cbc": (IK + "00000000", CK + CK[:16]),
    "hmac-md5-96/des-ede3-cbc": (IK, CK + CK[:16]),
    "hmac-md5-96/null": (IK, ""),
}


@pytest.mark.parametrize("text", KEYS)
def test_key_expansion(text: str) -> None:
    keys = expand_keys(AlgorithmPair.parse(text), Secret(bytes.fromhex(CK)), Secret(bytes.fromhex(IK)))
    assert (keys.integrity.reveal().hex(), keys.encryption.reveal().hex()) == KEYS[text]
    assert CK not in repr(keys) and IK not in repr(keys)


def test_the_table_is_complete() -> None:
    assert set(KEYS) == {str(pair) for pair in STANDARD_PAIRS + LAB_PAIRS}
    assert [pair.removed for pair in STANDARD_PAIRS] == [False] * 4
    assert [pair.removed for pair in LAB_PAIRS] == [True] * 4


def test_only_pairs_that_mean_something() -> None:
    """Annex H: integrity null goes with aes-gcm alone, and aes-gcm and aes-gmac with nothing else."""
    good = []
    for integrity in Integrity:
        for encryption in Encryption:
            try:
                good.append(AlgorithmPair(integrity, encryption))
            except IpsecError as error:
                assert "annex H" in error.why and error.cure
    assert set(good) == set(STANDARD_PAIRS + LAB_PAIRS)


def test_text_of_the_configuration() -> None:
    assert AlgorithmPair.parse(" hmac-sha-1-96 ") == AlgorithmPair(Integrity.HMAC_SHA_1_96, Encryption.NULL)
    for text in ("", "aes-gcm", "hmac-sha-1-96/rot13", "null/null"):
        with pytest.raises(IpsecError, match="aes-gcm"):
            AlgorithmPair.parse(text)


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_keys_of_another_length(length: int) -> None:
    with pytest.raises(IpsecError, match="16 octets"):
        expand_keys(STANDARD_PAIRS[0], Secret(bytes(16)), Secret(bytes(length)))
