"""The secret half of a subscription as configuration files give it: K, OPc and the algorithm set they are for.

Cards, authentication centres and phones of labs inherit these settings, so that all of them are written alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imskit.aka.algorithm import AlgorithmSet
from imskit.aka.errors import AkaError
from imskit.aka.milenage import Milenage, derive_opc
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
