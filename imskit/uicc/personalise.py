"""From a profile to the card's files (TS 31.102 clause 4.2, TS 31.103 clause 4.2, ETSI TS 102 221 clause 13)."""

from __future__ import annotations

import ipaddress

from imskit.uicc.files import MF, Directory, ElementaryFile, tlv
from imskit.uicc.profile import CardProfile, IsimProfile

USIM_AID = bytes.fromhex("A0000000871002FFFFFFFF8907090000")
ISIM_AID = bytes.fromhex("A0000000871004FFFFFFFF8907090000")
UST_GBA, IST_GBA = 68, 2
"""Numbers of the service GBA in EF_UST and EF_IST."""
USIM_GBA_FILES, ISIM_GBA_FILES = (0x6FD6, 0x6FDA), (0x6FD5, 0x6FD7)
"""File identifiers of EF_GBABP and EF_GBANL."""
_UST_SPN = 19
_SPN_SIZE = 16
_GBABP_SIZE = 160
_GBANL_SIZE = 240
_TEXT_SIZE = 128
_RECORDS = 4


def build(profile: CardProfile) -> tuple[Directory, list[Directory]]:
    """Return the MF and the applications in the order of EF_DIR: USIM, then ISIM if there is one."""
    applications = [_usim(profile)]
    labels = [b"USim1"]
    if profile.isim is not None:
        applications.append(_isim(profile.isim, gba=profile.gba))
        labels.append(b"ISim1")
    entries = [
        tlv(0x61, tlv(0x4F, adf.aid or b"") + tlv(0x50, label)) for adf, label in zip(applications, labels, strict=True)
    ]
    mf = Directory(
        fid=MF,
        files=[
            ElementaryFile(0x2F00, _records(entries, 43), sfi=0x1E),
            ElementaryFile(0x2FE2, _bcd(profile.iccid.ljust(20, "F")), sfi=0x02),
        ],
    )
    return mf, applications


def _usim(profile: CardProfile) -> Directory:
    digits = profile.imsi
    imsi = _bcd(("9" if len(digits) % 2 else "1") + digits)
    administrative = bytes(3) + (bytes([profile.mnc_length]) if profile.mnc_length else b"")
    services = {27} | ({UST_GBA} if profile.gba else set()) | ({_UST_SPN} if profile.spn else set())
    gba = _gba_files(*USIM_GBA_FILES) if profile.gba else []
    spn = [ElementaryFile(0x6F46, b"\x00" + profile.spn.encode().ljust(_SPN_SIZE, b"\xff"))] if profile.spn else []
    return Directory(
        aid=USIM_AID,
        files=[
            ElementaryFile(0x6F07, (bytes([len(imsi)]) + imsi).ljust(9, b"\xff"), sfi=0x07, needs_pin=True),
            ElementaryFile(0x6FAD, administrative, sfi=0x03),
            ElementaryFile(0x6F38, _services(services, 17), sfi=0x04, needs_pin=True),
            *gba,
            *spn,
        ],
    )


def _isim(isim: IsimProfile, *, gba: bool) -> Directory:
    services = ({1} if isim.pcscf else set()) | ({20} if isim.webrtc_uri else set()) | ({IST_GBA} if gba else set())
    files = [
        ElementaryFile(0x6F02, _text(isim.impi), sfi=0x02, needs_pin=True),
        ElementaryFile(0x6F03, _text(isim.domain), sfi=0x05, needs_pin=True),
        ElementaryFile(0x6F04, _records([_object(text.encode()) for text in isim.impu]), sfi=0x04, needs_pin=True),
        ElementaryFile(0x6F07, _services(services, 3), sfi=0x07, needs_pin=True),
        ElementaryFile(0x6FAD, bytes(3), sfi=0x03),
    ]
    if isim.pcscf:
        files.append(ElementaryFile(0x6F09, _records([_object(_address(text)) for text in isim.pcscf]), needs_pin=True))
    if isim.webrtc_uri:
        records = _records([_object(text.encode()) for text in isim.webrtc_uri])
        files.append(ElementaryFile(0x6FFA, records, needs_pin=True))
    if gba:
        files += _gba_files(*ISIM_GBA_FILES)
    return Directory(aid=ISIM_AID, files=files)


def _gba_files(gbabp: int, gbanl: int) -> list[ElementaryFile]:
    """EF_GBABP, which the terminal writes too, and EF_GBANL, which the card alone writes (TS 31.103 4.2.9, 4.2.10)."""
    return [
        ElementaryFile(gbabp, b"\xff" * _GBABP_SIZE, needs_pin=True, updatable=True),
        ElementaryFile(gbanl, (b"\xff" * _GBANL_SIZE,) * _RECORDS, needs_pin=True),
    ]


def _text(text: str) -> bytes:
    return (_object(text.encode()) if text else b"").ljust(_TEXT_SIZE, b"\xff")


def _object(value: bytes) -> bytes:
    return tlv(0x80, value)


def _records(objects: list[bytes], size: int = _TEXT_SIZE) -> tuple[bytes, ...]:
    size = max([size, *map(len, objects)])
    blank = [b""] * max(0, _RECORDS - len(objects))
    return tuple(value.ljust(size, b"\xff") for value in objects + blank)


def _address(text: str) -> bytes:
    """A P-CSCF address: its type (0 name, 1 IPv4, 2 IPv6) and value (TS 31.103 4.2.8)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return b"\x00" + text.encode()
    return bytes([1 if address.version == 4 else 2]) + address.packed


def _services(numbers: set[int], octets: int) -> bytes:
    table = bytearray(octets)
    for number in numbers:
        table[(number - 1) // 8] |= 1 << (number - 1) % 8
    return bytes(table)


def _bcd(digits: str) -> bytes:
    """Two digits an octet, the first in the low half; an odd one out is followed by F."""
    digits += "F" * (len(digits) % 2)
    return bytes(int(high + low, 16) for low, high in zip(digits[::2], digits[1::2], strict=True))
