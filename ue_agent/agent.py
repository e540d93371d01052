"""The UE agent: DNS proxy, TURN proxy, SIF, RMF, IMS client and card in this process, the WWPF in a child."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pwd
import secrets
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from aiohttp import web

from imskit.ims import events as ims
from imskit.ims.registration import State
from imskit.media.python_plane import PythonPlane
from imskit.observe.events import EventLog
from imskit.secrets import Identity, Secret
from imskit.stun.engine.credentials import CredentialStore
from imskit.stun.engine.policy import SessionPeers
from ue_agent.call_media import CallMedia
from ue_agent.config import UeConfig
from ue_agent.dns_proxy.io.server import DnsProxy, DnsProxyConfig
from ue_agent.dns_proxy.io.server import Endpoint as DnsEndpoint
from ue_agent.gba.service import GbaService
from ue_agent.ims_client.client import ImsClient
from ue_agent.rmf.rmf import Rmf
from ue_agent.sif.server import Sif
from ue_agent.turn_proxy.io.relays import VirtualRelays
from ue_agent.turn_proxy.io.server import TurnProxy
from ue_agent.uicc.card import CardSpec, UiccCard
from ue_agent.wwpf.agent import AgentError, ChallengeAnswer, LoginIdentity
from ue_agent.wwpf.ca import load_or_create
from ue_agent.wwpf.child import ChildError, WwpfChild
from ue_agent.wwpf.config import Address, Browser, Handover, Site, WwpfConfig
from ue_agent.wwpf.policies import browser_policies
from ue_agent.wwpf.service import WwpfService

_log = logging.getLogger(__name__)

_RELAYED_HOST = "192.0.2.1"
"""Host of relayed addresses: no interface has it (RFC 5737), packets to it never leave this process."""
POLICY_FILE = "chromium-policy.json"
MAXIMUM_TURN_SECONDS = 24 * 3600.0


class StartError(Exception):
    """The agent cannot start; the text says why and what to do."""


class _Peers:
    """The TURN proxy's policy: media addresses of live sessions only."""

    def __init__(self) -> None:
        self.policy = SessionPeers()
        self.proxy: TurnProxy | None = None

    def admit(self, address: tuple[str, int]) -> None:
        """See ``call_media.Peers``."""
        self.policy.admit(address)

    def retire(self, address: tuple[str, int]) -> None:
        """See ``call_media.Peers``."""
        self.policy.retire(address)
        if self.proxy is not None:
            self.proxy.policy_changed()


