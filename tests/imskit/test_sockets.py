"""Sockets of programs: the place of a dead one is taken, a living one's never, however busy it is."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from imskit.sockets import definite, parse_address, unix_socket


def test_addresses() -> None:
    assert parse_address("10.45.0.1:5060") == ("10.45.0.1", 5060)
    assert parse_address("[2001:db8::1]:0") == ("2001:db8::1", 0)
    for wrong in ("10.45.0.1", "host:5060", "10.45.0.1:", "10.45.0.1:70000", "10.45.0.1:-1", "", "10.45.0.1:²"):
        with pytest.raises(ValueError, match=r"no ADDR:PORT|no IP address"):
            parse_address(wrong)


def test_a_port_is_free_for_both_transports() -> None:
    host, port = definite(("127.0.0.1", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, socket.socket() as streams:
        datagrams.bind((host, port))
        streams.bind((host, port))
    assert definite(("127.0.0.1", 7)) == ("127.0.0.1", 7)
    with pytest.raises(OSError, match="assign"):
        definite(("192.0.2.1", 0))


def _application() -> web.Application:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.add_routes([web.get("/", hello)])
    return app


async def test_only_the_owner_may_open_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with unix_socket(_application(), path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as client,
            client.get("http://x/") as answer,
        ):
            assert await answer.text() == "hello"
    assert not path.exists()


async def test_the_socket_of_a_dead_program_is_replaced_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with unix_socket(_application(), path):
        with pytest.raises(OSError, match="another program listens"):
            async with unix_socket(_application(), path):
                pass
        assert path.exists()
    plain = tmp_path / "file"
    plain.write_text("mine")
    with pytest.raises(OSError, match="no socket"):
        async with unix_socket(_application(), plain):
            pass
    assert plain.read_text() == "mine"


@pytest.mark.parametrize("busy", [False, True])
async def test_a_living_ones_is_not(tmp_path: Path, busy: bool) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as first:
        living.bind(str(path))
        living.listen(0)
        if busy:
            first.connect(str(path))  # fills the queue: the next one waits
        with pytest.raises(OSError, match="another program listens at"):
            async with unix_socket(web.Application(), path):
                pass
        assert path.exists()
