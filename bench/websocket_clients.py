"""Browsers without a browser, for the benches of the edge: SIP over WebSocket clients that cost next to nothing.

``python -m bench.websocket_clients ORDER`` takes a JSON order: ``work``, ``port``, ``tls``, ``connections``, ``first``
(number of the first user), ``seconds``, ``password`` or ``tokens``.  It registers everybody, prints ``ready``, waits
for a line on its standard input, does the work and prints one JSON object of figures.  The work:

``register``  Each registers again as soon as it is registered: a REGISTER that is challenged and the one that answers,
              or one with a token.
``hold``      Nothing but to answer pings until the next line; then each registers once more.
``call``      Each calls, is answered, hangs up, and calls again.
``talk``      Each calls once, and hangs up at the next line.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import uvloop

from bench.edge_core import DOMAIN

ORIGIN = "https://portal.ims.example"
_HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: ws.ims.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: sip\r\n"
    f"Origin: {ORIGIN}\r\n\r\n"
).encode()
PHONE = f"sip:+15550200@{DOMAIN}"
OFFER = "\r\n".join(
    [
        "v=0", "o=- 4611731400430051336 2 IN IP4 127.0.0.1", "s=-", "t=0 0", "a=group:BUNDLE 0",
        "a=msid-semantic: WMS s",
        "m=audio 50000 UDP/TLS/RTP/SAVPF 111 0 8 126", "c=IN IP4 127.0.0.1", "a=rtcp:9 IN IP4 0.0.0.0",
        "a=candidate:1 1 udp 2113937151 127.0.0.1 50000 typ host generation 0 network-cost 999",
        "a=ice-ufrag:AbCd", "a=ice-pwd:" + "p" * 24, "a=ice-options:trickle",
        "a=fingerprint:sha-256 " + ":".join(["AB"] * 32), "a=setup:actpass", "a=mid:0", "a=sendrecv",
        "a=msid:s t", "a=rtcp-mux", "a=rtcp-rsize", "a=rtpmap:111 opus/48000/2", "a=rtcp-fb:111 transport-cc",
        "a=fmtp:111 minptime=10;useinbandfec=1", "a=rtpmap:0 PCMU/8000", "a=rtpmap:8 PCMA/8000",
        "a=rtpmap:126 telephone-event/8000", "a=ssrc:77 cname:bench", "a=ssrc:77 msid:s t", "",
    ]
)  # fmt: skip
"""As a Chromium offers sound; nothing is behind its candidate."""
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10


def frame(payload: bytes, opcode: int = _TEXT) -> bytes:
    """Return one masked frame (RFC 6455 section 5); the mask is zero, which costs nothing and any server takes."""
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else bytes((0x80 | 126,)) + size.to_bytes(2)
    return bytes((0x80 | opcode,)) + length + bytes(4) + payload


def user(number: int) -> str:
    """Return the number of a client's user, global."""
    return f"+1556{number:06}"


