"""The SIF's sockets: SIP over WebSocket from the WWPF, joined with the IMS client and the RMF by the `Gateway`.

The WebSocket listens on loopback.  It takes a connection only with the secret that the WWPF was given at its start and
from the origin of the operator's page; the WWPF lets a page through only after AKA.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from imskit.engine import Tick
from imskit.ims import events as ims
from imskit.ims.registration import RegistrationStatus
from imskit.observe.events import EventLog
from imskit.sdp.description import SessionDescription
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
    DropPage,
    Event,
    FromIms,
    FromPage,
    MediaAnswered,
    MediaFailed,
    MediaOpened,
    OpenMedia,
    Output,
    PageGone,
    PageOffered,
    PressKey,
    Service,
    Shutdown,
    Step,
    ToIms,
    ToPage,
    WebRenewed,
)
from ue_agent.sif.engine.gateway import Gateway
from ue_agent.wwpf.handover import SECRET_HEADER, is_genuine

_log = logging.getLogger(__name__)

_METHODS = ("INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "INFO", "UPDATE", "REFER", "NOTIFY", "MESSAGE")


class MediaSide(Protocol):
    """What the SIF needs of the RMF."""

    async def open(
        self, call: str, *, controlling: bool, on_failed: Callable[[str], None]
    ) -> tuple[WebEndpoint, ImsEndpoint]:
        """Get ports and credentials; ``on_failed`` tells later that the media broke.  `OSError` if there are none."""

    def page_offer(self, call: str, offer: SessionDescription) -> WebEndpoint:
        """Look at a later offer of the page, which may restart ICE; returns what to say of our side from now on."""

    def apply(self, call: str, plan: MediaPlan) -> None:
        """Join both sides; `OSError`, `ValueError` or `RuntimeError` says why it cannot be."""

    def answered(self, call: str) -> None:
        """The call stands: the page has to be connected soon."""

    def press(self, call: str, key: str, seconds: float) -> None:
        """Play a DTMF key towards IMS; `ValueError` if it takes none."""

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
        message_centre: str = "",
    ) -> None:
        """``message_centre`` as in `Gateway`."""
        self._media = media
        self._to_ims = to_ims
        self._origin = origin
        self._secret = secret
        self._events = events
        self._gateway = Gateway(_token, message_centre)
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
        self._queue: deque[Event] = deque()
        self._busy = False
        self._stopped = False

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
        """End the calls, close the sockets."""
        self._handle(Shutdown("this device's agent was stopped"))
        self._stopped = True
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
                event = self._queue.popleft()
                try:
                    self._gateway.handle(event, self._loop.time())
                except Exception:
                    # A fault in one call must not stop the others.
                    _log.exception("%s failed", type(event).__name__)
                while (output := self._gateway.poll()) is not None:
                    try:
                        self._carry_out(output)
                    except Exception:
                        _log.exception("carrying out %s failed", type(output).__name__)
        finally:
            self._busy = False
        self._arm()

    def _carry_out(self, output: Output) -> None:
        match output:
            case ToPage(command):
                self._endpoint.handle(command)
            case ToIms(command):
                self._to_ims(command)
            case OpenMedia(call, controlling):
                spawn(self._open(call, controlling), "RMF")
            case PageOffered(call, offer):
                with self._media_guard(call):
                    self._handle(WebRenewed(call, self._media.page_offer(call, offer)))
            case ApplyMedia(call, plan):
                with self._media_guard(call):
                    self._media.apply(call, plan)
            case MediaAnswered(call):
                with self._media_guard(call):
                    self._media.answered(call)
            case PressKey(call, key, seconds):
                try:
                    self._media.press(call, key, seconds)
                except ValueError as error:
                    _log.info("call %s: a key is not played: %s", call, error)
            case CloseMedia(call):
                self._media.close(call)
            case Step(call, name, codec):
                self._events.emit("call-step", call=call[-8:], step=name, codec=codec)
            case DropPage(flow, reason):
                self._endpoint.transports.drop(flow, reason)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = None if self._stopped else self._gateway.deadline()
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._handle, Tick())

    # ---- media ------------------------------------------------------------

    async def _open(self, call: str, controlling: bool) -> None:
        def failed(reason: str) -> None:
            self._handle(MediaFailed(call, reason))

        try:
            web, endpoint = await self._media.open(call, controlling=controlling, on_failed=failed)
        except OSError as error:
            failed(f"no media port could be had: {error.strerror or error}")
        except Exception as error:
            _log.exception("call %s: no media", call)
            failed(f"no media could be had: {error}")
        else:
            self._handle(MediaOpened(call, web, endpoint))

    @contextmanager
    def _media_guard(self, call: str) -> Iterator[None]:
        """Whatever the media side finds wrong ends this call, and nothing else."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            _log.warning("call %s: media cannot be joined: %s", call, error)
            self._handle(MediaFailed(call, f"the media cannot be joined: {error}"))
        except Exception as error:
            _log.exception("call %s: media", call)
            self._handle(MediaFailed(call, f"the media have a fault: {type(error).__name__}"))


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
