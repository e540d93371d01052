"""The IMS core as one process: P-CSCF, S-CSCF and HSS on their sockets."""

from __future__ import annotations

import logging
import secrets
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from imskit.ipsec.io.probe import Choice, choose
from imskit.observe.events import EventLog
from imskit.sip.engine.proxy import Resolve, Resolved
from imskit.sip.io.endpoint import Endpoint
from imskit.sip.wire.flow import Address, Target
from imskit.sockets import definite, parse_address, unix_socket
from simulators.conference.engine.focus import HOST as CONFERENCE_HOST
from simulators.conference.server import ConferenceServer
from simulators.ims_core import hss_socket
from simulators.ims_core.config import CoreConfig
from simulators.ims_core.engine.i_cscf import TrustedEdge
from simulators.ims_core.engine.p_cscf import PCscf, PCscfEvent, PCscfOutput
from simulators.ims_core.engine.s_cscf import Deregister, SCscf, SCscfEvent, SCscfOutput, WebServersChanged
from simulators.ims_core.engine.security_agreement import (
    GmMode,
    GmSecurityPolicy,
    InstallAssociations,
    RemoveAssociations,
)
from simulators.ims_core.engine.steps import Step
from simulators.ims_core.gm_associations import GmAssociations, choose_ports
from simulators.ims_core.subscribers import Hss
from simulators.sms_center.engine.gateway import HOST as SMS_HOST
from simulators.sms_center.server import SmsCenter

_log = logging.getLogger(__name__)


