"""The session description in a message's body, alone or as a part of a multipart one (RFC 5621, RFC 2046).

Whatever is no session description stays octet for octet.  Descriptions that are not the session's (early-session,
RFC 3959) cannot be interworked and are taken out, so that no address of one side reaches the other.
"""

from __future__ import annotations

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.headers import MediaType
from imskit.sip.wire.message import Message

SDP = "application/sdp"
_PARTS = 32
_BOUNDARY = 70
"""RFC 2046 section 5.1.1."""


class SessionBody:
    """Finds the description of ``message``, and puts another in its place.

    The constructor raises `SipParseError`: 400 for a body that cannot be split or has no type, 415 for one that is
    encoded, or has descriptions where they cannot be reached.
    """

    def __init__(self, message: Message) -> None:
        self._message = message
        self.sdp: bytes | None = None
        """The session description; None when there is none."""
        self._parts: list[tuple[bytes, bytes]] = []
        self._boundary = b""
        self._index = -1
        if message.body:
            self._read(message)

    def put(self, sdp: bytes | None) -> None:
        """Put ``sdp`` in the place of the description, or where there was no body; None takes it out."""
        message = self._message
        if not self._parts:
            if sdp is not None:
                message.set_body(sdp, message.headers.get("Content-Type") or SDP)
            elif self.sdp is not None:
                remove_body(message)
        else:
            if self._index < 0:
                return
            if sdp is None:
                del self._parts[self._index]
                self._index = -1
            else:
                self._parts[self._index] = (_without_length(self._parts[self._index][0]), sdp)
            self._join()
        self.sdp = sdp

    def _read(self, message: Message) -> None:
        encoding = message.headers.get("Content-Encoding")
        if encoding and encoding.strip().lower() != "identity":
            raise _refusal("the body is encoded", "Content-Encoding", "RFC 3261 section 21.4.13")
        kind = message.content_type
        if kind is None:
            raise SipParseError("a body without a type", where="Content-Type", clause="RFC 3261 section 20.15")
        disposition = message.headers.get("Content-Disposition") or ""
        if kind.essence == SDP:
            if not _is_session(disposition):
                raise _refusal("a description of another kind than session", "Content-Disposition", "RFC 3959")
            self.sdp = message.body
        elif kind.type == "multipart":
            self._split(message.body, kind)

    def _split(self, body: bytes, kind: MediaType) -> None:
        boundary = kind.parameters.get("boundary")
        if not boundary or len(boundary) > _BOUNDARY:
            raise SipParseError(
                "a multipart body needs a boundary", where="Content-Type", clause="RFC 2046 section 5.1.1"
            )
        self._boundary = boundary.encode("utf-8", "surrogateescape")
        pieces = (b"\r\n" + body).split(b"\r\n--" + self._boundary, _PARTS + 2)
        if len(pieces) > _PARTS + 2:
            raise _refusal(f"more than {_PARTS} parts", "body", "limit")
        parts: list[tuple[bytes, bytes]] = []
        closed = False
        for piece in pieces[1:]:
            if piece.startswith(b"--"):
                closed = True
                break
            _, line, rest = piece.partition(b"\r\n")
            head, empty, content = (b"", line, rest[2:]) if rest.startswith(b"\r\n") else rest.partition(b"\r\n\r\n")
            if not empty:
                raise SipParseError("a part of the body has no empty line", where="body", clause="RFC 2046 section 5.1")
            parts.append((head, content))
        if not closed or not parts:
            raise SipParseError("the multipart body does not end", where="body", clause="RFC 2046 section 5.1.1")
        kept: list[tuple[bytes, bytes]] = []
        for head, content in parts:
            fields = _fields(head)
            essence = fields.get("content-type", "text/plain").partition(";")[0].strip().lower()
            if essence.startswith("multipart/"):
                raise _refusal("a multipart body inside another", "body", "RFC 5621 section 3.1 is not supported")
            if essence == SDP:
                if fields.get("content-transfer-encoding", "binary").strip().lower() not in ("binary", "8bit", "7bit"):
                    raise _refusal("a description in another encoding", "Content-Transfer-Encoding", "RFC 3261 7.4.1")
                if not _is_session(fields.get("content-disposition", "")):
                    continue
                if self.sdp is not None:
                    raise _refusal("two session descriptions", "body", "RFC 5621 section 8.3 is not supported")
                self._index, self.sdp = len(kept), content
            kept.append((head, content))
        self._parts = kept
        if len(kept) != len(parts):
            self._join()

    def _join(self) -> None:
        if not self._parts:
            remove_body(self._message)
            return
        line = b"--" + self._boundary
        chunks = [line + b"\r\n" + (head + b"\r\n" if head else b"") + b"\r\n" + body for head, body in self._parts]
        self._message.body = b"\r\n".join([*chunks, line + b"--\r\n"])


def remove_body(message: Message) -> None:
    """Take the whole body out, and the fields that speak of it."""
    message.set_body(b"", "")
    for name in ("Content-Disposition", "Content-Encoding", "Content-Language"):
        message.headers.remove(name)


def remove_session(message: Message) -> None:
    """Take out every description, the whole body if it cannot be read: where none belongs."""
    if not message.body:
        return
    try:
        SessionBody(message).put(None)
    except SipParseError:
        remove_body(message)


def _is_session(disposition: str) -> bool:
    return disposition.partition(";")[0].strip().lower() in ("", "session")


def _fields(head: bytes) -> dict[str, str]:
    text = head.decode("utf-8", "replace").replace("\r\n ", " ").replace("\r\n\t", " ")
    found: dict[str, str] = {}
    for line in text.split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip().lower(), value.strip())
    return found


def _without_length(head: bytes) -> bytes:
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if line.partition(b":")[0].strip().lower() != b"content-length")


def _refusal(what: str, where: str, clause: str) -> SipParseError:
    return SipParseError(what, where=where, clause=clause, status=415)
