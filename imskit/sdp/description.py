"""A session description as a tree of lines: RFC 8866 section 5.

The tree keeps every line in its place and spelling, so a description that was not touched encodes byte-identically,
attributes that nobody here knows included.  Meaning is given on demand by ``imskit.sdp.attributes``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from imskit.sdp.attributes import Direction
from imskit.sdp.errors import SdpError

MAX_OCTETS = 1 << 16
"""Longest description read; a browser's offer of audio, video and data is some 10,000 octets."""

MAX_LINES = 4000
MAX_MEDIA = 64

_SESSION_ORDER = "vosiuepcbtrzka"
_MEDIA_ORDER = "micbka"
_MAX_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Line:
    """One line ``type=value``; ``number`` (from 1; 0: made here) and ``end`` do not count in comparisons."""

    type: str
    value: str
    number: int = field(default=0, compare=False)
    end: str = field(default="\r\n", compare=False)

    def __post_init__(self) -> None:
        if any(character in self.value for character in "\r\n\0"):
            raise SdpError("a line break or NUL inside a value", "RFC 8866 section 9", line=self.number)

    def __str__(self) -> str:
        return f"{self.type}={self.value}{self.end}"

    def __repr__(self) -> str:
        name = self.value.partition(":")[0]
        value = f"{name}:<redacted>" if name in ("crypto", "ice-pwd") else self.value
        return f"Line({self.type}={value}, {self.number})"


@dataclass(frozen=True, slots=True)
class Origin:
    """The ``o=`` line (section 5.2)."""

    username: str
    session_id: int
    version: int
    address_type: str
    address: str

    @classmethod
    def parse(cls, value: str) -> Origin:
        """Read the value; SdpError unless it has six fields and numeric identifiers."""
        fields = value.split()
        if len(fields) != 6:
            raise SdpError(f"o= with {len(fields)} fields", "RFC 8866 section 5.2")
        username, session_id, version, network, address_type, address = fields
        if network != "IN":
            raise SdpError("o= with another network type than IN", "RFC 8866 section 5.2")
        return cls(username, _number(session_id, "o="), _number(version, "o="), address_type, address)

    def __str__(self) -> str:
        return f"{self.username} {self.session_id} {self.version} IN {self.address_type} {self.address}"


@dataclass(frozen=True, slots=True)
class Connection:
    """The ``c=`` line (section 5.7); a multicast TTL or count is dropped."""

    address_type: str
    address: str

    @classmethod
    def parse(cls, value: str) -> Connection:
        """Read the value; SdpError unless it is ``IN``, a type and an address."""
        fields = value.split()
        if len(fields) != 3 or fields[0] != "IN":
            raise SdpError("c= is not 'IN <type> <address>'", "RFC 8866 section 5.7")
        return cls(fields[1], fields[2].partition("/")[0])

    @classmethod
    def to(cls, address: str) -> Connection:
        """The connection data of a textual IPv4 or IPv6 address."""
        return cls("IP6" if ":" in address else "IP4", address)

    @property
    def is_null(self) -> bool:
        """Whether this is the null address of an old hold (RFC 3264 section 8.4) or of trickle ICE."""
        return self.address in ("0.0.0.0", "::")

    def __str__(self) -> str:
        return f"IN {self.address_type} {self.address}"


class Section:
    """The lines of the session or of one media description, without the ``m=`` line."""

    _order = _SESSION_ORDER

    def __init__(self, lines: list[Line]) -> None:
        self.lines = lines

    def attributes(self, name: str) -> list[str]:
        """Values of all ``a=<name>`` lines in order; an attribute without a value gives ``""``."""
        return [value for value, _ in self._attributes(name)]

    def attribute(self, name: str) -> str | None:
        """The first value of ``a=<name>``, ``""`` for a flag, None when it is absent."""
        return next((value for value, _ in self._attributes(name)), None)

    def typed[T](self, name: str, parse: Callable[[str], T]) -> list[T]:
        """All values of ``a=<name>`` through ``parse``, whose SdpError gets the line's number."""
        values: list[T] = []
        for value, line in self._attributes(name):
            try:
                values.append(parse(value))
            except SdpError as error:
                raise error.at(line.number) from None
        return values

    def add(self, line_type: str, value: str) -> None:
        """Add a line at the end of its kind, in the order that section 5 prescribes."""
        rank = self._order.index(line_type)
        index = len(self.lines)
        while index and self._order.index(self.lines[index - 1].type) > rank:
            index -= 1
        self.lines.insert(index, Line(line_type, value))

    def add_attribute(self, name: str, value: str | None = None) -> None:
        """Add ``a=<name>`` or ``a=<name>:<value>`` at the end."""
        self.lines.append(Line("a", name if value is None else f"{name}:{value}"))

    def remove_attributes(self, *names: str) -> None:
        """Remove every attribute of these names."""
        self.lines = [line for line in self.lines if not (line.type == "a" and line.value.partition(":")[0] in names)]

    def first(self, line_type: str) -> Line | None:
        """The first line of a type, None when there is none."""
        return next((line for line in self.lines if line.type == line_type), None)

    @property
    def connection(self) -> Connection | None:
        """The section's own ``c=``; see ``SessionDescription.connection_of`` for the one that applies."""
        line = self.first("c")
        return None if line is None else _at(line, Connection.parse)

    @property
    def bandwidths(self) -> dict[str, int]:
        """The ``b=`` lines by type (AS in kbit/s; RS, RR, TIAS in bit/s); SdpError if one is malformed."""
        found: dict[str, int] = {}
        for line in self.lines:
            if line.type == "b":
                name, value = _at(line, _bandwidth)
                found.setdefault(name, value)
        return found

    def _attributes(self, name: str) -> Iterator[tuple[str, Line]]:
        prefix = name + ":"
        for line in self.lines:
            if line.type == "a":
                if line.value.startswith(prefix):
                    yield line.value[len(prefix) :], line
                elif line.value == name:
                    yield "", line


