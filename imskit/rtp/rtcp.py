"""RTCP packets: RFC 3550 section 6, feedback of RFC 4585 and 5104, extended reports of RFC 3611.

``parse_compound`` reads a datagram, ``encode_compound`` writes one.  Reduced-size packets (RFC 5506), which need
not begin with a report, are read too; whether they were negotiated is the caller's to check with
``is_compound``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from imskit.rtp.errors import RtpError

SR, RR, SDES, BYE, APP, RTPFB, PSFB, XR = range(200, 208)

CNAME = 1
"""SDES item of the canonical name (RFC 3550 section 6.5.1); the only mandatory one."""

NACK = 1
"""RTPFB format: generic NACK (RFC 4585 section 6.2.1)."""

PLI = 1
"""PSFB format: picture loss indication (RFC 4585 section 6.3.1)."""

FIR = 4
"""PSFB format: full intra request (RFC 5104 section 4.3.1)."""

_REPORT = struct.Struct("!IIIIII")
_SENDER = struct.Struct("!IQIII")


@dataclass(frozen=True, slots=True)
class ReportBlock:
    """What a receiver says of one source (RFC 3550 section 6.4.1).

    ``fraction_lost`` is in 1/256, ``cumulative_lost`` signed 24 bits, ``jitter`` in timestamp units,
    ``last_sender_report`` the middle 32 bits of its NTP time, ``delay`` since that report in 1/65536 s.
    """

    ssrc: int
    fraction_lost: int
    cumulative_lost: int
    highest_sequence_number: int
    jitter: int
    last_sender_report: int
    delay: int

    def encode(self) -> bytes:
        """The 24 octets of the block."""
        lost = self.fraction_lost << 24 | self.cumulative_lost & 0xFFFFFF
        return _REPORT.pack(
            self.ssrc, lost, self.highest_sequence_number, self.jitter, self.last_sender_report, self.delay
        )


@dataclass(frozen=True, slots=True)
class SenderReport:
    """SR.  ``ntp_time`` is a 64-bit NTP time stamp, ``rtp_timestamp`` the same instant on the media clock."""

    ssrc: int
    ntp_time: int
    rtp_timestamp: int
    packet_count: int
    octet_count: int
    reports: tuple[ReportBlock, ...] = ()
    profile_extension: bytes = b""

    def encode(self) -> bytes:
        """The packet with its header."""
        body = _SENDER.pack(self.ssrc, self.ntp_time, self.rtp_timestamp, self.packet_count, self.octet_count)
        return _packet(SR, len(self.reports), body + _blocks(self.reports) + self.profile_extension)


@dataclass(frozen=True, slots=True)
class ReceiverReport:
    """RR."""

    ssrc: int
    reports: tuple[ReportBlock, ...] = ()
    profile_extension: bytes = b""

    def encode(self) -> bytes:
        """The packet with its header."""
        body = struct.pack("!I", self.ssrc) + _blocks(self.reports) + self.profile_extension
        return _packet(RR, len(self.reports), body)


@dataclass(frozen=True, slots=True)
class SourceChunk:
    """The items that describe one source: pairs of item type (1-255) and text as octets (at most 255)."""

    ssrc: int
    items: tuple[tuple[int, bytes], ...]

    @property
    def cname(self) -> bytes | None:
        """The canonical name, None when it is missing."""
        return next((value for kind, value in self.items if kind == CNAME), None)


@dataclass(frozen=True, slots=True)
class SourceDescription:
    """SDES."""

    chunks: tuple[SourceChunk, ...]

    def encode(self) -> bytes:
        """The packet with its header; RtpError for an item type 0 or above 255, or more than 255 octets."""
        parts: list[bytes] = []
        for chunk in self.chunks:
            part = struct.pack("!I", chunk.ssrc)
            for kind, value in chunk.items:
                if not 1 <= kind <= 255 or len(value) > 255:
                    raise RtpError(f"SDES item {kind} of {len(value)} octets", "RFC 3550 section 6.5")
                part += bytes([kind, len(value)]) + value
            # The list ends with one to four null octets, on a 32-bit boundary.
            parts.append(part + bytes(4 - len(part) % 4))
        return _packet(SDES, len(self.chunks), b"".join(parts))


@dataclass(frozen=True, slots=True)
class Goodbye:
    """BYE; ``reason`` None when the packet has none."""

    ssrcs: tuple[int, ...]
    reason: bytes | None = None

    def encode(self) -> bytes:
        """The packet with its header; RtpError for a reason longer than 255 octets."""
        body = struct.pack(f"!{len(self.ssrcs)}I", *self.ssrcs)
        if self.reason is not None:
            if len(self.reason) > 255:
                raise RtpError(f"a BYE reason of {len(self.reason)} octets", "RFC 3550 section 6.6")
            text = bytes([len(self.reason)]) + self.reason
            body += text + bytes(-len(text) % 4)
        return _packet(BYE, len(self.ssrcs), body)


@dataclass(frozen=True, slots=True)
class ApplicationDefined:
    """APP.  ``subtype`` 0-31, ``name`` four octets, ``data`` a multiple of four octets."""

    subtype: int
    ssrc: int
    name: bytes
    data: bytes = b""

    def encode(self) -> bytes:
        """The packet with its header; RtpError when the name is not four octets."""
        if len(self.name) != 4:
            raise RtpError(f"an APP name of {len(self.name)} octets", "RFC 3550 section 6.7")
        return _packet(APP, self.subtype, struct.pack("!I", self.ssrc) + self.name + self.data)


@dataclass(frozen=True, slots=True)
class TransportFeedback:
    """RTPFB.  ``format`` 0-31; ``information`` is the feedback control information (FCI)."""

    format: int
    sender_ssrc: int
    media_ssrc: int
    information: bytes = b""

    @classmethod
    def nack(cls, sender_ssrc: int, media_ssrc: int, lost: Iterable[int]) -> TransportFeedback:
        """Make a generic NACK of the ``lost`` sequence numbers, in the order in which they were sent."""
        entries: list[tuple[int, int]] = []
        for number in lost:
            distance = (number - entries[-1][0]) & 0xFFFF if entries else 0
            if entries and 1 <= distance <= 16:
                entries[-1] = (entries[-1][0], entries[-1][1] | 1 << distance - 1)
            elif not entries or distance:
                entries.append((number, 0))
        return cls(NACK, sender_ssrc, media_ssrc, b"".join([struct.pack("!HH", *entry) for entry in entries]))

    def lost(self) -> list[int]:
        """The sequence numbers of a generic NACK; RtpError if this is none."""
        if self.format != NACK or not self.information or len(self.information) % 4:
            raise RtpError(f"RTPFB format {self.format} is no generic NACK", "RFC 4585 section 6.2.1")
        numbers: list[int] = []
        for first, mask in struct.iter_unpack("!HH", self.information):
            numbers.append(first)
            numbers += [first + 1 + bit & 0xFFFF for bit in range(16) if mask >> bit & 1]
        return numbers

    def encode(self) -> bytes:
        """The packet with its header."""
        head = struct.pack("!II", self.sender_ssrc, self.media_ssrc)
        return _packet(RTPFB, self.format, head + self.information)


@dataclass(frozen=True, slots=True)
class PayloadFeedback:
    """PSFB.  ``format`` 0-31; ``information`` is the feedback control information (FCI)."""

    format: int
    sender_ssrc: int
    media_ssrc: int
    information: bytes = b""

    @classmethod
    def picture_loss(cls, sender_ssrc: int, media_ssrc: int) -> PayloadFeedback:
        """Make a PLI."""
        return cls(PLI, sender_ssrc, media_ssrc)

    @classmethod
    def full_intra_request(cls, sender_ssrc: int, requests: Iterable[tuple[int, int]]) -> PayloadFeedback:
        """Make a FIR of ``(ssrc, command number)`` pairs; the number is 8 bits, new for each new command."""
        return cls(FIR, sender_ssrc, 0, b"".join([struct.pack("!IB3x", *request) for request in requests]))

    def intra_requests(self) -> list[tuple[int, int]]:
        """The ``(ssrc, command number)`` pairs of a FIR; RtpError if this is none."""
        if self.format != FIR or not self.information or len(self.information) % 8:
            raise RtpError(f"PSFB format {self.format} is no full intra request", "RFC 5104 section 4.3.1")
        return list(struct.iter_unpack("!IB3x", self.information))

    def encode(self) -> bytes:
        """The packet with its header."""
        head = struct.pack("!II", self.sender_ssrc, self.media_ssrc)
        return _packet(PSFB, self.format, head + self.information)


@dataclass(frozen=True, slots=True)
class ExtendedReport:
    """XR: blocks of (block type, type-specific octet, contents of a multiple of four octets)."""

    ssrc: int
    blocks: tuple[tuple[int, int, bytes], ...]

    def encode(self) -> bytes:
        """The packet with its header."""
        body = struct.pack("!I", self.ssrc)
        for kind, specific, data in self.blocks:
            body += struct.pack("!BBH", kind, specific, len(data) // 4) + data
        return _packet(XR, 0, body)


@dataclass(frozen=True, slots=True)
class UnknownPacket:
    """A packet of a type that this module does not know, kept as it came (RFC 3550 section 6.1: skip it)."""

    packet_type: int
    count: int
    body: bytes

    def encode(self) -> bytes:
        """The packet with its header."""
        return _packet(self.packet_type, self.count, self.body)


type RtcpPacket = (
    SenderReport
    | ReceiverReport
    | SourceDescription
    | Goodbye
    | ApplicationDefined
    | TransportFeedback
    | PayloadFeedback
    | ExtendedReport
    | UnknownPacket
)


def parse_compound(data: bytes) -> list[RtcpPacket]:
    """Read all packets of one datagram; RtpError unless every length adds up (RFC 3550 appendix A.2).

    Padding, allowed on the last packet only, is removed.
    """
    packets: list[RtcpPacket] = []
    offset = 0
    while offset < len(data):
        if len(data) - offset < 4:
            raise RtpError("an RTCP header is cut short", "RFC 3550 appendix A.2")
        first, packet_type, words = struct.unpack_from("!BBH", data, offset)
        if first >> 6 != 2:
            raise RtpError(f"version {first >> 6} in packet {len(packets) + 1}", "RFC 3550 appendix A.2")
        end = offset + 4 + 4 * words
        if end > len(data):
            raise RtpError(f"packet {len(packets) + 1} is longer than the datagram", "RFC 3550 appendix A.2")
        body = data[offset + 4 : end]
        if first & 0x20:
            if end != len(data):
                raise RtpError("padding before the last packet", "RFC 3550 section 6.4.1")
            if not body or not 1 <= body[-1] <= len(body) or body[-1] % 4:
                raise RtpError("impossible padding", "RFC 3550 section 6.4.1")
            body = body[: -body[-1]]
        parse = _PARSERS.get(packet_type)
        count = first & 0x1F
        packets.append(UnknownPacket(packet_type, count, body) if parse is None else parse(count, body))
        offset = end
    if not packets:
        raise RtpError("an empty datagram", "RFC 3550 appendix A.2")
    return packets


def is_compound(packets: Sequence[RtcpPacket]) -> bool:
    """Whether the datagram begins with a report, as it must unless reduced size was negotiated (RFC 5506)."""
    return isinstance(packets[0], SenderReport | ReceiverReport)


def encode_compound(packets: Iterable[RtcpPacket]) -> bytes:
    """Return the datagram of ``packets``; RtpError when a field is out of range."""
    try:
        return b"".join([packet.encode() for packet in packets])
    except struct.error as error:
        raise RtpError(f"a field is out of range: {error}", "RFC 3550 section 6") from None


def _packet(packet_type: int, count: int, body: bytes) -> bytes:
    if not 0 <= count <= 31:
        raise RtpError(f"count or format {count} in packet type {packet_type}", "RFC 3550 section 6.4")
    if len(body) % 4 or len(body) > 4 * 0xFFFF:
        raise RtpError(f"{len(body)} octets in packet type {packet_type}", "RFC 3550 section 6.4.1")
    return struct.pack("!BBH", 0x80 | count, packet_type, len(body) // 4) + body


def _blocks(reports: Sequence[ReportBlock]) -> bytes:
    return b"".join([report.encode() for report in reports])


def _need(body: bytes, size: int, what: str, clause: str) -> None:
    if len(body) < size:
        raise RtpError(f"{what} of {len(body)} octets, {size} needed", clause)


def _parse_reports(count: int, body: bytes, offset: int) -> tuple[tuple[ReportBlock, ...], bytes]:
    end = offset + 24 * count
    _need(body, end, f"a report with {count} blocks", "RFC 3550 section 6.4.1")
    reports: list[ReportBlock] = []
    for ssrc, lost, highest, jitter, last, delay in _REPORT.iter_unpack(body[offset:end]):
        cumulative = lost & 0xFFFFFF
        if cumulative & 0x800000:
            cumulative -= 0x1000000
        reports.append(ReportBlock(ssrc, lost >> 24, cumulative, highest, jitter, last, delay))
    return tuple(reports), body[end:]


def _parse_sender_report(count: int, body: bytes) -> SenderReport:
    _need(body, 24, "a sender report", "RFC 3550 section 6.4.1")
    ssrc, ntp_time, timestamp, packet_count, octet_count = _SENDER.unpack_from(body)
    reports, extension = _parse_reports(count, body, 24)
    return SenderReport(ssrc, ntp_time, timestamp, packet_count, octet_count, reports, extension)


def _parse_receiver_report(count: int, body: bytes) -> ReceiverReport:
    _need(body, 4, "a receiver report", "RFC 3550 section 6.4.2")
    reports, extension = _parse_reports(count, body, 4)
    return ReceiverReport(int.from_bytes(body[:4]), reports, extension)


def _parse_source_description(count: int, body: bytes) -> SourceDescription:
    chunks: list[SourceChunk] = []
    offset = 0
    for _ in range(count):
        _need(body, offset + 5, f"SDES with {count} chunks", "RFC 3550 section 6.5")
        ssrc = int.from_bytes(body[offset : offset + 4])
        offset += 4
        items: list[tuple[int, bytes]] = []
        while True:
            if offset >= len(body):
                raise RtpError("an SDES chunk does not end", "RFC 3550 section 6.5")
            kind = body[offset]
            if kind == 0:
                offset += 4 - offset % 4
                break
            if offset + 2 > len(body) or offset + 2 + body[offset + 1] > len(body):
                raise RtpError(f"SDES item {kind} is cut short", "RFC 3550 section 6.5")
            end = offset + 2 + body[offset + 1]
            items.append((kind, body[offset + 2 : end]))
            offset = end
        chunks.append(SourceChunk(ssrc, tuple(items)))
    return SourceDescription(tuple(chunks))


def _parse_goodbye(count: int, body: bytes) -> Goodbye:
    _need(body, 4 * count, f"BYE of {count} sources", "RFC 3550 section 6.6")
    ssrcs = struct.unpack_from(f"!{count}I", body)
    rest = body[4 * count :]
    if not rest:
        return Goodbye(ssrcs)
    _need(rest, 1 + rest[0], "a BYE reason", "RFC 3550 section 6.6")
    return Goodbye(ssrcs, rest[1 : 1 + rest[0]])


def _parse_application(count: int, body: bytes) -> ApplicationDefined:
    _need(body, 8, "APP", "RFC 3550 section 6.7")
    return ApplicationDefined(count, int.from_bytes(body[:4]), body[4:8], body[8:])


def _parse_transport_feedback(count: int, body: bytes) -> TransportFeedback:
    _need(body, 8, "RTPFB", "RFC 4585 section 6.1")
    return TransportFeedback(count, int.from_bytes(body[:4]), int.from_bytes(body[4:8]), body[8:])


def _parse_payload_feedback(count: int, body: bytes) -> PayloadFeedback:
    _need(body, 8, "PSFB", "RFC 4585 section 6.1")
    return PayloadFeedback(count, int.from_bytes(body[:4]), int.from_bytes(body[4:8]), body[8:])


def _parse_extended_report(count: int, body: bytes) -> ExtendedReport:
    _need(body, 4, "XR", "RFC 3611 section 2")
    blocks: list[tuple[int, int, bytes]] = []
    offset = 4
    while offset < len(body):
        kind, specific, words = struct.unpack_from("!BBH", body, offset)
        end = offset + 4 + 4 * words
        _need(body, end, f"XR with block type {kind}", "RFC 3611 section 3")
        blocks.append((kind, specific, body[offset + 4 : end]))
        offset = end
    return ExtendedReport(int.from_bytes(body[:4]), tuple(blocks))


_PARSERS: dict[int, Callable[[int, bytes], RtcpPacket]] = {
    SR: _parse_sender_report,
    RR: _parse_receiver_report,
    SDES: _parse_source_description,
    BYE: _parse_goodbye,
    APP: _parse_application,
    RTPFB: _parse_transport_feedback,
    PSFB: _parse_payload_feedback,
    XR: _parse_extended_report,
}
