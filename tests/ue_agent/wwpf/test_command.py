"""``imsbridge ue wwpf``: alone, without card or core.  Requirement S7-WWPF."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ue_agent.wwpf import command
from ue_agent.wwpf.ca import CERTIFICATE_FILE

PROGRAM = [
    sys.executable,
    "-c",
    "import argparse, sys\n"
    "from ue_agent.wwpf import command\n"
    "parser = argparse.ArgumentParser()\n"
    "command.register(parser.add_subparsers())\n"
    "arguments = parser.parse_args()\n"
    "sys.exit(arguments.run(arguments))\n",
    "wwpf",
]


@pytest.fixture(autouse=True)
def no_log_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of this process is pytest's."""
    monkeypatch.setattr(command.logs, "set_up", lambda level: None)


def call(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    parsed = parser.parse_args(["wwpf", *arguments])
    return int(parsed.run(parsed))


def test_it_runs_until_sigterm(tmp_path: Path) -> None:
    arguments = ["--listen", "127.0.0.1:0", "--pac", "127.0.0.1:0", "--operator-domain", "ims.example"]
    process = subprocess.Popen(
        [*PROGRAM, "run", *arguments, "--state", str(tmp_path / "state")], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    ready = next(match for line in process.stderr if (match := re.match(r"ready: wwpf (\S+), CA (\S+), (\S+)", line)))
    assert Path(ready[2]).exists()
    fetched = subprocess.run(
        ["curl", "-sS", "--proxy", f"http://{ready[1]}", ready[3]], capture_output=True, text=True, check=True
    )
    assert f"PROXY {ready[1]}" in fetched.stdout
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    process.stderr.close()


def test_the_policy_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--state", str(tmp_path), "--operator-domain", "ims.example", "--portal", "https://portal.ims.example"]
    assert call("policies", *arguments, "--pac", "127.0.0.1:8079") == 0
    policies = json.loads(capsys.readouterr().out)
    pem = (tmp_path / CERTIFICATE_FILE).read_text().replace("\n", "")
    assert policies["CACertificates"][0] in pem
    assert policies["AudioCaptureAllowedUrls"] == ["https://portal.ims.example"]
    assert call("policies", *arguments) == 2
    assert "--pac ADDR:PORT is needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--listen", "8080", "--operator-domain", "ims.example"], "no ADDRESS:PORT"),
        (["--listen", "127.0.0.1:0"], "--operator-domain"),
        (["--listen", "127.0.0.1:0", "--operator-domain", "10.0.0.1"], "no host name"),
        (["--listen", "127.0.0.1:0", "--operator-domain", "a.example", "--portal", "http://x"], "no https://HOST"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        call("run", *arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_what_does_not_fit_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--listen", "127.0.0.1:0", "--operator-domain", "ims.example", "--state", str(tmp_path)]
    assert call("run", *arguments, "--portal", "https://portal.other.example") == 2
    assert "not in the operator's domains" in capsys.readouterr().err


def test_no_secret_for_the_agents_socket(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert call("run", "--listen", "127.0.0.1:0", "--operator-domain", "x.example", "--agent-socket", "/x") == 2
    assert "standard input" in capsys.readouterr().err


def test_an_unusable_state_directory(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["--operator-domain", "ims.example", "--state", str(tmp_path / "file")]
    assert call("policies", *arguments, "--pac", "127.0.0.1:1") == 1
    assert call("run", "--listen", "127.0.0.1:0", *arguments) == 1
    assert str(tmp_path / "file") in capfd.readouterr().err
