"""A gateway elsewhere, by the NG protocol over UDP: our own eIMS-AGW or an rtpengine.

A command is repeated under its cookie until it is answered.  The protocol reports nothing by itself, so the calls are
asked about in turn; a gateway that is gone, or has forgotten a call, is told to the owner as ``Loss.GATEWAY``.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Mapping
from typing import Any, cast

from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sdp.profile import IMS
from imskit.tasks import spawn
from network_edge.eims_agw.wire import messages
from network_edge.eims_agw.wire.bencode import Value
from network_edge.eims_agw.wire.errors import NgError
from network_edge.eims_agw.wire.messages import ListRequest, Ping, Request, request_message
from network_edge.iq.gateway import (
    AnswerRequest,
    CallFigures,
    CandidatesRequest,
    DeleteRequest,
    GatewayError,
    GatewaySilentError,
    GatewayUnavailableError,
    Loss,
    MediaFlags,
    MediaLost,
    OfferRequest,
    OnMediaLost,
    QueryRequest,
    Traffic,
    UnknownCallError,
)

_log = logging.getLogger(__name__)

RETRANSMIT_SECONDS = 0.25
"""Until the first repetition; doubled each time."""
TIMEOUT_SECONDS = 4.0
"""Until a command has failed."""
WATCH_SECONDS = 5.0
"""Between two rounds of questions about the calls."""
_ROUNDS_WITHOUT_ANSWER = 2


class NgGateway(asyncio.DatagramProtocol):
    """Commands to one gateway; implements ``MediaGateway``.  Made by ``connect``."""

    def __init__(self, name: str, *, timeout: float = TIMEOUT_SECONDS, watch: float = WATCH_SECONDS) -> None:
        self.name = name
        self.on_media_lost: OnMediaLost | None = None
        self.draining = False
        """The gateway said so in its last answer to ``ping``."""
        self.retransmissions = 0
        self._timeout = timeout
        self._watch_seconds = watch
        self._transport: asyncio.DatagramTransport | None = None
        self._waiting: dict[str, asyncio.Future[Mapping[str, Value]]] = {}
        self._cookies = (f"{secrets.token_hex(6)}_{number}" for number in itertools.count())
        self._calls: set[str] = set()
        self._watcher: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls, host: str, port: int, *, timeout: float = TIMEOUT_SECONDS, watch: float = WATCH_SECONDS
    ) -> NgGateway:
        """Make the socket; ``OSError`` when the address makes no sense.  Nothing is sent yet.

        ``timeout`` and ``watch`` (0: calls are not asked about) are in seconds.
        """
        gateway = cls(f"{host}:{port}", timeout=timeout, watch=watch)
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: gateway, remote_addr=(host, port))
        return gateway

    async def ping(self) -> None:
        """Return when the gateway answers."""
        answer = await self._command(Ping())
        if answer.get("result") != "pong":
            raise GatewayError(f"an answer to ping that is no pong from {self.name}")
        self.draining = bool(answer.get("draining"))

    async def offer(self, request: OfferRequest) -> SessionDescription:
        """Send an offer to the gateway."""
        sdp = _sdp(await self._command(request), request.flags)
        self._calls.add(request.call_id)
        if self._watcher is None and self._watch_seconds:
            self._watcher = spawn(self._watch(), f"NG gateway {self.name}")
        return sdp

    async def answer(self, request: AnswerRequest) -> SessionDescription:
        """Send an answer to the gateway."""
        return _sdp(await self._command(request), request.flags)

    async def candidates(self, request: CandidatesRequest) -> None:
        """Send candidates there: a command of our own gateway's.  rtpengine has none and waits for the checks."""
        try:
            await self._command(request)
        except UnknownCallError:
            raise
        except GatewayError as error:
            if "unrecognized command" not in str(error).lower():
                raise
            _log.debug("%s takes no candidates after the description: %s", self.name, error)

    async def delete(self, request: DeleteRequest) -> None:
        """End a call there."""
        if request.via_branch is None and request.to_tag is None:
            self._calls.discard(request.call_id)
        answer = await self._command(request)
        if "warning" in answer:
            self._calls.discard(request.call_id)
            raise UnknownCallError(str(answer["warning"]))

    async def query(self, request: QueryRequest) -> CallFigures:
        """Ask for the figures of a call."""
        return _figures(request.call_id, await self._command(request))

    async def list(self, limit: int = 32) -> tuple[str, ...]:
        """Ask for the calls."""
        calls = (await self._command(ListRequest(limit))).get("calls")
        return tuple(str(call) for call in calls) if isinstance(calls, list) else ()

    def forget(self, call_id: str) -> None:
        """Ask no more about a call that has ended."""
        self._calls.discard(call_id)

    async def close(self) -> None:
        """Close the socket; calls go on at the gateway."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._transport is not None:
            self._transport.close()
        for waiting in self._waiting.values():
            waiting.cancel()

    # asyncio.DatagramProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the socket."""
        self._transport = cast(asyncio.DatagramTransport, transport)  # uvloop's is none by its type

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Take an answer; what belongs to no command is dropped."""
        try:
            cookie, body = messages.split(data)
            waiting = self._waiting.get(cookie)
            if waiting is not None and not waiting.done():
                waiting.set_result(messages.dictionary(body))
        except NgError as error:
            _log.info("an answer of %s is dropped: %s", self.name, error)

    def error_received(self, exc: Exception) -> None:
        """Port closed: repetitions go on, as the gateway may be starting."""
        _log.debug("%s: %s", self.name, exc)

    # Commands

    async def _command(self, request: Request) -> Mapping[str, Value]:
        if self._transport is None or self._transport.is_closing():
            raise GatewayUnavailableError(f"{self.name}: the socket is closed")
        cookie = next(self._cookies)
        try:
            data = messages.join(cookie, request_message(request))
        except NgError as error:
            raise GatewayError(str(error), status=513) from error
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[Mapping[str, Value]] = loop.create_future()
        self._waiting[cookie] = waiting
        pause, end = RETRANSMIT_SECONDS, loop.time() + self._timeout
        try:
            while True:
                self._transport.sendto(data)
                await asyncio.wait((waiting,), timeout=min(pause, end - loop.time()))
                if waiting.done():
                    return _checked(waiting.result(), self.name)
                if loop.time() >= end:
                    raise GatewaySilentError(f"{self.name} does not answer within {self._timeout:g} s")
                self.retransmissions += 1
                pause *= 2
        finally:
            del self._waiting[cookie]

    async def _watch(self) -> None:
        """Ask about every call again and again."""
        silent = 0
        while True:
            await asyncio.sleep(self._watch_seconds)
            answered = not self._calls
            for call_id in list(self._calls):
                try:
                    figures = await self.query(QueryRequest(call_id))
                except UnknownCallError:
                    answered = True
                    self._lose(call_id, Loss.GATEWAY, f"{self.name} has forgotten the call")
                except GatewayUnavailableError:
                    break
                except GatewayError as error:
                    _log.info("%s: query: %s", self.name, error)
                else:
                    answered = True
                    loss = _loss(figures)
                    if loss is not None:
                        self._lose(call_id, loss, f"told by {self.name}")
            silent = 0 if answered else silent + 1
            if silent >= _ROUNDS_WITHOUT_ANSWER:
                for call_id in list(self._calls):
                    self._lose(call_id, Loss.GATEWAY, f"{self.name} does not answer")

    def _lose(self, call_id: str, loss: Loss, reason: str) -> None:
        if call_id not in self._calls:
            return
        self._calls.discard(call_id)
        _log.warning("call %s: %s: %s", call_id, loss, reason)
        if self.on_media_lost is not None:
            try:
                self.on_media_lost(MediaLost(call_id, loss, reason))
            except Exception:
                _log.exception("the owner of call %s failed to take its loss", call_id)


def _checked(answer: Mapping[str, Value], name: str) -> Mapping[str, Value]:
    """Return a good answer; raise what a bad one says."""
    result = answer.get("result")
    if result in ("ok", "pong"):
        return answer
    reason = str(answer.get("error-reason") or answer.get("message") or result)
    if result == "load limit":
        raise GatewayUnavailableError(f"{name}: {reason}")
    if "unknown call" in reason.lower():
        raise UnknownCallError(f"{name}: {reason}")
    status = answer.get("sip-status")
    raise GatewayError(f"{name}: {reason}", status=status if isinstance(status, int) and 400 <= status < 700 else 500)


def _sdp(answer: Mapping[str, Value], flags: MediaFlags) -> SessionDescription:
    """Read the gateway's description; rtpengine copies what it does not know, which must not reach IMS [R-MUX]."""
    sdp = answer.get("sdp")
    if not isinstance(sdp, str):
        raise GatewayError("an answer of the gateway without a description")
    try:
        description = SessionDescription.parse(sdp)
    except SdpError as error:
        raise GatewayError(f"the gateway's description cannot be read: {error}") from error
    if flags.transport is not None and not flags.transport.dtls:
        IMS.strip(description)
    return description


