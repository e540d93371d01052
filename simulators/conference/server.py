"""The conference server as part of the core: the focus on its socket, a mixer for each conference."""

from __future__ import annotations

import logging
import secrets
from contextlib import AsyncExitStack

from imskit.media.codecs import CodecUnavailableError
from imskit.media.events import Step
from imskit.media.python_plane import PythonPlane
from imskit.observe.events import EventLog
from imskit.sdp.errors import SdpError
from imskit.sip.io.endpoint import Endpoint
from imskit.sip.wire.flow import Address, Target
from simulators.conference.engine.focus import (
    Agreed,
    Describe,
    Described,
    Failed,
    Focus,
    FocusEvent,
    FocusOutput,
    Joined,
    Left,
)
from simulators.conference.mixer import Mixer
from simulators.phone.media import CallMedia, Hearing

_log = logging.getLogger(__name__)

_CODECS = ("AMR-WB", "AMR")
_PLAYOUT_SECONDS = 0.06


class ConferenceServer:
    """Start it, and it serves until it is closed."""

    def __init__(self, domain: str, address: Address, s_cscf: Target, media_host: str, events: EventLog) -> None:
        """SIP at ``address``; media at ``media_host``, an address that the UEs reach."""
        self.address = address
        self._media_host = media_host
        self._events = events
        self._focus = Focus(domain, address, s_cscf, _tokens)
        self._endpoint: Endpoint[FocusEvent, FocusOutput] = Endpoint(self._focus, self._heard)
        self._plane: PythonPlane | None = None
        self._mixers: dict[str, Mixer] = {}
        self._legs: dict[str, tuple[str, CallMedia]] = {}
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Open the socket; ``OSError`` if it cannot be had."""
        self._stack.push_async_callback(self._endpoint.close)
        await self._endpoint.listen("UDP", self.address)
        await self._endpoint.listen("TCP", self.address)

    async def close(self) -> None:
        """End everything."""
        for name in list(self._legs):
            self._left(name)
        await self._stack.aclose()

    @property
    def conferences(self) -> dict[str, tuple[str, ...]]:
        """Conference URIs, and who is in each."""
        return self._focus.conferences

    def _heard(self, output: FocusOutput) -> None:
        match output:
            case Describe(leg, conference, offer):
                self._describe(leg, conference, offer)
            case Agreed(leg, sdp):
                self._agreed(leg, sdp)
            case Joined(leg):
                if leg in self._legs:
                    self._legs[leg][1].start()
                    self._events.emit("conference-joined")
            case Left(leg):
                self._left(leg)
            case _:
                pass

    def _describe(self, leg: str, conference: str, offer: bytes | None) -> None:
        try:
            if leg not in self._legs:
                self._legs[leg] = (conference, self._media(conference))
            media = self._legs[leg][1]
            sdp = media.answer(offer) if offer is not None else media.offer()
        except (SdpError, ValueError, CodecUnavailableError) as error:
            _log.warning("leg %s cannot be described: %s", leg, error)
            self._endpoint.handle(Failed(leg))
        except OSError as error:
            _log.error("no media for leg %s: %s", leg, error)
            self._endpoint.handle(Failed(leg, 500))
        else:
            self._endpoint.handle(Described(leg, sdp))

    def _agreed(self, leg: str, sdp: bytes) -> None:
        if leg not in self._legs:
            return
        try:
            self._legs[leg][1].answered(sdp)
        except (SdpError, ValueError, CodecUnavailableError) as error:
            _log.warning("the answer of leg %s cannot be used: %s", leg, error)

    def _left(self, leg: str) -> None:
        conference, media = self._legs.pop(leg, ("", None))
        if media is not None:
            _log.info("leg %s is over: %s", leg, media.close())
            self._events.emit("conference-left")
        if not any(other == conference for other, _ in self._legs.values()):
            self._mixers.pop(conference, None)

    def _media(self, conference: str) -> CallMedia:
        if self._plane is None:
            self._plane = PythonPlane()
        port = self._mixers.setdefault(conference, Mixer()).port()
        try:
            return CallMedia(
                self._plane, self._media_host, _CODECS, Hearing(port, port, _PLAYOUT_SECONDS), _ignore_step
            )
        except OSError:
            port.close()
            raise


def _ignore_step(step: Step, at: float) -> None:
    """Nobody measures a conference."""


def _tokens(digits: int) -> str:
    return secrets.token_hex((digits + 1) // 2)[:digits]
