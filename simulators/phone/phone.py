"""A VoLTE phone as one object: `ImsUe` on its sockets, a USIM in software, WAV files for mouth and ear."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from imskit.aka.errors import AkaError
from imskit.ims import events as ims
from imskit.ims.io.ue_endpoint import UeEndpoint
from imskit.ims.profile import UeProfile
from imskit.ims.registration import RetryPolicy, State
from imskit.ims.ue import ImsUe
from imskit.ipsec.io.backend import IpsecBackend
from imskit.ipsec.io.probe import choose
from imskit.media.events import Step
from imskit.media.python_plane import PythonPlane
from imskit.observe.events import EventLog
from imskit.secrets import Identity
from imskit.sip.io.sockets import Binding
from imskit.sip.wire.flow import Target, Transport
from imskit.sockets import Address, definite, parse_address
from simulators.phone.calls import Calls, Manners, PhoneError
from simulators.phone.config import PhoneConfig
from simulators.phone.media import CallMedia, Hearing
from simulators.phone.wav import Speaker

_log = logging.getLogger(__name__)

_RETRY = RetryPolicy(base=2.0, maximum=30.0)
"""Quicker than a real phone's, so that a lab need not wait for minutes."""
_NUMBER = re.compile(r"\+?[0-9*#.()-]{1,32}")
_KEPT = 100
"""Messages that are remembered."""
_SWITCH_OFF_SECONDS = 6.0


