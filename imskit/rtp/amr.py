"""AMR and AMR-WB payload formats, bandwidth-efficient and octet-aligned, and the storage format: RFC 4867.

Frame CRCs, robust sorting, interleaving and more than one channel have no place in a VoLTE call (TS 26.114
section 7.4, GSMA IR.92); a payload type that asks for them is refused when the session is negotiated
(``imskit.sdp``), so this module has no code for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imskit.rtp.errors import RtpError

NO_DATA = 15
"""Frame type of a frame that is not sent, or not in this packet."""

SPEECH_LOST = 14
"""Frame type of a frame lost before the sender; AMR-WB only."""

AMR_SID = 8
"""Frame type of AMR comfort noise."""

AMR_WB_SID = 9
"""Frame type of AMR-WB comfort noise."""

AMR_BIT_RATES = (4750, 5150, 5900, 6700, 7400, 7950, 10200, 12200)
"""Bit/s of AMR modes 0-7 (TS 26.101 table 1a)."""

AMR_WB_BIT_RATES = (6600, 8850, 12650, 14250, 15850, 18250, 19850, 23050, 23850)
"""Bit/s of AMR-WB modes 0-8 (TS 26.201 table 1a)."""

FRAME_MILLISECONDS = 20

MAX_FRAMES = 12
"""Frames taken from one payload: 240 ms, the maxptime that IMS profiles allow (TS 26.114 section 6.2.2)."""

# Bits per frame type; None: the whole packet is to be dropped (RFC 4867 section 4.3.2).
_AMR_BITS: tuple[int | None, ...] = (
    *(95, 103, 118, 134, 148, 159, 204, 244, 39),
    *(None, None, None, None, None, None, 0),
)
_AMR_WB_BITS: tuple[int | None, ...] = (
    *(132, 177, 253, 285, 317, 365, 397, 461, 477, 40),
    *(None, None, None, None, 0, 0),
)

_AMR_MAGIC = b"#!AMR\n"
_AMR_WB_MAGIC = b"#!AMR-WB\n"


@dataclass(frozen=True, slots=True)
class AmrFrame:
    """One 20 ms frame.

    ``bits`` holds the speech bits in the order of decreasing sensitivity (interface format 1), first bit in the
    most significant place, the last octet filled with zeros: what codecs call the storage or MIME format,
    without its head octet.  ``quality`` False marks a frame damaged before it was sent.
    """

    frame_type: int
    quality: bool = True
    bits: bytes = b""

    def stored(self) -> bytes:
        """The frame with its head octet as in a file (section 5.3), as AMR decoders take it."""
        return bytes([self.frame_type << 3 | self.quality << 2]) + self.bits


class AmrPayloadFormat:
    """One negotiated payload type: how its payloads are packed and read.

    ``wideband``: AMR-WB instead of AMR.  ``octet_aligned``: fmtp ``octet-align=1``.  ``mode_set``: the modes of
    fmtp ``mode-set``, all when None.  An object is stateless and may serve both directions.
    """

    def __init__(self, *, wideband: bool, octet_aligned: bool, mode_set: Sequence[int] | None = None) -> None:
        self.wideband = wideband
        self.octet_aligned = octet_aligned
        self.clock_rate = 16000 if wideband else 8000
        self.frame_ticks = self.clock_rate * FRAME_MILLISECONDS // 1000
        self.sid = AMR_WB_SID if wideband else AMR_SID
        self._bits = _AMR_WB_BITS if wideband else _AMR_BITS
        modes = frozenset(range(self.sid) if mode_set is None else mode_set)
        if not modes or not modes <= frozenset(range(self.sid)):
            raise RtpError(f"mode-set {sorted(modes)}", "RFC 4867 section 8.1")
        self.modes = modes

    def pack(self, frames: Sequence[AmrFrame], cmr: int | None = None) -> bytes:
        """Return the payload of ``frames``, consecutive in time; ``cmr`` None asks for no mode.

        RtpError for no or too many frames, a frame type or CMR outside the format or its mode set, or ``bits``
        of a wrong length.
        """
        if not 1 <= len(frames) <= MAX_FRAMES:
            raise RtpError(f"{len(frames)} frames in a payload", "RFC 4867 section 4.3.2")
        if cmr is not None and cmr not in self.modes:
            raise RtpError(f"a request for mode {cmr}", "RFC 4867 section 8.1, mode-set")
        for frame in frames:
            self._check(frame)
        request = NO_DATA if cmr is None else cmr
        if self.octet_aligned:
            last = len(frames) - 1
            contents = bytes(
                (index != last) << 7 | frame.frame_type << 3 | frame.quality << 2 for index, frame in enumerate(frames)
            )
            return bytes([request << 4]) + contents + b"".join([frame.bits for frame in frames])
        value, width = request, 4
        for frame in frames[:-1]:
            value = value << 6 | 0x20 | frame.frame_type << 1 | frame.quality
        value = value << 6 | frames[-1].frame_type << 1 | frames[-1].quality
        width += 6 * len(frames)
        for frame in frames:
            size = self._bits[frame.frame_type] or 0
            value = value << size | int.from_bytes(frame.bits) >> -size % 8
            width += size
        return (value << -width % 8).to_bytes((width + 7) // 8)

    def unpack(self, payload: bytes) -> tuple[int | None, list[AmrFrame]]:
        """Return the mode the peer asks for (None: none, or one to be ignored) and the frames.

        A request outside the mode set, or with a reserved value, is ignored (section 4.3.1).  RtpError when the
        payload has a reserved frame type, more than ``MAX_FRAMES`` frames, or another length than its table of
        contents says (section 4.5.1).
        """
        if len(payload) < 2:
            raise RtpError(f"a payload of {len(payload)} octets", "RFC 4867 section 4.2")
        request = payload[0] >> 4
        frames = self._unpack_aligned(payload) if self.octet_aligned else self._unpack_efficient(payload)
        return (request if request in self.modes else None), frames

    def is_speech(self, frame: AmrFrame) -> bool:
        """Whether ``frame`` carries speech bits (not SID, SPEECH_LOST or NO_DATA)."""
        return frame.frame_type < self.sid

    def frame(self, stored: bytes) -> AmrFrame:
        """Return the frame that an encoder gave in storage form (head octet and bits)."""
        if not stored:
            raise RtpError("an empty stored frame", "RFC 4867 section 5.3")
        frame = AmrFrame(stored[0] >> 3 & 0x0F, bool(stored[0] & 0x04), bytes(stored[1:]))
        self._check_shape(frame)
        return frame

    def _check(self, frame: AmrFrame) -> None:
        self._check_shape(frame)
        if frame.frame_type < self.sid and frame.frame_type not in self.modes:
            raise RtpError(f"a frame of mode {frame.frame_type}", "RFC 4867 section 8.1, mode-set")

    def _check_shape(self, frame: AmrFrame) -> None:
        size = self._size(frame.frame_type)
        if len(frame.bits) != (size + 7) // 8:
            raise RtpError(
                f"{len(frame.bits)} octets in a frame of type {frame.frame_type}, {size} bits", "RFC 4867 section 3"
            )

    def _size(self, frame_type: int) -> int:
        size = self._bits[frame_type] if 0 <= frame_type <= NO_DATA else None
        if size is None:
            raise RtpError(f"frame type {frame_type}", "RFC 4867 section 4.3.2")
        return size

    def _unpack_aligned(self, payload: bytes) -> list[AmrFrame]:
        contents: list[int] = []
        offset = 1
        more = True
        while more:
            if offset >= len(payload):
                raise RtpError("the table of contents does not end", "RFC 4867 section 4.4.2")
            if len(contents) == MAX_FRAMES:
                raise RtpError(f"more than {MAX_FRAMES} frames", "TS 26.114 section 6.2.2")
            contents.append(payload[offset])
            more = payload[offset] > 0x7F
            offset += 1
        frames: list[AmrFrame] = []
        for entry in contents:
            frame_type = entry >> 3 & 0x0F
            size = self._size(frame_type)
            octets = (size + 7) // 8
            bits = payload[offset : offset + octets]
            if len(bits) != octets:
                raise RtpError(f"the payload ends inside frame {len(frames) + 1}", "RFC 4867 section 4.5.1")
            if size % 8 and bits[-1] & (0xFF >> size % 8):  # padding bits must be ignored
                bits = bits[:-1] + bytes([bits[-1] & ~(0xFF >> size % 8) & 0xFF])
            frames.append(AmrFrame(frame_type, bool(entry & 0x04), bits))
            offset += octets
        if offset != len(payload):
            raise RtpError(f"{len(payload) - offset} octets after the last frame", "RFC 4867 section 4.5.1")
        return frames

    def _unpack_efficient(self, payload: bytes) -> list[AmrFrame]:
        width = 8 * len(payload)
        # Only the head can hold the table of contents: shifting the whole payload for each entry is waste.
        head = int.from_bytes(payload[:10]) << 8 * max(0, 10 - len(payload))
        contents: list[int] = []
        used = 4
        more = True
        while more:
            if len(contents) == MAX_FRAMES:
                raise RtpError(f"more than {MAX_FRAMES} frames", "TS 26.114 section 6.2.2")
            if used + 6 > width:
                raise RtpError("the table of contents does not end", "RFC 4867 section 4.3.2")
            entry = head >> 74 - used & 0x3F
            contents.append(entry)
            more = entry > 0x1F
            used += 6
        value = int.from_bytes(payload)
        frames: list[AmrFrame] = []
        for entry in contents:
            frame_type = entry >> 1 & 0x0F
            size = self._size(frame_type)
            used += size
            if used > width:
                raise RtpError(f"the payload ends inside frame {len(frames) + 1}", "RFC 4867 section 4.5.1")
            speech = value >> width - used & (1 << size) - 1
            frames.append(AmrFrame(frame_type, bool(entry & 1), (speech << -size % 8).to_bytes((size + 7) // 8)))
        if width - used >= 8:
            raise RtpError(f"{(width - used) // 8} octets after the last frame", "RFC 4867 section 4.5.1")
        return frames


def write_storage(frames: Sequence[AmrFrame], *, wideband: bool) -> bytes:
    """Return a single-channel ``.amr`` or ``.awb`` file (section 5)."""
    form = AmrPayloadFormat(wideband=wideband, octet_aligned=True)
    for frame in frames:
        form._check_shape(frame)
    return (_AMR_WB_MAGIC if wideband else _AMR_MAGIC) + b"".join([frame.stored() for frame in frames])


def read_storage(data: bytes) -> tuple[bool, list[AmrFrame]]:
    """Read a single-channel file; return whether it is AMR-WB, and its frames.

    RtpError for another magic number (multi-channel files included), a reserved frame type or a cut frame.
    """
    wideband = data.startswith(_AMR_WB_MAGIC)
    if not wideband and not data.startswith(_AMR_MAGIC):
        raise RtpError("no single-channel AMR magic number", "RFC 4867 section 5.1")
    form = AmrPayloadFormat(wideband=wideband, octet_aligned=True)
    frames: list[AmrFrame] = []
    offset = len(_AMR_WB_MAGIC if wideband else _AMR_MAGIC)
    while offset < len(data):
        end = offset + 1 + (form._size(data[offset] >> 3 & 0x0F) + 7) // 8
        if end > len(data):
            raise RtpError(f"the file ends inside frame {len(frames) + 1}", "RFC 4867 section 5.3")
        frames.append(form.frame(data[offset:end]))
        offset = end
    return wideband, frames
