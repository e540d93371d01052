"""Configuration of the identity store."""

from __future__ import annotations

from dataclasses import dataclass

from imskit.config.model import setting
from imskit.secrets import Secret
from network_edge.wwsf.identities.database import Database
from network_edge.wwsf.identities.ldap import LdapConfig
from network_edge.wwsf.identities.ranges import RangeConfig

_RANGES_HELP = """\
[[identities.ranges]]   identities for users without own ones (TS 33.203 annex X.4); repeat for more
  name = "guests"
  wildcard = "sip:guest!.*!@ims.example"
  impi = "guest{}@ims.example"    {}: the variable part of the public identity; without it one for all
  first = 0
  last = 999
  digits = 4"""


@dataclass(frozen=True)
class IdentitiesConfig:
    """Who may log in without a SIM card, and which IMS identities are theirs."""

    database: Secret[str] = setting("sqlite:///FILE or postgresql://user:password@host/name")
    ldap: LdapConfig | None = setting("accounts in a directory instead", None)
    ranges: list[RangeConfig] = setting(_RANGES_HELP, factory=list)

    def __post_init__(self) -> None:
        Database(self.database)
        names = [item.name for item in self.ranges]
        if len(set(names)) != len(names) or not all(names):
            raise ValueError("each range needs a name of its own")
        if self.ldap is not None and self.ldap.range and self.ldap.range not in names:
            raise ValueError(f"ldap.range: there is no range {self.ldap.range}")
