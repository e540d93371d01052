"""A link with a UE and a P-CSCF at its ends, agreements between them, and a tap on the wire.

For tests of the IPsec back ends against each other, with both ends and the attacker in one process.  Needs root, and
for the kernel's back end a kernel with ESP (``user_mode_linux``).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace

from imskit.ipsec.algorithms import LAB_PAIRS, STANDARD_PAIRS, AlgorithmPair, SaKeys, expand_keys
from imskit.ipsec.association import AssociationSet, Party, UdpEncapsulation
from imskit.ipsec.io.backend import IpsecBackend
from imskit.ipsec.io.probe import Preference, choose
from imskit.secrets import Secret
from simulators.lab.station import Station, link

PAIRS = (*STANDARD_PAIRS, *LAB_PAIRS)
UE, PCSCF = Party("", 0x1001, 0x1002, 5061, 5062), Party("", 0x2001, 0x2002, 6061, 6062)
"""SPIs and ports of the agreement; the addresses are the link's."""
TEXT = b"MESSAGE sip:nobody SIP/2.0 "
"""What is said, over and over: easily found in what passes on the wire."""

_ETH_P_ALL = 3
_ETHERNET = 14
_OUTGOING = 4
_WAIT_SECONDS = 10.0


class Tap:
    """Sees every frame of an interface, and puts frames on the wire that no IPsec of the machine touches."""

    def __init__(self, interface: str) -> None:
        """Of the namespace in whose thread it is made."""
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.bind((interface, 0))
        self._socket.setblocking(False)

    def take(self, *, sent: bool = False) -> list[bytes]:
        """The IP packets that have passed since the last call, either way, or only those that went out.

        What came in shows twice where the kernel takes it out of a tunnel: as it was on the wire, and unpacked.
        """
        packets: list[bytes] = []
        while True:
            try:
                frame, origin = self._socket.recvfrom(1 << 16)
            except BlockingIOError:
                return packets
            if origin[1] in (0x0800, 0x86DD) and (not sent or origin[2] == _OUTGOING):
                packets.append(frame[_ETHERNET:])

    def inject(self, packet: bytes, to: str) -> None:
        """Send an IP packet to the neighbour with the Ethernet address ``to``."""
        kind = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
        self._socket.send(bytes.fromhex(to.replace(":", "")) + self._socket.getsockname()[4] + kind + packet)

    def close(self) -> None:
        """See no more."""
        self._socket.close()


@dataclass(frozen=True)
class Ends:
    """The two hosts of the link."""

    ue: Station
    pcscf: Station
    tap: Tap
    """On the P-CSCF's interface ``core0``; what it injects goes to the UE's ``ims0``."""
    ue_tap: Tap
    ue_mac: str

    def sent(self) -> list[bytes]:
        """The packets that either end has put on the wire since the last call."""
        return self.ue_tap.take(sent=True) + self.tap.take(sent=True)

    def station(self, end: str) -> Station:
        """``ue`` or ``pcscf``."""
        return self.ue if end == "ue" else self.pcscf

    @staticmethod
    def ip(end: str, version: int) -> str:
        """The address of ``ue`` or ``pcscf``."""
        host = 1 if end == "ue" else 2
        return f"10.1.0.{host}" if version == 4 else f"fd00:1::{host}"


@contextlib.contextmanager
def two_ends() -> Iterator[Ends]:
    """Make the hosts and their link; they are gone when the context ends."""
    with Station("ue") as ue, Station("pcscf") as pcscf:
        link(ue, pcscf, ("ims0", "core0"))
        for end, station, interface in (("ue", ue, "ims0"), ("pcscf", pcscf, "core0")):
            station.command("ip", "addr", "add", Ends.ip(end, 4) + "/24", "dev", interface)
            station.command("ip", "addr", "add", Ends.ip(end, 6) + "/64", "dev", interface, "nodad")
        with _tapped(ue, pcscf) as ends:
            yield ends


@contextlib.contextmanager
def ends_of_a_narrow_path(mtu: int) -> Iterator[Ends]:
    """The same with a router between them, which forwards no packet longer than ``mtu`` and says so to the sender."""
    with Station("ue") as ue, Station("pcscf") as pcscf, Station("router") as router:
        router.command(
            "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"
        )
        for end, other, station, names in (
            ("ue", "pcscf", ue, ("ims0", "r0")),
            ("pcscf", "ue", pcscf, ("core0", "r1")),
        ):
            link(station, router, names)
            for version, gateway, bits in ((4, f"10.2.0.{names[1][1]}", 32), (6, f"fd00:2::{names[1][1]}", 128)):
                nodad = ["nodad"] if version == 6 else []
                own, far = Ends.ip(end, version), Ends.ip(other, version)
                station.command("ip", "addr", "add", f"{own}/{bits}", "dev", names[0], *nodad)
                router.command("ip", "addr", "add", f"{gateway}/{bits}", "dev", names[1], *nodad)
                router.command("ip", "route", "add", own, "dev", names[1], "mtu", "lock", str(mtu))
                station.command("ip", "route", "add", far, "via", gateway, "dev", names[0], "onlink", "src", own)
        with _tapped(ue, pcscf) as ends:
            yield ends


@contextlib.contextmanager
def _tapped(ue: Station, pcscf: Station) -> Iterator[Ends]:
    mac = json.loads(ue.command("ip", "-j", "link", "show", "ims0"))[0]["address"]
    tap = pcscf.call(lambda: Tap("core0"))
    ue_tap = ue.call(lambda: Tap("ims0"))
    try:
        yield Ends(ue, pcscf, tap, ue_tap, mac)
    finally:
        tap.close()
        ue_tap.close()


