"""Cards in readers, through PC/SC (pyscard's thin layer over the system's library)."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from smartcard import scard as _scard

from ue_agent.uicc.errors import (
    CardRemovedError,
    CardUnresponsiveError,
    NoCardError,
    NoDaemonError,
    NoReaderError,
    UiccError,
)
from ue_agent.uicc.presence import Presence
from ue_agent.uicc.transport import CardEvent, CardTransport

_log = logging.getLogger(__name__)
scard: Any = _scard  # untyped
_WAIT_MS = 1000
_RETRY_SECONDS = 1.0
_HELD_SECONDS = 15.0
_COUNTER_SHIFT = 16  # pcsc-lite counts insertions and removals in the upper half of a state

_NO_DAEMON = {
    scard.SCARD_E_NO_SERVICE,
    scard.SCARD_E_SERVICE_STOPPED,
    scard.SCARD_E_INVALID_HANDLE,
    scard.SCARD_F_COMM_ERROR,
    scard.SCARD_F_INTERNAL_ERROR,
}
_NO_READER = {scard.SCARD_E_NO_READERS_AVAILABLE, scard.SCARD_E_UNKNOWN_READER}
_REMOVED = {
    scard.SCARD_W_REMOVED_CARD,
    scard.SCARD_E_NO_SMARTCARD,
    scard.SCARD_E_READER_UNAVAILABLE,
    scard.SCARD_E_UNKNOWN_READER,
}


def list_readers() -> list[tuple[str, bytes | None]]:
    """Return each reader's name and the ATR of the card in it, ``None`` for an empty one; ``NoDaemonError``."""
    context = _establish()
    try:
        names = _readers(context)
        if not names:
            return []
        result, states = scard.SCardGetStatusChange(context, 0, [(name, scard.SCARD_STATE_UNAWARE) for name in names])
        if result in _NO_READER:  # one went away between listing and asking
            return []
        _check(result, "the readers cannot be listed")
        return [(name, bytes(atr) if state & scard.SCARD_STATE_PRESENT else None) for name, state, atr in states]
    finally:
        scard.SCardReleaseContext(context)


