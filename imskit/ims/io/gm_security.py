"""Protected ports and security associations of Gm at work: sockets and IPsec for what the engines have agreed.

`Associations` is for both ends of Gm: it gives an `AssociationSet` to the back end and its ports to the sockets, and
takes them away again.  `GmSecurity` carries out what the engine of a UE asks for: `ReserveSecurity`,
`InstallSecurity`, `RemoveSecurity`, `ReleaseSecurity`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from imskit.ims.registration_events import (
    InstallSecurity,
    ReleaseSecurity,
    RemoveSecurity,
    ReserveSecurity,
    SecurityFailed,
    SecurityInstalled,
    SecurityReserved,
)
from imskit.ims.security_agreement import SecurityAgreement, SecurityPorts
from imskit.ipsec.association import HIGHEST_SPI, LOWEST_SPI, AssociationSet
from imskit.ipsec.errors import IpsecError
from imskit.ipsec.io.backend import IpsecBackend
from imskit.ipsec.statistics import SetStatistics
from imskit.sip.io.transport import Transports
from imskit.sip.wire.flow import Address, ProtectedPorts
from imskit.tasks import spawn

_log = logging.getLogger(__name__)

_ATTEMPTS = 20
"""Ports that are tried until one is free for UDP and for TCP."""

type Request = ReserveSecurity | InstallSecurity | RemoveSecurity | ReleaseSecurity
type Answer = SecurityReserved | SecurityInstalled | SecurityFailed


def random_spi() -> int:
    """Return an SPI that nobody can guess (RFC 4303 section 2.1)."""
    return LOWEST_SPI + secrets.randbelow(HIGHEST_SPI + 1 - LOWEST_SPI)


async def listen_at_server_port(transports: Transports, host: str, port: int, interface: str | None) -> Address:
    """Listen for datagrams and connections at a protected server port; 0: at one that is free for both.

    Raises `OSError`.
    """
    for attempt in range(_ATTEMPTS):
        address = await transports.listen_protected("UDP", (host, port), interface)
        try:
            return await transports.listen_protected("TCP", address, interface)
        except OSError as error:
            await transports.stop_protected(address)
            if port or error.errno != errno.EADDRINUSE or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("the loop returns or raises")


def ports_of(associations: AssociationSet) -> ProtectedPorts:
    """Return the four ports of a set (see `imskit.ipsec.association` for the order of its associations)."""
    to_server, from_client = associations.outbound[0], associations.inbound[1]
    return ProtectedPorts(
        client=(to_server.source.ip, to_server.source.port),
        server=(from_client.destination.ip, from_client.destination.port),
        peer_client=(from_client.source.ip, from_client.source.port),
        peer_server=(to_server.destination.ip, to_server.destination.port),
    )


class Associations:
    """The sets that are at work on one element's sockets."""

    def __init__(self, transports: Transports, backend: IpsecBackend) -> None:
        self._transports = transports
        self.backend = backend
        self._sets: dict[str, ProtectedPorts] = {}

    async def install(self, associations: AssociationSet) -> None:
        """Put a set to work; raises `IpsecError`, and leaves nothing behind then."""
        await self.backend.install(associations)
        # Only now: nothing is to come in by these ports that the back end has not seen.
        ports = self._sets[associations.name] = ports_of(associations)
        self._transports.join(ports)

    async def remove(self, name: str) -> None:
        """End a set, if there is one of this name: its connections are closed first."""
        ports = self._sets.pop(name, None)
        if ports is None:
            return
        await self._transports.part(ports)
        await self.backend.remove(name)

    async def close(self) -> None:
        """End all sets; the back end stays."""
        for name in list(self._sets):
            await self.remove(name)


@dataclass
class _Held:
    """A reservation, or the set that it became."""

    ports: SecurityPorts
    agreement: SecurityAgreement | None = None


