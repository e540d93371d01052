"""Associations of Gm on a kernel with ESP: our packets against the kernel's, and the kernel's against its own.

The P-CSCF's side sees the wire: what passes is ESP and nothing else, and what an attacker puts on it is refused.
TS 33.203 7.1, annexes H and I; RFC 4301, 4303, 4106, 4543.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from imskit.ipsec.algorithms import LAB_PAIRS, STANDARD_PAIRS, AlgorithmPair, Encryption, expand_keys
from imskit.ipsec.association import AssociationSet, Party, UdpEncapsulation
from imskit.ipsec.io.backend import IpsecBackend
from imskit.ipsec.io.probe import Preference, choose
from imskit.secrets import Secret
from simulators.lab.station import Station

PAIRS = [*STANDARD_PAIRS, *LAB_PAIRS]
ENDS = ["kernel-kernel", "userspace-kernel", "kernel-userspace"]
"""Back end of the UE and of the P-CSCF."""
ESP, FRAGMENT_OF_IPV6 = 50, 44
UE, PCSCF = Party("", 0x1001, 0x1002, 5061, 5062), Party("", 0x2001, 0x2002, 6061, 6062)
CLEAR_TEXT = b"MESSAGE sip:nobody SIP/2.0 "


async def _open(kind: Preference, station: Station) -> IpsecBackend:
    return (await station.run(choose(kind, pairs=PAIRS))).backend


@dataclass
class Gm:
    """Two back ends with one agreement."""

    ue: IpsecBackend
    pcscf: IpsecBackend
    version: int
    pair: AlgorithmPair
    ends: object

    def udp(self, end: str, port: int) -> socket.socket:
        return self._made(end, socket.SOCK_DGRAM, port)

    def tcp(self, end: str, port: int) -> socket.socket:
        return self._made(end, socket.SOCK_STREAM, port)

    def _made(self, end: str, kind: socket.SocketKind, port: int) -> socket.socket:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET if self.version == 4 else socket.AF_INET6, kind)
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            device = getattr(self, end).device
            if device is not None:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            made.bind((self.ends.ip(end, self.version), port))
            return made

        return self.ends.station(end).call(make)

    def address(self, end: str, port: int) -> tuple[str, int]:
        return self.ends.ip(end, self.version), port


@contextlib.asynccontextmanager
async def agreement(
    ends, kinds: str, version: int, pair: AlgorithmPair, encapsulation: UdpEncapsulation | None = None
) -> AsyncIterator[Gm]:
    ue, pcscf = replace(UE, ip=ends.ip("ue", version)), replace(PCSCF, ip=ends.ip("pcscf", version))
    keys = expand_keys(pair, Secret(os.urandom(16)), Secret(os.urandom(16)))
    ue_kind, pcscf_kind = kinds.split("-")
    ue_end = await _open(ue_kind, ends.ue)
    pcscf_end = await _open(pcscf_kind, ends.pcscf)
    try:
        await ends.ue.run(ue_end.install(AssociationSet.between("reg", ue, pcscf, pair, keys, encapsulation)))
        await ends.pcscf.run(pcscf_end.install(AssociationSet.between("ue", pcscf, ue, pair, keys, encapsulation)))
        ends.tap.take()
        yield Gm(ue_end, pcscf_end, version, pair, ends)
    finally:
        await ends.ue.run(ue_end.close())
        await ends.pcscf.run(pcscf_end.close())


async def _udp_echo(gm: Gm, from_end: str, from_port: int, to_end: str, to_port: int, size: int) -> None:
    loop = asyncio.get_running_loop()
    with gm.udp(from_end, from_port) as here, gm.udp(to_end, to_port) as there:
        text = (CLEAR_TEXT * (size // len(CLEAR_TEXT) + 1))[:size]
        await loop.sock_sendto(here, text, gm.address(to_end, to_port))
        heard, origin = await asyncio.wait_for(loop.sock_recvfrom(there, 65535), 5)
        assert (heard, origin[:2]) == (text, gm.address(from_end, from_port))
        await loop.sock_sendto(there, text[::-1], origin)
        heard, origin = await asyncio.wait_for(loop.sock_recvfrom(here, 65535), 5)
        assert (heard, origin[:2]) == (text[::-1], gm.address(to_end, to_port))


async def _tcp_echo(gm: Gm, from_end: str, from_port: int, to_end: str, to_port: int, size: int) -> None:
    loop = asyncio.get_running_loop()
    text = (CLEAR_TEXT * (size // len(CLEAR_TEXT) + 1))[:size]

    async def read(connection: socket.socket) -> bytes:
        read = b""
        while len(read) < size:
            piece = await loop.sock_recv(connection, 65536)
            assert piece, "the connection ended early"
            read += piece
        return read

    with gm.tcp(to_end, to_port) as listener, gm.tcp(from_end, from_port) as here:
        listener.listen(1)
        async with asyncio.timeout(10):
            accepted = asyncio.create_task(loop.sock_accept(listener))
            await loop.sock_connect(here, gm.address(to_end, to_port))
            there, origin = await accepted
            assert origin[:2] == gm.address(from_end, from_port)
            with there:
                # Closed without TIME_WAIT, so that the next test has the port again.
                for one in (here, there):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sending = asyncio.create_task(loop.sock_sendall(here, text))
                assert await read(there) == text
                await sending
                sending = asyncio.create_task(loop.sock_sendall(there, text))
                assert await read(here) == text
                await sending


def _not_esp(packets: list[bytes]) -> list[bytes]:
    """The packets that are neither ESP, whole or in fragments, nor IPv6's own talk with its neighbours."""
    return [packet for packet in packets if not _is_esp(packet)]