class PcscBackend:
    """A ``CardBackend`` on one reader of this machine."""

    laboratory = False

    def __init__(self, reader: str = "") -> None:
        """``reader`` is a name or a part of it, empty for the first reader with a card."""
        self._reader = reader
        self._stopped = threading.Event()
        self._watched: int | None = None

    def connect(self) -> CardTransport:
        """See ``CardBackend``.  The card is shared with other programs; transactions keep them apart."""
        context = _establish()
        try:
            reader = self._with_card(context)
        except BaseException:
            scard.SCardReleaseContext(context)
            raise
        result, card, protocol = _limited(
            lambda: scard.SCardConnect(context, reader, scard.SCARD_SHARE_SHARED, _protocols()),
            too_late=lambda _: scard.SCardReleaseContext(context),
        )
        try:
            if result in _REMOVED:
                raise NoCardError(f"no card in reader {reader}")
            if result == scard.SCARD_E_SHARING_VIOLATION:
                raise CardUnresponsiveError(f"another program has the card in reader {reader} for itself")
            _check(result, f"the card in reader {reader} does not answer; is it inserted the right way?")
        except BaseException:
            scard.SCardReleaseContext(context)
            raise
        _log.info("connected to the card in reader %s", reader)
        return _PcscTransport(context, reader, card, protocol)

    def watch(self, report: Callable[[CardEvent | None], None]) -> None:
        """See ``CardBackend``.  A daemon or reader that comes later is found within a second."""
        seen = Presence(report)
        while not self._stopped.is_set():
            try:
                self._watch_daemon(seen)
            except UiccError as error:
                if not seen.started or seen.reader is not None:
                    _log.warning("%s", error)
                seen.update(None)
                self._stopped.wait(_RETRY_SECONDS)

    def stop(self) -> None:
        """See ``CardBackend``."""
        self._stopped.set()
        if (context := self._watched) is not None:
            scard.SCardCancel(context)

    def _watch_daemon(self, seen: Presence) -> None:
        context = _establish()
        self._watched = context
        known: dict[str, int] = {}
        try:
            while not self._stopped.is_set():
                names = self._chosen(_readers(context))
                if not names:
                    known = {}
                    seen.update(None)
                    self._stopped.wait(_RETRY_SECONDS)
                    continue
                before = known
                asked = [(name, before.get(name, scard.SCARD_STATE_UNAWARE)) for name in names]
                known = _states(context, asked)
                full = [name for name, state in known.items() if state & scard.SCARD_STATE_PRESENT]
                if seen.reader in full:
                    counters = (before.get(seen.reader, 0) >> _COUNTER_SHIFT, known[seen.reader] >> _COUNTER_SHIFT)
                    seen.update(seen.reader, swapped=0 < counters[0] < counters[1])
                else:
                    seen.update(full[0] if full else None)
        finally:
            self._watched = None
            scard.SCardReleaseContext(context)

    def _chosen(self, readers: list[str]) -> list[str]:
        """The readers that the configured choice admits."""
        if not self._reader:
            return readers
        exact = [reader for reader in readers if reader == self._reader]
        return exact or [reader for reader in readers if self._reader in reader][:1]

    def _with_card(self, context: int) -> str:
        readers = _readers(context)
        if not readers:
            raise NoReaderError("no card reader is connected")
        chosen = self._chosen(readers)
        if not chosen:
            raise NoReaderError(f"no card reader {self._reader!r}; there is: {', '.join(readers)}")
        states = _states(context, [(name, scard.SCARD_STATE_UNAWARE) for name in chosen], wait=0)
        for name in chosen:
            if states.get(name, 0) & scard.SCARD_STATE_PRESENT:
                return name
        raise NoCardError(f"no card in reader {', '.join(chosen)}")


class _PcscTransport:
    """See ``CardTransport``."""

    def __init__(self, context: int, reader: str, card: int, protocol: int) -> None:
        self._context = context
        self._reader = reader
        self._card = card
        self._set_protocol(protocol)

    def transmit(self, apdu: bytes) -> tuple[bytes, int]:
        result, answer = scard.SCardTransmit(self._card, self._pci, list(apdu))
        octets = bytes(answer)
        if result == scard.SCARD_E_NOT_TRANSACTED or (result == scard.SCARD_S_SUCCESS and len(octets) < 2):
            self._check_presence()
            raise CardUnresponsiveError("the card fell silent during a command")
        _check(result, "the card does not answer")
        return octets[:-2], int.from_bytes(octets[-2:])

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        result = self._begin()
        if result == scard.SCARD_W_RESET_CARD:  # by another program: take note and go on
            self._reconnect(scard.SCARD_LEAVE_CARD)
            result = self._begin()
        _check(result, "the card is held by another program")
        try:
            yield
        finally:
            scard.SCardEndTransaction(self._card, scard.SCARD_LEAVE_CARD)

    def reset(self) -> None:
        self._reconnect(scard.SCARD_RESET_CARD)

    def close(self) -> None:
        def give_back() -> None:
            scard.SCardDisconnect(self._card, scard.SCARD_LEAVE_CARD)
            scard.SCardReleaseContext(self._context)

        with contextlib.suppress(CardUnresponsiveError):
            _limited(give_back)

    def _begin(self) -> int:
        """SCardBeginTransaction, which waits without limit for a program that holds the card, and cannot be cancelled.

        To take its context away from it ends it.
        """
        too_long = threading.Event()

        def give_up() -> None:
            too_long.set()
            scard.SCardReleaseContext(self._context)

        timer = threading.Timer(_HELD_SECONDS, give_up)
        timer.start()
        try:
            result = scard.SCardBeginTransaction(self._card)
        finally:
            timer.cancel()
        if too_long.is_set():
            raise _held_too_long()
        return int(result)

    def _check_presence(self) -> None:
        """Raise ``CardRemovedError`` if the card is gone, which the daemon may notice later than the broken command."""
        state, end = scard.SCARD_STATE_UNAWARE, time.monotonic() + _WAIT_MS / 1000
        while (left := int((end - time.monotonic()) * 1000)) > 0:
            state = _states(self._context, [(self._reader, state)], left).get(self._reader, 0)
            if not state & scard.SCARD_STATE_PRESENT:
                _check(scard.SCARD_W_REMOVED_CARD, "")

    def _reconnect(self, disposition: int) -> None:
        result, protocol = _limited(
            lambda: scard.SCardReconnect(self._card, scard.SCARD_SHARE_SHARED, _protocols(), disposition)
        )
        _check(result, "the card does not answer after a reset")
        self._set_protocol(protocol)

    def _set_protocol(self, protocol: int) -> None:
        self.t0 = protocol == scard.SCARD_PROTOCOL_T0
        self._pci = scard.SCARD_PCI_T0 if self.t0 else scard.SCARD_PCI_T1


