"""RTCP packets: RFC 3550, 4585, 5104, 3611; read and written by aiortc too."""

import struct

import pytest
from aiortc import rtp as other
from hypothesis import given
from hypothesis import strategies as st

from imskit.rtp.errors import RtpError
from imskit.rtp.rtcp import (
    CNAME,
    ApplicationDefined,
    ExtendedReport,
    Goodbye,
    PayloadFeedback,
    ReceiverReport,
    ReportBlock,
    RtcpPacket,
    SenderReport,
    SourceChunk,
    SourceDescription,
    TransportFeedback,
    UnknownPacket,
    encode_compound,
    is_compound,
    parse_compound,
)

u32 = st.integers(0, 0xFFFFFFFF)
words = st.binary(max_size=16).map(lambda data: data[: len(data) // 4 * 4])
blocks = st.builds(ReportBlock, u32, st.integers(0, 255), st.integers(-0x800000, 0x7FFFFF), u32, u32, u32, u32)
block_tuples = st.lists(blocks, max_size=3).map(tuple)
chunks = st.builds(
    SourceChunk,
    u32,
    st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=255)), max_size=3).map(tuple),
)
packet_lists = st.lists(
    st.one_of(
        st.builds(SenderReport, u32, st.integers(0, 2**64 - 1), u32, u32, u32, block_tuples, words),
        st.builds(ReceiverReport, u32, block_tuples, words),
        st.builds(SourceDescription, st.lists(chunks, max_size=3).map(tuple)),
        st.builds(Goodbye, st.lists(u32, max_size=3).map(tuple), st.none() | st.binary(max_size=255)),
        st.builds(ApplicationDefined, st.integers(0, 31), u32, st.binary(min_size=4, max_size=4), words),
        st.builds(TransportFeedback, st.integers(0, 31), u32, u32, words),
        st.builds(PayloadFeedback, st.integers(0, 31), u32, u32, words),
        st.builds(
            ExtendedReport,
            u32,
            st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), words), max_size=3).map(tuple),
        ),
        st.builds(UnknownPacket, st.integers(208, 223), st.integers(0, 31), words),
    ),
    min_size=1,
    max_size=4,
)


@given(packet_lists)
def test_round_trip(packets: list[RtcpPacket]) -> None:
    assert parse_compound(encode_compound(packets)) == packets


@given(packet_lists, st.data())
def test_hostile_input_raises_only_rtp_error(packets: list[RtcpPacket], data: st.DataObject) -> None:
    encoded = encode_compound(packets)
    flipped = bytearray(encoded)
    for _ in range(3):
        flipped[data.draw(st.integers(0, len(flipped) - 1))] = data.draw(st.integers(0, 255))
    cut = encoded[: data.draw(st.integers(0, len(encoded) - 1))]
    for hostile in (cut, bytes(flipped), encoded + data.draw(st.binary(max_size=20))):
        try:
            parsed = parse_compound(hostile)
            for packet in parsed:
                if isinstance(packet, TransportFeedback):
                    packet.lost()
                elif isinstance(packet, PayloadFeedback):
                    packet.intra_requests()
        except RtpError:
            pass


def test_truncation_at_each_octet() -> None:
    block = ReportBlock(2, 3, -4, 5, 6, 7, 8)
    data = encode_compound(
        [
            SenderReport(1, 2, 3, 4, 5, (block,)),
            SourceDescription((SourceChunk(1, ((CNAME, b"abcd"),)),)),
            Goodbye((1,), b"over"),
        ]
    )
    starts = {0, 52, 52 + 16}
    for size in range(len(data)):
        if size in starts and size:
            continue  # whole packets fewer is a shorter datagram, not a malformed one
        with pytest.raises(RtpError):
            parse_compound(data[:size])


def test_other_parser_reads_ours() -> None:
    ours = encode_compound(
        [
            SenderReport(1, 0x0123456789ABCDEF, 3, 4, 5, (ReportBlock(6, 128, -2, 70000, 9, 10, 11),)),
            SourceDescription((SourceChunk(1, ((CNAME, b"user@host"),)),)),
            TransportFeedback.nack(1, 6, [10, 11, 26]),
            PayloadFeedback.picture_loss(1, 6),
            Goodbye((1,)),
        ]
    )
    report, description, nack, loss, bye = other.RtcpPacket.parse(ours)
    assert report.sender_info.ntp_timestamp == 0x0123456789ABCDEF
    assert vars(report.reports[0]) == {
        "ssrc": 6,
        "fraction_lost": 128,
        "packets_lost": -2,
        "highest_sequence": 70000,
        "jitter": 9,
        "lsr": 10,
        "dlsr": 11,
    }
    assert description.chunks[0].items == [(1, b"user@host")]
    assert nack.lost == [10, 11, 26]
    assert (loss.fmt, loss.media_ssrc) == (1, 6)
    assert bye.sources == [1]


