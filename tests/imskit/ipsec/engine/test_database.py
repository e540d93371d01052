"""What the association database lets pass, and what it drops and counts.  No sockets, no clock."""

from __future__ import annotations

import dataclasses
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.ipsec.algorithms import STANDARD_PAIRS, expand_keys
from imskit.ipsec.association import AssociationSet, UdpEncapsulation
from imskit.ipsec.engine.database import Database
from imskit.ipsec.errors import IpsecError, SpiCollision
from imskit.ipsec.wire import esp, ip
from imskit.secrets import Secret

UE, P_CSCF = ip.packed("192.0.2.1"), ip.packed("192.0.2.2")
NAT = ip.packed("203.0.113.9")
PRIVATE = ip.packed("10.0.0.5")


def packet(source: bytes, sport: int, destination: bytes, dport: int, text: bytes = b"text", protocol: int = 17):
    """A clear packet with a right checksum."""
    ports = sport.to_bytes(2) + dport.to_bytes(2)
    if protocol == 17:
        head, place, rest = ports + (8 + len(text)).to_bytes(2), 6, text
    else:
        head, place, rest = ports + bytes(8) + b"\x50\x10\xff\xff", 16, bytes(2) + text
    pseudo = source + destination + bytes((0, protocol)) + (len(head) + 2 + len(rest)).to_bytes(2)
    checksum = ip.internet_checksum(pseudo + head + bytes(2) + rest) or 0xFFFF
    assert len(head) == place
    return ip.ipv4_packet(source + destination, 0, 64, protocol, head + checksum.to_bytes(2) + rest)


@pytest.fixture
def two(agreement):
    """Both sides with one set, and their databases."""
    sets = agreement()
    made = Database(os.urandom), Database(os.urandom)
    for database, associations in zip(made, sets, strict=True):
        database.install(associations, 0.0)
    return made


def counted(database: Database, name: str = "set0"):
    return database.statistics().sets[name]


def test_there_and_back(two) -> None:
    ue, p_cscf = two
    clear = packet(UE, 40000, P_CSCF, 6500)
    protected = ue.protect(clear, 0.0)
    assert protected.path == (("192.0.2.1", 0), ("192.0.2.2", 0))
    assert protected.data[:8].hex() == "0000271400000001"  # SPI of the receiver (10004), first sequence number
    assert b"text" not in protected.data
    assert p_cscf.unprotect(UE + P_CSCF, 0, 64, protected.data) == clear
    assert counted(ue).packets_out == 1 and counted(ue).bytes_out == 12
    assert counted(p_cscf).packets_in == 1 and counted(p_cscf).bytes_in == 12


@pytest.mark.parametrize(
    ("sport", "dport"), [(40000, 6000), (40500, 6500), (40001, 6500), (6500, 40000), (40000, 5060)]
)
def test_ports_of_no_association(two, sport: int, dport: int) -> None:
    """Client to client, server to server, another port: nothing leaves (33.203 7.1 knows four associations)."""
    ue, _ = two
    assert ue.protect(packet(UE, sport, P_CSCF, dport), 0.0) is None
    assert ue.statistics().unprotected == 1


def test_what_the_system_sends_by_itself_is_not_counted(two) -> None:
    ue, _ = two
    assert ue.protect(ip.ipv4_packet(UE + P_CSCF, 0, 64, 1, bytes(8)), 0.0) is None
    assert ue.statistics().unprotected == 0


def inside(two, next_header: int, payload: bytes, spi: int = 10004, sequence: int = 1) -> bytes | None:
    """What the P-CSCF delivers of a good ESP packet with this inside, by a UE that does not keep to its selector."""
    ue, p_cscf = two
    sender = next(iter(ue._sets.values())).associations.outbound
    association = next(sa for sa in sender if sa.spi == spi)
    sealed = esp.transform(association, os.urandom).seal(sequence, next_header, payload)
    return p_cscf.unprotect(UE + P_CSCF, 0, 64, sealed)


def test_inbound_selector(two) -> None:
    """RFC 4301 5.2: what the association is not for is dropped after decapsulation, and the good one passes."""
    _, p_cscf = two
    good = packet(UE, 40000, P_CSCF, 6500)[20:]
    wrong = [
        (17, packet(UE, 40000, P_CSCF, 22)[20:]),
        (17, packet(UE, 40500, P_CSCF, 6500)[20:]),
        (17, packet(UE, 40500, P_CSCF, 6000)[20:]),  # of the other association of the set
        (1, good),  # ICMP
        (50, good),  # ESP in ESP
        (4, packet(UE, 40000, P_CSCF, 6500)),  # a tunnel in transport mode
        (17, b""),
    ]
    for sequence, (next_header, payload) in enumerate(wrong, 1):
        assert inside(two, next_header, payload, sequence=sequence) is None
    assert counted(p_cscf).bad_selector == len(wrong)
    assert inside(two, 6, good, sequence=50) is None  # 12 octets are no TCP header
    assert p_cscf.statistics().malformed == 1
    assert inside(two, 17, good, sequence=51) is not None
    assert counted(p_cscf).packets_in == 1


