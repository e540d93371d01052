"""What `network_edge/wwsf/server.py` bears: slow clients, long heads, many connections [A-WWSF]."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from imskit.secrets import Secret
from network_edge.certificate import ensure_certificate
from network_edge.wwsf.config import WwsfConfig
from network_edge.wwsf.identities.config import IdentitiesConfig
from network_edge.wwsf.server import Wwsf
from network_edge.wwsf.tokens.config import TokensConfig

GET = b"GET /api/session HTTP/1.1\r\nHost: portal.ims.example\r\n"


@pytest.fixture
async def make_server(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    certificate, key = tmp_path / "edge.crt", tmp_path / "edge.key"
    ensure_certificate(certificate, key, ["portal.ims.example"])
    made: list[Wwsf] = []

    async def make(**limits: Any) -> Wwsf:
        config = WwsfConfig(
            portal="portal.ims.example",
            websocket="wss://ws.ims.example/sip",
            certificate=certificate,
            key=key,
            identities=IdentitiesConfig(Secret(f"sqlite:///{tmp_path}/wwsf.db")),
            tokens=TokensConfig("edge", tmp_path / "keys.json"),
            port=0,
        )
        server = Wwsf(config, None, **limits)
        made.append(server)
        await server.start()
        return server

    yield make
    for server in made:
        await server.stop()


@contextlib.asynccontextmanager
async def connected(server: Wwsf) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trust)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def status(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(20):
        return int((await reader.readline()).split()[1])


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\nX-Slow: ", GET])
async def test_a_head_that_does_not_come_ends_the_connection(make_server: Callable[..., Any], first: bytes) -> None:
    """Slow-loris: silent, or in the midst of a head."""
    server = await make_server(head_seconds=0.3)
    async with connected(server) as (reader, writer):
        writer.write(first)
        async with asyncio.timeout(20):
            assert await reader.read() == b""


async def test_a_second_head_that_drips_ends_the_connection(make_server: Callable[..., Any]) -> None:
    server = await make_server(head_seconds=0.5)
    async with connected(server) as (reader, writer):
        writer.write(GET + b"\r\n")
        assert await status(reader) == 401
        writer.write(GET)
        async with asyncio.timeout(20):
            await reader.read()
        assert reader.at_eof()


@pytest.mark.parametrize(
    "fields",
    [b"X-Long: " + b"x" * 65_536 + b"\r\n", b"".join(b"X-%d: %s\r\n" % (n, b"y" * 100) for n in range(600))],
    ids=["one field", "many fields"],
)
async def test_64_kb_of_header_fields_are_refused(make_server: Callable[..., Any], fields: bytes) -> None:
    server = await make_server()
    async with connected(server) as (reader, writer):
        writer.write(GET + fields + b"\r\n")
        assert await status(reader) == 400
    async with connected(server) as (reader, writer):  # others are served
        writer.write(GET + b"\r\n")
        assert await status(reader) == 401


async def test_one_connection_too_many_ends_at_once(make_server: Callable[..., Any]) -> None:
    server = await make_server(connections=1)
    async with connected(server) as (reader, writer):
        writer.write(GET + b"\r\n")
        assert await status(reader) == 401
        with pytest.raises((OSError, EOFError)):
            async with connected(server) as (late, late_writer):
                late_writer.write(GET + b"\r\n")
                assert await late.read() == b""
                raise EOFError
