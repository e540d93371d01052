"""What the proxy answers by itself: the operator's STUN/TURN names, and the names that would lead round it."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address

from .message import (
    CLASS_ANY,
    CLASS_IN,
    NXDOMAIN,
    TYPE_A,
    TYPE_AAAA,
    TYPE_ANY,
    Query,
    answer,
    is_within,
    wire_name,
)

type Address = IPv4Address | IPv6Address

TTL = 10
"""Seconds that a browser may keep the device's address: it changes with the access network."""
MAXIMUM_ADDRESSES = 8
"""Addresses a name can have here."""

_POINTER_TO_QUESTION = b"\xc0\x0c"
_CANARY = wire_name("use-application-dns.net")
_RESOLVER_ARPA = wire_name("resolver.arpa")
# Negative answers carry an SOA (RFC 2308 section 3); MNAME and RNAME say that no zone file stands behind it.
_SOA_DATA = wire_name("localhost") + wire_name("nobody.invalid") + struct.pack("!IIIII", 1, 3600, 1200, 604_800, TTL)
_SOA = _POINTER_TO_QUESTION + struct.pack("!HHIH", 6, 1, TTL, len(_SOA_DATA)) + _SOA_DATA


class LocalAnswers:
    """Prebuilt records by name and type.

    ``names`` maps a host name to the device's addresses.  ``use-application-dns.net`` is answered NXDOMAIN, which
    tells Firefox not to switch to DNS over HTTPS; ``resolver.arpa`` has no records here, so that nobody is
    led to another resolver (RFC 9462 section 6.1: such queries are not forwarded).
    """

    def __init__(self, names: Mapping[str, Iterable[Address]]) -> None:
        self._names: dict[bytes, dict[int, tuple[int, bytes]]] = {}
        for text, addresses in names.items():
            unique = list(dict.fromkeys(addresses))
            if not 0 < len(unique) <= MAXIMUM_ADDRESSES:
                raise ValueError(f"{text}: {len(unique)} addresses; 1 to {MAXIMUM_ADDRESSES} are possible")
            v4 = [_record(TYPE_A, address) for address in unique if address.version == 4]
            v6 = [_record(TYPE_AAAA, address) for address in unique if address.version == 6]
            by_type: dict[int, tuple[int, bytes]] = {TYPE_ANY: (len(unique), b"".join(v4 + v6))}
            if v4:
                by_type[TYPE_A] = (len(v4), b"".join(v4))
            if v6:
                by_type[TYPE_AAAA] = (len(v6), b"".join(v6))
            self._names[wire_name(text)] = by_type
        self._names.setdefault(_CANARY, {})

    def __contains__(self, name: bytes) -> bool:
        """Tell whether queries for ``name`` (wire form, lower case) may be ours to answer: quick, ``find`` decides."""
        return name in self._names or name.endswith(_RESOLVER_ARPA)

    def find(self, data: bytes, query: Query) -> bytes | None:
        """Return the whole response to ``data``, or ``None`` when the query is not ours to answer."""
        if query.qclass != CLASS_IN and query.qclass != CLASS_ANY:
            return None
        if query.name == _CANARY:
            return answer(data, query, (0, 1), _SOA, NXDOMAIN)
        by_type = self._names.get(query.name)
        if by_type is not None:
            found = by_type.get(query.qtype)
            if found is None:
                return answer(data, query, (0, 1), _SOA)
            return answer(data, query, (found[0], 0), found[1])
        if is_within(query.name, _RESOLVER_ARPA):
            return answer(data, query, (0, 1), _SOA)
        return None


def _record(rtype: int, address: Address) -> bytes:
    return _POINTER_TO_QUESTION + struct.pack("!HHIH", rtype, 1, TTL, len(address.packed)) + address.packed
