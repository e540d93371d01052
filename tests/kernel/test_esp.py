"""Associations of Gm on a kernel with ESP: our packets against the kernel's, and the kernel's against its own.

The P-CSCF's side sees the wire: what passes is ESP and nothing else, and what an attacker puts on it is refused.
TS 33.203 7.1, annexes H and I; RFC 4301, 4303, 4106, 4543.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from imskit.ipsec.algorithms import STANDARD_PAIRS, AlgorithmPair, Encryption
from imskit.ipsec.association import UdpEncapsulation
from imskit.ipsec.io.probe import Preference
from simulators.lab.gm_link import PAIRS, PCSCF, TEXT, UE, Ends, agreement, ends_of_a_narrow_path

ESP, FRAGMENT_OF_IPV6 = 50, 44

type Kinds = tuple[Preference, Preference]

by_kinds = pytest.mark.parametrize(
    "kinds",
    [("kernel", "kernel"), ("userspace", "kernel"), ("kernel", "userspace")],
    ids=lambda kinds: f"{kinds[0]}-to-{kinds[1]}",
)
"""Back end of the UE and of the P-CSCF."""
by_version = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])


def _is_esp(packet: bytes) -> bool:
    """ESP, whole or in fragments, or IPv6's own talk with its neighbours."""
    if packet[0] >> 4 == 4:
        return packet[9] == ESP
    protocol = packet[40] if packet[6] == FRAGMENT_OF_IPV6 else packet[6]
    return protocol in (ESP, socket.IPPROTO_ICMPV6, socket.IPPROTO_HOPOPTS)


@by_kinds
@by_version
@pytest.mark.parametrize("pair", PAIRS, ids=str)
async def test_udp_and_tcp_both_ways(ends: Ends, pair: AlgorithmPair, version: int, kinds: Kinds) -> None:
    async with agreement(ends, kinds, version, pair) as gm:
        for size in (200, 4000):
            await gm.udp_echo("ue", UE.port_c, "pcscf", PCSCF.port_s, size)
            await gm.udp_echo("pcscf", PCSCF.port_c, "ue", UE.port_s, size)
        await gm.tcp_echo("ue", UE.port_c, "pcscf", PCSCF.port_s, 20_000)
        await gm.tcp_echo("pcscf", PCSCF.port_c, "ue", UE.port_s, 20_000)
        passed = ends.sent()
        assert len(passed) > 20
        assert [packet[:60].hex() for packet in passed if not _is_esp(packet)] == []
        assert any(TEXT in packet for packet in passed) == (pair.encryption is Encryption.NULL)
        for end in ("ue", "pcscf"):
            counted = ends.station(end).call(gm.backend(end).statistics)
            of_set = counted.sets["first"]
            assert min(of_set.packets_in, of_set.packets_out) > 15
            assert (of_set.replayed, of_set.bad_integrity, of_set.bad_selector) == (0, 0, 0)
            assert "userspace" in kinds or counted.clear == 0


def _ip(source: str, destination: str) -> IP | IPv6:
    return IP(src=source, dst=destination) if ":" not in source else IPv6(src=source, dst=destination)


@by_kinds
@by_version
@pytest.mark.parametrize("pair", PAIRS, ids=str)
async def test_tampered_replayed_and_clear_packets_are_refused(
    ends: Ends, pair: AlgorithmPair, version: int, kinds: Kinds
) -> None:
    """What arrives at the UE after them all is the one good message, and nobody is answered."""
    loop = asyncio.get_running_loop()
    async with agreement(ends, kinds, version, pair) as gm:
        ours, theirs = ends.ip("ue", version), ends.ip("pcscf", version)
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
                attacks.append(bytes(_ip(source, ours) / UDP(sport=sport, dport=dport) / TEXT))
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
        of_set = counted.sets["first"]
        assert (of_set.packets_in, of_set.replayed, of_set.bad_integrity) == (2, 1, 3)
        assert counted.unknown_spi == 1
        if gm.ue.kind == "kernel":
            assert counted.clear == 6
        assert not any(_is_syn_ack(packet, version) for packet in ends.ue_tap.take(sent=True))


