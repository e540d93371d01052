"""What an authentication algorithm set (Milenage, TUAK) offers to AKA (TS 33.102 clause 6.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from imskit.secrets import Secret

RAND_LENGTH = 16
SQN_LENGTH = 6
AMF_LENGTH = 2
MAC_LENGTH = 8


@dataclass(frozen=True, slots=True)
class DerivedKeys:
    """What f2 to f5 give for one RAND."""

    res: Secret[bytes]
    """f2, 4 to 16 octets (TUAK: to 32)."""
    ck: Secret[bytes]
    """f3, 16 octets (TUAK: or 32)."""
    ik: Secret[bytes]
    """f4, 16 octets (TUAK: or 32)."""
    ak: Secret[bytes]
    """f5, 6 octets: conceals SQN in AUTN."""


class AlgorithmSet(Protocol):
    """The functions f1 to f5*, already keyed with one subscriber's K and OPc or TOPc (TS 33.105 clause 5.1)."""

    def f1(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """MAC-A, 8 octets, from RAND (16), SQN (6) and AMF (2)."""

    def f1_star(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """MAC-S, 8 octets, for resynchronisation."""

    def f2345(self, rand: bytes) -> DerivedKeys:
        """RES, CK, IK and AK."""

    def f5_star(self, rand: bytes) -> Secret[bytes]:
        """AK for resynchronisation, 6 octets: conceals SQN in AUTS."""
