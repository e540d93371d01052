"""The demo as a test: both calls, with what a capture, the logs and another dissector say of them.

Issue 2, done-when 1, 3 (tshark) and 5.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from imsbridge.demo import as_json, show
from imskit.aka.challenge import Challenge
from imskit.aka.milenage import Milenage
from imskit.secrets import Secret
from simulators.lab.demo import Demo, DemoResult
from simulators.lab.lab import PHONE_KEYS, PIN, USER_KEYS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]


@dataclass
class Run:
    """What one debug-level run left behind."""

    result: DemoResult
    demo: Demo
    capture: Path
    root: Path

    def tshark(self, *arguments: str) -> str:
        argv = ["tshark", "-n", "-r", str(self.capture), *arguments]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(root: Path) -> Run:
    demo = Demo(root, lambda text: None, log_level="debug", paths=("ue",))
    capture = root / "calls.pcapng"
    # On every interface: Gm is inside ESP on ims0, and as it is on the device that IPsec in user space makes.
    argv = ["tshark", "-q", "-i", "any", "-f", "udp or (tcp and host 10.45.0.2)", "-w", str(capture)]
    await demo.lab.net.handset.start("tshark", argv, ready="Capturing on")
    result = await demo.run()
    return Run(result, demo, capture, root)


async def test_both_calls_with_speech_both_ways(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """S7-AUTH, S7-CALL, S7-RMF, S7-IMS, S7-UICC: every step of the demo held."""
    show(run.result)
    said = capsys.readouterr().out
    assert run.result.ok, said
    assert "every step held" in said
    for call in run.result.calls:
        assert call.to_phone.codecs == "opus > AMR-WB"
        assert call.to_browser.codecs == "AMR-WB > opus"
        assert min(call.to_phone.packets, call.to_browser.packets) > 500


async def test_the_figures_are_json_with_units_in_their_names(run: Run) -> None:
    figures = json.loads(json.dumps(as_json(run.result)))
    assert figures["version"] == 1
    assert figures["ok"] is True
    first = figures["calls"][0]
    assert {"name", "steps", "to_phone", "to_browser"} <= set(first)
    assert all(isinstance(step["ms"], float) for step in first["steps"])


async def test_tshark_finds_no_malformed_packet(run: Run) -> None:
    """Done-when 3: another dissector reads SIP, SDP, RTP, RTCP and STUN of both calls without complaint."""
    # Towards the TURN proxy RTP and RTCP are encrypted, which tshark cannot know.
    encrypted = "ip.addr == 10.99.0.1 && (rtp || rtcp)"
    assert run.tshark("-Y", f"_ws.malformed && !({encrypted})") == ""
    methods = run.tshark("-Y", "sip.Method", "-T", "fields", "-e", "sip.Method").split()
    assert {"REGISTER", "SUBSCRIBE", "NOTIFY", "INVITE", "PRACK", "ACK", "BYE"} <= set(methods)
    rtp = run.tshark("-Y", "rtp && ip.addr == 10.45.0.2", "-T", "fields", "-e", "rtp.p_type").split()
    assert len(rtp) > 2000
    assert run.tshark("-Y", "rtcp && ip.addr == 10.45.0.2").count("\n") >= 4
    assert run.tshark("-Y", "stun", "-c", "50000").count("\n") > 10


async def test_webrtc_never_reaches_ims(run: Run) -> None:
    """R-MUX: nothing of ICE, DTLS, BUNDLE or multiplexing in what the IMS side sees."""
    ims = "ip.addr == 10.45.0.2 && sdp"
    lines = run.tshark("-Y", ims, "-T", "fields", "-e", "sdp.media_attr", "-e", "sdp.media", "-E", "aggregator=\n")
    assert "AMR-WB/16000" in lines
    assert "telephone-event" in lines
    assert "qos mandatory local sendrecv" in lines
    for word in ("ice-", "candidate", "fingerprint", "setup:", "rtcp-mux", "mid:", "msid", "ssrc", "extmap", "SAVPF"):
        assert word not in lines
    assert run.tshark("-Y", "dtls && ip.addr == 10.45.0.2") == ""
    assert run.tshark("-Y", "stun && ip.addr == 10.46.0.2") == ""


async def test_no_secret_is_in_any_log(run: Run) -> None:
    """Done-when 5: K, OPc, PIN, RES, CK, IK and TURN passwords of a whole demo at debug level."""
    logs = {path: path.read_bytes() for path in [*run.root.glob("*/*.log"), *run.root.glob("*.events")]}
    assert len(logs) >= 8
    agent = next(data for path, data in logs.items() if path.name == "agent.log")
    assert b"DEBUG" in agent, "the logs were not written at debug level"
    forbidden: dict[str, bytes] = {"PIN": PIN.encode(), "TURN secret": run.demo.lab.turn_secret.encode()}
    for owner, (k, opc) in (("user", USER_KEYS), ("phone", PHONE_KEYS)):
        forbidden |= {f"K of {owner}": bytes.fromhex(k), f"OPc of {owner}": bytes.fromhex(opc)}
    nonces = run.tshark("-Y", "sip.Status-Code == 401", "-T", "fields", "-e", "sip.auth.nonce").split()
    assert nonces
    k, opc = (Secret(bytes.fromhex(key)) for key in USER_KEYS)
    for nonce in nonces:
        keys = Milenage(k, opc).f2345(Challenge.decode(nonce.strip('"')).rand)
        forbidden |= {"RES": keys.res.reveal(), "CK": keys.ck.reveal(), "IK": keys.ik.reveal()}
        for path, data in logs.items():
            _assert_absent(forbidden, path, data)
    names = set(run.tshark("-Y", "stun.att.username", "-T", "fields", "-e", "stun.att.username").split())
    credentials = {name for name in names if name.partition(":")[0].isdigit()}
    assert credentials
    for name in credentials:
        mac = hmac.new(run.demo.lab.turn_secret.encode(), name.encode(), hashlib.sha1).digest()
        for path, data in logs.items():
            _assert_absent({"TURN password": base64.b64encode(mac)}, path, data)


def _assert_absent(forbidden: dict[str, bytes], path: Path, data: bytes) -> None:
    for name, value in forbidden.items():
        forms = {value, value.hex().encode(), value.hex().upper().encode(), base64.b64encode(value)}
        for form in forms:
            assert form not in data, f"{name} is in {path.name}"
