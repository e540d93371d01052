"""TCP: framing, keep-alives, peers that stall."""

import asyncio
from collections.abc import Callable
from typing import Any

from imskit.sip.io.transport import peer_address
from imskit.sip.wire.flow import Target

MESSAGE = b"MESSAGE sip:a@b SIP/2.0\r\nContent-Length: 2\r\n\r\nhi"


async def test_segments_and_keep_alives(make_side: Callable[..., Any]) -> None:
    """Two messages in one segment, one in two, and a double CRLF that is answered (RFC 5626 section 4.4.1)."""
    server, heard = make_side()
    reader, writer = await asyncio.open_connection(*await server.listen("TCP", ("127.0.0.1", 0)))
    writer.write(MESSAGE + MESSAGE + MESSAGE[:20])
    for _ in range(2):
        assert (await heard.messages.get())[0] == MESSAGE
    writer.write(MESSAGE[20:] + b"\r\n\r\n")
    assert (await heard.messages.get())[0] == MESSAGE
    assert await reader.readexactly(2) == b"\r\n"
    writer.close()
    assert (await heard.ends.get())[1] == "the peer closed it"


async def test_lost_framing_closes_the_connection(make_side: Callable[..., Any]) -> None:
    server, heard = make_side()
    reader, writer = await asyncio.open_connection(*await server.listen("TCP", ("127.0.0.1", 0)))
    writer.write(MESSAGE + b"MESSAGE sip:a@b SIP/2.0\r\nVia: x\r\n\r\n" + MESSAGE)
    assert (await heard.messages.get())[0] == MESSAGE
    head, error, _ = await heard.faults.get()
    assert head == b"MESSAGE sip:a@b SIP/2.0\r\nVia: x" and error.where == "Content-Length"
    assert "lost its framing" in (await heard.ends.get())[1]
    assert await reader.read() == b"" and heard.messages.empty()
    writer.close()


async def test_stalled_message_closes_the_connection(make_side: Callable[..., Any]) -> None:
    server, heard = make_side(stall_seconds=0.05)
    reader, writer = await asyncio.open_connection(*await server.listen("TCP", ("127.0.0.1", 0)))
    writer.write(MESSAGE)
    await heard.messages.get()
    writer.write(MESSAGE[:-1])
    assert "not complete" in (await heard.ends.get())[1]
    assert await reader.read() == b""
    writer.close()


async def test_peer_that_does_not_read_is_cut_off(make_side: Callable[..., Any]) -> None:
    server, heard = make_side(unsent_bytes=200_000)
    reader, writer = await asyncio.open_connection(*await server.listen("TCP", ("127.0.0.1", 0)), limit=1024)
    writer.write(MESSAGE)
    _, flow = await heard.messages.get()
    failures: list[str] = []
    while not failures:
        server.send(bytes(100_000), flow, failures.append)
    assert (await heard.ends.get()) == (flow, "the peer does not read")
    writer.close()
    del reader


async def test_client_keeps_its_flow_alive_and_notices_silence(make_side: Callable[..., Any]) -> None:
    """RFC 5626 section 4.4.1: a ping that is not answered in time means a dead flow."""
    pings: asyncio.Queue[bytes] = asyncio.Queue()
    answering = True

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4):
            pings.put_nowait(data)
            if answering:
                writer.write(b"\r\n")
        writer.close()

    listener = await asyncio.start_server(peer, "127.0.0.1", 0)
    client, seen = make_side(pong_seconds=0.05)
    flow = await client.open(Target("TCP", peer_address(listener.sockets[0].getsockname())))
    client.keep_alive(flow, 0.01)
    for _ in range(3):
        assert await pings.get() == b"\r\n\r\n"
    assert seen.ends.empty() and seen.messages.empty()
    answering = False
    assert await seen.ends.get() == (flow, "a keep-alive was not answered")
    listener.close()
