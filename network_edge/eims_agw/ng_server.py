"""The NG protocol over UDP before a gateway: stock control programs (Kamailio's rtpengine module) steer it so.

The protocol has no authentication, so only the controllers of a list are heard; everything else is dropped unanswered.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

from imskit.tasks import spawn
from network_edge.eims_agw.engine.transactions import Transactions
from network_edge.eims_agw.gateway import Gateway
from network_edge.eims_agw.wire import messages
from network_edge.eims_agw.wire.bencode import Value
from network_edge.eims_agw.wire.errors import NgError
from network_edge.eims_agw.wire.messages import ListRequest, Ping
from network_edge.iq.gateway import (
    AnswerRequest,
    CallFigures,
    CandidatesRequest,
    DeleteRequest,
    GatewayError,
    GatewayUnavailableError,
    OfferRequest,
    QueryRequest,
    UnknownCallError,
)

_log = logging.getLogger(__name__)

type ControllerNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_AT_WORK = 500
"""Commands being worked on at once; more are dropped, and the controller repeats them."""


class NgServer(asyncio.DatagramProtocol):
    """Answers the commands of the controllers."""

    def __init__(self, gateway: Gateway, controllers: Sequence[ControllerNetwork]) -> None:
        self._gateway = gateway
        self._controllers = tuple(controllers)
        self._transport: asyncio.DatagramTransport | None = None
        self._transactions = Transactions()
        self._at_work = 0
        self._ignored: set[str] = set()
        self.counters: Counter[str] = Counter()
        """Commands by name; ``strangers``, ``malformed`` and ``overload`` are datagrams that were dropped."""

    async def start(self, host: str, port: int) -> None:
        """Listen; ``OSError`` when the address cannot be had."""
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, local_addr=(host, port))

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        assert self._transport is not None
        host, port = self._transport.get_extra_info("sockname")[:2]
        return host, port

    @property
    def repeated(self) -> int:
        """Commands that came again and got the answer of the first time."""
        return self._transactions.repeated

    def close(self) -> None:
        """Listen no more; the gateway goes on."""
        if self._transport is not None:
            self._transport.close()

    # asyncio.DatagramProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the socket."""
        self._transport = cast(asyncio.DatagramTransport, transport)  # uvloop's is none by its type

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Take a command, if a controller sent it."""
        if not self._is_controller(addr[0]):
            self.counters["strangers"] += 1
            if self.counters["strangers"] == 1:
                _log.warning("a command from %s, which is no controller, is dropped", addr[0])
            return
        try:
            cookie, body = messages.split(data)
        except NgError as error:
            self.counters["malformed"] += 1
            _log.info("a datagram from %s is dropped: %s", addr[0], error)
            return
        sender = f"{addr[0]} {addr[1]}"
        if self._at_work >= MAX_AT_WORK:
            self.counters["overload"] += 1
            return
        fresh, answer = self._transactions.begin(sender, cookie, time.monotonic())
        if fresh:
            self._at_work += 1
            spawn(self._serve(sender, cookie, body, addr), "NG command")
        elif answer is not None:
            self._send(answer, addr)

    def error_received(self, exc: Exception) -> None:
        """A controller's port is closed: it will ask again, or not."""
        _log.debug("NG: %s", exc)

    # Commands

    async def _serve(self, sender: str, cookie: str, body: bytes, addr: tuple[Any, ...]) -> None:
        try:
            try:
                answer = await self._answer(body)
                data = messages.join(cookie, answer)
            except NgError as error:
                self.counters["malformed"] += 1
                _log.info("a command from %s is refused: %s", addr[0], error)
                data = messages.join(cookie, _error(str(error)))
            except Exception:
                _log.exception("a command failed")
                data = messages.join(cookie, _error("internal error"))
        finally:
            self._at_work -= 1
        self._transactions.finish(sender, cookie, data)
        self._send(data, addr)

    async def _answer(self, body: bytes) -> Mapping[str, Value]:
        parsed = messages.parse_request(messages.dictionary(body))
        self._tell_ignored(parsed.ignored)
        request = parsed.request
        self.counters[type(request).__name__] += 1
        gateway = self._gateway
        try:
            match request:
                case Ping():
                    return {"result": "pong", "draining": 1} if gateway.draining else {"result": "pong"}
                case OfferRequest():
                    return {"result": "ok", "sdp": str(await gateway.offer(request))}
                case AnswerRequest():
                    return {"result": "ok", "sdp": str(await gateway.answer(request))}
                case CandidatesRequest():
                    await gateway.candidates(request)
                    return {"result": "ok"}
                case DeleteRequest():
                    return await self._delete(request)
                case QueryRequest():
                    return _details(await gateway.query(request))
                case ListRequest():
                    return {"result": "ok", "calls": [*await gateway.list(request.limit)]}
        except GatewayUnavailableError as error:
            return {"result": "load limit", "message": str(error)}
        except GatewayError as error:
            _log.info("%s refused: %s", type(request).__name__, error)
            return _error(str(error), error.status)

    async def _delete(self, request: DeleteRequest) -> Mapping[str, Value]:
        try:
            details = _details(await self._gateway.query(QueryRequest(request.call_id)))
            await self._gateway.delete(request)
        except UnknownCallError:
            return {"result": "ok", "warning": "Call-ID not found or tags didn't match"}
        return details

    def _is_controller(self, host: str) -> bool:
        address = ipaddress.ip_address(host.partition("%")[0])
        return any(address.version == network.version and address in network for network in self._controllers)

    def _tell_ignored(self, ignored: Sequence[str]) -> None:
        fresh = [name[:80] for name in ignored if name[:80] not in self._ignored]
        if fresh and len(self._ignored) < 200:
            self._ignored.update(fresh)
            _log.info("ignored in commands, told once: %s", ", ".join(fresh))

    def _send(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, addr)


def _error(reason: str, status: int = 0) -> dict[str, Value]:
    answer: dict[str, Value] = {"result": "error", "error-reason": reason}
    if status:
        answer["sip-status"] = status
    return answer


def _details(figures: CallFigures) -> dict[str, Value]:
    return {"result": "ok", **figures.details}  # type: ignore[dict-item]
