"""Configuration of the WWSF."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imskit.aka.gba import UA_HTTP_DIGEST
from imskit.config.model import setting
from imskit.secrets import Secret
from network_edge.wwsf.identities.config import IdentitiesConfig
from network_edge.wwsf.metrics import MetricsConfig
from network_edge.wwsf.oidc import ProviderConfig
from network_edge.wwsf.tokens.config import TokensConfig

_PROVIDERS_HELP = """\
[[providers]]   an OpenID provider to log in at; needs [identities]; repeat for more
  id = "example"                 redirect URI there: https://PORTAL/login/example/callback
  label = "Example"
  issuer = "https://id.example"
  client_id = "wwsf"
  client_secret = ""
  range = ""                     range for users who are not in the database; empty: they are refused"""


@dataclass(frozen=True)
class TurnConfig:
    """The media relay that the page is told to use (TURN, RFC 8656)."""

    secret: Secret[str] = setting("shared secret of the time-limited credentials")
    uris: list[str] = setting("TURN URIs (RFC 7065) of the relay")
    ttl: int = setting("lifetime of a credential, seconds", 3600)


@dataclass(frozen=True)
class GbaConfig:
    """Log-in with a bootstrapped key: this server as a NAF (TS 33.222)."""

    zn: Path = setting("Unix socket on which the BSF gives keys")
    secret: Secret[str] = setting("secret by which this server shows the BSF who it is")
    in_card: bool = setting("only keys that stay in the SIM card will do: GBA_U, realm 3GPP-bootstrapping-uicc@", False)
    protocol: str = setting("Ua security protocol identifier, 10 hex digits", UA_HTTP_DIGEST.hex())

    def __post_init__(self) -> None:
        try:
            known = len(bytes.fromhex(self.protocol)) == len(UA_HTTP_DIGEST)
        except ValueError:
            known = False
        if not known:
            raise ValueError("protocol must have 10 hex digits")


@dataclass(frozen=True)
class WwsfConfig:
    """WWSF: the operator's web server with the phone page (TR 23.701 annex A.1.3.2)."""

    portal: str = setting("host name of the page; realm of the log-in")
    websocket: str = setting("WebSocket URI that the page's SIP connects to")
    certificate: Path = setting("TLS certificate chain, PEM")
    key: Path = setting("TLS private key, PEM")
    turn: TurnConfig | None = setting("media relay; not needed where browsers reach the media gateway", None)
    hss: Path | None = setting("Unix socket of the HSS; without it there is no log-in with the SIM card", None)
    address: str = setting("IP address to listen on", "127.0.0.1")
    port: int = setting("port to listen on", 443)
    public_port: int = setting("port in the page's URL, where users come by another than `port`", 443)
    cookie_domain: str = setting("domain of the session cookie: portal and WebSocket host are below it", "")
    session_hours: float = setting("how long a log-in lasts, hours", 12.0)
    algorithms: list[str] = setting(
        "digest algorithms offered for AKA, the preferred first", factory=lambda: ["AKAv2-SHA-256", "AKAv1-MD5"]
    )
    login: Literal["aka", "gba", "either"] = setting(
        "what a device with the agent logs in with: aka (its SIM card), gba (a bootstrapped key), either", "aka"
    )
    gba: GbaConfig | None = setting("needed for gba and either", None)
    identities: IdentitiesConfig | None = setting("accounts that need no SIM card", None)
    tokens: TokensConfig | None = setting("needed for identities", None)
    providers: list[ProviderConfig] = setting(_PROVIDERS_HELP, factory=list)
    metrics: MetricsConfig | None = setting("metrics for Prometheus", None)
    tries_per_account: int = setting("passwords that may be tried for one account within five minutes", 10)
    tries_per_address: int = setting("log-ins that one address may try within five minutes", 60)
    events: Path | None = setting("file that the steps of each log-in are appended to, JSON lines", None)

    @property
    def origin(self) -> str:
        """Where the page is, as browsers write it: its issuer's name, and whereto providers send users back."""
        host = f"[{self.portal}]" if ":" in self.portal else self.portal.lower()
        return f"https://{host}{'' if self.public_port == 443 else f':{self.public_port}'}"

    def __post_init__(self) -> None:
        if self.hss is None and (self.identities is None or self.login != "aka"):
            raise ValueError("without hss nobody could log in: give hss, or [identities] and login = 'aka'")
        if (self.identities is None) != (self.tokens is None):
            raise ValueError("[identities] and [tokens] come together")
        if min(self.tries_per_account, self.tries_per_address) < 1:
            raise ValueError("tries_per_account and tries_per_address must be at least 1")
        names = [provider.id for provider in self.providers]
        if names and self.identities is None:
            raise ValueError("[[providers]] need [identities]")
        if len(set(names)) != len(names):
            raise ValueError("each of [[providers]] needs an id of its own")
        ranges = {item.name for item in self.identities.ranges} if self.identities else set()
        for provider in self.providers:
            if provider.range and provider.range not in ranges:
                raise ValueError(f"provider {provider.id}: there is no range {provider.range}")
        if self.login != "aka" and self.gba is None:
            raise ValueError(f"login = {self.login!r} needs the table [gba]")
