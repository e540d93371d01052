"""P-CSCF discovery against a name server: NAPTR, SRV, A and AAAA (RFC 3263, TS 24.229 clause 9.2.1) [S7-IMS]."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from dnslib import QTYPE, RCODE, RR, DNSRecord

from imskit.ims.io.p_cscf_discovery import PCscfDiscovery
from imskit.sip.io.resolver import Resolver
from imskit.sip.wire.flow import Target, Transport

HOME = "ims.mnc001.mcc001.3gppnetwork.org"
ZONE = f"""
{HOME}. 60 IN NAPTR 10 50 "s" "SIP+D2U" "" _sip._udp.{HOME}.
{HOME}. 60 IN NAPTR 20 50 "s" "SIP+D2T" "" _sip._tcp.{HOME}.
_sip._udp.{HOME}. 60 IN SRV 10 1 5060 one.{HOME}.
_sip._udp.{HOME}. 60 IN SRV 20 1 5062 two.{HOME}.
_sip._tcp.{HOME}. 60 IN SRV 10 1 5064 two.{HOME}.
one.{HOME}. 60 IN A 10.45.0.1
one.{HOME}. 60 IN AAAA 2001:db8::1
two.{HOME}. 60 IN A 10.45.0.9
"""
ONE, TWO = Target("UDP", ("10.45.0.1", 5060), HOME), Target("UDP", ("10.45.0.9", 5062), HOME)


class NameServer(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.records = RR.fromZone(ZONE)
        self.transport: Any = None
        self.silent = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = DNSRecord.parse(data)
        reply = query.reply()
        named = [record for record in self.records if record.rname == query.q.qname]
        reply.header.rcode = RCODE.SERVFAIL if self.silent else RCODE.NOERROR if named else RCODE.NXDOMAIN
        for record in named if not self.silent else []:
            if QTYPE[record.rtype] == QTYPE[query.q.qtype]:
                reply.add_answer(record)
        self.transport.sendto(reply.pack(), addr)


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    yield protocol
    transport.close()


def discovery(
    server: NameServer, transport: Transport = "UDP", local: str = "10.45.0.2", **names: Any
) -> PCscfDiscovery:
    resolver = Resolver(
        nameservers=[server.transport.get_extra_info("sockname")[:2]], transports=(transport,), seconds=1.0
    )
    return PCscfDiscovery(local=(local, 5060), transport=transport, domain=HOME, resolver=resolver, **names)


async def test_the_home_network_names_its_p_cscfs_in_order_of_preference(server: NameServer) -> None:
    assert (await discovery(server)()).targets == (ONE, TWO)
    assert (await discovery(server, "TCP")()).targets == (Target("TCP", ("10.45.0.9", 5064), HOME),)
    found = await discovery(server, local="2001:db8::2")()
    assert found.targets == (Target("UDP", ("2001:db8::1", 5060), HOME),)


async def test_the_card_comes_before_the_home_network_and_the_configuration_before_both(server: NameServer) -> None:
    card = [f"two.{HOME}"]
    assert (await discovery(server, card=card)()).targets[0].address == ("10.45.0.9", 5060)
    assert (await discovery(server, card=["no.example"])()).targets == (ONE, TWO)
    configured = ["10.45.0.7", f"one.{HOME}:5070"]
    found = await discovery(server, card=card, configured=configured)()
    assert [target.address for target in found.targets] == [("10.45.0.7", 5060), ("10.45.0.1", 5070)]


async def test_a_change_in_dns_is_found_in_the_next_round(server: NameServer) -> None:
    looking = discovery(server, configured=[f"new.{HOME}:5060"])
    for address in ("10.45.0.20", "10.45.0.21"):
        server.records = RR.fromZone(f"new.{HOME}. 0 IN A {address}")
        assert [target.address[0] for target in (await looking()).targets] == [address]


async def test_why_there_is_none_is_said_in_words(server: NameServer) -> None:
    server.silent = True
    found = await discovery(server, local="127.0.0.1")()
    assert found.targets == ()
    assert found.reason.startswith("no P-CSCF was found (the home network's DNS: ")
    assert "the access network's DHCP: none announced" in found.reason
    assert found.reason.endswith("set ims.p_cscf")
    found = await discovery(server, configured=["2001:db8::1"])()
    assert found.reason == "no P-CSCF was found (the configuration: no address of this IP version)"


async def test_without_dns_a_name_of_the_hosts_file_is_found() -> None:
    resolver = Resolver(transports=("UDP",), seconds=0.2)
    looking = PCscfDiscovery(
        local=("127.0.0.1", 5060), transport="UDP", domain=HOME, configured=["localhost"], resolver=resolver
    )
    assert [target.address for target in (await looking()).targets] == [("127.0.0.1", 5060)]
