"""Where a UE may learn of its P-CSCFs, and in which order it asks (TS 24.229 clause 9.2.1, RFC 3263).

The configuration, where there is one, is obeyed alone.  Else the card's EF_P-CSCF, then the NAPTR and SRV records of
the home network, then what the access network announces by DHCP; the first that leads to an address is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from ipaddress import ip_address

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import DEFAULT_PORTS, Address, Target, Transport
from imskit.sip.wire.grammar import parse_host_port
from imskit.sip.wire.uri import SipUri, parse_uri


class Source(Enum):
    """Who names P-CSCFs; the value is for the user."""

    CONFIGURATION = "the configuration"
    CARD = "the SIM card"
    HOME = "the home network's DNS"
    ACCESS = "the access network's DHCP"


def p_cscf_uri(text: str, transport: Transport) -> SipUri:
    """Return what RFC 3263 resolves for an address or a name, with a port or without; a SIP URI is taken too.

    ``ValueError`` if it is none of these.
    """
    name = text.strip()
    if not name.lower().startswith(("sip:", "sips:")):
        try:
            literal = ip_address(name)  # IPv6 needs brackets only where a port follows
        except ValueError:
            _check(name, text)
        else:
            name = f"[{literal}]" if literal.version == 6 else str(literal)
        name = f"{'sips' if transport == 'TLS' else 'sip'}:{name}"
    try:
        uri = parse_uri(name)
    except SipParseError as error:
        raise ValueError(f"the P-CSCF {text!r} is no address: {error.what}") from None
    assert isinstance(uri, SipUri)
    return uri


def searches(
    configured: Sequence[str], card: Sequence[str], domain: str, transport: Transport
) -> list[tuple[Source, tuple[SipUri, ...]]]:
    """Return what to resolve, in this order; ``domain`` is the home network's.

    ``ValueError`` for a configured name that cannot be read.  One of the card is passed over: the user can do nothing
    about it.
    """
    if configured:
        return [(Source.CONFIGURATION, tuple(p_cscf_uri(text, transport) for text in configured))]
    named = readable(card, transport)
    first = [(Source.CARD, named)] if named else []
    return [*first, (Source.HOME, (p_cscf_uri(domain, transport),))]


def fitting(targets: Iterable[Target], local: Address) -> tuple[Target, ...]:
    """Return the targets that ``local`` can reach, of its IP version, each once."""
    version = ip_address(local[0]).version
    return tuple(dict.fromkeys(each for each in targets if ip_address(each.address[0]).version == version))


def literal(uri: SipUri, transport: Transport) -> Target | None:
    """Return the target that an IP address means without a look-up; ``None`` for a name."""
    host = uri.host.strip("[]")
    try:
        address = str(ip_address(host))
    except ValueError:
        return None
    return Target(transport, (address, uri.port or DEFAULT_PORTS[transport]))


def readable(texts: Sequence[str], transport: Transport) -> tuple[SipUri, ...]:
    """Return what can be read of names that others chose, for `Source.CARD` and `Source.ACCESS`."""
    found = []
    for text in texts:
        try:
            found.append(p_cscf_uri(text, transport))
        except ValueError:
            continue
    return tuple(found)


def _check(name: str, text: str) -> None:
    try:
        parse_host_port(name, "P-CSCF")
    except SipParseError as error:
        raise ValueError(f"the P-CSCF {text!r} is no address: {error.what}") from None
