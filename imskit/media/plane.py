"""The media plane: the room in which every packet of media and TURN is handled, and its contract.

The plane alone reads the sockets handed to it.  It keeps what a table can decide (RTP of keyed legs, known TURN
channels) and hands everything else up.  Two implementations are meant to exist behind ``MediaPlane``: the Python one
(``imskit.media.python_plane.PythonPlane``, fallback and oracle) and a native one.  So arguments are plain values, no
call returns a packet, and nothing here blocks.  All calls are made on the event loop's thread.

Time is ``time.monotonic()`` seconds.  An address is ``(host, port)`` with the host in canonical text, for IPv6 too.
Packets handed to callbacks are ``bytes`` of their own; a callback must not raise (what it raises is logged).

Sockets
    ``open_socket(sock, punt)``: the caller binds ``sock``, and keeps it alive; from now on the plane is its only
    reader, anybody may still ``sendto`` on it.  A datagram that no leg and no channel of this socket takes goes to
    ``punt(data, address)``: STUN, DTLS, an unknown channel or peer.  ``close_socket`` gives the socket back unclosed
    (channels and legs on it go with it).

Demultiplexing (RFC 7983), by the first byte: 0-3 STUN, 20-63 DTLS, 64-79 TURN channel, 128-191 RTP or RTCP (RTCP when
    the second byte is 192-223, RFC 5761).

Legs
    One side of a call.  ``leg_open(at, handler, ssrc=, secured=, rtcp_socket=)``, ``at`` being a socket (one leg a
    socket; all RTP on it is the leg's) or a virtual address: one that no interface has and only the TURN server of
    this process reaches.  What is not RTP goes to ``handler.punt``, RTCP to ``handler.rtcp`` in the clear.  On a
    *secured* leg RTP and RTCP are dropped and counted until ``leg_keys``, in both directions; nothing ever leaves it
    in plaintext.  ``leg_remote`` sets where the leg sends, ``leg_direction`` what a hold lets pass (RTCP always does).
    RTP arriving at a leg is relayed when ``route`` knows its payload type, else given to the ``tap``, else dropped and
    counted.  ``inject`` sends RTP out of a leg, numbered after what left before, ``send_rtcp`` an RTCP packet.

Relaying (``route``)
    The leaving packet has the leg's own SSRC, the mapped payload type, no CSRC and no header extension (RFC 8285
    identifiers mean nothing on the other side).  Sequence numbers and timestamps keep their steps; when the arriving
    SSRC or the route changes, and after packets were injected, the leaving stream continues without a jump backwards.

TURN
    The server's UDP listening socket and each allocation's relay socket are opened here, ``punt`` being the server's
    own input.  ``bind_channel`` makes ChannelData flow between client and peer without Python above the plane, both
    ways, until ``expiry`` (call it again to refresh).  Permissions, quotas and lifetimes are the server's business:
    it must only bind what it has granted, and ``unbind_channel`` when the allocation ends early.

    *Own peers.*  When a channel's peer is the address of a leg (``owns(peer)``), no socket is crossed: the payload
    arrives at that leg as if from ``relayed``, and what the leg sends to ``relayed`` leaves to the client as
    ChannelData.  The order of ``leg_open`` and ``bind_channel`` does not matter.  What does not run over a bound UDP
    channel (Send indications, TCP or TLS clients) uses two calls:

    * client to leg: ``deliver_to_own(peer, data, source=relayed)``; false when no leg has that address;
    * leg to client: ``set_relayed(relayed, send)`` at Allocate, ``set_relayed(relayed, None)`` when the allocation
      ends.  ``send(data, peer)`` is called for what a leg at address ``peer`` sends to ``relayed`` while no live UDP
      channel is bound for the two; the server then checks its permission and makes a Data indication or ChannelData.

    A leg with a virtual address can reach nothing but relayed addresses; what it sends elsewhere is counted and lost.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NewType, Protocol

from imskit.secrets import Secret

type Address = tuple[str, int]
"""Host in canonical text form, and port."""

SocketId = NewType("SocketId", int)
LegId = NewType("LegId", int)

type Punt = Callable[[bytes, Address], None]
"""Takes a datagram and the address it came from."""

type Tap = Callable[[bytes, float], None]
"""Takes a decrypted RTP packet and its time of arrival."""

type RelaySend = Callable[[bytes, Address], None]
"""Takes a datagram and the address of the own leg that sends it to the relayed address."""


class SrtpProfile(enum.Enum):
    """Protection profiles of RFC 5764 4.1.2 and RFC 7714 14.2 (value: IANA number)."""

    AES128_CM_SHA1_80 = 0x0001
    AES128_CM_SHA1_32 = 0x0002
    AEAD_AES_128_GCM = 0x0007
    AEAD_AES_256_GCM = 0x0008

    @property
    def key_length(self) -> int:
        """Octets of the master key."""
        return 32 if self is SrtpProfile.AEAD_AES_256_GCM else 16

    @property
    def salt_length(self) -> int:
        """Octets of the master salt."""
        return 12 if self in (SrtpProfile.AEAD_AES_128_GCM, SrtpProfile.AEAD_AES_256_GCM) else 14


@dataclass(frozen=True, slots=True)
class SrtpKeys:
    """Master key followed by master salt of each direction, from DTLS (RFC 5764 4.2) or SDES (RFC 4568)."""

    profile: SrtpProfile
    send: Secret[bytes]
    receive: Secret[bytes]


class Source(enum.Enum):
    """From where an unsecured leg takes RTP (a secured leg trusts the authentication tag instead)."""

    EXACT = "exact"
    """Only from the address signalled."""
    SAME_HOST = "same-host"
    """From any port of the host signalled; the first port heard becomes the one sent to (symmetric RTP, RFC 4961)."""
    FIRST = "first"
    """From the first address heard, which becomes the one sent to: only where the path itself is trusted."""


@dataclass(frozen=True, slots=True)
class Relay:
    """What ``route`` does to a packet."""

    payload_types: Mapping[int, int]
    """Arriving to leaving payload type; others are not relayed (they reach the tap)."""
    clock_rate: int
    """Timestamp units a second of both sides, to bridge the time of a change of source."""


class Notice(enum.Enum):
    """What a leg's handler is told once."""

    FIRST_RECEIVED = "first RTP received"
    FIRST_SENT = "first RTP sent"
    LATCHED = "sends to the address heard"


