"""The TURN proxy on real sockets of the loopback (S7-STUN, S7-TURN)."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest

from imskit.media.plane import Notice
from imskit.media.python_plane import PythonPlane
from imskit.stun.engine.policy import SessionPeers
from imskit.stun.engine.settings import TurnSettings
from imskit.stun.wire import attributes as a
from imskit.stun.wire.channel_data import LAST_CHANNEL_OF_RFC5766
from imskit.stun.wire.message import Method, parse_message, request
from ue_agent.turn_proxy.io import server as server_module
from ue_agent.turn_proxy.io import stream as stream_module
from ue_agent.turn_proxy.io.relays import VirtualRelays

UDP, TCP = socket.SOCK_DGRAM, socket.SOCK_STREAM
LEG = ("192.0.2.10", 50000)


@pytest.fixture(params=[("127.0.0.1", UDP), ("127.0.0.1", TCP), ("::1", UDP), ("::1", TCP)], ids=str)
async def path(request: Any, start_proxy: Any, connect: Any) -> Any:
    """A client of a proxy with relay sockets, over each transport and family, and the host it uses."""
    host, kind = request.param
    proxy = await start_proxy()
    endpoint = next(endpoint for endpoint in proxy.endpoints if endpoint[0] == host)
    return await connect(endpoint, kind), host, proxy


async def _receive_from(sock: socket.socket) -> tuple[bytes, tuple[str, int]]:
    async with asyncio.timeout(5):
        data, address = await asyncio.get_running_loop().sock_recvfrom(sock, 65536)
    return data, address[:2]


async def test_binding(path: Any) -> None:
    client, _, _ = path
    answer = await client.exchange(request(Method.BINDING, client.tid()))
    assert answer.get(a.XOR_MAPPED_ADDRESS) == client.sock.getsockname()[:2]


async def test_indications_both_ways(path: Any, open_peer: Any) -> None:
    client, host, _ = path
    peer = open_peer(host)
    relayed = await client.allocate(a.REQUESTED_ADDRESS_FAMILY(6 if ":" in host else 4))
    await client.permit(host)
    await client.send_to(peer.getsockname()[:2], b"up")
    assert await _receive_from(peer) == (b"up", relayed)
    peer.sendto(b"down", relayed)
    message = parse_message(await client.receive())
    assert message.method == Method.DATA
    assert message.get(a.DATA) == b"down"
    assert message.get(a.XOR_PEER_ADDRESS) == peer.getsockname()[:2]


@pytest.mark.parametrize("size", [0, 1, 160, 1400, 30000])
async def test_channel_both_ways(path: Any, open_peer: Any, size: int) -> None:
    client, host, _ = path
    peer = open_peer(host)
    relayed = await client.allocate(a.REQUESTED_ADDRESS_FAMILY(6 if ":" in host else 4))
    await client.bind(0x4123, peer.getsockname()[:2])
    data = bytes(n & 255 for n in range(size))
    await client.send_on(0x4123, data)
    assert await _receive_from(peer) == (data, relayed)
    peer.sendto(data, relayed)
    frame = await client.receive()
    assert frame == b"\x41\x23" + size.to_bytes(2) + data


async def test_channel_of_rfc5766(start_proxy: Any, connect: Any, open_peer: Any) -> None:
    """Numbers above 0x4FFF go past the plane, which does not know them."""
    proxy = await start_proxy(settings=TurnSettings(last_channel=LAST_CHANNEL_OF_RFC5766))
    client, peer = await connect(proxy.endpoints[0]), open_peer("127.0.0.1")
    relayed = await client.allocate()
    await client.bind(0x7ABC, peer.getsockname())
    await client.send_on(0x7ABC, b"up")
    assert await _receive_from(peer) == (b"up", relayed)
    peer.sendto(b"down", relayed)
    assert await client.receive() == b"\x7a\xbc\x00\x04down"


async def test_peer_without_permission_is_not_heard(path: Any, open_peer: Any) -> None:
    client, host, _ = path
    relayed = await client.allocate(a.REQUESTED_ADDRESS_FAMILY(6 if ":" in host else 4))
    open_peer(host).sendto(b"stranger", relayed)
    assert await client.receive_nothing()


async def test_deleted_allocation_frees_its_port(path: Any, open_peer: Any) -> None:
    client, host, proxy = path
    relayed = await client.allocate(a.REQUESTED_ADDRESS_FAMILY(6 if ":" in host else 4))
    await client.call(Method.REFRESH, a.LIFETIME(0))
    assert proxy.allocations == 0
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, UDP) as sock:
        sock.bind(relayed)


async def test_time_ends_an_allocation(start_proxy: Any, connect: Any, plane: PythonPlane) -> None:
    """The machine's deadlines reach the event loop."""
    proxy = await start_proxy(settings=TurnSettings(default_lifetime=0.2, maximum_lifetime=0.2))
    closed = asyncio.Event()
    close_socket = plane.close_socket

    def watch(socket_id: Any) -> None:
        close_socket(socket_id)
        closed.set()

    plane.close_socket = watch  # type: ignore[method-assign]
    client = await connect(proxy.endpoints[0])
    await client.allocate()
    assert proxy.allocations == 1
    async with asyncio.timeout(5):
        await closed.wait()
    assert proxy.allocations == 0


