"""G.722 at 64 kbit/s by libavcodec (PyAV): 16 kHz speech under an 8000 Hz RTP clock (RFC 3551 4.5.2)."""

from __future__ import annotations

import av
import numpy as np

from imskit.media.codecs.base import CodecError
from imskit.media.codecs.concealment import Repeater


class G722Encoder:
    """20 ms of speech into 160 octets."""

    sample_rate = 16000

    def __init__(self) -> None:
        self._context = av.AudioCodecContext.create("g722", "w")
        self._context.sample_rate = 16000
        self._context.layout = "mono"
        self._context.format = "s16"

    def encode(self, pcm: bytes) -> bytes | None:
        """Encode exactly 20 ms."""
        if len(pcm) != 640:
            raise ValueError(f"{len(pcm)} octets are not 20 ms at 16000 Hz")
        frame = av.AudioFrame.from_ndarray(np.frombuffer(pcm, np.int16).reshape(1, -1), "s16", "mono")
        frame.sample_rate = 16000
        return b"".join([bytes(packet) for packet in self._context.encode(frame)])

    def request_mode(self, mode: int) -> None:
        """G.722 has no modes to ask for."""


class G722Decoder:
    """An octet for two samples into speech."""

    sample_rate = 16000
    requested_mode: int | None = None
    in_silence = False

    def __init__(self) -> None:
        self._context = av.AudioCodecContext.create("g722", "r")
        self._context.layout = "mono"
        self._repeater = Repeater(320)

    def decode(self, payload: bytes) -> bytes:
        """Decode up to 240 ms."""
        if not 1 <= len(payload) <= 1920:
            raise CodecError(f"a G.722 payload of {len(payload)} octets (RFC 3551 4.5.2)")
        frames = self._context.decode(av.Packet(payload))
        pcm = b"".join([bytes(frame.planes[0])[: 2 * frame.samples] for frame in frames])
        self._repeater.heard(pcm)
        return pcm

    def conceal(self, following: bytes | None = None) -> bytes:
        """Give the last frame again, fading."""
        return self._repeater.conceal()