class Agent:
    """One device's agent.  `start` raises `StartError` for what the installation lacks, never for card or core."""

    def __init__(self, config: UeConfig, log_level: str = "info") -> None:
        self._config = config
        self._log_level = log_level
        self._events = EventLog("agent", config.events)
        self._started = time.monotonic()
        self._peers = _Peers()
        self._exit = contextlib.AsyncExitStack()
        self._turn_realm = config.turn.realm or config.operator.domain
        self._credentials = CredentialStore(self._turn_realm)

    # ---- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start every function; the ones that need card or core wait for them on their own."""
        try:
            await self._start()
        except BaseException:
            await self._exit.aclose()
            raise

    async def stop(self) -> None:
        """De-register, end calls and processes, close sockets; in the reverse order of the start."""
        await self._exit.aclose()
        self._events.close()

    async def _start(self) -> None:
        config = self._config
        _private_folder(config.state)
        self._write_browser_files()
        plane = PythonPlane()
        with _named("DNS proxy"):
            self._dns = DnsProxy(self._dns_config())
            await self._dns.start()
            self._exit.push_async_callback(self._dns.aclose)
        with _named("TURN proxy"):
            listen = [(config.turn.address, config.turn.port)]
            relays = VirtualRelays(plane, [_RELAYED_HOST])
            self._turn = TurnProxy(
                plane, listen, self._credentials, self._peers.policy, relays, device=config.turn.device
            )
            await self._turn.start()
            self._peers.proxy = self._turn
            self._exit.push_async_callback(self._turn.aclose)
        first, last = config.ims.rtp_ports
        rmf = Rmf(
            plane,
            ims_host=lambda: config.ims.address,
            ims_ports=range(first, last + 1),
            ims_interface=config.ims.interface,
            ims_dscp=config.ims.dscp_media,
        )
        self._exit.push_async_callback(rmf.close)
        self._card = await UiccCard.open(
            CardSpec(config.card.reader, config.card.pin), pin_memory=config.state / "refused-pins.json"
        )
        self._exit.push_async_callback(self._card.close)
        self._ims = ImsClient(config.ims, self._card, config.state, self._events, self._from_ims, self._ims_changed)
        self._gba = GbaService(config.gba, self._card, [config.operator.portal], self._events.emit)
        secret: Secret[str] = Secret(secrets.token_urlsafe(32))
        origin = f"https://{config.operator.portal}"
        media = CallMedia(rmf, self._peers, self._events)
        self._sif = Sif(media, self._ims.handle, origin, secret, self._events, config.ims.message_centre)
        with _named("SIF"):
            sif_address = await self._sif.start()
            self._exit.push_async_callback(self._sif.stop)
        self._exit.push_async_callback(self._ims.stop)
        with _named("web proxy"):
            await self._start_wwpf(sif_address, secret)
        # After the PAC file can be had: a browser asks for it anew when the device for ESP appears.
        self._ims.start()
        with _named("control socket"):
            await self._start_control()
        self._ims_changed()

    async def _start_wwpf(self, sif: tuple[str, int], secret: Secret[str]) -> None:
        config = self._config
        self._wwpf = service = WwpfService(_Login(self), config.state / "wwpf.sock", config.state / "log-ins.json")
        await service.start()
        self._exit.push_async_callback(service.aclose)
        users = [pwd.getpwnam(name).pw_uid for name in config.wwpf.users] or [os.getuid()]
        browsers = [Browser(path, uid) for path in config.wwpf.browsers for uid in users]
        child = WwpfChild(
            WwpfConfig(
                listen=Address(config.wwpf.address, config.wwpf.port),
                pac=Address(config.wwpf.address, config.wwpf.pac_port),
                state=config.state,
                operator_domains=[config.operator.domain],
                direct_hosts=config.operator.turn,
                portals=[Site(config.operator.portal, 443)],
                websockets=[Site(config.operator.websocket, 443)],
                turn_path=config.operator.turn_path,
                browsers=browsers,
                trust=config.operator.trust,
                handover=Handover(Address(*sif), secret),
                gba=config.gba.enabled,
                log_level=self._log_level,
            ),
            service,
        )
        await child.start()
        self._child = child
        self._exit.push_async_callback(child.stop)

    def _dns_config(self) -> DnsProxyConfig:
        config = self._config
        device = ip_address(config.turn.address)
        return DnsProxyConfig(
            [DnsEndpoint.parse(text, 53) for text in config.dns.listen],
            [DnsEndpoint.parse(text, 53) for text in config.dns.upstreams],
            {name: [device] for name in config.operator.turn},
            [config.operator.domain],
        )

    def _write_browser_files(self) -> None:
        """Write what an installation puts where browsers read it."""
        config = self._config
        ca = load_or_create(config.state, [config.operator.domain])
        policies = browser_policies(
            ca_der=ca.der,
            pac_url=f"http://{config.wwpf.address}:{config.wwpf.pac_port}/proxy.pac",
            portals=[Site(config.operator.portal, 443)],
            operator_domains=[config.operator.domain],
        )
        (config.state / POLICY_FILE).write_text(json.dumps(policies, indent=2) + "\n")

    # ---- IMS <-> SIF ------------------------------------------------------------------------------------------------

    def _from_ims(self, output: ims.Output) -> None:
        self._sif.from_ims(output)

    def _ims_changed(self) -> None:
        self._sif.service(self._ims.status, self._ims.public_identities)
        if self._ims.identities is not None:
            # A card that is only pulled and put back leaves its user logged in; without it there is no service anyway.
            self._wwpf.belongs_to(self._ims.identities.impi)

    # ---- for the WWPF -----------------------------------------------------------------------------------------------

    def learn_turn_credential(self, username: str, password: Secret[str], ttl: float) -> None:
        """Let the page that the operator gave this credential to use the TURN proxy."""
        until = asyncio.get_running_loop().time() + min(ttl, MAXIMUM_TURN_SECONDS)
        self._credentials.add(username, password, until)
        self._events.emit("turn-credential")

    async def answer_naf_challenge(self, challenge: str, method: str, uri: str, host: str, renew: bool) -> str:
        """See ``LoginHandler``."""
        identities = self._ims.identities
        if identities is None:
            raise AgentError("not-ready", self._ims.card_state)
        return await self._gba.answer(identities, challenge, method, uri, host, renew)

    @property
    def ims_client(self) -> ImsClient:
        """The IMS client."""
        return self._ims

    # ---- ue status --------------------------------------------------------------------------------------------------

    async def _start_control(self) -> None:
        path = self._config.control
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        app = web.Application()
        app.router.add_get("/status", self._get_status)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self._exit.push_async_callback(runner.cleanup)
        old = os.umask(0o177)
        try:
            await web.UnixSite(runner, str(path)).start()
        finally:
            os.umask(old)

    async def _get_status(self, _: web.Request) -> web.Response:
        return web.json_response(self.status())

    def status(self) -> dict[str, Any]:
        """What ``imsbridge ue status --json`` prints: states with a sentence each; no identities in full."""
        registration, identities = self._ims.status, self._ims.identities
        now = asyncio.get_running_loop().time()
        return {
            "uptime_s": round(time.monotonic() - self._started),
            "card": {
                "ok": identities is not None and self._card.present,
                "state": self._ims.card_state,
                "application": identities.source if identities else None,
                "user": _masked(identities.impi) if identities else None,
            },
            "registration": {
                "ok": registration.state is State.REGISTERED,
                "state": registration.state.value,
                "reason": registration.reason,
                "p_cscf": str(registration.p_cscf) if registration.p_cscf else None,
                "user": _masked(registration.impu) if registration.impu else None,
                "expires_s": round(registration.expires_at - now) if registration.expires_at else None,
                "retry_s": max(0, round(registration.retry_at - now)) if registration.retry_at else None,
            },
            "gm_security": self._ims.security(),
            "web_proxy": {"ok": self._child.pid is not None, "state": self._wwpf.detail or self._wwpf.state},
            "dns": self._dns_status(),
            "gba": {"enabled": self._config.gba.enabled, "state": self._gba.state},
            "turn": {
                "ok": True,
                "listen": [f"{host}:{port}" for host, port in self._turn.endpoints],
                "allocations": self._turn.allocations,
            },
            "pages": self._sif.pages,
            "calls": self._sif.calls,
        }

    def _dns_status(self) -> dict[str, Any]:
        upstreams = self._dns.upstreams_up
        silent = [name for name, up in upstreams.items() if not up]
        state = f"no answer from {', '.join(silent)}" if silent else "answers"
        return {
            "ok": len(silent) < len(upstreams),
            "state": state,
            "listen": [str(endpoint) for endpoint in self._dns.endpoints],
        }


