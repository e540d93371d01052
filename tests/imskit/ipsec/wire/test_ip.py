"""IP, UDP and TCP headers beside scapy, which computes them anew; then what is cut off or odd."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.packet import Raw

from imskit.ipsec.errors import PacketRefused, Refusal
from imskit.ipsec.wire import ip

V4 = ip.packed("192.0.2.1") + ip.packed("192.0.2.2")
V6 = ip.packed("2001:db8::1") + ip.packed("2001:db8::2")
HEADERS = {4: IP(src="192.0.2.1", dst="192.0.2.2"), 6: IPv6(src="2001:db8::1", dst="2001:db8::2")}
PORTS = bytes.fromhex("13c513c6")


@pytest.mark.parametrize(("version", "addresses"), [(4, V4), (6, V6)])
@pytest.mark.parametrize("transport", [UDP, TCP])
def test_both_ways(version: int, addresses: bytes, transport) -> None:
    header = HEADERS[version].copy()
    setattr(header, "tos" if version == 4 else "tc", 0xB8)
    setattr(header, "ttl" if version == 4 else "hlim", 17)
    packet = bytes(header / transport(sport=5061, dport=5062) / Raw(b"hello"))
    read = ip.parse(packet)
    assert read[:4] == (version, 0xB8, 17, addresses + PORTS)
    assert read.protocol == {UDP: 17, TCP: 6}[transport]
    make = ip.ipv4_packet if version == 4 else ip.ipv6_packet
    made = make(addresses, 0xB8, 17, read.protocol, read.payload)
    again = type(header)(made)
    if version == 4:
        assert again.flags == "DF" and again.id == 0
        del again.chksum
    assert bytes(again) == made and bytes(again[transport]) == read.payload


def test_ipv4_options_and_trailing_octets_are_left_out() -> None:
    packet = bytes(IP(src="192.0.2.1", dst="192.0.2.2", options=b"\1\1\1\0") / UDP(sport=5061, dport=5062)) + b"pad"
    read = ip.parse(packet)
    assert read.selector == V4 + PORTS and len(read.payload) == 8


def test_ipv6_extension_headers() -> None:
    walk = HEADERS[6] / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP(sport=5061, dport=5062) / Raw(b"x")
    assert ip.parse(bytes(walk)).selector == V6 + PORTS
    longer = HEADERS[6].copy()
    for _ in range(5):
        longer = longer / IPv6ExtHdrDestOpt()
    with pytest.raises(PacketRefused, match="protocol 60"):
        ip.parse(bytes(longer / UDP()))
    with pytest.raises(PacketRefused, match="protocol 44"):
        ip.parse(bytes(HEADERS[6] / IPv6ExtHdrFragment() / UDP() / Raw(bytes(16))))


@pytest.mark.parametrize("change", [{"flags": "MF"}, {"frag": 1}, {"frag": 0x100}])
def test_fragments_are_refused(change) -> None:
    with pytest.raises(PacketRefused, match="fragment"):
        ip.parse(bytes(IP(**change) / UDP() / Raw(bytes(8))))


def test_what_is_neither_udp_nor_tcp() -> None:
    with pytest.raises(PacketRefused) as refused:
        ip.parse(bytes(IP(proto=1) / Raw(bytes(8))))
    assert refused.value.reason is Refusal.BAD_SELECTOR


@pytest.mark.parametrize("whole", [HEADERS[4] / UDP() / b"1234", HEADERS[6] / IPv6ExtHdrDestOpt() / TCP() / b"1234"])
def test_truncation_at_each_octet(whole) -> None:
    packet = bytes(whole)
    for length in range(len(packet)):
        with pytest.raises(PacketRefused):
            ip.parse(packet[:length])


@given(st.sampled_from([b"", bytes(HEADERS[4] / UDP()), bytes(HEADERS[6] / TCP())]), st.integers(0), st.binary())
def test_only_the_one_exception_escapes(packet: bytes, keep: int, noise: bytes) -> None:
    try:
        read = ip.parse(packet[: keep % (len(packet) + 1)] + noise)
    except PacketRefused:
        return
    if read.protocol == ip.TCP:
        ip.clamp_segment_size(read.payload, 1000)


@given(st.binary(max_size=100))
def test_checksum_beside_scapys(data: bytes) -> None:
    from scapy.utils import checksum

    assert ip.internet_checksum(data) == checksum(data)


@given(st.sampled_from([UDP, TCP]), st.binary(max_size=40), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF))
def test_replaced_addresses(transport, text: bytes, source: int, destination: int) -> None:
    """The mended checksum is the one that scapy computes for the new addresses."""
    new = source.to_bytes(4) + destination.to_bytes(4)
    segment = transport(sport=5061, dport=5062) / Raw(text)
    before = bytes(IP(src="192.0.2.1", dst="192.0.2.2") / segment)[20:]
    after = bytes(IP(src=".".join(map(str, new[:4])), dst=".".join(map(str, new[4:]))) / segment)[20:]
    number = {UDP: 17, TCP: 6}[transport]
    assert ip.replace_addresses(number, before, V4, new) == after


def test_udp_without_checksum_stays_without() -> None:
    payload = PORTS + b"\0\x08\0\0"
    assert ip.replace_addresses(17, payload, V4, bytes(8)) == payload


@pytest.mark.parametrize("before", [[], [("NOP", None)], [("WScale", 7)], [("Timestamp", (1, 2)), ("NOP", None)]])
@pytest.mark.parametrize("size", [500, 1300, 1301, 1460, 65535])
def test_segment_size_of_syn_is_lowered(before, size: int) -> None:
    """At even and odd places; never raised; the checksum is right afterwards."""

    def syn(mss: int) -> bytes:
        options = [*before, ("MSS", mss), ("EOL", None)]
        return bytes(HEADERS[4] / TCP(sport=5061, dport=5062, flags="S", options=options))[20:]

    assert ip.clamp_segment_size(syn(size), 1300) == syn(min(size, 1300))


def test_segments_that_are_left_alone() -> None:
    data = bytes(HEADERS[4] / TCP(flags="PA", options=[("MSS", 1460)]) / b"text")[20:]
    assert ip.clamp_segment_size(data, 1000) == data
    for options in (b"\2\0\5\xb4", b"\2\4\5", b"\x08\xff\2\4", b"\1\1\1\2"):
        broken = bytes(12) + bytes((0x60, 2)) + bytes(6) + options
        assert ip.clamp_segment_size(broken, 1000) == broken
