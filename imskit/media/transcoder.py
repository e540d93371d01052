"""From one codec to another: packets of one source in, in order, frames of 20 ms on the other's clock out.

No play-out clock and no buffer: a packet is decoded, encoded and gone.  Timestamps of the leaving stream follow those
of the arriving one, so pauses stay pauses and the receiver's jitter buffer sees what we saw.  The exception is an AMR
sender's silence: browsers know nothing of SID frames, so ``comfort_noise`` is called every 20 ms meanwhile.

Synchronous; used by one thread at a time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

from imskit.media.codecs import (
    FRAME_MILLISECONDS,
    CodecError,
    CodecSpec,
    Decoder,
    Resampler,
    make_decoder,
    make_encoder,
    native_rate,
)

MAX_CONCEALED = 5
"""Lost frames made up at most in a row; after 100 ms the ear prefers silence."""


class Frame(NamedTuple):
    """20 ms to be sent."""

    timestamp: int
    payload: bytes
    marker: bool
    """First frame after a pause (RFC 3551 4.1)."""


@dataclass(slots=True)
class TranscoderStats:
    """What the work has cost and what had to be made up."""

    packets: int = 0
    frames: int = 0
    """Frames encoded."""
    seconds: float = 0.0
    """Wall time spent decoding, resampling and encoding."""
    concealed: int = 0
    damaged: int = 0
    """Payloads that the decoder refused."""

    @property
    def mean_milliseconds(self) -> float:
        """Mean time for a frame, decoding and encoding together."""
        return 1000 * self.seconds / self.frames if self.frames else 0.0


class Transcoder:
    """One direction between two codecs."""

    def __init__(self, source: CodecSpec, target: CodecSpec) -> None:
        """Raise ``ValueError`` for an unknown codec, ``CodecUnavailableError`` for one that is not installed."""
        # Opus takes the rate of the other side; between two Opus or two fixed codecs each keeps its own.
        decoded = native_rate(source) or native_rate(target) or 16000
        encoded = native_rate(target) or decoded
        self.source = source
        self.target = target
        self.decoder: Decoder = make_decoder(source, decoded)
        self.encoder = make_encoder(target, encoded)
        self._resampler = Resampler(decoded, encoded) if decoded != encoded else None
        self._in_clock = source.clock_rate
        self._out_clock = target.clock_rate
        self._in_frame = self._in_clock * FRAME_MILLISECONDS // 1000
        self._out_frame = self._out_clock * FRAME_MILLISECONDS // 1000
        self._decoded_rate = decoded
        self._frame_octets = 2 * encoded * FRAME_MILLISECONDS // 1000
        self._pending = b""
        """Speech that does not fill a frame yet."""
        self._expected: int | None = None
        """Arriving timestamp that continues what has been decoded."""
        self._next_out = 0
        """Leaving timestamp of the next frame encoded."""
        self._paused = True
        self.stats = TranscoderStats()

    def begin_at(self, timestamp: int) -> None:
        """Let the leaving stream continue at ``timestamp``: at the start, and after something else was sent."""
        self._expected = None
        self._next_out = timestamp & 0xFFFFFFFF
        self._pending = b""
        self._paused = True

    @property
    def next_timestamp(self) -> int:
        """Leaving timestamp of the next frame."""
        return self._next_out

    @property
    def in_silence(self) -> bool:
        """Whether the sender has stopped for silence, so that ``comfort_noise`` is to be called."""
        return self.decoder.in_silence

    def packet(self, timestamp: int, payload: bytes, *, lost: int = 0) -> list[Frame]:
        """Take a packet; ``lost`` says how many packets just before it did not come."""
        start = time.perf_counter()
        frames: list[Frame] = []
        gap = 0
        if self._expected is not None and timestamp != self._expected:
            gap = _signed(timestamp - self._expected)
        if gap > 0:
            missing = round(gap / self._in_frame)
            bridged = missing if self.in_silence else min(missing, MAX_CONCEALED) if lost else 0
            if bridged <= MAX_CONCEALED:
                frames += self._conceal(bridged, payload)
                gap -= bridged * self._in_frame
            if gap > 0:
                self._pause(gap)
        try:
            pcm = self.decoder.decode(payload)
        except CodecError:
            self.stats.damaged += 1
            pcm = self.decoder.conceal()
        self._expected = (timestamp + self._ticks(pcm)) & 0xFFFFFFFF
        frames = frames + self._encode(pcm) if frames else self._encode(pcm)
        self.stats.packets += 1
        self.stats.seconds += time.perf_counter() - start
        return frames

    def comfort_noise(self) -> list[Frame]:
        """Make 20 ms of the sender's silence; nothing when it speaks."""
        if not self.in_silence or self._expected is None:
            return []
        start = time.perf_counter()
        frames = self._encode(self._advance(None))
        self.stats.seconds += time.perf_counter() - start
        return frames

    def _conceal(self, count: int, following: bytes) -> list[Frame]:
        frames: list[Frame] = []
        for left in range(count, 0, -1):
            if not self.in_silence:
                self.stats.concealed += 1
            frames += self._encode(self._advance(following if left == 1 else None))
        return frames

    def _advance(self, following: bytes | None) -> bytes:
        assert self._expected is not None
        pcm = self.decoder.conceal(following)
        self._expected = (self._expected + self._ticks(pcm)) & 0xFFFFFFFF
        return pcm

    def _ticks(self, pcm: bytes) -> int:
        return len(pcm) // 2 * self._in_clock // self._decoded_rate

    def _pause(self, ticks: int) -> None:
        """Leave out ``ticks`` of the arriving clock; what fills no frame is given up."""
        self._next_out = (self._next_out + ticks * self._out_clock // self._in_clock) & 0xFFFFFFFF
        self._pending = b""
        self._paused = True

    def _encode(self, pcm: bytes) -> list[Frame]:
        if self._resampler is not None:
            pcm = self._resampler.convert(pcm)
        size = self._frame_octets
        if not self._pending and len(pcm) == size:  # the usual case
            return self._encode_frame(pcm)
        self._pending += pcm
        frames: list[Frame] = []
        while len(self._pending) >= size:
            frames += self._encode_frame(self._pending[:size])
            self._pending = self._pending[size:]
        return frames

    def _encode_frame(self, pcm: bytes) -> list[Frame]:
        payload = self.encoder.encode(pcm)
        timestamp, paused = self._next_out, self._paused
        self._next_out = (timestamp + self._out_frame) & 0xFFFFFFFF
        self._paused = payload is None
        self.stats.frames += 1
        return [] if payload is None else [Frame(timestamp, payload, paused)]


def _signed(difference: int) -> int:
    """Return the difference of two timestamps as a signed number."""
    return (difference + 0x80000000) % 0x100000000 - 0x80000000
