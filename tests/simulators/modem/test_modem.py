"""The emulated modem says what TS 27.007 says, character by character."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import serial
from hypothesis import given
from hypothesis import strategies as st

from imskit.secrets import Secret
from imskit.uicc.profile import CardProfile, IsimProfile
from imskit.uicc.uicc import Uicc
from simulators.modem.engine.modem import Modem, Quirk

K, OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"  # TS 35.208 set 1
ISIM_AID, USIM_AID = "A0000000871004", "A0000000871002"


def card(pin: str | None = None) -> Uicc:
    profile = CardProfile(
        imsi="001010000000001",
        k=Secret(K),
        opc=Secret(OPC),
        isim=IsimProfile(),
        pin=Secret(pin) if pin else None,
    )
    return Uicc(profile)


def modem(*quirks: Quirk, pin: str | None = None) -> Modem:
    made = Modem(card(pin), quirks)
    made.receive(b"ATE0;+CMEE=1\r")
    return made


def says(made: Modem, command: str) -> list[str]:
    return made.receive(command.encode() + b"\r").decode().split("\r\n")[1::2]


def test_octet_by_octet() -> None:
    made = Modem(card())
    assert made.receive(b"AT\r") == b"AT\r\r\nOK\r\n"
    assert made.receive(b'at+csim=14,"00a40004023f00"\r').endswith(b'\r\n+CSIM: 4,"6127"\r\n\r\nOK\r\n')
    assert made.receive(b"ATE0\r") == b"ATE0\r\r\nOK\r\n"
    assert made.receive(b"AX\bT\r\r\n") == b"\r\nOK\r\n"


def test_errors_in_three_forms() -> None:
    """TS 27.007 clause 9.1."""
    made = Modem()
    made.receive(b"ATE0\r")
    for mode, error in enumerate(["ERROR", "+CME ERROR: 10", "+CME ERROR: SIM not inserted"]):
        assert says(made, f"AT+CMEE={mode};+CPIN?") == [error]
    assert says(made, "AT+CMEE=3") == ["+CME ERROR: incorrect parameters"]
    assert says(made, "AT+NOSUCH=1") == ["ERROR"]
    assert says(made, "AT+CSIM=?") == ["OK"]


def test_logical_channels() -> None:
    """TS 27.007 clauses 8.43, 8.45, 8.46: a session has its own selected application; four are too many."""
    made = modem()
    assert says(made, f'AT+CCHO="{ISIM_AID}"') == ["1", "OK"]
    assert says(made, f'AT+CCHO="{USIM_AID}"') == ["2", "OK"]
    status = '10,"80F2000100"'
    isim = says(made, f"AT+CGLA=1,{status}")[0]
    usim = says(made, f"AT+CGLA=2,{status}")[0]
    assert isim.startswith('+CGLA: 4,"6C') and usim.startswith('+CGLA: 4,"6C')
    assert f"8410{ISIM_AID}" in says(made, 'AT+CGLA=1,10,"80F2000112"')[0]
    assert f"8410{USIM_AID}" in says(made, 'AT+CGLA=2,10,"80F2000112"')[0]
    assert says(made, f'AT+CCHO="{ISIM_AID}"') == ["3", "OK"]
    assert says(made, f'AT+CCHO="{ISIM_AID}"') == ["+CME ERROR: 20"]
    assert says(made, "AT+CCHC=1") == ["OK"]
    assert says(made, "AT+CCHC=1") == ["+CME ERROR: 21"]
    assert says(made, f"AT+CGLA=1,{status}") == ["+CME ERROR: 21"]
    assert says(made, 'AT+CCHO="A000000151"') == ["+CME ERROR: 22"]
    assert sorted(made.sessions) == [2, 3]


def test_pin() -> None:
    """TS 27.007 clauses 8.3, 8.65."""
    made = modem(pin="1234")
    assert says(made, "AT+CPIN?") == ["+CPIN: SIM PIN", "OK"]
    assert says(made, 'AT+CPINR="SIM PIN"') == ["+CPINR: SIM PIN,3,3", "OK"]
    assert says(made, 'AT+CPIN="9999"') == ["+CME ERROR: 16"]
    assert says(made, 'AT+CPIN="12"') == ["+CME ERROR: 50"]
    assert says(made, 'AT+CPIN="1234"') == ["OK"]
    assert says(made, "AT+CPIN?") == ["+CPIN: READY", "OK"]
    assert says(made, 'AT+CPIN="1234"') == ["+CME ERROR: 3"]
    made = modem(pin="1234")
    for error in ("16", "16", "12"):
        assert says(made, 'AT+CPIN="9999"') == [f"+CME ERROR: {error}"]
    assert says(made, "AT+CPIN?") == ["+CPIN: SIM PUK", "OK"]


def test_quirks() -> None:
    select = 'AT+CSIM=14,"00A40004023F00"'
    assert says(modem(Quirk.HIDES_61XX), select)[0].startswith('+CSIM: 82,"6225')
    assert says(modem(Quirk.WANTS_LE), select) == ['+CSIM: 4,"9000"', "OK"]
    assert says(modem(Quirk.BARE_OCTETS, Quirk.COUNTS_OCTETS), select) == ["+CSIM: 2,6127", "OK"]
    assert says(modem(Quirk.NO_CSIM), select) == ["ERROR"]
    assert says(modem(Quirk.CHATTERS), select) == ["+CREG: 1", '+CSIM: 4,"6127"', "^RSSI: 21", "OK"]
    assert says(modem(Quirk.ODD_SESSIONS, Quirk.CCHO_PREFIX), f'AT+CCHO="{ISIM_AID}"') == ["+CCHO: 101", "OK"]
    assert says(modem(Quirk.LOCKS_WITHOUT_PIN, pin="1234"), select) == ["+CME ERROR: 11"]
    assert modem(Quirk.MUTE).receive(b"AT\r") == b""


@pytest.mark.parametrize(
    "command",
    [
        '+CSIM=12,"00A40004023F00"',
        '+CSIM=14,"00A40004023F0"',
        "+CSIM=2,00",
        "+CSIM",
        "+CCHO=",
        '+CGLA=x,4,"00"',
        "+CCHC=",
    ],
)
def test_wrong_parameters(command: str) -> None:
    assert says(modem(), f"AT{command}")[-1] in ("+CME ERROR: 50", "+CME ERROR: 21")


def test_a_card_comes_and_goes() -> None:
    made = modem()
    says(made, f'AT+CCHO="{ISIM_AID}"')
    assert made.remove() == b"\r\n+CPIN: NOT READY\r\n" and made.remove() == b""
    assert made.sessions == {} and says(made, "AT+CPIN?") == ["+CME ERROR: 10"]
    assert made.insert(card("1234")) == b"\r\n+CPIN: SIM PIN\r\n"


@given(
    st.lists(
        st.one_of(st.binary(max_size=50), st.sampled_from([b"AT+CSIM=", b"AT+CPIN=", b'"', b"\r", b";"])), max_size=20
    )
)
def test_any_octets(pieces: list[bytes]) -> None:
    made = modem()
    for piece in pieces:
        made.receive(piece)
    assert made.receive(b'"\rAT\r').endswith(b"\r\nOK\r\n")


def test_the_command(tmp_path: Path) -> None:
    """``imsbridge sim modem run``: a stranger's serial library talks to it by the link's name."""
    config, link = tmp_path / "card.toml", tmp_path / "modem"
    config.write_text(f'imsi = "001010000000001"\nk = "{K}"\nopc = "{OPC}"\n')
    config.chmod(0o600)
    command = [sys.executable, "-m", "imsbridge", "sim", "modem", "run", "-c", str(config), "--link", str(link)]
    with subprocess.Popen([*command, "--quirk", "chatters"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().strip() == str(link)
            with serial.Serial(str(link), timeout=5) as port:
                port.write(b"ATE0\r")
                port.read_until(b"OK\r\n")
                port.write(b"AT+CPIN?\r")
                assert b"\r\n+CPIN: READY\r\n" in port.read_until(b"OK\r\n")
                process.send_signal(signal.SIGUSR1)
                port.read_until(b"NOT READY\r\n")
        finally:
            process.terminate()
            assert process.wait(10) == 0
    assert not os.path.lexists(link)
