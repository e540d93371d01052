"""RTP packets: RFC 3550 section 5.1, RFC 8285; checked against aiortc's codec, which nobody here wrote."""

import pytest
from aiortc.rtp import RtpPacket as OtherPacket
from hypothesis import given
from hypothesis import strategies as st

from imskit.rtp.errors import RtpError
from imskit.rtp.packet import (
    ONE_BYTE_PROFILE,
    TWO_BYTE_PROFILE,
    HeaderExtension,
    RtpPacket,
    is_rtcp,
    keep_alive_payload_type,
)

packets = st.builds(
    RtpPacket,
    payload_type=st.integers(0, 127),
    sequence_number=st.integers(0, 0xFFFF),
    timestamp=st.integers(0, 0xFFFFFFFF),
    ssrc=st.integers(0, 0xFFFFFFFF),
    payload=st.binary(max_size=60),
    marker=st.booleans(),
    csrcs=st.lists(st.integers(0, 0xFFFFFFFF), max_size=15).map(tuple),
    extension=st.none()
    | st.builds(
        HeaderExtension,
        profile=st.sampled_from([ONE_BYTE_PROFILE, TWO_BYTE_PROFILE, 0x1234]),
        data=st.binary(max_size=24).map(lambda data: data[: len(data) // 4 * 4]),
    ),
    padding=st.integers(0, 255),
)


@given(packets)
def test_round_trip(packet: RtpPacket) -> None:
    assert RtpPacket.parse(packet.encode()) == packet


@given(packets)
def test_other_parser_reads_the_same(packet: RtpPacket) -> None:
    packet.extension = None  # aiortc wants a map of extension URIs; compared below
    other = OtherPacket.parse(packet.encode())
    assert (other.payload_type, other.sequence_number, other.timestamp, other.ssrc, other.payload) == (
        packet.payload_type,
        packet.sequence_number,
        packet.timestamp,
        packet.ssrc,
        packet.payload,
    )
    assert (other.marker, tuple(other.csrc), other.padding_size) == (
        packet.marker,
        packet.csrcs,
        packet.padding,
    )


@given(packets, st.data())
def test_hostile_input_raises_only_rtp_error(packet: RtpPacket, data: st.DataObject) -> None:
    encoded = packet.encode()
    cut = encoded[: data.draw(st.integers(0, len(encoded)))]
    flipped = bytearray(encoded)
    for _ in range(3):
        flipped[data.draw(st.integers(0, len(flipped) - 1))] = data.draw(st.integers(0, 255))
    for hostile in (cut, bytes(flipped), data.draw(st.binary(max_size=80))):
        try:
            parsed = RtpPacket.parse(hostile)
            if parsed.extension is not None:
                parsed.extension.elements()
        except RtpError:
            pass


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (bytes(11), "less than a header"),
        (bytes(12), "version 0"),
        (b"\x81" + bytes(11), "CSRC list"),
        (b"\x90" + bytes(11), "extension is cut"),
        (b"\x90" + bytes(11) + b"\xbe\xde\x00\x01", "longer than the packet"),
        (b"\xa0" + bytes(11) + b"\x01\x02\x00", "0 octets of padding"),
        (b"\xa0" + bytes(11) + b"\x01\x02\x04", "4 octets of padding in 3"),
    ],
)
def test_malformed(data: bytes, what: str) -> None:
    with pytest.raises(RtpError, match=what):
        RtpPacket.parse(data)


@pytest.mark.parametrize(
    "packet",
    [
        RtpPacket(128, 0, 0, 0),
        RtpPacket(0, 65536, 0, 0),
        RtpPacket(0, 0, -1, 0),
        RtpPacket(0, 0, 0, 1 << 32),
        RtpPacket(0, 0, 0, 0, padding=256),
        RtpPacket(0, 0, 0, 0, csrcs=(0,) * 16),
        RtpPacket(0, 0, 0, 0, extension=HeaderExtension(0, b"abc")),
    ],
)
def test_out_of_range_is_refused(packet: RtpPacket) -> None:
    with pytest.raises(RtpError):
        packet.encode()


def test_extension_elements_in_both_forms() -> None:
    short = HeaderExtension.of([(1, b"\xff"), (3, b"\x00\x2a")])
    assert short.profile == ONE_BYTE_PROFILE
    assert short.data == bytes.fromhex("10ff31002a000000")
    assert short.elements() == [(1, b"\xff"), (3, b"\x00\x2a")]
    long = HeaderExtension.of([(1, b""), (200, b"x" * 17)])
    assert long.profile == TWO_BYTE_PROFILE
    assert long.elements() == [(1, b""), (200, b"x" * 17)]
    assert HeaderExtension(0x4242, b"abcd").elements() == []


def test_extension_example_of_rfc_8285() -> None:
    """The figures of RFC 8285 sections 4.2 and 4.3: ids, lengths and padding as drawn there."""
    one = HeaderExtension(0xBEDE, bytes.fromhex("10aa21bbbb000033cccccccc"))
    assert one.elements() == [(1, b"\xaa"), (2, b"\xbb\xbb"), (3, b"\xcc" * 4)]
    two = HeaderExtension(0x1000, bytes.fromhex("01000201bb000304cccccccc"))
    assert two.elements() == [(1, b""), (2, b"\xbb"), (3, b"\xcc" * 4)]


def test_reserved_id_15_ends_the_list() -> None:
    assert HeaderExtension(0xBEDE, bytes.fromhex("10aaf00020bb0000")).elements() == [(1, b"\xaa")]


def test_cut_elements() -> None:
    with pytest.raises(RtpError, match="element 1 is cut"):
        HeaderExtension(0xBEDE, bytes.fromhex("13aabbcc")).elements()
    with pytest.raises(RtpError, match="no length"):
        HeaderExtension(0x1000, bytes.fromhex("01010201")[:-1] + b"\x05").elements()


def test_rtcp_is_told_from_rtp() -> None:
    """RFC 5761 section 4: packet types 192-223; payload types 64-95 with a marker would collide."""
    assert is_rtcp(b"\x80\xc8") and is_rtcp(b"\x81\xcf")
    assert not is_rtcp(RtpPacket(96, 1, 2, 3, marker=True).encode())
    assert not is_rtcp(RtpPacket(0, 1, 2, 3).encode())
    assert not is_rtcp(b"\x80")


def test_keep_alive_payload_type() -> None:
    """TS 24.229 K.5.2.1: 20, or another unused static type when 20 is negotiated."""
    assert keep_alive_payload_type([96, 97]) == 20
    assert keep_alive_payload_type([20, 96]) == 21
    with pytest.raises(RtpError):
        keep_alive_payload_type(range(128))
