"""The agent's socket: who may ask, and what becomes of questions.  Requirement S7-AUTH; nobody else gets an answer."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from imskit.secrets import Identity, Secret
from ue_agent.wwpf import service as module
from ue_agent.wwpf.agent import AgentError, ChallengeAnswer, LoginIdentity
from ue_agent.wwpf.agent_link import AgentLink, Sessions
from ue_agent.wwpf.config import AgentSocket
from ue_agent.wwpf.service import WwpfService


class Handler:
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.asked: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def identity(self) -> LoginIdentity:
        if self.error:
            raise self.error
        await self.gate.wait()
        return LoginIdentity(Identity("user@home.example"), "home.example")

    async def answer_challenge(self, challenge: str, method: str, uri: str) -> ChallengeAnswer:
        self.asked.append((challenge, method, uri))
        return ChallengeAnswer("Digest done", True)

    async def answer_naf_challenge(self, challenge: str, method: str, uri: str, host: str, renew: bool) -> str:
        if self.error:
            raise self.error
        self.asked.append((challenge, method, uri, host, renew))
        return "Digest with a key"

    async def turn_credential(self, username: str, password: Secret[str], ttl: float) -> None:
        self.asked.append((username, password.reveal(), ttl))


@pytest.fixture
async def handler() -> Handler:
    return Handler()


@pytest.fixture
async def service(handler: Handler, tmp_path: Path) -> AsyncIterator[WwpfService]:
    running = WwpfService(handler, tmp_path / "run" / "agent.sock")
    await running.start()
    yield running
    await running.aclose()


class Raw:
    """A connection without manners."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, line: bytes | dict[str, Any]) -> dict[str, Any] | None:
        self.writer.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
        try:
            answer = await self.reader.readline()
        except ConnectionResetError:
            return None
        return json.loads(answer) if answer else None


async def dial(service: WwpfService) -> Raw:
    return Raw(*await asyncio.open_unix_connection(service.socket.path))


def hello(service: WwpfService) -> dict[str, Any]:
    return {"id": 1, "op": "hello", "secret": service.socket.secret.reveal()}


async def test_questions_and_answers(service: WwpfService, handler: Handler) -> None:
    sessions: list[Sessions] = []
    link = AgentLink(service.socket, sessions.append)
    assert await link.identity() == LoginIdentity(Identity("user@home.example"), "home.example")
    assert await link.answer_challenge("Digest c", "GET", "/") == ChallengeAnswer("Digest done", True)
    await link.turn_credential("u", Secret("p"), 60)
    await link.status("ready", "x")
    assert handler.asked == [("Digest c", "GET", "/"), ("u", "p", 60.0)]
    assert (service.state, service.detail) == ("ready", "x")
    await link.aclose()
    assert sessions == [[], []]


async def test_errors_travel(service: WwpfService, handler: Handler, caplog: pytest.LogCaptureFixture) -> None:
    link = AgentLink(service.socket, lambda _: None)
    handler.error = AgentError("wrong-network", "not my network")
    with pytest.raises(AgentError, match="not my network") as caught:
        await link.identity()
    assert caught.value.kind == "wrong-network"
    handler.error = RuntimeError("a bug, with secret")
    with pytest.raises(AgentError, match="see its log") as caught:
        await link.identity()
    assert caught.value.kind == "internal"
    handler.error = None
    await link.identity()
    await link.aclose()


async def test_the_socket_is_for_its_user_only(service: WwpfService) -> None:
    path = service.socket.path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert service.socket.secret.reveal() not in repr(service.socket)


@pytest.mark.parametrize(
    "first",
    [
        {"id": 1, "op": "hello", "secret": "guess"},
        {"id": 1, "op": "hello"},
        {"id": 1, "op": "identity"},
        {"id": 1, "op": "answer", "challenge": "c", "method": "GET", "uri": "/"},
        b"nonsense\n",
        b"x" * 70_000 + b"\n",
    ],
)
async def test_without_the_secret_there_is_nothing(service: WwpfService, handler: Handler, first: Any) -> None:
    raw = await dial(service)
    assert await raw.say(first) is None
    assert not handler.asked


