"""JsSIP in Node.js over our WebSocket server: registration with digest, MESSAGE both ways.  Requirement S7-SIF."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from imskit.secrets import Secret
from imskit.sip import digest
from imskit.sip.engine.events import (
    RequestReceived,
    ResponseReceived,
    SendRequest,
    SendResponse,
    SentBy,
)
from imskit.sip.engine.layer import TransactionLayer
from imskit.sip.io.endpoint import Endpoint
from imskit.sip.wire.auth import Challenge, Credentials
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.message import Request, Response, response_to

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is missing"),
    pytest.mark.skipif(not (ROOT / "node_modules" / "jssip").is_dir(), reason="JsSIP is not installed"),
]

SCRIPT = """
const JsSIP = require('jssip');
const say = (what, more) => console.log(JSON.stringify({what, more}));
const ua = new JsSIP.UA({
  sockets: [new JsSIP.WebSocketInterface(process.argv[1])],
  uri: 'sip:alice@ims.example', password: 'secret', register: true,
});
ua.on('registered', () => {
  say('registered');
  ua.sendMessage('sip:bob@ims.example', 'gr\\u00fc\\u00df', {
    eventHandlers: { succeeded: (e) => say('sent', e.response.status_code), failed: (e) => say('failed', e.cause) },
  });
});
ua.on('registrationFailed', (e) => say('registrationFailed', e.cause));
ua.on('newMessage', (e) => { if (e.originator === 'remote') say('message', e.request.body); });
ua.start();
"""


class Server:
    """A registrar and message relay of one user."""

    def __init__(self) -> None:
        count = itertools.count(1)
        self.endpoint: Endpoint[Any, Any] = Endpoint(TransactionLayer(lambda n: f"{next(count):0{n}x}"), self.output)
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.answers: asyncio.Queue[int] = asyncio.Queue()

    def output(self, output: object) -> None:
        if isinstance(output, ResponseReceived):
            self.answers.put_nowait(output.response.status)
        if not isinstance(output, RequestReceived):
            return
        request = output.request
        if request.method == "REGISTER":
            self.endpoint.handle(SendResponse(output.key, self.register(request)))
            return
        self.endpoint.handle(SendResponse(output.key, response_to(request, 202, to_tag="t")))
        self.messages.put_nowait(request.body)
        self.endpoint.handle(
            SendRequest(
                Request.create(
                    "MESSAGE",
                    self.contact,
                    [
                        ("Max-Forwards", 70),
                        ("From", "<sip:bob@ims.example>;tag=b"),
                        ("To", "<sip:alice@ims.example>"),
                        ("Call-ID", "back"),
                        ("CSeq", "1 MESSAGE"),
                    ],
                    "zur\u00fcck".encode(),
                    "text/plain",
                ),
                output.flow,
                "back",
                SentBy("server.invalid"),
            )
        )

    def register(self, request: Request) -> Response:
        value = request.headers.get("Authorization")
        if value is None:
            response = response_to(request, 401, to_tag="t")
            response.headers.add("WWW-Authenticate", Challenge.digest("ims.example", "n1", qop=("auth", "auth-int")))
            return response
        if not digest.verify(Credentials.parse(value), Secret("secret"), "REGISTER", request.body):
            return response_to(request, 403, to_tag="t")
        response = response_to(request, 200, to_tag="t")
        (contact,) = request.contacts
        assert isinstance(contact, NameAddr)
        self.contact = contact.uri
        response.headers.add("Contact", contact.with_parameter("expires", "600"))
        return response


async def test_jssip_registers_and_exchanges_messages() -> None:
    seen: list[Mapping[str, str]] = []

    def check(headers: Mapping[str, str]) -> None:
        seen.append(headers)

    server = Server()
    host, port = await server.endpoint.listen("WS", ("127.0.0.1", 0), check=check)
    node = await asyncio.create_subprocess_exec(
        *("node", "--experimental-websocket", "-e", SCRIPT, f"ws://{host}:{port}/"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert node.stdout is not None
    said: dict[str, Any] = {}
    try:
        async with asyncio.timeout(20):
            while not {"sent", "message"} <= said.keys():
                line = await node.stdout.readline()
                assert line, f"node ended after {said}"
                if line.startswith(b"{"):
                    event = json.loads(line)
                    assert "ailed" not in event["what"], event
                    said[event["what"]] = event.get("more")
            assert await server.messages.get() == "gr\u00fc\u00df".encode()
            assert await server.answers.get() == 200
    finally:
        if node.returncode is None:
            node.kill()
        await node.wait()
        await server.endpoint.close()
    assert said == {"registered": None, "sent": 202, "message": "zur\u00fcck"}
    assert seen[0]["sec-websocket-protocol"] == "sip"
