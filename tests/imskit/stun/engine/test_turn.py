"""The TURN server machine on a virtual clock (RFC 8656, RFC 8489 6.3; S7-STUN, S7-TURN)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.secrets import Secret
from imskit.stun.engine import events as e
from imskit.stun.engine.credentials import CredentialStore
from imskit.stun.engine.policy import CidrPolicy, SessionPeers
from imskit.stun.engine.settings import TurnSettings
from imskit.stun.engine.turn import TurnServer
from imskit.stun.wire import attributes as a
from imskit.stun.wire.channel_data import pack_channel_data
from imskit.stun.wire.message import Message, MessageClass, Method, indication, parse_message, request

PEER = ("192.0.2.77", 7000)
PEER6 = ("2001:db8:7::7", 7000)

type Code = Callable[[Message], int]


# --- Binding ---------------------------------------------------------------------------------------------------


def test_binding_needs_no_credential(bench: Any, client: Any) -> None:
    answer = bench.exchange(client.flow, request(Method.BINDING, bytes(12)).encode(fingerprint=True))
    assert answer.get(a.XOR_MAPPED_ADDRESS) == client.flow.client
    assert answer.fingerprint
    plain = bench.exchange(client.flow, request(Method.BINDING, bytes(12)).encode())
    assert not plain.fingerprint


def test_unknown_required_attributes_of_a_binding(bench: Any, client: Any, error_code: Code) -> None:
    data = request(Method.BINDING, bytes(12), [a.Field(0x7FFF, b""), a.Field(0xFFFF, b"")]).encode()
    answer = bench.exchange(client.flow, data)
    assert error_code(answer) == 420
    assert answer.get(a.UNKNOWN_ATTRIBUTES) == (0x7FFF,)


def test_what_is_no_request_gets_no_answer(bench: Any, client: Any) -> None:
    for message_class in (MessageClass.INDICATION, MessageClass.SUCCESS, MessageClass.ERROR):
        for method in Method:
            assert bench.exchange(client.flow, Message(message_class, method, bytes(12)).encode()) is None
    assert bench.exchange(client.flow, request(Method.DATA, bytes(12)).encode()) is None
    assert bench.exchange(client.flow, request(0x00A, bytes(12)).encode()) is None
    assert bench.exchange(client.flow, b"") is None
    assert bench.server.counters.dropped["unknown-method"] == 2


# --- Allocate (RFC 8656 7.2) -----------------------------------------------------------------------------------


def test_allocate(bench: Any, client: Any, error_code: Code) -> None:
    challenge = client.challenge()
    assert error_code(challenge) == 401
    answer = client.allocate()
    assert error_code(answer) == 0
    assert answer.get(a.XOR_RELAYED_ADDRESS) == ("198.51.100.1", 50000)
    assert answer.get(a.XOR_MAPPED_ADDRESS) == client.flow.client
    assert answer.get(a.LIFETIME) == 600
    assert answer.get(a.SOFTWARE) == "imsbridge"
    assert bench.server.has_allocation(client.flow)


def test_unauthenticated_answers_are_small(bench: Any, client: Any) -> None:
    """No use to who forges a source address: S7-TURN, RFC 8656 21.3.1."""
    bench.exchange(client.flow, request(Method.ALLOCATE, bytes(12), [a.REQUESTED_TRANSPORT(17)]).encode())
    bench.exchange(client.flow, b"\x00\x03\x00\x04" + bytes.fromhex("2112a442") + bytes(12) + b"\x00\x19\x00\x04")
    bench.exchange(client.flow, request(Method.BINDING, bytes(12)).encode())
    sizes = [len(data) for _, data in bench.to_client]
    assert len(sizes) == 3
    assert max(sizes) <= 128


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], 400),
        ([a.REQUESTED_TRANSPORT(6)], 442),
        ([a.REQUESTED_TRANSPORT(17), a.DONT_FRAGMENT(True)], 420),
        ([a.REQUESTED_TRANSPORT(17), a.RESERVATION_TOKEN(bytes(8)), a.EVEN_PORT(False)], 400),
        ([a.REQUESTED_TRANSPORT(17), a.RESERVATION_TOKEN(bytes(8)), a.REQUESTED_ADDRESS_FAMILY(4)], 400),
        ([a.REQUESTED_TRANSPORT(17), a.RESERVATION_TOKEN(bytes(8)), a.ADDITIONAL_ADDRESS_FAMILY(6)], 400),
        ([a.REQUESTED_TRANSPORT(17), a.RESERVATION_TOKEN(bytes(8))], 508),
        ([a.REQUESTED_TRANSPORT(17), a.REQUESTED_ADDRESS_FAMILY(4), a.ADDITIONAL_ADDRESS_FAMILY(6)], 400),
        ([a.REQUESTED_TRANSPORT(17), a.EVEN_PORT(True), a.ADDITIONAL_ADDRESS_FAMILY(6)], 400),
        ([a.REQUESTED_TRANSPORT(17), a.ADDITIONAL_ADDRESS_FAMILY(4)], 400),
        ([a.REQUESTED_TRANSPORT(17), a.Field(0x7FF0, b"")], 420),
        ([a.REQUESTED_TRANSPORT(17), a.REQUESTED_ADDRESS_FAMILY(-9)], 440),
    ],
)
def test_refused_allocations(bench: Any, client: Any, error_code: Code, fields: list[a.Field], expected: int) -> None:
    answer = client.call(Method.ALLOCATE, *fields)
    assert error_code(answer) == expected
    if expected == 420:
        assert answer.get(a.UNKNOWN_ATTRIBUTES) == (fields[-1].code,)
    assert not bench.server.has_allocation(client.flow)
    assert not bench.opened


def test_families(make_bench: Any, make_client: Any, error_code: Code) -> None:
    bench = make_bench(families=frozenset({6}))
    client = make_client(bench)
    assert error_code(client.allocate()) == 440  # IPv4 is meant where nothing is said
    answer = client.allocate(a.REQUESTED_ADDRESS_FAMILY(6))
    assert answer.get(a.XOR_RELAYED_ADDRESS) == ("2001:db8:1::1", 50000)
    assert error_code(client.permit(PEER[0])) == 443
    assert error_code(client.bind(0x4000, PEER)) == 443
    assert error_code(client.call(Method.REFRESH, a.REQUESTED_ADDRESS_FAMILY(4))) == 443
    assert error_code(client.permit(PEER6[0])) == 0


def test_dual_allocation(bench: Any, client: Any, error_code: Code) -> None:
    answer = client.allocate(a.ADDITIONAL_ADDRESS_FAMILY(6))
    assert answer.get_all(a.XOR_RELAYED_ADDRESS) == [("198.51.100.1", 50000), ("2001:db8:1::1", 50002)]
    assert a.ADDRESS_ERROR_CODE not in answer
    assert error_code(client.permit(PEER[0], PEER6[0])) == 0
    assert client.send(PEER6, b"6")[0].relay != client.send(PEER, b"4")[0].relay
    # Giving up one family leaves the other alone (RFC 8656 8.1).
    client.bind(0x4001, PEER)
    client.bind(0x4002, PEER6)
    assert error_code(client.call(Method.REFRESH, a.LIFETIME(0), a.REQUESTED_ADDRESS_FAMILY(6))) == 0
    assert [channel for _, channel in bench.bound] == [0x4001]
    assert client.send(PEER, b"4") and not client.send(PEER6, b"6")
    assert error_code(client.call(Method.REFRESH, a.REQUESTED_ADDRESS_FAMILY(6))) == 443
    assert error_code(client.call(Method.REFRESH, a.LIFETIME(0))) == 0
    assert not bench.server.has_allocation(client.flow)


def test_dual_allocation_half_granted(make_bench: Any, make_client: Any) -> None:
    bench = make_bench(families=frozenset({4}))
    answer = make_client(bench).allocate(a.ADDITIONAL_ADDRESS_FAMILY(6))
    assert len(answer.get_all(a.XOR_RELAYED_ADDRESS)) == 1
    assert answer.get(a.ADDRESS_ERROR_CODE) == a.AddressErrorCode(6, 440, "Address Family not Supported")

    bench = make_bench()
    bench.relays = lambda wish: bench.open_relay(wish) if wish.family == 6 else e.RelayFailed(wish.relay)
    answer = make_client(bench).allocate(a.ADDITIONAL_ADDRESS_FAMILY(6))
    assert answer.get_all(a.XOR_RELAYED_ADDRESS) == [("2001:db8:1::1", 50000)]
    assert answer.get(a.ADDRESS_ERROR_CODE) == a.AddressErrorCode(4, 508, "Insufficient Capacity")


def test_no_port_to_be_had(bench: Any, client: Any, error_code: Code) -> None:
    bench.relays = lambda wish: e.RelayFailed(wish.relay)
    assert error_code(client.allocate()) == 508
    assert not bench.server.has_allocation(client.flow)


def test_even_port_and_reservation(bench: Any, client: Any, make_client: Any, error_code: Code) -> None:
    answer = client.allocate(a.EVEN_PORT(True))
    wish = bench.opened[0]
    assert wish.even and wish.reserve is not None
    token = answer.get(a.RESERVATION_TOKEN)
    other = make_client(bench, port=4001, username="bob")
    assert error_code(other.allocate(a.RESERVATION_TOKEN(bytes(8)))) == 508
    second = other.allocate(a.RESERVATION_TOKEN(token))
    assert second.get(a.XOR_RELAYED_ADDRESS) == ("198.51.100.1", 50001)
    third = make_client(bench, port=4002)
    assert error_code(third.allocate(a.RESERVATION_TOKEN(token))) == 508
    bench.advance(31)
    assert bench.closed == []


def test_reservation_ends_after_30_seconds(bench: Any, client: Any, make_client: Any, error_code: Code) -> None:
    token = client.allocate(a.EVEN_PORT(True)).get(a.RESERVATION_TOKEN)
    reserve = bench.opened[0].reserve
    bench.advance(29)
    assert bench.closed == []
    bench.advance(2)
    assert bench.closed == [reserve]
    assert error_code(make_client(bench, port=4001).allocate(a.RESERVATION_TOKEN(token))) == 508


def test_even_port_without_reservation(bench: Any, client: Any) -> None:
    assert a.RESERVATION_TOKEN not in client.allocate(a.EVEN_PORT(False))
    assert bench.opened[0].even and bench.opened[0].reserve is None


@pytest.mark.parametrize(("wanted", "granted"), [(None, 600), (10, 600), (1800, 1800), (999999, 3600)])
def test_lifetimes(bench: Any, client: Any, error_code: Code, wanted: int | None, granted: int) -> None:
    fields = [] if wanted is None else [a.LIFETIME(wanted)]
    assert client.allocate(*fields).get(a.LIFETIME) == granted
    bench.advance(granted - 1)
    assert bench.server.has_allocation(client.flow)
    bench.advance(2)
    assert not bench.server.has_allocation(client.flow)
    assert bench.closed == [bench.opened[0].relay]


def test_refresh(bench: Any, client: Any, error_code: Code) -> None:
    client.allocate()
    bench.advance(500)
    assert client.call(Method.REFRESH).get(a.LIFETIME) == 600
    bench.advance(599)
    assert bench.server.has_allocation(client.flow)
    assert client.call(Method.REFRESH, a.LIFETIME(0)).get(a.LIFETIME) == 0
    assert not bench.server.has_allocation(client.flow)
    assert error_code(client.call(Method.REFRESH)) == 437
    assert bench.closed == [bench.opened[0].relay]


@pytest.mark.parametrize("method", [Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND])
def test_requests_without_an_allocation(client: Any, error_code: Code, method: Method) -> None:
    assert error_code(client.challenge(method)) == 401
    assert error_code(client.call(method)) == 437


def test_second_allocation_on_a_5_tuple(client: Any, error_code: Code) -> None:
    client.allocate()
    assert error_code(client.allocate()) == 437


def test_allocations_belong_to_the_5_tuple(bench: Any, client: Any, make_client: Any, error_code: Code) -> None:
    """The same user, host and port over TCP is another client."""
    client.allocate()
    client.permit(PEER[0])
    other = make_client(bench, transport="TCP")
    assert other.send(PEER, b"x") == []
    assert error_code(other.permit(PEER[0])) == 437


def test_another_users_requests(bench: Any, client: Any, make_client: Any, error_code: Code) -> None:
    client.allocate()
    bob = make_client(bench, username="bob")
    bob.challenge()
    for method in (Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND):
        assert error_code(bob.call(method)) == 441


def test_quotas(make_bench: Any, make_client: Any, error_code: Code) -> None:
    bench = make_bench(allocations_per_user=2, allocations=3)
    clients = [make_client(bench, port=4000 + n) for n in range(3)]
    assert [error_code(client.allocate()) for client in clients] == [0, 0, 486]
    bobs = [make_client(bench, port=5000 + n, username="bob") for n in range(2)]
    assert [error_code(client.allocate()) for client in bobs] == [0, 508]
    clients[0].call(Method.REFRESH, a.LIFETIME(0))
    assert error_code(bobs[1].allocate()) == 0


def test_reservations_count_for_the_whole(make_bench: Any, make_client: Any, error_code: Code) -> None:
    """Else a client reserves port after port by allocations that it gives up at once."""
    bench = make_bench(allocations=4)
    codes = []
    token = None
    for number in range(6):
        one = make_client(bench, port=4000 + number)
        answer = one.allocate(a.EVEN_PORT(True))
        codes.append(error_code(answer))
        token = token or answer.get(a.RESERVATION_TOKEN)
        one.call(Method.REFRESH, a.LIFETIME(0))
    assert codes == [0, 0, 0, 0, 508, 508]
    assert error_code(make_client(bench, port=5000).allocate(a.RESERVATION_TOKEN(token))) == 0, "its own place"


def test_pending_allocations_count(make_bench: Any, make_client: Any, error_code: Code) -> None:
    bench = make_bench(allocations_per_user=1)
    bench.relays = lambda wish: None
    first, second = make_client(bench), make_client(bench, port=4001)
    first.challenge()
    assert bench.exchange(first.flow, first.encode(Method.ALLOCATE, a.REQUESTED_TRANSPORT(17))) is None
    assert error_code(second.allocate()) == 486


@pytest.mark.parametrize("host", ["2002:c000:204::1", "2001::1"])
def test_tunnelled_clients(bench: Any, make_client: Any, error_code: Code, host: str) -> None:
    assert error_code(make_client(bench, host).allocate()) == 403  # RFC 8656 21.4


# --- retransmissions (RFC 8489 6.3.1) --------------------------------------------------------------------------


def test_a_retransmitted_allocate_gets_the_same_answer(bench: Any, client: Any) -> None:
    client.challenge()
    data = client.encode(Method.ALLOCATE, a.REQUESTED_TRANSPORT(17))
    first = bench.exchange(client.flow, data)
    bench.advance(5)
    assert bench.exchange(client.flow, data).raw == first.raw
    assert len(bench.opened) == 1


def test_a_retransmission_before_the_relay_is_there(bench: Any, client: Any) -> None:
    bench.relays = lambda wish: None
    client.challenge()
    data = client.encode(Method.ALLOCATE, a.REQUESTED_TRANSPORT(17))
    assert bench.exchange(client.flow, data) is None
    assert bench.exchange(client.flow, data) is None
    assert len(bench.opened) == 1
    bench.handle(e.RelayOpened(bench.opened[0].relay, ("198.51.100.1", 50000)))
    assert parse_message(bench.to_client[-1][1]).message_class is MessageClass.SUCCESS


def test_a_retransmitted_deletion(bench: Any, client: Any, error_code: Code) -> None:
    client.allocate()
    data = client.encode(Method.REFRESH, a.LIFETIME(0))
    first = bench.exchange(client.flow, data)
    assert error_code(first) == 0
    assert bench.exchange(client.flow, data).raw == first.raw
    bench.advance(41)
    assert error_code(bench.exchange(client.flow, data)) == 437


def test_same_transaction_other_content_is_no_retransmission(bench: Any, client: Any, error_code: Code) -> None:
    client.allocate()
    tid = client.tid()
    assert error_code(bench.exchange(client.flow, client.encode(Method.REFRESH, tid=tid))) == 0
    forged = request(Method.REFRESH, tid, [a.LIFETIME(0)]).encode()
    assert error_code(bench.exchange(client.flow, forged)) == 401
    assert bench.server.has_allocation(client.flow)


# --- permissions and data --------------------------------------------------------------------------------------


def test_send_and_data_need_a_permission(bench: Any, client: Any, error_code: Code) -> None:
    client.allocate()
    relay = bench.opened[0].relay
    assert client.send(PEER, b"early") == []
    before = len(bench.to_client)
    bench.handle(e.FromPeer(relay, PEER, b"early"))
    assert len(bench.to_client) == before

    assert error_code(client.permit(PEER[0])) == 0
    assert client.send((PEER[0], 9), b"") == [e.SendToPeer(relay, (PEER[0], 9), b"")]
    bench.handle(e.FromPeer(relay, (PEER[0], 1234), b"hello"))
    flow, data = bench.to_client[-1]
    message = parse_message(data)
    assert (flow, message.method, message.message_class) == (client.flow, Method.DATA, MessageClass.INDICATION)
    assert message.get(a.XOR_PEER_ADDRESS) == (PEER[0], 1234)
    assert message.get(a.DATA) == b"hello"


def test_permissions_last_300_seconds(bench: Any, client: Any) -> None:
    client.allocate()
    client.permit(PEER[0])
    bench.advance(200)
    client.permit(PEER[0])
    bench.advance(299)
    assert client.send(PEER, b"x")
    assert client.send(PEER, b"sending does not refresh it")
    bench.advance(2)
    assert not client.send(PEER, b"x")


def test_bad_permission_requests(bench: Any, client: Any, error_code: Code) -> None:
    client.allocate()
    assert error_code(client.permit()) == 400
    assert error_code(client.permit(PEER[0], PEER6[0])) == 443
    assert error_code(client.permit(PEER[0], "127.0.0.1")) == 403
    assert client.send(PEER, b"x") == [], "all or none"


def test_permission_limit(make_bench: Any, make_client: Any, error_code: Code) -> None:
    bench = make_bench(permissions=2, channels=1)
    client = make_client(bench)
    client.allocate()
    assert error_code(client.permit("192.0.2.1", "192.0.2.2", "192.0.2.3")) == 508
    assert error_code(client.permit("192.0.2.1", "192.0.2.1", "192.0.2.2")) == 0
    assert error_code(client.permit("192.0.2.3")) == 508
    assert error_code(client.permit("192.0.2.2")) == 0
    assert error_code(client.bind(0x4000, ("192.0.2.3", 1))) == 508
    assert error_code(client.bind(0x4000, ("192.0.2.2", 1))) == 0
    assert error_code(client.bind(0x4001, ("192.0.2.2", 2))) == 508


def test_bad_send_indications(bench: Any, client: Any) -> None:
    client.allocate()
    client.permit(PEER[0])
    for fields in (
        [a.DATA(b"x")],
        [a.XOR_PEER_ADDRESS(PEER)],
        [a.XOR_PEER_ADDRESS(PEER), a.DATA(b"x"), a.Field(0x7F00, b"")],
        [a.XOR_PEER_ADDRESS(PEER), a.DATA(b"x"), a.DONT_FRAGMENT(True)],
        [a.XOR_PEER_ADDRESS(PEER6), a.DATA(b"x")],
        [a.XOR_PEER_ADDRESS((PEER[0], 0)), a.DATA(b"x")],
    ):
        bench.handle(e.Received(client.flow, indication(Method.SEND, client.tid(), fields).encode()))
    assert bench.to_peer == []


def test_dont_fragment_where_it_can_be_done(make_bench: Any, make_client: Any, error_code: Code) -> None:
    bench = make_bench(dont_fragment=True)
    client = make_client(bench)
    assert error_code(client.allocate(a.DONT_FRAGMENT(True))) == 0
    client.permit(PEER[0])
    assert [x.dont_fragment for x in client.send(PEER, b"x", a.DONT_FRAGMENT(True))] == [True]
    assert [x.dont_fragment for x in client.send(PEER, b"x")] == [False]


# --- channels (RFC 8656 12) ------------------------------------------------------------------------------------


def test_channel_carries_both_ways(bench: Any, client: Any, error_code: Code) -> None:
    client.allocate()
    relay = bench.opened[0].relay
    assert error_code(client.bind(0x4ABC, PEER)) == 0
    bound = bench.bound[client.flow, 0x4ABC]
    assert (bound.relay, bound.relayed, bound.peer) == (relay, ("198.51.100.1", 50000), PEER)
    assert bound.expires == bench.now + 300
    bench.handle(e.Received(client.flow, pack_channel_data(0x4ABC, b"up") + b"padding"))
    assert bench.to_peer == [e.SendToPeer(relay, PEER, b"up")]
    bench.handle(e.FromPeer(relay, PEER, b"down"))
    assert bench.to_client[-1] == (client.flow, b"\x4a\xbc\x00\x04down")
    bench.handle(e.FromPeer(relay, (PEER[0], 1), b"other port"))
    assert parse_message(bench.to_client[-1][1]).method == Method.DATA


def test_channel_data_on_a_stream_is_padded(bench: Any, make_client: Any) -> None:
    client = make_client(bench, transport="TCP")
    client.allocate()
    client.bind(0x4000, PEER)
    bench.handle(e.FromPeer(bench.opened[0].relay, PEER, b"12345"))
    assert bench.to_client[-1][1] == b"\x40\x00\x00\x0512345\0\0\0"


def test_channel_ends_with_permission_or_binding(bench: Any, client: Any) -> None:
    client.allocate(a.LIFETIME(3600))
    client.bind(0x4000, PEER)
    up = e.Received(client.flow, pack_channel_data(0x4000, b"up"))
    bench.advance(301)  # the permission is over, the binding is not
    bench.handle(up)
    bench.handle(e.FromPeer(bench.opened[0].relay, PEER, b"down"))
    assert bench.to_peer == []
    client.permit(PEER[0])
    assert bench.bound[client.flow, 0x4000].expires == bench.now + 299
    bench.handle(up)
    assert len(bench.to_peer) == 1
    bench.advance(200)
    client.permit(PEER[0])
    bench.advance(100)
    assert bench.bound == {}
    bench.handle(up)
    assert len(bench.to_peer) == 1


def test_channel_rebinding(bench: Any, client: Any, error_code: Code) -> None:
    client.allocate(a.LIFETIME(3600))
    client.bind(0x4000, PEER)
    bench.advance(290)
    assert error_code(client.bind(0x4000, PEER)) == 0
    assert bench.bound[client.flow, 0x4000].expires == bench.now + 300
    other = ("192.0.2.78", 1)
    assert error_code(client.bind(0x4000, other)) == 400
    assert error_code(client.bind(0x4001, PEER)) == 400
    bench.advance(601)
    assert error_code(client.bind(0x4000, other)) == 0
    assert error_code(client.bind(0x4001, PEER)) == 0


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([a.XOR_PEER_ADDRESS(PEER)], 400),
        ([a.CHANNEL_NUMBER(0x4000)], 400),
        ([a.CHANNEL_NUMBER(0x3FFF), a.XOR_PEER_ADDRESS(PEER)], 400),
        ([a.CHANNEL_NUMBER(0x5000), a.XOR_PEER_ADDRESS(PEER)], 400),
        ([a.CHANNEL_NUMBER(0x4000), a.XOR_PEER_ADDRESS((PEER[0], 0))], 400),
        ([a.CHANNEL_NUMBER(0x4000), a.XOR_PEER_ADDRESS(PEER6)], 443),
        ([a.CHANNEL_NUMBER(0x4000), a.XOR_PEER_ADDRESS(("10.0.0.1", 1))], 403),
        ([a.CHANNEL_NUMBER(0x4000), a.XOR_PEER_ADDRESS(("203.0.113.2", 3478))], 403),
    ],
)
def test_bad_channel_binds(bench: Any, client: Any, error_code: Code, fields: list[a.Field], expected: int) -> None:
    client.allocate()
    assert error_code(client.call(Method.CHANNEL_BIND, *fields)) == expected
    assert bench.bound == {}


def test_unknown_and_reserved_channels_are_dropped(bench: Any, client: Any) -> None:
    client.allocate()
    client.bind(0x4000, PEER)
    for data in (
        pack_channel_data(0x4001, b"x"),
        b"\x4f\xff\x00\x09short",
        b"\x40\x00\x00\x05four",
        b"\x50\x00\x00\x00",
        b"\x40\x00",
    ):
        bench.handle(e.Received(client.flow, data))
    assert bench.to_peer == []


# --- endings and changes ---------------------------------------------------------------------------------------


def test_closed_connection_ends_the_allocation(bench: Any, make_client: Any) -> None:
    client = make_client(bench, transport="TCP")
    client.allocate()
    client.bind(0x4000, PEER)
    bench.handle(e.FlowClosed(client.flow))
    assert bench.closed == [bench.opened[0].relay]
    assert bench.bound == {}
    assert not bench.server.has_allocation(client.flow)


def test_connection_closed_while_the_relay_opens(bench: Any, make_client: Any) -> None:
    bench.relays = lambda wish: None
    client = make_client(bench, transport="TCP")
    client.challenge()
    fields = [a.REQUESTED_TRANSPORT(17), a.EVEN_PORT(True)]
    assert bench.exchange(client.flow, client.encode(Method.ALLOCATE, *fields)) is None
    bench.handle(e.FlowClosed(client.flow))
    wish = bench.opened[0]
    sent = len(bench.to_client)
    bench.handle(e.RelayOpened(wish.relay, ("198.51.100.1", 50000)))
    assert bench.closed == [wish.relay, wish.reserve]
    assert len(bench.to_client) == sent
    assert not bench.server.has_allocation(client.flow)


def test_removed_user(make_bench: Any, make_client: Any, error_code: Code) -> None:
    """The agent withdraws the credential of a page that is gone."""
    bench = make_bench()
    client, bob = make_client(bench), make_client(bench, port=4001, username="bob")
    client.allocate()
    bob.allocate()
    bench.store.remove("alice")
    bench.handle(e.UserRemoved("alice"))
    assert bench.server.allocations == 1
    assert error_code(client.allocate()) == 401
    assert error_code(bob.call(Method.REFRESH)) == 0


def test_peers_of_live_sessions_only(make_bench: Any, make_client: Any, error_code: Code) -> None:
    """Media goes where a session's media is, and nowhere once the session is over (S7-TURN)."""
    peers = SessionPeers()
    bench = make_bench(policy=peers)
    client = make_client(bench)
    client.allocate()
    relay = bench.opened[0].relay
    assert error_code(client.permit(PEER[0])) == 403
    peers.admit(PEER)
    assert error_code(client.permit(PEER[0])) == 0
    assert error_code(client.bind(0x4000, (PEER[0], 9))) == 403
    assert error_code(client.bind(0x4000, PEER)) == 0
    assert client.send(PEER, b"x") and not client.send((PEER[0], 9), b"x")
    before = len(bench.to_client)
    bench.handle(e.FromPeer(relay, (PEER[0], 9), b"x"))
    assert len(bench.to_client) == before
    peers.retire(PEER)
    bench.handle(e.PolicyChanged())
    assert bench.bound == {}
    assert not client.send(PEER, b"x")
    bench.handle(e.FromPeer(relay, PEER, b"x"))
    bench.handle(e.Received(client.flow, pack_channel_data(0x4000, b"x")))
    assert len(bench.to_peer) == 1
    assert len(bench.to_client) == before


