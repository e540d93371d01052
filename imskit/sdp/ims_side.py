"""Offers and answers of the IMS profile: RTP/AVP or RTP/SAVP, one sound line, AMR-WB and AMR, telephone-event.

RFC 3264, RFC 4867, TS 26.114 section 6.2, TS 24.229 section 6.1, GSMA IR.92.  Used by the agent towards IMS and by a
VoLTE phone alike.  Preconditions are put in and read by the caller's tables (``imskit.sdp.preconditions``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from imskit.sdp import preconditions as qos
from imskit.sdp import sdes
from imskit.sdp.attributes import Direction, RtcpAddress
from imskit.sdp.codec import Codec, codecs_of
from imskit.sdp.description import Connection, MediaDescription, Origin, SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sdp.negotiation import (
    AgreedCodec,
    LegMedia,
    accepted_codecs,
    answer_codecs,
    answer_direction,
    answer_event,
    number_formats,
    packet_times,
)
from imskit.sdp.profile import (
    IMS,
    MAXPTIME,
    PTIME,
    Format,
    amr_octets,
    bandwidth,
    check_media_count,
    rtcp_bandwidths,
)
from imskit.sdp.sdes import CryptoKey, CryptoLine, SrtpAgreement


@dataclass(frozen=True, slots=True)
class ImsEndpoint:
    """Where this side receives: an IPv4 or IPv6 address, the RTP port, the RTCP port (None: the next one).

    ``session_id`` is the number in ``o=``, unique for the session (below 2^63).  With ``crypto``, a sending key for
    each suite in the order of preference, the media is SRTP with its keys in the description; without, it is RTP.
    """

    address: str
    port: int
    session_id: int
    rtcp_port: int | None = None
    crypto: tuple[CryptoKey, ...] = ()

    @property
    def protocols(self) -> frozenset[str]:
        """The transport protocols that this side takes."""
        return sdes.PROTOCOLS if self.crypto else IMS.protocols

    @property
    def _ipv6(self) -> bool:
        return ":" in self.address


def make_offer(
    endpoint: ImsEndpoint,
    formats: Sequence[Format] = IMS.formats,
    *,
    direction: Direction = Direction.SENDRECV,
    preconditions: qos.Preconditions | None = None,
) -> SessionDescription:
    """A first offer of one sound line with ``formats``, best first, and telephone-event for each clock rate."""
    session = bandwidth(max(item.octets for item in formats), ipv6=endpoint._ipv6)
    offer = _session(endpoint, session)
    protocol = "RTP/SAVP" if endpoint.crypto else IMS.offered_protocol
    codecs = number_formats(formats)
    keys = sdes.offered(endpoint.crypto)
    offer.media.append(_sound(endpoint, protocol, codecs, session, direction, preconditions, keys=keys))
    return offer


def make_answer(
    offer: SessionDescription,
    endpoint: ImsEndpoint,
    formats: Sequence[Format] = IMS.formats,
    *,
    direction: Direction = Direction.SENDRECV,
    preconditions: qos.Preconditions | None = None,
    previous: SessionDescription | None = None,
) -> tuple[SessionDescription, LegMedia]:
    """Answer ``offer`` with one sound format and its telephone-event; everything else is refused in place.

    ``direction`` is what this side wants; ``previous`` is our last description in this session, whose ``o=`` is
    continued.  SdpError (488) if no line can be accepted.
    """
    index, media = _sound_line(offer, formats, endpoint.protocols)
    key, srtp = sdes.choose(media, endpoint.crypto) if endpoint.crypto else (None, None)
    offered = codecs_of(media)
    line, agreed, ours = answer_codecs(offered, formats)[0]
    event = answer_event(offered, agreed.clock_rate)
    octets = ours.octets
    if agreed.amr is not None:
        octets = amr_octets(
            wideband=agreed.clock_rate == 16000,
            octet_align=agreed.amr.octet_align,
            mode_set=agreed.amr.mode_set,
        )
    session = bandwidth(octets, ipv6=endpoint._ipv6)
    answer = _session(endpoint, session)
    way = answer_direction(_remote_direction(offer, media), direction)
    for position, other in enumerate(offer.media):
        if position != index:
            answer.media.append(MediaDescription(other.media, 0, other.protocol, list(other.formats)))
            continue
        codecs = [line] if event is None else [line, event[0]]
        rtcp = (0, 0) if _rtcp_off(offer, media) else None
        keys = [] if key is None else [key]
        answer.media.append(_sound(endpoint, media.protocol, codecs, session, way, preconditions, rtcp, keys=keys))
    answer.succeed(previous)
    events = () if event is None else (event[1],)
    leg = _leg(offer, index, session, codecs=(agreed,), telephone_events=events, direction=way)
    return answer, replace(leg, srtp=srtp)


def read_answer(offer: SessionDescription, answer: SessionDescription) -> LegMedia:
    """What the peer's ``answer`` made of our ``offer``; ``accepted`` False when it refused the sound line.

    SdpError if its lines are not the offer's (RFC 3264 section 6) or no format of ours is left.
    """
    check_media_count(offer, answer)
    index = next((index for index, media in enumerate(offer.media) if media.port), None)
    if index is None or answer.media[index].port == 0:
        return LegMedia(index or 0, accepted=False)
    ours, theirs = offer.media[index], answer.media[index]
    secured = ours.protocol in sdes.PROTOCOLS
    if theirs.protocol not in (sdes.PROTOCOLS if secured else IMS.protocols):
        raise _refusal(f"the answer's protocol is {theirs.protocol}", "RFC 3264 section 6", theirs, 302)
    sound, events = accepted_codecs(codecs_of(ours), codecs_of(theirs))
    if not sound:
        raise _refusal("the answer has no format of the offer", "RFC 3264 section 6.1", theirs, 305)
    way = answer_direction(_remote_direction(answer, theirs), offer.direction_of(ours))
    session = ours.bandwidths.get("AS", 0)
    srtp: SrtpAgreement | None = sdes.accepted(ours, theirs) if secured else None
    leg = _leg(answer, index, session, codecs=tuple(sound), telephone_events=tuple(events), direction=way)
    return replace(leg, srtp=srtp)


def _leg(
    remote: SessionDescription,
    index: int,
    session: int,
    *,
    codecs: tuple[AgreedCodec, ...],
    telephone_events: tuple[AgreedCodec, ...],
    direction: Direction,
) -> LegMedia:
    media = remote.media[index]
    connection = remote.connection_of(media)
    address = None if connection is None or connection.is_null else connection.address
    rtcp = next(iter(media.typed("rtcp", RtcpAddress.parse)), None)
    limits = remote.bandwidths | media.bandwidths
    rs, rr = rtcp_bandwidths(session or limits.get("AS", 0))
    ptime, maxptime = packet_times(media)
    return LegMedia(
        index=index,
        accepted=True,
        codecs=codecs,
        telephone_events=telephone_events,
        direction=direction,
        ptime=ptime,
        maxptime=maxptime,
        remote_address=address,
        remote_port=media.port,
        rtcp_address=address if rtcp is None or rtcp.address is None else rtcp.address,
        rtcp_port=min(media.port + 1, 65535) if rtcp is None else rtcp.port,
        rtcp_bandwidths=(limits.get("RS", rs), limits.get("RR", rr)),
    )


def _sound_line(
    offer: SessionDescription, formats: Sequence[Format], protocols: frozenset[str]
) -> tuple[int, MediaDescription]:
    """The first line of ``offer`` that can be accepted; SdpError (488) naming why the first sound line cannot."""
    reason: SdpError | None = None
    for index, media in enumerate(offer.media):
        if media.media != "audio" or media.port == 0:
            continue
        if media.protocol not in protocols:
            found = _refusal(f"protocol {media.protocol}", "TS 26.114 section 6.2.1", media, 302)
        elif not answer_codecs(codecs_of(media), formats):
            found = _refusal("no sound format in common", "TS 26.114 section 5.2.1", media, 305)
        else:
            return index, media
        reason = reason or found
    raise reason or SdpError("no sound line", "TS 26.114 section 6.2.1", status=488, warning=304)


def _remote_direction(description: SessionDescription, media: MediaDescription) -> Direction:
    """The peer's direction; the null address of an old hold means that it does not receive (RFC 3264 8.4)."""
    direction = description.direction_of(media)
    connection = description.connection_of(media)
    if connection is not None and connection.is_null:
        return direction.within(Direction.SENDONLY)
    return direction


