"""A core that a test plays on a UDP socket, and a client on a WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from websockets.asyncio.client import ClientConnection

from imskit.sip.wire.flow import Address
from imskit.sip.wire.message import Request, Response, parse_message, response_to

HOME = "ims.example"
INSTANCE = "<urn:uuid:00000000-0000-4000-8000-000000000001>"


class PlayedCore(asyncio.DatagramProtocol):
    """Takes requests; ``answer`` sends what the test says."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[Request] = asyncio.Queue()
        self._from: dict[str, Address] = {}
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self._transport = transport

    @property
    def address(self) -> str:
        assert self._transport is not None
        host, port = self._transport.get_extra_info("sockname")[:2]
        return f"{host}:{port}"

    def datagram_received(self, data: bytes, addr: Address) -> None:
        message = parse_message(data)
        if isinstance(message, Request):
            self._from[str(message.headers.get("Via"))] = addr
            self.requests.put_nowait(message)

    def answer(self, request: Request, status: int, *fields: tuple[str, str]) -> None:
        response = response_to(request, status)
        if response.to.tag is None:
            response.headers.set("To", f"{response.headers.get('To')};tag=core")
        for name, value in fields:
            response.headers.add(name, value)
        assert self._transport is not None
        self._transport.sendto(response.encode(), self._from[str(request.headers.get("Via"))])

    async def request(self, method: str) -> Request:
        """The next request with this method; others are answered 200."""
        async with asyncio.timeout(20):
            while (request := await self.requests.get()).method != method:
                self.answer(request, 200)
            return request

    def register(self, request: Request, impu: str) -> None:
        """Accept a REGISTER as a registrar does."""
        self.answer(
            request,
            200,
            ("Contact", f"{request.headers.get('Contact')};expires={request.headers.get('Expires') or 600}"),
            ("P-Associated-URI", f"<{impu}>"),
            ("Service-Route", f"<sip:orig@{self.address};lr>"),
            ("Path", str(request.headers.get("Path"))),
        )

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@pytest.fixture
async def core() -> AsyncIterator[PlayedCore]:
    played = PlayedCore()
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: played, local_addr=("127.0.0.1", 0))
    yield played
    played.close()


@dataclass
class Phone:
    """What a WIC sends, as text."""

    connection: ClientConnection
    impu: str = f"sip:alice@{HOME}"
    count: int = 0
    fields: dict[str, str] = field(default_factory=dict)

    async def register(self, *fields: str) -> None:
        self.count += 1
        lines = [
            f"REGISTER sip:{HOME} SIP/2.0",
            f"Via: SIP/2.0/WSS a.invalid;branch=z9hG4bK{self.count}{id(self)}",
            "Max-Forwards: 69",
            f"From: <{self.impu}>;tag=a",
            f"To: <{self.impu}>",
            f"Call-ID: registration{id(self)}",
            f"CSeq: {self.count} REGISTER",
            f'Contact: <sip:a@a.invalid;transport=ws>;+sip.instance="{INSTANCE}";reg-id=1',
            "Expires: 600",
            "Supported: path, outbound",
            *fields,
            "Content-Length: 0",
        ]
        await self.connection.send("\r\n".join([*lines, "", ""]))

    async def response(self) -> Response:
        async with asyncio.timeout(20):
            while True:
                data = await self.connection.recv()
                message = parse_message(data.encode() if isinstance(data, str) else data)
                if isinstance(message, Response) and message.status >= 200:
                    return message


@pytest.fixture
def make_phone() -> type[Phone]:
    return Phone
