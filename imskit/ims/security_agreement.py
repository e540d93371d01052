"""The security agreement between UE and P-CSCF (RFC 3329; ``ipsec-3gpp`` of TS 33.203 annex H), as values.

What goes into Security-Client, what of Security-Server may be taken, and the agreement that follows from both.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from imskit.aka.vector import Success
from imskit.ipsec.algorithms import STANDARD_PAIRS, AlgorithmPair, Encryption, Integrity, expand_keys
from imskit.ipsec.association import AssociationSet, Party, UdpEncapsulation
from imskit.ipsec.errors import IpsecError
from imskit.secrets import Secret
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Target, Transport
from imskit.sip.wire.grammar import Parameters
from imskit.sip.wire.ims_headers import SecurityMechanism
from imskit.sip.wire.message import Response

_log = logging.getLogger(__name__)

IPSEC_3GPP = "ipsec-3gpp"
SEC_AGREE = "sec-agree"
"""Option tag of RFC 3329."""
_NAT_KEEP_ALIVE = 20.0
"""Seconds between the keep-alives of UDP encapsulation (RFC 3948 section 4)."""
_MECHANISMS = 32
"""Elements of Security-Server that are looked at."""

type Mode = Literal["trans", "UDP-enc-tun"]
"""ESP in transport mode, or in a tunnel inside UDP (annex M)."""


class Protection(StrEnum):
    """How Gm is protected."""

    OFF = "off"
    """Not at all: early IMS and labs."""
    IPSEC = "ipsec"
    """Security agreement on ESP: how a phone speaks to its P-CSCF."""
    TLS = "tls"
    """A TLS connection before the first REGISTER, and AKAv2-SHA-256 on it (TS 33.203 annex X)."""


@dataclass(frozen=True)
class SecurityPolicy:
    """What a UE wants on Gm."""

    protection: Protection = Protection.OFF
    pairs: tuple[AlgorithmPair, ...] = STANDARD_PAIRS
    """Offered, in our order of preference."""
    encapsulation: bool = False
    """Offer UDP-encapsulated tunnels too, for a P-CSCF that finds a NAT on the way (annex M)."""

    def __post_init__(self) -> None:
        if self.protection is Protection.IPSEC and not self.pairs:
            raise IpsecError("no pair of algorithms is offered", "TS 33.203 annex H", "Name at least one.")

    @property
    def ipsec(self) -> bool:
        """Whether a security agreement is made."""
        return self.protection is Protection.IPSEC

    def modes(self) -> tuple[Mode, ...]:
        """The modes offered."""
        return ("trans", "UDP-enc-tun") if self.encapsulation else ("trans",)


@dataclass(frozen=True, slots=True)
class SecurityPorts:
    """What one side names: SPIs of the associations inbound to it, protected client and server port."""

    spi_c: int
    spi_s: int
    port_c: int
    port_s: int


@dataclass(frozen=True)
class SecurityAgreement:
    """One agreement as the UE sees it: enough to make its four associations."""

    transport: Transport
    """Of the registration; the associations carry UDP and TCP alike."""
    local: str
    """The UE's IP address."""
    remote: str
    """The P-CSCF's."""
    ours: SecurityPorts
    theirs: SecurityPorts
    pair: AlgorithmPair
    ck: Secret[bytes]
    ik: Secret[bytes]
    mode: Mode = "trans"

    def association_set(self, name: str) -> AssociationSet:
        """Return the associations; ``IpsecError`` if two SPIs are equal or a value is out of range."""
        ours, theirs = self.ours, self.theirs
        encapsulation = UdpEncapsulation(keep_alive_s=_NAT_KEEP_ALIVE) if self.mode == "UDP-enc-tun" else None
        return AssociationSet.between(
            name,
            Party(self.local, ours.spi_c, ours.spi_s, ours.port_c, ours.port_s),
            Party(self.remote, theirs.spi_c, theirs.spi_s, theirs.port_c, theirs.port_s),
            self.pair,
            expand_keys(self.pair, self.ck, self.ik),
            encapsulation,
        )

    def hop(self) -> Target:
        """Where requests go: from our port-c to the P-CSCF's port-s."""
        return Target(
            self.transport, (self.remote, self.theirs.port_s), source=self.local, source_port=self.ours.port_c
        )

    def carries(self, local_port: int, remote_port: int) -> bool:
        """Tell whether packets between these two ports, whoever opened the way, belong to this agreement.

        A P-CSCF that keeps its port-c over agreements makes two carry the same; the newer one has them then.
        """
        return (local_port, remote_port) in (
            (self.ours.port_c, self.theirs.port_s),
            (self.ours.port_s, self.theirs.port_c),
        )


