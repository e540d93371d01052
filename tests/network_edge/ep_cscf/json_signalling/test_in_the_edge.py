"""A JSON client over TLS, a whole eP-CSCF, and a core that the test plays [A-EPCSCF]."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin, Subprotocol

from imskit.sdp.description import SessionDescription
from imskit.secrets import Identity
from imskit.sip.wire.message import Request, Response, response_to
from network_edge.certificate import ensure_certificate
from network_edge.ep_cscf.config import EpCscfConfig, MwConfig
from network_edge.ep_cscf.engine.effects import TokenAccepted, TokenClaims, TokenRefused, ValidateToken
from network_edge.ep_cscf.json_signalling.wire.messages import SUB_PROTOCOL
from network_edge.ep_cscf.server import EpCscfServer
from network_edge.ep_cscf.tokens import TokenValidator
from network_edge.iq.gateway import AnswerRequest, DeleteRequest, OfferRequest

ALICE = "sip:alice@ims.example"
ORIGIN = "https://portal.ims.example"
OFFER = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n"
ANSWER = OFFER.replace("192.0.2.1", "192.0.2.2")


class Gateway:
    """Says on what it is told, marked."""

    on_media_lost: Any = None
    draining = False

    def __init__(self) -> None:
        self.deleted = asyncio.Event()

    async def offer(self, request: OfferRequest) -> SessionDescription:
        request.sdp.add_attribute("offered")
        return request.sdp

    async def answer(self, request: AnswerRequest) -> SessionDescription:
        request.sdp.add_attribute("answered")
        return request.sdp

    async def delete(self, request: DeleteRequest) -> None:
        self.deleted.set()


class Validator(TokenValidator):
    def __init__(self) -> None:
        super().__init__([])

    async def check(self, question: ValidateToken) -> TokenAccepted | TokenRefused:
        whose = (Identity("alice@ims.example"), (Identity(ALICE),), Identity("alice"))
        claims = TokenClaims(*whose, "https://w", "wwsf.example", time.time() + 300, "ims")
        return TokenAccepted(question.key, claims, 300.0)


@pytest.fixture
async def edge(core: Any, tmp_path: Path) -> AsyncIterator[tuple[EpCscfServer, Gateway, ssl.SSLContext]]:
    certificate, key = tmp_path / "edge.crt", tmp_path / "edge.key"
    ensure_certificate(certificate, key, ["127.0.0.1"])
    config = EpCscfConfig(
        "ims.example", MwConfig("127.0.0.1:0", core.address), wss=[], ws=["127.0.0.1:0"], json=["127.0.0.1:0"],
        certificate=certificate, key=key, origins=[ORIGIN], reg_event=False,
    )  # fmt: skip
    gateway = Gateway()
    server = EpCscfServer(config, gateway=gateway, validator=Validator())  # type: ignore[arg-type]
    await server.start()
    yield server, gateway, ssl.create_default_context(cafile=certificate)
    await server.close()


def _connect(edge: tuple[EpCscfServer, Gateway, ssl.SSLContext], origin: str = ORIGIN) -> connect:
    host, port = edge[0].json[0]
    protocols = [Subprotocol(SUB_PROTOCOL)]
    return connect(f"wss://{host}:{port}/", ssl=edge[2], origin=Origin(origin), subprotocols=protocols, proxy=None)


def _send(core: Any, request: Request, response: Response) -> None:
    core._transport.sendto(response.encode(), core._from[str(request.headers.get("Via"))])


async def _say(client: ClientConnection, kind: str, **members: Any) -> None:
    await client.send(json.dumps({"type": kind, **members}))


async def _hear(client: ClientConnection, kind: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            message: dict[str, Any] = json.loads(await client.recv())
            assert message["type"] != "error", message
            if message["type"] == kind:
                return message


async def test_from_log_in_to_hang_up(edge: tuple[EpCscfServer, Gateway, ssl.SSLContext], core: Any) -> None:
    server, gateway, _ = edge
    async with _connect(edge) as client:
        await _say(client, "login", token="good", identity=ALICE)
        await _say(client, "register")
        request = await core.request("REGISTER")
        assert 'integrity-protected="auth-done"' in (request.headers.get("Authorization") or "")
        core.register(request, ALICE)
        assert (await _hear(client, "registered"))["identity"] == ALICE
        assert server.registrations == 1
        await _say(client, "call", call="one", to="tel:+15550200", sdp=OFFER)
        invite = await core.request("INVITE")
        assert invite.body.decode() == OFFER + "a=offered\r\n"
        response = response_to(invite, 200, to_tag="bob")
        response.headers.add("Contact", f"<sip:bob@{core.address}>")
        response.set_body(ANSWER.encode(), "application/sdp")
        _send(core, invite, response)
        assert (await _hear(client, "answer"))["sdp"] == ANSWER + "a=answered\r\n"
        await _hear(client, "answered")
        await core.request("ACK")
        await _say(client, "hangup", call="one")
        core.answer(await core.request("BYE"), 200)
        await _hear(client, "ended")
        await asyncio.wait_for(gateway.deleted.wait(), 20)


async def test_a_foreign_origin_gets_403(edge: tuple[EpCscfServer, Gateway, ssl.SSLContext]) -> None:
    with pytest.raises(InvalidStatus) as caught:
        await _connect(edge, "https://evil.example")
    assert caught.value.response.status_code == 403
