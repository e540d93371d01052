"""The driver of engines, with the real transaction layer and with engines made to misbehave."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from imskit.engine import Tick
from imskit.sip.engine.events import (
    FlowClosed,
    Received,
    RequestReceived,
    ResponseReceived,
    SendRequest,
    SendResponse,
    SentBy,
    TransactionFailed,
    Transmit,
    TransportFailed,
)
from imskit.sip.engine.layer import TransactionLayer
from imskit.sip.io.endpoint import Endpoint
from imskit.sip.io.resolver import ResolutionError, Resolver
from imskit.sip.io.transport import Limits
from imskit.sip.wire.flow import Target, Transport
from imskit.sip.wire.message import Request, response_to

type MakeLayer = Callable[[], tuple[Endpoint[Any, Any], asyncio.Queue[Any]]]


def tokens() -> Callable[[int], str]:
    count = itertools.count(1)
    return lambda digits: f"{next(count):0{digits}x}"


@pytest.fixture
async def make_layer() -> AsyncIterator[MakeLayer]:
    """Make an endpoint of a transaction layer; its outputs go to a queue."""
    made: list[Endpoint[Any, Any]] = []

    def make() -> tuple[Endpoint[Any, Any], asyncio.Queue[Any]]:
        outputs: asyncio.Queue[Any] = asyncio.Queue()
        endpoint: Endpoint[Any, Any] = Endpoint(TransactionLayer(tokens()), outputs.put_nowait)
        made.append(endpoint)
        return endpoint, outputs

    yield make
    for endpoint in made:
        await endpoint.close()


async def until[T](outputs: asyncio.Queue[Any], kind: type[T]) -> T:
    while True:
        output = await outputs.get()
        if isinstance(output, kind):
            return output


def options(call_id: str = "1", body: bytes = b"") -> Request:
    return Request.create(
        "OPTIONS",
        "sip:b@ims.example",
        [
            ("Max-Forwards", 70),
            ("From", "<sip:a@ims.example>;tag=1"),
            ("To", "<sip:b@ims.example>"),
            ("Call-ID", call_id),
            ("CSeq", "1 OPTIONS"),
        ],
        body,
        "text/plain" if body else "",
    )


@pytest.mark.parametrize("transport", ["UDP", "TCP", "WS"])
async def test_transaction_over_real_sockets(transport: Transport, make_layer: MakeLayer) -> None:
    server, asked = make_layer()
    client, answered = make_layer()
    address = await server.listen(transport, ("127.0.0.1", 0))
    local = await client.listen(transport, ("127.0.0.1", 0))

    client.handle(SendRequest(options(), Target(transport, address), "k", SentBy(*local)))
    received = await until(asked, RequestReceived)
    assert received.request.top_via.transport == transport
    server.handle(SendResponse(received.key, response_to(received.request, 200, to_tag="x")))
    response = await until(answered, ResponseReceived)
    assert (response.key, response.response.status) == ("k", 200)


async def test_name_is_looked_up_once_and_order_is_kept(make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 3263 section 4.4: what follows goes to the server that was found, until it fails."""
    server, asked = make_layer()
    client, answered = make_layer()
    _, port = await server.listen("TCP", ("127.0.0.1", 0))
    lookups: list[str] = []

    class Book(Resolver):
        async def addresses(self, host: str) -> list[str]:
            lookups.append(host)
            if host == "nowhere.example":
                raise ResolutionError("no such host")
            return ["::1", "127.0.0.1"]

    client._resolver = Book()
    target = Target("TCP", ("server.example", port))
    for number in range(5):
        client.handle(SendRequest(options(str(number)), target, f"k{number}", SentBy("c.invalid")))
    received = [await until(asked, RequestReceived) for _ in range(5)]
    assert [each.request.call_id for each in received] == ["0", "1", "2", "3", "4"]
    client.handle(SendRequest(options("5"), target, "k5", SentBy("c.invalid")))
    assert (await until(asked, RequestReceived)).flow == received[0].flow
    assert lookups == ["server.example"]
    noticed = asyncio.Event()
    monkeypatch.setattr(client, "closed", lambda flow, reason: noticed.set())
    await server.close()
    await noticed.wait()
    client.handle(SendRequest(options("6"), target, "k6", SentBy("c.invalid")))
    assert (await until(answered, TransactionFailed)).key == "k6"
    assert lookups == ["server.example"]
    client.handle(SendRequest(options("7"), target, "k7", SentBy("c.invalid")))
    assert (await until(answered, TransactionFailed)).key == "k7"
    assert lookups == ["server.example", "server.example"], "looked up again after a failure"
    nowhere = Target("TCP", ("nowhere.example", port))
    client.handle(SendRequest(options("2"), nowhere, "l", SentBy("c.invalid")))
    while (failed := await until(answered, TransactionFailed)).key != "l":
        pass
    assert "no such host" in failed.reason


