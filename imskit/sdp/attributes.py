"""Typed values of the attributes this project acts on; each parses on demand and writes itself back.

``parse`` raises SdpError naming the clause; ``Section.typed`` adds the line's number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from imskit.sdp.errors import SdpError


class Direction(StrEnum):
    """Media direction as its sender sees it (RFC 8866 section 6.7)."""

    SENDRECV = "sendrecv"
    SENDONLY = "sendonly"
    RECVONLY = "recvonly"
    INACTIVE = "inactive"

    @property
    def sends(self) -> bool:
        """Whether the one who says it sends."""
        return self in (Direction.SENDRECV, Direction.SENDONLY)

    @property
    def receives(self) -> bool:
        """Whether the one who says it receives."""
        return self in (Direction.SENDRECV, Direction.RECVONLY)

    @property
    def reversed(self) -> Direction:
        """The same as seen from the other side."""
        return Direction.of(self.receives, self.sends)

    def within(self, limit: Direction) -> Direction:
        """What is left of this direction where only ``limit`` is allowed."""
        return Direction.of(self.sends and limit.sends, self.receives and limit.receives)

    @staticmethod
    def of(sends: bool, receives: bool) -> Direction:
        """The direction of someone who sends and receives as said."""
        if sends:
            return Direction.SENDRECV if receives else Direction.SENDONLY
        return Direction.RECVONLY if receives else Direction.INACTIVE


@dataclass(frozen=True, slots=True)
class RtpMap:
    """``rtpmap:<payload type> <encoding>/<clock rate>[/<channels>]`` (RFC 8866 section 6.6).

    ``channels_stated`` keeps a ``/1`` that could be left out, for an answer must repeat it (RFC 4867 section 8.3.1).
    """

    payload_type: int
    encoding: str
    clock_rate: int
    channels: int = 1
    channels_stated: bool = field(default=False, compare=False)

    _FORM = re.compile(r"(\d{1,3}) +([^\s/]+)/(\d{1,9})(?:/(\d{1,3}))? *", re.ASCII)

    @classmethod
    def parse(cls, value: str) -> RtpMap:
        """Read the value; SdpError if it is malformed or the payload type exceeds 127."""
        match = cls._FORM.fullmatch(value)
        if match is None or int(match[1]) > 127 or int(match[3]) == 0 or match[4] in ("0", "00", "000"):
            raise SdpError("malformed rtpmap", "RFC 8866 section 6.6")
        return cls(int(match[1]), match[2], int(match[3]), int(match[4] or 1), match[4] is not None)

    def __str__(self) -> str:
        channels = f"/{self.channels}" if self.channels != 1 or self.channels_stated else ""
        return f"{self.payload_type} {self.encoding}/{self.clock_rate}{channels}"


@dataclass(frozen=True, slots=True)
class Fmtp:
    """``fmtp:<format> <parameters>`` (RFC 8866 section 6.15)."""

    format: str
    parameters: str

    @classmethod
    def parse(cls, value: str) -> Fmtp:
        """Read the value; SdpError without a format."""
        name, _, parameters = value.strip().partition(" ")
        if not name:
            raise SdpError("fmtp without a format", "RFC 8866 section 6.15")
        return cls(name, parameters.strip())

    def __str__(self) -> str:
        return f"{self.format} {self.parameters}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An ICE candidate (RFC 8839 section 5.1); ``extensions`` are its name-value pairs in order."""

    foundation: str
    component: int
    transport: str
    priority: int
    address: str
    port: int
    type: str
    related_address: str | None = None
    related_port: int | None = None
    extensions: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, value: str) -> Candidate:
        """Read the value (without ``candidate:``); SdpError if it breaks the grammar."""
        fields = value.split()
        clause = "RFC 8839 section 5.1"
        if len(fields) < 8 or fields[6] != "typ" or len(fields) % 2:
            raise SdpError("malformed candidate", clause)
        numbers = [fields[1], fields[3], fields[5]]
        if not all(text.isascii() and text.isdigit() and len(text) <= 10 for text in numbers):
            raise SdpError("candidate with a number that is none", clause)
        component, priority, port = (int(text) for text in numbers)
        if not 1 <= component <= 256 or port > 65535 or priority > 0xFFFFFFFF:
            raise SdpError("candidate with a number out of range", clause)
        related_address: str | None = None
        related_port: int | None = None
        extensions: list[tuple[str, str]] = []
        for name, text in zip(fields[8::2], fields[9::2], strict=True):
            if name == "raddr":
                related_address = text
            elif name == "rport":
                if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
                    raise SdpError("candidate with a bad rport", clause)
                related_port = int(text)
            else:
                extensions.append((name, text))
        return cls(
            fields[0],
            component,
            fields[2],
            priority,
            fields[4],
            port,
            fields[7],
            related_address,
            related_port,
            tuple(extensions),
        )

    def __str__(self) -> str:
        text = (
            f"{self.foundation} {self.component} {self.transport} {self.priority} "
            f"{self.address} {self.port} typ {self.type}"
        )
        if self.related_address is not None:
            text += f" raddr {self.related_address}"
        if self.related_port is not None:
            text += f" rport {self.related_port}"
        return text + "".join(f" {name} {value}" for name, value in self.extensions)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """``fingerprint:<hash> <hex pairs>`` (RFC 8122 section 5); the hash in lower case, the value in upper case."""

    algorithm: str
    value: str

    _FORM = re.compile(r"([A-Za-z0-9-]{1,32}) +((?:[0-9A-Fa-f]{2}:){0,127}[0-9A-Fa-f]{2}) *")

    @classmethod
    def parse(cls, value: str) -> Fingerprint:
        """Read the value; SdpError if it is no hash name and colon-separated octets."""
        match = cls._FORM.fullmatch(value)
        if match is None:
            raise SdpError("malformed fingerprint", "RFC 8122 section 5")
        return cls(match[1].lower(), match[2].upper())

    def __str__(self) -> str:
        return f"{self.algorithm} {self.value}"


