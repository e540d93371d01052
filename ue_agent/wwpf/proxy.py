"""mitmproxy embedded: one explicit proxy with our certificates and our decisions, and the PAC file beside it.

Only those of mitmproxy's add-ons that a proxy cannot do without are loaded.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from types import SimpleNamespace
from typing import Any, cast

from aiohttp import web
from mitmproxy import certs
from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.master import Master
from mitmproxy.options import Options
from mitmproxy.proxy.context import Context

from imskit.tasks import spawn
from ue_agent.wwpf.addon import WwpfAddon
from ue_agent.wwpf.agent import AgentError
from ue_agent.wwpf.agent_link import AgentLink
from ue_agent.wwpf.ca import LocalCa, load_or_create
from ue_agent.wwpf.config import Address, WwpfConfig
from ue_agent.wwpf.policies import proxy_script
from ue_agent.wwpf.portal import Portal, trust_file
from ue_agent.wwpf.sessions import LoginSessions

_log = logging.getLogger(__name__)


class WwpfError(Exception):
    """The proxy cannot start; the text says why."""


class _SniTls(TlsConfig):
    """Certificates from the device's CA, for the name in the ClientHello and no other.

    mitmproxy's own store would add the server's address and names to the certificate, which the CA's name
    constraints forbid, and would sign with the CA's key as the host's key.
    """

    def __init__(self, ca: LocalCa) -> None:
        self._ca = ca
        self._ca_entry = certs.Cert(ca.certificate)
        self.certstore = cast(Any, SimpleNamespace(dhparams=None))

    def configure(self, updated: set[str]) -> None:
        """Keep mitmproxy from making a CA of its own."""

    def request(self, flow: object) -> None:
        """There is no revocation list to serve."""

    def get_cert(self, conn_context: Context) -> certs.CertStoreEntry:
        """Return the certificate for a connection."""
        leaf = self._ca.leaf(conn_context.client.sni or "", datetime.datetime.now(datetime.UTC))
        return certs.CertStoreEntry(certs.Cert(leaf.certificate), cast(Any, leaf.key), None, [self._ca_entry])


class WebProxy:
    """The running WWPF."""

    def __init__(self, config: WwpfConfig) -> None:
        self._config = config
        self._sessions = LoginSessions(time.monotonic)
        self._agent = AgentLink(config.agent, self._sessions.replace) if config.agent is not None else None
        self._portal: Portal | None = None
        self._master: Any = None  # mitmproxy is typed in parts only
        self._running: asyncio.Task[None] | None = None
        self._pac: web.AppRunner | None = None
        self.address = config.listen
        """Where the proxy listens, once started."""
        self.pac_url: str | None = None
        """Where browsers find the proxy settings, once started."""

    async def start(self) -> None:
        """Make the CA if need be, listen, tell the agent.  WwpfError if that is not possible."""
        try:
            await self._start()
        except (OSError, ValueError) as error:
            await self._say("failed", str(error))
            await self.aclose()
            raise WwpfError(str(error)) from error
        detail = f"proxy {self.address}, {self.pac_url or 'no PAC file'}"
        _log.info("web proxy listens on %s, intercepts %s", self.address, ", ".join(self._config.operator_domains))
        await self._say("ready", detail)

    async def aclose(self) -> None:
        """Close everything."""
        if self._pac is not None:
            await self._pac.cleanup()
        if self._master is not None:
            self._master.shutdown()
        if self._running is not None:
            await asyncio.gather(self._running, return_exceptions=True)
        if self._portal is not None:
            await self._portal.__aexit__(None, None, None)
        if self._agent is not None:
            await self._agent.aclose()

    async def _start(self) -> None:
        config = self._config
        ca = load_or_create(config.state, config.operator_domains)
        # Its log shows requests with their headers.
        logging.getLogger("mitmproxy").setLevel(logging.WARNING)
        self._portal = Portal(config.trust)
        options: Any = Options(mode=["regular"], listen_host=config.listen.host, listen_port=config.listen.port)
        self._master = Master(options)
        server: Any = cast(Any, Proxyserver)()
        addon = WwpfAddon(config, self._portal, self._agent, self._sessions)
        self._master.addons.add(addon, server, NextLayer(), _SniTls(ca))
        trust = trust_file(config.trust)
        options.update(
            ssl_verify_upstream_trusted_ca=str(trust) if trust else None,
            upstream_cert=False,
            connection_strategy="lazy",
            websocket=False,  # upgraded connections pass as they are
        )
        self._running = spawn(self._master.run(), "wwpf-mitmproxy")
        listening = spawn(addon.listening.wait(), "wwpf-listening")
        await asyncio.wait((self._running, listening), return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        addresses = server.listen_addrs()
        if not addresses:
            raise OSError(f"the proxy cannot listen on {config.listen}: the address is taken or not this device's")
        self.address = Address(addresses[0][0], addresses[0][1])
        if config.pac is not None:
            await self._serve_pac(config.pac)

    async def _serve_pac(self, at: Address) -> None:
        script = proxy_script(self.address, self._config.operator_domains, self._config.direct_hosts)

        async def proxy_pac(_: web.Request) -> web.Response:
            return web.Response(
                text=script,
                content_type="application/x-ns-proxy-autoconfig",
                headers={"Cache-Control": "no-cache"},
            )

        app = web.Application()
        app.router.add_get("/proxy.pac", proxy_pac)
        self._pac = web.AppRunner(app, access_log=None)
        await self._pac.setup()
        try:
            await web.TCPSite(self._pac, at.host, at.port).start()
        except OSError as error:
            raise OSError(f"the PAC file cannot be served on {at}: {error.strerror}") from error
        bound = Address(at.host, self._pac.addresses[0][1])
        self.pac_url = f"http://{bound}/proxy.pac"

    async def _say(self, state: str, detail: str) -> None:
        if self._agent is not None:
            try:
                await self._agent.status(state, detail)
            except AgentError as error:
                _log.warning("the agent cannot be told: %s", error)
