"""A WebRTC client without its browser: SIP over WebSocket as a page's script speaks it, one step at a time.

For tests of the network edge: whoever drives it says what is sent and waits for what comes, so it can misbehave too.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import ssl

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin, Subprotocol

from imskit.secrets import Secret
from imskit.sip import digest
from imskit.sip.wire.auth import Challenge
from imskit.sip.wire.flow import Address
from imskit.tasks import spawn

_SECONDS = 15.0


class Message(str):
    """A SIP message as text."""

    __slots__ = ()

    @property
    def first(self) -> str:
        """The request or status line."""
        return self.partition("\r\n")[0]

    @property
    def status(self) -> int:
        """The status code; 0 for a request."""
        found = re.match(r"SIP/2\.0 (\d{3}) ", self)
        return int(found[1]) if found else 0

    @property
    def body(self) -> str:
        """What follows the header fields."""
        return self.partition("\r\n\r\n")[2]

    def values(self, name: str) -> list[str]:
        """The values of a header field, one for each line of it."""
        head = self.partition("\r\n\r\n")[0]
        return re.findall(rf"^{re.escape(name)}[ \t]*:[ \t]*(.*?)\r?$", head, re.MULTILINE | re.IGNORECASE)

    def value(self, name: str) -> str:
        """The only or first value; ``LookupError`` without one."""
        found = self.values(name)
        if not found:
            raise LookupError(f"no {name} in {self.first}")
        return found[0]


class WebClient:
    """One connection with one user; ``number`` in the ``+1…`` form."""

    def __init__(self, connection: ClientConnection, user: str, domain: str) -> None:
        self.connection = connection
        self.identity = f"sip:{user}@{domain}"
        self.domain = domain
        self.instance = f"urn:uuid:{secrets.token_hex(4)}-0000-4000-8000-{secrets.token_hex(6)}"
        self.host = f"{secrets.token_hex(6)}.invalid"
        self.contact = f"<sip:{secrets.token_hex(4)}@{self.host};transport=ws>"
        self.call_id = secrets.token_hex(8)
        self.tag = secrets.token_hex(4)
        self.sequence = 0
        self.routes: list[str] = []
        """The Service-Route, once registered."""
        self._messages: list[Message] = []
        self._news = asyncio.Event()
        self._over = False
        self._reader = spawn(self._read(), "web client")

    @classmethod
    async def connect(
        cls,
        address: Address,
        user: str,
        domain: str,
        *,
        origin: str | None = "https://portal.ims.example",
        tls: ssl.SSLContext | None = None,
        local: str | None = None,
    ) -> WebClient:
        """Connect; raises what ``websockets`` raises for a refusal.  ``local`` is the address to come from."""
        scheme = "wss" if tls else "ws"
        connection = await connect(
            f"{scheme}://{address[0]}:{address[1]}/",
            ssl=tls,
            origin=Origin(origin) if origin else None,
            subprotocols=[Subprotocol("sip")],
            compression=None,
            proxy=None,
            max_size=None,
            local_addr=(local, 0) if local else None,
        )
        return cls(connection, user, domain)

    async def close(self) -> None:
        """End the connection."""
        await self.connection.close()
        await self._reader

    async def _read(self) -> None:
        try:
            async for data in self.connection:
                self._messages.append(Message(data if isinstance(data, str) else data.decode()))
                self._news.set()
        except ConnectionClosed:
            pass
        self._over = True
        self._news.set()

    async def send(self, text: str) -> None:
        """Send one message as it is."""
        await self.connection.send(text)

    async def receive(self, pattern: str, within: float = _SECONDS) -> Message:
        """Return (and take out) the first message whose beginning matches the regular expression.

        ``ConnectionError`` when the connection ends before, ``TimeoutError`` names what came instead.
        """
        try:
            async with asyncio.timeout(within):
                while True:
                    for message in self._messages:
                        if re.match(pattern, message):
                            self._messages.remove(message)
                            return message
                    if self._over:
                        raise ConnectionError("the connection is gone")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise TimeoutError(f"nothing like {pattern!r}; there was {[m.first for m in self._messages]}") from None

    async def closed(self, within: float = _SECONDS) -> int:
        """Wait until the other side has closed the connection; returns the close code."""
        async with asyncio.timeout(within):
            await self.connection.wait_closed()
        await self._reader
        return self.connection.close_code or 0

    # ---- requests ---------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        uri: str,
        *more: str,
        to: str | None = None,
        call_id: str | None = None,
        tag: str | None = None,
        sequence: int | None = None,
        branch: str | None = None,
        body: str = "",
    ) -> str:
        """Return a request; ``more`` are whole header lines.  The CSeq number rises by itself if none is given."""
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        lines = [
            f"{method} {uri} SIP/2.0",
            f"Via: SIP/2.0/WSS {self.host};branch={branch or 'z9hG4bK' + secrets.token_hex(6)}",
            "Max-Forwards: 69",
            f"From: <{self.identity}>;tag={tag or self.tag}",
            f"To: {to or f'<{self.identity}>'}",
            f"Call-ID: {call_id or self.call_id}",
            f"CSeq: {sequence} {method}",
            *more,
        ]
        if body:
            lines.append("Content-Type: application/sdp")
        return "\r\n".join([*lines, f"Content-Length: {len(body.encode())}", "", body])

    def answer(self, request: Message, status: str, *more: str, tag: str = "", body: str = "") -> str:
        """Return an answer to a request; ``tag`` is added to To."""
        names = ("via", "from", "to", "call-id", "cseq", "record-route")
        head = request.partition("\r\n\r\n")[0].split("\r\n")[1:]
        lines = [line for line in head if line.partition(":")[0].strip().lower() in names]
        if tag:
            lines = [f"{line};tag={tag}" if line.lower().startswith("to:") else line for line in lines]
        if body:
            more = (*more, "Content-Type: application/sdp")
        return "\r\n".join([f"SIP/2.0 {status}", *lines, *more, f"Content-Length: {len(body.encode())}", "", body])

    async def register(
        self,
        *more: str,
        user: str = "",
        password: Secret[str] | None = None,
        token: str = "",
        expires: int = 600,
        outbound: bool = True,
    ) -> Message:
        """Register, answering one Digest challenge if there is a password; returns the final answer."""
        extra = f';+sip.instance="<{self.instance}>";reg-id=1' if outbound else ""
        fields = [f"Contact: {self.contact}{extra}", f"Expires: {expires}", "Supported: path, outbound", *more]
        if token:
            fields.append(f"Authorization: Bearer {token}")
        uri = f"sip:{self.domain}"
        await self.send(self.request("REGISTER", uri, *fields))
        answer = await self.receive(r"SIP/2\.0 [2-6]")
        if answer.status == 401 and password is not None:
            challenge = Challenge.parse(answer.value("WWW-Authenticate"))
            credentials = digest.answer(
                challenge, username=user, password=password, method="REGISTER", uri=uri, cnonce=secrets.token_hex(8)
            )
            await self.send(self.request("REGISTER", uri, *fields, f"Authorization: {credentials}"))
            answer = await self.receive(r"SIP/2\.0 [2-6]")
        if answer.status == 200:
            self.routes = answer.values("Service-Route")
        return answer