@dataclass(frozen=True, slots=True)
class Group:
    """``group:<semantics> <mid> …`` (RFC 5888 section 5)."""

    semantics: str
    mids: tuple[str, ...]

    @classmethod
    def parse(cls, value: str) -> Group:
        """Read the value; SdpError without semantics."""
        fields = value.split()
        if not fields:
            raise SdpError("group without semantics", "RFC 5888 section 5")
        return cls(fields[0], tuple(fields[1:]))

    def __str__(self) -> str:
        return " ".join([self.semantics, *self.mids])


@dataclass(frozen=True, slots=True)
class RtcpAddress:
    """``rtcp:<port> [IN <type> <address>]`` (RFC 3605 section 2.1)."""

    port: int
    address: str | None = None

    @classmethod
    def parse(cls, value: str) -> RtcpAddress:
        """Read the value; SdpError if it is malformed."""
        fields = value.split()
        port = fields[0] if fields else ""
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
            raise SdpError("malformed rtcp port", "RFC 3605 section 2.1")
        if len(fields) == 1:
            return cls(int(port))
        if len(fields) != 4 or fields[1] != "IN":
            raise SdpError("malformed rtcp address", "RFC 3605 section 2.1")
        return cls(int(port), fields[3])

    def __str__(self) -> str:
        if self.address is None:
            return str(self.port)
        return f"{self.port} IN {'IP6' if ':' in self.address else 'IP4'} {self.address}"


@dataclass(frozen=True, slots=True)
class Crypto:
    """``crypto:<tag> <suite> <key parameters> [<session parameters>]`` (RFC 4568 section 4).

    ``key_parameters`` holds the master key: it does not show in ``repr``.
    """

    tag: int
    suite: str
    key_parameters: str
    session_parameters: str = ""

    @classmethod
    def parse(cls, value: str) -> Crypto:
        """Read the value; SdpError if a field is missing."""
        fields = value.split(None, 3)
        if len(fields) < 3 or not (fields[0].isascii() and fields[0].isdigit() and len(fields[0]) <= 9):
            raise SdpError("malformed crypto", "RFC 4568 section 9.1")
        return cls(int(fields[0]), fields[1], fields[2], fields[3] if len(fields) > 3 else "")

    def __str__(self) -> str:
        return f"{self.tag} {self.suite} {self.key_parameters} {self.session_parameters}".rstrip()

    def __repr__(self) -> str:
        return f"Crypto(tag={self.tag}, suite={self.suite!r})"


@dataclass(frozen=True, slots=True)
class ExtensionMap:
    """``extmap:<id>[/<direction>] <URI> [<attributes>]`` (RFC 8285 section 7)."""

    id: int
    uri: str
    direction: Direction | None = None
    attributes: str = ""

    @classmethod
    def parse(cls, value: str) -> ExtensionMap:
        """Read the value; SdpError if it is malformed."""
        fields = value.split(None, 2)
        number, _, direction = (fields[0] if fields else "").partition("/")
        clause = "RFC 8285 section 7"
        if len(fields) < 2 or not (number.isascii() and number.isdigit() and len(number) <= 4):
            raise SdpError("malformed extmap", clause)
        if direction and direction not in Direction:
            raise SdpError("extmap with an unknown direction", clause)
        return cls(
            int(number),
            fields[1],
            Direction(direction) if direction else None,
            fields[2] if len(fields) > 2 else "",
        )

    def __str__(self) -> str:
        direction = f"/{self.direction}" if self.direction else ""
        return f"{self.id}{direction} {self.uri} {self.attributes}".rstrip()


@dataclass(frozen=True, slots=True)
class TransportCapability:
    """``tcap:<number> <protocol> …``; the protocols are numbered from ``number`` (RFC 5939 section 3.4.3)."""

    number: int
    protocols: tuple[str, ...]

    @classmethod
    def parse(cls, value: str) -> TransportCapability:
        """Read the value; SdpError if it is malformed."""
        fields = value.split()
        if len(fields) < 2:
            raise SdpError("malformed tcap", "RFC 5939 section 3.4.3")
        return cls(integer(fields[0], "tcap", "RFC 5939 section 3.4.3"), tuple(fields[1:]))

    def __str__(self) -> str:
        return " ".join([str(self.number), *self.protocols])


@dataclass(frozen=True, slots=True)
class PotentialConfiguration:
    """``pcfg:<number> <configuration>`` (RFC 5939 section 3.5.1); ``acfg`` (3.5.2) has the same form."""

    number: int
    configuration: str

    @classmethod
    def parse(cls, value: str) -> PotentialConfiguration:
        """Read the value; SdpError if it is malformed."""
        number, _, configuration = value.strip().partition(" ")
        return cls(integer(number, "pcfg", "RFC 5939 section 3.5.1"), configuration.strip())

    def __str__(self) -> str:
        return f"{self.number} {self.configuration}".rstrip()


def integer(value: str, name: str, clause: str) -> int:
    """A non-negative number of at most nine digits (ptime, sctp-port …); SdpError if it is none."""
    text = value.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise SdpError(f"{name} is no number", clause)
    return int(text)


def milliseconds(value: str) -> int:
    """The value of ``ptime`` or ``maxptime``; a fraction, which some phones send, is cut off."""
    return integer(value.partition(".")[0], "ptime", "RFC 8866 section 6.4")
