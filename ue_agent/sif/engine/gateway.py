"""The SIF's engine: who may use it, which page rings, and the calls between page and IMS [S7-SIF]."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

from imskit.engine import Tick
from imskit.ims import events as ims
from imskit.ims.registration import RegistrationStatus, State
from imskit.secrets import Identity
from imskit.sip.engine import user_agent as page
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.message import Request
from imskit.sip.wire.uri import parse_uri, uri_equal
from ue_agent.sif.engine.call import CallFromPage, CallToPage, GatewayCall, warning
from ue_agent.sif.engine.events import (
    Event,
    FromIms,
    FromPage,
    MediaFailed,
    MediaOpened,
    Output,
    PageGone,
    Service,
    ToIms,
    ToPage,
)

_log = logging.getLogger(__name__)

MAXIMUM_CALLS = 8
"""Calls at a time; one user has one mouth."""
MAXIMUM_PAGES = 16
REGISTER_SECONDS = 600
RECONNECT_SECONDS = 10.0
"""How long a call waits for its page to come back when the WebSocket breaks (RFC 7118 has no rule)."""


@dataclass
class _Page:
    """A page that has registered over its WebSocket."""

    flow: Flow
    contact: str
    identity: str
    instance: str
    expires_at: float


class Gateway:
    """The engine; see `ue_agent.sif.engine.events` and `imskit.engine`."""

    def __init__(self) -> None:
        self._outputs: deque[Output] = deque()
        self._calls: dict[str, GatewayCall] = {}
        self._pages: list[_Page] = []
        self._lost: dict[str, float] = {}
        """Calls whose page is away, and until when they wait."""
        self._service = RegistrationStatus()
        self._identities: tuple[Identity, ...] = ()

    @property
    def calls(self) -> int:
        """Calls under way."""
        return len(self._calls)

    @property
    def pages(self) -> int:
        """Pages registered."""
        return len(self._pages)

    def handle(self, event: Event, now: float) -> None:
        """Take in one event."""
        match event:
            case FromPage(output):
                self._from_page(output, now)
            case FromIms(output):
                self._from_ims(output)
            case MediaOpened(call, web, endpoint):
                if (machine := self._calls.get(call)) is not None:
                    machine.media_opened(web, endpoint)
            case MediaFailed(call, reason):
                if (machine := self._calls.get(call)) is not None:
                    machine.media_failed(reason)
            case Service(status, identities):
                self._service, self._identities = status, identities
            case PageGone(flow):
                self._page_gone(flow, now)
            case Tick():
                self._expire(now)
        for name, machine in list(self._calls.items()):
            self._outputs.extend(machine.outputs)
            machine.outputs.clear()
            if machine.over:
                del self._calls[name]
                self._lost.pop(name, None)

    def poll(self) -> Output | None:
        """Return the next output."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """When a page's registration or a lost call's patience ends."""
        return min((*self._lost.values(), *(known.expires_at for known in self._pages)), default=None)

    # ---- page -------------------------------------------------------------------------------------------------------

    def _from_page(self, output: page.Output, now: float) -> None:
        match output:
            case page.IncomingCall():
                self._page_calls(output)
            case page.RequestReceived(request, message, flow, call):
                self._page_request(request, message, flow, call, now)
            case page.Refused(command, refusal, text):
                _log.warning("page side: %s not done: %s %s", type(command).__name__, refusal.value, text)
            case page.Challenged(challenge):
                self._to_page(page.Decline(challenge))
            case _:
                name = getattr(output, "call", None)
                if name in self._calls:
                    self._calls[name].from_page(output)

    def _page_calls(self, incoming: page.IncomingCall) -> None:
        call = incoming.call
        known = next((p for p in self._pages if p.flow == incoming.flow), None)
        if known is None:
            self._to_page(page.Reject(call, 403, None, warning("this page has not registered")))
        elif self._service.state is not State.REGISTERED:
            reason = f"there is no IMS service: {self._service.reason}"
            self._to_page(page.Reject(call, 503, None, warning(reason)))
        elif len(self._calls) >= MAXIMUM_CALLS:
            self._to_page(page.Reject(call, 486, None, warning("too many calls")))
        else:
            try:
                self._calls[call] = CallFromPage(incoming)
            except SipParseError as error:
                self._to_page(page.Reject(call, error.status, error.reason))

    def _page_request(self, request: str, message: Request, flow: Flow, call: str | None, now: float) -> None:
        if message.method == "REGISTER":
            self._register(request, message, flow, now)
        elif call is not None and message.method in ("INFO", "OPTIONS"):
            self._to_page(page.Respond(request, 200))
        else:
            self._to_page(page.Respond(request, 501, None, warning(f"{message.method} is not offered to pages")))

    def _register(self, request: str, message: Request, flow: Flow, now: float) -> None:
        """Answer for the IMS registration: the page has service when this device has (pass-through of 5.7.1.2)."""
        try:
            to, contacts, expires = message.to, message.contacts, message.expires
        except SipParseError as error:
            self._to_page(page.Respond(request, error.status, error.reason))
            return
        if not any(uri_equal(to.uri, parse_uri(str.__str__(identity))) for identity in self._identities):
            self._to_page(page.Respond(request, 403, None, warning("this identity is not the one of the SIM card")))
            return
        self._pages = [known for known in self._pages if known.flow != flow]
        seconds = REGISTER_SECONDS if expires is None else min(expires, REGISTER_SECONDS)
        contact = contacts[0] if contacts != "*" and contacts else None
        if contact is not None and contact.expires is not None:
            seconds = min(contact.expires, REGISTER_SECONDS)
        if contact is None or seconds == 0:
            self._to_page(page.Respond(request, 200))
            return
        if self._service.state is not State.REGISTERED:
            reason = f"there is no IMS service: {self._service.reason}"
            self._to_page(page.Respond(request, 503, None, (*warning(reason), ("Retry-After", "5"))))
            return
        instance = contact.parameters.get("+sip.instance") or str(contact.uri)
        self._pages = [known for known in self._pages if known.instance != instance][-MAXIMUM_PAGES + 1 :]
        self._pages.append(_Page(flow, str(contact.uri), str(to.uri), instance, now + seconds))
        granted = contact.with_parameter("expires", str(seconds))
        self._to_page(page.Respond(request, 200, None, (("Contact", str(granted)),)))
        self._take_back(flow)
        _log.info("page registered over %s", flow)

    def _page_gone(self, flow: Flow, now: float) -> None:
        self._pages = [known for known in self._pages if known.flow != flow]
        for machine in self._calls.values():
            if machine.flow == flow:
                self._lost[machine.name] = now + RECONNECT_SECONDS

    def _take_back(self, flow: Flow) -> None:
        """A page is back: calls that wait for one go on over its new WebSocket."""
        for name in self._lost:
            self._calls[name].flow = flow
            self._to_page(page.Reroute(name, flow))
        self._lost.clear()

    def _expire(self, now: float) -> None:
        self._pages = [known for known in self._pages if known.expires_at > now]
        for name in [name for name, until in self._lost.items() if until <= now]:
            del self._lost[name]
            self._calls[name].hang_up("the page was closed")

    def _to_page(self, command: page.Command) -> None:
        self._outputs.append(ToPage(command))

    # ---- IMS --------------------------------------------------------------------------------------------------------

    def _from_ims(self, output: ims.Output) -> None:
        match output:
            case ims.IncomingCall(call):
                if not self._pages:
                    words = warning("no page is open on this device")
                    self._outputs.append(ToIms(ims.Reject(call, 480, None, words)))
                elif len(self._calls) >= MAXIMUM_CALLS:
                    self._outputs.append(ToIms(ims.Reject(call, 486)))
                else:
                    known = self._pages[-1]  # the one that registered last is the one in use
                    self._calls[call] = CallToPage(output, known.flow, known.contact, known.identity)
            case _:
                name = getattr(output, "call", None)
                if name in self._calls:
                    self._calls[name].from_ims(output)
