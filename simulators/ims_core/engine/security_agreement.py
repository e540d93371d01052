"""What a security agreement of the P-CSCF is made of, and what its machine says (`security_agreements`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from imskit.ipsec.algorithms import STANDARD_PAIRS, AlgorithmPair, expand_keys
from imskit.ipsec.association import AssociationSet, Party, UdpEncapsulation
from imskit.secrets import Secret
from imskit.sip.wire.flow import Address


class GmMode(StrEnum):
    """What the P-CSCF wants of UEs."""

    REQUIRED = "required"
    """Nobody registers without a security agreement (or TLS)."""
    OFFERED = "offered"
    """Whoever asks for one gets it."""
    OFF = "off"
    """``sec-agree`` is refused with 420."""


@dataclass(frozen=True, slots=True)
class GmPorts:
    """The protected ports of one P-CSCF address: two agreements with one UE must not have the same of both."""

    server: tuple[int, ...]
    client: tuple[int, ...]


@dataclass(frozen=True)
class GmSecurityPolicy:
    """How the P-CSCF makes agreements."""

    mode: GmMode = GmMode.OFF
    pairs: tuple[AlgorithmPair, ...] = STANDARD_PAIRS
    """Offered, the preferred first."""
    ports: Mapping[str, GmPorts] = field(default_factory=dict)
    """By the P-CSCF's address."""


class Stage(Enum):
    """Where an agreement stands; see the module's text."""

    TEMPORARY = "temporary"
    CONFIRMED = "confirmed"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class Proposal:
    """What of a UE's Security-Client is taken."""

    values: tuple[str, ...]
    """All of Security-Client, for the comparison with the next REGISTER's."""
    pair: AlgorithmPair
    mode: str
    theirs: Party
    ours: str
    """The P-CSCF's address that the UE speaks to."""
    impi: str
    chain: str
    """That of the agreement inside which the REGISTER came; empty: a new one."""


@dataclass(eq=False)
class Agreement:
    """One agreement: four associations and the words that were exchanged about them."""

    name: str
    proposal: Proposal
    ours: Party
    server_values: tuple[str, ...]
    """Security-Server, and Security-Verify of the UE."""
    chain: str
    ends_at: float
    keys: tuple[Secret[bytes], Secret[bytes]]
    """CK and IK."""
    stage: Stage = Stage.TEMPORARY
    attempts: int = 1

    @property
    def client(self) -> Address:
        """Our port that requests to the UE leave from, and responses over UDP."""
        return self.ours.ip, self.ours.port_c

    @property
    def server(self) -> Address:
        """Our port that the UE sends to."""
        return self.ours.ip, self.ours.port_s

    @property
    def ue_client(self) -> Address:
        """The port that the UE sends from."""
        return self.proposal.theirs.ip, self.proposal.theirs.port_c

    @property
    def ue_server(self) -> Address:
        """The port at which the UE is reached."""
        return self.proposal.theirs.ip, self.proposal.theirs.port_s

    def associations(self) -> AssociationSet:
        """The set to install."""
        return AssociationSet.between(
            self.name,
            self.ours,
            self.proposal.theirs,
            self.proposal.pair,
            expand_keys(self.proposal.pair, *self.keys),
            UdpEncapsulation() if self.proposal.mode == "UDP-enc-tun" else None,
        )


@dataclass(frozen=True, slots=True)
class InstallAssociations:
    """Install a set; `AssociationsInstalled` or `AssociationsFailed` answers."""

    associations: AssociationSet


@dataclass(frozen=True, slots=True)
class RemoveAssociations:
    """Take a set away: no answer.  It may have failed to install."""

    name: str


@dataclass(frozen=True, slots=True)
class AssociationsInstalled:
    """The set carries packets."""

    name: str


@dataclass(frozen=True, slots=True)
class AssociationsFailed:
    """The set cannot be installed."""

    name: str
    reason: str
    collision: bool = False
    """An SPI is in use by somebody else: others may do."""


type SecurityEvent = AssociationsInstalled | AssociationsFailed
type SecurityOutput = InstallAssociations | RemoveAssociations
