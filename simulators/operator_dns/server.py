"""The operator's authoritative name server for labs and tests: UDP and TCP, EDNS, truncation (RFC 1034, RFC 6891)."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.zone

_log = logging.getLogger(__name__)

_UDP_SIZE = 1232
_MAXIMUM_CHAIN = 8
_TCP_IDLE_S = 10.0


class OperatorDns:
    """Answers for ``zones``; anything else is REFUSED.

    ``queries`` lists what was asked, as ``(name, type)``, so that a test can tell what reached the operator.
    """

    def __init__(self, zones: Sequence[dns.zone.Zone]) -> None:
        self._zones = {_origin(zone): zone for zone in zones}
        self._transports: list[asyncio.DatagramTransport] = []
        self._servers: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self.queries: list[tuple[str, str]] = []

    async def start(self, address: str = "127.0.0.1", port: int = 0) -> int:
        """Listen on UDP and TCP, several addresses by several calls; returns the port."""
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for attempt in range(10):
            transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), (address, port), family=family)
            bound = int(transport.get_extra_info("sockname")[1])
            try:
                server = await asyncio.start_server(self._serve, address, bound)
            except OSError:  # the free UDP port is taken for TCP
                transport.close()
                if port or attempt == 9:
                    raise
                continue
            self._transports.append(transport)
            self._servers.append(server)
            _log.info("operator DNS listens on %s port %d, zones %s", address, bound, ", ".join(map(str, self._zones)))
            return bound
        raise AssertionError("unreachable")

    async def aclose(self) -> None:
        """Close all sockets."""
        for transport in self._transports:
            transport.close()
        for server in self._servers:
            server.close()
        for writer in self._writers:
            writer.close()
        self._transports.clear()
        self._servers.clear()

    def answer(self, data: bytes, stream: bool) -> bytes | None:
        """Answer one message; ``None`` when it deserves none."""
        if len(data) < 12 or data[2] & 0x80:
            return None
        try:
            query = dns.message.from_wire(data)
        except (dns.exception.DNSException, ValueError):
            return data[:2] + bytes((0x80 | (data[2] & 0x79), dns.rcode.FORMERR)) + bytes(8)
        # The handset's resolver and the operator's server are one here: stub resolvers want RA.
        response = dns.message.make_response(query, recursion_available=True, our_payload=_UDP_SIZE)
        if query.edns > 0:
            response.set_rcode(dns.rcode.BADVERS)
        elif query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
            response.set_rcode(dns.rcode.NOTIMP if query.opcode() != dns.opcode.QUERY else dns.rcode.FORMERR)
        else:
            question = query.question[0]
            self.queries.append((question.name.to_text(True).lower(), dns.rdatatype.to_text(question.rdtype)))
            self._look_up(response, question)
        return _encode(response, 65_535 if stream else max(512, query.payload if query.edns >= 0 else 512))

    def _look_up(self, response: dns.message.Message, question: dns.rrset.RRset) -> None:
        name = question.name
        for _ in range(_MAXIMUM_CHAIN):
            zone = self._zone_of(name)
            if zone is None or question.rdclass not in (dns.rdataclass.IN, dns.rdataclass.ANY):
                if not response.answer:
                    response.set_rcode(dns.rcode.REFUSED)
                return
            response.flags |= dns.flags.AA
            node = zone.get_node(name)
            if node is None:
                if not any(other.is_subdomain(name) for other in zone.nodes):
                    response.set_rcode(dns.rcode.NXDOMAIN)
                self._add_soa(response, zone)
                return
            found = [
                dns.rrset.from_rdata_list(name, rdataset.ttl, list(rdataset))
                for rdataset in node
                if rdataset.rdtype in (question.rdtype, dns.rdatatype.CNAME) or question.rdtype == dns.rdatatype.ANY
            ]
            response.answer.extend(found)
            alias = next((rrset for rrset in found if rrset.rdtype == dns.rdatatype.CNAME), None)
            if alias is None or question.rdtype in (dns.rdatatype.CNAME, dns.rdatatype.ANY):
                if not found:
                    self._add_soa(response, zone)
                self._add_targets(response, found)
                return
            name = alias[0].target

    def _add_targets(self, response: dns.message.Message, found: Sequence[dns.rrset.RRset]) -> None:
        for rrset in found:
            if rrset.rdtype != dns.rdatatype.SRV:
                continue
            for target in {record.target for record in rrset}:
                zone = self._zone_of(target)
                for rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
                    if zone is not None and (address := zone.get_rrset(target, rdtype)) is not None:
                        response.additional.append(address)

    def _add_soa(self, response: dns.message.Message, zone: dns.zone.Zone) -> None:
        response.authority.append(zone.find_rrset(_origin(zone), dns.rdatatype.SOA))

    def _zone_of(self, name: dns.name.Name) -> dns.zone.Zone | None:
        while True:
            if (zone := self._zones.get(name)) is not None:
                return zone
            if name == dns.name.root:
                return None
            name = name.parent()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                async with asyncio.timeout(_TCP_IDLE_S):
                    length = int.from_bytes(await reader.readexactly(2), "big")
                    data = await reader.readexactly(length)
                answer = self.answer(data, True)
                if answer is None:
                    return
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        except (EOFError, OSError, TimeoutError):
            return
        finally:
            self._writers.discard(writer)
            writer.close()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: OperatorDns) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # uvloop's is no subclass

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        answer = self._server.answer(data, False)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, address)


def _origin(zone: dns.zone.Zone) -> dns.name.Name:
    assert zone.origin is not None
    return zone.origin


def _encode(response: dns.message.Message, limit: int) -> bytes:
    try:
        return response.to_wire(max_size=limit)
    except dns.exception.TooBig:
        response.flags |= dns.flags.TC
        for section in (response.answer, response.authority, response.additional):
            section.clear()
        return response.to_wire(max_size=limit)