def test_outer_addresses_belong_to_the_selector(two) -> None:
    ue, p_cscf = two
    for addresses in (NAT + P_CSCF, UE + NAT, P_CSCF + UE):
        protected = ue.protect(packet(UE, 40000, P_CSCF, 6500), 0.0)
        assert p_cscf.unprotect(addresses, 0, 64, protected.data) is None
    assert counted(p_cscf).bad_selector == 3


def test_dummy_packets_are_dropped_silently(two) -> None:
    """RFC 4303 2.6: next header 59."""
    _, p_cscf = two
    assert inside(two, 59, bytes(100)) is None
    assert counted(p_cscf) == dataclasses.replace(counted(p_cscf), bad_selector=0, packets_in=0, replayed=0)
    assert p_cscf.statistics().malformed == 0


def test_ipv6_extension_headers_in_transport_mode(agreement) -> None:
    """A bounded walk over what the far end put between ESP and UDP."""
    of_ue, of_p_cscf = agreement(version=6)
    p_cscf = Database(os.urandom)
    p_cscf.install(of_p_cscf, 0.0)
    association = next(sa for sa in of_ue.outbound if sa.spi == 10004)
    udp = (40000).to_bytes(2) + (6500).to_bytes(2) + bytes((0, 8, 0, 0))
    sealed = esp.transform(association, os.urandom).seal(1, 60, bytes((17, 0)) + bytes(6) + udp)
    addresses = ip.packed("2001:db8::1") + ip.packed("2001:db8::2")
    assert p_cscf.unprotect(addresses, 0, 64, sealed) == ip.ipv6_packet(addresses, 0, 64, 17, udp)


def test_replay_corruption_and_order_of_checks(two) -> None:
    """A forged packet does not move the window: integrity first, then the update (RFC 4303 3.4.3)."""
    ue, p_cscf = two
    first, second = (ue.protect(packet(UE, 40000, P_CSCF, 6500), 0.0).data for _ in range(2))
    ahead = first[:4] + (1 << 31).to_bytes(4) + first[8:]
    assert p_cscf.unprotect(UE + P_CSCF, 0, 64, ahead) is None
    assert p_cscf.unprotect(UE + P_CSCF, 0, 64, second) is not None
    assert p_cscf.unprotect(UE + P_CSCF, 0, 64, first) is not None  # late, but within the window
    assert p_cscf.unprotect(UE + P_CSCF, 0, 64, first) is None
    assert (counted(p_cscf).bad_integrity, counted(p_cscf).replayed, counted(p_cscf).packets_in) == (1, 1, 2)


def test_sequence_numbers_are_not_used_twice(two) -> None:
    """RFC 4303 3.3.3: at the end of the numbers the association sends no more."""
    ue, _ = two
    for sides in ue._outbound.values():
        sides[-1].sequence = esp.HIGHEST_SEQUENCE - 1
    assert ue.protect(packet(UE, 40000, P_CSCF, 6500), 0.0).data[4:8] == b"\xff\xff\xff\xff"
    assert ue.protect(packet(UE, 40000, P_CSCF, 6500), 0.0) is None


def test_collision_leaves_everything_as_it_was(two, agreement) -> None:
    ue, _ = two
    before = ue.statistics()
    with pytest.raises(SpiCollision) as collision:
        ue.install(agreement(name="another")[0], 0.0)
    assert "set0" in str(collision.value) and "new SPIs" in collision.value.cure
    with pytest.raises(IpsecError):
        ue.install(agreement(generation=1, name="set0")[0], 0.0)
    assert ue.statistics() == before and ue.names == ["set0"]


def test_the_newest_of_equal_selectors_sends(two, agreement) -> None:
    """A P-CSCF and a UE that keep all their ports at re-authentication; the old set returns if the new one goes."""
    ue, p_cscf = two
    renewed = []
    for associations in agreement(generation=0, name="new"):
        changed = [
            tuple(dataclasses.replace(sa, spi=sa.spi + 100) for sa in side)
            for side in (associations.inbound, associations.outbound)
        ]
        renewed.append(AssociationSet("new", *changed))
    clear = packet(UE, 40000, P_CSCF, 6500)
    old = ue.protect(clear, 0.0)
    ue.install(renewed[0], 0.0)
    p_cscf.install(renewed[1], 0.0)
    new = ue.protect(clear, 0.0)
    assert int.from_bytes(new.data[:4]) == 10104
    assert p_cscf.unprotect(UE + P_CSCF, 0, 64, new.data) == clear
    assert p_cscf.unprotect(UE + P_CSCF, 0, 64, old.data) == clear
    ue.remove("new")
    assert int.from_bytes(ue.protect(clear, 0.0).data[:4]) == 10004


