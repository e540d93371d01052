"""ChannelData, the four-byte framing of relayed data, and frames on a stream (RFC 8656 12.4, 12.5)."""

from __future__ import annotations

import struct

from imskit.stun.wire.attributes import MAGIC_COOKIE
from imskit.stun.wire.errors import StunError
from imskit.stun.wire.message import HEADER_LENGTH

FIRST_CHANNEL = 0x4000
LAST_CHANNEL = 0x4FFF
"""Channel numbers of RFC 8656 12."""
LAST_CHANNEL_OF_RFC5766 = 0x7FFF
"""Where they ended before RFC 7983 gave the rest to others; coturn's client still goes so far."""

CHANNEL_HEADER = struct.Struct("!HH")


def is_channel_data(data: bytes, last: int = LAST_CHANNEL) -> bool:
    """Tell by the first byte whether this is ChannelData (RFC 7983 7); ``last`` is the highest channel number."""
    return len(data) >= 4 and 64 <= data[0] <= last >> 8


def pack_channel_data(channel: int, data: bytes, *, stream: bool = False) -> bytes:
    """Frame ``data`` for ``channel``; on a ``stream`` the frame is padded to four bytes (RFC 8656 12.5)."""
    frame = CHANNEL_HEADER.pack(channel, len(data)) + data
    return frame + bytes(-len(data) % 4) if stream else frame


def parse_channel_data(data: bytes, last: int = LAST_CHANNEL) -> tuple[int, bytes]:
    """Return channel and data of one frame; padding after the data is allowed (RFC 8656 12.5, 12.6).

    Raises ``StunError`` (drop) for a reserved channel or a frame shorter than it says.
    """
    if len(data) < 4:
        raise StunError(f"{len(data)} bytes, a header has 4", where="ChannelData", clause="RFC 8656 12.4")
    channel, length = CHANNEL_HEADER.unpack_from(data)
    if not FIRST_CHANNEL <= channel <= last:
        raise StunError(f"channel 0x{channel:04x} is reserved", where="ChannelData", clause="RFC 8656 12")
    if length > len(data) - 4:
        raise StunError(f"{length} bytes announced, {len(data) - 4} there", where="ChannelData", clause="RFC 8656 12.6")
    return channel, bytes(data[4 : 4 + length])


class StreamFramer:
    """Cuts a TCP stream into STUN messages and ChannelData (RFC 8489 6.2.2, RFC 8656 12.5).

    Keeps at most one incomplete frame, so at most 64 kB.  After a ``StunError`` the stream has lost its frames and
    the connection is to be closed.
    """

    __slots__ = ("_buffer", "_last")

    def __init__(self, last: int = LAST_CHANNEL) -> None:
        self._buffer = bytearray()
        self._last = last

    def feed(self, data: bytes) -> list[bytes]:
        """Take in what arrived and return the frames that are now complete, ChannelData without its padding."""
        buffer = self._buffer
        buffer += data
        frames: list[bytes] = []
        position, available = 0, len(buffer)
        try:
            while available - position >= 4:
                kind, length = CHANNEL_HEADER.unpack_from(buffer, position)
                end, padding = self._bounds(buffer, position, kind, length)
                if end + padding > available:
                    break
                frames.append(bytes(buffer[position:end]))
                position = end + padding
        finally:
            del buffer[:position]
        return frames

    def _bounds(self, buffer: bytearray, position: int, kind: int, length: int) -> tuple[int, int]:
        """Return where the frame at ``position`` ends and how much padding follows."""
        if kind < FIRST_CHANNEL:
            cookie = buffer[position + 4 : position + 8]
            if length % 4 or not MAGIC_COOKIE.to_bytes(4).startswith(cookie):
                raise StunError("neither STUN nor ChannelData", where="stream", clause="RFC 8489 5")
            return position + HEADER_LENGTH + length, 0
        if kind <= self._last:
            return position + 4 + length, -length % 4
        raise StunError(f"first bytes 0x{kind:04x}", where="stream", clause="RFC 8656 12")
