"""The core on real sockets: noise at Gm, restart, what cannot be opened."""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from imskit.observe.events import read_events
from imskit.secrets import Secret
from imskit.sockets import unix_socket
from simulators.ims_core import control_socket
from simulators.ims_core.config import CoreConfig
from simulators.ims_core.core import ImsCore
from simulators.ims_core.subscribers import SubscriberConfig, UnknownSubscriberError

K, OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"
DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
IMPI = f"001010000000001@{DOMAIN}"


def config(**changes: Any) -> CoreConfig:
    subscribers = [SubscriberConfig(IMPI, [f"sip:+15550100@{DOMAIN}", "tel:+15550100"], k=Secret(K), opc=Secret(OPC))]
    arguments: dict[str, Any] = {"gm": ["127.0.0.5:0"], "subscribers": subscribers}
    return CoreConfig(DOMAIN, **(arguments | changes))


def register(host: str, port: int, transport: str, number: int = 1) -> bytes:
    return (
        f"REGISTER sip:{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/{transport} {host}:{port};branch=z9hG4bK{number};rport\r\n"
        f"Max-Forwards: 70\r\nFrom: <sip:+15550100@{DOMAIN}>;tag=x\r\nTo: <sip:+15550100@{DOMAIN}>\r\n"
        f"Call-ID: c{number}\r\nCSeq: {number} REGISTER\r\nContact: <sip:{host}:{port}>\r\nContent-Length: 0\r\n\r\n"
    ).encode()


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.put_nowait(data)


@pytest.fixture
async def core() -> Any:
    core = ImsCore(config())
    await core.start()
    yield core
    await core.close()


async def test_any_bytes_at_gm_never_kill_it(core: ImsCore, caplog: pytest.LogCaptureFixture) -> None:
    """UDP and TCP; no fault of an engine is logged, and the next REGISTER is challenged."""
    caplog.set_level(logging.WARNING)
    rng = random.Random(3)
    loop = asyncio.get_running_loop()
    transport, datagrams = await loop.create_datagram_endpoint(Datagrams, remote_addr=core.gm[0])
    host, port = transport.get_extra_info("sockname")[:2]
    good = register(host, port, "UDP")
    for number in range(600):
        noise = bytearray(good)
        for _ in range(rng.randrange(1, 12)):
            at = rng.randrange(len(noise))
            noise[at : at + rng.randrange(4)] = rng.randbytes(rng.randrange(4))
        transport.sendto(bytes(noise) if number % 3 else rng.randbytes(rng.randrange(1400)))
        if number % 50 == 0:
            await asyncio.sleep(0)
    for number in range(40):
        reader, writer = await asyncio.open_connection(*core.gm[0])
        writer.write(
            rng.randbytes(3000) if number % 2 else register(host, port, "TCP", number)[: number * 8] + b"\r\n\r\n"
        )
        writer.close()
    reader, writer = await asyncio.open_connection(*core.gm[0])
    writer.write(register(host, port, "TCP", 99))
    assert await asyncio.wait_for(reader.readline(), 10) == b"SIP/2.0 401 Unauthorized\r\n"
    writer.close()
    transport.sendto(register(host, port, "UDP", 100))
    async with asyncio.timeout(10):
        while b"CSeq: 100 REGISTER" not in (answer := await datagrams.received.get()):
            pass
    assert answer.startswith(b"SIP/2.0 401 ")
    transport.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_socket_that_cannot_be_had_leaves_nothing_open(tmp_path: Path) -> None:
    good = ImsCore(config())
    await good.start()
    host, port = good.gm[0]
    other = ImsCore(config(gm=["127.0.0.6:0", f"{host}:{port}"], hss=tmp_path / "hss.sock"))
    with pytest.raises(OSError, match="in use"):
        await other.start()
    assert not (tmp_path / "hss.sock").exists()
    await good.close()
    again = ImsCore(config(gm=[f"{host}:{port}"]))
    await again.start()
    await again.close()


async def test_events_and_control(tmp_path: Path) -> None:
    core = ImsCore(config(events=tmp_path / "events.jsonl"))
    await core.start()
    with pytest.raises(UnknownSubscriberError):
        core.deregister("nobody", "deactivated")
    assert core.deregister(IMPI, "deactivated") == 0
    assert core.registrations() == []
    reader, writer = await asyncio.open_connection(*core.gm[0])
    writer.write(register("127.0.0.1", 5, "TCP"))
    assert b"401" in await reader.readline()
    writer.close()
    events = list(read_events(tmp_path / "events.jsonl"))
    assert [(event["event"], event["subscriber"]) for event in events] == [("register-401", 1)]
    await core.close()


@pytest.mark.parametrize("body", [{}, {"impi": 7}, {"impi": IMPI, "event": "x"}, {"impi": "nobody"}])
async def test_control_refuses_nonsense(core: ImsCore, tmp_path: Path, body: Any) -> None:
    path = tmp_path / "core.sock"
    async with (
        unix_socket(control_socket.application(core), path),
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as client,
        client.post("http://core/deregister", json=body) as answer,
    ):
        assert answer.status in (400, 404)
        assert (await answer.json())["error"]
