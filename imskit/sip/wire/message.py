"""SIP messages that keep what they do not know (RFC 3261 section 7).

`parse_message` reads the structure only; typed values are read when asked for.  An untouched message encodes
to the bytes it came as, provided that it carries a right Content-Length (`Message.encode` puts it in otherwise).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Literal, Self

from imskit.sip.wire.errors import SipParseError, reason_phrase
from imskit.sip.wire.fields import Headers
from imskit.sip.wire.grammar import TOKEN_CHARS, check_value, is_token, parse_number, split_list
from imskit.sip.wire.headers import (
    CSeq,
    Event,
    MediaType,
    MinSE,
    NameAddr,
    RAck,
    ReasonHeader,
    Replaces,
    RetryAfter,
    SessionExpires,
    SubscriptionState,
    Via,
)
from imskit.sip.wire.uri import Uri, parse_uri

__all__ = ["Headers", "Message", "Request", "Response", "parse_head", "parse_message", "response_to"]

MAXIMUM_HEAD = 65_536
"""Longest start-line plus header in bytes."""
MAXIMUM_BODY = 1_048_576
"""Longest body in bytes."""

_LONGEST_CACHED = 512

_REQUEST_LINE = re.compile(rf"([{TOKEN_CHARS}]++) ([^\s<>\"]++) ([A-Za-z]++/[0-9]++\.[0-9]++)")
_STATUS_LINE = re.compile(r"(SIP/2\.0) ([1-6][0-9][0-9]) ([^\r\n]*+)", re.IGNORECASE)
_SIP_VERSION = re.compile(r"SIP/([0-9]++)\.([0-9]++)", re.IGNORECASE)


class Message(ABC):
    """What requests and responses share.

    Typed properties read their header each time, and raise `SipParseError` if it is malformed or, where no
    message may lack it, missing.  Change a header through ``headers``.
    """

    __slots__ = ("body", "headers")

    def __init__(self, headers: Headers | None = None, body: bytes = b"") -> None:
        self.headers = Headers() if headers is None else headers
        self.body = body

    @property
    @abstractmethod
    def start_line(self) -> str:
        """The first line without CRLF."""

    @abstractmethod
    def copy(self) -> Self:
        """Return an independent copy."""

    def encode(self) -> bytes:
        """Return the bytes to send; puts the right Content-Length in if it is wrong or missing."""
        length = str(len(self.body))
        if self.headers.get("Content-Length") != length:
            self.headers.set("Content-Length", length)
        head = "\r\n".join([self.start_line, *self.headers.lines(), "", ""])
        return head.encode("utf-8", "surrogateescape") + self.body

    def set_body(self, body: bytes, content_type: str) -> None:
        """Put in a body and its type; an empty ``content_type`` removes both."""
        self.body = body
        if content_type:
            self.headers.set("Content-Type", content_type)
        else:
            self.headers.remove("Content-Type")

    # What every message has.

    @property
    def top_via(self) -> Via:
        """The first hop."""
        value = self.headers.get("Via")
        if not value:
            raise _missing("Via")
        return _via(split_list(value, "Via")[0])

    @property
    def vias(self) -> list[Via]:
        """All hops, the last one first."""
        return [_via(element) for element in self.headers.elements("Via")]

    @property
    def from_(self) -> NameAddr:
        """The From header."""
        return _address(self._need("From"), "From")

    @property
    def to(self) -> NameAddr:
        """The To header."""
        return _address(self._need("To"), "To")

    @property
    def cseq(self) -> CSeq:
        """The CSeq header."""
        value = self._need("CSeq")
        return _cached_cseq(value) if len(value) <= _LONGEST_CACHED else CSeq.parse(value)

    @property
    def call_id(self) -> str:
        """The Call-ID."""
        return self._need("Call-ID")

    # Addresses.

    @property
    def contacts(self) -> list[NameAddr] | Literal["*"]:
        """The Contact list, or ``"*"`` (RFC 3261 section 10.2.2)."""
        elements = self.headers.elements("Contact")
        if "*" in elements:
            if len(elements) > 1:
                raise SipParseError('"*" stands beside other contacts', where="Contact", clause="RFC 3261 section 10.3")
            return "*"
        return [_address(element, "Contact") for element in elements]

    @property
    def routes(self) -> list[NameAddr]:
        """The Route list."""
        return self.addresses("Route")

    @property
    def record_routes(self) -> list[NameAddr]:
        """The Record-Route list."""
        return self.addresses("Record-Route")

    @property
    def path(self) -> list[NameAddr]:
        """The Path list (RFC 3327)."""
        return self.addresses("Path")

    @property
    def service_route(self) -> list[NameAddr]:
        """The Service-Route list (RFC 3608)."""
        return self.addresses("Service-Route")

    @property
    def refer_to(self) -> NameAddr | None:
        """The Refer-To header (RFC 3515)."""
        return self._optional("Refer-To", NameAddr.parse)

    def addresses(self, name: str) -> list[NameAddr]:
        """Parse any header that is a list of addresses: P-Asserted-Identity, P-Associated-URI …"""
        return [_address(element, name) for element in self.headers.elements(name)]

    # Numbers.

    @property
    def max_forwards(self) -> int | None:
        """Hops left, 0..255."""
        return self._number("Max-Forwards", 255, "RFC 3261 section 20.22")

    @property
    def expires(self) -> int | None:
        """Seconds."""
        return self._number("Expires", 2**32 - 1, "RFC 3261 section 20.19")

    @property
    def min_expires(self) -> int | None:
        """Seconds."""
        return self._number("Min-Expires", 2**32 - 1, "RFC 3261 section 20.23")

    @property
    def rseq(self) -> int | None:
        """Number of a reliable provisional response, 1..2**32-1 (RFC 3262 section 7.1)."""
        return self._number("RSeq", 2**32 - 1, "RFC 3262 section 7.1")

    # Small typed values.

    @property
    def content_type(self) -> MediaType | None:
        """Type of the body."""
        return self._optional("Content-Type", MediaType.parse)

    @property
    def rack(self) -> RAck | None:
        """What a PRACK confirms."""
        return self._optional("RAck", RAck.parse)

    @property
    def event(self) -> Event | None:
        """Event package."""
        return self._optional("Event", Event.parse)

    @property
    def subscription_state(self) -> SubscriptionState | None:
        """State of a subscription."""
        return self._optional("Subscription-State", SubscriptionState.parse)

    @property
    def session_expires(self) -> SessionExpires | None:
        """Session timer."""
        return self._optional("Session-Expires", SessionExpires.parse)

    @property
    def min_se(self) -> MinSE | None:
        """Least session timer."""
        return self._optional("Min-SE", MinSE.parse)

    @property
    def replaces(self) -> Replaces | None:
        """Dialog to replace."""
        return self._optional("Replaces", Replaces.parse)

    @property
    def retry_after(self) -> RetryAfter | None:
        """When to try again."""
        return self._optional("Retry-After", RetryAfter.parse)

    @property
    def reasons(self) -> list[ReasonHeader]:
        """The Reason list (RFC 3326)."""
        return [ReasonHeader.parse(element) for element in self.headers.elements("Reason")]

    # Token lists.

    @property
    def require(self) -> list[str]:
        """Option tags that must be understood, in lower case."""
        return self.tokens("Require")

    @property
    def proxy_require(self) -> list[str]:
        """Option tags that proxies must understand, in lower case."""
        return self.tokens("Proxy-Require")

    @property
    def supported(self) -> list[str]:
        """Option tags, in lower case."""
        return self.tokens("Supported")

    @property
    def unsupported(self) -> list[str]:
        """Option tags, in lower case."""
        return self.tokens("Unsupported")

    @property
    def allow(self) -> list[str]:
        """Methods, as written: they are case-sensitive."""
        return self.headers.elements("Allow")

    def tokens(self, name: str) -> list[str]:
        """Parse any header that is a list of case-insensitive tokens, in lower case."""
        return [element.lower() for element in self.headers.elements(name)]

    def _need(self, name: str) -> str:
        value = self.headers.get(name)
        if not value:
            raise _missing(name)
        return value

    def _optional[T](self, name: str, parse: Callable[[str, str], T]) -> T | None:
        value = self.headers.get(name)
        return None if value is None else parse(value, name)

    def _number(self, name: str, maximum: int, clause: str) -> int | None:
        value = self.headers.get(name)
        return None if value is None else parse_number(value, name, maximum=maximum, clause=clause)

    def __bytes__(self) -> bytes:
        return self.encode()


class Request(Message):
    """A request; ``uri`` is the Request-URI as written."""

    __slots__ = ("method", "uri", "version")

    def __init__(
        self,
        method: str,
        uri: str,
        headers: Headers | None = None,
        body: bytes = b"",
        *,
        version: str = "SIP/2.0",
    ) -> None:
        super().__init__(headers, body)
        self.method = method
        self.uri = uri
        self.version = version

    @classmethod
    def create(
        cls,
        method: str,
        uri: Uri | str,
        fields: Iterable[tuple[str, object]] = (),
        body: bytes = b"",
        content_type: str = "",
    ) -> Request:
        """Build a request; header values are written with ``str``.

        Raises `SipParseError` for a method that is no token, a URI with spaces and a value with CR, LF or NUL.
        """
        text = str(uri)
        if not is_token(method) or not text or any(bad in text for bad in ' \t\r\n\0<>"'):
            raise SipParseError(
                "method or Request-URI cannot be written", where="Request-Line", found=f"{method} {text}"
            )
        request = cls(method, text, Headers(fields))
        if body or content_type:
            request.set_body(body, content_type)
        return request

    @property
    def request_uri(self) -> Uri:
        """The Request-URI, parsed."""
        uri = self.uri
        return _cached_uri(uri, "Request-URI") if len(uri) <= _LONGEST_CACHED else parse_uri(uri, "Request-URI")

    @property
    def start_line(self) -> str:
        """The Request-Line."""
        return f"{self.method} {self.uri} {self.version}"

    def copy(self) -> Request:
        """Return an independent copy."""
        return Request(self.method, self.uri, self.headers.copy(), self.body, version=self.version)

    def __repr__(self) -> str:
        return f"<Request {self.method} {len(self.headers)} headers, {len(self.body)} bytes>"


class Response(Message):
    """A response; ``reason`` is the phrase as written, possibly empty."""

    __slots__ = ("reason", "status", "version")

    def __init__(
        self,
        status: int,
        reason: str | None = None,
        headers: Headers | None = None,
        body: bytes = b"",
        *,
        version: str = "SIP/2.0",
    ) -> None:
        super().__init__(headers, body)
        if not 100 <= status <= 699:
            raise SipParseError("the status is not in 100..699", where="Status-Line", found=str(status))
        self.status = status
        self.reason = reason_phrase(status) if reason is None else check_value(reason, "Reason-Phrase")
        self.version = version

    @property
    def provisional(self) -> bool:
        """True for 1xx."""
        return self.status < 200

    @property
    def success(self) -> bool:
        """True for 2xx."""
        return 200 <= self.status < 300

    @property
    def start_line(self) -> str:
        """The Status-Line."""
        return f"{self.version} {self.status} {self.reason}"

    def copy(self) -> Response:
        """Return an independent copy."""
        return Response(self.status, self.reason, self.headers.copy(), self.body, version=self.version)

    def __repr__(self) -> str:
        return f"<Response {self.status} {len(self.headers)} headers, {len(self.body)} bytes>"


# A message's addresses and hops are read by several layers, and those of a dialog come again in every message.
_cached_via = lru_cache(2048)(Via.parse)
_cached_cseq = lru_cache(1024)(CSeq.parse)
_cached_address = lru_cache(4096)(NameAddr.parse)
_cached_uri = lru_cache(1024)(parse_uri)


def _via(text: str) -> Via:
    return _cached_via(text) if len(text) <= _LONGEST_CACHED else Via.parse(text)


def _address(text: str, where: str) -> NameAddr:
    return _cached_address(text, where) if len(text) <= _LONGEST_CACHED else NameAddr.parse(text, where)


def _missing(name: str) -> SipParseError:
    return SipParseError("the header is missing", where=name, clause="RFC 3261 section 8.1.1")


def response_to(request: Request, status: int, reason: str | None = None, *, to_tag: str | None = None) -> Response:
    """Build a response with what RFC 3261 section 8.2.6 copies: Via, From, To, Call-ID, CSeq.

    ``to_tag`` is added to To if the request has none and ``status`` is not 100.  A response of 101 to 299 also
    carries Record-Route (section 12.1.1), a 100 Timestamp.
    """
    response = Response(status, reason)
    headers = response.headers
    headers.copy_from(request.headers, "Via")
    if 100 < status < 300:
        headers.copy_from(request.headers, "Record-Route")
    headers.copy_from(request.headers, "From")
    value = request.headers.get("To")
    if to_tag and status != 100 and value is not None and not _has_tag(value):
        headers.add("To", f"{value};tag={to_tag}")
    else:
        headers.copy_from(request.headers, "To")
    headers.copy_from(request.headers, "Call-ID")
    headers.copy_from(request.headers, "CSeq")
    if status == 100:
        headers.copy_from(request.headers, "Timestamp")
    return response


def _has_tag(value: str) -> bool:
    try:
        return NameAddr.parse(value, "To").tag is not None
    except SipParseError:
        # Only a refusal is ever built on a malformed To; it must not get a second tag.
        return ";tag=" in value.replace(" ", "").lower()


def parse_message(data: bytes) -> Request | Response:
    """Parse one whole message: a datagram, a WebSocket message, or what `StreamFramer` cut out of a stream.

    Bytes beyond Content-Length are dropped; fewer bytes than it says are an error (RFC 3261 section 18.3).
    Raises `SipParseError` with the status to answer.
    """
    head, body = split_head(data)
    message = parse_head(head)
    lengths = set(message.headers.get_all("Content-Length"))
    if lengths:
        if len(lengths) > 1:
            raise SipParseError(
                "two values contradict each other", where="Content-Length", clause="RFC 4475 section 3.3.9"
            )
        length = parse_number(lengths.pop(), "Content-Length", clause="RFC 3261 section 20.14")
        if length > len(body):
            raise SipParseError(
                f"it says {length} and {len(body)} bytes follow", where="Content-Length", clause="RFC 3261 section 18.3"
            )
        body = body[:length]
    if len(body) > MAXIMUM_BODY:
        raise SipParseError(f"the body is longer than {MAXIMUM_BODY} bytes", where="body", status=413)
    message.body = body
    return message


def split_head(data: bytes) -> tuple[bytes, bytes]:
    """Split a message at its empty line; CRLFs in front of it are dropped (RFC 3261 section 7.5)."""
    if data.startswith(b"\r\n"):
        data = data.lstrip(b"\r\n")
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        raise SipParseError("no empty line ends the header", where="header", clause="RFC 3261 section 7")
    if len(head) > MAXIMUM_HEAD:
        raise SipParseError(f"the header is longer than {MAXIMUM_HEAD} bytes", where="header", status=513)
    return head, body


def parse_head(head: bytes) -> Request | Response:
    """Parse start-line and header fields, without the empty line."""
    text = head.decode("utf-8", "surrogateescape")
    lines = text.split("\r\n")
    if text.count("\r") != len(lines) - 1 or text.count("\n") != len(lines) - 1:
        raise SipParseError("CR or LF alone in the header", where="header", clause="RFC 3261 section 7")
    if "\0" in text:
        check_value(text.replace("\r\n", " "), "header")
    first = lines.pop(0)
    request_line = _REQUEST_LINE.fullmatch(first)
    if request_line is not None:
        method, uri, version = request_line.groups()
        if version != "SIP/2.0":
            _check_version(version)
        return Request(method, uri, Headers.parse(lines), version=version)
    status_line = _STATUS_LINE.fullmatch(first)
    if status_line is not None:
        version, status, reason = status_line.groups()
        return Response(int(status), reason, Headers.parse(lines), version=version)
    raise SipParseError("this is no SIP start-line", where="start-line", clause="RFC 3261 section 7.1", found=first)


def _check_version(version: str) -> None:
    found = _SIP_VERSION.fullmatch(version)
    if found is None:
        raise SipParseError(
            "this is no SIP start-line", where="Request-Line", clause="RFC 3261 section 7.1", found=version
        )
    if (found[1], found[2]) != ("2", "0"):
        raise SipParseError(
            "only SIP/2.0 is spoken here",
            where="SIP-Version",
            clause="RFC 3261 section 21.5.7",
            status=505,
            found=version,
        )
