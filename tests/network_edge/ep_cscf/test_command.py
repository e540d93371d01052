"""``imsbridge edge ep-cscf``: check says what is wrong, run serves, SIGTERM drains."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect
from websockets.typing import Subprotocol


def write(folder: Path, core: str, gateways: str = '[[gateways]]\nname = "one"\naddress = "127.0.0.1:9"\n') -> Path:
    path = folder / "ep-cscf.toml"
    path.write_text(
        'home_domain = "ims.example"\nwss = []\nws = ["127.0.0.1:0"]\nwithout_origin = true\n'
        f'[mw]\naddress = "127.0.0.1:0"\ncore = "{core}"\n{gateways}'
    )
    return path


@contextlib.asynccontextmanager
async def program(path: Path, command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "imsbridge", "edge", "ep-cscf", command, "-c", str(path),
        stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_it_serves_and_ends_by_sigterm(tmp_path: Path, core: Any, make_phone: Any) -> None:
    async with program(write(tmp_path, core.address), "run") as running:
        assert running.stderr is not None
        warned = False
        async with asyncio.timeout(60):
            while not (line := (await running.stderr.readline()).decode()).startswith("ready: ep-cscf ws 127.0.0.1"):
                assert line, "it ended"
                warned |= "in clear" in line
        assert warned
        port = int(line.split()[-1])
        async with connect(f"ws://127.0.0.1:{port}/", subprotocols=[Subprotocol("sip")]) as connection:
            phone = make_phone(connection)
            await phone.register()
            request = await core.request("REGISTER")
            core.answer(request, 403)
            assert (await phone.response()).status == 403
        running.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await running.wait() == 0


async def test_check(tmp_path: Path) -> None:
    async with program(write(tmp_path, "10.45.0.1:5062"), "check") as process:
        said, _ = await process.communicate()
        assert process.returncode == 0 and b"one at 127.0.0.1:9" in said and b"NOTE" in said
    async with program(write(tmp_path, "10.45.0.1:5062", ""), "check") as process:
        _, complaint = await process.communicate()
        assert process.returncode == 2 and b"gateways is missing" in complaint
