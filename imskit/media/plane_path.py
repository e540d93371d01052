"""The Python plane's path of a packet: received behind some head-room in one buffer, it is decrypted, re-headed,
encrypted and sent from where it lies.  A ChannelData header goes into the head-room, a shortened RTP header moves
towards the payload.

Written for few steps rather than small ones: at a call's hundred packets a second every function, object and system
call is met with cold caches, and costs ten times what a tight loop would show.
"""

from __future__ import annotations

import logging
import struct
import time
from collections import Counter
from collections.abc import Callable

from imskit.media.plane import Address, Notice, RelaySend, Source
from imskit.media.plane_tables import Channel, Leg, SocketEntry
from imskit.media.srtp import TRAILER, Buffer, Outcome

_log = logging.getLogger(__name__)

HEAD = 64
"""Head-room before a received packet; a multiple of 4, as libsrtp wants its packets aligned."""
LARGEST = 65536
BATCH = 64
"""Datagrams taken from one socket before others get their turn."""
BUSY_SECONDS = 0.002
"""A socket readable again this soon is emptied at once; another gives one datagram a turn of the loop."""

RTP_HEADER = struct.Struct("!BBHII")
CHANNEL_HEADER = struct.Struct("!HH")
_unpack_rtp, _pack_rtp = RTP_HEADER.unpack_from, RTP_HEADER.pack_into
now_of = time.monotonic


