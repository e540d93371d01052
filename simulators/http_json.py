"""What the simulators' control sockets share: JSON objects in, errors out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web


async def read_object(request: web.Request) -> Mapping[str, Any]:
    """Return the JSON object of a request, or raise 400."""
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise refusal(web.HTTPBadRequest, "the body must be a JSON object")
    return body


def refusal(kind: type[web.HTTPError], words: str) -> web.HTTPError:
    """Return an error response with ``{"error": words}``."""
    return kind(text=json.dumps({"error": words}), content_type="application/json")
