"""``imsbridge card pin``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imskit.secrets import Secret
from imskit.uicc.profile import CardProfile
from imskit.uicc.uicc import Uicc

type Run = Callable[..., Any]
KEY = Secret("00112233445566778899aabbccddeeff")


@pytest.fixture
def card(reader: Any) -> Uicc:
    """A card in a reader behind pcscd."""
    card = Uicc(CardProfile(imsi="001010000000001", k=KEY, opc=KEY, pin=Secret("84172963"), puk=Secret("99887766")))
    reader.insert(card)
    return card


def test_every_operation(run: Run, card: Uicc) -> None:
    """X-CARDLAB: tries shown before; verify, change, disable, enable, unblock."""
    shown = run("pin", "verify", "--pin-file", "-", stdin="84172963\n")
    assert (shown.code, shown.out.split(";")[0]) == (0, "the PIN is right")
    assert shown.err == "USIM in UICC 00 00: enabled, 3 tries left; PUK 10 tries left (reference 01)\n"
    assert not card.pin.verified, "no other program finds it open"
    assert run("pin", "change", "--pin-file", "-", "--new-pin-file", "-", stdin="84172963\n5678\n").code == 0
    disabled = run("pin", "disable", "--pin-file", "-", stdin="5678\n")
    assert disabled.code == 0 and "now: disabled" in disabled.out and not card.pin.enabled
    assert run("pin", "enable", "--pin-file", "-", stdin="5678\n").code == 0 and card.pin.enabled
    card.pin_tries_left = 0
    found = run("pin", "unblock", "--puk-file", "-", "--new-pin-file", "-", "--json", stdin="99887766\n1234\n").json
    assert (found["before"]["tries"], found["after"]["tries"]) == (0, 3)


def test_tries_are_not_lost_by_surprise(run: Run, card: Uicc) -> None:
    for left in (2, 1):
        shown = run("pin", "verify", "--pin-file", "-", stdin="0000\n")
        assert shown.code == 4 and f"the PIN is wrong; tries left: {left} (63C{left})" in shown.err
    shown = run("pin", "verify", "--pin-file", "-", stdin="84172963\n")
    assert (shown.code, shown.out) == (4, "")
    assert "1 try left" in shown.err and "one PIN try is left; --last-try uses it" in shown.err
    assert card.pin_tries_left == 1
    assert run("pin", "verify", "--last-try", "--pin-file", "-", stdin="84172963\n").code == 0
    card.pin_tries_left = 0
    blocked = run("pin", "verify", "--last-try", "--pin-file", "-", stdin="84172963\n")
    assert blocked.code == 4 and "BLOCKED" in blocked.err and "with the PUK" in blocked.err


def test_errors_as_json(run: Run, card: Uicc) -> None:
    error = run("pin", "enable", "--pin-file", "-", "--json", stdin="84172963\n").json["error"]
    assert error == {
        "kind": "CardError",
        "text": "the card answered ENABLE PIN with 6985: conditions of use not satisfied",
        "cure": None,
        "sw": "6985",
    }


@pytest.mark.parametrize(
    ("words", "stdin", "text"),
    [
        (["verify", "--new-pin-file", "-"], "", "--new-pin-file goes with change and unblock"),
        (["verify", "--puk-file", "-"], "", "--puk-file goes with unblock"),
        (["unblock", "--pin-file", "-"], "", "unblock takes --puk-file and --new-pin-file"),
        (["verify"], "", "the PIN is asked for at a terminal"),
        (["change", "--pin-file", "-"], "84172963\n", "the new PIN is asked for at a terminal"),
        (["verify", "--pin-file", "-"], "12\n", "a PIN has 4 to 8 digits"),
        (["unblock", "--puk-file", "-", "--new-pin-file", "-"], "1234\n5678\n", "a PUK has 8 digits"),
    ],
)
def test_wrong_use_sends_nothing(words: list[str], stdin: str, text: str, run: Run, card: Uicc) -> None:
    shown = run("pin", *words, stdin=stdin)
    assert (shown.code, shown.out) == (2, "") and text in shown.err
    assert (card.pin_tries_left, card.pin.puk_tries_left) == (3, 10)


def test_the_pin_is_asked_for_without_echo(
    run: Run, card: Uicc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers = iter(["84172963", "5678", "5679", "84172963", "5678", "5678"])
    asked: list[str] = []

    def getpass(prompt: str, stream: Any) -> str:
        asked.append(prompt)
        return next(answers)

    monkeypatch.setattr("getpass.getpass", getpass)
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("io.StringIO", Terminal)
    differs = run("pin", "change")
    assert differs.code == 2 and "the two new PINs differ; nothing was done" in differs.err
    assert run("pin", "change").code == 0
    assert asked == ["PIN: ", "new PIN: ", "new PIN again: "] * 2


def test_a_card_in_software_has_its_pin_in_its_file(run: Run, software: Any) -> None:
    text = f'imsi = "001010000000001"\nk = "{KEY.reveal()}"\nopc = "{KEY.reveal()}"\npin = "1234"\n'
    spec = software(text)
    assert run("pin", "verify", "--card", spec, "--pin-file", "-", stdin="1234\n").code == 0
    shown = run("pin", "disable", "--card", spec, "--pin-file", "-", stdin="1234\n")
    assert shown.code == 2 and "stands in its file" in shown.err
