"""A UE on its sockets: keep-alives, and what it says where there is no IPsec [S7-IMS]."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from imskit.ims import events as ims
from imskit.ims.io.ue_endpoint import NO_IPSEC, UeEndpoint
from imskit.ims.profile import UeProfile
from imskit.ims.registration import State
from imskit.ims.security_agreement import Protection, SecurityPolicy
from imskit.ims.ue import ImsUe
from imskit.secrets import Identity
from imskit.sip.wire.flow import Target
from imskit.stun.wire.message import MessageClass, Method, parse_message

HOST = "127.0.0.1"
DOMAIN = "ims.example"


@asynccontextmanager
async def endpoint(security: SecurityPolicy, *targets: Target, **changes: Any) -> AsyncIterator[tuple[Any, list[Any]]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((HOST, 0))
        local = probe.getsockname()
    profile = UeProfile(
        Identity(f"a@{DOMAIN}"),
        Identity(f"sip:a@{DOMAIN}"),
        DOMAIN,
        "urn:uuid:0",
        local,
        targets,
        security=security,
    )
    heard: list[Any] = []
    made = UeEndpoint(ImsUe(profile, lambda n: secrets.token_hex(n)[:n]), local, heard.append, **changes)
    await made.listen()
    try:
        yield made, heard
    finally:
        await made.close()


async def test_without_ipsec_the_status_says_so() -> None:
    policy = SecurityPolicy(Protection.IPSEC)
    async with endpoint(policy, Target("UDP", (HOST, 9))) as (ue, heard):
        ue.handle(ims.Start())
        await asyncio.sleep(0)
        states = [output.status for output in heard if isinstance(output, ims.RegistrationChanged)]
        assert states[-1].state is State.WAITING
        assert NO_IPSEC in states[-1].reason
        assert ue.security_sets() == []


async def test_where_nobody_knows_a_p_cscf() -> None:
    """The engine asks for one; with nobody to look for it the status says so."""
    async with endpoint(SecurityPolicy()) as (ue, heard):
        ue.handle(ims.Start())
        async with asyncio.timeout(5):
            while not any("no P-CSCF" in str(getattr(output, "status", "")) for output in heard):  # noqa: ASYNC110  # it only appends
                await asyncio.sleep(0.01)


async def test_keep_alives_over_udp_are_stun_requests_from_the_same_port() -> None:
    """RFC 5626 section 4.4.2; they end when the engine says so."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as p_cscf:
        p_cscf.bind((HOST, 0))
        p_cscf.setblocking(False)
        target = Target("UDP", p_cscf.getsockname())
        async with endpoint(SecurityPolicy(), target) as (ue, _):
            ue._output(ims.KeepAlive(target, 0.05))
            loop = asyncio.get_running_loop()
            seen = set()
            for _ in range(2):
                data, source = await asyncio.wait_for(loop.sock_recvfrom(p_cscf, 1500), 5)
                message = parse_message(data)
                assert (message.method, message.message_class) == (Method.BINDING, MessageClass.REQUEST)
                seen.add(message.transaction_id)
                assert source == ue._local
            assert len(seen) == 2
            ue._output(ims.KeepAlive(None))
            assert ue._keeping is None


async def test_keep_alives_on_a_connection_are_crlf() -> None:
    """RFC 5626 section 4.4.1."""
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.put_nowait(await reader.read(100))
        writer.write(b"\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        target = Target("TCP", server.sockets[0].getsockname())
        async with endpoint(SecurityPolicy(), target) as (ue, _):
            ue._output(ims.KeepAlive(target, 0.05))
            assert await asyncio.wait_for(received.get(), 5) == b"\r\n\r\n"
    finally:
        server.close()