class GmSecurity:
    """Carries out what one UE's engine asks for; requests are done one after the other, in their order."""

    def __init__(
        self,
        transports: Transports,
        backend: IpsecBackend,
        host: str,
        answer: Callable[[Answer], None],
        spi: Callable[[], int] = random_spi,
    ) -> None:
        """``host`` is the UE's IP address; ``answer`` gets the events for the engine."""
        self._transports = transports
        self._associations = Associations(transports, backend)
        self._host = host
        self._answer = answer
        self._spi = spi
        self._held: dict[str, _Held] = {}
        self._requests: asyncio.Queue[Request | None] = asyncio.Queue()
        self._task = spawn(self._work(), "Gm security")

    def carry_out(self, request: Request) -> None:
        """Take an output of the engine."""
        self._requests.put_nowait(request)

    async def close(self) -> None:
        """Do what is still to be done, then end every set and close every protected port."""
        self._requests.put_nowait(None)
        await asyncio.gather(self._task, return_exceptions=True)
        for name in list(self._held):
            await self._give_back(name)

    def sets(self) -> list[dict[str, Any]]:
        """What is at work, for a status: algorithms, mode, ports and counters of each set; no keys."""
        counters = self._associations.backend.statistics().sets
        found = []
        for name, held in self._held.items():
            agreement = held.agreement
            if agreement is None:
                continue
            count = counters.get(name, SetStatistics())
            found.append(
                {
                    "algorithms": str(agreement.pair),
                    "mode": agreement.mode,
                    "transport": agreement.transport,
                    "ports": f"{agreement.ours.port_c}->{agreement.theirs.port_s}, "
                    f"{agreement.theirs.port_c}->{agreement.ours.port_s}",
                    "packets_in": count.packets_in,
                    "packets_out": count.packets_out,
                    "dropped": count.replayed + count.bad_integrity + count.bad_selector,
                }
            )
        return found

    # ---- the requests -------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while (request := await self._requests.get()) is not None:
            answer = await self._do(request)
            if answer is not None:
                self._answer(answer)

    async def _do(self, request: Request) -> Answer | None:
        match request:
            case ReserveSecurity(name, keep):
                try:
                    return SecurityReserved(name, await self._reserve(name, keep))
                except OSError as error:
                    return SecurityFailed(name, f"no protected ports at {self._host}: {error.strerror or error}")
            case InstallSecurity(name, agreement):
                try:
                    await self._install(name, agreement)
                except (IpsecError, OSError) as error:
                    _log.warning("security associations %s were not installed: %s", name, error)
                    return SecurityFailed(name, str(error))
                return SecurityInstalled(name)
            case RemoveSecurity(name) | ReleaseSecurity(name):
                try:
                    await self._give_back(name)
                except (IpsecError, OSError):
                    _log.exception("security associations %s were not removed", name)
        return None

    async def _reserve(self, name: str, keep: int | None) -> SecurityPorts:
        device = self._associations.backend.device
        taken = {spi for held in self._held.values() for spi in (held.ports.spi_c, held.ports.spi_s)}
        spis: list[int] = []
        while len(spis) < 2:
            spi = self._spi()
            if spi not in taken and spi not in spis:
                spis.append(spi)
        shared = keep is not None and any(held.ports.port_s == keep for held in self._held.values())
        if shared:
            assert keep is not None
            port_s = keep
        else:
            _, port_s = await listen_at_server_port(self._transports, self._host, keep or 0, device)
        try:
            _, port_c = await self._transports.listen_protected("UDP", (self._host, 0), device)
        except OSError:
            if not shared:
                await self._transports.stop_protected((self._host, port_s))
            raise
        ports = SecurityPorts(spis[0], spis[1], port_c, port_s)
        self._held[name] = _Held(ports)
        return ports

    async def _install(self, name: str, agreement: SecurityAgreement) -> None:
        held = self._held.get(name)
        if held is None or held.ports != agreement.ours:
            raise IpsecError(f"{name} was not reserved")
        await self._associations.install(agreement.association_set(name))
        held.agreement = agreement
        _log.info(
            "security associations %s with %s: %s, %s, by the %s",
            name,
            agreement.remote,
            agreement.pair,
            agreement.mode,
            self._associations.backend.kind,
        )

    async def _give_back(self, name: str) -> None:
        held = self._held.pop(name, None)
        if held is None:
            return
        await self._associations.remove(name)
        await self._transports.stop_protected((self._host, held.ports.port_c))
        if not any(other.ports.port_s == held.ports.port_s for other in self._held.values()):
            await self._transports.stop_protected((self._host, held.ports.port_s))
        if held.agreement is not None:
            _log.info("security associations %s are over", name)
