"""The phone's keys and screen: HTTP with JSON on a Unix socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from simulators.http_json import read_object, refusal
from simulators.phone.calls import Manners, PhoneError
from simulators.phone.config import BEHAVIOURS
from simulators.phone.phone import Phone, as_uri
from simulators.phone.wav import WavError


def application(phone: Phone) -> web.Application:
    """Return the web application; serve it with ``serve_on_unix_socket``."""

    async def dial(request: web.Request) -> web.Response:
        body = await read_object(request)
        target = body.get("target")
        if not isinstance(target, str):
            raise refusal(web.HTTPBadRequest, "target must be a text")
        play, record = _path(body, "play"), _path(body, "record")
        anonymous = body.get("anonymous") is True
        try:
            return web.json_response({"call": phone.dial(target, play=play, record=record, anonymous=anonymous)})
        except (PhoneError, WavError, OSError) as error:
            raise refusal(web.HTTPConflict, str(error)) from None

    async def hang_up(request: web.Request) -> web.Response:
        return _do(phone.hang_up)

    async def answer(request: web.Request) -> web.Response:
        return _do(phone.answer)

    async def hold(request: web.Request) -> web.Response:
        return _do(phone.calls.hold)

    async def resume(request: web.Request) -> web.Response:
        return _do(phone.calls.resume)

    async def swap(request: web.Request) -> web.Response:
        return _do(phone.calls.swap)

    async def conference(request: web.Request) -> web.Response:
        return _do(phone.conference)

    async def press(request: web.Request) -> web.Response:
        keys = _text(await read_object(request), "keys")
        return _do(lambda: phone.calls.press(keys))

    async def transfer(request: web.Request) -> web.Response:
        target = _text(await read_object(request), "target")
        return _do(lambda: phone.calls.transfer_to(as_uri(target) if target else ""))

    async def invite(request: web.Request) -> web.Response:
        body = await read_object(request)
        target = _text(body, "target")
        focus = body.get("through_focus", True) is not False
        return _do(lambda: phone.calls.invite(as_uri(target) if target else "", through_focus=focus))

    async def message(request: web.Request) -> web.Response:
        body = await read_object(request)
        target, text = _text(body, "target"), _text(body, "text")
        return _do(lambda: phone.send_message(target, text, sms=body.get("sms") is True))

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
            web.post("/hold", hold),
            web.post("/resume", resume),
            web.post("/swap", swap),
            web.post("/conference", conference),
            web.post("/press", press),
            web.post("/transfer", transfer),
            web.post("/invite", invite),
            web.post("/message", message),
            web.get("/status", status),
            web.post("/behaviour", behaviour),
        ]
    )
    return app


def _do(action: Any) -> web.Response:
    try:
        action()
    except (PhoneError, WavError, ValueError, OSError) as error:
        raise refusal(web.HTTPConflict, str(error)) from None
    return web.json_response({})


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise refusal(web.HTTPBadRequest, f"{name} must be a text")
    return value


def _manners(body: Mapping[str, Any], now: Manners) -> Manners:
    """Change what ``body`` names; the rest stays."""
    known = {"behaviour", "answer_after", "play", "loop", "record", "waiting", "follow"}
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
    if "waiting" in body:
        manners = replace(manners, waiting=body["waiting"] is True)
    if "follow" in body:
        manners = replace(manners, follow=body["follow"] is True)
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
