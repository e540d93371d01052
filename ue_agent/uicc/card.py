"""The agent's smart card: asynchronous, across insertions and removals.

One worker thread talks to the card, another watches the reader.  Errors are those of ``errors``; each operation
recovers by itself when the cause goes: a card comes, the daemon starts.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from imskit.aka.gba import Bootstrapped, InCard
from imskit.aka.vector import AkaResult
from imskit.secrets import Identity, Secret
from ue_agent.uicc.application import ImsIdentities, Source, UiccSession
from ue_agent.uicc.errors import (
    CardError,
    CardRemovedError,
    CardUnresponsiveError,
    NoDaemonError,
    UiccError,
    WrongCardError,
)
from ue_agent.uicc.pin import Pin
from ue_agent.uicc.spec import open_backend, parse_spec
from ue_agent.uicc.transport import CardBackend, CardEvent, CardInserted
from ue_agent.uicc.worker import Worker

_log = logging.getLogger(__name__)
CLOSE_SECONDS = 5.0
"""How long the watcher, and the card, may take to come to an end."""


@dataclass(frozen=True, slots=True)
class CardSpec:
    """Which card to use.  ``ValueError`` says what does not fit."""

    reader: str = ""
    """Where the card is, see ``spec``; empty for the first PC/SC reader that holds one."""
    pin: Secret[str] | None = None
    """4 to 8 digits; sent only if the card asks for it, and never with its last try."""

    def __post_init__(self) -> None:
        parse_spec(self.reader)
        digits = self.pin.reveal() if self.pin is not None else "0000"
        if not (digits.isascii() and digits.isdecimal() and 4 <= len(digits) <= 8):
            raise ValueError("a PIN has 4 to 8 digits")


class CardEvents:
    """Insertions and removals from now on, for ``async for``; ends when the card is closed."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[CardEvent | None] = asyncio.Queue()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> CardEvent:
        event = await self._queue.get()
        if event is None:
            self._queue.put_nowait(None)
            raise StopAsyncIteration
        return event

    def put(self, event: CardEvent | None) -> None:
        """Pass an event on; ``None`` is the end."""
        self._queue.put_nowait(event)


