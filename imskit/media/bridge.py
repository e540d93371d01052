"""Joins the two legs of a call as its media plan says, a direction at a time.

* Relay: both sides have the codec; the plane rewrites headers and nothing comes up here.
* Transcode: packets are put in order (one frame of patience at most), decoded and encoded.
* Telephone events are relayed with a relayed codec of the same clock, else played anew.

A peer may use any payload type that was agreed, and change between them at any time; each arriving type has its own
way.  RTCP never crosses: the legs make their own.  Applying the same plan again changes nothing, so a session refresh
does not disturb the sound.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import Executor
from dataclasses import dataclass

from imskit.media.codecs import CodecSpec
from imskit.media.dtmf import DtmfConverter
from imskit.media.plane import LegId, MediaPlane, Relay
from imskit.media.transcoder import Frame, Transcoder, TranscoderStats
from imskit.rtp.errors import RtpError
from imskit.rtp.jitter import Lost, ReorderBuffer
from imskit.rtp.packet import RtpPacket
from imskit.rtp.telephone_event import event_of
from imskit.sdp.negotiation import AgreedCodec, LegMedia, MediaPlan
from imskit.tasks import spawn

_log = logging.getLogger(__name__)

PATIENCE_SECONDS = 0.020
"""How long a missing packet is waited for: one frame."""
_INTERRUPTION = 0.1
_NOISE_SECONDS = 0.020
_NOISE_SLACK = 0.020
"""Comfort noise runs this much behind the sender, so that its packets come before they are made up."""
_NOISE_LIMIT = 1.0
"""SID frames come every 160 ms; without one for this long the sender is gone, not silent."""


def codec_spec(codec: AgreedCodec) -> CodecSpec:
    """Return what the codecs need to know of an agreement."""
    if codec.amr is None:
        return CodecSpec(codec.encoding)
    return CodecSpec(
        codec.encoding,
        octet_aligned=codec.amr.octet_align,
        mode_set=codec.amr.mode_set,
        mode_change_period=codec.amr.mode_change_period,
        mode_change_neighbor=codec.amr.mode_change_neighbor,
    )


@dataclass(frozen=True, slots=True)
class DirectionStats:
    """One direction of the bridge."""

    mode: str
    """``relay``, ``transcode`` or ``none``, of what arrived last."""
    source_codec: str
    target_codec: str
    transcoding: TranscoderStats
    late: int = 0
    """Packets that came too late to be put in order."""
    events: int = 0
    """Telephone events played anew."""
    added_mean_ms: float = 0.0
    """Mean time between a packet's arrival and its going out, in milliseconds (transcoding only)."""
    added_max_ms: float = 0.0


@dataclass(slots=True)
class _Arrival:
    packet: RtpPacket
    at: float
    lost: int = 0
    position: int | None = None
    """Where the leaving stream is to go on, if not where it left off."""


