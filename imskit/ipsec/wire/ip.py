"""IPv4 and IPv6 packets as ESP needs them: addresses, ports, checksums, TCP's segment size (RFC 791, 8200, 9293).

Packets are ``bytes``.  A packet's **selector** is source address, destination address, source port and destination
port, in network order and one after the other: 12 octets for IPv4, 36 for IPv6.  Without options they stand in the
packet just so, which makes the look-up of an association one slice and one dictionary access.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from imskit.ipsec.errors import PacketRefused, Refusal

IPV4, TCP, UDP, IPV6, ESP, NO_NEXT_HEADER = 4, 6, 17, 41, 50, 59
IPV4_HEADER_BYTES, IPV6_HEADER_BYTES = 20, 40

_PROTOCOLS = (UDP, TCP)
_EXTENSIONS = (0, 43, 60)  # hop-by-hop options, routing, destination options
_MOST_EXTENSIONS = 4
_CHECKSUM_OFFSET = {UDP: 6, TCP: 16}
_SHORTEST = {UDP: 8, TCP: 20}
_SYN = 0x02


class Datagram(NamedTuple):
    """What is needed of a whole packet that carries UDP or TCP."""

    version: int
    traffic_class: int
    """DSCP and ECN, one octet."""
    hop_limit: int
    selector: bytes
    protocol: int
    """UDP or TCP."""
    payload: bytes
    """The packet behind the IP header."""


def parse(packet: bytes) -> Datagram:
    """Read a packet that carries UDP or TCP, without fragmentation; ``PacketRefused`` otherwise."""
    size = len(packet)
    if size < IPV4_HEADER_BYTES + 8:
        raise _malformed(f"a packet of {size} octets", "RFC 791 3.1")
    version = packet[0] >> 4
    if version == 4:
        header = (packet[0] & 15) * 4
        total = packet[2] << 8 | packet[3]
        if header < IPV4_HEADER_BYTES or not header + 8 <= total <= size:
            raise _malformed("IPv4 lengths that do not fit the packet", "RFC 791 3.1")
        if packet[6] & 0x3F or packet[7]:
            raise _malformed("a fragment, which transport mode does not protect", "RFC 4303 3.3.4")
        protocol = packet[9]
        payload = packet[header:total]
        _check_transport(protocol, payload)
        return Datagram(4, packet[1], packet[8], packet[12:20] + payload[:4], protocol, payload)
    if version == 6:
        total = IPV6_HEADER_BYTES + (packet[4] << 8 | packet[5])
        if not IPV6_HEADER_BYTES + 8 <= total <= size:
            raise _malformed("an IPv6 length that does not fit the packet", "RFC 8200 3")
        protocol, payload = packet[6], packet[IPV6_HEADER_BYTES:total]
        if protocol not in _PROTOCOLS:
            protocol, offset = skip_extensions(protocol, payload)
            payload = payload[offset:]
        _check_transport(protocol, payload)
        traffic_class = (packet[0] << 4 | packet[1] >> 4) & 0xFF
        return Datagram(6, traffic_class, packet[7], packet[8:40] + payload[:4], protocol, payload)
    raise _malformed(f"a packet of IP version {version}", "RFC 791, RFC 8200")


def skip_extensions(next_header: int, payload: bytes) -> tuple[int, int]:
    """Walk over at most four IPv6 extension headers; return the protocol behind them and its offset."""
    offset = 0
    for _ in range(_MOST_EXTENSIONS):
        if next_header not in _EXTENSIONS:
            break
        if offset + 8 > len(payload):
            raise _malformed("an IPv6 extension header that is cut off", "RFC 8200 4")
        next_header, offset = payload[offset], offset + 8 + 8 * payload[offset + 1]
    return next_header, min(offset, len(payload))


def _check_transport(protocol: int, payload: bytes) -> None:
    if protocol not in _PROTOCOLS:
        raise PacketRefused(Refusal.BAD_SELECTOR, f"IP protocol {protocol}, not UDP or TCP", "TS 33.203 7.1")
    if len(payload) < _SHORTEST[protocol]:
        raise _malformed("a UDP or TCP header that is cut off", "RFC 768, RFC 9293 3.1")


def ipv4_packet(addresses: bytes, traffic_class: int, hop_limit: int, protocol: int, payload: bytes) -> bytes:
    """Put an IPv4 header without options before ``payload``; ``addresses`` are source and destination, 8 octets."""
    size = IPV4_HEADER_BYTES + len(payload)
    start = bytes((0x45, traffic_class, size >> 8, size & 255, 0, 0, 0x40, 0, hop_limit, protocol))
    checksum = internet_checksum(start + addresses)
    return b"".join((start, checksum.to_bytes(2), addresses, payload))


def ipv6_packet(addresses: bytes, traffic_class: int, hop_limit: int, protocol: int, payload: bytes) -> bytes:
    """Put an IPv6 header before ``payload``; ``addresses`` are source and destination, 32 octets."""
    size = len(payload)
    start = bytes((
        0x60 | traffic_class >> 4, (traffic_class & 15) << 4, 0, 0, size >> 8, size & 255, protocol, hop_limit
    ))  # fmt: skip
    return b"".join((start, addresses, payload))


def packed(ip: str) -> bytes:
    """Return an address as 4 or 16 octets."""
    return ipaddress.ip_address(ip).packed


def internet_checksum(data: bytes) -> int:
    """The checksum of RFC 1071, in linear time: 16-bit words added are a number's remainder modulo 65535."""
    if len(data) & 1:
        data += b"\0"
    # A sum of words that are not all zero is never 0 in one's complement arithmetic, hence the "or".
    total = int.from_bytes(data) % 0xFFFF
    return 0xFFFF - (total or (0xFFFF if any(data) else 0))


