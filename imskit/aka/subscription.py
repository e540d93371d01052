"""The secret half of a subscription as configuration files give it: K, OPc and the algorithm set they are for.

Cards, authentication centres and phones of labs inherit these settings, so that all of them are written alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imskit.aka.algorithm import AlgorithmSet
from imskit.aka.errors import AkaError
from imskit.aka.milenage import Milenage, derive_opc
from imskit.aka.sqn import SqnLimits, SqnScheme
from imskit.aka.tuak import Tuak, TuakLengths, derive_topc
from imskit.config.model import setting
from imskit.secrets import Secret


@dataclass(frozen=True, kw_only=True)
class TuakSettings:
    """TUAK only: what TS 35.231 clause 6.2 leaves to the operator."""

    res: int = setting("octets of RES: 4, 8, 16 or 32", 8)
    ck: int = setting("octets of CK: 16 or 32", 16)
    ik: int = setting("octets of IK: 16 or 32", 16)
    iterations: int = setting("how often Keccak is applied", 1)

    def lengths(self) -> TuakLengths:
        """Return the same for ``Tuak``; ``AkaError`` for what is not defined."""
        return TuakLengths(self.res, self.ck, self.ik, iterations=self.iterations)


@dataclass(frozen=True, kw_only=True)
class CardSqnSettings:
    """What the card demands of sequence numbers (TS 33.102 annex C.2)."""

    ind_bits: int = setting("bits of IND, 0 to 8: the array of highest numbers has 2 to this power entries", 5)
    delta: int = setting("largest jump of SEQ that is accepted; 0: any", 1 << 28)
    age: int = setting("age limit L: SEQ must not be this much below the highest; 0: no limit", 0)

    def __post_init__(self) -> None:
        self.limits()

    def limits(self) -> SqnLimits:
        """Return the same for ``SqnArray``; ``AkaError`` (a ``ValueError``) for what cannot be."""
        return SqnLimits(self.delta or None, self.age or None, self.ind_bits)


@dataclass(frozen=True, kw_only=True)
class NetworkSqnSettings:
    """How the authentication centre makes sequence numbers (TS 33.102 annex C.1); as the cards expect them."""

    scheme: Literal["counter", "partly-time", "time"] = setting(
        "counter (profile 2 of annex C.3), partly-time (profile 1) or time (profile 3)", "counter"
    )
    ind_bits: int = setting("bits of IND, 0 to 8, as on the cards", 5)
    delta: int = setting("largest jump of SEQ that the cards accept", 1 << 28)
    seq2_bits: int = setting("partly-time: bits of SEQ2, the part that is a clock", 24)
    burst: int = setting("partly-time: D, how many numbers may run ahead of the clock", 1 << 16)
    unit: float = setting("seconds that the clock counts as one; 0: 1 s, with time 0.1 s", 0.0)

    def __post_init__(self) -> None:
        self.chosen()

    def chosen(self) -> SqnScheme:
        """Return the same for ``SqnGenerator``; ``AkaError`` (a ``ValueError``) for what cannot be."""
        return SqnScheme(self.scheme, self.ind_bits, self.delta, self.seq2_bits, self.burst, self.unit or None)


@dataclass(frozen=True, repr=False, kw_only=True)
class SubscriptionKeys:
    """K with OPc or OP.  ``ValueError`` says what does not fit; keys are not shown."""

    k: Secret[str] = setting("subscriber key K: 32 hex digits, for TUAK also 64")
    algorithm: Literal["milenage", "tuak"] = setting("algorithm set: milenage or tuak", "milenage")
    opc: Secret[str] | None = setting("OPc, 32 hex digits (TUAK: TOPc, 64); give it or op", None)
    op: Secret[str] | None = setting("OP, from which OPc is derived (TUAK: TOP)", None)
    tuak: TuakSettings = setting("lengths of TUAK", factory=TuakSettings)

    def __post_init__(self) -> None:
        self.algorithms()

    def algorithms(self) -> AlgorithmSet:
        """Return the keyed algorithm set."""
        tuak = self.algorithm == "tuak"
        digits = (64,) if tuak else (32,)
        k = _key("k", self.k, (32, 64) if tuak else (32,))
        if (self.opc is None) == (self.op is None):
            raise ValueError("give either opc or op")
        try:
            chosen = self.tuak.lengths()
        except AkaError as error:
            raise ValueError(f"tuak: {error}") from None
        if self.opc is not None:
            opc = _key("opc", self.opc, digits)
        else:
            assert self.op is not None
            op = _key("op", self.op, digits)
            opc = derive_topc(k, op, chosen.iterations) if tuak else derive_opc(k, op)
        return Tuak(k, opc, chosen) if tuak else Milenage(k, opc)


def _key(name: str, value: Secret[str], digits: tuple[int, ...]) -> Secret[bytes]:
    text = value.reveal()
    if len(text) not in digits or not all(digit in "0123456789abcdefABCDEF" for digit in text):
        raise ValueError(f"{name} must have {' or '.join(map(str, digits))} hex digits")
    return Secret(bytes.fromhex(text))
