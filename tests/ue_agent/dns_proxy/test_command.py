"""``imsbridge ue dns run``: arguments and refusals (running it: tests/interop/test_dig.py).  Requirement S7-DNS."""

from __future__ import annotations

import argparse
import socket

import pytest

from ue_agent.dns_proxy import command


@pytest.fixture(autouse=True)
def no_log_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of this process is pytest's."""
    monkeypatch.setattr(command.logs, "set_up", lambda level: None)


def call(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    parsed = parser.parse_args(["dns", "run", *arguments])
    return int(parsed.run(parsed))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--upstream", "192.0.2.1"], "--listen"),
        (["--listen", "127.0.0.1:0"], "--upstream"),
        (["--listen", "127.0.0.1", "--upstream", "192.0.2.1"], "no ADDRESS:PORT"),
        (["--listen", "127.0.0.1:0", "--upstream", "dns.example"], "dns.example"),
        (["--listen", "127.0.0.1:0", "--upstream", "192.0.2.1", "--answer", "turn.example"], "no NAME=ADDR"),
        (["--listen", "127.0.0.1:0", "--upstream", "192.0.2.1", "--answer", "turn.example=x"], "x"),
        (["--listen", "127.0.0.1:0", "--upstream", "192.0.2.1", "--operator-domain", "a..b"], "a..b"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        call(*arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_a_loop_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--listen", "127.0.0.1:53", "--upstream", "127.0.0.1") == 2
    assert "cannot be both" in capsys.readouterr().err


def test_an_address_that_cannot_be_had(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert call("--listen", f"127.0.0.1:{port}", "--upstream", "192.0.2.1") == 1
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
