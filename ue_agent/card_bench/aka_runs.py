"""Runs of AKA on a card, judged and timed (TS 33.102 clause 6.3; TS 31.103 clause 7.1.2)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from imskit.aka.vector import AkaResult, AuthenticationVector, MacFailure, Success, SyncFailure
from ue_agent.card_bench.lab_hss import Autn, Auts, LabHss
from ue_agent.card_bench.observe import Exchange
from ue_agent.uicc.application import Source, UiccSession
from ue_agent.uicc.errors import CardDataError, CardError

type Case = Literal["success", "resync", "mac"]
CASES: tuple[Case, ...] = ("success", "resync", "mac")
_AUTHENTICATE = 0x88
_SYNCHRONISATIONS = 4


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one run went, milliseconds."""

    total: float
    """From the call to its result: selecting the application and AUTHENTICATE."""
    authenticate: float
    """AUTHENTICATE and fetching its answer."""
    card: float
    """All commands of the run, from leaving this program to their answers: reader and card."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of AKA and what became of it."""

    case: Case | None
    """What was tried; ``None`` for a challenge that was handed in."""
    rand: bytes
    autn: bytes
    result: AkaResult | None
    """``None`` if the card refused with ``error``."""
    error: str | None
    sw: int | None
    """Status word of a refusal."""
    ok: bool
    """Whether the card did what its specification wants in this case."""
    text: str
    """The same in words."""
    timing: Timing
    auts: Auts | None = None
    """AUTS in parts, where the key is known and there was one."""
    autn_parts: Autn | None = None
    """AUTN in parts, where the key is known."""


class Stopwatch:
    """An observer of exchanges that adds up their times."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin a new run."""
        self.card = self.authenticate = 0.0
        self._since_authenticate = False

    def __call__(self, exchange: Exchange) -> None:
        """Take in one exchange."""
        self.card += exchange.seconds
        self._since_authenticate |= len(exchange.command) > 1 and exchange.command[1] == _AUTHENTICATE
        if self._since_authenticate:
            self.authenticate += exchange.seconds


class AkaBench:
    """Runs AKA in the application ``source`` of ``session``; ``watch`` observes the session's transport."""

    def __init__(self, session: UiccSession, source: Source, watch: Stopwatch, hss: LabHss | None = None) -> None:
        self._session = session
        self._source = source
        self._watch = watch
        self._hss = hss

    def challenge(self, rand: bytes, autn: bytes) -> Run:
        """Hand in one challenge from elsewhere: right is a success, where the key is known with its RES, CK and IK."""
        hss = self._hss

        def judge(result: AkaResult) -> tuple[bool, str]:
            if not isinstance(result, Success) or hss is None:
                return isinstance(result, Success), _in_words(result)
            if hss.right_for(rand, result):
                return True, "success, and RES, CK and IK are right"
            return False, "success, but RES, CK or IK are not what the key gives"

        return self._run(None, rand, autn, judge)

    def synchronise(self) -> Run | None:
        """Bring network and card together; return the run that failed, ``None`` if they have come together.

        A card judges each IND by itself, so an accepted number says little: a used one is sent to learn its highest.
        """
        hss = self._known()
        for _ in range(_SYNCHRONISATIONS):
            tried = self.run("success")
            if tried.ok:
                asked = self.run("resync")
                if asked.auts is None or asked.auts.sqn_ms is None or asked.auts.sqn_ms <= hss.last:
                    return None  # a card that tells no number is a finding of the case itself
                hss.resynchronise(asked.auts)
            elif tried.auts is not None and tried.auts.sqn_ms is not None:
                hss.resynchronise(tried.auts)
            else:
                return tried
        return tried

    def run(self, case: Case) -> Run:
        """Try one case; ``synchronise`` comes before."""
        hss = self._known()
        match case:
            case "success":
                vector = hss.vector()
                return self._run(case, vector.rand, vector.autn, lambda result: self._success(vector, result))
            case "resync":
                vector = hss.used_again()
                return self._run(case, vector.rand, vector.autn, lambda result: self._resync(vector, result))
            case "mac":
                vector = hss.forged()
                return self._run(case, vector.rand, vector.autn, self._wrong_mac)

    def _known(self) -> LabHss:
        if self._hss is None:
            raise ValueError("without the card's key there is nothing to compare with")
        return self._hss

    def _run(self, case: Case | None, rand: bytes, autn: bytes, judge: Callable[[AkaResult], tuple[bool, str]]) -> Run:
        self._watch.reset()
        result: AkaResult | None = None
        error, sw, start = None, None, time.perf_counter()
        try:
            result = self._session.authenticate(self._source, rand, autn)
        except CardError as refusal:
            error, sw = str(refusal), refusal.sw
        except CardDataError as nonsense:
            error = str(nonsense)
        total = time.perf_counter() - start
        ok, text = (False, error or "") if result is None else judge(result)
        timing = Timing(1000 * total, 1000 * self._watch.authenticate, 1000 * self._watch.card)
        auts = self._hss.read(rand, result) if self._hss and isinstance(result, SyncFailure) else None
        autn_parts = self._hss.read_autn(rand, autn) if self._hss else None
        return Run(case, rand, autn, result, error, sw, ok, text, timing, auts, autn_parts)

    def _success(self, vector: AuthenticationVector, result: AkaResult) -> tuple[bool, str]:
        if not isinstance(result, Success):
            return False, _in_words(result)
        if self._known().right(vector, result):
            return True, "RES, CK and IK are those of the network"
        return False, "RES, CK or IK differ from the network's"

    def _resync(self, vector: AuthenticationVector, result: AkaResult) -> tuple[bool, str]:
        if not isinstance(result, SyncFailure):
            return False, f"a used sequence number was not refused: {_in_words(result)}"
        if self._known().read(vector.rand, result).sqn_ms is None:
            return False, "AUTS with a wrong MAC-S"
        return True, "AUTS, and its MAC-S is right"

    @staticmethod
    def _wrong_mac(result: AkaResult) -> tuple[bool, str]:
        if isinstance(result, MacFailure):
            return True, "9862: incorrect MAC"
        return False, f"a forged MAC was not refused: {_in_words(result)}"


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of ``values``, which are not empty."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def _in_words(result: AkaResult) -> str:
    match result:
        case Success():
            return "success"
        case SyncFailure():
            return "synchronisation failure: AUTS"
        case MacFailure():
            return "9862: incorrect MAC (is the key right?)"
