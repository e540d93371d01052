"""What two sides agreed on for a media line, and the steps of offer/answer that both profiles share.

RFC 3264; RFC 4867 section 8.3.1 for AMR; RFC 4733 section 2.5.1.1 for telephone events.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from imskit.sdp import preconditions as qos
from imskit.sdp.attributes import Candidate, Direction, Fingerprint, milliseconds
from imskit.sdp.codec import (
    TELEPHONE_EVENT,
    AmrParameters,
    Codec,
    amr_parameters,
    clock_rates,
    is_amr,
    parameter_map,
    telephone_events,
)
from imskit.sdp.description import MediaDescription, SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sdp.profile import FIRST_DYNAMIC_PAYLOAD_TYPE, MAXPTIME, PTIME, Format
from imskit.sdp.sdes import SrtpAgreement

EVENTS = "0-15"
"""The events that we take: the sixteen of DTMF."""

# Parameters that an answer repeats from the offer as they are, or else refuses the payload type.
_REPEATED_AMR = ("octet-align", "mode-set", "crc", "robust-sorting")


@dataclass(frozen=True, slots=True)
class AgreedCodec:
    """A format that both sides have.

    ``send_payload_type`` is put on what we send, ``receive_payload_type`` comes on what we receive; the
    ``*_parameters`` are the fmtp texts that govern each way (the peer's, ours).  ``amr`` is what an AMR encoder
    must keep to: the agreed payload format and mode set, the peer's wishes about mode changes.
    """

    encoding: str
    clock_rate: int
    channels: int
    send_payload_type: int
    receive_payload_type: int
    send_parameters: str = ""
    receive_parameters: str = ""
    amr: AmrParameters | None = None

    def is_same_format(self, other: AgreedCodec) -> bool:
        """Whether packets of one can go out as the other with nothing but another payload type."""
        if (self.encoding.lower(), self.clock_rate, self.channels) != (
            other.encoding.lower(),
            other.clock_rate,
            other.channels,
        ):
            return False
        if self.amr is None or other.amr is None:
            return self.amr is other.amr
        return self.amr.octet_align == other.amr.octet_align and self.amr.mode_set == other.amr.mode_set


@dataclass(frozen=True, slots=True)
class IceParameters:
    """The peer's ICE side (RFC 8839).

    ``trickle``: more candidates may follow, if the signalling can carry them (RFC 8840); browsers say so even in
    a description that has them all.
    """

    ufrag: str
    pwd: str = field(repr=False)
    candidates: tuple[Candidate, ...] = ()
    lite: bool = False
    trickle: bool = False


@dataclass(frozen=True, slots=True)
class LegMedia:
    """What was agreed for the sound line on one leg; ``direction`` is ours, the rest is the peer's.

    ``remote_*`` are None on a WebRTC leg, where ICE finds the way; ``ice``, ``fingerprints`` and ``dtls_client``
    (we begin the handshake) are None or empty on an IMS leg, where ``srtp`` is what SDES agreed on, None for plain RTP.
    ``rtcp_bandwidths`` are RS and RR in bit/s; both 0
    turn RTCP off.
    """

    index: int
    accepted: bool
    codecs: tuple[AgreedCodec, ...] = ()
    telephone_events: tuple[AgreedCodec, ...] = ()
    direction: Direction = Direction.INACTIVE
    ptime: int = PTIME
    maxptime: int = MAXPTIME
    remote_address: str | None = None
    remote_port: int | None = None
    rtcp_address: str | None = None
    rtcp_port: int | None = None
    rtcp_mux: bool = False
    rtcp_reduced_size: bool = False
    rtcp_bandwidths: tuple[int, int] = (0, 0)
    ice: IceParameters | None = None
    fingerprints: tuple[Fingerprint, ...] = ()
    dtls_client: bool | None = None
    mid: str | None = None
    srtp: SrtpAgreement | None = None

    @property
    def codec(self) -> AgreedCodec:
        """The format to send; SdpError when the line was refused."""
        if not self.codecs:
            raise SdpError("the sound line was refused", "RFC 3264 section 6", status=488, warning=304)
        return self.codecs[0]

    @property
    def telephone_event(self) -> AgreedCodec | None:
        """The DTMF format beside ``codec``: the one of its clock rate, else any (RFC 4733 section 2.5.1.2)."""
        rate = self.codec.clock_rate
        return next(
            (event for event in self.telephone_events if event.clock_rate == rate),
            next(iter(self.telephone_events), None),
        )


class MediaMode(StrEnum):
    """How a bridge joins two legs."""

    RELAY = "relay"
    TRANSCODE = "transcode"


@dataclass(frozen=True, slots=True)
class MediaPlan:
    """The sound of a call: both legs, and whether packets can pass as they are."""

    web: LegMedia
    ims: LegMedia
    mode: MediaMode

    @property
    def web_to_ims(self) -> bool:
        """Whether sound may flow from the page to IMS."""
        return self.web.direction.receives and self.ims.direction.sends

    @property
    def ims_to_web(self) -> bool:
        """Whether sound may flow from IMS to the page."""
        return self.ims.direction.receives and self.web.direction.sends


def number_formats(formats: Sequence[Format]) -> list[Codec]:
    """Give ``formats`` payload types for an offer, and add one telephone-event for each clock rate among them."""
    number = FIRST_DYNAMIC_PAYLOAD_TYPE
    codecs: list[Codec] = []
    for item in formats:
        payload_type = item.payload_type
        if payload_type is None:
            payload_type, number = number, number + 1
        codecs.append(Codec(payload_type, item.encoding, item.clock_rate, item.channels, item.parameters))
    for rate in clock_rates(codecs):
        codecs.append(Codec(number, TELEPHONE_EVENT, rate, 1, EVENTS))
        number += 1
    return codecs


def answer_codecs(offered: Sequence[Codec], formats: Sequence[Format]) -> list[tuple[Codec, AgreedCodec, Format]]:
    """The offered sound formats that ``formats`` can meet, in the offer's order.

    Each with the line to answer with, the agreement, and the format of ours that it is.
    """
    found: list[tuple[Codec, AgreedCodec, Format]] = []
    for codec in offered:
        for item in formats:
            met = _meet(codec, item)
            if met is not None:
                found.append((*met, item))
                break
    return found


def answer_event(offered: Sequence[Codec], clock_rate: int) -> tuple[Codec, AgreedCodec] | None:
    """The telephone-event to answer with beside a format of ``clock_rate``; None if none was offered.

    That of the same clock rate; else the first, as browsers exist that offer only 8000 beside Opus.
    """
    events = [codec for codec in offered if codec.is_telephone_event and _has_dtmf(codec)]
    events.sort(key=lambda codec: codec.clock_rate != clock_rate)
    if not events:
        return None
    codec = replace(events[0], parameters=EVENTS)
    return codec, _agreed(codec, codec.payload_type, codec.payload_type, events[0].parameters, EVENTS)


def accepted_codecs(offered: Sequence[Codec], answered: Sequence[Codec]) -> tuple[list[AgreedCodec], list[AgreedCodec]]:
    """What an answer made of our offer: sound formats and telephone events, in the answer's order.

    A format that was not offered, or whose AMR parameters contradict the offer, is left out.
    """
    sound: list[AgreedCodec] = []
    events: list[AgreedCodec] = []
    for codec in answered:
        ours = _counterpart(offered, codec)
        if ours is None:
            continue
        if codec.is_telephone_event:
            if _has_dtmf(codec):
                events.append(_agreed(codec, codec.payload_type, ours.payload_type, codec.parameters, ours.parameters))
            continue
        amr = _agreed_amr(ours, codec)
        if amr is not None or not is_amr(codec):
            sound.append(_agreed(codec, codec.payload_type, ours.payload_type, codec.parameters, ours.parameters, amr))
    return sound, events


def packet_times(media: MediaDescription) -> tuple[int, int]:
    """``ptime`` and ``maxptime`` in milliseconds, with the profile's defaults; nonsense is bounded."""
    ptime = next(iter(media.typed("ptime", milliseconds)), PTIME)
    maxptime = next(iter(media.typed("maxptime", milliseconds)), MAXPTIME)
    maxptime = max(PTIME, min(maxptime, MAXPTIME))
    return max(PTIME, min(ptime, maxptime)), maxptime


def answer_direction(offered: Direction, wanted: Direction) -> Direction:
    """The direction of an answer: what we want, within what the offer leaves (RFC 3264 section 6.1)."""
    return wanted.within(offered.reversed)


def next_offer(
    previous: SessionDescription,
    leg: LegMedia,
    *,
    direction: Direction | None = None,
    preconditions: qos.Preconditions | None = None,
) -> SessionDescription:
    """A later offer in the same session: ``previous`` (our last description) with only what was agreed.

    Lines keep their places, refused ones stay at port 0, payload types keep their meaning (RFC 3264 section 8);
    ``direction`` None leaves it; ``preconditions`` None leaves none.  The version goes up if anything changed.
    """
    offer = previous.copy()
    for index, media in enumerate(offer.media):
        if index != leg.index or not leg.accepted:
            media.port = 0
            continue
        kept = {leg.codec.receive_payload_type}
        if leg.telephone_event is not None:
            kept.add(leg.telephone_event.receive_payload_type)
        _keep_formats(media, {str(number) for number in kept})
        if media.attribute("setup") is not None:  # a later offer is open again (RFC 8842 section 5.2)
            media.remove_attributes("setup")
            media.add_attribute("setup", "actpass")
        if direction is not None:
            media.set_direction(direction)
        media.remove_attributes("curr", "des", "conf")
        if preconditions is not None:
            qos.write(media, preconditions)
    offer.succeed(previous)
    return offer


def _keep_formats(media: MediaDescription, kept: Iterable[str]) -> None:
    wanted = set(kept)
    media.formats = [name for name in media.formats if name in wanted]
    media.lines = [
        line
        for line in media.lines
        if not (
            line.type == "a"
            and line.value.startswith(("rtpmap:", "fmtp:", "rtcp-fb:"))
            and line.value.partition(":")[2].partition(" ")[0] not in wanted | {"*"}
        )
    ]


def _meet(codec: Codec, item: Format) -> tuple[Codec, AgreedCodec] | None:
    """The answer to one offered format with one of ours; None where they do not meet."""
    ours = Codec(codec.payload_type, item.encoding, item.clock_rate, item.channels, item.parameters)
    if codec.is_telephone_event or not codec.is_same_format(ours):
        return None
    parameters = item.parameters
    amr: AmrParameters | None = None
    if is_amr(codec):
        try:
            asked = amr_parameters(codec)
        except SdpError:
            return None  # an impermissible value spoils this payload type only
        if not asked.is_plain or asked.octet_align != amr_parameters(ours).octet_align:
            return None
        parameters = _answer_amr(codec.parameters, item.parameters)
        amr = asked
    answer = replace(codec, parameters=parameters)
    number = codec.payload_type
    return answer, _agreed(codec, number, number, codec.parameters, parameters, amr)


def _answer_amr(offered: str, ours: str) -> str:
    """What must be repeated, word for word, then our own capabilities (RFC 4867 section 8.3.1)."""
    theirs, mine = parameter_map(offered), parameter_map(ours)
    parts = [f"{name}={theirs[name]}" for name in _REPEATED_AMR if name in theirs]
    parts += [f"{name}={value}" for name, value in mine.items() if name not in _REPEATED_AMR]
    return ";".join(parts)


def _counterpart(offered: Sequence[Codec], answered: Codec) -> Codec | None:
    """Our offer's format that an answer's format stands for: by number, else by name and payload format."""
    same = [codec for codec in offered if codec.is_same_format(answered)]
    for codec in same:
        if codec.payload_type == answered.payload_type:
            return codec
    return next((codec for codec in same if not is_amr(codec) or _agreed_amr(codec, answered)), None)


def _agreed_amr(offered: Codec, answered: Codec) -> AmrParameters | None:
    """The AMR agreement of our offer and its answer; None when the answer contradicts the offer.

    An answer that leaves out octet-align, against the text, is taken to mean the payload type as offered.
    """
    if not is_amr(answered):
        return None
    try:
        theirs, ours = amr_parameters(answered), amr_parameters(offered)
    except SdpError:
        return None
    stated = "octet-align" in parameter_map(answered.parameters)
    by_number = offered.payload_type == answered.payload_type
    if not theirs.is_plain or ((stated or not by_number) and theirs.octet_align != ours.octet_align):
        return None
    if ours.mode_set is not None and theirs.mode_set not in (None, ours.mode_set):
        return None
    modes = ours.mode_set if theirs.mode_set is None else theirs.mode_set
    return replace(theirs, octet_align=ours.octet_align, mode_set=modes)


def _agreed(
    codec: Codec,
    send_payload_type: int,
    receive_payload_type: int,
    send_parameters: str,
    receive_parameters: str,
    amr: AmrParameters | None = None,
) -> AgreedCodec:
    return AgreedCodec(
        codec.encoding,
        codec.clock_rate,
        codec.channels,
        send_payload_type,
        receive_payload_type,
        send_parameters,
        receive_parameters,
        amr,
    )


def _has_dtmf(codec: Codec) -> bool:
    try:
        return telephone_events(codec.parameters) >= frozenset(range(12))
    except SdpError:
        return False
