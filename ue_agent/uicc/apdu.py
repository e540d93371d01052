"""Commands to a UICC and their answers (ISO/IEC 7816-4, ETSI TS 102 221 clauses 10, 11 and annex C).

``CardChannel`` hides what differs between readers: T=0's GET RESPONSE (61xx), corrected lengths (6Cxx), warnings
(62xx, 63xx) and pending proactive commands (91xx).  Its debug trace shows commands, lengths and status words;
of the data only AIDs and file identifiers, so neither keys, PIN and challenges nor identities.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from ue_agent.uicc.errors import CardError, CardUnresponsiveError
from ue_agent.uicc.transport import CardTransport

_log = logging.getLogger(__name__)
_MAX_ROUNDS = 64
"""Exchanges that one command may take; a card that wants more is broken."""

_MEANINGS = {
    0x6200: "warning, nothing said, state unchanged",
    0x6281: "part of the returned data may be corrupted",
    0x6282: "end of file or record reached before Le octets",
    0x6283: "selected file is deactivated",
    0x6284: "selected file is not as it should be",
    0x6285: "selected file is in termination state",
    0x62F1: "more data available",
    0x62F2: "more data available and a proactive command pending",
    0x62F3: "response data available",
    0x63F1: "more data expected",
    0x63F2: "more data expected and a proactive command pending",
    0x6400: "no information given, state unchanged",
    0x6500: "no information given, state changed",
    0x6581: "memory problem",
    0x6700: "wrong length",
    0x6800: "functions in CLA not supported",
    0x6881: "logical channel not supported",
    0x6882: "secure messaging not supported",
    0x6900: "command not allowed",
    0x6981: "command incompatible with the file's structure",
    0x6982: "security status not satisfied (PIN needed)",
    0x6983: "PIN blocked",
    0x6984: "PIN disabled",
    0x6985: "conditions of use not satisfied",
    0x6986: "no file selected",
    0x6989: "secure channel needed",
    0x6A80: "incorrect parameters in the data",
    0x6A81: "function not supported",
    0x6A82: "file or application not found",
    0x6A83: "record not found",
    0x6A84: "not enough memory space",
    0x6A86: "incorrect parameters P1 P2",
    0x6A87: "length inconsistent with P1 P2",
    0x6A88: "referenced data not found",
    0x6B00: "wrong parameters P1 P2 (outside the file)",
    0x6D00: "instruction not supported",
    0x6E00: "class not supported",
    0x6F00: "technical problem, no precise diagnosis",
    0x9300: "card toolkit is busy",
    0x9850: "increase cannot be performed",
    0x9862: "authentication error, incorrect MAC",
    0x9863: "security session or association expired",
    0x9864: "authentication context not supported",
    0x9865: "key freshness failure",
    0x9866: "authentication error, no memory space available",
    0x9867: "authentication error, no memory space available in EF_MUK",
    # GSM cards and old USIMs (TS 51.011 clause 9.4)
    0x9240: "memory problem",
    0x9400: "no file selected",
    0x9402: "outside the file",
    0x9404: "file not found",
    0x9408: "command incompatible with the file",
    0x9802: "no PIN initialised",
    0x9804: "access condition not fulfilled, or wrong PIN with tries left",
    0x9808: "in contradiction with the PIN's state",
    0x9840: "PIN blocked",
}
_MEANINGS_BY_SW1 = {
    0x61: "response data waits",
    0x62: "warning, state unchanged",
    0x63: "warning, state changed",
    0x64: "execution error, state unchanged",
    0x65: "execution error, state changed",
    0x67: "wrong length",
    0x68: "functions in CLA not supported",
    0x69: "command not allowed",
    0x6A: "wrong parameters",
    0x6C: "wrong Le",
    0x6F: "technical problem",
    0x92: "memory problem",
    0x94: "file error",
    0x98: "security error",
    0x9F: "response data waits",
}
"""What holds for all that have this first octet and are not in the table above."""


def meaning(sw: int) -> str:
    """Say what a status word means (TS 102 221 clause 10.2.1, TS 31.102 clause 7.3)."""
    if sw == 0x9000 or sw >> 8 == 0x91:
        return "normal ending"
    if sw & 0xFFF0 == 0x63C0:
        return f"PIN not verified, {sw & 0x0F} tries left"
    return _MEANINGS.get(sw) or _MEANINGS_BY_SW1.get(sw >> 8) or "unknown status"


@dataclass(frozen=True, slots=True)
class Command:
    """One command.  ``name`` is for errors and the trace and holds no data."""

    name: str
    ins: int
    p1: int = 0
    p2: int = 0
    data: bytes = field(default=b"", repr=False)
    le: int | None = None
    """Octets expected, 256 for all there are, ``None`` for no answer."""
    public: bool = False
    """Whether command data may be traced."""

    def encode(self, *, t0: bool) -> bytes:
        """Return the command's octets; T=0 has no Le behind data, GET RESPONSE asks for it."""
        apdu = bytes([0x00, self.ins, self.p1, self.p2])
        if self.data:
            apdu += bytes([len(self.data)]) + self.data
        if self.le is not None and not (t0 and self.data):
            apdu += bytes([self.le & 0xFF])
        elif not self.data:
            apdu += b"\0" if t0 else b""
        return apdu


