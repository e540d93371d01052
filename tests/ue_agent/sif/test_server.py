"""The SIF's WebSocket: who may connect, what it survives, how faults of the media side end [S7-SIF]."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from imskit.ims import events as ims
from imskit.ims.registration import RegistrationStatus, State
from imskit.observe.events import EventLog
from imskit.sdp.attributes import Fingerprint
from imskit.sdp.ims_side import ImsEndpoint
from imskit.sdp.web_side import WebEndpoint
from imskit.secrets import Identity
from imskit.sip.engine import user_agent as page
from imskit.sip.wire.message import Request, Response, parse_message
from ue_agent.sif.server import Sif
from ue_agent.wwpf.handover import SECRET_HEADER, new_secret

ME = "sip:+15550100@ims.example"
ORIGIN = "https://portal.ims.example"
OFFER = (Path(__file__).parents[2] / "imskit/sdp/data/chromium_audio.sdp").read_bytes()


class Media:
    """A media side that does what the test says."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.on_open: Callable[[], Awaitable[None]] | None = None
        self.on_apply: Callable[[], None] = lambda: None
        self.changed = asyncio.Event()

    async def open(self, call: str, *, controlling: bool, on_failed: Callable[[str], None]) -> Any:
        if self.on_open is not None:
            await self.on_open()
        self.opened.append(call)
        web = WebEndpoint(5, "ours", "o" * 22, (), (Fingerprint("sha-256", ":".join(["AB"] * 32)),))
        return web, ImsEndpoint("127.0.0.1", 40000, 7)

    def page_offer(self, call: str, offer: Any) -> Any:
        raise AssertionError("no page offers anything here")

    def apply(self, call: str, plan: Any) -> None:
        self.on_apply()

    def answered(self, call: str) -> None: ...

    def close(self, call: str) -> None:
        self.closed.append(call)
        self.changed.set()


class Bench:
    def __init__(self) -> None:
        self.media = Media()
        self.secret = new_secret()
        self.told: list[Any] = []
        self.news = asyncio.Event()
        self.sif = Sif(self.media, self._to_ims, ORIGIN, self.secret, EventLog("test"))
        self.port = 0
        self.number = 0

    def _to_ims(self, event: Any) -> None:
        self.told.append(event)
        self.news.set()

    async def start(self) -> None:
        _, self.port = await self.sif.start()
        self.sif.service(RegistrationStatus(State.REGISTERED, "registered"), (Identity(ME),))

    async def connect(self, **headers: str) -> ClientConnection:
        given = {"Origin": ORIGIN, SECRET_HEADER: self.secret.reveal()} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return await connect(
            f"ws://127.0.0.1:{self.port}/",
            subprotocols=[Subprotocol("sip")],
            additional_headers={name: value for name, value in given.items() if value},
            proxy=None,
            compression=None,
        )

    def request(self, method: str, uri: str = ME, body: bytes = b"", **fields: str) -> bytes:
        self.number += 1
        request = Request.create(
            method,
            uri,
            [
                ("Via", f"SIP/2.0/WS x.invalid;branch=z9hG4bK{self.number}"),
                ("Max-Forwards", 70),
                ("From", f"<{ME}>;tag=f"),
                ("To", f"<{uri}>"),
                ("Call-ID", f"c{self.number}"),
                ("CSeq", f"{self.number} {method}"),
                ("Contact", "<sip:me@x.invalid;transport=ws>"),
                *fields.items(),
            ],
        )
        if body:
            request.set_body(body, "application/sdp")
        return request.encode()

    async def register(self, socket: ClientConnection) -> Response:
        await socket.send(self.request("REGISTER").decode())
        return await answer(socket)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self.news.clear()
                await self.news.wait()


async def answer(socket: ClientConnection) -> Response:
    """The next final response."""
    async with asyncio.timeout(5):
        while True:
            data = await socket.recv()
            if not data.strip():
                continue  # the answer to a keep-alive (RFC 7118 section 6)
            message = parse_message(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data)
            if isinstance(message, Response) and message.status >= 200:
                return message


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.start()
    yield bench
    await bench.sif.stop()


