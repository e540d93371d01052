"""The P-CSCF's memory of the UEs that registered through it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from imskit.sip.engine.timers import TS24229_UE
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Address, Flow, Target
from imskit.sip.wire.uri import SipUri, parse_uri

MAXIMUM_BINDINGS = 50_000
LINGER_SECONDS = 64 * TS24229_UE.t1
"""A registration that has ended is kept so long for what is still under way: the last NOTIFY, a BYE."""


@dataclass(frozen=True)
class GmBinding:
    """Where a UE is, and what the 200 to its REGISTER said."""

    token: str
    """User part of the Path and Record-Route that lead to it."""
    impi: str
    contacts: tuple[str, ...]
    flow: Flow
    """What it registered over."""
    expires_at: float
    identities: tuple[str, ...] = ()
    """P-Associated-URI, the default first."""
    service_route: tuple[str, ...] = ()
    reconnect: Target | None = None
    """Where to reach it since its connection is gone."""
    chain: str = ""
    """Its security agreements (`security_agreements`); empty: none."""
    protected: Target | None = None
    """Where to reach it inside the one in use."""

    @property
    def way(self) -> Flow | Target:
        """Where requests to the UE go."""
        return self.protected or self.reconnect or self.flow

    @property
    def local(self) -> Address:
        """Our address that it knows."""
        return self.flow.local

    def active(self, now: float) -> bool:
        """Whether the registration stands."""
        return now < self.expires_at

    def at(self, flow: Flow, chain: str = "") -> bool:
        """Whether ``flow`` comes from where this UE is: its connection or the address of its UDP socket.

        A request that is too long for a datagram comes over a connection of its own: there the host decides.
        With a security agreement nothing counts but ``chain``, the one of the flow; with TLS the connection.
        """
        if self.chain or chain:
            return self.chain == chain and self.flow.remote[0] == flow.remote[0]
        if "TLS" in (self.flow.transport, flow.transport):
            return self.flow == flow
        if self.flow.transport == "UDP" and flow.transport == "UDP":
            return self.flow.remote == flow.remote
        return self.flow.remote[0] == flow.remote[0]


class GmBindings:
    """All of them, found by token and by host."""

    def __init__(self) -> None:
        self._by_token: dict[str, GmBinding] = {}
        self._by_host: dict[str, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._by_token)

    def of_token(self, token: str) -> GmBinding | None:
        """Return the binding with this token, ended ones too as long as they linger."""
        return self._by_token.get(token)

    def at(self, flow: Flow, chain: str = "") -> list[GmBinding]:
        """Return the bindings of the place that ``flow`` comes from, ended ones too as long as they linger."""
        found = [binding for binding in self.of_host(flow.remote[0]) if binding.at(flow, chain)]
        exact = [binding for binding in found if binding.flow == flow]
        return exact or found

    def of_host(self, host: str) -> list[GmBinding]:
        """Return all bindings of an address."""
        return [self._by_token[token] for token in self._by_host.get(host, ())]

    def put(self, binding: GmBinding, now: float) -> bool:
        """Add or replace a binding; false if there is no room for it."""
        self._sweep(self._by_host.get(binding.flow.remote[0], ()), now)
        if binding.token not in self._by_token and len(self._by_token) >= MAXIMUM_BINDINGS:
            self._sweep(self._by_token, now)
            if len(self._by_token) >= MAXIMUM_BINDINGS:
                return False
        self._remove(binding.token)
        self._by_token[binding.token] = binding
        self._by_host.setdefault(binding.flow.remote[0], {})[binding.token] = None
        return True

    def end(self, binding: GmBinding, now: float) -> None:
        """Let a registration end; it lingers."""
        if binding.token in self._by_token and binding.active(now):
            self.put(replace(binding, expires_at=now), now)

    def lost(self, flow: Flow) -> None:
        """A connection is gone: its UEs are reached at their contacts from now on, if those say where."""
        for token in list(self._by_host.get(flow.remote[0], ())):
            binding = self._by_token[token]
            if binding.flow == flow and binding.protected is None:
                target = next((target for uri in binding.contacts if (target := _listener(uri, flow))), None)
                if target is None:
                    self._remove(token)
                else:
                    self._by_token[token] = replace(binding, reconnect=target)

    def _sweep(self, tokens: Iterable[str], now: float) -> None:
        for token in list(tokens):
            if now >= self._by_token[token].expires_at + LINGER_SECONDS:
                self._remove(token)

    def _remove(self, token: str) -> None:
        binding = self._by_token.pop(token, None)
        if binding is None:
            return
        host = binding.flow.remote[0]
        self._by_host[host].pop(token, None)
        if not self._by_host[host]:
            del self._by_host[host]


def _listener(contact: str, flow: Flow) -> Target | None:
    """Where a UE listens according to its contact: only on the host that it registered from."""
    try:
        uri = parse_uri(contact)
    except SipParseError:
        return None
    # A UE with TLS has no certificate that we could check, nor do we have one that it would ask for.
    if flow.transport == "TLS" or not isinstance(uri, SipUri) or uri.host.strip("[]") != flow.remote[0]:
        return None
    return Target(flow.transport, (flow.remote[0], uri.port or 5060), source=flow.local[0])
