"""The security association database of one back end in this process (RFC 4301 4.4, 5; RFC 3948; TS 33.203 annex M).

It takes packets of protected sockets and returns ESP, and the other way round, and decides what is dropped.  What it
cannot do itself, the system's packets and sockets, is its owner's; the owner says which ``Path`` a packet came on and
sends on the one that it is told.  Packets are calls, not events, for there are many thousands of them a second; time
matters for keep-alives alone, which keep to the contract of ``imskit.engine``: ``deadline()`` and ``keep_alives(now)``.

Several sets may be installed between the same addresses (re-authentication): packets come in by SPI, so all of them
receive; outwards a set is found by addresses and ports, and the newest of those that share them sends.

Annex M: the outer header is the selector.  Addresses inside the tunnel are replaced by the association's on the way
in; on the way out the far end's inner address is the one that it used itself.  Where the far end may be behind a NAT,
its address and port are learned from authenticated packets, and only from the newest.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import NamedTuple

from imskit.ipsec.association import AssociationSet, SecurityAssociation
from imskit.ipsec.engine.replay import ReplayWindow
from imskit.ipsec.errors import IpsecError, PacketRefused, Refusal, SpiCollision
from imskit.ipsec.statistics import BackendStatistics, SetStatistics
from imskit.ipsec.wire import esp, ip

_log = logging.getLogger(__name__)

_SMALLEST_SEGMENT = 88
_UDP_HEADER_BYTES = 8
_KEEP_ALIVE = b"\xff"
_NON_ESP_MARKER = bytes(4)


class Path(NamedTuple):
    """Where ESP leaves and where it goes; port 0 means bare ESP, another one UDP encapsulation."""

    local: tuple[str, int]
    remote: tuple[str, int]


class Protected(NamedTuple):
    """An ESP packet (or a keep-alive) to send."""

    path: Path
    traffic_class: int
    """DSCP and ECN of the packet inside, one octet."""
    data: bytes


@dataclass(slots=True)
class _Counters:
    packets_in: int = 0
    bytes_in: int = 0
    packets_out: int = 0
    bytes_out: int = 0
    replayed: int = 0
    bad_integrity: int = 0
    bad_selector: int = 0


@dataclass(slots=True, eq=False)
class _Set:
    associations: AssociationSet
    path: Path
    keep_alive_s: float | None
    last_sent: float
    far_inner: bytes
    """The far end's address inside the tunnel."""
    counters: _Counters = field(default_factory=_Counters)


class _Side:
    """One association at work."""

    __slots__ = ("addresses", "association", "encapsulated", "owner", "segment_limit", "selector", "transform")

    def __init__(self, association: SecurityAssociation, owner: _Set, random: esp.RandomBytes, mtu: int) -> None:
        self.association = association
        self.owner = owner
        self.transform = esp.transform(association, random)
        self.encapsulated = association.encapsulation is not None
        source, destination = association.source, association.destination
        self.addresses = ip.packed(source.ip) + ip.packed(destination.ip)
        self.selector = self.addresses + source.port.to_bytes(2) + destination.port.to_bytes(2)
        header = ip.IPV4_HEADER_BYTES if source.version == 4 else ip.IPV6_HEADER_BYTES
        room = mtu - header - (_UDP_HEADER_BYTES if self.encapsulated else 0)
        segment = self.transform.payload_limit(room) - 20 - (header if self.encapsulated else 0)
        self.segment_limit = max(segment, _SMALLEST_SEGMENT)


class _Outbound(_Side):
    __slots__ = ("sequence",)

    def __init__(self, association: SecurityAssociation, owner: _Set, random: esp.RandomBytes, mtu: int) -> None:
        super().__init__(association, owner, random, mtu)
        self.sequence = 0


class _Inbound(_Side):
    __slots__ = ("window",)

    def __init__(self, association: SecurityAssociation, owner: _Set, random: esp.RandomBytes, mtu: int) -> None:
        super().__init__(association, owner, random, mtu)
        self.window = ReplayWindow()