class UiccCard:
    """See the module's text.  Made by ``open``, ended by ``close`` or ``async with``."""

    def __init__(self, spec: CardSpec, backend: CardBackend, pin_memory: Path | None = None) -> None:
        self._backend = backend
        self._pin = Pin(spec.pin, pin_memory)
        self._worker = Worker("uicc")
        self._watcher: threading.Thread | None = None
        self._present = asyncio.Event()
        self._subscribers: list[CardEvents] = []
        self._closed = False
        # Of the worker thread alone:
        self._session: UiccSession | None = None
        self._identified: tuple[ImsIdentities, str | None] | None = None
        self._session_is_identified = False
        # Set by the loop's thread, taken by the worker's:
        self._changed = threading.Event()

    @classmethod
    async def open(
        cls, spec: CardSpec, backend: CardBackend | None = None, *, pin_memory: Path | None = None
    ) -> UiccCard:
        """Start watching the reader of ``spec``; returns when it is known whether a card is in.

        Neither a missing card nor a missing reader or daemon is an error here: ``identities`` says so.
        ``backend`` goes before ``spec.reader``; ``NoDaemonError`` if PC/SC is wanted and not installed at all.
        ``pin_memory`` is the file that remembers which card has refused the PIN.
        """
        card = cls(spec, backend or open_backend(parse_spec(spec.reader)), pin_memory)
        await card._start()
        return card

    @property
    def present(self) -> bool:
        """Whether a card is in the reader, as far as reported."""
        return self._present.is_set()

    @property
    def laboratory(self) -> bool:
        """Whether this is no SIM card but its key in a file, to be said wherever the card is shown."""
        return self._backend.laboratory

    async def wait_inserted(self) -> None:
        """Return as soon as a card is in the reader."""
        await self._present.wait()

    def events(self) -> CardEvents:
        """Return a new subscription to ``CardInserted`` and ``CardRemoved``."""
        events = CardEvents()
        if self._closed:
            events.put(None)
        self._subscribers.append(events)
        return events

    async def identities(self) -> ImsIdentities:
        """Read the identities off the card; from then on ``authenticate`` is bound to this card."""
        return await self._run(self._identities)

    async def authenticate(self, rand: bytes, autn: bytes) -> AkaResult:
        """Run AKA on the card whose identities were read; ``WrongCardError`` if another one is in now.

        ``rand`` and ``autn`` have 16 octets each (``ValueError``).
        """
        return await self._run(lambda: self._authenticate(rand, autn))

    async def bootstrap(self, rand: bytes, autn: bytes) -> AkaResult | InCard:
        """Run AKA for GBA, with GBA_U if the card can; bound to the card as ``authenticate`` is."""
        return await self._run(lambda: self._bound(lambda card, source: card.bootstrap(source, rand, autn)))

    async def naf_key(self, naf_id: bytes, impi: str) -> Secret[bytes]:
        """Return Ks_ext_NAF of the run that the card keeps (GBA_U)."""
        return await self._run(lambda: self._bound(lambda card, source: card.naf_key(source, naf_id, impi)))

    async def store_bootstrapping(self, run: Bootstrapped) -> None:
        """Write B-TID and lifetime of a run with GBA_U to the card."""
        await self._run(lambda: self._bound(lambda card, source: card.store_bootstrapping(source, run)))

    async def stored_bootstrapping(self, impi: Identity) -> Bootstrapped | None:
        """Return the run with GBA_U that the card remembers, ``None`` if there is none."""
        return await self._run(lambda: self._bound(lambda card, source: card.stored_bootstrapping(source, impi)))

    async def close(self) -> None:
        """Stop watching and give the card back."""
        if self._closed:
            return
        self._closed = True
        self._backend.stop()
        if self._watcher is not None:
            await asyncio.to_thread(self._watcher.join, CLOSE_SECONDS)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._worker.run(self._drop)
        except TimeoutError:
            _log.warning("the card does not answer and is left as it is")
        self._worker.end()
        for events in self._subscribers:
            events.put(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- the loop's thread

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        looked = asyncio.Event()

        def take(event: CardEvent | None) -> None:
            self._report(event)
            looked.set()

        def report(event: CardEvent | None) -> None:
            loop.call_soon_threadsafe(take, event)

        def watch() -> None:
            try:
                self._backend.watch(report)
            except Exception:
                _log.exception("the card reader is not watched any more")
                loop.call_soon_threadsafe(looked.set)

        self._watcher = threading.Thread(target=watch, name="uicc-watch", daemon=True)
        self._watcher.start()
        await looked.wait()

    def _report(self, event: CardEvent | None) -> None:
        if event is None or self._closed:
            return
        if isinstance(event, CardInserted):
            _log.info("card in reader %s", event.reader)
            self._present.set()
        else:
            _log.info("no card in reader %s any more", event.reader)
            self._present.clear()
            self._changed.set()
        for events in self._subscribers:
            events.put(event)

    async def _run[T](self, operation: Callable[[], T]) -> T:
        if self._closed:
            raise UiccError("the card is closed")
        return await self._worker.run(lambda: self._guarded(operation))

    # --- the worker's thread

    def _guarded[T](self, operation: Callable[[], T]) -> T:
        if self._changed.is_set():
            self._changed.clear()
            self._drop()
        try:
            return operation()
        except (CardRemovedError, CardUnresponsiveError, NoDaemonError, WrongCardError):
            self._drop()
            raise

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _powered(self) -> UiccSession:
        if self._session is None:
            self._session = UiccSession(self._backend.connect(), self._pin)
            self._session_is_identified = False
        return self._session

    def _identities(self) -> ImsIdentities:
        self._identified = self._powered().identities()
        self._session_is_identified = True
        found = self._identified[0]
        _log.info("identities from the %s: %r, %d public", found.source, found.impi, len(found.impus))
        return found

    def _authenticate(self, rand: bytes, autn: bytes) -> AkaResult:
        result = self._bound(lambda card, source: card.authenticate(source, rand, autn))
        _log.info("AUTHENTICATE: %s", type(result).__name__)
        return result

    def _bound[T](self, operation: Callable[[UiccSession, Source], T]) -> T:
        """Carry out ``operation`` on the card whose identities were read, and on no other."""
        session, bound = self._powered(), self._identified
        if bound is None or not self._session_is_identified:
            found = session.identities()
            if bound is not None and not _same_card(found, bound):
                raise WrongCardError("another SIM card was inserted; its identities are not those in use")
            self._identified = bound = found
            self._session_is_identified = True
        try:
            return operation(session, bound[0].source)
        except CardError as error:
            _log.warning("SIM card: %s", error)
            raise


def _same_card(one: tuple[ImsIdentities, str | None], other: tuple[ImsIdentities, str | None]) -> bool:
    return (one[0].impi, one[1]) == (other[0].impi, other[1])
