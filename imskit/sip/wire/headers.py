"""Typed header values of RFC 3261 and of the call, event and transfer extensions.

Each class has ``parse(text)`` for one list element and ``str()`` for the way back.  Parameters keep their exact
text.  The P-headers, Security-* and other IMS ones are in `imskit.sip.wire.ims_headers`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.grammar import (
    NO_PARAMETERS,
    Parameters,
    check_host,
    host_port,
    is_token,
    match_quoted,
    parse_host_port,
    parse_number,
    quote,
    split_parameters,
    unquote,
)
from imskit.sip.wire.uri import Uri, parse_uri

__all__ = [
    "NO_PARAMETERS",
    "CSeq",
    "Event",
    "MediaType",
    "MinSE",
    "NameAddr",
    "Parameters",
    "RAck",
    "ReasonHeader",
    "Replaces",
    "RetryAfter",
    "SessionExpires",
    "SubscriptionState",
    "Via",
]

_DISPLAY_TOKENS = re.compile(r"[A-Za-z0-9\-.!%*_+`'~ \t]*+")
_VIA = re.compile(
    r"[ \t]*+([^\s/]++)[ \t]*+/[ \t]*+([^\s/]++)[ \t]*+/[ \t]*+([^\s/;]++)"
    r"[ \t]++([^;\s]++(?:[ \t]*+:[ \t]*+[0-9]++)?)[ \t]*+"
)
_CSEQ = re.compile(r"([0-9]++)[ \t]++([^\s]++)")
_RACK = re.compile(r"([0-9]++)[ \t]++([0-9]++)[ \t]++([^\s]++)")
_RETRY_AFTER = re.compile(r"([0-9]++)[ \t]*+(\(.*\))?[ \t]*+((?:;.*)?)", re.DOTALL)
_CSEQ_MAXIMUM = 2**31 - 1
_SECONDS_MAXIMUM = 2**32 - 1


@dataclass(frozen=True, slots=True)
class NameAddr:
    """An address of From, To, Contact, Route, P-Asserted-Identity …: RFC 3261 section 20.10."""

    uri: Uri
    display: str = ""
    """The display name without its quotes."""
    parameters: Parameters = NO_PARAMETERS
    """Those of the header, not of the URI."""

    @classmethod
    def parse(cls, text: str, where: str = "address") -> Self:
        """Parse ``"display" <uri>;parameters`` or ``uri;parameters``."""
        text = text.strip(" \t")
        display = ""
        if text.startswith('"'):
            end = match_quoted(text, 0)
            if end < 0:
                raise SipParseError("the display name has no closing quote", where=where, found=text)
            display = unquote(text[:end])
            rest = text[end:].lstrip(" \t")
            if not rest.startswith("<"):
                raise SipParseError("a display name needs the URI in <>", where=where, found=text)
        else:
            before, angle, _ = text.partition("<")
            semicolon = before.find(";")
            if not angle or semicolon >= 0:
                return cls._parse_bare(text, where)
            display = before.strip(" \t")
            if _DISPLAY_TOKENS.fullmatch(display) is None:
                raise SipParseError(
                    "the display name needs quotes", where=where, clause="RFC 3261 section 25.1", found=text
                )
            rest = text[len(before) :]
        close = rest.find(">")
        if close < 0:
            raise SipParseError("the URI's < has no >", where=where, found=text)
        return cls(parse_uri(rest[1:close], where), display, Parameters.parse(rest[close + 1 :], where))

    @classmethod
    def _parse_bare(cls, text: str, where: str) -> Self:
        # RFC 3261 section 20: without <>, what follows ";" belongs to the header, and "?" or "," may not occur.
        uri, semicolon, _ = text.partition(";")
        if "?" in uri or "," in uri:
            raise SipParseError("a URI with ? or , needs <>", where=where, clause="RFC 3261 section 20.10", found=text)
        parameters = Parameters.parse(text[len(uri) :], where) if semicolon else NO_PARAMETERS
        return cls(parse_uri(uri.rstrip(" \t"), where), "", parameters)

    @property
    def tag(self) -> str | None:
        """The ``tag`` parameter."""
        return self.parameters.get("tag")

    @property
    def expires(self) -> int | None:
        """The Contact ``expires`` parameter in seconds; ``None`` if absent or unreadable (RFC 3261 section 20.10)."""
        value = self.parameters.get("expires")
        # "Malformed values SHOULD be treated as equivalent to 3600": that is for the registrar to decide.
        return int(value) if value and value.isascii() and value.isdigit() and len(value) <= 10 else None

    def with_tag(self, tag: str) -> Self:
        """Return a copy with this tag."""
        return self.with_parameter("tag", tag)

    def with_parameter(self, name: str, value: str | None = None) -> Self:
        """Return a copy with the header parameter set; ``value`` is written as it is."""
        return type(self)(self.uri, self.display, self.parameters.with_(name, value))

    def without_parameters(self, *names: str) -> Self:
        """Return a copy without these header parameters."""
        return type(self)(self.uri, self.display, self.parameters.without(*names))

    def __str__(self) -> str:
        display = f"{quote(self.display)} " if self.display else ""
        return f"{display}<{self.uri}>{self.parameters}"


@dataclass(frozen=True, slots=True)
class Via:
    """One hop (RFC 3261 section 20.42); ``transport`` in upper case, ``host`` without brackets."""

    transport: str
    host: str
    port: int | None = None
    parameters: Parameters = NO_PARAMETERS

    @classmethod
    def parse(cls, text: str, where: str = "Via") -> Self:
        """Parse ``SIP/2.0/UDP host:port;branch=…``."""
        found = _VIA.match(text)
        if found is None:
            raise SipParseError("the hop cannot be read", where=where, clause="RFC 3261 section 20.42", found=text)
        protocol, version, transport, sent_by = found.groups()
        if protocol.upper() != "SIP" or version != "2.0" or not is_token(transport):
            raise SipParseError("the hop is not SIP/2.0", where=where, clause="RFC 3261 section 20.42", found=text)
        host, port = parse_host_port(sent_by, where)
        return cls(transport.upper(), host, port, Parameters.parse(text[found.end() :], where))

    @property
    def branch(self) -> str | None:
        """The ``branch`` parameter."""
        return self.parameters.raw("branch")

    @property
    def received(self) -> str | None:
        """The ``received`` address without brackets (RFC 5118 section 4.5 accepts both)."""
        return self._address("received")

    @property
    def maddr(self) -> str | None:
        """The ``maddr`` host without brackets."""
        return self._address("maddr")

    @property
    def rport(self) -> int | None:
        """The port in ``rport``; ``None`` if it is absent, without value or no port (RFC 3581)."""
        value = self.parameters.raw("rport")
        if not value or len(value) > 5 or not (value.isascii() and value.isdigit()):
            return None
        return int(value) if 0 < int(value) < 65536 else None

    @property
    def wants_rport(self) -> bool:
        """True if the parameter ``rport`` is there, with or without a value."""
        return "rport" in self.parameters

    @property
    def sent_by(self) -> str:
        """``host[:port]`` as it is compared (RFC 3261 section 17.2.3), in lower case."""
        return host_port(self.host, self.port).lower()

    def _address(self, name: str) -> str | None:
        value = self.parameters.get(name)
        return check_host(value.strip("[]"), f"Via {name}") if value else None

    def with_parameter(self, name: str, value: str | None = None) -> Self:
        """Return a copy with the parameter set; ``value`` is written as it is."""
        return type(self)(self.transport, self.host, self.port, self.parameters.with_(name, value))

    def __str__(self) -> str:
        return f"SIP/2.0/{self.transport} {host_port(self.host, self.port)}{self.parameters}"


@dataclass(frozen=True, slots=True)
class CSeq:
    """Sequence number (0..2**31-1) and method (RFC 3261 section 8.1.1.5)."""

    number: int
    method: str

    @classmethod
    def parse(cls, text: str, where: str = "CSeq") -> Self:
        """Parse ``number METHOD``."""
        found = _CSEQ.fullmatch(text.strip(" \t"))
        if found is None or not is_token(found[2]):
            raise SipParseError(
                "number and method are needed", where=where, clause="RFC 3261 section 20.16", found=text
            )
        return cls(parse_number(found[1], where, maximum=_CSEQ_MAXIMUM, clause="RFC 3261 section 8.1.1.5"), found[2])

    def __str__(self) -> str:
        return f"{self.number} {self.method}"


@dataclass(frozen=True, slots=True)
class RAck:
    """Which reliable provisional response a PRACK confirms (RFC 3262 section 7.2)."""

    rseq: int
    cseq: int
    method: str

    @classmethod
    def parse(cls, text: str, where: str = "RAck") -> Self:
        """Parse ``rseq cseq METHOD``."""
        found = _RACK.fullmatch(text.strip(" \t"))
        if found is None or not is_token(found[3]):
            raise SipParseError(
                "two numbers and a method are needed", where=where, clause="RFC 3262 section 7.2", found=text
            )
        return cls(
            parse_number(found[1], where, clause="RFC 3262 section 7.2"),
            parse_number(found[2], where, maximum=_CSEQ_MAXIMUM, clause="RFC 3261 section 8.1.1.5"),
            found[3],
        )

    def __str__(self) -> str:
        return f"{self.rseq} {self.cseq} {self.method}"


def token_and_parameters(text: str, where: str) -> tuple[str, Parameters]:
    """Parse ``token;name=value…``."""
    value, parameters = split_parameters(text, where)
    if not is_token(value):
        raise SipParseError("a token is needed", where=where, clause="RFC 3261 section 25.1", found=text)
    return value, parameters


def seconds_and_parameters(text: str, where: str, clause: str) -> tuple[int, Parameters]:
    """Parse ``delta-seconds;name=value…``."""
    value, parameters = split_parameters(text, where)
    return parse_number(value, where, maximum=_SECONDS_MAXIMUM, clause=clause), parameters


@dataclass(frozen=True, slots=True)
class Event:
    """Event package and ``id`` (RFC 6665 section 8.2.1)."""

    package: str
    parameters: Parameters = NO_PARAMETERS

    @classmethod
    def parse(cls, text: str, where: str = "Event") -> Self:
        """Parse ``package;id=…``."""
        return cls(*token_and_parameters(text, where))

    @property
    def id(self) -> str | None:
        """The ``id`` parameter."""
        return self.parameters.get("id")

    def __str__(self) -> str:
        return f"{self.package}{self.parameters}"


@dataclass(frozen=True, slots=True)
class SubscriptionState:
    """State of a subscription in NOTIFY (RFC 6665 section 8.2.3)."""

    state: str
    parameters: Parameters = NO_PARAMETERS

    @classmethod
    def parse(cls, text: str, where: str = "Subscription-State") -> Self:
        """Parse ``active;expires=…``; the state comes in lower case."""
        value, parameters = token_and_parameters(text, where)
        return cls(value.lower(), parameters)

    @property
    def expires(self) -> int | None:
        """Seconds left, ``None`` if not said."""
        return self._seconds("expires")

    @property
    def retry_after(self) -> int | None:
        """Seconds to wait before a new subscription."""
        return self._seconds("retry-after")

    @property
    def reason(self) -> str | None:
        """Why it ended: ``deactivated``, ``probation``, ``rejected``, ``timeout``, ``giveup``, ``noresource``."""
        value = self.parameters.get("reason")
        return value.lower() if value else None

    def _seconds(self, name: str) -> int | None:
        value = self.parameters.get(name)
        return None if value is None else parse_number(value, f"Subscription-State {name}")

    def __str__(self) -> str:
        return f"{self.state}{self.parameters}"


@dataclass(frozen=True, slots=True)
class SessionExpires:
    """Session timer (RFC 4028 section 4): seconds and who refreshes."""

    seconds: int
    parameters: Parameters = NO_PARAMETERS

    @classmethod
    def parse(cls, text: str, where: str = "Session-Expires") -> Self:
        """Parse ``1800;refresher=uac``."""
        return cls(*seconds_and_parameters(text, where, "RFC 4028 section 4"))

    @classmethod
    def of(cls, seconds: int, refresher: str | None = None) -> Self:
        """Build with ``refresher`` ``uac`` or ``uas``."""
        return cls(seconds, NO_PARAMETERS if refresher is None else NO_PARAMETERS.with_("refresher", refresher))

    @property
    def refresher(self) -> str | None:
        """``uac``, ``uas`` or ``None``."""
        value = self.parameters.get("refresher")
        return value.lower() if value else None

    def __str__(self) -> str:
        return f"{self.seconds}{self.parameters}"


@dataclass(frozen=True, slots=True)
class MinSE:
    """Least session interval (RFC 4028 section 5), in seconds."""

    seconds: int
    parameters: Parameters = NO_PARAMETERS

    @classmethod
    def parse(cls, text: str, where: str = "Min-SE") -> Self:
        """Parse ``90``."""
        return cls(*seconds_and_parameters(text, where, "RFC 4028 section 5"))

    def __str__(self) -> str:
        return f"{self.seconds}{self.parameters}"


@dataclass(frozen=True, slots=True)
class ReasonHeader:
    """Why a request was sent (RFC 3326): ``SIP;cause=200``, ``Q.850;cause=16;text="…"``."""

    protocol: str
    parameters: Parameters = NO_PARAMETERS

    @classmethod
    def parse(cls, text: str, where: str = "Reason") -> Self:
        """Parse one reason."""
        return cls(*token_and_parameters(text, where))

    @classmethod
    def of(cls, protocol: str, cause: int, text: str = "") -> Self:
        """Build from protocol, cause and an optional text."""
        parameters = NO_PARAMETERS.with_("cause", str(cause))
        return cls(protocol, parameters.with_("text", quote(text)) if text else parameters)

    @property
    def cause(self) -> int | None:
        """The cause value."""
        value = self.parameters.get("cause")
        return None if value is None else parse_number(value, "Reason cause", clause="RFC 3326 section 2")

    @property
    def text(self) -> str:
        """The text, empty if there is none."""
        return self.parameters.get("text") or ""

    def __str__(self) -> str:
        return f"{self.protocol}{self.parameters}"


@dataclass(frozen=True, slots=True)
class Replaces:
    """The dialog to replace (RFC 3891 section 6.1)."""

    call_id: str
    parameters: Parameters

    @classmethod
    def parse(cls, text: str, where: str = "Replaces") -> Self:
        """Parse ``call-id;to-tag=…;from-tag=…``; both tags are mandatory."""
        call_id, parameters = split_parameters(text, where)
        if not call_id or not parameters.get("to-tag") or not parameters.get("from-tag"):
            raise SipParseError(
                "Call-ID, to-tag and from-tag are needed", where=where, clause="RFC 3891 section 6.1", found=text
            )
        return cls(call_id, parameters)

    @property
    def to_tag(self) -> str:
        """Tag of the side that receives the INVITE."""
        return self.parameters.get("to-tag") or ""

    @property
    def from_tag(self) -> str:
        """Tag of the other side."""
        return self.parameters.get("from-tag") or ""

    @property
    def early_only(self) -> bool:
        """True if only an early dialog may be replaced."""
        return "early-only" in self.parameters

    def __str__(self) -> str:
        return f"{self.call_id}{self.parameters}"


@dataclass(frozen=True, slots=True)
class MediaType:
    """Content-Type or an element of Accept (RFC 3261 section 20.15)."""

    type: str
    subtype: str
    parameters: Parameters = NO_PARAMETERS

    @classmethod
    def parse(cls, text: str, where: str = "Content-Type") -> Self:
        """Parse ``type/subtype;name=value``; type and subtype come in lower case."""
        value, parameters = split_parameters(text, where)
        kind, slash, subtype = value.partition("/")
        kind, subtype = kind.rstrip(" \t"), subtype.lstrip(" \t")
        if not slash or not is_token(kind) or not is_token(subtype):
            raise SipParseError("type/subtype is needed", where=where, clause="RFC 3261 section 20.15", found=text)
        return cls(kind.lower(), subtype.lower(), parameters)

    @property
    def essence(self) -> str:
        """``type/subtype`` without parameters."""
        return f"{self.type}/{self.subtype}"

    def __str__(self) -> str:
        return f"{self.type}/{self.subtype}{self.parameters}"


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """When to try again (RFC 3261 section 20.33), in seconds; a comment is dropped."""

    seconds: int
    parameters: Parameters = NO_PARAMETERS

    @classmethod
    def parse(cls, text: str, where: str = "Retry-After") -> Self:
        """Parse ``120 (in a meeting);duration=3600``."""
        found = _RETRY_AFTER.fullmatch(text.strip(" \t"))
        if found is None:
            raise SipParseError("seconds are needed", where=where, clause="RFC 3261 section 20.33", found=text)
        return cls(parse_number(found[1], where, clause="RFC 3261 section 20.33"), Parameters.parse(found[3], where))

    def __str__(self) -> str:
        return f"{self.seconds}{self.parameters}"