def replace_addresses(protocol: int, payload: bytes, old: bytes, new: bytes) -> bytes:
    """Return UDP or TCP ``payload`` with its checksum mended for other IP addresses (RFC 1624)."""
    offset = _CHECKSUM_OFFSET[protocol]
    checksum = payload[offset] << 8 | payload[offset + 1]
    if old == new or (protocol == UDP and checksum == 0):
        return payload
    checksum = _mended(checksum, old, new)
    if protocol == UDP and checksum == 0:
        checksum = 0xFFFF
    return b"".join((payload[:offset], checksum.to_bytes(2), payload[offset + 2 :]))


def _mended(checksum: int, old: bytes, new: bytes) -> int:
    # RFC 1624 equation 3: HC' = ~(~HC + ~m + m'), for words of even offset.
    change = (int.from_bytes(new) - int.from_bytes(old)) % 0xFFFF
    total = (0xFFFF - checksum + change) % 0xFFFF
    return 0xFFFF - total if total else 0


def clamp_segment_size(segment: bytes, limit: int) -> bytes:
    """Return the TCP ``segment``, a SYN's maximum segment size lowered to ``limit`` octets (RFC 9293 3.7.1)."""
    if not segment[13] & _SYN:
        return segment
    end = min((segment[12] >> 4) * 4, len(segment))
    position = 20
    while position < end:
        kind = segment[position]
        if kind == 0:
            break
        if kind == 1:
            position += 1
            continue
        length = segment[position + 1] if position + 1 < end else 0
        if length < 2 or position + length > end:
            break
        if kind == 2 and length == 4:
            return _lowered(segment, position + 2, limit)
        position += length
    return segment


def _lowered(segment: bytes, position: int, limit: int) -> bytes:
    if (segment[position] << 8 | segment[position + 1]) <= limit:
        return segment
    changed = bytearray(segment)
    changed[position : position + 2] = limit.to_bytes(2)
    # An option may begin at an odd octet: take the words that hold it.
    first, last = position & ~1, (position + 3) & ~1
    checksum = _mended(segment[16] << 8 | segment[17], segment[first:last], bytes(changed[first:last]))
    changed[16:18] = checksum.to_bytes(2)
    return bytes(changed)


def _malformed(what: str, clause: str) -> PacketRefused:
    return PacketRefused(Refusal.MALFORMED, what, clause)
