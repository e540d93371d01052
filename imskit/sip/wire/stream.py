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


type Frame = bytes | Ping | Pong

_FOLD = re.compile(rb"\r\n[ \t]++")
_LINE = re.compile(rb"\r\n([^\r\n:]++):([^\r\n]*+)")


class StreamFramer:
    """Collects the bytes of one TCP or TLS connection.

    A stream without readable Content-Length has lost its framing: `feed` raises `SipParseError` and the
    connection must be closed.  ``broken`` then holds the head, from which an answer may still be made.
    """

    def __init__(self, *, server: bool = True) -> None:
        """``server``: the peer opened the connection, so a double CRLF is a ping; else only pongs come."""
        self._server = server
        self._buffer = bytearray()
        self._scanned = 0
        self._wanted = 0
        self.broken = b""

    @property
    def pending(self) -> int:
        """Bytes of an unfinished message."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Take in bytes and return what is complete, in order."""
        self._buffer += data
        frames: list[Frame] = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if self._wanted:
            return self._take()
        if buffer[:2] == b"\r\n":
            if self._server and len(buffer) >= 4 and buffer[2:4] == b"\r\n":
                del buffer[:4]
                return Ping()
            if self._server and len(buffer) < 4 and b"\r\n\r\n".startswith(buffer):
                return None
            del buffer[:2]
            # From a client a single CRLF stands between messages (RFC 3261 section 7.5) and means nothing.
            return self._next() if self._server else Pong()
        if buffer == b"\r" or not buffer:
            return None
        end = buffer.find(b"\r\n\r\n", max(0, self._scanned - 3))
        if end < 0:
            self._scanned = len(buffer)
            if len(buffer) > MAXIMUM_HEAD:
                raise self._lost(f"the header is longer than {MAXIMUM_HEAD} bytes", len(buffer), 513)
            return None
        if end > MAXIMUM_HEAD:
            raise self._lost(f"the header is longer than {MAXIMUM_HEAD} bytes", end, 513)
        self._wanted = end + 4 + self._body_length(end)
        return self._take()

    def _take(self) -> bytes | None:
        if len(self._buffer) < self._wanted:
            return None
        frame = bytes(self._buffer[: self._wanted])
        del self._buffer[: self._wanted]
        self._wanted = self._scanned = 0
        return frame

    def _body_length(self, end: int) -> int:
        head = bytes(self._buffer[:end])
        lengths = set()
        for name, value in _LINE.findall(_FOLD.sub(b" ", head)):
            if field_key(name.strip(b" \t").decode("latin-1")) == "content-length":
                lengths.add(value.strip(b" \t").decode("latin-1"))
        if len(lengths) != 1:
            what = "contradictory values" if lengths else "the header is missing"
            raise self._lost(f"{what}, the stream cannot be framed", end, 400)
        try:
            length = parse_number(lengths.pop(), "Content-Length", clause="RFC 3261 section 18.3")
        except SipParseError:
            self.broken = head
            raise
        if length > MAXIMUM_BODY:
            raise self._lost(f"the body is longer than {MAXIMUM_BODY} bytes", end, 413)
        return length

    def _lost(self, what: str, end: int, status: int) -> SipParseError:
        self.broken = bytes(self._buffer[:end])
        return SipParseError(what, where="Content-Length", clause="RFC 3261 section 18.3", status=status)
