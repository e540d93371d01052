"""ESP in this process, for kernels that have none: a device for the sockets, raw sockets for the network.

::

    protected socket  --SO_BINDTODEVICE-->  TAP  -->  Database  -->  raw socket (IP protocol 50), or UDP port 4500
                      <-------------------  TAP  <--  Database  <--

Protected sockets are bound to the device.  So what they send reaches the network as ESP or not at all, and a clear
packet that comes from the network to a protected port finds no socket there: the kernel answers it as it does any
packet to a port where nothing listens, and counts it itself (``clear`` is ``None`` here).  What is never answered in
clear is a protected packet (``device.py``).

The kernel makes the IP headers of ESP packets and cuts up and joins those that are longer than the path's MTU.  DSCP
and ECN of the packet inside are those of the ESP packet, both ways.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from abc import ABC, abstractmethod
from collections import Counter
from typing import Literal

from imskit.ipsec.association import AssociationSet
from imskit.ipsec.engine.database import Database, Path, Protected
from imskit.ipsec.errors import IpsecError
from imskit.ipsec.io.device import ProtectedDevice
from imskit.ipsec.statistics import BackendStatistics
from imskit.ipsec.wire import ip

_log = logging.getLogger(__name__)

_BATCH = 64
"""Packets taken from a socket before the event loop's other work has its turn."""
_LONGEST = 65535
_BUFFER_BYTES = 1 << 20
_IP_MTU, _IPV6_MTU = 14, 24
_IPV6_RECVERR = 25
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _DISCOVERY_OFF = 10, 23, 0
_SAFE_MTU = 1280


