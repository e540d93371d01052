"""DNS queries and responses, read in place (RFC 1035 section 4, RFC 6891).

A forwarded message is never decoded and encoded again: these functions find the few offsets that the proxy
needs (end of the question, TTL fields, EDNS) and leave every other byte alone.  Names are walked, compression
pointers are not followed, so the work is linear in the length of the message.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 1, 2, 3, 4, 5
"""Response codes, RFC 1035 section 4.1.1."""
BADVERS = 16
"""Extended response code, RFC 6891 section 9."""

TYPE_A, TYPE_SOA, TYPE_AAAA, TYPE_OPT, TYPE_SVCB, TYPE_HTTPS, TYPE_ANY = 1, 6, 28, 41, 64, 65, 255
CLASS_IN, CLASS_ANY = 1, 255

FLAG_RESPONSE, FLAG_AUTHORITATIVE, FLAG_TRUNCATED = 0x8000, 0x0400, 0x0200
FLAG_RECURSION_DESIRED, FLAG_RECURSION_AVAILABLE, FLAG_CHECKING_DISABLED = 0x0100, 0x0080, 0x0010
_OPCODE_MASK = 0x7800
_EDNS_DO = 0x8000

MAXIMUM_NAME = 255
"""Octets of a name on the wire, RFC 1035 section 2.3.4."""
OUR_UDP_SIZE = 1232
"""The UDP payload size that our own OPT records announce (octets): never fragmented on any usual path."""
MAXIMUM_TTL = 86_400
"""Seconds that anything is kept at most (RFC 8767 section 4 recommends a cap)."""

_HEADER = struct.Struct("!HHHHHH")
_TYPE_CLASS = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")
_TTL = struct.Struct("!I")


class DnsError(ValueError):
    """A message that breaks RFC 1035 or RFC 6891: what, where (octet), clause, and what to answer.

    ``rcode`` is the response code to answer with; ``None`` says: drop it silently.
    """

    def __init__(self, what: str, offset: int, clause: str, rcode: int | None = FORMERR) -> None:
        super().__init__(f"{what} at octet {offset} ({clause})")
        self.offset = offset
        self.clause = clause
        self.rcode = rcode


class Edns(NamedTuple):
    """What a query's OPT record says (RFC 6891 section 6.1.3)."""

    udp_size: int
    """Octets of UDP payload that the sender can take."""
    version: int
    dnssec_ok: bool


class Query(NamedTuple):
    """The parts of a query that the proxy looks at."""

    flags: int
    name: bytes
    """The name asked for: wire form, lower case."""
    qtype: int
    qclass: int
    question_end: int
    """Offset behind the question section, which starts at octet 12."""
    edns: Edns | None

    def udp_limit(self) -> int:
        """Octets of UDP response that the client can take."""
        return max(512, self.edns.udp_size) if self.edns else 512


class Response(NamedTuple):
    """The parts of an upstream's response that the proxy looks at."""

    flags: int
    name: bytes
    """The name of the question: wire form, lower case; empty when the response repeats no question."""
    qtype: int
    qclass: int
    question_end: int
    rcode: int
    ttl_offsets: tuple[int, ...]
    """Where the TTL fields are (the OPT record's is none)."""
    ttl: int | None
    """Seconds this response may be cached; ``None``: not at all (RFC 2308)."""


def parse_query(data: bytes) -> Query:
    """Read a query from a client.

    Raises DnsError: drop for runts and responses, NOTIMP for another opcode, FORMERR for the rest.
    """
    if len(data) < 12:
        raise DnsError("message shorter than its header", len(data), "RFC 1035 4.1.1", None)
    _, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(data)
    if flags & FLAG_RESPONSE:
        raise DnsError("a response where a query belongs", 2, "RFC 1035 4.1.1", None)
    if flags & _OPCODE_MASK:
        raise DnsError("operation other than QUERY", 2, "RFC 1035 4.1.1", NOTIMP)
    if questions != 1:
        raise DnsError(f"{questions} questions", 4, "RFC 9619 section 4")
    end = _question_end(data)
    qtype, qclass = _TYPE_CLASS.unpack_from(data, end - 4)
    first_additional = answers + authorities
    records = first_additional + additionals
    edns = _parse_records(data, end, records, first_additional) if records else None
    if not records and end != len(data):
        raise DnsError("octets behind the question", end, "RFC 1035 4.1")
    return Query(flags, data[12 : end - 4].lower(), qtype, qclass, end, edns)


