"""Wireshark's dissectors on our short messages, as they go in SIP MESSAGE [S7-IMS]."""

from __future__ import annotations

import shutil
import struct
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from imskit.sip.wire.message import Request
from imskit.sms.wire import parts, rp, tpdu
from imskit.sms.wire.fields import Number

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]
NOW = datetime(2026, 11, 23, 1, 30, 15, tzinfo=UTC)
CENTRE, ALICE = Number("+15550999"), Number("+15550200")


def dissect(path: Path, bodies: list[bytes], *fields: str) -> list[list[str]]:
    """What tshark says of each body in a SIP MESSAGE; none may be malformed."""
    capture = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)
    for index, body in enumerate(bodies):
        message = Request.create(
            "MESSAGE",
            "sip:x@y",
            [
                ("Via", "SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKx"),
                ("Max-Forwards", 70),
                ("From", "<sip:a@b>;tag=1"),
                ("To", "<sip:x@y>"),
                ("Call-ID", f"c{index}"),
                ("CSeq", "1 MESSAGE"),
            ],
        )
        message.set_body(body, rp.MEDIA_TYPE)
        datagram = message.encode()
        datagram = struct.pack("!HHHH", 5060, 5060, 8 + len(datagram), 0) + datagram
        packet = struct.pack("!BBHHHBBH4B4B", 0x45, 0, 20 + len(datagram), 0, 0, 64, 17, 0, 10, 0, 0, 1, 10, 0, 0, 2)
        packet += datagram
        capture += struct.pack("<IIII", 1, index, len(packet), len(packet)) + packet
    path.write_bytes(capture)
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "separator=|"]
    for field in ("_ws.malformed", "_ws.expert.severity", *fields):
        command += ["-e", field]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    rows = [line.split("|") for line in done.stdout.splitlines()]
    assert len(rows) == len(bodies), done.stderr
    assert all(row[0] == "" for row in rows), rows
    return [row[2:] for row in rows]


@pytest.mark.parametrize("text", ["Hello, this is a test 123", "Grüße für 5 €", "здравствуйте", "{}[]~^ €"])
def test_submit_and_deliver(tmp_path: Path, text: str) -> None:
    submit = rp.RpData(9, CENTRE, tpdu.Submit(7, ALICE, tpdu.Text(text), report=True).encode(), from_ue=True)
    deliver = rp.RpData(9, CENTRE, tpdu.Deliver(ALICE, tpdu.Text(text), NOW).encode(), from_ue=False)
    rows = dissect(
        tmp_path / "sms.pcap",
        [submit.encode(), deliver.encode()],
        "gsm_sms.sms_text",
        "gsm_sms.tp-da",
        "gsm_sms.tp-oa",
        "gsm_a.rp.rp_message_reference",
    )
    assert [row[0] for row in rows] == [text, text]
    assert rows[0][1] == rows[1][2] == "15550200"
    assert {row[3] for row in rows} <= {"9", "0x09"}


def test_a_long_text_in_parts(tmp_path: Path) -> None:
    text = "0123456789" * 40
    pieces = parts.split(text, 0x2A)
    bodies = [rp.RpData(1, CENTRE, tpdu.Submit(1, ALICE, piece).encode(), True).encode() for piece in pieces]
    rows = dissect(
        tmp_path / "sms.pcap",
        bodies,
        "gsm_sms.udh.mm.msg_id",
        "gsm_sms.udh.mm.msg_parts",
        "gsm_sms.udh.mm.msg_part",
    )
    assert [[int(value, 0) for value in row] for row in rows] == [[42, 3, number] for number in (1, 2, 3)]


def test_reports(tmp_path: Path) -> None:
    bodies = [
        rp.RpAck(3, tpdu.SubmitReport(NOW).encode(), from_ue=False).encode(),
        rp.RpAck(3, tpdu.DeliverReport().encode(), from_ue=True).encode(),
        rp.RpError(3, 38, tpdu.SubmitReport(NOW, 0xFF).encode(), from_ue=False).encode(),
        rp.RpData(3, CENTRE, tpdu.StatusReport(7, ALICE, NOW, NOW, 0).encode(), from_ue=False).encode(),
    ]
    rows = dissect(tmp_path / "sms.pcap", bodies, "gsm_a.rp.msg_type", "gsm_sms.tp-ra")
    assert [int(row[0], 0) for row in rows] == [3, 2, 5, 1]
    assert rows[3][1] == "15550200"