@pytest.mark.parametrize(
    "headers",
    [
        {SECRET_HEADER: ""},
        {SECRET_HEADER: "wrong"},
        {SECRET_HEADER: "w\u00e4ng"},
        {"Origin": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ORIGIN + "/"},
    ],
)
async def test_who_may_not_connect(bench: Bench, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await bench.connect(**headers)
    assert refused.value.response.status_code == 403
    assert bench.secret.reveal() not in str(refused.value.response.body)


async def test_text_and_binary(bench: Bench) -> None:
    async with await bench.connect() as socket:
        assert (await bench.register(socket)).status == 200
        await socket.send(bench.request("REGISTER"))
        assert (await answer(socket)).status == 200
    assert bench.sif.pages == 1


async def test_a_page_that_closes_is_forgotten(bench: Bench) -> None:
    async with await bench.connect() as socket:
        await bench.register(socket)
    async with asyncio.timeout(5):
        while bench.sif.pages:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("method", ["SUBSCRIBE", "PUBLISH", "PRACK"])
async def test_methods_that_are_not_offered(bench: Bench, method: str) -> None:
    async with await bench.connect() as socket:
        await bench.register(socket)
        await socket.send(bench.request(method))
        response = await answer(socket)
        assert response.status == 405
        assert "INVITE" in (response.headers.get("Allow") or "")


async def test_options(bench: Bench) -> None:
    async with await bench.connect() as socket:
        await socket.send(bench.request("OPTIONS"))
        assert (await answer(socket)).status == 200


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(98, "Address already in use"), "no media port could be had: Address already in use"),
        (RuntimeError("the codec is not installed"), "no media could be had: the codec is not installed"),
        (ZeroDivisionError(), "no media could be had"),
    ],
)
async def test_media_that_cannot_be_opened(bench: Bench, error: Exception, words: str) -> None:
    async def fail() -> None:
        raise error

    bench.media.on_open = fail
    async with await bench.connect() as socket:
        await bench.register(socket)
        await socket.send(bench.request("INVITE", "sip:+15550200@ims.example", OFFER))
        response = await answer(socket)
        assert response.status == 503
        assert words in (response.headers.get("Warning") or "")
    assert bench.sif.calls == 0


@pytest.mark.parametrize("error", [ValueError("no such codec"), RuntimeError("not installed"), KeyError("x")])
async def test_media_that_cannot_be_joined_end_one_call(bench: Bench, error: Exception) -> None:
    def fail() -> None:
        raise error

    bench.media.on_apply = fail
    async with await bench.connect() as socket:
        await bench.register(socket)
        await socket.send(bench.request("INVITE", "sip:+15550200@ims.example", OFFER))
        await bench.until(lambda: any(isinstance(each, ims.Dial) for each in bench.told))
        dial = next(each for each in bench.told if isinstance(each, ims.Dial))
        bench.sif.from_ims(ims.MediaAgreed(dial.call, phone_answer(dial.sdp)))
        assert (await answer(socket)).status == 503
        bench.sif.from_ims(ims.Ended(dial.call, None, "", True, None, page.Cause.LOCAL))
        assert bench.sif.calls == 0
        assert bench.media.closed == bench.media.opened
        assert (await bench.register(socket)).status == 200


async def test_media_that_open_too_late_are_closed(bench: Bench) -> None:
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    bench.media.on_open = wait
    async with await bench.connect() as socket:
        await bench.register(socket)
        await socket.send(bench.request("INVITE", "sip:+15550200@ims.example", OFFER))
        async with asyncio.timeout(5):
            while not bench.sif.calls:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        while bench.sif.calls:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    bench.media.closed.clear()
    bench.media.changed.clear()
    gate.set()
    async with asyncio.timeout(5):
        await bench.media.changed.wait()
    assert bench.media.closed == bench.media.opened


