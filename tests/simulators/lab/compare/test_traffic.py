"""Packets made by scapy, counted by reference point."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP  # type: ignore[import-untyped]
from scapy.layers.ipsec import ESP  # type: ignore[import-untyped]
from scapy.packet import Raw  # type: ignore[import-untyped]

from simulators.lab.compare.traffic import Counter, Rule, parse

UE, CORE, PHONE = "10.45.0.2", "10.45.0.1", "10.46.0.2"
INVITE = b"INVITE tel:+15550200 SIP/2.0\r\nContent-Length: 3\r\n\r\nabc"
RINGING = b"SIP/2.0 180 Ringing\r\nContent-Length: 0\r\n\r\n"
RULES = (
    Rule("Gm", CORE, interface="ims0", sip=True),
    Rule("Gm", CORE, counted=False, sip=True),
    Rule("Mb", PHONE, interface="ims0"),
)


def packet(*layers: Any) -> bytes:
    whole = layers[0]
    for layer in layers[1:]:
        whole = whole / layer
    return bytes(whole)


def udp(payload: bytes, source: str = UE, target: str = CORE, port: int = 5060) -> bytes:
    return packet(IP(src=source, dst=target), UDP(sport=5060, dport=port), Raw(payload))


def tcp(sequence: int, payload: bytes) -> bytes:
    return packet(IP(src=UE, dst=CORE), TCP(sport=40000, dport=5060, seq=sequence, flags="PA"), Raw(payload))


def test_sip_over_udp_is_counted_with_packets_and_bytes() -> None:
    counter = Counter(RULES)
    sent = [udp(INVITE), udp(RINGING, CORE, UE), udp(b"\r\n\r\n")]
    for data in sent:
        counter.take("ims0", data)
    found = counter.result()["Gm"]
    assert (found.messages, found.packets, found.bytes) == (2, 3, sum(map(len, sent)))


def test_inside_a_tunnel_messages_count_and_outside_packets() -> None:
    counter = Counter(RULES)
    outside = packet(IP(src=UE, dst=CORE, proto=50), ESP(spi=1, seq=1, data=bytes(80)))
    counter.take("ims0", outside)
    counter.take("esp0", udp(INVITE))
    found = counter.result()["Gm"]
    assert (found.messages, found.packets, found.bytes) == (1, 1, len(outside))


def test_a_tunnel_that_only_the_kernel_sees_into_has_no_messages() -> None:
    counter = Counter(RULES)
    counter.take("ims0", packet(IP(src=UE, dst=CORE, proto=50), ESP(spi=1, seq=1, data=bytes(80))))
    found = counter.result()["Gm"]
    assert found.messages is None
    assert "kernel" in found.reason


def test_media_is_not_signalling() -> None:
    counter = Counter(RULES)
    counter.take("ims0", udp(bytes(60), UE, PHONE, 40000))
    counter.take("wan0", udp(bytes(60), UE, PHONE, 40000))
    counter.take("ims0", udp(bytes(60), UE, "10.9.9.9", 40000))
    found = counter.result()
    assert (found["Mb"].packets, found["Mb"].bytes, found["Mb"].messages) == (1, 88, None)
    assert found["Gm"].packets == 0


def test_sip_over_tcp_counts_messages_and_not_segments_or_what_came_again() -> None:
    counter = Counter(RULES)
    begin = 0xFFFFFFF0  # the sequence number goes round
    both = INVITE + RINGING
    for start, end in ((0, 20), (20, len(both) - 5), (20, len(both) - 5), (10, 40), (len(both) - 5, len(both))):
        counter.take("ims0", tcp((begin + start) & 0xFFFFFFFF, both[start:end]))
    found = counter.result()["Gm"]
    assert (found.messages, found.packets) == (2, 5)


def test_after_a_gap_messages_are_found_again() -> None:
    counter = Counter(RULES)
    counter.take("ims0", tcp(1, INVITE[:20]))
    counter.take("ims0", tcp(5000, INVITE))
    assert counter.result()["Gm"].messages == 1


def test_reset_begins_anew() -> None:
    counter = Counter(RULES)
    counter.take("ims0", udp(INVITE))
    counter.reset()
    assert counter.result()["Gm"].packets == 0


@pytest.mark.parametrize("data", [udp(INVITE), tcp(7, INVITE)])
def test_every_truncation_is_read_or_passed_over(data: bytes) -> None:
    counter = Counter(RULES)
    for end in range(len(data)):
        parse(data[:end])
        counter.take("ims0", data[:end])


@given(st.binary(max_size=120))
def test_any_octets_are_read_or_passed_over(noise: bytes) -> None:
    counter = Counter(RULES)
    counter.take("ims0", noise)
    counter.take("ims0", udp(INVITE)[:20] + noise)
    counter.take("ims0", tcp(1, INVITE)[:32] + noise)
