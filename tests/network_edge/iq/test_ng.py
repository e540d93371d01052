"""Iq over UDP [A-IQ]: client, server and gateway together; losses, repetitions, strangers, deaths, the pool."""

import asyncio
import contextlib
import ipaddress
import socket
import sys
import time

import pytest

from imskit.media.events import Step
from imskit.media.python_plane import PythonPlane
from network_edge.eims_agw.call_media import MediaNode, Network
from network_edge.eims_agw.gateway import Gateway, Limits
from network_edge.eims_agw.ng_server import NgServer
from network_edge.eims_agw.wire import messages
from network_edge.iq.gateway import (
    TOWARDS_IMS,
    TOWARDS_WEB,
    AnswerRequest,
    CandidatesRequest,
    DeleteRequest,
    GatewayError,
    GatewayUnavailableError,
    Loss,
    OfferRequest,
    QueryRequest,
    UnknownCallError,
)
from network_edge.iq.ng_gateway import NgGateway
from network_edge.iq.pool import GatewayPool
from simulators.media_ends import BrowserEnd, PhoneEnd

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]


class Node:
    """A gateway with its NG server on a port of its own."""

    def __init__(self, controllers=LOOPBACK):
        network = Network("127.0.0.1", range(40000, 48998))
        self.gateway = Gateway(MediaNode(PythonPlane(), network, network), Limits(grace=0.0))
        self.server = NgServer(self.gateway, controllers)
        self.clients = []

    async def client(self, **options):
        self.clients.append(await NgGateway.connect(*self.server.address, **options))
        return self.clients[-1]

    async def close(self):
        for client in self.clients:
            await client.close()
        self.server.close()
        await self.gateway.close()


@contextlib.asynccontextmanager
async def node(controllers=LOOPBACK):
    made = Node(controllers)
    await made.server.start("127.0.0.1", 0)
    try:
        yield made
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def ends():
    browser, phone = BrowserEnd(PythonPlane(), offers=True), PhoneEnd(PythonPlane())
    try:
        yield browser, phone
    finally:
        await browser.close()
        phone.close()


async def call(gateway, browser, phone, call_id="call"):
    towards_ims = await gateway.offer(OfferRequest(call_id, "web", browser.offer(), TOWARDS_IMS))
    answer = phone.take_offer(towards_ims)
    browser.take_answer(await gateway.answer(AnswerRequest(call_id, "web", "ims", answer, TOWARDS_WEB)))


async def test_a_call_over_udp():
    async with node() as there, ends() as (browser, phone):
        client = await there.client()
        await client.ping()
        await call(client, browser, phone)
        await browser.until(Step.DTLS_CONNECTED)
        assert await client.list() == ("call",)
        async with asyncio.TaskGroup() as group:
            group.create_task(browser.talk(500, 0.6))
            group.create_task(phone.talk(900, 0.6))
            group.create_task(phone.hears(25))
            group.create_task(browser.hears(25))
        figures = await client.query(QueryRequest("call"))
        assert figures.received["web"].packets == 30 and figures.total.packets == 60
        await client.delete(DeleteRequest("call", "web"))
        with pytest.raises(UnknownCallError):
            await client.query(QueryRequest("call"))
        with pytest.raises(UnknownCallError):
            await client.delete(DeleteRequest("call", "web"))


async def test_refusals_carry_reason_and_status():
    async with node() as there, ends() as (browser, phone):
        client = await there.client()
        with pytest.raises(GatewayError) as refusal:
            await client.offer(OfferRequest("call", "a", phone.offer(), TOWARDS_IMS))
        assert refusal.value.status == 488 and "towards a browser" in str(refusal.value)
        there.gateway.draining = True
        await client.ping()
        assert client.draining
        with pytest.raises(GatewayUnavailableError):
            await client.offer(OfferRequest("call", "a", browser.offer(), TOWARDS_IMS))


