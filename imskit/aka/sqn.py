"""Sequence numbers and their resynchronisation (TS 33.102 annex C and clauses 6.3.3, 6.3.5).

SQN is 48 bits: SEQ followed by IND, the index of the array entry that judges it; 43 and 5 bits unless chosen otherwise.
Annex C leaves to the operator how the network makes the numbers (`SqnScheme`: a counter, a clock, or both) and what the
card checks beside the array (`SqnLimits`).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from imskit.aka.algorithm import MAC_LENGTH, SQN_LENGTH, AlgorithmSet
from imskit.aka.errors import AkaError, need_length

IND_BITS = 5
MAXIMUM_IND_BITS = 8
SQN_MAX = (1 << 8 * SQN_LENGTH) - 1
SEQ_MAX = SQN_MAX >> IND_BITS
DELTA = 1 << 28
"""The largest jump of SEQ that is accepted (annex C.3)."""
AUTS_LENGTH = SQN_LENGTH + MAC_LENGTH
_RESYNC_AMF = b"\0\0"
"""The dummy AMF of MAC-S, so that it need not be sent in AUTS (clause 6.3.3)."""


@dataclass(frozen=True, slots=True)
class SqnLimits:
    """The card's side of annex C.2; delta and age are in units of SEQ, ``None`` leaves a check out."""

    delta: int | None = DELTA
    """Accept only if SEQ - SEQ_MS <= delta (C.2.1)."""
    age: int | None = None
    """Accept only if SEQ_MS - SEQ < age (C.2.2)."""
    ind_bits: int = IND_BITS
    """Bits of IND, 0 to 8: the array has 2 to this power entries; 0 is a card with a single counter."""

    def __post_init__(self) -> None:
        _check_ind_bits(self.ind_bits)
        if (self.delta is not None and self.delta < 1) or (self.age is not None and self.age < 1):
            raise AkaError("delta and the age limit must be at least 1", "TS 33.102 C.2")


type Scheme = Literal["counter", "partly-time", "time"]


@dataclass(frozen=True, slots=True)
class SqnScheme:
    """How the network makes sequence numbers (annex C.1); the defaults are those of the profiles of C.3."""

    kind: Scheme = "counter"
    """``counter``: SEQ rises by one (profile 2); ``partly-time``: a clock is its lower part, SEQ2, and a burst runs
    ahead of it (profile 1); ``time``: a clock and a difference for each subscriber (profile 3)."""
    ind_bits: int = IND_BITS
    """Bits of IND, 0 to 8; the card's must be the same."""
    delta: int = DELTA
    """What the cards allow SEQ to jump: resynchronisation is judged by it."""
    seq2_bits: int = 24
    """partly-time: bits of SEQ2, the clock's period."""
    burst: int = 1 << 16
    """partly-time: D, how many numbers may run ahead of the clock."""
    unit: float | None = None
    """Seconds that the clock counts as one; ``None``: 1 s, and 0.1 s for ``time``."""

    def __post_init__(self) -> None:
        _check_ind_bits(self.ind_bits)
        clause = "TS 33.102 C.1"
        if self.unit is not None and self.unit <= 0:
            raise AkaError("the clock's unit must be more than 0 s", clause)
        if self.delta < 1:
            raise AkaError("delta must be at least 1", "TS 33.102 C.2.1")
        if self.kind == "partly-time":
            if not 1 <= self.seq2_bits < SQN_LENGTH * 8 - self.ind_bits:
                raise AkaError("SEQ2 must have at least one bit and leave one to SEQ1", clause)
            if not 1 <= self.burst < 1 << self.seq2_bits:
                raise AkaError("the burst D must be at least 1 and less than the period of SEQ2", clause)
            if 1 << self.seq2_bits > self.delta:
                raise AkaError("the period of SEQ2 must not be more than delta, which no card would accept", clause)

    def clock(self, now: float) -> int:
        """Return GLC, the clock common to all subscribers, for ``now``: seconds of universal time."""
        return int(now / (self.unit or (0.1 if self.kind == "time" else 1.0)))


class SqnVerdict(Enum):
    """What the USIM says to a sequence number."""

    FRESH = "fresh"
    TOO_FAR = "further ahead than delta"
    TOO_OLD = "older than the age limit"
    USED = "not above the last one accepted with its index"