def test_allocation_ends_with_the_session_of_its_peers(make_bench: Any, make_client: Any, error_code: Code) -> None:
    """A client that died in a call holds nothing after it; one that has peers left, or none yet, is left alone."""
    peers = SessionPeers()
    bench = make_bench(policy=peers)
    dead, alive, fresh = (make_client(bench, port=port) for port in (4001, 4002, 4003))
    other = ("192.0.2.78", 5000)
    peers.admit(PEER)
    peers.admit(other)
    for client in (dead, alive, fresh):
        client.allocate()
    dead.permit(PEER[0])
    dead.bind(0x4000, PEER)
    alive.permit(PEER[0])
    alive.permit(other[0])
    peers.retire(PEER)
    bench.handle(e.PolicyChanged())
    assert bench.server.allocations == 2
    assert len(bench.closed) == 1
    assert error_code(dead.call(Method.REFRESH)) == 437
    assert error_code(alive.call(Method.REFRESH)) == error_code(fresh.call(Method.REFRESH)) == 0


def test_state_is_released(bench: Any, make_client: Any) -> None:
    """After everything expired the machine holds nothing and asks for no call."""
    for n in range(5):
        client = make_client(bench, port=4000 + n)
        client.allocate(a.EVEN_PORT(True))
        client.bind(0x4000, PEER)
    bench.advance(601)
    assert bench.server.allocations == 0
    assert bench.server.deadline() is None
    assert len(bench.closed) == 10


