"""A VoLTE phone as one object: `ImsUe` on its sockets, a USIM in software, WAV files for mouth and ear."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from imskit.aka.errors import AkaError
from imskit.ims import events as ims
from imskit.ims.profile import UeProfile
from imskit.ims.registration import RetryPolicy, State
from imskit.ims.ue import ImsUe
from imskit.media.codecs import CodecUnavailableError
from imskit.media.events import Step
from imskit.media.python_plane import PythonPlane
from imskit.observe.events import EventLog
from imskit.sdp.errors import SdpError
from imskit.secrets import Identity
from imskit.sip.io.endpoint import Endpoint
from imskit.sip.wire.flow import Target
from simulators.phone.config import Behaviour, PhoneConfig
from simulators.phone.media import CallMedia, Hearing
from simulators.phone.wav import Recorder, Speaker, WavError
from simulators.sockets import Address, definite, parse_address

_log = logging.getLogger(__name__)

_RETRY = RetryPolicy(base=2.0, maximum=30.0)
"""Quicker than a real phone's, so that a lab need not wait for minutes."""
_NUMBER = re.compile(r"\+?[0-9*#.()-]{1,32}")
_SWITCH_OFF_SECONDS = 6.0


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


@dataclass
class _Call:
    name: str
    peer: str
    outgoing: bool
    state: CallState
    manners: Manners
    media: CallMedia
    timer: asyncio.TimerHandle | None = None


