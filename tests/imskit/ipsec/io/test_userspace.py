"""ESP in this process between two network namespaces: real sockets, real packets on the link between.

[S7-IMS] user-space back end: IPv4 and IPv6, UDP and TCP, fragments, DSCP, clear packets, overlap, faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from imskit.ipsec.algorithms import STANDARD_PAIRS, expand_keys
from imskit.ipsec.association import AssociationSet, Party, UdpEncapsulation
from imskit.ipsec.errors import IpsecError, SpiCollision
from imskit.ipsec.io import userspace
from imskit.ipsec.io.userspace import UserspaceBackend
from imskit.secrets import Secret

UE = {4: "192.0.2.1", 6: "2001:db8::1"}
P_CSCF = {4: "192.0.2.2", 6: "2001:db8::2"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass
class Side:
    """A host with its back end."""

    host: object
    backend: UserspaceBackend
    addresses: dict[int, str]

    async def install(self, associations) -> None:
        with self.host.inside():
            await self.backend.install(associations)

    def socket(self, port: int, version: int = 4, kind=socket.SOCK_DGRAM, device: str | None = "own"):
        with self.host.inside():
            made = socket.socket(FAMILY[version], kind | socket.SOCK_NONBLOCK)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        name = self.backend.device if device == "own" else device
        if name is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
        made.bind((self.addresses[version], port))
        return made


@contextlib.asynccontextmanager
async def _sides(hosts, addresses=(UE, P_CSCF)):
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for host, own in zip(hosts, addresses, strict=True):
            with host.inside():
                backend = await UserspaceBackend.open()
            stack.push_async_callback(_close, host, backend)
            made.append(Side(host, backend, own))
        yield made


@pytest.fixture
async def sides(hosts):
    """UE and P-CSCF with a back end each."""
    async with _sides(hosts) as made:
        yield made


async def _close(host, backend) -> None:
    with host.inside():
        await backend.close()


async def _until(condition) -> None:
    """Let the event loop work until ``condition`` holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # counters tell nobody that they have changed
            await asyncio.sleep(0.001)


async def receive(sock: socket.socket, within: float = 5.0) -> tuple[bytes, tuple]:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recvfrom(sock, 65535), within)


def heard(sniffer: socket.socket, everything: bool = False) -> list[bytes]:
    """The IP packets that crossed the link so far; of IPv6 without those of ICMP, unless ``everything``."""
    packets = []
    with contextlib.suppress(BlockingIOError):
        while True:
            packet = sniffer.recv(65535)
            if packet[0] >> 4 == 4 or (packet[0] >> 4 == 6 and packet[6] != 0 and (everything or packet[6] != 58)):
                packets.append(packet)
    return packets


def protocols(packets: list[bytes]) -> set[int]:
    """IP protocols seen; a fragment of IPv6 tells that of its first part."""
    seen = set()
    for packet in packets:
        kind = packet[9] if packet[0] >> 4 == 4 else packet[6]
        seen.add(packet[40] if packet[0] >> 4 == 6 and kind == 44 else kind)
    return seen


async def test_udp_fragments_and_tcp_both_ways(sides, agreement, pair, version) -> None:
    """Every pair of algorithms: UDP, 4000 octets of UDP in fragments, TCP opened by either side, nothing in clear."""
    ue, p_cscf = sides
    of_ue, of_p_cscf = agreement(pair, version)
    sniffer = ue.host.sniffer("wan")
    await p_cscf.install(of_p_cscf)
    await ue.install(of_ue)
    loop = asyncio.get_running_loop()
    with ue.socket(40000, version) as uc, p_cscf.socket(6500, version) as ps:
        for text in (b"REGISTER", os.urandom(4000)):
            await loop.sock_sendto(uc, text, (P_CSCF[version], 6500))
            got, source = await receive(ps)
            assert got == text and source[:2] == (UE[version], 40000)
            await loop.sock_sendto(ps, text[::-1], (UE[version], 40000))
            assert (await receive(uc))[0] == text[::-1]
    await _tcp(ue, 40000, p_cscf, 6500, version)
    await _tcp(p_cscf, 6000, ue, 40500, version)
    packets = heard(sniffer)
    assert protocols(packets) == {50}
    assert max(map(len, packets)) <= 1500
    for side in sides:
        [counted] = side.backend.statistics().sets.values()
        assert counted.packets_in > 20 and counted.packets_out > 20
        assert counted.bytes_in > 40_000
        assert (counted.replayed, counted.bad_integrity, counted.bad_selector) == (0, 0, 0)
    sniffer.close()