class UserspaceBackend:
    """An ``IpsecBackend`` without the kernel's ESP.  It needs ``/dev/net/tun``, CAP_NET_ADMIN and CAP_NET_RAW."""

    kind: Literal["kernel", "userspace"] = "userspace"

    def __init__(self, device: ProtectedDevice, interface: str | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._device = device
        self._interface = interface
        self._database = Database(os.urandom)
        self._channels: dict[tuple[str, int], _Channel] = {}
        self._users: dict[str, tuple[tuple[str, int], AssociationSet]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._ports: Counter[tuple[str, int]] = Counter()
        self._loop.add_reader(device.fd, self._from_sockets)

    @classmethod
    async def open(cls, *, device: str = "gm%d", interface: str | None = None) -> UserspaceBackend:
        """Make the device (``%d``: the first free number) and start.

        ESP leaves and enters by ``interface`` alone, where one is given.  ``IpsecError`` says what is missing.
        """
        made = ProtectedDevice(device)
        _log.info("IPsec: ESP in this process, by the device %s", made.name)
        return cls(made, interface)

    @property
    def device(self) -> str | None:
        """The device."""
        return self._device.name

    async def install(self, associations: AssociationSet) -> None:
        """See ``IpsecBackend``."""
        if self._closed:
            raise IpsecError("the IPsec back end is closed", cure="Open another.")
        first = associations.outbound[0]
        local = (first.source.ip, first.encapsulation.source_port if first.encapsulation else 0)
        opened = local not in self._channels
        channel = self._open_channel(*local) if opened else self._channels[local]
        try:
            mtu = self._path_mtu(first.source.ip, first.destination.ip)
            self._database.install(associations, self._loop.time(), mtu)
            try:
                self._claim_ports(associations)
            except BaseException:
                self._database.remove(associations.name)
                raise
        except BaseException:
            if opened:
                channel.close()
            raise
        if opened:
            self._channels[local] = channel
            self._loop.add_reader(channel.socket, self._from_network, channel)
        self._users[associations.name] = local, associations
        self._set_timer()
        _log.info(
            "IPsec: set %s installed: %s, %s to %s%s",
            associations.name,
            first.pair,
            first.source.ip,
            first.destination.ip,
            " in UDP" if first.encapsulation else "",
        )

    async def remove(self, name: str) -> None:
        """See ``IpsecBackend``."""
        if self._database.remove(name) is None:
            return
        local, associations = self._users.pop(name)
        self._release_ports([(each.source.ip, each.source.port) for each in associations.outbound])
        if all(local != other for other, _ in self._users.values()):
            channel = self._channels.pop(local)
            self._loop.remove_reader(channel.socket)
            channel.close()
        self._set_timer()
        _log.info("IPsec: set %s removed", name)

    def statistics(self) -> BackendStatistics:
        """See ``IpsecBackend``."""
        return self._database.statistics()

    async def close(self) -> None:
        """See ``IpsecBackend``: the device goes, and with it every way out of the protected sockets."""
        if self._closed:
            return
        self._closed = True
        for name in self._database.names:
            await self.remove(name)
        self._loop.remove_reader(self._device.fd)
        self._device.close()

    def _claim_ports(self, associations: AssociationSet) -> None:
        claimed: list[tuple[str, int]] = []
        try:
            for association in associations.outbound:
                local = association.source.ip, association.source.port
                if not self._ports[local]:
                    self._device.claim_port(*local)
                self._ports[local] += 1
                claimed.append(local)
        except BaseException:
            self._release_ports(claimed)
            raise

    def _release_ports(self, claimed: list[tuple[str, int]]) -> None:
        for local in claimed:
            self._ports[local] -= 1
            if not self._ports[local]:
                del self._ports[local]
                try:
                    self._device.release_port(*local)
                except (IpsecError, OSError) as error:
                    _log.warning("IPsec: the routing rule of a protected port stays behind: %s", error)

    def _from_sockets(self) -> None:
        read, protect, send, now = self._device.read, self._database.protect, self._send, self._loop.time()
        for _ in range(_BATCH):
            try:
                packet = read()
            except (BlockingIOError, InterruptedError):
                return
            if protected := protect(packet, now):
                send(protected)

    def _from_network(self, channel: _Channel) -> None:
        receive, deliver, database = channel.receive, self._device.deliver, self._database
        for _ in range(_BATCH):
            try:
                packet = receive(database)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                # An ICMP error to something that was sent; ESP goes on, and SIP's timers judge.
                _log.debug("IPsec: %s: %s", channel.local[0], error)
                continue
            if packet is not None:
                try:
                    deliver(packet)
                except OSError as error:
                    _log.warning("IPsec: %s takes no packet: %s", self._device.name, error)

    def _send(self, protected: Protected) -> None:
        path: Path = protected.path
        try:
            self._channels[path.local].send(path.remote, protected.traffic_class, protected.data)
        except OSError as error:
            # As on any network, what cannot be sent is lost; SIP and TCP send again.
            _log.debug("IPsec: ESP to %s is lost: %s", path.remote[0], error)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (deadline := self._database.deadline()) is not None:
            self._timer = self._loop.call_at(deadline, self._keep_alive)

    def _keep_alive(self) -> None:
        for due in self._database.keep_alives(self._loop.time()):
            self._send(due)
        self._set_timer()

    def _open_channel(self, local_ip: str, port: int) -> _Channel:
        make: type[_Channel] = _UdpChannel if port else (_Raw6Channel if ":" in local_ip else _Raw4Channel)
        try:
            return make(local_ip, port, self._interface)
        except OSError as error:
            cures = {
                errno.EPERM: "Give the program the capability CAP_NET_RAW, or run it as root.",
                errno.EADDRNOTAVAIL: f"Give an interface of this machine the address {local_ip}.",
                errno.EADDRINUSE: f"End the other program at UDP port {port} (an IKE daemon?).",
                errno.ENODEV: f"There is no interface {self._interface}; correct the configuration.",
            }
            raise IpsecError(
                f"cannot open a socket for ESP at {local_ip}", error.strerror or "", cures.get(error.errno or 0, "")
            ) from error

    def _path_mtu(self, local_ip: str, remote_ip: str) -> int:
        v6 = ":" in local_ip
        with socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                _bind(probe, local_ip, 0, self._interface)
                probe.connect((remote_ip, 9))  # sends nothing
                return (
                    probe.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
                    if v6
                    else probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)
                )
            except OSError as error:
                _log.warning("IPsec: no route to %s now: %s", remote_ip, error.strerror)
                return _SAFE_MTU


class _Channel(ABC):
    """A socket for ESP at one local address."""

    def __init__(self, local_ip: str, port: int, interface: str | None) -> None:
        self.local = (local_ip, port)
        self._v6 = ":" in local_ip
        self._traffic_class = 0
        self.socket = self._make()
        try:
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                self.socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
            # The don't-fragment bit stays off: ESP that is too long for the path is cut up, on the way too.
            if self._v6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _DISCOVERY_OFF)
            else:
                self.socket.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _DISCOVERY_OFF)
            _bind(self.socket, local_ip, port, interface)
            # Until it had its address it got a copy of what came for others: that is nobody's now.
            with contextlib.suppress(BlockingIOError):
                for _ in range(_BUFFER_BYTES):
                    self.socket.recv(1)
        except BaseException:
            self.socket.close()
            raise

    def _make(self) -> socket.socket:
        family = socket.AF_INET6 if self._v6 else socket.AF_INET
        return socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, ip.ESP)

    @abstractmethod
    def receive(self, database: Database) -> bytes | None:
        """Take one ESP packet from the socket; return what to deliver.  ``BlockingIOError``: there is none."""

    def send(self, remote: tuple[str, int], traffic_class: int, data: bytes) -> None:
        """Send one ESP packet; ``OSError`` if the system does not take it."""
        if traffic_class != self._traffic_class:
            if self._v6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, traffic_class)
            else:
                self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, traffic_class)
            self._traffic_class = traffic_class
        self.socket.sendto(data, remote)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


