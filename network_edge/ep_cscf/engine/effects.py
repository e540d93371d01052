"""What the engine of the eP-CSCF asks of its owner, what completes it, and what it tells logs and metrics.

Keys are opaque strings that the engine chooses; an answer carries the key of its question.  An answer that comes
late, twice or with an unknown key is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from imskit.sdp.description import SessionDescription
from imskit.secrets import Identity, Secret
from imskit.sip.wire.flow import Flow
from network_edge.iq.gateway import AnswerRequest, DeleteRequest, MediaLost, OfferRequest

__all__ = [
    "CallStep",
    "CallStepKind",
    "Draining",
    "DropFlow",
    "MediaAnswer",
    "MediaDelete",
    "MediaEvent",
    "MediaFailed",
    "MediaLost",
    "MediaOffer",
    "MediaOutput",
    "MediaReady",
    "RegistrationStep",
    "RegistrationStepKind",
    "ReleaseCall",
    "Side",
    "TokenAccepted",
    "TokenClaims",
    "TokenError",
    "TokenRefused",
    "ValidateToken",
]


class Side(StrEnum):
    """Where a request came from: the WebRTC client, or the core of IMS."""

    WEB = "web"
    IMS = "ims"


# ---- access tokens -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What a valid access token says (TS 24.371 A.3.2)."""

    impi: Identity
    impus: tuple[Identity, ...]
    """SIP and tel URIs, the default first."""
    web_identity: Identity
    """Who the user is to the WWSF (claim ``sub``)."""
    issuer: str
    web_server_identity: str
    """Name of the WWSF or WAF towards IMS: the value of ``authorization-entity``."""
    expires_at: float
    """Unix time in seconds."""
    scope: str = ""
    """Words with spaces between them (RFC 6749 section 3.3)."""


type TokenError = Literal["invalid_token", "insufficient_scope", "unavailable"]
"""The errors of RFC 6750 section 3.1; ``unavailable``: nobody could be asked, the token may be good."""


@dataclass(frozen=True, slots=True)
class ValidateToken:
    """Is this access token good, and whose is it?  Answer: `TokenAccepted` or `TokenRefused`."""

    key: str
    token: Secret[str]
    source: str = ""
    """IP address of whoever shows it."""


@dataclass(frozen=True, slots=True)
class TokenAccepted:
    """Answers `ValidateToken`.  ``seconds_left`` is the token's life by the owner's clock, as the answer is given."""

    key: str
    claims: TokenClaims
    seconds_left: float


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """Answers `ValidateToken`; ``description`` is for logs and never holds the token."""

    key: str
    error: TokenError
    description: str = ""


# ---- media ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MediaOffer:
    """Give this offer to the media gateway.  Answer: `MediaReady` or `MediaFailed`."""

    key: str
    request: OfferRequest


@dataclass(frozen=True, slots=True)
class MediaAnswer:
    """Give this answer to the media gateway.  Answer: `MediaReady` or `MediaFailed`."""

    key: str
    request: AnswerRequest


@dataclass(frozen=True, slots=True)
class MediaDelete:
    """End the media of a call; nothing is waited for."""

    request: DeleteRequest


@dataclass(frozen=True, slots=True)
class MediaReady:
    """Answers `MediaOffer` and `MediaAnswer`: the description to send on."""

    key: str
    sdp: SessionDescription


@dataclass(frozen=True, slots=True)
class MediaFailed:
    """Answers `MediaOffer` and `MediaAnswer`: ``status`` is the SIP status that fits."""

    key: str
    status: int
    reason: str


type MediaOutput = MediaOffer | MediaAnswer | MediaDelete
type MediaEvent = MediaReady | MediaFailed | MediaLost

# ---- calls ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReleaseCall:
    """From the IMS-ALG to `EpCscf`: end this call in the network's name (TS 24.229 5.2.8.1).

    Each dialog of ``callee_tags`` gets a BYE both ways, after an ACK where the 2xx never had one.  Without any, the
    INVITE is refused with ``status``, which cancels it towards the callee.
    """

    call_id: str
    """The SIP Call-ID."""
    reason: str
    """A whole Reason value (RFC 3326)."""
    party: str
    """The registration on the web side."""
    caller_tag: str
    """From tag of the first INVITE."""
    callee_tags: tuple[str, ...] = ()
    """To tags of the dialogs that a 2xx confirmed."""
    status: int = 503


class CallStepKind(StrEnum):
    """What happened to a call."""

    BEGAN = "began"
    ANSWERED = "answered"
    ENDED = "ended"
    MEDIA_LOST = "media-lost"
    FLOW_LOST = "flow-lost"
    FLOW_BACK = "flow-back"


@dataclass(frozen=True, slots=True)
class CallStep:
    """For logs and metrics: a call took a step."""

    kind: CallStepKind
    call_id: str
    side: Side
    """Which side the call began on."""
    detail: str = ""


# ---- registrations, flows, the node --------------------------------------------------------------------------


class RegistrationStepKind(StrEnum):
    """What happened to a registration."""

    REGISTERED = "registered"
    REFRESHED = "refreshed"
    DEREGISTERED = "deregistered"
    REFUSED = "refused"
    EXPIRED = "expired"
    NETWORK_ENDED = "network-ended"


@dataclass(frozen=True, slots=True)
class RegistrationStep:
    """For logs and metrics: a registration took a step."""

    kind: RegistrationStepKind
    scenario: Literal["digest", "token"]
    """Scenario 1 of TS 24.371, or 2 and 3."""
    identity: Identity
    """Default public identity; the one that was asked for when refused."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class DropFlow:
    """Close this connection: its client floods, or breaks the protocol."""

    flow: Flow
    reason: str


@dataclass(frozen=True, slots=True)
class Draining:
    """From now on (or no longer) new calls and registrations get 503 with Retry-After; running calls finish."""

    on: bool
