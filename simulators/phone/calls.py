"""The calls of a phone: one is talked in, others are held, wait or ring.

What a user does with them: answer, hold, swap, transfer, join to a conference, press keys.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from imskit.ims import events as ims
from imskit.media.codecs import CodecUnavailableError
from imskit.media.events import Step
from imskit.observe.events import EventLog
from imskit.sdp.attributes import Direction
from imskit.sdp.errors import SdpError
from simulators.phone.config import Behaviour
from simulators.phone.media import CallMedia, Hearing
from simulators.phone.wav import Recorder, Speaker, WavError

_log = logging.getLogger(__name__)

_STEPS = {Step.FIRST_RECEIVED: "first-rtp-received", Step.FIRST_SENT: "first-rtp-sent"}


class PhoneError(Exception):
    """Something that cannot be done now; says why."""


class CallState(StrEnum):
    """Where a call stands."""

    INCOMING = "incoming"
    RINGING = "ringing"
    DIALLING = "dialling"
    ALERTING = "alerting"
    ANSWERED = "answered"


@dataclass(frozen=True)
class Manners:
    """What the phone does with the next call, and how it sounds."""

    behaviour: Behaviour
    answer_after: float
    play: Path | None
    loop: bool
    record: Path | None
    waiting: bool = False
    """Let a second call ring during the first; else it finds the phone busy."""
    follow: bool = True
    """Make the calls that a peer asks for (transfer, conference); else they are refused."""


@dataclass
class Call:
    """One call."""

    name: str
    peer: str
    outgoing: bool
    state: CallState
    manners: Manners
    media: CallMedia
    replaces: str = ""
    timer: asyncio.TimerHandle | None = None
    users: tuple[str, ...] = ()
    """Who is in the conference that it leads to."""

    @property
    def held(self) -> bool:
        """Whether this side holds the other."""
        return not self.media.direction.receives

    def status(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "name": self.name,
            "peer": self.peer,
            "outgoing": self.outgoing,
            "state": self.state.value,
            "held": self.held,
            "direction": self.media.agreed.direction.value if self.media.agreed is not None else None,
            "keys": self.media.tones.heard,
            "users": list(self.users),
            "media": self.media.statistics(),
        }


class Calls:
    """See the module's text.  ``tell`` reaches the UE, ``make_media`` makes a call's media (`OSError`)."""

    def __init__(
        self,
        tell: Callable[[ims.Event], None],
        make_media: Callable[[Hearing, Callable[[Step, float], None]], CallMedia],
        events: EventLog,
        manners: Manners,
        *,
        reservation: float,
        playout_delay: float,
    ) -> None:
        self._tell = tell
        self._make_media = make_media
        self._events = events
        self._reservation = reservation
        self._playout_delay = playout_delay
        self._calls: dict[str, Call] = {}
        self._current = ""
        self.manners = manners
        """What is done with the next calls."""
        self.last: dict[str, Any] | None = None
        """The end of the last call: its reason and statistics."""
        self.transfer: dict[str, Any] | None = None
        """How the last transfer or invitation goes: target, status, final."""

    @property
    def current(self) -> Call | None:
        """The call that the user is in, or the newest one."""
        return self._calls.get(self._current) or next(reversed(self._calls.values()), None)

    def status(self) -> list[dict[str, Any]]:
        """Return every call as plain values."""
        return [call.status() for call in self._calls.values()]

    # ---- what its user does -----------------------------------------------------------------------------------

    def dial(self, uri: str, *, play: Path | None = None, record: Path | None = None, anonymous: bool = False) -> str:
        """Call ``uri``; a call that stands is held meanwhile.  Raises ``PhoneError``, ``WavError``, ``OSError``."""
        before = self.current
        if before is not None and (before.state is not CallState.ANSWERED or not self.manners.waiting):
            raise PhoneError("there is a call already")
        manners = replace(self.manners, play=play or self.manners.play, record=record or self.manners.record)
        call = self._outgoing(uri, manners)
        if before is not None and not before.held:
            self._hold(before, on=True)
        self._tell(self._invitation(call, anonymous=anonymous))
        return call.name

    def answer(self) -> None:
        """Answer the call that rings, and hold the one that stands; ``PhoneError`` if none rings."""
        ringing = next((call for call in self._calls.values() if call.state is CallState.RINGING), None)
        if ringing is None:
            raise PhoneError("no call rings")
        standing = self.current
        if standing is not None and standing.state is CallState.ANSWERED and not standing.held:
            self._hold(standing, on=True)
        self._accept(ringing)

    def hang_up(self, name: str = "") -> None:
        """End a call, the current one unless named, or decline it while it rings; ``PhoneError`` if there is none."""
        call = self._calls.get(name) if name else self.current
        if call is None:
            raise PhoneError("there is no call")
        if call.state in (CallState.INCOMING, CallState.RINGING):
            self._tell(ims.Reject(call.name, 603))
        else:
            self._tell(ims.Hangup(call.name))
            if call.state is not CallState.ANSWERED and call.name in self._calls:
                # Whoever gives up has hung up, however long the other side takes to notice.
                self.ended(call.name, None, "given up")

    def hold(self) -> None:
        """Hold the current call; ``PhoneError`` if none stands."""
        self._hold(self._standing(), on=True)

    def resume(self) -> None:
        """Talk again in the current call."""
        self._hold(self._standing(), on=False)

    def swap(self) -> None:
        """Hold the current call and talk in the one that is held."""
        current = self._standing()
        other = self._other(current)
        if not current.held:
            self._hold(current, on=True)
        self._current = other.name
        self._hold(other, on=False)

    def press(self, keys: str) -> None:
        """Send DTMF in the current call; ``ValueError`` for what is no key."""
        self._standing().media.tones.press(keys)

    def transfer_to(self, target: str) -> None:
        """Ask the other side of the current call to call ``target``; empty: to join with the call that is held."""
        call = self._standing()
        self.transfer = {"target": target, "status": None, "final": False}
        self._tell(ims.Transfer(call.name, target, "" if target else self._other(call).name))

    def invite(self, target: str, *, through_focus: bool = True) -> None:
        """Bring somebody into the conference of the current call; empty: the call that is held."""
        call = self._standing()
        self.transfer = {"target": target, "status": None, "final": False}
        self._tell(ims.Invite(call.name, target, "" if target else self._other(call).name, through_focus))

    def _standing(self) -> Call:
        call = self.current
        if call is None or call.state is not CallState.ANSWERED:
            raise PhoneError("no call stands")
        return call

    def _other(self, call: Call) -> Call:
        others = [o for o in self._calls.values() if o is not call and o.state is CallState.ANSWERED]
        if not others:
            raise PhoneError("there is no second call")
        return others[-1]

    def _hold(self, call: Call, *, on: bool) -> None:
        call.media.direction = Direction.SENDONLY if on else Direction.SENDRECV
        self._events.emit("hold" if on else "resume", call=call.name)
        self._tell(ims.Modify(call.name, call.media.offer()))

    def _outgoing(self, uri: str, manners: Manners) -> Call:
        name = f"out-{secrets.token_hex(4)}"
        call = Call(name, uri, True, CallState.DIALLING, manners, self._media(name, manners))
        self._calls[name] = call
        self._current = name
        self._events.emit("dialled", call=name)
        return call

    def _invitation(self, call: Call, *, anonymous: bool = False, referral: str = "") -> ims.Dial:
        reserved = not self._reservation
        return ims.Dial(
            call.name, call.peer, call.media.offer(), reserved=reserved, anonymous=anonymous, referral=referral
        )

    # ---- what the UE says -------------------------------------------------------------------------------------

    def told(self, output: ims.Output) -> None:
        """Take in what the UE says of calls."""
        match output:
            case ims.IncomingCall():
                self._incoming(output)
                return
            case ims.ReferralReceived():
                self._referred(output)
                return
            case ims.ReferralProgress(_, target, status, final):
                self.transfer = {"target": target, "status": status, "final": final}
                self._events.emit("referral", status=status, final=final)
                return
            case _:
                pass
        call = self._calls.get(getattr(output, "call", None) or "")
        if call is not None:
            self._of_call(call, output)

    def _of_call(self, call: Call, output: ims.Output) -> None:
        match output:
            case ims.ReserveResources(name):
                asyncio.get_running_loop().call_later(self._reservation, self._reserved, name)
            case ims.Alert():
                self._alert(call)
            case ims.Progress(_, status, _, waiting):
                self._events.emit("progress", call=call.name, status=status, waiting=waiting)
                if status == 180 and call.state is CallState.DIALLING:
                    call.state = CallState.ALERTING
            case ims.MediaAgreed(_, sdp):
                try:
                    call.media.answered(sdp)
                except (SdpError, ValueError, CodecUnavailableError) as error:
                    _log.warning("the peer's answer cannot be used: %s", error)
                    self._tell(ims.Hangup(call.name))
                else:
                    self._direction(call)
            case ims.Answered():
                self._answered(call)
            case ims.Offer(_, exchange, sdp):
                self._offered(call, exchange, sdp)
            case ims.OfferFailed(_, failed):
                _log.warning("the other side has not taken the change: %s", failed)
            case ims.ConferenceChanged(_, users):
                call.users = tuple(user.entity for user in users if user.status == "connected")
                self._events.emit("conference", call=call.name, users=len(call.users))
            case ims.Ended(name, ended, reason):
                self.ended(name, ended, reason)
            case _:
                pass

    def _incoming(self, incoming: ims.IncomingCall) -> None:
        manners = self.manners
        self._events.emit("incoming", call=incoming.call)
        _log.info("a call comes in; behaviour: %s", manners.behaviour)
        busy = bool(self._calls) and not manners.waiting and not incoming.replaces
        if busy or manners.behaviour == "busy":
            self._refuse(incoming.call, 486)
            return
        if manners.behaviour == "decline":
            self._refuse(incoming.call, 603)
            return
        try:
            media = self._media(incoming.call, manners)
        except (OSError, WavError) as error:
            _log.error("no media for the call: %s", error)
            self._refuse(incoming.call, 500)
            return
        try:
            description = media.answer(incoming.sdp) if incoming.sdp is not None else media.offer()
        except (SdpError, ValueError, CodecUnavailableError) as error:
            _log.warning("the offer cannot be answered: %s", error)
            media.close()
            self._refuse(incoming.call, 488)
            return
        peer = str(incoming.caller.uri)
        call = Call(incoming.call, peer, False, CallState.INCOMING, manners, media, incoming.replaces)
        self._calls[incoming.call] = call
        self._tell(ims.Prepare(incoming.call, description, reserved=not self._reservation))

    def _referred(self, referral: ims.ReferralReceived) -> None:
        """Somebody asks this phone to make a call: its manners say whether it does."""
        if not self.manners.follow:
            self._tell(ims.RejectReferral(referral.referral))
            return
        try:
            call = self._outgoing(referral.target, self.manners)
        except (OSError, WavError) as error:
            _log.error("no media for the call: %s", error)
            self._tell(ims.RejectReferral(referral.referral, 500))
            return
        self._tell(self._invitation(call, referral=referral.referral))

    def _refuse(self, call: str, status: int) -> None:
        self._events.emit("refused", call=call, status=status)
        self._tell(ims.Reject(call, status))

    def _alert(self, call: Call) -> None:
        call.state = CallState.RINGING
        if call.replaces:
            self._accept(call)  # it takes over a call that the user is in
            return
        self._events.emit("ringing", call=call.name)
        self._tell(ims.Ring(call.name))
        if call.manners.behaviour == "answer":
            call.timer = asyncio.get_running_loop().call_later(call.manners.answer_after, self._answer_rung, call)

    def _answer_rung(self, call: Call) -> None:
        if self._calls.get(call.name) is call and call.state is CallState.RINGING:
            self.answer()

    def _accept(self, call: Call) -> None:
        if call.timer is not None:
            call.timer.cancel()
        self._current = call.name
        self._tell(ims.Accept(call.name))
        self._answered(call)

    def _reserved(self, name: str) -> None:
        if name in self._calls:
            self._tell(ims.ResourcesReserved(name))

    def _answered(self, call: Call) -> None:
        call.state = CallState.ANSWERED
        agreed = call.media.agreed
        codec = agreed.codec.encoding if agreed is not None else None
        self._events.emit("answered", call=call.name, codec=codec)
        call.media.start()  # the recording begins at this moment
        _log.info("the call is answered, %s", codec)

    def _offered(self, call: Call, exchange: str, sdp: bytes | None) -> None:
        """Hold, resume, a session refresh: take what is offered."""
        try:
            answer = call.media.answer(sdp) if sdp is not None else call.media.offer()
        except (SdpError, ValueError, CodecUnavailableError) as error:
            _log.warning("an offer is refused: %s", error)
            self._tell(ims.RejectOffer(call.name, exchange))
            return
        self._direction(call)
        self._tell(ims.AnswerOffer(call.name, exchange, answer))

    def _direction(self, call: Call) -> None:
        """Note who may speak now."""
        if call.media.agreed is not None:
            self._events.emit("direction", call=call.name, direction=call.media.agreed.direction.value)

    def _media(self, name: str, manners: Manners) -> CallMedia:
        def step(step: Step, at: float) -> None:
            if step in _STEPS:
                self._events.emit(_STEPS[step], call=name, packet_at=at)
            elif step is Step.MEDIA_TIMEOUT:
                _log.warning("the peer's media has stopped")

        speaker = Speaker(manners.play, loop=manners.loop)
        recorder = Recorder(manners.record) if manners.record is not None else None
        try:
            media = self._make_media(Hearing(speaker, recorder, self._playout_delay), step)
        except OSError:
            if recorder is not None:
                recorder.close()
            raise
        # Which key stays out of the event file: it may be part of a PIN.
        media.tones.on_key = lambda: self._events.emit("key", call=name)
        return media

    def ended(self, name: str, status: int | None, reason: str) -> None:
        """A call is over."""
        call = self._calls.pop(name, None)
        if call is None:
            return
        if call.timer is not None:
            call.timer.cancel()
        statistics = call.media.close()
        # The reason may hold what the network wrote: it stays out of the event file.
        keys = call.media.tones.heard
        self.last = {"name": name, "status": status, "reason": reason, "keys": keys, "media": statistics}
        self._events.emit("ended", call=name, status=status, answered=call.state is CallState.ANSWERED, **statistics)
        _log.info("the call has ended: %s", reason)

    def close(self) -> None:
        """Release every call."""
        for name in list(self._calls):
            self.ended(name, None, "switched off")
