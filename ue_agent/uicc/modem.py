"""A SIM card in a modem, through its AT port (TS 27.007).

The port is opened once for the worker's commands and the watcher's questions.  Several processes may share it: each
locks it (``flock``) for a transaction and reads it only then.  A program that takes the port for itself, as
ModemManager does, has to leave it alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import stat
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import serial

from imskit.engine import Tick
from ue_agent.uicc.engine.at_line import Ask, AtLine, Octets, Reply, Silence, Unsolicited, Write
from ue_agent.uicc.engine.modem_card import Channel, ModemCard, close_channel, greet, sim_state
from ue_agent.uicc.errors import (
    CardRemovedError,
    CardUnresponsiveError,
    NoCardError,
    NoReaderError,
    PinBlockedError,
    UiccError,
)
from ue_agent.uicc.presence import Presence
from ue_agent.uicc.transport import CardEvent, CardTransport
from ue_agent.uicc.wire.at import SimState, is_arrival, is_removal

_log = logging.getLogger(__name__)
COMMAND_SECONDS = 10.0
_CLOSE_SECONDS = 2.0
_POLL_SECONDS = 2.0
_MISSED_LOOKS = 4
"""Looks without a clear answer, one after the other, that count as a removal."""
_WRITE_SECONDS = 2.0
_LOCK_SECONDS = 15.0
_STEP_SECONDS = 0.02
_SLICE_SECONDS = 0.25
_QUIET_SECONDS = 0.3
_SETTLE_SECONDS = 3.0
_CHUNK = 4096
_MAX_CHUNKS = 64


class ModemBackend:
    """A ``CardBackend`` with the one slot of a modem."""

    laboratory = False

    def __init__(self, device: Path, baud: int, *, seconds: float = COMMAND_SECONDS) -> None:
        """``seconds`` is how long the modem may take for one command."""
        self._port = _SharedPort(device, baud)
        self._seconds = seconds
        self._stopped = threading.Event()

    @property
    def name(self) -> str:
        """What stands for the reader's name."""
        return f"modem {self._port.device}"

    def connect(self) -> CardTransport:
        """See ``CardBackend``; ``PinBlockedError`` if the modem says so."""
        with self._port.used(), self._port.held():
            greet(self._port.exchange, self._seconds)
            state = sim_state(self._port.exchange, self._seconds)
            if state is SimState.PUK:
                raise PinBlockedError("the PIN is blocked; unblock it with the PUK in a phone")
            if state is SimState.ABSENT:
                raise NoCardError(f"no SIM card in the {self.name}")
            if not state.present:
                raise CardUnresponsiveError(f"the SIM card in the {self.name} {state.value}")
            _close_left_open(self._port, self._seconds)
            return _ModemTransport(self._port, self._seconds)

    def watch(self, report: Callable[[CardEvent | None], None]) -> None:
        """See ``CardBackend``.  Asks every two seconds, and at once when the modem reports a removal."""
        with self._port.used():
            self._watch(Presence(report))

    def stop(self) -> None:
        """See ``CardBackend``."""
        self._stopped.set()
        self._port.stir()

    def _watch(self, presence: Presence) -> None:
        trouble: str | None = None
        known, missed = self._port.generation, 0
        while not self._stopped.is_set():
            try:
                present, now, missed = self._look(), None, 0
            except CardUnresponsiveError as error:
                # Modems fall silent for seconds, as when they look for networks: that is no removal yet.
                missed += 1
                present, now = presence.reader is not None and missed < _MISSED_LOOKS, str(error)
            except UiccError as error:
                present, now, missed = False, str(error), 0
            if now != trouble and now is not None:
                _log.warning("%s", now)
            trouble = now
            if self._stopped.is_set():
                break
            before, known = known, self._port.generation
            presence.update(self.name if present else None, swapped=before != known)
            self._wait()

    def _wait(self) -> None:
        """Until it is time to look again, or the modem has reported something."""
        generation, end = self._port.generation, time.monotonic() + _POLL_SECONDS
        while not self._stopped.is_set() and (left := end - time.monotonic()) > 0:
            self._port.wait(left)
            with contextlib.suppress(UiccError):
                self._port.hear()
            if self._port.generation != generation or self._port.arrived:
                break
            self._stopped.wait(_STEP_SECONDS)  # a port that never stops talking is not listened to all the time

    def _look(self) -> bool:
        with self._port.held() as fresh:
            seconds = min(self._seconds, _POLL_SECONDS)
            if fresh:
                greet(self._watching, seconds)
            self._port.arrived = False
            state = sim_state(self._watching, seconds)
            if state is SimState.BUSY:
                raise CardUnresponsiveError(f"the SIM card in the {self.name} {state.value}")
            if not state.present:
                self._port.lose_card()
            return state.present

    def _watching(self, ask: Ask) -> Reply:
        return self._port.exchange(ask, self._stopped)


