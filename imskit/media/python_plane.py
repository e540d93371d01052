"""The media plane in Python: ``add_reader`` receive loops over one buffer; see ``imskit.media.plane`` for the contract.

Packets are received behind some head-room in one buffer and are decrypted, re-headed, encrypted and sent from where
they lie: a ChannelData header goes into the head-room, a shortened RTP header moves towards the payload.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from imskit.media.plane import (
    Address,
    LegHandler,
    LegId,
    LegStats,
    Notice,
    Punt,
    Relay,
    RelaySend,
    SocketId,
    Source,
    SrtpKeys,
    Tap,
)
from imskit.media.plane_tables import Channel, Leg, Route, SocketEntry, new_sending
from imskit.media.srtp import TRAILER, Buffer, Outcome, SrtpContext

_log = logging.getLogger(__name__)

OLD_KEY_SECONDS = 2.0
"""How long packets under the previous receiving key are still taken after a re-key."""

_HEAD = 64
"""Head-room before a received packet; a multiple of 4, as libsrtp wants its packets aligned."""
_SIZE = _HEAD + 65536 + TRAILER
_BATCH = 64
"""Datagrams taken from one socket before others get their turn."""
_BUSY_SECONDS = 0.002
"""A socket readable again this soon is emptied at once; another gives one datagram a turn of the loop."""
_RECEIVE_BUFFER = 1 << 20

_HEADER = struct.Struct("!BBHII")
_CHANNEL = struct.Struct("!HH")
_now = time.monotonic


def _canonical(address: Address) -> Address:
    """Return the address with its host as ``recvfrom`` would write it; ``ValueError`` for a name."""
    return (str(ipaddress.ip_address(address[0])), address[1])


class PythonPlane:
    """``MediaPlane`` on the running event loop's readers."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[SocketId, SocketEntry] = {}
        self._legs: dict[LegId, Leg] = {}
        self._by_address: dict[Address, Leg] = {}
        self._own_channels: dict[tuple[Address, Address], Channel] = {}
        """Channels by relayed address and peer, for what an own leg sends back."""
        self._relayed: dict[Address, RelaySend] = {}
        self._next = 1
        self._received = Buffer(_SIZE)
        self._built = Buffer(_SIZE)
        self.dropped: Counter[str] = Counter()
        """What was lost outside a leg, by reason."""

    # Sockets

    def open_socket(self, sock: socket.socket, punt: Punt) -> SocketId:
        """Start reading a bound UDP socket."""
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        entry = SocketEntry(SocketId(self._take_id()), sock, punt)
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

    def _readable(self, entry: SocketEntry) -> None:
        """Take what has arrived at a socket."""
        buffer = self._received
        view = buffer.view
        target = view[_HEAD : _HEAD + 65536]
        receive = entry.sock.recvfrom_into
        now = _now()
        # A lone packet is the rule on a call's socket: asking for a second one costs more than it finds.
        batch = _BATCH if now - entry.read_at < _BUSY_SECONDS else 1
        entry.read_at = now
        for _ in range(batch):
            try:
                length, address = receive(target)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                # An ICMP error of an earlier datagram: it says nothing about the next one.
                self.dropped["receive-error"] += 1
                _log.debug("receiving failed: %s", error)
                return
            if len(address) != 2:
                address = address[:2]
            first = view[_HEAD] if length else 0
            if entry.peers and (channel := entry.peers.get(address)) is not None:
                self._from_peer(channel, length)
            elif entry.leg is not None and 128 <= first <= 191:
                self._rtp_arrived(entry.leg, buffer, _HEAD, length, address)
            elif entry.channels and 64 <= first <= 79:
                self._from_client(entry, length, address)
            elif entry.rtcp_leg is not None:
                self._rtcp_arrived(entry.rtcp_leg, buffer, _HEAD, length, address)
            else:
                punt = entry.punt if entry.leg is None else entry.leg.handler.punt
                self._call(punt, bytes(target[:length]), address)
            if not entry.is_open:
                return

    def _transmit(self, entry: SocketEntry, data: Any, address: Address, dropped: Counter[str]) -> bool:
        try:
            entry.sock.sendto(data, address)
        except OSError as error:
            dropped["send-error"] += 1
            if dropped["send-error"] == 1:
                _log.info("sending to %s port %d failed: %s", address[0], address[1], error)
            return False
        return True

    @staticmethod
    def _call(callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception:
            _log.exception("a callback of the media plane failed")

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

    def leg_keys(self, leg: LegId, keys: SrtpKeys | None) -> None:
        """Set the SRTP keys of a secured leg."""
        entry = self._legs[leg]
        if not entry.secured:
            raise ValueError("keys for a leg that was not opened as secured")
        if keys is None:
            entry.send = entry.receive = entry.old_receive = None
            return
        receive = SrtpContext(keys.profile, keys.receive, outbound=False)
        entry.send = SrtpContext(keys.profile, keys.send, outbound=True)
        entry.old_receive, entry.receive = entry.receive, receive
        entry.old_until = _now() + OLD_KEY_SECONDS

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
        _HEADER.pack_into(view, _HEAD, 0x80, second, sequence, timestamp, sending.ssrc)
        length = len(payload) + 12
        view[_HEAD + 12 : _HEAD + length] = payload
        self._rtp_leaves(entry, self._built, _HEAD, length, sequence, timestamp, _now())

    def send_rtcp(self, leg: LegId, rtcp: bytes) -> None:
        """Send an RTCP compound packet out of the leg."""
        entry = self._legs[leg]
        length = len(rtcp)
        view = self._built.view
        view[_HEAD : _HEAD + length] = rtcp
        if entry.secured:
            if entry.send is None:
                entry.dropped["no-keys"] += 1
                return
            length = entry.send.protect_rtcp(self._built.at(_HEAD), length)
            if length < 0:
                entry.dropped["malformed"] += 1
                return
        if entry.rtcp_remote is None:
            entry.dropped["no-remote"] += 1
            return
        self._emit(entry, entry.rtcp_socket, view[_HEAD : _HEAD + length], entry.rtcp_remote)

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

    # The path of a packet

    def _rtp_arrived(self, leg: Leg, buffer: Buffer, offset: int, length: int, address: Address) -> None:
        """Take RTP (or multiplexed RTCP) at ``buffer[offset:][:length]``."""
        view = buffer.view
        if length >= 2 and 192 <= view[offset + 1] <= 223:
            self._rtcp_arrived(leg, buffer, offset, length, address)
            return
        if length < 12:
            leg.dropped["malformed"] += 1
            return
        now = _now()
        if leg.secured:
            length = self._unprotect(leg, buffer, offset, length, now)
            if length < 12:
                return
        elif address != leg.rtp_remote and not self._latched(leg, address, now):
            leg.dropped["source"] += 1
            return
        first, second, sequence, timestamp, ssrc = _HEADER.unpack_from(view, offset)
        header = 12 + 4 * (first & 0x0F)
        if first & 0x10 and header + 4 <= length:
            header += 4 + 4 * ((view[offset + header + 2] << 8) + view[offset + header + 3])
        payload = length - header
        if first & 0x20 and payload > 0:
            payload -= view[offset + length - 1]
        if payload < 0:
            leg.dropped["malformed"] += 1
            return
        payload_type = second & 0x7F
        leg.arrived(ssrc, sequence, timestamp, payload_type, now)
        leg.packets_received += 1
        leg.octets_received += payload
        leg.payload_type = payload_type
        leg.last_received = now
        if leg.first_received is None:
            leg.first_received = now
            self._call(leg.handler.notice, Notice.FIRST_RECEIVED, now)
        if not leg.receive_direction:
            leg.dropped["direction"] += 1
            return
        route = leg.route
        if route is not None and (leaving_type := route.payload_types.get(payload_type)) is not None:
            target = route.target
            if not target.send_direction:
                target.dropped["direction"] += 1
                return
            marker = second & 0x80
            if target.writer is not route or route.ssrc != ssrc:
                route.align(ssrc, sequence, timestamp, now)
                target.writer = route
                marker = 0x80
            sequence = (sequence + route.sequence_offset) & 0xFFFF
            timestamp = (timestamp + route.timestamp_offset) & 0xFFFFFFFF
            start = offset + header - 12
            _HEADER.pack_into(view, start, 0x80, marker | leaving_type, sequence, timestamp, target.sending.ssrc)
            self._rtp_leaves(target, buffer, start, payload + 12, sequence, timestamp, now)
        elif leg.tap is not None:
            self._call(leg.tap, bytes(view[offset : offset + length]), now)
        else:
            leg.dropped["no-route"] += 1

    def _unprotect(self, leg: Leg, buffer: Buffer, offset: int, length: int, now: float) -> int:
        """Verify and decrypt; return the length, or a number less than 0 after counting the reason."""
        if leg.receive is None:
            leg.dropped["no-keys"] += 1
            return -1
        if leg.old_receive is not None:
            if now > leg.old_until:
                leg.old_receive = None
            else:
                # GCM decrypts before it verifies, so the other key needs the packet as it came.
                kept = bytes(buffer.view[offset : offset + length])
                plain = leg.receive.unprotect(buffer.at(offset), length)
                if plain >= 0:
                    return plain
                buffer.view[offset : offset + length] = kept
                plain = leg.old_receive.unprotect(buffer.at(offset), length)
                if plain >= 0:
                    return plain
                leg.dropped[_reason(plain)] += 1
                return plain
        plain = leg.receive.unprotect(buffer.at(offset), length)
        if plain < 0:
            leg.dropped[_reason(plain)] += 1
        return plain

    def _latched(self, leg: Leg, address: Address, now: float) -> bool:
        """Accept RTP of an unsecured leg from an address other than the one it sends to, if the policy says so."""
        if leg.source is Source.EXACT:
            return False
        if leg.source is Source.SAME_HOST and (leg.rtp_remote is None or address[0] != leg.rtp_remote[0]):
            return False
        if leg.rtcp_remote == leg.rtp_remote:
            leg.rtcp_remote = address
        leg.rtp_remote = address
        # One latch only: whoever comes second is not believed.
        leg.source = Source.EXACT
        self._call(leg.handler.notice, Notice.LATCHED, now)
        return True

    def _rtcp_arrived(self, leg: Leg, buffer: Buffer, offset: int, length: int, address: Address) -> None:
        view = buffer.view
        if length < 8 or not 192 <= view[offset + 1] <= 223:
            leg.dropped["malformed"] += 1
            return
        if leg.secured:
            if leg.receive is None:
                leg.dropped["no-keys"] += 1
                return
            kept = bytes(view[offset : offset + length]) if leg.old_receive is not None else b""
            plain = leg.receive.unprotect_rtcp(buffer.at(offset), length)
            if plain < 0 and leg.old_receive is not None and _now() <= leg.old_until:
                view[offset : offset + length] = kept
                plain = leg.old_receive.unprotect_rtcp(buffer.at(offset), length)
            if plain < 0:
                leg.dropped[_reason(plain)] += 1
                return
            length = plain
        elif leg.rtcp_remote is None or address[0] != leg.rtcp_remote[0]:
            leg.dropped["source"] += 1
            return
        self._call(leg.handler.rtcp, bytes(view[offset : offset + length]), address)

    def _rtp_leaves(
        self, leg: Leg, buffer: Buffer, offset: int, length: int, sequence: int, timestamp: int, now: float
    ) -> None:
        """Protect and send the RTP packet at ``buffer[offset:][:length]``, and keep count."""
        if leg.rtp_remote is None:
            leg.dropped["no-remote"] += 1
            return
        payload = length - 12
        if leg.secured:
            if leg.send is None:
                leg.dropped["no-keys"] += 1
                return
            length = leg.send.protect(buffer.at(offset), length)
            if length < 0:
                leg.dropped[_reason(length)] += 1
                return
        if not self._emit(leg, leg.socket, buffer.view[offset : offset + length], leg.rtp_remote):
            return
        leg.packets_sent += 1
        leg.octets_sent += payload
        sending = leg.sending
        if sending.at is None or (sequence - sending.sequence) & 0xFFFF < 0x8000:
            sending.sequence = sequence
            if sending.at is None or timestamp != sending.timestamp:
                sending.timestamp = timestamp
                sending.at = now
        if leg.first_sent is None:
            leg.first_sent = now
            self._call(leg.handler.notice, Notice.FIRST_SENT, now)

    def _emit(self, leg: Leg, entry: SocketEntry | None, data: memoryview, address: Address) -> bool:
        """Send a datagram as the leg: by an own channel, by the TURN server, or by its socket."""
        if address in self._relayed or self._own_channels:
            assert leg.address is not None
            channel = self._own_channels.get((address, leg.address))
            if channel is not None and channel.expiry > _now():
                packet = _CHANNEL.pack(channel.number, len(data)) + data
                return self._transmit(channel.server, packet, channel.client, leg.dropped)
            if (relay_send := self._relayed.get(address)) is not None:
                self._call(relay_send, bytes(data), leg.address)
                return True
        if entry is None:
            leg.dropped["no-remote"] += 1
            return False
        return self._transmit(entry, data, address, leg.dropped)

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

    def unbind_channel(self, server: SocketId, client: Address, channel: int) -> None:
        """End a channel before its expiry."""
        entry = self._sockets.get(server)
        found = None if entry is None else entry.channels.get((_canonical(client), channel))
        if found is not None:
            self._drop_channel(found)

    def _drop_channel(self, channel: Channel) -> None:
        channel.server.channels.pop((channel.client, channel.number), None)
        if channel.relay is not None and channel.relay.peers.get(channel.peer) is channel:
            del channel.relay.peers[channel.peer]
        if self._own_channels.get((channel.relayed, channel.peer)) is channel:
            del self._own_channels[(channel.relayed, channel.peer)]

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
        self._received.view[_HEAD : _HEAD + len(data)] = data
        self._at_leg(leg, _HEAD, len(data), source)
        return True

    def _at_leg(self, leg: Leg, offset: int, length: int, source: Address) -> None:
        """Take a datagram for an own leg that no socket carried."""
        view = self._received.view
        if length and 128 <= view[offset] <= 191:
            self._rtp_arrived(leg, self._received, offset, length, source)
        else:
            self._call(leg.handler.punt, bytes(view[offset : offset + length]), source)

    def _from_client(self, entry: SocketEntry, length: int, client: Address) -> None:
        """Take ChannelData at a TURN server's socket."""
        view = self._received.view
        if length < 4:
            self.dropped["malformed"] += 1
            return
        number, size = _CHANNEL.unpack_from(view, _HEAD)
        channel = entry.channels.get((client, number))
        if channel is None:
            self._call(entry.punt, bytes(view[_HEAD : _HEAD + length]), client)
        elif channel.expiry <= _now():
            self.dropped["channel-expired"] += 1
            self._drop_channel(channel)
        elif size > length - 4:
            self.dropped["malformed"] += 1
        elif (leg := self._by_address.get(channel.peer)) is not None:
            self._at_leg(leg, _HEAD + 4, size, channel.relayed)
        elif channel.relay is not None:
            self._transmit(channel.relay, view[_HEAD + 4 : _HEAD + 4 + size], channel.peer, self.dropped)
        else:
            self.dropped["no-peer"] += 1

    def _from_peer(self, channel: Channel, length: int) -> None:
        """Take a datagram of a bound peer at a relay socket."""
        if channel.expiry <= _now():
            self.dropped["channel-expired"] += 1
            self._drop_channel(channel)
            return
        view = self._received.view
        _CHANNEL.pack_into(view, _HEAD - 4, channel.number, length)
        self._transmit(channel.server, view[_HEAD - 4 : _HEAD + length], channel.client, self.dropped)


def _reason(status: int) -> str:
    """Name a negative result of ``SrtpContext``."""
    return {
        -Outcome.AUTHENTICATION: "authentication",
        -Outcome.CIPHER: "authentication",
        -Outcome.REPLAY: "replay",
        -Outcome.OLD: "replay",
    }.get(status, "malformed")
