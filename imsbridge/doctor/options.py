"""One OPTIONS to a SIP server, to see whether it answers (RFC 3261 section 11)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Address, Target
from imskit.sip.wire.message import Request, Response, parse_message
from imskit.sip.wire.stream import StreamFramer

_SECONDS = 4.0
_T1 = 0.5


async def ask_options(target: Target, own: str, domain: str, tls: ssl.SSLContext | None = None) -> Response:
    """Return the final answer of ``target``; sent from the address ``own``, in the name of ``domain``.

    Raises `TimeoutError` after 4 s of silence, `OSError` (TLS included) where it cannot be reached at all.
    """
    asking = _by_datagrams if target.transport == "UDP" else _by_stream
    async with asyncio.timeout(_SECONDS):
        return await asking(target, own, domain, tls)


def _place(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _request(target: Target, own: Address, domain: str) -> Request:
    via = f"SIP/2.0/{target.transport} {_place(own)};branch=z9hG4bK{secrets.token_hex(8)};rport"
    fields = [
        ("Via", via),
        ("Max-Forwards", 70),
        ("From", f"<sip:{domain}>;tag={secrets.token_hex(4)}"),
        ("To", f"<sip:{domain}>"),
        ("Call-ID", secrets.token_hex(12)),
        ("CSeq", "1 OPTIONS"),
        ("Accept", "application/sdp"),
        ("Content-Length", 0),
    ]
    return Request.create("OPTIONS", f"sip:{_place(target.address)}", fields)


def _final(data: bytes, call_id: str) -> Response | None:
    """The answer to our question, unless it is something else."""
    try:
        message = parse_message(data)
        if isinstance(message, Response) and message.status >= 200 and message.call_id == call_id:
            return message
    except SipParseError:
        pass
    return None


class _Answers(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | OSError] = asyncio.Queue(64)

    def datagram_received(self, data: bytes, addr: object) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self.queue.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, OSError):
            with contextlib.suppress(asyncio.QueueFull):
                self.queue.put_nowait(exc)


async def _by_datagrams(target: Target, own: str, domain: str, tls: ssl.SSLContext | None) -> Response:
    loop = asyncio.get_running_loop()
    transport, answers = await loop.create_datagram_endpoint(_Answers, local_addr=(own, 0), remote_addr=target.address)
    try:
        request = _request(target, transport.get_extra_info("sockname")[:2], domain)
        interval = _T1
        while True:
            transport.sendto(bytes(request))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    while True:
                        data = await answers.queue.get()
                        if isinstance(data, OSError):
                            raise data
                        if found := _final(data, request.call_id):
                            return found
            interval *= 2
    finally:
        transport.close()


async def _by_stream(target: Target, own: str, domain: str, tls: ssl.SSLContext | None) -> Response:
    name = (target.host or target.address[0]) if tls is not None else None
    reader, writer = await asyncio.open_connection(*target.address, local_addr=(own, 0), ssl=tls, server_hostname=name)
    try:
        request = _request(target, writer.get_extra_info("sockname")[:2], domain)
        writer.write(bytes(request))
        framer = StreamFramer(server=False)
        while data := await reader.read(65536):
            for frame in framer.feed(data):
                if isinstance(frame, bytes) and (found := _final(frame, request.call_id)):
                    return found
        raise ConnectionResetError("the connection was closed without an answer")
    finally:
        writer.close()