@dataclass(frozen=True, slots=True)
class Answer:
    """Response data and the final status word (never 61xx or 6Cxx)."""

    data: bytes = field(repr=False)
    sw: int

    @property
    def ok(self) -> bool:
        """Whether the command was carried out: 9000, 91xx, or a warning 62xx that came with data."""
        return self.sw == 0x9000 or self.sw >> 8 == 0x91 or (self.sw >> 8 == 0x62 and bool(self.data))


def select_aid(aid: bytes) -> Command:
    """SELECT an application by its (partial) AID, with FCP."""
    return Command(f"SELECT {aid.hex().upper()}", 0xA4, 0x04, 0x04, aid, 256, public=True)


def select_file(fid: int, name: str) -> Command:
    """SELECT a file below the current directory, with FCP."""
    return Command(f"SELECT {name}", 0xA4, 0x00, 0x04, fid.to_bytes(2), 256, public=True)


def read_binary(offset: int, name: str, le: int = 256) -> Command:
    """READ BINARY of the selected file from ``offset`` (below 32768)."""
    return Command(f"READ BINARY of {name}", 0xB0, offset >> 8, offset & 0xFF, le=le)


def read_record(number: int, name: str, le: int = 256) -> Command:
    """READ RECORD ``number`` (from 1) of the selected file."""
    return Command(f"READ RECORD {number} of {name}", 0xB2, number, 0x04, le=le)


def update_binary(offset: int, name: str, content: bytes) -> Command:
    """UPDATE BINARY of the selected file from ``offset`` (below 32768), at most 255 octets."""
    return Command(f"UPDATE BINARY of {name}", 0xD6, offset >> 8, offset & 0xFF, content)


def query_pin(reference: int) -> Command:
    """VERIFY PIN without data: asks for the tries left."""
    return Command("VERIFY PIN (tries left?)", 0x20, 0x00, reference)


def verify_pin(reference: int, pin: str) -> Command:
    """VERIFY PIN."""
    return Command("VERIFY PIN", 0x20, 0x00, reference, pin.encode("ascii").ljust(8, b"\xff"))


def authenticate(rand: bytes, autn: bytes) -> Command:
    """AUTHENTICATE in the 3G or IMS AKA context (TS 31.102 and 31.103 clause 7.1.2)."""
    data = bytes([len(rand)]) + rand + bytes([len(autn)]) + autn
    return Command("AUTHENTICATE", 0x88, 0x00, 0x81, data, 256)


class CardChannel:
    """Sends commands over the basic logical channel."""

    def __init__(self, transport: CardTransport) -> None:
        self._transport = transport

    def send(self, command: Command) -> Answer:
        """Carry out ``command`` with all it takes on the way; the answer may be a refusal."""
        t0 = self._transport.t0
        data, sw = self._exchange(command.name, command.encode(t0=t0), public=command.public)
        received, warning = data, 0
        for _ in range(_MAX_ROUNDS):
            sw1, sw2 = sw >> 8, sw & 0xFF
            # Under T=0 a command with data is not repeated: it was carried out, what waits is its answer.
            if sw1 in (0x61, 0x9F) or (sw1 == 0x6C and t0 and command.data):
                apdu, name = bytes([0x00, 0xC0, 0x00, 0x00, sw2]), "GET RESPONSE"
            elif sw1 == 0x6C:
                apdu, name = replace(command, le=sw2).encode(t0=t0), f"{command.name} again"
            elif sw1 == 0x62 and not received and t0 and command.data and command.le is not None and not warning:
                # The data of a command that ended with a warning still waits (TS 102 221 annex C.1).
                warning = sw
                apdu, name = b"\x00\xc0\x00\x00\x00", "GET RESPONSE"
            else:
                return Answer(received, warning if warning and (sw == 0x9000 or not received) else sw)
            data, sw = self._exchange(name, apdu, public=command.public)
            received += data
        raise CardUnresponsiveError(f"the card does not come to an end with {command.name}")

    def require(self, command: Command) -> bytes:
        """Carry out ``command`` and return its data; ``CardError`` if the card refuses."""
        answer = self.send(command)
        if not answer.ok:
            raise CardError(answer.sw, meaning(answer.sw), command.name)
        return answer.data

    def _exchange(self, name: str, apdu: bytes, *, public: bool) -> tuple[bytes, int]:
        shown = apdu if public else apdu[:5]
        _log.debug("> %s  [%s, %d octets]", shown.hex().upper(), name, len(apdu))
        data, sw = self._transport.transmit(apdu)
        _log.debug("< %04X %s  [%d octets]", sw, meaning(sw) if sw >> 8 not in (0x61, 0x6C) else "", len(data))
        return data, sw