class MediaDescription(Section):
    """One ``m=`` section.  ``port`` 0 means refused or, with ``a=bundle-only``, not on a port of its own."""

    _order = _MEDIA_ORDER

    def __init__(
        self,
        media: str,
        port: int,
        protocol: str,
        formats: list[str],
        lines: list[Line] | None = None,
        port_count: int = 1,
    ) -> None:
        super().__init__([] if lines is None else lines)
        self.media = media
        self.port = port
        self.port_count = port_count
        self.protocol = protocol
        self.formats = formats
        self._source: tuple[str, Line] | None = None

    @classmethod
    def parse(cls, line: Line) -> MediaDescription:
        """Make a section from its ``m=`` line (section 5.14); SdpError if that is malformed."""
        fields = line.value.split()
        if len(fields) < 4:
            raise SdpError("m= lacks a field", "RFC 8866 section 5.14", line=line.number)
        port, _, count = fields[1].partition("/")
        try:
            section = cls(fields[0], _number(port, "m="), fields[2], fields[3:], None, _number(count or "1", "m="))
        except SdpError as error:
            raise error.at(line.number) from None
        if section.port > 65535:
            raise SdpError(f"port {section.port}", "RFC 8866 section 5.14", line=line.number)
        section._source = (section._text(), line)
        return section

    def set_direction(self, direction: Direction) -> None:
        """Replace the direction in its place, or add it at the end."""
        for index, line in enumerate(self.lines):
            if line.type == "a" and line.value in Direction:
                self.lines[index] = Line("a", direction, line.number, line.end)
                return
        self.add_attribute(direction)

    @property
    def line(self) -> Line:
        """The ``m=`` line: as received while its fields are, else written anew."""
        text = self._text()
        if self._source is None:
            return Line("m", text)
        if self._source[0] == text:
            return self._source[1]
        return Line("m", text, self._source[1].number, self._source[1].end)

    def _text(self) -> str:
        port = str(self.port) if self.port_count == 1 else f"{self.port}/{self.port_count}"
        return " ".join([self.media, port, self.protocol, *self.formats])