async def _tcp(client: Side, client_port: int, server: Side, server_port: int, version: int) -> None:
    """30 kB there and back over a connection from ``client_port`` to ``server_port``."""
    loop = asyncio.get_running_loop()
    text = os.urandom(30_000)
    with server.socket(server_port, version, socket.SOCK_STREAM) as listener:
        listener.listen()
        with client.socket(client_port, version, socket.SOCK_STREAM) as calling:
            accepting = asyncio.create_task(loop.sock_accept(listener))
            await asyncio.wait_for(loop.sock_connect(calling, (server.addresses[version], server_port)), 5)
            accepted, source = await accepting
            with accepted:
                assert source[:2] == (client.addresses[version], client_port)
                for giver, taker in ((calling, accepted), (accepted, calling)):
                    giving = asyncio.create_task(loop.sock_sendall(giver, text))
                    got = b""
                    while len(got) < len(text):
                        got += await asyncio.wait_for(loop.sock_recv(taker, 65536), 5)
                    await giving
                    assert got == text


async def test_tcp_segments_fit_the_path(sides, agreement) -> None:
    """MTU: the segment size in SYN is lowered so that no ESP packet of TCP is a fragment."""
    ue, p_cscf = sides
    of_ue, of_p_cscf = agreement()
    await p_cscf.install(of_p_cscf)
    await ue.install(of_ue)
    sniffer = ue.host.sniffer("wan")
    await _tcp(ue, 40000, p_cscf, 6500, 4)
    packets = heard(sniffer)
    sniffer.close()
    assert all(not packet[6] & 0x3F and not packet[7] for packet in packets)
    assert 1400 < max(map(len, packets)) <= 1500


async def test_small_mtu(sides, agreement, hosts) -> None:
    """A link of 1280 octets: UDP of 1300 octets and TCP pass."""
    ue, p_cscf = sides
    for host in hosts:
        host.run("ip link set wan mtu 1280")
    try:
        of_ue, of_p_cscf = agreement()
        await p_cscf.install(of_p_cscf)
        await ue.install(of_ue)
        with ue.socket(40000) as uc, p_cscf.socket(6500) as ps:
            uc.sendto(bytes(1300), (P_CSCF[4], 6500))
            assert (await receive(ps))[0] == bytes(1300)
        await _tcp(p_cscf, 6000, ue, 40500, 4)
    finally:
        for host in hosts:
            host.run("ip link set wan mtu 1500")


async def test_dscp_is_copied_both_ways(sides, agreement, version) -> None:
    """DSCP (and ECN) of the protected packet, of ESP, and of what the far socket gets are the same."""
    ue, p_cscf = sides
    of_ue, of_p_cscf = agreement(version=version)
    await p_cscf.install(of_p_cscf)
    await ue.install(of_ue)
    sniffer = ue.host.sniffer("wan")
    with ue.socket(40000, version) as uc, p_cscf.socket(6500, version) as ps:
        if version == 4:
            ps.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        else:
            ps.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        for traffic_class in (40 << 2, 0, 46 << 2):
            if version == 4:
                uc.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, traffic_class)
            else:
                uc.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, traffic_class)
            uc.sendto(b"x", (P_CSCF[version], 6500))
            await _readable(ps)
            _, beside, _, _ = ps.recvmsg(100, 100)
            assert beside[0][2][0] == traffic_class
            [packet] = heard(sniffer)
            assert (packet[1] if version == 4 else (packet[0] << 4 | packet[1] >> 4) & 255) == traffic_class
    sniffer.close()


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(sock, lambda: ready.done() or ready.set_result(None))
    try:
        await asyncio.wait_for(ready, 5)
    finally:
        loop.remove_reader(sock)


