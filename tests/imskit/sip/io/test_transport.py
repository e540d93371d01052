"""The flow table and what all transports share, over real sockets on the loopback."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from imskit.sip.io.transport import TransportError, peer_address, source_address
from imskit.sip.wire.flow import SECURE, Flow, Target, Transport

MESSAGE = b"MESSAGE sip:a@b SIP/2.0\r\nContent-Length: 2\r\n\r\nhi"
ANSWER = b"SIP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"
TRANSPORTS: list[Transport] = ["UDP", "TCP", "TLS", "WS", "WSS"]


def unexpected(reason: str) -> None:
    raise AssertionError(reason)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_there_and_back(
    transport: Transport, host: str, make_side: Callable[..., Any], tls_contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Every transport over IPv4 and IPv6: a request to a target, its answer over the flow it came on."""
    server_tls, client_tls = tls_contexts
    server, heard = make_side()
    client, seen = make_side(tls=client_tls)
    address = await server.listen(transport, (host, 0), tls=server_tls if transport in SECURE else None)
    if transport == "UDP":
        await client.listen("UDP", (host, 0))
    client.send(MESSAGE, Target(transport, address), unexpected)
    data, flow = await heard.messages.get()
    assert data == MESSAGE
    assert (flow.transport, flow.local) == (transport, address) and flow.remote[0] == host
    server.send(ANSWER, flow, unexpected)
    data, back = await seen.messages.get()
    assert data == ANSWER and back.remote == address and back.local == flow.remote
    # The same connection serves the next message to the same target, and the flow that was made.
    client.send(MESSAGE, Target(transport, address), unexpected)
    client.send(MESSAGE, back, unexpected)
    for _ in range(2):
        assert (await heard.messages.get())[1] == flow
    assert await client.open(Target(transport, address)) == back


@pytest.mark.parametrize("transport", ["TCP", "WS"])
async def test_closing_is_reported_on_both_sides(transport: Transport, make_side: Callable[..., Any]) -> None:
    server, heard = make_side()
    client, seen = make_side()
    address = await server.listen(transport, ("127.0.0.1", 0))
    flow = await client.open(Target(transport, address))
    client.send(MESSAGE, flow, unexpected)
    _, accepted = await heard.messages.get()
    client.drop(flow, "enough")
    assert await seen.ends.get() == (flow, "enough")
    ended, _ = await heard.ends.get()
    assert ended == accepted
    failures: list[str] = []
    server.send(ANSWER, accepted, failures.append)
    client.send(MESSAGE, flow, failures.append)
    assert failures == ["the connection is gone"] * 2
    with pytest.raises(TransportError):
        client.keep_alive(flow, 1.0)
    again = await client.open(Target(transport, address))
    assert again.id != flow.id, "a new connection is another flow"


@pytest.mark.parametrize("transport", ["TCP", "TLS", "WS"])
async def test_refused_connection_is_reported_with_its_reason(
    transport: Transport, make_side: Callable[..., Any]
) -> None:
    server, _ = make_side()
    client, _ = make_side()
    address = await server.listen("TCP", ("127.0.0.1", 0))
    await server.close()
    failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    client.send(MESSAGE, Target(transport, address), failed.set_result)
    assert "refused" in (await failed).lower()
    with pytest.raises(TransportError, match=r"(?i)refused"):
        await client.open(Target(transport, address))


async def test_silent_server_ends_in_a_time_out(make_side: Callable[..., Any]) -> None:
    client, _ = make_side(connect_seconds=0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TransportError, match=r"within 0\.05 s"):
        await client.open(Target("WS", silent.getsockname()))


async def test_waiters_share_one_connection_and_keep_their_order(make_side: Callable[..., Any]) -> None:
    server, heard = make_side()
    client, _ = make_side()
    target = Target("TCP", await server.listen("TCP", ("127.0.0.1", 0)))
    bodies = [b"MESSAGE sip:a@b SIP/2.0\r\nl: 1\r\n\r\n%d" % number for number in range(9)]
    for body in bodies:
        client.send(body, target, unexpected)
    received = [await heard.messages.get() for _ in bodies]
    assert [data for data, _ in received] == bodies
    assert len({flow for _, flow in received}) == 1