class SqnArray:
    """The USIM's memory: the highest SEQ accepted for each value of IND, 32 as a rule (annex C.2.2).

    ``accepted`` restores it from sequence numbers accepted earlier, in any order.
    """

    def __init__(self, accepted: Iterable[int] = (), limits: SqnLimits | None = None) -> None:
        self._limits = limits or SqnLimits()
        self.restore(accepted)

    def restore(self, accepted: Iterable[int]) -> None:
        """Forget everything but the sequence numbers ``accepted``, in any order."""
        self._seq = [0] * (1 << self._limits.ind_bits)
        for sqn in accepted:
            seq, ind = self._split(sqn)
            self._seq[ind] = max(self._seq[ind], seq)

    @property
    def highest(self) -> int:
        """SQN_MS: the highest sequence number accepted so far, 0 if none."""
        return max(self.accepted, default=0)

    @property
    def accepted(self) -> tuple[int, ...]:
        """What restores this memory: the highest sequence number accepted for each IND that was used."""
        return tuple(join(seq, ind, self._limits.ind_bits) for ind, seq in enumerate(self._seq) if seq)

    def judge(self, sqn: int) -> SqnVerdict:
        """Say whether ``sqn`` is fresh, without taking note of it."""
        seq, ind = self._split(sqn)
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
            seq, ind = self._split(sqn)
            self._seq[ind] = seq
        return verdict

    def _split(self, sqn: int) -> tuple[int, int]:
        return split(sqn, self._limits.ind_bits)


class SqnGenerator:
    """The HSS's side for one subscriber (annex C.1): SEQ rises with each vector and IND goes round, so that vectors of
    one batch may arrive in any order.

    ``last`` is the sequence number used last (0: none yet).  Every ``now`` is universal time in seconds; the scheme
    ``counter`` does not look at it.
    """

    def __init__(self, last: int = 0, scheme: SqnScheme | None = None) -> None:
        self._scheme = scheme or SqnScheme()
        self._seq, self._ind = split(last, self._scheme.ind_bits)
        # Scheme ``time``: this subscriber's difference to the clock, unknown until the card tells (C.1.1.3).
        self._difference = 0

    @property
    def last(self) -> int:
        """SQN_HE: the sequence number used last; store it to carry on after a restart."""
        return join(self._seq, self._ind, self._scheme.ind_bits)

    def next(self, now: float = 0.0) -> int:
        """Return a sequence number never used before; ``AkaError`` when SEQ is exhausted, for it never wraps."""
        seq = self._following(now)
        if seq >> SQN_LENGTH * 8 - self._scheme.ind_bits:
            raise AkaError("the subscriber's sequence numbers are used up", "TS 33.102 C.1.1")
        self._seq = seq
        self._ind = (self._ind + 1) % (1 << self._scheme.ind_bits)
        return self.last

    def resynchronise(self, sqn_ms: int, now: float = 0.0) -> bool:
        """Take in the SQN_MS of a checked AUTS; return whether the counter was set to it.

        It is not set when the next number would be accepted anyway (clause 6.3.5 step 2), as when the
        AUTS answers an old vector.
        """
        seq_ms, ind_ms = split(sqn_ms, self._scheme.ind_bits)
        if seq_ms < self._following(now) <= seq_ms + self._scheme.delta:
            return False
        self._seq, self._ind = seq_ms, ind_ms
        self._difference = seq_ms - self._scheme.clock(now)
        return True

    def _following(self, now: float) -> int:
        """The SEQ after the last one."""
        if self._scheme.kind == "counter":
            return self._seq + 1
        if self._scheme.kind == "time":
            # Several vectors within a unit, or a clock put back, must not give a number twice.
            return max(self._scheme.clock(now) + self._difference, self._seq + 1)
        period, burst = 1 << self._scheme.seq2_bits, self._scheme.burst
        clock = self._scheme.clock(now) % period
        seq1, seq2 = divmod(self._seq, period)
        if seq2 < clock < seq2 + period - burst + 1:
            return seq1 * period + clock
        if clock + burst - 1 < seq2:
            return (seq1 + 1) * period + clock  # the clock has begun a new period
        return self._seq + 1  # a burst has run ahead of the clock


def split(sqn: int, ind_bits: int = IND_BITS) -> tuple[int, int]:
    """Return (SEQ, IND) of a sequence number; ``AkaError`` outside 48 bits."""
    if not 0 <= sqn <= SQN_MAX:
        raise AkaError("a sequence number does not fit into 48 bits", "TS 33.102 6.3.2")
    return sqn >> ind_bits, sqn & (1 << ind_bits) - 1


def join(seq: int, ind: int, ind_bits: int = IND_BITS) -> int:
    """Return the sequence number SEQ || IND."""
    return seq << ind_bits | ind


def _check_ind_bits(ind_bits: int) -> None:
    if not 0 <= ind_bits <= MAXIMUM_IND_BITS:
        raise AkaError(f"IND has 0 to {MAXIMUM_IND_BITS} bits, not {ind_bits}", "TS 33.102 C.1.1")


def build_auts(algorithms: AlgorithmSet, rand: bytes, sqn_ms: int) -> bytes:
    """Return AUTS = (SQN_MS xor AK*) || MAC-S, 14 octets (clause 6.3.3)."""
    sqn = sqn_ms.to_bytes(SQN_LENGTH)
    concealed = conceal(sqn, algorithms.f5_star(rand).reveal())
    mac_s = algorithms.f1_star(rand, sqn, _RESYNC_AMF)
    need_length("MAC-S", mac_s, MAC_LENGTH, "TS 33.102 6.3.3")
    return concealed + mac_s


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
