"""RFC 3263 against a small name server on the loopback that counts what it is asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from dnslib import QTYPE, RCODE, RR, DNSRecord

from imskit.sip.io.resolver import ResolutionError, Resolver, is_address
from imskit.sip.wire.flow import Address, Target
from imskit.sip.wire.uri import parse_uri

ZONE = """
ims.example.             60 IN NAPTR 50 50 "s" "SIPS+D2T" "" _sips._tcp.ims.example.
ims.example.             60 IN NAPTR 90 50 "s" "SIP+D2T"  "" _sip._tcp.ims.example.
ims.example.             60 IN NAPTR 100 50 "s" "SIP+D2U" "" _sip._udp.ims.example.
_sip._tcp.ims.example.   60 IN SRV 1 0 5070 second.ims.example.
_sip._tcp.ims.example.   60 IN SRV 0 0 5060 first.ims.example.
_sip._udp.ims.example.   60 IN SRV 0 0 5062 first.ims.example.
_sips._tcp.ims.example.  60 IN SRV 0 0 5061 second.ims.example.
first.ims.example.       60 IN A 192.0.2.1
first.ims.example.       60 IN AAAA 2001:db8::1
second.ims.example.      60 IN A 192.0.2.2
_sip._tcp.srv.example.   60 IN SRV 0 0 5080 first.ims.example.
gone.example.            60 IN NAPTR 10 10 "s" "SIP+D2U" "" _sip._udp.gone.example.
_sip._udp.gone.example.  60 IN SRV 0 0 0 .
gone.example.            60 IN A 192.0.2.9
plain.example.           60 IN A 192.0.2.3
page.example.            60 IN NAPTR 10 10 "s" "SIPS+D2W" "" _anything._tcp.page.example.
_anything._tcp.page.example. 60 IN SRV 0 0 8443 first.ims.example.
half.example.            60 IN NAPTR 10 10 "u" "SIP+D2U" "!x!y!" .
half.example.            60 IN A 192.0.2.4
"""


class NameServer(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.records = RR.fromZone(ZONE)
        self.asked: Counter[str] = Counter()
        self.fail = False
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = DNSRecord.parse(data)
        name, kind = str(query.q.qname), QTYPE[query.q.qtype]
        self.asked[f"{name} {kind}"] += 1
        reply = query.reply()
        if self.fail:
            reply.header.rcode = RCODE.SERVFAIL
        else:
            names = [record for record in self.records if str(record.rname) == name]
            reply.header.rcode = RCODE.NOERROR if names else RCODE.NXDOMAIN
            for record in names:
                if QTYPE[record.rtype] == kind:
                    reply.add_answer(record)
        self.transport.sendto(reply.pack(), addr)


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    yield protocol
    transport.close()


def resolver(server: NameServer, **options: Any) -> Resolver:
    address: Address = server.transport.get_extra_info("sockname")[:2]
    return Resolver(nameservers=[address], seconds=1.0, **options)


async def resolve(server: NameServer, uri: str, **options: Any) -> list[Target]:
    return await resolver(server, **options).resolve(parse_uri(uri))


async def test_naptr_then_srv_then_addresses(server: NameServer) -> None:
    """RFC 3263 section 4.1: the most preferred service that both know."""
    assert await resolve(server, "sip:a@ims.example", transports=("UDP", "TCP")) == [
        Target("TCP", ("2001:db8::1", 5060), "ims.example"),
        Target("TCP", ("192.0.2.1", 5060), "ims.example"),
        Target("TCP", ("192.0.2.2", 5070), "ims.example"),
    ]
    assert await resolve(server, "sip:a@ims.example") == [Target("TLS", ("192.0.2.2", 5061), "ims.example")]
    assert await resolve(server, "sip:a@ims.example", transports=("UDP",)) == [
        Target("UDP", ("2001:db8::1", 5062), "ims.example"),
        Target("UDP", ("192.0.2.1", 5062), "ims.example"),
    ]


async def test_sips_takes_secure_services_only(server: NameServer) -> None:
    assert await resolve(server, "sips:a@ims.example") == [Target("TLS", ("192.0.2.2", 5061), "ims.example")]
    with pytest.raises(ResolutionError, match="sips"):
        await resolve(server, "sips:a@plain.example", transports=("UDP", "TCP"))
    assert await resolve(server, "sips:a@plain.example") == [Target("TLS", ("192.0.2.3", 5061), "plain.example")]


async def test_transport_given_skips_naptr(server: NameServer) -> None:
    """Section 4.2."""
    assert await resolve(server, "sip:ims.example;transport=udp") == [
        Target("UDP", ("2001:db8::1", 5062), "ims.example"),
        Target("UDP", ("192.0.2.1", 5062), "ims.example"),
    ]
    assert server.asked["ims.example. NAPTR"] == 0
    with pytest.raises(ResolutionError, match="sctp"):
        await resolve(server, "sip:ims.example;transport=sctp")
    with pytest.raises(ResolutionError, match="udp"):
        await resolve(server, "sips:ims.example;transport=udp")


async def test_port_or_address_given_asks_for_no_service(server: NameServer) -> None:
    """Sections 4.1 and 4.2."""
    assert await resolve(server, "sip:ims.example:5099;maddr=second.ims.example") == [
        Target("UDP", ("192.0.2.2", 5099), "ims.example")
    ]
    assert await resolve(server, "sip:a@192.0.2.7") == [Target("UDP", ("192.0.2.7", 5060))]
    assert await resolve(server, "sips:a@[2001:db8::7]") == [Target("TLS", ("2001:db8::7", 5061))]
    assert await resolve(server, "sip:[2001:db8::7]:5070;transport=tcp") == [Target("TCP", ("2001:db8::7", 5070))]
    assert set(server.asked) == {"second.ims.example. A", "second.ims.example. AAAA"}


async def test_without_naptr_srv_is_tried(server: NameServer) -> None:
    targets = await resolve(server, "sip:srv.example")
    assert targets[-1] == Target("TCP", ("192.0.2.1", 5080), "srv.example")
    assert server.asked["_sip._udp.srv.example. SRV"] == 1


async def test_without_srv_the_default_port(server: NameServer) -> None:
    assert await resolve(server, "sip:plain.example") == [Target("UDP", ("192.0.2.3", 5060), "plain.example")]
    assert await resolve(server, "sip:half.example") == [Target("UDP", ("192.0.2.4", 5060), "half.example")]
    assert await resolve(server, "sip:plain.example;transport=ws", transports=("WS",)) == [
        Target("WS", ("192.0.2.3", 80), "plain.example")
    ]


async def test_websocket_services(server: NameServer) -> None:
    """RFC 7118 section 5.5."""
    assert await resolve(server, "sip:page.example", transports=("WSS",)) == [
        Target("WSS", ("2001:db8::1", 8443), "page.example"),
        Target("WSS", ("192.0.2.1", 8443), "page.example"),
    ]


async def test_failures_say_why(server: NameServer) -> None:
    for uri, why in (("sip:nowhere.example", "no address"), ("tel:+1", "tel"), ("urn:service:sos", "urn")):
        with pytest.raises(ResolutionError, match=why):
            await resolve(server, uri)
    server.fail = True
    with pytest.raises(ResolutionError, match=r"ims\.example"):
        await resolve(server, "sip:ims.example")
    with pytest.raises(ResolutionError, match=r"ims\.example"):
        await resolver(server).addresses("first.ims.example")


async def test_answers_are_kept_by_their_ttl(server: NameServer) -> None:
    own = resolver(server)
    for _ in range(3):
        await own.resolve(parse_uri("sip:ims.example"))
    assert set(server.asked.values()) == {1}


async def test_system_names() -> None:
    assert "127.0.0.1" in await Resolver().addresses("localhost")
    assert await Resolver().addresses("::1") == ["::1"]
    with pytest.raises(ResolutionError):
        await Resolver(seconds=2.0).addresses("a" * 70 + ".invalid")


def test_is_address() -> None:
    assert is_address("192.0.2.1") and is_address("::1")
    assert not is_address("1.2.3") and not is_address("[::1]") and not is_address("a")


async def test_weights_share_the_load(server: NameServer) -> None:
    """RFC 2782: 60 to 20 to 10 to 0 of 90; each lot is drawn in turn here."""
    from imskit.sip.io.resolver import _order

    class Record:
        def __init__(self, priority: int, weight: int, port: int) -> None:
            self.priority, self.weight, self.port, self.target = priority, weight, port, None

    records: Any = [Record(0, 60, 1), Record(0, 20, 2), Record(0, 10, 3), Record(0, 0, 4), Record(1, 5, 5)]
    first: Counter[int] = Counter()
    for lot in range(91):
        draws = iter([lot])
        order = [record.port for record in _order(records, lambda most, draws=draws: next(draws, most))]  # type: ignore[misc]
        assert order[-1] == 5 and sorted(order) == [1, 2, 3, 4, 5]
        first[order[0]] += 1
    assert first == {1: 60, 2: 20, 3: 10, 4: 1}
