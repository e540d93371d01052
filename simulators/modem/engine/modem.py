"""A modem at its AT port (ITU-T V.250 clause 5; TS 27.007 clauses 8.3, 8.17, 8.43 to 8.46, 8.65, 9.2).

It is what a program that talks to SIM cards sees: PIN state, logical channels, raw commands, errors in three forms,
unsolicited lines.  What real modems do in their own ways is switched on by ``Quirk``.  Pure: octets in, octets out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection
from enum import StrEnum
from typing import Protocol

_log = logging.getLogger(__name__)
_MAX_LINE = 1200
_OK = 0x9000

_CME_TEXT = {
    3: "operation not allowed",
    4: "operation not supported",
    10: "SIM not inserted",
    11: "SIM PIN required",
    12: "SIM PUK required",
    13: "SIM failure",
    14: "SIM busy",
    16: "incorrect password",
    20: "memory full",
    21: "invalid index",
    22: "not found",
    50: "incorrect parameters",
}


class Quirk(StrEnum):
    """What a modem may do beside or against the book."""

    KEEPS_ECHO = "keeps-echo"
    """ATE0 changes nothing."""
    PLAIN_ERRORS = "plain-errors"
    """ERROR whatever AT+CMEE says."""
    VERBOSE_ERRORS = "verbose-errors"
    """+CME ERROR with words whatever AT+CMEE says."""
    HIDES_61XX = "hides-61xx"
    """Fetches answers and corrects lengths itself."""
    WANTS_LE = "wants-le"
    """Gives no data back to a command that was written without Le, as a T=1 card."""
    NO_CCHO = "no-ccho"
    NO_CGLA = "no-cgla"
    """Opens channels and refuses to pass commands on."""
    NO_CSIM = "no-csim"
    NO_CPINR = "no-cpinr"
    ODD_SESSIONS = "odd-sessions"
    """Sessions are numbered from 101, and are not the channel's number."""
    LITERAL_CLA = "literal-cla"
    """Passes CLA on as it is; else the modem puts the channel's number in."""
    CCHO_PREFIX = "ccho-prefix"
    """Answers AT+CCHO with ``+CCHO: 1`` instead of ``1``."""
    BARE_OCTETS = "bare-octets"
    """Writes answers in small letters and without quotation marks."""
    COUNTS_OCTETS = "counts-octets"
    """Gives lengths in octets instead of characters."""
    CHATTERS = "chatters"
    """Puts an unsolicited line before each information line and before each result."""
    LOCKS_WITHOUT_PIN = "locks-without-pin"
    """Lets nothing through to the card before AT+CPIN."""
    BUSY = "busy"
    """Answers AT+CPIN? with "SIM busy", as after switching on."""
    MUTE = "mute"
    """Takes commands and never answers."""


class Card(Protocol):
    """The card in its slot; raises ``CardGone`` when it is pulled in the middle of a command."""

    def reset(self) -> None:
        """Power."""

    def transmit(self, apdu: bytes) -> bytes:
        """Answer one command as a T=0 card does."""


class CardGone(Exception):
    """The card was pulled."""


class _Refusal(Exception):
    """Ends a command line with an error."""

    def __init__(self, cme: int | None = None) -> None:
        self.cme = cme


