"""NG messages: ``<cookie> <bencoded dictionary>`` to typed requests and back, for both ends of Iq.

The names are those of rtpengine's NG protocol.  A key, flag or value that is not known here is not an error: control
programs send what their configuration says.  It is handed up, to be logged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from imskit.sdp.attributes import Candidate
from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError
from network_edge.eims_agw.wire import bencode
from network_edge.eims_agw.wire.bencode import Value
from network_edge.eims_agw.wire.errors import NgError
from network_edge.iq.gateway import (
    AnswerRequest,
    CandidatesRequest,
    CodecFlags,
    DeleteRequest,
    Dtls,
    Ice,
    IceLite,
    MediaFlags,
    OfferRequest,
    QueryRequest,
    RtcpMux,
    Transport,
)

MAX_COOKIE = 255
MAX_NAME = 1024
"""Longest call-id or tag."""
MAX_CANDIDATES = 100
"""Candidates of one command."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there?"""


@dataclass(frozen=True, slots=True)
class ListRequest:
    """Which calls are there, at most ``limit``?"""

    limit: int = 32


type Request = Ping | ListRequest | OfferRequest | AnswerRequest | CandidatesRequest | DeleteRequest | QueryRequest


@dataclass(frozen=True, slots=True)
class Parsed:
    """A request, and the keys and flags in it that mean nothing here."""

    request: Request
    ignored: tuple[str, ...] = ()


def split(data: bytes) -> tuple[str, bytes]:
    """Take the cookie off; ``NgError`` when there is none."""
    cookie, space, body = data[: bencode.MAX_OCTETS + MAX_COOKIE + 1].partition(b" ")
    if not space or not 0 < len(cookie) <= MAX_COOKIE or not all(33 <= octet <= 126 for octet in cookie):
        raise NgError("no cookie at the start", "octet 0")
    return cookie.decode("ascii"), body


def join(cookie: str, message: Mapping[str, Value]) -> bytes:
    """Write a message; ``NgError`` when it is too long for a datagram."""
    data = cookie.encode("ascii") + b" " + bencode.encode(dict(message))
    if len(data) > bencode.MAX_OCTETS - 28:
        raise NgError(f"a message of {len(data)} octets", clause="limit of UDP", cookie=cookie)
    return data


def dictionary(body: bytes) -> dict[str, Value]:
    """Read the part after the cookie; ``NgError`` when it is no dictionary."""
    value = bencode.decode(body)
    if not isinstance(value, dict):
        raise NgError("the message is no dictionary", "octet 0")
    return value


# From a dictionary to a request

_ADDRESSING = {"command", "call-id", "from-tag", "to-tag", "via-branch", "sdp"}


def parse_request(message: Mapping[str, Value]) -> Parsed:
    """Read a request; ``NgError`` for an unknown command, a missing name or an SDP that cannot be read.

    Keys may be spelled with spaces for hyphens (``transport protocol``), as older controllers do.
    """
    message = {key.replace(" ", "-"): value for key, value in message.items()}
    command = _string(message, "command")
    if command is None:
        raise NgError("Dictionary contains no key 'command'", "command")
    if command not in _COMMANDS:
        raise NgError("Unrecognized command", "command")
    return _COMMANDS[command](message)


def _parse_ping(message: Mapping[str, Value]) -> Parsed:
    return Parsed(Ping())


def _parse_list(message: Mapping[str, Value]) -> Parsed:
    limit = _integer(message, "limit")
    return Parsed(ListRequest(32 if limit is None else max(0, min(limit, 1000))))


def _parse_offer(message: Mapping[str, Value]) -> Parsed:
    flags = _Flags(message)
    offer = OfferRequest(
        _required(message, "call-id"),
        _required(message, "from-tag"),
        _sdp(message),
        flags.read(),
        _string(message, "to-tag") or None,
        _string(message, "via-branch") or None,
    )
    return Parsed(offer, tuple(flags.ignored))


def _parse_answer(message: Mapping[str, Value]) -> Parsed:
    flags = _Flags(message)
    answer = AnswerRequest(
        _required(message, "call-id"),
        _required(message, "from-tag"),
        _required(message, "to-tag"),
        _sdp(message),
        flags.read(),
        _string(message, "via-branch") or None,
    )
    return Parsed(answer, tuple(flags.ignored))