def _session(endpoint: ImsEndpoint, session: int) -> SessionDescription:
    connection = Connection.to(endpoint.address)
    description = SessionDescription.create(
        Origin("-", endpoint.session_id, 1, connection.address_type, connection.address)
    )
    description.add("c", str(connection))
    description.add("b", f"AS:{session}")
    return description


def _sound(
    endpoint: ImsEndpoint,
    protocol: str,
    codecs: Sequence[Codec],
    session: int,
    direction: Direction,
    preconditions: qos.Preconditions | None,
    rtcp: tuple[int, int] | None = None,
    *,
    keys: Sequence[CryptoLine] = (),
) -> MediaDescription:
    media = MediaDescription("audio", endpoint.port, protocol, [])
    rs, rr = rtcp if rtcp is not None else rtcp_bandwidths(session)
    for value in (f"AS:{session}", f"RS:{rs}", f"RR:{rr}"):
        media.add("b", value)
    for key in keys:
        key.write(media)
    for codec in codecs:
        codec.write(media)
    media.add_attribute("ptime", str(PTIME))
    media.add_attribute("maxptime", str(MAXPTIME))
    if endpoint.rtcp_port is not None and endpoint.rtcp_port != endpoint.port + 1:
        media.add_attribute("rtcp", str(RtcpAddress(endpoint.rtcp_port)))
    if preconditions is not None:
        qos.write(media, preconditions)
    media.add_attribute(direction)
    return media


def _rtcp_off(offer: SessionDescription, media: MediaDescription) -> bool:
    """Whether the offer turns RTCP off, as a call of two may (TS 26.114 section 7.3.1)."""
    limits = offer.bandwidths | media.bandwidths
    return limits.get("RS") == limits.get("RR") == 0


def _refusal(what: str, clause: str, media: MediaDescription, warning: int) -> SdpError:
    return SdpError(what, clause, line=media.line.number, status=488, warning=warning)
