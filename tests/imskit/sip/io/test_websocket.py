"""SIP over WebSocket (RFC 7118) against the plain client and server of the websockets library."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from imskit.sip.io.transport import TransportError, peer_address
from imskit.sip.wire.flow import Target

SIP = [Subprotocol("sip")]
MESSAGE = b"MESSAGE sip:a@b SIP/2.0\r\nContent-Length: 2\r\n\r\nhi"


async def url(side: Any, **options: Any) -> str:
    host, port = await side.listen("WS", ("127.0.0.1", 0), **options)
    return f"ws://{host}:{port}/"


async def test_text_and_binary_frames_are_both_taken(make_side: Callable[..., Any]) -> None:
    """S7-SIF, RFC 7118 section 4.2."""
    server, heard = make_side()
    async with connect(await url(server), subprotocols=SIP) as browser:
        assert browser.subprotocol == "sip"
        await browser.send(MESSAGE.decode())
        await browser.send(MESSAGE)
        await browser.send([MESSAGE[:10], MESSAGE[10:]])
        for _ in range(3):
            data, flow = await heard.messages.get()
            assert data == MESSAGE and flow.transport == "WS"
        server.send(MESSAGE, flow, pytest.fail)
        assert await browser.recv() == MESSAGE.decode()
        server.send(MESSAGE + b"\xff", flow, pytest.fail)
        assert await browser.recv() == MESSAGE + b"\xff"


async def test_crlf_keep_alive_is_answered_and_is_no_message(make_side: Callable[..., Any]) -> None:
    server, heard = make_side()
    async with connect(await url(server), subprotocols=SIP) as browser:
        await browser.send("\r\n\r\n")
        assert await browser.recv() == "\r\n"
        await browser.send("\r\n")
        await browser.send(MESSAGE.decode())
        assert (await heard.messages.get())[0] == MESSAGE


@pytest.mark.parametrize("offered", [None, ["json"], ["chat", "xmpp"]])
async def test_other_subprotocols_are_refused(offered: list[str] | None, make_side: Callable[..., Any]) -> None:
    """RFC 7118 section 4: ``sip`` must be agreed on."""
    server, _ = make_side()
    where = await url(server)
    with pytest.raises(InvalidStatus) as caught:
        await connect(where, subprotocols=offered and [Subprotocol(name) for name in offered])
    assert caught.value.response.status_code == 400


async def test_sip_among_others_is_chosen(make_side: Callable[..., Any]) -> None:
    server, _ = make_side()
    async with connect(await url(server), subprotocols=[Subprotocol("xmpp"), *SIP]) as browser:
        assert browser.subprotocol == "sip"


async def test_handshake_check_sees_headers_and_keeps_strangers_out(make_side: Callable[..., Any]) -> None:
    """S7-SIF: Origin and secret are judged before the connection is there."""
    seen: list[Mapping[str, str]] = []

    def check(headers: Mapping[str, str]) -> tuple[int, str] | None:
        seen.append(headers)
        return None if headers.get("origin") == "https://portal.ims.example" else (403, "this page may not call")

    server, heard = make_side()
    where = await url(server, check=check)
    async with connect(where, subprotocols=SIP, origin="https://portal.ims.example") as browser:  # type: ignore[arg-type]
        await browser.send(MESSAGE)
        await heard.messages.get()
    for origin in (None, "https://evil.example", "https://portal.ims.example.evil.example"):
        with pytest.raises(InvalidStatus) as caught:
            await connect(where, subprotocols=SIP, origin=origin)  # type: ignore[arg-type]
        assert caught.value.response.status_code == 403
        assert caught.value.response.body == b"this page may not call\n"
    with pytest.raises(InvalidHandshake):
        await connect(where, subprotocols=SIP, additional_headers=[("Origin", "https://portal.ims.example")] * 2)
    assert seen[-1]["origin"].count("https://portal.ims.example") == 2, "a second one does not hide behind the first"
    assert heard.messages.empty()


async def test_overlong_message_closes_the_connection(make_side: Callable[..., Any]) -> None:
    server, heard = make_side()
    async with connect(await url(server), subprotocols=SIP) as browser:
        await browser.send(MESSAGE)
        _, flow = await heard.messages.get()
        await browser.send(bytes(1_200_000))
        with pytest.raises(ConnectionClosed) as caught:
            await browser.recv()
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1009
    assert (await heard.ends.get())[0] == flow


async def test_client_fails_a_server_without_the_subprotocol(make_side: Callable[..., Any]) -> None:
    async def plain(connection: ServerConnection) -> None:
        await connection.wait_closed()

    server = await serve(plain, "127.0.0.1", 0)
    client, _ = make_side()
    target = Target("WS", peer_address(next(iter(server.sockets)).getsockname()))
    with pytest.raises(TransportError, match="subprotocol"):
        await client.open(target)
    server.close()
    await server.wait_closed()


async def test_peer_that_does_not_read_is_cut_off(make_side: Callable[..., Any]) -> None:
    server, heard = make_side(unsent_bytes=200_000)
    browser = await connect(await url(server), subprotocols=SIP, max_queue=1)
    await browser.send(MESSAGE)
    _, flow = await heard.messages.get()
    failures: list[str] = []
    while not failures:
        server.send(bytes(100_000), flow, failures.append)
        await asyncio.sleep(0)
    assert failures == ["the peer does not read"]
    browser.transport.abort()
    assert (await heard.ends.get()) == (flow, "the peer does not read")


async def test_no_content_in_the_log(make_side: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """Headers of the handshake carry cookies and secrets, messages carry identities."""
    caplog.set_level(logging.DEBUG)
    server, heard = make_side()
    where = await url(server)
    async with connect(
        where, subprotocols=SIP, additional_headers={"X-Secret": "verysecret"}, logger=logging.getLogger("quiet")
    ) as browser:
        logging.getLogger("quiet").setLevel(logging.ERROR)
        await browser.send(MESSAGE.decode())
        _, flow = await heard.messages.get()
        server.send(MESSAGE, flow, pytest.fail)
        await browser.recv()
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("imskit")]
    assert any("opened WS" in line for line in ours)
    assert not any("verysecret" in line or "MESSAGE" in line for line in ours)


async def test_connections_from_one_address_are_bounded(make_side: Callable[..., Any]) -> None:
    """A-EPCSCF: one that is too many ends before its handshake; the place of one that has gone is free again."""
    server, heard = make_side(websockets_per_address=2)
    where = await url(server)
    async with connect(where, subprotocols=SIP) as first:
        async with connect(where, subprotocols=SIP) as second:
            assert server.clients == 2
            with pytest.raises((InvalidHandshake, OSError, EOFError)):
                await connect(where, subprotocols=SIP)
            assert (server.clients, server.refused) == (2, 1)
            await second.close()
        await heard.ends.get()
        async with connect(where, subprotocols=SIP) as third:
            await third.send(MESSAGE)
            assert (await heard.messages.get())[0] == MESSAGE
        await first.send(MESSAGE)
        assert (await heard.messages.get())[0] == MESSAGE


async def test_unfinished_handshakes_count_and_end(make_side: Callable[..., Any]) -> None:
    """A-EPCSCF, slow-loris: who drips a handshake takes a place, and loses it when the time is over."""
    server, _ = make_side(websockets_per_address=1, connect_seconds=0.2)
    host, port = await server.listen("WS", ("127.0.0.1", 0))
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
    with pytest.raises((InvalidHandshake, OSError, EOFError)):
        await connect(f"ws://{host}:{port}/", subprotocols=SIP)
    assert await reader.read() == b""
    writer.close()
    assert server.clients == 0
    async with connect(f"ws://{host}:{port}/", subprotocols=SIP):
        assert server.clients == 1


async def test_who_says_nothing_is_known(make_side: Callable[..., Any]) -> None:
    server, heard = make_side()
    async with connect(await url(server), subprotocols=SIP) as browser:
        await browser.send(MESSAGE)
        _, flow = await heard.messages.get()
        assert server.silent_clients(60.0) == []
        assert server.silent_clients(-1.0) == [flow]


async def test_a_message_that_is_too_long_ends_the_connection(make_side: Callable[..., Any]) -> None:
    """A-EPCSCF: RFC 6455 section 7.4.1."""
    server, heard = make_side(websocket_bytes=1000)
    async with connect(await url(server), subprotocols=SIP) as browser:
        await browser.send(MESSAGE + b"x" * 1000)
        with pytest.raises(ConnectionClosed) as caught:
            await browser.recv()
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1009
    await heard.ends.get()
    assert heard.messages.empty()
