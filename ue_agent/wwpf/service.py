"""The agent's side of the socket: answers challenges for the WWPF process and nobody else.

The socket has mode 0600 in a directory of mode 0700, its user is checked (SO_PEERCRED), its process too where known,
and the first message must bring a secret made at this start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imskit.secrets import Identity, Secret
from imskit.tasks import spawn
from ue_agent.wwpf.agent import MAXIMUM_LINE, AgentError, LoginHandler, Message, ProtocolError
from ue_agent.wwpf.config import AgentSocket
from ue_agent.wwpf.handover import new_secret
from ue_agent.wwpf.remembered import RememberedSessions

_log = logging.getLogger(__name__)

HELLO_S = 5.0
"""Seconds within which a connection has to show the secret."""
BURST = 10
"""Challenges answered in a row; after that one each ``REFILL_S`` seconds, to spare card and subscription."""
REFILL_S = 6.0
_MAXIMUM_REQUESTS = 16
_MAXIMUM_TTL = 7 * 24 * 3600
_CREDENTIALS = struct.Struct("3i")


class WwpfService:
    """Listens on ``path`` for the WWPF process and hands its questions to ``handler``.

    With ``remembered``, a file, log-ins outlive a restart of the agent too.
    """

    def __init__(self, handler: LoginHandler, path: Path, remembered: Path | None = None) -> None:
        self._handler = handler
        self._path = path
        self._secret = new_secret()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._sessions = RememberedSessions(remembered)
        self._tokens = float(BURST)
        self._refilled = time.monotonic()
        self.process: int | None = None
        """The only process that may connect, when known."""
        self.state = ""
        """What the WWPF last said of itself: ``ready``, ``login``, ``login-failed`` …"""
        self.detail = ""
        self.reported = asyncio.Event()
        """Set at each report."""

    @property
    def socket(self) -> AgentSocket:
        """What the WWPF process must be told, by a way that nobody else can read."""
        return AgentSocket(self._path, self._secret)

    async def start(self) -> None:
        """Listen; OSError if the path cannot be used."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        old = os.umask(0o177)  # mode 0600 from the first moment on
        try:
            listener.bind(str(self._path))
        finally:
            os.umask(old)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MAXIMUM_LINE)

    async def aclose(self) -> None:
        """Stop listening and close every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    def belongs_to(self, user: Identity) -> None:
        """Say whose card is in use: with another user's, who was logged in is so no longer."""
        if self._sessions.belong_to(user):
            for task in list(self._connections):
                task.cancel()  # the WWPF learns it as it connects anew

    # -- one connection

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        requests: set[asyncio.Task[None]] = set()
        try:
            if not self._is_wwpf(writer):
                return
            async with asyncio.timeout(HELLO_S):
                hello = Message.parse(await reader.readline())
            if hello.fields.get("op") != "hello" or Secret(hello.text("secret")) != self._secret:
                _log.warning("agent socket: a connection without the secret is refused")
                return
            _reply(writer, hello.number, {"sessions": self._sessions.live()})
            while line := await reader.readline():
                message = Message.parse(line)
                if len(requests) >= _MAXIMUM_REQUESTS:
                    _refuse(writer, message.number, AgentError("busy", "Too many log-ins at once."))
                    continue
                request = spawn(self._request(message, writer), "wwpf-request")
                requests.add(request)
                request.add_done_callback(requests.discard)
        except (OSError, EOFError, TimeoutError, ValueError, ProtocolError) as error:
            _log.warning("agent socket: %s", error or type(error).__name__)
        except asyncio.CancelledError:
            pass  # closed from our side
        finally:
            self._connections.discard(task)
            for request in requests:
                request.cancel()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _is_wwpf(self, writer: asyncio.StreamWriter) -> bool:
        peer: socket.socket = writer.get_extra_info("socket")
        pid, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid != os.geteuid() or (self.process is not None and pid != self.process):
            _log.warning("agent socket: process %d of user %d is refused", pid, uid)
            return False
        return True

    async def _request(self, message: Message, writer: asyncio.StreamWriter) -> None:
        try:
            _reply(writer, message.number, await self._perform(message))
        except AgentError as error:
            _refuse(writer, message.number, error)
        except ProtocolError as error:
            _log.error("agent socket: %s", error)
            _refuse(writer, message.number, AgentError("internal", "The request cannot be understood."))
        except Exception:
            # The user waits for a page; the reason is for the log.
            _log.exception("agent socket: request failed")
            _refuse(writer, message.number, AgentError("internal", "The calling service has failed; see its log."))

    async def _perform(self, message: Message) -> Mapping[str, Any]:
        match message.fields.get("op"):
            case "identity":
                identity = await self._handler.identity()
                return {"impi": str.__str__(identity.impi), "domain": identity.domain}
            case "answer":
                challenge, method, uri = (message.text(name) for name in ("challenge", "method", "uri"))
                self._take_token()
                answer = await self._handler.answer_challenge(challenge, method, uri)
                return {"authorization": answer.authorization, "resync": answer.resync}
            case "naf":
                challenge, method, uri, host = (message.text(name) for name in ("challenge", "method", "uri", "host"))
                renew = message.fields.get("renew") is True
                self._take_token()
                authorization = await self._handler.answer_naf_challenge(challenge, method, uri, host, renew)
                return {"authorization": authorization}
            case "turn":
                password = Secret(message.text("password", 512))
                ttl = message.number_of("ttl", _MAXIMUM_TTL)
                await self._handler.turn_credential(message.text("username", 512), password, ttl)
                return {}
            case "sessions":
                self._remember(message)
                return {}
            case "status":
                self.state, self.detail = message.text("state", 64), message.text("detail", 4096)
                self.reported.set()
                return {}
            case other:
                raise ProtocolError(f"operation {other!r} is not known")

    def _remember(self, message: Message) -> None:
        closed = message.fields.get("closed", [])
        if not isinstance(closed, list):
            raise ProtocolError("closed is no list")
        self._sessions.change(message.sessions("opened"), [str(digest) for digest in closed])

    def _take_token(self) -> None:
        now = time.monotonic()
        self._tokens = min(float(BURST), self._tokens + (now - self._refilled) / REFILL_S)
        self._refilled = now
        if self._tokens < 1:
            raise AgentError("busy", "There were too many log-ins in a short time. Wait a few seconds.")
        self._tokens -= 1


def _reply(writer: asyncio.StreamWriter, number: int, result: Mapping[str, Any]) -> None:
    writer.write(Message(number, {"result": result}).encode())


def _refuse(writer: asyncio.StreamWriter, number: int, error: AgentError) -> None:
    writer.write(Message(number, {"error": {"kind": error.kind, "message": str(error)}}).encode())
