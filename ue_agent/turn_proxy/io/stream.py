"""TURN clients over TCP (RFC 8656 2.1, 12.5; RFC 8489 6.2.2)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol, cast

from imskit.stun.engine.events import Flow
from imskit.stun.wire.channel_data import StreamFramer
from imskit.stun.wire.errors import StunError

_log = logging.getLogger(__name__)

IDLE_SECONDS = 60.0
"""How long a connection without an allocation may stay silent."""
WRITE_BUFFER = 1 << 18
"""Bytes waiting for a slow client beyond which peers' data is dropped, as a UDP path would."""


class StreamOwner(Protocol):
    """What a connection tells its proxy."""

    def stream_opened(self, stream: TurnStream) -> bool:
        """Take a new connection; false to refuse it."""

    def stream_frame(self, flow: Flow, frame: bytes) -> None:
        """Take a frame."""

    def stream_closed(self, flow: Flow) -> None:
        """The connection is gone."""

    def stream_is_used(self, flow: Flow) -> bool:
        """Whether the client has an allocation."""


class TurnStream(asyncio.Protocol):
    """One client's connection: frames in, frames out."""

    def __init__(self, owner: StreamOwner, later: Callable[..., asyncio.TimerHandle], last_channel: int) -> None:
        self._owner = owner
        self._later = later
        self._framer = StreamFramer(last_channel)
        self._transport: asyncio.Transport | None = None
        self._congested = False
        self._heard = False
        self._timer: asyncio.TimerHandle | None = None
        self.flow: Flow
        self.lost = 0
        """Datagrams of peers that a slow client did not get."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        transport = cast(asyncio.Transport, transport)  # uvloop's does not derive from it
        local, remote = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        if remote is None:  # reset before it was taken
            transport.abort()
            return
        self.flow = Flow("TCP", local[:2], remote[:2])
        if not self._owner.stream_opened(self):
            _log.warning("TURN connection from %s refused: too many", self.flow)
            transport.abort()
            return
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self._timer = self._later(IDLE_SECONDS, self._check_idle)

    def data_received(self, data: bytes) -> None:
        """Cut the stream into frames; one that has lost its frames is closed."""
        self._heard = True
        try:
            frames = self._framer.feed(data)
        except StunError as error:
            _log.info("TURN connection from %s closed: %s", self.flow, error)
            self.close()
            return
        for frame in frames:
            self._owner.stream_frame(self.flow, frame)

    def send(self, frame: bytes, *, may_be_lost: bool) -> None:
        """Send a frame; one that may be lost is, when the client does not keep up."""
        if self._transport is None or self._transport.is_closing():
            return
        if may_be_lost and self._congested:
            self.lost += 1
        else:
            self._transport.write(frame)

    def pause_writing(self) -> None:
        """The client does not keep up."""
        self._congested = True

    def resume_writing(self) -> None:
        """It has caught up."""
        self._congested = False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._transport is None:
            return
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        if self.lost:
            _log.info("TURN connection from %s lost %d datagrams: the client was slow", self.flow, self.lost)
        self._owner.stream_closed(self.flow)

    def close(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _check_idle(self) -> None:
        if not self._heard and not self._owner.stream_is_used(self.flow):
            _log.info("TURN connection from %s closed: silent and without allocation", self.flow)
            self.close()
            return
        self._heard = False
        self._timer = self._later(IDLE_SECONDS, self._check_idle)
