"""RP messages: what carries a TPDU between UE and service centre (TS 24.011 clause 7.3)."""

from __future__ import annotations

from dataclasses import dataclass

from imskit.sms.wire.errors import SmsError
from imskit.sms.wire.fields import Number, Reader

MEDIA_TYPE = "application/vnd.3gpp.sms"
_USER_DATA = 0x41
_LONGEST = 233
"""Octets of RP-User data (clause 8.2.5.3)."""


@dataclass(frozen=True, slots=True)
class RpData:
    """RP-DATA; ``centre`` is the other end's address: RP-DA from the UE, RP-OA to it."""

    reference: int
    centre: Number | None
    tpdu: bytes
    from_ue: bool

    def encode(self) -> bytes:
        """Return the octets."""
        address = b"\x00" if self.centre is None else self.centre.encode_rp()
        pair = b"\x00" + address if self.from_ue else address + b"\x00"
        return bytes((0 if self.from_ue else 1, self.reference)) + pair + bytes((len(self.tpdu),)) + self.tpdu


@dataclass(frozen=True, slots=True)
class RpAck:
    """RP-ACK, with a report of the transfer layer."""

    reference: int
    tpdu: bytes
    from_ue: bool

    def encode(self) -> bytes:
        """Return the octets."""
        data = bytes((_USER_DATA, len(self.tpdu))) + self.tpdu if self.tpdu else b""
        return bytes((2 if self.from_ue else 3, self.reference)) + data


@dataclass(frozen=True, slots=True)
class RpError:
    """RP-ERROR; ``cause`` is of table 8.4."""

    reference: int
    cause: int
    tpdu: bytes
    from_ue: bool

    def encode(self) -> bytes:
        """Return the octets."""
        data = bytes((_USER_DATA, len(self.tpdu))) + self.tpdu if self.tpdu else b""
        return bytes((4 if self.from_ue else 5, self.reference, 1, self.cause)) + data


@dataclass(frozen=True, slots=True)
class RpMemoryAvailable:
    """RP-SMMA: the UE has room again."""

    reference: int


type RpMessage = RpData | RpAck | RpError | RpMemoryAvailable


def parse(data: bytes) -> RpMessage:
    """Read an RP message; ``SmsError`` with the RP-Cause to answer with."""
    reader = Reader(data)
    kind, reference = reader.octet() & 0x07, reader.octet()
    from_ue = kind % 2 == 0
    match kind:
        case 0 | 1:
            origin, destination = Number.read_rp(reader), Number.read_rp(reader)
            length = reader.octet()
            if length > _LONGEST:
                raise SmsError(f"{length} octets of user data", "TS 24.011 clause 8.2.5.3", cause=96)
            return RpData(reference, destination if from_ue else origin, reader.take(length), from_ue)
        case 2 | 3:
            return RpAck(reference, _user_data(reader), from_ue)
        case 4 | 5:
            cause = reader.take(reader.octet())
            if not cause:
                raise SmsError("the cause is missing", "TS 24.011 clause 8.2.5.4", cause=96)
            return RpError(reference, cause[0] & 0x7F, _user_data(reader), from_ue)
        case 6:
            return RpMemoryAvailable(reference)
        case _:
            raise SmsError(f"message type {kind}", "TS 24.011 clause 8.2.2", cause=97)


def reference_of(data: bytes) -> int:
    """Return the reference of a message that may be broken, 0 if there is none."""
    return data[1] if len(data) > 1 else 0


def _user_data(reader: Reader) -> bytes:
    """Return the optional user data: other elements are passed over."""
    while reader.left:
        kind = reader.octet()
        if kind & 0x80:
            continue  # an element of one octet
        value = reader.take(reader.octet())
        if kind == _USER_DATA:
            return value
    return b""