def _parse_records(data: bytes, offset: int, records: int, first_additional: int) -> Edns | None:
    """Walk a query's records to the end of the message; return what its OPT record says."""
    edns: Edns | None = None
    for index in range(records):
        owner = offset
        offset = _skip_name(data, offset)
        if offset + 10 > len(data):
            raise DnsError("record cut short", offset, "RFC 1035 4.1.3")
        rtype, rclass, ttl, length = _RECORD.unpack_from(data, offset)
        offset += 10 + length
        if offset > len(data):
            raise DnsError("record data cut short", offset, "RFC 1035 4.1.3")
        if rtype == TYPE_OPT:
            if edns is not None or index < first_additional or data[owner]:
                raise DnsError("misplaced or second OPT record", owner, "RFC 6891 6.1.1")
            edns = Edns(rclass, (ttl >> 16) & 0xFF, bool(ttl & _EDNS_DO))
    if offset != len(data):
        raise DnsError("octets behind the last record", offset, "RFC 1035 4.1")
    return edns


def parse_response(data: bytes) -> Response:
    """Read an upstream's response; raises DnsError for anything that is none."""
    if len(data) < 12:
        raise DnsError("message shorter than its header", len(data), "RFC 1035 4.1.1", None)
    _, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(data)
    if not flags & FLAG_RESPONSE or flags & _OPCODE_MASK or questions > 1:
        raise DnsError("not a response to a query", 2, "RFC 1035 4.1.1", None)
    rcode = flags & 0xF
    name, qtype, qclass, offset = b"", 0, 0, 12
    if questions:
        offset = _question_end(data)
        name = data[12 : offset - 4].lower()
        qtype, qclass = _TYPE_CLASS.unpack_from(data, offset - 4)
    question_end = offset
    offsets: list[int] = []
    lowest = MAXIMUM_TTL
    negative: int | None = None
    for index in range(answers + authorities + additionals):
        offset = _skip_name(data, offset)
        if offset + 10 > len(data):
            raise DnsError("record cut short", offset, "RFC 1035 4.1.3", None)
        rtype, _, ttl, length = _RECORD.unpack_from(data, offset)
        end = offset + 10 + length
        if end > len(data):
            raise DnsError("record data cut short", end, "RFC 1035 4.1.3", None)
        if rtype == TYPE_OPT:
            rcode |= (ttl >> 24) << 4
        else:
            if ttl >> 31:  # RFC 2181 section 8: treat as zero
                ttl = 0
            offsets.append(offset + 4)
            lowest = min(lowest, ttl)
            if rtype == TYPE_SOA and length >= 20 and answers <= index < answers + authorities:
                negative = min(ttl, _TTL.unpack_from(data, end - 4)[0])
        offset = end
    keep: int | None = None
    if not flags & FLAG_TRUNCATED and questions:
        if rcode == NXDOMAIN or (rcode == 0 and not answers):
            keep = None if negative is None else min(lowest, negative)  # RFC 2308 section 5
        elif rcode == 0:
            keep = lowest
    return Response(flags, name, qtype, qclass, question_end, rcode, tuple(offsets), keep or None)


def answer(data: bytes, query: Query, counts: tuple[int, int], records: bytes, rcode: int = 0) -> bytes:
    """Answer ``data`` ourselves: ``counts`` are the numbers of answer and authority records in ``records``."""
    flags = (
        FLAG_RESPONSE
        | FLAG_AUTHORITATIVE
        | FLAG_RECURSION_AVAILABLE
        | (query.flags & (FLAG_RECURSION_DESIRED | FLAG_CHECKING_DISABLED))
        | rcode
    )
    header = _HEADER.pack(0, flags, 1, counts[0], counts[1], 1 if query.edns else 0)
    tail = _opt(0, query.edns.dnssec_ok) if query.edns else b""
    return data[:2] + header[2:] + data[12 : query.question_end] + records + tail


