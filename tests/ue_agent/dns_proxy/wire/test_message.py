"""Reading DNS messages in place.  Requirement S7-DNS."""

import struct

import dns.edns
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ue_agent.dns_proxy.wire import message as m


def query(name: str = "Turn.IMS.example", rdtype: str = "A", **options: object) -> bytes:
    return dns.message.make_query(name, rdtype, **options).to_wire()


def test_a_query_is_read() -> None:
    data = query(use_edns=0, payload=4096, want_dnssec=True)
    read = m.parse_query(data)
    assert read.name == b"\x04turn\x03ims\x07example\x00"
    assert (read.qtype, read.qclass) == (1, 1)
    assert data[12 : read.question_end] == b"\x04Turn\x03IMS\x07example\x00" + struct.pack("!HH", 1, 1)
    assert read.edns == m.Edns(4096, 0, True)
    assert read.udp_limit() == 4096


def test_without_edns_the_limit_is_512() -> None:
    assert m.parse_query(query()).udp_limit() == 512
    assert m.parse_query(query(use_edns=0, payload=100)).udp_limit() == 512


@pytest.mark.parametrize(
    ("damage", "rcode"),
    [
        (lambda d: d[:11], None),
        (lambda d: d[:2] + b"\x81" + d[3:], None),  # a response
        (lambda d: d[:2] + b"\x28" + d[3:], m.NOTIMP),  # UPDATE
        (lambda d: d[:4] + b"\0\0" + d[6:], m.FORMERR),  # no question
        (lambda d: d[:4] + b"\0\2" + d[6:], m.FORMERR),  # two
        (lambda d: d[:12] + b"\xc0\x0c" + d[14:], m.FORMERR),  # a name that points at itself
        (lambda d: d[:12] + b"\x7f" + d[13:], m.FORMERR),
        (lambda d: d + b"x", m.FORMERR),
        (lambda d: d[:10] + b"\0\2" + d[12:] + d[-11:], m.FORMERR),  # two OPT records
        (lambda d: d[:12] + b"\x3f" + b"a" * 63 + b"\x3f" + b"a" * 63 + b"\x3f" + b"a" * 63 + b"\x3f" + b"a" * 63
         + b"\0\0\1\0\1" + d[-11:], m.FORMERR),
    ],
)  # fmt: skip
def test_damaged_queries(damage, rcode) -> None:
    with pytest.raises(m.DnsError) as caught:
        m.parse_query(damage(query(use_edns=0)))
    assert caught.value.rcode == rcode
    assert "RFC" in str(caught.value)


def response(text: str) -> bytes:
    return dns.message.from_text(text).to_wire()


HEADER = "id 7\nopcode QUERY\nrcode {}\nflags QR RD RA{}\n;QUESTION\nwww.example. IN A\n"


def test_the_lowest_ttl_counts_and_is_found() -> None:
    data = response(
        HEADER.format("NOERROR", "")
        + ";ANSWER\nwww.example. 300 IN CNAME a.example.\na.example. 60 IN A 192.0.2.1\n"
        + ";AUTHORITY\nexample. 3600 IN NS ns.example.\n"
    )
    read = m.parse_response(data)
    assert read.ttl == 60
    assert [struct.unpack_from("!I", data, at)[0] for at in read.ttl_offsets] == [300, 60, 3600]


@pytest.mark.parametrize(
    ("text", "ttl"),
    [
        (HEADER.format("NXDOMAIN", "") + ";AUTHORITY\nexample. 900 IN SOA a. b. 1 2 3 4 77\n", 77),
        (HEADER.format("NXDOMAIN", "") + ";AUTHORITY\nexample. 50 IN SOA a. b. 1 2 3 4 77\n", 50),
        (HEADER.format("NOERROR", "") + ";AUTHORITY\nexample. 900 IN SOA a. b. 1 2 3 4 77\n", 77),
        (HEADER.format("NOERROR", ""), None),  # NODATA without SOA is not cached, RFC 2308 section 5
        (HEADER.format("NXDOMAIN", ""), None),
        (HEADER.format("SERVFAIL", "") + ";ANSWER\nwww.example. 9 IN A 192.0.2.1\n", None),
        (HEADER.format("NOERROR", " TC") + ";ANSWER\nwww.example. 9 IN A 192.0.2.1\n", None),
        (HEADER.format("NOERROR", "") + ";ANSWER\nwww.example. 0 IN A 192.0.2.1\n", None),
        (HEADER.format("NOERROR", "") + ";ANSWER\nwww.example. 2147483647 IN A 192.0.2.1\n", m.MAXIMUM_TTL),
    ],
)
def test_how_long_a_response_is_kept(text: str, ttl: int | None) -> None:
    assert m.parse_response(response(text)).ttl == ttl


