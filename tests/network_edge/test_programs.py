"""How the edge's programs end."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal

import pytest

from network_edge.programs import Ending, add_run_and_check


class Calls:
    """A service with one call."""

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self.over = asyncio.Event()

    def drain(self) -> None:
        self.draining.set()

    async def drained(self) -> None:
        await self.over.wait()


@pytest.mark.parametrize("how", ["the last call ends", "SIGTERM", "SIGINT", "too late"])
async def test_the_first_signal_drains_and_what_ends(how: str) -> None:
    calls, ending = Calls(), Ending()
    waiting = asyncio.ensure_future(ending.wait(calls, 0.05 if how == "too late" else 3600))
    await asyncio.sleep(0)
    assert not calls.draining.is_set()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(calls.draining.wait(), 5)
    if how == "the last call ends":
        calls.over.set()
    elif how != "too late":
        await asyncio.sleep(0.05)
        assert not waiting.done()
        os.kill(os.getpid(), signal.Signals[how])
    await asyncio.wait_for(waiting, 5)


async def test_a_signal_before_anybody_waits_is_not_lost() -> None:
    calls, ending = Calls(), Ending()
    os.kill(os.getpid(), signal.SIGTERM)
    calls.over.set()
    await asyncio.wait_for(ending.wait(calls, 3600), 5)
    assert calls.draining.is_set()


def test_the_two_commands() -> None:
    parser = argparse.ArgumentParser()
    add_run_and_check(
        parser.add_subparsers(required=True),
        "part",
        help="a part",
        description="A part.",
        epilog="",
        run=("run it", lambda arguments: 7),
        check=("check it", lambda arguments: 8),
    )
    for command, code in (("run", 7), ("check", 8)):
        arguments = parser.parse_args(["part", command, "-c", "x.toml"])
        assert arguments.run(arguments) == code and arguments.config.name == "x.toml"
    with pytest.raises(SystemExit):
        parser.parse_args(["part", "run"])