# --- hostile input ---------------------------------------------------------------------------------------------

_values = st.one_of(
    st.binary(max_size=24),
    st.sampled_from([bytes(4), b"\x11\0\0\0", b"\x40\0\0\0", bytes(8), b"\0\1" + bytes(6), b"\0\2" + bytes(18)]),
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*Method, 0x002, 0xFFF]),
            st.sampled_from(list(MessageClass)),
            st.lists(st.tuples(st.sampled_from([*a.TABLE, 0x7FFF, 0xFFFF]), _values), max_size=5),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_no_input_breaks_it(messages: list[tuple[int, MessageClass, list[tuple[int, bytes]], bool]]) -> None:
    """Any attributes in any message, signed or not: nothing escapes, and time goes on."""
    store = CredentialStore("r")
    store.add("u", Secret("p"))
    server = TurnServer(TurnSettings(), store, CidrPolicy(["0.0.0.0/0"]), lambda n: "a" * n)
    flow = e.Flow("UDP", ("203.0.113.2", 3478), ("203.0.113.9", 1))

    def drain() -> list[e.Output]:
        outputs = []
        while (output := server.poll()) is not None:
            outputs.append(output)
            if isinstance(output, e.OpenRelay):
                server.handle(e.RelayOpened(output.relay, ("198.51.100.1", 50000)), 1.0)
        return outputs

    server.handle(e.Received(flow, request(Method.ALLOCATE, bytes(12)).encode()), 0.0)
    (challenge,) = drain()
    assert isinstance(challenge, e.SendToClient)
    nonce = parse_message(challenge.data).get(a.NONCE)
    assert nonce
    key = store.key("u", 1, 0.0)
    for number, (method, message_class, attributes, signed) in enumerate(messages):
        body = b"".join(
            code.to_bytes(2) + len(value).to_bytes(2) + value + bytes(-len(value) % 4) for code, value in attributes
        )
        message = Message(message_class, method, number.to_bytes(12))
        fields = (a.USERNAME("u"), a.REALM("r"), a.NONCE(nonce)) if signed else ()
        head = Message(message_class, method, message.transaction_id, fields).encode()
        data = bytearray(head + body)
        data[2:4] = (len(data) - 20).to_bytes(2)
        if signed:
            import hmac

            data[2:4] = (len(data) - 20 + 24).to_bytes(2)
            assert key
            data += b"\x00\x08\x00\x14" + hmac.digest(key.reveal(), bytes(data), "sha1")
        server.handle(e.Received(flow, bytes(data)), float(number))
        drain()
    server.handle(e.Received(flow, b"\x40\x00\x00\x00"), 20.0)
    drain()
