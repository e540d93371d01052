"""The procedures of Iq as one typed interface (TS 23.334 clause 6, in the shape of offer and answer).

``MediaGateway`` has several implementations: ``network_edge.iq.ng_gateway.NgGateway`` (the NG protocol over UDP, to
our own eIMS-AGW or an rtpengine), ``network_edge.eims_agw.gateway.Gateway`` (the same objects in one process) and
``network_edge.iq.pool.GatewayPool`` (several of them).  The owner of a call uses it so::

    towards IMS:  sdp = await gateway.offer(OfferRequest(call_id, from_tag, page's offer, TOWARDS_IMS))
                  sdp = await gateway.answer(AnswerRequest(call_id, from_tag, to_tag, IMS's answer, TOWARDS_WEB))
    towards the page:  offer with TOWARDS_WEB, answer with TOWARDS_IMS

``from_tag`` is the tag of whoever made the offer in question: in a later offer by the callee the two tags change
places.  Several answers to one offer, each with its own ``to_tag`` (forks), are answered each; the last is in force.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from imskit.sdp.attributes import Candidate
from imskit.sdp.description import SessionDescription


class Ice(StrEnum):
    """What the description that the gateway writes holds of ICE (NG: ``ICE``)."""

    REMOVE = "remove"
    FORCE = "force"
    DEFAULT = "default"
    OPTIONAL = "optional"
    FORCE_RELAY = "force-relay"


class IceLite(StrEnum):
    """Which side the gateway is an ICE-lite peer of (NG: ``ICE-lite``)."""

    FORWARD = "forward"
    BACKWARD = "backward"
    BOTH = "both"
    OFF = "off"


class Transport(StrEnum):
    """The ``m=`` protocol of the description that the gateway writes (NG: ``transport-protocol``)."""

    AVP = "RTP/AVP"
    AVPF = "RTP/AVPF"
    SAVP = "RTP/SAVP"
    SAVPF = "RTP/SAVPF"
    DTLS_SAVP = "UDP/TLS/RTP/SAVP"
    DTLS_SAVPF = "UDP/TLS/RTP/SAVPF"

    @property
    def dtls(self) -> bool:
        """Whether keys come from DTLS."""
        return self in (Transport.DTLS_SAVP, Transport.DTLS_SAVPF)


class RtcpMux(StrEnum):
    """What is done about multiplexing RTCP (NG: ``rtcp-mux``)."""

    OFFER = "offer"
    REQUIRE = "require"
    DEMUX = "demux"
    ACCEPT = "accept"
    REJECT = "reject"


class Dtls(StrEnum):
    """The gateway's own part in DTLS (NG: ``DTLS``); by default what the description says."""

    OFF = "off"
    PASSIVE = "passive"
    ACTIVE = "active"


@dataclass(frozen=True, slots=True)
class CodecFlags:
    """Which formats the description written has (NG: ``codec``), by name, or name and clock rate (``AMR-WB/16000``).

    ``transcode`` adds formats that the offer does not have; ``mask`` and ``strip`` take formats of the offer away
    (a masked one is still used towards the offerer), ``offer`` restores some after ``ALL``; ``except_`` keeps some.
    """

    transcode: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    strip: tuple[str, ...] = ()
    offer: tuple[str, ...] = ()
    except_: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MediaFlags:
    """How the gateway is to write a description; None or empty leaves it to the gateway."""

    transport: Transport | None = None
    ice: Ice | None = None
    ice_lite: IceLite | None = None
    rtcp_mux: tuple[RtcpMux, ...] = ()
    dtls: Dtls | None = None
    sdes: tuple[str, ...] = ()
    """NG: ``SDES`` (``off``, ``no-AES_CM_128_HMAC_SHA1_32``, ``only-AES_CM_128_HMAC_SHA1_80`` …)."""
    codec: CodecFlags = CodecFlags()
    replace: tuple[str, ...] = ()
    """NG: ``replace`` (``origin``, ``session-connection`` …); our own gateway writes every description anew."""
    direction: tuple[str, ...] = ()
    """NG: ``direction``: names of the gateway's networks, the offerer's and the answerer's."""
    label: str = ""
    tos: int | None = None
    """TOS octet of packets sent (NG: ``TOS``)."""
    media_timeout: int | None = None
    """Seconds without media before the owner is told (NG: ``media-timeout``); 0 for never."""
    flags: tuple[str, ...] = ()
    """NG: ``flags``; words without a value (``trust-address``, ``strict-source`` …)."""


TOWARDS_IMS = MediaFlags(
    transport=Transport.AVP,
    ice=Ice.REMOVE,
    rtcp_mux=(RtcpMux.DEMUX,),
    dtls=Dtls.OFF,
    sdes=("off",),
    codec=CodecFlags(transcode=("AMR-WB", "AMR", "PCMA", "PCMU"), mask=("opus", "G722")),
    replace=("origin", "session-connection"),
)
"""The flags of a description that goes to IMS: RTP/AVP, no ICE, no multiplexing, AMR-WB and AMR before G.711."""

TOWARDS_IMS_SDES = replace(TOWARDS_IMS, transport=Transport.SAVP, sdes=())
"""The same with SRTP, whose keys are in the description (RFC 4568): only where the signalling itself is protected."""

TOWARDS_WEB = MediaFlags(
    transport=Transport.DTLS_SAVPF,
    ice=Ice.FORCE,
    rtcp_mux=(RtcpMux.OFFER, RtcpMux.REQUIRE),
    sdes=("off",),
    codec=CodecFlags(transcode=("opus", "PCMA", "PCMU"), mask=("AMR-WB", "AMR")),
    replace=("origin", "session-connection"),
)
"""The flags of a description that goes to a browser: ICE, DTLS-SRTP, RTCP multiplexed, Opus and G.711."""


