"""A TUN device that only sockets bound to it use.

The device has no address of the machine.  A routing rule sends what is bound to it (``SO_BINDTODEVICE``) into a table
of its own, where everything leads to the device; all other traffic of the machine is routed as before.  Device and
table go with the file descriptor, also when the process dies; a rule that a dead process left matches nothing and is
replaced when the device's name is used again.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import struct

from imskit.ipsec.errors import IpsecError
from imskit.ipsec.wire import rtnetlink

_log = logging.getLogger(__name__)

MTU = 9000
"""Whole datagrams come through it: ESP in transport mode protects no fragments; the kernel cuts up the ESP packet."""

_CLONE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_RULE_PRIORITY = 90
_TABLE_BASE = 0x4550_0000
_CAPABILITY = "Give the program the capability CAP_NET_ADMIN (and CAP_NET_RAW), or run it as root."


class TunDevice:
    """An open device, up and routed; ``name`` may hold ``%d`` for the first free number.

    Raises ``IpsecError`` where the machine does not allow it; nothing is left behind then.
    """

    def __init__(self, name: str) -> None:
        try:
            self.fd = os.open(_CLONE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            cure = (
                f"Load the kernel module tun (modprobe tun), or give the container the device {_CLONE}."
                if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO)
                else f"Let the user open {_CLONE}. {_CAPABILITY}"
            )
            raise IpsecError(f"cannot open {_CLONE} for ESP in this process", error.strerror or "", cure) from error
        try:
            self.name = self._make(name)
            self._route()
        except BaseException:
            os.close(self.fd)
            raise

    def _make(self, name: str) -> str:
        request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
        try:
            answer = fcntl.ioctl(self.fd, _TUNSETIFF, request)
        except OSError as error:
            cure = (
                "Another program has a device of this name; choose another name."
                if error.errno == errno.EBUSY
                else _CAPABILITY
            )
            raise IpsecError(f"cannot make the TUN device {name}", error.strerror or "", cure) from error
        return answer[:16].rstrip(b"\0").decode()

    def _route(self) -> None:
        index = socket.if_nametoindex(self.name)
        table = _TABLE_BASE + index
        with _Netlink() as netlink:
            netlink.ask(rtnetlink.prepare_link(index, MTU))
            netlink.ask(rtnetlink.dummy_address(index))
            has_ipv6 = netlink.ask(rtnetlink.no_link_local(index), errno.EAFNOSUPPORT) == 0
            netlink.ask(rtnetlink.link_up(index))
            self._families = (rtnetlink.IPV4, rtnetlink.IPV6) if has_ipv6 else (rtnetlink.IPV4,)
            for family in self._families:
                # EACCES and EOPNOTSUPP: IPv6 is switched off on this machine (disable_ipv6).
                ignored = (errno.EACCES, errno.EOPNOTSUPP) if family == rtnetlink.IPV6 else ()
                netlink.ask(rtnetlink.default_route(family, index, table), *ignored)
                self._delete_rules(netlink, family)
                netlink.ask(rtnetlink.add_rule(family, self.name, table, _RULE_PRIORITY))

    def _delete_rules(self, netlink: _Netlink, family: int) -> None:
        request = rtnetlink.delete_rule(family, self.name, _RULE_PRIORITY)
        while netlink.ask(request, errno.ENOENT, errno.EAFNOSUPPORT) == 0:
            continue

    def close(self) -> None:
        """Remove the rules and the device."""
        try:
            with _Netlink() as netlink:
                for family in self._families:
                    self._delete_rules(netlink, family)
        except (OSError, IpsecError) as error:
            _log.warning("the routing rule of %s stays behind: %s", self.name, error)
        os.close(self.fd)


class _Netlink:
    """A socket to the kernel's routing; every request is answered before ``ask`` returns."""

    def __enter__(self) -> _Netlink:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, request: bytes, *expected: int) -> int:
        """Send a request; return 0 or one of the ``expected`` errnos, raise ``IpsecError`` for another."""
        self._socket.send(request)
        number = rtnetlink.error_number(self._socket.recv(65536))
        if number and number not in expected:
            raise IpsecError("the kernel refuses to set up a device for ESP", os.strerror(number), _CAPABILITY)
        return number
