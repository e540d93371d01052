"""AMR and AMR-WB by libopencore-amr and libvo-amrwbenc, with their payload formats from ``imskit.rtp.amr``."""

from __future__ import annotations

import numpy as np

from imskit.media.codecs.base import CodecError, CodecSpec
from imskit.media.codecs.library import ffi, load
from imskit.rtp.amr import NO_DATA, SPEECH_LOST, AmrFrame, AmrPayloadFormat
from imskit.rtp.errors import RtpError

WIDEBAND_MODE = 2
"""12.65 kbit/s: the highest mode that IR.92 networks give voice as a rule."""
NARROWBAND_MODE = 7
"""12.2 kbit/s."""

_NO_DATA_FRAME = bytes([NO_DATA << 3 | 4])
_MAX_FRAME = 64
_REPEATS = 4
"""Frames that the wideband decoder is given again in place of lost ones, ever quieter."""


def payload_format(spec: CodecSpec) -> AmrPayloadFormat:
    """Return the payload format of a negotiated AMR or AMR-WB; ``RtpError`` for an impossible mode set."""
    return AmrPayloadFormat(
        wideband=spec.name.lower() == "amr-wb", octet_aligned=spec.octet_aligned, mode_set=spec.mode_set
    )


class AmrEncoder:
    """20 ms of speech into a payload of one frame, in the mode that the peer asks for."""

    def __init__(self, spec: CodecSpec) -> None:
        """Raise ``CodecUnavailableError`` without the encoder's library."""
        self._format = payload_format(spec)
        self.sample_rate = self._format.clock_rate
        self._modes = sorted(self._format.modes)
        self._period = spec.mode_change_period
        self._neighbor = spec.mode_change_neighbor
        self._dtx = int(spec.dtx)
        preferred = WIDEBAND_MODE if self._format.wideband else NARROWBAND_MODE
        self.mode = max((mode for mode in self._modes if mode <= preferred), default=self._modes[0])
        """The mode of the next frame."""
        self._wanted = self.mode
        self._frames = 0
        if self._format.wideband:
            self._library = load("vo-amrwbenc")
            self._state = ffi.gc(self._library.E_IF_init(), self._library.E_IF_exit)
        else:
            self._library = load("opencore-amrnb")
            self._state = ffi.gc(self._library.Encoder_Interface_init(self._dtx), self._library.Encoder_Interface_exit)
        self._samples = self.sample_rate // 50
        self._data = ffi.new("unsigned char[]", _MAX_FRAME)

    def request_mode(self, mode: int) -> None:
        """Go to ``mode`` (RFC 4867 4.3.1), or to the nearest one below that the mode set has."""
        self._wanted = max((allowed for allowed in self._modes if allowed <= mode), default=self._modes[0])

    def encode(self, pcm: bytes) -> bytes | None:
        """Encode exactly 20 ms; ``None`` while DTX sends nothing."""
        if len(pcm) != 2 * self._samples:
            raise ValueError(f"{len(pcm)} octets are not 20 ms at {self.sample_rate} Hz")
        if self.mode != self._wanted and self._frames % self._period == 0:
            self._change_mode()
        self._frames += 1
        samples = ffi.from_buffer("short[]", pcm)
        if self._format.wideband:
            size = self._library.E_IF_encode(self._state, self.mode, samples, self._data, self._dtx)
        else:
            size = self._library.Encoder_Interface_Encode(self._state, self.mode, samples, self._data, 0)
        frame = self._format.frame(bytes(ffi.buffer(self._data, size)))
        return None if frame.frame_type == NO_DATA else self._format.pack([frame])

    def _change_mode(self) -> None:
        if not self._neighbor:
            self.mode = self._wanted
            return
        at = self._modes.index(self.mode)
        self.mode = self._modes[at + 1 if self._wanted > self.mode else at - 1]


class AmrDecoder:
    """Payloads of one or more frames into speech, comfort noise and concealed frames."""

    def __init__(self, spec: CodecSpec) -> None:
        """Raise ``CodecUnavailableError`` without the decoder's library."""
        self._format = payload_format(spec)
        self.sample_rate = self._format.clock_rate
        self.requested_mode: int | None = None
        self.in_silence = False
        if self._format.wideband:
            library = load("opencore-amrwb")
            self._state = ffi.gc(library.D_IF_init(), library.D_IF_exit)
            self._decode = library.D_IF_decode
        else:
            library = load("opencore-amrnb")
            self._state = ffi.gc(library.Decoder_Interface_init(), library.Decoder_Interface_exit)
            self._decode = library.Decoder_Interface_Decode
        self._octets = 2 * self.sample_rate // 50
        self._pcm = ffi.new("short[]", self._octets // 2)
        # Decoders read a whole frame's octets whatever its type.
        self._data = ffi.new("unsigned char[]", _MAX_FRAME)
        self._last = b""
        self._concealed = 0

    def decode(self, payload: bytes) -> bytes:
        """Decode every frame; one that was damaged on the way is concealed."""
        try:
            request, frames = self._format.unpack(payload)
        except RtpError as error:
            raise CodecError(str(error)) from None
        if request is not None:
            self.requested_mode = request
        return b"".join([self._frame(frame) for frame in frames])

    def conceal(self, following: bytes | None = None) -> bytes:
        """Give 20 ms: the decoder's own concealment, or comfort noise while the sender is silent."""
        # libopencore-amrwb mutes within a lost frame and takes several more to come back; given its last frame again
        # it stays in step with the speaker (PESQ-WB at 3 % loss 1.9 instead of 1.7).  Its narrowband sister conceals.
        if not self._format.wideband or self.in_silence or not self._last or self._concealed == _REPEATS:
            return self._synthesise(_NO_DATA_FRAME)
        fade = np.linspace(1 - self._concealed / _REPEATS, 1 - (self._concealed + 1) / _REPEATS, self._octets // 2)
        self._concealed += 1
        speech = np.frombuffer(self._synthesise(self._last), np.int16)
        if self._concealed == 1:
            return speech.tobytes()
        return (speech * fade).astype(np.int16).tobytes()

    def _frame(self, frame: AmrFrame) -> bytes:
        if frame.frame_type == self._format.sid:
            self.in_silence = True
        elif self._format.is_speech(frame):
            self.in_silence = False
        if not frame.quality or frame.frame_type == SPEECH_LOST:
            # Bits known to be wrong make noise, and neither decoder looks at the flag.
            return self.conceal()
        if self._format.is_speech(frame):
            self._last = frame.stored()
            self._concealed = 0
        return self._synthesise(frame.stored())

    def _synthesise(self, stored: bytes) -> bytes:
        ffi.memmove(self._data, stored, len(stored))
        self._decode(self._state, self._data, self._pcm, 0)
        return bytes(ffi.buffer(self._pcm, self._octets))
