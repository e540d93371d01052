"""A modem's SIM card by AT commands: which of them the modem has, logical channels, the PIN (TS 27.007 clause 8).

Preferred is a logical channel of our own, so that the modem's own use of the card is not disturbed: AT+CCHO, AT+CGLA;
where the modem refuses these AT+CSIM with a channel opened by MANAGE CHANNEL, and the basic channel as the last
resort.  Who puts the channel's number into CLA differs (the book says the modem): it is put in here too, and left out
where the card then does not know the channel.  Blocking, but without I/O of its own: ``exchange`` does that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ue_agent.uicc.engine.at_line import Ask, Reply
from ue_agent.uicc.errors import (
    AtError,
    CardRemovedError,
    CardUnresponsiveError,
    PinBlockedError,
    PinRequiredError,
    UiccError,
)
from ue_agent.uicc.files import ISIM_AID, USIM_AID
from ue_agent.uicc.wire import at
from ue_agent.uicc.wire.at import Final, SimState

_log = logging.getLogger(__name__)
_GREETING_SECONDS = 1.0
_GREETINGS = 3
_PIN = 0x01
_OK = 0x9000
_PIN_NEEDED = 0x6982
_NO_SUCH_CHANNEL = (0x6881, 0x6E00)

type Exchange = Callable[[Ask], Reply]
"""Carry out one AT command; ``CardUnresponsiveError`` or ``CardRemovedError`` if it gets no answer."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A way to the card.  Its text form is kept on file while it is open, for the case that this program crashes."""

    kind: Literal["session", "channel", "basic"]
    """By AT+CGLA; by AT+CSIM with a channel of its own; by AT+CSIM."""
    number: int = 0
    """Session or channel."""

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"

    @classmethod
    def parse(cls, text: str) -> Channel | None:
        """Read the text form, ``None`` if it is none or nothing that needs to be closed."""
        kind, _, number = text.strip().partition(" ")
        if kind in ("session", "channel") and number.isascii() and number.isdecimal() and len(number) <= 10:
            return cls("session" if kind == "session" else "channel", int(number))
        return None


_LOCKED = Channel("basic", -1)
"""Stands for a card that the modem does not let anyone talk to before its PIN is verified."""


def greet(exchange: Exchange, seconds: float) -> None:
    """Find out whether a modem listens, end its echo, ask for numbers in errors.

    ``CardUnresponsiveError`` if it does not; ``seconds`` is the limit of each command.
    """
    for attempt in range(_GREETINGS):
        try:
            # The first characters may end a line that somebody else has begun, or set the speed.
            greeted = exchange(Ask("AT", seconds=min(seconds, _GREETING_SECONDS))).final.ok
        except CardUnresponsiveError:
            if attempt == _GREETINGS - 1:
                raise
        else:
            if greeted:
                break
    exchange(Ask("ATE0", seconds=seconds))
    exchange(Ask("AT+CMEE=1", seconds=seconds))


def sim_state(exchange: Exchange, seconds: float) -> SimState:
    """Ask what state the SIM card is in; this never costs a PIN try."""
    reply = exchange(Ask("AT+CPIN?", "+CPIN:", seconds=seconds))
    if not reply.final.ok:
        return at.sim_state_of(reply.final)
    if not reply.lines:
        raise AtError("the modem answers AT+CPIN? with OK alone", "8.3")
    return at.parse_sim_state(reply.lines[-1])


