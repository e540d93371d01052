"""The WWPF as a process of its own.  Requirement S7-WWPF; architecture, "Processes"."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
import pytest

from imskit.secrets import Secret
from ue_agent.wwpf.agent import AgentError, ChallengeAnswer, LoginIdentity
from ue_agent.wwpf.child import ChildError, WwpfChild
from ue_agent.wwpf.config import Address, Handover, WwpfConfig
from ue_agent.wwpf.service import WwpfService


class NoCard:
    async def identity(self) -> LoginIdentity:
        raise AgentError("not-ready", "no card")

    async def answer_challenge(self, challenge: str, method: str, uri: str) -> ChallengeAnswer:
        raise AgentError("not-ready", "no card")

    async def turn_credential(self, username: str, password: Secret[str], ttl: float) -> None:
        raise AgentError("not-ready", "no card")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[WwpfService]:
    running = WwpfService(NoCard(), tmp_path / "run" / "agent.sock")
    await running.start()
    yield running
    await running.aclose()


def config(tmp_path: Path) -> WwpfConfig:
    return WwpfConfig(
        listen=Address("127.0.0.1", 0),
        pac=Address("127.0.0.1", 0),
        state=tmp_path / "wwpf",
        operator_domains=("ims.example",),
        handover=Handover(Address("127.0.0.1", 9), Secret("handover-secret-of-this-start")),
        log_level="warning",
    )


async def test_it_runs_is_started_again_and_stops(service: WwpfService, tmp_path: Path) -> None:
    child = WwpfChild(config(tmp_path), service)
    await child.start()
    try:
        first = child.pid
        assert first is not None
        process = psutil.Process(first)
        # Neither arguments nor environment show a secret.
        shown = " ".join(process.cmdline()) + str(process.environ())
        assert "handover-secret" not in shown
        assert service.socket.secret.reveal() not in shown
        pac = service.detail.partition(", ")[2]
        async with aiohttp.ClientSession() as client, client.get(pac) as response:
            assert "FindProxyForURL" in await response.text()
            assert response.content_type == "application/x-ns-proxy-autoconfig"
        assert process.memory_info().rss < 150e6
        service.reported.clear()
        os.kill(first, signal.SIGKILL)
        await service.reported.wait()
        assert service.state == "ready"
        assert child.pid not in (None, first)
    finally:
        await child.stop()
    assert child.pid is None


async def test_it_says_why_it_cannot_start(service: WwpfService, tmp_path: Path) -> None:
    good = config(tmp_path)
    first = WwpfChild(good, service)
    await first.start()
    try:
        address = Address.parse(service.detail.removeprefix("proxy ").partition(",")[0])
        second_service = WwpfService(NoCard(), tmp_path / "run2" / "agent.sock")
        await second_service.start()
        with pytest.raises(ChildError, match=f"cannot listen on {address}"):
            await WwpfChild(dataclasses.replace(good, listen=address), second_service).start()
        await second_service.aclose()
    finally:
        await first.stop()


async def test_it_ends_with_its_parent(service: WwpfService, tmp_path: Path) -> None:
    """The pipe to it closes when the agent dies, however it dies."""
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'ue_agent.wwpf'], stdin=subprocess.PIPE)\n"
        "child.stdin.write(sys.stdin.buffer.readline()); child.stdin.flush()\n"
        "print(child.pid, flush=True); sys.stdin.read()\n"
    )
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    alone = dataclasses.replace(config(tmp_path), agent=service.socket)
    process.stdin.write(alone.to_json().encode() + b"\n")
    pid = int(await process.stdout.readline())
    await service.reported.wait()
    child = psutil.Process(pid)
    process.kill()
    await process.wait()
    gone, _ = await asyncio.to_thread(psutil.wait_procs, [child], 10)
    assert gone


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to hand out capabilities")
def test_the_rights_that_ipsec_needs_are_not_handed_on() -> None:
    """An agent that may do IPsec starts a web proxy that may not."""
    program = (
        "import subprocess\n"
        "from ue_agent.wwpf.child import without_network_rights\n"
        "command = ['grep', 'CapEff', '/proc/self/status']\n"
        "for preparation in (None, without_network_rights):\n"
        "    subprocess.run(command, preexec_fn=preparation, check=True)\n"
    )
    rights = "+net_admin,+net_raw,+net_bind_service"
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    argv = [*user, f"--inh-caps={rights}", f"--ambient-caps={rights}", sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment)
    before, after = (int(line.split()[1], 16) for line in done.stdout.splitlines())
    assert before == 1 << 12 | 1 << 13 | 1 << 10
    assert after == 1 << 10