class Lossy(asyncio.DatagramProtocol):
    """Between client and server: loses the first answers, so that commands are repeated, or all while it is cut."""

    def __init__(self, server, lose=0):
        self.server, self.lose, self.client = server, lose, None
        self.cut = False

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        if self.cut:
            return
        if addr == self.server:
            if self.lose:
                self.lose -= 1
            else:
                self.transport.sendto(data, self.client)
        else:
            self.client = addr
            self.transport.sendto(data, self.server)


async def test_a_repeated_command_is_done_once():
    async with node() as there, ends() as (browser, _):
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: Lossy(there.server.address, 2), local_addr=("127.0.0.1", 0)
        )
        client = await NgGateway.connect(*transport.get_extra_info("sockname"))
        await client.offer(OfferRequest("call", "web", browser.offer(), TOWARDS_IMS))
        assert client.retransmissions == 2 and there.server.repeated == 2
        assert there.gateway.sessions == 1 and there.gateway.counters["offers"] == 1
        await client.close()
        transport.close()


async def test_strangers_are_not_answered():
    async with node([ipaddress.ip_network("192.0.2.0/24")]) as there:
        client = await there.client(timeout=0.4)
        with pytest.raises(GatewayUnavailableError):
            await client.ping()
        assert there.server.counters["strangers"] >= 1


class Raw(asyncio.DatagramProtocol):
    """Sends what it is told and keeps the answers."""

    def __init__(self):
        self.answers = asyncio.Queue()

    def datagram_received(self, data, addr):
        self.answers.put_nowait(data)


@pytest.mark.parametrize(
    "body,reason",
    [
        (b"de", "command"),
        (b"xyz", "no string"),
        (b"le", "no dictionary"),
        (b"d7:command5:dancee", "Unrecognized"),
        (b"d7:command5:offere", "call-id"),
        (b"l" * 200, "levels"),
    ],
)
async def test_nonsense_is_answered_and_survived(body, reason):
    async with node() as there:
        loop = asyncio.get_running_loop()
        transport, raw = await loop.create_datagram_endpoint(Raw, remote_addr=there.server.address)
        transport.sendto(b"\xff\xfe no cookie")
        transport.sendto(b"77 " + body)
        cookie, answer = messages.split(await asyncio.wait_for(raw.answers.get(), 5))
        answer = messages.dictionary(answer)
        assert cookie == "77" and answer["result"] == "error" and reason in answer["error-reason"]
        transport.sendto(b"78 d7:command4:pinge")
        assert await asyncio.wait_for(raw.answers.get(), 5) == b"78 d6:result4:ponge"
        transport.close()


def _bombs():
    """Datagrams near UDP's limit that a careless reader would choke on."""
    yield b"1 " + b"l" * 60000
    yield b"1 " + b"d1:x" * 15000
    yield b"1 " + b"9" * 60000 + b":x"
    yield b"1 " + b"i" + b"9" * 60000 + b"e"
    yield b"1 d7:command5:offer3:sdp60000:" + b"v=0\r\n" * 12000 + b"e"
    yield b"1 d7:command4:ping" + b"".join(b"4:%04d0:" % number for number in range(8000)) + b"e"
    yield b"1 d7:command4:list5:limiti999999999ee"
    yield b"x" * 60000
    yield b"1 d7:command10:candidates10:candidatesl" + b"2:ab" * 14000 + b"ee"


async def test_datagrams_that_are_bombs():
    """Each is answered with an error or dropped, and the gateway answers the next ping at once."""
    async with node() as there:
        loop = asyncio.get_running_loop()
        transport, raw = await loop.create_datagram_endpoint(Raw, remote_addr=there.server.address)
        start = time.process_time()
        for number, bomb in enumerate(_bombs()):
            transport.sendto(bomb)
            transport.sendto(b"p%d d7:command4:pinge" % number)
            async with asyncio.timeout(5):
                while not (answer := await raw.answers.get()).startswith(b"p%d " % number):
                    assert len(answer) < 4096
        assert time.process_time() - start < 3
        transport.close()


