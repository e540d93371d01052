"""Both ends of one AKA run: the vector that the HSS makes, the verdict of the USIM (TS 33.102 6.3.2, 6.3.3)."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from imskit.aka.algorithm import AMF_LENGTH, MAC_LENGTH, SQN_LENGTH, AlgorithmSet
from imskit.aka.errors import need_length
from imskit.aka.sqn import SqnArray, SqnVerdict, build_auts, conceal
from imskit.secrets import Secret

AUTN_LENGTH = SQN_LENGTH + AMF_LENGTH + MAC_LENGTH
IMS_AMF = b"\0\0"
"""AMF of an IMS vector: separation bit 0 (TS 33.102 annex H)."""


@dataclass(frozen=True, slots=True)
class AuthenticationVector:
    """One quintet, good for one challenge."""

    rand: bytes
    """16 octets."""
    autn: bytes
    """16 octets: (SQN xor AK) || AMF || MAC-A."""
    xres: Secret[bytes]
    ck: Secret[bytes]
    ik: Secret[bytes]

    @classmethod
    def generate(cls, algorithms: AlgorithmSet, rand: bytes, sqn: int, amf: bytes = IMS_AMF) -> AuthenticationVector:
        """Make the vector for a fresh unguessable ``rand`` (16 octets) and ``sqn`` (48 bits)."""
        keys = algorithms.f2345(rand)
        number = sqn.to_bytes(SQN_LENGTH)
        mac = _mac_a(algorithms, rand, number, amf)
        autn = conceal(number, keys.ak.reveal()) + amf + mac
        return cls(rand=rand, autn=autn, xres=keys.res, ck=keys.ck, ik=keys.ik)


@dataclass(frozen=True, slots=True)
class Success:
    """The network is genuine and the number fresh: the keys of this run."""

    res: Secret[bytes]
    """4 to 16 octets (TUAK: to 32)."""
    ck: Secret[bytes]
    ik: Secret[bytes]


@dataclass(frozen=True, slots=True)
class SyncFailure:
    """The network is genuine, its sequence number is not acceptable; send ``auts`` back."""

    auts: bytes
    """14 octets."""


@dataclass(frozen=True, slots=True)
class MacFailure:
    """The challenge was not made with this subscriber's key."""


type AkaResult = Success | SyncFailure | MacFailure


class Usim:
    """The subscriber's side: keys and the memory of sequence numbers."""

    def __init__(self, algorithms: AlgorithmSet, sqn: SqnArray | None = None) -> None:
        self.algorithms = algorithms
        self.sqn = sqn or SqnArray()
        """What has been accepted so far."""

    def verify(self, rand: bytes, autn: bytes) -> AkaResult:
        """Judge one challenge (clause 6.3.3); ``AkaError`` unless both have 16 octets."""
        need_length("AUTN", autn, AUTN_LENGTH, "TS 33.102 6.3.2")
        keys = self.algorithms.f2345(rand)
        sqn = conceal(autn[:SQN_LENGTH], keys.ak.reveal())
        amf = autn[SQN_LENGTH : SQN_LENGTH + AMF_LENGTH]
        xmac = _mac_a(self.algorithms, rand, sqn, amf)
        if not hmac.compare_digest(xmac, autn[SQN_LENGTH + AMF_LENGTH :]):
            return MacFailure()
        if self.sqn.accept(int.from_bytes(sqn)) is not SqnVerdict.FRESH:
            return SyncFailure(build_auts(self.algorithms, rand, self.sqn.highest))
        return Success(res=keys.res, ck=keys.ck, ik=keys.ik)


def _mac_a(algorithms: AlgorithmSet, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
    mac = algorithms.f1(rand, sqn, amf)
    need_length("MAC-A", mac, MAC_LENGTH, "TS 33.102 6.3.2")  # TUAK can make longer ones, AUTN has no room for them
    return mac
