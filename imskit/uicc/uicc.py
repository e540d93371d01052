"""A UICC with USIM and ISIM at the T=0 interface (ETSI TS 102 221; TS 31.102, TS 31.103, TS 33.102).

``transmit`` takes a command as a T=0 reader delivers it and answers as a card does: outgoing data of a
command that has incoming data waits for GET RESPONSE (61xx), a wrong length is corrected by 6Cxx.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from imskit.aka.vector import MacFailure, Success, SyncFailure
from imskit.uicc.files import CURRENT_ADF, MF, Directory, ElementaryFile, Node
from imskit.uicc.gba import CardGba, GbaCommandError
from imskit.uicc.personalise import ISIM_AID, build
from imskit.uicc.pin import CardPin
from imskit.uicc.profile import CardProfile

_log = logging.getLogger(__name__)
_CHANNELS = 4
_AUTHENTICATE_DATA = 34


class _Status(Exception):
    """Ends a command with a status word."""

    def __init__(self, sw: int) -> None:
        self.sw = sw


@dataclass(slots=True)
class _Command:
    cla: int
    p1: int
    p2: int
    p3: int
    data: bytes


@dataclass(slots=True)
class _Channel:
    """What is selected on one logical channel (clause 11.1.17)."""

    directory: Directory
    application: Directory | None = None
    ef: ElementaryFile | None = None
    pending: bytes | None = None


class Uicc:
    """One card.  Reset forgets channels and PIN verification, not tries and sequence numbers."""

    def __init__(self, profile: CardProfile) -> None:
        self.atr = bytes.fromhex(profile.atr)
        """Answer to reset."""
        self.usim = profile.usim()
        """Keys and memory of sequence numbers, shared by both applications."""
        self.pin = CardPin(profile.pin, profile.pin_tries, profile.puk)
        self._mf, self._applications = build(profile)
        self._gba = {adf.aid: CardGba(adf, self.usim) for adf in self._applications if profile.gba}
        self._channels: dict[int, _Channel] = {}
        # INS: (handler, whether the command carries data to the card)
        self._instructions: dict[int, tuple[Callable[[_Command, _Channel], bytes], bool]] = {
            0xA4: (self._select, True),
            0xB0: (self._read_binary, False),
            0xB2: (self._read_record, False),
            0xD6: (self._update_binary, True),
            0xC0: (self._get_response, False),
            0xF2: (self._status, False),
            0x10: (self._terminal_profile, True),
            0x20: (lambda command, _: self._pin_command(command, self.pin.verify), True),
            0x24: (lambda command, _: self._pin_command(command, self.pin.change), True),
            0x26: (lambda command, _: self._pin_command(command, self.pin.disable), True),
            0x28: (lambda command, _: self._pin_command(command, self.pin.enable), True),
            0x2C: (lambda command, _: self._pin_command(command, self.pin.unblock), True),
            0x70: (self._manage_channel, False),
            0x88: (self._authenticate, True),
        }
        self.reset()

    @property
    def pin_tries_left(self) -> int:
        """0: the PIN is blocked."""
        return self.pin.tries_left

    @pin_tries_left.setter
    def pin_tries_left(self, tries: int) -> None:
        self.pin.tries_left = tries

    def reset(self) -> None:
        """Warm or cold reset (clause 6)."""
        self.pin.verified = False
        self._channels = {0: _Channel(self._mf)}

    def remember(self) -> dict[str, object]:
        """What outlives power, as JSON has it: sequence numbers, PIN, GBA.  It holds secrets."""
        return {
            "sqn": list(self.usim.sqn.accepted),
            "pin": self.pin.remember(),
            "gba": {aid.hex(): gba.remember() for aid, gba in self._gba.items() if aid is not None},
        }

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Take back what ``remember`` gave; ``ValueError`` if it is something else or another card's."""
        try:
            numbers = memory["sqn"]
            if not all(type(number) is int for number in numbers):
                raise ValueError("a sequence number is no number")
            self.usim.sqn.restore(numbers)
            self.pin.recall(memory["pin"])
            for aid, gba in self._gba.items():
                if aid is not None and (kept := memory["gba"].get(aid.hex())) is not None:
                    gba.recall(kept)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the card's memory is wrong: {error!r}") from error

    def transmit(self, apdu: bytes) -> bytes:
        """Answer one command: response data and status word."""
        try:
            return self._run(apdu)
        except _Status as status:
            return status.sw.to_bytes(2)

    def _run(self, apdu: bytes) -> bytes:
        if len(apdu) < 4:
            raise _Status(0x6700)
        cla, ins, p1, p2 = apdu[:4]
        channel = self._channel(cla)
        handler, incoming = self._instructions.get(ins, (None, False))
        if handler is None:
            raise _Status(0x6D00)
        if (cla & 0x80 != 0) != (ins in (0xF2, 0x10)):
            raise _Status(0x6E00)
        p3, body = apdu[4] if len(apdu) > 4 else 0, apdu[5:]
        if ins != 0xC0:
            channel.pending = None
        # A reader may leave Le behind the data although T=0 has no place for it.
        if incoming and len(body) == p3 + 1:
            body = body[:p3]
        if len(body) != (p3 if incoming else 0):
            raise _Status(0x6700)
        return handler(_Command(cla, p1, p2, p3, body), channel)

    def _channel(self, cla: int) -> _Channel:
        """Find the logical channel in CLA (clause 10.1.1); secure messaging is not offered."""
        if cla & 0x40:
            number, secure = 4 + (cla & 0x0F), cla & 0x20
        elif cla & 0x70:
            raise _Status(0x6E00)
        else:
            number, secure = cla & 0x03, cla & 0x0C
        if secure:
            raise _Status(0x6882)
        channel = self._channels.get(number)
        if channel is None:
            raise _Status(0x6881)
        return channel

    # --- files

    def _select(self, command: _Command, channel: _Channel) -> bytes:
        if command.p1 == 0x04:
            if command.p2 & ~0x0E:  # next occurrence; FCP or nothing
                raise _Status(0x6A86)
            found: Node = self._by_aid(command.data, next_one=command.p2 & 0x03 == 0x02, channel=channel)
        elif command.p2 not in (0x04, 0x0C):
            raise _Status(0x6A86)
        elif command.p1 == 0x00:
            found = self._by_fid(command.data, channel)
        elif command.p1 in (0x08, 0x09):
            found = self._by_path(command.data, self._mf if command.p1 == 0x08 else channel.directory, channel)
        else:
            raise _Status(0x6A86)
        self._enter(found, channel)
        if command.p2 & 0x0C == 0x0C:
            return b"\x90\x00"
        return self._later(found.fcp(pin_enabled=self.pin.enabled), channel)

    def _enter(self, found: Node, channel: _Channel) -> None:
        if isinstance(found, ElementaryFile):
            channel.ef = found
        else:
            channel.directory, channel.ef = found, None
            if found.aid is not None:
                channel.application = found

    def _by_aid(self, aid: bytes, *, next_one: bool, channel: _Channel) -> Directory:
        if not 5 <= len(aid) <= 16:
            raise _Status(0x6A82)
        matching = [adf for adf in self._applications if (adf.aid or b"").startswith(aid)]
        if next_one and channel.application in matching:
            matching = matching[matching.index(channel.application) + 1 :]
        if not matching:
            raise _Status(0x6A82)
        return matching[0]

    def _by_fid(self, data: bytes, channel: _Channel) -> Node:
        if len(data) not in (0, 2):
            raise _Status(0x6700)
        fid = int.from_bytes(data) if data else MF
        return self._directory(fid, channel) or self._file(fid, channel.directory)

    def _by_path(self, data: bytes, start: Directory, channel: _Channel) -> Node:
        if not data or len(data) % 2:
            raise _Status(0x6700)
        found: Node = start
        for i in range(0, len(data), 2):
            if not isinstance(found, Directory):
                raise _Status(0x6A82)
            fid = int.from_bytes(data[i : i + 2])
            found = (self._directory(fid, channel) if fid != MF else None) or self._file(fid, found)
        return found

    def _directory(self, fid: int, channel: _Channel) -> Directory | None:
        if fid == MF:
            return self._mf
        if fid == CURRENT_ADF and channel.application is not None:
            return channel.application
        return None

    @staticmethod
    def _file(fid: int, directory: Directory) -> ElementaryFile:
        found = directory.by_fid(fid)
        if found is None:
            raise _Status(0x6A82)
        return found

    def _readable(self, channel: _Channel, sfi: int | None) -> ElementaryFile:
        if sfi is not None:
            found = channel.directory.by_sfi(sfi)
            if found is None:
                raise _Status(0x6A82)
            channel.ef = found
        if channel.ef is None:
            raise _Status(0x6986)
        if channel.ef.needs_pin and not self.pin.satisfied:
            raise _Status(0x6982)
        return channel.ef

    def _read_binary(self, command: _Command, channel: _Channel) -> bytes:
        by_sfi = command.p1 & 0x80 != 0
        if by_sfi and command.p1 & 0x60:
            raise _Status(0x6A86)
        ef = self._readable(channel, command.p1 & 0x1F if by_sfi else None)
        if not isinstance(ef.content, bytes):
            raise _Status(0x6981)
        offset = command.p2 if by_sfi else command.p1 << 8 | command.p2
        if offset >= len(ef.content):
            raise _Status(0x6B00)
        return self._now(ef.content[offset:], command.p3)

    def _update_binary(self, command: _Command, channel: _Channel) -> bytes:
        ef = self._readable(channel, command.p1 & 0x1F if command.p1 & 0x80 else None)
        if not ef.updatable:
            raise _Status(0x6982)
        if not isinstance(ef.content, bytes):
            raise _Status(0x6981)
        offset = command.p2 if command.p1 & 0x80 else command.p1 << 8 | command.p2
        if offset + len(command.data) > len(ef.content):
            raise _Status(0x6B00)
        ef.content = ef.content[:offset] + command.data + ef.content[offset + len(command.data) :]
        return b"\x90\x00"

    def _read_record(self, command: _Command, channel: _Channel) -> bytes:
        if command.p2 & 0x07 != 0x04 or command.p1 == 0:  # only the absolute mode
            raise _Status(0x6A86)
        ef = self._readable(channel, command.p2 >> 3 or None)
        if isinstance(ef.content, bytes):
            raise _Status(0x6981)
        if command.p1 > len(ef.content):
            raise _Status(0x6A83)
        record = ef.content[command.p1 - 1]
        if command.p3 != len(record):
            raise _Status(0x6C00 | len(record))
        return record + b"\x90\x00"

    def _status(self, command: _Command, channel: _Channel) -> bytes:
        if command.p1 > 2 or command.p2 not in (0x00, 0x01, 0x0C):
            raise _Status(0x6A86)
        if command.p2 == 0x0C:
            return b"\x90\x00"
        if command.p2 == 0x01:
            aid = channel.application.aid if channel.application else None
            if aid is None:
                raise _Status(0x6985)
            return self._now(b"\x84" + bytes([len(aid)]) + aid, command.p3)
        return self._now(channel.directory.fcp(pin_enabled=self.pin.enabled), command.p3)

    # --- T=0 lengths

    @staticmethod
    def _now(data: bytes, le: int) -> bytes:
        """Return up to ``le`` octets (0: 256), or tell the right length."""
        wanted = le or 256
        if wanted > len(data):
            raise _Status(0x6C00 | len(data))
        return data[:wanted] + b"\x90\x00"

    @staticmethod
    def _later(data: bytes, channel: _Channel) -> bytes:
        channel.pending = data
        return bytes([0x61, len(data) & 0xFF])

    def _get_response(self, command: _Command, channel: _Channel) -> bytes:
        if channel.pending is None:
            raise _Status(0x6985)
        data, wanted = channel.pending, command.p3 or 256
        if wanted > len(data):
            raise _Status(0x6C00 | len(data))
        if wanted < len(data):
            channel.pending = data[wanted:]
            return data[:wanted] + bytes([0x61, len(channel.pending) & 0xFF])
        channel.pending = None
        return data + b"\x90\x00"

    # --- PIN, channels, authentication

    @staticmethod
    def _pin_command(command: _Command, carry_out: Callable[[bytes], int]) -> bytes:
        if command.p1 != 0 or command.p2 != 0x01:
            raise _Status(0x6A88 if command.p1 == 0 else 0x6A86)
        return carry_out(command.data).to_bytes(2)

    def _manage_channel(self, command: _Command, channel: _Channel) -> bytes:
        """Open and close logical channels (clause 11.1.17)."""
        if command.p1 == 0x80:
            if command.p2 == 0 or command.p2 not in self._channels:
                raise _Status(0x6A86)
            del self._channels[command.p2]
            return b"\x90\x00"
        if command.p1 != 0 or command.p2 >= _CHANNELS:
            raise _Status(0x6A86)
        free = [n for n in range(1, _CHANNELS) if n not in self._channels and command.p2 in (0, n)]
        if not free:
            raise _Status(0x6A81)
        if command.p2 == 0 and command.p3 != 1:
            raise _Status(0x6C01)
        from_basic = channel is self._channels[0]
        self._channels[free[0]] = _Channel(self._mf) if from_basic else _Channel(channel.directory, channel.application)
        return b"\x90\x00" if command.p2 else bytes([free[0], 0x90, 0x00])

    def _terminal_profile(self, command: _Command, channel: _Channel) -> bytes:
        return b"\x90\x00"

    def _authenticate(self, command: _Command, channel: _Channel) -> bytes:
        """AUTHENTICATE: 3G or IMS AKA, or GBA (TS 31.102 clause 7.1.2, TS 31.103 clause 7.1.2)."""
        application = channel.application
        if application is None:
            raise _Status(0x6985)
        if command.p1 != 0 or command.p2 & 0x78 or not command.p2 & 0x80:
            raise _Status(0x6A86)
        gba = self._gba.get(application.aid)
        if command.p2 != 0x81 and (command.p2 != 0x84 or gba is None):
            raise _Status(0x9864)
        if not self.pin.satisfied:
            raise _Status(0x6982)
        data = command.data
        if command.p2 == 0x84:
            assert gba is not None
            try:
                return self._later(gba.authenticate(data), channel)
            except GbaCommandError as error:
                raise _Status(error.sw) from None
        if len(data) != _AUTHENTICATE_DATA or data[0] != 16 or data[17] != 16:
            raise _Status(0x6700)
        result = self.usim.verify(data[1:17], data[18:])
        match result:
            case MacFailure():
                _log.info("AUTHENTICATE: wrong MAC")
                raise _Status(0x9862)
            case SyncFailure(auts):
                _log.info("AUTHENTICATE: sequence number not accepted")
                return self._later(bytes([0xDC, len(auts)]) + auts, channel)
            case Success():
                _log.info("AUTHENTICATE: success")
                return self._later(_keys(result, with_kc=application.aid != ISIM_AID), channel)


def _keys(result: Success, *, with_kc: bool) -> bytes:
    res, ck, ik = result.res.reveal(), result.ck.reveal(), result.ik.reveal()
    parts = [res, ck, ik]
    if with_kc and len(ck) == len(ik) == 16:  # UST service 27; function c3 of TS 33.102 6.8.1.2, for 128 bits
        halves = (ck[:8], ck[8:], ik[:8], ik[8:])
        parts.append(bytes(a ^ b ^ c ^ d for a, b, c, d in zip(*halves, strict=True)))
    return b"\xdb" + b"".join(bytes([len(part)]) + part for part in parts)
