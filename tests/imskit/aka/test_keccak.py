"""The permutation against SHA-3 and SHAKE of the standard library, which are built on it."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.aka.keccak import keccak_f1600


def test_the_zero_state() -> None:
    """First lanes of Keccak-f[1600] of the all-zero state (Keccak team, KeccakF-1600-IntermediateValues)."""
    out = keccak_f1600(bytes(200))
    assert int.from_bytes(out[:8], "little") == 0xF1258F7940E1DDE7
    assert int.from_bytes(out[8:16], "little") == 0x84D5CCF933C0478A
    assert int.from_bytes(keccak_f1600(out)[:8], "little") == 0x2D5C954DF96ECB3C


@given(st.binary(max_size=600))
def test_a_sponge_built_on_it_is_sha3_256(message: bytes) -> None:
    rate = 136
    padded = bytearray(message + b"\x06" + bytes(-(len(message) + 1) % rate))
    padded[-1] |= 0x80
    state = bytes(200)
    for start in range(0, len(padded), rate):
        block = bytes(padded[start : start + rate]).ljust(200, b"\0")
        state = keccak_f1600(bytes(a ^ b for a, b in zip(state, block, strict=True)))
    assert state[:32] == hashlib.sha3_256(message).digest()


def test_a_state_has_200_octets() -> None:
    with pytest.raises(ValueError, match="200 octets"):
        keccak_f1600(bytes(199))
