"""The few routing messages that the device of protected sockets needs (linux/rtnetlink.h, linux/fib_rules.h).

They are written instead of ``ip`` being run because the agent's machine need not have it, and instead of a library
because so few messages do not make up for one.
"""

from __future__ import annotations

import ipaddress
import struct
import sys
from collections.abc import Iterator

IPV4, IPV6 = 2, 10
"""Address families."""

_SETLINK, _NEWADDRESS, _NEWROUTE, _NEWRULE, _DELRULE, _GETRULE = 19, 20, 24, 32, 33, 34
_REQUEST_ACK, _REQUEST_DUMP, _CREATE_EXCL = 0x005, 0x301, 0x600
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ROUTE = struct.Struct("=8BI")

_IFLA_ADDRESS, _IFLA_MTU, _IFLA_AF_SPEC, _IFLA_INET_CONF, _IFLA_INET6_ADDR_GEN_MODE = 1, 4, 26, 1, 8
_RP_FILTER, _LOOSE = 8, 2
_ACCEPT_LOCAL, _ROUTE_LOCALNET, _DROP_UNICAST_IN_L2_MULTICAST = 23, 26, 30
_ADDR_GEN_NONE = 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_OIF, _RTA_TABLE = 4, 15
_FRA_SOURCE, _FRA_PRIORITY, _FRA_TABLE, _FRA_OIFNAME, _FRA_IP_PROTOCOL, _FRA_SOURCE_PORTS = 2, 6, 15, 17, 22, 23
_PROTOCOL_STATIC, _SCOPE_LINK, _SCOPE_HOST, _TYPE_UNICAST, _ACTION_TO_TABLE = 4, 253, 254, 1, 1
_NATIVE = sys.byteorder
_IFF_UP, _IFF_NOARP = 0x01, 0x80


def prepare_link(index: int, mtu: int, hardware_address: bytes) -> bytes:
    """Set MTU and hardware address, and what the link accepts of IPv4, which is what our own process made.

    Packets from addresses that are routed elsewhere (a loose reverse path filter), or are this machine's own or of
    127.0.0.0/8 (both ends on one machine), and packets in a broadcast frame.
    """
    conf = _attribute(
        _IFLA_INET_CONF,
        _number(_RP_FILTER, _LOOSE)
        + _number(_ACCEPT_LOCAL, 1)
        + _number(_ROUTE_LOCALNET, 1)
        + _number(_DROP_UNICAST_IN_L2_MULTICAST, 0),
    )
    body = _LINK.pack(0, 0, index, 0, 0) + _number(_IFLA_MTU, mtu) + _attribute(_IFLA_ADDRESS, hardware_address)
    return _message(_SETLINK, 0, body + _attribute(_IFLA_AF_SPEC, _attribute(IPV4, conf)))


def dummy_address(index: int) -> bytes:
    """Give the link the IPv4 dummy address 192.0.0.8 (RFC 7600), which is never a packet's source by itself.

    The reverse path filter drops all that comes from a link without any address.
    """
    address = bytes((192, 0, 0, 8))
    body = struct.pack("=BBBBi", IPV4, 32, 0, _SCOPE_HOST, index)
    return _message(
        _NEWADDRESS, _CREATE_EXCL, body + _attribute(_IFA_LOCAL, address) + _attribute(_IFA_ADDRESS, address)
    )


def no_link_local(index: int) -> bytes:
    """Give the link no IPv6 link-local address, so that the kernel sends no solicitations on it."""
    mode = _attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes((_ADDR_GEN_NONE,)))
    return _message(_SETLINK, 0, _LINK.pack(0, 0, index, 0, 0) + _attribute(_IFLA_AF_SPEC, _attribute(IPV6, mode)))


def link_up(index: int) -> bytes:
    """Switch the link on, without ARP and neighbour discovery."""
    flags = _IFF_UP | _IFF_NOARP
    return _message(_SETLINK, 0, _LINK.pack(0, 0, index, flags, flags))


def default_route(family: int, index: int, table: int) -> bytes:
    """Route everything in ``table`` to the link."""
    body = _ROUTE.pack(family, 0, 0, 0, 0, _PROTOCOL_STATIC, _SCOPE_LINK, _TYPE_UNICAST, 0)
    return _message(_NEWROUTE, _CREATE_EXCL, body + _number(_RTA_OIF, index) + _number(_RTA_TABLE, table))


def device_rule(family: int, device: str, table: int, priority: int, *, add: bool) -> bytes:
    """Let what is sent by sockets that are bound to ``device`` look into ``table``."""
    body = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, _ACTION_TO_TABLE, 0)
    return _rule(body + _attribute(_FRA_OIFNAME, device.encode() + b"\0"), table, priority, add)


def port_rule(protocol: int, ip: str, port: int, table: int, priority: int, *, add: bool) -> bytes:
    """Let everything from a local address and port (UDP 17, TCP 6) look into ``table``, whoever sends it."""
    address = ipaddress.ip_address(ip)
    family = IPV4 if address.version == 4 else IPV6
    body = _ROUTE.pack(family, 0, address.max_prefixlen, 0, 0, 0, 0, _ACTION_TO_TABLE, 0)
    body += _attribute(_FRA_SOURCE, address.packed) + _attribute(_FRA_IP_PROTOCOL, bytes((protocol,)))
    return _rule(body + _attribute(_FRA_SOURCE_PORTS, struct.pack("=HH", port, port)), table, priority, add)


def dump_rules(family: int) -> bytes:
    """Ask for all routing rules of a family."""
    return _HEADER.pack(_HEADER.size + _ROUTE.size, _GETRULE, _REQUEST_DUMP, 1, 0) + _ROUTE.pack(family, *[0] * 8)


def read_rules(answer: bytes) -> tuple[list[tuple[int, int, bytes]], bool]:
    """Read a datagram of a dump: priority, table and, as a message, the deletion of each rule; and if it is the last.

    Only the kernel writes to this socket; what does not fit is left out.
    """
    rules: list[tuple[int, int, bytes]] = []
    for kind, body in _messages(answer):
        if kind in (_DONE, _ERROR):
            return rules, True
        if kind == _NEWRULE and len(body) >= _ROUTE.size:
            values = dict(_attributes(body[_ROUTE.size :]))
            priority, table = (int.from_bytes(values.get(name, b""), _NATIVE) for name in (_FRA_PRIORITY, _FRA_TABLE))
            rules.append((priority, table, _message(_DELRULE, 0, body)))
    return rules, False


def error_number(answer: bytes) -> int:
    """Return the errno in the kernel's acknowledgement, 0 for success."""
    length, kind, *_ = _HEADER.unpack_from(answer)
    if kind != _ERROR or length < _HEADER.size + 4:
        return 0
    number: int = struct.unpack_from("=i", answer, _HEADER.size)[0]
    return -number


def _rule(body: bytes, table: int, priority: int, add: bool) -> bytes:
    body += _number(_FRA_TABLE, table) + _number(_FRA_PRIORITY, priority)
    return _message(_NEWRULE if add else _DELRULE, _CREATE_EXCL if add else 0, body)


def _messages(answer: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(answer):
        length, kind, *_ = _HEADER.unpack_from(answer, offset)
        if length < _HEADER.size:
            return
        yield kind, answer[offset + _HEADER.size : offset + length]
        offset += length + -length % 4


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if length < 4:
            return
        yield kind, body[offset + 4 : offset + length]
        offset += length + -length % 4


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST_ACK | flags, 1, 0) + body