class LegHandler(Protocol):
    """What the owner of a leg offers to the plane."""

    def punt(self, data: bytes, address: Address) -> None:
        """Take STUN, DTLS or anything else that is not RTP or RTCP."""

    def rtcp(self, data: bytes, address: Address) -> None:
        """Take a decrypted RTCP compound packet."""

    def notice(self, notice: Notice, now: float) -> None:
        """Take a one-time event of the leg."""


@dataclass(slots=True)
class Reception:
    """What RFC 3550 A.1, A.3 and A.8 keep of the stream that arrives."""

    ssrc: int
    base: int
    """First extended sequence number."""
    highest: int
    """Highest extended sequence number."""
    received: int = 0
    """Packets received of this SSRC."""
    jitter: float = 0.0
    """Interarrival jitter in timestamp units (0 when the payload type's clock is unknown)."""
    transit: float | None = None
    """Arrival less timestamp of the packet before, in timestamp units; internal to the estimate."""
    clock_rate: int = 0
    """Timestamp units a second the jitter is in."""

    @property
    def expected(self) -> int:
        """Packets that should have arrived."""
        return self.highest - self.base + 1

    @property
    def lost(self) -> int:
        """Cumulative number of packets lost; negative with duplicates (RFC 3550 6.4.1)."""
        return self.expected - self.received


@dataclass(slots=True)
class Sending:
    """The stream that leaves: one SSRC for the life of the leg."""

    ssrc: int
    sequence: int = 0
    """Last sequence number sent."""
    timestamp: int = 0
    """Timestamp of the last packet sent."""
    at: float | None = None
    """When that timestamp was first sent (a telephone event keeps one); ``None`` before the first packet."""


@dataclass(slots=True)
class LegStats:
    """Counters of a leg; a copy, as of the call."""

    sending: Sending
    reception: Reception | None = None
    packets_received: int = 0
    octets_received: int = 0
    packets_sent: int = 0
    octets_sent: int = 0
    """Payload octets (RFC 3550 6.4.1), in both directions."""
    first_received: float | None = None
    last_received: float | None = None
    first_sent: float | None = None
    payload_type: int | None = None
    """Payload type of the last RTP packet that arrived."""
    remote: Address | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    """By reason: ``no-keys``, ``authentication``, ``replay``, ``source``, ``direction``, ``malformed``,
    ``no-route``, ``no-remote``, ``send-error``."""


