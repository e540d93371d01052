"""Offers and answers of the WebRTC profile: ICE, DTLS-SRTP, rtcp-mux, one sound line.

RFC 9429 (JSEP), RFC 8839, RFC 8842, RFC 9143, RFC 8858.  This side always multiplexes RTP and RTCP and refuses a line
that cannot; it answers BUNDLE with the accepted line alone, so nothing is bundled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from imskit.sdp.attributes import Candidate, Direction, Fingerprint, Group
from imskit.sdp.codec import Codec, codecs_of
from imskit.sdp.description import Connection, MediaDescription, Origin, SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sdp.negotiation import (
    AgreedCodec,
    IceParameters,
    LegMedia,
    accepted_codecs,
    answer_codecs,
    answer_direction,
    answer_event,
    number_formats,
    packet_times,
)
from imskit.sdp.profile import PTIME, WEBRTC, Format, check_media_count, rtcp_bandwidths

_ICE_CHARACTERS = re.compile(r"[A-Za-z0-9+/]*")
_MAX_CANDIDATES = 200
"""A browser with every kind of candidate on a dozen interfaces has fewer."""
_SESSION_BANDWIDTH = 64
"""kbit/s that the browser leg's RTCP share is counted from: Opus speech with headers (RFC 3550 section 6.2)."""


@dataclass(frozen=True, slots=True)
class WebEndpoint:
    """This side's transport: ICE credentials and candidates, the DTLS certificate's fingerprints.

    ``session_id`` is the number in ``o=`` (below 2^63).  ``stream`` and ``track`` name the sound for the page
    (``a=msid``); ``ssrc`` and ``cname``, when known, announce the source.  ``ice_lite``: this side makes no checks.
    """

    session_id: int
    ice_ufrag: str
    ice_pwd: str = field(repr=False)
    candidates: tuple[Candidate, ...]
    fingerprints: tuple[Fingerprint, ...]
    ssrc: int | None = None
    cname: str = ""
    stream: str = "call"
    track: str = "sound"
    ice_lite: bool = False


def make_offer(
    endpoint: WebEndpoint,
    formats: Sequence[Format] = WEBRTC.formats,
    *,
    direction: Direction = Direction.SENDRECV,
) -> SessionDescription:
    """A first offer of one sound line: ``formats``, best first, and one telephone-event for each clock rate."""
    offer = _session(endpoint, "0")
    offer.media.append(
        _sound(endpoint, WEBRTC.offered_protocol, number_formats(formats), direction, "actpass", "0", True)
    )
    return offer


def check_offer(offer: SessionDescription, formats: Sequence[Format] = WEBRTC.formats) -> tuple[int, Direction]:
    """The place of the sound line that can be accepted, and its direction; SdpError (488) if there is none."""
    index, media = _sound_line(offer, formats)
    return index, offer.direction_of(media)


def make_answer(
    offer: SessionDescription,
    endpoint: WebEndpoint,
    formats: Sequence[Format] = WEBRTC.formats,
    *,
    relayed: AgreedCodec | None = None,
    direction: Direction = Direction.SENDRECV,
    previous: SessionDescription | None = None,
    dtls_client: bool | None = None,
) -> tuple[SessionDescription, LegMedia]:
    """Answer ``offer`` with one sound format and its telephone-event; everything else is refused in place.

    ``relayed`` is the other leg's format, taken if it is offered, so that nothing need be transcoded; else the
    offer's first that ``formats`` has.  ``dtls_client`` is our role in an association that goes on: an open offer
    does not change it (RFC 8842 section 5.3).  SdpError (488) if no line can be accepted.
    """
    index, media = _sound_line(offer, formats)
    offered = codecs_of(media)
    choices = answer_codecs(offered, formats)
    line, agreed, _ = choices[0]
    if relayed is not None:
        line, agreed, _ = next((choice for choice in choices if choice[1].is_same_format(relayed)), choices[0])
    event = answer_event(offered, agreed.clock_rate)
    way = answer_direction(offer.direction_of(media), direction)
    setup = _offered_setup(offer, media)
    client = dtls_client if setup == "actpass" and dtls_client is not None else setup != "active"
    mid = media.attribute("mid")
    bundle = any(group.semantics == "BUNDLE" and mid in group.mids for group in offer.typed("group", Group.parse))
    answer = _session(endpoint, mid if bundle else None)
    for position, other in enumerate(offer.media):
        if position != index:
            answer.media.append(_refused(other))
            continue
        answer.media.append(
            _sound(
                endpoint,
                media.protocol,
                [line] if event is None else [line, event[0]],
                way,
                "active" if client else "passive",
                mid,
                media.attribute("rtcp-rsize") is not None,
            )
        )
    answer.succeed(previous)
    events = () if event is None else (event[1],)
    return answer, _leg(offer, index, (agreed,), events, way, client)


