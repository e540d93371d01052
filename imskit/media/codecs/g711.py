"""G.711 A-law and mu-law as tables, computed from the segment rules of ITU-T G.711."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from imskit.media.codecs.base import CodecError
from imskit.media.codecs.concealment import Repeater

_MU_BIAS = 132
_MU_CLIP = 32635


def _decode_mu() -> npt.NDArray[np.int16]:
    code = ~np.arange(256) & 0xFF
    magnitude = (((code & 0x0F) << 3) + _MU_BIAS << (code >> 4 & 7)) - _MU_BIAS
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _decode_a() -> npt.NDArray[np.int16]:
    code = np.arange(256) ^ 0x55
    segment = code >> 4 & 7
    magnitude = ((code & 0x0F) << 4) + 8
    magnitude = np.where(segment > 0, magnitude + 0x100 << np.maximum(segment - 1, 0), magnitude)
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


def _segment(magnitude: npt.NDArray[np.int64], lowest: int) -> npt.NDArray[np.int64]:
    """Segment number: how many times the magnitude doubles past ``lowest``, 0 to 7."""
    bounds = lowest << np.arange(7)
    return np.searchsorted(bounds, magnitude, side="right").astype(np.int64)


def _encode_mu() -> npt.NDArray[np.uint8]:
    sample = np.arange(65536, dtype=np.int64) - 32768
    magnitude = np.minimum(np.abs(sample), _MU_CLIP) + _MU_BIAS
    segment = _segment(magnitude, 256)
    code = (segment << 4) | (magnitude >> (segment + 3) & 0x0F)
    table: npt.NDArray[np.uint8] = (~(np.where(sample < 0, 0x80, 0) | code) & 0xFF).astype(np.uint8)
    return table


def _encode_a() -> npt.NDArray[np.uint8]:
    sample = np.arange(65536, dtype=np.int64) - 32768
    # One's complement of negative values, as the 13-bit code of G.711 table 1a is symmetric about its middle.
    magnitude = np.where(sample < 0, ~sample, sample) >> 4
    segment = _segment(magnitude, 16)
    code = (segment << 4) | (magnitude >> np.maximum(segment - 1, 0) & 0x0F)
    table: npt.NDArray[np.uint8] = ((np.where(sample < 0, 0, 0x80) | code) ^ 0x55).astype(np.uint8)
    return table


# Indexed by the sample as an unsigned 16-bit number, so that int16 needs only another view.
_ORDER = np.concatenate([np.arange(32768, 65536), np.arange(32768)])
_DECODE = {"pcmu": _decode_mu(), "pcma": _decode_a()}
_ENCODE = {"pcmu": _encode_mu()[_ORDER], "pcma": _encode_a()[_ORDER]}


class G711Encoder:
    """20 ms of speech into 160 octets."""

    sample_rate = 8000

    def __init__(self, name: str) -> None:
        """``name``: ``PCMU`` or ``PCMA``."""
        self._table = _ENCODE[name.lower()]

    def encode(self, pcm: bytes) -> bytes | None:
        """Encode exactly 20 ms."""
        if len(pcm) != 320:
            raise ValueError(f"{len(pcm)} octets are not 20 ms at 8000 Hz")
        codes: bytes = self._table[np.frombuffer(pcm, np.uint16)].tobytes()
        return codes

    def request_mode(self, mode: int) -> None:
        """G.711 has no modes."""


class G711Decoder:
    """An octet a sample into speech."""

    sample_rate = 8000
    requested_mode: int | None = None
    in_silence = False

    def __init__(self, name: str) -> None:
        """``name``: ``PCMU`` or ``PCMA``."""
        self._table = _DECODE[name.lower()]
        self._repeater = Repeater(160)

    def decode(self, payload: bytes) -> bytes:
        """Decode up to 240 ms."""
        if not 1 <= len(payload) <= 1920:
            raise CodecError(f"a G.711 payload of {len(payload)} octets (RFC 3551 4.5.14)")
        pcm = self._table[np.frombuffer(payload, np.uint8)].tobytes()
        self._repeater.heard(pcm)
        return pcm

    def conceal(self, following: bytes | None = None) -> bytes:
        """Give the last frame again, fading."""
        return self._repeater.conceal()