async def test_clear_packets_never_reach_a_protected_socket(sides, agreement, version) -> None:
    """A clear UDP packet or TCP connection to a protected port, from the very address and port of the P-CSCF, finds
    no socket, before an association is there and after; what comes by ESP gets through all the same.
    """
    ue, p_cscf = sides
    loop = asyncio.get_running_loop()
    of_ue, of_p_cscf = agreement(version=version)
    with (
        ue.socket(40500, version) as us,
        ue.socket(40500, version, socket.SOCK_STREAM) as listener,
    ):
        listener.listen()
        for installed in (False, True):
            if installed:
                await ue.install(of_ue)
            with (
                p_cscf.socket(6000, version, device=None) as clear,
                p_cscf.socket(6000, version, socket.SOCK_STREAM, device=None) as clear_tcp,
            ):
                sniffer = ue.host.sniffer("wan")
                clear.connect((UE[version], 40500))
                clear.send(b"INVITE in clear")
                with pytest.raises(ConnectionRefusedError):  # the kernel's ICMP: nothing listens there
                    await asyncio.wait_for(loop.sock_recv(clear, 100), 5)
                clear_tcp.connect_ex((UE[version], 40500))
                await _readable(sniffer)
                while 6 not in protocols(heard(sniffer)):  # the SYN has crossed the link
                    await _readable(sniffer)
                sniffer.close()
        await p_cscf.install(of_p_cscf)
        with p_cscf.socket(6000, version) as pc:
            await loop.sock_sendto(pc, b"INVITE in ESP", (UE[version], 40500))
            assert (await receive(us))[0] == b"INVITE in ESP"
        with p_cscf.socket(6000, version, socket.SOCK_STREAM) as calling:
            await asyncio.wait_for(loop.sock_connect(calling, (UE[version], 40500)), 5)
            accepted, _ = await asyncio.wait_for(loop.sock_accept(listener), 5)
            assert accepted.getpeername() == calling.getsockname()
            accepted.close()
        for sock, take in ((us, us.recv), (listener, lambda _: listener.accept())):
            with pytest.raises(BlockingIOError):
                take(100)
            sock.close()


async def test_protected_packets_are_never_answered_in_clear(sides, agreement, version) -> None:
    """Where no socket takes a good packet, the kernel neither quotes it in an ICMP error nor resets in clear: the
    reset of TCP is itself protected.  A socket that is bound to no device is protected or silent on these ports, too.
    """
    ue, p_cscf = sides
    of_ue, of_p_cscf = agreement(version=version)
    sniffer = ue.host.sniffer("wan")
    await p_cscf.install(of_p_cscf)
    await ue.install(of_ue)
    loop = asyncio.get_running_loop()
    with (
        p_cscf.socket(6000, version) as pc,
        p_cscf.socket(6000, version, socket.SOCK_STREAM) as calling,
        p_cscf.socket(6500, version) as ps,
        ue.socket(40000, version, device=None) as unbound,
    ):
        await loop.sock_sendto(pc, b"INVITE", (UE[version], 40500))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.wait_for(loop.sock_connect(calling, (UE[version], 40500)), 5)
        unbound.sendto(b"to no protected port", (P_CSCF[version], 5060))
        unbound.sendto(b"protected", (P_CSCF[version], 6500))
        assert (await receive(ps))[0] == b"protected"
    assert ue.backend.statistics().sets["set0"].packets_in == 2
    packets = heard(sniffer, everything=True)
    assert packets and protocols(packets) - {58} == {50}
    assert not any(b"INVITE" in packet for packet in packets)
    sniffer.close()


async def test_protected_sockets_never_speak_in_clear(sides, agreement, version) -> None:
    """Without an association, after its removal and after the back end has gone, nothing leaves a protected socket."""
    ue, p_cscf = sides
    of_ue, of_p_cscf = agreement(version=version)
    sniffer = ue.host.sniffer("wan")
    with ue.socket(40000, version) as uc, p_cscf.socket(6500, version) as ps:
        uc.sendto(b"too early", (P_CSCF[version], 6500))
        await _until(lambda: ue.backend.statistics().unprotected == 1)
        await p_cscf.install(of_p_cscf)
        await ue.install(of_ue)
        uc.sendto(b"protected", (P_CSCF[version], 6500))
        assert (await receive(ps))[0] == b"protected"
        uc.sendto(b"to another port", (P_CSCF[version], 6501))
        await ue.backend.remove(of_ue.name)
        uc.sendto(b"too late", (P_CSCF[version], 6500))
        await _until(lambda: ue.backend.statistics().unprotected == 3)
        await _close(ue.host, ue.backend)
        with pytest.raises(OSError):
            uc.sendto(b"gone", (P_CSCF[version], 6500))
    packets = heard(sniffer)
    assert len(packets) == 1 and protocols(packets) == {50}
    sniffer.close()


