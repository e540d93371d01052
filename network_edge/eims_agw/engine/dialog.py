"""Offer and answer of one call as the gateway sees them: which side says what, and what is said on to the other.

One party is a WebRTC peer, the other an IMS one; who is who is told by the first offer.  The descriptions themselves
are made by ``imskit.sdp.interworking``, the one place for that; here is kept what it needs of the past.  Tags are the
parties' names: the first offerer's stays, answerers (forks of one offer) may be many, and the last answer is in force.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from imskit.sdp import interworking, sdes, web_side
from imskit.sdp.attributes import Direction, Fingerprint
from imskit.sdp.codec import codecs_of
from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sdp.ims_side import ImsEndpoint
from imskit.sdp.ims_side import read_answer as read_ims_answer
from imskit.sdp.negotiation import LegMedia, MediaPlan, next_offer
from imskit.sdp.profile import IMS_FORMATS_WITH_G711, WEB_FORMATS, WEBRTC, Format
from imskit.sdp.web_side import WebEndpoint
from network_edge.eims_agw.engine.formats import chosen, without
from network_edge.iq.gateway import (
    AnswerRequest,
    GatewayError,
    Ice,
    MediaFlags,
    OfferRequest,
    Transport,
    UnknownCallError,
)

_SDES = (Transport.SAVP, Transport.SAVPF)


class Side(StrEnum):
    """The two parties of a call."""

    WEB = "web"
    IMS = "ims"

    @property
    def other(self) -> Side:
        """The one across."""
        return Side.IMS if self is Side.WEB else Side.WEB


def side_of(offer: SessionDescription) -> Side:
    """Whose offer this is: WebRTC's has ICE and DTLS (RFC 9429), IMS's is plain RTP or has its keys in SDES."""
    for media in offer.media:
        if media.media == "audio" and media.port and media.protocol in WEBRTC.protocols:
            if offer.effective(media, "fingerprint", Fingerprint.parse):
                return Side.WEB
            if media.protocol not in sdes.PROTOCOLS:
                line = media.line.number
                raise SdpError(f"{media.protocol} without a=fingerprint", "RFC 8842 section 5.1", line=line, status=488)
    return Side.IMS


def wants_sdes(request: OfferRequest) -> bool:
    """Whether the IMS side of a call that begins with ``request`` is SRTP: as IMS offers, or the flags ask."""
    if side_of(request.sdp) is Side.WEB:
        return request.flags.transport in _SDES
    return any(media.protocol in sdes.PROTOCOLS for media in request.sdp.media if media.media == "audio" and media.port)


@dataclass(frozen=True, slots=True)
class _Pending:
    """An offer that waits for its answers."""

    side: Side
    received: SessionDescription
    sent: SessionDescription
    flags: MediaFlags
    taken: LegMedia | None
    """What we would make of an offer of IMS; None for WebRTC's."""
    formats: tuple[Format, ...]
    """What the offerer may be answered with."""