def _parse_delete(message: Mapping[str, Value]) -> Parsed:
    delay = _integer(message, "delete-delay")
    return Parsed(
        DeleteRequest(
            _required(message, "call-id"),
            _string(message, "from-tag") or None,
            _string(message, "to-tag") or None,
            _string(message, "via-branch") or None,
            None if delay is None else max(0, min(delay, 86400)),
        )
    )


def _parse_candidates(message: Mapping[str, Value]) -> Parsed:
    """A command of this project's: rtpengine takes candidates in a later offer only."""
    texts = message.get("candidates", [])
    if not isinstance(texts, list) or len(texts) > MAX_CANDIDATES or not all(isinstance(text, str) for text in texts):
        raise NgError(f"it is no list of {MAX_CANDIDATES} strings at most", "candidates")
    try:
        candidates = tuple(Candidate.parse(str(text)) for text in texts)
    except SdpError as error:
        raise NgError(error.what, "candidates", error.clause) from None
    call_id, from_tag, ufrag, pwd = (_required(message, key) for key in ("call-id", "from-tag", "ufrag", "pwd"))
    return Parsed(CandidatesRequest(call_id, from_tag, ufrag, pwd, candidates, _string(message, "ended") == "yes"))


def _parse_query(message: Mapping[str, Value]) -> Parsed:
    names = (_string(message, key) or None for key in ("from-tag", "to-tag"))
    return Parsed(QueryRequest(_required(message, "call-id"), *names))


_COMMANDS: dict[str, Callable[[Mapping[str, Value]], Parsed]] = {
    "ping": _parse_ping,
    "list": _parse_list,
    "offer": _parse_offer,
    "answer": _parse_answer,
    "candidates": _parse_candidates,
    "delete": _parse_delete,
    "query": _parse_query,
}


def _string(message: Mapping[str, Value], key: str) -> str | None:
    value = message.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise NgError("it is no string", key)
    if key != "sdp" and len(value) > MAX_NAME:
        raise NgError(f"{len(value)} octets", key, f"limit of {MAX_NAME}")
    return value


def _required(message: Mapping[str, Value], key: str) -> str:
    value = _string(message, key)
    if not value:
        raise NgError(f"No {key} in message", key)
    return value


def _integer(message: Mapping[str, Value], key: str) -> int | None:
    """Read a number, which some control programs write as text."""
    value = message.get(key)
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9:
        return int(value)
    return None


def _sdp(message: Mapping[str, Value]) -> SessionDescription:
    try:
        return SessionDescription.parse(_required(message, "sdp"))
    except SdpError as error:
        raise NgError(f"Failed to parse SDP: {error.what}, line {error.line}", "sdp", error.clause) from None


_CODEC_LISTS = ("transcode", "mask", "strip", "offer", "except")
_HANDLED = {"ICE", "ICE-lite", "transport-protocol", "rtcp-mux", "DTLS", "SDES", "codec", "replace", "direction"}
_HANDLED |= {"label", "set-label", "TOS", "media-timeout", "flags"}
_SILENT = {"received-from", "supports", "drop-traffic"}
"""Said by stock control programs in every message, and of no meaning for a gateway that writes its own addresses."""


