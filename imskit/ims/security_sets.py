"""The security associations of one registration over time (TS 33.203 clause 7.4, TS 24.229 clause 5.1.1.4 and .5).

A chain of REGISTERs begins with a *reservation*: ports and SPIs that its Security-Client names.  A valid challenge
makes the reservation the *new* set, which lives for 4 minutes unless a 200 makes it the one *in use*.  The one before
goes *out*: once the P-CSCF has spoken over the new one and no transaction uses the old, or when its life ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from imskit.engine import Tokens
from imskit.ims.gm_path import GmPath
from imskit.ims.registration_events import (
    InstallSecurity,
    Output,
    ReleaseSecurity,
    RemoveSecurity,
    ReserveSecurity,
    SecurityFailed,
    SecurityInstalled,
    SecurityReserved,
)
from imskit.ims.security_agreement import SecurityAgreement, SecurityPorts
from imskit.ipsec.algorithms import AlgorithmPair

_log = logging.getLogger(__name__)

TEMPORARY_SECONDS = 240.0
"""Life of a set until the registration is confirmed: reg-await-auth (TS 24.229 table 7.8.1)."""
MARGIN_SECONDS = 30.0
"""A set outlives the registration by this much (TS 24.229 clause 5.1.1.2.2)."""
_LOOK_AGAIN_SECONDS = 2.0
"""How often it is looked whether a set on its way out still has transactions."""

type InUse = Callable[[SecurityAgreement], bool]
"""Tells whether a SIP transaction uses the associations of an agreement."""


@dataclass
class _Reservation:
    name: str
    ports: SecurityPorts | None = None


@dataclass
class _Set:
    name: str
    agreement: SecurityAgreement
    verify: tuple[str, ...]
    ends_at: float
    idle: bool = False
    """On its way out: the P-CSCF has begun to use its successor."""

    def path(self) -> GmPath:
        return GmPath(self.agreement.hop(), (self.agreement.local, self.agreement.ours.port_s), self.verify)


class SecuritySets:
    """See the module's text; what is to be done outside goes to ``emit``."""

    def __init__(self, tokens: Tokens, emit: Callable[[Output], None], in_use: InUse) -> None:
        self._tokens = tokens
        self._emit = emit
        self._in_use = in_use
        self._count = 0
        self._reservation: _Reservation | None = None
        self._superseded: _Reservation | None = None
        """Given back once its successor is there, so that the server port stays bound between them."""
        self._installing: _Set | None = None
        self._new: _Set | None = None
        self._current: _Set | None = None
        self._old: list[_Set] = []
        self._look_at: float | None = None

    # ---- what is there ------------------------------------------------------------------------------------------

    @property
    def current(self) -> GmPath | None:
        """The way of the set in use."""
        return self._current.path() if self._current else None

    @property
    def new(self) -> GmPath | None:
        """The way of the set that a challenge made."""
        return self._new.path() if self._new else None

    @property
    def leaving(self) -> GmPath | None:
        """The way of the set that was in use last and is still there."""
        return self._old[-1].path() if self._old else None

    @property
    def pair(self) -> AlgorithmPair | None:
        """The algorithms of the set in use."""
        return self._current.agreement.pair if self._current else None

    @property
    def ports(self) -> SecurityPorts | None:
        """What the reservation holds."""
        return self._reservation.ports if self._reservation else None

    def carries(self, local_port: int, remote: tuple[str, int]) -> bool:
        """Tell whether a message between these came inside one of the sets."""
        return any(_carries(each, local_port, remote) for each in self._all())

    def deadline(self) -> float | None:
        """When `tick` has something to do."""
        times = [each.ends_at for each in (self._current, *self._old) if each is not None]
        if self._look_at is not None:
            times.append(self._look_at)
        return min(times, default=None)

    # ---- a chain of REGISTERs -----------------------------------------------------------------------------------

    def reserve(self) -> None:
        """Ask for new SPIs and a new port-c; port-s stays that of the registration."""
        held = self._reservation
        keep = self._current.agreement.ours.port_s if self._current else None
        if held is not None:
            if keep is None and held.ports is not None:
                keep = held.ports.port_s
            self._release(self._superseded)
            self._superseded = held
        self._count += 1
        self._reservation = _Reservation(f"gm-{self._count}-{self._tokens(8)}")
        self._emit(ReserveSecurity(self._reservation.name, keep))

    def reserved(self, event: SecurityReserved) -> bool:
        """Take in the answer; False if it is not the one waited for (then what it holds is given back)."""
        held = self._reservation
        if held is None or held.name != event.reservation or held.ports is not None:
            known = self._superseded is not None and self._superseded.name == event.reservation
            if not known and not (held is not None and held.name == event.reservation):
                self._emit(ReleaseSecurity(event.reservation))
            return False
        held.ports = event.ports
        self._release(self._superseded)
        self._superseded = None
        return True

    def install(self, agreement: SecurityAgreement, verify: tuple[str, ...], now: float) -> None:
        """Make the reservation a set, for the time that the network waits for the answer to its challenge."""
        assert self._reservation is not None
        self._installing = _Set(self._reservation.name, agreement, verify, now + TEMPORARY_SECONDS)
        self._emit(InstallSecurity(self._installing.name, agreement))

    def installed(self, event: SecurityInstalled) -> bool:
        """Take in the answer; False if nobody waits for it (then the set is taken away)."""
        if self._installing is None or self._installing.name != event.name:
            if all(each.name != event.name for each in self._all()):
                self._emit(RemoveSecurity(event.name))
            return False
        self._new, self._installing, self._reservation = self._installing, None, None
        return True

    def failed(self, event: SecurityFailed) -> bool:
        """Take in that a reservation or an installation failed; False if nobody waits for it."""
        if self._installing is not None and self._installing.name == event.name:
            self._installing = None
            self._release(self._reservation)
            self._reservation = None
            return True
        held = self._reservation
        if held is not None and held.name == event.name and held.ports is None:
            self._reservation = None
            return True
        return False

    def confirm(self, registered_until: float) -> None:
        """A 200 came: the new set, if there is one, is in use from now on (TS 24.229 clause 5.1.1.5.1)."""
        if self._new is not None:
            old = self._current
            self._new.ends_at = max(old.ends_at if old else 0.0, registered_until + MARGIN_SECONDS)
            if old is not None:
                self._old.append(old)
            self._current, self._new = self._new, None
        elif self._current is not None:
            self._current.ends_at = max(self._current.ends_at, registered_until + MARGIN_SECONDS)
        self.abandon()

    def abandon(self) -> None:
        """The chain is over: give back what it did not bring into use."""
        if self._installing is not None:
            self._emit(RemoveSecurity(self._installing.name))
            self._installing = self._reservation = None
        if self._new is not None:
            self._emit(RemoveSecurity(self._new.name))
            self._new = None
        for held in (self._reservation, self._superseded):
            self._release(held)
        self._reservation = self._superseded = None

    # ---- the end of a set ---------------------------------------------------------------------------------------

    def retire(self) -> None:
        """A registration begins anew in clear; what runs over the set in use may end there meanwhile."""
        self.abandon()
        if self._current is not None:
            self._old.append(self._current)
            self._current = None

    def clear(self) -> None:
        """Take everything away."""
        self.abandon()
        for each in (self._current, *self._old):
            if each is not None:
                self._emit(RemoveSecurity(each.name))
        self._current, self._old, self._look_at = None, [], None

    def heard(self, local_port: int, remote: tuple[str, int], now: float) -> None:
        """A message came; the first one over the set in use ends the older ones."""
        if self._old and self._current is not None and _carries(self._current, local_port, remote):
            for each in self._old:
                if not each.idle:
                    each.idle = True
                    self._look_at = now

    def tick(self, now: float) -> None:
        """Take away the sets that are done with."""
        if self._current is not None and now >= self._current.ends_at:
            _log.warning("the security associations with the P-CSCF have reached the end of their life")
            self._emit(RemoveSecurity(self._current.name))
            self._current = None
        self._look_at = None
        for each in list(self._old):
            if now >= each.ends_at or (each.idle and not self._in_use(each.agreement)):
                self._emit(RemoveSecurity(each.name))
                self._old.remove(each)
            elif each.idle:
                self._look_at = now + _LOOK_AGAIN_SECONDS

    # ---- small things -------------------------------------------------------------------------------------------

    def _all(self) -> list[_Set]:
        return [each for each in (self._new, self._current, *self._old) if each is not None]

    def _release(self, held: _Reservation | None) -> None:
        if held is not None:
            self._emit(ReleaseSecurity(held.name))


def _carries(each: _Set, local_port: int, remote: tuple[str, int]) -> bool:
    agreement = each.agreement
    return remote[0] == agreement.remote and agreement.carries(local_port, remote[1])
