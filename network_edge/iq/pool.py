"""Several gateways as one: a call goes to the least loaded one that is well, and stays there.

What a gateway may still hold though its call is over here (it did not answer for a while, or not to the command that
would have told) is deleted there as soon as it answers again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial

from imskit.sdp.description import SessionDescription
from imskit.tasks import spawn
from network_edge.iq.gateway import (
    AnswerRequest,
    CallFigures,
    CandidatesRequest,
    DeleteRequest,
    GatewayError,
    GatewaySilentError,
    GatewayUnavailableError,
    Loss,
    MediaGateway,
    MediaLost,
    OfferRequest,
    OnMediaLost,
    QueryRequest,
    UnknownCallError,
)

_log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
FAILURES = 2
"""Pings in a row without an answer after which a gateway is taken for dead."""
_MOST_ORPHANS = 10_000
"""Calls remembered for a gateway that is gone; it ends what nobody asks about by itself, only later."""


class _Member:
    def __init__(self, name: str, gateway: MediaGateway) -> None:
        self.name = name
        self.gateway = gateway
        self.calls: set[str] = set()
        self.orphans: dict[str, None] = {}
        """Calls that are over here, and perhaps not there; in order."""
        self.failures = 0
        self.told_to_drain = False

    @property
    def alive(self) -> bool:
        return self.failures < FAILURES

    @property
    def open(self) -> bool:
        return self.alive and not self.told_to_drain and not self.gateway.draining

    def orphan(self, call_id: str) -> None:
        """Have a call deleted when the gateway answers again."""
        self.orphans[call_id] = None
        if len(self.orphans) > _MOST_ORPHANS:
            del self.orphans[next(iter(self.orphans))]

    async def clear(self, call_id: str) -> None:
        """Delete an orphan; ``GatewaySilentError`` leaves it for the next time."""
        if call_id not in self.orphans:
            return
        try:
            await self.gateway.delete(DeleteRequest(call_id, delay=0))
            _log.info("call %s: deleted at gateway %s, which had kept it", call_id, self.name)
        except GatewaySilentError:
            raise
        except GatewayError as error:
            _log.debug("call %s: gateway %s: %s", call_id, self.name, error)
        self.orphans.pop(call_id, None)


class GatewayPool:
    """Implements ``MediaGateway`` over others; ``start`` begins the health checks."""

    def __init__(self, gateways: Mapping[str, MediaGateway], *, check_seconds: float = CHECK_SECONDS) -> None:
        self.on_media_lost: OnMediaLost | None = None
        self._members = [_Member(name, gateway) for name, gateway in gateways.items()]
        self._check_seconds = check_seconds
        self._checks: list[asyncio.Task[None]] = []
        self._of_call: dict[str, _Member] = {}
        for member in self._members:
            member.gateway.on_media_lost = partial(self._lost, member)

    @property
    def draining(self) -> bool:
        """No gateway takes new calls."""
        return not any(member.open for member in self._members)

    @draining.setter
    def draining(self, value: bool) -> None:
        for member in self._members:
            member.told_to_drain = value

    def status(self) -> dict[str, str]:
        """Return ``up``, ``draining`` or ``down`` of each gateway, with its calls: for people and metrics."""
        return {
            member.name: f"{'up' if member.open else 'draining' if member.alive else 'down'}, {len(member.calls)} calls"
            for member in self._members
        }

    def start(self) -> None:
        """Begin the health checks."""
        self._checks = [spawn(self._check(member), f"gateway {member.name}") for member in self._members]

    def drain(self, name: str, on: bool = True) -> None:
        """Give no new calls to a gateway, or again; ``KeyError`` for an unknown name."""
        {member.name: member for member in self._members}[name].told_to_drain = on

    async def ping(self) -> None:
        """Return when any gateway answers."""
        for member in self._members:
            try:
                await member.gateway.ping()
            except GatewayError:
                continue
            return
        raise GatewayUnavailableError("no gateway answers")

    async def offer(self, request: OfferRequest) -> SessionDescription:
        """Send an offer to the call's gateway; a new call goes to the next one where the first is unavailable."""
        known = self._of_call.get(request.call_id)
        if known is not None:
            return await known.gateway.offer(request)
        refusal = GatewayUnavailableError("no gateway is there for a new call")
        for member in sorted((item for item in self._members if item.open), key=lambda item: len(item.calls)):
            try:
                self._take(request.call_id, member)
                await member.clear(request.call_id)
                return await member.gateway.offer(request)
            except GatewayUnavailableError as error:
                self._forget(request.call_id)
                if isinstance(error, GatewaySilentError):
                    member.orphan(request.call_id)
                _log.warning("gateway %s: %s", member.name, error)
                refusal = error
            except GatewayError:
                self._forget(request.call_id)
                raise
        raise refusal

    async def answer(self, request: AnswerRequest) -> SessionDescription:
        """Send an answer to the call's gateway."""
        return await self._member(request.call_id).gateway.answer(request)

    async def candidates(self, request: CandidatesRequest) -> None:
        """Hand candidates to the call's gateway."""
        await self._member(request.call_id).gateway.candidates(request)

    async def delete(self, request: DeleteRequest) -> None:
        """End a call at its gateway."""
        member = self._member(request.call_id)
        if request.via_branch is None and request.to_tag is None:
            self._forget(request.call_id)
        try:
            await member.gateway.delete(request)
        except UnknownCallError:
            self._forget(request.call_id)
            raise
        except GatewaySilentError:
            if request.call_id not in member.calls:
                member.orphan(request.call_id)
            raise

    async def query(self, request: QueryRequest) -> CallFigures:
        """Ask the call's gateway."""
        return await self._member(request.call_id).gateway.query(request)

    async def list(self, limit: int = 32) -> tuple[str, ...]:
        """The calls that this pool has given to its gateways."""
        return tuple(self._of_call)[:limit]

    async def close(self) -> None:
        """End the checks and close all gateways."""
        for task in self._checks:
            task.cancel()
        for member in self._members:
            await member.gateway.close()

    def _member(self, call_id: str) -> _Member:
        member = self._of_call.get(call_id)
        if member is None:
            raise UnknownCallError
        return member

    def _take(self, call_id: str, member: _Member) -> None:
        self._of_call[call_id] = member
        member.calls.add(call_id)

    def _forget(self, call_id: str) -> None:
        member = self._of_call.pop(call_id, None)
        if member is not None:
            member.calls.discard(call_id)

    def _lost(self, member: _Member, lost: MediaLost) -> None:
        if self._of_call.get(lost.call_id) is not member:
            return  # told already, or the call has moved on
        if lost.loss is Loss.GATEWAY:
            self._forget(lost.call_id)
            member.orphan(lost.call_id)
        if self.on_media_lost is not None:
            self.on_media_lost(lost)

    async def _check(self, member: _Member) -> None:
        """Ask again and again whether a gateway is well; whatever goes wrong counts as no answer."""
        while True:
            try:
                await member.gateway.ping()
            except Exception as error:
                unexpected = None if isinstance(error, GatewayError) else error
                self._failed(member, str(error) or type(error).__name__, unexpected)
            else:
                if not member.alive:
                    _log.info("gateway %s is up again", member.name)
                member.failures = 0
                await self._clear(member)
            await asyncio.sleep(self._check_seconds)

    def _failed(self, member: _Member, reason: str, unexpected: Exception | None) -> None:
        member.failures += 1
        if unexpected is not None:
            _log.error("gateway %s: the check failed", member.name, exc_info=unexpected)
        if member.failures != FAILURES:
            return
        _log.error("gateway %s is down: %s", member.name, reason)
        for call_id in list(member.calls):
            try:
                self._lost(member, MediaLost(call_id, Loss.GATEWAY, f"gateway {member.name} is down"))
            except Exception:
                _log.exception("the owner of call %s failed to take its loss", call_id)

    async def _clear(self, member: _Member) -> None:
        """Delete what is over; the next check goes on where this one had no answer."""
        for call_id in list(member.orphans):
            try:
                await member.clear(call_id)
            except GatewaySilentError as error:
                _log.warning("gateway %s: %s", member.name, error)
                return
            except Exception:
                _log.exception("gateway %s: call %s could not be deleted", member.name, call_id)
                member.orphans.pop(call_id, None)