async def test_a_replayed_command_is_not_done_again():
    """The same datagram again, from its port: the deletion of a call is no deletion of its successor."""
    async with node() as there, ends() as (browser, _):
        client = await there.client(watch=0)
        await client.offer(OfferRequest("call", "web", browser.offer(), TOWARDS_IMS))
        loop = asyncio.get_running_loop()
        transport, raw = await loop.create_datagram_endpoint(Raw, remote_addr=there.server.address)
        delete = messages.join("once", messages.request_message(DeleteRequest("call", delay=0)))
        transport.sendto(delete)
        first = await asyncio.wait_for(raw.answers.get(), 5)
        assert there.gateway.sessions == 0
        await client.offer(OfferRequest("call", "web", browser.offer(), TOWARDS_IMS))
        for _ in range(3):
            transport.sendto(delete)
            assert await asyncio.wait_for(raw.answers.get(), 5) == first
        assert there.gateway.sessions == 1 and there.server.repeated == 3
        transport.close()


async def test_candidates_cross_the_wire():
    """Trickle ICE [A-IQ]: our own command; a call that is not there is told as such."""
    async with node() as there, ends() as (browser, phone):
        client = await there.client(watch=0)
        local = browser.leg.local
        request = CandidatesRequest("call", "web", local.ufrag, local.password.reveal(), local.candidates)
        with pytest.raises(UnknownCallError):
            await client.candidates(request)
        pool = GatewayPool({"one": client})
        with pytest.raises(UnknownCallError):
            await pool.candidates(request)
        await call(pool, browser, phone)
        await pool.candidates(request)
        assert there.gateway.counters["candidates"] == 2
        await browser.until(Step.DTLS_CONNECTED)


async def test_a_gateway_that_dies_is_noticed():
    async with node() as there, ends() as (browser, phone):
        client = await there.client(timeout=0.3, watch=0.1)
        lost = asyncio.Queue()
        client.on_media_lost = lost.put_nowait
        await call(client, browser, phone)
        there.server.close()
        told = await asyncio.wait_for(lost.get(), 5)
        assert (told.call_id, told.loss) == ("call", Loss.GATEWAY)


async def test_a_gateway_that_forgot_a_call_is_noticed():
    """It was started anew: it answers, and knows nothing."""
    async with node() as there, ends() as (browser, phone):
        client = await there.client(watch=0.1)
        lost = asyncio.Queue()
        client.on_media_lost = lost.put_nowait
        await call(client, browser, phone)
        await there.gateway.close()
        told = await asyncio.wait_for(lost.get(), 5)
        assert told.loss is Loss.GATEWAY and "forgotten" in told.reason


async def test_losses_of_our_own_gateway_cross_the_wire():
    async with node() as there, ends() as (browser, phone):
        client = await there.client(watch=0.1)
        lost = asyncio.Queue()
        client.on_media_lost = lost.put_nowait
        browser.said = None
        await call(client, browser, phone)
        await browser.until(Step.DTLS_CONNECTED)
        await browser.close()  # close_notify: the transport has ended
        told = await asyncio.wait_for(lost.get(), 10)
        assert told.loss is Loss.TRANSPORT