def _figures(call_id: str, answer: Mapping[str, Value]) -> CallFigures:
    received: dict[str, Traffic] = {}
    for tag, entry in _dictionary(answer, "tags").items():
        if isinstance(entry, dict):
            streams = [
                stream
                for media in _items(entry, "medias")
                for stream in _items(media, "streams")
                if "RTP" in _words(stream, "flags")
            ]
            parts = [_traffic(_dictionary(stream, "stats")) for stream in streams]
            received[tag] = Traffic(
                sum(part.packets for part in parts),
                sum(part.octets for part in parts),
                sum(part.errors for part in parts),
            )
    total = _traffic(_dictionary(_dictionary(answer, "totals"), "RTP"))
    created, last = (_number(answer, key) for key in ("created", "last signal"))
    return CallFigures(call_id, created, last, received, total, answer)


def _loss(figures: CallFigures) -> Loss | None:
    """What our own gateway says of a call whose media have ended."""
    for entry in _dictionary(figures.details, "tags").values():
        if isinstance(entry, dict) and isinstance(lost := entry.get("lost"), str) and lost in Loss:
            return Loss(lost)
    return None


def _dictionary(where: Mapping[str, Any], key: str) -> dict[str, Value]:
    value = where.get(key)
    return value if isinstance(value, dict) else {}


def _items(where: Mapping[str, Value], key: str) -> list[dict[str, Value]]:
    value = where.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _words(where: Mapping[str, Value], key: str) -> list[Value]:
    value = where.get(key)
    return value if isinstance(value, list) else []


def _number(where: Mapping[str, Value], key: str) -> int:
    value = where.get(key)
    return value if isinstance(value, int) else 0


def _traffic(where: Mapping[str, Value]) -> Traffic:
    return Traffic(_number(where, "packets"), _number(where, "bytes"), _number(where, "errors"))
