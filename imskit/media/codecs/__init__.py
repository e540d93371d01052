"""Speech codecs: Opus, AMR-WB, AMR, G.711, G.722, each one direction of one stream."""

from __future__ import annotations

from imskit.media.codecs.amr import AmrDecoder, AmrEncoder
from imskit.media.codecs.base import (
    FRAME_MILLISECONDS,
    CodecError,
    CodecSpec,
    CodecUnavailableError,
    Decoder,
    Encoder,
)
from imskit.media.codecs.g711 import G711Decoder, G711Encoder
from imskit.media.codecs.g722 import G722Decoder, G722Encoder
from imskit.media.codecs.opus import OpusDecoder, OpusEncoder
from imskit.media.codecs.resample import Resampler

__all__ = [
    "FRAME_MILLISECONDS",
    "CodecError",
    "CodecSpec",
    "CodecUnavailableError",
    "Decoder",
    "Encoder",
    "Resampler",
    "make_decoder",
    "make_encoder",
    "native_rate",
]

_NATIVE_RATES = {"amr-wb": 16000, "amr": 8000, "pcmu": 8000, "pcma": 8000, "g722": 16000}


def native_rate(spec: CodecSpec) -> int | None:
    """Return the PCM rate of a codec in Hz; ``None`` for Opus, which takes what the other side has.

    ``ValueError`` for a codec that is not known here.
    """
    name = spec.name.lower()
    if name == "opus":
        return None
    if name not in _NATIVE_RATES:
        raise ValueError(f"no codec {spec.name!r}")
    return _NATIVE_RATES[name]


def make_encoder(spec: CodecSpec, sample_rate: int) -> Encoder:
    """Make an encoder; ``sample_rate`` (8000 or 16000) counts for Opus only, see ``Encoder.sample_rate``."""
    native_rate(spec)
    match spec.name.lower():
        case "opus":
            return OpusEncoder(sample_rate, dtx=spec.dtx, fec=spec.fec)
        case "amr-wb" | "amr":
            return AmrEncoder(spec)
        case "g722":
            return G722Encoder()
        case name:
            return G711Encoder(name)


def make_decoder(spec: CodecSpec, sample_rate: int) -> Decoder:
    """Make a decoder; ``sample_rate`` as in ``make_encoder``."""
    native_rate(spec)
    match spec.name.lower():
        case "opus":
            return OpusDecoder(sample_rate)
        case "amr-wb" | "amr":
            return AmrDecoder(spec)
        case "g722":
            return G722Decoder()
        case name:
            return G711Decoder(name)
