"""Sequence numbers and their resynchronisation (TS 33.102 annex C and clauses 6.3.3, 6.3.5).

SQN is 48 bits: SEQ (43 bits) followed by IND (5 bits), the index of the array entry that judges it.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from imskit.aka.algorithm import MAC_LENGTH, SQN_LENGTH, AlgorithmSet
from imskit.aka.errors import AkaError, need_length

IND_BITS = 5
ARRAY_SIZE = 1 << IND_BITS
SQN_MAX = (1 << 8 * SQN_LENGTH) - 1
SEQ_MAX = SQN_MAX >> IND_BITS
DELTA = 1 << 28
"""The largest jump of SEQ that is accepted (annex C.3)."""
AUTS_LENGTH = SQN_LENGTH + MAC_LENGTH
_RESYNC_AMF = b"\0\0"
"""The dummy AMF of MAC-S, so that it need not be sent in AUTS (clause 6.3.3)."""


@dataclass(frozen=True, slots=True)
class SqnLimits:
    """The optional checks of annex C.2, in units of SEQ; ``None`` leaves a check out."""

    delta: int | None = DELTA
    """Accept only if SEQ - SEQ_MS <= delta (C.2.1)."""
    age: int | None = None
    """Accept only if SEQ_MS - SEQ < age (C.2.2)."""


class SqnVerdict(Enum):
    """What the USIM says to a sequence number."""

    FRESH = "fresh"
    TOO_FAR = "further ahead than delta"
    TOO_OLD = "older than the age limit"
    USED = "not above the last one accepted with its index"


class SqnArray:
    """The USIM's memory: the highest SEQ accepted for each of the 32 values of IND (annex C.2.2).

    ``accepted`` restores it from sequence numbers accepted earlier, in any order.
    """

    def __init__(self, accepted: Iterable[int] = (), limits: SqnLimits | None = None) -> None:
        self._limits = limits or SqnLimits()
        self.restore(accepted)

    def restore(self, accepted: Iterable[int]) -> None:
        """Forget everything but the sequence numbers ``accepted``, in any order."""
        self._seq = [0] * ARRAY_SIZE
        for sqn in accepted:
            seq, ind = split(sqn)
            self._seq[ind] = max(self._seq[ind], seq)

    @property
    def highest(self) -> int:
        """SQN_MS: the highest sequence number accepted so far, 0 if none."""
        return max(join(seq, ind) if seq else 0 for ind, seq in enumerate(self._seq))

    @property
    def accepted(self) -> tuple[int, ...]:
        """What restores this memory: the highest sequence number accepted for each IND that was used."""
        return tuple(join(seq, ind) for ind, seq in enumerate(self._seq) if seq)

    def judge(self, sqn: int) -> SqnVerdict:
        """Say whether ``sqn`` is fresh, without taking note of it."""
        seq, ind = split(sqn)
        seq_ms = max(self._seq)
        if self._limits.delta is not None and seq - seq_ms > self._limits.delta:
            return SqnVerdict.TOO_FAR
        if self._limits.age is not None and seq_ms - seq >= self._limits.age:
            return SqnVerdict.TOO_OLD
        return SqnVerdict.FRESH if seq > self._seq[ind] else SqnVerdict.USED

    def accept(self, sqn: int) -> SqnVerdict:
        """Judge ``sqn`` and, if it is fresh, remember it."""
        verdict = self.judge(sqn)
        if verdict is SqnVerdict.FRESH:
            seq, ind = split(sqn)
            self._seq[ind] = seq
        return verdict


class SqnGenerator:
    """The HSS's counter for one subscriber, not time-based (annex C.1, C.3.2): SEQ rises by one and IND
    goes round with each vector, so vectors of one batch may arrive in any order.

    ``last`` is the sequence number used last (0: none yet).
    """

    def __init__(self, last: int = 0) -> None:
        self._seq, self._ind = split(last)

    @property
    def last(self) -> int:
        """SQN_HE: the sequence number used last; store it to carry on after a restart."""
        return join(self._seq, self._ind)

    def next(self) -> int:
        """Return a sequence number never used before; ``AkaError`` when SEQ is exhausted."""
        if self._seq >= SEQ_MAX:
            raise AkaError("the subscriber's sequence numbers are used up", "TS 33.102 C.1.1")
        self._seq += 1
        self._ind = (self._ind + 1) % ARRAY_SIZE
        return self.last

    def resynchronise(self, sqn_ms: int) -> bool:
        """Take in the SQN_MS of a checked AUTS; return whether the counter was set to it.

        It is not set when the next number would be accepted anyway (clause 6.3.5 step 2), as when the
        AUTS answers an old vector.
        """
        seq_ms, ind_ms = split(sqn_ms)
        if seq_ms < self._seq + 1 <= seq_ms + DELTA:
            return False
        self._seq, self._ind = seq_ms, ind_ms
        return True


def split(sqn: int) -> tuple[int, int]:
    """Return (SEQ, IND) of a sequence number; ``AkaError`` outside 48 bits."""
    if not 0 <= sqn <= SQN_MAX:
        raise AkaError("a sequence number does not fit into 48 bits", "TS 33.102 6.3.2")
    return sqn >> IND_BITS, sqn % ARRAY_SIZE


def join(seq: int, ind: int) -> int:
    """Return the sequence number SEQ || IND."""
    return seq << IND_BITS | ind


def build_auts(algorithms: AlgorithmSet, rand: bytes, sqn_ms: int) -> bytes:
    """Return AUTS = (SQN_MS xor AK*) || MAC-S, 14 octets (clause 6.3.3)."""
    sqn = sqn_ms.to_bytes(SQN_LENGTH)
    concealed = conceal(sqn, algorithms.f5_star(rand).reveal())
    return concealed + algorithms.f1_star(rand, sqn, _RESYNC_AMF)


def check_auts(algorithms: AlgorithmSet, rand: bytes, auts: bytes) -> int | None:
    """Return the SQN_MS inside ``auts`` for the challenge ``rand``, ``None`` if its MAC-S is wrong (6.3.5).

    Raises ``AkaError`` unless AUTS has 14 octets and RAND 16.
    """
    need_length("AUTS", auts, AUTS_LENGTH, "TS 33.102 6.3.3")
    sqn = conceal(auts[:SQN_LENGTH], algorithms.f5_star(rand).reveal())
    mac_s = algorithms.f1_star(rand, sqn, _RESYNC_AMF)
    return int.from_bytes(sqn) if hmac.compare_digest(mac_s, auts[SQN_LENGTH:]) else None


def conceal(sqn: bytes, ak: bytes) -> bytes:
    """Return SQN xor AK, six octets; conceals and reveals alike."""
    return bytes(a ^ b for a, b in zip(sqn, ak, strict=True))