def test_a_ttl_with_the_top_bit_is_zero() -> None:
    """RFC 2181 section 8."""
    data = bytearray(response(HEADER.format("NOERROR", "") + ";ANSWER\nwww.example. 9 IN A 192.0.2.1\n"))
    (at,) = m.parse_response(bytes(data)).ttl_offsets
    data[at] = 0x80
    assert m.parse_response(bytes(data)).ttl is None


def test_a_refusal_carries_the_extended_error() -> None:
    """RFC 8914: only to a client that speaks EDNS."""
    data = query(use_edns=0)
    read = dns.message.from_wire(m.refusal(data, m.parse_query(data), m.SERVFAIL, (22, "nobody there")))
    assert read.rcode() == dns.rcode.SERVFAIL
    (option,) = read.options
    assert isinstance(option, dns.edns.EDEOption)
    assert (option.code, option.text) == (22, "nobody there")
    plain = query()
    assert dns.message.from_wire(m.refusal(plain, m.parse_query(plain), m.SERVFAIL, (22, "x"))).edns == -1


def test_truncation_keeps_the_question_only() -> None:
    data = query()
    read = dns.message.from_wire(m.truncated(data, m.parse_query(data), 0x8180))
    assert read.flags & 0x0200
    assert read.question[0].name.to_text() == "Turn.IMS.example."
    assert not read.answer


def test_names_within_a_domain() -> None:
    domain = m.wire_name("ims.example")
    assert m.is_within(m.wire_name("ims.example"), domain)
    assert m.is_within(m.wire_name("a.b.IMS.example."), domain)
    assert not m.is_within(m.wire_name("xims.example"), domain)
    assert not m.is_within(m.wire_name("example"), domain)
    # "\x03ims\x07example" inside one label is no domain
    assert not m.is_within(b"\x0cx\x03ims\x07example\x00", domain)


@pytest.mark.parametrize("text", ["", "a..b", "x" * 64, ".".join(["x" * 60] * 5), "bücher.example"])
def test_bad_host_names(text: str) -> None:
    with pytest.raises(m.DnsError):
        m.wire_name(text)


GOOD = [
    query(use_edns=0, payload=1232),
    response(
        HEADER.format("NOERROR", "") + ";ANSWER\nwww.example. 300 IN CNAME a.example.\na.example. 60 IN A 192.0.2.1\n"
    ),
    response(HEADER.format("NXDOMAIN", "") + ";AUTHORITY\nexample. 900 IN SOA a. b. 1 2 3 4 77\n"),
]


@pytest.mark.parametrize("parse", [m.parse_query, m.parse_response])
@pytest.mark.parametrize("good", GOOD)
def test_truncation_at_each_octet(parse, good: bytes) -> None:
    for end in range(len(good)):
        with pytest.raises(m.DnsError):
            parse(good[:end])


@pytest.mark.parametrize("parse", [m.parse_query, m.parse_response])
@given(st.sampled_from(GOOD), st.integers(0, 60), st.binary(max_size=80))
def test_noise_behind_a_valid_start(parse, good: bytes, keep: int, noise: bytes) -> None:
    try:
        parse(good[:keep] + noise)
    except m.DnsError:
        pass


@given(st.binary(max_size=600))
def test_names_of_noise_can_be_answered(noise: bytes) -> None:
    try:
        read = m.parse_query(noise)
    except m.DnsError as error:
        if error.rcode is not None:
            assert len(m.refusal(noise, None, error.rcode)) == 12
        return
    answer = m.refusal(noise, read, m.SERVFAIL, (22, "x"))
    assert m.parse_response(answer).name == read.name
