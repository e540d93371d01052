"""Log set-up shared by all programs: one line an event, to standard error."""

from __future__ import annotations

import logging
import sys

_LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}
LEVELS = tuple(_LEVELS)
"""Names that ``--log-level`` takes."""


def set_up(level: str) -> None:
    """Log to standard error at ``level`` (see ``LEVELS``)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    # Libraries at debug level print frames and headers: their log is not ours to vouch for.
    for name in ("aioice", "aiortc", "mitmproxy", "websockets", "aiohttp", "hpack", "asyncio"):
        logging.getLogger(name).setLevel(max(_LEVELS[level], logging.INFO))
