"""The GSM 7 bit default alphabet with its extension table, and septets in octets (TS 23.038 clause 6)."""

from __future__ import annotations

from imskit.sms.wire.errors import SmsError

_ESCAPE = 0x1B
_ALPHABET = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ"
    " !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION = {0x0A: "\f", 0x14: "^", 0x28: "{", 0x29: "}", 0x2F: "\\", 0x3C: "[", 0x3D: "~", 0x3E: "]", 0x40: "|",
              0x65: "€"}  # fmt: skip
_CODES: dict[str, tuple[int, ...]] = {
    character: (code,) for code, character in enumerate(_ALPHABET) if code != _ESCAPE
} | {character: (_ESCAPE, code) for code, character in _EXTENSION.items()}


def encode(text: str) -> list[tuple[int, ...]] | None:
    """Return the septets of each character, ``None`` if one is not in the alphabet."""
    found = [_CODES.get(character) for character in text]
    return None if None in found else [codes for codes in found if codes is not None]


def decode(septets: bytes) -> str:
    """Return the text; an unknown extension is shown as the character of the default table (clause 6.2.1.1)."""
    text: list[str] = []
    escaped = False
    for code in septets:
        if escaped:
            text.append(_EXTENSION.get(code, " " if code == _ESCAPE else _ALPHABET[code]))
            escaped = False
        elif code == _ESCAPE:
            escaped = True
        else:
            text.append(_ALPHABET[code])
    return "".join(text)


def pack(septets: bytes, fill: int = 0) -> bytes:
    """Put septets into octets, from the least significant bit on; ``fill`` bits of zero go first (0..6)."""
    bits = 0
    for index, septet in enumerate(septets):
        bits |= septet << (7 * index)
    count = 7 * len(septets) + fill
    return (bits << fill).to_bytes((count + 7) // 8, "little")


def unpack(octets: bytes, count: int, fill: int = 0) -> bytes:
    """Take ``count`` septets out of octets; ``SmsError`` if there are fewer."""
    if (7 * count + fill + 7) // 8 > len(octets):
        raise SmsError(f"{count} septets do not fit into {len(octets)} octets", "TS 23.038 clause 6.1.2", cause=96)
    bits = int.from_bytes(octets, "little") >> fill
    return bytes((bits >> (7 * index)) & 0x7F for index in range(count))
