"""The capture, as programs that nobody here wrote read it: tshark and scapy."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.utils import PcapNgReader

from ue_agent.card_bench.capture import Capture
from ue_agent.card_bench.observe import Exchange

CHALLENGE = "0088008122" + "10" + "11" * 16 + "10" + "22" * 16


def capture(*exchanges: tuple[str, str]) -> bytes:
    file = io.BytesIO()
    written = Capture(file)
    for number, (command, answer) in enumerate(exchanges):
        octets = bytes.fromhex(answer)
        written.add(Exchange(1.5 + number, 0.25, bytes.fromhex(command), octets[:-2], int.from_bytes(octets[-2:])))
    return file.getvalue()


def payloads(file: bytes, tmp_path: Path) -> list[tuple[float, str]]:
    path = tmp_path / "x.pcapng"
    path.write_bytes(file)
    found = []
    with PcapNgReader(str(path)) as reader:
        for packet in reader:
            checksums = packet[IP].chksum, packet[UDP].chksum
            del packet[IP].chksum, packet[UDP].chksum
            again = IP(bytes(packet[IP]))
            assert (again.chksum, again[UDP].chksum) == checksums
            assert (packet[UDP].sport, packet[UDP].dport) == (4729, 4729)
            gsmtap = bytes(packet[UDP].payload)
            assert gsmtap[:3] == b"\x02\x04\x04" and gsmtap[12] == 0
            found.append((float(packet.time), gsmtap[16:].hex().upper()))
    return found


@pytest.mark.parametrize(
    ("command", "answer", "written"),
    [
        ("00A40004023F00", "6127", ["00A40004023F006127"]),
        ("00C0000003", "6210009000", ["00C00000036210009000"]),
        ("00B0000000", "6C0A", ["00B00000006C0A"]),
        ("00B0000080", "6982", ["00B00000006982"]),
        ("00B0000000", "AABB9000", ["00B0000002AABB9000"]),
        ("00200001", "63C3", ["002000010063C3"]),
        (CHALLENGE + "00", "9862", [CHALLENGE + "9862"]),
        (CHALLENGE + "00", "DC00AB9000", [CHALLENGE + "6103", "00C0000003DC00AB9000"]),
        ("01A40004022FE200", "62009000", ["01A40004022FE26102", "01C000000262009000"]),
    ],
)
def test_as_t0(command: str, answer: str, written: list[str], tmp_path: Path) -> None:
    """T=1 and modems: the pair of commands that T=0 makes of it."""
    found = payloads(capture((command, answer)), tmp_path)
    assert [octets for _, octets in found] == written
    assert [at for at, _ in found] == [1.5, 1.75][: len(written)]


@pytest.mark.interop
@pytest.mark.skipif(shutil.which("tshark") is None, reason="NO CAPTURE TESTS: tshark is not installed")
def test_tshark_reads_it(tmp_path: Path) -> None:
    """X-CARDLAB: decoded as gsm_sim, nothing malformed, checksums right."""
    path = tmp_path / "x.pcapng"
    path.write_bytes(
        capture(
            ("00A40004023F00", "6127"),
            ("00B0000080", "6982"),
            ("0020000108" + "00" * 8, "63C2"),
            (CHALLENGE + "00", "DC0E" + "33" * 14 + "9000"),
            (CHALLENGE, "9862"),
            ("00D6000002FFFF", "9000"),
            ("80F2000C", "9000"),
            ("0070000001", "019000"),
        )
    )
    options = ["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-T", "json"]
    done = subprocess.run(["tshark", "-r", path, *options], capture_output=True, check=True)
    packets = [packet["_source"]["layers"] for packet in json.loads(done.stdout)]
    assert len(packets) == 9
    for layers in packets:
        assert "gsm_sim" in layers and "_ws.malformed" not in layers
        assert layers["ip"]["ip.checksum.status"] == layers["udp"]["udp.checksum.status"] == "1"
    assert packets[6]["gsm_sim"]["gsm_sim.apdu.sw"] == "0x9000"
    assert [p["gsm_sim"]["gsm_sim.apdu.ins"] for p in packets[3:5]] == ["0x88", "0xc0"]