async def test_a_fault_of_the_ims_client_does_not_stop_the_sif(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: Any) -> None:
        raise ZeroDivisionError

    bench.sif._to_ims = fail
    async with await bench.connect() as socket:
        await bench.register(socket)
        await socket.send(bench.request("INVITE", "sip:+15550200@ims.example", OFFER))
        async with asyncio.timeout(5):
            while "carrying out ToIms failed" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (await bench.register(socket)).status == 200


async def test_stop_ends_calls_and_sockets(bench: Bench) -> None:
    async with await bench.connect() as socket:
        await bench.register(socket)
        await socket.send(bench.request("INVITE", "sip:+15550200@ims.example", OFFER))
        await bench.until(lambda: any(isinstance(each, ims.Dial) for each in bench.told))
        await bench.sif.stop()
        assert (await answer(socket)).status == 480
        assert any(isinstance(each, ims.Hangup) for each in bench.told)
        assert bench.media.closed == bench.media.opened
        with pytest.raises(ConnectionClosed):
            await socket.recv()


# ---- fuzz --------------------------------------------------------------------------------------------------------


def cut(data: bytes) -> list[bytes]:
    """The message cut off after every byte."""
    return [data[:end] for end in range(0, len(data), 7)]


async def test_a_message_that_is_cut_off_anywhere(bench: Bench) -> None:
    async with await bench.connect() as socket:
        await bench.register(socket)
        for data in cut(bench.request("INVITE", "sip:+15550200@ims.example", OFFER)):
            await socket.send(data)
        await socket.send(bench.request("OPTIONS"))
        await seen(socket, bench.number)
    assert bench.sif.pages <= 1


noise = st.binary(max_size=200)
edits = st.lists(st.tuples(st.integers(0, 2000), noise, st.integers(0, 60)), max_size=6)
kinds = st.sampled_from(["REGISTER", "INVITE", "BYE", "CANCEL", "ACK", "UPDATE", "INFO", "NOTIFY", "OPTIONS"])
headers = st.dictionaries(
    st.sampled_from(["Require", "Expires", "Replaces", "Privacy", "Session-Expires", "Route", "RAck", "Info-Package"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=40),
    max_size=3,
)


bodies = st.one_of(noise, st.just(OFFER))
messages = st.one_of(noise, st.text(max_size=100), st.tuples(kinds, edits, headers, bodies))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(items=st.lists(messages, max_size=12))
def test_any_bytes(items: list[Any]) -> None:
    """Whatever comes over the WebSocket, the next honest request is answered."""

    async def run() -> None:
        bench = Bench()
        await bench.start()
        try:
            async with await bench.connect() as socket:
                await bench.register(socket)
                for item in items:
                    await socket.send(spoilt(bench, *item) if isinstance(item, tuple) else item)
                await socket.send(bench.request("OPTIONS"))
                await seen(socket, bench.number)
        finally:
            await bench.sif.stop()

    asyncio.run(run())


def spoilt(bench: Bench, kind: str, edits: list[tuple[int, bytes, int]], fields: dict[str, str], body: bytes) -> bytes:
    """A message with unusual fields, in which pieces were replaced by noise."""
    try:
        message = bench.request(kind, body=body, **fields)
    except ValueError:
        message = bench.request(kind, body=body)
    for at, what, length in edits:
        at %= len(message) + 1
        message = message[:at] + what + message[at + length :]
    return message


async def seen(socket: ClientConnection, number: int) -> None:
    """Wait for the answer to the honest OPTIONS request; those to the others may repeat what was spoilt."""
    while True:
        response = await answer(socket)
        if response.headers.get("CSeq") == f"{number} OPTIONS":
            assert response.status == 200
            return


def phone_answer(offer: bytes) -> bytes:
    from imskit.sdp import ims_side
    from imskit.sdp.description import SessionDescription

    answer, _ = ims_side.make_answer(SessionDescription.parse(offer), ImsEndpoint("10.46.0.2", 60000, 99))
    return answer.encode()
