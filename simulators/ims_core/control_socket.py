"""The operator's hand on the core: who is registered, and who may vouch for whom.  HTTP with JSON on a Unix socket."""

from __future__ import annotations

from aiohttp import web

from simulators.http_json import read_object, refusal
from simulators.ims_core.core import ImsCore
from simulators.ims_core.subscribers import UnknownSubscriberError

_EVENTS = ("deactivated", "probation", "rejected", "unregistered", "expired")


def application(core: ImsCore) -> web.Application:
    """Return the web application; serve it with ``serve_on_unix_socket``."""

    async def registrations(request: web.Request) -> web.Response:
        return web.json_response(core.registrations())

    async def security(request: web.Request) -> web.Response:
        return web.json_response(core.security())

    async def deregister(request: web.Request) -> web.Response:
        body = await read_object(request)
        impi, event = body.get("impi"), body.get("event", "deactivated")
        if not isinstance(impi, str) or event not in _EVENTS:
            raise refusal(web.HTTPBadRequest, f"needs impi, and event of {', '.join(_EVENTS)}")
        try:
            count = core.deregister(impi, event)
        except UnknownSubscriberError as error:
            raise refusal(web.HTTPNotFound, str(error)) from None
        return web.json_response({"contacts": count})

    async def web_servers(request: web.Request) -> web.Response:
        body = await read_object(request)
        impi, named = body.get("impi"), body.get("web_servers")
        if not isinstance(impi, str) or not isinstance(named, list) or not all(isinstance(name, str) for name in named):
            raise refusal(web.HTTPBadRequest, "needs impi, and web_servers: a list of texts")
        try:
            core.allow_web_servers(impi, named)
        except UnknownSubscriberError as error:
            raise refusal(web.HTTPNotFound, str(error)) from None
        return web.json_response({"web_servers": named})

    app = web.Application(client_max_size=64 * 1024)
    app.add_routes(
        [
            web.get("/registrations", registrations),
            web.get("/security", security),
            web.post("/deregister", deregister),
            web.post("/web_servers", web_servers),
        ]
    )
    return app
