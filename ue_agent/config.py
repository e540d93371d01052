"""Configuration of the UE agent (``imsbridge ue run -c FILE``)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imskit.config.model import setting
from imskit.ipsec.algorithms import STANDARD_PAIRS, AlgorithmPair
from imskit.ipsec.errors import IpsecError
from imskit.media.ims_leg import EXPEDITED_FORWARDING
from imskit.secrets import Secret
from ue_agent.gba.config import GbaConfig
from ue_agent.uicc.spec import parse_spec


@dataclass(frozen=True, kw_only=True)
class OperatorConfig:
    """The operator's names, as the page uses them."""

    domain: str = setting("domain below which all of the page's names are: the CA is limited to it")
    portal: str = setting("host name of the page; the browser is logged in there with the SIM card")
    websocket: str = setting("host name of the page's WebSocket, handed to the SIF")
    turn: list[str] = setting("STUN and TURN host names that resolve to this device")
    turn_path: str = setting("path of the portal that hands out TURN credentials", "/api/turn")
    trust: Path | None = setting(
        "PEM file of the authorities that sign the operator's certificates, if not public", None
    )


@dataclass(frozen=True, kw_only=True)
class DnsConfig:
    """DNS proxy: the device's resolver."""

    listen: list[str] = setting("addresses to listen on, ADDR:PORT", factory=lambda: ["127.0.0.1:53"])
    upstreams: list[str] = setting("servers to forward to, best first, ADDR[:PORT]")


@dataclass(frozen=True, kw_only=True)
class TurnConfig:
    """TURN proxy: how the browser's media reaches the device."""

    address: str = setting("an address of this device that no network reaches, not a loopback one")
    port: int = setting("UDP and TCP port", 3478)
    device: str = setting(
        "interface that packets must come through: with lo nobody outside the device can use it; empty: any", "lo"
    )
    realm: str = setting("realm of the credentials; empty: the operator's domain", "")


@dataclass(frozen=True, kw_only=True)
class WwpfConfig:
    """WebRTC Web Proxy Function: the browser's proxy."""

    address: str = setting("address to listen on", "127.0.0.1")
    port: int = setting("port of the proxy", 8080)
    pac_port: int = setting("port of the PAC file's server", 8081)
    browsers: list[str] = setting("executables that are logged in; another program gets the page without log-in")
    users: list[str] = setting("users whose browsers are logged in; empty: the one that runs the agent", factory=list)


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """The SIM card."""

    reader: str = setting(
        "where it is: a PC/SC reader's name or a part of it, modem:/dev/ttyUSB2, software:/path/card.toml (lab only); "
        "empty: the first reader with a card",
        "",
    )
    pin: Secret[str] | None = setting("PIN, sent only if the card asks and never with its last try", None)

    def __post_init__(self) -> None:
        parse_spec(self.reader)


@dataclass(frozen=True, kw_only=True)
class ImsConfig:
    """The IMS side: Gm and media."""

    address: str = setting("IP address of the IMS interface: Gm and media are bound to it")
    port: int = setting("UDP and TCP port of Gm", 5060)
    p_cscf: list[str] = setting(
        "P-CSCFs, HOST[:PORT]; empty: those of the card, of the home network's DNS, or of DHCP", factory=list
    )
    message_centre: str = setting(
        "identity of the short message centre, such as tel:+15550999; empty: texts go as SIP MESSAGE", ""
    )
    transport: str = setting("transport towards the P-CSCF, UDP or TCP; with security = tls always TLS", "UDP")
    security: Literal["ipsec", "tls", "off"] = setting(
        "how Gm is protected: ipsec as a phone does it, tls (AKAv2-SHA-256), off for labs", "ipsec"
    )
    algorithms: list[str] = setting(
        "pairs integrity/encryption that are offered, the preferred first",
        factory=lambda: [str(pair) for pair in STANDARD_PAIRS],
    )
    backend: Literal["auto", "kernel", "userspace"] = setting("what does ESP: the kernel, or the agent", "auto")
    nat: bool = setting("offer UDP-encapsulated tunnels too, for a P-CSCF that finds a NAT on the way", False)
    lab_algorithms: bool = setting(
        "let algorithms name hmac-md5-96 and des-ede3-cbc, which the standard has removed", False
    )
    trust: Path | None = setting("with tls: PEM file of the authorities that sign P-CSCFs, if not public", None)
    interface: str | None = setting(
        "interface that alone carries Gm and media (SO_BINDTODEVICE); without it the routes decide", None
    )
    dscp_signalling: int = setting("DSCP of Gm, 0 to 63", 0)
    dscp_media: int = setting("DSCP of media, 0 to 63", EXPEDITED_FORWARDING)
    instance: str = setting("URN of this device (urn:gsma:imei:… or urn:uuid:…); empty: a stable one is made", "")
    access_network_info: str = setting("P-Access-Network-Info of the access in use", "")
    rtp_ports: list[int] = setting("first and last port of media", factory=lambda: [40000, 40999])
    retry_base: float = setting("first back-off of a failed registration, seconds (RFC 5626)", 30.0)

    def __post_init__(self) -> None:
        ipaddress.ip_address(self.address)
        if self.transport not in ("UDP", "TCP"):
            raise ValueError(f"transport must be UDP or TCP, not {self.transport}")
        try:
            pairs = [AlgorithmPair.parse(text) for text in self.algorithms]
        except IpsecError as error:
            raise ValueError(str(error)) from None
        if not pairs:
            raise ValueError("algorithms must name at least one pair")
        if removed := [str(pair) for pair in pairs if pair.removed and not self.lab_algorithms]:
            raise ValueError(f"{removed[0]} was removed from the standard: it needs lab_algorithms = true")
        if not (0 <= self.dscp_signalling <= 63 and 0 <= self.dscp_media <= 63):
            raise ValueError("dscp_signalling and dscp_media must be 0 to 63")
        if len(self.rtp_ports) != 2 or not 1024 <= self.rtp_ports[0] < self.rtp_ports[1] <= 65535:
            raise ValueError("rtp_ports must be two numbers from 1024 to 65535, the first below the second")


@dataclass(frozen=True, kw_only=True)
class UeConfig:
    """UE agent: Solution 7 of 3GPP TR 23.701 on this device."""

    operator: OperatorConfig = setting("operator")
    dns: DnsConfig = setting("DNS proxy")
    turn: TurnConfig = setting("TURN proxy")
    wwpf: WwpfConfig = setting("web proxy")
    ims: ImsConfig = setting("IMS client")
    card: CardConfig = setting("SIM card", factory=CardConfig)
    gba: GbaConfig = setting("bootstrapped keys", factory=GbaConfig)
    state: Path = setting("folder for the CA and other state, 0700", Path("/var/lib/imsbridge"))
    control: Path = setting("socket for ue status", Path("/run/imsbridge/ue.sock"))
    events: Path | None = setting("file that the steps of each call are appended to, JSON lines", None)
