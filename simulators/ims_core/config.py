"""Configuration of the simulated IMS core."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imskit.aka.challenge import AkaAlgorithm
from imskit.config.model import setting
from simulators.ims_core.subscribers import SubscriberConfig
from simulators.sockets import parse_address

_SUBSCRIBERS = """\
subscribers, each a table of its own:
[[subscribers]]
impi = "001010000000001@ims.mnc001.mcc001.3gppnetwork.org"
impus = ["sip:+15550100@ims.mnc001.mcc001.3gppnetwork.org", "tel:+15550100"]
k = "32 hex digits"
opc = "32 hex digits"
display = "+1 555 0100\""""


@dataclass(frozen=True)
class CoreConfig:
    """IMS core for labs: P-CSCF, I-CSCF, S-CSCF and HSS in one process."""

    domain: str = setting("home network domain: realm of the registration")
    gm: list[str] = setting("addresses of the P-CSCF towards UEs, ADDR:PORT, UDP and TCP; port 0 takes a free one")
    subscribers: list[SubscriberConfig] = setting(_SUBSCRIBERS)
    mw: str = setting("address of the P-CSCF towards the core", "127.0.0.1:0")
    s_cscf: str = setting("address of the S-CSCF", "127.0.0.1:0")
    algorithms: list[str] = setting(
        "digest algorithms offered at registration, the preferred first", factory=lambda: ["AKAv1-MD5"]
    )
    hss: Path | None = setting("Unix socket on which the HSS serves the operator's web server", None)
    control: Path | None = setting("Unix socket for looking in and for ending registrations", None)
    events: Path | None = setting("file that the steps of registrations and calls are appended to, JSON lines", None)

    def __post_init__(self) -> None:
        addresses = [parse_address(text) for text in (*self.gm, self.mw, self.s_cscf)]
        if not self.gm:
            raise ValueError("gm must name at least one address")
        if len({address for address in addresses if address[1]}) < len([a for a in addresses if a[1]]):
            raise ValueError("gm, mw and s_cscf must differ")
        if not self.algorithms:
            raise ValueError("algorithms must name at least one")
        for name in self.algorithms:
            if AkaAlgorithm.parse(name) is None:
                raise ValueError(f"{name} is no AKA digest algorithm, such as AKAv1-MD5")