def _limited[T](call: Callable[[], T], too_late: Callable[[T], object] = lambda _: None) -> T:
    """Make a call for which pcscd waits without limit until other programs have ended their transactions.

    After ``_HELD_SECONDS`` it is left alone in its thread, and ``too_late`` tidies up when it comes back.
    """
    results: queue.SimpleQueue[T] = queue.SimpleQueue()
    guard, given_up = threading.Lock(), threading.Event()

    def run() -> None:
        result = call()
        with guard:
            if not given_up.is_set():
                results.put(result)
                return
        too_late(result)

    threading.Thread(target=run, name="uicc-pcsc", daemon=True).start()
    try:
        return results.get(timeout=_HELD_SECONDS)
    except queue.Empty:
        with guard:
            if results.empty():
                given_up.set()
                raise _held_too_long() from None
        return results.get()


def _held_too_long() -> CardUnresponsiveError:
    return CardUnresponsiveError(f"another program has held the card for more than {_HELD_SECONDS:g} s")


def _protocols() -> int:
    return int(scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1)


def _establish() -> int:
    result, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_SYSTEM)
    _check(result, "PC/SC cannot be used")
    return int(context)


def _readers(context: int) -> list[str]:
    result, readers = scard.SCardListReaders(context, [])
    if result in _NO_READER:
        return []
    _check(result, "the readers cannot be listed")
    return list(readers)


def _states(context: int, known: list[tuple[str, int]], wait: int = _WAIT_MS) -> dict[str, int]:
    """Wait up to ``wait`` milliseconds for a change; return the states that were asked for."""
    result, states = scard.SCardGetStatusChange(context, wait, known)
    if result in (scard.SCARD_E_TIMEOUT, scard.SCARD_E_CANCELLED):
        return dict(known)
    if result in _NO_READER:  # one went away between listing and asking
        return {}
    _check(result, "the readers cannot be watched")
    return {name: state for name, state, _atr in states}


def _check(result: int, otherwise: str) -> None:
    """Raise the error that a PC/SC result stands for; ``otherwise`` explains the rest."""
    if result == scard.SCARD_S_SUCCESS:
        return
    if result in _NO_DAEMON:
        raise NoDaemonError("the smart card service (pcscd) does not answer; is it installed and started?")
    if result in _REMOVED:
        raise CardRemovedError("the card was pulled out of the reader")
    if result in (scard.SCARD_E_NO_ACCESS, scard.SCARD_W_SECURITY_VIOLATION):
        raise NoDaemonError("the smart card service (pcscd) refuses this user; see its polkit rules")
    raise CardUnresponsiveError(f"{otherwise} ({scard.SCardGetErrorMessage(result).strip()})")