@dataclass(frozen=True, slots=True)
class OfferRequest:
    """An offer to be sent on; ``to_tag`` only in a later offer, ``via_branch`` where one request is forked here."""

    call_id: str
    from_tag: str
    sdp: SessionDescription
    flags: MediaFlags = MediaFlags()
    to_tag: str | None = None
    via_branch: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """An answer, early or final, to the last offer of ``from_tag``."""

    call_id: str
    from_tag: str
    to_tag: str
    sdp: SessionDescription
    flags: MediaFlags = MediaFlags()
    via_branch: str | None = None


@dataclass(frozen=True, slots=True)
class DeleteRequest:
    """The end of a call, whichever party ends it.

    ``to_tag`` or ``via_branch`` end one early dialog or one branch of several, and are left out at the end of the call:
    a gateway that is asked about the call later would be taken to have lost it.
    ``delay`` is the grace in seconds, None for the gateway's own.
    """

    call_id: str
    from_tag: str | None = None
    to_tag: str | None = None
    via_branch: str | None = None
    delay: int | None = None


@dataclass(frozen=True, slots=True)
class CandidatesRequest:
    """Candidates of the browser that came after its description (trickle ICE, RFC 8840).

    ``from_tag`` is the browser's; ``ufrag`` and ``pwd`` are those that the candidates belong to: if they are not in
    force the candidates are ignored.  ``ended``: no more will come.
    """

    call_id: str
    from_tag: str
    ufrag: str
    pwd: str = field(repr=False)
    candidates: tuple[Candidate, ...] = ()
    ended: bool = False


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """Asks for the figures of a call."""

    call_id: str
    from_tag: str | None = None
    to_tag: str | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """RTP that a gateway received: packets, octets, and packets that it dropped."""

    packets: int = 0
    octets: int = 0
    errors: int = 0


@dataclass(frozen=True, slots=True)
class CallFigures:
    """What a gateway says of a call.

    ``received`` is by the tag of the party that sent; ``details`` is the whole answer as NG names it.
    """

    call_id: str
    created: int = 0
    """Unix time."""
    last_signal: int = 0
    """Unix time of the last offer or answer."""
    received: Mapping[str, Traffic] = field(default_factory=dict)
    total: Traffic = Traffic()
    details: Mapping[str, object] = field(default_factory=dict, repr=False)


class Loss(StrEnum):
    """Why a call has no media any more."""

    CONSENT = "consent-lost"
    """The browser no longer answers STUN (RFC 7675): it has gone."""
    MEDIA_TIMEOUT = "media-timeout"
    """The IMS side sends neither RTP nor RTCP."""
    CIRCUIT_BREAKER = "circuit-breaker"
    """The way is congested, or nothing comes through (RFC 8083)."""
    TRANSPORT = "transport-failed"
    """ICE or DTLS failed, or the wrong certificate came."""
    GATEWAY = "gateway-lost"
    """The gateway is gone, or has forgotten the call."""


@dataclass(frozen=True, slots=True)
class MediaLost:
    """Told to the owner once: the media of a call have ended; ``reason`` is for people."""

    call_id: str
    loss: Loss
    reason: str = ""


type OnMediaLost = Callable[[MediaLost], None]
"""Takes the end of a call's media; called on the event loop."""


class GatewayError(Exception):
    """What a gateway could not do.  ``status`` is the SIP answer that fits, ``clause`` the rule that was broken."""

    def __init__(self, what: str, clause: str = "", *, status: int = 500) -> None:
        super().__init__(f"{what} ({clause})" if clause else what)
        self.what = what
        self.clause = clause
        self.status = status


class UnknownCallError(GatewayError):
    """The gateway has no such call or dialog."""

    def __init__(self, what: str = "Unknown call-id") -> None:
        super().__init__(what, "NG protocol", status=481)


class GatewayUnavailableError(GatewayError):
    """No answer, no gateway left, or all of them draining: the call can be tried again later."""

    def __init__(self, what: str) -> None:
        super().__init__(what, status=503)


class GatewaySilentError(GatewayUnavailableError):
    """No answer came: whether the command was done is not known."""


class MediaGateway(Protocol):
    """A gateway, or several.  Every method raises ``GatewayError`` when it cannot do its work."""

    on_media_lost: OnMediaLost | None
    """Called when media of a call end without ``delete``; set it before the first offer."""
    draining: bool
    """New calls are refused with ``GatewayUnavailableError``; those that run go on."""

    async def ping(self) -> None:
        """Return when the gateway answers."""

    async def offer(self, request: OfferRequest) -> SessionDescription:
        """Take an offer and return the one to send on."""

    async def answer(self, request: AnswerRequest) -> SessionDescription:
        """Take an answer and return the one to send back."""

    async def candidates(self, request: CandidatesRequest) -> None:
        """Take candidates of the browser that came after its description; ``UnknownCallError`` when there is no call.

        They are an addition: a gateway that cannot take them learns of the browser by its checks.
        """

    async def delete(self, request: DeleteRequest) -> None:
        """End a call's media after the grace; ``UnknownCallError`` when there is none."""

    async def query(self, request: QueryRequest) -> CallFigures:
        """Return the figures of a call."""

    async def list(self, limit: int = 32) -> tuple[str, ...]:
        """Return at most ``limit`` call-ids that the gateway has."""

    async def close(self) -> None:
        """End what this object runs; calls of a gateway elsewhere go on."""