def test_removed_sets_are_unknown(two) -> None:
    ue, p_cscf = two
    data = ue.protect(packet(UE, 40000, P_CSCF, 6500), 0.0).data
    assert p_cscf.remove("set0") is not None and p_cscf.remove("set0") is None
    assert p_cscf.unprotect(UE + P_CSCF, 0, 64, data) is None
    assert p_cscf.statistics().unknown_spi == 1 and not p_cscf.statistics().sets


def behind_nat(agreement, **changes):
    """A UE with a private address, and the P-CSCF, which knows the NAT's address and not yet its port."""
    of_ue, of_p_cscf = agreement(**changes)

    def moved(associations, old: str, new: str, encapsulation):
        def address(a):
            return dataclasses.replace(a, ip=new) if a.ip == old else a

        def side(listed, outbound: bool):
            ports = encapsulation if outbound else UdpEncapsulation()
            return tuple(
                dataclasses.replace(
                    sa, source=address(sa.source), destination=address(sa.destination), encapsulation=ports
                )
                for sa in listed
            )

        return AssociationSet(associations.name, side(associations.inbound, False), side(associations.outbound, True))

    ue, p_cscf = Database(os.urandom), Database(os.urandom)
    ue.install(moved(of_ue, "192.0.2.1", "10.0.0.5", UdpEncapsulation(keep_alive_s=20)), 0.0)
    p_cscf.install(moved(of_p_cscf, "192.0.2.1", "203.0.113.9", UdpEncapsulation()), 0.0)
    return ue, p_cscf


def test_annex_m_behind_a_nat(agreement, pair) -> None:
    """The P-CSCF's program sees the NAT's address, the UE's its own; checksums fit; the port is learned."""
    ue, p_cscf = behind_nat(agreement, pair=pair)
    for protocol in (17, 6):
        protected = ue.protect(packet(PRIVATE, 40000, P_CSCF, 6500, protocol=protocol), 0.0)
        assert protected.path == (("10.0.0.5", 4500), ("192.0.2.2", 4500))
        delivered = p_cscf.unprotect_udp(("203.0.113.9", 31000), protected.data)
        assert delivered == packet(NAT, 40000, P_CSCF, 6500, protocol=protocol)
        answer = p_cscf.protect(packet(P_CSCF, 6500, NAT, 40000, protocol=protocol), 0.0)
        assert answer.path == (("192.0.2.2", 4500), ("203.0.113.9", 31000))
        assert ue.unprotect_udp(("192.0.2.2", 4500), answer.data) == packet(
            P_CSCF, 6500, PRIVATE, 40000, protocol=protocol
        )
    # A peer that compares addresses inside the tunnel finds its own there: it told them first.
    sealed = p_cscf.protect(packet(P_CSCF, 6500, NAT, 40000), 0.0).data
    arriving = next(side for side in ue._inbound.values() if sealed.startswith(side.association.spi.to_bytes(4)))
    assert arriving.transform.open(sealed) == (4, packet(P_CSCF, 6500, PRIVATE, 40000))


def test_rebinding_is_learned_from_authenticated_and_new_packets_alone(agreement) -> None:
    """RFC 3948, RFC 4303: neither a forgery, nor a replay, nor a late packet moves the P-CSCF's answers."""
    ue, p_cscf = behind_nat(agreement)

    def sent() -> bytes:
        return ue.protect(packet(PRIVATE, 40000, P_CSCF, 6500), 0.0).data

    def answers_go_to() -> tuple[str, int]:
        return p_cscf.protect(packet(P_CSCF, 6000, NAT, 40500), 0.0).path.remote

    late, first = sent(), sent()
    p_cscf.unprotect_udp(("203.0.113.9", 31000), first)
    assert answers_go_to() == ("203.0.113.9", 31000)
    forged = sent()
    p_cscf.unprotect_udp(("198.51.100.1", 666), forged[:-1] + bytes((forged[-1] ^ 1,)))
    p_cscf.unprotect_udp(("198.51.100.1", 666), first)
    p_cscf.unprotect_udp(("198.51.100.1", 666), late)
    p_cscf.unprotect_udp(("198.51.100.1", 666), b"\xff")
    p_cscf.unprotect_udp(("198.51.100.1", 666), b"")
    assert answers_go_to() == ("203.0.113.9", 31000)
    p_cscf.unprotect_udp(("203.0.113.10", 32000), sent())
    assert answers_go_to() == ("203.0.113.10", 32000)


