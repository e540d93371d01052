"""The receiving side of a phone: packets in as they come, speech out at an even pace.

The first packet fixes when each timestamp is due, ``delay`` seconds after its arrival.  What is missing when it is due
is concealed, what the sender leaves out in silence is its comfort noise, and where nothing is known there is silence:
so the speech that comes out keeps the time in which it was spoken.
"""

from __future__ import annotations

from dataclasses import dataclass

from imskit.media.codecs import CodecError, CodecSpec, Decoder, Resampler, make_decoder
from simulators.phone.wav import FRAME_OCTETS, SAMPLE_RATE, SILENCE

FRAME_SECONDS = 0.020
MAXIMUM_HELD = 250
"""Packets kept at most: five seconds."""
_CONCEALED = 5
"""Frames made up at most in a row."""
_NOISE = 50
"""Frames of comfort noise after a silence descriptor at most: the next one comes after eight."""
_LATE_IN_A_ROW = 3
"""So many packets in a row that come too late mean that the path has become longer."""
_JUMP_SECONDS = 2.0
"""A timestamp further off than this begins a new stream."""


@dataclass(slots=True)
class PlayoutStats:
    """What became of the packets."""

    played: int = 0
    concealed: int = 0
    """Frames made up for lost ones."""
    noise: int = 0
    """Frames of comfort noise."""
    late: int = 0
    damaged: int = 0
    resynchronised: int = 0
    delay_ms: float = 0.0
    """From the arrival of the stream's first packet until it was played."""


