"""Wireshark's dissectors on what we send: SDP, AMR in both payload formats, telephone-event, RTCP [S7-RMF]."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from imskit.rtp.amr import AMR_BIT_RATES, AMR_WB_BIT_RATES, NO_DATA, AmrFrame, AmrPayloadFormat
from imskit.rtp.packet import RtpPacket, keep_alive_payload_type
from imskit.rtp.rtcp import (
    CNAME,
    Goodbye,
    PayloadFeedback,
    ReportBlock,
    SenderReport,
    SourceChunk,
    SourceDescription,
    TransportFeedback,
    encode_compound,
)
from imskit.rtp.telephone_event import TelephoneEventSender
from imskit.sdp import ims_side
from imskit.sdp.ims_side import ImsEndpoint
from imskit.sdp.preconditions import first_offer
from imskit.sdp.profile import AMR, AMR_OCTET_ALIGNED, AMR_WB, AMR_WB_OCTET_ALIGNED

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]

PORT = 50000


def udp(payload: bytes, port: int) -> bytes:
    """An IPv4 packet from 10.0.0.1 to 10.0.0.2, same port both ends."""
    datagram = struct.pack("!HHHH", port, port, 8 + len(payload), 0) + payload
    return (
        struct.pack("!BBHHHBBH4B4B", 0x45, 0, 20 + len(datagram), 0, 0, 64, 17, 0, 10, 0, 0, 1, 10, 0, 0, 2) + datagram
    )


def dissect(path: Path, packets: list[bytes], fields: list[str], *options: str) -> list[list[str]]:
    """Write a capture of raw IP packets and return tshark's fields of each; none may be malformed."""
    capture = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)
    for index, packet in enumerate(packets):
        capture += struct.pack("<IIII", 1, index * 20000, len(packet), len(packet)) + packet
    path.write_bytes(capture)
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "separator=|", *options]
    for field in ["_ws.malformed", *fields]:
        command += ["-e", field]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    rows = [line.split("|") for line in done.stdout.splitlines()]
    assert len(rows) == len(packets), done.stderr
    assert all(row[0] == "" for row in rows), rows
    return [row[1:] for row in rows]


@pytest.mark.parametrize("wideband", [False, True])
@pytest.mark.parametrize("octet_aligned", [False, True])
def test_amr_in_a_call(tmp_path: Path, wideband: bool, octet_aligned: bool) -> None:
    """Our offer in an INVITE tells tshark the payload types; every mode, SID and NO_DATA, one and two a packet."""
    formats = [(AMR, AMR_OCTET_ALIGNED), (AMR_WB, AMR_WB_OCTET_ALIGNED)][wideband][octet_aligned]
    offer = ims_side.make_offer(ImsEndpoint("10.0.0.2", PORT, 1), [formats], preconditions=first_offer(False))
    body = offer.encode()
    head = (
        "INVITE sip:b@10.0.0.2 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1\r\nFrom: <sip:a@10.0.0.1>;tag=1\r\n"
        "To: <sip:b@10.0.0.2>\r\nCall-ID: 1@10.0.0.1\r\nCSeq: 1 INVITE\r\nContent-Type: application/sdp\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    form = AmrPayloadFormat(wideband=wideband, octet_aligned=octet_aligned)
    rates = AMR_WB_BIT_RATES if wideband else AMR_BIT_RATES
    sizes = [rate // 50 for rate in rates] + [40 if wideband else 39]
    contents: list[list[AmrFrame]] = []
    for frame_type, size in enumerate(sizes):
        bits = ((1 << size) - 1 << -size % 8).to_bytes((size + 7) // 8)
        contents.append([AmrFrame(frame_type, True, bits)])
        contents.append(
            [AmrFrame(frame_type, False, bits), AmrFrame(NO_DATA), AmrFrame(0, True, bytes((sizes[0] + 7) // 8))]
        )
    packets = [udp(head.encode() + body, 5060)]
    requests = [None if index % 2 else index % len(rates) for index in range(len(contents))]
    for index, (content, cmr) in enumerate(zip(contents, requests, strict=True)):
        packets.append(udp(RtpPacket(96, index, index * 320, 7, form.pack(content, cmr), index == 0).encode(), PORT))
    side = "wb" if wideband else "nb"
    version = "RFC 3267 octet aligned" if octet_aligned else "RFC 3267 BW-efficient"
    rows = dissect(
        tmp_path / "amr.pcap",
        packets,
        [
            f"amr.{side}.cmr",
            f"amr.{side}.toc.ft",
            "amr.toc.q",
            "amr.not_enough_data_for_frames",
            "amr.superfluous_data",
        ],
        "-o",
        f"amr.encoding.version:{version}",
    )
    for row, content, cmr in zip(rows[1:], contents, requests, strict=True):
        assert row[0] == str(NO_DATA if cmr is None else cmr)
        assert row[1] == ",".join(str(frame.frame_type) for frame in content)
        assert row[2] == ",".join(str(int(frame.quality)) for frame in content)
        assert row[3:] == ["", ""]


def test_telephone_event_and_keep_alive(tmp_path: Path) -> None:
    sender = TelephoneEventSender(8000, 160)
    sender.press(11, duration=0.06)
    packets = []
    for index in range(5):
        event = sender.packet(index * 160)
        assert event is not None
        packets.append(udp(RtpPacket(101, index, event.timestamp, 7, event.payload, event.marker).encode(), PORT))
    packets.append(udp(RtpPacket(keep_alive_payload_type([96, 101]), 5, 800, 7).encode(), PORT))
    rows = dissect(
        tmp_path / "event.pcap",
        packets,
        [
            "rtp.p_type",
            "rtp.marker",
            "rtpevent.event_id",
            "rtpevent.end_of_event",
            "rtpevent.volume",
            "rtpevent.duration",
        ],
        "-d",
        f"udp.port=={PORT},rtp",
        "-d",
        "rtp.pt==101,rtpevent",
    )
    assert [row[1] for row in rows] == ["1", "0", "0", "0", "0", "0"]
    assert [row[2:] for row in rows[:-1]] == [
        ["11", "0", "10", "160"],
        ["11", "0", "10", "320"],
        ["11", "1", "10", "480"],
        ["11", "1", "10", "480"],
        ["11", "1", "10", "480"],
    ]
    assert rows[-1][0] == "20"


def test_rtcp(tmp_path: Path) -> None:
    compound = encode_compound(
        [
            SenderReport(7, 2208988900 << 32, 1600, 10, 330, (ReportBlock(8, 64, -1, 70000, 12, 34, 65536),)),
            SourceDescription((SourceChunk(7, ((CNAME, b"agent"),)),)),
            TransportFeedback.nack(7, 8, [500, 502]),
            PayloadFeedback.picture_loss(7, 8),
            Goodbye((7,), b"over"),
        ]
    )
    fields = [
        "rtcp.pt",
        "rtcp.ssrc.fraction",
        "rtcp.ssrc.cum_nr",
        "rtcp.sdes.text",
        "rtcp.rtpfb.nack_pid",
        "rtcp.length_check",
    ]
    (row,) = dissect(tmp_path / "rtcp.pcap", [udp(compound, PORT + 1)], fields, "-d", f"udp.port=={PORT + 1},rtcp")
    assert row[0] == "200,202,205,206,203"
    assert row[1:5] == ["64", "-1", "agent,over", "500,502"]
    assert row[5] == "1"