class _ModemTransport:
    """See ``CardTransport``.

    ``reset`` opens another channel; the modem alone could make the card forget a PIN, and would lose its network.
    """

    def __init__(self, port: _SharedPort, seconds: float) -> None:
        self._port = port
        self._seconds = seconds
        self._generation = port.generation
        self._card = ModemCard(port.exchange, seconds)
        self._note: _Note | None = None
        self._use = contextlib.ExitStack()
        with contextlib.ExitStack() as use:
            use.enter_context(port.used())
            self._open()
            self._use = use.pop_all()

    @property
    def t0(self) -> bool:
        return self._card.t0

    def transmit(self, apdu: bytes) -> tuple[bytes, int]:
        with self.transaction():
            before = self._card.channel
            try:
                return self._card.transmit(apdu)
            except CardUnresponsiveError as error:
                if self._generation != self._port.generation:  # reported while the command was under way
                    raise CardRemovedError("the SIM card was taken out of the modem") from error
                raise
            finally:
                if self._card.channel != before:
                    self._write_note()

    def transaction(self) -> AbstractContextManager[None]:
        return self._checked()

    @contextlib.contextmanager
    def _checked(self) -> Iterator[None]:
        with self._port.held():
            if self._generation != self._port.generation:
                raise CardRemovedError("the SIM card was taken out of the modem, or the modem was unplugged")
            yield

    def reset(self) -> None:
        with self._checked():
            self._card.close()
            self._open()

    def close(self) -> None:
        try:
            with self._checked():
                close_channel(self._port.exchange, self._card.channel, min(self._seconds, _CLOSE_SECONDS))
        except CardRemovedError as error:  # and the channel with it
            _log.debug("channel not closed: %s", error)
        except UiccError as error:
            _log.info("channel not closed, which is tried again at the next start: %s", error)
            if self._note is not None:
                self._note.abandon()
                self._note = None
        if self._note is not None:
            self._note.remove()
        self._use.close()

    def _open(self) -> None:
        try:
            self._card.open()
        finally:
            self._write_note()

    def _write_note(self) -> None:
        if self._note is not None:
            self._note.remove()
        self._note = _Note.write(self._port.device, self._card.channel)


