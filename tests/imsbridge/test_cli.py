"""The command line: help that teaches, exit codes that mean something, samples that load."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from imsbridge.cli import main
from imsbridge.config import _models
from imsbridge.doctor import agent
from imskit.config.model import ConfigError, parse, sample

COMMANDS = (
    ["demo"],
    ["doctor"],
    ["config", "sample"],
    ["ue", "run"],
    ["ue", "check"],
    ["ue", "status"],
    ["ue", "dns", "run"],
    ["ue", "turn", "run"],
    ["ue", "wwpf", "run"],
    ["edge", "wwsf", "run"],
    ["edge", "eims-agw", "run"],
    ["card", "list"],
    ["card", "info"],
    ["card", "aka"],
    ["card", "gba"],
    ["card", "trace"],
    ["card", "trace", "start"],
    ["card", "pin"],
    ["sim", "core", "run"],
    ["sim", "phone", "run"],
    ["sim", "card", "run"],
    ["sim", "modem", "run"],
    ["sim", "dns", "run"],
)
UE = """
[operator]
domain = "ims.example"
portal = "portal.ims.example"
websocket = "ws.ims.example"
turn = ["turn.ims.example"]
[dns]
upstreams = ["203.0.113.1"]
[turn]
address = "192.0.2.77"
[wwpf]
browsers = ["/nowhere/chromium"]
[ims]
address = "192.0.2.78"
"""


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_fits_a_terminal_and_names_what_a_reader_needs(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: imsbridge {' '.join(words)}")
    assert len(text.splitlines()) > 5
    for line in text.splitlines():
        assert len(line) <= 120, line


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["dmeo"])
    assert ended.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(_models()))
def test_samples_are_toml_that_asks_for_what_is_missing(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "sample", name]) == 0
    text = capsys.readouterr().out
    assert text == sample(_models()[name])
    try:
        parse(_models()[name], text)
    except ConfigError as error:
        assert "not valid TOML" not in str(error)
        assert "unknown key" not in str(error)


def test_check_says_what_would_be_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ue.toml"
    path.write_text(UE)
    assert main(["ue", "check", "-c", str(path)]) == 0
    assert "192.0.2.77 port 3478" in capsys.readouterr().out
    path.write_text(UE.replace("upstreams", "upstream"))
    assert main(["ue", "check", "-c", str(path)]) == 2
    assert "did you mean 'upstreams'?" in capsys.readouterr().err


def test_status_without_an_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ue.toml"
    path.write_text(f'control = "{tmp_path}/none.sock"\n{UE}')
    assert main(["ue", "status", "-c", str(path)]) == 1
    assert "no agent answers" in capsys.readouterr().err


def test_doctor_names_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "ue.toml"
    path.write_text(f'control = "{tmp_path}/none.sock"\nstate = "{tmp_path}"\n{UE}')
    # A process of its own: the PC/SC library remembers for good where it looked first.
    argv = [sys.executable, "-m", "imsbridge", "doctor", "-c", str(path), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    found = {item["what"]: item for item in json.loads(done.stdout)}
    assert found["ims.address"]["verdict"] == "bad"
    assert "bring the interface up" in found["ims.address"]["cure"]
    assert found["wwpf.browsers"]["verdict"] == "bad"
    assert found["codec AMR-WB"]["verdict"] == "ok"
    assert all(item["cure"] for item in found.values() if item["verdict"] != "ok")


def test_doctor_looks_for_the_bootstrapping_server() -> None:
    """S7-GBA: a name that is wrong and a server that is away are told apart, each with the cure."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        text = f"127.0.0.1:{listener.getsockname()[1]}"
        away = agent._bsf(text)
        listener.listen()
        assert agent._bsf(text).verdict == "ok"
    assert (away.verdict, "cannot be reached" in away.text) == ("warn", True)
    unknown = agent._bsf("bsf.invalid:80")  # RFC 6761: no such name, ever
    assert (unknown.verdict, "cannot be resolved" in unknown.text) == ("bad", True)
    assert "gba.bsf" in unknown.cure


@pytest.mark.parametrize(
    ("reader", "verdict", "text", "cure"),
    [
        ("modem:/dev/nowhere", "bad", "there is no modem at /dev/nowhere", "imsbridge card list shows what is there"),
        ("software:/nowhere/card.toml", "bad", "No such file or directory", "put the SIM card in"),
        ("software:{file}", "warn", "its key in a file", "for laboratories only"),
    ],
)
def test_doctor_looks_for_the_card(tmp_path: Path, reader: str, verdict: str, text: str, cure: str) -> None:
    file = tmp_path / "card.toml"
    file.write_text(f'imsi = "001010000000001"\nk = "{"00" * 16}"\nopc = "{"00" * 16}"\n')
    file.chmod(0o600)
    found = agent._card_source(reader.format(file=file))
    assert (found.verdict, found.cure) == (verdict, cure) and text in found.text


def test_doctor_refuses_a_wrong_configuration(tmp_path: Path) -> None:
    path = tmp_path / "ue.toml"
    path.write_text("[operator]\n")
    argv = [sys.executable, "-m", "imsbridge", "doctor", "-c", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is missing" in done.stderr
