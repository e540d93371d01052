"""Security associations of Gm: four of one agreement, as one side sees them (TS 33.203 clause 7.1 and annex M).

Each party names two ports, client and server, and the SPIs of the associations inbound at them::

    our port-c  ->  their port-s   with their spi-s        their port-s  ->  our port-c   with our spi-c
    our port-s  ->  their port-c   with their spi-c        their port-c  ->  our port-s   with our spi-s

UDP and TCP share them.  Lifetimes belong to SIP: an association lives until its set is removed.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from imskit.ipsec.algorithms import AlgorithmPair, SaKeys
from imskit.ipsec.errors import IpsecError

LOWEST_SPI = 256
"""The lowest SPI to choose: 1 to 255 are reserved (RFC 4303 2.1), yet accepted from a peer that uses them."""
HIGHEST_SPI = 0xFFFF_FFFF
ENCAPSULATION_PORT = 4500
"""UDP port of encapsulated ESP (RFC 3948)."""


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address, as text in its canonical form, and a protected port."""

    ip: str
    port: int

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "ip", str(ipaddress.ip_address(self.ip)))
        except ValueError:
            raise IpsecError(f"{self.ip!r} is no IP address", "TS 33.203 7.1") from None
        if not 1 <= self.port <= 65535:
            raise IpsecError(f"{self.port} is no port", "TS 33.203 7.1")

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.ip else 4

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


@dataclass(frozen=True, slots=True)
class UdpEncapsulation:
    """ESP in tunnel mode inside UDP, for a UE behind a NAT (``mod=UDP-enc-tun``, annex M, RFC 3948).

    The outer addresses are those of the association, which is the selector too; the inner ones, which a NAT has not
    changed, carry no meaning here and are replaced on the way in.  The ports are the outer ones.  Where the far end
    is behind a NAT its port (and a rebinding) is learned from authenticated packets, so ``destination_port`` is only
    where to begin.
    """

    source_port: int = ENCAPSULATION_PORT
    destination_port: int = ENCAPSULATION_PORT
    keep_alive_s: float | None = None
    """Outbound, at the side behind the NAT: seconds of silence after which a keep-alive is sent (RFC 3948 4; 20)."""


@dataclass(frozen=True, slots=True)
class SecurityAssociation:
    """One direction: packets from ``source`` to ``destination`` (addresses and ports), named ``spi`` at the receiver.

    ``encapsulation`` is ``None`` for transport mode.
    """

    spi: int
    source: Address
    destination: Address
    pair: AlgorithmPair
    keys: SaKeys
    encapsulation: UdpEncapsulation | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.spi <= HIGHEST_SPI:
            raise IpsecError(f"{self.spi} is no SPI", "RFC 4303 2.1")
        if self.source.version != self.destination.version:
            raise IpsecError(f"{self.source} and {self.destination} are of two IP versions", "TS 33.203 7.1")


@dataclass(frozen=True, slots=True)
class Party:
    """What one side brings to an agreement: its address, and SPIs and ports as in Security-Client or -Server."""

    ip: str
    spi_c: int
    spi_s: int
    port_c: int
    port_s: int


@dataclass(frozen=True, slots=True)
class AssociationSet:
    """The four associations of one agreement, for one side.  ``name`` is the owner's, unique on its back end.

    The four share their keys, so all SPIs must differ (TS 33.203 7.1): ``IpsecError`` otherwise.
    """

    name: str
    inbound: tuple[SecurityAssociation, SecurityAssociation]
    outbound: tuple[SecurityAssociation, SecurityAssociation]

    def __post_init__(self) -> None:
        if len({association.spi for association in self.inbound + self.outbound}) != 4:
            raise IpsecError(
                f"security agreement {self.name}: two of its four SPIs are equal",
                "TS 33.203 7.1",
                "The P-CSCF chooses SPIs other than the UE's; check its Security-Server.",
            )

    @classmethod
    def between(
        cls,
        name: str,
        ours: Party,
        theirs: Party,
        pair: AlgorithmPair,
        keys: SaKeys,
        encapsulation: UdpEncapsulation | None = None,
    ) -> AssociationSet:
        """Make the set that ``ours`` installs; the far end calls it with the parties exchanged.

        ``encapsulation`` is given from this side's view, as outbound packets have it.
        """
        turned = encapsulation and UdpEncapsulation(encapsulation.destination_port, encapsulation.source_port)
        our_c, our_s = Address(ours.ip, ours.port_c), Address(ours.ip, ours.port_s)
        their_c, their_s = Address(theirs.ip, theirs.port_c), Address(theirs.ip, theirs.port_s)
        return cls(
            name,
            (
                SecurityAssociation(ours.spi_c, their_s, our_c, pair, keys, turned),
                SecurityAssociation(ours.spi_s, their_c, our_s, pair, keys, turned),
            ),
            (
                SecurityAssociation(theirs.spi_s, our_c, their_s, pair, keys, encapsulation),
                SecurityAssociation(theirs.spi_c, our_s, their_c, pair, keys, encapsulation),
            ),
        )
