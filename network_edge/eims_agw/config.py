"""Configuration of the eIMS-AGW."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imskit.config.model import setting
from imskit.media.peer_addresses import Network as PeerNetwork
from imskit.media.plane import Source
from network_edge.eims_agw.call_media import Network
from network_edge.eims_agw.gateway import Limits
from network_edge.eims_agw.ng_server import ControllerNetwork


@dataclass(frozen=True)
class NetworkConfig:
    """The media of one side."""

    address: str = setting("local IP address of the media")
    advertised: str = setting("IP address told to the peers, where a 1:1 NAT is in front", "")
    port_min: int = setting("first UDP port of the media", 49152)
    port_max: int = setting("last UDP port of the media", 65533)
    interface: str = setting("network interface that the sockets are bound to; empty: as routes say", "")

    def __post_init__(self) -> None:
        _address("address", self.address)
        if self.advertised:
            _address("advertised", self.advertised)
        if not (self.port_min >= 1024 and self.port_max <= 65535 and self.port_min + 3 < self.port_max):
            raise ValueError("port_min and port_max must be within 1024-65535, four ports apart at least")

    @property
    def network(self) -> Network:
        """The same for the media."""
        ports = range(self.port_min, self.port_max + 1)
        return Network(str(ipaddress.ip_address(self.address)), ports, self.advertised, self.interface or None)


@dataclass(frozen=True)
class AgwConfig:
    """eIMS-AGW: media gateway between browsers and IMS (TS 23.228 annex U), steered by the NG protocol."""

    web: NetworkConfig = setting("media towards browsers")
    ims: NetworkConfig = setting("media towards IMS")
    control_address: str = setting("IP address that the NG protocol is heard on (UDP)", "127.0.0.1")
    control_port: int = setting("its port", 2223)
    controllers: list[str] = setting(
        "who may control: addresses or prefixes. The protocol has no other protection",
        factory=lambda: ["127.0.0.1", "::1"],
    )
    rtp_source: Literal["exact", "same-host", "first"] = setting(
        "from where RTP of IMS is taken: the address and port signalled, any port of that address, or whoever is first",
        "same-host",
    )
    ice: Literal["full", "lite"] = setting(
        "towards browsers: a full ICE agent, or ICE-lite (only where browsers reach the address as it is told)", "full"
    )
    ims_transport: Literal["RTP/AVP", "RTP/AVPF", "RTP/SAVP", "RTP/SAVPF"] = setting(
        "what IMS is offered where the controller does not say; RTP/SAVP: SRTP with its keys in the description (SDES),"
        " for protected signalling only",
        "RTP/AVP",
    )
    denied: list[str] = setting(
        "prefixes in which no browser is, such as the operator's own: no ICE check goes there, whoever names an address"
        " of them. Loopback, link-local and multicast are always denied",
        factory=list,
    )
    calls: int = setting("calls at most", 2000)
    grace: float = setting("seconds from the end of a call to the end of its media", 5.0)
    media_timeout: float = setting(
        "seconds without RTP and RTCP from IMS until the call counts as lost; 0: never", 20.0
    )
    unanswered: float = setting("seconds after which an offer without an answer is forgotten", 300.0)
    drain: float = setting("seconds that running calls are given after SIGTERM", 3600.0)
    http_address: str = setting("IP address of /health and /metrics (Prometheus)", "127.0.0.1")
    http_port: int = setting("its TCP port; 0: none", 0)
    events: Path | None = setting("file that a report of each call's media is appended to, JSON lines", None)

    def __post_init__(self) -> None:
        _address("control_address", self.control_address)
        _address("http_address", self.http_address)
        for name, port in (("control_port", self.control_port), ("http_port", self.http_port)):
            if not 0 <= port <= 65535:
                raise ValueError(f"{name} is {port}, not within 0-65535")
        if self.calls < 1 or min(self.grace, self.media_timeout, self.unanswered, self.drain) < 0:
            raise ValueError("calls must be 1 at least, and no time less than 0")
        if not self.networks:
            raise ValueError("controllers is empty: nobody could control the gateway")
        own = ipaddress.ip_address(self.web.address)
        if any(own in network for network in self.denied_networks):
            raise ValueError(f"denied has {own}, the gateway's own address towards browsers")

    @property
    def networks(self) -> tuple[ControllerNetwork, ...]:
        """The controllers."""
        return _prefixes("controllers", self.controllers)

    @property
    def denied_networks(self) -> tuple[PeerNetwork, ...]:
        """Where no browser is."""
        return _prefixes("denied", self.denied)

    @property
    def limits(self) -> Limits:
        """The same for the gateway."""
        return Limits(self.calls, self.grace, self.media_timeout, self.unanswered)

    @property
    def source(self) -> Source:
        """The same for the media."""
        return Source(self.rtp_source)


def _prefixes(name: str, texts: list[str]) -> tuple[PeerNetwork, ...]:
    try:
        return tuple(ipaddress.ip_network(text) for text in texts)
    except ValueError as error:
        raise ValueError(f"{name}: {error}: no address and no prefix such as 192.0.2.0/24") from None


def _address(name: str, text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{name}: {text!r} is no IP address") from None
