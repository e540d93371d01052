"""TUAK: the second 3GPP algorithm set f1, f1*, f2 to f5, f5* (TS 35.231 clauses 6 and 7), built on Keccak."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from imskit.aka.algorithm import AMF_LENGTH, MAC_LENGTH, RAND_LENGTH, SQN_LENGTH, DerivedKeys
from imskit.aka.errors import AkaError, need_length
from imskit.aka.keccak import STATE_OCTETS, keccak_f1600
from imskit.secrets import Secret

TOP_LENGTH = 32
_ALGORITHM_NAME = b"TUAK1.0"
_RATE = 136
"""Octets of the state before its capacity of 512 bits: the padding ends there (TS 35.231 clause 7.2)."""
# INSTANCE (clause 7.1): the functions in its two highest bits, lengths in the others.
_F1, _F1_STAR, _F2345, _F5_STAR = 0x00, 0x80, 0x40, 0xC0
_LENGTH_BITS = {4: 0x00, 8: 0x08, 16: 0x10, 32: 0x20}
_LONG_CK, _LONG_IK, _LONG_K = 0x04, 0x02, 0x01


@dataclass(frozen=True, slots=True)
class TuakLengths:
    """What an operator chooses of TUAK (TS 35.231 clause 6.2).  ``AkaError`` for a length that is not defined."""

    res: int = 8
    """Octets of RES: 4, 8, 16 or 32."""
    ck: int = 16
    """Octets of CK: 16 or 32."""
    ik: int = 16
    """Octets of IK: 16 or 32."""
    mac: int = MAC_LENGTH
    """Octets of MAC-A and MAC-S: 8, 16 or 32; AUTN and AUTS of TS 33.102 have room for 8."""
    iterations: int = 1
    """How often the permutation is applied, 1 or more."""

    def __post_init__(self) -> None:
        clause = "TS 35.231 6.2"
        if self.res not in (4, 8, 16, 32):
            raise AkaError(f"RES cannot have {self.res} octets, but 4, 8, 16 or 32", clause)
        if self.mac not in (8, 16, 32):
            raise AkaError(f"MAC cannot have {self.mac} octets, but 8, 16 or 32", clause)
        if self.ck not in (16, 32) or self.ik not in (16, 32):
            raise AkaError("CK and IK have 16 or 32 octets each", clause)
        if not 1 <= self.iterations <= 255:
            raise AkaError("Keccak is applied 1 to 255 times", clause)


def derive_topc(k: Secret[bytes], top: Secret[bytes], iterations: int = 1) -> Secret[bytes]:
    """Return TOPc (TS 35.231 clause 6.1).  K is 16 or 32 octets, TOP 32; else ``AkaError``."""
    long_k = _key_bit(k)
    need_length("TOP", top.reveal(), TOP_LENGTH, "TS 35.231 6.1")
    out = _run(top, long_k, b"", b"", b"", k, iterations)
    return Secret(out(0, TOP_LENGTH))


class Tuak:
    """One subscriber's ``AlgorithmSet``.  K is 16 or 32 octets, TOPc 32; else ``AkaError``."""

    def __init__(self, k: Secret[bytes], topc: Secret[bytes], lengths: TuakLengths | None = None) -> None:
        self._long_k = _key_bit(k)
        need_length("TOPc", topc.reveal(), TOP_LENGTH, "TS 35.231 6.1")
        self._k = k
        self._topc = topc
        self._lengths = lengths or TuakLengths()

    def f1(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """MAC-A of the chosen length; see ``AlgorithmSet``."""
        return self._mac(_F1, rand, sqn, amf)

    def f1_star(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """MAC-S of the chosen length; see ``AlgorithmSet``."""
        return self._mac(_F1_STAR, rand, sqn, amf)

    def f2345(self, rand: bytes) -> DerivedKeys:
        """RES, CK, IK of the chosen lengths, and AK; see ``AlgorithmSet``."""
        lengths = self._lengths
        instance = _F2345 | _LENGTH_BITS[lengths.res]
        instance |= (_LONG_CK if lengths.ck == 32 else 0) | (_LONG_IK if lengths.ik == 32 else 0)
        out = self._output(instance, rand, b"", b"")
        return DerivedKeys(
            res=Secret(out(0, lengths.res)),
            ck=Secret(out(32, lengths.ck)),
            ik=Secret(out(64, lengths.ik)),
            ak=Secret(out(96, SQN_LENGTH)),
        )

    def f5_star(self, rand: bytes) -> Secret[bytes]:
        """AK for AUTS; see ``AlgorithmSet``."""
        return Secret(self._output(_F5_STAR, rand, b"", b"")(96, SQN_LENGTH))

    def _mac(self, function: int, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        need_length("SQN", sqn, SQN_LENGTH, "TS 33.102 6.3.2")
        need_length("AMF", amf, AMF_LENGTH, "TS 33.102 6.3.2")
        length = self._lengths.mac
        return self._output(function | _LENGTH_BITS[length], rand, amf, sqn)(0, length)

    def _output(self, instance: int, rand: bytes, amf: bytes, sqn: bytes) -> Callable[[int, int], bytes]:
        need_length("RAND", rand, RAND_LENGTH, "TS 33.102 6.3.2")
        return _run(self._topc, instance | self._long_k, rand, amf, sqn, self._k, self._lengths.iterations)


def _key_bit(k: Secret[bytes]) -> int:
    length = len(k.reveal())
    if length not in (16, 32):
        raise AkaError(f"K has {length} octets, not 16 or 32", "TS 35.231 6.2")
    return _LONG_K if length == 32 else 0


def _run(
    top: Secret[bytes], instance: int, rand: bytes, amf: bytes, sqn: bytes, k: Secret[bytes], iterations: int
) -> Callable[[int, int], bytes]:
    """Permute IN and return how to take octets out of OUT: (position, length), most significant octet first.

    The specification counts bits from the least significant, so every field is written backwards (clause 7.2).
    """
    fields = (
        (top.reveal(), 32),
        (bytes([instance]), 1),
        (_ALGORITHM_NAME, 7),
        (rand, 16),
        (amf, 2),
        (sqn, 6),
        (k.reveal(), 32),
    )
    message = b"".join(value[::-1].ljust(length, b"\0") for value, length in fields)
    if iterations == 1:
        # Then IN with its padding is the one block of SHAKE256 (FIPS 202 clause 6.2).
        state = hashlib.shake_256(message).digest(_RATE)
    else:
        padding = b"\x1f".ljust(_RATE - 1 - len(message), b"\0") + b"\x80"
        state = (message + padding).ljust(STATE_OCTETS, b"\0")
        for _ in range(iterations):
            state = keccak_f1600(state)
    return lambda position, length: state[position : position + length][::-1]
