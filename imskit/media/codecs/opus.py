"""Opus (RFC 6716, RFC 7587) by libopus: mono, straight at 8 or 16 kHz, so that nothing is resampled."""

from __future__ import annotations

from imskit.media.codecs.base import CodecError
from imskit.media.codecs.library import ffi, load

BIT_RATE = 24000
"""Bit/s: wideband speech is transparent here, and AMR-WB on the other side has less."""
COMPLEXITY = 5
"""Of 0-10: above this the encoder's time doubles for a difference nobody hears behind AMR."""

_APPLICATION_VOIP = 2048
_SET_BITRATE, _SET_COMPLEXITY, _SET_INBAND_FEC = 4002, 4010, 4012
_SET_PACKET_LOSS, _SET_DTX, _SET_SIGNAL = 4014, 4016, 4024
_SIGNAL_VOICE = 3001
_LONGEST = 120
_MAX_PAYLOAD = 1275


class OpusEncoder:
    """20 ms of speech into one Opus packet."""

    def __init__(self, sample_rate: int, *, dtx: bool = False, fec: int = 0) -> None:
        """``sample_rate``: 8000 or 16000; ``fec``: see ``CodecSpec``.  ``CodecUnavailableError`` without libopus."""
        self.sample_rate = sample_rate
        self._library = load("opus")
        error = ffi.new("int *")
        state = self._library.opus_encoder_create(sample_rate, 1, _APPLICATION_VOIP, error)
        if error[0]:
            raise ValueError(f"libopus refuses {sample_rate} Hz")
        self._state = ffi.gc(state, self._library.opus_encoder_destroy)
        for request, value in (
            (_SET_BITRATE, BIT_RATE),
            (_SET_COMPLEXITY, COMPLEXITY),
            (_SET_SIGNAL, _SIGNAL_VOICE),
            (_SET_INBAND_FEC, int(fec > 0)),
            (_SET_PACKET_LOSS, fec),
            (_SET_DTX, int(dtx)),
        ):
            self._library.opus_encoder_ctl(self._state, request, ffi.cast("int32_t", value))
        self._samples = sample_rate // 50
        self._data = ffi.new("unsigned char[]", _MAX_PAYLOAD)

    def encode(self, pcm: bytes) -> bytes | None:
        """Encode exactly 20 ms; ``None`` when DTX says that nothing is to be sent."""
        if len(pcm) != 2 * self._samples:
            raise ValueError(f"{len(pcm)} octets are not 20 ms at {self.sample_rate} Hz")
        size = self._library.opus_encode(
            self._state, ffi.from_buffer("int16_t[]", pcm), self._samples, self._data, _MAX_PAYLOAD
        )
        if size < 0:
            raise RuntimeError(f"libopus: error {size}")
        # RFC 6716 2.1.9: packets of one or two octets need not be transmitted.
        return bytes(ffi.buffer(self._data, size)) if size > 2 else None

    def request_mode(self, mode: int) -> None:
        """Opus has no modes to ask for."""


class OpusDecoder:
    """Opus packets, mono or stereo, into mono speech."""

    requested_mode: int | None = None
    in_silence = False

    def __init__(self, sample_rate: int) -> None:
        """``sample_rate``: 8000 or 16000.  Raises ``CodecUnavailableError`` without libopus."""
        self.sample_rate = sample_rate
        self._library = load("opus")
        error = ffi.new("int *")
        state = self._library.opus_decoder_create(sample_rate, 1, error)
        if error[0]:
            raise ValueError(f"libopus refuses {sample_rate} Hz")
        self._state = ffi.gc(state, self._library.opus_decoder_destroy)
        self._longest = sample_rate * _LONGEST // 1000
        self._pcm = ffi.new("int16_t[]", self._longest)

    def decode(self, payload: bytes) -> bytes:
        """Decode a packet of 2.5 to 120 ms."""
        if not payload:
            raise CodecError("an empty Opus packet (RFC 6716 3.1)")
        return self._decode(payload, self._longest, 0)

    def conceal(self, following: bytes | None = None) -> bytes:
        """Give 20 ms: from the in-band FEC of the packet after the loss, else by extrapolation."""
        samples = self.sample_rate // 50
        if following:
            try:
                return self._decode(following, samples, 1)
            except CodecError:
                pass
        return self._decode(b"", samples, 0)

    def _decode(self, payload: bytes, samples: int, fec: int) -> bytes:
        data = ffi.from_buffer(payload) if payload else ffi.NULL
        count = self._library.opus_decode(self._state, data, len(payload), self._pcm, samples, fec)
        if count < 0:
            raise CodecError(f"an Opus packet of {len(payload)} octets cannot be read (RFC 6716 3.4)")
        return bytes(ffi.buffer(self._pcm, 2 * count))