@pytest.mark.parametrize("strictness", ["1", "2"])
async def test_reverse_path_filter(hosts, agreement, strictness) -> None:
    """Machines that filter by reverse path, as distributions set it, strictly (1) or loosely (2)."""
    for host in hosts:
        for setting in ("all", "default"):
            host.run(f"sysctl -qw net.ipv4.conf.{setting}.rp_filter={strictness}")
    try:
        async with _sides(hosts) as (ue, p_cscf):
            of_ue, of_p_cscf = agreement()
            await p_cscf.install(of_p_cscf)
            await ue.install(of_ue)
            await _tcp(ue, 40000, p_cscf, 6500, 4)
    finally:
        for host in hosts:
            for setting in ("all", "default"):
                host.run(f"sysctl -qw net.ipv4.conf.{setting}.rp_filter=0")


async def test_other_traffic_is_left_alone(sides, agreement) -> None:
    """The first, unprotected REGISTER between the same two addresses goes by the ordinary way."""
    ue, p_cscf = sides
    of_ue, of_p_cscf = agreement()
    await p_cscf.install(of_p_cscf)
    await ue.install(of_ue)
    with ue.socket(5060, device=None) as here, p_cscf.socket(5060, device=None) as there:
        here.sendto(b"REGISTER", (P_CSCF[4], 5060))
        assert await receive(there) == (b"REGISTER", (UE[4], 5060))
        there.sendto(b"401", (UE[4], 5060))
        assert (await receive(here))[0] == b"401"


async def test_replayed_and_corrupted_esp(sides, agreement) -> None:
    """A captured packet sent again, and one with a bit turned, are dropped and counted; the next good one passes."""
    ue, p_cscf = sides
    of_ue, of_p_cscf = agreement()
    await p_cscf.install(of_p_cscf)
    await ue.install(of_ue)
    sniffer = ue.host.sniffer("wan")
    with ue.host.inside():
        attacker = socket.socket(socket.AF_INET, socket.SOCK_RAW, 50)
    with ue.socket(40000) as uc, p_cscf.socket(6500) as ps, attacker:
        uc.sendto(b"first", (P_CSCF[4], 6500))
        assert (await receive(ps))[0] == b"first"
        [packet] = heard(sniffer)
        esp = packet[20:]
        attacker.sendto(esp, (P_CSCF[4], 0))
        attacker.sendto(esp[:4] + struct.pack(">I", 9) + esp[8:], (P_CSCF[4], 0))  # as if it were a later packet
        attacker.sendto(esp[:-1] + bytes((esp[-1] ^ 1,)), (P_CSCF[4], 0))  # an old number: replay comes first
        attacker.sendto(b"\1\2\3\4" + esp[4:], (P_CSCF[4], 0))
        attacker.sendto(esp[:4], (P_CSCF[4], 0))
        uc.sendto(b"second", (P_CSCF[4], 6500))
        assert (await receive(ps))[0] == b"second"
    statistics = p_cscf.backend.statistics()
    counted = statistics.sets["set0"]
    assert (counted.packets_in, counted.replayed, counted.bad_integrity) == (2, 2, 1)
    assert (statistics.unknown_spi, statistics.malformed) == (1, 1)
    sniffer.close()


async def test_rules_of_ports_go_with_the_last_set(sides, agreement, version) -> None:
    """Two sets share the UE's server port; nothing of them stays, not even after a set that was refused."""
    ue, _ = sides
    family = f"-{version}"
    await ue.install(agreement(version=version)[0])
    await ue.install(agreement(version=version, generation=1)[0])
    with pytest.raises(SpiCollision):
        await ue.install(agreement(version=version, name="again")[0])
    assert ue.host.run(f"ip {family} rule").count("sport") == 2 * 3
    await ue.backend.remove("set0")
    rules = ue.host.run(f"ip {family} rule")
    assert rules.count("sport 40500") == rules.count("sport 40001") == 2 and "sport 40000" not in rules
    await ue.backend.remove("set1")
    assert "sport" not in ue.host.run(f"ip {family} rule")


