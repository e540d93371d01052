"""A card's conversation in words: commands, file names, answers and status words (TS 102 221 clauses 10, 11).

A ``Narrator`` follows what is selected on each logical channel, so that it can say what is read.  Keys (RES, CK, IK,
Kc, GBA's), PINs and the data of commands it does not know are left out, in words and in octets, unless asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from ue_agent.card_bench.contents import in_words, octets
from ue_agent.card_bench.files import Place, application_name, file_name, holds_keys, is_directory, place_of
from ue_agent.card_bench.observe import Exchange
from ue_agent.uicc.apdu import meaning
from ue_agent.uicc.errors import CardDataError
from ue_agent.uicc.files import decode_fcp

_INSTRUCTIONS = {
    0x04: "DEACTIVATE FILE",
    0x10: "TERMINAL PROFILE",
    0x12: "FETCH",
    0x14: "TERMINAL RESPONSE",
    0x20: "VERIFY PIN",
    0x24: "CHANGE PIN",
    0x26: "DISABLE PIN",
    0x28: "ENABLE PIN",
    0x2C: "UNBLOCK PIN",
    0x32: "INCREASE",
    0x44: "ACTIVATE FILE",
    0x70: "MANAGE CHANNEL",
    0x84: "GET CHALLENGE",
    0x88: "AUTHENTICATE",
    0x89: "AUTHENTICATE",
    0xA2: "SEARCH RECORD",
    0xA4: "SELECT",
    0xB0: "READ BINARY",
    0xB2: "READ RECORD",
    0xC0: "GET RESPONSE",
    0xC2: "ENVELOPE",
    0xD6: "UPDATE BINARY",
    0xDC: "UPDATE RECORD",
    0xF2: "STATUS",
}
_PIN_DATA = {0x20: ("PIN",), 0x24: ("PIN", "new PIN"), 0x26: ("PIN",), 0x28: ("PIN",), 0x2C: ("PUK", "new PIN")}
_HAS_DATA = {0x10, 0x14, 0x20, 0x24, 0x26, 0x28, 0x2C, 0x32, 0x88, 0x89, 0xA2, 0xA4, 0xC2, 0xD6, 0xDC}
_CONTEXTS = {0x80: "GSM", 0x81: "3G/IMS AKA", 0x82: "VGCS", 0x84: "GBA", 0x85: "MBMS", 0x86: "local key"}
_PIN_NAMES = {0x01: "PIN1", 0x81: "PIN2", 0x11: "universal PIN", 0x0A: "ADM1"}
_KEY_LABELS = {0x81: ("RES", "CK", "IK", "Kc"), 0x80: ("SRES", "Kc")}

type Span = tuple[int, int, str]
"""First octet, the one behind the last, and what it holds."""


@dataclass(frozen=True, slots=True)
class Told:
    """One exchange as a person reads it."""

    exchange: Exchange
    """Octets that are not to be shown are zero."""
    command: str
    """The command in words."""
    answer: str
    """The answer and its status word in words."""
    command_hex: str
    answer_hex: str
    """Octets in hex, grouped; ``<RES 8>`` stands for what is not shown."""
    ok: bool
    """Whether the command was carried out, or data waits, or the length is corrected."""


@dataclass(slots=True)
class _Channel:
    """What is selected on one logical channel."""

    place: Place = "MF"
    file: int | None = None
    subject: _Subject | None = None
    """What the data of a GET RESPONSE belongs to."""


@dataclass(frozen=True, slots=True)
class _Subject:
    """The command that an answer belongs to."""

    kind: Literal["fcp", "content", "keys", "secret", "other"]
    name: str = ""
    labels: tuple[str, ...] = ()


@dataclass(slots=True)
class _Parts:
    """A command taken apart: words, spans of its data, what its answer holds."""

    words: str
    spans: list[Span] = field(default_factory=list)
    subject: _Subject = _Subject("other")


class Narrator:
    """See the module's text.  One for each connection, fed with every exchange in order."""

    def __init__(self, *, show_keys: bool = False) -> None:
        self._show_keys = show_keys
        self._channels: dict[int, _Channel] = {}

    def tell(self, exchange: Exchange) -> Told:
        """Put one exchange into words; any octets whatever are understood or called unknown."""
        command, sw = exchange.command, exchange.sw
        if len(command) < 4:
            command = command.ljust(4, b"\0")
        channel = self._channels.setdefault(_channel_number(command[0]), _Channel())
        parts = self._command(command, channel)
        answer_words, answer_spans = _answer(exchange.answer, parts.subject)
        waits = sw >> 8 in (0x61, 0x9F) or (sw >> 8 in (0x62, 0x6C) and not exchange.answer)
        channel.subject = parts.subject if waits or command[1] == 0xC0 else None
        ok = sw == 0x9000 or sw >> 8 in (0x61, 0x6C, 0x91, 0x9F) or (sw >> 8 == 0x62 and bool(exchange.answer))
        if ok and command[1] == 0xA4 and sw >> 8 != 0x6C:
            self._selected(command, channel)
        words = ", ".join(filter(None, (answer_words, _status(sw, said=bool(answer_words)))))
        command_spans = [] if self._show_keys else _clipped(parts.spans, len(exchange.command))
        answer_spans = [] if self._show_keys else _clipped(answer_spans, len(exchange.answer))
        return Told(
            replace(
                exchange,
                command=_zeroed(exchange.command, command_spans),
                answer=_zeroed(exchange.answer, answer_spans),
            ),
            parts.words + _on_channel(command[0]),
            words,
            _hex(exchange.command, command_spans),
            f"{_hex(exchange.answer, answer_spans)} {sw:04X}".strip(),
            ok,
        )

    def _command(self, command: bytes, channel: _Channel) -> _Parts:
        ins, p1, p2 = command[1], command[2], command[3]
        name = _INSTRUCTIONS.get(ins)
        end = 5 + command[4] if len(command) > 5 and (name is None or ins in _HAS_DATA) else len(command[:5])
        data = command[5:end]
        if name is None:
            spans = [(5, len(command), "data")] if len(command) > 5 else []
            return _Parts(f"instruction {ins:02X}", spans, _Subject("secret", labels=("data",)))
        match ins:
            case 0xA4:
                return _Parts(f"SELECT {_target(p1, data, channel)}", subject=_Subject("fcp"))
            case 0xB0 | 0xB2 | 0xD6 | 0xDC | 0xA2:
                return _file_command(name, command, channel)
            case 0xC0:
                return _Parts("GET RESPONSE", subject=channel.subject or _Subject("secret", labels=("data",)))
            case 0x88 | 0x89:
                return _authenticate(p2, data)
            case 0x20 | 0x24 | 0x26 | 0x28 | 0x2C:
                reference = _PIN_NAMES.get(p2, f"PIN {p2:02X}")
                question = "" if data else ", tries left?"
                spans = [(5 + 8 * i, 13 + 8 * i, label) for i, label in enumerate(_PIN_DATA[ins])]
                return _Parts(f"{name} ({reference}){question}", _within(spans, 5, len(command)))
            case 0x70:
                return _Parts("MANAGE CHANNEL, " + (f"close {p2}" if p1 & 0x80 else f"open {p2 or 'any'}"))
            case 0xF2:
                return _Parts("STATUS", subject=_Subject("fcp") if p2 == 0x00 else _Subject("other"))
        return _Parts(name)

    @staticmethod
    def _selected(command: bytes, channel: _Channel) -> None:
        """Take note of what a SELECT that was carried out has selected."""
        p1, data = command[2], command[5 : 5 + command[4]] if len(command) > 5 else b""
        if p1 == 0x04:
            channel.place, channel.file = place_of(data), None
            return
        for fid in [int.from_bytes(data[i : i + 2]) for i in range(0, len(data) - 1, 2)] or [0x3F00]:
            if fid == 0x3F00 or (fid >> 8 == 0x7F and fid != 0x7FFF):
                channel.place, channel.file = "MF", None
            elif is_directory(fid):
                channel.file = None
            else:
                channel.file = fid


