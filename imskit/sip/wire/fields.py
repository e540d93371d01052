"""The lossless list of header fields (RFC 3261 section 7.3).

A field is kept as the line it came as, folds and spaces included; only what is changed is written anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.grammar import check_value, is_token, split_list, unfold

MAXIMUM_FIELDS = 256

_COMPACT = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "d": "request-disposition",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "j": "reject-contact",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
    "y": "identity",
}
"""Compact forms of the IANA registry (RFC 3261, 3515, 3841, 3892, 4028, 6665, 8224)."""

_COMMON = (
    "Via",
    "Max-Forwards",
    "Route",
    "Record-Route",
    "From",
    "To",
    "Call-ID",
    "CSeq",
    "Contact",
    "Content-Type",
    "Content-Length",
    "Expires",
    "Supported",
    "Require",
    "Proxy-Require",
    "Unsupported",
    "Allow",
    "Allow-Events",
    "Accept",
    "Accept-Contact",
    "Authorization",
    "User-Agent",
    "Server",
    "WWW-Authenticate",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "Authentication-Info",
    "P-Asserted-Identity",
    "P-Associated-URI",
    "P-Preferred-Identity",
    "P-Preferred-Service",
    "P-Asserted-Service",
    "P-Access-Network-Info",
    "P-Called-Party-ID",
    "P-Early-Media",
    "P-Charging-Vector",
    "P-Charging-Function-Addresses",
    "P-Visited-Network-ID",
    "Security-Client",
    "Security-Server",
    "Security-Verify",
    "Service-Route",
    "Path",
    "Privacy",
    "Session-Expires",
    "Min-SE",
    "RSeq",
    "RAck",
    "Event",
    "Subscription-State",
    "Reason",
    "Replaces",
    "Refer-To",
    "Feature-Caps",
    "Date",
    "Timestamp",
    "Retry-After",
    "Min-Expires",
    "Accept-Encoding",
    "Accept-Language",
)

_KEYS = {name: name.lower() for name in _COMMON}
_KEYS |= {name.lower(): name.lower() for name in _COMMON}
_KEYS |= {short: _COMPACT[short] for short in _COMPACT} | {s.upper(): _COMPACT[s] for s in _COMPACT}

_NOT_LISTS = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "www-authenticate",
        "proxy-authenticate",
        "authentication-info",
        "proxy-authentication-info",
        "date",
        "subject",
        "user-agent",
        "server",
        "organization",
        "retry-after",
        "call-id",
        "from",
        "to",
        "cseq",
    }
)
"""Fields whose value may hold a comma without being a list."""


def field_key(name: str) -> str:
    """Return the name by which a field is compared: lower case, compact forms expanded."""
    key = _KEYS.get(name)
    if key is None:
        key = name.lower()
        key = _COMPACT.get(key, key)
    return key


@lru_cache(256)
def _keys_of(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(field_key(name) for name in names)


class Headers:
    """Ordered header fields; names are case-insensitive and compact forms equal long ones."""

    __slots__ = ("_elements", "_fields")

    def __init__(self, fields: Iterable[tuple[str, object]] = ()) -> None:
        self._fields: list[tuple[str, str]] = []
        self._elements: dict[str, list[str]] = {}
        """Lists that were split already, by key; whatever changes a field takes its list out."""
        for name, value in fields:
            self.add(name, value)

    @classmethod
    def parse(cls, lines: list[str]) -> Headers:
        """Parse the lines between start-line and empty line, each without its CRLF.

        Raises `SipParseError` (400) for a line without colon, a name that is no token, or more than 256 fields.
        """
        fields: list[tuple[str, str]] = []
        keys = _KEYS
        for line in lines:
            name, colon, _ = line.partition(":")
            key = keys.get(name) if colon else None
            if key is None:
                if line.startswith((" ", "\t")):
                    if not fields:
                        raise SipParseError(
                            "the first header line is folded", where="header", clause="RFC 3261 section 7.3.1"
                        )
                    key, first = fields[-1]
                    fields[-1] = (key, f"{first}\r\n{line}")
                    continue
                key = _parse_name(line)
            fields.append((key, line))
        if len(fields) > MAXIMUM_FIELDS:
            raise SipParseError(f"more than {MAXIMUM_FIELDS} header fields", where="header", status=513)
        headers = cls()
        headers._fields = fields
        return headers

    def get(self, name: str) -> str | None:
        """Return the value of the first field of that name, unfolded and stripped."""
        key = _KEYS.get(name) or field_key(name)
        for own, line in self._fields:
            if own == key:
                return _value(line)
        return None

    def get_all(self, name: str) -> list[str]:
        """Return the value of each field of that name, in order."""
        key = _KEYS.get(name) or field_key(name)
        return [_value(line) for own, line in self._fields if own == key]

    def elements(self, name: str) -> list[str]:
        """Return the elements of the comma lists of all fields of that name.

        Fields that are no lists (Authorization, Date, …) come whole, as from `get_all`.  An empty field has no
        element.  Raises `SipParseError` for an unbalanced quote and for an empty element.
        """
        key = _KEYS.get(name) or field_key(name)
        known = self._elements.get(key)
        if known is not None:
            return known.copy()
        values = [_value(line) for own, line in self._fields if own == key]
        if not values or key in _NOT_LISTS:
            return values
        found = self._elements[key] = [element for value in values if value for element in split_list(value, name)]
        return found.copy()

    def first_element(self, name: str) -> str | None:
        """Return the first list element, as `pop_element` would take it; ``None`` if there is none."""
        for value in self.get_all(name):
            if value:
                return split_list(value, name)[0]
        return None

    def add(self, name: str, value: object) -> None:
        """Append a field."""
        field = _field(name, value)
        self._elements.pop(field[0], None)
        self._fields.append(field)

    def prepend(self, name: str, value: object) -> None:
        """Put a field before the first one of that name, else at the top."""
        field = _field(name, value)
        self._elements.pop(field[0], None)
        self._fields.insert(max(0, self._index(field[0])), field)

    def set(self, name: str, value: object) -> None:
        """Replace the first field of that name in place and drop the others, or append."""
        field = _field(name, value)
        self._elements.pop(field[0], None)
        index = self._index(field[0])
        if index < 0:
            self._fields.append(field)
            return
        self._fields = [own for position, own in enumerate(self._fields) if own[0] != field[0] or position <= index]
        self._fields[index] = field

    def remove(self, *names: str) -> None:
        """Drop every field of these names."""
        keys = _keys_of(names)
        self._fields = [field for field in self._fields if field[0] not in keys]
        if self._elements:
            self._elements = {key: found for key, found in self._elements.items() if key not in keys}

    def pop_element(self, name: str) -> str | None:
        """Take off and return the first list element (top Via, first Route); ``None`` if there is none."""
        key = field_key(name)
        self._elements.pop(key, None)
        while (index := self._index(key)) >= 0:
            value = _value(self._fields[index][1])
            first, *rest = split_list(value, name) if value else ("",)
            if rest:
                self._rewrite(index, ", ".join(rest))
            else:
                del self._fields[index]
            if first:
                return first
        return None

    def replace_element(self, name: str, value: object) -> None:
        """Put ``value`` in the place of the first list element; appends a field if there is none."""
        index = self._index(field_key(name))
        if index < 0:
            self.add(name, value)
            return
        _, *rest = split_list(_value(self._fields[index][1]), name)
        self._rewrite(index, ", ".join([check_value(str(value), name), *rest]))

    def copy_from(self, other: Headers, name: str) -> None:
        """Append every field of that name of ``other``, byte for byte."""
        key = field_key(name)
        self._elements.pop(key, None)
        self._fields += [field for field in other._fields if field[0] == key]

    def add_parsed(self, name: str, value: str) -> None:
        """Append a value taken from a parsed message; the same as `add`."""
        self.add(name, value)

    def copy(self) -> Headers:
        """Return an independent copy."""
        copied = Headers()
        copied._fields = self._fields.copy()
        copied._elements = self._elements.copy()
        return copied

    def lines(self) -> list[str]:
        """Return the lines to write, without their CRLF."""
        return [line for _, line in self._fields]

    def keys(self) -> list[str]:
        """Return the comparison name (`field_key`) of each field, in order."""
        return [key for key, _ in self._fields]

    def _index(self, key: str) -> int:
        for index, (own, _) in enumerate(self._fields):
            if own == key:
                return index
        return -1

    def _rewrite(self, index: int, value: str) -> None:
        key, line = self._fields[index]
        self._elements.pop(key, None)
        self._fields[index] = (key, f"{_name(line)}: {value}")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._index(field_key(name)) >= 0

    def __len__(self) -> int:
        return len(self._fields)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for _, line in self._fields:
            yield _name(line), _value(line)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return self._fields == other._fields

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        # Names only: values hold identities and credentials.
        return f"<Headers {', '.join(_name(line) for _, line in self._fields)}>"


def _name(line: str) -> str:
    return line[: line.index(":")].rstrip(" \t")


def _value(line: str) -> str:
    value = line.partition(":")[2]
    return (unfold(value) if "\r\n" in value else value).strip(" \t")


def _field(name: str, value: object) -> tuple[str, str]:
    text = str(value)
    key = _KEYS.get(name)
    if key is None:
        if not is_token(name):
            raise SipParseError("a header's name is no token", where="header", found=name)
        key = field_key(name)
    return key, f"{name}: {check_value(text, name)}"


def _parse_name(line: str) -> str:
    name, colon, _ = line.partition(":")
    if not colon:
        raise SipParseError("a header line has no colon", where="header", clause="RFC 3261 section 7.3.1", found=line)
    name = name.rstrip(" \t")
    if not is_token(name):
        raise SipParseError("a header's name is no token", where="header", clause="RFC 3261 section 7.3.1", found=name)
    return field_key(name)
