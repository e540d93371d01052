"""The story of a call as data: one JSON object a line, for the lab, the demo's table and later traces.

Times are ``CLOCK_MONOTONIC`` seconds, which all processes of one machine share, so events of several processes sort.
Fields never carry keys, tokens or identities.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class EventLog:
    """Appends events to a file; without a path it does nothing."""

    def __init__(self, source: str, path: Path | None = None) -> None:
        self._source = source
        # Line-buffered: an event is on disk when emit() returns.
        self._file = path.open("a", buffering=1, encoding="utf-8") if path is not None else None

    def emit(self, event: str, **fields: Any) -> None:
        """Record ``event`` now, with plain JSON values as fields."""
        if self._file is not None:
            record = {"at": time.monotonic(), "source": self._source, "event": event, **fields}
            self._file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a file that may still be written to (a torn last line is left out)."""
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)
