"""Zones of the operator's name server: master-file text per domain (RFC 1035 section 5), and those of the lab."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import dns.exception
import dns.name
import dns.rdatatype
import dns.zone

from imskit.aka.gba import bsf_from_impi
from imskit.config.model import ConfigError, load, setting

_TTL = 60


@dataclass(frozen=True, slots=True)
class ZoneFile:
    """Zones that the operator's name server answers for."""

    zones: dict[str, str] = setting("Domain = its records in master-file notation; SOA and NS are added if missing.")


def parse_zones(texts: Mapping[str, str]) -> list[dns.zone.Zone]:
    """Read the records of each domain; ValueError names the domain and the mistake."""
    zones = []
    for domain, text in texts.items():
        try:
            origin = dns.name.from_text(domain)
            zone = dns.zone.from_text(text, origin, relativize=False, check_origin=False)
            for rdtype, data in (
                (dns.rdatatype.SOA, f"ns.{origin} hostmaster.{origin} 1 3600 600 86400 {_TTL}"),
                (dns.rdatatype.NS, f"ns.{origin}"),
            ):
                if zone.get_rdataset(origin, rdtype) is None:
                    addition = dns.zone.from_text(
                        f"@ {_TTL} IN {rdtype.name} {data}", origin, relativize=False, check_origin=False
                    )
                    zone.replace_rdataset(origin, addition.find_rdataset(origin, rdtype))
        except (dns.exception.DNSException, ValueError) as error:
            raise ValueError(f"zone {domain}: {error}") from error
        zones.append(zone)
    return zones


def load_zones(path: Path) -> list[dns.zone.Zone]:
    """Read a TOML file of ``[zones]``; ConfigError says what is wrong with it."""
    file = load(ZoneFile, path)
    try:
        return parse_zones(file.zones)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def lab_zones(
    *,
    portal: str = "203.0.113.10",
    edge: str = "203.0.113.12",
    bsf: str = "203.0.113.10",
    other: str = "203.0.113.20",
    help_pages: str = "203.0.113.11",
    p_cscf: str = "10.45.0.1",
    p_cscf_port: int = 5060,
    operator_domain: str = "ims.example",
    home_domain: str = "ims.mnc001.mcc001.3gppnetwork.org",
) -> dict[str, str]:
    """Return the lab's names: page, WebSocket, TURN, BSF, the P-CSCF by NAPTR and SRV, a host of somebody else.

    ``help`` is another host of the operator's, which has no part in the service.
    """
    return {
        operator_domain: f"""
portal {_TTL} IN A {portal}
ws {_TTL} IN A {edge}
help {_TTL} IN A {help_pages}
""",
        home_domain: f"""
@ {_TTL} IN NAPTR 10 50 "s" "SIP+D2U" "" _sip._udp
@ {_TTL} IN NAPTR 20 50 "s" "SIP+D2T" "" _sip._tcp
_sip._udp {_TTL} IN SRV 0 1 {p_cscf_port} pcscf
_sip._tcp {_TTL} IN SRV 0 1 {p_cscf_port} pcscf
pcscf {_TTL} IN A {p_cscf}
""",
        bsf_from_impi(f"@{home_domain}").removeprefix("bsf."): f"bsf {_TTL} IN A {bsf}\n",
        "other.example": f"www {_TTL} IN A {other}\n",
    }
