"""What goes into and comes out of a `Registration`, and what is known of one; all exported by ``registration`` too."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from imskit.aka.vector import AkaResult
from imskit.engine import Tick
from imskit.ims.reginfo import RegInfo
from imskit.secrets import Identity
from imskit.sip.wire.flow import Target
from imskit.sip.wire.message import Request, Response


class State(Enum):
    """Where the registration stands."""

    OFF = "not registered"
    REGISTERING = "registering"
    REGISTERED = "registered"
    WAITING = "waiting before the next attempt"
    DEREGISTERING = "de-registering"


@dataclass(frozen=True)
class RetryPolicy:
    """Back-off between failed registrations (RFC 5626 section 4.5), seconds."""

    base: float = 30.0
    maximum: float = 1800.0


@dataclass(frozen=True)
class RegistrationStatus:
    """What is known; ``reason`` is a sentence for the user."""

    state: State = State.OFF
    reason: str = "not started"
    p_cscf: Target | None = None
    impu: Identity | None = None
    """Default public identity: the first of ``associated``."""
    associated: tuple[Identity, ...] = ()
    """P-Associated-URI: the identities that may be used (RFC 7315 section 4.1)."""
    service_route: tuple[str, ...] = ()
    """Route values of what is sent outside dialogs (RFC 3608)."""
    expires_at: float | None = None
    retry_at: float | None = None


# ---- events -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Register, and stay registered."""


@dataclass(frozen=True, slots=True)
class Stop:
    """De-register and stay off."""


@dataclass(frozen=True, slots=True)
class RegisterOutcome:
    """The final response to the REGISTER of ``key``, or none (``failure`` says why)."""

    key: str
    response: Response | None
    failure: str = "the P-CSCF does not answer"


@dataclass(frozen=True, slots=True)
class CardAnswer:
    """What the card made of the challenge."""

    result: AkaResult


@dataclass(frozen=True, slots=True)
class CardFailed:
    """The card could not be asked; ``reason`` says why in words for the user."""

    reason: str


@dataclass(frozen=True, slots=True)
class RegistrationInfo:
    """A reg-event NOTIFY."""

    document: RegInfo


@dataclass(frozen=True, slots=True)
class Lost:
    """The network has lost the registration (504 with a restoration body, 403 to a request, core restarted)."""

    reason: str


type Event = Start | Stop | RegisterOutcome | CardAnswer | CardFailed | RegistrationInfo | Lost | Tick

# ---- outputs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendRegister:
    """Send ``request`` to ``target``; its outcome comes back as ``RegisterOutcome`` with ``key``."""

    key: str
    request: Request
    target: Target


@dataclass(frozen=True, slots=True)
class AskCard:
    """Run AKA on the card."""

    rand: bytes
    autn: bytes


@dataclass(frozen=True, slots=True)
class Changed:
    """The status has changed."""

    status: RegistrationStatus


type Output = SendRegister | AskCard | Changed