class MediaPlane(Protocol):
    """The calls into the plane; the module's text is their contract."""

    def open_socket(self, sock: socket.socket, punt: Punt) -> SocketId:
        """Start reading a bound, non-blocking UDP socket."""

    def close_socket(self, socket_id: SocketId) -> None:
        """Stop reading it; channels and legs on it end."""

    def send(self, socket_id: SocketId, data: bytes, address: Address) -> None:
        """Send a datagram; what the network refuses is counted and lost, like any datagram."""

    def leg_open(
        self,
        at: SocketId | Address,
        handler: LegHandler,
        *,
        ssrc: int,
        secured: bool,
        rtcp_socket: SocketId | None = None,
    ) -> LegId:
        """Open a leg at a socket or a virtual address; ``rtcp_socket`` where RTCP is not multiplexed.

        Raises ``ValueError`` when the socket or address already has a leg.
        """

    def leg_remote(
        self,
        leg: LegId,
        rtp: Address | None,
        rtcp: Address | None = None,
        source: Source = Source.EXACT,
    ) -> None:
        """Set where the leg sends RTP and RTCP (``None``: the RTP address) and from where it takes them."""

    def leg_keys(self, leg: LegId, keys: SrtpKeys | None) -> None:
        """Set the SRTP keys of a secured leg; the old receiving key is tried for 2 s more.  ``None`` locks it.

        A key that is the same as before keeps its roll-over counter and its replay list.
        """

    def leg_direction(self, leg: LegId, *, send: bool, receive: bool) -> None:
        """Let RTP pass or not; RTCP is not affected."""

    def leg_clocks(self, leg: LegId, clocks: Mapping[int, int]) -> None:
        """Give the clock rate of each audio payload type that may arrive, for the jitter."""

    def leg_send(self, leg: LegId, data: bytes, address: Address) -> None:
        """Send STUN or DTLS as the leg; RTP and RTCP are refused with ``ValueError``."""

    def route(self, source: LegId, target: LegId, relay: Relay | None) -> None:
        """Relay what arrives at ``source`` out of ``target``; ``None`` ends it."""

    def tap(self, leg: LegId, tap: Tap | None) -> None:
        """Give RTP that is not relayed to ``tap``."""

    def inject(
        self,
        leg: LegId,
        payload_type: int,
        timestamp: int,
        payload: bytes,
        *,
        marker: bool = False,
        keep_alive: bool = False,
    ) -> None:
        """Send RTP with the leg's SSRC and next sequence number; a keep-alive leaves also during a hold."""

    def send_rtcp(self, leg: LegId, rtcp: bytes) -> None:
        """Send an RTCP compound packet out of the leg."""

    def stats(self, leg: LegId) -> LegStats:
        """Return the counters; ``KeyError`` for a leg that is closed."""

    def close(self, leg: LegId) -> None:
        """End the leg; its sockets stay open."""

    def bind_channel(
        self,
        server: SocketId,
        client: Address,
        channel: int,
        *,
        relay: SocketId | None,
        relayed: Address,
        peer: Address,
        expiry: float,
    ) -> None:
        """Relay ChannelData of ``client`` at ``server`` to ``peer`` by ``relay``, and back, until ``expiry``.

        ``relayed`` is the allocation's address as the client knows it.  Without a relay socket only own legs are
        reached.
        """

    def unbind_channel(self, server: SocketId, client: Address, channel: int) -> None:
        """End a channel before its expiry; unknown ones are ignored."""

    def set_relayed(self, relayed: Address, send: RelaySend | None) -> None:
        """Name a relayed address of the own TURN server, and what takes data for it that no channel carries."""

    def owns(self, address: Address) -> bool:
        """Return whether a leg has this address."""

    def deliver_to_own(self, peer: Address, data: bytes, source: Address) -> bool:
        """Hand a datagram to the leg at ``peer`` as if from ``source``; false when there is none."""
