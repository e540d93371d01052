"""Configuration of the tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imskit.config.model import setting
from imskit.secrets import Secret

_CLIENTS_HELP = """\
[[tokens.clients]]   who may ask whether a token is good (RFC 7662); repeat for more
  id = "ep-cscf"
  secret = ""        at least 16 characters"""


@dataclass(frozen=True)
class ClientConfig:
    """Who may ask the introspection endpoint."""

    id: str = setting("name, sent by HTTP Basic")
    secret: Secret[str] = setting("its secret, at least 16 characters")

    def __post_init__(self) -> None:
        if ":" in self.id or len(self.secret.reveal()) < 16:
            raise ValueError("an id has no colon, a secret at least 16 characters")


@dataclass(frozen=True)
class TokensConfig:
    """Tokens with which the page registers, signed by ES256 (RFC 7519); needed with [identities]."""

    audience: str = setting("whom they are for: the eP-CSCF's name there")
    keys: Path = setting("file of the signing keys; made at first start, readable by its owner only")
    issuer: str = setting("this server's name in them; empty: https:// and the portal", "")
    seconds: int = setting("lifetime of a token; the page asks for another before it ends", 300)
    rotate_hours: float = setting("how long a key signs, hours", 24.0)
    scope: str = setting("scope of the tokens", "ims")
    clients: list[ClientConfig] = setting(_CLIENTS_HELP, factory=list)

    def __post_init__(self) -> None:
        if not 30 <= self.seconds <= 3600:
            raise ValueError("seconds must be between 30 and 3600")
        if self.rotate_hours * 3600 < 4 * self.seconds:
            raise ValueError("rotate_hours must be at least four lifetimes of a token")