class PacketPath:
    """What happens to a packet, given the tables that ``PythonPlane`` keeps."""

    def __init__(self) -> None:
        self._received = Buffer(HEAD + LARGEST + TRAILER, HEAD)
        self._room = self._received.view[HEAD : HEAD + LARGEST]
        self._built = Buffer(HEAD + LARGEST + TRAILER, HEAD)
        self._by_address: dict[Address, Leg] = {}
        self._own_channels: dict[tuple[Address, Address], Channel] = {}
        """Channels by relayed address and peer, for what an own leg sends back."""
        self._relayed: dict[Address, RelaySend] = {}
        self.dropped: Counter[str] = Counter()
        """What was lost outside a leg, by reason."""

    def _readable(self, entry: SocketEntry) -> None:
        """Take what has arrived at a socket."""
        buffer = self._received
        now = now_of()
        # A lone packet is the rule on a call's socket: asking for a second one costs more than it finds.
        batch = BATCH if now - entry.read_at < BUSY_SECONDS else 1
        entry.read_at = now
        for _ in range(batch):
            try:
                length, address = entry.receive(self._room)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                # An ICMP error of an earlier datagram: it says nothing about the next one.
                self.dropped["receive-error"] += 1
                _log.debug("receiving failed: %s", error)
                return
            if len(address) != 2:
                address = address[:2]
            first = self._room[0] if length else 0
            if (leg := entry.leg) is not None:
                if 128 <= first <= 191:
                    self._rtp_arrived(leg, buffer, HEAD, length, address, now)
                else:
                    self._call(leg.handler.punt, bytes(self._room[:length]), address)
            elif entry.peers and (channel := entry.peers.get(address)) is not None:
                self._from_peer(channel, length, now)
            elif entry.channels and 64 <= first <= 79:
                self._from_client(entry, length, address, now)
            elif entry.rtcp_leg is not None:
                self._rtcp_arrived(entry.rtcp_leg, buffer, HEAD, length, address)
            else:
                self._call(entry.punt, bytes(self._room[:length]), address)
            if not entry.is_open:
                return

    @staticmethod
    def _call(callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception:
            _log.exception("a callback of the media plane failed")

    @staticmethod
    def _transmit(entry: SocketEntry, data: memoryview | bytes, address: Address, dropped: Counter[str]) -> bool:
        try:
            entry.sendto(data, address)
        except OSError as error:
            _send_failed(error, address, dropped)
            return False
        return True

    # RTP and RTCP that arrive

    def _rtp_arrived(self, leg: Leg, buffer: Buffer, offset: int, length: int, address: Address, now: float) -> None:
        """Take RTP (or multiplexed RTCP) at ``buffer[offset:][:length]``."""
        view = buffer.view
        if length < 12:
            if length >= 2 and 192 <= view[offset + 1] <= 223:
                self._rtcp_arrived(leg, buffer, offset, length, address)
            else:
                leg.dropped["malformed"] += 1
            return
        # SRTP leaves the header in the clear; it is believed only after the authentication below.
        first, second, sequence, timestamp, ssrc = _unpack_rtp(view, offset)
        if 192 <= second <= 223:
            self._rtcp_arrived(leg, buffer, offset, length, address)
            return
        if leg.secured:
            if leg.receive is None or leg.old_receive is not None:
                length = self._unprotect_slowly(leg, buffer, offset, length, now)
            else:
                length = leg.receive.unprotect(buffer.at(offset), length)
                if length < 0:
                    leg.dropped[_reason(length)] += 1
            if length < 12:
                return
        elif address != leg.rtp_remote and not self._latched(leg, address, now):
            leg.dropped["source"] += 1
            return
        if first == 0x80:
            header, payload = 12, length - 12
        else:
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
            second = second & 0x80 | leaving_type
            if target.writer is not route or route.ssrc != ssrc:
                route.align(ssrc, sequence, timestamp, now)
                target.writer = route
                second |= 0x80
            sequence = sequence + route.sequence_offset & 0xFFFF
            timestamp = timestamp + route.timestamp_offset & 0xFFFFFFFF
            start = offset + header - 12
            _pack_rtp(view, start, 0x80, second, sequence, timestamp, target.sending.ssrc)
            self._rtp_leaves(target, buffer, start, payload, sequence, timestamp, now)
        elif leg.tap is not None:
            self._call(leg.tap, bytes(view[offset : offset + length]), now)
        else:
            leg.dropped["no-route"] += 1

    def _unprotect_slowly(self, leg: Leg, buffer: Buffer, offset: int, length: int, now: float) -> int:
        """Verify and decrypt while there are no keys, or two; return the length, or less than 0 when refused."""
        if leg.receive is None:
            leg.dropped["no-keys"] += 1
            return -1
        # GCM decrypts before it verifies, so the other key needs the packet as it came.
        kept = bytes(buffer.view[offset : offset + length])
        plain = leg.receive.unprotect(buffer.at(offset), length)
        if plain < 0 and leg.old_receive is not None:
            if now > leg.old_until:
                leg.old_receive = None
            else:
                buffer.view[offset : offset + length] = kept
                plain = leg.old_receive.unprotect(buffer.at(offset), length)
        elif now > leg.old_until:
            leg.old_receive = None
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
            if plain < 0 and leg.old_receive is not None and now_of() <= leg.old_until:
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

    # What leaves

    def _rtp_leaves(
        self, leg: Leg, buffer: Buffer, start: int, payload: int, sequence: int, timestamp: int, now: float
    ) -> None:
        """Protect and send the RTP packet at ``start`` with ``payload`` octets after its header; keep count."""
        remote = leg.rtp_remote
        if remote is None:
            leg.dropped["no-remote"] += 1
            return
        length = payload + 12
        if leg.secured:
            if leg.send is None:
                leg.dropped["no-keys"] += 1
                return
            length = leg.send.protect(buffer.at(start), length)
            if length < 0:
                leg.dropped[_reason(length)] += 1
                return
        channel = leg.channel
        if channel is not None and channel.expiry > now:
            CHANNEL_HEADER.pack_into(buffer.view, start - 4, channel.number, length)
            data = buffer.view[start - 4 : start + length]
            if not self._transmit(channel.server, data, channel.client, leg.dropped):
                return
        elif leg.socket is None or self._relayed or self._own_channels:
            if not self._emit(leg, leg.socket, buffer.view[start : start + length], remote):
                return
        else:  # a gateway's legs: nothing but a socket
            try:
                leg.socket.sendto(buffer.view[start : start + length], remote)
            except OSError as error:
                _send_failed(error, remote, leg.dropped)
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
        if self._relayed or self._own_channels:
            channel = self._own_channels.get((address, leg.address))
            if channel is not None and channel.expiry > now_of():
                packet = CHANNEL_HEADER.pack(channel.number, len(data)) + data
                return self._transmit(channel.server, packet, channel.client, leg.dropped)
            if (relay_send := self._relayed.get(address)) is not None:
                self._call(relay_send, bytes(data), leg.address)
                return True
        if entry is None:
            leg.dropped["no-remote"] += 1
            return False
        return self._transmit(entry, data, address, leg.dropped)

    # TURN

    def _drop_channel(self, channel: Channel) -> None:
        channel.server.channels.pop((channel.client, channel.number), None)
        if channel.relay is not None and channel.relay.peers.get(channel.peer) is channel:
            del channel.relay.peers[channel.peer]
        if self._own_channels.get((channel.relayed, channel.peer)) is channel:
            del self._own_channels[(channel.relayed, channel.peer)]
        leg = self._by_address.get(channel.peer)
        if leg is not None and leg.channel is channel:
            leg.channel = None

    def _at_leg(self, leg: Leg, offset: int, length: int, source: Address, now: float) -> None:
        """Take a datagram for an own leg that no socket carried."""
        view = self._received.view
        if length and 128 <= view[offset] <= 191:
            self._rtp_arrived(leg, self._received, offset, length, source, now)
        else:
            self._call(leg.handler.punt, bytes(view[offset : offset + length]), source)

    def _from_client(self, entry: SocketEntry, length: int, client: Address, now: float) -> None:
        """Take ChannelData at a TURN server's socket."""
        view = self._received.view
        if length < 4:
            self.dropped["malformed"] += 1
            return
        number, size = CHANNEL_HEADER.unpack_from(view, HEAD)
        channel = entry.channels.get((client, number))
        if channel is None:
            self._call(entry.punt, bytes(self._room[:length]), client)
        elif channel.expiry <= now:
            self.dropped["channel-expired"] += 1
            self._drop_channel(channel)
        elif size > length - 4:
            self.dropped["malformed"] += 1
        elif (leg := self._by_address.get(channel.peer)) is not None:
            self._at_leg(leg, HEAD + 4, size, channel.relayed, now)
        elif channel.relay is not None:
            self._transmit(channel.relay, view[HEAD + 4 : HEAD + 4 + size], channel.peer, self.dropped)
        else:
            self.dropped["no-peer"] += 1

    def _from_peer(self, channel: Channel, length: int, now: float) -> None:
        """Take a datagram of a bound peer at a relay socket."""
        if channel.expiry <= now:
            self.dropped["channel-expired"] += 1
            self._drop_channel(channel)
            return
        view = self._received.view
        CHANNEL_HEADER.pack_into(view, HEAD - 4, channel.number, length)
        self._transmit(channel.server, view[HEAD - 4 : HEAD + length], channel.client, self.dropped)


def _send_failed(error: OSError, address: Address, dropped: Counter[str]) -> None:
    """Count a datagram that the network refused; the first is worth a line."""
    dropped["send-error"] += 1
    if dropped["send-error"] == 1:
        _log.info("sending to %s port %d failed: %s", address[0], address[1], error)


def _reason(status: int) -> str:
    """Name a negative result of ``SrtpContext``."""
    return {
        -Outcome.AUTHENTICATION: "authentication",
        -Outcome.CIPHER: "authentication",
        -Outcome.REPLAY: "replay",
        -Outcome.OLD: "replay",
    }.get(status, "malformed")