async def test_sets_overlap_at_re_authentication(sides, agreement) -> None:
    """Old and new set (new SPIs and client ports, the same server ports) work side by side until the old one goes."""
    ue, p_cscf = sides
    for generation in (0, 1):
        of_ue, of_p_cscf = agreement(STANDARD_PAIRS[generation], generation=generation)
        await p_cscf.install(of_p_cscf)
        await ue.install(of_ue)
    loop = asyncio.get_running_loop()
    with ue.socket(40000) as old, ue.socket(40001) as new, p_cscf.socket(6500) as ps:
        for which in (old, new, old):
            await loop.sock_sendto(which, b"ping", (P_CSCF[4], 6500))
            _, source = await receive(ps)
            assert source == which.getsockname()
        await ue.backend.remove("set0")
        await p_cscf.backend.remove("set0")
        old.sendto(b"too late", (P_CSCF[4], 6500))
        await loop.sock_sendto(new, b"pong", (P_CSCF[4], 6500))
        assert (await receive(ps))[0] == b"pong"
    assert set(p_cscf.backend.statistics().sets) == {"set1"}


async def test_spi_collision_and_equal_names(sides, agreement) -> None:
    """An SPI in use is reported as such, and nothing of the new set stays; the old one goes on."""
    ue, p_cscf = sides
    of_ue, of_p_cscf = agreement()
    await p_cscf.install(of_p_cscf)
    await ue.install(of_ue)
    with pytest.raises(SpiCollision) as collision:
        await ue.install(agreement(name="another")[0])
    assert collision.value.spi == 10001
    with pytest.raises(IpsecError, match="installed already"):
        await ue.install(agreement(generation=1, name="set0")[0])
    assert list(ue.backend.statistics().sets) == ["set0"]
    with ue.socket(40000) as uc, p_cscf.socket(6500) as ps:
        uc.sendto(b"still here", (P_CSCF[4], 6500))
        assert (await receive(ps))[0] == b"still here"


async def test_removal_during_traffic(sides, agreement) -> None:
    """Sets come and go while packets of both sides are under way."""
    ue, p_cscf = sides
    loop = asyncio.get_running_loop()
    with ue.socket(40000) as uc, p_cscf.socket(6500) as ps:
        for _ in range(5):
            of_ue, of_p_cscf = agreement()
            await p_cscf.install(of_p_cscf)
            await ue.install(of_ue)
            uc.sendto(b"go", (P_CSCF[4], 6500))
            while (await receive(ps))[0] != b"go":
                continue
            for _ in range(100):
                uc.sendto(b"crowd", (P_CSCF[4], 6500))
                ps.sendto(b"crowd", (UE[4], 40000))
            await ue.backend.remove("set0")
            await p_cscf.backend.remove("set0")
            with contextlib.suppress(BlockingIOError):
                while True:
                    ps.recv(100)
        await p_cscf.install(of_p_cscf)
        await ue.install(of_ue)
        await loop.sock_sendto(uc, b"end", (P_CSCF[4], 6500))
        while (await receive(ps))[0] != b"end":
            continue


async def test_udp_encapsulation_behind_a_nat(sides, agreement, version, pair) -> None:
    """mod=UDP-enc-tun (annex M): tunnel in UDP 4500, both transports, both ways."""
    ue, p_cscf = sides
    of_ue, of_p_cscf = agreement(pair, version, encapsulation=UdpEncapsulation())
    sniffer = ue.host.sniffer("wan")
    await p_cscf.install(of_p_cscf)
    await ue.install(of_ue)
    with ue.socket(40000, version) as uc, p_cscf.socket(6500, version) as ps:
        uc.sendto(b"REGISTER", (P_CSCF[version], 6500))
        assert (await receive(ps))[0] == b"REGISTER"
        ps.sendto(b"200", (UE[version], 40000))
        assert (await receive(uc))[0] == b"200"
    await _tcp(ue, 40000, p_cscf, 6500, version)
    await _tcp(p_cscf, 6000, ue, 40500, version)
    packets = heard(sniffer)
    sniffer.close()
    assert protocols(packets) == {17}
    header = 20 if version == 4 else 40
    assert {struct.unpack_from(">HH", packet, header) for packet in packets} == {(4500, 4500)}


