"""The BSF's sockets: Ub is HTTP for terminals, Zn is HTTP with JSON on a Unix socket for the servers of the lab.

``POST /keys`` with ``Authorization: Bearer <secret of the server>`` and ``{"btid": …, "naf_id": hex}`` gives
``{"impi", "me_key", "uicc_key", "expires"}``; 404 for a B-TID that is not known.  ``POST /forget`` empties the memory.
An operator's BSF speaks Diameter or SOAP there (TS 29.109).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from aiohttp import web

from imskit.observe.events import EventLog
from imskit.secrets import Secret
from imskit.sockets import Address, definite, parse_address, unix_socket
from simulators.bsf.bootstrapping import Bsf, ZnRefusedError
from simulators.bsf.config import BsfConfig
from simulators.bsf.zh import HssZh, Zh
from simulators.http_json import read_object, refusal

_log = logging.getLogger(__name__)
_MAX_BODY = 16 * 1024


class BsfServer:
    """Start it, and it serves until it is closed.  ``zh`` is the configured HSS unless given."""

    def __init__(self, config: BsfConfig, zh: Zh | None = None, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._stack = AsyncExitStack()
        self._events = EventLog("bsf", config.events)
        self._hss = HssZh(config.hss) if zh is None else None
        chosen = zh or self._hss
        assert chosen is not None
        self.bsf = Bsf(config.name, chosen, config.lifetime, clock, lambda step: self._events.emit(f"bsf-{step}"))
        """The engine."""
        self._secrets = [(naf.name, naf.secret) for naf in config.nafs]
        self.address: Address = ("", 0)
        """Where terminals reach Ub, once started."""

    async def start(self) -> None:
        """Open the sockets; ``OSError`` if one cannot be had."""
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        self._stack.callback(self._events.close)
        if self._hss is not None:
            self._stack.push_async_callback(self._hss.close)
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_get("/{path:.*}", self._ub)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        self.address = definite(parse_address(self._config.listen))
        await web.TCPSite(runner, *self.address, reuse_address=True).start()
        if self._config.zn is not None:
            await self._stack.enter_async_context(unix_socket(self._zn_application(), self._config.zn))
        _log.info("BSF %s listens on %s port %d", self._config.name, *self.address)

    async def close(self) -> None:
        """Close the sockets."""
        await self._stack.aclose()

    async def _ub(self, request: web.Request) -> web.Response:
        answer = await self.bsf.handle(
            request.headers.get("Authorization"), request.method, request.raw_path, await request.read()
        )
        headers = [*answer.headers, ("Content-Type", answer.content_type), ("Cache-Control", "no-store")]
        return web.Response(status=answer.status, body=answer.body, headers=headers)

    def _zn_application(self) -> web.Application:
        async def keys(request: web.Request) -> web.Response:
            naf = self._who(request.headers.get("Authorization", ""))
            body = await read_object(request)
            btid, text = body.get("btid"), body.get("naf_id")
            try:
                if not isinstance(btid, str) or not isinstance(text, str):
                    raise ValueError
                naf_id = bytes.fromhex(text)
            except ValueError:
                raise refusal(web.HTTPBadRequest, "btid must be a text and naf_id hex digits") from None
            try:
                found = self.bsf.naf_keys(naf, btid, naf_id)
            except ZnRefusedError as error:
                raise refusal(web.HTTPNotFound if error.unknown else web.HTTPForbidden, str(error)) from None
            return web.json_response(
                {
                    "impi": str.__str__(found.impi),
                    "me_key": found.me_key.reveal().hex(),
                    "uicc_key": found.uicc_key.reveal().hex() if found.uicc_key else None,
                    "expires": found.expires,
                }
            )

        async def forget(request: web.Request) -> web.Response:
            return web.json_response({"forgotten": self.bsf.forget()})

        app = web.Application(client_max_size=_MAX_BODY)
        app.add_routes([web.post("/keys", keys), web.post("/forget", forget)])
        return app

    def _who(self, authorization: str) -> str:
        """Return the name of the server that shows its secret."""
        scheme, _, token = authorization.partition(" ")
        given = Secret(token.strip())
        # Every secret is compared, in constant time each.
        known = [name for name, secret in self._secrets if given == secret]
        if scheme.lower() != "bearer" or not known:
            raise refusal(web.HTTPUnauthorized, "this server's secret is needed (Authorization: Bearer …)")
        return known[0]