def read_answer(offer: SessionDescription, answer: SessionDescription) -> LegMedia:
    """What the page's ``answer`` made of our ``offer``; ``accepted`` False when it refused the sound line.

    SdpError if its lines are not the offer's, or ICE, DTLS, rtcp-mux or a common format is missing.
    """
    check_media_count(offer, answer)
    index = next((index for index, media in enumerate(offer.media) if media.port), None)
    if index is None or answer.media[index].port == 0:
        return LegMedia(index or 0, accepted=False)
    ours, theirs = offer.media[index], answer.media[index]
    _check_transport(answer, theirs)
    sound, events = accepted_codecs(codecs_of(ours), codecs_of(theirs))
    if not sound:
        raise _refusal("the answer has no format of the offer", "RFC 3264 section 6.1", theirs, 305)
    setup = _offered_setup(answer, theirs)
    if setup not in ("active", "passive"):
        raise _refusal(f"a=setup:{setup} in an answer", "RFC 5763 section 5", theirs)
    way = answer_direction(answer.direction_of(theirs), offer.direction_of(ours))
    return _leg(answer, index, tuple(sound), tuple(events), way, setup == "passive")


def _leg(
    remote: SessionDescription,
    index: int,
    codecs: tuple[AgreedCodec, ...],
    telephone_events: tuple[AgreedCodec, ...],
    direction: Direction,
    dtls_client: bool,
) -> LegMedia:
    media = remote.media[index]
    ufrag, pwd = _ice_credentials(remote, media)
    options = {option for value in remote.effective(media, "ice-options", str) for option in value.split()}
    trickle = "trickle" in options and all(
        section.attribute("end-of-candidates") is None for section in (media, remote)
    )
    ptime, maxptime = packet_times(media)
    return LegMedia(
        index=index,
        accepted=True,
        codecs=codecs,
        telephone_events=telephone_events,
        direction=direction,
        ptime=ptime,
        maxptime=maxptime,
        rtcp_mux=True,
        rtcp_reduced_size=media.attribute("rtcp-rsize") is not None,
        rtcp_bandwidths=rtcp_bandwidths(_SESSION_BANDWIDTH),
        ice=IceParameters(
            ufrag,
            pwd,
            tuple(media.typed("candidate", Candidate.parse)),
            lite=remote.attribute("ice-lite") is not None,
            trickle=trickle,
        ),
        fingerprints=tuple(remote.effective(media, "fingerprint", Fingerprint.parse)),
        dtls_client=dtls_client,
        mid=media.attribute("mid"),
    )


def _sound_line(offer: SessionDescription, formats: Sequence[Format]) -> tuple[int, MediaDescription]:
    reason: SdpError | None = None
    for index, media in enumerate(offer.media):
        if media.media != "audio" or media.port == 0:
            continue
        try:
            _check_transport(offer, media)
            if not answer_codecs(codecs_of(media), formats):
                raise _refusal("no sound format in common", "RFC 7874 section 3", media, 305)
        except SdpError as error:
            if error.status != 488:
                raise
            reason = reason or error
            continue
        return index, media
    raise reason or SdpError("no sound line", "RFC 9429 section 5.3.1", status=488, warning=304)


