"""Candidates that a browser sends after its description, by INFO (RFC 8840); they end at this edge."""

from __future__ import annotations

from dataclasses import dataclass

from imskit.sdp.attributes import Candidate
from imskit.sdp.errors import SdpError
from imskit.sip.wire.message import Request, Response, response_to
from network_edge.ep_cscf.engine.option_tags import TRICKLE
from network_edge.ep_cscf.engine.refusals import refusal
from network_edge.iq.gateway import CandidatesRequest

FRAGMENT = "application/trickle-ice-sdpfrag"
MAX_OCTETS = 1 << 14
MAX_CANDIDATES = 64
"""In one INFO."""
_CLAUSE = "RFC 8840 section 9.2"


@dataclass(frozen=True, slots=True)
class MediaCandidates:
    """Give these candidates to the media gateway; nothing is waited for."""

    request: CandidatesRequest


@dataclass(frozen=True, slots=True)
class Fragment:
    """What is said of the first media line: with BUNDLE and with one sound line it is the only one that counts."""

    ufrag: str
    pwd: str
    candidates: tuple[Candidate, ...]
    ended: bool
    """No more will come."""


def is_trickle(request: Request) -> bool:
    """True for an INFO of this package (RFC 6086 section 4.2.1)."""
    package = request.headers.get("Info-Package")
    return package is not None and package.partition(";")[0].strip().lower() == TRICKLE


def read_info(request: Request, media_id: str) -> tuple[Response, MediaCandidates | None]:
    """Answer an INFO of the browser: 200 with what to tell the gateway, or why not."""
    kind = request.content_type
    if kind is None or kind.essence != FRAGMENT:
        refused = response_to(request, 415)
        refused.headers.add("Accept", FRAGMENT)
        return refused, None
    try:
        fragment = read_fragment(request.body)
    except SdpError as error:
        return refusal(request, 400, str(error)), None
    told = CandidatesRequest(
        media_id, request.from_.tag or "", fragment.ufrag, fragment.pwd, fragment.candidates, fragment.ended
    )
    return response_to(request, 200), MediaCandidates(told)


def read_fragment(data: bytes) -> Fragment:
    """Read an SDP fragment; `SdpError` (400) with the line's number if it breaks RFC 8840 section 9.2.

    Credentials stand at session level or below the pseudo ``m=`` line; those of the media line win.  Unknown
    attributes are passed over.  Candidates that repeat themselves, as RFC 8840 section 4.3.1 wants, come once.
    """
    if len(data) > MAX_OCTETS:
        raise SdpError(f"{len(data)} octets", f"limit of {MAX_OCTETS}")
    session: dict[str, str] = {}
    media: dict[str, str] = {}
    candidates: dict[Candidate, None] = {}
    lines = 0
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        line = line.removesuffix("\r")
        if not line:
            continue
        kind, equals, value = line.partition("=")
        if not equals or kind not in ("a", "m") or "\r" in value or "\0" in value:
            raise SdpError("a line that is neither a= nor m=", _CLAUSE, line=number)
        if kind == "m":
            if len(value.split()) < 4:
                raise SdpError("m= lacks a field", _CLAUSE, line=number)
            lines += 1
            continue
        if lines > 1:
            continue
        name, _, text = value.partition(":")
        name = name.lower()
        if name == "candidate":
            if lines == 0:
                raise SdpError("a candidate before any m=", _CLAUSE, line=number)
            try:
                candidates[Candidate.parse(text)] = None
            except SdpError as error:
                raise error.at(number) from None
            if len(candidates) > MAX_CANDIDATES:
                raise SdpError("too many candidates", f"limit of {MAX_CANDIDATES}", line=number)
        elif name in ("ice-ufrag", "ice-pwd", "end-of-candidates"):
            (media if lines else session).setdefault(name, text)
    found = session | media
    ufrag, pwd = found.get("ice-ufrag", ""), found.get("ice-pwd", "")
    if not 4 <= len(ufrag) <= 256 or not 22 <= len(pwd) <= 256:
        raise SdpError("no a=ice-ufrag and a=ice-pwd", "RFC 8840 section 4.3.2")
    return Fragment(ufrag, pwd, tuple(candidates), "end-of-candidates" in found)