async def test_accepted_connections_are_bounded(make_side: Callable[..., Any]) -> None:
    server, heard = make_side(connections=1)
    client, _ = make_side()
    tcp = await server.listen("TCP", ("127.0.0.1", 0))
    ws = await server.listen("WS", ("127.0.0.1", 0))
    first = await client.open(Target("TCP", tcp))
    client.send(MESSAGE, first, unexpected)
    await heard.messages.get()
    other, lost = make_side()
    flow = await other.open(Target("TCP", tcp))
    assert (await lost.ends.get())[0] == flow
    with pytest.raises(TransportError, match="503"):
        await other.open(Target("WS", ws))
    client.drop(first, "make room")
    await heard.ends.get()
    await other.open(Target("WS", ws))


async def test_shutting_down_ends_what_is_under_way(make_side: Callable[..., Any]) -> None:
    client, _ = make_side()
    failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client.send(MESSAGE, Target("WS", silent.getsockname()), failed.set_result)
        await asyncio.sleep(0)
        await client.close()
        assert "shutting down" in await failed


async def test_tls_context_belongs_to_tls(make_side: Callable[..., Any], tls_contexts: Any) -> None:
    side, _ = make_side()
    for transport in ("TLS", "WSS"):
        with pytest.raises(ValueError, match="TLS"):
            await side.listen(transport, ("127.0.0.1", 0))
    with pytest.raises(ValueError, match="TLS"):
        await side.listen("TCP", ("127.0.0.1", 0), tls=tls_contexts[0])
    with pytest.raises(ValueError, match="handshake"):
        await side.listen("TCP", ("127.0.0.1", 0), check=lambda _: None)


@pytest.mark.parametrize("transport", ["TLS", "WSS"])
async def test_certificates_are_checked_against_the_name(
    transport: Transport, make_side: Callable[..., Any], tls_contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    server, _ = make_side()
    client, _ = make_side(tls=tls_contexts[1])
    stranger, _ = make_side(tls=ssl.create_default_context())
    address = await server.listen(transport, ("127.0.0.1", 0), tls=tls_contexts[0])
    flow = await client.open(Target(transport, address, "sip.example"))
    assert isinstance(flow, Flow) and flow.secure
    with pytest.raises(TransportError, match=r"(?i)certificate"):
        await client.open(Target(transport, address, "other.example"))
    with pytest.raises(TransportError, match=r"(?i)certificate"):
        await stranger.open(Target(transport, address))


def test_addresses() -> None:
    assert peer_address(("::ffff:192.0.2.1", 5, 0, 0)) == ("192.0.2.1", 5)
    assert peer_address(("fe80::1%eth0", 5, 0, 2)) == ("fe80::1", 5)
    assert peer_address(None) == ("", 0)
    assert source_address("127.0.0.1") == "127.0.0.1"
    assert source_address("::1") == "::1"


async def test_connection_leaves_from_the_address_listened_on(make_side: Callable[..., Any]) -> None:
    """A UE is known by its address: TCP must leave from where its UDP does (TS 24.229 section 5.1.1.2)."""
    server, heard = make_side()
    address = await server.listen("TCP", ("127.0.0.1", 0))
    client, _ = make_side()
    await client.listen("UDP", ("127.0.0.77", 0))
    client.send(MESSAGE, Target("TCP", address), unexpected)
    assert (await heard.messages.get())[1].remote[0] == "127.0.0.77"
    # Two of its own: the one that the system routes by.
    both, _ = make_side()
    for host in ("127.0.0.77", "127.0.0.1"):
        await both.listen("UDP", (host, 0))
    both.send(MESSAGE, Target("TCP", address), unexpected)
    assert (await heard.messages.get())[1].remote[0] == "127.0.0.1"
    both.send(MESSAGE, Target("TCP", address, source="127.0.0.77"), unexpected)
    assert (await heard.messages.get())[1].remote[0] == "127.0.0.77"