def _channel_number(cla: int) -> int:
    return 4 + (cla & 0x0F) if cla & 0x40 else cla & 0x03


def _on_channel(cla: int) -> str:
    number = _channel_number(cla)
    return f" [channel {number}]" if number else ""


def _target(p1: int, data: bytes, channel: _Channel) -> str:
    if p1 == 0x04:
        return application_name(data)
    fids = [int.from_bytes(data[i : i + 2]) for i in range(0, len(data) - 1, 2)] or [0x3F00]
    place: Place = "MF" if p1 == 0x08 and fids[0] != 0x7FFF else channel.place
    return "/".join(file_name(fid, place) for fid in fids)


def _file_command(name: str, command: bytes, channel: _Channel) -> _Parts:
    ins, p1, p2 = command[1], command[2], command[3]
    records = ins in (0xB2, 0xDC, 0xA2)
    sfi = p2 >> 3 if records else p1 & 0x1F if p1 & 0x80 else 0
    if sfi:
        file, secret = f"the file with SFI {sfi:02X}", channel.place == "USIM" and sfi in (0x08, 0x09)
    elif channel.file is None:
        file, secret = "no file", True
    else:
        file, secret = file_name(channel.file, channel.place), holds_keys(channel.file, channel.place)
    where = ""
    if records:
        where = f" {p1}" if p1 else " (next)"
    elif (offset := p2 if sfi else p1 << 8 | p2) != 0:
        where = f" from {offset}"
    words = f"{name}{where}, {file}" if records else f"{name} {file}{where}"
    spans = [(5, len(command), "content")] if secret and ins in _HAS_DATA else []
    kind: Literal["secret", "content", "other"] = "secret" if secret else "content" if ins in (0xB0, 0xB2) else "other"
    return _Parts(words, spans, _Subject(kind, file, ("content",)))


