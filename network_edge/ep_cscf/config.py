"""Configuration of the eP-CSCF."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from imskit.config.model import setting
from imskit.secrets import Secret
from imskit.sip.wire.flow import Address
from imskit.sip.wire.uri import SipUri, parse_uri

_GATEWAYS_HELP = """\
[[gateways]]   media gateways that speak the NG protocol: eIMS-AGW or rtpengine; repeat for more
  name = "one"
  address = "127.0.0.1:2223\""""

_ISSUERS_HELP = """\
[[issuers]]   whose tokens are taken (scenarios 2 and 3 of TS 24.371); repeat for more
  issuer = "https://portal.ims.example"
  audience = "ep-cscf"                        what the tokens name as whom they are for
  web_server_identity = "wwsf.ims.example"    what the core knows that server by (TNA)
  identities = ["sip:*@ims.example", "tel:+1555*"]   public identities that it may speak for
  private_identities = ["*@ims.example"]             the same for private ones
  jwks = "https://portal.ims.example/.well-known/jwks.json"
  introspection = ""        instead of jwks: RFC 7662, which hears of log-outs at once
  client_id = ""            for introspection
  client_secret = ""
  scope = "ims"             that a token must have; empty: any
  ca = "…/ca.pem"           certificates that its TLS is checked against; absent: the system's"""


@dataclass(frozen=True)
class GatewayConfig:
    """A media gateway."""

    name: str = setting("name in logs and metrics")
    address: str = setting("ADDR:PORT of its NG protocol (UDP)")

    def __post_init__(self) -> None:
        _ = self.place

    @property
    def place(self) -> Address:
        """Host and port."""
        return parse_place("address", self.address)


@dataclass(frozen=True)
class IssuerConfig:
    """Whose tokens are taken."""

    issuer: str = setting("its name in tokens (iss)")
    audience: str = setting("whom its tokens are for (aud)")
    web_server_identity: str = setting("name of that WWSF or WAF in IMS, for authorization-entity")
    identities: list[str] = setting("public identities that it may speak for: patterns with at most one *")
    private_identities: list[str] = setting("private identities that it may speak for: patterns with at most one *")
    jwks: str = setting("URL of its public keys", "")
    introspection: str = setting("URL where it says whether a token is good, instead of jwks", "")
    client_id: str = setting("name for introspection", "")
    client_secret: Secret[str] = setting("secret for introspection", factory=lambda: Secret(""))
    scope: str = setting("scope that a token must have; empty: any", "ims")
    ca: Path | None = setting("certificates (PEM) that its TLS is checked against; absent: the system's", None)

    def __post_init__(self) -> None:
        for pattern in (*self.identities, *self.private_identities):
            if pattern.count("*") > 1:
                raise ValueError(f"issuer {self.issuer}: {pattern}: a pattern has at most one *")
        if bool(self.jwks) == bool(self.introspection):
            raise ValueError(f"issuer {self.issuer}: give either jwks or introspection")
        for name, url in (("jwks", self.jwks), ("introspection", self.introspection)):
            if url and urlsplit(url).scheme != "https":
                raise ValueError(f"issuer {self.issuer}: {name} must begin with https://")
        if self.introspection and not (self.client_id and self.client_secret):
            raise ValueError(f"issuer {self.issuer}: introspection needs client_id and client_secret")


@dataclass(frozen=True)
class MwConfig:
    """Mw: towards the core, in the place of a P-CSCF."""

    address: str = setting("own ADDR:PORT (UDP and TCP); the port may be left out: 5060")
    core: str = setting(
        "the core's I-CSCF: ADDR:PORT, HOST:PORT, or a name to be looked up by RFC 3263 (NAPTR, SRV, A, AAAA)"
    )
    transport: Literal["udp", "tcp", "tls"] = setting("what requests to the core go over", "udp")
    trusted: list[str] = setting("IP addresses of the core that messages come from, beside core's", factory=list)
    certificate: Path | None = setting("own certificate chain (PEM), for tls", None)
    key: Path | None = setting("its private key (PEM)", None)
    ca: Path | None = setting("certificates (PEM) that the core's are checked against, for tls", None)

    def __post_init__(self) -> None:
        _ = self.place, self.core_uri
        for text in self.trusted:
            _ip("trusted", text)
        if self.transport == "tls" and None in (self.certificate, self.key, self.ca):
            raise ValueError("tls towards the core is mutual: give certificate, key and ca")

    @property
    def place(self) -> Address:
        """Own address and port."""
        return parse_place("address", self.address, 5061 if self.transport == "tls" else 5060)

    @property
    def core_uri(self) -> SipUri:
        """Where the core is, as RFC 3263 takes it."""
        text = self.core if self.core.startswith(("sip:", "sips:")) else f"sip:{self.core}"
        try:
            uri = parse_uri(text)
        except ValueError as error:
            raise ValueError(f"core: {self.core!r} is no ADDR:PORT and no host name ({error})") from None
        if not isinstance(uri, SipUri) or uri.user:
            raise ValueError(f"core: {self.core!r} is no ADDR:PORT and no host name")
        return uri