class SessionDescription(Section):
    """A whole description: the session's lines, then ``media`` in order."""

    def __init__(self, lines: list[Line], media: list[MediaDescription] | None = None) -> None:
        super().__init__(lines)
        self.media = [] if media is None else media
        self._blank = ""

    @classmethod
    def create(cls, origin: Origin) -> SessionDescription:
        """A description with the lines that every one must have, and nothing else."""
        return cls([Line("v", "0"), Line("o", str(origin)), Line("s", "-"), Line("t", "0 0")])

    @classmethod
    def parse(cls, data: bytes | str) -> SessionDescription:
        """Read a description; SdpError with the line's number if it breaks RFC 8866.

        Lines may end in CRLF or LF.  Octets that are no UTF-8 are kept as they are.
        """
        if len(data) > MAX_OCTETS:
            raise SdpError(f"{len(data)} octets", f"limit of {MAX_OCTETS}")
        text = data if isinstance(data, str) else data.decode("utf-8", "surrogateescape")
        lines, blank = _split(text)
        description = cls([])
        description._blank = blank
        section: Section = description
        for line in lines:
            if line.type == "m":
                if len(description.media) == MAX_MEDIA:
                    raise SdpError("too many media", f"limit of {MAX_MEDIA}", line=line.number)
                media = MediaDescription.parse(line)
                description.media.append(media)
                section = media
            elif line.type in section._order:
                section.lines.append(line)
            else:
                raise SdpError(f"unexpected type {line.type!r}", "RFC 8866 section 5", line=line.number)
        description._check()
        return description

    def encode(self) -> bytes:
        """The description as octets."""
        return str(self).encode("utf-8", "surrogateescape")

    def copy(self) -> SessionDescription:
        """A copy to change without touching this one."""
        return SessionDescription.parse(self.encode())

    @property
    def origin(self) -> Origin:
        """The ``o=`` line."""
        line = self.first("o")
        if line is None:
            raise SdpError("no o= line", "RFC 8866 section 5")
        return _at(line, Origin.parse)

    @origin.setter
    def origin(self, origin: Origin) -> None:
        self.lines = [
            Line("o", str(origin), line.number, line.end) if line.type == "o" else line for line in self.lines
        ]

    def connection_of(self, media: MediaDescription) -> Connection | None:
        """The ``c=`` that applies to ``media``: its own, else the session's."""
        return media.connection or self.connection

    def effective[T](self, media: MediaDescription, name: str, parse: Callable[[str], T]) -> list[T]:
        """The typed values of ``a=<name>`` in ``media``, else the session's (for what is inherited)."""
        return media.typed(name, parse) or self.typed(name, parse)

    def direction_of(self, media: MediaDescription) -> Direction:
        """The direction of ``media``: its own, else the session's, else sendrecv (RFC 8866 section 6.7)."""
        for section in (media, self):
            for line in section.lines:
                if line.type == "a" and line.value in Direction:
                    return Direction(line.value)
        return Direction.SENDRECV

    def same_content(self, other: SessionDescription) -> bool:
        """Whether the two differ in nothing but ``o=`` (RFC 3264 section 8)."""
        return (
            [line for line in self.lines if line.type != "o"] == [line for line in other.lines if line.type != "o"]
            and [media.line for media in self.media] == [media.line for media in other.media]
            and [media.lines for media in self.media] == [media.lines for media in other.media]
        )

    def succeed(self, previous: SessionDescription | None) -> None:
        """Take ``previous``'s origin, with the version one up if anything else changed (RFC 3264 section 8)."""
        if previous is None:
            return
        origin = previous.origin
        step = 0 if self.same_content(previous) else 1
        self.origin = Origin(
            origin.username, origin.session_id, origin.version + step, origin.address_type, origin.address
        )

    def __str__(self) -> str:
        parts = [str(line) for line in self.lines]
        for media in self.media:
            parts.append(str(media.line))
            parts += [str(line) for line in media.lines]
        return "".join(parts) + self._blank

    def _check(self) -> None:
        first = "".join(line.type for line in self.lines[:3])
        if first != "vos":
            raise SdpError("it does not begin with v=, o=, s=", "RFC 8866 section 5", line=1)
        for letter in "vos":
            if sum(line.type == letter for line in self.lines) > 1:
                raise SdpError(f"more than one {letter}=", "RFC 8866 section 5")
        if self.lines[0].value.strip() != "0":
            raise SdpError("another version than 0", "RFC 8866 section 5.1", line=1)
        if self.first("t") is None:
            raise SdpError("no t= line", "RFC 8866 section 5")
        _ = self.origin
        session_connection = self.connection
        for media in self.media:
            if media.connection is None and session_connection is None and media.port:
                raise SdpError("no c= for this media", "RFC 8866 section 5.7", line=media.line.number)


def _split(text: str) -> tuple[list[Line], str]:
    lines: list[Line] = []
    rows = text.split("\n", MAX_LINES + 1)
    if len(rows) > MAX_LINES:
        raise SdpError("too many lines", f"limit of {MAX_LINES}")
    last = len(rows) - 1
    blank = ""
    for index, row in enumerate(rows):
        end = "" if index == last else "\n"
        if row.endswith("\r") and end:
            row, end = row[:-1], "\r\n"
        if not row:
            blank += end
            continue
        if blank:
            raise SdpError("an empty line", "RFC 8866 section 9", line=index)
        if len(row) < 2 or row[1] != "=" or not row[0].isascii() or not row[0].islower():
            raise SdpError("no '<type>=' at the start", "RFC 8866 section 5", line=index + 1)
        lines.append(Line(row[0], row[2:], index + 1, end))
    return lines, blank


def _number(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise SdpError(f"{where} with a field that is no number", "RFC 8866 section 9")
    return int(text)


def _bandwidth(value: str) -> tuple[str, int]:
    name, _, number = value.partition(":")
    return name, _number(number.strip(), "b=")


def _at[T](line: Line, parse: Callable[[str], T]) -> T:
    try:
        return parse(line.value)
    except SdpError as error:
        raise error.at(line.number) from None
