"""The TPDUs of the short message service: SUBMIT and DELIVER, their reports, STATUS-REPORT (TS 23.040 clause 9.2).

Which of two TPDUs a message type indicator means depends on the direction: ``from_network`` and ``from_ue`` read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from imskit.sms.wire import gsm7
from imskit.sms.wire.errors import SmsError
from imskit.sms.wire.fields import Coding, Number, Reader, read_time, write_time

_UDHI, _REPORT, _MORE_NOT = 0x40, 0x20, 0x04
MAXIMUM_TEXT = 140
"""Octets of user data."""


@dataclass(frozen=True, slots=True)
class Part:
    """Which piece of a longer message this is (clause 9.2.3.24.1)."""

    reference: int
    """Names the message, 0..65535."""
    count: int
    number: int
    """From 1."""
    wide: bool = False
    """Whether the reference has 16 bits."""


@dataclass(frozen=True, slots=True)
class Text:
    """User data: a text, and its place in a longer one."""

    text: str
    part: Part | None = None

    def encode(self) -> tuple[int, bytes]:
        """Return the data coding scheme, and length with user data; ``SmsError`` if it is too long."""
        header = _header(self.part)
        codes = gsm7.encode(self.text)
        if codes is not None:
            septets = bytes(code for pair in codes for code in pair)
            fill = -8 * len(header) % 7
            count = (8 * len(header) + fill) // 7 + len(septets)
            data = header + gsm7.pack(septets, fill)
            scheme, length = Coding.GSM7.value, count
        else:
            data = header + self.text.encode("utf-16-be", "surrogatepass")
            scheme, length = Coding.UCS2.value, len(data)
        if len(data) > MAXIMUM_TEXT:
            raise SmsError(f"{len(data)} octets of user data, more than {MAXIMUM_TEXT}", "TS 23.040 clause 9.2.3.16")
        return scheme, bytes((length,)) + data

    @classmethod
    def read(cls, scheme: int, reader: Reader, *, header: bool) -> Text:
        """Read length and user data; ``header``: there is a user data header in front."""
        coding, length = Coding.of(scheme), reader.octet()
        data = reader.rest()
        octets = (7 * length + 7) // 8 if coding is Coding.GSM7 else length
        if octets > len(data) or octets > MAXIMUM_TEXT:
            raise SmsError(
                f"user data of {octets} octets, {len(data)} are there", "TS 23.040 clause 9.2.3.16", cause=96
            )
        data = data[:octets]
        part, skipped = _read_header(data) if header else (None, 0)
        if coding is Coding.GSM7:
            fill = -8 * skipped % 7
            used = (8 * skipped + fill) // 7
            if used > length:
                raise SmsError(
                    "the user data header is longer than the user data", "TS 23.040 clause 9.2.3.24", cause=96
                )
            return cls(gsm7.decode(gsm7.unpack(data[skipped:], length - used, fill)), part)
        if coding is Coding.UCS2:
            return cls(data[skipped:].decode("utf-16-be", "replace"), part)
        return cls(data[skipped:].decode("latin-1"), part)


def _header(part: Part | None) -> bytes:
    if part is None:
        return b""
    if not 1 <= part.number <= part.count <= 255 or not 0 <= part.reference < (65536 if part.wide else 256):
        raise SmsError(f"part {part.number} of {part.count}", "TS 23.040 clause 9.2.3.24.1")
    if part.wide:
        return bytes((6, 8, 4)) + part.reference.to_bytes(2) + bytes((part.count, part.number))
    return bytes((5, 0, 3, part.reference, part.count, part.number))


def _read_header(data: bytes) -> tuple[Part | None, int]:
    """Return the part that a user data header names, and how many octets it has."""
    if not data:
        raise SmsError("the user data header is missing", "TS 23.040 clause 9.2.3.24", cause=96)
    reader = Reader(data[1 : 1 + data[0]])
    if data[0] >= len(data):
        raise SmsError("the user data header is longer than the user data", "TS 23.040 clause 9.2.3.24", cause=96)
    part: Part | None = None
    while reader.left:
        kind, value = reader.octet(), Reader(reader.take(reader.octet()))
        if kind in (0, 8) and value.left == (3 if kind == 0 else 4):
            reference = int.from_bytes(value.take(1 if kind == 0 else 2))
            count, number = value.octet(), value.octet()
            if 1 <= number <= count:  # else the element is passed over (clause 9.2.3.24.1)
                part = Part(reference, count, number, kind == 8)
    return part, 1 + data[0]


@dataclass(frozen=True, slots=True)
class Submit:
    """SMS-SUBMIT: from the UE to somebody."""

    reference: int
    """TP-MR, 0..255."""
    destination: Number
    text: Text
    report: bool = False
    """Whether a STATUS-REPORT is wanted."""

    def encode(self) -> bytes:
        """Return the TPDU."""
        scheme, data = self.text.encode()
        first = 0x01 | (_REPORT if self.report else 0) | (_UDHI if self.text.part is not None else 0)
        return bytes((first, self.reference)) + self.destination.encode() + bytes((0, scheme)) + data


@dataclass(frozen=True, slots=True)
class Deliver:
    """SMS-DELIVER: from somebody to the UE."""

    origin: Number
    text: Text
    time: datetime | None
    """When the centre took it in."""
    more: bool = False
    """More messages wait."""

    def encode(self) -> bytes:
        """Return the TPDU; ``time`` must be there."""
        assert self.time is not None
        scheme, data = self.text.encode()
        first = (0 if self.more else _MORE_NOT) | (_UDHI if self.text.part is not None else 0)
        return bytes((first,)) + self.origin.encode() + bytes((0, scheme)) + write_time(self.time) + data


@dataclass(frozen=True, slots=True)
class SubmitReport:
    """SMS-SUBMIT-REPORT: what the centre says of a SUBMIT; ``failure`` (TP-FCS) in RP-ERROR only."""

    time: datetime | None
    failure: int | None = None

    def encode(self) -> bytes:
        """Return the TPDU; ``time`` must be there."""
        assert self.time is not None
        failure = b"" if self.failure is None else bytes((self.failure,))
        return b"\x01" + failure + b"\x00" + write_time(self.time)


@dataclass(frozen=True, slots=True)
class DeliverReport:
    """SMS-DELIVER-REPORT: what the UE says of a DELIVER; ``failure`` (TP-FCS) in RP-ERROR only."""

    failure: int | None = None

    def encode(self) -> bytes:
        """Return the TPDU."""
        return b"\x00" + (b"" if self.failure is None else bytes((self.failure,))) + b"\x00"


@dataclass(frozen=True, slots=True)
class StatusReport:
    """SMS-STATUS-REPORT: what became of a SUBMIT."""

    reference: int
    recipient: Number
    submitted: datetime | None
    done: datetime | None
    status: int
    """TP-ST: 0 received, 0x20.. still trying, 0x40.. permanent error (clause 9.2.3.15)."""

    def encode(self) -> bytes:
        """Return the TPDU; the times must be there."""
        assert self.submitted is not None
        assert self.done is not None
        head = bytes((0x02 | _MORE_NOT, self.reference)) + self.recipient.encode()
        return head + write_time(self.submitted) + write_time(self.done) + bytes((self.status,))


def from_network(tpdu: bytes, *, error: bool = False) -> Deliver | SubmitReport | StatusReport:
    """Read what the centre sends; ``error``: it came in RP-ERROR.  ``SmsError`` if it cannot be read."""
    reader = Reader(tpdu)
    first = reader.octet()
    match first & 0x03:
        case 0:
            origin = Number.read(reader)
            reader.octet()
            scheme, time = reader.octet(), read_time(reader.take(7))
            return Deliver(origin, Text.read(scheme, reader, header=bool(first & _UDHI)), time, not first & _MORE_NOT)
        case 1:
            failure = reader.octet() if error else None
            reader.octet()
            return SubmitReport(read_time(reader.take(7)), failure)
        case 2:
            reference, recipient = reader.octet(), Number.read(reader)
            return StatusReport(
                reference, recipient, read_time(reader.take(7)), read_time(reader.take(7)), reader.octet()
            )
        case _:
            raise SmsError("message type 3 is reserved", "TS 23.040 clause 9.2.3.1", cause=97)


def from_ue(tpdu: bytes, *, error: bool = False) -> Submit | DeliverReport:
    """Read what a UE sends; ``error``: it came in RP-ERROR.  ``SmsError`` if it cannot be read."""
    reader = Reader(tpdu)
    first = reader.octet()
    match first & 0x03:
        case 0:
            failure = reader.octet() if error else None
            return DeliverReport(failure)
        case 1:
            reference, destination = reader.octet(), Number.read(reader)
            reader.octet()
            scheme = reader.octet()
            reader.take({0: 0, 2: 1}.get(first >> 3 & 3, 7))
            text = Text.read(scheme, reader, header=bool(first & _UDHI))
            return Submit(reference, destination, text, bool(first & _REPORT))
        case _:
            raise SmsError(f"message type {first & 3} is nothing a UE sends here", "TS 23.040 clause 9.2.3.1", cause=97)
