"""What the WWPF process is told at its start; it travels as one JSON object, secrets included, over a pipe."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from imskit.secrets import Secret

_HOST = re.compile(r"(?=.{1,253}$)(?!-)[a-z0-9-]{1,63}(?:\.(?!-)[a-z0-9-]{1,63})*")
_DEFAULT_PORTS = {"https": 443, "wss": 443}


class Address(NamedTuple):
    """Where to listen or connect: an IP address and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``ADDR:PORT``; ValueError for anything else."""
        host, _, port = text.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise ValueError(f"{text!r} is no ADDRESS:PORT, such as 127.0.0.1:8080")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Site(NamedTuple):
    """A secure web or WebSocket origin (RFC 6454)."""

    host: str
    """Lower case."""
    port: int

    @classmethod
    def parse(cls, text: str, scheme: str = "https") -> Site:
        """Read ``https://HOST[:PORT]`` (or another ``scheme``); ValueError for anything else."""
        parts = urlsplit(text)
        if parts.scheme != scheme or parts.path not in ("", "/") or parts.query or "@" in parts.netloc:
            raise ValueError(f"{text!r} is no {scheme}://HOST[:PORT]")
        return cls(host_name(parts.hostname or ""), parts.port or _DEFAULT_PORTS[scheme])

    @property
    def origin(self) -> str:
        """As a browser writes it in ``Origin``."""
        return f"https://{self.host}" + ("" if self.port == 443 else f":{self.port}")


class Browser(NamedTuple):
    """A program that is logged in with the card."""

    executable: str
    """Absolute path, as ``/proc/<pid>/exe`` shows it."""
    uid: int | None = None
    """Only when it runs as this user; ``None``: as any."""


@dataclass(frozen=True, slots=True)
class Handover:
    """Where the operator's WebSocket goes: the SIF on this device."""

    address: Address
    secret: Secret[str]
    """Made anew at each start; shows the SIF that a connection comes from the WWPF."""


@dataclass(frozen=True, slots=True)
class AgentSocket:
    """Where the agent answers challenges."""

    path: Path
    secret: Secret[str]
    """Made anew at each start."""


@dataclass(frozen=True, slots=True)
class WwpfConfig:
    """Everything the WWPF needs."""

    listen: Address
    """The explicit proxy; an address of this device, 127.0.0.1 as a rule."""
    pac: Address | None
    """Where the proxy auto-configuration file is served."""
    state: Path
    """Directory (mode 0700) of the local CA."""
    operator_domains: Sequence[str]
    """Only hosts in these are intercepted, and the CA can sign for no other."""
    direct_hosts: Sequence[str] = ()
    """Hosts in those domains that are never intercepted and never proxied: STUN/TURN names."""
    portals: Sequence[Site] = ()
    """Where the browser is logged in with the card; their pages may use the SIF."""
    websockets: Sequence[Site] = ()
    """Whose WebSockets are handed to the SIF."""
    turn_path: str = "/api/turn"
    """Where the portal hands out TURN credentials (JSON: username, password, ttl)."""
    browsers: Sequence[Browser] = ()
    """Programs that are logged in; others get the page without log-in."""
    trust: Path | None = None
    """PEM file of the CAs that the operator's servers are verified against; ``None``: the system's."""
    handover: Handover | None = None
    agent: AgentSocket | None = None
    """``None``: nobody is logged in."""
    gba: bool = False
    """Whether the agent has bootstrapped keys to answer with, beside the card itself."""
    log_level: str = "info"

    def __post_init__(self) -> None:
        if not self.operator_domains:
            raise ValueError("no operator domain is given")
        for domain in (*self.operator_domains, *self.direct_hosts):
            if host_name(domain) != domain:
                raise ValueError(f"{domain!r} must be written in lower case, without a dot at its end")
        hosts = (*self.direct_hosts, *(site.host for site in (*self.portals, *self.websockets)))
        for host in hosts:
            if not self.is_operators(host):
                raise ValueError(f"{host} is not in the operator's domains ({', '.join(self.operator_domains)})")

    def is_operators(self, host: str) -> bool:
        """Tell whether ``host`` is in one of the operator's domains."""
        host = host.lower().removesuffix(".")
        return any(host == domain or host.endswith("." + domain) for domain in self.operator_domains)

    def intercepts(self, host: str) -> bool:
        """Tell whether connections to ``host`` are opened by the proxy."""
        return self.is_operators(host) and host.lower().removesuffix(".") not in self.direct_hosts

    def to_json(self) -> str:
        """Return one line for the pipe to the child; it holds the secrets."""
        return json.dumps(dataclasses.asdict(self), default=_plain)

    @classmethod
    def from_json(cls, text: str) -> WwpfConfig:
        """Read what ``to_json`` wrote."""
        raw: dict[str, Any] = json.loads(text)
        handover, agent = raw["handover"], raw["agent"]
        raw |= {
            "listen": Address(*raw["listen"]),
            "pac": Address(*raw["pac"]) if raw["pac"] else None,
            "state": Path(raw["state"]),
            "operator_domains": tuple(raw["operator_domains"]),
            "direct_hosts": tuple(raw["direct_hosts"]),
            "portals": tuple(Site(*site) for site in raw["portals"]),
            "websockets": tuple(Site(*site) for site in raw["websockets"]),
            "browsers": tuple(Browser(*browser) for browser in raw["browsers"]),
            "trust": Path(raw["trust"]) if raw["trust"] else None,
            "handover": Handover(Address(*handover["address"]), Secret(handover["secret"])) if handover else None,
            "agent": AgentSocket(Path(agent["path"]), Secret(agent["secret"])) if agent else None,
        }
        return cls(**raw)


def host_name(text: str) -> str:
    """Return a host name in lower case; ValueError for an address or anything else."""
    host = text.lower().removesuffix(".")
    if _HOST.fullmatch(host) is None or host.rpartition(".")[2].isdigit():
        raise ValueError(f"{text!r} is no host name")
    return host


def _plain(value: object) -> object:
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} does not travel")