async def test_the_pool_spreads_calls_and_passes_by_the_dead():
    async with node() as one, node() as two, ends() as (browser, phone):
        first, second = await one.client(timeout=0.3), await two.client(timeout=0.3)
        pool = GatewayPool({"one": first, "two": second}, check_seconds=0.1)
        lost = asyncio.Queue()
        pool.on_media_lost = lost.put_nowait
        pool.start()
        await pool.ping()
        for name in ("a", "b"):
            await call(pool, browser, phone, name) if name == "a" else await pool.offer(
                OfferRequest(name, "web", browser.said, TOWARDS_IMS)
            )
        assert one.gateway.sessions == two.gateway.sessions == 1
        assert set(await pool.list()) == {"a", "b"}
        pool.drain("one")
        await pool.offer(OfferRequest("c", "web", browser.said, TOWARDS_IMS))
        assert two.gateway.sessions == 2 and pool.status()["one"] == "draining, 1 calls"
        pool.drain("one", False)
        two.server.close()  # it dies with its calls
        told = {(await asyncio.wait_for(lost.get(), 5)).call_id for _ in range(2)}
        assert told == {"b", "c"}
        assert pool.status()["two"].startswith("down")
        await pool.offer(OfferRequest("d", "web", browser.said, TOWARDS_IMS))
        assert one.gateway.sessions == 2
        await pool.delete(DeleteRequest("a"))
        with pytest.raises(UnknownCallError):
            await pool.answer(AnswerRequest("b", "web", "ims", phone.said))
        pool.draining = True
        with pytest.raises(GatewayUnavailableError):
            await pool.offer(OfferRequest("e", "web", browser.said, TOWARDS_IMS))
        await pool.close()


async def test_a_new_call_tries_the_next_gateway():
    async with node() as one, node() as two, ends() as (browser, _):
        pool = GatewayPool({"one": await one.client(timeout=0.3), "two": await two.client(timeout=0.3)})
        one.server.close()
        await pool.offer(OfferRequest("call", "web", browser.offer(), TOWARDS_IMS))
        assert two.gateway.sessions == 1
        await pool.close()