class Dialog:
    """The offers and answers of one call."""

    def __init__(self, request: OfferRequest) -> None:
        """Begin with the first offer; SdpError (488) if it comes from neither kind of party."""
        self.offerer = side_of(request.sdp)
        """The side of the first offer."""
        self.offerer_tag = request.from_tag
        self.answerer_tag: str | None = None
        """Whose answer is in force."""
        self._pending: _Pending | None = None
        self._said: dict[Side, SessionDescription] = {}
        self.media: dict[Side, LegMedia] = {}
        """What is agreed with each side."""

    def side(self, from_tag: str) -> Side:
        """Which party ``from_tag`` is."""
        return self.offerer if from_tag == self.offerer_tag else self.offerer.other

    def tag(self, side: Side) -> str | None:
        """The tag of a party, None while nobody has answered."""
        return self.offerer_tag if side is self.offerer else self.answerer_tag

    def offer(self, request: OfferRequest, web: WebEndpoint, ims: ImsEndpoint) -> SessionDescription:
        """Return the offer to send on; SdpError (488) if it cannot be."""
        side = self.side(request.from_tag)
        if side_of(request.sdp) is not side:
            raise SdpError("a later offer of another kind than the first", "RFC 3264 section 8", status=488)
        _check_transport(side, request.flags)
        if ims.crypto:
            ims = _with_suites(ims, request.flags)
        taken: LegMedia | None = None
        if side is Side.WEB:
            mine = without(WEB_FORMATS, request.flags.codec)
            _, direction = web_side.check_offer(request.sdp, mine)
            formats = chosen(request.sdp, request.flags.codec, IMS_FORMATS_WITH_G711)
            sent = self._again(Side.IMS, direction)
            if sent is None:
                sent = interworking.ims_offer(request.sdp, ims, formats, web_formats=mine)
                for media in sent.media:
                    media.protocol = request.flags.transport or media.protocol
        else:
            mine = without(IMS_FORMATS_WITH_G711, request.flags.codec)
            _, taken = interworking.ims_answer(request.sdp, ims, mine, previous=self._said.get(Side.IMS))
            formats = chosen(request.sdp, request.flags.codec, WEB_FORMATS)
            sent = self._again(Side.WEB, taken.direction.reversed)
            if sent is None:
                sent = interworking.web_offer(taken, web, formats)
        self._pending = _Pending(side, request.sdp, sent, request.flags, taken, mine)
        self._said[side.other] = sent
        return sent

    def answer(
        self, request: AnswerRequest, web: WebEndpoint, ims: ImsEndpoint
    ) -> tuple[SessionDescription, MediaPlan]:
        """Return the answer to send back, and the media plan; SdpError (488), or ``GatewayError`` without an offer."""
        pending = self._pending
        if pending is None:
            raise GatewayError("an answer without an offer", "RFC 3264 section 4", status=481)
        if self.side(request.from_tag) is not pending.side:
            raise UnknownCallError("the offer was not made by this from-tag")
        if ims.crypto:
            ims = _with_suites(ims, pending.flags)
        if pending.side is Side.WEB:
            theirs = read_ims_answer(pending.sent, request.sdp)
            answer, ours = interworking.web_answer(
                pending.received,
                theirs,
                web,
                pending.formats,
                previous=self._said.get(Side.WEB),
                dtls_client=self._dtls_client(pending.received),
            )
            plan = interworking.plan(ours, theirs)
        else:
            theirs = web_side.read_answer(pending.sent, request.sdp)
            answer, ours = self._ims_answer(pending, theirs, ims)
            plan = interworking.plan(theirs, ours)
        if pending.side is self.offerer:
            self.answerer_tag = request.to_tag
        self._said[pending.side] = answer
        self.media = {Side.WEB: plan.web, Side.IMS: plan.ims}
        return answer, plan

    def _ims_answer(self, pending: _Pending, web: LegMedia, ims: ImsEndpoint) -> tuple[SessionDescription, LegMedia]:
        """Answer IMS with the page's own format if it offered that, so that nothing is transcoded."""
        previous = self._said.get(Side.IMS)
        same = [item for item in pending.formats if _is(item, web)]
        if same and web.codec.encoding.lower() in _encodings(pending.received):
            return interworking.ims_answer(pending.received, ims, same, web=web, previous=previous)
        return interworking.ims_answer(pending.received, ims, pending.formats, web=web, previous=previous)

    def _again(self, side: Side, direction: Direction) -> SessionDescription | None:
        """A later offer to ``side``; None when nothing is agreed with it yet."""
        said, media = self._said.get(side), self.media.get(side)
        return None if said is None or media is None else next_offer(said, media, direction=direction)

    def _dtls_client(self, offer: SessionDescription) -> bool | None:
        """Our DTLS role, if the association goes on: the fingerprints are the same."""
        media = self.media.get(Side.WEB)
        if media is None:
            return None
        line = offer.media[media.index] if media.index < len(offer.media) else None
        if line is None or tuple(offer.effective(line, "fingerprint", Fingerprint.parse)) != media.fingerprints:
            return None
        return media.dtls_client


def _check_transport(side: Side, flags: MediaFlags) -> None:
    """SdpError (488) if the flags ask for a side that this gateway does not join to ``side``."""
    transport = flags.transport
    clause = "this gateway joins one WebRTC side and one IMS side"
    if transport is None:
        return
    if side is Side.WEB and (transport.dtls or flags.ice is Ice.FORCE):
        raise SdpError(f"{transport} asked for towards IMS", clause, status=488, warning=302)
    if side is Side.IMS and not transport.dtls:
        raise SdpError(f"{transport} asked for towards a browser", clause, status=488, warning=302)
    if side is Side.WEB and transport in _SDES and "off" in flags.sdes:
        raise SdpError(f"{transport} without SDES asked for", clause, status=488, warning=302)


def _with_suites(ims: ImsEndpoint, flags: MediaFlags) -> ImsEndpoint:
    """Our side with the suites that NG's ``SDES`` words leave (``no-…``, ``only-…``); SdpError (488) if none is."""
    only = {word.removeprefix("only-") for word in flags.sdes if word.startswith("only-")}
    kept = tuple(
        key for key in ims.crypto if f"no-{key.suite.value}" not in flags.sdes and (not only or key.suite.value in only)
    )
    if not kept:
        raise SdpError("the SDES flags leave no suite", "NG protocol, SDES", status=488, warning=302)
    return replace(ims, crypto=kept)


def _is(item: Format, media: LegMedia) -> bool:
    codec = media.codec
    return (item.encoding.lower(), item.clock_rate, item.channels) == (
        codec.encoding.lower(),
        codec.clock_rate,
        codec.channels,
    )


def _encodings(offer: SessionDescription) -> set[str]:
    return {codec.encoding.lower() for media in offer.media if media.media == "audio" for codec in codecs_of(media)}
