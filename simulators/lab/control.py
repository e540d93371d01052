"""Asking a program of the lab over its control socket (HTTP with JSON over a Unix socket)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp

_TIMEOUT = aiohttp.ClientTimeout(total=15)


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
