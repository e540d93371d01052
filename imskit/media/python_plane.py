"""The media plane in Python: its calls; see ``imskit.media.plane`` for the contract, ``plane_path`` for the packets."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import replace

from imskit.media.plane import (
    Address,
    LegHandler,
    LegId,
    LegStats,
    Punt,
    Relay,
    RelaySend,
    SocketId,
    Source,
    SrtpKeys,
    Tap,
)
from imskit.media.plane_path import HEAD, RTP_HEADER, PacketPath, now_of
from imskit.media.plane_tables import Channel, Leg, Route, SocketEntry, new_sending
from imskit.media.srtp import SrtpContext

OLD_KEY_SECONDS = 2.0
"""How long packets under the previous receiving key are still taken after a re-key."""

_RECEIVE_BUFFER = 1 << 20


def _canonical(address: Address) -> Address:
    """Return the address with its host as ``recvfrom`` would write it; ``ValueError`` for a name."""
    return (str(ipaddress.ip_address(address[0])), address[1])


class PythonPlane(PacketPath):
    """``MediaPlane`` on the running event loop's readers."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[SocketId, SocketEntry] = {}
        self._legs: dict[LegId, Leg] = {}
        self._next = 1

    # Sockets

    def open_socket(self, sock: socket.socket, punt: Punt) -> SocketId:
        """Start reading a bound UDP socket."""
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        entry = SocketEntry(SocketId(self._take_id()), sock, punt, sock.recvfrom_into, sock.sendto)
        self._sockets[entry.id] = entry
        self._loop.add_reader(sock.fileno(), self._readable, entry)
        return entry.id

    def close_socket(self, socket_id: SocketId) -> None:
        """Stop reading it; channels and legs on it end."""
        entry = self._sockets.pop(socket_id, None)
        if entry is None:
            return
        entry.is_open = False
        self._loop.remove_reader(entry.sock.fileno())
        for channel in [*entry.channels.values(), *entry.peers.values()]:
            self._drop_channel(channel)
        for leg in (entry.leg, entry.rtcp_leg):
            if leg is not None:
                self.close(leg.id)

    def send(self, socket_id: SocketId, data: bytes, address: Address) -> None:
        """Send a datagram."""
        self._transmit(self._sockets[socket_id], data, address, self.dropped)

    def _take_id(self) -> int:
        self._next += 1
        return self._next

    # Legs

    def leg_open(
        self,
        at: SocketId | Address,
        handler: LegHandler,
        *,
        ssrc: int,
        secured: bool,
        rtcp_socket: SocketId | None = None,
    ) -> LegId:
        """Open a leg at a socket or a virtual address."""
        leg = Leg(LegId(self._take_id()), handler, secured, new_sending(ssrc))
        if isinstance(at, tuple):
            leg.address = _canonical(at)
        else:
            entry = self._sockets[at]
            if entry.leg is not None or entry.rtcp_leg is not None:
                raise ValueError("the socket already has a leg")
            leg.address = entry.sock.getsockname()[:2]
            leg.socket = leg.rtcp_socket = entry
        if rtcp_socket is not None:
            leg.rtcp_socket = self._sockets[rtcp_socket]
            if leg.rtcp_socket.leg is not None or leg.rtcp_socket.rtcp_leg is not None:
                raise ValueError("the RTCP socket already has a leg")
        if leg.address in self._by_address:
            raise ValueError(f"the address {leg.address[0]} port {leg.address[1]} already has a leg")
        self._by_address[leg.address] = leg
        if leg.socket is not None:
            leg.socket.leg = leg
        if rtcp_socket is not None and leg.rtcp_socket is not None:
            leg.rtcp_socket.rtcp_leg = leg
        self._legs[leg.id] = leg
        return leg.id

    def leg_remote(
        self,
        leg: LegId,
        rtp: Address | None,
        rtcp: Address | None = None,
        source: Source = Source.EXACT,
    ) -> None:
        """Set where the leg sends, and from where it takes packets."""
        entry = self._legs[leg]
        entry.rtp_remote = None if rtp is None else _canonical(rtp)
        entry.rtcp_remote = entry.rtp_remote if rtcp is None else _canonical(rtcp)
        entry.source = source
        entry.channel = None
        if entry.rtp_remote is not None:
            entry.channel = self._own_channels.get((entry.rtp_remote, entry.address))

    def leg_keys(self, leg: LegId, keys: SrtpKeys | None) -> None:
        """Set the SRTP keys of a secured leg."""
        entry = self._legs[leg]
        if not entry.secured:
            raise ValueError("keys for a leg that was not opened as secured")
        before, entry.keys = entry.keys, keys
        if keys is None:
            entry.send = entry.receive = entry.old_receive = None
            return
        same = before is not None and before.profile is keys.profile
        if before is None or not same or before.send != keys.send:
            entry.send = SrtpContext(keys.profile, keys.send, outbound=True)
        if before is None or not same or before.receive != keys.receive:
            receive = SrtpContext(keys.profile, keys.receive, outbound=False)
            entry.old_receive, entry.receive = entry.receive, receive
            entry.old_until = now_of() + OLD_KEY_SECONDS

    def leg_direction(self, leg: LegId, *, send: bool, receive: bool) -> None:
        """Let RTP pass or not."""
        entry = self._legs[leg]
        entry.send_direction = send
        entry.receive_direction = receive

    def leg_clocks(self, leg: LegId, clocks: Mapping[int, int]) -> None:
        """Give the clock rates for the jitter."""
        self._legs[leg].clocks = dict(clocks)

    def leg_send(self, leg: LegId, data: bytes, address: Address) -> None:
        """Send STUN or DTLS as the leg."""
        if data and 128 <= data[0] <= 191:
            raise ValueError("RTP leaves a leg by inject, RTCP by send_rtcp")
        entry = self._legs[leg]
        self._emit(entry, entry.socket, memoryview(data), address)

    def route(self, source: LegId, target: LegId, relay: Relay | None) -> None:
        """Relay what arrives at ``source`` out of ``target``."""
        self._legs[source].route = None if relay is None else Route(self._legs[target], relay)

    def tap(self, leg: LegId, tap: Tap | None) -> None:
        """Give RTP that is not relayed to ``tap``."""
        self._legs[leg].tap = tap

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
        """Send RTP with the leg's SSRC and next sequence number."""
        entry = self._legs[leg]
        if not (entry.send_direction or keep_alive):
            entry.dropped["direction"] += 1
            return
        entry.writer = None
        sending = entry.sending
        sequence = (sending.sequence + 1) & 0xFFFF
        view = self._built.view
        second = payload_type | 0x80 if marker else payload_type
        RTP_HEADER.pack_into(view, HEAD, 0x80, second, sequence, timestamp, sending.ssrc)
        view[HEAD + 12 : HEAD + 12 + len(payload)] = payload
        self._rtp_leaves(entry, self._built, HEAD, len(payload), sequence, timestamp, now_of())

    def send_rtcp(self, leg: LegId, rtcp: bytes) -> None:
        """Send an RTCP compound packet out of the leg."""
        entry = self._legs[leg]
        length = len(rtcp)
        view = self._built.view
        view[HEAD : HEAD + length] = rtcp
        if entry.secured:
            if entry.send is None:
                entry.dropped["no-keys"] += 1
                return
            length = entry.send.protect_rtcp(self._built.at(HEAD), length)
            if length < 0:
                entry.dropped["malformed"] += 1
                return
        if entry.rtcp_remote is None:
            entry.dropped["no-remote"] += 1
            return
        self._emit(entry, entry.rtcp_socket, view[HEAD : HEAD + length], entry.rtcp_remote)

    def stats(self, leg: LegId) -> LegStats:
        """Return the counters."""
        entry = self._legs[leg]
        return LegStats(
            sending=replace(entry.sending),
            reception=None if entry.reception is None else replace(entry.reception),
            packets_received=entry.packets_received,
            octets_received=entry.octets_received,
            packets_sent=entry.packets_sent,
            octets_sent=entry.octets_sent,
            first_received=entry.first_received,
            last_received=entry.last_received,
            first_sent=entry.first_sent,
            payload_type=entry.payload_type,
            remote=entry.rtp_remote,
            dropped=dict(entry.dropped),
        )

    def close(self, leg: LegId) -> None:
        """End the leg."""
        entry = self._legs.pop(leg, None)
        if entry is None:
            return
        if entry.address is not None:
            self._by_address.pop(entry.address, None)
        if entry.socket is not None:
            entry.socket.leg = None
        if entry.rtcp_socket is not None and entry.rtcp_socket.rtcp_leg is entry:
            entry.rtcp_socket.rtcp_leg = None
        for other in self._legs.values():
            if other.route is not None and other.route.target is entry:
                other.route = None

    # TURN

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
        """Relay ChannelData between client and peer until ``expiry``."""
        if not 0x4000 <= channel <= 0x4FFF:
            raise ValueError(f"channel number 0x{channel:04X} is not in 0x4000-0x4FFF (RFC 8656 12)")
        server_entry = self._sockets[server]
        client, peer, relayed = _canonical(client), _canonical(peer), _canonical(relayed)
        entry = server_entry.channels.get((client, channel))
        if entry is not None:
            if entry.peer == peer and (None if entry.relay is None else entry.relay.id) == relay:
                entry.expiry = expiry
                return
            self._drop_channel(entry)
        relay_entry = None if relay is None else self._sockets[relay]
        entry = Channel(server_entry, client, channel, relay_entry, relayed, peer, expiry)
        server_entry.channels[(client, channel)] = entry
        if relay_entry is not None:
            relay_entry.peers[peer] = entry
        self._own_channels[(relayed, peer)] = entry
        if (leg := self._by_address.get(peer)) is not None and leg.rtp_remote == relayed:
            leg.channel = entry

    def unbind_channel(self, server: SocketId, client: Address, channel: int) -> None:
        """End a channel before its expiry."""
        entry = self._sockets.get(server)
        found = None if entry is None else entry.channels.get((_canonical(client), channel))
        if found is not None:
            self._drop_channel(found)

    def set_relayed(self, relayed: Address, send: RelaySend | None) -> None:
        """Name a relayed address of the own TURN server."""
        relayed = _canonical(relayed)
        if send is None:
            self._relayed.pop(relayed, None)
        else:
            self._relayed[relayed] = send

    def owns(self, address: Address) -> bool:
        """Return whether a leg has this address."""
        return address in self._by_address

    def deliver_to_own(self, peer: Address, data: bytes, source: Address) -> bool:
        """Hand a datagram to the leg at ``peer`` as if from ``source``."""
        leg = self._by_address.get(peer)
        if leg is None:
            return False
        self._received.view[HEAD : HEAD + len(data)] = data
        self._at_leg(leg, HEAD, len(data), source, now_of())
        return True
