"""Configuration of the WWSF."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imskit.config.model import setting
from imskit.secrets import Secret


@dataclass(frozen=True)
class TurnConfig:
    """The media relay that the page is told to use (TURN, RFC 8656)."""

    secret: Secret[str] = setting("shared secret of the time-limited credentials")
    uris: list[str] = setting("TURN URIs (RFC 7065) of the relay")
    ttl: int = setting("lifetime of a credential, seconds", 3600)


@dataclass(frozen=True)
class WwsfConfig:
    """WWSF: the operator's web server with the phone page (TR 23.701 annex A.1.3.2)."""

    portal: str = setting("host name of the page; realm of the log-in")
    websocket: str = setting("WebSocket URI that the page's SIP connects to")
    certificate: Path = setting("TLS certificate chain, PEM")
    key: Path = setting("TLS private key, PEM")
    hss: Path = setting("Unix socket of the HSS")
    turn: TurnConfig = setting("media relay")
    address: str = setting("IP address to listen on", "127.0.0.1")
    port: int = setting("port to listen on", 443)
    cookie_domain: str = setting("domain of the session cookie: portal and WebSocket host are below it", "")
    session_hours: float = setting("how long a log-in lasts, hours", 12.0)
    algorithms: list[str] = setting(
        "digest algorithms offered for AKA, the preferred first", factory=lambda: ["AKAv2-SHA-256", "AKAv1-MD5"]
    )
    events: Path | None = setting("file that the steps of each log-in are appended to, JSON lines", None)