async def test_both_ends_on_one_host(hosts) -> None:
    """UE and P-CSCF on the loopback addresses of one machine, each with a back end of its own: UDP and TCP."""
    host = hosts[0]
    addresses = {4: "127.0.0.1"}, {4: "127.0.0.2"}
    ue, p_cscf = Party("127.0.0.1", 1001, 1002, 40000, 40500), Party("127.0.0.2", 2001, 2002, 6000, 6500)
    keys = expand_keys(STANDARD_PAIRS[0], Secret(bytes(16)), Secret(bytes(16)))
    async with _sides((host, host), addresses) as (here, there):
        await here.install(AssociationSet.between("a", ue, p_cscf, STANDARD_PAIRS[0], keys))
        await there.install(AssociationSet.between("a", p_cscf, ue, STANDARD_PAIRS[0], keys))
        with here.socket(40000) as uc, there.socket(6500) as ps:
            uc.sendto(b"REGISTER", ("127.0.0.2", 6500))
            assert await receive(ps) == (b"REGISTER", ("127.0.0.1", 40000))
        await _tcp(here, 40000, there, 6500, 4)
        await _tcp(there, 6000, here, 40500, 4)
        assert here.backend.statistics().sets["a"].packets_in > 10


@pytest.fixture
def behind_nat(make_host):
    """``(ue, nat, p_cscf)``: a private UE 10.0.0.5, the kernel's NAT at 203.0.113.9, P-CSCF 203.0.113.2."""
    ue, nat, p_cscf = make_host("ue"), make_host("nat"), make_host("p-cscf")
    for host, near, address in ((ue, "lan", "10.0.0.1"), (p_cscf, "out", "203.0.113.9")):
        nat.run(
            f"ip link add {near} type veth peer name far",
            f"ip link set far netns {host.pid}",
            f"ip addr add {address}/24 dev {near}",
            f"ip link set {near} up",
        )
    for host, address in ((ue, "10.0.0.5"), (p_cscf, "203.0.113.2")):
        host.run("ip link set far name wan", f"ip addr add {address}/24 dev wan", "ip link set wan up")
    ue.run("ip route add default via 10.0.0.1")
    nat.run("sysctl -qw net.ipv4.ip_forward=1")
    return ue, nat, p_cscf


def _masquerade(nat, port: int) -> None:
    nat.run("nft add table ip nat", "nft delete table ip nat", "nft add table ip nat")
    nat.run("nft add chain ip nat out { type nat hook postrouting priority 100 ; }")
    nat.run(f"nft add rule ip nat out oifname out meta l4proto udp masquerade to :{port}")


@pytest.mark.skipif(shutil.which("nft") is None, reason="nftables is not installed")
async def test_real_nat_and_its_rebinding(behind_nat) -> None:
    """Annex M through a real NAT: the P-CSCF's program sees the NAT's address and the protected ports; when the NAT
    takes another port, the UE's next packet tells the P-CSCF, and requests from there reach the UE again.
    """
    ue, nat, p_cscf = behind_nat
    _masquerade(nat, 31000)
    keys = expand_keys(STANDARD_PAIRS[0], Secret(bytes(16)), Secret(bytes(16)))
    private, public = (Party(address, 1001, 1002, 40000, 40500) for address in ("10.0.0.5", "203.0.113.9"))
    core = Party("203.0.113.2", 2001, 2002, 6000, 6500)
    of_ue = AssociationSet.between("a", private, core, STANDARD_PAIRS[0], keys, UdpEncapsulation(keep_alive_s=20))
    of_p_cscf = AssociationSet.between("a", core, public, STANDARD_PAIRS[0], keys, UdpEncapsulation())
    addresses = ({4: "10.0.0.5"}, {4: "203.0.113.2"})
    async with _sides((ue, p_cscf), addresses) as (here, there):
        await there.install(of_p_cscf)
        await here.install(of_ue)
        with here.socket(40000) as uc, here.socket(40500) as us, there.socket(6500) as ps, there.socket(6000) as pc:
            for port in (31000, 32000):
                uc.sendto(b"REGISTER", ("203.0.113.2", 6500))
                assert await receive(ps) == (b"REGISTER", ("203.0.113.9", 40000))
                ps.sendto(b"200", ("203.0.113.9", 40000))
                assert await receive(uc) == (b"200", ("203.0.113.2", 6500))
                pc.sendto(b"INVITE", ("203.0.113.9", 40500))
                assert await receive(us) == (b"INVITE", ("203.0.113.2", 6000))
                assert there.backend._database._sets["a"].path.remote == ("203.0.113.9", port)
                # The kernel's NAT forgets its bindings when the interface goes.
                nat.run("ip link set out down", "ip link set out up")
                _masquerade(nat, 32000)


