"""Faults of Gm where the kernel does IPsec at both ends: those of ``tests/ue_agent/gm_security``, and crashes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from ..ue_agent.gm_security import conftest as gm
from ..ue_agent.gm_security.test_faults import (
    test_clear_request_to_a_protected_port,
    test_mtu_too_small,
    test_nothing_in_clear_inside_an_agreement,
    test_p_cscf_restarts_and_forgets_the_associations,
    test_re_authentication_overlaps,
    test_replayed_and_corrupted_esp,
    test_spi_that_is_in_use,
    test_two_agents_on_one_card,
    test_wrong_security_verify,
)

__all__ = [
    "test_clear_request_to_a_protected_port",
    "test_mtu_too_small",
    "test_nothing_in_clear_inside_an_agreement",
    "test_p_cscf_restarts_and_forgets_the_associations",
    "test_re_authentication_overlaps",
    "test_replayed_and_corrupted_esp",
    "test_spi_that_is_in_use",
    "test_two_agents_on_one_card",
    "test_wrong_security_verify",
]

network = gm.network  # fixture


class KernelLab(gm.Lab):
    """The same, with the kernel's IPsec."""

    backend = "kernel"


@pytest.fixture
async def lab(network: Any, tmp_path: Path) -> AsyncIterator[gm.Lab]:
    async with AsyncExitStack() as stack:
        yield KernelLab(network, tmp_path, stack)
    for station in (network.ue, network.core, network.phone):
        assert station.command("ip", "xfrm", "state") == station.command("ip", "xfrm", "policy") == ""


async def test_a_phone_that_is_killed_leaves_nothing_for_long(lab: Any, tmp_path: Path) -> None:
    """kill -9: its associations stay in the kernel and go when it is started again; both registrations succeed."""
    core = await lab.core()
    config = tmp_path / "phone.toml"
    config.touch(0o600)
    config.write_text(
        f"""
impi = "001010000000000200@{gm.DOMAIN}"
impus = ["sip:+15550200@{gm.DOMAIN}", "tel:+15550200"]
domain = "{gm.DOMAIN}"
k = "{gm.K}"
opc = "{gm.OPC}"
address = "{gm.ADDRESSES[4][3]}"
p_cscf = "{gm.ADDRESSES[4][2]}:5060"
security = "ipsec"
backend = "kernel"
"""
    )
    argv = [sys.executable, "-m", "imsbridge", "sim", "phone", "run", "-c", str(config)]
    said: list[bytes] = []

    async def start() -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.PIPE)
        assert process.stderr is not None
        async with asyncio.timeout(60):
            while b"registered for" not in (line := await process.stderr.readline()):
                said.append(line)
                assert line, b"".join(said)
        return process

    async def end(process: asyncio.subprocess.Process, *, kill: bool) -> None:
        process.kill() if kill else process.terminate()
        await process.communicate()

    phone = lab.network.phone
    await phone.run(end(await phone.run(start()), kill=True))
    states = phone.command("ip", "xfrm", "state")
    assert states.count("proto esp") == 4
    said.clear()
    second = await phone.run(start())
    assert b"removed 4 associations and 16 policies that an earlier run had left" in b"".join(said)
    now = phone.command("ip", "xfrm", "state")
    assert now.count("proto esp") == 4 and now != states
    assert lab.network.core.call(core.registrations)[0]["impi"].startswith("001010000000000200")
    await phone.run(end(second, kill=False))
    assert phone.command("ip", "xfrm", "state") == ""
