"""Milenage: the 3GPP example algorithm set f1, f1*, f2 to f5, f5* (TS 35.206 clause 4.1).

The constants c1 to c5 and r1 to r5 are the default ones, which operators in practice keep.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from imskit.aka.algorithm import AMF_LENGTH, RAND_LENGTH, SQN_LENGTH, DerivedKeys
from imskit.aka.errors import need_length
from imskit.secrets import Secret

_BLOCK = 16
# (c, r) of TS 35.206 clause 4.1: the constant's last octet, the rotation in octets.
_F1 = (0x00, 8)
_F2_F5 = (0x01, 0)
_F3 = (0x02, 4)
_F4 = (0x04, 8)
_F5_STAR = (0x08, 12)


def derive_opc(k: Secret[bytes], op: Secret[bytes]) -> Secret[bytes]:
    """Return OPc = OP xor E_K(OP) (TS 35.206 clause 4.1).  K and OP are 16 octets; else ``AkaError``."""
    need_length("K", k.reveal(), _BLOCK, "TS 35.206 2.3")
    need_length("OP", op.reveal(), _BLOCK, "TS 35.206 2.3")
    return Secret(_xor(op.reveal(), _encrypt(k, op.reveal())))


class Milenage:
    """One subscriber's ``AlgorithmSet``.  K and OPc are 16 octets; else ``AkaError``."""

    def __init__(self, k: Secret[bytes], opc: Secret[bytes]) -> None:
        need_length("K", k.reveal(), _BLOCK, "TS 35.206 2.3")
        need_length("OPc", opc.reveal(), _BLOCK, "TS 35.206 2.3")
        self._k = k
        self._opc = opc

    def f1(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """MAC-A; see ``AlgorithmSet``."""
        return self._out1(rand, sqn, amf)[:8]

    def f1_star(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """MAC-S; see ``AlgorithmSet``."""
        return self._out1(rand, sqn, amf)[8:]

    def f2345(self, rand: bytes) -> DerivedKeys:
        """RES (8 octets), CK, IK and AK; see ``AlgorithmSet``."""
        temp = self._temp(rand)
        out2 = self._out(temp, *_F2_F5)
        return DerivedKeys(
            res=Secret(out2[8:]),
            ck=Secret(self._out(temp, *_F3)),
            ik=Secret(self._out(temp, *_F4)),
            ak=Secret(out2[:6]),
        )

    def f5_star(self, rand: bytes) -> Secret[bytes]:
        """AK for AUTS; see ``AlgorithmSet``."""
        return Secret(self._out(self._temp(rand), *_F5_STAR)[:6])

    def _temp(self, rand: bytes) -> bytes:
        need_length("RAND", rand, RAND_LENGTH, "TS 33.102 6.3.2")
        return _encrypt(self._k, _xor(rand, self._opc.reveal()))

    def _out(self, temp: bytes, constant: int, rotation: int) -> bytes:
        opc = self._opc.reveal()
        block = bytearray(_rotate(_xor(temp, opc), rotation))
        block[-1] ^= constant
        return _xor(_encrypt(self._k, bytes(block)), opc)

    def _out1(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        need_length("SQN", sqn, SQN_LENGTH, "TS 33.102 6.3.2")
        need_length("AMF", amf, AMF_LENGTH, "TS 33.102 6.3.2")
        opc = self._opc.reveal()
        constant, rotation = _F1
        block = bytearray(_xor(self._temp(rand), _rotate(_xor((sqn + amf) * 2, opc), rotation)))
        block[-1] ^= constant
        return _xor(_encrypt(self._k, bytes(block)), opc)


def _encrypt(key: Secret[bytes], block: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES128(key.reveal()), modes.ECB()).encryptor()  # one block: ECB is the cipher
    return encryptor.update(block) + encryptor.finalize()


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _rotate(block: bytes, octets: int) -> bytes:
    """Rotate towards the most significant bit."""
    return block[octets:] + block[:octets]
