"""The eIMS-AGW itself: calls by call-id, tags and branch, behind the one interface of Iq.

In one process with the eP-CSCF it is used as it is; ``ng_server`` puts the NG protocol before it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass, field, replace

from imskit.engine import Tick
from imskit.media.codecs import CodecUnavailableError
from imskit.media.events import LegEvent, Step
from imskit.media.ims_leg import EXPEDITED_FORWARDING
from imskit.media.report import media_report
from imskit.observe.events import EventLog
from imskit.rtp.rtcp import ReportBlock
from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError
from imskit.tasks import spawn
from network_edge.eims_agw.call_media import CallMedia, MediaNode
from network_edge.eims_agw.engine.circuit_breaker import CircuitBreaker, Report, Sent
from network_edge.eims_agw.engine.dialog import Dialog, Side, side_of, wants_sdes
from network_edge.eims_agw.figures import call_figures
from network_edge.iq.gateway import (
    AnswerRequest,
    CallFigures,
    CandidatesRequest,
    DeleteRequest,
    GatewayError,
    GatewayUnavailableError,
    IceLite,
    Loss,
    MediaLost,
    OfferRequest,
    OnMediaLost,
    QueryRequest,
    UnknownCallError,
)

_log = logging.getLogger(__name__)

RINGING_SECONDS = 180.0
"""An IMS side that was never heard may still be ringing after an early answer: as long as timer C (RFC 3261 16.6)."""
_HOUSEKEEPING_SECONDS = 1.0
_LAST_WORD_SECONDS = 1.0

_LITE = {Side.WEB: (IceLite.BACKWARD, IceLite.BOTH), Side.IMS: (IceLite.FORWARD, IceLite.BOTH)}
"""The words of NG's ``ICE-lite`` that concern the browser, by who made the first offer."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much and how long; times in seconds."""

    calls: int = 2000
    grace: float = 5.0
    """From ``delete`` to the end of the media, if the command does not say."""
    media_timeout: float = 20.0
    """Without RTP and RTCP from IMS for this long the owner is told; 0 for never."""
    unanswered: float = 300.0
    """An offer that nobody answers is forgotten."""
    lost: float = 60.0
    """A call without media that its owner does not delete is ended."""


@dataclass
class _Session:
    call_id: str
    dialog: Dialog
    media: CallMedia
    via_branch: str | None
    breakers: dict[Side, CircuitBreaker]
    created: float = field(default_factory=time.time)
    last_signal: float = field(default_factory=time.time)
    signal_at: float = field(default_factory=time.monotonic)
    tags: set[str] = field(default_factory=set)
    """The offerer and all who have answered."""
    reports: dict[Side, ReportBlock] = field(default_factory=dict)
    answered: bool = False
    silent: bool = False
    """Neither RTP nor RTCP has come from IMS for the media timeout."""
    lost: Loss | None = None
    lost_at: float = 0.0
    ending: asyncio.TimerHandle | None = None


