"""Attacks on a running eP-CSCF over real sockets, beside another user's call [A-EPCSCF, issue: bad input].

Whatever the attacker does, that call goes on, the process serves, and nothing of anybody's is in the log.  What tokens,
marks and identities a client may use is tested at the engine (``engine/test_registration.py``, ``test_tokens.py``).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bench.edge_core import DOMAIN, Core
from bench.websocket_clients import OFFER, ORIGIN, client_tls
from imskit.media.python_plane import PythonPlane
from imskit.secrets import Secret
from network_edge.eims_agw.call_media import MediaNode, Network
from network_edge.eims_agw.gateway import Gateway, Limits
from network_edge.ep_cscf.config import EpCscfConfig, MwConfig
from network_edge.ep_cscf.server import EpCscfServer
from simulators.lab.certificates import Authority
from simulators.web_client import Message, WebClient

PHONE = f"sip:+15550200@{DOMAIN}"
PASSWORD = "a-password-that-no-log-may-hold"


class Edge:
    """An edge before a core that answers everything, and a victim in a call."""

    def __init__(self, server: EpCscfServer, gateway: Gateway, stack: AsyncExitStack) -> None:
        self.server, self.gateway, self.stack = server, gateway, stack

    async def client(self, user: str) -> WebClient:
        client = await WebClient.connect(self.server.wss[0], user, DOMAIN, origin=ORIGIN, tls=client_tls())
        self.stack.push_async_callback(client.close)
        return client

    async def registered(self, user: str) -> WebClient:
        client = await self.client(user)
        answer = await client.register(user=f"{user}@{DOMAIN}", password=Secret(PASSWORD))
        assert answer.status == 200, answer.first
        return client

    async def call(self, client: WebClient, sdp: str = OFFER) -> Message:
        routes = [f"Route: {route}" for route in client.routes]
        invite = client.request("INVITE", PHONE, *routes, f"Contact: {client.contact}", to=f"<{PHONE}>", body=sdp)
        await client.send(invite)
        answer = await client.receive(r"SIP/2\.0 [2-6]")
        if answer.status == 200:
            await client.send(self._within(client, "ACK", answer))
        return answer

    async def hangs_up(self, client: WebClient, answer: Message) -> int:
        await client.send(self._within(client, "BYE", answer))
        return (await client.receive(r"SIP/2\.0 [2-6]")).status

    def _within(self, client: WebClient, method: str, answer: Message) -> str:
        target = answer.value("Contact").partition("<")[2].partition(">")[0]
        routes = [f"Route: {route}" for route in reversed(answer.values("Record-Route"))]
        number = int(answer.value("CSeq").split()[0]) if method == "ACK" else None
        return client.request(method, target, *routes, to=answer.value("To"), sequence=number)


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    async with AsyncExitStack() as stack:
        loop = asyncio.get_running_loop()
        tcp = await loop.create_server(Core, "127.0.0.1", 0)
        stack.callback(tcp.close)
        port = tcp.sockets[0].getsockname()[1]
        transport, _ = await loop.create_datagram_endpoint(Core, ("127.0.0.1", port))
        stack.callback(transport.close)
        network = Network("127.0.0.1", range(30000, 39998))
        gateway = Gateway(MediaNode(PythonPlane(), network, network), Limits(grace=0.0))
        stack.push_async_callback(gateway.close)
        certificate, key = Authority.create("edge", tmp_path / "ca").server("ws.ims.example")
        server = EpCscfServer(
            EpCscfConfig(
                home_domain=DOMAIN,
                mw=MwConfig(address="127.0.0.1:0", core=f"127.0.0.1:{port}"),
                wss=["127.0.0.1:0"],
                certificate=certificate,
                key=key,
                origins=[ORIGIN],
                handshake_seconds=1.0,
                reg_event=False,
            ),
            gateway=gateway,
        )
        await server.start()
        stack.push_async_callback(server.close)
        yield Edge(server, gateway, stack)


@pytest.fixture
async def victim(edge: Edge, caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Another user's call stands before the attack, and can be ended by its user after it; the log tells nothing."""
    caplog.set_level(logging.INFO)
    client = await edge.registered("+15550100")
    answer = await edge.call(client)
    assert answer.status == 200
    yield
    assert await edge.hangs_up(client, answer) == 200
    written = "\n".join(record.getMessage() for record in caplog.records)
    for secret in (PASSWORD, "+15550100", "+15550666", "response=", "a=ice-pwd", "AbCd"):
        assert secret not in written


