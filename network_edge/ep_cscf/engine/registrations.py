"""The eP-CSCF's memory of clients that registered: one binding for each instance, reg-id and public identity.

The binding's token is the user part of its Path and Record-Route.  It is random and means nothing outside this table,
so nobody can make one up; it stays when the same instance comes back over another flow (RFC 5626 section 5.2), so the
dialogs recorded with it lead to the new flow.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from imskit.secrets import Identity
from imskit.sip.wire.flow import Flow

LINGER_SECONDS = 32.0
"""A registration that has ended is kept so long for the last NOTIFY and for BYEs on their way (64 T1)."""

type Scenario = Literal["digest", "token"]
type BindingKey = tuple[str, str, str]
"""Private identity, public identity, and instance with reg-id or (without outbound) the contact."""


@dataclass(slots=True)
class Binding:
    """Where a client is, and what the 200 to its REGISTER said."""

    token: str
    key: BindingKey
    impi: Identity
    contacts: tuple[str, ...]
    flow: Flow | None
    """``None`` while its connection is gone."""
    scenario: Scenario
    expires_at: float
    identities: tuple[Identity, ...] = ()
    """The default first."""
    service_route: tuple[str, ...] = ()
    lost_at: float | None = None
    """Since when its connection is gone."""
    order: int = 0
    """Of the REGISTER, among all."""

    def active(self, now: float) -> bool:
        """Whether the registration stands."""
        return now < self.expires_at


class Bindings:
    """All of them, by token, key and flow."""

    def __init__(self, maximum: int, flow_return: float) -> None:
        self._maximum = maximum
        self._flow_return = flow_return
        self._by_token: dict[str, Binding] = {}
        self._by_key: dict[BindingKey, str] = {}
        self._by_flow: dict[Flow, dict[str, None]] = {}
        self._by_impi: dict[str, dict[str, None]] = {}
        self._ended: set[str] = set()
        """Those whose end was told and that linger."""
        self._abandoned: set[str] = set()
        """Those whose calls were given up."""
        self._due: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._by_token) - len(self._ended)

    @property
    def full(self) -> bool:
        """Whether there is no room for another."""
        return len(self._by_token) >= self._maximum

    def count(self, impi: str) -> int:
        """How many a private identity has, ended ones too as long as they linger."""
        return len(self._by_impi.get(impi, ()))

    def of_token(self, token: str | None) -> Binding | None:
        """Return the binding with this token, ended ones too as long as they linger."""
        return self._by_token.get(token) if token else None

    def of_key(self, key: BindingKey) -> Binding | None:
        """Return the binding of this instance that has not ended."""
        return self._by_token.get(self._by_key.get(key, ""))

    def on(self, flow: Flow) -> list[Binding]:
        """Return the bindings of a connection, ended ones too as long as they linger."""
        return [self._by_token[token] for token in self._by_flow.get(flow, ())]

    def standing(self, impi: str) -> list[Binding]:
        """Return the bindings of a private identity that have not ended."""
        return [self._by_token[token] for token in self._by_impi.get(impi, ()) if token not in self._ended]

    def put(self, binding: Binding) -> None:
        """Add a binding, or put a new version of one in the place of the old."""
        known = self._by_token.get(binding.token)
        if known is not None:
            self._leave_flow(known)
        self._by_token[binding.token] = binding
        self._by_key[binding.key] = binding.token
        self._by_impi.setdefault(str.__str__(binding.impi), {})[binding.token] = None
        self._ended.discard(binding.token)
        self._abandoned.discard(binding.token)
        if binding.flow is not None:
            self._by_flow.setdefault(binding.flow, {})[binding.token] = None
        self._wake(self._next(binding), binding.token)

    def end(self, binding: Binding, now: float) -> bool:
        """Let a registration end; it lingers.  False if it had ended before."""
        if binding.token not in self._by_token or binding.token in self._ended:
            return False
        self._ended.add(binding.token)
        binding.expires_at = min(binding.expires_at, now)
        if self._by_key.get(binding.key) == binding.token:
            del self._by_key[binding.key]
        self._wake(now + LINGER_SECONDS, binding.token)
        return True

    def lost(self, flow: Flow, now: float) -> list[Binding]:
        """A connection is gone; return the bindings that it carried."""
        carried = [self._by_token[token] for token in self._by_flow.pop(flow, ())]
        for binding in carried:
            binding.flow, binding.lost_at = None, now
            self._wake(now + self._flow_return, binding.token)
        return carried

    def due(self, now: float) -> Iterator[tuple[Binding, Literal["expired", "abandoned"]]]:
        """Give those whose registration ran out, or whose connection stays away; forget those that lingered enough."""
        while self._due and self._due[0][0] <= now:
            _, token = heapq.heappop(self._due)
            binding = self._by_token.get(token)
            if binding is None:
                continue
            if token in self._ended:
                if now >= binding.expires_at + LINGER_SECONDS:
                    self._remove(binding)
            elif now >= binding.expires_at:
                yield binding, "expired"
            elif (
                binding.lost_at is not None
                and now >= binding.lost_at + self._flow_return
                and token not in self._abandoned
            ):
                self._abandoned.add(token)
                self._wake(binding.expires_at, token)
                yield binding, "abandoned"

    def deadline(self) -> float | None:
        """When ``due`` has something to look at."""
        while self._due and self._due[0][1] not in self._by_token:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def _wake(self, at: float, token: str) -> None:
        heapq.heappush(self._due, (at, token))
        if len(self._due) > 64 + 4 * len(self._by_token):
            # Refreshes leave their old times behind.
            self._due = sorted({(self._next(binding), token) for token, binding in self._by_token.items()})

    def _next(self, binding: Binding) -> float:
        if binding.token in self._ended:
            return binding.expires_at + LINGER_SECONDS
        if binding.lost_at is not None and binding.token not in self._abandoned:
            return min(binding.expires_at, binding.lost_at + self._flow_return)
        return binding.expires_at

    def _leave_flow(self, binding: Binding) -> None:
        if binding.flow is None or (tokens := self._by_flow.get(binding.flow)) is None:
            return
        tokens.pop(binding.token, None)
        if not tokens:
            del self._by_flow[binding.flow]

    def _remove(self, binding: Binding) -> None:
        self._leave_flow(binding)
        self._by_token.pop(binding.token, None)
        impi = str.__str__(binding.impi)
        if (tokens := self._by_impi.get(impi)) is not None:
            tokens.pop(binding.token, None)
            if not tokens:
                del self._by_impi[impi]
        self._ended.discard(binding.token)
        self._abandoned.discard(binding.token)
        if self._by_key.get(binding.key) == binding.token:
            del self._by_key[binding.key]