async def until(true, seconds=10):
    """Wait for what no event tells."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def cable(server):
    """A client of ``server`` over a way that can be cut."""
    loop = asyncio.get_running_loop()
    transport, lossy = await loop.create_datagram_endpoint(lambda: Lossy(server), local_addr=("127.0.0.1", 0))
    client = await NgGateway.connect(*transport.get_extra_info("sockname"), timeout=0.3, watch=0.1)
    try:
        yield client, lossy
    finally:
        await client.close()
        transport.close()


async def test_what_a_gateway_kept_while_it_was_not_heard_is_deleted_there():
    """Calls told as lost are no orphans: they are deleted when the gateway answers again; each is told once."""
    async with node() as there, ends() as (browser, _), cable(there.server.address) as (client, lossy):
        pool = GatewayPool({"one": client}, check_seconds=0.1)
        lost = []
        pool.on_media_lost = lost.append
        pool.start()
        for name in ("a", "b"):
            await pool.offer(OfferRequest(name, "web", browser.said or browser.offer(), TOWARDS_IMS))
        lossy.cut = True
        await until(lambda: len(lost) == 2)
        with pytest.raises(UnknownCallError):  # what the owner does about a loss
            await pool.delete(DeleteRequest("a"))
        assert pool.status()["one"].startswith("down") and there.gateway.sessions == 2
        await asyncio.sleep(1.0)  # in which the client's own questions go unanswered, too
        lossy.cut = False
        await until(lambda: not there.gateway.sessions)
        assert pool.status()["one"] == "up, 0 calls" and there.gateway.counters["deletions"] == 2
        assert sorted((each.call_id, each.loss) for each in lost) == [("a", Loss.GATEWAY), ("b", Loss.GATEWAY)]
        await pool.offer(OfferRequest("a", "web", browser.said, TOWARDS_IMS))
        assert there.gateway.sessions == 1
        await pool.close()


@pytest.mark.parametrize("command", ["offer", "delete"])
async def test_a_command_whose_answer_was_lost_leaves_no_call_behind(command):
    """Whether it was done is not known: so it is made sure, also where the call has gone to another gateway."""
    async with (
        node() as there,
        node() as other,
        ends() as (browser, _),
        cable(there.server.address) as (client, lossy),
    ):
        pool = GatewayPool({"one": client, "two": await other.client()}, check_seconds=0.1)
        request = OfferRequest("call", "web", browser.offer(), TOWARDS_IMS)
        if command == "offer":
            lossy.lose = 1000
            await pool.offer(request)
            assert there.gateway.sessions == other.gateway.sessions == 1
        else:
            await pool.offer(request)
            lossy.cut = True
            with pytest.raises(GatewayUnavailableError):
                await pool.delete(DeleteRequest("call"))
            assert there.gateway.sessions == 1
        lossy.lose, lossy.cut = 0, False
        pool.start()
        await until(lambda: not there.gateway.sessions)
        assert other.gateway.sessions == (command == "offer")
        await pool.close()


async def test_a_call_that_comes_back_does_not_meet_its_own_remains():
    """The same call-id at a gateway that still has the old one, before the next check: the old one goes first."""
    async with node() as there, ends() as (browser, _), cable(there.server.address) as (client, lossy):
        pool = GatewayPool({"one": client})
        await pool.offer(OfferRequest("call", "old", browser.offer(), TOWARDS_IMS))
        lossy.cut = True
        with pytest.raises(GatewayUnavailableError):
            await pool.delete(DeleteRequest("call"))
        lossy.cut = False
        await pool.offer(OfferRequest("call", "new", browser.said, TOWARDS_IMS))
        assert there.gateway.sessions == 1 and there.gateway.counters["deletions"] == 1
        await pool.close()


async def test_a_check_that_fails_in_another_way_goes_on(monkeypatch):
    """Whatever a check raises counts as no answer; it is made again, and the gateway comes back."""
    async with node() as there:
        client = await there.client()
        pool = GatewayPool({"one": client}, check_seconds=0.02)
        ping, broken = client.ping, True

        async def pinged():
            if broken:
                raise ValueError("not foreseen")
            await ping()

        monkeypatch.setattr(client, "ping", pinged)
        pool.start()
        await until(lambda: pool.status()["one"].startswith("down"))
        broken = False
        await until(lambda: pool.status()["one"].startswith("up"))
        await pool.close()


class Program:
    """A gateway as a program of its own, which can be killed and started again at the same port."""

    def __init__(self, folder):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.file = folder / "agw.toml"
        media = '[web]\naddress = "127.0.0.1"\n[ims]\naddress = "127.0.0.1"\n'
        self.file.write_text(f"control_port = {self.port}\n{media}")

    async def start(self):
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "imsbridge", "edge", "eims-agw", "run", "-c", str(self.file),
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(30):
            while not (await self.process.stderr.readline()).startswith(b"ready:"):
                assert self.process.returncode is None

    async def kill(self):
        self.process.kill()
        await self.process.wait()


async def test_a_gateway_that_is_killed_in_a_call(tmp_path):
    """SIGKILL: its calls are told as lost, new ones go to the other; started again it is given calls again."""
    program = Program(tmp_path)
    await program.start()
    async with node() as other, ends() as (browser, phone):
        client = await NgGateway.connect("127.0.0.1", program.port, timeout=1.0, watch=0.5)
        pool = GatewayPool({"one": client, "two": await other.client()}, check_seconds=0.2)
        lost = []
        pool.on_media_lost = lost.append
        pool.start()
        try:
            await call(pool, browser, phone)
            await browser.until(Step.DTLS_CONNECTED)
            await program.kill()
            await until(lambda: lost)
            assert [(each.call_id, each.loss) for each in lost] == [("call", Loss.GATEWAY)]
            assert pool.status()["one"] == "down, 0 calls"
            await pool.offer(OfferRequest("second", "web", browser.said, TOWARDS_IMS))
            assert other.gateway.sessions == 1
            await program.start()
            await until(lambda: pool.status()["one"] == "up, 0 calls")
            await pool.offer(OfferRequest("third", "web", browser.said, TOWARDS_IMS))
            assert pool.status()["one"] == "up, 1 calls" and other.gateway.sessions == 1 and len(lost) == 1
        finally:
            await pool.close()
            await program.kill()