class Gateway:
    """Calls between browsers and IMS; implements ``MediaGateway``."""

    def __init__(self, node: MediaNode, limits: Limits = Limits(), events: EventLog | None = None) -> None:
        """``events`` gets a ``media-report`` of each call; it is closed with the gateway."""
        self._events = events or EventLog("eims-agw")
        self._node = node
        self._limits = limits
        self._calls: dict[str, list[_Session]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._empty.set()
        self._closing: set[asyncio.Task[None]] = set()
        self.on_media_lost: OnMediaLost | None = None
        self.draining = False
        """No new calls are taken."""
        self.counters: Counter[str] = Counter()
        """Offers, answers, deletions, refusals, and losses by their kind, since the start."""

    @property
    def sessions(self) -> int:
        """Calls (or branches of calls) that have media."""
        return sum(len(sessions) for sessions in self._calls.values())

    async def ping(self) -> None:
        """A gateway in the same process is there."""

    async def offer(self, request: OfferRequest) -> SessionDescription:
        """Take an offer, the first or a later one; ``GatewayError`` with 488 if it cannot be sent on."""
        self.counters["offers"] += 1
        request = self._with_defaults(request)
        session = self._find_for_offer(request)
        fresh = session is None
        try:
            if session is None:
                session = self._open(request)
            sdp = session.dialog.offer(request, session.media.web_endpoint, session.media.ims_endpoint)
            if session.dialog.side(request.from_tag) is Side.WEB:
                session.media.web_offer(request.sdp)
            else:
                session.media.forget_offer()
        except SdpError as error:
            self.counters["refused"] += 1
            if fresh and session is not None:
                await self._close(session)
            raise GatewayError(error.what, error.clause, status=error.status) from error
        self._signalled(session)
        return sdp

    async def answer(self, request: AnswerRequest) -> SessionDescription:
        """Take an answer, put what was agreed into force, and return the answer to send back."""
        self.counters["answers"] += 1
        session = self._find(request.call_id, request.from_tag, request.via_branch)
        try:
            sdp, plan = session.dialog.answer(request, session.media.web_endpoint, session.media.ims_endpoint)
            session.media.apply(plan)
        except SdpError as error:
            self.counters["refused"] += 1
            raise GatewayError(error.what, error.clause, status=error.status) from error
        except (CodecUnavailableError, ValueError) as error:
            self.counters["refused"] += 1
            raise GatewayError(str(error), status=488) from error
        session.tags.add(request.to_tag)
        session.answered = True
        self._signalled(session)
        _log.info("call %s: %s, %s to the browser, %s to IMS", request.call_id, plan.mode, plan.web.codec.encoding,
                  plan.ims.codec.encoding)  # fmt: skip
        return sdp

    async def candidates(self, request: CandidatesRequest) -> None:
        """Take candidates of the browser that came after its description."""
        self.counters["candidates"] += 1
        session = self._find(request.call_id, request.from_tag, None)
        if session.dialog.side(request.from_tag) is not Side.WEB:
            raise GatewayError("candidates of the IMS side", "RFC 8840", status=488)
        session.media.web_candidates(request.ufrag, request.pwd, request.candidates)

    async def delete(self, request: DeleteRequest) -> None:
        """End a call, or the branch or party named, after the grace; ``UnknownCallError`` when there is none."""
        sessions = [session for session in self._calls.get(request.call_id, ()) if _named(session, request)]
        if not sessions:
            raise UnknownCallError
        self.counters["deletions"] += 1
        delay = self._limits.grace if request.delay is None else float(request.delay)
        for session in sessions:
            others = session.tags - {session.dialog.offerer_tag, request.to_tag}
            early = request.to_tag in session.tags and request.to_tag != session.dialog.answerer_tag
            if early and request.from_tag == session.dialog.offerer_tag and others:
                session.tags.discard(request.to_tag or "")  # one fork of several has ended
                continue
            if session.ending is not None:
                session.ending.cancel()
                session.ending = None
            if delay <= 0:
                await self._close(session)
            else:
                loop = asyncio.get_running_loop()
                session.ending = loop.call_later(delay, self._close_soon, session)

    async def query(self, request: QueryRequest) -> CallFigures:
        """Return the figures of a call as they are now."""
        sessions = [
            session
            for session in self._calls.get(request.call_id, ())
            if request.from_tag is None or request.from_tag in session.tags
        ]
        if not sessions:
            raise UnknownCallError
        return call_figures(
            request.call_id,
            min(session.created for session in sessions),
            max(session.last_signal for session in sessions),
            [(session.dialog, session.media, session.lost or "") for session in sessions],
        )

    async def list(self, limit: int = 32) -> tuple[str, ...]:
        """Return call-ids, the oldest first."""
        return tuple(list(self._calls)[:limit])

    def drain(self) -> None:
        """Take no new calls; those that run go on."""
        self.draining = True
        _log.info("draining: %d calls", self.sessions)

    async def drained(self) -> None:
        """Return when no call is left."""
        await self._empty.wait()

    async def close(self) -> None:
        """End all calls."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for session in [session for sessions in list(self._calls.values()) for session in sessions]:
            await self._close(session)
        if self._closing:
            await asyncio.wait(self._closing)
        self._events.close()

    # Which call

    def _find_for_offer(self, request: OfferRequest) -> _Session | None:
        """The session of a later offer, or of a first one that comes again; None for a new call."""
        for session in self._calls.get(request.call_id, ()):
            if request.to_tag is None:
                same = request.from_tag == session.dialog.offerer_tag and request.via_branch == session.via_branch
                if same:
                    return session
            elif request.from_tag in session.tags and request.to_tag in session.tags:
                return session
        if request.to_tag is not None:
            for session in self._calls.get(request.call_id, ()):
                if request.from_tag in session.tags:
                    return session
        return None

    def _find(self, call_id: str, from_tag: str, via_branch: str | None) -> _Session:
        sessions = [session for session in self._calls.get(call_id, ()) if from_tag in session.tags]
        exact = [session for session in sessions if session.via_branch == via_branch]
        if not sessions:
            raise UnknownCallError
        return (exact or sessions)[-1]

    # The life of a session

    def _with_defaults(self, request: OfferRequest) -> OfferRequest:
        """The offer with what the configuration says where the controller says nothing."""
        if request.flags.transport is not None or side_of(request.sdp) is not Side.WEB:
            return request
        return replace(request, flags=replace(request.flags, transport=self._node.ims_transport))

    def _open(self, request: OfferRequest) -> _Session:
        if self.draining:
            raise GatewayUnavailableError("the gateway is draining and takes no new call")
        if self.sessions >= self._limits.calls:
            self.counters["overload"] += 1
            raise GatewayUnavailableError(f"the gateway has {self.sessions} calls, its limit")
        dialog = Dialog(request)
        flags = request.flags
        timeout = self._limits.media_timeout if flags.media_timeout is None else float(flags.media_timeout)
        try:
            media = CallMedia(
                self._node,
                web_offers=dialog.offerer is Side.WEB,
                on_event=lambda side, event: self._event(session, side, event),
                dscp=EXPEDITED_FORWARDING if flags.tos is None else flags.tos >> 2,
                media_timeout=timeout,
                ims_secured=wants_sdes(request),
                ice_lite=self._node.ice_lite if flags.ice_lite is None else flags.ice_lite in _LITE[dialog.offerer],
            )
        except OSError as error:
            raise GatewayUnavailableError(f"no media port: {error}") from error
        breakers = {side: CircuitBreaker() for side in Side}
        session = _Session(request.call_id, dialog, media, request.via_branch, breakers, tags={request.from_tag})
        self._calls.setdefault(request.call_id, []).append(session)
        self._empty.clear()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_HOUSEKEEPING_SECONDS, self._housekeeping)
        return session

    def _signalled(self, session: _Session) -> None:
        session.last_signal = time.time()
        session.signal_at = time.monotonic()
        if session.ending is not None:  # deleted, and then used again within the grace
            session.ending.cancel()
            session.ending = None

    def _close_soon(self, session: _Session) -> None:
        task = spawn(self._close(session), "eIMS-AGW deletion")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, session: _Session) -> None:
        sessions = self._calls.get(session.call_id, [])
        if session in sessions:
            sessions.remove(session)
            if not sessions:
                del self._calls[session.call_id]
            self._report(session)
        if session.ending is not None:
            session.ending.cancel()
        await session.media.close()
        if not self._calls:
            self._empty.set()

    def _report(self, session: _Session) -> None:
        """Tell what was done with a call's media (``imskit.media.report``)."""
        ways = session.media.bridge_stats()
        if ways is None:
            return
        fields = media_report(session.media.stats(Side.WEB), session.media.stats(Side.IMS), *ways)
        _log.info("call %s: media ended: %s", session.call_id, fields)
        self._events.emit("media-report", call=session.call_id, lost=session.lost or "", **fields)

    # What goes wrong

    def _event(self, session: _Session, side: Side, event: LegEvent) -> None:
        match event.step:
            case Step.CONSENT_LOST:
                self._lose(session, Loss.CONSENT, "the browser has not answered STUN for 30 s (RFC 7675)")
            case Step.FAILED if session.lost is not Loss.CONSENT:
                # Who hangs up closes DTLS too, and the word of it may come here by a longer way.
                asyncio.get_running_loop().call_later(
                    _LAST_WORD_SECONDS, self._lose, session, Loss.TRANSPORT, event.reason
                )
            case Step.MEDIA_TIMEOUT:
                session.silent = True  # judged by the housekeeping
            case Step.MEDIA_BACK:
                session.silent = False
                if session.lost is Loss.MEDIA_TIMEOUT:
                    session.lost = None

    def _lose(self, session: _Session, loss: Loss, reason: str) -> None:
        if (
            session.lost is not None
            or session.ending is not None
            or session not in self._calls.get(session.call_id, ())
        ):
            return
        session.lost, session.lost_at = loss, time.monotonic()
        self.counters[f"lost {loss}"] += 1
        _log.warning("call %s: %s: %s", session.call_id, loss, reason)
        if self.on_media_lost is not None:
            try:
                self.on_media_lost(MediaLost(session.call_id, loss, reason))
            except Exception:
                _log.exception("the owner of call %s failed to take its loss", session.call_id)

    def _housekeeping(self) -> None:
        """Once a second: breakers, offers that nobody answers, calls that nobody deletes."""
        self._timer = None
        now = time.monotonic()
        for session in [session for sessions in self._calls.values() for session in sessions]:
            if session.answered:
                self._watch(session, now)
                if session.silent and (_heard(session.media) or now - session.signal_at > RINGING_SECONDS):
                    self._lose(session, Loss.MEDIA_TIMEOUT, "neither RTP nor RTCP comes from IMS")
            elif now - session.signal_at > self._limits.unanswered and session.ending is None:
                _log.info("call %s: nobody answered", session.call_id)
                self._close_soon(session)
            if session.lost is not None and now - session.lost_at > self._limits.lost and session.ending is None:
                self._close_soon(session)
        if self._calls:
            self._timer = asyncio.get_running_loop().call_later(_HOUSEKEEPING_SECONDS, self._housekeeping)

    def _watch(self, session: _Session, now: float) -> None:
        """Feed the circuit breakers of both sides (RFC 8083)."""
        plan = session.media.plan
        if plan is None:
            return
        for side, breaker in session.breakers.items():
            media = plan.web if side is Side.WEB else plan.ims
            if media.rtcp_bandwidths == (0, 0):
                continue
            block, _, round_trip = session.media.reported(side)
            stats = session.media.stats(side)
            breaker.handle(Sent(stats.packets_sent, stats.octets_sent), now)
            if block is not None and block is not session.reports.get(side):
                session.reports[side] = block
                breaker.handle(Report(block.highest_sequence_number, block.fraction_lost / 256, round_trip), now)
            breaker.handle(Tick(), now)
            tripped = breaker.poll()
            if tripped is not None:
                session.media.stop_sending(side)
                self._lose(session, Loss.CIRCUIT_BREAKER, f"{tripped.value} on the {side} side (RFC 8083)")


def _heard(media: CallMedia) -> bool:
    """Whether anything has ever come from IMS."""
    return media.stats(Side.IMS).first_received is not None or media.reported(Side.IMS)[1] > 0


def _named(session: _Session, request: DeleteRequest) -> bool:
    if request.via_branch is not None and session.via_branch is not None and request.via_branch != session.via_branch:
        return False
    return request.from_tag is None or request.from_tag in session.tags
