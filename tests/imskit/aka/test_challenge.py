"""The nonce, auts and the password of digest AKA."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.aka.challenge import MAX_NONCE, AkaAlgorithm, Challenge, decode_auts, encode_auts
from imskit.aka.errors import AkaError
from imskit.aka.vector import Success
from imskit.secrets import Secret

# RES, CK, IK of TS 35.208 set 1.
RUN = Success(
    res=Secret(bytes.fromhex("a54211d5e3ba50bf")),
    ck=Secret(bytes.fromhex("b40ba9a3c58b2a05bbf0d987b21bf8cb")),
    ik=Secret(bytes.fromhex("f769bcd751044604127672711c6d3441")),
)


@given(st.binary(max_size=64))
def test_nonce_there_and_back(server_data: bytes) -> None:
    challenge = Challenge(bytes(range(16)), bytes(range(16, 32)), server_data)
    assert base64.b64decode(challenge.encode()) == bytes(range(32)) + server_data
    assert Challenge.decode(challenge.encode()) == challenge


@pytest.mark.parametrize(
    ("nonce", "message"),
    [
        ("", "holds 0 octets, not the 32"),
        (base64.b64encode(bytes(31)).decode(), "holds 31 octets"),
        ("dcd98b7102dd2f0e8b11d0f600bfb0c093", "not base64"),  # an ordinary digest nonce
        (base64.b64encode(bytes(32)).decode().rstrip("="), "not base64"),
        ("ä" * 44, "not base64"),
        ("A" * (MAX_NONCE + 4), "more than"),
    ],
)
def test_what_is_no_aka_nonce(nonce: str, message: str) -> None:
    with pytest.raises(AkaError, match=message):
        Challenge.decode(nonce)


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda b: base64.b64encode(b).decode()))
def test_only_aka_error_escapes(text: str) -> None:
    for decode in (Challenge.decode, decode_auts):
        try:
            decode(text)
        except AkaError as error:
            assert error.clause.startswith("RFC 3310")


def test_a_challenge_is_made_of_16_and_16() -> None:
    with pytest.raises(AkaError, match="RAND has 15"):
        Challenge(bytes(15), bytes(16))
    with pytest.raises(AkaError, match="AUTN has 17"):
        Challenge(bytes(16), bytes(17))


def test_auts() -> None:
    auts = bytes(range(14))
    assert decode_auts(encode_auts(auts)) == auts
    with pytest.raises(AkaError, match="AUTS has 13"):
        encode_auts(bytes(13))
    with pytest.raises(AkaError, match="AUTS has 15"):
        decode_auts(base64.b64encode(bytes(15)).decode())


@pytest.mark.parametrize(
    ("token", "version", "digest"),
    [
        ("AKAv1-MD5", 1, "MD5"),
        ("akav1-md5", 1, "MD5"),
        ("AKAv2-SHA-256", 2, "SHA-256"),
        ("AKAv2-SHA-512-256-sess", 2, "SHA-512-256-sess"),
        ("AKAv1-MD5-SESS", 1, "MD5-sess"),
    ],
)
def test_algorithm_tokens(token: str, version: int, digest: str) -> None:
    assert AkaAlgorithm.parse(token) == AkaAlgorithm(version, digest)


@pytest.mark.parametrize("token", ["MD5", "AKAv3-MD5", "AKAv1-SHA-1", "AKAv1", "", "AKAv1-MD5 ", "AKAv1-MD5\n"])
def test_what_is_no_aka_algorithm(token: str) -> None:
    assert AkaAlgorithm.parse(token) is None


@pytest.mark.parametrize(
    ("token", "password"),
    [
        # printf http-digest-akav2-password | openssl dgst -md5 -mac HMAC -macopt hexkey:$RES$IK$CK -binary | base64
        ("AKAv2-MD5", b"shzt3q8CWaZnCAWqs3WmEQ=="),
        ("AKAv2-MD5-sess", b"shzt3q8CWaZnCAWqs3WmEQ=="),
        ("AKAv2-SHA-256", b"wpC+5dv/7kC35JEI2hluv8XcBd+vf8XcfedJBan1buk="),  # -sha256
        ("AKAv2-SHA-512-256", b"no5hYBM+YClv3o/+t+DPR6AGuLzWwpYut4Bsyg8pH8Q="),  # -sha512-256
        ("AKAv1-MD5", bytes.fromhex("a54211d5e3ba50bf")),
        ("AKAv1-SHA-256", bytes.fromhex("a54211d5e3ba50bf")),
    ],
)
def test_passwords(token: str, password: bytes) -> None:
    """RFC 3310 clause 3.3 (octets of RES) and RFC 4169 clause 2.1, the latter as OpenSSL computes it."""
    algorithm = AkaAlgorithm.parse(token)
    assert algorithm is not None
    assert algorithm.password(RUN).reveal() == password