def _is_esp(packet: bytes) -> bool:
    if packet[0] >> 4 == 4:
        return packet[9] == ESP
    protocol = packet[40] if packet[6] == FRAGMENT_OF_IPV6 else packet[6]
    return protocol in (ESP, socket.IPPROTO_ICMPV6, socket.IPPROTO_HOPOPTS)


@pytest.mark.parametrize("kinds", ENDS)
@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("pair", PAIRS, ids=str)
async def test_udp_and_tcp_both_ways(ends, pair, version, kinds) -> None:
    async with agreement(ends, kinds, version, pair) as gm:
        for size in (200, 4000):
            await _udp_echo(gm, "ue", UE.port_c, "pcscf", PCSCF.port_s, size)
            await _udp_echo(gm, "pcscf", PCSCF.port_c, "ue", UE.port_s, size)
        await _tcp_echo(gm, "ue", UE.port_c, "pcscf", PCSCF.port_s, 20_000)
        await _tcp_echo(gm, "pcscf", PCSCF.port_c, "ue", UE.port_s, 20_000)
        passed = gm.ends.tap.take()
        assert len(passed) > 20
        others = _not_esp(passed)
        if "userspace" in kinds:
            # A segment for a socket that is gone: the kernel refuses it from outside the TUN device, without a socket.
            others = [packet for packet in others if not _is_reset(packet, version)]
        assert [packet[:60].hex() for packet in others] == []
        assert any(CLEAR_TEXT in packet for packet in passed) == (pair.encryption is Encryption.NULL)
        for backend, name, station in ((gm.ue, "reg", ends.ue), (gm.pcscf, "ue", ends.pcscf)):
            counted = station.call(backend.statistics)
            of_set = counted.sets[name]
            assert min(of_set.packets_in, of_set.packets_out) > 15
            assert (of_set.replayed, of_set.bad_integrity, of_set.bad_selector) == (0, 0, 0)
            assert "userspace" in kinds or counted.clear == 0


def _ip(source: str, destination: str) -> IP | IPv6:
    return IP(src=source, dst=destination) if ":" not in source else IPv6(src=source, dst=destination)


