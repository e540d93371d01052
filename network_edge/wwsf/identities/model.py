"""What an identity store holds and answers (TS 33.203 annex X.3 and X.4)."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal, Protocol

from imskit.secrets import Identity, Secret

type Registration = Literal["token", "digest"]
"""How the page registers: with this server's token, or by SIP digest with the line's own password."""

MAX_NAME = 254
MAX_PASSWORD = 1024
_IMPU = re.compile(r"(?:sips?:[^\s@<>\",;?]{1,120}@[A-Za-z0-9.:\[\]-]{1,253}|tel:\+?[0-9*#.()-]{1,40})\Z")
_IMPI = re.compile(r"[^\s@<>\",;:]{1,120}@[A-Za-z0-9.-]{1,253}\Z")


class StoreError(Exception):
    """The store cannot do what was asked; the text says why and what to do."""


class StoreUnavailableError(StoreError):
    """The store does not answer, is locked, full or cannot be written: the same may work later (answer 503)."""


class RangeExhaustedError(StoreError):
    """Every identity of a range is in use."""


@dataclass(frozen=True)
class ImsIdentities:
    """What a user registers with."""

    impi: Identity
    impus: tuple[Identity, ...]
    """Public identities, the default first."""
    display: str


@dataclass(frozen=True)
class Account:
    """A web identity: with identities of its own, or with one drawn from the range ``range``."""

    name: str
    """The web identity, in the spelling of ``normal_name``."""
    identities: ImsIdentities | None
    range: str = ""
    registration: Registration = "token"
    issuer: str = ""
    """Issuer of the OpenID provider whose ``subject`` this is; empty without."""
    subject: str = ""

    def __post_init__(self) -> None:
        if (self.identities is None) != bool(self.range):
            raise ValueError("an account has either identities of its own or a range")
        if self.registration == "digest" and self.range:
            raise ValueError("an identity of a range has no SIP password: register it by token")
        if bool(self.issuer) != bool(self.subject):
            raise ValueError("issuer and subject of an OpenID provider come together")


class IdentityStore(Protocol):
    """Web identities.  Every method may raise ``StoreUnavailableError``."""

    async def log_in(self, name: str, password: Secret[str]) -> Account | None:
        """Return the account if the password is right; unknown and wrong cost the same time and say the same."""

    async def by_subject(self, issuer: str, subject: str) -> Account | None:
        """Return the account of a user whom an OpenID provider has authenticated."""

    async def check(self) -> None:
        """Return if the store answers."""

    async def close(self) -> None:
        """Release connections."""


def normal_name(name: str) -> str:
    """Return the one spelling of a web identity (NFKC, lower case); ``ValueError`` if it can be none."""
    normal = unicodedata.normalize("NFKC", name).strip().lower()
    if not 1 <= len(normal) <= MAX_NAME or any(not c.isprintable() or c.isspace() for c in normal):
        raise ValueError(f"a user name has 1 to {MAX_NAME} characters without spaces")
    return normal


def identities(impi: str, impus: list[str], display: str = "") -> ImsIdentities:
    """Check and return IMS identities; ``ValueError`` says which is none (TS 23.003 clauses 13.3, 13.4)."""
    if not _IMPI.match(impi):
        raise ValueError(f"{Identity(impi)!r} is no private identity: user@domain (TS 23.003 13.3)")
    if not impus:
        raise ValueError("at least one public identity is needed (TS 23.003 13.4)")
    for impu in impus:
        if not _IMPU.match(impu):
            raise ValueError(f"{Identity(impu)!r} is no public identity: sip:user@domain or tel:+number")
    if not impus[0].startswith(("sip:", "sips:")):
        raise ValueError("the first public identity must be a SIP URI: the page registers as it")
    if len(display) > MAX_NAME or any(not c.isprintable() for c in display):
        raise ValueError(f"a display name has at most {MAX_NAME} printable characters")
    return ImsIdentities(Identity(impi), tuple(Identity(impu) for impu in impus), display or _readable(impus[0]))


def _readable(impu: str) -> str:
    return impu.partition(":")[2].partition("@")[0]