class Phone:
    """Start it, and it registers, takes calls and makes them until it is closed."""

    def __init__(self, config: PhoneConfig) -> None:
        """``WavError`` if the file to play cannot be used."""
        self._config = config
        self._usim = config.usim()
        self._events = EventLog("phone", config.events)
        self._stack = AsyncExitStack()
        Speaker(config.play)
        self._endpoint: UeEndpoint | None = None
        self._protection = ""
        self._plane: PythonPlane | None = None
        self._state = State.OFF
        self._reason = "not started"
        self._off = asyncio.Event()
        self.messages: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        """Texts received, the newest last."""
        self.sent: dict[str, dict[str, Any]] = {}
        """What came of texts sent, by key."""
        self.address: Address = ("", 0)
        """Where its SIP listens, once started."""
        manners = Manners(
            config.behaviour, config.answer_after, config.play, config.loop, config.record, config.call_waiting
        )
        self.calls = Calls(
            self._tell,
            self._make_media,
            self._events,
            manners,
            reservation=config.reservation,
            playout_delay=config.playout_delay,
        )
        """What its user does with calls."""

    @property
    def last(self) -> dict[str, Any] | None:
        """The end of the last call: its reason and statistics."""
        return self.calls.last

    # ---- life -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the sockets and begin to register; ``OSError`` if one cannot be had, ``IpsecError`` without IPsec."""
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def _start(self) -> None:
        config = self._config
        self._stack.callback(self._events.close)
        self.address = definite((config.address, config.port))
        transport: Transport = "TLS" if config.security == "tls" else config.transport
        profile = UeProfile(
            Identity(config.impi),
            Identity(config.impus[0]),
            config.domain,
            f"urn:gsma:imei:{config.imei}",
            self.address,
            (Target(transport, parse_address(config.p_cscf)),),
            config.access_network_info,
            user_agent="imsbridge-phone",
            security=config.policy(),
        )
        backend: IpsecBackend | None = None
        if config.security == "ipsec":
            pairs = profile.security.pairs
            choice = await choose(config.backend, pairs=pairs, interface=config.interface, nat=config.nat)
            backend = choice.backend
            self._stack.push_async_callback(backend.close)
        self._plane = PythonPlane()
        self._endpoint = UeEndpoint(
            ImsUe(profile, _tokens, _RETRY),
            self.address,
            self._heard,
            backend=backend,
            client_tls=ssl.create_default_context(cafile=config.trust) if config.security == "tls" else None,
            binding=Binding(config.interface),
        )
        self._stack.push_async_callback(self._endpoint.close)
        await self._endpoint.listen()
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
        self.calls.close()
        await self._stack.aclose()

    # ---- what its user does -----------------------------------------------------------------------------------

    def dial(
        self, target: str, *, play: Path | None = None, record: Path | None = None, anonymous: bool = False
    ) -> str:
        """Call a number, tel or sip URI; returns the call's name.

        ``play`` and ``record`` are for this call instead of the usual files.  Raises ``PhoneError``, ``WavError``.
        """
        if self._state is not State.REGISTERED:
            raise PhoneError(f"not registered: {self._reason}")
        return self.calls.dial(as_uri(target), play=play, record=record, anonymous=anonymous)

    def conference(self) -> str:
        """Call the conference factory of the home network (TS 23.003 clause 13.10)."""
        return self.dial(f"sip:mmtel@conf-factory.{self._config.domain}")

    def send_message(self, target: str, text: str, *, sms: bool = False) -> str:
        """Send a text, as SIP MESSAGE or as short message; returns its key.  ``PhoneError`` for no address."""
        key = f"m-{secrets.token_hex(4)}"
        if sms:
            number = as_uri(target).removeprefix("tel:")
            centre = f"sip:{self._config.message_centre}@ipsmgw.{self._config.domain}"
            self._tell(ims.SendSms(key, number, text, centre))
        else:
            self._tell(ims.SendMessage(key, as_uri(target), text))
        return key

    def answer(self) -> None:
        """Answer the call that rings; ``PhoneError`` if none does."""
        self.calls.answer()

    def hang_up(self) -> None:
        """End the call, or decline it while it rings; ``PhoneError`` if there is none."""
        self.calls.hang_up()

    def behave(self, manners: Manners) -> None:
        """Set what is done with the next calls; ``WavError`` if the file to play cannot be used."""
        Speaker(manners.play)
        self.calls.manners = manners

    @property
    def manners(self) -> Manners:
        """What is done with the next calls."""
        return self.calls.manners

    def status(self) -> dict[str, Any]:
        """Registration, the calls and the last call, as plain values."""
        call = self.calls.current
        return {
            "registration": self._state.value,
            "reason": self._reason,
            "behaviour": self.manners.behaviour,
            "call": call.status() if call is not None else None,
            "calls": self.calls.status(),
            "last_call": self.last,
            "transfer": self.calls.transfer,
            "messages": list(self.messages),
            "sent": dict(self.sent),
        }

    # ---- what the UE says -------------------------------------------------------------------------------------

    def _tell(self, event: ims.Event) -> None:
        assert self._endpoint is not None
        self._endpoint.handle(event)

    def _heard(self, output: ims.Output) -> None:
        match output:
            case ims.AskCard(rand, autn):
                try:
                    self._tell(ims.CardAnswer(self._usim.verify(rand, autn), rand))
                except AkaError as error:
                    self._tell(ims.CardFailed(str(error), rand))
            case ims.RegistrationChanged(status):
                self._protection = status.security
                self._registration(status.state, status.reason)
            case ims.MessageReceived(sender, text, sms):
                self.messages.append({"from": sender, "text": text, "sms": sms})
                # Neither who nor what goes into the event file.
                self._events.emit("message", sms=sms)
            case ims.MessageSent(key, status, reason):
                self.sent[key] = {"status": status, "reason": reason}
                while len(self.sent) > _KEPT:
                    del self.sent[next(iter(self.sent))]
                self._events.emit("message-sent", status=status)
            case ims.Transmit() | ims.RequestReceived():
                pass
            case _:
                self.calls.told(output)

    def _registration(self, state: State, reason: str) -> None:
        _log.info("%s: %s", state.value, reason)
        if state is State.REGISTERED and self._state is not State.REGISTERED:
            self._events.emit("registered")
        elif self._state is State.REGISTERED and state in (State.OFF, State.WAITING, State.REGISTERING):
            self._events.emit("registration-lost", reason=state.value)
        self._state, self._reason = state, reason
        if state is State.OFF:
            self._off.set()

    def _make_media(self, hearing: Hearing, on_step: Callable[[Step, float], None]) -> CallMedia:
        assert self._plane is not None
        config = self._config
        return CallMedia(self._plane, self.address[0], config.codecs, hearing, on_step, interface=config.interface)


def as_uri(text: str) -> str:
    """Return what a user types as a URI: a number, a tel or a sip URI; ``PhoneError`` for anything else."""
    text = text.strip()
    if text.lower().startswith(("tel:", "sip:", "sips:")):
        return text
    if _NUMBER.fullmatch(text):
        return f"tel:{text}"
    raise PhoneError(f"{text!r} is no number, tel or sip URI")


def _tokens(digits: int) -> str:
    return secrets.token_hex((digits + 1) // 2)[:digits]
