"""What goes into and comes out of a `Gateway`: three sides (page, IMS, media), each with its own vocabulary.

``call`` in the events and outputs of media is the gateway's own name for a call.
"""

from __future__ import annotations

from dataclasses import dataclass

from imskit.engine import Tick
from imskit.ims import events as ims
from imskit.ims.registration import RegistrationStatus
from imskit.sdp.description import SessionDescription
from imskit.sdp.ims_side import ImsEndpoint
from imskit.sdp.negotiation import MediaPlan
from imskit.sdp.web_side import WebEndpoint
from imskit.secrets import Identity
from imskit.sip.engine import user_agent as page
from imskit.sip.wire.flow import Flow

# ---- in ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FromPage:
    """The user agent of the page's side says something."""

    output: page.Output


@dataclass(frozen=True, slots=True)
class FromIms:
    """The IMS client says something."""

    output: ims.Output


@dataclass(frozen=True, slots=True)
class PageGone:
    """The page's WebSocket is closed."""

    flow: Flow


@dataclass(frozen=True, slots=True)
class Service:
    """Whether there is IMS service, and who the user is."""

    status: RegistrationStatus
    identities: tuple[Identity, ...]
    """Public identities that a page may register."""


@dataclass(frozen=True, slots=True)
class MediaOpened:
    """The media side of a call is there; nothing flows yet."""

    call: str
    web: WebEndpoint
    ims: ImsEndpoint


@dataclass(frozen=True, slots=True)
class MediaFailed:
    """The media of a call cannot be had, or broke; ``reason`` is for the user."""

    call: str
    reason: str


@dataclass(frozen=True, slots=True)
class WebRenewed:
    """The answer to `PageOffered`: what to say of our side to the page from now on."""

    call: str
    web: WebEndpoint


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The agent stops: every call ends."""

    reason: str


type Event = FromPage | FromIms | PageGone | Service | MediaOpened | MediaFailed | WebRenewed | Shutdown | Tick

# ---- out --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToPage:
    """A command for the user agent of the page's side."""

    command: page.Command


@dataclass(frozen=True, slots=True)
class ToIms:
    """An event for the IMS client."""

    event: ims.Event


@dataclass(frozen=True, slots=True)
class OpenMedia:
    """Get ports and ICE credentials for a call; ``controlling``: our side will offer to the page."""

    call: str
    controlling: bool


@dataclass(frozen=True, slots=True)
class PageOffered:
    """The page makes a later offer, which may restart ICE; answered by `WebRenewed`."""

    call: str
    offer: SessionDescription


@dataclass(frozen=True, slots=True)
class ApplyMedia:
    """Join the two sides of a call so."""

    call: str
    plan: MediaPlan


@dataclass(frozen=True, slots=True)
class MediaAnswered:
    """The call was answered: the page has to be connected soon."""

    call: str


@dataclass(frozen=True, slots=True)
class PressKey:
    """Play a DTMF key towards IMS (RFC 4733): the page has said it in INFO."""

    call: str
    key: str
    seconds: float


@dataclass(frozen=True, slots=True)
class CloseMedia:
    """Release a call's media."""

    call: str


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a call, for the event log."""

    call: str
    name: str
    codec: str = ""


@dataclass(frozen=True, slots=True)
class DropPage:
    """Close a page's WebSocket: it comes back and learns at its REGISTER how things stand."""

    flow: Flow
    reason: str


type Output = (
    ToPage | ToIms | OpenMedia | PageOffered | ApplyMedia | MediaAnswered | PressKey | CloseMedia | Step | DropPage
)
