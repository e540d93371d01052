"""Lines of an AT port (ITU-T V.250 clause 5, TS 27.007 clauses 8.3, 8.17, 8.43 to 8.45, 9.2).

What modems do beside the book is read too: no quotation marks around the octets, lengths in octets instead of
characters, a session's number with ``+CCHO:`` before it or without.  ``AtError`` is all that escapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from ue_agent.uicc.errors import AtError

MAX_LINE = 2048
"""Characters; the longest answer of a card takes 530."""
MAX_SESSION = 0xFFFF_FFFF

SIM_NOT_INSERTED = 10
SIM_PIN_REQUIRED = 11
SIM_PUK_REQUIRED = 12
SIM_FAILURE = 13
SIM_BUSY = 14
SIM_WRONG = 15
INCORRECT_PASSWORD = 16

_CME = {
    0: "phone failure",
    1: "no connection to phone",
    3: "operation not allowed",
    4: "operation not supported",
    5: "PH-SIM PIN required",
    SIM_NOT_INSERTED: "SIM not inserted",
    SIM_PIN_REQUIRED: "SIM PIN required",
    SIM_PUK_REQUIRED: "SIM PUK required",
    SIM_FAILURE: "SIM failure",
    SIM_BUSY: "SIM busy",
    SIM_WRONG: "SIM wrong",
    INCORRECT_PASSWORD: "incorrect password",
    17: "SIM PIN2 required",
    18: "SIM PUK2 required",
    20: "memory full",
    21: "invalid index",
    22: "not found",
    23: "memory failure",
    24: "text string too long",
    26: "dial string too long",
    30: "no network service",
    50: "incorrect parameters",
    51: "command implemented but currently disabled",
    52: "command aborted by user",
    100: "unknown",
}
_CME_BY_TEXT = {text.lower(): code for code, text in _CME.items()}
_APDU = re.compile(r'\s*(\d{1,6})\s*,\s*"?([0-9A-Fa-f]*)"?\s*', re.ASCII)
_SESSION = re.compile(r'\s*"?(\d{1,10})"?\s*', re.ASCII)
_TRIES = re.compile(r'\s*"?([A-Za-z0-9 -]{1,40}?)"?\s*,\s*(\d{1,3})\s*(?:,.*)?', re.ASCII)
_REMOVALS = (
    re.compile(r"\+CPIN: *\"?(NOT READY|NOT INSERTED|REMOVED|SIM REMOVED)", re.IGNORECASE),
    re.compile(r"\+CME ERROR: *(10|SIM NOT INSERTED)$", re.IGNORECASE),
    re.compile(r"\+SIMCARD: *NOT AVAILABLE", re.IGNORECASE),  # SIMCom
    re.compile(r"\+QSIMSTAT: *1, *0"),  # Quectel
    re.compile(r"\^SIMST: *255"),  # Huawei
    re.compile(r"#QSS: *0"),  # Telit
    re.compile(r"\+SIM: *(REMOVED|0)", re.IGNORECASE),
)
_ARRIVALS = (
    re.compile(r"\+CPIN: *\"?(READY|SIM P[IU][NK])", re.IGNORECASE),
    re.compile(r"\+QSIMSTAT: *1, *1"),
    re.compile(r"\^SIMST: *1\b"),
    re.compile(r"#QSS: *[1-3]"),
    re.compile(r"\+SIM: *(INSERTED|1)", re.IGNORECASE),
)


@dataclass(frozen=True, slots=True)
class Final:
    """The line that ends an answer."""

    ok: bool
    cme: int | None = None
    """The number behind +CME ERROR, found from its text where the modem spells it out."""
    text: str = "OK"
    """As the modem said it."""

    def __str__(self) -> str:
        if self.cme is None or not self.text.rpartition(":")[2].strip().isdigit():
            return self.text
        return f"{self.text} ({_CME.get(self.cme, 'not in TS 27.007')})"


class SimState(Enum):
    """What AT+CPIN? says (clause 8.3)."""

    READY = "ready"
    PIN = "waits for its PIN"
    PUK = "its PIN is blocked and it waits for the PUK"
    ABSENT = "not inserted"
    BUSY = "not ready yet"
    FAILED = "does not work"

    @property
    def present(self) -> bool:
        """Whether a card is there that can be talked to."""
        return self in (SimState.READY, SimState.PIN, SimState.PUK)


class LineReader:
    """Octets to lines.  Holds ``MAX_LINE`` characters; of a longer line nothing is kept."""

    def __init__(self) -> None:
        self.dropped = 0
        """Lines that were too long: usually the wrong speed."""
        self._held = bytearray()
        self._too_long = False

    def feed(self, octets: bytes) -> list[str]:
        """Return the lines completed by ``octets``, without blanks around them and without empty ones."""
        lines = []
        *ended, rest = octets.replace(b"\r", b"\n").split(b"\n")
        for part in ended:
            self._take(part)
            if self._too_long:
                self.dropped += 1
            elif line := self._held.decode("ascii", errors="replace").strip(" \0"):
                lines.append(line)
            self._held.clear()
            self._too_long = False
        self._take(rest)
        return lines

    def _take(self, part: bytes) -> None:
        self._too_long = self._too_long or len(self._held) + len(part) > MAX_LINE
        if self._too_long:
            self._held.clear()
        else:
            self._held += part


def final_result(line: str) -> Final | None:
    """Read a final result code, ``None`` for any other line."""
    if line == "OK":
        return Final(True)
    upper = line.upper()
    if upper in ("ERROR", "COMMAND NOT SUPPORT", "COMMAND NOT SUPPORTED"):
        return Final(False, text=line)
    for prefix in ("+CME ERROR:", "+CMS ERROR:"):
        if upper.startswith(prefix):
            detail = line[len(prefix) :].strip()
            return Final(False, _cme(detail) if prefix == "+CME ERROR:" else None, line[:80])
    return None


def is_removal(line: str) -> bool:
    """Whether an unsolicited line says that the SIM card is gone."""
    return any(pattern.match(line) for pattern in _REMOVALS)


def is_arrival(line: str) -> bool:
    """Whether an unsolicited line says that a SIM card is there."""
    return any(pattern.match(line) for pattern in _ARRIVALS)


def csim(apdu: bytes) -> str:
    """AT+CSIM (clause 8.17): a command for the basic logical channel."""
    return f'AT+CSIM={2 * len(apdu)},"{apdu.hex().upper()}"'


def ccho(aid: bytes) -> str:
    """AT+CCHO (clause 8.45): open a logical channel and select an application on it."""
    return f'AT+CCHO="{aid.hex().upper()}"'


def cchc(session: int) -> str:
    """AT+CCHC (clause 8.46): close it."""
    return f"AT+CCHC={session}"


def cgla(session: int, apdu: bytes) -> str:
    """AT+CGLA (clause 8.43): a command for a logical channel."""
    return f'AT+CGLA={session},{2 * len(apdu)},"{apdu.hex().upper()}"'


def parse_apdu(line: str, prefix: str) -> tuple[bytes, int]:
    """Read ``+CSIM: <length>,<octets>`` or +CGLA's answer: response data and status word."""
    clause = "8.17" if prefix == "+CSIM:" else "8.43"
    found = _APDU.fullmatch(line[len(prefix) :])
    if found is None:
        raise AtError(f"the modem's answer behind {prefix} is not a length and octets", clause)
    length, digits = int(found[1]), found[2]
    if len(digits) % 2 or length not in (len(digits), len(digits) // 2):
        raise AtError(f"the modem announced {length} characters and sent {len(digits)}", clause)
    if len(digits) < 4:
        raise AtError("the modem's answer holds no status word", clause)
    octets = bytes.fromhex(digits)
    return octets[:-2], int.from_bytes(octets[-2:])


def parse_session(line: str) -> int:
    """Read +CCHO's answer: the session's number."""
    found = _SESSION.fullmatch(line.removeprefix("+CCHO:"))
    if found is None or int(found[1]) > MAX_SESSION:
        raise AtError("the modem's answer to AT+CCHO is not a session's number", "8.45")
    return int(found[1])


def parse_sim_state(line: str) -> SimState:
    """Read ``+CPIN: <code>``."""
    code = line.removeprefix("+CPIN:").strip().strip('"').upper()
    if code == "READY":
        return SimState.READY
    if code == "SIM PIN":
        return SimState.PIN
    if code in ("SIM PUK", "BLOCKED", "SIM BLOCKED"):
        return SimState.PUK
    if code in ("NOT INSERTED", "REMOVED", "SIM REMOVED", "ABSENT"):
        return SimState.ABSENT
    if code == "NOT READY":
        return SimState.BUSY
    if code in ("SIM PIN2", "SIM PUK2") or code.startswith("PH-"):
        return SimState.READY  # a second PIN or the device's own lock: the card itself answers
    raise AtError("the modem's answer to AT+CPIN? is none of the known codes", "8.3")


def sim_state_of(final: Final) -> SimState:
    """What a refused AT+CPIN? means."""
    match final.cme:
        case None | 10:  # modems without error codes refuse it when no card is in
            return SimState.ABSENT
        case 11:
            return SimState.PIN
        case 12:
            return SimState.PUK
        case 13 | 15:
            return SimState.FAILED
        case _:
            return SimState.BUSY


def parse_tries(lines: Iterable[str]) -> int | None:
    """Read +CPINR's answer (clause 8.65): tries left of the PIN, ``None`` if the modem does not say."""
    for line in lines:
        found = _TRIES.fullmatch(line.removeprefix("+CPINR:"))
        if found is not None and found[1].upper() in ("SIM PIN", "SIM PIN1", "SC"):
            return int(found[2])
    return None


def _cme(detail: str) -> int | None:
    if detail.isascii() and detail.isdecimal():
        return int(detail[:9])
    text = detail.strip('" .').lower().replace("(u)sim", "sim").replace("usim", "sim")
    return _CME_BY_TEXT.get(text)
