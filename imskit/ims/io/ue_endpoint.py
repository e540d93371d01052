"""An `ImsUe` on its sockets: SIP, protected ports and associations, keep-alives.  For the agent and the phone alike."""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from imskit.ims import events as ims
from imskit.ims.io.gm_security import GmSecurity
from imskit.ims.ue import ImsUe
from imskit.ipsec.io.backend import IpsecBackend
from imskit.sip.io.endpoint import Endpoint
from imskit.sip.io.sockets import Binding
from imskit.sip.io.transport import TransportError
from imskit.sip.wire.flow import Address, Target
from imskit.stun.wire.message import Method, request
from imskit.tasks import spawn

_log = logging.getLogger(__name__)

NO_IPSEC = "this device was given nothing that does IPsec"
NO_P_CSCF = "no P-CSCF is configured, and none is on the card"

type Discovery = Callable[[], Awaitable[ims.PCscfsFound]]


class UeEndpoint:
    """Drives one UE; use it from one event loop only.

    ``on_output`` gets what is the owner's affair: the card, the status, the calls.
    """

    def __init__(
        self,
        ue: ImsUe,
        local: Address,
        on_output: Callable[[ims.Output], None],
        *,
        backend: IpsecBackend | None = None,
        client_tls: ssl.SSLContext | None = None,
        binding: Binding | None = None,
        discovery: Discovery | None = None,
    ) -> None:
        """``local`` as in the UE's profile.  ``backend`` stays its owner's; ``client_tls`` verifies the P-CSCF."""
        self.ue = ue
        self._local = local
        self._on_output = on_output
        self._endpoint: Endpoint[ims.Event, ims.Output] = Endpoint(
            ue, self._output, client_tls=client_tls, binding=binding
        )
        transports = self._endpoint.transports
        self._security = GmSecurity(transports, backend, local[0], self._endpoint.handle) if backend else None
        self._discovery = discovery
        self._keeping: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        """Listen for datagrams and connections; ``OSError`` if the address cannot be had."""
        await self._endpoint.listen("UDP", self._local)
        await self._endpoint.listen("TCP", self._local)

    def handle(self, event: ims.Event) -> None:
        """Give the UE an event."""
        self._endpoint.handle(event)

    async def close(self) -> None:
        """Take away every association and close every socket."""
        if self._keeping is not None:
            self._keeping.cancel()
        if self._security is not None:
            await self._security.close()
        await self._endpoint.close()

    def security_sets(self) -> list[dict[str, Any]]:
        """The security associations at work, for a status."""
        return self._security.sets() if self._security is not None else []

    # ---- what the UE says -------------------------------------------------------------------------------------------

    def _output(self, output: ims.Output) -> None:
        match output:
            case ims.ReserveSecurity() | ims.InstallSecurity() | ims.RemoveSecurity() | ims.ReleaseSecurity():
                self._carry_out(output)
            case ims.FindPCscfs():
                spawn(self._discover(), "P-CSCF discovery")
            case ims.KeepAlive(target, seconds):
                if self._keeping is not None:
                    self._keeping.cancel()
                    self._keeping = None
                if target is not None:
                    self._keeping = spawn(self._keep_alive(target, seconds), "keep-alive of Gm")
            case _:
                self._on_output(output)

    def _carry_out(
        self, wanted: ims.ReserveSecurity | ims.InstallSecurity | ims.RemoveSecurity | ims.ReleaseSecurity
    ) -> None:
        if self._security is not None:
            self._security.carry_out(wanted)
        elif isinstance(wanted, ims.ReserveSecurity):
            self.handle(ims.SecurityFailed(wanted.reservation, NO_IPSEC))

    async def _discover(self) -> None:
        found = await self._discovery() if self._discovery is not None else ims.PCscfsFound((), NO_P_CSCF)
        self.handle(found)

    async def _keep_alive(self, target: Target, seconds: float) -> None:
        """CRLF on a connection, STUN binding requests over UDP (RFC 5626 section 4.4); a NAT needs no more."""
        transports = self._endpoint.transports
        try:
            if target.transport != "UDP":
                transports.keep_alive(await transports.open(target), seconds)
                return
            while True:
                # A little earlier at times, so that many devices do not keep step.
                await asyncio.sleep(seconds * (0.8 + 0.2 * secrets.randbelow(1000) / 1000))
                data = request(Method.BINDING, secrets.token_bytes(12)).encode()
                transports.send(data, target, lambda reason: _log.info("keep-alive not sent: %s", reason))
        except TransportError as error:
            _log.info("no keep-alive: %s", error)
