"""The network's side of AKA for a card whose key is known: vectors, good and bad, and verdicts on answers.

For laboratories: the key lies in a file, or is typed in.  It starts with the lowest numbers, so that a card in use
answers AUTS first and goes on from its own, which disturbs its home network least (TS 33.102 clause 6.3.5).
"""

from __future__ import annotations

import hmac
import os
import stat
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imskit.aka.algorithm import AMF_LENGTH, SQN_LENGTH
from imskit.aka.sqn import SqnGenerator, check_auts, conceal, split
from imskit.aka.subscription import NetworkSqnSettings, SubscriptionKeys
from imskit.aka.vector import IMS_AMF, AkaResult, AuthenticationVector, Success, SyncFailure
from imskit.config.model import ConfigError, parse, setting
from imskit.uicc.profile import CardProfile

_MAX_FILE = 65536


@dataclass(frozen=True, repr=False, kw_only=True)
class LabKeys(SubscriptionKeys):
    """Key file of ``imsbridge card aka`` and ``card gba``: what the card's home network knows.  Keep it mode 0600."""

    amf: str = setting("AMF of the vectors, 4 hex digits; the first bit is the separation bit", IMS_AMF.hex())
    numbers: NetworkSqnSettings = setting("sequence numbers", factory=NetworkSqnSettings)

    def __post_init__(self) -> None:
        SubscriptionKeys.__post_init__(self)
        if len(self.amf) != 4 or not all(digit in "0123456789abcdefABCDEF" for digit in self.amf):
            raise ValueError("amf must have 4 hex digits")


def load_keys(path: Path) -> LabKeys:
    """Read a key file, or one of a simulated card; ``ConfigError`` unless it is its user's alone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path}: is no file")
        if status.st_mode & 0o077 or status.st_uid != os.geteuid():
            raise ConfigError(f"{path}: holds a key and others may get at it. Run: chmod 600 {path}")
        octets = os.read(descriptor, _MAX_FILE)
    finally:
        os.close(descriptor)
    try:
        text = octets.decode()
        of_card = "imsi" in tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    if not of_card:
        return parse(LabKeys, text, str(path))
    card = parse(CardProfile, text, str(path))
    numbers = NetworkSqnSettings(ind_bits=card.numbers.ind_bits, delta=card.numbers.delta or 1 << 28)
    return LabKeys(k=card.k, algorithm=card.algorithm, opc=card.opc, op=card.op, tuak=card.tuak, numbers=numbers)


@dataclass(frozen=True, slots=True)
class Autn:
    """An AUTN in parts, as this key reads it."""

    sqn: int
    seq: int
    ind: int
    amf: bytes
    mac_ok: bool
    """Whether MAC-A is right: else it was not made with this key, and the numbers mean nothing."""


@dataclass(frozen=True, slots=True)
class Auts:
    """An AUTS in parts."""

    auts: bytes
    sqn_ms: int | None
    """The highest number that the card has accepted; ``None`` if MAC-S is wrong: it is not this card's."""
    seq: int | None
    ind: int | None


class LabHss:
    """One subscriber's authentication centre."""

    def __init__(self, keys: LabKeys, clock: Callable[[], float] = time.time) -> None:
        """``clock`` gives universal time in seconds."""
        self.algorithm = keys.algorithm
        self.algorithms = keys.algorithms()
        self._amf = bytes.fromhex(keys.amf)
        self._ind_bits = keys.numbers.ind_bits
        self._numbers = SqnGenerator(scheme=keys.numbers.chosen())
        self._clock = clock

    @property
    def last(self) -> int:
        """The sequence number used last."""
        return self._numbers.last

    def vector(self) -> AuthenticationVector:
        """Return a fresh vector."""
        return self._with(self._numbers.next(self._clock()))

    def used_again(self) -> AuthenticationVector:
        """Return a vector with the number of the one before: no card may accept it."""
        return self._with(self._numbers.last)

    def forged(self) -> AuthenticationVector:
        """Return a fresh vector whose MAC is wrong by one bit."""
        good = self._with(self._numbers.last)
        return AuthenticationVector(good.rand, good.autn[:-1] + bytes([good.autn[-1] ^ 1]), good.xres, good.ck, good.ik)

    def right(self, vector: AuthenticationVector, result: AkaResult) -> bool:
        """Whether a successful run gave the keys of ``vector``."""
        expected = (vector.xres, vector.ck, vector.ik)
        return isinstance(result, Success) and (result.res, result.ck, result.ik) == expected

    def right_for(self, rand: bytes, result: Success) -> bool:
        """Whether a successful run gave what this key gives for ``rand``, whoever made the challenge."""
        keys = self.algorithms.f2345(rand)
        return (result.res, result.ck, result.ik) == (keys.res, keys.ck, keys.ik)

    def read_autn(self, rand: bytes, autn: bytes) -> Autn:
        """Take an AUTN apart."""
        number = conceal(autn[:SQN_LENGTH], self.algorithms.f2345(rand).ak.reveal())
        amf, mac = autn[SQN_LENGTH : SQN_LENGTH + AMF_LENGTH], autn[SQN_LENGTH + AMF_LENGTH :]
        sqn = int.from_bytes(number)
        seq, ind = split(sqn, self._ind_bits)
        return Autn(sqn, seq, ind, amf, hmac.compare_digest(mac, self.algorithms.f1(rand, number, amf)))

    def read(self, rand: bytes, failure: SyncFailure) -> Auts:
        """Take an AUTS apart."""
        sqn = check_auts(self.algorithms, rand, failure.auts)
        seq, ind = (None, None) if sqn is None else split(sqn, self._ind_bits)
        return Auts(failure.auts, sqn, seq, ind)

    def resynchronise(self, auts: Auts) -> None:
        """Go on from the card's number; nothing if its MAC-S was wrong."""
        if auts.sqn_ms is not None:
            self._numbers.resynchronise(auts.sqn_ms, self._clock())

    def _with(self, sqn: int) -> AuthenticationVector:
        return AuthenticationVector.generate(self.algorithms, os.urandom(16), sqn, self._amf)
