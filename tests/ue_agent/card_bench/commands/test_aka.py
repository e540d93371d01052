"""``imsbridge card aka``: published vectors, the three cases, repetition, keys kept to themselves."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imskit.config.model import parse
from imskit.uicc.profile import CardProfile
from imskit.uicc.uicc import Uicc
from simulators.modem.engine.modem import Quirk
from ue_agent.card_bench.aka_runs import AkaBench

AKA_DATA = Path(__file__).parents[3] / "imskit" / "aka"
type Run = Callable[..., Any]
type Software = Callable[..., str]
type Secretly = Callable[[str, str], Path]

K, OPC = "fec86ba6eb707ed08905757b1bb44b8f", "1006020f0a478bf6b699f15c062e42b3"  # TS 35.208 set 3
CARD = f'imsi = "001010000000001"\nk = "{K}"\nopc = "{OPC}"\n'
TUAK = f'imsi = "001010000000001"\nalgorithm = "tuak"\nk = "{K}"\nopc = "{OPC * 2}"\n'
ANY_JUMP = "[numbers]\ndelta = 0\n"


def sets(name: str) -> list[list[str]]:
    return [line.split() for line in (AKA_DATA / name).read_text().splitlines() if line[0] != "#"]


def autn(sqn: str, ak: str, amf: str, mac: str) -> str:
    return f"{int(sqn, 16) ^ int(ak, 16):012x}{amf}{mac}"


def as_published(run: Run, spec: str, rand: str, challenge: str, keys: tuple[str, str, str]) -> None:
    shown = run("aka", "--json", "--show-keys", "--rand", rand, "--autn", challenge, "--card", spec)
    assert shown.code == 0, shown.out
    got = shown.json["runs"][0]["keys"]
    assert (got["RES"].lower(), got["CK"].lower(), got["IK"].lower()) == keys


@pytest.mark.parametrize("fields", sets("ts_35_208.txt"), ids=lambda fields: f"set-{fields[0]}")
def test_ts_35_208(fields: list[str], run: Run, software: Software) -> None:
    """X-CARDLAB: all 20 Milenage sets of TS 35.208 clause 4.3, through a card."""
    _, k, rand, sqn, amf, _op, opc, f1, _f1s, f2, f3, f4, f5, _f5s = fields
    spec = software(f'imsi = "001010000000001"\nk = "{k}"\nopc = "{opc}"\n{ANY_JUMP}')
    as_published(run, spec, rand, autn(sqn, f5, amf, f1), (f2, f3, f4))


@pytest.mark.parametrize(
    "fields", [f for f in sets("ts_35_233.txt") if len(f[8]) == 16], ids=lambda fields: f"set-{fields[0]}"
)
def test_ts_35_233(fields: list[str], run: Run, software: Software) -> None:
    """X-CARDLAB: the TUAK sets of TS 35.233 whose MAC fits into AUTN, 128 and 256 bit, through a card."""
    _, iterations, k, rand, sqn, amf, _top, topc, f1, _f1s, f2, f3, f4, f5, _f5s = fields
    lengths = f"[tuak]\nres = {len(f2) // 2}\nck = {len(f3) // 2}\nik = {len(f4) // 2}\niterations = {iterations}\n"
    profile = f'imsi = "001010000000001"\nalgorithm = "tuak"\nk = "{k}"\nopc = "{topc}"\n{ANY_JUMP}{lengths}'
    as_published(run, software(profile), rand, autn(sqn, f5, amf, f1), (f2, f3, f4))


def test_the_three_cases_through_pcscd(run: Run, reader: Any, secret_file: Secretly) -> None:
    """X-CARDLAB: success, resync with SQN_MS in parts, wrong MAC; Milenage and TUAK; over pcscd and vpcd."""
    reader.insert(Uicc(parse(CardProfile, CARD)))
    reader.insert(Uicc(parse(CardProfile, TUAK)), 1)
    for slot, name, text in ((0, "milenage", CARD), (1, "tuak", TUAK)):
        keys = secret_file(f"{name}.toml", text)
        spec = f"UICC 00 0{slot}"
        found = run("aka", "--keys", keys, "--card", spec, "--json").json
        assert (found["ok"], found["algorithm"], found["application"]) == (True, name, "USIM")
        success, resync, mac = found["runs"]
        assert [r["result"] for r in found["runs"]] == ["success", "auts", "mac"]
        assert resync["auts"]["sqn_ms"] == success["autn_parts"]["sqn"] == resync["autn_parts"]["sqn"]
        assert (resync["auts"]["mac_s_ok"], mac["autn_parts"]["mac_ok"]) == (True, False)
        assert success["total_ms"] > success["authenticate_ms"] > 0
        table = run("aka", "--keys", keys, "--card", spec)
        assert re.search(r"SQN_MS  0000000000[0-9A-F]{2}: SEQ \d+, IND \d+", table.out)
        assert "the card does as it should" in table.out
        assert max(map(len, table.out.splitlines())) <= 80


@pytest.mark.parametrize("quirks", [[], [Quirk.NO_CCHO, Quirk.HIDES_61XX], [Quirk.KEEPS_ECHO, Quirk.LITERAL_CLA]])
def test_over_a_modem(modem: Callable[..., str], run: Run, secret_file: Secretly, quirks: list[Quirk]) -> None:
    """X-CARDLAB: info, aka, gba and trace over an AT port."""
    text = CARD.replace("opc", "gba = true\nopc", 1)
    spec = modem(Uicc(parse(CardProfile, text)), quirks)
    keys = secret_file("keys.toml", text)
    assert "001010000000001" in run("info", "--card", spec).out
    found = run("aka", "--keys", keys, "--card", spec, "--json")
    assert found.code == 0 and [r["result"] for r in found.json["runs"]] == ["success", "auts", "mac"]
    assert run("gba", "--keys", keys, "--card", spec, "--json").json["kind"] == "GBA_U"
    assert "AUTHENTICATE, 3G/IMS AKA" in run("trace", "aka", "--keys", keys, "--card", spec).out


def test_repeated(run: Run, software: Software, keys: Path) -> None:
    shown = run("aka", "--keys", keys, "--card", software(CARD), "--repeat", "40")
    assert shown.code == 0
    assert "success    40       0  AUTHENTICATE" in shown.out
    found = run("aka", "--keys", keys, "--card", software(CARD), "--repeat", "5", "--case", "mac", "--json").json
    (statistics,) = found["statistics"]
    assert (statistics["case"], statistics["runs"], statistics["failures"]) == ("mac", 5, 0)
    assert statistics["total_ms"]["p50"] <= statistics["total_ms"]["p90"] <= statistics["total_ms"]["p99"]


def test_failures_are_counted_and_told(run: Run, reader: Any, keys: Path) -> None:
    class Moody:
        """Refuses every third AUTHENTICATE."""

        def __init__(self) -> None:
            self.card = Uicc(parse(CardProfile, CARD))
            self.atr = self.card.atr
            self.number = 0

        def reset(self) -> None:
            self.card.reset()

        def transmit(self, apdu: bytes) -> bytes:
            if apdu[1] == 0x88:
                self.number += 1
                if self.number > 2 and self.number % 3 == 0:
                    return b"\x6f\x00"
            return self.card.transmit(apdu)

    card = Moody()
    reader.insert(card)
    shown = run("aka", "--keys", keys, "--repeat", "9", "--json")
    assert shown.code == 1
    (statistics,) = shown.json["statistics"]
    text = "the card answered AUTHENTICATE with 6F00: technical problem, no precise diagnosis"
    assert (statistics["runs"], statistics["failures"], statistics["reasons"]) == (9, 3, {text: 3})
    card.number = 0
    assert f"3 times: {text}"[:60] in run("aka", "--keys", keys, "--repeat", "9").out.replace("\n", " ")


def test_pulled_in_the_middle(run: Run, reader: Any, keys: Path) -> None:
    from simulators.card.server import CardPulled

    class Pulled:
        def __init__(self) -> None:
            self.card = Uicc(parse(CardProfile, CARD))
            self.atr = self.card.atr
            self.number = 0

        def reset(self) -> None:
            self.card.reset()

        def transmit(self, apdu: bytes) -> bytes:
            self.number += apdu[1] == 0x88
            if self.number == 8:
                raise CardPulled
            return self.card.transmit(apdu)

    reader.insert(Pulled())
    shown = run("aka", "--keys", keys, "--repeat", "100")
    assert shown.code == 3
    assert "ended after 5 runs: the card was pulled out of the reader" in shown.out


def test_keys_are_shown_only_when_asked_for(run: Run, software: Software, keys: Path) -> None:
    quiet = run("aka", "--keys", keys, "--card", software(CARD), "--json", "--log-level", "debug")
    loud = run("aka", "--keys", keys, "--card", software(CARD), "--json", "--show-keys")
    shown = loud.json["runs"][0]["keys"]
    assert all(len(shown[name]) >= 16 for name in ("RES", "CK", "IK"))
    for text in (quiet.out, quiet.err, loud.err):
        assert K not in text.lower() and OPC not in text.lower()
    assert "keys" not in quiet.json["runs"][0]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "say what to run"),
        (["--rand", "00" * 16], "a challenge is --rand and --autn"),
        (["--rand", "00" * 15, "--autn", "00" * 16], "--rand is 32 hex digits"),
        (["--rand", "00" * 16, "--autn", "xy"], "--autn is 32 hex digits"),
        (["--rand", "00" * 16, "--autn", "00" * 16, "--repeat", "2"], "can be handed in once"),
        (["--ask-keys"], "asks at a terminal"),
    ],
)
def test_wrong_use(words: list[str], text: str, run: Run, software: Software) -> None:
    shown = run("aka", "--card", software(CARD), *words)
    assert (shown.code, shown.out) == (2, "") and text in shown.err


def test_no_such_application(run: Run, software: Software, keys: Path) -> None:
    shown = run("aka", "--keys", keys, "--card", software(CARD), "--application", "isim")
    assert shown.code == 1 and "the card has no ISIM; it has USIM" in shown.err


def test_keys_of_another_card(run: Run, software: Software, secret_file: Secretly) -> None:
    other = secret_file("other.toml", f'k = "{OPC}"\nopc = "{K}"\n')
    shown = run("aka", "--keys", other, "--card", software(CARD))
    assert shown.code == 1 and "9862: incorrect MAC (is the key right?)" in shown.out


def test_what_was_measured_before_an_interrupt_counts(
    run: Run, software: Software, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = AkaBench.run
    numbers = iter(range(100))

    def interrupted(bench: AkaBench, case: Any) -> Any:
        if next(numbers) == 9:
            raise KeyboardInterrupt
        return good(bench, case)

    monkeypatch.setattr(AkaBench, "run", interrupted)
    shown = run("aka", "--keys", keys, "--card", software(CARD), "--repeat", "1000", "--json")
    assert (shown.code, shown.json["stopped"], shown.json["ok"]) == (130, "interrupted", False)
    assert shown.json["statistics"][0]["runs"] == len(shown.json["runs"]) == 7, "two were for the numbers"
