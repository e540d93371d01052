"""The messages of the sub-protocol ``imsbridge.json``: one JSON object in each WebSocket text message (RFC 8259).

Reading is strict: a name that is not known, a type that is another, a name twice, or more than the limits is
refused with `JsonError`, the one exception of this package.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Never

from imskit.secrets import Identity, Secret
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.uri import SipUri, TelUri, parse_uri

SUB_PROTOCOL = "imsbridge.json"
MAX_OCTETS = 1 << 17
"""Of one message: a description has 65,536 at most, and JSON writes some characters longer."""
MAX_NAME = 64
"""Characters of ``id`` and ``call``."""
MAX_TEXT = 4096
"""Characters of a text message."""
MAX_SDP = 1 << 16
MAX_TOKEN = 8192
MAX_CANDIDATES = 64
DIGITS = frozenset("0123456789*#ABCD")
REASONS = ("normal", "busy", "declined")
"""Why a client hangs up; it matters only before the answer."""


class JsonError(ValueError):
    """A message that breaks the protocol.

    ``code`` is for programs, ``what`` says what is wrong where and what to do; neither repeats the client's text.
    ``id`` is the message's, if it could be read.
    """

    def __init__(self, code: str, what: str, id: str | None = None) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.id = id


@dataclass(frozen=True, slots=True)
class Login:
    """Use this access token and this identity from now on."""

    id: str | None
    token: Secret[str]
    identity: Identity


@dataclass(frozen=True, slots=True)
class Register:
    """Register, or refresh the registration; ``expires`` in seconds."""

    id: str | None
    expires: int = 600


@dataclass(frozen=True, slots=True)
class Unregister:
    """End the registration."""

    id: str | None


@dataclass(frozen=True, slots=True)
class Call:
    """Call somebody, with an offer."""

    id: str | None
    call: str
    to: Identity
    sdp: bytes


@dataclass(frozen=True, slots=True)
class Ring:
    """The user is told of an incoming call."""

    id: str | None
    call: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer an incoming call, or an offer within one."""

    id: str | None
    call: str
    sdp: bytes


@dataclass(frozen=True, slots=True)
class Offer:
    """Change a call: hold, resume, another codec."""

    id: str | None
    call: str
    sdp: bytes


@dataclass(frozen=True, slots=True)
class Candidates:
    """Candidates that came after the description (RFC 8838)."""

    id: str | None
    call: str
    ufrag: str
    pwd: str
    candidates: tuple[str, ...]
    """As in ``a=candidate:`` of SDP, without that name."""
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Hangup:
    """End a call, or refuse it."""

    id: str | None
    call: str
    reason: str = "normal"


@dataclass(frozen=True, slots=True)
class Dtmf:
    """Press keys."""

    id: str | None
    call: str
    digits: str


@dataclass(frozen=True, slots=True)
class Text:
    """Send a text message."""

    id: str | None
    to: Identity
    text: str


type ClientMessage = Login | Register | Unregister | Call | Ring | Answer | Offer | Candidates | Hangup | Dtmf | Text


@dataclass(frozen=True, slots=True)
class ServerMessage:
    """A message to the client: its type, and its further members; those that are None are left out."""

    type: str
    members: tuple[tuple[str, str | int | None], ...] = ()

    @classmethod
    def of(cls, kind: str, **members: str | int | None) -> ServerMessage:
        """Make one."""
        return cls(kind, tuple((name, value) for name, value in members.items() if value is not None))

    def encode(self) -> str:
        """The JSON text."""
        return json.dumps({"type": self.type, **dict(self.members)}, ensure_ascii=False, separators=(",", ":"))

    def __repr__(self) -> str:
        # Members hold identities and texts of people.
        return f"<ServerMessage {self.type}: {', '.join(name for name, _ in self.members)}>"


def parse(data: str | bytes) -> ClientMessage:
    """Read a client's message; `JsonError`."""
    if isinstance(data, bytes):
        raise JsonError("format", "messages are text, not binary")
    if len(data) > MAX_OCTETS or len(data.encode("utf-8", "surrogatepass")) > MAX_OCTETS:
        raise JsonError("too-long", f"a message has {MAX_OCTETS} octets at most")
    try:
        value = json.loads(data, object_pairs_hook=_object, parse_constant=_constant)
    except JsonError:
        raise
    except (ValueError, RecursionError):
        raise JsonError("format", "this is no JSON object (RFC 8259)") from None
    if not isinstance(value, dict):
        raise JsonError("format", "a message is a JSON object with the member type")
    members = _Members(value)
    kind = value.get("type")
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise JsonError("type", f"type is one of {', '.join(_READERS)}", members.id)
    message = read(members)
    members.finish()
    return message


