"""``imsbridge sim core run`` and ``sim phone run`` as programs: ready, a call, SIGTERM, exit codes."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from imskit.observe.events import read_events
from simulators.ims_core import command as core_command
from simulators.phone import command as phone_command

K, OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"
DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"


def core_file(folder: Path, gm: str = "127.0.0.4:0") -> Path:
    subscribers = "".join(
        f'[[subscribers]]\nimpi = "{n}@{DOMAIN}"\nimpus = ["sip:+1555{n}@{DOMAIN}", "tel:+1555{n}"]\n'
        f'k = "{K}"\nopc = "{OPC}"\n'
        for n in ("0100", "0200")
    )
    path = folder / "core.toml"
    path.write_text(
        f'domain = "{DOMAIN}"\ngm = ["{gm}"]\ncontrol = "{folder}/core.sock"\nhss = "{folder}/hss.sock"\n'
        f'events = "{folder}/core.jsonl"\n{subscribers}'
    )
    path.chmod(0o600)
    return path


def phone_file(folder: Path, number: str, p_cscf: str, more: str = "") -> Path:
    path = folder / f"{number}.toml"
    path.write_text(
        f'impi = "{number}@{DOMAIN}"\nimpus = ["sip:+1555{number}@{DOMAIN}"]\ndomain = "{DOMAIN}"\nk = "{K}"\n'
        f'opc = "{OPC}"\naddress = "127.0.0.1{number[1]}"\nport = 0\np_cscf = "{p_cscf}"\n'
        f'control = "{folder}/{number}.sock"\nevents = "{folder}/{number}.jsonl"\n{more}'
    )
    path.chmod(0o600)
    return path


@asynccontextmanager
async def program(*words: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run ``imsbridge sim`` until it says that it is ready; yields the rest of that line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "imsbridge", "sim", *words, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            while not (line := (await process.stderr.readline()).decode()).startswith("ready: "):
                assert line, "it ended before it was ready"
        yield process, line.removeprefix("ready: ").strip()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ask(socket: Path, path: str, body: Any = None) -> Any:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as client:
        method = "GET" if body is None else "POST"
        async with client.request(method, f"http://sim{path}", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()


async def stop(process: asyncio.subprocess.Process) -> int:
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode is not None
    return process.returncode


@pytest.mark.slow
async def test_core_and_phones(tmp_path: Path) -> None:
    config = str(core_file(tmp_path))
    async with program("core", "run", "-c", config) as (core, line):
        name, gm = line.split()
        assert name == "core"
        callee = str(phone_file(tmp_path, "0200", gm, 'behaviour = "busy"\n'))
        caller = str(phone_file(tmp_path, "0100", gm))
        async with (
            program("phone", "run", "-c", callee, "--answer-after", "0") as (second, ready),
            program("phone", "run", "-c", caller) as (first, _),
        ):
            assert ready.startswith("phone 127.0.0.12:")
            async with asyncio.timeout(20):
                while len(known := await ask(tmp_path / "core.sock", "/registrations")) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                assert {entry["impi"].partition("@")[0] for entry in known} == {"0100", "0200"}
                await ask(tmp_path / "0100.sock", "/dial", {"target": "+15550200"})
                while (await ask(tmp_path / "0100.sock", "/status"))["call"]["state"] != "answered":  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                await ask(tmp_path / "0100.sock", "/hangup", {})

                # The operator throws a phone out: it comes back by itself.
                body = {"impi": f"0200@{DOMAIN}", "event": "deactivated"}
                assert await ask(tmp_path / "core.sock", "/deregister", body) == {"contacts": 1}
                while _count(tmp_path / "core.jsonl", "registered") < 3:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert [await stop(first), await stop(second)] == [0, 0]
        assert _count(tmp_path / "core.jsonl", "unregistered") == 2
        assert await stop(core) == 0
    assert not (tmp_path / "core.sock").exists()
    assert not (tmp_path / "hss.sock").exists()


def _count(path: Path, name: str) -> int:
    return sum(event["event"] == name for event in read_events(path))


def _parser(command: Any) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    return parser


@pytest.mark.parametrize(
    ("command", "words", "code", "text"),
    [
        (core_command, ["core", "run", "-c", "{folder}/none.toml"], 2, "cannot be read"),
        (core_command, ["core", "run", "-c", "{bad}"], 2, "gm"),
        (core_command, ["core", "run", "-c", "{elsewhere}"], 1, "assign"),
        (phone_command, ["phone", "run", "-c", "{folder}/none.toml"], 2, "cannot be read"),
        (phone_command, ["phone", "run", "-c", "{phone}", "--play", "{folder}/none.wav"], 1, "cannot be played"),
    ],
)
def test_exit_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: Any, words: list[str], code: int, text: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    good, bad, phone = (
        core_file(elsewhere, "192.0.2.1:5060"),
        tmp_path / "bad.toml",
        phone_file(tmp_path, "0100", "127.0.0.4:1"),
    )
    bad.write_text(good.read_text().replace("gm =", "mg ="))
    bad.chmod(0o600)
    names = {"folder": tmp_path, "bad": bad, "elsewhere": good, "phone": phone}
    arguments = _parser(command).parse_args([word.format(**names) for word in words])
    assert arguments.run(arguments) == code
    told = capsys.readouterr().err
    assert text in told
    assert K not in told


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for command, name in ((core_command, "core"), (phone_command, "phone")):
        with pytest.raises(SystemExit):
            _parser(command).parse_args([name, "run", "--help"])
        told = capsys.readouterr().out
        assert "exit codes:" in told
        assert "curl --unix-socket" in told
    for wrong in (["--answer-after", "x"], ["--answer-after", "-1"], ["--busy", "--ignore"]):
        with pytest.raises(SystemExit):
            _parser(phone_command).parse_args(["phone", "run", "-c", "x", *wrong])
        capsys.readouterr()
