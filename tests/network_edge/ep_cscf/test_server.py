"""The eP-CSCF on real sockets: who may connect, tokens, media in turn, drain, health, limits [A-EPCSCF]."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Origin, Subprotocol

from imskit.sdp.description import SessionDescription
from imskit.secrets import Identity
from imskit.sip.wire.flow import Address
from network_edge.certificate import ensure_certificate
from network_edge.ep_cscf.config import EpCscfConfig, MwConfig
from network_edge.ep_cscf.engine.effects import (
    CallStep,
    CallStepKind,
    MediaAnswer,
    MediaDelete,
    MediaOffer,
    Side,
    TokenAccepted,
    TokenClaims,
    TokenRefused,
    ValidateToken,
)
from network_edge.ep_cscf.health import HealthServer
from network_edge.ep_cscf.server import EpCscfError, EpCscfServer
from network_edge.ep_cscf.tokens import TokenValidator
from network_edge.iq.gateway import AnswerRequest, DeleteRequest, GatewayUnavailableError, OfferRequest

HOME = "ims.example"
ORIGIN = "https://portal.ims.example"
ALICE = f"sip:alice@{HOME}"


class PlayedGateway:
    """A media gateway whose answers a test releases."""

    def __init__(self) -> None:
        self.on_media_lost: Any = None
        self.draining = False
        self.said: list[str] = []
        self.go = asyncio.Event()
        self.went = asyncio.Event()
        self.down = False

    async def offer(self, request: OfferRequest) -> SessionDescription:
        self.said.append("offer")
        await self.go.wait()
        if self.down:
            raise GatewayUnavailableError("it burns")
        self.said.append("offered")
        return request.sdp

    async def answer(self, request: AnswerRequest) -> SessionDescription:
        self.said.append("answer")
        return request.sdp

    async def delete(self, request: DeleteRequest) -> None:
        self.said.append("delete")
        self.went.set()


class PlayedValidator(TokenValidator):
    """Takes one token."""

    def __init__(self) -> None:
        super().__init__([])

    async def check(self, question: ValidateToken) -> TokenAccepted | TokenRefused:
        if question.token.reveal() != "good":
            return TokenRefused(question.key, "invalid_token", "it is forged")
        impus = (Identity(ALICE),)
        claims = TokenClaims(
            Identity(f"alice@{HOME}"), impus, Identity("alice"), "https://w", "wwsf.example", time.time() + 300, "ims"
        )
        return TokenAccepted(question.key, claims, 300.0)


@pytest.fixture
async def make_server(core: Any) -> AsyncIterator[Callable[..., Any]]:
    made: list[EpCscfServer] = []

    async def make(gateway: Any = None, **settings: Any) -> EpCscfServer:
        settings = {"wss": [], "ws": ["127.0.0.1:0"], "origins": [ORIGIN], "reg_event": False} | settings
        mw = MwConfig("127.0.0.1:0", core.address)
        server = EpCscfServer(
            EpCscfConfig(HOME, mw, **settings), gateway=gateway or PlayedGateway(), validator=PlayedValidator()
        )
        made.append(server)
        await server.start()
        return server

    yield make
    for server in made:
        await server.close()


def client(address: Address, origin: str | None = ORIGIN, protocol: str | None = "sip", **more: Any) -> connect:
    scheme = "wss" if "ssl" in more else "ws"
    return connect(
        f"{scheme}://{address[0]}:{address[1]}/",
        origin=Origin(origin) if origin else None,
        subprotocols=[Subprotocol(protocol)] if protocol else None,
        **more,
    )


@pytest.mark.parametrize(
    "origin", [None, "https://evil.example", "null", ORIGIN + ".evil.example", ORIGIN + ":8443", "http" + ORIGIN[5:]]
)
async def test_a_foreign_origin_gets_403(make_server: Callable[..., Any], origin: str | None) -> None:
    server = await make_server()
    with pytest.raises(InvalidStatus) as caught:
        await client(server.ws[0], origin)
    assert caught.value.response.status_code == 403
    reason = "no-origin" if origin is None else "origin"
    assert f'ep_cscf_refusals_total{{reason="{reason}"}} 1.0' in server.metrics.text().decode()


async def test_a_client_without_origin_where_that_is_allowed(make_server: Callable[..., Any]) -> None:
    server = await make_server(without_origin=True)
    async with client(server.ws[0], None) as connection:
        assert connection.subprotocol == "sip"


@pytest.mark.parametrize("protocol", [None, "chat"])
async def test_another_subprotocol_is_refused(make_server: Callable[..., Any], protocol: str | None) -> None:
    server = await make_server()
    with pytest.raises(InvalidStatus) as caught:
        await client(server.ws[0], protocol=protocol)
    assert caught.value.response.status_code == 400


async def test_registration_by_token_over_wss(
    make_server: Callable[..., Any], core: Any, make_phone: Any, tmp_path: Any
) -> None:
    """A-REG2: what the token says reaches the core as trusted-node authentication, the token itself does not."""
    certificate, key = tmp_path / "edge.crt", tmp_path / "edge.key"
    ensure_certificate(certificate, key, ["127.0.0.1"])
    server = await make_server(wss=["127.0.0.1:0"], ws=[], certificate=certificate, key=key, http_port=0)
    trust = ssl.create_default_context(cafile=certificate)
    async with client(server.wss[0], ssl=trust) as connection:
        phone = make_phone(connection)
        await phone.register("Authorization: Bearer good")
        request = await core.request("REGISTER")
        said = request.headers.get("Authorization") or ""
        assert 'integrity-protected="auth-done"' in said and 'authorization-entity="wwsf.example"' in said
        assert "good" not in request.encode().decode()
        core.register(request, ALICE)
        assert (await phone.response()).status == 200
        assert server.registrations == 1
        assert server.state()["connections"] == 1
    text = server.metrics.text().decode()
    assert 'ep_cscf_registration_steps_total{scenario="token",step="registered"} 1.0' in text
    assert 'ep_cscf_tokens_total{outcome="accepted"} 1.0' in text


async def test_a_forged_token_gets_401_and_is_counted(
    make_server: Callable[..., Any], make_phone: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = await make_server()
    async with client(server.ws[0]) as connection:
        phone = make_phone(connection)
        await phone.register("Authorization: Bearer forgedforged")
        assert (await phone.response()).status == 401
    assert 'ep_cscf_refusals_total{reason="invalid_token"} 1.0' in server.metrics.text().decode()
    assert "forgedforged" not in caplog.text


async def test_draining_refuses_with_retry_after(make_server: Callable[..., Any], make_phone: Any) -> None:
    """New registrations get 503 with Retry-After; /ready says so; without a call there is nothing to wait for."""
    server = await make_server(retry_after=7)
    async with client(server.ws[0]) as connection:
        phone = make_phone(connection)
        server.drain()
        async with asyncio.timeout(5):
            await server.drained()
        await phone.register("Authorization: Bearer good")
        response = await phone.response()
        assert (response.status, response.headers.get("Retry-After")) == (503, "7")
        assert server.state()["problem"] == "draining"


async def test_draining_waits_for_running_calls(
    make_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await make_server()
    running = [1]
    monkeypatch.setattr(EpCscfServer, "calls", property(lambda _: running[0]))
    server.drain()
    waiting = asyncio.ensure_future(server.drained())
    server._output(CallStep(CallStepKind.ANSWERED, "a", Side.WEB))
    await asyncio.sleep(0)
    assert not waiting.done() and server.state()["calls"] == 1
    running[0] = 0
    server._output(CallStep(CallStepKind.ENDED, "a", Side.WEB))
    await asyncio.wait_for(waiting, 5)
    assert 'ep_cscf_call_steps_total{side="web",step="ended"} 1.0' in server.metrics.text().decode()


async def test_commands_of_one_call_are_carried_out_in_turn(make_server: Callable[..., Any]) -> None:
    """A delete never overtakes its offer, or the gateway would keep media that nobody ends."""
    gateway = PlayedGateway()
    server = await make_server(gateway)
    sdp = SessionDescription.parse(b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n")
    server._output(MediaOffer("a", OfferRequest("call", "from", sdp)))
    server._output(MediaAnswer("b", AnswerRequest("call", "from", "to", sdp)))
    server._output(MediaDelete(DeleteRequest("call")))
    gateway.go.set()
    async with asyncio.timeout(5):
        await gateway.went.wait()
    assert gateway.said == ["offer", "offered", "answer", "delete"]


async def test_a_gateway_that_fails_is_counted(make_server: Callable[..., Any]) -> None:
    gateway = PlayedGateway()
    gateway.down = True
    gateway.go.set()
    server = await make_server(gateway)
    sdp = SessionDescription.parse(b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n")
    server._output(MediaOffer("a", OfferRequest("call", "from", sdp)))
    server._output(MediaDelete(DeleteRequest("call")))
    async with asyncio.timeout(5):
        await gateway.went.wait()
    counted = 'ep_cscf_media_commands_total{command="offer",outcome="503"} 1.0'
    assert counted in server.metrics.text().decode()


async def test_health_readiness_and_metrics_over_http(make_server: Callable[..., Any]) -> None:
    gateway = PlayedGateway()
    server = await make_server(gateway)
    health = HealthServer(server.state, server.metrics.text)
    base = f"http://127.0.0.1:{await health.start('127.0.0.1', 0)}"
    async with contextlib.aclosing(health), aiohttp.ClientSession() as http:
        for path, status in (("/health", 200), ("/ready", 200), ("/metrics", 200)):
            async with http.get(base + path) as response:
                assert response.status == status
        gateway.draining = True
        async with http.get(base + "/ready") as response:
            assert response.status == 503
            assert (await response.json())["problem"] == "no media gateway takes new calls"
        async with http.get(base + "/metrics") as response:
            assert 'ep_cscf_gateway{gateway="own",state="draining"} 1.0' in await response.text()


async def test_who_never_registers_is_let_go(make_server: Callable[..., Any], core: Any, make_phone: Any) -> None:
    """One who is registered stays, silent or not."""
    server = await make_server(idle_seconds=2.0)
    async with client(server.ws[0]) as registered, client(server.ws[0]) as silent:
        phone = make_phone(registered)
        await phone.register("Authorization: Bearer good")
        core.register(await core.request("REGISTER"), ALICE)
        assert (await phone.response()).status == 200
        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(20):
                await silent.recv()
        await asyncio.wait_for(registered.ping(), 5)
        assert server.registrations == 1


async def test_who_sends_nonsense_is_cut_off(make_server: Callable[..., Any]) -> None:
    server = await make_server()
    async with client(server.ws[0]) as connection:
        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(20):
                for _ in range(200):
                    await connection.send("REGISTER nonsense")
                while True:
                    await connection.recv()
    async with client(server.ws[0]):
        pass  # others are served


async def test_a_message_over_64_kb_ends_the_connection(make_server: Callable[..., Any]) -> None:
    server = await make_server()
    async with client(server.ws[0]) as connection:
        await connection.send("REGISTER sip:x SIP/2.0\r\nX: " + "y" * 70_000)
        with pytest.raises(ConnectionClosed) as caught:
            await asyncio.wait_for(connection.recv(), 20)
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1009


async def test_connections_of_one_address_are_bounded(make_server: Callable[..., Any]) -> None:
    server = await make_server(connections_per_address=2)
    async with contextlib.AsyncExitStack() as stack:
        connections: list[ClientConnection] = [await stack.enter_async_context(client(server.ws[0])) for _ in range(2)]
        with pytest.raises((OSError, EOFError, WebSocketException)):
            await client(server.ws[0])
        assert len(connections) == 2 and server.state()["connections_refused"] == 1
        assert "ep_cscf_connections_refused 1.0" in server.metrics.text().decode()


async def test_a_wrong_start_says_what_to_do(make_server: Callable[..., Any], tmp_path: Any) -> None:
    (tmp_path / "x.pem").write_text("no certificate")
    with pytest.raises(EpCscfError, match=r"x\.pem"):
        await make_server(wss=["127.0.0.1:0"], certificate=tmp_path / "x.pem", key=tmp_path / "x.pem")
    with pytest.raises(EpCscfError, match="no address of this machine"):
        await make_server(ws=["192.0.2.77:0"])
    server = EpCscfServer(
        EpCscfConfig(HOME, MwConfig("127.0.0.1:0", "127.0.0.1:1"), wss=[], ws=["127.0.0.1:0"], without_origin=True)
    )
    with pytest.raises(EpCscfError, match="gateways"):
        await server.start()