async def test_refused_connection_fails_the_transaction(make_layer: MakeLayer) -> None:
    client, answered = make_layer()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        target = Target("TCP", closed.getsockname())

    client.handle(SendRequest(options(), target, "k", SentBy("c.invalid")))
    assert "refused" in (await until(answered, TransactionFailed)).reason.lower()


async def test_timer_fires_by_itself(make_layer: MakeLayer) -> None:
    """Retransmission of RFC 3261 timer E: a datagram that nobody answers comes a second time."""
    client, _ = make_layer()
    local = await client.listen("UDP", ("127.0.0.1", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.setblocking(False)

        client.handle(SendRequest(options(), Target("UDP", silent.getsockname()), "k", SentBy(*local)))
        loop = asyncio.get_running_loop()
        first = await loop.sock_recv(silent, 65_536)
        assert await loop.sock_recv(silent, 65_536) == first


MALFORMED = (
    b"OPTIONS sip:b@ims.example SIP/7.0\r\nVia: SIP/2.0/UDP c.invalid;branch=z9hG4bK1;rport\r\n"
    b"From: <sip:secretcaller@ims.example>;tag=1\r\nTo: <sip:b@ims.example>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\n"
    b"Content-Length: 0\r\n\r\n"
)


async def test_malformed_datagrams_are_answered_and_never_stop_the_loop(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    server, asked = make_layer()
    address = await server.listen("UDP", ("127.0.0.1", 0))
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.setblocking(False)
        peer.connect(address)
        peer.send(MALFORMED)
        answer = await loop.sock_recv(peer, 65_536)
        assert answer.startswith(
            b"SIP/2.0 505 Version Not Supported\r\nVia: SIP/2.0/UDP c.invalid;branch=z9hG4bK1;rport\r\n"
        )
        for garbage in (b"\xff" * 100, b"garbage in, nothing out", MALFORMED.replace(b"OPTIONS", b"ACK")):
            peer.send(garbage)
        request = options()
        request.headers.prepend("Via", "SIP/2.0/UDP c.invalid;branch=z9hG4bK2;rport")
        peer.send(request.encode())
        await until(asked, RequestReceived)
    lines = [record.getMessage() for record in caplog.records if "malformed" in record.getMessage()]
    assert len(lines) == 4
    assert "answered 505" in lines[0] and "SIP-Version" in lines[0] and "RFC 3261 section 21.5.7" in lines[0]
    assert all("dropped" in line for line in lines[1:])
    assert not any("secretcaller" in line for line in lines)


async def test_complaints_are_bounded(make_layer: MakeLayer, caplog: pytest.LogCaptureFixture) -> None:
    server, asked = make_layer()
    address = await server.listen("TCP", ("127.0.0.1", 0))
    _, writer = await asyncio.open_connection(*address)
    writer.write(b"garbage in\r\nl: 0\r\n\r\n" * 200)
    request = options()
    request.headers.prepend("Via", "SIP/2.0/TCP c.invalid;branch=z9hG4bK2")
    writer.write(request.encode())
    await until(asked, RequestReceived)
    assert sum("malformed" in record.getMessage() for record in caplog.records) == 20
    writer.close()


async def test_stream_without_framing_is_answered_and_closed(make_layer: MakeLayer) -> None:
    server, _ = make_layer()
    reader, writer = await asyncio.open_connection(*await server.listen("TCP", ("127.0.0.1", 0)))
    writer.write(MALFORMED.replace(b"SIP/7.0", b"SIP/2.0").replace(b"Content-Length: 0\r\n", b""))
    assert (await reader.read()).startswith(b"SIP/2.0 400 Bad Request\r\n")
    writer.close()


class Script:
    """An engine that logs its events and does what a table says."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.outputs: deque[Any] = deque()
        self.due: float | None = None
        self.on: Callable[[object, float], None] = lambda event, now: None

    def handle(self, event: Any, now: float) -> None:
        self.events.append(event)
        self.on(event, now)

    def poll(self) -> Any:
        return self.outputs.popleft() if self.outputs else None

    def deadline(self) -> float | None:
        return self.due


async def test_one_timer_that_follows_the_deadline() -> None:
    """A deadline that moves is served once, at its last place."""
    script = Script()
    ticked: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def on(event: object, now: float) -> None:
        if isinstance(event, Tick):
            script.due = None
            ticked.set_result(now)

    script.on = on
    endpoint: Endpoint[Any, Any] = Endpoint(script, lambda _: None)
    for delay in (0.5, 0.001, 0.3, 0.02):
        script.due = endpoint.now + delay
        endpoint.handle(delay)
    due = script.due
    assert due is not None and await ticked >= due - 0.001
    assert script.events == [0.5, 0.001, 0.3, 0.02, Tick()]
    script.due = endpoint.now + 0.001
    endpoint.handle("again")
    await endpoint.close()
    await asyncio.sleep(0.01)
    assert script.events[-1] == "again", "no tick after close"


async def test_events_from_the_callback_wait_for_the_drain() -> None:
    script = Script()
    seen: list[object] = []

    def on_output(output: object) -> None:
        seen.append(output)
        if output == "first":
            endpoint.handle("nested")
            assert script.events == ["start"], "not re-entered"

    def on(event: object, now: float) -> None:
        if event == "start":
            script.outputs += ["first", "second"]
        elif event == "nested":
            script.outputs.append("third")

    script.on = on
    endpoint: Endpoint[Any, Any] = Endpoint(script, on_output)
    endpoint.handle("start")
    assert seen == ["first", "second", "third"]
    await endpoint.close()


async def test_misuse_is_raised_to_the_caller_and_faults_stop_nothing(caplog: pytest.LogCaptureFixture) -> None:
    script = Script()

    def on(event: object, now: float) -> None:
        script.outputs.append(f"out {event}")
        if event == "bad":
            raise ValueError("misuse")

    def on_output(output: object) -> None:
        seen.append(output)
        if output == "out nested":
            raise RuntimeError("callback")
        if output == "out good":
            endpoint.handle("nested")
            endpoint.handle("bad")

    seen: list[object] = []
    script.on = on
    endpoint: Endpoint[Any, Any] = Endpoint(script, on_output)
    with pytest.raises(ValueError, match="misuse"):
        endpoint.handle("bad")
    endpoint.handle("good")
    assert seen == ["out bad", "out good", "out nested", "out bad"]
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == 2
    await endpoint.close()


async def test_response_whose_connection_is_gone_takes_the_fallback() -> None:
    """RFC 3261 section 18.2.2."""
    server_script, other_script = Script(), Script()
    server: Endpoint[Any, Any] = Endpoint(server_script, lambda _: None)
    other: Endpoint[Any, Any] = Endpoint(other_script, lambda _: None)
    arrived: asyncio.Queue[object] = asyncio.Queue()
    server_script.on = other_script.on = lambda event, now: arrived.put_nowait(event)
    _, writer = await asyncio.open_connection(*await server.listen("TCP", ("127.0.0.1", 0)))
    elsewhere = await other.listen("TCP", ("127.0.0.1", 0))
    request = options()
    request.headers.prepend("Via", "SIP/2.0/TCP c.invalid;branch=z9hG4bK2")
    writer.write(request.encode())
    received = await arrived.get()
    assert isinstance(received, Received) and isinstance(received.message, Request)
    writer.close()
    closed = await arrived.get()
    assert isinstance(closed, FlowClosed) and closed.flow == received.flow
    response = response_to(received.message, 200, to_tag="x")
    server_script.outputs.append(Transmit(response, received.flow, "k", Target("TCP", elsewhere)))
    server.handle("go")
    assert await arrived.get() == "go"
    answer = await arrived.get()
    assert isinstance(answer, Received) and answer.flow.local == elsewhere
    server_script.outputs.append(Transmit(response, received.flow, "k"))
    server.handle("go")
    assert await arrived.get() == "go"
    assert await arrived.get() == TransportFailed("k", "the connection is gone")
    await server.close()
    await other.close()


async def test_limits_reach_the_transports() -> None:
    endpoint: Endpoint[Any, Any] = Endpoint(Script(), lambda _: None, limits=Limits(connections=7))
    assert endpoint.transports.limits.connections == 7
    await endpoint.close()