class _Raw4Channel(_Channel):
    """Bare ESP over IPv4: the kernel hands over the IP header, too."""

    def receive(self, database: Database) -> bytes | None:
        packet = self.socket.recv(_LONGEST)
        header = (packet[0] & 15) * 4
        return database.unprotect(packet[12:20], packet[1], packet[8], packet[header:])


class _Raw6Channel(_Channel):
    """Bare ESP over IPv6: the kernel hands over what is behind the IP header, and what we need of that beside it."""

    def __init__(self, local_ip: str, port: int, interface: str | None) -> None:
        super().__init__(local_ip, port, interface)
        self._packed = ip.packed(local_ip)
        self._room = 2 * socket.CMSG_SPACE(4)

    def _make(self) -> socket.socket:
        made = super()._make()
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        # In IPv6 the sender alone cuts up, and a router's "too big" sets the path's MTU (RFC 8201) only for a socket
        # that is connected or asks for errors.
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        return made

    def receive(self, database: Database) -> bytes | None:
        try:
            packet, beside, _, address = self.socket.recvmsg(_LONGEST, self._room)
        except OSError:
            self._forget_errors()
            raise
        traffic_class, hop_limit = 0, 64
        for _, kind, value in beside:
            if kind == socket.IPV6_TCLASS:
                traffic_class = value[0] | value[-1]  # an int of either byte order, below 256
            elif kind == socket.IPV6_HOPLIMIT:
                hop_limit = value[0] | value[-1]
        source = socket.inet_pton(socket.AF_INET6, address[0].partition("%")[0])
        return database.unprotect(source + self._packed, traffic_class, hop_limit, packet)

    def _forget_errors(self) -> None:
        """Take the errors off their queue: while one is there the event loop would call without end."""
        with contextlib.suppress(OSError):
            for _ in range(_BATCH):
                self.socket.recvmsg(0, 0, socket.MSG_ERRQUEUE)


class _UdpChannel(_Channel):
    """ESP in UDP (RFC 3948)."""

    def _make(self) -> socket.socket:
        family = socket.AF_INET6 if self._v6 else socket.AF_INET
        return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def receive(self, database: Database) -> bytes | None:
        packet, source = self.socket.recvfrom(_LONGEST)
        return database.unprotect_udp((source[0], source[1]), packet)


def _bind(bound: socket.socket, local_ip: str, port: int, interface: str | None) -> None:
    if interface is not None:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
    bound.bind((local_ip, port))
