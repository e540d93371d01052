"""DTMF and other named events in RTP: RFC 4733, sender and receiver as machines on the stream's own clock.

All positions are RTP timestamps of the payload type's clock, whatever its rate (8000, 16000, 48000 …), so the same
code serves every clock; durations towards the user are seconds.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass

from imskit.rtp.errors import RtpError

DTMF = "0123456789*#ABCD"
"""The characters of events 0-15 in order (RFC 4733 table 7)."""

MAX_DURATION = 0xFFFF
"""Ticks that one report can express; longer events go on in another segment (section 2.5.1.3)."""

END_REPORTS = 3
"""How often the last report of an event or segment is sent (section 2.5.1.4)."""

_EVENT = struct.Struct("!BBH")
_MEMORY = 5.0  # seconds for which reports of an event that is over are recognised


def event_of(key: str) -> int:
    """The event code of a DTMF key (``0``-``9``, ``*``, ``#``, ``A``-``D``); RtpError for another."""
    code = DTMF.find(key.upper()) if len(key) == 1 else -1
    if code < 0:
        raise RtpError("no DTMF key", "RFC 4733 section 3.2")
    return code


@dataclass(frozen=True, slots=True)
class EventReport:
    """One report: ``event`` 0-255, ``volume`` 0-63 (dBm0 without its minus), ``duration`` in ticks so far."""

    event: int
    end: bool
    volume: int
    duration: int

    def encode(self) -> bytes:
        """The four octets."""
        return _EVENT.pack(self.event, self.end << 7 | self.volume, self.duration)


def parse_reports(payload: bytes) -> list[EventReport]:
    """Read a payload: one report or several contiguous ones (section 2.5.1.5); RtpError unless 4 octets each."""
    if not payload or len(payload) % 4:
        raise RtpError(f"a telephone-event payload of {len(payload)} octets", "RFC 4733 section 2.3")
    return [
        EventReport(event, bool(flags & 0x80), flags & 0x3F, duration)
        for event, flags, duration in _EVENT.iter_unpack(payload)
    ]


@dataclass(frozen=True, slots=True)
class EventPacket:
    """What goes out next: the RTP marker, the timestamp of the event's start, and the payload."""

    marker: bool
    timestamp: int
    payload: bytes


@dataclass(slots=True)
class _Playing:
    event: int
    volume: int
    length: int | None  # ticks in all; None until released
    start: int | None = None  # timestamp of the segment now reported
    before: int = 0  # ticks of the segments before it
    reported: int = 0  # ticks reported so far, all segments
    repeats: int = 0  # how often the segment's or the event's last report was sent


class TelephoneEventSender:
    """Sends one event after the other; asked for a packet at every frame, it answers in place of the audio.

    ``clock_rate`` is that of the payload type and of the audio beside it (they share timestamps, section 2.5.1.2);
    ``frame_ticks`` is how far the timestamp moves from one call of ``packet`` to the next; ``pause`` is seconds
    of audio between two events.
    """

    def __init__(self, clock_rate: int, frame_ticks: int, pause: float = 0.050) -> None:
        self.clock_rate = clock_rate
        self._frame = frame_ticks
        self._pause = round(pause * clock_rate)
        self._queue: deque[_Playing] = deque()
        self._resume_at: int | None = None

    @property
    def active(self) -> bool:
        """Whether an event is being sent or waits."""
        return bool(self._queue)

    def press(self, event: int, *, volume: int = 10, duration: float | None = None) -> None:
        """Queue ``event`` (0-255) for ``duration`` seconds, or until ``release`` when None."""
        if not 0 <= event <= 255 or not 0 <= volume <= 63:
            raise RtpError(f"event {event} with volume {volume}", "RFC 4733 section 2.3")
        self._queue.append(_Playing(event, volume, None if duration is None else self._ticks(duration)))

    def release(self, duration: float | None = None) -> None:
        """End the oldest event that is still held down; ``duration``: its length in seconds, None for now.

        A length that has not been reached yet is played to its end, so a relayed digit keeps its length.
        """
        for playing in self._queue:
            if playing.length is None:
                playing.length = 0 if duration is None else self._ticks(duration)
                return

    def packet(self, timestamp: int) -> EventPacket | None:
        """The packet for the frame that begins at ``timestamp``; None when the frame is the audio's."""
        if not self._queue:
            return None
        if self._resume_at is not None:
            if (timestamp - self._resume_at & 0xFFFFFFFF) >= 0x80000000:
                return None  # the pause between two events
            self._resume_at = None
        playing = self._queue[0]
        first = playing.start is None
        if playing.start is None:
            playing.start = timestamp
        start = playing.start
        # A report covers the frame that it replaces.
        total = playing.before + (timestamp - start & 0xFFFFFFFF) + self._frame
        if playing.length is not None and total >= playing.length:
            # Never less than was reported already, never a segment of nothing.
            floor = playing.reported if playing.reported > playing.before else playing.before + self._frame
            playing.reported = max(playing.length, floor)
            if playing.reported - playing.before <= MAX_DURATION:
                self._count_last(playing, timestamp)
                return self._report(playing, start, marker=first, end=True)
        if total - playing.before > MAX_DURATION:
            # Report the full segment, then go on with a new one; no marker, no end bit (section 2.5.1.3).
            playing.reported = playing.before + MAX_DURATION
            report = self._report(playing, start)
            playing.repeats += 1
            if playing.repeats == END_REPORTS:
                playing.start = start + MAX_DURATION & 0xFFFFFFFF
                playing.before, playing.repeats = playing.reported, 0
            return report
        playing.reported = total
        return self._report(playing, start, marker=first)

    def _count_last(self, playing: _Playing, timestamp: int) -> None:
        playing.length = playing.reported
        playing.repeats += 1
        if playing.repeats == END_REPORTS:
            self._queue.popleft()
            self._resume_at = timestamp + self._frame + self._pause & 0xFFFFFFFF

    @staticmethod
    def _report(playing: _Playing, start: int, marker: bool = False, end: bool = False) -> EventPacket:
        duration = playing.reported - playing.before
        return EventPacket(marker, start, EventReport(playing.event, end, playing.volume, duration).encode())

    def _ticks(self, seconds: float) -> int:
        return max(1, round(seconds * self.clock_rate))


@dataclass(frozen=True, slots=True)
class EventStarted:
    """An event began (or its first packets were lost and this is the first that came)."""

    event: int
    volume: int


@dataclass(frozen=True, slots=True)
class EventEnded:
    """An event is over after ``duration`` seconds; ``complete`` False when no end report came."""

    event: int
    duration: float
    complete: bool


type EventChange = EventStarted | EventEnded


class TelephoneEventReceiver:
    """Turns reports, repeated, reordered or lost, into one start and one end for each event.

    For one source: make a new one when the SSRC changes.  ``timeout`` is seconds without a report after which an
    event is taken as over; ``now`` values are seconds on one monotonic clock.
    """

    def __init__(self, clock_rate: int, timeout: float = 0.150) -> None:
        self.clock_rate = clock_rate
        self._timeout = timeout
        self._event: int | None = None
        self._start = 0
        self._duration = 0
        self._before = 0
        self._heard = 0.0
        self._over: tuple[int, float] | None = None  # start of the last event, and when it ended

    def received(self, timestamp: int, payload: bytes, now: float) -> list[EventChange]:
        """Take in a packet's timestamp and payload at ``now`` seconds; RtpError if the payload is malformed."""
        changes: list[EventChange] = []
        for report in parse_reports(payload):
            changes += self._report(report, timestamp, now)
            timestamp = timestamp + report.duration & 0xFFFFFFFF
        return changes

    def expire(self, now: float) -> list[EventChange]:
        """End an event whose reports have ceased, so that no tone gets stuck (section 2.5.2.2)."""
        deadline = self.deadline()
        return self._finish(False, now) if deadline is not None and now >= deadline else []

    def deadline(self) -> float | None:
        """When to call ``expire``, None while no event is on."""
        return None if self._event is None else self._heard + self._timeout

    def _report(self, report: EventReport, timestamp: int, now: float) -> list[EventChange]:
        if report.duration == 0:  # only states last forever; DTMF is none (section 2.3.5)
            return []
        changes: list[EventChange] = []
        if self._over is not None and now - self._over[1] < _MEMORY:
            behind = self._over[0] - timestamp & 0xFFFFFFFF
            if behind < 0x80000000:  # a repeated or overtaken report: the event must not start again
                return []
        if self._event is not None and timestamp != self._start:
            ahead = timestamp - self._start & 0xFFFFFFFF
            if ahead >= 0x80000000:
                return []  # a late report of an earlier segment or event
            if self._event == report.event and ahead == MAX_DURATION:
                self._before += MAX_DURATION  # the next segment (section 2.5.2.3)
                self._start, self._duration = timestamp, 0
            else:
                changes += self._finish(False, now)
        if self._event is None:
            self._event, self._start = report.event, timestamp
            self._duration = self._before = 0
            changes.append(EventStarted(report.event, report.volume))
        elif self._event != report.event:
            return changes  # another event at the same instant contradicts the first: ignored
        self._heard = now
        self._duration = max(self._duration, report.duration)
        if report.end:
            self._duration = report.duration
            changes += self._finish(True, now)
        return changes

    def _finish(self, complete: bool, now: float) -> list[EventChange]:
        event = self._event
        if event is None:
            return []
        self._over, self._event = (self._start, now), None
        return [EventEnded(event, (self._before + self._duration) / self.clock_rate, complete)]