async def test_removed_user(path: Any) -> None:
    client, host, proxy = path
    await client.allocate(a.REQUESTED_ADDRESS_FAMILY(6 if ":" in host else 4))
    proxy.remove_user("alice")
    assert proxy.allocations == 0


# --- TCP -------------------------------------------------------------------------------------------------------


async def test_closing_a_connection_ends_its_allocation(start_proxy: Any, connect: Any) -> None:
    proxy = await start_proxy()
    client = await connect(proxy.endpoints[0], TCP)
    await client.allocate()
    other = await connect(proxy.endpoints[0], TCP)
    client.sock.close()
    async with asyncio.timeout(5):
        while proxy.allocations:
            await other.exchange(request(Method.BINDING, other.tid()))


async def test_what_is_no_turn_is_cut_off(start_proxy: Any, connect: Any) -> None:
    proxy = await start_proxy()
    client = await connect(proxy.endpoints[0], TCP)
    await client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    assert await client.is_cut_off()


async def test_silent_connections_are_closed(start_proxy: Any, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "IDLE_SECONDS", 0.1)
    proxy = await start_proxy()
    used, silent = await connect(proxy.endpoints[0], TCP), await connect(proxy.endpoints[0], TCP)
    await used.allocate()
    assert await silent.is_cut_off()
    assert proxy.allocations == 1
    await used.call(Method.REFRESH)


async def test_too_many_connections(
    start_proxy: Any, connect: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_module, "CONNECTIONS", 1)
    proxy = await start_proxy()
    first = await connect(proxy.endpoints[0], TCP)
    await first.exchange(request(Method.BINDING, first.tid()))
    second = await connect(proxy.endpoints[0], TCP)
    assert await second.is_cut_off()
    assert "too many" in caplog.text
    await first.exchange(request(Method.BINDING, first.tid()))