def refusal(data: bytes, query: Query | None, rcode: int, ede: tuple[int, str] | None = None) -> bytes:
    """Answer ``data`` with a response code, and an extended error where the client speaks EDNS (RFC 8914).

    ``query`` is ``None`` for a message that could not be read: the answer is a bare header then.
    """
    flags = int.from_bytes(data[2:4], "big")
    kept = flags & (_OPCODE_MASK | FLAG_RECURSION_DESIRED | FLAG_CHECKING_DISABLED)
    flags = FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | kept | (rcode & 0xF)
    if query is None:
        return data[:2] + _HEADER.pack(0, flags, 0, 0, 0, 0)[2:]
    tail = b""
    if query.edns:
        option = b""
        if ede is not None:
            text = ede[1].encode()
            option = struct.pack("!HHH", 15, 2 + len(text), ede[0]) + text
        tail = _opt(rcode >> 4, query.edns.dnssec_ok, option)
    header = _HEADER.pack(0, flags, 1, 0, 0, 1 if tail else 0)
    return data[:2] + header[2:] + data[12 : query.question_end] + tail


def truncated(data: bytes, query: Query, flags: int) -> bytes:
    """Tell the client of ``data`` to ask again over TCP; ``flags`` are those of the response that is too long."""
    header = _HEADER.pack(0, flags | FLAG_TRUNCATED, 1, 0, 0, 1 if query.edns else 0)
    tail = _opt(0, query.edns.dnssec_ok) if query.edns else b""
    return data[:2] + header[2:] + data[12 : query.question_end] + tail


def wire_name(text: str) -> bytes:
    """Turn ``turn.ims.example`` into its wire form, lower case; raises DnsError for what is no host name."""
    wire = b""
    for label in text.rstrip(".").split("."):
        try:
            octets = label.encode("ascii").lower()
        except UnicodeEncodeError as error:
            raise DnsError(f"{text!r} is not in ASCII (use its A-label)", 0, "RFC 1035 2.3.1") from error
        if not 0 < len(octets) < 64:
            raise DnsError(f"label of {len(octets)} octets in {text!r}", 0, "RFC 1035 2.3.4")
        wire += bytes((len(octets),)) + octets
    if len(wire) >= MAXIMUM_NAME:
        raise DnsError(f"name of {len(wire) + 1} octets", 0, "RFC 1035 2.3.4")
    return wire + b"\0"


def is_within(name: bytes, domain: bytes) -> bool:
    """Tell whether ``name`` is ``domain`` or below it; both in wire form and lower case."""
    if not name.endswith(domain):
        return False
    offset, start = 0, len(name) - len(domain)
    while offset < start:
        offset += name[offset] + 1
    return offset == start


def _opt(extended_rcode: int, dnssec_ok: bool, options: bytes = b"") -> bytes:
    ttl = extended_rcode << 24 | (_EDNS_DO if dnssec_ok else 0)
    return b"\0" + _RECORD.pack(TYPE_OPT, OUR_UDP_SIZE, ttl, len(options)) + options


def _question_end(data: bytes) -> int:
    """Walk the name at octet 12; compression makes no sense in the first name of a message."""
    offset = 12
    try:
        while length := data[offset]:
            if length > 63:
                raise DnsError("compressed or unknown label in the question", offset, "RFC 1035 4.1.2")
            offset += length + 1
    except IndexError:
        raise DnsError("name cut short", len(data), "RFC 1035 4.1.2") from None
    if offset - 11 > MAXIMUM_NAME:
        raise DnsError(f"name of {offset - 11} octets", 12, "RFC 1035 2.3.4")
    if offset + 5 > len(data):
        raise DnsError("question cut short", len(data), "RFC 1035 4.1.2")
    return offset + 5


def _skip_name(data: bytes, offset: int) -> int:
    """Return the offset behind the name at ``offset``; a pointer ends it."""
    start = offset
    try:
        while length := data[offset]:
            if length >= 0xC0:
                offset += 1
                break
            if length > 63:
                raise DnsError("unknown label type", offset, "RFC 6891 section 5")
            offset += length + 1
            if offset - start >= MAXIMUM_NAME:
                raise DnsError("name too long", start, "RFC 1035 2.3.4")
    except IndexError:
        raise DnsError("name cut short", len(data), "RFC 1035 4.1.3") from None
    return offset + 1
