"""``imsbridge card list`` through a real pcscd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imskit.secrets import Secret
from imskit.uicc.profile import CardProfile, IsimProfile
from imskit.uicc.uicc import Uicc
from ue_agent.uicc import inventory
from ue_agent.uicc.inventory import ModemPort

KEY = Secret("00112233445566778899aabbccddeeff")


def card(**fields: Any) -> Uicc:
    return Uicc(CardProfile(**{"imsi": "001010000000001", "k": KEY, "opc": KEY, **fields}))


class BankCard:
    """No SIM card."""

    atr = bytes.fromhex("3b6500002063cb6800")

    def reset(self) -> None: ...

    def transmit(self, apdu: bytes) -> bytes:
        return b"\x6d\x00"


def test_two_readers(reader: Any, run: Callable[..., Any]) -> None:
    """X-CARDLAB: readers, ATR, IMSI, operator, what is in which reader."""
    empty = run("list")
    assert empty.code == 3 and "empty" in empty.out
    reader.insert(card(isim=IsimProfile()))
    reader.insert(card(imsi="310260123456789", mnc_length=3, iccid="8901260000000000017"), 1)
    shown = run("list", "--json")
    assert (shown.code, shown.err) == (0, "")
    first, second = shown.json["places"]
    assert first == {
        "source": "pcsc:UICC 00 00",
        "name": "UICC 00 00",
        "kind": "reader",
        "atr": "3B9F96801F878031E073FE211B674A4C753034054BA9",
        "iccid": "89001010000000000010",
        "imsi": "001010000000001",
        "mcc": "001",
        "mnc": "01",
        "operator": "test network",
        "applications": ["USIM", "ISIM"],
        "text": "",
    }
    assert (second["imsi"], second["mcc"], second["mnc"]) == ("310260123456789", "310", "260")
    table = run("list")
    assert "test network (001-01)" in table.out and '--card "pcsc:UICC 00 01"' in table.out
    assert max(map(len, table.out.splitlines())) <= 80


def test_locked_and_foreign_cards(reader: Any, run: Callable[..., Any]) -> None:
    reader.insert(card(pin=Secret("1234")))
    reader.insert(BankCard(), 1)
    table = run("list")
    assert "IMSI    behind the PIN" in table.out
    assert "no SIM card: neither USIM nor ISIM" in table.out


def test_no_service(reader: Any, run: Callable[..., Any]) -> None:
    reader.daemon.stop()
    table = run("list")
    assert table.code == 3
    assert "(pcscd) does not answer" in table.out and "systemctl start pcscd.socket" in table.out
    assert run("list", "--json").json["pcsc_problem"]["cure"].startswith("apt-get install pcscd")


def test_modems_are_named_and_not_asked(reader: Any, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    port = ModemPort(Path("/dev/ttyUSB2"), "Quectel EG25-G \x1b[2J")
    monkeypatch.setattr(inventory, "modem_ports", lambda: (port,))
    shown = run("list", "--json").json["places"][-1]
    assert (shown["source"], shown["kind"], shown["text"]) == (
        "modem:/dev/ttyUSB2",
        "modem",
        "not asked; --modems does",
    )
    assert "\x1b" not in run("list").out, "what a device calls itself does not steer the terminal"


def test_modems_are_asked_on_demand(
    reader: Any, modem: Callable[..., str], run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """X-CARDLAB: what is in which modem; one that does not answer is named with its error."""
    plugged = Path(modem(card(spn="Lab Mobile"), []).removeprefix("modem:"))
    ports = (ModemPort(plugged, "emulated"), ModemPort(Path("/dev/null"), "no modem"))
    monkeypatch.setattr(inventory, "modem_ports", lambda: ports)
    asked = run("list", "--modems", "--json").json["places"][2:]
    assert (asked[0]["imsi"], asked[0]["operator"], asked[0]["kind"]) == ("001010000000001", "Lab Mobile", "modem")
    assert asked[1]["imsi"] is None and asked[1]["text"]
