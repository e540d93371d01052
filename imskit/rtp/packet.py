"""RTP packets: RFC 3550 section 5.1, header extensions of RFC 8285, telling RTP from RTCP (RFC 5761 section 4)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from imskit.rtp.errors import RtpError

type Buffer = bytes | bytearray | memoryview

ONE_BYTE_PROFILE = 0xBEDE
"""The "defined by profile" value of one-byte extension elements (RFC 8285 section 4.2)."""

TWO_BYTE_PROFILE = 0x1000
"""The same of two-byte elements (section 4.3); the low four bits are for the application."""

KEEP_ALIVE_PAYLOAD_TYPE = 20
"""Payload type of the empty packets that hold a NAT binding (TS 24.229 K.5.2.1)."""

# Static payload types that RFC 3551 table 4/5 leaves unassigned: stand-ins when 20 is negotiated.
_UNASSIGNED_STATIC = (20, 21, 22, 23, 24, 27, 29, 30)

_HEADER = struct.Struct("!BBHII")
_EXTENSION = struct.Struct("!HH")


@dataclass(frozen=True, slots=True)
class HeaderExtension:
    """The extension as it travels: the 16-bit ``profile`` and ``data`` of a multiple of four octets.

    It stays opaque until ``elements()`` is called, so forwarding costs nothing and loses nothing.
    """

    profile: int
    data: bytes

    def elements(self) -> list[tuple[int, bytes]]:
        """Return the ``(id, value)`` elements of RFC 8285; empty for another profile.

        Raises RtpError when an element runs past the end.
        """
        if self.profile == ONE_BYTE_PROFILE:
            return _one_byte_elements(self.data)
        if self.profile & 0xFFF0 == TWO_BYTE_PROFILE:
            return _two_byte_elements(self.data)
        return []

    @classmethod
    def of(cls, elements: Iterable[tuple[int, bytes]]) -> HeaderExtension:
        """Make an extension from ``(id, value)`` pairs, in one-byte form where all of them fit it.

        One-byte form takes ids 1-14 and values of 1-16 octets, two-byte form ids 1-255 and 0-255 octets.
        """
        pairs = list(elements)
        short = all(1 <= number <= 14 and 1 <= len(value) <= 16 for number, value in pairs)
        parts: list[bytes] = []
        for number, value in pairs:
            if short:
                parts.append(bytes([number << 4 | len(value) - 1]) + value)
            elif 1 <= number <= 255 and len(value) <= 255:
                parts.append(bytes([number, len(value)]) + value)
            else:
                raise RtpError(f"extension element {number} of {len(value)} octets", "RFC 8285 section 4.3")
        data = b"".join(parts)
        return cls(ONE_BYTE_PROFILE if short else TWO_BYTE_PROFILE, data + bytes(-len(data) % 4))


@dataclass(slots=True)
class RtpPacket:
    """One RTP packet.  ``sequence_number`` is 16 bits, ``timestamp`` and ``ssrc`` are 32 bits.

    ``padding`` is the number of padding octets at the end, their count octet included (0: none, else 1-255).
    """

    payload_type: int
    sequence_number: int
    timestamp: int
    ssrc: int
    payload: bytes = b""
    marker: bool = False
    csrcs: tuple[int, ...] = ()
    extension: HeaderExtension | None = None
    padding: int = 0

    @classmethod
    def parse(cls, data: Buffer) -> RtpPacket:
        """Read one datagram; RtpError if it is not version 2, is cut short or its padding is impossible."""
        size = len(data)
        if size < 12:
            raise RtpError(f"{size} octets are less than a header", "RFC 3550 section 5.1")
        first, second, sequence_number, timestamp, ssrc = _HEADER.unpack_from(data)
        if first == 0x80:  # no padding, extension or CSRC: nearly every packet
            return cls(second & 0x7F, sequence_number, timestamp, ssrc, bytes(data[12:]), second > 0x7F)
        if first >> 6 != 2:
            raise RtpError(f"version {first >> 6}", "RFC 3550 section 5.1")
        offset = 12 + 4 * (first & 0x0F)
        if size < offset:
            raise RtpError("the CSRC list is cut short", "RFC 3550 section 5.1")
        csrcs = struct.unpack_from(f"!{first & 0x0F}I", data, 12)
        extension = None
        if first & 0x10:
            if size < offset + 4:
                raise RtpError("the header extension is cut short", "RFC 3550 section 5.3.1")
            profile, words = _EXTENSION.unpack_from(data, offset)
            offset += 4 + 4 * words
            if size < offset:
                raise RtpError("the header extension is longer than the packet", "RFC 3550 section 5.3.1")
            extension = HeaderExtension(profile, bytes(data[offset - 4 * words : offset]))
        padding = 0
        if first & 0x20:
            padding = data[-1]
            if not 1 <= padding <= size - offset:
                raise RtpError(f"{padding} octets of padding in {size - offset}", "RFC 3550 section 5.1")
        payload = bytes(data[offset : size - padding])
        return cls(second & 0x7F, sequence_number, timestamp, ssrc, payload, second > 0x7F, csrcs, extension, padding)

    def encode(self) -> bytes:
        """Return the datagram; RtpError when a field is out of its range."""
        first = 0x80
        tail = b""
        if self.csrcs:
            if len(self.csrcs) > 15:
                raise RtpError(f"{len(self.csrcs)} contributing sources", "RFC 3550 section 5.1")
            first |= len(self.csrcs)
            tail = struct.pack(f"!{len(self.csrcs)}I", *self.csrcs)
        if self.extension is not None:
            words, rest = divmod(len(self.extension.data), 4)
            if rest or words > 0xFFFF:
                raise RtpError(f"a header extension of {len(self.extension.data)} octets", "RFC 3550 section 5.3.1")
            first |= 0x10
            tail += _EXTENSION.pack(self.extension.profile, words) + self.extension.data
        tail += self.payload
        if self.padding:
            if not 1 <= self.padding <= 255:
                raise RtpError(f"{self.padding} octets of padding", "RFC 3550 section 5.1")
            first |= 0x20
            tail += bytes(self.padding - 1) + bytes([self.padding])
        if not 0 <= self.payload_type <= 127:
            raise RtpError(f"payload type {self.payload_type}", "RFC 3550 section 5.1")
        second = self.payload_type | 0x80 if self.marker else self.payload_type
        try:
            return _HEADER.pack(first, second, self.sequence_number, self.timestamp, self.ssrc) + tail
        except struct.error:
            raise RtpError("sequence number, timestamp or SSRC out of range", "RFC 3550 section 5.1") from None


def is_rtcp(data: Buffer) -> bool:
    """Tell RTCP (second octet 192-223) from RTP on a shared port; RFC 5761 section 4."""
    return len(data) >= 2 and 192 <= data[1] <= 223


def keep_alive_payload_type(negotiated: Iterable[int]) -> int:
    """The payload type for NAT keep-alive: 20, or another unassigned static one if 20 is negotiated.

    The packet itself is empty and goes on with the stream's sequence numbers and timestamps
    (TS 24.229 K.5.2.1, RFC 6263 section 4.6).
    """
    taken = set(negotiated)
    for candidate in _UNASSIGNED_STATIC:
        if candidate not in taken:
            return candidate
    raise RtpError("every unassigned static payload type is negotiated", "TS 24.229 K.5.2.1")


def _one_byte_elements(data: bytes) -> list[tuple[int, bytes]]:
    elements: list[tuple[int, bytes]] = []
    offset = 0
    while offset < len(data):
        head = data[offset]
        offset += 1
        if head == 0:  # padding
            continue
        if head >> 4 == 15:  # reserved: processing stops here (RFC 8285 section 4.2)
            break
        end = offset + (head & 0x0F) + 1
        if end > len(data):
            raise RtpError(f"extension element {head >> 4} is cut short", "RFC 8285 section 4.2")
        elements.append((head >> 4, data[offset:end]))
        offset = end
    return elements


def _two_byte_elements(data: bytes) -> list[tuple[int, bytes]]:
    elements: list[tuple[int, bytes]] = []
    offset = 0
    while offset < len(data):
        number = data[offset]
        offset += 1
        if number == 0:  # padding
            continue
        if offset == len(data):
            raise RtpError(f"extension element {number} has no length", "RFC 8285 section 4.3")
        end = offset + 1 + data[offset]
        if end > len(data):
            raise RtpError(f"extension element {number} is cut short", "RFC 8285 section 4.3")
        elements.append((number, data[offset + 1 : end]))
        offset = end
    return elements
