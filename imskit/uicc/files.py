"""Files of a UICC and what the card says about them on SELECT (ETSI TS 102 221 clauses 8, 11.1.1)."""

from __future__ import annotations

from dataclasses import dataclass, field

MF = 0x3F00
CURRENT_ADF = 0x7FFF

_READ_ALWAYS = bytes.fromhex("800101 9000")
_READ_PIN1 = bytes.fromhex("800101 A406 830101 950108")
_UPDATE_NEVER = bytes.fromhex("800102 9700")
_UPDATE_PIN1 = bytes.fromhex("800102 A406 830101 950108")
_OPERATIONAL = bytes.fromhex("8A0105")


@dataclass(slots=True)
class ElementaryFile:
    """An EF: transparent (``content`` is bytes) or linear fixed (a list of records of one length)."""

    fid: int | None
    content: bytes | tuple[bytes, ...]
    sfi: int | None = None
    """1 to 30, ``None`` for none."""
    needs_pin: bool = False
    updatable: bool = False
    """Whether it may be written, with the PIN."""

    def fcp(self, *, pin_enabled: bool) -> bytes:
        """Return the FCP template."""
        assert self.fid is not None
        if isinstance(self.content, bytes):
            descriptor, size = b"\x41\x21", len(self.content)
        else:
            length, count = len(self.content[0]), len(self.content)
            descriptor, size = b"\x42\x21" + length.to_bytes(2) + bytes([count]), length * count
        rules = (_READ_PIN1 if self.needs_pin else _READ_ALWAYS) + (_UPDATE_PIN1 if self.updatable else _UPDATE_NEVER)
        return tlv(
            0x62,
            tlv(0x82, descriptor)
            + tlv(0x83, self.fid.to_bytes(2))
            + _OPERATIONAL
            + tlv(0xAB, rules)
            + tlv(0x80, size.to_bytes(2))
            + tlv(0x88, b"" if self.sfi is None else bytes([self.sfi << 3])),
        )


@dataclass(slots=True)
class Directory:
    """The MF, or the ADF of an application (``aid``)."""

    fid: int | None = None
    aid: bytes | None = None
    files: list[ElementaryFile] = field(default_factory=list)

    def by_fid(self, fid: int) -> ElementaryFile | None:
        """Return the file of that identifier."""
        return next((file for file in self.files if file.fid == fid), None)

    def by_sfi(self, sfi: int) -> ElementaryFile | None:
        """Return the file of that short identifier."""
        return next((file for file in self.files if file.sfi == sfi), None)

    def fcp(self, *, pin_enabled: bool) -> bytes:
        """Return the FCP template with the PIN status (tag C6)."""
        name = (
            tlv(0x83, (MF if self.fid is None else self.fid).to_bytes(2)) if self.aid is None else tlv(0x84, self.aid)
        )
        return tlv(
            0x62,
            tlv(0x82, b"\x78\x21")
            + name
            + tlv(0xA5, bytes.fromhex("800171 830400018D08"))
            + _OPERATIONAL
            + tlv(0xAB, _UPDATE_NEVER)
            + tlv(0xC6, tlv(0x90, b"\x80" if pin_enabled else b"\x00") + bytes.fromhex("830101")),
        )


type Node = Directory | ElementaryFile


def tlv(tag: int, value: bytes) -> bytes:
    """Return a BER-TLV object of up to 255 octets of value."""
    length = bytes([len(value)]) if len(value) < 0x80 else bytes([0x81, len(value)])
    return bytes([tag]) + length + value
