"""Answers without a transaction: to what cannot be parsed, and to what there is no room for.

RFC 3261 section 8.2.7: a stateless answer keeps nothing, and the ACK that it provokes is known by the To tag.
"""

from __future__ import annotations

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.fields import Headers, field_key
from imskit.sip.wire.message import Request, Response, response_to

_NEEDED = frozenset({"via", "from", "to", "call-id", "cseq"})
_LONGEST = 65_536


def check_request(request: Request) -> None:
    """Raise `SipParseError` unless a transaction can be made for ``request`` (RFC 3261 section 8.1.1, 16.3)."""
    via = request.top_via
    _ = request.from_, request.to, request.call_id, request.max_forwards
    # The response's way is needed too.
    _ = via.received, via.maddr
    if request.cseq.method != request.method:
        raise SipParseError(
            "the method is not that of the request line", where="CSeq", clause="RFC 3261 section 8.1.1.5"
        )


def check_response(response: Response) -> None:
    """Raise `SipParseError` unless ``response`` can be matched to a transaction and read by its owner."""
    _ = response.top_via, response.headers.elements("Via"), response.cseq, response.from_, response.to, response.call_id


def refuse(request: Request, status: int, to_tag: str, reason: str | None = None) -> Response | None:
    """Build the answer to a request that may lack what an answer copies; ``None`` if it must stay silent."""
    if request.method == "ACK":
        return None
    try:
        _ = request.top_via
        response = response_to(request, status, reason, to_tag=to_tag)
    except SipParseError:
        return None
    return response if set(response.headers.keys()) >= _NEEDED else None


def salvage(data: bytes) -> Request | None:
    """Read of an unparsable message what an answer copies; ``None`` if it is no request or lacks a readable Via."""
    head = data[:_LONGEST].lstrip(b"\r\n").partition(b"\r\n\r\n")[0].decode("utf-8", "surrogateescape")
    lines = [line for line in head.split("\r\n") if "\r" not in line and "\n" not in line and "\0" not in line]
    method, space, _ = lines[0].partition(" ") if lines else ("", "", "")
    if not space or not method.isalpha() or method.upper().startswith("SIP/"):
        return None
    kept: list[str] = []
    keep = False
    for line in lines[1:]:
        if not line.startswith((" ", "\t")):
            name, colon, _ = line.partition(":")
            keep = bool(colon) and field_key(name.rstrip(" \t")) in _NEEDED
        if keep:
            kept.append(line)
    try:
        request = Request(method, "sip:invalid.invalid", Headers.parse(kept))
        _ = request.top_via
    except SipParseError:
        return None
    return request
