"""Where to send a request for a SIP URI: NAPTR, SRV, A and AAAA (RFC 3263, RFC 2782, RFC 7118 section 5.5)."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Protocol, cast

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver

from imskit.sip.wire.flow import DEFAULT_PORTS, Address, Target, Transport
from imskit.sip.wire.uri import SipUri, Uri

_log = logging.getLogger(__name__)

# NAPTR service, SRV prefix and transport, in the order in which SRV is tried without NAPTR.
_SERVICES: tuple[tuple[str, str, Transport], ...] = (
    ("SIPS+D2T", "_sips._tcp", "TLS"),
    ("SIP+D2U", "_sip._udp", "UDP"),
    ("SIP+D2T", "_sip._tcp", "TCP"),
    # RFC 7118 section 5.5 names no SRV prefix: only NAPTR leads to SRV records.
    ("SIPS+D2W", "", "WSS"),
    ("SIP+D2W", "", "WS"),
)
_NAMED: dict[tuple[str, bool], Transport] = {
    ("udp", False): "UDP",
    ("tcp", False): "TCP",
    ("tls", False): "TLS",
    ("ws", False): "WS",
    ("tcp", True): "TLS",
    ("tls", True): "TLS",
    ("ws", True): "WSS",
}
_MAXIMUM_RECORDS = 32


class ResolutionError(Exception):
    """There is nowhere to send to; says why."""


class _Srv(Protocol):
    priority: int
    weight: int
    port: int
    target: dns.name.Name


class _Naptr(Protocol):
    order: int
    preference: int
    flags: bytes
    service: bytes
    replacement: dns.name.Name


@lru_cache(256)
def is_address(host: str) -> bool:
    """Tell whether ``host`` is an IP address and no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