class _Direction:
    """What flows from one leg to the other."""

    def __init__(
        self,
        plane: MediaPlane,
        source: LegId,
        target: LegId,
        come: LegMedia,
        go: LegMedia,
        executor: Executor | None,
    ) -> None:
        self._plane = plane
        self._source = source
        self._target = target
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._go = go.codec
        self._codecs = {codec.receive_payload_type: codec for codec in come.codecs}
        self._current: AgreedCodec | None = None
        self._transcoder: Transcoder | None = None
        self._align = True
        self._floor: int | None = None
        self._last_arrival = 0.0
        self.opposite: _Direction | None = None
        self._order: ReorderBuffer[_Arrival] = ReorderBuffer(PATIENCE_SECONDS)
        self._ssrc: int | None = None
        self._lost = 0
        self._late = 0
        self._order_timer: asyncio.TimerHandle | None = None
        self._noise_timer: asyncio.TimerHandle | None = None
        self._noise_until = 0.0
        self._noise_next = 0.0
        self._queue: list[_Arrival | None] = []
        self._working = False
        self._closed = False
        self._sent = 0
        self._added = self._added_max = 0.0
        self._stats = TranscoderStats()

        come_event, go_event = come.telephone_event, go.telephone_event
        self._go_event = go_event
        relayed = {
            number: self._go.send_payload_type
            for number, codec in self._codecs.items()
            if codec.is_same_format(self._go)
        }
        self._events: dict[int, int] = {}
        self._dtmf: DtmfConverter | None = None
        if come_event is not None and go_event is not None:
            if relayed and come_event.clock_rate == go_event.clock_rate == self._go.clock_rate:
                relayed[come_event.receive_payload_type] = go_event.send_payload_type
            else:
                self._event_type = go_event.send_payload_type
                self._events = {event.receive_payload_type: event.clock_rate for event in come.telephone_events}
                self._dtmf = DtmfConverter(
                    come_event.clock_rate,
                    go_event.clock_rate,
                    position=self._position,
                    send=self._send_event,
                    finished=self._event_played,
                )
        self._relayed = relayed
        if come.codec.receive_payload_type not in relayed:
            self._change_codec(come.codec)  # now, so that a codec that cannot be is known before the first packet
        plane.leg_clocks(source, {number: codec.clock_rate for number, codec in self._codecs.items()})
        plane.route(source, target, Relay(relayed, self._go.clock_rate) if relayed else None)
        plane.tap(source, self._arrived)

    # Arrival and order

    def _arrived(self, data: bytes, now: float) -> None:
        """Take a packet that the plane does not relay."""
        try:
            packet = RtpPacket.parse(data)
        except RtpError:
            return
        if packet.payload_type not in self._codecs and packet.payload_type not in self._events:
            return  # a keep-alive, or a payload type that was not agreed
        if packet.ssrc != self._ssrc:
            _log.info("a source begins to be %s", "transcoded" if packet.payload_type in self._codecs else "heard")
            self._ssrc = packet.ssrc
            self.restart()
        elif self._relayed and now - self._last_arrival > _INTERRUPTION:
            self.restart()  # packets of another payload type may have been relayed in between
        self._last_arrival = now
        self._ordered(self._order.push(packet.sequence_number, _Arrival(packet, now), now))
        if self._order_timer is None and (deadline := self._order.deadline()) is not None:
            self._order_timer = self._loop.call_later(max(0.0, deadline - now), self._order_due)

    def restart(self) -> None:
        """Forget the order of packets: those in between went another way or were held."""
        self._late += self._order.late
        self._order = ReorderBuffer(PATIENCE_SECONDS)
        self._lost = 0
        self._align = True

    def _order_due(self) -> None:
        self._order_timer = None
        now = time.monotonic()
        self._ordered(self._order.expire(now))
        if (deadline := self._order.deadline()) is not None:
            self._order_timer = self._loop.call_later(max(0.0, deadline - now), self._order_due)

    def _ordered(self, items: list[_Arrival | Lost]) -> None:
        for item in items:
            if isinstance(item, Lost):
                self._lost += item.count
                continue
            item.lost, self._lost = self._lost, 0
            clock = self._events.get(item.packet.payload_type)
            if clock is None:
                self._submit(item)
            elif self._dtmf is not None and item.packet.payload:
                self._dtmf.received(item.packet.timestamp, item.packet.payload, item.at)

    # Codec work

    def _submit(self, item: _Arrival | None) -> None:
        """Have a packet transcoded, or (``None``) 20 ms of comfort noise made."""
        if item is not None and self._align:
            self._align = False
            item.position = self._position()
        if self._executor is None:
            self._finish(item, self._work(item))
            return
        self._queue.append(item)
        if not self._working:
            self._working = True
            spawn(self._drain(self._executor), "transcoding")

    async def _drain(self, executor: Executor) -> None:
        """Work off the queue in another thread, one item after the other."""
        try:
            while self._queue and not self._closed:
                item = self._queue.pop(0)
                self._finish(item, await self._loop.run_in_executor(executor, self._work, item))
        finally:
            self._working = False

    def _work(self, item: _Arrival | None) -> list[Frame]:
        if item is None:
            return [] if self._transcoder is None else self._transcoder.comfort_noise()
        codec = self._codecs[item.packet.payload_type]
        if codec is not self._current or self._transcoder is None:
            self._change_codec(codec)
        assert self._transcoder is not None
        if item.position is not None:
            self._transcoder.begin_at(item.position)
        return self._transcoder.packet(item.packet.timestamp, item.packet.payload, lost=item.lost)

    def _change_codec(self, codec: AgreedCodec) -> None:
        if self._transcoder is not None:
            self._keep_stats(self._transcoder.stats)
        self._current = codec
        continues = None if self._transcoder is None else self._transcoder.next_timestamp
        self._transcoder = Transcoder(codec_spec(codec), codec_spec(self._go))
        if continues is not None:
            self._transcoder.begin_at(continues)
        _log.info("transcoding %s to %s", codec.encoding, self._go.encoding)

    def _finish(self, item: _Arrival | None, frames: list[Frame]) -> None:
        if self._closed or self._transcoder is None:
            return
        if self._dtmf is None or not self._dtmf.active:
            for frame in frames:
                self._plane.inject(
                    self._target, self._go.send_payload_type, frame.timestamp, frame.payload, marker=frame.marker
                )
        now = time.monotonic()
        if item is not None and frames:
            self._sent += 1
            self._added += now - item.at
            self._added_max = max(self._added_max, now - item.at)
        decoder = self._transcoder.decoder
        if decoder.requested_mode is not None and self.opposite is not None:
            self.opposite.request_mode(decoder.requested_mode)
        self._arm_noise(item)

    def request_mode(self, mode: int) -> None:
        """Take the request of the peer that this direction sends to (RFC 4867 4.3.1)."""
        if self._transcoder is not None:
            self._transcoder.encoder.request_mode(mode)

    # Comfort noise

    def _arm_noise(self, item: _Arrival | None) -> None:
        """While the sender is silent, make its noise every 20 ms."""
        silent = self._transcoder is not None and self._transcoder.in_silence
        if not silent:
            if self._noise_timer is not None:
                self._noise_timer.cancel()
                self._noise_timer = None
            return
        if item is not None:
            self._noise_until = item.at + _NOISE_LIMIT
            if self._noise_timer is not None:
                self._noise_timer.cancel()
            self._noise_next = item.at + _NOISE_SECONDS + _NOISE_SLACK
            self._noise_timer = self._loop.call_later(max(0.0, self._noise_next - time.monotonic()), self._noise)

    def _noise(self) -> None:
        self._noise_timer = None
        if self._closed or time.monotonic() > self._noise_until:
            return
        self._noise_next += _NOISE_SECONDS
        self._noise_timer = self._loop.call_later(max(0.0, self._noise_next - time.monotonic()), self._noise)
        self._submit(None)

    # The leaving stream

    def _position(self) -> int:
        """Return the timestamp of this moment on the leaving stream's clock."""
        sending = self._plane.stats(self._target).sending
        if sending.at is None:
            return sending.timestamp
        elapsed = max(0.02, time.monotonic() - sending.at)
        position = (sending.timestamp + round(elapsed * self._go.clock_rate)) & 0xFFFFFFFF
        floor, self._floor = self._floor, None
        if floor is not None and (floor - position) & 0xFFFFFFFF < 0x80000000:
            return floor
        return position

    def press(self, event: int, seconds: float) -> None:
        """Play a telephone event out of this direction; ``ValueError`` if the other side takes none."""
        if self._go_event is None:
            raise ValueError("the other side takes no telephone events")
        if self._dtmf is None:
            # Relayed until now: played beside the sound, on its clock (RFC 4733 section 2.5.1.2).
            clock = self._go_event.clock_rate
            self._event_type = self._go_event.send_payload_type
            self._dtmf = DtmfConverter(
                clock, clock, position=self._position, send=self._send_event, finished=self._event_played
            )
        self._dtmf.press(event, seconds)

    def _send_event(self, timestamp: int, payload: bytes, marker: bool) -> None:
        self._plane.inject(self._target, self._event_type, timestamp, payload, marker=marker)

    def _event_played(self, timestamp: int) -> None:
        """Let sound go on from the moment of its next packet, not before ``timestamp``."""
        self._floor = timestamp
        self._align = True

    def _keep_stats(self, stats: TranscoderStats) -> None:
        total = self._stats
        total.packets += stats.packets
        total.frames += stats.frames
        total.seconds += stats.seconds
        total.concealed += stats.concealed
        total.damaged += stats.damaged

    def stats(self) -> DirectionStats:
        """Return the counters."""
        total = TranscoderStats()
        for part in (self._stats, None if self._transcoder is None else self._transcoder.stats):
            if part is not None:
                total = TranscoderStats(
                    total.packets + part.packets,
                    total.frames + part.frames,
                    total.seconds + part.seconds,
                    total.concealed + part.concealed,
                    total.damaged + part.damaged,
                )
        number = self._plane.stats(self._source).payload_type
        codec = None if number is None else self._codecs.get(number)
        mode = "none" if codec is None else "relay" if number in self._relayed else "transcode"
        return DirectionStats(
            mode,
            "" if codec is None else codec.encoding,
            self._go.encoding,
            total,
            self._late + self._order.late,
            0 if self._dtmf is None else self._dtmf.events,
            1000 * self._added / self._sent if self._sent else 0.0,
            1000 * self._added_max,
        )

    def close(self) -> None:
        """Stop."""
        self._closed = True
        for timer in (self._order_timer, self._noise_timer):
            if timer is not None:
                timer.cancel()
        if self._dtmf is not None:
            self._dtmf.close()
        self._plane.route(self._source, self._target, None)
        self._plane.tap(self._source, None)


