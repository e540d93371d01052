"""The phone's keys and screen: HTTP with JSON on a Unix socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from simulators.http_json import read_object, refusal
from simulators.phone.config import BEHAVIOURS
from simulators.phone.phone import Manners, Phone, PhoneError
from simulators.phone.wav import WavError


def application(phone: Phone) -> web.Application:
    """Return the web application; serve it with ``serve_on_unix_socket``."""

    async def dial(request: web.Request) -> web.Response:
        body = await read_object(request)
        target = body.get("target")
        if not isinstance(target, str):
            raise refusal(web.HTTPBadRequest, "target must be a text")
        with_files = {name: _path(body, name) for name in ("play", "record")}
        try:
            return web.json_response({"call": phone.dial(target, **with_files)})
        except (PhoneError, WavError, OSError) as error:
            raise refusal(web.HTTPConflict, str(error)) from None

    async def hang_up(request: web.Request) -> web.Response:
        return _do(phone.hang_up)

    async def answer(request: web.Request) -> web.Response:
        return _do(phone.answer)

    async def status(request: web.Request) -> web.Response:
        return web.json_response(phone.status())

    async def behaviour(request: web.Request) -> web.Response:
        try:
            phone.behave(_manners(await read_object(request), phone.manners))
        except WavError as error:
            raise refusal(web.HTTPConflict, str(error)) from None
        return web.json_response({})

    app = web.Application(client_max_size=64 * 1024)
    app.add_routes(
        [
            web.post("/dial", dial),
            web.post("/hangup", hang_up),
            web.post("/answer", answer),
            web.get("/status", status),
            web.post("/behaviour", behaviour),
        ]
    )
    return app


def _do(action: Any) -> web.Response:
    try:
        action()
    except PhoneError as error:
        raise refusal(web.HTTPConflict, str(error)) from None
    return web.json_response({})


def _manners(body: Mapping[str, Any], now: Manners) -> Manners:
    """Change what ``body`` names; the rest stays."""
    known = {"behaviour", "answer_after", "play", "loop", "record"}
    if unknown := sorted(set(body) - known):
        raise refusal(web.HTTPBadRequest, f"{unknown[0]} is none of {', '.join(sorted(known))}")
    manners = now
    if "behaviour" in body:
        if body["behaviour"] not in BEHAVIOURS:
            raise refusal(web.HTTPBadRequest, f"behaviour must be one of {', '.join(BEHAVIOURS)}")
        manners = replace(manners, behaviour=body["behaviour"])
    if "answer_after" in body:
        seconds = body["answer_after"]
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 3600:
            raise refusal(web.HTTPBadRequest, "answer_after must be seconds below an hour")
        manners = replace(manners, answer_after=float(seconds))
    if "loop" in body:
        manners = replace(manners, loop=body["loop"] is True)
    if "play" in body:
        manners = replace(manners, play=_path(body, "play"))
    if "record" in body:
        manners = replace(manners, record=_path(body, "record"))
    return manners


def _path(body: Mapping[str, Any], name: str) -> Path | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or "\0" in value:
        raise refusal(web.HTTPBadRequest, f"{name} must be a path")
    return Path(value)