async def test_a_slow_client_loses_data_but_no_answer(
    start_proxy: Any, connect: Any, open_peer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Peers' data is dropped as on a UDP path; memory does not grow with it."""
    caplog.set_level(logging.INFO)
    proxy = await start_proxy()
    client, peer = await connect(proxy.endpoints[0], TCP), open_peer("127.0.0.1")
    relayed = await client.allocate()
    await client.bind(0x4000, peer.getsockname())
    (stream,) = proxy._streams.values()
    sent = 0
    while not stream.lost:
        peer.sendto(bytes(60000), relayed)
        sent += 1
        assert sent < 2000, "it should have begun to drop"
        await asyncio.sleep(0)
    assert stream._transport.get_write_buffer_size() < stream_module.WRITE_BUFFER + 2 * 60004
    await client.send(request(Method.BINDING, client.tid()).encode())
    received = 0
    while (frame := await client.receive())[0] >= 0x40:
        received += 1
    assert parse_message(frame).method == Method.BINDING
    assert received < sent


# --- the agent's side: relayed addresses that no interface has -------------------------------------------------


class _Leg:
    """A media leg that answers what it is sent."""

    def __init__(self, plane: PythonPlane) -> None:
        self.plane = plane
        self.heard: list[tuple[bytes, tuple[str, int]]] = []
        self.id = plane.leg_open(LEG, self, ssrc=1, secured=False)

    def punt(self, data: bytes, address: tuple[str, int]) -> None:
        self.heard.append((data, address))
        self.plane.leg_send(self.id, data[::-1], address)

    def rtcp(self, data: bytes, address: tuple[str, int]) -> None:
        raise AssertionError("no RTCP here")

    def notice(self, notice: Notice, now: float) -> None:
        raise AssertionError("no RTP here")


@pytest.mark.parametrize("kind", [UDP, TCP])
async def test_own_leg_behind_the_proxy(
    start_proxy: Any, connect: Any, plane: PythonPlane, kind: socket.SocketKind
) -> None:
    """S7-TURN: media reaches the RMF's leg without a relay socket, by indications and by channel."""
    peers = SessionPeers()
    proxy = await start_proxy(("127.0.0.1",), peers, VirtualRelays(plane, ["192.0.2.1"]))
    client, leg = await connect(proxy.endpoints[0], kind), _Leg(plane)
    relayed = await client.allocate()
    assert relayed[0] == "192.0.2.1"
    assert parse_message((await client.permit(LEG[0])).raw).get(a.ERROR_CODE).code == 403
    peers.admit(LEG)
    await client.permit(LEG[0])

    await client.send_to(LEG, b"\x16first")
    message = parse_message(await client.receive())
    assert message.get(a.DATA) == b"tsrif\x16"
    assert message.get(a.XOR_PEER_ADDRESS) == LEG

    await client.bind(0x4000, LEG)
    await client.send_on(0x4000, b"\x16second")
    assert await client.receive() == b"\x40\x00\x00\x07dnoces\x16"
    assert leg.heard == [(b"\x16first", relayed), (b"\x16second", relayed)]

    peers.retire(LEG)
    proxy.policy_changed()
    await client.send_on(0x4000, b"\x16third")
    await client.send_to(LEG, b"\x16fourth")
    answer = await client.exchange(request(Method.BINDING, client.tid()))
    assert answer.method == Method.BINDING
    assert len(leg.heard) == 2


async def test_a_leg_that_is_gone(start_proxy: Any, connect: Any, plane: PythonPlane) -> None:
    """Data for a virtual address never leaves on a wire, whoever still has a channel to it."""
    peers = SessionPeers()
    peers.admit(LEG)
    proxy = await start_proxy(("127.0.0.1",), peers, VirtualRelays(plane, ["192.0.2.1"]))
    client, leg = await connect(proxy.endpoints[0]), _Leg(plane)
    await client.allocate()
    await client.bind(0x4000, LEG)
    plane.close(leg.id)
    await client.send_on(0x4000, b"\x16lost")
    await client.send_to(LEG, b"\x16lost")
    await client.exchange(request(Method.BINDING, client.tid()))
    assert plane.dropped == {"no-peer": 1}
    assert leg.heard == []


async def test_virtual_addresses_are_given_back(start_proxy: Any, connect: Any, plane: PythonPlane) -> None:
    proxy = await start_proxy(("127.0.0.1",), SessionPeers(), VirtualRelays(plane, ["192.0.2.1"]))
    client, leg = await connect(proxy.endpoints[0]), _Leg(plane)
    relayed = await client.allocate()
    await client.call(Method.REFRESH, a.LIFETIME(0))
    plane.leg_send(leg.id, b"\x16late", relayed)
    assert plane.stats(leg.id).dropped == {"no-remote": 1}


# --- start and stop --------------------------------------------------------------------------------------------


async def test_an_address_in_use(start_proxy: Any, plane: PythonPlane) -> None:
    proxy = await start_proxy(("127.0.0.1",))
    host, port = proxy.endpoints[0]
    second = type(proxy)(plane, [(host, 0), (host, port)], proxy._credentials, proxy._policy, VirtualRelays(plane, []))
    with pytest.raises(OSError, match="in use"):
        await second.start()
    assert second.endpoints == []


async def test_stop_gives_everything_back(start_proxy: Any, connect: Any, open_peer: Any) -> None:
    proxy = await start_proxy(("127.0.0.1",))
    udp, tcp = await connect(proxy.endpoints[0]), await connect(proxy.endpoints[0], TCP)
    relayed = [await udp.allocate(), await tcp.allocate()]
    endpoint = proxy.endpoints[0]
    await proxy.aclose()
    for address in [endpoint, *relayed]:
        with socket.socket(socket.AF_INET, UDP) as sock:
            sock.bind(address)
    assert await tcp.is_cut_off()
