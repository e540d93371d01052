"""The TURN server machine (RFC 8656), with STUN Binding (RFC 8489).

Owner's side of the contract: every datagram or frame from a client is ``Received``, every datagram at a relayed
address ``FromPeer``; ``ChannelBound`` lets the owner carry a channel's data itself, past this machine, until the moment
given.  The machine carries what comes to it all the same.

Requests that change something are answered from memory when they are retransmitted (RFC 8489 6.3.1).  Clients
without credentials cause no state and get answers of little more than a hundred bytes.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import deque
from collections.abc import Callable

from imskit.engine import Tick, Tokens
from imskit.secrets import Identity
from imskit.stun.engine import events as e
from imskit.stun.engine.allocation import (
    CHANNEL_LIFETIME,
    PERMISSION_LIFETIME,
    RESERVATION_LIFETIME,
    Allocation,
    Channel,
    PendingAllocation,
    Relay,
    Reservation,
)
from imskit.stun.engine.answers import REASONS, AnswerMemory, Reject, error, success
from imskit.stun.engine.credentials import Authenticated, Authenticator, CredentialStore, Refused
from imskit.stun.engine.policy import PeerPolicy, is_tunnelled
from imskit.stun.engine.settings import TurnCounters, TurnSettings, Wish
from imskit.stun.wire import attributes as a
from imskit.stun.wire.attributes import Address
from imskit.stun.wire.channel_data import (
    FIRST_CHANNEL,
    is_channel_data,
    pack_channel_data,
    parse_channel_data,
)
from imskit.stun.wire.errors import StunError
from imskit.stun.wire.message import Message, MessageClass, Method, indication, parse_message

_log = logging.getLogger(__name__)


class TurnServer:
    """The machine; see the module's text and ``imskit.engine`` for the contract."""

    def __init__(
        self, settings: TurnSettings, credentials: CredentialStore, policy: PeerPolicy, tokens: Tokens
    ) -> None:
        self._settings = settings
        self._credentials = Authenticator(credentials, tokens)
        self._policy = policy
        self._tokens = tokens
        self._allocations: dict[e.Flow, Allocation] = {}
        self._pending: dict[e.Flow, PendingAllocation] = {}
        self._opening: dict[e.RelayId, PendingAllocation] = {}
        self._relays: dict[e.RelayId, Relay] = {}
        self._reservations: dict[bytes, Reservation] = {}
        self._answers = AnswerMemory()
        self._outputs: deque[e.Output] = deque()
        self._next_relay = 1
        self._next_expiry: float | None = None
        self.counters = TurnCounters()
        self._methods: dict[int, Callable[[Message, e.Flow, Authenticated, float], Message | None]] = {
            Method.ALLOCATE: self._allocate,
            Method.REFRESH: self._refresh,
            Method.CREATE_PERMISSION: self._create_permission,
            Method.CHANNEL_BIND: self._channel_bind,
        }

    # --- the contract ------------------------------------------------------------------------------------------

    def handle(self, event: e.Event | Tick, now: float) -> None:
        """Take in what happened at ``now`` (seconds)."""
        if self._next_expiry is not None and now >= self._next_expiry:
            self._expire(now)
        match event:
            case e.Received(flow, data):
                self._received(flow, data, now)
            case e.FromPeer(relay, peer, data):
                self._from_peer(relay, peer, data, now)
            case Tick():
                pass
            case e.RelayOpened(relay, address):
                self._relay_opened(relay, address, now)
            case e.RelayFailed(relay):
                self._relay_failed(relay, now)
            case e.FlowClosed(flow):
                self._flow_closed(flow)
            case e.PolicyChanged():
                self._policy_changed()
            case e.UserRemoved(username):
                for allocation in [x for x in self._allocations.values() if x.username == username]:
                    self._end(allocation, "its user was removed")

    def poll(self) -> e.Output | None:
        """Return the next output, ``None`` when there is none left."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """When to call ``handle(Tick(), now)`` next."""
        return self._next_expiry

    def has_allocation(self, flow: e.Flow) -> bool:
        """Whether the 5-tuple has an allocation, or one in the making."""
        return flow in self._allocations or flow in self._pending

    @property
    def allocations(self) -> int:
        """Allocations that are alive."""
        return len(self._allocations)

    # --- from clients ------------------------------------------------------------------------------------------

    def _received(self, flow: e.Flow, data: bytes, now: float) -> None:
        if is_channel_data(data, self._settings.last_channel):
            self._channel_data(flow, data, now)
            return
        try:
            message = parse_message(data)
        except StunError as fault:
            self._drop("malformed")
            _log.debug("%s: %s", flow, fault)
            if fault.code is not None:
                request = Message(MessageClass.REQUEST, fault.method, fault.transaction_id)
                self._transmit(flow, self._error(request, fault.code), None, False)
            return
        _log.debug("%s: %r", flow, message)
        if message.message_class is MessageClass.REQUEST:
            self._request(message, flow, now)
        elif message.message_class is MessageClass.INDICATION and message.method == Method.SEND:
            self._send_indication(message, flow, now)
        elif message.message_class is not MessageClass.INDICATION or message.method != Method.BINDING:
            self._drop("unexpected")  # a response, or a class that the method does not have (RFC 8489 6.3)

    def _request(self, request: Message, flow: e.Flow, now: float) -> None:
        fingerprint = request.fingerprint
        if request.method == Method.BINDING:
            self._transmit(flow, self._binding(request, flow), None, fingerprint)
            return
        handler = self._methods.get(request.method)
        if handler is None:
            self._drop("unknown-method")
            return
        if (remembered := self._answers.find(flow, request, now)) is not None:
            self._outputs.append(e.SendToClient(flow, remembered))
            return
        auth = self._credentials.check(request, str(flow), now)
        if isinstance(auth, Refused):
            # Small, and without SOFTWARE: whoever forges the source address gains nothing.
            self._transmit(flow, self._error(request, auth.code, *auth.attributes), None, fingerprint)
            return
        try:
            if unknown := request.unknown_required:
                raise Reject(420, "unknown attributes", a.UNKNOWN_ATTRIBUTES(unknown))
            response = handler(request, flow, auth, now)
        except Reject as reject:
            _log.info("TURN %s from %s refused: %d, %s", _method(request), flow, reject.code, reject)
            response = self._error(request, reject.code, *reject.attributes)
        if response is not None:
            self._answer(flow, request, response, auth, now)

    def _binding(self, request: Message, flow: e.Flow) -> Message:
        if unknown := request.unknown_required:
            return self._error(request, 420, a.UNKNOWN_ATTRIBUTES(unknown))
        return success(request, a.XOR_MAPPED_ADDRESS(flow.client))

    def _allocate(self, request: Message, flow: e.Flow, auth: Authenticated, now: float) -> Message | None:
        """RFC 8656 7.2; the numbers are those of its checks."""
        pending = self._pending.get(flow)
        if pending is not None and pending.request.raw == request.raw:
            return None  # a retransmission; the answer follows when the relayed address is there
        if pending is not None or flow in self._allocations:  # 2
            raise Reject(437, "the 5-tuple has an allocation")
        if is_tunnelled(flow.client[0]):
            raise Reject(403, "Teredo and 6to4 clients are not accepted (RFC 8656 21.4)")
        wish = Wish.of(request, self._settings)  # 3 to 9
        self._check_quota(auth.username, redeems=wish.token in self._reservations)  # 10
        pending = PendingAllocation(flow, request, auth, self._settings.lifetime(request), {})
        if wish.token is not None:
            reservation = self._reservations.pop(wish.token, None)
            if reservation is None:
                raise Reject(508, "unknown or expired reservation")
            pending.opened[reservation.family] = reservation.relay, reservation.address
            return self._complete(pending, now)
        pending.failed = dict.fromkeys(wish.unsupported, 440)
        self._pending[flow] = pending
        pending.reserve = self._new_relay() if wish.reserve else None
        for family in wish.families:
            relay = self._new_relay()
            pending.waiting[relay] = family
            self._opening[relay] = pending
            self._outputs.append(e.OpenRelay(relay, flow, family, wish.even, pending.reserve))
        return None

    def _refresh(self, request: Message, flow: e.Flow, auth: Authenticated, now: float) -> Message:
        """RFC 8656 8.2."""
        allocation = self._allocation(flow, auth)
        family = request.get(a.REQUESTED_ADDRESS_FAMILY)
        if family is not None and family not in allocation.relays:
            raise Reject(443, f"no relayed address of family {family}")
        relays = [x for x in allocation.relays.values() if family in (None, x.family)]
        if request.get(a.LIFETIME) == 0:
            for relay in relays:
                self._close(relay, "the client gave it up")
            return self._with_software(request, a.LIFETIME(0))
        lifetime = self._settings.lifetime(request)
        for relay in relays:
            relay.expires = now + lifetime
        self._expires_at(now + lifetime)
        return self._with_software(request, a.LIFETIME(int(lifetime)))

    def _create_permission(self, request: Message, flow: e.Flow, auth: Authenticated, now: float) -> Message:
        """RFC 8656 10.2: all of the permissions or none."""
        allocation = self._allocation(flow, auth)
        peers = request.get_all(a.XOR_PEER_ADDRESS)
        if not peers:
            raise Reject(400, "no XOR-PEER-ADDRESS")
        granted: dict[str, Relay] = {}
        for host, _ in peers:
            granted[host] = self._relay_towards(allocation, host)
            self._check_peer(auth.username, host, None)
        for relay in allocation.relays.values():
            new = sum(1 for host, owner in granted.items() if owner is relay and host not in relay.permissions)
            if len(relay.permissions) + new > self._settings.permissions:
                raise Reject(508, "too many permissions")
        for host, relay in granted.items():
            self._permit(relay, host, now)
        return success(request)

    def _channel_bind(self, request: Message, flow: e.Flow, auth: Authenticated, now: float) -> Message:
        """RFC 8656 12.2."""
        allocation = self._allocation(flow, auth)
        number, peer = request.get(a.CHANNEL_NUMBER), request.get(a.XOR_PEER_ADDRESS)
        if number is None or peer is None:
            raise Reject(400, "no CHANNEL-NUMBER or no XOR-PEER-ADDRESS")
        if not FIRST_CHANNEL <= number <= self._settings.last_channel:
            raise Reject(400, f"channel 0x{number:04x} is not allowed")
        if peer[1] == 0:
            raise Reject(400, "port 0 is no peer")
        relay = self._relay_towards(allocation, peer[0])
        for bound in (allocation.channels.get(number), relay.by_peer.get(peer)):
            if bound is not None and bound.expires <= now:
                self._unbind(bound)
            elif bound is not None and (bound.number, bound.peer) != (number, peer):
                raise Reject(400, "the channel or the peer is bound otherwise")
        self._check_peer(auth.username, *peer)
        channel = allocation.channels.get(number)
        if channel is None:
            if len(allocation.channels) >= self._settings.channels:
                raise Reject(508, "too many channels")
            if peer[0] not in relay.permissions and len(relay.permissions) >= self._settings.permissions:
                raise Reject(508, "too many permissions")
            channel = Channel(number, relay, peer, 0.0)
            allocation.channels[number] = relay.by_peer[peer] = channel
        channel.expires = now + CHANNEL_LIFETIME
        self._expires_at(channel.expires)
        self._permit(relay, peer[0], now)
        return success(request)

    def _send_indication(self, message: Message, flow: e.Flow, now: float) -> None:
        """RFC 8656 11.2: what is not right is discarded."""
        allocation = self._allocations.get(flow)
        peer, data = message.get(a.XOR_PEER_ADDRESS), message.get(a.DATA)
        dont_fragment = message.get(a.DONT_FRAGMENT) is not None
        if allocation is None or peer is None or data is None or message.unknown_required:
            self._drop("send-indication")
            return
        relay = allocation.relays.get(_family(peer[0]))
        if relay is None or not relay.permits(peer[0], now) or not peer[1]:
            self._drop("no-permission")
        elif not self._policy.allows(allocation.username, *peer) or peer in self._settings.listening:
            self._drop("policy")
        elif dont_fragment and not self._settings.dont_fragment:
            self._drop("dont-fragment")
        else:
            self._outputs.append(e.SendToPeer(relay.id, peer, data, dont_fragment))

    def _channel_data(self, flow: e.Flow, data: bytes, now: float) -> None:
        """RFC 8656 12.6."""
        try:
            number, payload = parse_channel_data(data, self._settings.last_channel)
        except StunError as fault:
            self._drop("malformed")
            _log.debug("%s: %s", flow, fault)
            return
        allocation = self._allocations.get(flow)
        channel = allocation.channels.get(number) if allocation else None
        if channel is None or channel.carries_until <= now:
            self._drop("no-channel")
            return
        self._outputs.append(e.SendToPeer(channel.relay.id, channel.peer, payload))

    # --- from peers --------------------------------------------------------------------------------------------

    def _from_peer(self, relay_id: e.RelayId, peer: Address, data: bytes, now: float) -> None:
        """RFC 8656 11.3, 12.7."""
        relay = self._relays.get(relay_id)
        if relay is None or not relay.permits(peer[0], now):
            self._drop("no-permission")
            return
        flow, channel = relay.allocation.flow, relay.by_peer.get(peer)
        if channel is not None and channel.carries_until > now:
            packet = pack_channel_data(channel.number, data, stream=flow.stream)
        elif self._policy.allows(relay.allocation.username, *peer):
            transaction_id = bytes.fromhex(self._tokens(24))
            fields = (a.XOR_PEER_ADDRESS(peer), a.DATA(data))
            packet = indication(Method.DATA, transaction_id, fields).encode()
        else:
            self._drop("policy")
            return
        self._outputs.append(e.SendToClient(flow, packet, relayed=True))

    # --- relayed addresses -------------------------------------------------------------------------------------

    def _relay_opened(self, relay: e.RelayId, address: Address, now: float) -> None:
        pending = self._opening.pop(relay, None)
        if pending is None or pending.abandoned:
            self._outputs.append(e.CloseRelay(relay))
            if pending is not None and pending.reserve is not None:
                self._outputs.append(e.CloseRelay(pending.reserve))
            return
        family = pending.waiting.pop(relay)
        pending.opened[family] = relay, address
        self._answer_pending(pending, now)

    def _relay_failed(self, relay: e.RelayId, now: float) -> None:
        pending = self._opening.pop(relay, None)
        if pending is not None:
            pending.failed[pending.waiting.pop(relay)] = 508
            self._answer_pending(pending, now)

    def _answer_pending(self, pending: PendingAllocation, now: float) -> None:
        if pending.waiting or pending.abandoned:
            return
        del self._pending[pending.flow]
        if pending.opened:
            response = self._complete(pending, now)
        else:
            _log.info("TURN Allocate from %s refused: no relayed address to be had", pending.flow)
            response = self._error(pending.request, 508)
        self._answer(pending.flow, pending.request, response, pending.auth, now)

    def _complete(self, pending: PendingAllocation, now: float) -> Message:
        """Make the allocation and its success response (RFC 8656 7.2)."""
        allocation = Allocation(pending.flow, pending.auth.username)
        fields = []
        for family, (relay_id, address) in sorted(pending.opened.items()):
            relay = Relay(relay_id, family, address, now + pending.lifetime, allocation)
            allocation.relays[family] = self._relays[relay_id] = relay
            fields.append(a.XOR_RELAYED_ADDRESS(address))
        fields += [a.XOR_MAPPED_ADDRESS(pending.flow.client), a.LIFETIME(int(pending.lifetime))]
        for family, code in pending.failed.items():
            fields.append(a.ADDRESS_ERROR_CODE(a.AddressErrorCode(family, code, REASONS[code])))
        if pending.reserve is not None:
            ((relay_id, (host, port)),) = pending.opened.values()
            token = bytes.fromhex(self._tokens(16))
            until = now + RESERVATION_LIFETIME
            self._reservations[token] = Reservation(pending.reserve, _family(host), (host, port + 1), until)
            self._expires_at(until)
            fields.append(a.RESERVATION_TOKEN(token))
        self._allocations[pending.flow] = allocation
        self._expires_at(now + pending.lifetime)
        self.counters.allocations += 1
        relayed = " and ".join(f"{host} port {port}" for _, (host, port) in pending.opened.values())
        _log.info("TURN allocation for %r at %s: %s", Identity(allocation.username), pending.flow, relayed)
        return self._with_software(pending.request, *fields)

    def _flow_closed(self, flow: e.Flow) -> None:
        pending = self._pending.pop(flow, None)
        if pending is not None:
            pending.abandoned = True
            for relay_id, _ in pending.opened.values():
                self._outputs.append(e.CloseRelay(relay_id))
        if (allocation := self._allocations.get(flow)) is not None:
            self._end(allocation, "its connection closed")

    def _end(self, allocation: Allocation, why: str) -> None:
        for relay in list(allocation.relays.values()):
            self._close(relay, why)

    def _close(self, relay: Relay, why: str) -> None:
        allocation = relay.allocation
        for channel in list(relay.by_peer.values()):
            self._unbind(channel)
        del self._relays[relay.id], allocation.relays[relay.family]
        self._outputs.append(e.CloseRelay(relay.id))
        if not allocation.relays:
            del self._allocations[allocation.flow]
        _log.info("TURN relayed address %s port %d ends: %s", *relay.address, why)

    def _new_relay(self) -> e.RelayId:
        self._next_relay += 1
        return e.RelayId(self._next_relay)

    # --- permissions and channels ------------------------------------------------------------------------------

    def _permit(self, relay: Relay, host: str, now: float) -> None:
        relay.permissions[host] = now + PERMISSION_LIFETIME
        self._expires_at(now + PERMISSION_LIFETIME)
        for channel in relay.by_peer.values():
            if channel.peer[0] == host:
                flow = relay.allocation.flow
                until = channel.carries_until
                self._outputs.append(e.ChannelBound(flow, channel.number, relay.id, relay.address, channel.peer, until))

    def _unbind(self, channel: Channel) -> None:
        allocation = channel.relay.allocation
        if allocation.channels.pop(channel.number, None) is not None:
            del channel.relay.by_peer[channel.peer]
            self._outputs.append(e.ChannelUnbound(allocation.flow, channel.number))

    def _policy_changed(self) -> None:
        """Take back what is no longer allowed; an allocation whose last peer goes with it ends.

        So a client that has died holds nothing beyond its session.
        """
        deprived: list[Allocation] = []
        for relay in self._relays.values():
            username = relay.allocation.username
            for channel in list(relay.by_peer.values()):
                if not self._policy.allows(username, *channel.peer):
                    self._unbind(channel)
            for host in list(relay.permissions):
                if not self._policy.allows(username, host, None):
                    del relay.permissions[host]
                    deprived.append(relay.allocation)
        for allocation in dict.fromkeys(deprived):
            if not any(relay.permissions for relay in allocation.relays.values()):
                self._end(allocation, "the session of its peers is over")

    # --- checks ------------------------------------------------------------------------------------------------

    def _allocation(self, flow: e.Flow, auth: Authenticated) -> Allocation:
        allocation = self._allocations.get(flow)
        if allocation is None:
            raise Reject(437, "the 5-tuple has no allocation")
        if allocation.username != auth.username:
            raise Reject(441, "the allocation is another user's")
        return allocation

    def _relay_towards(self, allocation: Allocation, host: str) -> Relay:
        relay = allocation.relays.get(_family(host))
        if relay is None:
            raise Reject(443, "no relayed address of the peer's family")
        return relay

    def _check_peer(self, username: str, host: str, port: int | None) -> None:
        own = port is not None and (host, port) in self._settings.listening
        if own or not self._policy.allows(username, host, port):
            raise Reject(403, f"peer {host} is not allowed")

    def _check_quota(self, username: str, *, redeems: bool) -> None:
        pending = [x.auth.username for x in self._pending.values()]
        held = [x.username for x in self._allocations.values()] + pending
        if held.count(username) >= self._settings.allocations_per_user:
            raise Reject(486, "the user has too many allocations")
        # What is reserved outlives its allocation by some seconds: it counts for the whole.
        if len(held) + len(self._reservations) - redeems >= self._settings.allocations:
            raise Reject(508, "the server has too many allocations")

    # --- time --------------------------------------------------------------------------------------------------

    def _expires_at(self, moment: float) -> None:
        if self._next_expiry is None or moment < self._next_expiry:
            self._next_expiry = moment

    def _expire(self, now: float) -> None:
        """Drop all that has ended, and find what ends next."""
        for relay in list(self._relays.values()):
            if relay.expires <= now:
                self._close(relay, "it was not refreshed")
                continue
            for channel in list(relay.by_peer.values()):
                if channel.expires <= now:
                    self._unbind(channel)
            for host, expires in list(relay.permissions.items()):
                if expires <= now:
                    del relay.permissions[host]
        for token, reservation in list(self._reservations.items()):
            if reservation.expires <= now:
                del self._reservations[token]
                self._outputs.append(e.CloseRelay(reservation.relay))
        self._next_expiry = None
        for relay in self._relays.values():
            self._expires_at(relay.expires)
            for moment in (*relay.permissions.values(), *(x.expires for x in relay.by_peer.values())):
                self._expires_at(moment)
        for reservation in self._reservations.values():
            self._expires_at(reservation.expires)

    # --- answers -----------------------------------------------------------------------------------------------

    def _answer(self, flow: e.Flow, request: Message, response: Message, auth: Authenticated, now: float) -> None:
        data = self._transmit(flow, response, auth, request.fingerprint)
        if not flow.stream:
            self._answers.keep(flow, request, data, now)

    def _transmit(self, flow: e.Flow, response: Message, auth: Authenticated | None, fingerprint: bool) -> bytes:
        data = response.encode(
            sha1=auth.key if auth and not auth.sha256 else None,
            sha256=auth.key if auth and auth.sha256 else None,
            fingerprint=fingerprint,
        )
        self._outputs.append(e.SendToClient(flow, data))
        return data

    def _error(self, request: Message, code: int, *fields: a.Field) -> Message:
        self.counters.errors[code] += 1
        return error(request, code, *fields)

    def _with_software(self, request: Message, *fields: a.Field) -> Message:
        return success(request, *fields, a.SOFTWARE(self._settings.software))

    def _drop(self, reason: str) -> None:
        self.counters.dropped[reason] += 1


def _family(host: str) -> int:
    return ipaddress.ip_address(host).version


def _method(request: Message) -> str:
    return Method(request.method).name.title().replace("_", "")