class _Members:
    """Takes members out of an object, each once, and complains of what is left."""

    def __init__(self, value: Mapping[str, object]) -> None:
        self._left = {name: item for name, item in value.items() if name not in ("type", "id")}
        found = value.get("id")
        self.id = found if isinstance(found, str) and len(found) <= MAX_NAME else None
        if "id" in value and self.id is None:
            raise JsonError("member", f"id is a string of {MAX_NAME} characters at most")

    def fail(self, what: str) -> Never:
        raise JsonError("member", what, self.id)

    def finish(self) -> None:
        if self._left:
            self.fail("there are members that this type does not have; see docs/signalling-json.md")

    def text(self, name: str, most: int, default: str | None = None) -> str:
        value = self._left.pop(name, default)
        if not isinstance(value, str) or not value or len(value) > most:
            self.fail(f"{name} is a string of 1 to {most} characters")
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail(f"{name} has half a surrogate pair")
        return value

    def number(self, name: str, least: int, most: int, default: int) -> int:
        value = self._left.pop(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.fail(f"{name} is a number from {least} to {most}")
        return value

    def flag(self, name: str) -> bool:
        value = self._left.pop(name, False)
        if not isinstance(value, bool):
            self.fail(f"{name} is true or false")
        return value

    def word(self, name: str) -> str:
        value = self.text(name, MAX_NAME)
        if not all(char.isascii() and (char.isalnum() or char in "-._") for char in value):
            self.fail(f"{name} has letters, digits, -, . and _")
        return value

    def sdp(self) -> bytes:
        value = self.text("sdp", MAX_SDP).encode()
        if len(value) > MAX_SDP:
            self.fail(f"sdp has {MAX_SDP} octets at most")
        return value

    def address(self, name: str) -> Identity:
        value = self.text(name, 256)
        try:
            uri = parse_uri(value, name)
        except SipParseError:
            uri = None
        if not isinstance(uri, SipUri | TelUri) or (isinstance(uri, SipUri) and uri.headers is not None):
            self.fail(f"{name} is a sip: or tel: URI without headers")
        return Identity(value)

    def strings(self, name: str, count: int, most: int) -> tuple[str, ...]:
        value = self._left.pop(name, [])
        if not isinstance(value, list) or len(value) > count:
            self.fail(f"{name} is a list of {count} strings at most")
        if not all(isinstance(item, str) and len(item) <= most and item.isprintable() for item in value):
            self.fail(f"{name} has a member that is no string of {most} printable characters at most")
        return tuple(value)


def _login(members: _Members) -> Login:
    token = members.text("token", MAX_TOKEN)
    if not all("!" <= char <= "~" for char in token):
        members.fail("token has a character that no token has")
    return Login(members.id, Secret(token), members.address("identity"))


def _candidates(members: _Members) -> Candidates:
    call = members.word("call")
    ufrag, pwd = members.text("ufrag", 256), members.text("pwd", 256)
    if not (ufrag + pwd).isprintable():
        members.fail("ufrag or pwd has a control character")
    found = members.strings("candidates", MAX_CANDIDATES, 512)
    return Candidates(members.id, call, ufrag, pwd, found, members.flag("ended"))


def _hangup(members: _Members) -> Hangup:
    call, reason = members.word("call"), members.text("reason", 16, "normal")
    if reason not in REASONS:
        members.fail(f"reason is one of {', '.join(REASONS)}")
    return Hangup(members.id, call, reason)


def _dtmf(members: _Members) -> Dtmf:
    call, digits = members.word("call"), members.text("digits", 32)
    if not DIGITS.issuperset(digits):
        members.fail("digits are 0-9, *, # and A-D")
    return Dtmf(members.id, call, digits)


_READERS: dict[str, Callable[[_Members], ClientMessage]] = {
    "login": _login,
    "register": lambda members: Register(members.id, members.number("expires", 60, 3600, 600)),
    "unregister": lambda members: Unregister(members.id),
    "call": lambda members: Call(members.id, members.word("call"), members.address("to"), members.sdp()),
    "ring": lambda members: Ring(members.id, members.word("call")),
    "answer": lambda members: Answer(members.id, members.word("call"), members.sdp()),
    "offer": lambda members: Offer(members.id, members.word("call"), members.sdp()),
    "candidates": _candidates,
    "hangup": _hangup,
    "dtmf": _dtmf,
    "message": lambda members: Text(members.id, members.address("to"), members.text("text", MAX_TEXT)),
}


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise JsonError("format", "a member stands there twice")
    return found


def _constant(_: str) -> Never:
    raise JsonError("format", "NaN and Infinity are no JSON")
