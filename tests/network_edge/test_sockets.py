"""The place of a control socket: a dead program's is taken, a living one's never, however busy it is."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from aiohttp import web

from network_edge.sockets import control_socket


async def test_a_dead_programs_place_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with control_socket(web.Application(), path):
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


@pytest.mark.parametrize("busy", [False, True])
async def test_a_living_ones_is_not(tmp_path: Path, busy: bool) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as first:
        living.bind(str(path))
        living.listen(0)
        if busy:
            first.connect(str(path))  # fills the queue: the next one waits
        with pytest.raises(OSError, match="another program listens at"):
            async with control_socket(web.Application(), path):
                pass
        assert path.exists()