async def test_two_instances_on_one_host(hosts) -> None:
    """Each back end has a device of its own, and takes it away when it closes."""
    host = hosts[0]
    with host.inside():
        first, second = await UserspaceBackend.open(), await UserspaceBackend.open()
        assert first.device != second.device
        await first.close()
        await first.close()
        assert second.device in host.run("ip link") and f"{first.device}:" not in host.run("ip link")
        with pytest.raises(IpsecError, match="choose another name"):
            await UserspaceBackend.open(device=second.device)
        await second.close()
    assert "gm" not in host.run("ip link")
    for family in ("-4", "-6"):
        assert "gm" not in host.run(f"ip {family} rule")


async def test_what_a_dead_process_left_is_replaced(hosts) -> None:
    """The device of a killed process goes by itself; its routing rule is replaced by the next one's."""
    host = hosts[0]
    program = (
        "import asyncio, os\n"
        "from imskit.ipsec.io.userspace import UserspaceBackend\n"
        "async def main():\n"
        "    backend = await UserspaceBackend.open(device='gm7')\n"
        "    backend._device.claim_port('192.0.2.1', 40000)\n"
        "    os._exit(0)\n"
        "asyncio.run(main())\n"
    )
    with host.inside():
        done = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
        assert await done.wait() == 0
        assert host.run("ip -4 rule").count("gm7") == 1
        assert host.run("ip -4 rule").count("sport 40000") == 2
        backend = await UserspaceBackend.open(device="gm7")
        assert host.run("ip -4 rule").count("gm7") == 1
        assert "sport" not in host.run("ip -4 rule")
        await backend.close()
    assert "gm7" not in host.run("ip -4 rule")


async def test_no_address_and_port_in_use_say_what_to_do(sides, agreement) -> None:
    """What the machine refuses ends in an error with a cure, and leaves nothing behind."""
    ue, _ = sides
    of_ue, of_p_cscf = agreement(encapsulation=UdpEncapsulation())
    with pytest.raises(IpsecError, match=r"192\.0\.2\.2"):
        await ue.install(of_p_cscf)
    with ue.socket(4500, device=None), pytest.raises(IpsecError, match="End the other program at UDP port 4500"):
        await ue.install(of_ue)
    assert not ue.backend.statistics().sets
    await ue.install(of_ue)


def test_without_the_capability_the_error_names_it() -> None:
    """A user without rights is told which one is missing."""
    program = (
        "import asyncio\n"
        "from imskit.ipsec.errors import IpsecError\n"
        "from imskit.ipsec.io.userspace import UserspaceBackend\n"
        "try:\n"
        "    asyncio.run(UserspaceBackend.open())\n"
        "except IpsecError as error:\n"
        "    print(error)\n"
    )
    unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    done = subprocess.run([*unprivileged, sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "CAP_NET_ADMIN" in done.stdout


@pytest.mark.skipif("IMSBRIDGE_NESTED" in os.environ, reason="runs this file once")
def test_in_a_user_namespace() -> None:
    """As root of a user and network namespace, without rights on the machine, the same works."""
    namespaces = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
    if subprocess.run([*namespaces, "true"], capture_output=True).returncode or not os.access("/dev/net/tun", os.W_OK):
        pytest.skip("user namespaces or /dev/net/tun are not for this user on this machine")
    everything = [] if os.geteuid() else ["-k", "fragments and sha-1-96/aes-cbc or replaced or clear or dscp"]
    done = subprocess.run(
        [*namespaces, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *everything, __file__],
        env={**os.environ, "IMSBRIDGE_NESTED": "1"},
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1], done.stdout


@pytest.mark.parametrize(("kind", "address", "other"), [("_Raw4Channel", 4, "127.0.0.1"), ("_Raw6Channel", 6, "::1")])
async def test_what_came_before_the_socket_had_its_address_is_nobodys(hosts, monkeypatch, kind, address, other) -> None:
    """Between its making and its binding a raw socket hears ESP for every address: no second reading as a replay."""
    bind = userspace._bind

    def late(bound: socket.socket, *arguments) -> None:
        with socket.socket(bound.family, socket.SOCK_RAW, 50) as stranger:
            stranger.sendto(bytes(40), (other, 0))
        assert bound.recv(100, socket.MSG_PEEK)
        bind(bound, *arguments)

    monkeypatch.setattr(userspace, "_bind", late)
    with hosts[1].inside():
        channel = getattr(userspace, kind)(P_CSCF[address], 0, None)
    with contextlib.closing(channel), pytest.raises(BlockingIOError):
        channel.socket.recv(100)