class _Flags:
    def __init__(self, message: Mapping[str, Value]) -> None:
        self._message = message
        self.ignored = [key for key in message if key not in _ADDRESSING | _HANDLED | _SILENT]

    def read(self) -> MediaFlags:
        codec: dict[str, list[str]] = {name: [] for name in _CODEC_LISTS}
        found = self._message.get("codec")
        if isinstance(found, dict):
            for name in found:
                if name in codec:
                    codec[name] += self._texts(found, name)
                else:
                    self.ignored.append(f"codec {name}")
        words = []
        sdes = list(self._texts(self._message, "SDES"))
        for word in self._texts(self._message, "flags"):
            kind, _, rest = word.partition("-")
            name, _, what = rest.partition("-")
            if kind == "codec" and name in codec and what:
                codec[name].append(what)
            elif kind == "transcode" and rest:
                codec["transcode"].append(rest)
            elif kind == "SDES" and rest:
                sdes.append(rest)
            else:
                words.append(word)
        label = self._texts(self._message, "label") or self._texts(self._message, "set-label")
        return MediaFlags(
            transport=self._word("transport-protocol", Transport),
            ice=self._word("ICE", Ice),
            ice_lite=self._word("ICE-lite", IceLite),
            rtcp_mux=tuple(
                item
                for word in self._texts(self._message, "rtcp-mux")
                if (item := self._member("rtcp-mux", word, RtcpMux))
            ),
            dtls=self._dtls(),
            sdes=tuple(sdes),
            codec=CodecFlags(*(tuple(codec[name]) for name in _CODEC_LISTS)),
            replace=self._texts(self._message, "replace"),
            direction=self._texts(self._message, "direction"),
            label=label[0] if label else "",
            tos=self._bounded("TOS", 255),
            media_timeout=self._bounded("media-timeout", 86400),
            flags=tuple(words),
        )

    def _texts(self, where: Mapping[str, Value], key: str) -> tuple[str, ...]:
        value = where.get(key)
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list):
            return tuple(item for item in value if isinstance(item, str))
        return ()

    def _word[T: StrEnum](self, key: str, kind: type[T]) -> T | None:
        words = self._texts(self._message, key)
        return self._member(key, words[0], kind) if words else None

    def _member[T: StrEnum](self, key: str, word: str, kind: type[T]) -> T | None:
        try:
            return kind(word)
        except ValueError:
            self.ignored.append(f"{key}={word}")
            return None

    def _dtls(self) -> Dtls | None:
        words = self._texts(self._message, "DTLS")
        if words and words[0] in ("no", "disable"):
            return Dtls.OFF
        return self._word("DTLS", Dtls)

    def _bounded(self, key: str, most: int) -> int | None:
        value = _integer(self._message, key)
        if value is None or 0 <= value <= most:
            return value
        self.ignored.append(f"{key}={value}")
        return None


# From a request to a dictionary


def request_message(request: Request) -> dict[str, Value]:
    """Return the dictionary of a request, without what is not set."""
    message: dict[str, Value] = {}
    match request:
        case Ping():
            message["command"] = "ping"
        case ListRequest(limit):
            message |= {"command": "list", "limit": limit}
        case OfferRequest() | AnswerRequest():
            message["command"] = "offer" if isinstance(request, OfferRequest) else "answer"
            message["sdp"] = str(request.sdp)
            message |= _flags_message(request.flags)
        case DeleteRequest():
            message["command"] = "delete"
            if request.delay is not None:
                message["delete-delay"] = request.delay
        case CandidatesRequest():
            message |= {"command": "candidates", "ufrag": request.ufrag, "pwd": request.pwd}
            message["candidates"] = [str(candidate) for candidate in request.candidates]
            if request.ended:
                message["ended"] = "yes"
        case QueryRequest():
            message["command"] = "query"
    for attribute in ("call_id", "from_tag", "to_tag", "via_branch"):
        value = getattr(request, attribute, None)
        if value:
            message[attribute.replace("_", "-")] = str(value)
    return message


def _flags_message(flags: MediaFlags) -> dict[str, Value]:
    codec: dict[str, Value] = {
        name: list(words)
        for name, words in (
            ("transcode", flags.codec.transcode),
            ("mask", flags.codec.mask),
            ("strip", flags.codec.strip),
            ("offer", flags.codec.offer),
            ("except", flags.codec.except_),
        )
        if words
    }
    message: dict[str, Value | None] = {
        "transport-protocol": flags.transport,
        "ICE": flags.ice,
        "ICE-lite": flags.ice_lite,
        "rtcp-mux": list(flags.rtcp_mux),
        "DTLS": flags.dtls,
        "SDES": list(flags.sdes),
        "codec": codec,
        "replace": list(flags.replace),
        "direction": list(flags.direction),
        "label": flags.label,
        "TOS": flags.tos,
        "media-timeout": flags.media_timeout,
        "flags": list(flags.flags),
    }
    return {key: value for key, value in message.items() if value is not None and value not in ("", [], {})}