class _Login:
    """`LoginHandler`: answers the WWPF's questions with the card."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def identity(self) -> LoginIdentity:
        """See ``LoginHandler``."""
        identities = self._agent.ims_client.identities
        if identities is None:
            raise AgentError("not-ready", self._agent.ims_client.card_state)
        return LoginIdentity(identities.impi, identities.domain)

    async def answer_challenge(self, challenge: str, method: str, uri: str) -> ChallengeAnswer:
        """See ``LoginHandler``."""
        return await self._agent.ims_client.answer_web_challenge(challenge, method, uri)

    async def answer_naf_challenge(self, challenge: str, method: str, uri: str, host: str, renew: bool) -> str:
        """See ``LoginHandler``."""
        return await self._agent.answer_naf_challenge(challenge, method, uri, host, renew)

    async def turn_credential(self, username: str, password: Secret[str], ttl: float) -> None:
        """See ``LoginHandler``."""
        self._agent.learn_turn_credential(username, password, ttl)


def _masked(identity: Identity) -> str:
    return identity.masked


def _private_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.chmod(0o700)
    except OSError as error:
        raise StartError(f"the state folder {path} cannot be used: {error.strerror}; set state in the file") from error


@contextlib.contextmanager
def _named(function: str) -> Iterator[None]:
    """Turn what a function's start raises into one sentence."""
    try:
        yield
    except PermissionError as error:
        raise StartError(f"{function}: {error}. Ports below 1024 need CAP_NET_BIND_SERVICE.") from error
    except (OSError, ValueError, ChildError) as error:
        raise StartError(f"{function}: {error}") from error
