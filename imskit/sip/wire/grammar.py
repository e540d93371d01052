"""Linear-time scanners for the text forms that SIP headers share (RFC 3261 section 25).

Every pattern is possessive (no backtracking), so the time is bounded by the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address

from imskit.sip.wire.errors import SipParseError

TOKEN_CHARS = r"A-Za-z0-9\-.!%*_+`'~"
QUOTED = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TOKEN = re.compile(rf"[{TOKEN_CHARS}]++")
_QUOTED = re.compile(QUOTED, re.DOTALL)
_TO_ESCAPE = re.compile(r'["\\\0]')
_BARE_NUL = re.compile(r"(?<!\\)\0")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_FOLD = re.compile(r"[ \t]*+\r\n[ \t]++")
_LIST_PIECE = re.compile(rf"[^,\"<>]++|{QUOTED}|<[^<>]*+>|(,)", re.DOTALL)
_ONE_ELEMENT = re.compile(rf"[^,\"<>]*+(?:(?:{QUOTED}|<[^<>]*+>)[^,\"<>]*+)*+", re.DOTALL)
_NEEDS_QUOTES = re.compile(r'[ \t;,"<>]')
_PARAMETER = re.compile(
    rf"[ \t]*+;[ \t]*+([{TOKEN_CHARS}]++)[ \t]*+(?:=[ \t]*+({QUOTED}|[^\s;,\"<>]++)[ \t]*+)?", re.DOTALL
)
_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*+)")
_IPV6_CHARS = re.compile(r"[0-9A-Fa-f:.]{2,45}")
_HOST_PORT = re.compile(r"(?:\[([^\]\[]*+)\]|([^:\[\]\s]++))(?:[ \t]*+:[ \t]*+([0-9]{1,5}+))?")


def is_token(text: str) -> bool:
    """True if ``text`` is a token of RFC 3261 section 25.1."""
    return _TOKEN.fullmatch(text) is not None


def unfold(text: str) -> str:
    """Replace each line fold by one space (RFC 3261 section 7.3.1)."""
    return _FOLD.sub(" ", text) if "\r\n" in text else text


def quote(text: str) -> str:
    """Return ``text`` as a quoted-string."""
    return '"' + _TO_ESCAPE.sub(r"\\\g<0>", text) + '"'


def unquote(text: str) -> str:
    """Return what a quoted-string says; a text without quotes comes back as it is."""
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    inner = text[1:-1]
    return _ESCAPED.sub(r"\1", inner) if "\\" in inner else inner


def match_quoted(text: str, start: int) -> int:
    """Return the index behind the quoted-string that begins at ``start``, -1 if it has no end."""
    found = _QUOTED.match(text, start)
    return -1 if found is None else found.end()


def split_list(text: str, where: str) -> list[str]:
    """Split a comma list, not inside quotes or angle brackets; empty elements are refused."""
    if '"' not in text and "<" not in text and ">" not in text:
        parts = [part.strip() for part in text.split(",")] if "," in text else [text.strip()]
    elif _ONE_ELEMENT.fullmatch(text) is not None:
        parts = [text.strip()]
    else:
        parts = []
        start = position = 0
        while position < len(text):
            piece = _LIST_PIECE.match(text, position)
            if piece is None:
                raise SipParseError(
                    "a quote or angle bracket has no partner",
                    where=where,
                    clause="RFC 3261 section 25.1",
                    found=text[position:],
                )
            if piece.group(1):
                parts.append(text[start:position].strip())
                start = piece.end()
            position = piece.end()
        parts.append(text[start:].strip())
    if not all(parts):
        raise SipParseError("an element of the list is empty", where=where, clause="RFC 3261 section 7.3.1")
    return parts


def parse_number(text: str, where: str, *, maximum: int = 2**32 - 1, clause: str = "RFC 3261 section 25.1") -> int:
    """Parse 1*DIGIT between 0 and ``maximum``; no sign, no space inside, no other digits than ASCII."""
    text = text.strip(" \t")
    if not (text.isascii() and text.isdigit()):
        raise SipParseError("a decimal number is needed", where=where, clause=clause, found=text)
    # A long run of zeros is legal; a long number is not worth the conversion.
    digits = text if len(text) <= 20 else text.lstrip("0") or "0"
    if len(digits) > 20 or (number := int(digits)) > maximum:
        raise SipParseError(f"the number is above {maximum}", where=where, clause=clause, found=text)
    return number


def check_host(text: str, where: str) -> str:
    """Return ``text`` if it is a host name, an IPv4 or a bare IPv6 address."""
    if ":" in text:
        if ":::" in text and "." in text:
            # The grammar of RFC 3261 makes "2001:db8:::192.0.2.1"; RFC 5118 section 4.10 wants it tolerated.
            text = text.replace(":::", "::", 1)
        try:
            if _IPV6_CHARS.fullmatch(text) is None:
                raise AddressValueError
            IPv6Address(text)
        except AddressValueError:
            raise SipParseError(
                "this is no IPv6 address", where=where, clause="RFC 5954 section 4.1", found=text
            ) from None
    elif len(text) > 255 or _HOST_NAME.fullmatch(text) is None:
        raise SipParseError("this is no host name or address", where=where, clause="RFC 3261 section 25.1", found=text)
    return text


def parse_host_port(text: str, where: str) -> tuple[str, int | None]:
    """Parse ``host[:port]``; an IPv6 address stands in brackets and comes back without them."""
    found = _HOST_PORT.fullmatch(text)
    if found is None:
        raise SipParseError("host and port cannot be read", where=where, clause="RFC 3261 section 25.1", found=text)
    reference, name, port_text = found.groups()
    if reference is not None:
        if ":" not in reference:
            raise SipParseError("brackets need an IPv6 address", where=where, found=text)
        host = check_host(reference, where)
    else:
        host = check_host(name, where)
    if port_text is None:
        return host, None
    port = int(port_text)
    if not 0 < port < 65536:
        raise SipParseError("the port is not in 1..65535", where=where, found=text)
    return host, port


def host_port(host: str, port: int | None) -> str:
    """Return ``host[:port]``, IPv6 in brackets."""
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"


def check_value(value: str, where: str) -> str:
    """Refuse what would end a header line: the guard against header injection.

    NUL may stand only behind a backslash, as the quoted-pair of RFC 3261 section 25.1 allows.
    """
    if "\r" in value or "\n" in value or ("\0" in value and _BARE_NUL.search(value)):
        raise SipParseError("CR, LF or NUL in a value", where=where, clause="RFC 3261 section 7.3.1")
    return value


@dataclass(frozen=True, slots=True)
class Parameters:
    """``;name=value`` lists: ordered, names case-insensitive, values kept exactly as written.

    ``get`` gives the meaning (quotes removed), ``raw`` the text.  A value given to ``with_`` is written as it is:
    use ``grammar.quote`` where the grammar wants quotes.
    """

    items: tuple[tuple[str, str | None], ...] = ()
    """Name and raw value; ``None`` for a parameter without ``=``."""

    @classmethod
    def of(cls, items: Iterable[tuple[str, str | None]]) -> Parameters:
        """Build from pairs; refuses what would break out of the parameter."""
        checked = []
        for name, value in items:
            if not is_token(name):
                raise SipParseError("a parameter's name is no token", found=name)
            if value is not None:
                check_value(value, name)
                quoted = value.startswith('"')
                if match_quoted(value, 0) != len(value) if quoted else _NEEDS_QUOTES.search(value) is not None:
                    raise SipParseError("a parameter's value needs quotes", where=name, found=value)
            checked.append((name, value))
        return cls(tuple(checked))

    @classmethod
    def parse(cls, text: str, where: str) -> Parameters:
        """Parse generic-params (RFC 3261 section 25.1), ``text`` beginning at the first ``;``."""
        if not text:
            return NO_PARAMETERS
        items = []
        position = 0
        while position < len(text):
            found = _PARAMETER.match(text, position)
            if found is None:
                if not text[position:].strip(" \t"):
                    break
                raise SipParseError(
                    "a parameter cannot be read", where=where, clause="RFC 3261 section 25.1", found=text[position:]
                )
            items.append((found[1], found[2]))
            position = found.end()
        return cls(tuple(items))

    def raw(self, name: str) -> str | None:
        """Return the text of the first parameter of that name, quotes included."""
        name = name.lower()
        for own, value in self.items:
            if own == name or own.lower() == name:
                return "" if value is None else value
        return None

    def get(self, name: str) -> str | None:
        """Return the meaning of the first parameter of that name; ``""`` without a value, ``None`` if absent."""
        value = self.raw(name)
        return value if value is None or not value.startswith('"') else unquote(value)

    def with_(self, name: str, value: str | None = None) -> Parameters:
        """Return a copy where ``name`` has ``value``: replaced in its place, else appended."""
        (new,) = Parameters.of(((name, value),)).items
        lowered = name.lower()
        items = []
        done = False
        for item in self.items:
            if item[0].lower() != lowered:
                items.append(item)
            elif not done:
                items.append(new)
                done = True
        if not done:
            items.append(new)
        return Parameters(tuple(items))

    def without(self, *names: str) -> Parameters:
        """Return a copy that has none of ``names``."""
        lowered = {name.lower() for name in names}
        return Parameters(tuple(item for item in self.items if item[0].lower() not in lowered))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.raw(name) is not None

    def __iter__(self) -> Iterator[tuple[str, str | None]]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __str__(self) -> str:
        return "".join([f";{name}" if value is None else f";{name}={value}" for name, value in self.items])


NO_PARAMETERS = Parameters()


def split_parameters(text: str, where: str) -> tuple[str, Parameters]:
    """Split ``value;name=value…`` into the stripped value and its parameters; quotes are respected."""
    value, semicolon, _ = text.partition(";")
    if not semicolon:
        return text.strip(" \t"), NO_PARAMETERS
    if '"' in value:
        position = 0
        while position < len(text) and text[position] != ";":
            if text[position] == '"':
                position = match_quoted(text, position)
                if position < 0:
                    raise SipParseError("a quoted string has no end", where=where, found=text)
            else:
                position += 1
        value = text[:position]
    return value.strip(" \t"), Parameters.parse(text[len(value) :], where)