class ModemCard:
    """The card in the modem.  Errors are those of ``CardTransport``, and the PIN errors."""

    def __init__(self, exchange: Exchange, seconds: float) -> None:
        self._exchange = exchange
        self._seconds = seconds
        self._proven = False
        """Whether a command has reached the card on this channel."""
        self._number_in_cla = True
        self.t0 = True
        """Whether commands are to be written as for T=0: without Le behind data."""
        self.channel = Channel("basic")

    def open(self) -> None:
        """Find a way to the card."""
        self._proven, self._number_in_cla, self.t0 = False, True, True
        self.channel = self._open_session() or self._open_by_csim()
        _log.info("SIM card of the modem: %s", self)

    def __str__(self) -> str:
        match self.channel:
            case Channel("session", number):
                return f"AT+CGLA, session {number}"
            case Channel("channel", number):
                return f"AT+CSIM, logical channel {number}"
            case _ if self.channel is _LOCKED:
                return "the modem wants its PIN first"
            case _:
                return "AT+CSIM, basic channel"

    def transmit(self, apdu: bytes) -> tuple[bytes, int]:
        """Send one command that names the basic channel; see ``CardTransport``."""
        if self.channel is _LOCKED:
            return self._while_locked(apdu)
        data, sw = self._carry(apdu)
        if sw in _NO_SUCH_CHANNEL and not self._proven and self.channel.number and self._number_in_cla:
            self._number_in_cla = False
            data, sw = self._carry(apdu)
        if (data, sw) == (b"", _OK) and self.t0 and _wants_fcp(apdu):
            # A T=1 card, or a modem that takes "no Le" by its word: ask again with it, and so from now on.
            data, sw = self._carry(apdu + b"\0")
            self.t0 = not data
        self._proven = True
        return data, sw

    def close(self) -> None:
        """Give the channel back; raises what ``exchange`` raises."""
        close_channel(self._exchange, self.channel, self._seconds)
        self.channel = Channel("basic")

    # --- channels

    def _open_session(self) -> Channel | None:
        for aid in (ISIM_AID, USIM_AID):
            reply = self._exchange(Ask(at.ccho(aid), "+CCHO:", bare=True, seconds=self._seconds))
            if reply.final.ok:
                if not reply.lines:
                    raise AtError("the modem answers AT+CCHO with OK alone", "8.45")
                return Channel("session", at.parse_session(reply.lines[-1]))
            if reply.final.cme == at.SIM_NOT_INSERTED:
                raise _refused(reply.final)
            _log.debug("AT+CCHO: %s", reply.final)
        return None

    def _open_by_csim(self) -> Channel:
        reply = self._csim(bytes.fromhex("0070000001"))
        if not reply.final.ok:
            if reply.final.cme == at.SIM_PIN_REQUIRED:
                return _LOCKED
            if reply.final.cme is None or reply.final.cme in (3, 4, 50, 100):
                raise CardUnresponsiveError(
                    "this modem lets nobody talk to its SIM card: it refuses AT+CCHO with AT+CGLA and AT+CSIM "
                    f"({reply.final}); see its manual on how to permit them"
                )
            raise _refused(reply.final)
        data, sw = _answer(reply, "+CSIM:")
        if sw >> 8 == 0x61:
            data, sw = _answer(self._csim(bytes([0x00, 0xC0, 0x00, 0x00, sw & 0xFF])), "+CSIM:")
        if sw == _OK and len(data) == 1 and 1 <= data[0] <= 19:
            return Channel("channel", data[0])
        _log.info("no logical channel (%04X): the basic one is shared with the modem", sw)
        return Channel("basic")

    # --- commands

    def _carry(self, apdu: bytes) -> tuple[bytes, int]:
        channel = self.channel
        numbered = bytes([_class(apdu[0], channel.number)]) + apdu[1:] if self._number_in_cla else apdu
        if channel.kind != "session":
            return _answer(self._csim(numbered), "+CSIM:")
        reply = self._exchange(Ask(at.cgla(channel.number, numbered), "+CGLA:", seconds=self._seconds))
        if not reply.final.ok and not self._proven and reply.final.cme != at.SIM_NOT_INSERTED:
            # It opens channels but passes nothing on.  Nothing has reached the card: another way is safe.
            _log.info("AT+CGLA is refused (%s): AT+CSIM instead", reply.final)
            close_channel(self._exchange, channel, self._seconds)
            self.channel = self._open_by_csim()
            return self.transmit(apdu)
        return _answer(reply, "+CGLA:")

    def _csim(self, apdu: bytes) -> Reply:
        return self._exchange(Ask(at.csim(apdu), "+CSIM:", seconds=self._seconds))

    # --- before the PIN

    def _while_locked(self, apdu: bytes) -> tuple[bytes, int]:
        """VERIFY PIN by AT+CPIN; everything else has to wait for it."""
        if apdu[1] != 0x20 or apdu[3] != _PIN:
            return b"", _PIN_NEEDED
        tries = self._tries()
        pin = apdu[5:13].rstrip(b"\xff").decode("ascii", errors="replace")
        if not pin or tries <= 1:
            return b"", 0x63C0 | min(tries, 15)
        if not pin.isdecimal():
            return b"", 0x6A80
        reply = self._exchange(Ask(f'AT+CPIN="{pin}"', "+CPIN:", seconds=self._seconds))
        if not reply.final.ok:
            if reply.final.cme not in (None, at.INCORRECT_PASSWORD, at.SIM_PIN_REQUIRED, at.SIM_PUK_REQUIRED):
                raise _refused(reply.final)
            return b"", 0x63C0 | min(self._tries(), 15)
        self.open()
        if self.channel is _LOCKED:
            raise CardUnresponsiveError("the modem took the PIN and still says that it wants it")
        return b"", _OK

    def _tries(self) -> int:
        if sim_state(self._exchange, self._seconds) is SimState.PUK:
            return 0
        reply = self._exchange(Ask('AT+CPINR="SIM PIN"', "+CPINR:", seconds=self._seconds))
        tries = at.parse_tries(reply.lines) if reply.final.ok else None
        if tries is None:
            raise PinRequiredError(
                "the modem wants the SIM card's PIN first and does not say how many tries are left (AT+CPINR); "
                "none is risked: enter it with AT+CPIN, or switch the PIN off in a phone"
            )
        return tries


