"""What the files of a UICC say (TS 31.102 and TS 31.103 clause 4.2, ETSI TS 102 221 clauses 11.1.1 and 13).

Decoders are pure; ``CardDataError`` is all that escapes them.  A blank file (all FF) or record decodes to ``None``
or to nothing: cards are delivered like that.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from imskit.secrets import Identity
from ue_agent.uicc.errors import CardDataError

ISIM_AID = bytes.fromhex("A0000000871004")
USIM_AID = bytes.fromhex("A0000000871002")

SERVICE_PCSCF = 1
SERVICE_WEBRTC_URI = 20


@dataclass(frozen=True, slots=True)
class Ef:
    """Name, file identifier and clause of an elementary file."""

    name: str
    fid: int
    clause: str


EF_DIR = Ef("EF_DIR", 0x2F00, "TS 102 221 13.1")
EF_ICCID = Ef("EF_ICCID", 0x2FE2, "TS 102 221 13.2")
EF_IMSI = Ef("EF_IMSI", 0x6F07, "TS 31.102 4.2.2")
EF_AD = Ef("EF_AD", 0x6FAD, "TS 31.102 4.2.18")
EF_IMPI = Ef("EF_IMPI", 0x6F02, "TS 31.103 4.2.2")
EF_DOMAIN = Ef("EF_DOMAIN", 0x6F03, "TS 31.103 4.2.3")
EF_IMPU = Ef("EF_IMPU", 0x6F04, "TS 31.103 4.2.4")
EF_IST = Ef("EF_IST", 0x6F07, "TS 31.103 4.2.7")
EF_PCSCF = Ef("EF_P-CSCF", 0x6F09, "TS 31.103 4.2.8")
EF_WEBRTC_URI = Ef("EF_WebRTCURI", 0x6FFA, "TS 31.103 4.2.20")


@dataclass(frozen=True, slots=True)
class Application:
    """An entry of EF_DIR."""

    aid: bytes
    label: str


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What SELECT tells (the FCP template)."""

    size: int | None = None
    """Octets of a transparent file."""
    record_length: int | None = None
    records: int | None = None
    pin_reference: int = 0x01
    """Key reference of the PIN that guards an application."""


def decode_fcp(data: bytes) -> FileInfo:
    """Read an FCP template (TS 102 221 clause 11.1.1.3); an empty answer tells nothing."""
    where = "the FCP template (TS 102 221 11.1.1.3)"
    size = record_length = records = None
    pin_reference = 0x01
    for tag, value in _objects(_inner(data, 0x62, where), where):
        if tag == 0x80 and len(value) == 2:
            size = int.from_bytes(value)
        elif tag == 0x82 and len(value) == 5:
            record_length, records = int.from_bytes(value[2:4]), value[4]
        elif tag == 0xC6:
            references = [v[0] for t, v in _objects(value, where) if t == 0x83 and len(v) == 1]
            # Application PINs are 01 to 08; a card lists the one that matters first.
            pin_reference = next((r for r in references if 0x01 <= r <= 0x08), pin_reference)
    return FileInfo(size, record_length, records, pin_reference)


