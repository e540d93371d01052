"""The permutation Keccak-f[1600] (FIPS 202 clause 3), which TUAK applies once or several times."""

from __future__ import annotations

STATE_OCTETS = 200
_LANES = 25
_MASK = (1 << 64) - 1


def _round_constants() -> tuple[int, ...]:
    """The 24 constants of step iota, from the shift register of FIPS 202 clause 3.2.5."""
    constants, register = [], 1
    for _ in range(24):
        constant = 0
        for j in range(7):
            if register & 1:
                constant |= 1 << (1 << j) - 1
            register = register << 1 ^ (0x171 if register & 0x80 else 0)
        constants.append(constant)
    return tuple(constants)


def _offsets() -> tuple[int, ...]:
    """The rotation of each lane in step rho (clause 3.2.2), lane (x, y) at 5y + x."""
    offsets = [0] * _LANES
    x, y = 1, 0
    for t in range(24):
        offsets[5 * y + x] = (t + 1) * (t + 2) // 2 % 64
        x, y = y, (2 * x + 3 * y) % 5
    return tuple(offsets)


_ROUND_CONSTANTS = _round_constants()
_OFFSETS = _offsets()


def keccak_f1600(state: bytes) -> bytes:
    """Return the permutation of ``state``, 200 octets, the first of each lane the least significant."""
    if len(state) != STATE_OCTETS:
        raise ValueError(f"a Keccak state has {STATE_OCTETS} octets")
    a = [int.from_bytes(state[8 * i : 8 * i + 8], "little") for i in range(_LANES)]
    for constant in _ROUND_CONSTANTS:
        # theta
        c = [a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20] for x in range(5)]
        d = [c[x - 1] ^ _rotate(c[(x + 1) % 5], 1) for x in range(5)]
        # theta's end, rho and pi
        b = [0] * _LANES
        for i in range(_LANES):
            x, y = i % 5, i // 5
            b[5 * ((2 * x + 3 * y) % 5) + y] = _rotate(a[i] ^ d[x], _OFFSETS[i])
        # chi
        a = [b[i] ^ (~b[i - i % 5 + (i + 1) % 5] & b[i - i % 5 + (i + 2) % 5]) for i in range(_LANES)]
        # iota
        a[0] ^= constant
    return b"".join(lane.to_bytes(8, "little") for lane in a)


def _rotate(lane: int, bits: int) -> int:
    return (lane << bits | lane >> 64 - bits) & _MASK
