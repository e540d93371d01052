"""The checks that every message passes before a state machine sees it, and the answer to one that fails.

RFC 3261 sections 8.1.1, 8.2, 16.3 and 18; the cases of RFC 4475 section 3.1.2.
"""

from __future__ import annotations

import hashlib

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.fields import Headers, field_key
from imskit.sip.wire.grammar import is_token
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.message import Message, Request, Response, parse_message, response_to
from imskit.sip.wire.uri import SipUri

_MANDATORY = ("Via", "From", "To", "Call-ID", "CSeq")
_MANDATORY_KEYS = tuple((name, field_key(name)) for name in _MANDATORY)
_COPIED = frozenset(key for _, key in _MANDATORY_KEYS)
_SINGLE = (
    "From",
    "To",
    "Call-ID",
    "CSeq",
    "Max-Forwards",
    "Content-Type",
    "Expires",
    "Event",
    "Subscription-State",
    "RAck",
    "RSeq",
    "Session-Expires",
    "Min-SE",
    "Refer-To",
    "Replaces",
)
_SINGLE_KEYS = tuple((name, field_key(name)) for name in _SINGLE)


def parse_and_validate(data: bytes) -> Request | Response:
    """Parse one whole message and check it; raises `SipParseError` with the answer to send."""
    message = parse_message(data)
    validate(message)
    return message


def validate(message: Message) -> None:
    """Check what every element relies on: mandatory headers, none of them twice, each readable and consistent.

    Raises `SipParseError` (400, 414).  An unknown URI scheme, method, option tag or body type is no fault of the
    message: whoever serves the request answers 416, 501, 420 or 415.
    """
    keys = message.headers.keys()
    present = set(keys)
    for name, key in _MANDATORY_KEYS:
        if key not in present:
            raise SipParseError("the header is missing", where=name, clause="RFC 3261 section 8.1.1")
    if len(present) != len(keys):
        for name, key in _SINGLE_KEYS:
            if key in present and keys.count(key) > 1:
                raise SipParseError("the header comes twice", where=name, clause="RFC 3261 section 7.3.1")
    via = message.top_via
    # The response's way is needed too.
    _ = via.received, via.maddr
    _one_tag(message.from_, "From")
    _one_tag(message.to, "To")
    cseq = message.cseq
    _ = message.call_id, message.max_forwards
    if not isinstance(message, Request):
        return
    if cseq.method != message.method:
        raise SipParseError(
            "the method is not that of the request line",
            where="CSeq",
            clause="RFC 3261 section 8.1.1.5",
            found=cseq.method,
        )
    uri = message.request_uri
    if isinstance(uri, SipUri) and uri.headers is not None:
        raise SipParseError("it carries headers", where="Request-URI", clause="RFC 3261 section 19.1.1")
    if "contact" in present:
        _ = message.contacts
    if "route" in present:
        _ = message.routes


def _one_tag(address: NameAddr, where: str) -> None:
    if len(address.parameters) > 1 and [name.lower() for name, _ in address.parameters].count("tag") > 1:
        raise SipParseError("two tags", where=where, clause="RFC 3261 section 7.3.1")


def refusal(data: bytes, error: SipParseError) -> Response | None:
    """Build the stateless answer to a malformed message, ``None`` if there is nothing to answer.

    Only a request other than ACK that has Via, From, To, Call-ID and CSeq gets one.  They are copied as they came,
    malformed or not, so send it back to where the request came from.  ``data`` may be the head alone.
    """
    if not 300 <= error.status <= 699:
        return None
    request = _salvage(data)
    if request is None or request.method == "ACK":
        return None
    return response_to(request, error.status, error.reason, to_tag=_tag(request))


def _salvage(data: bytes) -> Request | None:
    """Keep of a request what an answer copies: every Via, the first of each other one."""
    head = data.lstrip(b"\r\n").partition(b"\r\n\r\n")[0][:65_536]
    first, *lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    method, _, rest = first.partition(" ")
    if not is_token(method) or "/" in method or "SIP/" not in rest.upper():
        return None
    kept: list[str] = []
    keep = False
    for line in lines:
        if not line.startswith((" ", "\t")):
            name, colon, _ = line.partition(":")
            keep = bool(colon) and field_key(name.rstrip(" \t")) in _COPIED
        if keep and "\r" not in line and "\n" not in line and "\0" not in line:
            kept.append(line)
    try:
        parsed = Headers.parse(kept)
    except SipParseError:
        return None
    if "Via" not in parsed:
        return None
    headers = Headers()
    headers.copy_from(parsed, "Via")
    for name in ("From", "To", "Call-ID", "CSeq"):
        value = parsed.get(name)
        if not value:
            return None
        headers.add(name, value)
    return Request(method, "sip:invalid.invalid", headers)


def _tag(request: Request) -> str:
    # RFC 3261 section 8.2.7: the same for a retransmission, without keeping state.
    text = "\0".join(request.headers.get(name) or "" for name in _MANDATORY)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
