"""The DNS proxy on real sockets, in front of the operator's simulated name server.  Requirement S7-DNS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import pytest

from simulators.operator_dns.server import OperatorDns
from simulators.operator_dns.zones import parse_zones
from ue_agent.dns_proxy.io import server as io
from ue_agent.dns_proxy.io.server import DnsProxy, DnsProxyConfig, Endpoint

BIG = "\n".join(f'big 60 IN TXT "{"x" * 200}{n}"' for n in range(30))
ZONES = {"ims.example": f'portal 60 IN A 203.0.113.10\nportal 60 IN HTTPS 1 . alpn="h3,h2"\n{BIG}'}
LOOPBACK = "127.0.0.1"


@asynccontextmanager
async def operator(port: int = 0) -> AsyncIterator[tuple[OperatorDns, Endpoint]]:
    server = OperatorDns(parse_zones(ZONES))
    try:
        yield server, Endpoint(LOOPBACK, await server.start(LOOPBACK, port))
    finally:
        await server.aclose()


@asynccontextmanager
async def proxy(*upstreams: Endpoint, listen: str = LOOPBACK) -> AsyncIterator[tuple[DnsProxy, Endpoint]]:
    answers = {"turn.ims.example": [ip_address("10.99.0.1")]}
    running = DnsProxy(DnsProxyConfig([Endpoint(listen, 0)], upstreams, answers, ["ims.example"]))
    await running.start()
    try:
        yield running, running.endpoints[0]
    finally:
        await running.aclose()


async def udp(to: Endpoint, name: str, rdtype: str = "A", **options: object) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype, **options)
    return await dns.asyncquery.udp(query, to.address, 6, to.port)


async def tcp(to: Endpoint, name: str, rdtype: str = "A") -> dns.message.Message:
    return await dns.asyncquery.tcp(dns.message.make_query(name, rdtype), to.address, 6, to.port)


def dead_endpoint() -> Endpoint:
    """A port that nobody listens on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOOPBACK, 0))
        return Endpoint(*sock.getsockname())


async def test_local_and_forwarded_over_udp_and_tcp() -> None:
    async with operator() as (server, upstream), proxy(upstream) as (running, at):
        for ask in (udp, tcp):
            assert (await ask(at, "turn.ims.example")).answer[0][0].to_text() == "10.99.0.1"
            assert (await ask(at, "portal.ims.example")).answer[0][0].to_text() == "203.0.113.10"
            assert (await ask(at, "nosuch.ims.example")).rcode() == dns.rcode.NXDOMAIN
        assert ("turn.ims.example", "A") not in server.queries
        assert server.queries.count(("portal.ims.example", "A")) == 1  # cached across UDP and TCP
        assert (await udp(at, "portal.ims.example", "HTTPS")).answer[0][0].to_text() == '1 . alpn="h2"'
        assert running.counters.answered_locally == 2


async def test_truncation_leads_the_client_to_tcp() -> None:
    async with operator() as (server, upstream), proxy(upstream) as (_, at):
        short = await udp(at, "big.ims.example", "TXT")
        assert short.flags & dns.flags.TC
        assert len((await tcp(at, "big.ims.example", "TXT")).answer[0]) == 30
        assert server.queries == [("big.ims.example", "TXT")] * 2


async def test_ipv6() -> None:
    async with operator() as (_, upstream), proxy(upstream, listen="::1") as (_, at):
        assert str(at).startswith("[::1]:")
        assert (await udp(at, "portal.ims.example")).answer
        assert (await tcp(at, "turn.ims.example")).answer


async def test_an_upstream_that_is_down_is_passed_over_and_found_again() -> None:
    dead = dead_endpoint()
    async with operator() as (_, alive), proxy(dead, alive) as (running, at):
        assert (await udp(at, "portal.ims.example")).answer
        assert running.upstreams_up == {str(dead): False, str(alive): True}
        assert (await tcp(at, "big.ims.example", "TXT")).answer
        async with operator(dead.port) as (server, _):
            running._engine._health[0].probe = 0.0  # the next query probes
            await udp(at, "nosuch.ims.example")
            while not all(running.upstreams_up.values()):
                await udp(at, "portal.ims.example", "MX")
            await udp(at, "another.ims.example")
            assert ("another.ims.example", "A") in server.queries


async def test_no_upstream_at_all() -> None:
    async with proxy(dead_endpoint()) as (_, at):
        answer = await udp(at, "portal.ims.example", use_edns=0)
        assert answer.rcode() == dns.rcode.SERVFAIL
        assert [option.code for option in answer.options] == [22]
        assert (await tcp(at, "portal.ims.example")).rcode() == dns.rcode.SERVFAIL
        assert (await udp(at, "turn.ims.example")).answer  # local names work all the same


