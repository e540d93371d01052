"""The JSON listener on a real socket, before a SIP element that plays the eP-CSCF."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from imskit.sip.engine import user_agent as ua
from imskit.sip.io.endpoint import Endpoint
from imskit.sip.io.transport import Limits
from imskit.sip.wire.flow import Flow
from network_edge.ep_cscf.json_signalling.server import MOST_ERRORS, JsonSignalling
from network_edge.ep_cscf.json_signalling.wire.messages import SUB_PROTOCOL

ALICE = "sip:+15550300@ims.example"
PROFILE = ua.Profile("<sip:edge@127.0.0.1>", allow=("REGISTER", "INVITE", "ACK", "CANCEL", "BYE", "MESSAGE", "INFO"))


class Far:
    """A user agent that takes what JSON clients send, over the same transports as any WebSocket client's."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.outputs: asyncio.Queue[Any] = asyncio.Queue()
        numbers = itertools.count(1)
        agent = ua.UserAgent(PROFILE, lambda digits: f"{next(numbers):0{digits}x}")
        self.endpoint: Endpoint[Any, Any] = Endpoint(agent, self.outputs.put_nowait, limits=limits)
        self.json = JsonSignalling(self.endpoint.transports, "ims.example")
        self.place = ""

    async def next(self, kind: type[Any]) -> Any:
        async with asyncio.timeout(10):
            while not isinstance(output := await self.outputs.get(), kind):
                pass
            return output

    async def client(self, **more: Any) -> ClientConnection:
        return await connect(self.place, subprotocols=[Subprotocol(SUB_PROTOCOL)], proxy=None, **more)


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    far = Far()
    check = lambda headers: None if headers.get("origin") == "https://portal.example" else (403, "foreign")  # noqa: E731
    host, port = await far.json.listen(("127.0.0.1", 0), None, check)
    far.place = f"ws://{host}:{port}/"
    yield far
    await far.json.close()
    await far.endpoint.close()


@pytest.fixture
async def client(far: Far) -> AsyncIterator[ClientConnection]:
    connection = await far.client(origin="https://portal.example")
    yield connection
    await connection.close()


async def _say(client: ClientConnection, kind: str, **members: Any) -> None:
    await client.send(json.dumps({"type": kind, **members}))


async def _hear(client: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(10):
        message: dict[str, Any] = json.loads(await client.recv())
        return message


async def _log_in(client: ClientConnection) -> None:
    await _say(client, "login", id="1", token="a.b.c", identity=ALICE)
    assert await _hear(client) == {"type": "ok", "id": "1"}


async def test_call_and_hang_up(far: Far, client: ClientConnection) -> None:
    """The far side sees the SIP of a WIC on a WebSocket flow, with the token in every request."""
    await _log_in(client)
    await _say(client, "call", call="one", to="tel:+15550200", sdp="v=0\r\n")
    incoming = await far.next(ua.IncomingCall)
    assert isinstance(incoming.flow, Flow)
    assert incoming.flow.transport == "WS"
    assert incoming.request.headers.get("Authorization") == "Bearer a.b.c"
    assert incoming.request.top_via.host.endswith(".invalid")
    far.endpoint.handle(ua.Answer(incoming.call, b"v=0\r\no=x\r\n"))
    assert [(await _hear(client))["type"] for _ in range(2)] == ["answer", "answered"]
    await far.next(ua.Confirmed)
    await _say(client, "hangup", call="one")
    assert (await far.next(ua.Ended)).cause is ua.Cause.REMOTE
    assert (await _hear(client))["type"] == "ended"


async def test_the_connection_is_lost_within_a_call(far: Far, client: ClientConnection) -> None:
    await _log_in(client)
    await _say(client, "call", call="one", to="tel:+15550200", sdp="v=0\r\n")
    far.endpoint.handle(ua.Answer((await far.next(ua.IncomingCall)).call, b"v=0\r\no=x\r\n"))
    await far.next(ua.Confirmed)
    client.transport.abort()
    assert (await far.next(ua.Ended)).cause is ua.Cause.REMOTE


async def test_foreign_origin_and_other_protocols(far: Far) -> None:
    with pytest.raises(InvalidHandshake):
        await far.client(origin="https://evil.example")
    with pytest.raises(InvalidHandshake):
        await connect(far.place, subprotocols=[Subprotocol("sip")], origin="https://portal.example", proxy=None)


async def test_bad_messages_are_answered_and_counted(client: ClientConnection) -> None:
    await client.send('{"type":"fly","id":"9"}')
    error = await _hear(client)
    assert (error["type"], error["id"], error["code"]) == ("error", "9", "type")
    with pytest.raises(ConnectionClosed):
        for _ in range(MOST_ERRORS):
            await client.send("{")
        for _ in range(MOST_ERRORS + 1):
            await _hear(client)


async def test_too_long(client: ClientConnection) -> None:
    with pytest.raises(ConnectionClosed):
        await client.send("x" * 200_000)
        await _hear(client)


async def test_most_connections_from_one_address() -> None:
    far = Far(Limits(websockets_per_address=2))
    host, port = await far.json.listen(("127.0.0.1", 0))
    far.place = f"ws://{host}:{port}/"
    clients = [await far.client() for _ in range(2)]
    for client in clients:
        await _log_in(client)
    with pytest.raises(InvalidHandshake):
        await far.client()
    for client in clients:
        await client.close()
    await far.json.close()
    await far.endpoint.close()


async def test_a_flood_ends_the_connection(client: ClientConnection) -> None:
    """Messages that can be read, and are answered, cost the edge as much as others: all count."""
    with pytest.raises(ConnectionClosed):
        for _ in range(1000):
            await client.send('{"type":"hangup","call":"x"}')
        while True:
            await asyncio.wait_for(client.recv(), 10)
    assert client.close_reason == "too many messages"
