"""The log-ins that outlive a restart, of the WWPF and of the agent: hashes of cookies, bound to the card's user.

A page that is open while the agent is started anew would otherwise have to be loaded again.  The file holds nothing
that opens anything: a cookie long enough to stand for a log-in cannot be found from its hash.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

from imskit.secrets import Identity
from ue_agent.wwpf.sessions import CAPACITY, MAXIMUM_LIFE_S

_log = logging.getLogger(__name__)

_DIGEST_LENGTH = 64


class RememberedSessions:
    """Log-ins by the hash of their cookie, each with its end (``time.monotonic``); kept in ``path`` where given."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._ends: dict[str, float] = {}
        self._owner = ""
        """Whose log-ins these are, as a hash; empty until a card was seen."""
        self._load()

    def live(self) -> list[tuple[str, float]]:
        """Return those that have not ended."""
        now = time.monotonic()
        self._ends = {digest: end for digest, end in self._ends.items() if end > now}
        return list(self._ends.items())

    def change(self, opened: Iterable[tuple[str, float]], closed: Iterable[str]) -> None:
        """Take note of log-ins that began or ended; the oldest go when there are too many."""
        for digest in closed:
            self._ends.pop(digest, None)
        self._ends.update(opened)
        while len(self._ends) > CAPACITY:
            del self._ends[next(iter(self._ends))]
        self._save()

    def belong_to(self, user: Identity) -> bool:
        """Say whose card is in use; another user's log-ins are forgotten, and then this is True."""
        owner = hashlib.sha256(str.__str__(user).encode()).hexdigest()
        if owner == self._owner:
            return False
        changed, self._owner = bool(self._owner and self._ends), owner
        if changed:
            self._ends.clear()
        self._save()
        return changed

    def _load(self) -> None:
        if self._path is None or not self._path.exists():
            return
        try:
            kept = json.loads(self._path.read_text())
            owner, sessions = kept["owner"], kept["sessions"]
            ends = {str(digest): float(end) for digest, end in sessions.items() if len(digest) == _DIGEST_LENGTH}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            _log.warning("log-ins of before are forgotten: %s cannot be read: %s", self._path, error)
            return
        self._owner = str(owner)
        # The file has the time of day: the other clock begins anew with the device.  Neither can lengthen a life.
        now, today = time.monotonic(), time.time()
        self._ends = {d: now + min(end - today, MAXIMUM_LIFE_S) for d, end in ends.items() if end > today}

    def _save(self) -> None:
        if self._path is None:
            return
        today = time.time() - time.monotonic()
        kept = {"owner": self._owner, "sessions": {digest: end + today for digest, end in self._ends.items()}}
        temporary = self._path.with_suffix(".new")
        try:
            temporary.unlink(missing_ok=True)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                json.dump(kept, file)
            temporary.replace(self._path)
        except OSError as error:
            _log.warning("log-ins will not outlive a restart: %s cannot be written: %s", self._path, error)
