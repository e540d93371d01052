"""How the sockets of SIP are made: bound to an address, to an interface, with a DSCP."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from imskit.sip.wire.flow import Address


@dataclass(frozen=True, slots=True)
class Binding:
    """What a socket is bound to beside its address."""

    interface: str | None = None
    """Interface that alone carries its packets (SO_BINDTODEVICE); ``None``: whatever routing says."""
    dscp: int = 0
    """Differentiated services code point of its packets, 0 to 63 (RFC 2474)."""


def bound_socket(kind: socket.SocketKind, address: Address, binding: Binding) -> socket.socket:
    """Return a non-blocking socket bound to ``address`` (an IP address; port 0 takes a free one).

    A stream's port may be one that a closed connection still blocks.  ``OSError`` if the address or port cannot be
    had, or if there is no such interface.
    """
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, kind)
    try:
        made.setblocking(False)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if binding.interface is not None:
            try:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, binding.interface.encode() + b"\0")
            except OSError as error:
                raise OSError(error.errno, f"interface {binding.interface}: {error.strerror}") from error
        if binding.dscp:
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, binding.dscp << 2)
            else:
                made.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, binding.dscp << 2)
        made.bind((host, port))
    except BaseException:
        made.close()
        raise
    return made
