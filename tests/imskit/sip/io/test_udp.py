"""UDP sockets."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from imskit.sip.io.transport import TransportError
from imskit.sip.wire.flow import Target

MESSAGE = b"OPTIONS sip:a@b SIP/2.0\r\nContent-Length: 0\r\n\r\n"


async def test_answer_leaves_from_the_port_the_request_came_to(make_side: Callable[..., Any]) -> None:
    """RFC 3581 section 4, and a response to another port than the source's: the flow with another remote."""
    server, heard = make_side()
    await server.listen("UDP", ("127.0.0.1", 0))
    second = await server.listen("UDP", ("127.0.0.1", 0))
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        for each in (peer, other):
            each.bind(("127.0.0.1", 0))
            each.setblocking(False)
            # Connected: it takes datagrams from this address only.
            each.connect(second)
        peer.send(MESSAGE)
        _, flow = await heard.messages.get()
        assert flow.local == second and flow.remote == peer.getsockname()
        server.send(b"answer", flow, pytest.fail)
        server.send(b"answer", replace(flow, remote=other.getsockname()), pytest.fail)
        loop = asyncio.get_running_loop()
        assert await loop.sock_recv(peer, 100) == b"answer"
        assert await loop.sock_recv(other, 100) == b"answer"


async def test_socket_is_chosen_by_the_way_to_the_destination(make_side: Callable[..., Any]) -> None:
    """127.0.0.2 and 127.0.0.1 stand for two interfaces: the loopback answers from 127.0.0.1."""
    server, _ = make_side()
    client, heard = make_side()
    await server.listen("UDP", ("127.0.0.2", 0))
    near = await server.listen("UDP", ("127.0.0.1", 0))
    await server.listen("UDP", ("::1", 0))
    target = await client.listen("UDP", ("127.0.0.1", 0))
    server.send(MESSAGE, Target("UDP", target), pytest.fail)
    assert (await heard.messages.get())[1].remote == near
    assert (await server.open(Target("UDP", target))).local == near


async def test_keep_alives_are_no_messages(make_side: Callable[..., Any]) -> None:
    server, heard = make_side()
    address = await server.listen("UDP", ("127.0.0.1", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        stun = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)
        for datagram in (b"\r\n\r\n", b"\0", b"", stun, MESSAGE):
            peer.sendto(datagram, address)
    assert (await heard.messages.get())[0] == MESSAGE


async def test_no_way_is_an_error(make_side: Callable[..., Any]) -> None:
    side, _ = make_side()
    failures: list[str] = []
    side.send(MESSAGE, Target("UDP", ("127.0.0.1", 9)), failures.append)
    assert failures == ["there is no UDP socket that reaches 127.0.0.1"]
    await side.listen("UDP", ("127.0.0.1", 0))
    flow = await side.open(Target("UDP", ("127.0.0.1", 9)))
    with pytest.raises(TransportError, match=r"reaches ::1"):
        await side.open(Target("UDP", ("::1", 9)))
    side.send(bytes(70_000), flow, failures.append)
    await side.close()
    side.send(MESSAGE, flow, failures.append)
    assert failures[-1] == "the UDP socket is gone"
