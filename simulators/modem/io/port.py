"""The modem's port: a pseudo-terminal that programs open as they open ``/dev/ttyUSB2``."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import tty
from pathlib import Path
from typing import Self

from simulators.modem.engine.modem import Card, Modem

_log = logging.getLogger(__name__)
_CHUNK = 4096


class ModemPort:
    """A modem on a pseudo-terminal: plugged in by ``plug``, pulled out by ``unplug``; ``async with`` does both."""

    def __init__(self, modem: Modem) -> None:
        self.modem = modem
        self._terminal: tuple[int, int] | None = None

    @property
    def device(self) -> Path:
        """What to open; ``RuntimeError`` while it is unplugged."""
        if self._terminal is None:
            raise RuntimeError("the modem is not plugged in")
        return Path(os.ttyname(self._terminal[1]))

    def plug(self) -> None:
        """Make the port."""
        ours, theirs = os.openpty()
        tty.setraw(theirs)
        os.set_blocking(ours, False)
        # The program's end stays open here too: else the line would hang up whenever no program has it open.
        self._terminal = ours, theirs
        asyncio.get_running_loop().add_reader(ours, self._read)
        _log.info("modem at %s", self.device)

    def unplug(self) -> None:
        """Take the port away, as when a USB plug is pulled: a program that has it open sees it hang up."""
        if self._terminal is None:
            return
        ours, theirs = self._terminal
        self._terminal = None
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)
        os.close(theirs)

    def insert(self, card: Card) -> None:
        """Put a SIM card into the modem."""
        self.write(self.modem.insert(card))

    def remove(self) -> None:
        """Pull the SIM card."""
        self.write(self.modem.remove())

    async def __aenter__(self) -> Self:
        self.plug()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.unplug()

    def _read(self) -> None:
        if self._terminal is None:
            return
        try:
            octets = os.read(self._terminal[0], _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return
        self.write(self.modem.receive(octets))

    def write(self, octets: bytes) -> None:
        """Say something at the port."""
        if self._terminal is None or not octets:
            return
        try:
            written = os.write(self._terminal[0], octets)
        except BlockingIOError:
            written = 0
        if written < len(octets):  # as a real port does: what nobody reads is lost
            _log.debug("%d octets are not read by anybody", len(octets) - written)
