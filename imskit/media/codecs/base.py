"""What every speech codec offers: 16-bit mono PCM in native byte order, frames of 20 ms, RTP payloads.

Objects have the state of one direction of one stream.  They are used by one thread at a time; C codecs release
the interpreter's lock while they work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

FRAME_MILLISECONDS = 20

MAX_PACKET_MILLISECONDS = 240
"""Longest packet decoded: the maxptime that IMS profiles allow (TS 26.114 6.2.2); Opus has at most 120."""


class CodecError(ValueError):
    """A payload that its codec cannot read: the packet is treated as lost."""


class CodecUnavailableError(RuntimeError):
    """A codec's library is not on this device; the text names the Debian package that brings it."""


@dataclass(frozen=True, slots=True)
class CodecSpec:
    """A negotiated audio codec: all that its encoder and decoder have to know."""

    name: str
    """``opus``, ``AMR-WB``, ``AMR``, ``PCMU``, ``PCMA`` or ``G722``, in any case."""
    octet_aligned: bool = False
    """AMR: fmtp ``octet-align=1`` (RFC 4867 8.1)."""
    mode_set: tuple[int, ...] | None = None
    """AMR: fmtp ``mode-set``; ``None``: all modes."""
    mode_change_period: int = 1
    """AMR: fmtp ``mode-change-period`` of the receiver, in frames (1 or 2)."""
    mode_change_neighbor: bool = False
    """AMR: fmtp ``mode-change-neighbor`` of the receiver."""
    fec: int = 0
    """Opus: loss in per cent for which in-band FEC is sent; 0 sends none, which sounds better where nothing is lost."""
    dtx: bool = False
    """The encoder stops sending in silence (AMR SID, Opus DTX)."""

    @property
    def clock_rate(self) -> int:
        """RTP timestamp units a second (RFC 7587: 48000 for Opus; RFC 3551: 8000 for G.722 in spite of 16 kHz)."""
        return {"opus": 48000, "amr-wb": 16000}.get(self.name.lower(), 8000)


class Encoder(Protocol):
    """Speech into payloads."""

    sample_rate: int
    """Samples a second of the PCM taken."""

    def encode(self, pcm: bytes) -> bytes | None:
        """Encode exactly 20 ms; ``None`` when nothing is to be sent for them (DTX)."""

    def request_mode(self, mode: int) -> None:
        """Take the peer's codec mode request (RFC 4867 4.3.1); codecs without modes ignore it."""


class Decoder(Protocol):
    """Payloads into speech."""

    sample_rate: int
    """Samples a second of the PCM given."""
    requested_mode: int | None
    """The mode that the last payload's sender asks for, of what we send to it."""
    in_silence: bool
    """The sender has said that it stops sending; until it speaks again ``conceal`` gives its comfort noise."""

    def decode(self, payload: bytes) -> bytes:
        """Decode a payload, whatever its duration; ``CodecError`` when it cannot be read."""

    def conceal(self, following: bytes | None = None) -> bytes:
        """Give 20 ms in place of a lost frame; ``following`` is the payload after it, if it is there already."""
