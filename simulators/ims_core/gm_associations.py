"""Carries out what the P-CSCF's engine says about security associations, one thing after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from imskit.ims.io.gm_security import Associations, listen_at_server_port
from imskit.ipsec.errors import IpsecError, SpiCollision
from imskit.ipsec.io.backend import IpsecBackend
from imskit.sip.io.transport import Transports
from imskit.sockets import definite
from imskit.tasks import spawn
from simulators.ims_core.engine.security_agreement import (
    AssociationsFailed,
    AssociationsInstalled,
    GmPorts,
    InstallAssociations,
    RemoveAssociations,
    SecurityEvent,
    SecurityOutput,
)

_log = logging.getLogger(__name__)

_SERVER_PORTS = 2
"""More than one, for two UEs behind one NAT that have chosen the same port (TS 33.203 annex M)."""
_CLIENT_PORTS = 8
"""Each re-authentication of a UE takes another one while the old associations are still there."""


def choose_ports(host: str) -> GmPorts:
    """Return protected ports that are free at an address; ``OSError`` if it is not this machine's."""
    ports: set[int] = set()
    while len(ports) < _SERVER_PORTS + _CLIENT_PORTS:
        ports.add(definite((host, 0))[1])
    ordered = sorted(ports)
    return GmPorts(tuple(ordered[:_SERVER_PORTS]), tuple(ordered[_SERVER_PORTS:]))


class GmAssociations:
    """The P-CSCF's protected ports and associations on its sockets."""

    def __init__(self, transports: Transports, backend: IpsecBackend, answer: Callable[[SecurityEvent], None]) -> None:
        """``answer`` gets the events for the engine."""
        self._transports = transports
        self._associations = Associations(transports, backend)
        self._answer = answer
        self._work: asyncio.Queue[SecurityOutput | None] = asyncio.Queue()
        self._task = spawn(self._run(), "P-CSCF security associations")

    async def listen(self, host: str, ports: GmPorts) -> None:
        """Open the protected ports of an address; ``OSError`` if one cannot be had."""
        device = self._associations.backend.device
        for port in ports.server:
            await listen_at_server_port(self._transports, host, port, device)
        for port in ports.client:
            await self._transports.listen_protected("UDP", (host, port), device)

    def carry_out(self, output: SecurityOutput) -> None:
        """Take an output of the engine."""
        self._work.put_nowait(output)

    async def close(self) -> None:
        """Do what is still to be done, then end every set."""
        self._work.put_nowait(None)
        await asyncio.gather(self._task, return_exceptions=True)
        await self._associations.close()

    async def _run(self) -> None:
        while (output := await self._work.get()) is not None:
            match output:
                case InstallAssociations(associations):
                    self._answer(await self._install(output, associations.name))
                case RemoveAssociations(name):
                    try:
                        await self._associations.remove(name)
                    except (IpsecError, OSError):
                        _log.exception("security associations %s were not removed", name)

    async def _install(self, output: InstallAssociations, name: str) -> SecurityEvent:
        try:
            await self._associations.install(output.associations)
        except (IpsecError, OSError) as error:
            return AssociationsFailed(name, str(error), isinstance(error, SpiCollision))
        return AssociationsInstalled(name)
