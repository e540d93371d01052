"""The core behind an edge under load: answers what any I-CSCF and S-CSCF would say, with as little work as can be.

``python -m bench.edge_core`` prints the port that it listens at on 127.0.0.1, UDP and TCP (where requests of more than
1,300 octets come: RFC 3261 section 18.1.1), and answers until its standard input ends.  REGISTER: 401 with a Digest
challenge while there is no answer to one and no ``auth-done``, else 200 with the Path, a Service-Route and the
identities.  INVITE: 180 and 200 of a VoLTE phone.  Everything else: 200.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from typing import cast

import uvloop

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
_COPIED = (b"via", b"from", b"to", b"call-id", b"cseq", b"record-route")
_PHONE = (
    b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 49152 RTP/AVP 96 97\r\n"
    b"b=AS:41\r\na=rtpmap:96 AMR-WB/16000/1\r\na=fmtp:96 mode-change-capability=2;max-red=0\r\n"
    b"a=rtpmap:97 telephone-event/16000/1\r\na=fmtp:97 0-15\r\na=ptime:20\r\na=maxptime:240\r\na=sendrecv\r\n"
)


class Core(asyncio.DatagramProtocol, asyncio.Protocol):
    """Stateless: every answer follows from its request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer, and where requests within a dialog are to come."""
        self._transport = transport
        self._buffer = b""
        self.port: int = transport.get_extra_info("sockname")[1]

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            length = re.search(rb"\r\ncontent-length *: *(\d+)", self._buffer[:end], re.IGNORECASE)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < size:
                return
            message, self._buffer = self._buffer[:size], self._buffer[size:]
            self._take(message, cast(asyncio.Transport, self._transport).write)

    def datagram_received(self, data: bytes, address: tuple[str | None, int]) -> None:
        """Answer a request."""
        transport = cast(asyncio.DatagramTransport, self._transport)
        self._take(data, lambda answer: transport.sendto(answer, address))

    def _take(self, data: bytes, send: Callable[[bytes], None]) -> None:
        head, _, _ = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        method = lines[0].partition(b" ")[0]
        if method in (b"ACK", b"SIP/2.0"):
            return
        fields = [(name.strip().lower(), line) for line in lines[1:] for name in [line.partition(b":")[0]]]
        copied = b"".join(line + b"\r\n" for name, line in fields if name in _COPIED)
        if not any(name == b"to" and b";tag=" in line for name, line in fields):
            copied = b"".join(
                line + (b";tag=core" if name == b"to" else b"") + b"\r\n" for name, line in fields if name in _COPIED
            )
        contact = f"Contact: <sip:phone@127.0.0.1:{self.port}>\r\n".encode()

        def say(status: bytes, more: bytes = b"", body: bytes = b"") -> None:
            length = f"Content-Length: {len(body)}\r\n\r\n".encode()
            send(b"SIP/2.0 " + status + b"\r\n" + copied + more + length + body)

        if method == b"REGISTER":
            authorization = next((line for name, line in fields if name == b"authorization"), b"")
            if b"auth-done" in authorization or (b"nonce=" in authorization and b'nonce=""' not in authorization):
                more = b"".join(line + b"\r\n" for name, line in fields if name in (b"path", b"contact"))
                identity = next(line for name, line in fields if name == b"to").partition(b"<")[2].partition(b">")[0]
                more += f"Service-Route: <sip:orig@127.0.0.1:{self.port};lr>\r\nExpires: 3600\r\n".encode()
                say(b"200 OK", more + b"P-Associated-URI: <" + identity + b">\r\n")
            else:
                challenge = (
                    f'WWW-Authenticate: Digest realm="{DOMAIN}", nonce="bm9uY2U=", algorithm=MD5, qop="auth"\r\n'
                )
                say(b"401 Unauthorized", challenge.encode())
        elif method == b"INVITE":
            say(b"180 Ringing", contact)
            say(b"200 OK", contact + b"Content-Type: application/sdp\r\n", _PHONE)
        elif method == b"SUBSCRIBE":
            say(b"200 OK", contact + b"Expires: 3600\r\n")
        else:
            say(b"200 OK")


async def _main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Core, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await loop.create_datagram_endpoint(Core, ("127.0.0.1", port))
    print(port, flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(_main())
