"""DHCP option 120 (RFC 3361) and the exchange that brings it (RFC 2131)."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.ims.dhcp_sip_servers import DhcpError, build_inform, parse_answer, parse_sip_servers

XID = 0x12345678
NAMES = b"\x00\x07example\x03com\x00\x07example\x03net\x00"
"""The example of RFC 3361 section 3.1."""


def ack(*options: tuple[int, bytes], xid: int = XID, kind: int = 5, op: int = 2) -> bytes:
    head = bytes((op, 1, 6, 0)) + xid.to_bytes(4) + bytes(228) + b"\x63\x82\x53\x63"
    body = bytes((53, 1, kind)) + b"".join(bytes((code, len(value))) + value for code, value in options)
    return head + body + b"\xff"


def test_the_example_of_rfc_3361() -> None:
    assert parse_sip_servers(NAMES) == ("example.com", "example.net")
    assert parse_answer(ack((1, b"\xff\xff\xff\x00"), (120, NAMES)), XID) == ("example.com", "example.net")


def test_addresses_in_order_of_preference() -> None:
    assert parse_sip_servers(b"\x01\x0a\x2d\x00\x01\x0a\x2d\x00\x09") == ("10.45.0.1", "10.45.0.9")


def test_a_long_option_comes_in_parts_and_names_may_be_compressed() -> None:
    """RFC 3396; RFC 1035 section 4.1.4."""
    assert parse_answer(ack((120, NAMES[:9]), (120, NAMES[9:])), XID) == ("example.com", "example.net")
    assert parse_sip_servers(b"\x00\x01a\x07example\x00\x01b\xc0\x02") == ("a.example", "b.example")


def test_what_is_no_answer_to_us() -> None:
    assert parse_answer(ack((120, NAMES), xid=1), XID) is None
    assert parse_answer(ack((120, NAMES), op=1), XID) is None
    assert parse_answer(ack((120, NAMES), kind=6), XID) is None
    assert parse_answer(ack((1, b"\xff\xff\xff\x00")), XID) == ()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x00",
        b"\x01",
        b"\x01\x0a\x2d\x00",
        b"\x02\x0a\x2d\x00\x01",
        b"\x00\x00",
        b"\x00\x07exam",
        b"\x00\x40" + b"a" * 64 + b"\x00",
        b"\x00\xc0\x00",
        b"\x00\x01a\xc0",
        b"\x00" + b"\x3f" + b"a" * 63 + (b"\x3f" + b"a" * 63) * 4 + b"\x00",
        b"\x00\x03a b\x00",
        b"\x00\x03\xc3\xa4b\x00",
        b"\x00\x03>;x\x00",
    ],
)
def test_what_is_no_list_of_servers(value: bytes) -> None:
    with pytest.raises(DhcpError, match="DHCP option 120"):
        parse_sip_servers(value)


def test_the_question() -> None:
    inform = build_inform(XID, IPv4Address("10.45.0.2"))
    assert inform[:8] == bytes((1, 1, 6, 0)) + XID.to_bytes(4)
    assert inform[12:16] == bytes((10, 45, 0, 2))
    assert inform[236:] == b"\x63\x82\x53\x63" + bytes((53, 1, 8, 55, 1, 120, 255))


@given(st.binary(max_size=600))
def test_noise_is_refused_or_read(noise: bytes) -> None:
    for data in (noise, ack((120, NAMES))[:240] + noise, ack((120, b"\x00" + noise[:254]))):
        try:
            parse_answer(data, XID)
        except DhcpError as error:
            assert str(error).startswith("DHCP")


@pytest.mark.parametrize("end", range(len(ack((120, NAMES)))))
def test_cut_off_at_each_byte(end: int) -> None:
    try:
        assert parse_answer(ack((120, NAMES))[:end], XID) in (None, (), ("example.com", "example.net"))
    except DhcpError as error:
        assert "short" in str(error) or "cut off" in str(error)