def _spi(packet: bytes, version: int) -> int | None:
    at, protocol = (20, packet[9]) if version == 4 else (40, packet[6])
    return int.from_bytes(packet[at : at + 4]) if protocol == ESP and packet[0] >> 4 == version else None


def _tcp_flags(packet: bytes, version: int) -> int:
    at, protocol = (20, packet[9]) if version == 4 else (40, packet[6])
    return packet[at + 13] if packet[0] >> 4 == version and protocol == socket.IPPROTO_TCP else 0


def _is_syn_ack(packet: bytes, version: int) -> bool:
    return _tcp_flags(packet, version) & 0x12 == 0x12


@by_kinds
async def test_overlapping_sets(ends: Ends, kinds: Kinds) -> None:
    """Re-authentication: both sets work until the older is removed, then the newer (24.229 5.1.1.4, same port-s)."""
    async with agreement(ends, kinds, 4, STANDARD_PAIRS[0]) as gm:
        newer_ue = replace(UE, spi_c=0x1003, spi_s=0x1004, port_c=5063)
        newer_pcscf = replace(PCSCF, spi_c=0x2003, spi_s=0x2004, port_c=6063)
        await gm.install("newer", STANDARD_PAIRS[0], newer_ue, newer_pcscf)
        await gm.udp_echo("ue", UE.port_c, "pcscf", PCSCF.port_s, 200)
        await gm.udp_echo("ue", newer_ue.port_c, "pcscf", PCSCF.port_s, 200)
        await gm.udp_echo("pcscf", newer_pcscf.port_c, "ue", UE.port_s, 200)
        await gm.remove("first")
        await gm.tcp_echo("ue", newer_ue.port_c, "pcscf", PCSCF.port_s, 200)
        await gm.udp_echo("pcscf", newer_pcscf.port_c, "ue", UE.port_s, 200)


@by_kinds
@by_version
@pytest.mark.parametrize("pair", STANDARD_PAIRS, ids=str)
async def test_esp_in_udp(ends: Ends, pair: AlgorithmPair, version: int, kinds: Kinds) -> None:
    """Annex M, RFC 3948: all of it in UDP between the ports 4500."""
    async with agreement(ends, kinds, version, pair, UdpEncapsulation()) as gm:
        await gm.udp_echo("ue", UE.port_c, "pcscf", PCSCF.port_s, 200)
        await gm.udp_echo("pcscf", PCSCF.port_c, "ue", UE.port_s, 200)
        await gm.tcp_echo("ue", UE.port_c, "pcscf", PCSCF.port_s, 8000)
        passed = ends.sent()
        protocols = {packet[9 if version == 4 else 6] for packet in passed}
        assert protocols - {socket.IPPROTO_ICMPV6, socket.IPPROTO_HOPOPTS} == {socket.IPPROTO_UDP}
        at = 20 if version == 4 else 40
        assert any(packet[at : at + 4] == 2 * (4500).to_bytes(2) for packet in passed)


@pytest.mark.parametrize("kinds", [("kernel", "kernel"), ("userspace", "kernel")], ids="-to-".join)
async def test_a_nat_that_rebinds_is_followed(ends: Ends, kinds: Kinds) -> None:
    """The UE's outer port changes under way: the P-CSCF answers to the new one (RFC 3948 and RFC 7296 2.23)."""
    async with agreement(ends, kinds, 4, STANDARD_PAIRS[0], UdpEncapsulation()) as gm:
        await gm.udp_echo("ue", UE.port_c, "pcscf", PCSCF.port_s, 200)
        # A NAT in two lines: what leaves the UE from port 4500 has another source port on the wire, and back.
        rewrite = "action pedit ex munge udp {} set {} pipe action csum ip and udp"
        match = "protocol ip flower ip_proto udp"
        for line in (
            "qdisc add dev ims0 clsact",
            f"filter add dev ims0 egress {match} src_port 4500 {rewrite.format('sport', 4999)}",
            f"filter add dev ims0 ingress {match} dst_port 4999 {rewrite.format('dport', 4500)}",
        ):
            ends.ue.command("tc", *line.split())
        try:
            await gm.udp_echo("ue", UE.port_c, "pcscf", PCSCF.port_s, 200)
            await gm.udp_echo("pcscf", PCSCF.port_c, "ue", UE.port_s, 200)
        finally:
            ends.ue.command("tc", "qdisc", "delete", "dev", "ims0", "clsact")


