"""Log set-up shared by all programs: one line an event, to standard error."""

from __future__ import annotations

import logging
import sys

_LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}
LEVELS = tuple(_LEVELS)
"""Names that ``--log-level`` takes."""


_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != 0x09}


class _OneLine(logging.Formatter):
    """What strangers send stands in some messages: it must not make lines of its own, nor steer a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """As the base class, without control characters; a traceback that follows keeps its lines."""
        return super().formatMessage(record).translate(_ESCAPES)


class _StandardError(logging.Handler):
    """Writes to what is standard error at that moment: it may have been redirected since."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            self.handleError(record)


def set_up(level: str) -> None:
    """Log to standard error at ``level`` (see ``LEVELS``)."""
    handler = _StandardError()
    handler.setFormatter(_OneLine("%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    # Libraries at debug level print frames and headers: their log is not ours to vouch for.
    for name in ("aioice", "aiortc", "mitmproxy", "websockets", "aiohttp", "hpack", "asyncio"):
        logging.getLogger(name).setLevel(max(_LEVELS[level], logging.INFO))
