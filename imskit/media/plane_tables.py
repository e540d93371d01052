"""The Python plane's tables: sockets, legs, routes and TURN channels, and the records kept of a stream."""

from __future__ import annotations

import secrets
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from imskit.media.plane import (
    Address,
    LegHandler,
    LegId,
    Punt,
    Reception,
    Relay,
    Sending,
    SocketId,
    Source,
    SrtpKeys,
    Tap,
)
from imskit.media.srtp import SrtpContext

_MAX_DROPOUT = 3000
"""A jump of sequence numbers beyond this is a restart of the stream (RFC 3550 A.1)."""
_MAX_MISORDER = 100


class Route:
    """A relay between two legs, with the offsets that keep the leaving stream continuous."""

    __slots__ = ("clock_rate", "payload_types", "sequence_offset", "ssrc", "target", "timestamp_offset")

    def __init__(self, target: Leg, relay: Relay) -> None:
        self.target = target
        self.payload_types = dict(relay.payload_types)
        self.clock_rate = relay.clock_rate
        self.ssrc: int | None = None
        self.sequence_offset = 0
        self.timestamp_offset = 0

    def align(self, ssrc: int, sequence: int, timestamp: int, now: float) -> None:
        """Let a packet of a new source follow what the target sent last."""
        sending = self.target.sending
        elapsed = 0 if sending.at is None else max(1, round((now - sending.at) * self.clock_rate))
        self.ssrc = ssrc
        self.sequence_offset = sending.sequence + 1 - sequence
        self.timestamp_offset = sending.timestamp + elapsed - timestamp


@dataclass(slots=True, eq=False)
class Leg:
    """One side of a call."""

    id: LegId
    handler: LegHandler
    secured: bool
    sending: Sending
    socket: SocketEntry | None = None
    rtcp_socket: SocketEntry | None = None
    address: Address = ("", 0)
    rtp_remote: Address | None = None
    rtcp_remote: Address | None = None
    channel: Channel | None = None
    """The own TURN channel that leads to ``rtp_remote``."""
    source: Source = Source.EXACT
    keys: SrtpKeys | None = None
    send: SrtpContext | None = None
    receive: SrtpContext | None = None
    old_receive: SrtpContext | None = None
    """The receiving key before the last re-key, and until when it is tried."""
    old_until: float = 0.0
    send_direction: bool = True
    receive_direction: bool = True
    clocks: Mapping[int, int] = field(default_factory=dict)
    route: Route | None = None
    tap: Tap | None = None
    writer: Route | None = None
    """The route that sent the last packet out of this leg; ``None`` when it was injected."""
    reception: Reception | None = None
    packets_received: int = 0
    octets_received: int = 0
    packets_sent: int = 0
    octets_sent: int = 0
    first_received: float | None = None
    last_received: float | None = None
    first_sent: float | None = None
    payload_type: int | None = None
    dropped: Counter[str] = field(default_factory=Counter)

    def arrived(self, ssrc: int, sequence: int, timestamp: int, payload_type: int, now: float) -> None:
        """Keep the reception record (RFC 3550 A.1, A.8)."""
        record = self.reception
        if record is None or record.ssrc != ssrc:
            record = self.reception = Reception(ssrc, sequence, sequence)
        elif (step := sequence - record.highest & 0xFFFF) < _MAX_DROPOUT:
            record.highest += step
        elif step <= 0x10000 - _MAX_MISORDER:
            record = self.reception = Reception(ssrc, sequence, sequence)
        record.received += 1
        clock_rate = self.clocks.get(payload_type)
        if clock_rate is None:
            return
        transit = (now * clock_rate - timestamp) % 4294967296.0
        before = record.transit
        if before is not None and record.clock_rate == clock_rate:
            difference = transit - before if transit > before else before - transit
            if difference > 2147483648.0:
                difference = 4294967296.0 - difference
            record.jitter += (difference - record.jitter) / 16.0
        record.transit = transit
        record.clock_rate = clock_rate


@dataclass(slots=True, eq=False)
class Channel:
    """A bound TURN channel: client at a server socket, peer by a relay socket or an own leg."""

    server: SocketEntry
    client: Address
    number: int
    relay: SocketEntry | None
    relayed: Address
    peer: Address
    expiry: float


@dataclass(slots=True, eq=False)
class SocketEntry:
    """A socket that the plane reads."""

    id: SocketId
    sock: socket.socket
    punt: Punt
    receive: Callable[[memoryview], tuple[int, Any]]
    """``sock.recvfrom_into`` and ``sock.sendto``, bound once."""
    sendto: Callable[[memoryview | bytes, Address], int]
    is_open: bool = True
    read_at: float = 0.0
    """When it was last found readable."""
    leg: Leg | None = None
    rtcp_leg: Leg | None = None
    channels: dict[tuple[Address, int], Channel] = field(default_factory=dict)
    """As a TURN server's socket: by client and number."""
    peers: dict[Address, Channel] = field(default_factory=dict)
    """As a relay socket: by peer."""


def new_sending(ssrc: int) -> Sending:
    """Return a stream that has not begun.

    A first sequence number in the lower half keeps the roll-over counters in step (RFC 3711 3.3.1).
    """
    return Sending(ssrc, secrets.randbelow(1 << 15), secrets.randbits(32))