class Modem:
    """See the module's text."""

    def __init__(self, card: Card | None = None, quirks: Collection[Quirk] = ()) -> None:
        self.quirks = set(quirks)
        """Can be changed while it runs."""
        self._held = bytearray()
        self._echo = True
        self._cmee = 0
        self._card: Card | None = None
        self._pin_verified = False
        self._sessions: dict[int, int] = {}
        self._handlers: dict[str, Callable[[str], list[str]]] = {
            "+CMEE": self._set_cmee,
            "+CPIN": self._pin,
            "+CPINR": self._tries,
            "+CCHO": self._open_channel,
            "+CCHC": self._close_channel,
            "+CGLA": self._on_channel,
            "+CSIM": self._on_basic_channel,
            "+CGMI": lambda _: ["imsbridge"],
            "+CGMM": lambda _: ["emulated modem"],
        }
        if card is not None:
            self.insert(card)

    @property
    def sessions(self) -> dict[int, int]:
        """Open sessions and their logical channels."""
        return dict(self._sessions)

    def insert(self, card: Card) -> bytes:
        """Put a card in; returns what the modem says on its own."""
        card.reset()
        self._card, self._pin_verified, self._sessions = card, False, {}
        return _line(f"+CPIN: {self._pin_state()}")

    def remove(self) -> bytes:
        """Pull the card; returns what the modem says on its own."""
        if self._card is None:
            return b""
        self._card, self._sessions = None, {}
        return _line("+CPIN: NOT READY")

    def receive(self, octets: bytes) -> bytes:
        """Take octets from the port; returns what the modem writes."""
        written = b""
        for octet in octets:
            if Quirk.MUTE in self.quirks:
                continue
            if self._echo or Quirk.KEEPS_ECHO in self.quirks:
                written += bytes([octet])
            if octet in b"\r\n":
                line = self._held.decode("ascii", errors="replace").strip()
                self._held.clear()
                if line:
                    written += self._command_line(line)
            elif octet in b"\b\x7f":
                del self._held[-1:]
            elif len(self._held) < _MAX_LINE:
                self._held.append(octet)
        return written

    # --- command lines

    def _command_line(self, line: str) -> bytes:
        start = line.upper().find("AT")
        if start < 0:
            return b""
        said: list[str] = []
        try:
            for command in _commands(line[start + 2 :]):
                said += self._command(command)
        except _Refusal as refusal:
            return self._say([*said, self._error(refusal.cme)])
        except CardGone:
            self.remove()
            return self._say([*said, self._error(10), "+CPIN: NOT READY"])
        return self._say([*said, "OK"])

    def _say(self, lines: list[str]) -> bytes:
        if Quirk.CHATTERS not in self.quirks:
            return b"".join(map(_line, lines))
        chatter = ("+CREG: 1", "^RSSI: 21", "RING", '+CUSD: 0,"a balance, perhaps",15')
        return b"".join(_line(chatter[i % len(chatter)]) + _line(line) for i, line in enumerate(lines))

    def _error(self, cme: int | None) -> str:
        if cme is None or Quirk.PLAIN_ERRORS in self.quirks:
            return "ERROR"
        if Quirk.VERBOSE_ERRORS in self.quirks or self._cmee == 2:
            return f"+CME ERROR: {_CME_TEXT[cme]}"
        return f"+CME ERROR: {cme}" if self._cmee == 1 else "ERROR"

    def _command(self, command: str) -> list[str]:
        if not command:
            return []
        if command.upper() in ("E0", "E1", "E"):
            self._echo = command.upper() == "E1"
            return []
        if command.upper() in ("Z", "&F", "V1", "Q0"):
            self._echo, self._cmee = (True, 0) if command.upper() in ("Z", "&F") else (self._echo, self._cmee)
            return []
        found = re.fullmatch(r"(\+[A-Z]+)(=\?|[=?].*)?", command, re.IGNORECASE)
        handler = self._handlers.get(found[1].upper()) if found else None
        if found is None or handler is None or self._lacks(found[1].upper()):
            raise _Refusal
        if found[2] == "=?":
            return []
        return handler(found[2] or "")

    def _lacks(self, name: str) -> bool:
        missing = {
            "+CCHO": Quirk.NO_CCHO,
            "+CCHC": Quirk.NO_CCHO,
            "+CGLA": Quirk.NO_CGLA,
            "+CSIM": Quirk.NO_CSIM,
            "+CPINR": Quirk.NO_CPINR,
        }
        return missing.get(name) in self.quirks

    def _set_cmee(self, rest: str) -> list[str]:
        if rest == "?":
            return [f"+CMEE: {self._cmee}"]
        if rest not in ("=0", "=1", "=2"):
            raise _Refusal(50)
        self._cmee = int(rest[1])
        return []

    # --- PIN

    def _pin(self, rest: str) -> list[str]:
        if rest == "?":
            if self._card is None:
                raise _Refusal(10)
            if Quirk.BUSY in self.quirks:
                raise _Refusal(14)
            return [f"+CPIN: {self._pin_state()}"]
        if not rest.startswith("="):
            raise _Refusal(50)
        pin = _string(rest[1:])
        if not re.fullmatch(r"\d{4,8}", pin):
            raise _Refusal(50)
        if self._pin_state() != "SIM PIN":
            raise _Refusal(3)
        _, sw = self._ask(b"\x00\x20\x00\x01\x08" + pin.encode().ljust(8, b"\xff"))
        if sw != _OK:
            raise _Refusal(12 if self._tries_left() == 0 else 16)
        self._pin_verified = True
        return []

    def _tries(self, rest: str) -> list[str]:
        if rest and not rest.startswith("="):
            raise _Refusal(50)
        return [f"+CPINR: SIM PIN,{self._tries_left()},3"]

    def _pin_state(self) -> str:
        left = self._tries_left()
        if left == 0:
            return "SIM PUK"
        return "READY" if left is None or self._pin_verified else "SIM PIN"

    def _tries_left(self) -> int | None:
        """Tries of the PIN, ``None`` if it is disabled or verified."""
        _, sw = self._ask(bytes.fromhex("0020000100"))
        if sw & 0xFFF0 == 0x63C0:
            return sw & 0x0F
        return 0 if sw == 0x6983 else None

    # --- commands for the card

    def _open_channel(self, rest: str) -> list[str]:
        self._must_be_open()
        aid = _octets(_string(rest.removeprefix("=")))
        if not 5 <= len(aid) <= 16:
            raise _Refusal(50)
        answer, sw = self._ask(bytes.fromhex("0070000001"))
        if sw != _OK or len(answer) != 1:
            raise _Refusal(20)
        channel = answer[0]
        _, sw = self._ask(bytes([channel, 0xA4, 0x04, 0x0C, len(aid)]) + aid)
        if sw != _OK:
            self._ask(bytes([0x00, 0x70, 0x80, channel, 0x00]))
            raise _Refusal(22)
        session = channel + 100 if Quirk.ODD_SESSIONS in self.quirks else channel
        self._sessions[session] = channel
        return [f"+CCHO: {session}" if Quirk.CCHO_PREFIX in self.quirks else str(session)]

    def _close_channel(self, rest: str) -> list[str]:
        session = _number(rest.removeprefix("="))
        if session not in self._sessions:
            raise _Refusal(21)
        self._ask(bytes([0x00, 0x70, 0x80, self._sessions.pop(session), 0x00]))
        return []

    def _on_channel(self, rest: str) -> list[str]:
        self._must_be_open()
        number, _, command = rest.removeprefix("=").partition(",")
        channel = self._sessions.get(_number(number))
        if channel is None:
            raise _Refusal(21)
        apdu = _apdu(command)
        if Quirk.LITERAL_CLA not in self.quirks:
            apdu = bytes([apdu[0] & ~0x03 | channel]) + apdu[1:]
        return [self._shown("+CGLA", self._pass_on(apdu))]

    def _on_basic_channel(self, rest: str) -> list[str]:
        self._must_be_open()
        return [self._shown("+CSIM", self._pass_on(_apdu(rest.removeprefix("="))))]

    def _must_be_open(self) -> None:
        if self._card is None:
            raise _Refusal(10)
        if Quirk.LOCKS_WITHOUT_PIN in self.quirks and (state := self._pin_state()) != "READY":
            raise _Refusal(12 if state == "SIM PUK" else 11)

    def _pass_on(self, apdu: bytes) -> bytes:
        incoming = len(apdu) > 5
        has_le = incoming and len(apdu) == 6 + apdu[4]
        if Quirk.WANTS_LE in self.quirks and incoming:
            data, sw = self._fetch(apdu[: 5 + apdu[4]])
            return (data if has_le else b"") + sw.to_bytes(2)
        if Quirk.HIDES_61XX in self.quirks or Quirk.WANTS_LE in self.quirks:
            data, sw = self._fetch(apdu)
        else:
            data, sw = self._ask(apdu)
        return data + sw.to_bytes(2)

    def _fetch(self, apdu: bytes) -> tuple[bytes, int]:
        """Ask as a terminal with T=0 does (TS 102 221 clause 7.3.1.1)."""
        data, sw = self._ask(apdu)
        received = data
        while sw >> 8 in (0x61, 0x6C):
            again = bytes([apdu[0] & 0x7F, 0xC0, 0, 0]) if sw >> 8 == 0x61 else apdu[:4]
            data, sw = self._ask(again + bytes([sw & 0xFF]))
            received += data
        return received, sw

    def _ask(self, apdu: bytes) -> tuple[bytes, int]:
        if self._card is None:
            raise _Refusal(10)
        answer = self._card.transmit(apdu)
        return answer[:-2], int.from_bytes(answer[-2:])

    def _shown(self, name: str, answer: bytes) -> str:
        digits = answer.hex().upper()
        length = len(answer) if Quirk.COUNTS_OCTETS in self.quirks else len(digits)
        octets = digits.lower() if Quirk.BARE_OCTETS in self.quirks else f'"{digits}"'
        return f"{name}: {length},{octets}"


def _line(text: str) -> bytes:
    return b"\r\n" + text.encode() + b"\r\n"


def _commands(body: str) -> list[str]:
    """Split a command line at the semicolons outside strings (V.250 clause 5.4.1)."""
    return [command.strip() for command in re.split(r';(?=(?:[^"]*"[^"]*")*[^"]*$)', body)]


def _string(text: str) -> str:
    return text.strip().strip('"')


def _number(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text.strip()):
        raise _Refusal(50)
    return int(text)


def _octets(digits: str) -> bytes:
    if len(digits) % 2 or not re.fullmatch(r"[0-9A-Fa-f]*", digits):
        raise _Refusal(50)
    return bytes.fromhex(digits)


def _apdu(text: str) -> bytes:
    """``<length>,<command>``, the length in characters."""
    length, _, command = text.partition(",")
    apdu = _octets(_string(command))
    if len(apdu) < 4 or _number(length) != 2 * len(apdu):
        raise _Refusal(50)
    return apdu
