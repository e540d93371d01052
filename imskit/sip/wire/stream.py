"""Cutting a byte stream into SIP messages (RFC 3261 sections 7.5 and 18.3, RFC 5626 section 4.4.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.fields import field_key
from imskit.sip.wire.grammar import parse_number
from imskit.sip.wire.message import MAXIMUM_BODY, MAXIMUM_HEAD


@dataclass(frozen=True, slots=True)
class Ping:
    """A double CRLF from a client: answer it with one CRLF (RFC 5626 section 4.4.1)."""


@dataclass(frozen=True, slots=True)
class Pong:
    """A single CRLF: the answer to a ping."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The stream has lost its framing: close the connection, perhaps after an answer made from ``head``."""

    error: SipParseError
    head: bytes


type Frame = bytes | Ping | Pong | Broken

_FOLD = re.compile(rb"\r\n[ \t]++")
_LINE = re.compile(rb"\r\n([^\r\n:]++):([^\r\n]*+)")


class StreamFramer:
    """Collects the bytes of one TCP or TLS connection.

    A message without readable Content-Length, or above the limits, comes out as `Broken`; nothing follows it.
    """

    def __init__(self, *, server: bool = True) -> None:
        """``server``: the peer opened the connection, so a double CRLF is a ping; else only pongs come."""
        self._server = server
        self._buffer = bytearray()
        self._scanned = 0
        self._wanted = 0
        self._broken = False

    @property
    def pending(self) -> int:
        """Bytes of an unfinished message."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Take in bytes and return what is complete, in order."""
        frames: list[Frame] = []
        if not self._broken:
            self._buffer += data
            while (frame := self._next()) is not None:
                frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        if self._broken:
            return None
        try:
            return self._cut()
        except SipParseError as error:
            end = self._buffer.find(b"\r\n\r\n")
            head = bytes(self._buffer[: end if end >= 0 else MAXIMUM_HEAD])
            self._broken = True
            self._buffer.clear()
            return Broken(error, head)

    def _cut(self) -> Frame | None:
        buffer = self._buffer
        if not self._wanted:
            while buffer.startswith(b"\r\n"):
                if not self._server:
                    del buffer[:2]
                    return Pong()
                if len(buffer) < 4 and b"\r\n\r\n".startswith(buffer):
                    return None
                if buffer.startswith(b"\r\n\r\n"):
                    del buffer[:4]
                    return Ping()
                # A single CRLF between messages means nothing (RFC 3261 section 7.5).
                del buffer[:2]
            end = buffer.find(b"\r\n\r\n", max(0, self._scanned - 3))
            if max(end, len(buffer) if end < 0 else 0) > MAXIMUM_HEAD:
                raise SipParseError(f"the header is longer than {MAXIMUM_HEAD} bytes", where="header", status=513)
            if end < 0:
                self._scanned = len(buffer)
                return None
            self._wanted = end + 4 + _body_length(bytes(buffer[:end]))
        if len(buffer) < self._wanted:
            return None
        frame = bytes(buffer[: self._wanted])
        del buffer[: self._wanted]
        self._wanted = self._scanned = 0
        return frame


def _body_length(head: bytes) -> int:
    lengths = set()
    for name, value in _LINE.findall(_FOLD.sub(b" ", head)):
        if field_key(name.strip(b" \t").decode("latin-1")) == "content-length":
            lengths.add(value.strip(b" \t").decode("latin-1"))
    if len(lengths) != 1:
        raise SipParseError(
            "two values contradict each other" if lengths else "without the header a stream cannot be framed",
            where="Content-Length",
            clause="RFC 3261 section 18.3",
        )
    length = parse_number(lengths.pop(), "Content-Length", clause="RFC 3261 section 18.3")
    if length > MAXIMUM_BODY:
        raise SipParseError(f"the body is longer than {MAXIMUM_BODY} bytes", where="Content-Length", status=413)
    return length