@dataclass
class Gm:
    """Two back ends with one agreement."""

    ends: Ends
    ue: IpsecBackend
    pcscf: IpsecBackend
    version: int

    def backend(self, end: str) -> IpsecBackend:
        """That of ``ue`` or ``pcscf``."""
        return self.ue if end == "ue" else self.pcscf

    def udp(self, end: str, port: int) -> socket.socket:
        """A socket at a protected port."""
        return self._made(end, socket.SOCK_DGRAM, port)

    def tcp(self, end: str, port: int) -> socket.socket:
        """A socket at a protected port, neither connected nor listening."""
        return self._made(end, socket.SOCK_STREAM, port)

    def _made(self, end: str, kind: socket.SocketKind, port: int) -> socket.socket:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET if self.version == 4 else socket.AF_INET6, kind)
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if (device := self.backend(end).device) is not None:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            made.bind(self.address(end, port))
            return made

        return self.ends.station(end).call(make)

    def address(self, end: str, port: int) -> tuple[str, int]:
        """For ``connect`` and ``sendto``."""
        return self.ends.ip(end, self.version), port

    async def install(self, name: str, pair: AlgorithmPair, ue: Party, pcscf: Party, **more: UdpEncapsulation) -> None:
        """Make an agreement at both ends, with new keys; the parties' addresses are filled in."""
        ue, pcscf = (
            replace(party, ip=self.ends.ip(end, self.version)) for end, party in (("ue", ue), ("pcscf", pcscf))
        )
        keys = new_keys(pair)
        for end, ours, theirs in (("ue", ue, pcscf), ("pcscf", pcscf, ue)):
            associations = AssociationSet.between(name, ours, theirs, pair, keys, **more)
            await self.ends.station(end).run(self.backend(end).install(associations))

    async def remove(self, name: str) -> None:
        """End an agreement at both ends."""
        for end in ("ue", "pcscf"):
            await self.ends.station(end).run(self.backend(end).remove(name))

    async def udp_echo(
        self, from_end: str, from_port: int, to_end: str, to_port: int, size: int, within: float = _WAIT_SECONDS
    ) -> None:
        """Send a datagram and have it come back in reverse; ``AssertionError`` or ``TimeoutError`` if not."""
        loop = asyncio.get_running_loop()
        text = _text(size)
        with self.udp(from_end, from_port) as here, self.udp(to_end, to_port) as there:
            async with asyncio.timeout(within):
                await loop.sock_sendto(here, text, self.address(to_end, to_port))
                heard, origin = await loop.sock_recvfrom(there, 65535)
                assert (heard, origin[:2]) == (text, self.address(from_end, from_port))
                await loop.sock_sendto(there, text[::-1], origin)
                heard, origin = await loop.sock_recvfrom(here, 65535)
                assert (heard, origin[:2]) == (text[::-1], self.address(to_end, to_port))

    async def tcp_echo(self, from_end: str, from_port: int, to_end: str, to_port: int, size: int) -> None:
        """Open a connection and send a text each way; ``AssertionError`` or ``TimeoutError`` if it does not arrive."""
        loop = asyncio.get_running_loop()
        text = _text(size)
        with self.tcp(to_end, to_port) as listener, self.tcp(from_end, from_port) as here:
            listener.listen(1)
            async with asyncio.timeout(_WAIT_SECONDS), asyncio.TaskGroup() as tasks:
                accepted = tasks.create_task(loop.sock_accept(listener))
                await loop.sock_connect(here, self.address(to_end, to_port))
                there, origin = await accepted
                assert origin[:2] == self.address(from_end, from_port)
                with there:
                    # Closed without TIME_WAIT, so that the next connection has the port again.
                    for one in (here, there):
                        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    for source, sink in ((here, there), (there, here)):
                        sending = tasks.create_task(loop.sock_sendall(source, text))
                        assert await _read(sink, size) == text
                        await sending


async def _read(connection: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        piece = await asyncio.get_running_loop().sock_recv(connection, 65536)
        assert piece, "the connection ended early"
        read += piece
    return read


def _text(size: int) -> bytes:
    return (TEXT * (size // len(TEXT) + 1))[:size]


def new_keys(pair: AlgorithmPair) -> SaKeys:
    """Keys of a CK and an IK that nobody had before."""
    return expand_keys(pair, Secret(os.urandom(16)), Secret(os.urandom(16)))


@contextlib.asynccontextmanager
async def agreement(
    ends: Ends,
    kinds: tuple[Preference, Preference],
    version: int,
    pair: AlgorithmPair,
    encapsulation: UdpEncapsulation | None = None,
) -> AsyncIterator[Gm]:
    """Open a back end of each kind, the UE's first, with the agreement ``first`` between them; the taps are empty."""
    backends: list[IpsecBackend] = []
    stations = (ends.ue, ends.pcscf)
    try:
        for kind, station in zip(kinds, stations, strict=True):
            backends.append((await station.run(choose(kind, pairs=PAIRS))).backend)
        gm = Gm(ends, backends[0], backends[1], version)
        more = {} if encapsulation is None else {"encapsulation": encapsulation}
        await gm.install("first", pair, UE, PCSCF, **more)
        ends.sent()
        yield gm
    finally:
        for station, backend in zip(stations, backends, strict=False):
            await station.run(backend.close())
