"""Two clients of one edge call each other, with the simulated core between them, over real sockets [A-EPCSCF]."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bench.websocket_clients import OFFER, ORIGIN, client_tls
from imskit.media.python_plane import PythonPlane
from imskit.secrets import Secret
from network_edge.eims_agw.call_media import MediaNode, Network
from network_edge.eims_agw.gateway import Gateway, Limits
from network_edge.ep_cscf.config import EpCscfConfig, MwConfig
from network_edge.ep_cscf.server import EpCscfServer
from simulators.ims_core.config import CoreConfig, EdgeConfig, WebSubscriberConfig
from simulators.ims_core.core import ImsCore
from simulators.lab.certificates import Authority
from simulators.web_client import Message, WebClient

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
ALICE, BOB = "+15550400", "+15550401"
ANSWER = OFFER.replace("a=setup:actpass", "a=setup:active")


class Call:
    """A call of Alice's to Bob; each end knows its own view of the dialog."""

    def __init__(self, alice: WebClient, bob: WebClient, invite: Message, answer: Message) -> None:
        self._ends = {
            alice: (answer.value("To"), f"<{alice.identity}>;tag={alice.tag}", answer, True),
            bob: (invite.value("From"), answer.value("To"), invite, False),
        }
        self._answer = answer
        self._call_id = invite.value("Call-ID")

    async def send(self, sender: WebClient, method: str) -> None:
        """Send a request within the dialog, by the route that it recorded."""
        to, from_, source, caller = self._ends[sender]
        routes = [value.strip() for line in source.values("Record-Route") for value in line.split(",")]
        target = source.value("Contact").partition("<")[2].partition(">")[0]
        number = int(self._answer.value("CSeq").split()[0]) if method == "ACK" else None
        text = sender.request(
            method,
            target,
            *(f"Route: {route}" for route in (reversed(routes) if caller else routes)),
            to=to,
            call_id=self._call_id,
            sequence=number,
        )
        own = next(line for line in text.split("\r\n") if line.startswith("From:"))
        await sender.send(text.replace(own, f"From: {from_}"))


class World:
    """The edge and its core."""

    def __init__(self, core: ImsCore, edge: EpCscfServer, stack: AsyncExitStack) -> None:
        self.core, self.edge, self._stack = core, edge, stack

    async def registered(self, number: str) -> WebClient:
        client = await WebClient.connect(self.edge.wss[0], number, DOMAIN, origin=ORIGIN, tls=client_tls())
        self._stack.push_async_callback(client.close)
        answer = await client.register(user=f"{number}@{DOMAIN}", password=Secret("correct horse"))
        assert answer.status == 200, answer
        return client

    async def call(self, alice: WebClient, bob: WebClient, contact: str = "") -> Call:
        """Alice calls, Bob answers with ``contact`` (his own if empty), Alice acknowledges."""
        to = f"sip:{BOB}@{DOMAIN}"
        call_id = f"call-{alice.sequence}"
        routes = [f"Route: {route}" for route in alice.routes]
        await alice.send(
            alice.request("INVITE", to, *routes, f"Contact: {alice.contact}", to=f"<{to}>", call_id=call_id, body=OFFER)
        )
        invite = await bob.receive("INVITE ")
        await bob.send(bob.answer(invite, "200 OK", f"Contact: {contact or bob.contact}", tag="bob", body=ANSWER))
        answer = await alice.receive(r"SIP/2\.0 [2-6]")
        assert answer.status == 200, answer
        call = Call(alice, bob, invite, answer)
        await call.send(alice, "ACK")
        return call


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        core = ImsCore(
            CoreConfig(
                DOMAIN,
                ["127.0.0.1:0"],
                [],
                web_subscribers=[
                    WebSubscriberConfig(
                        f"{number}@{DOMAIN}", [f"sip:{number}@{DOMAIN}"], password=Secret("correct horse")
                    )
                    for number in (ALICE, BOB)
                ],
                edges=[EdgeConfig("127.0.0.1", DOMAIN)],
            )
        )
        await core.start()
        stack.push_async_callback(core.close)
        network = Network("127.0.0.1", range(30000, 39998))
        gateway = Gateway(MediaNode(PythonPlane(), network, network), Limits(grace=0.0))
        stack.push_async_callback(gateway.close)
        certificate, key = Authority.create("edge", tmp_path / "ca").server("ws.ims.example")
        edge = EpCscfServer(
            EpCscfConfig(
                home_domain=DOMAIN,
                mw=MwConfig(address="127.0.0.1:0", core="{}:{}".format(*core.core)),
                wss=["127.0.0.1:0"],
                certificate=certificate,
                key=key,
                origins=[ORIGIN],
            ),
            gateway=gateway,
        )
        await edge.start()
        stack.push_async_callback(edge.close)
        yield World(core, edge, stack)


@pytest.mark.parametrize("first", ["caller", "called"])
async def test_a_call_between_two_clients_of_one_edge(world: World, first: str) -> None:
    """Both legs of the edge are in the route: ACK and BYE get to the other client, whoever hangs up."""
    alice, bob = await world.registered(ALICE), await world.registered(BOB)
    call = await world.call(alice, bob)
    await bob.receive("ACK ")
    ends, other = (alice, bob) if first == "caller" else (bob, alice)
    await call.send(ends, "BYE")
    bye = await other.receive("BYE ")
    await other.send(other.answer(bye, "200 OK"))
    assert (await ends.receive(r"SIP/2\.0 [2-6]")).status == 200


class _Listener(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.heard.append(data)


async def test_a_called_clients_contact_leads_nowhere(world: World) -> None:
    """Whoever is called may write any Contact: nothing is sent there, and its own connection gets what is its own."""
    loop = asyncio.get_running_loop()
    transport, victim = await loop.create_datagram_endpoint(_Listener, ("127.0.0.1", 0))
    try:
        host, port = transport.get_extra_info("sockname")
        alice, mallory = await world.registered(ALICE), await world.registered(BOB)
        call = await world.call(alice, mallory, contact=f"<sip:x@{host}:{port}>")
        await mallory.receive("ACK ")
        await call.send(alice, "BYE")
        bye = await mallory.receive("BYE ")
        await mallory.send(mallory.answer(bye, "200 OK"))
        assert (await alice.receive(r"SIP/2\.0 [2-6]")).status == 200
        assert victim.heard == []
    finally:
        transport.close()