def client_values(policy: SecurityPolicy, ports: SecurityPorts) -> tuple[str, ...]:
    """Return the values of Security-Client: one for each pair and mode (annex H)."""
    common = [
        ("spi-c", str(ports.spi_c)),
        ("spi-s", str(ports.spi_s)),
        ("port-c", str(ports.port_c)),
        ("port-s", str(ports.port_s)),
    ]
    values = []
    for mode in policy.modes():
        for pair in policy.pairs:
            parameters = Parameters.of(
                [
                    ("alg", pair.integrity.value),
                    ("ealg", pair.encryption.value),
                    ("prot", "esp"),
                    ("mod", mode),
                    *common,
                ]
            )
            values.append(str(SecurityMechanism(IPSEC_3GPP, parameters)))
    return tuple(values)


@dataclass(frozen=True)
class ServerChoice:
    """What a P-CSCF offered and the UE takes."""

    theirs: SecurityPorts
    pair: AlgorithmPair
    mode: Mode
    verify: tuple[str, ...]
    """Security-Verify: every element of Security-Server as it came, those of media security too (RFC 3329 2.3.1)."""

    def agreement(self, hop: Target, local: str, remote: str, ours: SecurityPorts, run: Success) -> SecurityAgreement:
        """Return the agreement that this choice makes with the keys of an AKA run; ``hop`` led to the P-CSCF."""
        return SecurityAgreement(hop.transport, local, remote, ours, self.theirs, self.pair, run.ck, run.ik, self.mode)


class NoAgreement(Exception):
    """The P-CSCF offers nothing that can be used: the attempt is abandoned (TS 24.229 clause 5.1.1.5.1)."""


def choose(response: Response, policy: SecurityPolicy, ours: SecurityPorts) -> ServerChoice:
    """Take the best mechanism of a 401's Security-Server that we have offered (RFC 3329 section 2.3.1).

    The highest ``q`` wins, our own order decides among equals.  An element that cannot be read is passed over.
    Raises `NoAgreement`, which says why there is none.
    """
    try:
        verify = tuple(response.headers.elements("Security-Server"))
    except SipParseError as error:
        raise NoAgreement(f"the P-CSCF's Security-Server cannot be read: {error}") from None
    if not verify:
        raise NoAgreement("the P-CSCF's challenge has no Security-Server: it makes no security agreement")
    if len(verify) > _MECHANISMS:
        raise NoAgreement(f"the P-CSCF's Security-Server has {len(verify)} elements, more than {_MECHANISMS}")
    found: list[tuple[float, int, ServerChoice]] = []
    reasons = []
    for text in verify:
        try:
            q, rank, choice = _read(text, policy, ours, verify)
        except (SipParseError, IpsecError, ValueError) as error:
            reasons.append(str(error))
            _log.debug("Security-Server element passed over: %s", error)
            continue
        found.append((-q, rank, choice))
    if not found:
        why = "; ".join(dict.fromkeys(reasons))
        raise NoAgreement(f"the P-CSCF offers no security mechanism that this device offered: {why}")
    return min(found, key=lambda each: each[:2])[2]


def _read(
    text: str, policy: SecurityPolicy, ours: SecurityPorts, verify: tuple[str, ...]
) -> tuple[float, int, ServerChoice]:
    """Return preference, our rank and the choice of one element; ``ValueError`` and its like say what is amiss."""
    element = SecurityMechanism.parse(text, "Security-Server")
    if element.name.lower() != IPSEC_3GPP:
        raise ValueError(f"{element.name} is not {IPSEC_3GPP}")
    value = element.parameters.get
    protocol = (value("prot") or "esp").lower()
    if protocol != "esp":
        raise ValueError(f"prot={protocol} is not esp")
    modes = {mode.lower(): mode for mode in policy.modes()}
    mode = modes.get((value("mod") or "trans").lower())
    if mode is None:
        raise ValueError(f"mod={value('mod')} was not offered")
    integrity, encryption = (value("alg") or "").lower(), (value("ealg") or "null").lower()
    known = integrity in list(Integrity) and encryption in list(Encryption)
    if not known or (pair := AlgorithmPair(Integrity(integrity), Encryption(encryption))) not in policy.pairs:
        raise ValueError(f"alg={integrity or 'none'} ealg={encryption} was not offered")
    numbers = [element.number(name) for name in ("spi-c", "spi-s", "port-c", "port-s")]
    if None in numbers:
        raise ValueError("spi-c, spi-s, port-c or port-s is missing")
    theirs = SecurityPorts(*(number for number in numbers if number is not None))
    _check(ours, theirs)
    rank = policy.modes().index(mode) * len(policy.pairs) + policy.pairs.index(pair)
    return element.q, rank, ServerChoice(theirs, pair, mode, verify)


def _check(ours: SecurityPorts, theirs: SecurityPorts) -> None:
    """The four associations share their keys, so no two SPIs may be equal (TS 33.203 clause 7.1)."""
    spis = (ours.spi_c, ours.spi_s, theirs.spi_c, theirs.spi_s)
    if 0 in spis or len(set(spis)) != len(spis):
        raise ValueError("an SPI is 0 or comes twice")
    if theirs.port_c == theirs.port_s:
        raise ValueError("port-c and port-s are the same")
