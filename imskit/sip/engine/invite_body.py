"""Finding the session description in a message (RFC 3261 section 13.2.1, RFC 5621)."""

from __future__ import annotations

import logging

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.headers import MediaType
from imskit.sip.wire.message import Message, Response

_log = logging.getLogger(__name__)

SDP = "application/sdp"
_PARTS = 32
_BOUNDARY = 70
"""RFC 2046 section 5.1.1."""


def session_description(message: Message) -> bytes | None:
    """Return the offer or answer in ``message``, also from inside a multipart body; ``None`` if there is none.

    A part with another disposition than ``session`` (early-session, render) is none.  Raises `SipParseError` (400)
    for a multipart body that cannot be split.
    """
    if not message.body:
        return None
    kind = message.content_type
    if kind is None:
        return None
    if kind.essence == SDP:
        disposition = message.headers.get("Content-Disposition")
        return message.body if _is_session(disposition) else None
    if kind.type == "multipart":
        for head, body in _parts(message.body, kind):
            if head.get("content-type", "").partition(";")[0].strip().lower() == SDP and _is_session(
                head.get("content-disposition")
            ):
                return body
    return None


def description_in(response: Response) -> bytes | None:
    """As `session_description`, of a response: there a body that cannot be split counts as none."""
    try:
        return session_description(response)
    except SipParseError as error:
        _log.info("the body of a %d is ignored: %s", response.status, error)
        return None


def understood(message: Message, accept: tuple[str, ...]) -> bool:
    """True if the body may be processed; False: answer 415 (RFC 3261 section 8.2.3)."""
    encoding = message.headers.get("Content-Encoding")
    if encoding and encoding.strip().lower() != "identity":
        return False
    if not message.body:
        return True
    kind = message.content_type
    if kind is None or kind.type == "multipart" or kind.essence in accept:
        return True
    disposition = message.headers.get("Content-Disposition") or ""
    return "handling=optional" in disposition.replace(" ", "").lower()


def _is_session(disposition: str | None) -> bool:
    return disposition is None or disposition.partition(";")[0].strip().lower() == "session"


def _parts(body: bytes, kind: MediaType) -> list[tuple[dict[str, str], bytes]]:
    boundary = kind.parameters.get("boundary")
    if not boundary or len(boundary) > _BOUNDARY:
        raise SipParseError("a multipart body needs a boundary", where="Content-Type", clause="RFC 2046 section 5.1.1")
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("utf-8", "surrogateescape"), _PARTS)
    parts = []
    for piece in pieces[1:]:
        if piece.startswith(b"--"):
            break
        head, empty, content = piece.partition(b"\r\n\r\n")
        if not empty:
            raise SipParseError("a part of the body has no empty line", where="body", clause="RFC 2046 section 5.1")
        fields = {}
        for line in head.decode("utf-8", "replace").replace("\r\n ", " ").replace("\r\n\t", " ").split("\r\n"):
            name, colon, value = line.partition(":")
            if colon:
                fields[name.strip().lower()] = value.strip()
        parts.append((fields, content))
    return parts