def test_we_read_the_other_writers() -> None:
    data = bytes(other.RtcpRrPacket(ssrc=7, reports=[other.RtcpReceiverInfo(8, 1, -3, 4, 5, 6, 7)])) + bytes(
        other.RtcpRtpfbPacket(fmt=1, ssrc=7, media_ssrc=8, lost=[5, 7, 21, 22])
    )
    report, nack = parse_compound(data)
    assert report == ReceiverReport(7, (ReportBlock(8, 1, -3, 4, 5, 6, 7),))
    assert isinstance(nack, TransportFeedback)
    assert nack.lost() == [5, 7, 21, 22]


@given(st.lists(st.integers(0, 400), min_size=1, max_size=30, unique=True), st.integers(0, 0xFFFF))
def test_nack_names_every_loss_once(offsets: list[int], base: int) -> None:
    lost = [base + offset & 0xFFFF for offset in sorted(offsets)]
    feedback = TransportFeedback.nack(1, 2, lost)
    assert feedback.lost() == lost


def test_nack_layout_of_rfc_4585() -> None:
    """Section 6.2.1: the bitmask's least significant bit is the packet after PID."""
    assert TransportFeedback.nack(1, 2, [100, 101, 116, 117]).information == struct.pack("!HHHH", 100, 0x8001, 117, 0)
    with pytest.raises(RtpError):
        TransportFeedback(15, 1, 2, b"abcd").lost()
    with pytest.raises(RtpError):
        TransportFeedback(1, 1, 2).lost()


def test_full_intra_request() -> None:
    feedback = PayloadFeedback.full_intra_request(1, [(9, 200)])
    assert feedback.encode() == bytes.fromhex("84ce0004 00000001 00000000 00000009 c8000000".replace(" ", ""))
    assert feedback.intra_requests() == [(9, 200)]
    with pytest.raises(RtpError):
        PayloadFeedback(1, 1, 2).intra_requests()
    with pytest.raises(RtpError):
        PayloadFeedback(4, 1, 2, b"abcd").intra_requests()


def test_extended_report_blocks() -> None:
    """RFC 3611: receiver reference time (4) and DLRR (5) as they lie on the wire."""
    data = bytes.fromhex(
        "80cf0008 00000001 04000002 0102030405060708 05000003 000000020000000300000004".replace(" ", "")
    )
    assert parse_compound(data) == [
        ExtendedReport(1, ((4, 0, bytes(range(1, 9))), (5, 0, struct.pack("!III", 2, 3, 4))))
    ]
    assert encode_compound(parse_compound(data)) == data


def test_padding_only_at_the_end() -> None:
    report = ReceiverReport(1).encode()
    padded = bytes([0xA0, 201, 0, 2]) + report[4:] + b"\0\0\0\4"
    assert parse_compound(report + padded) == [ReceiverReport(1), ReceiverReport(1)]
    with pytest.raises(RtpError, match="before the last"):
        parse_compound(padded + report)
    for count in (0, 3, 12):
        with pytest.raises(RtpError, match="impossible padding"):
            parse_compound(padded[:-1] + bytes([count]))


def test_reduced_size_is_read_and_told_apart() -> None:
    """RFC 5506: feedback without a report in front."""
    feedback = PayloadFeedback.picture_loss(1, 2)
    assert parse_compound(feedback.encode()) == [feedback]
    assert not is_compound([feedback])
    assert is_compound([ReceiverReport(1), feedback])


@pytest.mark.parametrize(
    "packets",
    [
        [Goodbye(tuple(range(32)))],
        [Goodbye((), b"x" * 256)],
        [SourceDescription((SourceChunk(1, ((0, b""),)),))],
        [SourceDescription((SourceChunk(1, ((1, b"x" * 256),)),))],
        [ApplicationDefined(1, 1, b"abc")],
        [ApplicationDefined(1, 1, b"abcd", b"x")],
        [ReceiverReport(1 << 32)],
    ],
)
def test_out_of_range_is_refused(packets: list[RtcpPacket]) -> None:
    with pytest.raises(RtpError):
        encode_compound(packets)


def test_cname() -> None:
    assert SourceChunk(1, ((2, b"Name"), (CNAME, b"a@b"))).cname == b"a@b"
    assert SourceChunk(1, ()).cname is None
    with pytest.raises(RtpError):
        parse_compound(b"")
