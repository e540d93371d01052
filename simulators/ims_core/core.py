"""The IMS core as one process: P-CSCF, S-CSCF and HSS on their sockets."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from imskit.observe.events import EventLog
from imskit.sip.engine.proxy import ProxyEvent, ProxyOutput, Resolve, Resolved
from imskit.sip.io.endpoint import Endpoint
from imskit.sip.wire.flow import Address, Target
from simulators.ims_core import hss_socket
from simulators.ims_core.config import CoreConfig
from simulators.ims_core.engine.p_cscf import PCscf
from simulators.ims_core.engine.s_cscf import Deregister, SCscf, SCscfEvent, SCscfOutput
from simulators.ims_core.engine.steps import Step
from simulators.ims_core.subscribers import Hss
from simulators.sockets import definite, parse_address, unix_socket

_log = logging.getLogger(__name__)


class ImsCore:
    """Start it, and it serves until it is closed."""

    def __init__(self, config: CoreConfig, random: Callable[[int], bytes] = secrets.token_bytes) -> None:
        """``random`` gives the RANDs; ``ValueError`` if two subscribers share an identity."""
        self._config = config
        self._hss = Hss(config.subscribers, random)
        self._stack = AsyncExitStack()
        self._events = EventLog("core", config.events)
        self._p_cscf: Endpoint[ProxyEvent, ProxyOutput] | None = None
        self._s_cscf: Endpoint[SCscfEvent, SCscfOutput] | None = None
        self.gm: tuple[Address, ...] = ()
        """Where UEs reach the P-CSCF, once started."""

    async def start(self) -> None:
        """Open every socket; ``OSError`` if one cannot be had."""
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        config = self._config
        self.gm = tuple(definite(parse_address(text)) for text in config.gm)
        mw, core = (Target("UDP", definite(parse_address(text))) for text in (config.mw, config.s_cscf))
        self._stack.callback(self._events.close)

        self._s_engine = SCscf(self._hss, config.domain, core, [mw.address], config.algorithms, _tokens)
        self._s_cscf = Endpoint(self._s_engine, self._from_s_cscf)
        self._stack.push_async_callback(self._s_cscf.close)
        self._p_cscf = Endpoint(PCscf(self.gm, mw, core, config.domain, _tokens), self._from_p_cscf)
        self._stack.push_async_callback(self._p_cscf.close)
        # RFC 3261 section 18.2.1: what listens for datagrams listens for connections too.
        await self._s_cscf.listen("UDP", core.address)
        await self._s_cscf.listen("TCP", core.address)
        # Mw first: with one host for all it is the socket that requests to the core leave by.
        for address in (mw.address, *self.gm):
            await self._p_cscf.listen("UDP", address)
            await self._p_cscf.listen("TCP", address)
        if config.hss is not None:
            await self._stack.enter_async_context(unix_socket(hss_socket.application(self._hss), config.hss))

    async def close(self) -> None:
        """Close every socket; UEs find out by themselves."""
        await self._stack.aclose()

    def registrations(self) -> list[dict[str, Any]]:
        """Who is registered where: private identity, public identities, contacts with seconds left."""
        now = self._running().now
        return [
            {
                "impi": str.__str__(known.subscriber.impi),
                "impus": [str.__str__(impu) for impu in known.subscriber.usable],
                "contacts": [
                    {"uri": binding.uri, "expires": max(0, round(binding.expires_at - now))}
                    for binding in known.bindings
                ],
            }
            for known in self._s_engine.registrar.registrations()
        ]

    def deregister(self, impi: str, event: str) -> int:
        """End a registration from the network's side (TS 24.229 clause 5.4.1.5); returns how many contacts it had.

        ``event`` is what reg-event tells: ``deactivated`` (register again), ``rejected`` …  Raises
        ``UnknownSubscriberError``.
        """
        subscriber = self._hss.by_impi(impi)
        s_cscf = self._running()
        known = self._s_engine.registrar.registration(subscriber)
        count = len(known.bindings) if known is not None else 0
        s_cscf.handle(Deregister(subscriber, event))
        return count

    def _from_s_cscf(self, output: SCscfOutput) -> None:
        if isinstance(output, Step):
            fields = {"subscriber": output.subscriber, "call": output.call}
            self._events.emit(output.name, **{name: value for name, value in fields.items() if value is not None})
        elif isinstance(output, Resolve):
            self._running().handle(Resolved(output.branch, ()))

    def _running(self) -> Endpoint[SCscfEvent, SCscfOutput]:
        if self._s_cscf is None:
            raise RuntimeError("the core has not been started")
        return self._s_cscf

    def _from_p_cscf(self, output: ProxyOutput) -> None:
        if isinstance(output, Resolve) and self._p_cscf is not None:
            # Every way in this core is an address: a name leads out of it.
            self._p_cscf.handle(Resolved(output.branch, ()))


def _tokens(digits: int) -> str:
    return secrets.token_hex((digits + 1) // 2)[:digits]