def client_tls() -> ssl.SSLContext:
    """Return a context that takes any certificate: the bench's own is made for the run."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class WebSocketClient(asyncio.Protocol):
    """Frames in, frames out; messages go to ``heard``, the end of the connection to ``lost``."""

    def __init__(self) -> None:
        self.heard: Callable[[bytes], None] = lambda _: None
        self.lost: Callable[[], None] = lambda: None
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(_HANDSHAKE)

    def send(self, message: bytes) -> None:
        """Send one SIP message."""
        self.transport.write(frame(message))

    def data_received(self, data: bytes) -> None:
        """Take what came apart."""
        buffer = self._buffer + data
        if not self.open.done():
            head, separator, buffer = buffer.partition(b"\r\n\r\n")
            if not separator:
                self._buffer = head
                return
            if b" 101 " not in head.partition(b"\r\n")[0]:
                self.open.set_exception(ConnectionError(head.partition(b"\r\n")[0].decode()))
                return
            self.open.set_result(None)
        while len(buffer) >= 2:
            size, at = buffer[1], 2
            if size == 126:
                size, at = int.from_bytes(buffer[2:4]), 4
            if len(buffer) < at + size:
                break
            payload, opcode, buffer = buffer[at : at + size], buffer[0] & 15, buffer[at + size :]
            if opcode == _PING:
                self.transport.write(frame(payload, _PONG))
            elif opcode != _CLOSE:
                self.heard(payload)
        self._buffer = buffer

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        if not self.open.done():
            self.open.set_exception(exc or ConnectionError("closed before the upgrade"))
        self.lost()


@dataclass
class Figures:
    """What the clients of one process saw."""

    registers: int = 0
    registrations: int = 0
    calls: int = 0
    failed: int = 0
    answers: dict[str, int] = field(default_factory=dict)


class Registrant:
    """One user who registers and calls when told."""

    def __init__(self, number: int, password: str, token: str, figures: Figures) -> None:
        self.client = WebSocketClient()
        self.client.heard = self._heard
        self.client.lost = self._lost
        self._figures = figures
        self._password = password
        self._token = token
        self._name = f"{user(number)}@{DOMAIN}"
        self._call = f"{number:x}-{time.monotonic_ns():x}"
        self._sequence = 0
        self._waiting: asyncio.Future[bool] | None = None
        self._calling: asyncio.Future[bool] | None = None
        self._dialog = ""
        self._gone = False
        self._target = ""
        host = f"{number:x}.invalid"
        self._head = (
            f"Max-Forwards: 69\r\nTo: <sip:{self._name}>\r\nFrom: <sip:{self._name}>;tag={number:x}\r\n"
            f"Call-ID: {self._call}\r\n"
            f"Contact: <sip:{number:x}@{host};transport=ws>;+sip.ice;reg-id=1;"
            f'+sip.instance="<urn:uuid:00000000-0000-4000-8000-{number:012x}>";expires=3600\r\n'
            "Expires: 3600\r\nAllow: INVITE,ACK,CANCEL,BYE,UPDATE,MESSAGE,OPTIONS,REFER,INFO,NOTIFY\r\n"
            "Supported: path, gruu, outbound\r\nUser-Agent: bench\r\n"
        )
        self._via = f"Via: SIP/2.0/WSS {host};branch=z9hG4bK{number:x}-"
        self._contact = f"Contact: <sip:{number:x}@{host};transport=ws;ob>\r\n"
        self._routes: list[str] = []

    async def register(self) -> bool:
        """Register once; False if it was refused or the connection is gone."""
        if self._gone:
            return False
        self._waiting = asyncio.get_running_loop().create_future()
        self._send(f"Authorization: Bearer {self._token}\r\n" if self._token else "")
        return await self._waiting

    def _send(self, more: str) -> None:
        self._sequence += 1
        self.client.send(
            f"REGISTER sip:{DOMAIN} SIP/2.0\r\n{self._via}{self._sequence}\r\n{self._head}"
            f"CSeq: {self._sequence} REGISTER\r\n{more}Content-Length: 0\r\n\r\n".encode()
        )

    def _heard(self, message: bytes) -> None:
        start = message[:12]
        if not start.startswith(b"SIP/2.0 "):
            self._answer(message)
            return
        status = start[8:11]
        if self._calling is not None and b" INVITE\r\n" in message:
            self._call_answered(status, message)
            return
        if status < b"200" or self._waiting is None or self._waiting.done():
            return
        self._figures.registers += 1
        if status == b"401" and not self._token:
            self._send(self._credentials(message))
            return
        if status != b"200":
            self._fail(message)
        else:
            self._figures.registrations += 1
            if b" REGISTER\r\n" in message:
                self._routes = _values(message, b"service-route:")
        self._waiting.set_result(status == b"200")

    def _credentials(self, message: bytes) -> str:
        nonce = message.partition(b'nonce="')[2].partition(b'"')[0].decode()

        def h(text: str) -> str:
            return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

        uri = f"sip:{DOMAIN}"
        secret = h(f"{self._name}:{DOMAIN}:{self._password}")
        response = h(f"{secret}:{nonce}:00000001:c0ffee:auth:{h(f'REGISTER:{uri}')}")
        return (
            f'Authorization: Digest username="{self._name}", realm="{DOMAIN}", nonce="{nonce}", uri="{uri}", '
            f'response="{response}", algorithm=MD5, qop=auth, nc=00000001, cnonce="c0ffee"\r\n'
        )

    async def call(self) -> bool:
        """Call the phone behind the core until it has answered; False if it was refused or the connection is gone."""
        self._calling = asyncio.get_running_loop().create_future()
        self._sequence += 1
        routes = "".join(f"Route: {route}\r\n" for route in self._routes)
        self._dialog = (
            f"Max-Forwards: 69\r\nFrom: <sip:{self._name}>;tag=c{self._sequence}\r\n"
            f"Call-ID: c{self._sequence}-{self._call}\r\n"
        )
        self.client.send(
            f"INVITE {PHONE} SIP/2.0\r\n{self._via}{self._sequence}\r\n{routes}{self._dialog}To: <{PHONE}>\r\n"
            f"CSeq: {self._sequence} INVITE\r\n{self._contact}{self._bearer()}Supported: outbound, ice\r\n"
            f"Content-Type: application/sdp\r\nContent-Length: {len(OFFER)}\r\n\r\n{OFFER}".encode()
        )
        return await self._calling

    async def hang_up(self) -> bool:
        """End the call; False if that was refused."""
        self._waiting = asyncio.get_running_loop().create_future()
        self._within("BYE", self._sequence + 1)
        self._sequence += 1
        return await self._waiting

    def _within(self, method: str, number: int) -> None:
        self.client.send(
            f"{method} {self._target} SIP/2.0\r\n{self._via}{method}{number}\r\n{self._dialog}"
            f"CSeq: {number} {method}\r\n{self._bearer()}Content-Length: 0\r\n\r\n".encode()
        )

    def _bearer(self) -> str:
        return f"Authorization: Bearer {self._token}\r\n" if self._token else ""

    def _call_answered(self, status: bytes, message: bytes) -> None:
        if status < b"200" or self._calling is None or self._calling.done():
            return
        good = status == b"200" and b"\r\na=fingerprint:" in message
        if good:
            # The route set is the Record-Route of the answer, in reverse (RFC 3261 section 12.1.2).
            routes = "".join(f"Route: {route}\r\n" for route in reversed(_values(message, b"record-route:")))
            self._dialog += f"{routes}To: {_values(message, b'to:')[0]}\r\n"
            self._target = _values(message, b"contact:")[0].partition("<")[2].partition(">")[0]
            self._within("ACK", self._sequence)
            self._figures.calls += 1
        else:
            self._fail(message)
        self._calling.set_result(good)

    def _fail(self, message: bytes) -> None:
        self._figures.failed += 1
        line = message.partition(b"\r\n")[0].decode()
        self._figures.answers[line] = self._figures.answers.get(line, 0) + 1

    def _answer(self, request: bytes) -> None:
        """Say 200 to whatever the network asks (NOTIFY, OPTIONS)."""
        names = (b"via:", b"from:", b"to:", b"call-id:", b"cseq:")
        lines = [line for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n") if line.lower().startswith(names)]
        self.client.send(b"SIP/2.0 200 OK\r\n" + b"\r\n".join(lines) + b"\r\nContent-Length: 0\r\n\r\n")

    def _lost(self) -> None:
        self._gone = True
        self._fail(b"connection lost\r\n")
        for waiting in (self._waiting, self._calling):
            if waiting is not None and not waiting.done():
                waiting.set_result(False)


async def load(order: dict[str, Any]) -> dict[str, Any]:
    """Carry out an order; see the module's text."""
    loop, figures = asyncio.get_running_loop(), Figures()
    first = order.get("first", 0)
    tokens = order.get("tokens") or [""] * order["connections"]
    everybody = [Registrant(first + n, order.get("password", ""), token, figures) for n, token in enumerate(tokens)]
    tls = client_tls() if order["tls"] else None
    at_once = asyncio.Semaphore(16)

    async def connect(one: Registrant) -> None:
        async with at_once:
            await loop.create_connection(
                lambda: one.client, "127.0.0.1", order["port"], ssl=tls, server_hostname=tls and "ws.ims.example"
            )
            await one.client.open
            if not await one.register():
                raise SystemExit(f"bench.websocket_clients: the first registration failed: {figures.answers}")

    begin = time.monotonic()
    await asyncio.gather(*(connect(one) for one in everybody))
    connecting = time.monotonic() - begin

    async def told() -> None:
        await loop.run_in_executor(None, sys.stdin.readline)

    print("ready", flush=True)
    await told()
    figures.registers = figures.registrations = 0
    start, cpu = time.monotonic(), time.process_time()
    end = start + order["seconds"]

    async def again(one: Registrant) -> None:
        while time.monotonic() < end:
            if order["work"] == "register":
                good = await one.register()
            else:
                good = await one.call() and await one.hang_up()
            if not good:
                return

    async def each(work: Callable[[Registrant], Awaitable[bool]]) -> None:
        async def one_of(one: Registrant) -> None:
            async with at_once:
                await work(one)

        await asyncio.gather(*(one_of(one) for one in everybody))

    match order["work"]:
        case "register" | "call":
            await asyncio.gather(*(again(one) for one in everybody))
        case "hold":
            await each(Registrant.register)
        case "talk":
            await each(Registrant.call)
            print("ready", flush=True)
            await told()
            await each(Registrant.hang_up)
    found = {
        **asdict(figures),
        "seconds": time.monotonic() - start,
        "connecting_seconds": connecting,
        "clients_cpu": time.process_time() - cpu,
    }
    for one in everybody:
        one.client.lost = lambda: None
        one.client.transport.close()
    return found


def _values(message: bytes, name: bytes) -> list[str]:
    lines = message.partition(b"\r\n\r\n")[0].split(b"\r\n")
    return [line[len(name) :].strip().decode() for line in lines if line.lower().startswith(name)]


if __name__ == "__main__":
    print(json.dumps(uvloop.run(load(json.loads(sys.argv[1])))))
