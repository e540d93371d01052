"""What goes into and comes out of a `Registration`, and what is known of one; all exported by ``registration`` too."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from imskit.aka.vector import AkaResult
from imskit.engine import Tick
from imskit.ims.reginfo import RegInfo
from imskit.ims.security_agreement import SecurityAgreement, SecurityPorts
from imskit.secrets import Identity
from imskit.sip.engine.events import SentBy
from imskit.sip.wire.flow import Address, Target
from imskit.sip.wire.message import Request, Response


class State(Enum):
    """Where the registration stands."""

    OFF = "not registered"
    REGISTERING = "registering"
    REGISTERED = "registered"
    WAITING = "waiting before the next attempt"
    DEREGISTERING = "de-registering"


@dataclass(frozen=True)
class RegistrationStatus:
    """What is known; ``reason`` is a sentence for the user."""

    state: State = State.OFF
    reason: str = "not started"
    p_cscf: Target | None = None
    impu: Identity | None = None
    """Default public identity: the first SIP URI of ``associated``."""
    associated: tuple[Identity, ...] = ()
    """The identities that may be used, of all registrations (P-Associated-URI, RFC 7315 section 4.1); a registered
    identity that is not among them is barred."""
    service_route: tuple[str, ...] = ()
    """Route values of what is sent outside dialogs (RFC 3608)."""
    expires_at: float | None = None
    retry_at: float | None = None
    public_gruu: str = ""
    """This device's own name for the default registration (RFC 5627); empty: none."""
    temporary_gruu: str = ""
    """The same without the user's identity, for anonymous calls."""
    security: str = ""
    """How Gm is protected, for the user: ``IPsec null/aes-gcm``, ``TLS``; empty: not at all."""


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
    sender: str = ""
    """IP address that the response came from; needed where the P-CSCF is known by a name."""


@dataclass(frozen=True, slots=True)
class CardAnswer:
    """What the card made of the challenge."""

    result: AkaResult
    rand: bytes | None = None
    """Of the challenge, so that a late answer to another one is not taken for it."""


@dataclass(frozen=True, slots=True)
class CardFailed:
    """The card could not be asked; ``reason`` says why in words for the user."""

    reason: str
    rand: bytes | None = None
    """As in `CardAnswer`."""


@dataclass(frozen=True, slots=True)
class RegistrationInfo:
    """A reg-event NOTIFY."""

    document: RegInfo


@dataclass(frozen=True, slots=True)
class Lost:
    """The network has lost the registration (504 with a restoration body, 403 to a request, core restarted)."""

    reason: str


@dataclass(frozen=True, slots=True)
class SecurityReserved:
    """Answer to `ReserveSecurity`: the sockets are bound, the SPIs are taken."""

    reservation: str
    ports: SecurityPorts


@dataclass(frozen=True, slots=True)
class SecurityInstalled:
    """Answer to `InstallSecurity`: the set carries packets."""

    name: str


@dataclass(frozen=True, slots=True)
class SecurityFailed:
    """`ReserveSecurity` or `InstallSecurity` could not be carried out; ``reason`` says why in words for the user.

    A failed reservation holds nothing.  A failed installation leaves the reservation as it was.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Heard:
    """A message came from ``remote`` to our port ``local_port``: it tells which security associations are alive."""

    local_port: int
    remote: Address


@dataclass(frozen=True, slots=True)
class PCscfsFound:
    """Answer to `FindPCscfs`: in order of preference; empty, with ``reason`` for the user, if there is none."""

    targets: tuple[Target, ...]
    reason: str = ""


type Event = (
    Start
    | Stop
    | RegisterOutcome
    | CardAnswer
    | CardFailed
    | RegistrationInfo
    | Lost
    | SecurityReserved
    | SecurityInstalled
    | SecurityFailed
    | Heard
    | PCscfsFound
    | Tick
)

# ---- outputs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendRegister:
    """Send ``request`` to ``target``; its outcome comes back as ``RegisterOutcome`` with ``key``."""

    key: str
    request: Request
    target: Target
    sent_by: SentBy
    """What its Via says."""


@dataclass(frozen=True, slots=True)
class AskCard:
    """Run AKA on the card."""

    rand: bytes
    autn: bytes


@dataclass(frozen=True, slots=True)
class Changed:
    """The status has changed."""

    status: RegistrationStatus


@dataclass(frozen=True, slots=True)
class ReserveSecurity:
    """Bind protected ports and pick SPIs for a set to come: `SecurityReserved` or `SecurityFailed` answers.

    Nothing may pass in clear at those ports from then on.
    """

    reservation: str
    keep_port_s: int | None = None
    """The protected server port of the registration, which stays; ``None``: a new one.  It is closed when the last
    reservation or set that has it is gone."""


@dataclass(frozen=True, slots=True)
class InstallSecurity:
    """Install the associations of ``agreement``; the reservation of the same name becomes the set ``name``.

    `SecurityInstalled` or `SecurityFailed` answers.
    """

    name: str
    agreement: SecurityAgreement


@dataclass(frozen=True, slots=True)
class RemoveSecurity:
    """Take a set away with its ports and SPIs: no answer.  It may be under installation, or gone already."""

    name: str


@dataclass(frozen=True, slots=True)
class ReleaseSecurity:
    """Give back a reservation that was not installed: no answer.  It may not have been answered, or be gone."""

    reservation: str


@dataclass(frozen=True, slots=True)
class FindPCscfs:
    """Look for P-CSCFs (TS 24.229 clause 9.2.1); `PCscfsFound` answers."""


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Send keep-alives to ``target`` from now on (RFC 6223): CRLF on a connection, STUN on UDP (RFC 5626 4.4)."""

    target: Target | None
    """``None``: send no more."""
    seconds: float = 0.0


type Output = (
    SendRegister
    | AskCard
    | Changed
    | ReserveSecurity
    | InstallSecurity
    | RemoveSecurity
    | ReleaseSecurity
    | FindPCscfs
    | KeepAlive
)