class _SharedPort:
    """The serial port, shared by this process's threads and with other processes; opened when first held."""

    def __init__(self, device: Path, baud: int) -> None:
        self.device = device
        self.generation = 0
        """Rises when the card or the modem went away: what was opened before is of no use any more."""
        self.arrived = False
        """The modem has reported a card since it was last asked."""
        self._stirred = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self._stirred)
        self._baud = baud
        self._mutex = threading.RLock()
        self._depth = 0
        self._users = 0
        self._port: serial.Serial | None = None
        self._line = AtLine()
        self._unsettled = False

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Have the port for oneself; gives whether it was opened for that."""
        with self._mutex:
            fresh = self._port is None
            port = self._port or self._open()
            if self._depth == 0:
                self._lock(port)
            self._depth += 1
            try:
                yield fresh
            finally:
                self._depth -= 1
                if self._depth == 0 and self._port is not None:
                    with contextlib.suppress(OSError, serial.SerialException):
                        fcntl.flock(self._port.fileno(), fcntl.LOCK_UN)

    def exchange(self, ask: Ask, cancelled: threading.Event | None = None) -> Reply:
        """Carry out one AT command while the port is held."""
        port = self._port
        if port is None:
            raise self._gone()
        if self._unsettled:
            self._settle(port)
        assert self._depth, "the port is not held"
        self._feed(self._read(port, 0.0))
        self._line.handle(ask, time.monotonic())
        while True:
            while (output := self._line.poll()) is not None:
                match output:
                    case Write(octets):
                        self._write(port, octets)
                    case Reply():
                        return output
                    case Silence(reason):
                        self._unsettled = True
                        raise CardUnresponsiveError(f"the modem at {self.device} {reason}")
                    case Unsolicited():
                        self._unsolicited(output)
            deadline = self._line.deadline()
            assert deadline is not None
            left = deadline - time.monotonic()
            octets = self._read(port, min(left, _SLICE_SECONDS)) if left > 0 else b""
            if octets:
                self._line.handle(Octets(octets), time.monotonic())
            elif cancelled is not None and cancelled.is_set():
                self._forget_command()
                raise CardUnresponsiveError("given up")
            else:
                self._line.handle(Tick(), time.monotonic())

    def wait(self, seconds: float) -> None:
        """Wait until the port has something to say, or ``stir``.  Nothing is read, so the port need not be held."""
        port = self._port
        with contextlib.suppress(OSError, ValueError, TypeError, serial.SerialException):  # closed meanwhile
            waited_for = [self._stirred] if port is None else [self._stirred, port.fileno()]
            select.select(waited_for, [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._stirred)

    def stir(self) -> None:
        """End ``wait``."""
        os.eventfd_write(self._stirred, 1)

    def hear(self) -> None:
        """Take in what the modem says on its own."""
        if self._port is not None:
            with self.held():
                port = self._port
                if port is not None and self._unsettled:
                    self._settle(port)
                elif port is not None:
                    self._feed(self._read(port, 0.0))

    def lose_card(self) -> None:
        """Take note that the card is not there."""
        self.generation += 1

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Have the port stay open meanwhile; who ends last closes it."""
        with self._mutex:
            self._users += 1
        try:
            yield
        finally:
            with self._mutex:
                self._users -= 1
                if self._users == 0:
                    self._drop()

    # --- the port

    def _open(self) -> serial.Serial:
        try:
            port = serial.Serial(str(self.device), self._baud, timeout=0, write_timeout=_WRITE_SECONDS)
        except (serial.SerialException, OSError, ValueError) as error:
            raise NoReaderError(self._why_not(error)) from error
        self._port, self._line, self._unsettled = port, AtLine(), False
        _log.info("modem port %s opened", self.device)
        return port

    def _why_not(self, error: Exception) -> str:
        if not self.device.exists():
            return f"there is no modem at {self.device}"
        if not os.access(self.device, os.R_OK | os.W_OK):
            return f"{self.device} may not be opened by this user; usually its group is dialout"
        number = getattr(error, "errno", None)
        if number == 16:  # EBUSY
            return f"{self.device} is taken by another program, perhaps ModemManager"
        return f"{self.device} cannot be used as a serial port: {error}"

    def _lock(self, port: serial.Serial) -> None:
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(port.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise CardUnresponsiveError(f"the modem at {self.device} is held by another program") from None
                time.sleep(_STEP_SECONDS)  # flock cannot be waited for with a limit
            else:
                return

    def _read(self, port: serial.Serial, seconds: float) -> bytes:
        try:
            ready, _, _ = select.select([port.fileno()], [], [], seconds)
            if not ready:
                return b""
            octets = os.read(port.fileno(), _CHUNK)
        except BlockingIOError:
            return b""
        except (OSError, serial.SerialException) as error:
            raise self._gone() from error
        if not octets:  # readable and empty: hung up
            raise self._gone()
        return octets

    def _write(self, port: serial.Serial, octets: bytes) -> None:
        try:
            port.write(octets)
        except serial.SerialTimeoutException as error:
            self._forget_command()
            raise CardUnresponsiveError(f"the modem at {self.device} takes no commands") from error
        except (OSError, serial.SerialException) as error:
            raise self._gone() from error

    def _gone(self) -> CardRemovedError:
        self._drop()
        self.generation += 1
        self.stir()
        return CardRemovedError(f"the modem at {self.device} went away")

    def _drop(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            with contextlib.suppress(OSError, serial.SerialException):
                port.close()

    # --- lines

    def _settle(self, port: serial.Serial) -> None:
        """Throw away the answer to a command that was given up, so that it is not taken for the next one's."""
        end = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < end and self._read(port, _QUIET_SECONDS):
            pass
        self._forget_command()
        self._unsettled = False

    def _forget_command(self) -> None:
        self._line = AtLine()
        self._unsettled = True

    def _feed(self, octets: bytes) -> None:
        for _ in range(_MAX_CHUNKS):
            if not octets:
                return
            self._line.handle(Octets(octets), time.monotonic())
            while (output := self._line.poll()) is not None:
                if isinstance(output, Unsolicited):
                    self._unsolicited(output)
            port = self._port
            octets = self._read(port, 0.0) if port is not None and len(octets) == _CHUNK else b""
        raise CardUnresponsiveError(f"{self.device} talks without end: it is no AT port")

    def _unsolicited(self, output: Unsolicited) -> None:
        # Without what follows the colon, and without digits: it may be somebody's number or a late answer with keys.
        _log.debug("modem says %s", "".join("." if c.isdigit() else c for c in output.line.partition(":")[0][:20]))
        if is_removal(output.line):
            _log.info("the modem at %s reports that the SIM card is gone", self.device)
            self.generation += 1
            self.stir()
        elif is_arrival(output.line):
            self.arrived = True
            self.stir()


class _Note:
    """A file that says which channel is open, locked while its process lives: what a crash left open can be closed."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def write(cls, device: Path, channel: Channel) -> _Note | None:
        """Note that ``channel`` is open; ``None`` if it need not be closed or nothing can be noted."""
        if Channel.parse(str(channel)) is None or (folder := _notes()) is None:
            return None
        try:
            descriptor, path = tempfile.mkstemp(prefix=f"{_prefix(device)}{os.getpid()}-", dir=folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, str(channel).encode())
        except OSError as error:
            _log.debug("the open channel is not noted: %s", error)
            return None
        return cls(Path(path), descriptor)

    def remove(self) -> None:
        """The channel is closed."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def abandon(self) -> None:
        """The channel may be open still: leave it to the next who comes."""
        os.close(self._descriptor)


def _close_left_open(port: _SharedPort, seconds: float) -> None:
    """Close the channels of processes that ended without doing so: a card has no more than three or nineteen."""
    folder = _notes()
    for path in sorted(folder.glob(f"{_prefix(port.device)}*")) if folder is not None else ():
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its process lives
        else:
            channel = Channel.parse(os.read(descriptor, 32).decode("ascii", errors="replace"))
            if channel is not None:
                _log.info("closing %s, left open by a process that ended early", channel)
                close_channel(port.exchange, channel, seconds)
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _prefix(device: Path) -> str:
    return f"modem-{device.name}-"


def _notes() -> Path | None:
    """The folder of the notes, ours alone and gone with the next boot; ``None`` if it cannot be had."""
    base = os.environ.get("XDG_RUNTIME_DIR") or ("/run" if os.geteuid() == 0 else tempfile.gettempdir())
    folder = Path(base) / f"imsbridge-{os.geteuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
    return folder if ours else None