def pin_enabled(fcp: bytes, reference: int) -> bool | None:
    """Whether an FCP template's PIN status (tag C6) calls that PIN enabled, ``None`` if it does not tell.

    The first bit of its bitmap (tag 90) is for the first key reference (tag 83), and so on (clause 11.1.1.4.10).
    """
    where = "the FCP template (TS 102 221 11.1.1.3)"
    bits, position = b"", 0
    for tag, value in _objects(
        next((v for t, v in _objects(_inner(fcp, 0x62, where), where) if t == 0xC6), b""), where
    ):
        if tag == 0x90:
            bits, position = value, 0
        elif tag == 0x83:
            if value == bytes([reference]) and position // 8 < len(bits):
                return bool(bits[position // 8] << position % 8 & 0x80)
            position += 1
    return None


def first_object(content: bytes, tag: int) -> bytes | None:
    """The value of a record's first BER-TLV object if it has ``tag``, ``None`` for a blank record or another one."""
    first = next(_objects(content, "a record"), None)
    return first[1] if first is not None and first[0] == tag else None


def decode_dir_record(record: bytes) -> Application | None:
    """EF_DIR: one application template (tag 61), ``None`` for an unused record."""
    where = _where(EF_DIR)
    if _is_blank(record):
        return None
    aid, label = None, ""
    for tag, value in _objects(_inner(record, 0x61, where), where):
        if tag == 0x4F:
            aid = value
        elif tag == 0x50:
            label = value.rstrip(b"\xff").decode("utf-8", errors="replace")
    return Application(aid, label) if aid else None


def decode_text(content: bytes, ef: Ef) -> str | None:
    """EF_IMPI, EF_DOMAIN and each record of EF_IMPU, EF_WebRTCURI: tag 80 around UTF-8."""
    value = _value_80(content, ef)
    return None if value is None else _text(value, ef)


def decode_pcscf(record: bytes) -> str | None:
    """EF_P-CSCF: a record's name or IP address."""
    value = _value_80(record, EF_PCSCF)
    if not value or _is_blank(value):
        return None
    kind, address = value[0], value[1:]
    if kind == 0:
        return _text(address, EF_PCSCF)
    if (kind, len(address)) in ((1, 4), (2, 16)):
        return str(ipaddress.ip_address(address))
    raise CardDataError(f"{_where(EF_PCSCF)} has an address of type {kind} and {len(address)} octets")


def has_service(table: bytes, number: int) -> bool:
    """EF_IST, EF_UST: whether service ``number`` (from 1) is available."""
    octet, bit = divmod(number - 1, 8)
    return octet < len(table) and bool(table[octet] >> bit & 1)


def decode_mnc_length(content: bytes) -> int | None:
    """EF_AD of the USIM: digits of the MNC inside the IMSI, ``None`` if the card does not say."""
    length = content[3] & 0x0F if len(content) > 3 else 0
    return length if length in (2, 3) else None


def decode_imsi(content: bytes) -> Identity | None:
    """EF_IMSI: 6 to 15 digits, ``None`` for a blank file."""
    if _is_blank(content):
        return None
    length = content[0]
    if not 1 <= length <= len(content) - 1:
        raise CardDataError(f"{_where(EF_IMSI)} names a length of {length} octets")
    nibbles = _nibbles(content[1 : 1 + length])
    digits = nibbles[1:].rstrip("f")  # the first half octet holds the parity
    if not digits.isdecimal() or not 6 <= len(digits) <= 15:
        raise CardDataError(f"{_where(EF_IMSI)} is not 6 to 15 digits")
    return Identity(digits)


def decode_iccid(content: bytes) -> str:
    """EF_ICCID: the number printed on the card."""
    digits = _nibbles(content).rstrip("f")
    if not digits:
        raise CardDataError(f"{_where(EF_ICCID)} is empty")
    return digits


def _value_80(content: bytes, ef: Ef) -> bytes | None:
    """The value of a file that is one object of tag 80; ``None`` if blank.

    Cards are seen with an empty object and with 80 FF FF: both are blank.
    """
    if _is_blank(content) or _is_blank(content[1:]):
        return None
    where = _where(ef)
    value = _inner(content, 0x80, where)
    return None if _is_blank(value) else value


def _text(value: bytes, ef: Ef) -> str | None:
    try:
        text = value.decode("utf-8").strip("\0")
    except UnicodeDecodeError:
        raise CardDataError(f"{_where(ef)} is not UTF-8") from None
    if any(ord(character) <= 0x20 or ord(character) == 0x7F for character in text):
        raise CardDataError(f"{_where(ef)} holds a blank or control character")
    return text or None


def _is_blank(content: bytes) -> bool:
    return not content.strip(b"\xff")


def _where(ef: Ef) -> str:
    return f"{ef.name} ({ef.clause})"


def _nibbles(octets: bytes) -> str:
    return "".join(octet.hex()[::-1] for octet in (octets[i : i + 1] for i in range(len(octets))))


def _inner(data: bytes, tag: int, where: str) -> bytes:
    """The value of the first object, which has to have ``tag``."""
    if not data:
        return b""
    first = next(_objects(data, where), None)
    if first is None or first[0] != tag:
        raise CardDataError(f"{where} does not begin with tag {tag:02X}")
    return first[1]


def _objects(data: bytes, where: str) -> Iterator[tuple[int, bytes]]:
    """BER-TLV objects of up to 65535 octets, tags of one octet or two; FF between them is padding."""
    position = 0
    while position < len(data):
        tag = data[position]
        position += 1
        if tag in (0x00, 0xFF):
            continue
        if tag & 0x1F == 0x1F and position < len(data):
            tag, position = tag << 8 | data[position], position + 1
        length = data[position] if position < len(data) else None
        position += 1
        if length is not None and length in (0x81, 0x82):
            octets = length - 0x80
            length = int.from_bytes(data[position : position + octets]) if position + octets <= len(data) else None
            position += octets
        elif length is not None and length >= 0x80:
            length = None
        if length is None or position + length > len(data):
            raise CardDataError(f"{where} is cut off inside tag {tag:02X}")
        yield tag, data[position : position + length]
        position += length
