"""The look for P-CSCFs at the beginning of each round of registrations (TS 24.229 clause 9.2.1)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from imskit.ims.io.dhcp_inform import ask_for_sip_servers
from imskit.ims.p_cscf_names import Source, fitting, literal, readable, searches
from imskit.ims.registration_events import PCscfsFound
from imskit.sip.io.resolver import ResolutionError, Resolver
from imskit.sip.wire.flow import DEFAULT_PORTS, Address, Target, Transport
from imskit.sip.wire.uri import SipUri

_log = logging.getLogger(__name__)


class PCscfDiscovery:
    """Finds P-CSCFs anew at each call; see `imskit.ims.p_cscf_names` for the order."""

    def __init__(
        self,
        *,
        local: Address,
        transport: Transport,
        domain: str,
        configured: Sequence[str] = (),
        card: Sequence[str] = (),
        interface: str | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        """``local`` and ``transport``: what a P-CSCF is to be reached from and over; ``domain``: the home network.

        ``interface`` is the one to ask for DHCP; ``None``: that of ``local``.

        ``ValueError`` for a configured name that cannot be read.
        """
        self._local = local
        self._transport = transport
        self._interface = interface
        self._configured = bool(configured)
        self._resolver = resolver or Resolver(transports=(transport,))
        self._searches = searches(configured, card, domain, transport)

    async def __call__(self) -> PCscfsFound:
        """Return the P-CSCFs of the first source that has one to reach, or why there is none; never raises."""
        reasons = []
        for source, uris in self._searches:
            found, why = await self._resolve(uris)
            if targets := fitting(found, self._local):
                return self._take(source, targets)
            reasons.append(f"{source.value}: {why or 'no address of this IP version'}")
        if not self._configured:
            announced = readable(await ask_for_sip_servers(self._local[0], self._interface), self._transport)
            found, why = await self._resolve(announced)
            if targets := fitting(found, self._local):
                return self._take(Source.ACCESS, targets)
            reasons.append(f"{Source.ACCESS.value}: {why or 'none announced'}")
        reason = f"no P-CSCF was found ({'; '.join(reasons)})"
        if not self._configured:
            reason += ": set ims.p_cscf"
        return PCscfsFound((), reason)

    @staticmethod
    def _take(source: Source, targets: tuple[Target, ...]) -> PCscfsFound:
        _log.info("P-CSCF from %s: %s", source.value, ", ".join(str(target) for target in targets))
        return PCscfsFound(targets)

    async def _resolve(self, uris: Sequence[SipUri]) -> tuple[list[Target], str]:
        """Return the targets of all names in order, and what was wrong with those that have none."""
        found: list[Target] = []
        reasons = []
        for uri in uris:
            if (target := literal(uri, self._transport)) is not None:
                found.append(target)
                continue
            try:
                found += await self._look_up(uri)
            except ResolutionError as error:
                reasons.append(str(error))
        return found, "; ".join(reasons)

    async def _look_up(self, uri: SipUri) -> list[Target]:
        try:
            return await self._resolver.resolve(uri)
        except ResolutionError as error:
            # No DNS may be there, and the name in the hosts file: it has an address then, and no records.
            try:
                addresses = await self._resolver.addresses(uri.host)
            except ResolutionError:
                raise error from None
            port = uri.port or DEFAULT_PORTS[self._transport]
            return [Target(self._transport, (address, port), uri.host) for address in addresses]
