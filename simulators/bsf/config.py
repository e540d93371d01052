"""Configuration of the simulated BSF."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imskit.aka.gba import BTid, naf_id
from imskit.config.model import setting
from imskit.secrets import Secret
from imskit.sockets import parse_address

SHORTEST_SECRET = 16

_NAFS = """\
servers that may ask for keys, each a table of its own:
[[nafs]]
name = "portal.ims.example"
secret = "at least 16 characters\""""


@dataclass(frozen=True, repr=False)
class NafConfig:
    """A server (NAF) that may ask for its keys, and for no other's."""

    name: str = setting("host name of the server, as terminals see it")
    secret: Secret[str] = setting("shared secret by which it shows who it is, 16 characters or more")

    def __post_init__(self) -> None:
        naf_id(self.name)
        if len(self.secret.reveal()) < SHORTEST_SECRET:
            raise ValueError(f"secret must have {SHORTEST_SECRET} characters or more")


@dataclass(frozen=True, repr=False)
class BsfConfig:
    """Bootstrapping server function for labs: terminals bootstrap over HTTP, servers ask over a Unix socket."""

    name: str = setting("the BSF's host name, as terminals derive it: realm of the log-in and part of each B-TID")
    hss: Path = setting("Unix socket of the HSS")
    nafs: list[NafConfig] = setting(_NAFS)
    listen: str = setting("address of Ub, ADDR:PORT; port 0 takes a free one", "127.0.0.1:80")
    zn: Path | None = setting("Unix socket on which servers ask for keys", None)
    lifetime: float = setting("how long a bootstrapped key lasts, seconds", 86_400.0)
    events: Path | None = setting("file that the steps of each run are appended to, JSON lines", None)

    def __post_init__(self) -> None:
        BTid.make(bytes(16), self.name)
        parse_address(self.listen)
        if self.lifetime < 1:
            raise ValueError("lifetime must be at least 1 s")
        if len({naf.name for naf in self.nafs}) < len(self.nafs):
            raise ValueError("nafs must have different names")
