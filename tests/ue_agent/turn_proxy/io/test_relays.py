"""Relayed addresses (RFC 8656 7.2, 14; S7-TURN)."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from imskit.media.python_plane import PythonPlane
from imskit.stun.engine.events import Flow, OpenRelay, RelayId, SendToPeer
from ue_agent.turn_proxy.io import relays as module
from ue_agent.turn_proxy.io.relays import SocketRelays, VirtualRelays

FLOW = Flow("UDP", ("127.0.0.1", 3478), ("127.0.0.1", 4000))


@pytest.fixture(params=["socket", "virtual"])
async def relays(request: Any, plane: PythonPlane) -> AsyncIterator[SocketRelays | VirtualRelays]:
    made = (
        SocketRelays(plane, ["127.0.0.1", "::1"])
        if request.param == "socket"
        else VirtualRelays(plane, ["192.0.2.1", "2001:db8::1"])
    )
    made.attach(lambda relay, peer, data: None)
    yield made
    made.aclose()


def _wish(number: int, family: int = 4, even: bool = False, reserve: int | None = None) -> OpenRelay:
    return OpenRelay(RelayId(number), FLOW, family, even, None if reserve is None else RelayId(reserve))


async def test_ports(relays: Any) -> None:
    """Dynamic ports, unlike each other, even ones where asked for, on the address of the family."""
    assert relays.families == {4, 6}
    addresses = [relays.open(_wish(n)) for n in range(20)]
    assert len(set(addresses)) == 20
    ports = [port for _, port in addresses]
    assert all(49152 <= port <= 65535 for port in ports)
    assert ports != list(range(ports[0], ports[0] + 20))
    even = [relays.open(_wish(100 + n, 6, even=True)) for n in range(10)]
    assert all(":" in host and port % 2 == 0 for host, port in even)


async def test_reserved_port_is_the_next_one(relays: Any, plane: PythonPlane) -> None:
    host, port = relays.open(_wish(1, even=True, reserve=2))
    assert port % 2 == 0
    taken = {relays.open(_wish(n)) for n in range(10, 30)}
    assert (host, port + 1) not in taken
    relays.close(RelayId(1))
    relays.close(RelayId(2))
    relays.close(RelayId(2))


async def test_no_port_left(relays: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST_PORT", module.FIRST_PORT + 1)
    opened = [relays.open(_wish(n)) for n in range(4)]
    assert opened.count(None) >= 2
    assert relays.open(_wish(9, even=True, reserve=10)) is None


@pytest.mark.skipif(not hasattr(socket, "AF_PACKET") or os.geteuid() != 0, reason="needs root to see IP headers")
async def test_dont_fragment_bit(plane: PythonPlane, open_peer: Any) -> None:
    """DF is set for the one datagram that asks for it (RFC 8656 14)."""
    relays = SocketRelays(plane, ["127.0.0.1"])
    peer = open_peer("127.0.0.1")
    relay = RelayId(1)
    address = relays.open(_wish(1))
    assert address is not None
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as sniffer:
        sniffer.bind(("lo", 0))
        sniffer.setblocking(False)
        for dont_fragment in (False, True, False):
            relays.send(SendToPeer(relay, peer.getsockname(), b"x", dont_fragment))
        seen = []
        async with asyncio.timeout(5):
            while len(seen) < 3:
                packet, where = await asyncio.get_running_loop().sock_recvfrom(sniffer, 65536)
                source = struct.unpack_from("!H", packet, (packet[0] & 15) * 4)[0]
                if source == address[1] and where[2] != socket.PACKET_OUTGOING:
                    seen.append(bool(packet[6] & 0x40))
    relays.aclose()
    assert seen == [False, True, False]