async def test_a_silent_connection_is_closed(service: WwpfService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELLO_S", 0.05)
    raw = await dial(service)
    assert await raw.reader.read() == b""


async def test_another_process_is_refused_even_with_the_secret(service: WwpfService) -> None:
    service.process = os.getpid()
    assert await (await dial(service)).say(hello(service)) is not None
    code = (
        "import socket, sys\n"
        "try:\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "    s.sendall(sys.stdin.readline().encode())\n"
        "    print(len(s.recv(999)))\n"
        "except ConnectionError: print(0)\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, service.socket.path, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(json.dumps(hello(service)).encode() + b"\n")
    assert out == b"0\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
async def test_another_user_is_refused_even_with_the_secret(service: WwpfService) -> None:
    service.socket.path.chmod(0o666)
    for directory in service.socket.path.parents:
        if directory.stat().st_uid == os.geteuid() and directory.is_relative_to("/tmp") and directory != Path("/tmp"):
            directory.chmod(0o755)
    code = (
        "import os, socket, sys\n"
        "os.setuid(65534)\n"
        "try:\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "    s.sendall(sys.stdin.readline().encode())\n"
        "    print(len(s.recv(999)))\n"
        "except ConnectionError: print(0)\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, service.socket.path, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(json.dumps(hello(service)).encode() + b"\n")
    assert out == b"0\n"


@pytest.mark.parametrize(
    "message",
    [
        {"id": 2, "op": "reveal-res"},
        {"id": 2},
        {"id": 2, "op": "answer", "challenge": 5},
        {"id": 2, "op": "turn", "username": "u", "password": "p", "ttl": -1},
        {"id": 2, "op": "sessions", "closed": "x"},
        {"id": 2, "op": "sessions", "opened": [["short", 1]]},
    ],
)
async def test_what_makes_no_sense_is_refused_and_the_rest_goes_on(service: WwpfService, message: Any) -> None:
    raw = await dial(service)
    await raw.say(hello(service))
    answer = await raw.say(message)
    assert answer is not None
    assert answer["error"]["kind"] == "internal"
    assert (await raw.say({"id": 3, "op": "identity"}) or {})["id"] == 3


async def test_questions_at_once_are_bounded(service: WwpfService, handler: Handler) -> None:
    raw = await dial(service)
    await raw.say(hello(service))
    handler.gate.clear()
    for number in range(2, 19):
        raw.writer.write(json.dumps({"id": number, "op": "identity"}).encode() + b"\n")
    refused = json.loads(await raw.reader.readline())
    assert (refused["id"], refused["error"]["kind"]) == (18, "busy")
    handler.gate.set()
    assert sorted([json.loads(await raw.reader.readline())["id"] for _ in range(16)]) == list(range(2, 18))


async def test_challenges_are_limited_over_time(
    service: WwpfService, handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = AgentLink(service.socket, lambda _: None)
    for _ in range(module.BURST):
        await link.answer_challenge("c", "GET", "/")
    with pytest.raises(AgentError, match="too many") as caught:
        await link.answer_challenge("c", "GET", "/")
    assert caught.value.kind == "busy"
    monkeypatch.setattr(module, "REFILL_S", 1e-9)
    await link.answer_challenge("c", "GET", "/")
    await link.aclose()


async def test_log_ins_outlive_the_wwpf_process(service: WwpfService) -> None:
    loop_time = module.time.monotonic()
    service.belongs_to(Identity("user@home.example"))
    first: list[Sessions] = []
    link = AgentLink(service.socket, first.append)
    await link.sessions_changed([("a" * 64, loop_time + 60), ("b" * 64, loop_time + 60), ("c" * 64, loop_time - 1)], [])
    await link.sessions_changed([], ["b" * 64])
    await link.aclose()
    second: list[Sessions] = []
    emptied = asyncio.Event()

    def learn(sessions: Sessions) -> None:
        second.append(sessions)
        if not sessions:
            emptied.set()

    link = AgentLink(service.socket, learn)
    await link.identity()
    assert second == [[("a" * 64, loop_time + 60)]]
    service.belongs_to(Identity("other@home.example"))
    await emptied.wait()  # the connection was closed under it
    await link.identity()
    assert second[1:] == [[], []]
    await link.aclose()


async def test_an_agent_that_is_not_there(tmp_path: Path) -> None:
    link = AgentLink(AgentSocket(tmp_path / "none.sock", Secret("x")), lambda _: None)
    with pytest.raises(AgentError, match="not running") as caught:
        await link.identity()
    assert caught.value.kind == "not-ready"


async def test_an_agent_that_talks_nonsense(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b'{"id":1,"result":{"sessions":"x"}}\n')

    server = await asyncio.start_unix_server(serve, tmp_path / "s.sock")
    link = AgentLink(AgentSocket(tmp_path / "s.sock", Secret("x")), lambda _: None)
    with pytest.raises(AgentError, match="strangely"):
        await link.identity()
    await link.aclose()
    server.close()


async def test_a_bootstrapped_key_is_asked_for(service: WwpfService, handler: Handler) -> None:
    """S7-GBA: the finished Authorization value crosses the socket, nothing of the key does."""
    link = AgentLink(service.socket, lambda sessions: None)
    answer = await link.answer_naf_challenge("Digest x", "GET", "/", "portal.example", True)
    assert answer == "Digest with a key"
    assert handler.asked == [("Digest x", "GET", "/", "portal.example", True)]
    for kind in ("bsf", "phishing"):
        handler.error = AgentError(kind, "words")  # type: ignore[arg-type]
        with pytest.raises(AgentError, match="words") as caught:
            await link.answer_naf_challenge("Digest x", "GET", "/", "portal.example", False)
        assert caught.value.kind == kind
    await link.aclose()


async def test_too_many_questions_for_keys(
    service: WwpfService, handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wear the card as the others do."""
    monkeypatch.setattr(service, "_tokens", 1.0)
    link = AgentLink(service.socket, lambda sessions: None)
    await link.answer_naf_challenge("Digest x", "GET", "/", "portal.example", False)
    with pytest.raises(AgentError, match="too many"):
        await link.answer_naf_challenge("Digest x", "GET", "/", "portal.example", False)
    await link.aclose()
