"""The SIF's sockets: SIP over WebSocket from the WWPF, joined with the IMS client and the RMF by the `Gateway`.

The WebSocket listens on loopback.  It takes a connection only with the secret that the WWPF was given at its start and
from the origin of the operator's page; the WWPF lets a page through only after AKA.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Protocol

from imskit.engine import Tick
from imskit.ims import events as ims
from imskit.ims.registration import RegistrationStatus
from imskit.observe.events import EventLog
from imskit.sdp.ims_side import ImsEndpoint
from imskit.sdp.negotiation import MediaPlan
from imskit.sdp.web_side import WebEndpoint
from imskit.secrets import Identity, Secret
from imskit.sip.engine import user_agent as page
from imskit.sip.engine.user_agent import UserAgent
from imskit.sip.io.endpoint import Endpoint
from imskit.sip.wire.flow import Address
from imskit.tasks import spawn
from ue_agent.sif.engine.events import (
    ApplyMedia,
    CloseMedia,
    Event,
    FromIms,
    FromPage,
    MediaAnswered,
    MediaFailed,
    MediaOpened,
    OpenMedia,
    PageGone,
    Service,
    Step,
    ToIms,
    ToPage,
)
from ue_agent.sif.engine.gateway import Gateway
from ue_agent.wwpf.handover import SECRET_HEADER, is_genuine

_log = logging.getLogger(__name__)

_METHODS = ("INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "INFO", "UPDATE")


class MediaSide(Protocol):
    """What the SIF needs of the RMF."""

    async def open(
        self, call: str, *, controlling: bool, on_failed: Callable[[str], None]
    ) -> tuple[WebEndpoint, ImsEndpoint]:
        """Get ports and credentials; ``on_failed`` tells later that the media broke.  `OSError` if there are none."""

    def apply(self, call: str, plan: MediaPlan) -> None:
        """Join both sides."""

    def answered(self, call: str) -> None:
        """The call stands: the page has to be connected soon."""

    def close(self, call: str) -> None:
        """Release all."""


class Sif:
    """See the module's text."""

    def __init__(
        self,
        media: MediaSide,
        to_ims: Callable[[ims.Event], None],
        origin: str,
        secret: Secret[str],
        events: EventLog,
    ) -> None:
        self._media = media
        self._to_ims = to_ims
        self._origin = origin
        self._secret = secret
        self._events = events
        self._gateway = Gateway()
        profile = page.Profile(
            contact="<sip:sif@sif.invalid;transport=ws>",
            allow=(*_METHODS, "REGISTER"),
            supported=(),
            session_timer=None,
            no_answer=None,
        )
        agent = UserAgent(profile, _token, sent_by={"WS": page.SentBy("sif.invalid")})
        self._endpoint: Endpoint[page.Event, page.Output] = Endpoint(_Watched(agent, self._gone), self._page_says)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._queue: list[Event] = []
        self._busy = False

    @property
    def calls(self) -> int:
        """Calls under way."""
        return self._gateway.calls

    @property
    def pages(self) -> int:
        """Pages registered."""
        return self._gateway.pages

    async def start(self) -> Address:
        """Listen on a free loopback port and return it."""
        return await self._endpoint.listen("WS", ("127.0.0.1", 0), check=self._admit)

    async def stop(self) -> None:
        """Close the sockets; calls end with the IMS client's de-registration."""
        if self._timer is not None:
            self._timer.cancel()
        await self._endpoint.close()

    def service(self, status: RegistrationStatus, identities: tuple[Identity, ...]) -> None:
        """Take note of the IMS registration."""
        self._handle(Service(status, identities))

    def from_ims(self, output: ims.Output) -> None:
        """Take in what the IMS client says of calls."""
        self._handle(FromIms(output))

    # ---- the WebSocket ------------------------------------------------------------

    def _admit(self, headers: Mapping[str, str]) -> tuple[int, str] | None:
        if not is_genuine(headers.get(SECRET_HEADER.lower()), self._secret):
            return 403, "this WebSocket takes connections of the web proxy only"
        if headers.get("origin") != self._origin:
            return 403, "the page's origin is not the operator's"
        return None

    def _gone(self, event: page.FlowClosed) -> None:
        self._handle(PageGone(event.flow))

    def _page_says(self, output: page.Output) -> None:
        self._handle(FromPage(output))

    # ---- the gateway ------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        """Give the gateway an event and carry out what it says; events that this causes wait their turn."""
        self._queue.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._queue:
                self._gateway.handle(self._queue.pop(0), self._loop.time())
                while (output := self._gateway.poll()) is not None:
                    match output:
                        case ToPage(command):
                            self._endpoint.handle(command)
                        case ToIms(command):
                            self._to_ims(command)
                        case OpenMedia(call, controlling):
                            spawn(self._open(call, controlling), "RMF")
                        case ApplyMedia(call, plan):
                            self._apply(call, plan)
                        case MediaAnswered(call):
                            self._media.answered(call)
                        case CloseMedia(call):
                            self._media.close(call)
                        case Step(call, name, codec):
                            self._events.emit("call-step", call=call[-8:], step=name, codec=codec)
        finally:
            self._busy = False
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._gateway.deadline()
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._handle, Tick())

    async def _open(self, call: str, controlling: bool) -> None:
        try:
            web, endpoint = await self._media.open(
                call, controlling=controlling, on_failed=lambda reason: self._handle(MediaFailed(call, reason))
            )
        except OSError as error:
            self._handle(MediaFailed(call, f"no media port could be had: {error.strerror or error}"))
            return
        self._handle(MediaOpened(call, web, endpoint))

    def _apply(self, call: str, plan: MediaPlan) -> None:
        try:
            self._media.apply(call, plan)
        except (OSError, ValueError) as error:
            _log.warning("call %s: media cannot be joined: %s", call[-8:], error)
            self._handle(MediaFailed(call, f"the media cannot be joined: {error}"))


class _Watched:
    """The page's user agent, with an ear for closed connections."""

    def __init__(self, agent: UserAgent, on_closed: Callable[[page.FlowClosed], None]) -> None:
        self._agent = agent
        self._on_closed = on_closed

    def handle(self, event: page.Event | Tick, now: float) -> None:
        """As ``UserAgent.handle``."""
        self._agent.handle(event, now)
        if isinstance(event, page.FlowClosed):
            self._on_closed(event)

    def poll(self) -> page.Output | None:
        """As ``UserAgent.poll``."""
        return self._agent.poll()

    def deadline(self) -> float | None:
        """As ``UserAgent.deadline``."""
        return self._agent.deadline()


def _token(digits: int) -> str:
    return secrets.token_hex((digits + 1) // 2)[:digits]
