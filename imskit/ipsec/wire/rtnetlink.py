"""The few routing messages that a TUN device needs (linux/rtnetlink.h, linux/fib_rules.h), as bytes.

They are written instead of ``ip`` being run because the agent's machine need not have it, and instead of a library
because four messages do not make up for one.
"""

from __future__ import annotations

import struct

IPV4, IPV6 = 2, 10
"""Address families."""

_SETLINK, _NEWADDRESS, _NEWROUTE, _NEWRULE, _DELRULE = 19, 20, 24, 32, 33
_REQUEST_ACK, _CREATE_EXCL = 0x005, 0x600
_ERROR = 2
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ROUTE = struct.Struct("=8BI")

_IFLA_MTU, _IFLA_AF_SPEC, _IFLA_INET_CONF, _IFLA_INET6_ADDR_GEN_MODE = 4, 26, 1, 8
_RP_FILTER, _LOOSE = 8, 2
_ADDR_GEN_NONE = 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_OIF, _RTA_TABLE = 4, 15
_FRA_PRIORITY, _FRA_TABLE, _FRA_OIFNAME = 6, 15, 17
_PROTOCOL_STATIC, _SCOPE_LINK, _SCOPE_HOST, _TYPE_UNICAST, _ACTION_TO_TABLE = 4, 253, 254, 1, 1
_IFF_UP = 1


def prepare_link(index: int, mtu: int) -> bytes:
    """Set MTU and, for IPv4, a loose reverse path filter: answers come from addresses that are routed elsewhere."""
    conf = _attribute(_IFLA_INET_CONF, _number(_RP_FILTER, _LOOSE))
    body = _LINK.pack(0, 0, index, 0, 0) + _number(_IFLA_MTU, mtu)
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
    """Switch the link on."""
    return _message(_SETLINK, 0, _LINK.pack(0, 0, index, _IFF_UP, _IFF_UP))


def default_route(family: int, index: int, table: int) -> bytes:
    """Route everything in ``table`` to the link."""
    body = _ROUTE.pack(family, 0, 0, 0, 0, _PROTOCOL_STATIC, _SCOPE_LINK, _TYPE_UNICAST, 0)
    return _message(_NEWROUTE, _CREATE_EXCL, body + _number(_RTA_OIF, index) + _number(_RTA_TABLE, table))


def add_rule(family: int, device: str, table: int, priority: int) -> bytes:
    """Let sockets that are bound to ``device``, and no others, look into ``table``."""
    body = _rule(family) + _number(_FRA_TABLE, table) + _number(_FRA_PRIORITY, priority) + _device(device)
    return _message(_NEWRULE, _CREATE_EXCL, body)


def delete_rule(family: int, device: str, priority: int) -> bytes:
    """Delete one rule of this device and priority, whatever its table."""
    return _message(_DELRULE, 0, _rule(family) + _number(_FRA_PRIORITY, priority) + _device(device))


def error_number(answer: bytes) -> int:
    """Return the errno in the kernel's acknowledgement, 0 for success."""
    length, kind, *_ = _HEADER.unpack_from(answer)
    if kind != _ERROR or length < _HEADER.size + 4:
        return 0
    number: int = struct.unpack_from("=i", answer, _HEADER.size)[0]
    return -number


def _rule(family: int) -> bytes:
    return _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, _ACTION_TO_TABLE, 0)


def _device(name: str) -> bytes:
    return _attribute(_FRA_OIFNAME, name.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST_ACK | flags, 1, 0) + body