async def test_the_devices_address_can_change() -> None:
    async with proxy(dead_endpoint()) as (running, at):
        running.set_answers({"turn.ims.example": [ip_address("2001:db8::7")]})
        assert not (await udp(at, "turn.ims.example")).answer
        assert (await udp(at, "turn.ims.example", "AAAA")).answer[0][0].to_text() == "2001:db8::7"


async def test_pipelined_tcp_queries() -> None:
    """RFC 7766 section 6.2.1.1: more queries at once than are worked on at once."""
    async with operator() as (_, upstream), proxy(upstream) as (_, at):
        reader, writer = await asyncio.open_connection(*at)
        queries = [dns.message.make_query(f"n{n}.ims.example", "A") for n in range(3 * io.TCP_QUERIES)]
        queries += [dns.message.make_query("turn.ims.example", "A")]
        for query in queries:
            wire = query.to_wire()
            writer.write(len(wire).to_bytes(2, "big") + wire)
        seen = set()
        for _ in queries:
            length = int.from_bytes(await reader.readexactly(2), "big")
            seen.add(dns.message.from_wire(await reader.readexactly(length)).id)
        assert seen == {query.id for query in queries}
        writer.close()


async def test_garbage() -> None:
    async with operator() as (_, upstream), proxy(upstream) as (running, at):
        reader, writer = await asyncio.open_connection(*at)
        writer.write(b"\0\5hello")
        assert await reader.read() == b""  # hung up
        writer.close()
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(at)
            for junk in (b"", b"x", bytes(12), bytes(600), b"\xff" * 64):
                await loop.sock_sendall(sock, junk)
            first = await loop.sock_recv(sock, 600)
            assert first[3] & 15 == dns.rcode.FORMERR
        assert (await udp(at, "turn.ims.example")).answer
        assert running.counters.malformed == 6


async def test_idle_and_surplus_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "TCP_CONNECTIONS", 2)
    monkeypatch.setattr(io, "TCP_IDLE_S", 0.05)
    async with proxy(dead_endpoint()) as (_, at):
        connections = [await asyncio.open_connection(*at) for _ in range(3)]
        for reader, writer in connections:
            try:
                assert await reader.read() == b""
            except ConnectionResetError:  # the one too many
                pass
            writer.close()


async def test_octets_that_drip_in_hold_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "TCP_IDLE_S", 0.2)
    async with proxy(dead_endpoint()) as (_, at), asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(*at)
        closed = asyncio.ensure_future(reader.read())
        with contextlib.suppress(ConnectionError):
            while not closed.done():
                writer.write(b"\x01")
                await asyncio.wait([closed], timeout=0.05)
        assert await closed == b""
        writer.close()


async def test_upstream_sockets_are_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "SOCKET_LIFE_S", -1.0)
    async with operator() as (_, upstream), proxy(upstream) as (running, at):
        for number in range(20):
            assert (await udp(at, f"n{number}.ims.example")).rcode() == dns.rcode.NXDOMAIN
        assert len({path.sock.fileno() for path in running._paths if path is not None} - {-1}) <= io.SOCKETS


async def test_a_taken_address_is_named() -> None:
    async with proxy(dead_endpoint()) as (_, at):
        second = DnsProxy(DnsProxyConfig([at], [dead_endpoint()], {}))
        with pytest.raises(OSError, match=f"cannot listen on {at}"):
            await second.start()
    with pytest.raises(OSError, match="wildcard"):
        await DnsProxy(DnsProxyConfig([Endpoint("0.0.0.0", 0)], [at], {})).start()


@pytest.mark.parametrize(
    ("text", "default", "endpoint"),
    [
        ("127.0.0.1:53", None, ("127.0.0.1", 53)),
        ("[::1]:53", None, ("::1", 53)),
        ("192.0.2.1", 53, ("192.0.2.1", 53)),
        ("192.0.2.1:5353", 53, ("192.0.2.1", 5353)),
        ("2001:db8::1", 53, ("2001:db8::1", 53)),
        ("[2001:db8::1]", 53, ("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", 53, ("2001:db8::1", 5353)),
    ],
)
def test_endpoints(text: str, default: int | None, endpoint: tuple[str, int]) -> None:
    assert Endpoint.parse(text, default) == endpoint


@pytest.mark.parametrize("text", ["", "127.0.0.1", "127.0.0.1:", "host:53", "127.0.0.1:99999", "127.0.0.1:x"])
def test_no_endpoints(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Endpoint.parse(text)