@pytest.mark.parametrize("kinds", ENDS)
@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("pair", PAIRS, ids=str)
async def test_tampered_replayed_and_clear_packets_are_refused(ends, pair, version, kinds) -> None:
    """What arrives at the UE after them all is the one good message, and nobody is answered."""
    loop = asyncio.get_running_loop()
    async with agreement(ends, kinds, version, pair) as gm:
        ours, theirs = gm.ends.ip("ue", version), gm.ends.ip("pcscf", version)
        stranger = "10.1.0.77" if version == 4 else "fd00:1::77"
        with (
            gm.udp("ue", UE.port_c) as client,
            gm.udp("ue", UE.port_s) as server,
            gm.tcp("ue", UE.port_s) as listener,
            gm.udp("pcscf", PCSCF.port_c) as sender,
        ):
            listener.listen(1)
            await loop.sock_sendto(sender, b"first", gm.address("ue", UE.port_s))
            assert await asyncio.wait_for(loop.sock_recv(server, 100), 5) == b"first"
            good = bytearray(next(packet for packet in ends.tap.take() if _spi(packet, version) == UE.spi_s))
            at = 20 if version == 4 else 40
            later = bytearray(good)
            later[at + 6] ^= 1  # a sequence number not seen yet
            torn = bytearray(later)
            torn[-1] ^= 1
            other_association = bytearray(good)
            other_association[at : at + 4] = UE.spi_c.to_bytes(4)
            unknown = bytearray(good)
            unknown[at : at + 4] = (0x7777).to_bytes(4)
            attacks = [bytes(packet) for packet in (good, later, torn, other_association, unknown)]
            for source, sport, dport in (
                (theirs, PCSCF.port_c, UE.port_s),
                (theirs, PCSCF.port_s, UE.port_c),
                (theirs, 7777, UE.port_s),
                (stranger, PCSCF.port_c, UE.port_s),
            ):
                attacks.append(bytes(_ip(source, ours) / UDP(sport=sport, dport=dport) / CLEAR_TEXT))
            for source, sport in ((theirs, PCSCF.port_c), (stranger, 7777)):
                attacks.append(bytes(_ip(source, ours) / TCP(sport=sport, dport=UE.port_s, flags="S")))
            for packet in attacks:
                ends.tap.inject(packet, ends.ue_mac)
            await loop.sock_sendto(sender, b"last", gm.address("ue", UE.port_s))
            assert await asyncio.wait_for(loop.sock_recv(server, 100), 5) == b"last"
            for silent in (client, server):
                with pytest.raises(BlockingIOError):
                    silent.recv(100)
            with pytest.raises(BlockingIOError):
                listener.accept()
        counted = ends.ue.call(gm.ue.statistics)
        of_set = counted.sets["reg"]
        assert (of_set.packets_in, of_set.replayed, of_set.bad_integrity) == (2, 1, 3)
        assert counted.unknown_spi == 1
        if gm.ue.kind == "kernel":
            assert counted.clear == 6
        assert not any(_is_syn_ack(packet, version) for packet in ends.tap.take())


def _spi(packet: bytes, version: int) -> int | None:
    at, protocol = (20, packet[9]) if version == 4 else (40, packet[6])
    return int.from_bytes(packet[at : at + 4]) if protocol == ESP and packet[0] >> 4 == version else None


def _tcp_flags(packet: bytes, version: int) -> int:
    at, protocol = (20, packet[9]) if version == 4 else (40, packet[6])
    return packet[at + 13] if packet[0] >> 4 == version and protocol == socket.IPPROTO_TCP else 0


def _is_syn_ack(packet: bytes, version: int) -> bool:
    return _tcp_flags(packet, version) & 0x12 == 0x12


def _is_reset(packet: bytes, version: int) -> bool:
    """Whether it is a refusal that carries nothing."""
    return _tcp_flags(packet, version) & 0x04 == 0x04 and len(packet) == (40 if version == 4 else 60)


@pytest.mark.parametrize("kinds", ENDS)
async def test_overlapping_sets(ends, kinds) -> None:
    """Re-authentication: both sets work until the older is removed, then the newer (24.229 5.1.1.4, same port-s)."""
    pair = STANDARD_PAIRS[0]
    async with agreement(ends, kinds, 4, pair) as gm:
        ue, pcscf = replace(UE, ip=ends.ip("ue", 4)), replace(PCSCF, ip=ends.ip("pcscf", 4))
        newer_ue = replace(ue, spi_c=0x1003, spi_s=0x1004, port_c=5063)
        newer_pcscf = replace(pcscf, spi_c=0x2003, spi_s=0x2004, port_c=6063)
        keys = expand_keys(pair, Secret(os.urandom(16)), Secret(os.urandom(16)))
        await ends.ue.run(gm.ue.install(AssociationSet.between("new", newer_ue, newer_pcscf, pair, keys)))
        await ends.pcscf.run(gm.pcscf.install(AssociationSet.between("newer", newer_pcscf, newer_ue, pair, keys)))
        await _udp_echo(gm, "ue", UE.port_c, "pcscf", PCSCF.port_s, 200)
        await _udp_echo(gm, "ue", newer_ue.port_c, "pcscf", PCSCF.port_s, 200)
        await _udp_echo(gm, "pcscf", newer_pcscf.port_c, "ue", UE.port_s, 200)
        await ends.ue.run(gm.ue.remove("reg"))
        await ends.pcscf.run(gm.pcscf.remove("ue"))
        await _tcp_echo(gm, "ue", newer_ue.port_c, "pcscf", PCSCF.port_s, 200)
        await _udp_echo(gm, "pcscf", newer_pcscf.port_c, "ue", UE.port_s, 200)
