"""The whole edge in one process: page and log-in, SIP over WebSocket, media.

The eP-CSCF asks the WWSF about tokens and the gateway about media by calling them: no socket is between them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from aiohttp import web

from imskit.secrets import Secret
from imskit.sockets import unix_socket
from network_edge.certificate import CertificateError, ensure_certificate, fingerprint
from network_edge.config import EdgeConfig
from network_edge.eims_agw.command import make_gateway
from network_edge.eims_agw.gateway import Gateway
from network_edge.eims_agw.metrics import GatewayCollector
from network_edge.ep_cscf.server import EpCscfError, EpCscfServer
from network_edge.ep_cscf.tokens import IntrospectedTokens, TokenSourceError, TokenValidator, TrustedIssuer
from network_edge.wwsf.home_network import HssClient
from network_edge.wwsf.identities.model import StoreError
from network_edge.wwsf.server import Wwsf, WwsfError
from network_edge.wwsf.tokens.issuer import Issuer

_log = logging.getLogger(__name__)


class EdgeError(Exception):
    """The edge cannot start; the text says why and what to do."""


class Edge:
    """``start()`` listens, ``ep_cscf.drain()`` takes nothing new, ``close()`` ends it.

    The constructor makes what is missing in the state folder: certificate and signing keys.  ``EdgeError``.
    """

    def __init__(self, config: EdgeConfig) -> None:
        self._config = config
        self._stack = AsyncExitStack()
        self._began = time.monotonic()
        wwsf, ep_cscf, self._agw = config.parts
        try:
            config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            if config.own_certificate:
                self._own_certificate()
            self.wwsf = Wwsf(wwsf, HssClient(wwsf.hss) if wwsf.hss is not None else None)
        except (WwsfError, CertificateError) as error:
            raise EdgeError(str(error)) from error
        except OSError as error:
            raise EdgeError(f"{error.filename or config.state}: {error.strerror}") from error
        self._ep_cscf_config = ep_cscf
        self.gateway: Gateway | None = None
        """The media gateway in this process, once started, unless others carry the media."""
        self.ep_cscf: EpCscfServer | None = None
        """The SIP part, once started."""

    def _own_certificate(self) -> None:
        certificate, key = self._config.state / "edge.crt", self._config.state / "edge.key"
        made = ensure_certificate(certificate, key, self._config.names)
        if made:
            _log.warning(
                "a self-signed certificate was made: %s, for %s. Browsers refuse it until they trust it: import it as "
                "an authority there, or give certificate and key in [wwsf]. SHA-256 %s",
                certificate,
                ", ".join(self._config.names),
                fingerprint(certificate),
            )

    async def start(self) -> None:
        """Open every socket; ``EdgeError``."""
        try:
            await self._start()
        except (EpCscfError, WwsfError) as error:
            await self.close()
            raise EdgeError(str(error)) from error
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        config = self._config
        if self._agw is not None:
            self.gateway = make_gateway(self._agw)
            self._stack.push_async_callback(self.gateway.close)
        self.ep_cscf = EpCscfServer(self._ep_cscf_config, gateway=self.gateway, validator=self._validator())
        if self.gateway is not None:
            self.ep_cscf.metrics.registry.register(GatewayCollector(self.gateway))
        self._stack.push_async_callback(self.ep_cscf.close)
        await self.ep_cscf.start()
        self._stack.push_async_callback(self.wwsf.stop)
        await self.wwsf.start()
        if config.control is not None:
            app = web.Application(client_max_size=4096)
            app.router.add_get("/status", self._get_status)
            try:
                await self._stack.enter_async_context(unix_socket(app, config.control))
            except OSError as error:
                raise EdgeError(f"the control socket cannot be made: {error.strerror}") from error

    async def close(self) -> None:
        """End everything."""
        await self._stack.aclose()

    def status(self) -> dict[str, Any]:
        """What is to be said of the edge; ``problem`` is empty if all is well."""
        assert self.ep_cscf is not None
        return {
            "page": self._config.page,
            "websocket": [f"wss {host}:{port}" for host, port in self.ep_cscf.wss]
            + [f"ws {host}:{port}" for host, port in self.ep_cscf.ws]
            + [f"json {host}:{port}" for host, port in self.ep_cscf.json],
            "mw": f"{self.ep_cscf.mw[0]}:{self.ep_cscf.mw[1]}",
            "core": self._ep_cscf_config.mw.core,
            "log_ins": self.wwsf.sessions,
            **self.ep_cscf.state(),
            "uptime_s": round(time.monotonic() - self._began),
        }

    async def _get_status(self, _: web.Request) -> web.Response:
        return web.json_response(self.status())

    def _validator(self) -> TokenValidator | None:
        """Trusts the WWSF of this process; configured issuers take its place."""
        issuer, config = self.wwsf.issuer, self._config
        if issuer is None or self._ep_cscf_config.issuers:
            return None
        tokens = config.parts[0].tokens
        assert tokens is not None
        return TokenValidator(
            [
                TrustedIssuer(
                    issuer.name,
                    tokens.audience,
                    config.web_server_identity,
                    tuple(config.identities),
                    tuple(config.private_identities),
                    IntrospectedTokens(_asking(issuer)),
                    tokens.scope,
                )
            ]
        )


def _asking(issuer: Issuer) -> Any:
    async def ask(token: Secret[str]) -> Mapping[str, Any]:
        try:
            return await issuer.introspect(token.reveal())
        except StoreError as error:
            raise TokenSourceError(str(error)) from error

    return ask
