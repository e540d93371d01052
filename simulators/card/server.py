"""The card in a virtual reader: a vpcd client (the virtual smart card reader of vsmartcard).

vpcd listens on a TCP port inside pcscd; a connection is an inserted card, its end a pulled one.  Messages
both ways are a 2-octet length and that many octets; one octet from the reader is a control code.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Protocol, Self

from imskit.tasks import spawn

_log = logging.getLogger(__name__)
_POWER_OFF, _POWER_ON, _RESET, _GET_ATR = 0, 1, 2, 4


class CardPulled(Exception):
    """A card raises it from ``transmit`` to be pulled in the middle of that command."""


class SmartCard(Protocol):
    """What sits on the card's side of the contacts."""

    atr: bytes

    def reset(self) -> None:
        """The reader resets or powers the card."""

    def transmit(self, apdu: bytes) -> bytes:
        """Answer one command."""


class VirtualCard:
    """A card that can be put into and taken out of the reader at ``port``; ``async with`` does both."""

    def __init__(self, card: SmartCard, port: int, host: str = "127.0.0.1") -> None:
        self._card = card
        self._address = (host, port)
        self._task: asyncio.Task[None] | None = None

    @property
    def inserted(self) -> bool:
        """Whether the reader holds the card now."""
        return self._task is not None and not self._task.done()

    async def insert(self) -> None:
        """Put the card in; ``ConnectionError`` if no reader listens.  pcscd reports it within half a second."""
        if self.inserted:
            raise RuntimeError("the card is already inserted")
        loop = asyncio.get_running_loop()
        contacts = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        contacts.setblocking(False)
        try:
            await loop.sock_connect(contacts, self._address)
        except BaseException:
            contacts.close()
            raise
        contacts.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._task = spawn(self._serve(contacts), f"virtual card at port {self._address[1]}")
        _log.info("card inserted into the reader at port %d", self._address[1])

    async def remove(self) -> None:
        """Pull the card; nothing happens if it is out."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def wait_removed(self) -> None:
        """Return when the card is out, because it was pulled or because the reader went away."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def __aenter__(self) -> Self:
        await self.insert()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.remove()

    async def _serve(self, contacts: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                message = await _receive(loop, contacts, int.from_bytes(await _receive(loop, contacts, 2)))
                answer = self._answer(message)
                if answer is not None:
                    await loop.sock_sendall(contacts, len(answer).to_bytes(2) + answer)
        except ConnectionError as error:
            _log.info("the reader at port %d went away: %s", self._address[1], error)
        except CardPulled:
            _log.info("card pulled during a command")
        finally:
            contacts.close()

    def _answer(self, message: bytes) -> bytes | None:
        if len(message) != 1:
            return self._card.transmit(message)
        if message[0] == _GET_ATR:
            return self._card.atr
        if message[0] in (_POWER_ON, _RESET):
            self._card.reset()
        return None


async def _receive(loop: asyncio.AbstractEventLoop, contacts: socket.socket, octets: int) -> bytes:
    received = b""
    while len(received) < octets:
        # vpcd writes length and body separately: a delayed acknowledgement costs 40 ms a command, and the
        # kernel forgets this option whenever it likes.
        contacts.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        part = await loop.sock_recv(contacts, octets - len(received))
        if not part:
            raise ConnectionResetError("connection closed")
        received += part
    return received
