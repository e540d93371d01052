"""A card in software, for laboratories only: the subscriber's key lies in a file of this machine.

The file is what ``imsbridge config sample card`` shows and must be its user's alone (mode 0600).  What a real card
would remember (sequence numbers accepted, the PIN and its tries, keys of GBA) lies beside it, in a file of the same
name and ``.state``, written before the answer leaves the card.  Several processes may use one such card, one
transaction at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from imskit.config.model import ConfigError, parse
from imskit.uicc.profile import CardProfile
from imskit.uicc.uicc import Uicc
from ue_agent.uicc.errors import CardRemovedError, CardUnresponsiveError, NoCardError
from ue_agent.uicc.presence import Presence
from ue_agent.uicc.transport import CardEvent, CardTransport

_log = logging.getLogger(__name__)
_MAX_FILE = 65536
_LOOK_SECONDS = 1.0
_LOCK_SECONDS = 10.0
_LOCK_STEP_SECONDS = 0.02


class SoftwareBackend:
    """A ``CardBackend`` with one slot: the card is in while its file is there, and another one when it changes."""

    laboratory = True

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stopped = threading.Event()

    @property
    def name(self) -> str:
        """What stands for the reader's name."""
        return f"software card {self._file}"

    def connect(self) -> CardTransport:
        """See ``CardBackend``; ``NoCardError`` says why the file is not used."""
        contacts, text = _open(self._file)
        try:
            profile = parse(CardProfile, text, str(self._file))
        except ConfigError as error:
            os.close(contacts)
            raise NoCardError(f"software card: {error}") from error
        _log.warning("LABORATORY ONLY: %s is no SIM card, its key lies in a file", self.name)
        return _SoftwareTransport(self._file, contacts, profile)

    def watch(self, report: Callable[[CardEvent | None], None]) -> None:
        """See ``CardBackend``: looks at the file once a second."""
        presence, seen = Presence(report), _identity(self._file)
        presence.update(self.name if seen is not None else None)
        while not self._stopped.wait(_LOOK_SECONDS):
            before, seen = seen, _identity(self._file)
            presence.update(self.name if seen is not None else None, swapped=before != seen)

    def stop(self) -> None:
        """See ``CardBackend``."""
        self._stopped.set()


class _SoftwareTransport:
    """See ``CardTransport``."""

    t0 = True

    def __init__(self, file: Path, contacts: int, profile: CardProfile) -> None:
        self._file = file
        self._contacts = contacts
        """Descriptor of the card's file: its lock is the transaction."""
        self._inserted = _identity(file)
        self._profile = profile
        self._memory = _Memory(file.with_name(file.name + ".state"), profile)
        self._card = Uicc(profile)
        self._depth = 0

    def transmit(self, apdu: bytes) -> tuple[bytes, int]:
        with self.transaction():
            answer = self._card.transmit(apdu)
            self._memory.save(self._card)
        return answer[:-2], int.from_bytes(answer[-2:])

    def transaction(self) -> AbstractContextManager[None]:
        return self._locked()

    def reset(self) -> None:
        self._card.reset()

    def close(self) -> None:
        os.close(self._contacts)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if _identity(self._file) != self._inserted:
            raise CardRemovedError(f"the software card {self._file} was removed or changed")
        if self._depth == 0:
            self._lock()
        self._depth += 1
        try:
            if self._depth == 1:
                self._memory.load(self._card)
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                fcntl.flock(self._contacts, fcntl.LOCK_UN)

    def _lock(self) -> None:
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._contacts, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise CardUnresponsiveError("the card is held by another program") from None
                time.sleep(_LOCK_STEP_SECONDS)  # flock cannot be waited for with a limit
            else:
                return


class _Memory:
    """What the card remembers without power."""

    def __init__(self, file: Path, profile: CardProfile) -> None:
        self._file = file
        self._of = profile.imsi
        self._known: dict[str, Any] | None = None

    def load(self, card: Uicc) -> None:
        """Put what is on file into ``card``; nothing if there is no file yet."""
        try:
            descriptor, text = _open(self._file)
            os.close(descriptor)
            contents = json.loads(text)
            if not isinstance(contents, dict):
                raise ValueError("no JSON object")
        except NoCardError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return
            raise self._broken(error) from error
        except (ValueError, RecursionError) as error:
            raise self._broken(error) from error
        if contents.get("imsi") != self._of:
            raise CardUnresponsiveError(f"the software card's memory {self._file} is another card's; remove it")
        try:
            card.recall(contents)
        except ValueError as error:
            raise self._broken(error) from error
        self._known = contents

    def _broken(self, error: Exception) -> CardUnresponsiveError:
        # To go on would be to accept challenges a second time.
        return CardUnresponsiveError(f"the software card's memory {self._file} cannot be read: {error}")

    def save(self, card: Uicc) -> None:
        """Put on file what ``card`` remembers, if that has changed."""
        contents = {"imsi": self._of, **card.remember()}
        if contents == self._known:
            return
        fresh = self._file.with_name(self._file.name + ".new")
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
                json.dump(contents, file)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._file)
        except OSError as error:
            raise CardUnresponsiveError(f"the software card cannot write its memory {self._file}: {error}") from error
        self._known = contents


def _open(file: Path) -> tuple[int, str]:
    """Return a descriptor of the card's file and its text; ``NoCardError`` unless it is its user's alone."""
    try:
        contacts = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise NoCardError(f"software card: {file}: {os.strerror(error.errno or 0)}") from error
    try:
        status = os.fstat(contacts)
        if not stat.S_ISREG(status.st_mode):
            raise NoCardError(f"software card: {file} is no file")
        if status.st_uid != os.geteuid():
            raise NoCardError(f"software card: {file} belongs to another user and is not used")
        if status.st_mode & 0o077:
            raise NoCardError(f"software card: {file} holds keys and others may get at it. Run: chmod 600 {file}")
        content = os.read(contacts, _MAX_FILE + 1)
        if len(content) > _MAX_FILE:
            raise NoCardError(f"software card: {file} is too large")
        return contacts, content.decode("utf-8")
    except UnicodeDecodeError as error:
        os.close(contacts)
        raise NoCardError(f"software card: {file} is not UTF-8") from error
    except BaseException:
        os.close(contacts)
        raise


def _identity(file: Path) -> tuple[int, ...] | None:
    """What tells this card from the one that was in before, ``None``: there is none."""
    try:
        status = file.lstat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