class Database:
    """All sets of one back end; ``random`` returns unpredictable octets (vectors of CBC)."""

    def __init__(self, random: esp.RandomBytes) -> None:
        self._random = random
        self._sets: dict[str, _Set] = {}
        self._inbound: dict[bytes, _Inbound] = {}
        self._outbound: dict[bytes, list[_Outbound]] = {}
        self._unknown_spi = 0
        self._malformed = 0
        self._unprotected = 0
        self._told: set[tuple[str, Refusal]] = set()

    def install(self, associations: AssociationSet, now: float, mtu: int = 1500) -> None:
        """Put a set to work at ``now``; ``mtu`` is the path's, in octets, and bounds TCP's segments.

        ``SpiCollision`` if an inbound SPI is in use, ``IpsecError`` if the name is; nothing has changed then.
        """
        if associations.name in self._sets:
            raise IpsecError(f"a set named {associations.name} is installed already", cure="Remove it first.")
        for association in associations.inbound:
            if taken := self._inbound.get(association.spi.to_bytes(4)):
                raise SpiCollision(association.spi, f"set {taken.owner.associations.name}")
        first = associations.outbound[0]
        ports = first.encapsulation
        path = Path(
            (first.source.ip, ports.source_port if ports else 0),
            (first.destination.ip, ports.destination_port if ports else 0),
        )
        keep_alive_s = ports.keep_alive_s if ports else None
        owner = _Set(associations, path, keep_alive_s, now, ip.packed(first.destination.ip))
        inbound = [_Inbound(association, owner, self._random, mtu) for association in associations.inbound]
        outbound = [_Outbound(association, owner, self._random, mtu) for association in associations.outbound]
        self._sets[associations.name] = owner
        for arriving in inbound:
            self._inbound[arriving.association.spi.to_bytes(4)] = arriving
        for leaving in outbound:
            self._outbound.setdefault(leaving.selector, []).append(leaving)

    def remove(self, name: str) -> Path | None:
        """Forget a set and its keys; return the path that it used, ``None`` if there is no such set."""
        owner = self._sets.pop(name, None)
        if owner is None:
            return None
        self._inbound = {spi: side for spi, side in self._inbound.items() if side.owner is not owner}
        for selector, sides in list(self._outbound.items()):
            if left := [side for side in sides if side.owner is not owner]:
                self._outbound[selector] = left
            else:
                del self._outbound[selector]
        self._told = {key for key in self._told if key[0] != name}
        return owner.path

    @property
    def names(self) -> list[str]:
        """The installed sets, in the order of their installation."""
        return list(self._sets)

    def protect(self, packet: bytes, now: float) -> Protected | None:
        """Seal an IP packet of a protected socket; ``None`` if it must not leave this machine."""
        try:
            datagram = ip.parse(packet)
        except PacketRefused as refusal:
            # What is neither UDP nor TCP is the system's own (router solicitations, say) and of no interest.
            if refusal.reason is Refusal.MALFORMED:
                self._unprotected += 1
                self._tell("", Refusal.UNPROTECTED, str(refusal))
            return None
        candidates = self._outbound.get(datagram.selector)
        if candidates is None:
            self._unprotected += 1
            self._tell("", Refusal.UNPROTECTED, "no association for the packet's addresses and ports")
            return None
        leaving = candidates[-1]
        if leaving.sequence == esp.HIGHEST_SEQUENCE:
            self._unprotected += 1
            self._tell(leaving.owner.associations.name, Refusal.UNPROTECTED, "all sequence numbers are used up")
            return None
        leaving.sequence += 1
        owner, protocol, payload = leaving.owner, datagram.protocol, datagram.payload
        if protocol == ip.TCP:
            payload = ip.clamp_segment_size(payload, leaving.segment_limit)
        owner.counters.packets_out += 1
        owner.counters.bytes_out += len(payload)
        owner.last_sent = now
        if leaving.encapsulated:
            protocol, payload = _into_tunnel(leaving, datagram, payload)
        data = leaving.transform.seal(leaving.sequence, protocol, payload)
        return Protected(owner.path, datagram.traffic_class, data)

    def unprotect(self, addresses: bytes, traffic_class: int, hop_limit: int, packet: bytes) -> bytes | None:
        """Open an ESP packet that came bare and return the IP packet to deliver; ``None``: dropped and counted.

        ``addresses`` are source and destination of the IP header that it had, packed one after the other.
        """
        if (opened := self._open(packet, encapsulated=False)) is None:
            return None
        arriving, protocol, payload = opened
        try:
            if protocol not in (ip.UDP, ip.TCP) and len(addresses) == 32:
                protocol, offset = ip.skip_extensions(protocol, payload)
                payload = payload[offset:]
            if addresses != arriving.addresses:
                raise PacketRefused(Refusal.BAD_SELECTOR, "ESP from or to another address", "RFC 4301 5.2")
            return _delivered(arriving, traffic_class, hop_limit, protocol, payload)
        except PacketRefused as refusal:
            self._refuse(arriving.owner, refusal)
            return None

    def unprotect_udp(self, source: tuple[str, int], packet: bytes) -> bytes | None:
        """Open an ESP packet that came in UDP from ``source``; as ``unprotect`` (RFC 3948, annex M)."""
        if packet == _KEEP_ALIVE or packet.startswith(_NON_ESP_MARKER):
            return None
        if (opened := self._open(packet, encapsulated=True)) is None:
            return None
        arriving, protocol, payload = opened
        owner = arriving.owner
        try:
            inner = ip.parse(payload) if protocol in (ip.IPV4, ip.IPV6) else None
            if inner is None or len(inner.selector) != len(arriving.selector):
                raise PacketRefused(Refusal.BAD_SELECTOR, "no IP packet of this version inside", "TS 33.203 M.7")
            width = len(arriving.addresses)
            mended = ip.replace_addresses(inner.protocol, inner.payload, inner.selector[:width], arriving.addresses)
            delivered = _delivered(arriving, inner.traffic_class, inner.hop_limit, inner.protocol, mended)
        except PacketRefused as refusal:
            self._refuse(owner, refusal)
            return None
        if owner.keep_alive_s is None and int.from_bytes(packet[4:8]) == arriving.window.top:
            owner.far_inner = inner.selector[: width // 2]
            if owner.path.remote != source:
                _log.info("set %s: the far end's NAT sends from %s:%d now", owner.associations.name, *source)
                owner.path = Path(owner.path.local, source)
        return delivered

    def _open(self, packet: bytes, *, encapsulated: bool) -> tuple[_Inbound, int, bytes] | None:
        if len(packet) < esp.HEADER_BYTES:
            self._malformed += 1
            return None
        arriving = self._inbound.get(packet[:4])
        if arriving is None:
            self._unknown_spi += 1
            return None
        sequence = int.from_bytes(packet[4:8])
        try:
            if arriving.encapsulated is not encapsulated:
                raise PacketRefused(Refusal.BAD_SELECTOR, "ESP in the other encapsulation", "TS 33.203 M.7")
            if not arriving.window.fresh(sequence):
                raise PacketRefused(Refusal.REPLAYED, f"sequence number {sequence} again, or too old", "RFC 4303 3.4.3")
            next_header, payload = arriving.transform.open(packet)
        except PacketRefused as refusal:
            self._refuse(arriving.owner, refusal)
            return None
        arriving.window.accept(sequence)
        if next_header == ip.NO_NEXT_HEADER:
            return None  # a dummy packet, against traffic analysis (RFC 4303 2.6)
        return arriving, next_header, payload

    def _refuse(self, owner: _Set, refusal: PacketRefused) -> None:
        if refusal.reason is Refusal.MALFORMED:
            self._malformed += 1
        else:
            name = refusal.reason.value
            setattr(owner.counters, name, getattr(owner.counters, name) + 1)
        self._tell(owner.associations.name, refusal.reason, str(refusal))

    def _tell(self, name: str, reason: Refusal, why: str) -> None:
        if (name, reason) not in self._told:
            self._told.add((name, reason))
            _log.info("IPsec %s: packet dropped: %s; more of this kind are only counted", name or "(no set)", why)

    def deadline(self) -> float | None:
        """When ``keep_alives`` has something to do next."""
        return min(
            (each.last_sent + each.keep_alive_s for each in self._sets.values() if each.keep_alive_s is not None),
            default=None,
        )

    def keep_alives(self, now: float) -> list[Protected]:
        """Return the keep-alives that are due (RFC 3948 4)."""
        due: dict[Path, Protected] = {}
        for each in self._sets.values():
            if each.keep_alive_s is not None and each.last_sent + each.keep_alive_s <= now:
                each.last_sent = now
                due[each.path] = Protected(each.path, 0, _KEEP_ALIVE)
        return list(due.values())

    def statistics(self) -> BackendStatistics:
        """Return the counters as they are now."""
        return BackendStatistics(
            sets={name: _statistics(each.counters) for name, each in self._sets.items()},
            unknown_spi=self._unknown_spi,
            malformed=self._malformed,
            unprotected=self._unprotected,
        )


def _delivered(arriving: _Inbound, traffic_class: int, hop_limit: int, protocol: int, payload: bytes) -> bytes:
    """Check the selector of what was inside (RFC 4301 5.2) and make the packet for the socket."""
    if protocol == ip.TCP:
        if len(payload) < 20:
            raise PacketRefused(Refusal.MALFORMED, "a TCP header that is cut off", "RFC 9293 3.1")
        payload = ip.clamp_segment_size(payload, arriving.segment_limit)
    elif protocol != ip.UDP:
        raise PacketRefused(Refusal.BAD_SELECTOR, f"IP protocol {protocol}, not UDP or TCP", "TS 33.203 7.1")
    addresses = arriving.addresses
    if payload[:4] != arriving.selector[-4:]:
        raise PacketRefused(Refusal.BAD_SELECTOR, "ports that the association is not for", "RFC 4301 5.2")
    counters = arriving.owner.counters
    counters.packets_in += 1
    counters.bytes_in += len(payload)
    make = ip.ipv4_packet if len(addresses) == 8 else ip.ipv6_packet
    return make(addresses, traffic_class, hop_limit, protocol, payload)


def _into_tunnel(leaving: _Outbound, datagram: ip.Datagram, payload: bytes) -> tuple[int, bytes]:
    half = len(leaving.addresses) // 2
    addresses = leaving.addresses[:half] + leaving.owner.far_inner
    payload = ip.replace_addresses(datagram.protocol, payload, leaving.addresses, addresses)
    version, make = (ip.IPV4, ip.ipv4_packet) if half == 4 else (ip.IPV6, ip.ipv6_packet)
    return version, make(addresses, datagram.traffic_class, datagram.hop_limit, datagram.protocol, payload)


def _statistics(counters: _Counters) -> SetStatistics:
    return SetStatistics(
        counters.packets_in,
        counters.bytes_in,
        counters.packets_out,
        counters.bytes_out,
        counters.replayed,
        counters.bad_integrity,
        counters.bad_selector,
    )