class ImsCore:
    """Start it, and it serves until it is closed."""

    def __init__(self, config: CoreConfig, random: Callable[[int], bytes] = secrets.token_bytes) -> None:
        """``random`` gives the RANDs; ``ValueError`` if two subscribers share an identity."""
        self._config = config
        self._hss = Hss(config.subscribers, random, web=config.web_subscribers)
        self._stack = AsyncExitStack()
        self._events = EventLog("core", config.events)
        self.conference: ConferenceServer | None = None
        self.sms_center: SmsCenter | None = None
        self._p_cscf: Endpoint[PCscfEvent, PCscfOutput] | None = None
        self._p_engine: PCscf | None = None
        self._associations: GmAssociations | None = None
        self._ipsec: Choice | None = None
        self._s_cscf: Endpoint[SCscfEvent, SCscfOutput] | None = None
        self.gm: tuple[Address, ...] = ()
        """Where UEs reach the P-CSCF, once started."""
        self.tls: tuple[Address, ...] = ()
        """The same with TLS."""
        self.core: Address = ("", 0)
        """Where I-CSCF and S-CSCF are reached on Mw, once started."""

    async def start(self) -> None:
        """Open every socket; ``OSError`` if one cannot be had, ``IpsecError`` if this machine cannot do IPsec."""
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        config = self._config
        self.gm = tuple(definite(parse_address(text)) for text in config.gm)
        mw, core = (Target("UDP", definite(parse_address(text))) for text in (config.mw, config.s_cscf))
        self.core = core.address
        self._stack.callback(self._events.close)

        self.tls = tuple(definite(parse_address(text)) for text in config.tls)
        certificate = _server_tls(config)
        policy = await self._security_policy()

        self._s_engine = SCscf(
            self._hss,
            config.domain,
            core,
            [mw.address],
            config.algorithms,
            _tokens,
            protected_only=policy.mode is GmMode.REQUIRED,
            services=await self._application_servers(core),
            edges=[TrustedEdge(edge.address, edge.visited_network) for edge in config.edges],
            digest_algorithms=config.digest_algorithms,
            entity_parameter=config.entity_parameter,
        )
        self._s_cscf = Endpoint(self._s_engine, self._from_s_cscf)
        self._stack.push_async_callback(self._s_cscf.close)
        self._p_engine = PCscf((*self.gm, *self.tls), mw, core, config.domain, _tokens, policy)
        self._p_cscf = Endpoint(self._p_engine, self._from_p_cscf)
        self._stack.push_async_callback(self._p_cscf.close)
        await self._protect(self._p_cscf, policy)
        # RFC 3261 section 18.2.1: what listens for datagrams listens for connections too.
        await self._s_cscf.listen("UDP", core.address)
        await self._s_cscf.listen("TCP", core.address)
        # Mw first: with one host for all it is the socket that requests to the core leave by.
        for address in (mw.address, *self.gm):
            await self._p_cscf.listen("UDP", address)
            await self._p_cscf.listen("TCP", address)
        for address in self.tls:
            await self._p_cscf.listen("TLS", address, tls=certificate)
        if config.hss is not None:
            await self._stack.enter_async_context(unix_socket(hss_socket.application(self._hss), config.hss))

    async def _application_servers(self, core: Target) -> dict[str, Target]:
        """Start the servers that stand behind the S-CSCF; returns them by their host names."""
        config, host = self._config, core.address[0]
        self.conference = ConferenceServer(config.domain, definite((host, 0)), core, self.gm[0][0], self._events)
        self._stack.push_async_callback(self.conference.close)
        await self.conference.start()
        self.sms_center = SmsCenter(config.domain, definite((host, 0)), core)
        self._stack.push_async_callback(self.sms_center.close)
        await self.sms_center.start()
        return {
            f"{CONFERENCE_HOST}.{config.domain}": Target("UDP", self.conference.address),
            f"{SMS_HOST}.{config.domain}": Target("UDP", self.sms_center.address),
        }

    async def _security_policy(self) -> GmSecurityPolicy:
        """Open the IPsec back end, if one is needed, and choose the protected ports."""
        gm = self._config.gm_security
        mode, pairs = GmMode(gm.mode), gm.pairs()
        if mode is GmMode.OFF:
            return GmSecurityPolicy()
        self._ipsec = await choose(gm.backend, pairs=pairs)
        self._stack.push_async_callback(self._ipsec.backend.close)
        return GmSecurityPolicy(mode, pairs, {host: choose_ports(host) for host, _ in self.gm})

    async def _protect(self, endpoint: Endpoint[PCscfEvent, PCscfOutput], policy: GmSecurityPolicy) -> None:
        if self._ipsec is None:
            return
        self._associations = GmAssociations(endpoint.transports, self._ipsec.backend, endpoint.handle)
        self._stack.push_async_callback(self._associations.close)
        for host, ports in policy.ports.items():
            await self._associations.listen(host, ports)

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

    def security(self) -> dict[str, Any]:
        """How Gm is protected: the back end, the agreements with UEs by their stage, what was dropped."""
        if self._ipsec is None or self._p_engine is None:
            return {"mode": "off"}
        counters = self._ipsec.backend.statistics()
        sets = counters.sets.values()
        return {
            "mode": self._config.gm_security.mode,
            "backend": self._ipsec.backend.kind,
            "why": self._ipsec.why,
            "agreements": self._p_engine.agreements.summary(),
            "dropped": {
                "replayed": sum(each.replayed for each in sets),
                "bad_integrity": sum(each.bad_integrity for each in sets),
                "bad_selector": sum(each.bad_selector for each in sets),
                "unknown_spi": counters.unknown_spi,
                "malformed": counters.malformed,
                "unprotected": counters.unprotected,
            },
        }

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

    def allow_web_servers(self, impi: str, web_servers: list[str]) -> None:
        """Change who may vouch for a subscriber (Cx PPR); who may not any more is de-registered.

        Raises ``UnknownSubscriberError``.
        """
        subscriber = self._hss.allow(impi, web_servers)
        self._running().handle(WebServersChanged(subscriber))

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

    def _from_p_cscf(self, output: PCscfOutput) -> None:
        if isinstance(output, InstallAssociations | RemoveAssociations):
            if self._associations is not None:
                self._associations.carry_out(output)
        elif isinstance(output, Resolve) and self._p_cscf is not None:
            # Every way in this core is an address: a name leads out of it.
            self._p_cscf.handle(Resolved(output.branch, ()))


def _server_tls(config: CoreConfig) -> ssl.SSLContext | None:
    """The P-CSCF's certificate: it alone authenticates itself (TS 33.203 annex O); ``OSError`` if it is unusable."""
    if not config.tls or config.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(config.certificate, config.key)
    return context


def _tokens(digits: int) -> str:
    return secrets.token_hex((digits + 1) // 2)[:digits]