class Bridge:
    """The two legs of a call, joined."""

    def __init__(self, plane: MediaPlane, web: LegId, ims: LegId, *, executor: Executor | None = None) -> None:
        """With an ``executor`` the codec work is done in its threads: worth it on a machine with many calls.

        For a call or two the change of threads costs more than it wins; the default is to work at once.
        """
        self._plane = plane
        self._web = web
        self._ims = ims
        self._executor = executor
        self._plan: MediaPlan | None = None
        self._directions: tuple[_Direction, _Direction] | None = None

    @property
    def plan(self) -> MediaPlan | None:
        """The plan in force."""
        return self._plan

    def apply(self, plan: MediaPlan) -> None:
        """Put a plan into force; what it leaves as it was is not disturbed.

        ``ValueError`` for a codec not known here, ``CodecUnavailableError`` for one not installed on this device.
        """
        previous, self._plan = self._plan, plan
        for leg, media in ((self._web, plan.web), (self._ims, plan.ims)):
            self._plane.leg_direction(leg, send=media.direction.sends, receive=media.direction.receives)
        if (
            previous is not None
            and self._directions is not None
            and _formats(previous.web) == _formats(plan.web)
            and _formats(previous.ims) == _formats(plan.ims)
        ):
            if (previous.web.direction, previous.ims.direction) != (plan.web.direction, plan.ims.direction):
                for direction in self._directions:
                    direction.restart()
            return
        self._stop()
        there = _Direction(self._plane, self._web, self._ims, plan.web, plan.ims, self._executor)
        try:
            back = _Direction(self._plane, self._ims, self._web, plan.ims, plan.web, self._executor)
        except Exception:
            there.close()
            raise
        there.opposite, back.opposite = back, there
        self._directions = (there, back)
        _log.info("bridge: %s, %s to the page, %s to IMS", plan.mode, plan.web.codec.encoding, plan.ims.codec.encoding)

    def stats(self) -> tuple[DirectionStats, DirectionStats] | None:
        """Return the directions page to IMS and IMS to page; ``None`` before the first plan."""
        return None if self._directions is None else (self._directions[0].stats(), self._directions[1].stats())

    def press(self, key: str, seconds: float) -> None:
        """Play a DTMF key towards IMS; ``ValueError`` for what is no key, or if IMS takes none."""
        try:
            event = event_of(key)
        except RtpError as error:
            raise ValueError(str(error)) from None
        if self._directions is None:
            raise ValueError("the call has no media yet")
        self._directions[0].press(event, seconds)

    def close(self) -> None:
        """End both directions; the legs stay."""
        self._stop()

    def _stop(self) -> None:
        if self._directions is not None:
            for direction in self._directions:
                direction.close()
            self._directions = None


def _formats(media: LegMedia) -> tuple[object, ...]:
    return media.codecs, media.telephone_events
