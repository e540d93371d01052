"""``imsbridge card info``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CARD = """
imsi = "001010000000001"
k = "00112233445566778899aabbccddeeff"
opc = "00112233445566778899aabbccddeeff"
"""
ISIM = """
[isim]
impi = "001010000000001@ims.mnc001.mcc001.3gppnetwork.org"
domain = "ims.mnc001.mcc001.3gppnetwork.org"
impu = ["sip:+15550100@ims.mnc001.mcc001.3gppnetwork.org", "tel:+15550100"]
pcscf = ["10.45.0.1"]
webrtc_uri = ["https://portal.ims.example/"]
"""
LOCKED = f'pin = "8417"\n{CARD}{ISIM}'

type Run = Callable[..., Any]
type Software = Callable[..., str]


def test_a_whole_card(run: Run, software: Software) -> None:
    shown = run("info", "--card", software(CARD + ISIM))
    assert shown.code == 0
    for text in (
        "note      no SIM card: its key lies in a file; for laboratories",
        "IMSI      001010000000001",
        "operator  test network (001-01)",
        "IMPU        tel:+15550100",
        "P-CSCF      10.45.0.1",
        "WebRTC URI  https://portal.ims.example/",
        "services    1 P-CSCF address · 20 WebRTC URI",
        "PIN         disabled",
        "from    the ISIM",
    ):
        assert text in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    assert shown.err == "", "identities are in no log"


def test_json(run: Run, software: Software) -> None:
    found = run("info", "--json", "--card", software(CARD + ISIM)).json
    assert list(found) == [
        *("version", "command", "ok", "card", "iccid", "imsi", "mcc", "mnc", "operator"),
        *("applications", "notes", "identities", "identities_problem"),
    ]
    assert found["identities"]["impus"][1] == "tel:+15550100"
    isim = found["applications"][1]
    assert isim["services"] == [{"number": 1, "name": "P-CSCF address"}, {"number": 20, "name": "WebRTC URI"}]
    assert isim["pin"] == {"reference": 1, "enabled": False, "open": True, "tries": None, "unblock_tries": 0}


def test_a_blank_isim(run: Run, software: Software) -> None:
    shown = run("info", "--card", software(CARD + "[isim]\n"))
    assert shown.code == 0
    assert "ISIM 'ISim1'  (blank: no identities on it)" in shown.out
    assert "from    the IMSI: derived (TS 23.003 13)" in shown.out


def test_the_pin_is_needed(run: Run, software: Software, secret_file: Any) -> None:
    shown = run("info", "--card", software(LOCKED))
    assert shown.code == 4
    assert "locked  EF_IMSI, EF_UST: needs the PIN, or the operator's right (6982)" in shown.out
    assert "the card wants its PIN (3 tries left) and none is configured" in shown.out.replace("\n", " ")
    assert "--pin-file FILE" in shown.out
    opened = run("info", "--card", software(LOCKED), "--pin-file", secret_file("pin", "8417\n"))
    assert opened.code == 0 and "IMPU" in opened.out
    assert run("info", "--card", software(LOCKED), "--pin-file", "-", stdin="8417\n").code == 0


def test_a_wrong_pin_costs_one_try(run: Run, software: Software) -> None:
    card = software(LOCKED)
    shown = run("info", "--card", card, "--pin-file", "-", stdin="1111\n")
    assert shown.code == 4 and "is wrong; 2 tries left" in shown.out
    assert "enabled, 2 tries left" in shown.out


def test_through_pcscd(run: Run, reader: Any) -> None:
    from imskit.config.model import parse
    from imskit.uicc.profile import CardProfile
    from imskit.uicc.uicc import Uicc

    nobody = run("info")
    assert nobody.code == 3 and "no card in reader UICC 00 00, UICC 00 01" in nobody.err
    assert "-> put the card in" in nobody.err
    reader.insert(Uicc(parse(CardProfile, CARD + ISIM)), 1)
    found = run("info", "--json").json
    assert found["card"]["source"] == "pcsc:UICC 00 01" and found["card"]["atr"].startswith("3B9F")
    assert run("info", "--card", "00 01").code == 0
    wrong = run("info", "--card", "ACR", "--json")
    assert wrong.code == 3
    assert wrong.json["error"]["text"] == "no card reader 'ACR'; there is: UICC 00 00, UICC 00 01"


@pytest.mark.parametrize(
    ("spec", "code", "text"),
    [
        ("modem:ttyUSB2", 2, "give the whole path"),
        ("qmi:/dev/cdc", 2, "no source of cards called 'qmi'"),
        ("software:/nowhere/card.toml", 3, "No such file"),
    ],
)
def test_wrong_specifications(run: Run, spec: str, code: int, text: str) -> None:
    shown = run("info", "--card", spec)
    assert (shown.code, shown.out) == (code, "") and text in shown.err


def test_files_that_others_may_read(run: Run, software: Software, tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    pin.write_text("8417\n")
    pin.chmod(0o644)
    shown = run("info", "--card", software(LOCKED), "--pin-file", pin)
    assert shown.code == 2 and f"chmod 600 {pin}" in shown.err
    empty = run("info", "--card", software(LOCKED), "--pin-file", "-", stdin="")
    assert empty.code == 2 and "its first line is empty" in empty.err


def test_a_card_that_is_upside_down(run: Run, reader: Any) -> None:
    """pcscd sees something and no sensible answer to reset."""
    from imskit.config.model import parse
    from imskit.uicc.profile import CardProfile
    from imskit.uicc.uicc import Uicc

    card = Uicc(parse(CardProfile, CARD))
    card.atr = b"\0\0"
    reader.insert(card)
    shown = run("info")
    assert shown.code == 3 and "does not answer; is it inserted the right way?" in shown.err
    assert "-> turn the card over" in shown.err
    assert "does not answer" in run("list").out
