"""The HSS towards the operator's web server and BSF (reference points Zh and Cx): HTTP with JSON on a Unix socket.

``POST /vector`` gives a fresh authentication vector, ``GET /profile`` the identities of a subscriber, ``GET /guss`` the
security settings for GBA (TS 33.220 clause 4.4.6).  The answers
hold keys: the socket is for its owner alone.
"""

from __future__ import annotations

import binascii
import logging
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from imskit.aka.errors import AkaError
from simulators.http_json import read_object, refusal
from simulators.ims_core.subscribers import Hss, NoCardError, ResynchronisationError, UnknownSubscriberError

_log = logging.getLogger(__name__)


def application(hss: Hss) -> web.Application:
    """Return the web application; serve it with ``serve_on_unix_socket``."""

    async def vector(request: web.Request) -> web.Response:
        body = await read_object(request)
        try:
            made = hss.vector(_text(body, "impi"), _resynchronisation(body.get("resync")))
        except UnknownSubscriberError as error:
            raise refusal(web.HTTPNotFound, str(error)) from None
        except (ResynchronisationError, NoCardError, AkaError) as error:
            _log.warning("no vector: %s", error)
            raise refusal(web.HTTPForbidden, str(error)) from None
        return web.json_response(
            {
                "rand": made.rand.hex(),
                "autn": made.autn.hex(),
                "xres": made.xres.reveal().hex(),
                "ck": made.ck.reveal().hex(),
                "ik": made.ik.reveal().hex(),
            }
        )

    async def profile(request: web.Request) -> web.Response:
        try:
            subscriber = hss.by_impi(request.query.get("impi", ""))
        except UnknownSubscriberError as error:
            raise refusal(web.HTTPNotFound, str(error)) from None
        impus = [str.__str__(impu) for impu in subscriber.usable]
        return web.json_response({"impus": impus, "display": subscriber.display})

    async def guss(request: web.Request) -> web.Response:
        try:
            subscriber = hss.by_impi(request.query.get("impi", ""))
        except UnknownSubscriberError as error:
            raise refusal(web.HTTPNotFound, str(error)) from None
        return web.json_response({"uicc_type": "GBA_U" if subscriber.gba_u else "GBA"})

    app = web.Application(client_max_size=64 * 1024)
    app.add_routes([web.post("/vector", vector), web.get("/profile", profile), web.get("/guss", guss)])
    return app


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise refusal(web.HTTPBadRequest, f"{name} must be a text")
    return value


def _resynchronisation(value: Any) -> tuple[bytes, bytes] | None:
    if value is None:
        return None
    try:
        return bytes.fromhex(value["rand"]), bytes.fromhex(value["auts"])
    except (TypeError, KeyError, ValueError, binascii.Error):
        raise refusal(web.HTTPBadRequest, "resync needs rand and auts in hex") from None