@dataclass(frozen=True)
class EpCscfConfig:
    """eP-CSCF: SIP over WebSocket of browsers on one side, Mw of an IMS core on the other (TS 24.371)."""

    home_domain: str = setting("home network domain name: realm towards the core")
    mw: MwConfig = setting("towards the core")
    visited_network: str = setting("P-Visited-Network-ID, by which the core knows this edge; empty: home_domain", "")
    wss: list[str] = setting("ADDR:PORT to listen on for WebSocket with TLS", factory=lambda: ["127.0.0.1:8443"])
    ws: list[str] = setting("ADDR:PORT for WebSocket in clear: only behind a TLS proxy, or in a lab", factory=list)
    json: list[str] = setting("ADDR:PORT for signalling in JSON, with TLS: docs/signalling-json.md", factory=list)
    certificate: Path | None = setting("TLS certificate chain (PEM), for wss", None)
    key: Path | None = setting("TLS private key (PEM)", None)
    origins: list[str] = setting('pages that may connect, such as "https://portal.ims.example"', factory=list)
    without_origin: bool = setting("let in clients that are no browsers and send no Origin", False)
    gateways: list[GatewayConfig] = setting(_GATEWAYS_HELP, factory=list)
    issuers: list[IssuerConfig] = setting(_ISSUERS_HELP, factory=list)
    access_network: str = setting("P-Access-Network-Info of the clients, without network-provided", "IEEE-802.11")
    authz_server: str = setting("https URI where clients get tokens, told in challenges (RFC 8898); empty: none", "")
    emergency_numbers: list[str] = setting(
        "local emergency numbers, as dialled: left to the caller's telephone (380)", factory=lambda: ["112", "911"]
    )
    reg_event: bool = setting("subscribe to the registration state of users (reg-event); off for cores without", True)
    minimum_expires: int = setting("shortest registration, seconds", 30)
    maximum_expires: int = setting("longest registration, seconds", 3600)
    connections: int = setting("WebSocket connections at most", 10_000)
    connections_per_address: int = setting("the same from one IP address (IPv6: from one /64)", 256)
    handshake_seconds: float = setting("for the TLS and WebSocket handshakes, each", 10.0)
    ping_seconds: float = setting("between two WebSocket pings, and to wait for the answer", 30.0)
    idle_seconds: float = setting(
        "a connection without a registration is closed after so long without a message", 120.0
    )
    drain_seconds: float = setting("that running calls are given after SIGTERM", 3600.0)
    retry_after: int = setting("Retry-After of refusals, seconds", 10)
    http_address: str = setting("IP address of /health, /ready and /metrics (Prometheus)", "127.0.0.1")
    http_port: int = setting("its TCP port; 0: none", 0)
    events: Path | None = setting("file that the steps of registrations and calls are appended to, JSON lines", None)

    def __post_init__(self) -> None:
        if not all(number.isascii() and number.isdigit() for number in self.emergency_numbers):
            raise ValueError("emergency_numbers: digits only, as they are dialled")
        for name, texts in (("wss", self.wss), ("ws", self.ws), ("json", self.json)):
            for text in texts:
                parse_place(name, text)
        if not (self.wss or self.ws):
            raise ValueError("wss is empty: nobody could connect")
        if (self.wss or self.json) and (self.certificate is None or self.key is None):
            raise ValueError("wss and json need certificate and key")
        if not self.origins and not self.without_origin:
            raise ValueError('origins is empty: no page could connect. Give the portal\'s, such as "https://HOST"')
        for origin in self.origins:
            _check_origin(origin)
        if len({gateway.name for gateway in self.gateways}) != len(self.gateways):
            raise ValueError("each of [[gateways]] needs a name of its own")
        if len({issuer.issuer for issuer in self.issuers}) != len(self.issuers):
            raise ValueError("each of [[issuers]] needs a name of its own")
        if not 0 < self.minimum_expires <= self.maximum_expires:
            raise ValueError("minimum_expires must be above 0 and no more than maximum_expires")
        if min(self.connections, self.connections_per_address, self.retry_after) < 1:
            raise ValueError("connections, connections_per_address and retry_after must be 1 at least")
        if min(self.handshake_seconds, self.ping_seconds, self.idle_seconds) <= 0 or self.drain_seconds < 0:
            raise ValueError("handshake_seconds, ping_seconds and idle_seconds must be above 0")
        _ip("http_address", self.http_address)
        if not 0 <= self.http_port <= 65535:
            raise ValueError(f"http_port is {self.http_port}, not within 0-65535")


def parse_place(name: str, text: str, default_port: int | None = None) -> Address:
    """Read ``ADDR:PORT`` (IPv6 in brackets); ``ValueError`` says what is wrong with the setting ``name``."""
    host, colon, port = text.rpartition(":")
    if default_port is not None and (not colon or "]" in port or (":" in host and not host.startswith("["))):
        host, port = text, str(default_port)
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"{name}: {text!r} is no ADDR:PORT, such as 192.0.2.1:443 or [2001:db8::1]:443")
    return _ip(name, host.removeprefix("[").removesuffix("]")), int(port)


def _ip(name: str, text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f"{name}: {text!r} is no IP address") from None


def _check_origin(origin: str) -> None:
    parts = urlsplit(origin)
    if parts.scheme not in ("https", "http") or not parts.hostname or origin != f"{parts.scheme}://{parts.netloc}":
        raise ValueError(f"origins: {origin!r} is no origin, such as https://portal.ims.example (no path, no slash)")
    if "@" in parts.netloc or origin != origin.lower():
        raise ValueError(f"origins: {origin!r}: browsers send lower case, without a user")