@by_kinds
@by_version
async def test_a_narrow_link(ends: Ends, version: int, kinds: Kinds) -> None:
    """MTU 1280: long datagrams go in fragments of ESP packets, TCP segments fit, nothing is longer than the link."""
    narrow = 1280
    try:
        ends.ue.command("ip", "link", "set", "ims0", "mtu", str(narrow))
        ends.pcscf.command("ip", "link", "set", "core0", "mtu", str(narrow))
        async with agreement(ends, kinds, version, STANDARD_PAIRS[1]) as gm:
            for size in (narrow - 60, narrow, 4000):  # fits bare and not sealed; does not fit; three packets
                await gm.udp_echo("ue", UE.port_c, "pcscf", PCSCF.port_s, size)
                await gm.udp_echo("pcscf", PCSCF.port_c, "ue", UE.port_s, size)
            await gm.tcp_echo("ue", UE.port_c, "pcscf", PCSCF.port_s, 30_000)
            passed = ends.sent()
            assert max(map(len, passed)) <= narrow
            assert sum(map(_is_fragment, passed)) > 8
    finally:
        ends.ue.command("ip", "link", "set", "ims0", "mtu", "1500")
        ends.pcscf.command("ip", "link", "set", "core0", "mtu", "1500")


def _is_fragment(packet: bytes) -> bool:
    if packet[0] >> 4 == 4:
        return int.from_bytes(packet[6:8]) & 0x3FFF != 0
    return packet[6] == FRAGMENT_OF_IPV6


@by_version
async def test_mtu_too_small_for_a_datagram_that_must_stay_whole(ends: Ends, version: int) -> None:
    """The sender is told at once, and how much fits; the association goes on (kernel)."""
    option, value = ((socket.IPPROTO_IP, 10), 2) if version == 4 else ((socket.IPPROTO_IPV6, 23), 2)
    async with agreement(ends, ("kernel", "kernel"), version, STANDARD_PAIRS[1]) as gm:
        with gm.udp("ue", UE.port_c) as sender:
            sender.setsockopt(*option, value)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
            with pytest.raises(OSError) as refused:
                sender.sendto(bytes(1460), gm.address("pcscf", PCSCF.port_s))
            assert refused.value.errno == errno.EMSGSIZE
            sender.sendto(bytes(1380), gm.address("pcscf", PCSCF.port_s))
        await gm.udp_echo("ue", UE.port_c, "pcscf", PCSCF.port_s, 200)


@pytest.fixture
def narrow_path() -> Iterator[Ends]:
    with ends_of_a_narrow_path(1280) as ends:
        yield ends


@by_kinds
@by_version
async def test_a_narrow_path(narrow_path: Ends, version: int, kinds: Kinds) -> None:
    """A router on the way takes less than the links: ESP adapts (RFC 4301 8.2), after a loss that SIP makes good."""
    async with agreement(narrow_path, kinds, version, STANDARD_PAIRS[1]) as gm:
        for end, port, other, other_port in (
            ("ue", UE.port_c, "pcscf", PCSCF.port_s),
            ("pcscf", PCSCF.port_c, "ue", UE.port_s),
        ):
            await gm.tcp_echo(end, port, other, other_port, 30_000)
            for attempt in range(4):
                try:
                    await gm.udp_echo(end, port, other, other_port, 1380, within=2.0)
                    break
                except TimeoutError:
                    assert attempt < 3
        seen = narrow_path.ue_tap.take() + narrow_path.tap.take()
        assert any(_is_too_big(packet) or _is_fragment(packet) for packet in seen)


def _is_too_big(packet: bytes) -> bool:
    """Whether a router says that a packet was too long (RFC 1191, RFC 8201)."""
    if packet[0] >> 4 == 4:
        return packet[9] == socket.IPPROTO_ICMP and packet[20:22] == b"\3\4"
    return packet[6] == socket.IPPROTO_ICMPV6 and packet[40] == 2
