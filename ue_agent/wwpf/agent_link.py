"""The WWPF's side of the socket to the agent."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from imskit.secrets import Identity, Secret
from imskit.tasks import spawn
from ue_agent.wwpf.agent import MAXIMUM_LINE, AgentError, ChallengeAnswer, LoginIdentity, Message, ProtocolError
from ue_agent.wwpf.config import AgentSocket

_log = logging.getLogger(__name__)

ANSWER_S = 20.0
"""Seconds that the agent may take; a card that asks for its PIN or is reset needs some."""
_UNREACHABLE = "The calling service on this device is not running."

type Sessions = list[tuple[str, float]]


class AgentLink:
    """Asks the agent; connects when needed, again after a loss.

    ``on_sessions`` is called with the log-ins that the agent remembers at each connection, and with none at its end.
    """

    def __init__(self, agent: AgentSocket, on_sessions: Callable[[Sessions], None]) -> None:
        self._agent = agent
        self._on_sessions = on_sessions
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    async def identity(self) -> LoginIdentity:
        """Return who the card belongs to; AgentError when nobody knows."""
        result = await self._ask("identity")
        impi, domain = result.get("impi"), result.get("domain")
        if not isinstance(impi, str) or not isinstance(domain, str):
            raise AgentError("internal", "The calling service answers strangely.")
        return LoginIdentity(Identity(impi), domain)

    async def answer_challenge(self, challenge: str, method: str, uri: str) -> ChallengeAnswer:
        """Let the card answer; AgentError when it cannot."""
        result = await self._ask("answer", challenge=challenge, method=method, uri=uri)
        authorization = result.get("authorization")
        if not isinstance(authorization, str):
            raise AgentError("internal", "The calling service answers strangely.")
        return ChallengeAnswer(authorization, result.get("resync") is True)

    async def answer_naf_challenge(self, challenge: str, method: str, uri: str, host: str, renew: bool) -> str:
        """Let the agent answer with a bootstrapped key; AgentError when there is none."""
        result = await self._ask("naf", challenge=challenge, method=method, uri=uri, host=host, renew=renew)
        authorization = result.get("authorization")
        if not isinstance(authorization, str):
            raise AgentError("internal", "The calling service answers strangely.")
        return authorization

    async def turn_credential(self, username: str, password: Secret[str], ttl: float) -> None:
        """Make a TURN credential known."""
        await self._ask("turn", username=username, password=password.reveal(), ttl=ttl)

    async def sessions_changed(self, opened: Sessions, closed: list[str]) -> None:
        """Let the agent remember log-ins for this program's successor."""
        await self._ask("sessions", opened=opened, closed=closed)

    async def status(self, state: str, detail: str = "") -> None:
        """Report to the agent, for its own status."""
        await self._ask("status", state=state, detail=detail)

    async def aclose(self) -> None:
        """Close the connection."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._lost()

    async def _ask(self, op: str, **fields: Any) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._connect()
                return await self._exchange(op, fields)
        except TimeoutError as error:
            raise AgentError("busy", "The SIM card takes too long to answer.") from error
        except OSError as error:
            _log.warning("agent: %s", error)
            raise AgentError("not-ready", _UNREACHABLE) from error
        except ProtocolError as error:
            _log.error("agent: %s", error)
            self._lost()
            raise AgentError("internal", "The calling service answers strangely.") from error

    async def _exchange(self, op: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        number = next(self._numbers)
        reply = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        try:
            if self._writer is None:
                raise ConnectionResetError("the connection is lost")
            self._writer.write(Message(number, {"op": op, **fields}).encode())
            await self._writer.drain()
            message: Message = await reply
            return message.result()
        finally:
            self._waiting.pop(number, None)

    async def _connect(self) -> None:
        async with self._connecting:
            if self._writer is not None:
                return
            reader, self._writer = await asyncio.open_unix_connection(self._agent.path, limit=MAXIMUM_LINE)
            self._reading = spawn(self._read(reader), "wwpf-agent-link")
            hello = await self._exchange("hello", {"secret": self._agent.secret.reveal()})
            self._on_sessions(Message(0, hello).sessions("sessions"))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                message = Message.parse(line)
                reply = self._waiting.get(message.number)
                if reply is not None and not reply.done():
                    reply.set_result(message)
        except (OSError, ValueError, ProtocolError) as error:
            _log.error("agent: %s", error)
        self._lost()

    def _lost(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._on_sessions([])
        for reply in self._waiting.values():
            if not reply.done():
                reply.set_exception(ConnectionResetError("the agent has closed the connection"))