@pytest.mark.usefixtures("victim")
async def test_handshakes_that_never_end(edge: Edge) -> None:
    """Slow-loris: a TLS handshake that does not begin, and an HTTP request whose head does not end."""
    host, port = edge.server.wss[0]
    silent = [await asyncio.open_connection(host, port) for _ in range(20)]
    slow = [await asyncio.open_connection(host, port, ssl=client_tls()) for _ in range(20)]
    for _, writer in slow:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-a: ")
    another = await edge.registered("+15550101")
    assert another.routes, "others are served meanwhile"
    async with asyncio.timeout(20):
        for reader, writer in silent + slow:
            try:
                while await reader.read(4096):
                    pass
            except (ConnectionError, ssl.SSLError):
                pass
            writer.close()


@pytest.mark.usefixtures("victim")
@pytest.mark.parametrize(
    "bomb",
    [
        OFFER + "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n" * 2000,
        OFFER + "".join(f"a=candidate:{n} 1 udp 1 192.0.2.{n % 250} 9 typ host\r\n" for n in range(1000)),
        OFFER + "a=rtpmap:1 " + "x" * 40000 + "\r\n",
        "v=0\r\n" * 5000,
        "\0" * 30000,
    ],
    ids=["media", "candidates", "line", "versions", "zeros"],
)
async def test_descriptions_that_are_bombs(edge: Edge, bomb: str) -> None:
    """Refused with a final answer, or the connection ends; nothing of the gateway's stays behind."""
    attacker = await edge.registered("+15550666")
    before = edge.gateway.sessions
    try:
        answer = await edge.call(attacker, bomb)
    except ConnectionError:
        pass
    else:
        if answer.status == 200:  # what is too much of it was left out
            assert await edge.hangs_up(attacker, answer) == 200
        else:
            assert 400 <= answer.status < 700
    async with asyncio.timeout(10):
        while edge.gateway.sessions > before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("victim")
async def test_a_flood_of_messages_and_of_bytes(edge: Edge) -> None:
    """The flooder loses its connection; who comes meanwhile is served."""
    flooder = await edge.client("+15550666")
    request = flooder.request("OPTIONS", f"sip:{DOMAIN}", "X: " + "y" * 500)

    async def flood() -> None:
        try:
            for _ in range(100_000):
                await flooder.send(request)
        except Exception:
            return

    async with asyncio.timeout(60):
        task = asyncio.create_task(flood())
        assert (await edge.registered("+15550102")).routes
        await flooder.closed(within=50)
        await task


@pytest.mark.usefixtures("victim")
@pytest.mark.parametrize(
    "head",
    [
        "INVITE sip:a@b SIP/2.0\r\nX: " + "y" * 70_000 + "\r\n\r\n",
        "INVITE sip:a@b SIP/2.0\r\n" + "X: y\r\n" * 20_000 + "\r\n",
        "REGISTER sip:x SIP/2.0\r\nVia: SIP/2.0/WSS x.invalid;branch=z9hG4bKx\r\n" + "Via: a\r\n" * 5000 + "\r\n",
    ],
    ids=["one header", "many headers", "many hops"],
)
async def test_heads_that_are_too_long(edge: Edge, head: str) -> None:
    attacker = await edge.client("+15550666")
    await attacker.send(head)
    try:
        answer = await attacker.receive(r"SIP/2\.0 ", within=3)
    except (ConnectionError, TimeoutError):
        pass
    else:
        assert answer.status >= 400
    assert (await edge.registered("+15550103")).routes


@pytest.mark.usefixtures("victim")
async def test_marks_of_the_network_from_a_client(edge: Edge) -> None:
    """``auth-done`` of a client's own is no registration, whatever else is in the header."""
    attacker = await edge.client("+15550100")
    forged = (
        f'Authorization: Digest username="+15550100@{DOMAIN}", realm="{DOMAIN}", nonce="", uri="sip:{DOMAIN}", '
        'response="", integrity-protected="auth-done", authorization-entity="wwsf"'
    )
    answer = await attacker.register(forged)
    assert answer.status == 401
    bearer = await (await edge.client("+15550100")).register(token="eyJhbGciOiJub25lIn0.e30.")
    assert bearer.status in (401, 403)
