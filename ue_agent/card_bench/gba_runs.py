"""GBA on a card whose key is known: the bench is the BSF, and compares the keys of both sides (TS 33.220 4.5, 5.3)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from imskit.aka.gba import (
    Bootstrapped,
    BootstrappingInfo,
    BTid,
    InCard,
    bootstrap_key,
    conceal_for_uicc,
    derive_naf_key,
    naf_id,
)
from imskit.aka.vector import AkaResult, AuthenticationVector, MacFailure, Success, SyncFailure
from imskit.secrets import Identity, Secret
from ue_agent.card_bench.lab_hss import LabHss
from ue_agent.uicc.application import Source, UiccSession

_LIFETIME = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class GbaRun:
    """One bootstrapping run and the key of one server."""

    in_card: bool
    """GBA_U: Ks stays in the card."""
    run: Bootstrapped | None
    """``None`` if the card did not bootstrap."""
    key: Secret[bytes] | None
    """Ks_NAF, of GBA_U Ks_ext_NAF, as the terminal's side has it."""
    ok: bool
    """Whether RES and that key are those of the network's side."""
    text: str
    """The same in words."""
    synchronised: bool
    """Whether the card's sequence number was ahead and has been followed."""
    bootstrap_ms: float
    naf_ms: float


class GbaBench:
    """Bootstraps in the application ``source``; ``bsf`` is the name that goes into the B-TID."""

    def __init__(self, session: UiccSession, source: Source, hss: LabHss, impi: Identity, bsf: str) -> None:
        self._session = session
        self._source = source
        self._hss = hss
        self._impi = impi
        self._bsf = bsf

    def run(self, server: str, *, in_card: bool) -> GbaRun:
        """Bootstrap with GBA_U (``in_card``) or GBA_ME, and derive the key of ``server``.

        With GBA_U, EF_GBABP is written as a terminal has to.  Raises the card's errors, and ``AkaError`` for a name
        that is none.
        """
        identifier = naf_id(server)
        vector, result, milliseconds = self._challenge(in_card)
        synchronised = isinstance(result, SyncFailure)
        if isinstance(result, SyncFailure):
            self._hss.resynchronise(self._hss.read(vector.rand, result))
            vector, result, milliseconds = self._challenge(in_card)

        def refused(text: str) -> GbaRun:
            return GbaRun(in_card, None, None, False, text, synchronised, milliseconds, 0.0)

        match result:
            case MacFailure():
                return refused("9862: incorrect MAC (is the key right?)")
            case SyncFailure():
                return refused("the card does not accept the sequence number after its own AUTS")
            case InCard(res) if in_card:
                right = res == vector.xres
            case Success() if not in_card:
                right = self._hss.right(vector, result)
            case _:
                return refused("the card answered in the other context: it does no GBA_U")
        if not right:
            return refused("RES differs from the network's")
        info = BootstrappingInfo(
            BTid.make(vector.rand, self._bsf), datetime.now(UTC).replace(microsecond=0) + _LIFETIME
        )
        ks = bootstrap_key(vector.ck, vector.ik)
        bootstrapped = Bootstrapped(self._impi, vector.rand, info, None if in_card else ks)
        impi = str.__str__(self._impi)
        expected = derive_naf_key(ks, vector.rand, impi, identifier)
        start = time.perf_counter()
        if in_card:
            self._session.store_bootstrapping(self._source, bootstrapped)
            start = time.perf_counter()
            key = self._session.naf_key(self._source, identifier, impi)
        else:
            assert isinstance(result, Success)
            key = derive_naf_key(bootstrap_key(result.ck, result.ik), vector.rand, impi, identifier)
        ok = key == expected
        name = "Ks_ext_NAF" if in_card else "Ks_NAF"
        text = f"RES and {name} are those of the network" if ok else f"{name} differs from the network's"
        naf_ms = 1000 * (time.perf_counter() - start)
        return GbaRun(in_card, bootstrapped, key, ok, text, synchronised, milliseconds, naf_ms)

    def _challenge(self, in_card: bool) -> tuple[AuthenticationVector, AkaResult | InCard, float]:
        vector = self._hss.vector()
        start = time.perf_counter()
        result: AkaResult | InCard
        if in_card:
            result = self._session.bootstrap(self._source, vector.rand, conceal_for_uicc(vector.autn, vector.ik))
        else:
            result = self._session.authenticate(self._source, vector.rand, vector.autn)
        return vector, result, 1000 * (time.perf_counter() - start)
