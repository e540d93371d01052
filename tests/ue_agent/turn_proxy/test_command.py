"""``imsbridge ue turn run`` as a process, and its arguments (S7-TURN)."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from imskit.stun.wire import attributes as a
from imskit.stun.wire.message import Method, parse_message, request
from ue_agent.turn_proxy import command


async def _start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "imsbridge", "ue", "turn", "run", *arguments, stderr=asyncio.subprocess.PIPE
    )


async def _ready(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(20):
        while line := (await process.stderr.readline()).decode():
            if line.startswith("ready: turn "):
                return line.removeprefix("ready: turn ").strip()
    raise AssertionError(f"it ended with {await process.wait()}")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_runs_and_stops(how: signal.Signals, connect: Any) -> None:
    process = await _start("--listen", "127.0.0.1:0", "--realm", "r", "--user", "alice:secret", "--log-level", "info")
    host, port = (await _ready(process)).split(":")
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        client = await connect((host, int(port)), kind)
        await client.send(request(Method.BINDING, bytes(12)).encode())
        answer = parse_message(await client.receive())
        assert answer.get(a.XOR_MAPPED_ADDRESS) == client.sock.getsockname()
    process.send_signal(how)
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0
    assert b"stops" in errors
    assert b"secret" not in errors
    assert b"Traceback" not in errors


async def test_address_in_use() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        process = await _start("--listen", f"127.0.0.1:{port}", "--realm", "r", "--user", "a:b", "--allow-peer", "::1")
        _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert b"in use" in errors and b"Traceback" not in errors


def _parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers(required=True))
    return parser.parse_args(["turn", "run", *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--listen", "turn.example:1"], "is no IP address"),
        (["--listen", "0.0.0.0:3478"], "is not one address"),
        (["--listen", "[::]:3478"], "is not one address"),
        (["--listen", "127.0.0.1:70000"], "is no ADDRESS:PORT"),
        (["--listen", "[::1]3478"], "is no ADDRESS:PORT"),
        (["--user", "alice"], "USER:PASSWORD"),
        (["--allow-peer", "10.0.0.1/8"], "has host bits set"),
        (["--allow-peer", "peers"], "give a network"),
        ([], "required: --listen, --realm"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        _parse(*arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_nobody_could_log_in(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--listen", "127.0.0.1:0", "--realm", "r"]
    assert command.run(_parse(*options)) == 2
    assert "--user" in capsys.readouterr().err
    assert command.run(_parse(*options, "--user-file", str(tmp_path / "none"))) == 2
    assert "No such file" in capsys.readouterr().err


def test_endpoints() -> None:
    assert command.parse_endpoint("203.0.113.2") == ("203.0.113.2", 3478)
    assert command.parse_endpoint("203.0.113.2:0") == ("203.0.113.2", 0)
    assert command.parse_endpoint("2001:DB8::2") == ("2001:db8::2", 3478)
    assert command.parse_endpoint("[2001:db8::2]:5349") == ("2001:db8::2", 5349)
    assert command.parse_endpoint("[2001:db8::2]") == ("2001:db8::2", 3478)


def test_users_and_secrets_from_files(tmp_path: Path) -> None:
    users, secret = tmp_path / "users", tmp_path / "secret"
    users.write_text("# users\nbob:with:colons\n\n")
    secret.write_text("shared\n")
    options = ["--listen", "127.0.0.1:0", "--realm", "r", "--user-file", str(users), "--rest-secret-file", str(secret)]
    arguments = _parse(*options)
    store = command._credentials(arguments)
    assert store.key("bob", 1, 0.0) and store.key("4000000000:x", 2, 0.0)
    assert not store.key("1000:x", 2, 0.0)
    assert "colons" not in repr(_parse("--listen", "127.0.0.1:0", "--realm", "r", "--user", "bob:with:colons"))
    secret.write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        command._credentials(arguments)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        _parse("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "turnutils_uclient" in text and "exit codes" in text
