"""Configuration of the simulated IMS core."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from imskit.aka.challenge import AkaAlgorithm
from imskit.config.model import setting
from imskit.ipsec.algorithms import LAB_PAIRS, STANDARD_PAIRS, AlgorithmPair
from imskit.ipsec.errors import IpsecError
from imskit.sockets import parse_address
from simulators.ims_core.subscribers import SubscriberConfig, WebSubscriberConfig

_SUBSCRIBERS = """\
subscribers, each a table of its own:
[[subscribers]]
impi = "001010000000001@ims.mnc001.mcc001.3gppnetwork.org"
impus = ["sip:+15550100@ims.mnc001.mcc001.3gppnetwork.org", "tel:+15550100"]
k = "32 hex digits"
opc = "32 hex digits"
display = "+1 555 0100\""""


@dataclass(frozen=True, kw_only=True)
class GmSecurityConfig:
    """Security agreements with UEs (TS 33.203, RFC 3329) at the addresses in gm."""

    mode: Literal["required", "offered", "off"] = setting(
        "required: nobody without one (or TLS); offered: whoever asks gets one; off: sec-agree is refused", "off"
    )
    algorithms: list[str] = setting(
        "pairs integrity/encryption, the preferred first", factory=lambda: [str(pair) for pair in STANDARD_PAIRS]
    )
    lab_algorithms: bool = setting(
        "take hmac-md5-96 and des-ede3-cbc too, which the standard has removed and old phones still speak", False
    )
    backend: Literal["auto", "kernel", "userspace"] = setting("what does ESP: the kernel, or this process", "auto")

    def __post_init__(self) -> None:
        if self.mode != "off" and not self.pairs():
            raise ValueError("algorithms must name at least one pair")

    def pairs(self) -> tuple[AlgorithmPair, ...]:
        """The pairs that are offered; ``ValueError`` for one that is none, or that is for labs only."""
        try:
            named = tuple(AlgorithmPair.parse(text) for text in self.algorithms)
        except IpsecError as error:
            raise ValueError(str(error)) from None
        if removed := [str(pair) for pair in named if pair.removed and not self.lab_algorithms]:
            raise ValueError(f"{removed[0]} was removed from the standard: it needs lab_algorithms = true")
        more = LAB_PAIRS if self.lab_algorithms else ()
        return (*named, *(pair for pair in more if pair not in named))


_WEB_SUBSCRIBERS = """\
subscribers without a card, and ranges of them:
[[web_subscribers]]
impi = "alice@ims.mnc001.mcc001.3gppnetwork.org"
impus = ["sip:+15550400@ims.mnc001.mcc001.3gppnetwork.org", "tel:+15550400"]
password = "of SIP digest"
web_servers = ["portal.ims.example"]     who may vouch for her with a token
[[web_subscribers]]
impi = "guest!.*!@ims.mnc001.mcc001.3gppnetwork.org"
impus = ["sip:guest!.*!@ims.mnc001.mcc001.3gppnetwork.org"]
web_servers = ["portal.ims.example"]"""
_EDGES = """\
network edges (eP-CSCF) that may register users whom they have authenticated:
[[edges]]
address = "10.45.0.3"                    where their requests come from
visited_network = "ims.mnc001.mcc001.3gppnetwork.org\""""


@dataclass(frozen=True)
class EdgeConfig:
    """A trusted node that registers users in the name of IMS (TNA, TS 33.203 annex U)."""

    address: str = setting("IP address that its requests come from")
    visited_network: str = setting("its P-Visited-Network-ID")

    def __post_init__(self) -> None:
        try:
            ip_address(self.address)
        except ValueError:
            raise ValueError("address must be an IP address") from None


@dataclass(frozen=True)
class CoreConfig:
    """IMS core for labs: P-CSCF, I-CSCF, S-CSCF and HSS in one process."""

    domain: str = setting("home network domain: realm of the registration")
    gm: list[str] = setting("addresses of the P-CSCF towards UEs, ADDR:PORT, UDP and TCP; port 0 takes a free one")
    subscribers: list[SubscriberConfig] = setting(_SUBSCRIBERS)
    mw: str = setting("address of the P-CSCF towards the core", "127.0.0.1:0")
    s_cscf: str = setting("address of the S-CSCF", "127.0.0.1:0")
    algorithms: list[str] = setting(
        "digest algorithms offered at registration, the preferred first", factory=lambda: ["AKAv1-MD5"]
    )
    web_subscribers: list[WebSubscriberConfig] = setting(_WEB_SUBSCRIBERS, factory=list)
    edges: list[EdgeConfig] = setting(_EDGES, factory=list)
    digest_algorithms: list[str] = setting(
        "digest algorithms offered to subscribers with a password, the preferred first (RFC 8760)",
        factory=lambda: ["SHA-256", "MD5"],
    )
    entity_parameter: str = setting(
        "parameter of Authorization that names the web server behind a token", "authorization-entity"
    )
    gm_security: GmSecurityConfig = setting("security agreements with UEs", factory=GmSecurityConfig)
    tls: list[str] = setting("addresses of the P-CSCF towards UEs with TLS, ADDR:PORT", factory=list)
    certificate: Path | None = setting("certificate chain for tls, PEM", None)
    key: Path | None = setting("its key, PEM", None)
    hss: Path | None = setting("Unix socket on which the HSS serves the operator's web server", None)
    control: Path | None = setting("Unix socket for looking in and for ending registrations", None)
    events: Path | None = setting("file that the steps of registrations and calls are appended to, JSON lines", None)

    def __post_init__(self) -> None:
        addresses = [parse_address(text) for text in (*self.gm, *self.tls, self.mw, self.s_cscf)]
        if not self.gm:
            raise ValueError("gm must name at least one address")
        if len({address for address in addresses if address[1]}) < len([a for a in addresses if a[1]]):
            raise ValueError("gm, tls, mw and s_cscf must differ")
        if self.tls and (self.certificate is None or self.key is None):
            raise ValueError("tls needs certificate and key")
        if not self.algorithms:
            raise ValueError("algorithms must name at least one")
        for name in self.algorithms:
            if AkaAlgorithm.parse(name) is None:
                raise ValueError(f"{name} is no AKA digest algorithm, such as AKAv1-MD5")
        for name in self.digest_algorithms:
            if name not in ("MD5", "SHA-256", "SHA-512-256"):
                raise ValueError(f"digest_algorithms: {name} is none of MD5, SHA-256, SHA-512-256")
