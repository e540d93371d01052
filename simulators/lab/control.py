"""Asking a program of the lab over its control socket (HTTP with JSON over a Unix socket)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from simulators.lab.world import LabError

_TIMEOUT = aiohttp.ClientTimeout(total=15)


_LOOK_SECONDS = 0.05


class ControlError(Exception):
    """The program does not answer, or refuses; the text says what it said."""


async def ask(socket: Path, method: str, path: str, body: object = None) -> dict[str, Any]:
    """Send one request and return the answer; ``ControlError`` for anything but a 2xx."""
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=_TIMEOUT) as http,
            http.request(method, f"http://control{path}", json=body) as response,
        ):
            text = await response.text()
            if response.status >= 300:
                raise ControlError(f"{method} {path}: {response.status} {text.strip()[:200]}")
            answer = await response.json() if text else {}
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise ControlError(f"{socket.name} does not answer: {error}") from error
    return answer if isinstance(answer, dict) else {"answer": answer}


async def until[T](look: Callable[[], Awaitable[T]], what: str, within: float = 20.0) -> T:
    """Look again and again until ``look`` finds something true, and return that.

    The programs are other processes: their files and sockets can only be looked at.  `LabError` says ``what`` did not
    come about, and what was seen last; a program that does not answer has nothing to show yet.
    """
    end = time.monotonic() + within
    while True:
        seen: object
        try:
            if found := await look():
                return found
            seen = found
        except ControlError as error:
            seen = error
        if time.monotonic() > end:
            detail = f"; last seen: {seen}" if seen else ""
            raise LabError(f"{what}: not within {within:.0f} s{detail}")
        await asyncio.sleep(_LOOK_SECONDS)
