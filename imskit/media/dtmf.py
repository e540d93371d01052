"""DTMF from one leg to the other when their telephone-event clocks differ, or sound is transcoded (RFC 4733).

An event is not copied but played anew on the leaving clock: a report every 20 ms with a duration that grows without
a step, three end reports, segments where 16 bits do not suffice.  Copied durations would come out scrambled
whenever the clocks differ.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from imskit.rtp.errors import RtpError
from imskit.rtp.telephone_event import EventEnded, EventStarted, TelephoneEventReceiver, TelephoneEventSender

_log = logging.getLogger(__name__)

_FRAME_SECONDS = 0.02


class DtmfConverter:
    """One direction of a call's telephone-events."""

    def __init__(
        self,
        in_clock: int,
        out_clock: int,
        *,
        position: Callable[[], int],
        send: Callable[[int, bytes, bool], None],
        finished: Callable[[int], None],
    ) -> None:
        """``position`` gives the leaving stream's timestamp of this moment; ``send`` takes timestamp, payload, marker.

        ``finished`` takes the timestamp from which sound may go on when an event has been played.
        """
        self._receiver = TelephoneEventReceiver(in_clock)
        self._out_clock = out_clock
        self._frame = round(out_clock * _FRAME_SECONDS)
        self._sender = TelephoneEventSender(out_clock, self._frame)
        self._position = position
        self._send = send
        self._finished = finished
        self._timestamp = 0
        self._next = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.events = 0
        """Events passed on."""

    @property
    def active(self) -> bool:
        """Whether an event is being played: no sound leaves meanwhile (RFC 4733 2.5.1.2)."""
        return self._sender.active

    def received(self, timestamp: int, payload: bytes, now: float) -> None:
        """Take a telephone-event packet; a malformed one is dropped."""
        try:
            changes = self._receiver.received(timestamp, payload, now)
        except RtpError as error:
            _log.debug("telephone-event dropped: %s", error)
            return
        self._take(changes)

    def press(self, event: int, seconds: float) -> None:
        """Play an event that came in no packet."""
        self.events += 1
        self._sender.press(event, duration=seconds)
        self._take([])

    def source_changed(self, in_clock: int) -> None:
        """Forget the events of a source that another has replaced."""
        self._receiver = TelephoneEventReceiver(in_clock)
        self._sender.release()

    def close(self) -> None:
        """Stop playing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _take(self, changes: list[EventStarted | EventEnded]) -> None:
        for change in changes:
            if isinstance(change, EventStarted):
                self.events += 1
                _log.info("a DTMF key passes")
                self._sender.press(change.event, volume=change.volume)
            else:
                self._sender.release(change.duration)
        if self._sender.active and self._timer is None:
            self._timestamp = self._position()
            self._next = time.monotonic()
            self._play()

    def _play(self) -> None:
        """Send the report of this frame, and come back for the next one."""
        self._take_expired()
        packet = self._sender.packet(self._timestamp)
        if packet is not None:
            self._send(packet.timestamp, packet.payload, packet.marker)
        self._timestamp = (self._timestamp + self._frame) & 0xFFFFFFFF
        if not self._sender.active:
            self._timer = None
            self._finished(self._timestamp)
            return
        self._next += _FRAME_SECONDS
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, self._next - time.monotonic()), self._play)

    def _take_expired(self) -> None:
        for change in self._receiver.expire(time.monotonic()):
            if isinstance(change, EventEnded):
                self._sender.release(change.duration)