def _authenticate(p2: int, data: bytes) -> _Parts:
    context = _CONTEXTS.get(p2, f"context {p2:02X}")
    labels = _KEY_LABELS.get(p2, ("key",))
    if p2 == 0x84 and data[:1] == b"\xdd":
        context, labels = "GBA bootstrapping", ("RES",)
    elif p2 == 0x84 and data[:1] == b"\xde":
        context, labels = "GBA NAF derivation", ("Ks_ext_NAF",)
    name = "" if p2 != 0x80 else "GSM"
    return _Parts(f"AUTHENTICATE, {context}", subject=_Subject("keys", name, labels))


def _answer(data: bytes, subject: _Subject) -> tuple[str, list[Span]]:
    """Words for response data, and what of it is not to be shown."""
    if not data:
        return "", []
    match subject.kind:
        case "fcp":
            return _fcp(data), []
        case "content":
            return in_words(subject.name, data), []
        case "keys":
            return _keys(data, subject)
        case "secret":
            return octets(len(data)), [(0, len(data), subject.labels[0])]
    return octets(len(data)), []


def _keys(data: bytes, subject: _Subject) -> tuple[str, list[Span]]:
    if data[:1] == b"\xdc" and len(data) == 16 and data[1] == 14:
        return "synchronisation failure: AUTS", []
    start = 0 if subject.name == "GSM" else 1
    spans, position = [], start
    if start == 0 or data[0] == 0xDB:
        for label in subject.labels:
            if position >= len(data):
                break
            end = position + 1 + data[position]
            spans.append((position + 1, end, label))
            position = end
    if position != len(data) or not spans:
        return octets(len(data)), [(0, len(data), "answer")]
    return f"success: {', '.join(label for _, _, label in spans)}", spans


def _fcp(data: bytes) -> str:
    try:
        info = decode_fcp(data)
    except CardDataError:
        return octets(len(data))
    if info.records:
        return f"FCP: {info.records} records of {octets(info.record_length or 0)}"
    if info.size is not None:
        return f"FCP: {octets(info.size)}"
    return "FCP"


def _status(sw: int, *, said: bool) -> str:
    if sw == 0x9000:
        return "" if said else "done"
    if sw >> 8 in (0x61, 0x9F):
        return f"{octets(sw & 0xFF or 256)} wait"
    if sw >> 8 == 0x6C:
        return f"ask for {octets(sw & 0xFF or 256)}"
    if sw >> 8 == 0x91:
        return "done; a toolkit command waits"
    return meaning(sw)


def _within(spans: Iterable[Span], start: int, end: int) -> list[Span]:
    """``spans`` cut to what is there; what they do not cover is left out as well."""
    cut = [(first, min(last, end), label) for first, last, label in spans if first < end]
    covered = cut[-1][1] if cut else start
    return cut + ([(covered, end, "data")] if covered < end else [])


def _clipped(spans: list[Span], end: int) -> list[Span]:
    return [(first, min(last, end), label) for first, last, label in spans if first < min(last, end)]


def _zeroed(value: bytes, spans: list[Span]) -> bytes:
    changed = bytearray(value)
    for start, end, _ in spans:
        changed[start:end] = bytes(end - start)
    return bytes(changed)


def _hex(value: bytes, spans: list[Span]) -> str:
    pieces, position = [], 0
    for start, end, label in spans:
        pieces += [value[position:start].hex().upper(), f"<{label} {end - start}>"]
        position = end
    return " ".join(filter(None, [*pieces, value[position:].hex().upper()]))
