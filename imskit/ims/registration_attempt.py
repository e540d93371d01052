"""One chain of REGISTER requests of a `Registration`, and where it stands.

With a security agreement it goes through these steps, without one through the second and third only::

    RESERVATION    ports and SPIs for Security-Client            ReserveSecurity -> SecurityReserved
    RESPONSE       REGISTER, over the set in use or in clear     SendRegister    -> RegisterOutcome
    CARD           AKA                                           AskCard         -> CardAnswer
    INSTALLATION   the set that the challenge and CK, IK make    InstallSecurity -> SecurityInstalled
    RESPONSE       REGISTER with the answer, over that set       SendRegister    -> RegisterOutcome
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address

from imskit.ims.binding import Binding
from imskit.ims.gm_path import GmPath
from imskit.ims.security_agreement import ServerChoice


class Step(Enum):
    """What is waited for; how long, in words for the user, if that takes too long."""

    DISCOVERY = "the look for a P-CSCF had no result"
    RESERVATION = "this device's IPsec did not give ports and SPIs"
    RESPONSE = "the core did not answer"
    CARD = "the card did not answer"
    INSTALLATION = "this device's IPsec did not install the security associations"


SECONDS = {Step.DISCOVERY: 45.0, Step.RESERVATION: 15.0, Step.RESPONSE: 8.0, Step.CARD: 30.0, Step.INSTALLATION: 15.0}
"""How long a step may take.  An answer of the core that takes longer is mentioned in the status; timer F of the
transaction gives it up after 128 s."""


@dataclass
class Attempt:
    """An initial registration, a refresh or a de-registration."""

    binding: Binding
    initial: bool
    expires: int
    step: Step = Step.RESPONSE
    until: float | None = None
    """When the step has taken too long."""
    key: str = ""
    """Of the REGISTER under way."""
    path: GmPath | None = None
    """How the last REGISTER was sent."""
    authorization: str | None = None
    """For the REGISTER that a step leads to."""
    client: tuple[str, ...] = ()
    """Security-Client, the same in the REGISTER that answers the challenge."""
    choice: ServerChoice | None = None
    """What is taken of Security-Server."""
    sender: str = ""
    """Where the last response came from."""
    challenges: int = 0
    invalid: int = 0
    """Those in a row that the card did not accept."""
    raised: bool = False
    """Whether 423 has been answered already."""

    def peer(self) -> str | None:
        """Return the P-CSCF's IP address: known from the start, or where its answer came from; ``None``: neither."""
        for host in (self.path.hop.address[0] if self.path else "", self.sender):
            try:
                return str(ip_address(host))
            except ValueError:
                continue
        return None
