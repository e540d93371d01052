"""A device that protected sockets use and nothing else, with this process at its other end.

The device has no address of the machine.  A routing rule sends what is bound to it (``SO_BINDTODEVICE``) into a table
of its own, where everything leads to the device; all other traffic of the machine is routed as before.

Three things keep the kernel from answering a protected packet in clear, where no socket takes it:

- For each protected port a second rule sends what comes from it to the device, whoever sends it: a TCP reset, for
  instance, which belongs to no socket any more.
- The kernel would tell the sender of a UDP packet "port unreachable", and quote the packet.  It never does so for
  packets in a broadcast frame (RFC 1122 3.2.2), so UDP is delivered in such frames.  That is why the device is a TAP
  with Ethernet frames, not a TUN.  (TCP must come in frames to the device's own address.)
- There are no frames of ARP and neighbour discovery.

Device and table go with the file descriptor, also when the process dies.  Rules that a dead process left lead to an
empty table, and are removed by the next device that is made.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import platform
import re
import socket
import struct
from pathlib import Path

from imskit.ipsec.errors import IpsecError
from imskit.ipsec.wire import ip, rtnetlink

_log = logging.getLogger(__name__)

MTU = 9000
"""Whole datagrams come through it: ESP in transport mode protects no fragments; the kernel cuts up the ESP packet."""

_CLONE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_RULE_PRIORITY = 90
_TABLE_BASE, _TABLE_MASK = 0x4550_0000, 0xFFF0_0000
_CAPABILITY = "Give the program the capability CAP_NET_ADMIN (and CAP_NET_RAW), or run it as root."

_HARDWARE_ADDRESS = bytes.fromhex("020000000001")
_FRAME_HEADER_BYTES = 14
_LONGEST = MTU + _FRAME_HEADER_BYTES
_BROADCAST = b"\xff" * 6
_ETHERTYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}
_FRAME_HEADERS = {
    (version, protocol): (_BROADCAST if protocol == ip.UDP else _HARDWARE_ADDRESS) + bytes(6) + ethertype
    for version, ethertype in _ETHERTYPES.items()
    for protocol in (ip.UDP, ip.TCP)
}


class ProtectedDevice:
    """An open device, up and routed; ``name`` may hold ``%d`` for the first free number.

    Raises ``IpsecError`` where the machine does not allow it; nothing is left behind then.
    """

    def __init__(self, name: str) -> None:
        with contextlib.ExitStack() as undo:
            self._netlink = undo.enter_context(_Netlink())
            self.fd = _open()
            undo.callback(os.close, self.fd)
            self.name = self._make(name)
            self._table = _TABLE_BASE + socket.if_nametoindex(self.name)
            self._has_ports = _kernel_version() >= (4, 17)
            self._route()
            undo.pop_all()

    def _make(self, name: str) -> str:
        request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI)
        try:
            answer = fcntl.ioctl(self.fd, _TUNSETIFF, request)
        except OSError as error:
            cure = (
                "Another program has a device of this name; choose another name."
                if error.errno == errno.EBUSY
                else _CAPABILITY
            )
            raise IpsecError(f"cannot make the device {name} for ESP", error.strerror or "", cure) from error
        return answer[:16].rstrip(b"\0").decode()

    def _route(self) -> None:
        index = self._table - _TABLE_BASE
        netlink = self._netlink
        netlink.ask(rtnetlink.prepare_link(index, MTU, _HARDWARE_ADDRESS))
        netlink.ask(rtnetlink.dummy_address(index))
        has_ipv6 = netlink.ask(rtnetlink.no_link_local(index), errno.EAFNOSUPPORT) == 0
        self._take_broadcast_frames()
        netlink.ask(rtnetlink.link_up(index))
        self._families = (rtnetlink.IPV4, rtnetlink.IPV6) if has_ipv6 else (rtnetlink.IPV4,)
        for family in self._families:
            # EACCES and EOPNOTSUPP: IPv6 is switched off on this machine (disable_ipv6).
            ignored = (errno.EACCES, errno.EOPNOTSUPP) if family == rtnetlink.IPV6 else ()
            netlink.ask(rtnetlink.default_route(family, index, self._table), *ignored)
            self._delete_stale_rules(family)
            netlink.ask(rtnetlink.device_rule(family, self.name, self._table, _RULE_PRIORITY, add=True))

    def _take_broadcast_frames(self) -> None:
        """See that no hardening of this machine drops what comes in a broadcast frame."""
        for setting in (
            Path("/proc/sys/net/ipv4/conf/all/drop_unicast_in_l2_multicast"),
            Path(f"/proc/sys/net/ipv6/conf/{self.name}/drop_unicast_in_l2_multicast"),
        ):
            with contextlib.suppress(OSError):
                if setting.read_text().strip() != "1":
                    continue
                if "/all/" not in str(setting):
                    setting.write_text("0")
                    continue
                raise IpsecError("this machine drops what ESP delivers", f"{setting} is 1", f"Write 0 into {setting}.")

    def _delete_stale_rules(self, family: int) -> None:
        for priority, table, deletion in self._netlink.rules(family):
            if priority == _RULE_PRIORITY and table & _TABLE_MASK == _TABLE_BASE and not _is_live(table):
                _log.info("IPsec: removing a routing rule that an earlier process left")
                self._netlink.ask(deletion, errno.ENOENT)

    def claim_port(self, local_ip: str, port: int) -> None:
        """Send all that comes from a local address and port to the device."""
        if not self._has_ports:
            return
        for protocol in (ip.UDP, ip.TCP):
            self._netlink.ask(
                rtnetlink.port_rule(protocol, local_ip, port, self._table, _RULE_PRIORITY, add=True), errno.EEXIST
            )

    def release_port(self, local_ip: str, port: int) -> None:
        """Undo ``claim_port``."""
        if not self._has_ports:
            return
        for protocol in (ip.UDP, ip.TCP):
            self._netlink.ask(
                rtnetlink.port_rule(protocol, local_ip, port, self._table, _RULE_PRIORITY, add=False), errno.ENOENT
            )

    def read(self) -> bytes:
        """Return the next packet that a protected socket sent; ``BlockingIOError`` if there is none."""
        return os.read(self.fd, _LONGEST)[_FRAME_HEADER_BYTES:]

    def deliver(self, packet: bytes) -> None:
        """Give a UDP or TCP packet, IPv4 or IPv6 without options, to the socket that it is for."""
        version = packet[0] >> 4
        protocol = packet[9] if version == 4 else packet[6]
        os.writev(self.fd, (_FRAME_HEADERS[version, protocol], packet))

    def close(self) -> None:
        """Remove the device and its rule; ports must have been released."""
        try:
            for family in self._families:
                self._netlink.ask(
                    rtnetlink.device_rule(family, self.name, self._table, _RULE_PRIORITY, add=False), errno.ENOENT
                )
        except (OSError, IpsecError) as error:
            _log.warning("IPsec: the routing rule of %s stays behind: %s", self.name, error)
        self._netlink.close()
        os.close(self.fd)


def _open() -> int:
    try:
        return os.open(_CLONE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        cure = (
            f"Load the kernel module tun (modprobe tun), or give the container the device {_CLONE}."
            if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO)
            else f"Let the user open {_CLONE}. {_CAPABILITY}"
        )
        raise IpsecError(f"cannot open {_CLONE} for ESP in this process", error.strerror or "", cure) from error


def _kernel_version() -> tuple[int, ...]:
    """Older kernels than 4.17 take no notice of ports in a rule, and would send them everything."""
    return tuple(map(int, re.findall(r"\d+", platform.release())[:2]))


def _is_live(table: int) -> bool:
    """Whether the device that a table belongs to is there; the kernel does not give an index out again."""
    try:
        socket.if_indextoname(table - _TABLE_BASE)
    except OSError:
        return False
    return True


class _Netlink:
    """A socket to the kernel's routing; every request is answered before ``ask`` returns."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)

    def __enter__(self) -> _Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, request: bytes, *expected: int) -> int:
        """Send a request; return 0 or one of the ``expected`` errnos, raise ``IpsecError`` for another."""
        self._socket.send(request)
        number = rtnetlink.error_number(self._socket.recv(65536))
        if number and number not in expected:
            raise IpsecError("the kernel refuses to set up a device for ESP", os.strerror(number), _CAPABILITY)
        return number

    def rules(self, family: int) -> list[tuple[int, int, bytes]]:
        """Return priority, table and deletion message of every routing rule."""
        self._socket.send(rtnetlink.dump_rules(family))
        rules: list[tuple[int, int, bytes]] = []
        last = False
        while not last:
            more, last = rtnetlink.read_rules(self._socket.recv(1 << 20))
            rules += more
        return rules

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
