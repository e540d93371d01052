"""``imsbridge card trace``: every exchange in words and as a capture, and no key anywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imskit.config.model import parse
from imskit.uicc.profile import CardProfile
from imskit.uicc.uicc import Uicc

type Run = Callable[..., Any]

K, OPC, PIN = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf", "84172963"
CARD = f"""
imsi = "001010000000001"
k = "{K}"
opc = "{OPC}"
pin = "{PIN}"
gba = true
[isim]
impi = "001010000000001@ims.mnc001.mcc001.3gppnetwork.org"
domain = "ims.mnc001.mcc001.3gppnetwork.org"
impu = ["sip:+15550100@ims.mnc001.mcc001.3gppnetwork.org"]
"""


class Listening:
    """A card that remembers the secrets that crossed its contacts."""

    def __init__(self) -> None:
        self.card = Uicc(parse(CardProfile, CARD))
        self.atr = self.card.atr
        self.secrets: list[bytes] = []
        self._authenticates = False

    def reset(self) -> None:
        self.card.reset()

    def transmit(self, apdu: bytes) -> bytes:
        self._authenticates = apdu[1] == 0x88 or (self._authenticates and apdu[1] == 0xC0)
        answer = self.card.transmit(apdu)
        if apdu[1] == 0x20 and len(apdu) > 5:
            self.secrets.append(apdu[5:13])
        if self._authenticates and answer[:1] == b"\xdb":
            position = 1
            while position < len(answer) - 2:
                self.secrets.append(answer[position + 1 : position + 1 + answer[position]])
                position += 1 + answer[position]
        return answer


@pytest.fixture
def card(reader: Any) -> Listening:
    card = Listening()
    reader.insert(card)
    return card


@pytest.fixture
def key_file(secret_file: Callable[[str, str], Path]) -> Path:
    return secret_file("keys.toml", f'k = "{K}"\nopc = "{OPC}"\n')


@pytest.fixture
def pin_file(secret_file: Callable[[str, str], Path]) -> Path:
    return secret_file("pin", PIN)


@pytest.mark.parametrize("command", ["info", "start", "aka", "gba", "pin verify"])
@pytest.mark.parametrize("words", [[], ["--json"]], ids=["table", "json"])
def test_no_key_and_no_pin_in_trace_and_capture(
    command: str, words: list[str], run: Run, card: Listening, key_file: Path, pin_file: Path, tmp_path: Path
) -> None:
    """X-CARDLAB: RES, CK, IK, Kc, Ks_ext_NAF and PIN, whatever crossed the contacts, are left out."""
    keys = ["--keys", key_file] if command in ("aka", "gba") else []
    capture = tmp_path / "card.pcapng"
    shown = run(
        *("trace", "--pcapng", capture, *command.split(), *keys, "--pin-file", pin_file, *words),
        "--log-level",
        "debug",
    )
    assert shown.code == 0, shown.out + shown.err
    assert card.secrets and capture.stat().st_mode & 0o077 == 0
    written = capture.read_bytes()
    for secret in [*card.secrets, PIN.encode(), bytes.fromhex(K), bytes.fromhex(OPC)]:
        assert secret not in written
        for text in (shown.out, shown.err):
            assert secret.hex() not in text.lower()
    assert PIN not in shown.out + shown.err


def test_keys_on_demand(run: Run, card: Listening, key_file: Path, pin_file: Path, tmp_path: Path) -> None:
    capture = tmp_path / "card.pcapng"
    shown = run("trace", "--pcapng", capture, "--keys-in-trace", "aka", "--keys", key_file, "--pin-file", pin_file)
    written = capture.read_bytes()
    for secret in card.secrets:
        assert secret in written and secret.hex().upper() in shown.out.replace("\n           ", "")


def test_the_trace_reads_well(run: Run, card: Listening, key_file: Path, pin_file: Path) -> None:
    shown = run("trace", "aka", "--keys", key_file, "--pin-file", pin_file)
    lines = shown.out.splitlines()
    assert max(map(len, lines)) <= 80
    for text in (
        "READ RECORD 1, EF_DIR",
        "VERIFY PIN (PIN1)",
        "> 0020000108 <PIN 8>",
        "AUTHENTICATE, 3G/IMS AKA",
        "< DB08 <RES 8> 10 <CK 16> 10 <IK 16> 9000",
        "success: RES, CK, IK",
        "synchronisation failure: AUTS",
        "! authentication error, incorrect MAC",
        "the card does as it should",
    ):
        assert text in shown.out, text


def test_json(run: Run, card: Listening, pin_file: Path) -> None:
    found = run("trace", "start", "--json", "--pin-file", pin_file).json
    assert list(found) == ["version", "command", "ok", "trace", "result"]
    assert found["result"]["impi"].startswith("001010000000001@")
    first = found["trace"][0]
    assert (first["command"], first["command_hex"], first["at_ms"]) == ("SELECT MF", "00A40004023F00", 0.0)
    assert [e["command"] for e in found["trace"] if e["sw"] == "6982"] == ["READ BINARY EF_IMPI"]


def test_an_error_ends_the_trace_with_what_led_to_it(run: Run, card: Listening) -> None:
    shown = run("trace", "start", "--pin-file", "-", stdin="0000\n")
    assert shown.code == 4
    assert "PIN not verified, 2 tries left" in shown.out and "is wrong; 2 tries left" in shown.err


def test_a_capture_that_cannot_be_written(run: Run, card: Listening, pin_file: Path) -> None:
    shown = run("trace", "--pcapng", "/nowhere/x.pcapng", "start", "--pin-file", pin_file)
    assert shown.code == 2 and "/nowhere/x.pcapng: cannot be written" in shown.err


@pytest.mark.interop
@pytest.mark.skipif(shutil.which("tshark") is None, reason="NO CAPTURE TESTS: tshark is not installed")
@pytest.mark.parametrize("command", ["info", "aka", "gba"])
def test_tshark_reads_the_capture(
    command: str, run: Run, card: Listening, key_file: Path, pin_file: Path, tmp_path: Path
) -> None:
    """X-CARDLAB: every packet is gsm_sim, none malformed; locked files and refusals included."""
    capture = tmp_path / "card.pcapng"
    keys = ["--keys", key_file] if command in ("aka", "gba") else []
    run("trace", "--pcapng", capture, command, *keys, "--pin-file", pin_file)
    done = subprocess.run(["tshark", "-r", capture, "-T", "json"], capture_output=True, check=True)
    packets = [packet["_source"]["layers"] for packet in json.loads(done.stdout)]
    assert len(packets) > 20
    for layers in packets:
        assert layers["frame"]["frame.protocols"].endswith("gsmtap:gsm_sim"), layers["frame"]
    malformed = subprocess.run(
        ["tshark", "-r", capture, "-Y", "_ws.malformed || _ws.expert.severity >= 6291456"],
        capture_output=True,
        check=True,
    )
    assert malformed.stdout == b""
