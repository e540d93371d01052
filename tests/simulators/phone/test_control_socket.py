"""The phone's control socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from imskit.sockets import unix_socket
from simulators.phone import control_socket
from simulators.phone.phone import Phone

type Ask = Callable[..., Awaitable[tuple[int, dict[str, Any]]]]


@pytest.fixture
async def phone(network: Any) -> Phone:
    made: Phone = await network.phone("0100")
    return made


@pytest.fixture
async def ask(phone: Phone, tmp_path: Path) -> AsyncIterator[Ask]:
    path = tmp_path / "phone.sock"
    async with (
        unix_socket(control_socket.application(phone), path),
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as client,
    ):

        async def ask(method: str, where: str, body: Any = None) -> tuple[int, dict[str, Any]]:
            async with client.request(method, f"http://phone{where}", json=body) as answer:
                return answer.status, await answer.json()

        yield ask


async def test_a_call_by_its_keys(network: Any, ask: Ask, tmp_path: Path) -> None:
    callee = await network.phone("0200", behaviour="manual")
    status, told = await ask("POST", "/dial", {"target": "+15550200", "record": str(tmp_path / "r.wav")})
    assert status == 200
    await network.until(lambda: "ringing" in network.steps("0200"))
    callee.answer()
    await network.until(lambda: "answered" in network.steps("0100"))
    _, seen = await ask("GET", "/status")
    assert seen["registration"] == "registered"
    assert seen["call"]["name"] == told["call"]
    assert seen["call"]["state"] == "answered"
    assert seen["call"]["media"]["codec"] == "AMR-WB"
    assert (await ask("POST", "/dial", {"target": "+15550200"}))[0] == 409
    assert (await ask("POST", "/hangup"))[0] == 200
    await network.until(lambda: "ended" in network.steps("0100"))
    _, seen = await ask("GET", "/status")
    assert seen["call"] is None
    assert seen["last_call"]["name"] == told["call"]
    assert (tmp_path / "r.wav").stat().st_size > 44


async def test_behaviour(network: Any, ask: Ask, phone: Phone, tmp_path: Path) -> None:
    assert (await ask("POST", "/behaviour", {"behaviour": "busy", "answer_after": 2}))[0] == 200
    assert phone.manners.behaviour == "busy"
    assert phone.manners.answer_after == 2
    assert (await ask("POST", "/behaviour", {"record": str(tmp_path / "x.wav"), "loop": True}))[0] == 200
    assert phone.manners.record == tmp_path / "x.wav"
    assert phone.manners.behaviour == "busy"
    assert (await ask("GET", "/status"))[1]["behaviour"] == "busy"


@pytest.mark.parametrize(
    ("where", "body", "status"),
    [
        ("/dial", {}, 400),
        ("/dial", {"target": 7}, 400),
        ("/dial", {"target": "x y"}, 409),
        ("/dial", {"target": "+15550200", "play": "/nowhere.wav"}, 409),
        ("/dial", {"target": "+15550200", "record": 7}, 400),
        ("/dial", [], 400),
        ("/answer", None, 409),
        ("/hangup", None, 409),
        ("/behaviour", {"behaviour": "dance"}, 400),
        ("/behaviour", {"behavior": "busy"}, 400),
        ("/behaviour", {"answer_after": -1}, 400),
        ("/behaviour", {"answer_after": True}, 400),
        ("/behaviour", {"play": "/nowhere.wav"}, 409),
        ("/behaviour", {"play": "a\0b"}, 400),
    ],
)
async def test_refusals_say_why(ask: Ask, where: str, body: Any, status: int) -> None:
    got, told = await ask("POST", where, body)
    assert got == status
    assert told["error"]
