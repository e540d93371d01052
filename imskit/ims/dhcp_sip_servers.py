"""The SIP servers that an access network announces: DHCP option 120 (RFC 3361), asked for by DHCPINFORM (RFC 2131)."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

SERVER_PORT, CLIENT_PORT = 67, 68
LARGEST = 1500
"""Bytes of an answer that are read."""
_HEADER = struct.Struct("!BBBBIHH4s4s4s4s16s192x4s")
"""op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, (sname, file), magic cookie."""
_COOKIE = b"\x63\x82\x53\x63"
_BOOT_REQUEST, _BOOT_REPLY, _ETHERNET = 1, 2, 1
_PAD, _END, _MESSAGE_TYPE, _PARAMETERS, _SIP_SERVERS = 0, 255, 53, 55, 120
_INFORM, _ACK = 8, 5
_NAMES, _ADDRESSES = 0, 1
_MAXIMUM_SERVERS = 16
_MAXIMUM_POINTERS = 8


class DhcpError(ValueError):
    """A DHCP message that cannot be used; says what and where."""


def build_inform(xid: int, address: IPv4Address) -> bytes:
    """Return a DHCPINFORM of the host ``address`` that asks for the SIP servers; ``xid`` names the exchange."""
    zero = bytes(4)
    header = _HEADER.pack(
        _BOOT_REQUEST, _ETHERNET, 6, 0, xid, 0, 0, address.packed, zero, zero, zero, bytes(16), _COOKIE
    )
    return header + bytes((_MESSAGE_TYPE, 1, _INFORM, _PARAMETERS, 1, _SIP_SERVERS, _END))


def parse_answer(data: bytes, xid: int) -> tuple[str, ...] | None:
    """Return the SIP servers of a DHCPACK: names, or addresses, in order of preference; empty if it names none.

    ``None`` for a message that is no DHCPACK of this exchange.  Raises `DhcpError`.
    """
    if len(data) < _HEADER.size:
        raise DhcpError(f"DHCP: {len(data)} bytes are too short (RFC 2131 section 2)")
    op, _, _, _, its_xid, *_, cookie = _HEADER.unpack_from(data)
    if op != _BOOT_REPLY or its_xid != xid:
        return None
    if cookie != _COOKIE:
        raise DhcpError("DHCP: the magic cookie is wrong (RFC 2131 section 3)")
    options = _options(data[_HEADER.size :])
    if options.get(_MESSAGE_TYPE) != bytes((_ACK,)):
        return None
    servers = options.get(_SIP_SERVERS)
    return () if servers is None else parse_sip_servers(servers)


def parse_sip_servers(value: bytes) -> tuple[str, ...]:
    """Read the value of option 120, all its instances joined (RFC 3361 section 3, RFC 3396); raises `DhcpError`."""
    if not value:
        raise DhcpError("DHCP option 120: the encoding is missing (RFC 3361 section 3)")
    encoding, rest = value[0], value[1:]
    if encoding == _ADDRESSES:
        if not rest or len(rest) % 4:
            raise DhcpError(f"DHCP option 120: {len(rest)} bytes are no IPv4 addresses (RFC 3361 section 3.2)")
        found = [str(IPv4Address(rest[at : at + 4])) for at in range(0, len(rest), 4)]
        return tuple(found[:_MAXIMUM_SERVERS])
    if encoding != _NAMES:
        raise DhcpError(f"DHCP option 120: the encoding {encoding} is unknown (RFC 3361 section 3)")
    names: list[str] = []
    at = 0
    while at < len(rest) and len(names) < _MAXIMUM_SERVERS:
        name, at = _name(rest, at)
        names.append(name)
    if not names:
        raise DhcpError("DHCP option 120: there is no name (RFC 3361 section 3.1)")
    return tuple(names)


def _options(data: bytes) -> dict[int, bytes]:
    """Return the options; several instances of one are joined (RFC 3396)."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        code = data[at]
        if code == _END:
            break
        if code == _PAD:
            at += 1
            continue
        if at + 2 > len(data) or at + 2 + data[at + 1] > len(data):
            raise DhcpError(f"DHCP option {code}: cut off (RFC 2132 section 2)")
        end = at + 2 + data[at + 1]
        found[code] = found.get(code, b"") + data[at + 2 : end]
        at = end
    return found


def _name(data: bytes, at: int) -> tuple[str, int]:
    """Read a name at ``at`` (RFC 1035 sections 3.1 and 4.1.4); return it and where the next begins."""
    labels: list[str] = []
    after: int | None = None
    pointers = total = 0
    while True:
        if at >= len(data):
            raise DhcpError("DHCP option 120: a name is cut off (RFC 3361 section 3.1)")
        length = data[at]
        if length & 0xC0 == 0xC0:
            target = int.from_bytes(data[at : at + 2]) & 0x3FFF
            pointers += 1
            if at + 2 > len(data) or target >= at or pointers > _MAXIMUM_POINTERS:
                raise DhcpError("DHCP option 120: a compressed name leads nowhere (RFC 1035 section 4.1.4)")
            after = at + 2 if after is None else after
            at = target
            continue
        if length & 0xC0:
            raise DhcpError("DHCP option 120: a label is too long (RFC 1035 section 3.1)")
        label = data[at + 1 : at + 1 + length]
        at += 1 + length
        total += 1 + length
        if len(label) != length or total > 255:
            raise DhcpError("DHCP option 120: a name is cut off or too long (RFC 1035 section 3.1)")
        if not length:
            break
        text = label.decode("ascii", "replace")
        if not text.replace("-", "").replace("_", "").isalnum() or not text.isascii():
            raise DhcpError("DHCP option 120: a label holds what no host name has (RFC 1123 section 2.1)")
        labels.append(text)
    if not labels:
        raise DhcpError("DHCP option 120: a name is empty (RFC 3361 section 3.1)")
    return ".".join(labels), at if after is None else after