def close_channel(exchange: Exchange, channel: Channel, seconds: float) -> None:
    """Close a channel; one that is closed already is no error."""
    match channel:
        case Channel("session", number):
            reply = exchange(Ask(at.cchc(number), "+CCHC:", seconds=seconds))
        case Channel("channel", number):
            reply = exchange(Ask(at.csim(bytes([0x00, 0x70, 0x80, number, 0x00])), "+CSIM:", seconds=seconds))
        case _:
            return
    _log.debug("%s closed: %s", channel, reply.final)


def _answer(reply: Reply, prefix: str) -> tuple[bytes, int]:
    if not reply.final.ok:
        raise _refused(reply.final)
    if not reply.lines:
        raise AtError(f"the modem answers with OK but without {prefix}", "8.17, 8.43")
    return at.parse_apdu(reply.lines[-1], prefix)


def _refused(final: Final) -> UiccError:
    match final.cme:
        case at.SIM_NOT_INSERTED:
            return CardRemovedError("the SIM card was taken out of the modem")
        case at.SIM_PIN_REQUIRED:
            return PinRequiredError("the modem wants the SIM card's PIN first; enter it with AT+CPIN")
        case at.SIM_PUK_REQUIRED:
            return PinBlockedError("the PIN is blocked; unblock it with the PUK in a phone")
    return CardUnresponsiveError(f"the modem does not pass the command on to its SIM card: {final}")


def _class(cla: int, channel: int) -> int:
    """CLA for a logical channel (TS 102 221 clause 10.1.1); sessions with other numbers are left to the modem."""
    if 1 <= channel <= 3:
        return cla | channel
    if 4 <= channel <= 19:
        return cla | 0x40 | channel - 4
    return cla


def _wants_fcp(apdu: bytes) -> bool:
    """Whether it is a SELECT that asks for the FCP, written without Le."""
    return apdu[1] == 0xA4 and apdu[3] & 0x0C == 0x04 and len(apdu) == 5 + apdu[4]