class Phone:
    """Start it, and it registers, takes calls and makes them until it is closed."""

    def __init__(self, config: PhoneConfig) -> None:
        """``WavError`` if the file to play cannot be used."""
        self._config = config
        self._usim = config.usim()
        self._events = EventLog("phone", config.events)
        self._stack = AsyncExitStack()
        self._manners = Manners(config.behaviour, config.answer_after, config.play, config.loop, config.record)
        Speaker(config.play)
        self._endpoint: Endpoint[ims.Event, ims.Output] | None = None
        self._plane: PythonPlane | None = None
        self._call: _Call | None = None
        self._state = State.OFF
        self._reason = "not started"
        self._off = asyncio.Event()
        self.address: Address = ("", 0)
        """Where its SIP listens, once started."""
        self.last: dict[str, Any] | None = None
        """The end of the last call: its reason and statistics."""

    # ---- life -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the sockets and begin to register; ``OSError`` if one cannot be had."""
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def _start(self) -> None:
        config = self._config
        self._stack.callback(self._events.close)
        self.address = definite((config.address, config.port))
        transport: Literal["UDP", "TCP"] = config.transport
        profile = UeProfile(
            Identity(config.impi),
            Identity(config.impus[0]),
            config.domain,
            f"urn:gsma:imei:{config.imei}",
            self.address,
            (Target(transport, parse_address(config.p_cscf)),),
            config.access_network_info,
            user_agent="imsbridge-phone",
        )
        self._plane = PythonPlane()
        self._endpoint = Endpoint(ImsUe(profile, _tokens, _RETRY), self._heard)
        self._stack.push_async_callback(self._endpoint.close)
        await self._endpoint.listen("UDP", self.address)
        await self._endpoint.listen("TCP", self.address)
        self._tell(ims.Start())

    async def close(self) -> None:
        """Hang up, de-register and close the sockets."""
        if self._endpoint is not None and self._state is not State.OFF:
            self._off.clear()
            self._tell(ims.Stop())
            try:
                async with asyncio.timeout(_SWITCH_OFF_SECONDS):
                    await self._off.wait()
            except TimeoutError:
                _log.warning("the core did not confirm the de-registration")
        if self._call is not None:
            self._ended(self._call.name, None, "switched off")
        await self._stack.aclose()

    # ---- what its user does -----------------------------------------------------------------------------------

    def dial(self, target: str, *, play: Path | None = None, record: Path | None = None) -> str:
        """Call a number, tel or sip URI; returns the call's name.

        ``play`` and ``record`` are for this call instead of the usual files.  Raises ``PhoneError``, ``WavError``.
        """
        if self._call is not None:
            raise PhoneError("there is a call already")
        if self._state is not State.REGISTERED:
            raise PhoneError(f"not registered: {self._reason}")
        uri = _target(target)
        manners = replace(self._manners, play=play or self._manners.play, record=record or self._manners.record)
        name = f"out-{secrets.token_hex(4)}"
        call = _Call(name, uri, True, CallState.DIALLING, manners, self._media(manners))
        self._call = call
        self._events.emit("dialled", call=name)
        self._tell(ims.Dial(name, uri, call.media.offer(), reserved=not self._config.reservation))
        return name

    def answer(self) -> None:
        """Answer the call that rings; ``PhoneError`` if none does."""
        call = self._call
        if call is None or call.state is not CallState.RINGING:
            raise PhoneError("no call rings")
        self._accept(call)

    def hang_up(self) -> None:
        """End the call, or decline it while it rings; ``PhoneError`` if there is none."""
        call = self._call
        if call is None:
            raise PhoneError("there is no call")
        if call.state in (CallState.INCOMING, CallState.RINGING):
            self._tell(ims.Reject(call.name, 603))
        else:
            self._tell(ims.Hangup(call.name))
            if call.state is not CallState.ANSWERED and self._call is call:
                # Whoever gives up has hung up, however long the other side takes to notice.
                self._ended(call.name, None, "given up")

    def behave(self, manners: Manners) -> None:
        """Set what is done with the next calls; ``WavError`` if the file to play cannot be used."""
        Speaker(manners.play)
        self._manners = manners

    @property
    def manners(self) -> Manners:
        """What is done with the next calls."""
        return self._manners

    def status(self) -> dict[str, Any]:
        """Registration, the call and the last call, as plain values."""
        call = self._call
        return {
            "registration": self._state.value,
            "reason": self._reason,
            "behaviour": self._manners.behaviour,
            "call": None
            if call is None
            else {
                "name": call.name,
                "peer": call.peer,
                "outgoing": call.outgoing,
                "state": call.state.value,
                "media": call.media.statistics(),
            },
            "last_call": self.last,
        }

    # ---- what the UE says -------------------------------------------------------------------------------------

    def _tell(self, event: ims.Event) -> None:
        assert self._endpoint is not None
        self._endpoint.handle(event)

    def _heard(self, output: ims.Output) -> None:
        match output:
            case ims.AskCard(rand, autn):
                try:
                    self._tell(ims.CardAnswer(self._usim.verify(rand, autn)))
                except AkaError as error:
                    self._tell(ims.CardFailed(str(error)))
            case ims.RegistrationChanged(status):
                self._registration(status.state, status.reason)
            case ims.IncomingCall():
                self._incoming(output)
            case ims.Transmit() | ims.RequestReceived():
                pass
            case _:
                call = self._call
                if call is not None and call.name == output.call:
                    self._of_call(call, output)

    def _registration(self, state: State, reason: str) -> None:
        _log.info("%s: %s", state.value, reason)
        if state is State.REGISTERED and self._state is not State.REGISTERED:
            self._events.emit("registered")
        elif self._state is State.REGISTERED and state in (State.OFF, State.WAITING, State.REGISTERING):
            self._events.emit("registration-lost", reason=state.value)
        self._state, self._reason = state, reason
        if state is State.OFF:
            self._off.set()

    def _of_call(self, call: _Call, output: ims.Output) -> None:
        match output:
            case ims.ReserveResources(name):
                loop = asyncio.get_running_loop()
                loop.call_later(self._config.reservation, self._reserved, name)
            case ims.Alert():
                self._alert(call)
            case ims.Progress(_, status, _):
                self._events.emit("progress", call=call.name, status=status)
                if status == 180 and call.state is CallState.DIALLING:
                    call.state = CallState.ALERTING
            case ims.MediaAgreed(_, sdp):
                try:
                    call.media.answered(sdp)
                except (SdpError, ValueError, CodecUnavailableError) as error:
                    _log.warning("the peer's answer cannot be used: %s", error)
                    self._tell(ims.Hangup(call.name))
            case ims.Answered():
                self._answered(call)
            case ims.Offer(_, exchange, sdp):
                self._offered(call, exchange, sdp)
            case ims.Ended(name, status, reason):
                self._ended(name, status, reason)
            case _:
                pass

    # ---- incoming ---------------------------------------------------------------------------------------------

    def _incoming(self, incoming: ims.IncomingCall) -> None:
        manners = self._manners
        self._events.emit("incoming", call=incoming.call)
        _log.info("a call comes in; behaviour: %s", manners.behaviour)
        if self._call is not None or manners.behaviour == "busy":
            self._refuse(incoming.call, 486)
            return
        if manners.behaviour == "decline":
            self._refuse(incoming.call, 603)
            return
        try:
            media = self._media(manners)
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
        self._call = _Call(incoming.call, peer, False, CallState.INCOMING, manners, media)
        self._tell(ims.Prepare(incoming.call, description, reserved=not self._config.reservation))

    def _refuse(self, call: str, status: int) -> None:
        self._events.emit("refused", call=call, status=status)
        self._tell(ims.Reject(call, status))

    def _alert(self, call: _Call) -> None:
        call.state = CallState.RINGING
        self._events.emit("ringing", call=call.name)
        self._tell(ims.Ring(call.name))
        if call.manners.behaviour == "answer":
            call.timer = asyncio.get_running_loop().call_later(call.manners.answer_after, self._accept, call)

    def _accept(self, call: _Call) -> None:
        if self._call is call and call.state is CallState.RINGING:
            if call.timer is not None:
                call.timer.cancel()
            self._tell(ims.Accept(call.name))
            self._answered(call)

    # ---- both -------------------------------------------------------------------------------------------------

    def _media(self, manners: Manners) -> CallMedia:
        assert self._plane is not None
        speaker = Speaker(manners.play, loop=manners.loop)
        recorder = Recorder(manners.record) if manners.record is not None else None
        hearing = Hearing(speaker, recorder, self._config.playout_delay)
        try:
            return CallMedia(
                self._plane,
                self.address[0],
                self._config.codecs,
                hearing,
                self._media_step,
                interface=self._config.interface,
            )
        except OSError:
            if recorder is not None:
                recorder.close()
            raise

    def _media_step(self, step: Step, at: float) -> None:
        names = {Step.FIRST_RECEIVED: "first-rtp-received", Step.FIRST_SENT: "first-rtp-sent"}
        if step in names and self._call is not None:
            self._events.emit(names[step], call=self._call.name, packet_at=at)
        elif step is Step.MEDIA_TIMEOUT:
            _log.warning("the peer's media has stopped")

    def _reserved(self, name: str) -> None:
        if self._call is not None and self._call.name == name:
            self._tell(ims.ResourcesReserved(name))

    def _answered(self, call: _Call) -> None:
        call.state = CallState.ANSWERED
        agreed = call.media.agreed
        codec = agreed.codec.encoding if agreed is not None else None
        self._events.emit("answered", call=call.name, codec=codec)
        call.media.start()  # the recording begins at this moment
        _log.info("the call is answered, %s", codec)

    def _offered(self, call: _Call, exchange: str, sdp: bytes | None) -> None:
        """Hold, resume, a session refresh: take what is offered."""
        try:
            answer = call.media.answer(sdp) if sdp is not None else call.media.offer()
        except (SdpError, ValueError, CodecUnavailableError) as error:
            _log.warning("an offer is refused: %s", error)
            self._tell(ims.RejectOffer(call.name, exchange))
            return
        self._tell(ims.AnswerOffer(call.name, exchange, answer))

    def _ended(self, name: str, status: int | None, reason: str) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        if call.timer is not None:
            call.timer.cancel()
        statistics = call.media.close()
        # The reason may hold what the network wrote: it stays out of the event file.
        self.last = {"name": name, "status": status, "reason": reason, "media": statistics}
        self._events.emit("ended", call=name, status=status, answered=call.state is CallState.ANSWERED, **statistics)
        _log.info("the call has ended: %s", reason)


def _target(text: str) -> str:
    text = text.strip()
    if text.lower().startswith(("tel:", "sip:", "sips:")):
        return text
    if _NUMBER.fullmatch(text):
        return f"tel:{text}"
    raise PhoneError(f"{text!r} is no number, tel or sip URI")


def _tokens(digits: int) -> str:
    return secrets.token_hex((digits + 1) // 2)[:digits]
