"""Errors with exit code and cure; what goes to a terminal."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imskit.config.model import ConfigError
from ue_agent.card_bench.commands.common import cell, cure, exit_code, printable, tries_left
from ue_agent.uicc import errors
from ue_agent.uicc.spec import SpecError


@pytest.mark.parametrize(
    ("error", "code", "advice"),
    [
        (errors.NoDaemonError("the service (pcscd) does not answer"), 3, "systemctl start pcscd.socket"),
        (errors.NoDaemonError("the service (pcscd) refuses this user; see its polkit rules"), 3, "a polkit rule"),
        (errors.NoDaemonError("PC/SC is not installed on this device: x"), 3, "apt-get install pcscd libpcsclite1"),
        (errors.NoReaderError("no card reader is connected"), 3, "plug the reader in"),
        (errors.NoCardError("no card in reader X"), 3, "put the card in"),
        (errors.CardRemovedError("pulled"), 3, "leave the card in"),
        (errors.CardUnresponsiveError("does not answer"), 3, "turn the card over"),
        (errors.AtError("no AT port", "5.1"), 3, "try the next"),
        (errors.WrongCardError("no SIM card"), 1, "imsbridge card list"),
        (errors.CardDataError("EF_IMSI"), 1, ""),
        (errors.PinRequiredError("the card wants its PIN (3 tries left)"), 4, "--pin-file"),
        (errors.PinRequiredError("the PIN is wrong; tries left: 2"), 4, "costs a try"),
        (errors.PinLastTryError("one PIN try is left"), 4, "--last-try"),
        (errors.PinBlockedError("blocked"), 4, "with the PUK"),
        (errors.CardError(0x6982, "security status", "X"), 1, "card info shows the PIN"),
        (errors.CardError(0x9864, "context", "AUTHENTICATE"), 1, "--application"),
        (errors.CardError(0x6F00, "technical", "X"), 1, ""),
        (ConfigError("x"), 2, ""),
        (SpecError("x"), 2, ""),
    ],
)
def test_every_error_has_a_code_and_most_a_cure(error: Exception, code: int, advice: str) -> None:
    assert exit_code(error) == code
    assert advice in cure(error) and bool(advice) == bool(cure(error))


def test_what_steers_a_terminal_is_replaced() -> None:
    assert printable("a\x1b[2Jb\x07\tc\nd") == "a\ufffd[2Jb\ufffd\ufffdc\nd"
    assert cell("[red]x[/red]").plain == "[red]x[/red]"
    assert (tries_left(1), tries_left(2)) == ("1 try left", "2 tries left")


def test_a_pipe_that_is_closed_early(software: Callable[..., str], tmp_path: Path) -> None:
    """``imsbridge card trace … | head -1`` ends without a traceback."""
    command = [sys.executable, "-m", "imsbridge", "card", "trace", "info", "--card", software()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""


def test_only_the_own_user_reads_keys(run: Any, software: Callable[..., str], tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text("k = ''\n")
    keys.chmod(0o640)
    shown = run("aka", "--keys", keys, "--card", software(), "--json")
    assert shown.code == 2
    assert shown.json["error"] == {
        "kind": "ConfigError",
        "text": f"{keys}: holds a key and others may get at it. Run: chmod 600 {keys}",
        "cure": None,
        "sw": None,
    }
