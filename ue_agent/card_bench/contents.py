"""What a file's content says, in a few words, for a trace (TS 31.102 and TS 31.103 clause 4.2)."""

from __future__ import annotations

from collections.abc import Callable

from ue_agent.card_bench.files import application_name
from ue_agent.uicc import files
from ue_agent.uicc.errors import CardDataError


def in_words(name: str, content: bytes) -> str:
    """Say what ``content``, all of the file ``name`` or one of its records, means; its length if that is not known."""
    if not content.strip(b"\xff"):
        return "blank"
    try:
        return _decoded(name, content) or "blank"
    except CardDataError:
        return octets(len(content))


def octets(number: int) -> str:
    """``1 octet``, ``2 octets``."""
    return f"{number} octet{'' if number == 1 else 's'}"


def decode_spn(content: bytes) -> str | None:
    """EF_SPN: the service provider's name (TS 31.102 clause 4.2.12), ``None`` if blank."""
    return alpha_identifier(content[1:]) if content else None


def alpha_identifier(value: bytes) -> str | None:
    """A text of TS 31.101 annex A (GSM default alphabet or UCS2), ``None`` if blank."""
    if not value.strip(b"\xff"):
        return None
    value = value.rstrip(b"\xff") if value[0] != 0x80 else value
    if value[0] == 0x80:
        units = value[1 : 1 + len(value[1:]) // 2 * 2]
        return units.decode("utf-16-be", errors="replace").rstrip("\uffff") or None
    if value[0] in (0x81, 0x82):  # one UCS2 base for characters above 7F
        head = 3 if value[0] == 0x81 else 4
        if len(value) < head:
            return None
        base = value[2] << 7 if head == 3 else int.from_bytes(value[2:4])
        return "".join(chr(base + (code & 0x7F)) if code & 0x80 else chr(code) for code in value[head:]) or None
    # The letters and digits of the GSM default alphabet are those of ASCII; the rest is not worth a table here.
    return "".join(chr(code) if 0x20 <= code < 0x7F else "?" for code in value) or None


def _decoded(name: str, content: bytes) -> str | None:
    by_name: dict[str, Callable[[bytes], str | None]] = {
        "EF_ICCID": files.decode_iccid,
        "EF_IMSI": files.decode_imsi,
        "EF_P-CSCF": files.decode_pcscf,
        "EF_SPN": decode_spn,
        "EF_DIR": _directory_entry,
        "EF_AD": _administrative,
        "EF_IST": _services,
        "EF_UST": _services,
    }
    for ef in (files.EF_IMPI, files.EF_DOMAIN, files.EF_IMPU, files.EF_WEBRTC_URI):
        by_name[ef.name] = lambda content, ef=ef: files.decode_text(content, ef)  # type: ignore[misc]
    decode = by_name.get(name)
    return octets(len(content)) if decode is None else decode(content)


def _directory_entry(record: bytes) -> str | None:
    entry = files.decode_dir_record(record)
    if entry is None:
        return None
    return application_name(entry.aid) + (f", {entry.label!r}" if entry.label else "")


def _administrative(content: bytes) -> str:
    length = files.decode_mnc_length(content)
    return "does not say how long the MNC is" if length is None else f"MNC of {length} digits"


def _services(table: bytes) -> str:
    numbers = [number for number in range(1, 8 * len(table) + 1) if files.has_service(table, number)]
    return f"services {' '.join(map(str, numbers))}" if numbers else "no services"