class Playout:
    """One stream; ``codecs`` by payload type.  Times are seconds on one monotonic clock."""

    def __init__(self, codecs: dict[int, CodecSpec], delay: float) -> None:
        """Raise ``CodecUnavailableError`` for a codec that is not installed."""
        self._codecs = codecs
        self._delay = delay
        self._decoders: dict[int, tuple[Decoder, Resampler | None]] = {}
        for payload_type in codecs:
            self._decoder(payload_type)
        self._held: dict[int, tuple[int, bytes]] = {}
        """Payload type and payload by timestamp."""
        self._ssrc: int | None = None
        self._current: int | None = None
        """Payload type of what was played last."""
        self._expected = 0
        self._begin_at: float | None = None
        """When the first packet of the stream is due, until it has been played."""
        self._first_at = 0.0
        self._ready = b""
        """Decoded speech of a packet longer than a frame."""
        self._missing = 0
        self._late_run = 0
        self.stats = PlayoutStats()

    @property
    def requested_mode(self) -> int | None:
        """The codec mode that the peer asks for (RFC 4867 section 4.3.1)."""
        return self._decoders[self._current][0].requested_mode if self._current is not None else None

    def arrived(self, ssrc: int, payload_type: int, timestamp: int, payload: bytes, now: float) -> None:
        """Take a packet; one of a payload type that was not agreed is passed over."""
        if payload_type not in self._codecs or not payload:
            return
        rate = self._codecs[payload_type].clock_rate
        distance = _signed(timestamp - self._expected)
        if ssrc != self._ssrc or abs(distance) > _JUMP_SECONDS * rate:
            self._begin(ssrc, timestamp, now)
        elif distance < -(rate // 100) and self._begin_at is None:
            self.stats.late += 1
            self._late_run += 1
            if self._late_run < _LATE_IN_A_ROW:
                return
            self._begin(ssrc, timestamp, now)
        elif distance < 0 and self._begin_at is not None:
            self._expected = timestamp  # the second packet has overtaken the first
        self._late_run = 0
        if len(self._held) < MAXIMUM_HELD:
            self._held.setdefault(timestamp, (payload_type, payload))

    def frame(self, now: float) -> bytes:
        """Return the next 20 ms at 16 kHz; call it every 20 ms."""
        if self._ssrc is None or (self._begin_at is not None and now < self._begin_at):
            return SILENCE
        if self._begin_at is not None:
            passed = int((now - self._begin_at) / FRAME_SECONDS)
            passed = passed if passed > 1 else 0  # one frame late is the grid of the calls
            self._skip(passed)
            self._begin_at = None
            self.stats.delay_ms = 1000 * (now - self._first_at - passed * FRAME_SECONDS)
        if not self._ready:
            self._ready = self._next()
        frame, self._ready = self._ready[:FRAME_OCTETS], self._ready[FRAME_OCTETS:]
        return frame if len(frame) == FRAME_OCTETS else frame + bytes(FRAME_OCTETS - len(frame))

    def _begin(self, ssrc: int, timestamp: int, now: float) -> None:
        if self._ssrc is not None:
            self.stats.resynchronised += 1
        self._ssrc = ssrc
        self._held.clear()
        self._expected = timestamp
        self._first_at = now
        self._begin_at = now + self._delay
        self._missing = 0

    def _skip(self, frames: int) -> None:
        """Pass over what was due before anybody listened: media comes before the call is answered."""
        if frames:
            payload_type = self._held[self._expected][0] if self._expected in self._held else next(iter(self._codecs))
            self._expected = (self._expected + frames * self._codecs[payload_type].clock_rate // 50) & 0xFFFFFFFF
            self._held = {at: packet for at, packet in self._held.items() if _signed(at - self._expected) >= 0}

    def _next(self) -> bytes:
        """Decode what is due, or make something up for it."""
        due = self._due()
        if due is None:
            return self._made_up()
        payload_type, payload = self._held.pop(due)
        self._current = payload_type
        decoder, resampler = self._decoder(payload_type)
        try:
            pcm = decoder.decode(payload)
        except CodecError:
            self.stats.damaged += 1
            return self._made_up()
        self._missing = 0
        self.stats.played += 1
        clock = self._codecs[payload_type].clock_rate
        self._expected = (due + len(pcm) // 2 * clock // decoder.sample_rate) & 0xFFFFFFFF
        return resampler.convert(pcm) if resampler is not None else pcm

    def _due(self) -> int | None:
        """Return the timestamp to be played now: a sender's clock may be up to half a frame off its grid."""
        if self._expected in self._held:
            return self._expected
        for timestamp, (payload_type, _) in self._held.items():
            half = self._codecs[payload_type].clock_rate // 100
            if -half <= _signed(timestamp - self._expected) <= half:
                return timestamp
        return None

    def _made_up(self) -> bytes:
        self._missing += 1
        if self._current is None:
            return self._passed(None)
        decoder, resampler = self._decoder(self._current)
        if decoder.in_silence and self._missing <= _NOISE:
            self.stats.noise += 1
        elif not decoder.in_silence and self._missing <= _CONCEALED:
            self.stats.concealed += 1
        else:
            return self._passed(resampler)
        pcm = decoder.conceal()
        self._advance()
        return resampler.convert(pcm) if resampler is not None else pcm

    def _passed(self, resampler: Resampler | None) -> bytes:
        self._advance()
        return resampler.convert(bytes(FRAME_OCTETS // 2)) if resampler is not None else SILENCE

    def _advance(self) -> None:
        payload_type = self._current if self._current is not None else next(iter(self._codecs))
        self._expected = (self._expected + self._codecs[payload_type].clock_rate // 50) & 0xFFFFFFFF

    def _decoder(self, payload_type: int) -> tuple[Decoder, Resampler | None]:
        if payload_type not in self._decoders:
            decoder = make_decoder(self._codecs[payload_type], SAMPLE_RATE)
            rate = decoder.sample_rate
            self._decoders[payload_type] = decoder, Resampler(rate, SAMPLE_RATE) if rate != SAMPLE_RATE else None
        return self._decoders[payload_type]


def _signed(difference: int) -> int:
    return (difference + 0x80000000) % 0x100000000 - 0x80000000