def test_the_ue_does_not_follow_the_p_cscf(agreement) -> None:
    """Only the side that is not behind the NAT learns."""
    ue, p_cscf = behind_nat(agreement)
    p_cscf.unprotect_udp(("203.0.113.9", 1), ue.protect(packet(PRIVATE, 40000, P_CSCF, 6500), 0.0).data)
    answer = p_cscf.protect(packet(P_CSCF, 6500, NAT, 40000), 0.0)
    assert ue.unprotect_udp(("198.51.100.1", 4500), answer.data) is not None
    assert ue.protect(packet(PRIVATE, 40000, P_CSCF, 6500), 0.0).path.remote == ("192.0.2.2", 4500)


def test_several_ues_behind_one_nat(agreement) -> None:
    """Annex M tells them apart by their protected ports; each has an address and port of its own at the NAT."""
    ue_a, p_cscf = behind_nat(agreement)
    ue_b, other = behind_nat(agreement, generation=3)
    p_cscf.install(next(iter(other._sets.values())).associations, 0.0)
    for ue, sport, nat_port in ((ue_a, 40000, 1111), (ue_b, 40003, 2222)):
        data = ue.protect(packet(PRIVATE, sport, P_CSCF, 6500), 0.0).data
        assert p_cscf.unprotect_udp(("203.0.113.9", nat_port), data) == packet(NAT, sport, P_CSCF, 6500)
    assert p_cscf.protect(packet(P_CSCF, 6500, NAT, 40000), 0.0).path.remote[1] == 1111
    assert p_cscf.protect(packet(P_CSCF, 6500, NAT, 40003), 0.0).path.remote[1] == 2222


def test_keep_alives(agreement) -> None:
    """RFC 3948 4: after 20 s of silence, by the side behind the NAT alone."""
    ue, p_cscf = behind_nat(agreement)
    assert p_cscf.deadline() is None
    assert ue.deadline() == 20.0 and ue.keep_alives(19.9) == []
    ue.protect(packet(PRIVATE, 40000, P_CSCF, 6500), 15.0)
    assert ue.deadline() == 35.0
    [due] = ue.keep_alives(35.0)
    assert due.data == b"\xff" and due.path.remote == ("192.0.2.2", 4500)
    assert ue.deadline() == 55.0
    assert p_cscf.unprotect_udp(("203.0.113.9", 1), due.data) is None
    assert p_cscf.statistics().malformed == p_cscf.statistics().unknown_spi == 0


def test_the_other_encapsulation_is_refused(two, agreement) -> None:
    """Bare ESP for a set in UDP, and the other way round."""
    ue, p_cscf = two
    assert p_cscf.unprotect_udp(("192.0.2.1", 4500), ue.protect(packet(UE, 40000, P_CSCF, 6500), 0.0).data) is None
    assert counted(p_cscf).bad_selector == 1
    ue, p_cscf = behind_nat(agreement)
    data = ue.protect(packet(PRIVATE, 40000, P_CSCF, 6500), 0.0).data
    assert p_cscf.unprotect(NAT + P_CSCF, 0, 64, data) is None
    assert counted(p_cscf).bad_selector == 1


def test_a_peer_with_other_keys_is_not_heard(agreement) -> None:
    of_ue, of_p_cscf = agreement()
    keys = expand_keys(STANDARD_PAIRS[0], Secret(bytes(16)), Secret(bytes(16)))
    changed = [tuple(dataclasses.replace(sa, keys=keys) for sa in side) for side in (of_ue.inbound, of_ue.outbound)]
    ue, p_cscf = Database(os.urandom), Database(os.urandom)
    ue.install(AssociationSet("set0", *changed), 0.0)
    p_cscf.install(of_p_cscf, 0.0)
    assert p_cscf.unprotect(UE + P_CSCF, 0, 64, ue.protect(packet(UE, 40000, P_CSCF, 6500), 0.0).data) is None
    assert counted(p_cscf).bad_integrity == 1


@given(data=st.binary(max_size=120), keep=st.integers(0, 80), encapsulated=st.booleans())
def test_noise_never_escapes_and_never_passes(agreement, data: bytes, keep: int, encapsulated: bool) -> None:
    """A good packet's beginning, then noise: from the network and from the device."""
    ports = UdpEncapsulation() if encapsulated else None
    of_ue, of_p_cscf = agreement(encapsulation=ports)
    ue, p_cscf = Database(os.urandom), Database(os.urandom)
    ue.install(of_ue, 0.0)
    p_cscf.install(of_p_cscf, 0.0)
    clear = packet(UE, 40000, P_CSCF, 6500)
    ue.protect(clear[: min(keep, len(clear) - 1)] + data, 0.0)
    good = ue.protect(clear, 0.0).data
    noisy = good[: min(keep, len(good) - 1)] + data
    if noisy != good:
        assert p_cscf.unprotect(UE + P_CSCF, 0, 64, noisy) is None
        assert p_cscf.unprotect_udp(("192.0.2.1", 4500), noisy) is None