class Resolver:
    """Looks targets up; safe to share."""

    def __init__(
        self,
        *,
        nameservers: Sequence[Address] | None = None,
        transports: Sequence[Transport] = ("UDP", "TCP", "TLS"),
        seconds: float = 5.0,
        draw: Callable[[int], int] | None = None,
    ) -> None:
        """``nameservers`` instead of the system's; ``transports`` that this element speaks; ``seconds`` a query.

        ``draw(n)`` returns a random number of 0..n for the weights of SRV.
        """
        self._transports = tuple(transports)
        self._own = nameservers is not None
        self._seconds = seconds
        self._draw = draw or (lambda most: random.SystemRandom().randint(0, most))
        self._dns = dns.asyncresolver.Resolver(configure=nameservers is None)
        self._dns.cache = dns.resolver.LRUCache(1000)
        if nameservers is not None:
            self._dns.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in nameservers]

    async def resolve(self, uri: Uri) -> list[Target]:
        """Return the targets for ``uri``, to be tried in this order; raises `ResolutionError`."""
        if not isinstance(uri, SipUri):
            raise ResolutionError(f"a {uri.scheme} URI does not say where to send")
        secure = uri.scheme == "sips"
        host = (uri.parameters.get("maddr") or uri.host).strip("[]")
        named = uri.transport
        transport: Transport | None = None
        if named is not None:
            transport = _NAMED.get((named, secure))
            if transport is None or transport not in self._transports:
                raise ResolutionError(f"the transport {named} is not spoken here")
        if is_address(host) or uri.port is not None:
            chosen = transport or self._default(secure)
            addresses = [host] if is_address(host) else await self.addresses(host)
            return [self._target(chosen, address, uri.port, uri.host) for address in addresses]
        targets = await self._by_service(host, transport, secure, uri.host)
        if targets:
            return targets
        chosen = transport or self._default(secure)
        return [self._target(chosen, address, None, uri.host) for address in await self.addresses(host)]

    async def addresses(self, host: str) -> list[str]:
        """Return the IP addresses of a name, IPv6 first; raises `ResolutionError`."""
        if is_address(host):
            return [host]
        found = await (self._query_addresses(host) if self._own else self._system_addresses(host))
        if not found:
            raise ResolutionError(f"{host} has no address")
        return found[:_MAXIMUM_RECORDS]

    # ---- the steps of RFC 3263 -------------------------------------------------------------------------------

    def _default(self, secure: bool) -> Transport:
        wanted: tuple[Transport, ...] = ("TLS", "WSS") if secure else ("UDP", "TCP", "TLS", "WS", "WSS")
        for transport in wanted:
            if transport in self._transports:
                return transport
        raise ResolutionError("no transport for sips is spoken here")

    def _target(self, transport: Transport, address: str, port: int | None, name: str) -> Target:
        return Target(transport, (address, port or DEFAULT_PORTS[transport]), "" if is_address(name) else name)

    async def _by_service(self, host: str, transport: Transport | None, secure: bool, name: str) -> list[Target]:
        if transport is not None:
            # RFC 3263 section 4.2: no NAPTR where the transport is given.
            (prefix,) = {prefix for _, prefix, own in _SERVICES if own == transport}
            return await self._by_srv(f"{prefix}.{host}", transport, name) if prefix else []
        usable = [
            service
            for service in _SERVICES
            if service[2] in self._transports and (not secure or service[0].startswith("SIPS"))
        ]
        for own_transport, replacement in await self._naptr(host, usable):
            if targets := await self._by_srv(replacement, own_transport, name):
                return targets
        for _, prefix, own_transport in usable:
            if not prefix or (own_transport == "TLS" and not secure):
                continue
            if targets := await self._by_srv(f"{prefix}.{host}", own_transport, name):
                return targets
        return []

    async def _naptr(self, host: str, usable: Iterable[tuple[str, str, Transport]]) -> list[tuple[Transport, str]]:
        services = {service.lower(): transport for service, _, transport in usable}
        records = cast(list[_Naptr], await self._query(host, dns.rdatatype.NAPTR))
        chosen = []
        for record in sorted(records, key=lambda own: (own.order, own.preference)):
            transport = services.get(record.service.decode("ascii", "replace").lower())
            if transport is not None and record.flags.lower() == b"s":
                chosen.append((transport, record.replacement.to_text()))
        return chosen

    async def _by_srv(self, service: str, transport: Transport, name: str) -> list[Target]:
        records = cast(list[_Srv], await self._query(service, dns.rdatatype.SRV))
        usable = [record for record in records if record.target != dns.name.root]
        if records and not usable:
            # RFC 2782: a target of "." says that the service is decidedly not available.
            return []
        targets = []
        for record in _order(usable[:_MAXIMUM_RECORDS], self._draw):
            try:
                addresses = await self.addresses(record.target.to_text(omit_final_dot=True))
            except ResolutionError as error:
                _log.debug("SRV %s: %s", service, error)
                continue
            targets += [self._target(transport, address, record.port, name) for address in addresses]
        return targets[:_MAXIMUM_RECORDS]

    # ---- queries ---------------------------------------------------------------------------------------------

    async def _query(self, name: str, kind: dns.rdatatype.RdataType) -> list[object]:
        try:
            answer = await self._dns.resolve(
                dns.name.from_text(name), kind, raise_on_no_answer=False, lifetime=self._seconds
            )
        except dns.resolver.NXDOMAIN:
            return []
        except (dns.exception.DNSException, OSError, UnicodeError) as error:
            raise ResolutionError(f"{name} {kind.name}: {error}") from error
        return [] if answer.rrset is None else list(answer.rrset)

    async def _query_addresses(self, host: str) -> list[str]:
        results = await asyncio.gather(
            self._query(host, dns.rdatatype.AAAA), self._query(host, dns.rdatatype.A), return_exceptions=True
        )
        found = [str(record) for result in results if not isinstance(result, BaseException) for record in result]
        if not found:
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        return found

    async def _system_addresses(self, host: str) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._seconds):
                infos = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, TimeoutError) as error:
            raise ResolutionError(f"{host}: {error or 'no answer in time'}") from error
        return list(dict.fromkeys(str(info[4][0]) for info in infos))


def _order(records: Sequence[_Srv], draw: Callable[[int], int]) -> list[_Srv]:
    """Put SRV records into the order to try: by priority, then by weighted lot (RFC 2782, "Usage rules")."""
    ordered: list[_Srv] = []
    for priority in sorted({record.priority for record in records}):
        # Those of weight 0 come first, so that they have a chance when the lot is 0.
        left = sorted((record for record in records if record.priority == priority), key=lambda own: own.weight)
        while left:
            lot = draw(sum(record.weight for record in left))
            running = 0
            for record in left:
                running += record.weight
                if running >= lot:
                    ordered.append(record)
                    left.remove(record)
                    break
    return ordered
