"""IP packets seen in the lab, counted by reference point."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from imskit.sip.wire.stream import StreamFramer
from simulators.lab.compare.model import Traffic

TCP, UDP, ESP = 6, 17, 50
_SIP = re.compile(rb"(?:SIP/2\.0 \d{3} |[A-Z]{3,16} [^ \r\n]{1,512} SIP/2\.0\r\n)")


@dataclass(frozen=True)
class Packet:
    """What counting needs of an IPv4 packet."""

    source: str
    target: str
    protocol: int
    octets: int
    """Of the IP packet, header included."""
    ports: tuple[int, int] | None
    """`None` in later fragments, and where the protocol has none."""
    sequence: int
    """Of TCP, else 0."""
    payload: bytes
    """Of UDP or TCP."""


def parse(data: bytes) -> Packet | None:
    """Read an IPv4 packet; `None` for anything else, or less than its headers."""
    if len(data) < 20 or data[0] >> 4 != 4:
        return None
    begin = (data[0] & 15) * 4
    octets = struct.unpack_from("!H", data, 2)[0] or len(data)
    end = min(octets, len(data))
    if begin < 20 or end < begin:
        return None
    source, target, protocol = str(IPv4Address(data[12:16])), str(IPv4Address(data[16:20])), data[9]
    first = struct.unpack_from("!H", data, 6)[0] & 0x1FFF == 0
    if protocol == UDP and first and end >= begin + 8:
        return Packet(source, target, protocol, octets, _ports(data, begin), 0, data[begin + 8 : end])
    if protocol == TCP and first and end >= begin + 20:
        sequence = struct.unpack_from("!I", data, begin + 4)[0]
        payload = data[begin + (data[begin + 12] >> 4) * 4 : end]
        return Packet(source, target, protocol, octets, _ports(data, begin), sequence, payload)
    return Packet(source, target, protocol, octets, None, 0, b"")


def _ports(data: bytes, begin: int) -> tuple[int, int]:
    near, far = struct.unpack_from("!HH", data, begin)
    return near, far


@dataclass(frozen=True)
class Rule:
    """Which packets belong to a reference point; the first rule that fits a packet takes it."""

    point: str
    address: str
    """One end."""
    other: str = ""
    """The other end; empty: any."""
    interface: str = ""
    """Empty: any."""
    protocols: tuple[int, ...] = (TCP, UDP, ESP)
    counted: bool = True
    """Whether packets and bytes count: the view inside a tunnel gives messages only."""
    sip: bool = False
    """Whether SIP messages are counted."""

    def fits(self, interface: str, packet: Packet) -> bool:
        """Whether ``packet`` belongs here."""
        ends = (packet.source, packet.target)
        return (
            (not self.interface or interface == self.interface)
            and self.address in ends
            and (not self.other or self.other in ends)
            and packet.protocol in self.protocols
        )


class Counter:
    """Counts packets by the rules of one place, between `reset` and `result`."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = tuple(rules)
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._found = {rule.point: Traffic(0 if rule.sip else None, 0, 0) for rule in self._rules}
        for rule in self._rules:
            if rule.sip:
                self._found[rule.point].messages = 0
        self._tunnelled: set[str] = set()
        self._streams: dict[tuple[str, str, tuple[int, int]], _Stream] = {}

    def take(self, interface: str, data: bytes) -> None:
        """Count one IP packet, if a rule wants it."""
        packet = parse(data)
        if packet is None:
            return
        rule = next((rule for rule in self._rules if rule.fits(interface, packet)), None)
        if rule is None:
            return
        found = self._found[rule.point]
        if rule.counted:
            found.packets = (found.packets or 0) + 1
            found.bytes = (found.bytes or 0) + packet.octets
        if rule.sip:
            if packet.protocol == ESP:
                self._tunnelled.add(rule.point)
            found.messages = (found.messages or 0) + self._messages(packet)

    def _messages(self, packet: Packet) -> int:
        if packet.protocol == UDP:
            return int(_SIP.match(packet.payload) is not None)
        if packet.protocol == TCP and packet.ports is not None and packet.payload:
            stream = self._streams.setdefault((packet.source, packet.target, packet.ports), _Stream())
            return stream.take(packet.sequence, packet.payload)
        return 0

    def result(self) -> dict[str, Traffic]:
        """What has been counted, by reference point."""
        for point in self._tunnelled:
            if self._found[point].messages == 0:
                self._found[point].messages = None
                self._found[point].reason = "ESP by the kernel: what is inside cannot be seen on the device"
        return self._found


class _Stream:
    """SIP messages in one direction of a TCP connection, seen from its beginning or from a message's."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._framer: StreamFramer | None = StreamFramer()

    def take(self, sequence: int, payload: bytes) -> int:
        if self._next is None:
            self._next = sequence
        behind = (self._next - sequence) & 0xFFFFFFFF
        if behind >= 1 << 31:  # a gap: the capture missed something, messages begin anew
            self._framer, behind = StreamFramer(), 0
        fresh = payload[behind:]
        if not fresh:
            return 0
        self._next = (sequence + len(payload)) & 0xFFFFFFFF
        if self._framer is None:
            return 0
        return sum(isinstance(frame, bytes) and _SIP.match(frame) is not None for frame in self._framer.feed(fresh))
