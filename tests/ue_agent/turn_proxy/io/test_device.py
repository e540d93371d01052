"""Sockets limited to one interface (S7-TURN); that the wire is barred is shown in tests/e2e/test_attacks.py."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from imskit.stun.wire import attributes as a
from imskit.stun.wire.message import Method, request
from ue_agent.turn_proxy.io.device import hear_only

OTHERS = [name for _, name in socket.if_nameindex() if name != "lo"]


@pytest.fixture(params=[("127.0.0.1", socket.SOCK_DGRAM), ("::1", socket.SOCK_DGRAM)], ids=str)
def pair(request: Any) -> Any:
    """A socket that sends to another one, over the loopback interface."""
    host, kind = request.param
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as far, socket.socket(family, kind) as near:
        far.settimeout(0.05)
        yield host, far, near


def test_hears_its_device(pair: Any) -> None:
    host, far, near = pair
    hear_only(far, "lo")
    far.bind((host, 0))
    near.sendto(b"x", far.getsockname())
    assert far.recv(10) == b"x"


@pytest.mark.skipif(not OTHERS, reason="this machine has only lo")
def test_does_not_hear_another_device(pair: Any) -> None:
    host, far, near = pair
    hear_only(far, OTHERS[0])
    far.bind((host, 0))
    near.sendto(b"x", far.getsockname())
    with pytest.raises(TimeoutError):
        far.recv(10)


@pytest.mark.skipif(not OTHERS, reason="this machine has only lo")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_no_connection_from_another_device(host: str) -> None:
    """A listening socket drops the SYN: no connection, no refusal that would tell that somebody listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as far, socket.socket(family) as near:
        hear_only(far, OTHERS[0])
        far.bind((host, 0))
        far.listen()
        near.settimeout(0.05)
        with pytest.raises(TimeoutError):
            near.connect(far.getsockname())


_UNPRIVILEGED = """
import socket, sys
from ue_agent.turn_proxy.io.device import hear_only
with socket.socket() as far, socket.socket() as near:
    hear_only(far, sys.argv[1])
    far.bind(("127.0.0.1", 0))
    far.listen()
    near.settimeout(0.2)
    try:
        near.connect(far.getsockname())
        print("connected")
    except OSError:
        print("refused")
"""


@pytest.mark.parametrize("device", ["lo", *OTHERS[:1]])
def test_tcp_without_privileges(device: str) -> None:
    """An agent of its own user, as a service is run: recent kernels refuse it a filter on TCP."""
    drop = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    argv = [*(drop if os.getuid() == 0 else []), sys.executable, "-c", _UNPRIVILEGED, device]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == ("connected" if device == "lo" else "refused"), done.stderr


def test_unknown_device() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        pytest.raises(OSError, match="no interface nowhere0"),
    ):
        hear_only(sock, "nowhere0")


def test_filter_cannot_be_taken_off() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        hear_only(sock, "lo")
        with pytest.raises(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, 27, 0)  # SO_DETACH_FILTER


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
async def test_proxy_on_a_device(start_proxy: Any, connect: Any, kind: socket.SocketKind) -> None:
    proxy = await start_proxy(device="lo")
    for endpoint in proxy.endpoints:
        client = await connect(endpoint, kind)
        answer = await client.exchange(request(Method.BINDING, client.tid()))
        assert answer.get(a.XOR_MAPPED_ADDRESS) == client.sock.getsockname()[:2]


@pytest.mark.skipif(not OTHERS, reason="this machine has only lo")
async def test_proxy_on_another_device(start_proxy: Any, connect: Any) -> None:
    proxy = await start_proxy(device=OTHERS[0])
    for endpoint in proxy.endpoints:
        client = await connect(endpoint, socket.SOCK_DGRAM)
        await client.send(request(Method.BINDING, client.tid()).encode())
        assert await client.receive_nothing()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connect(endpoint, socket.SOCK_STREAM)