def _check_transport(description: SessionDescription, media: MediaDescription) -> None:
    """SdpError (488) unless the line can be carried by ICE and DTLS-SRTP with RTCP on the same port."""
    if media.protocol not in WEBRTC.protocols:
        raise _refusal(f"protocol {media.protocol}", "RFC 9429 section 5.1.2", media, 302)
    ufrag, pwd = _ice_credentials(description, media)
    for name, value, least in (("ice-ufrag", ufrag, 4), ("ice-pwd", pwd, 22)):
        if not least <= len(value) <= 256 or _ICE_CHARACTERS.fullmatch(value) is None:
            raise _refusal(f"no a={name} of {least}-256 characters", "RFC 8839 section 5.4", media)
    if not description.effective(media, "fingerprint", Fingerprint.parse):
        raise _refusal("no a=fingerprint", "RFC 8842 section 5.1", media)
    setup = _offered_setup(description, media)
    if setup not in ("actpass", "active", "passive"):
        raise _refusal(f"a=setup:{setup}", "RFC 8842 section 5.2", media)
    if len(media.attributes("candidate")) > _MAX_CANDIDATES:
        raise _refusal(f"more than {_MAX_CANDIDATES} candidates", "limit", media)
    if media.attribute("rtcp-mux") is None:
        raise _refusal("no a=rtcp-mux", "RFC 8858 section 3", media)


def _ice_credentials(description: SessionDescription, media: MediaDescription) -> tuple[str, str]:
    ufrag, pwd = (next(iter(description.effective(media, name, str)), "") for name in ("ice-ufrag", "ice-pwd"))
    return ufrag, pwd


def _offered_setup(description: SessionDescription, media: MediaDescription) -> str:
    return next(iter(description.effective(media, "setup", str)), "actpass")


def _session(endpoint: WebEndpoint, bundled: str | None) -> SessionDescription:
    description = SessionDescription.create(Origin("-", endpoint.session_id, 1, "IP4", "127.0.0.1"))
    if bundled is not None:
        description.add_attribute("group", str(Group("BUNDLE", (bundled,))))
    if endpoint.ice_lite:
        description.add_attribute("ice-lite")
    description.add_attribute("msid-semantic", f"WMS {endpoint.stream}")
    return description


def _sound(
    endpoint: WebEndpoint,
    protocol: str,
    codecs: Sequence[Codec],
    direction: Direction,
    setup: str,
    mid: str | None,
    reduced_size: bool,
) -> MediaDescription:
    address, port = "0.0.0.0", 9  # no default candidate (RFC 8839 section 4.2.1)
    if endpoint.candidates:
        address, port = endpoint.candidates[0].address, endpoint.candidates[0].port
    media = MediaDescription("audio", port, protocol, [])
    media.add("c", str(Connection.to(address)))
    media.add_attribute("rtcp", f"{port} {Connection.to(address)}")
    for candidate in endpoint.candidates:
        media.add_attribute("candidate", str(candidate))
    if endpoint.candidates:
        media.add_attribute("end-of-candidates")
    media.add_attribute("ice-ufrag", endpoint.ice_ufrag)
    media.add_attribute("ice-pwd", endpoint.ice_pwd)
    for fingerprint in endpoint.fingerprints:
        media.add_attribute("fingerprint", str(fingerprint))
    media.add_attribute("setup", setup)
    if mid is not None:
        media.add_attribute("mid", mid)
    media.add_attribute(direction)
    if direction.sends:
        media.add_attribute("msid", f"{endpoint.stream} {endpoint.track}")
    media.add_attribute("rtcp-mux")
    if reduced_size:
        media.add_attribute("rtcp-rsize")
    for codec in codecs:
        codec.write(media)
    media.add_attribute("ptime", str(PTIME))
    if endpoint.ssrc is not None and endpoint.cname:
        media.add_attribute("ssrc", f"{endpoint.ssrc} cname:{endpoint.cname}")
    return media


def _refused(offered: MediaDescription) -> MediaDescription:
    """A line of the answer that refuses the offer's, as JSEP wants it (RFC 9429 section 5.3.1)."""
    media = MediaDescription(offered.media, 0, offered.protocol, list(offered.formats))
    media.add("c", "IN IP4 0.0.0.0")
    mid = offered.attribute("mid")
    if mid is not None:
        media.add_attribute("mid", mid)
    media.add_attribute(Direction.INACTIVE)
    return media


def _refusal(what: str, clause: str, media: MediaDescription, warning: int = 399) -> SdpError:
    return SdpError(what, clause, line=media.line.number, status=488, warning=warning)
