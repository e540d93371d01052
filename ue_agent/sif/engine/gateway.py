"""The SIF's engine: who may use it, which page rings, and the calls between page and IMS [S7-SIF]."""

from __future__ import annotations

import logging
from collections import deque

from imskit.engine import Tick, Tokens
from imskit.ims import events as ims
from imskit.sip.engine import user_agent as page
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.message import Request
from ue_agent.sif.engine.addresses import home_domain
from ue_agent.sif.engine.call import GatewayCall
from ue_agent.sif.engine.call_from_page import CallFromPage
from ue_agent.sif.engine.call_to_page import CallToPage
from ue_agent.sif.engine.events import (
    CloseMedia,
    Event,
    FromIms,
    FromPage,
    MediaFailed,
    MediaOpened,
    Output,
    PageGone,
    PressKey,
    Service,
    Shutdown,
    ToIms,
    ToPage,
    WebRenewed,
)
from ue_agent.sif.engine.pages import Page, Pages
from ue_agent.sif.engine.texts import Texts
from ue_agent.sif.engine.tones import DTMF_RELAY, read_dtmf
from ue_agent.sif.engine.transfers import Transfers
from ue_agent.sif.engine.words import Fields, warning

_log = logging.getLogger(__name__)

MAXIMUM_CALLS = 8
"""Calls at a time; one user has one mouth."""
RECONNECT_SECONDS = 10.0
"""How long a call that is to ring waits for a page that may be loading anew."""
TALK_SECONDS = 20.0
"""How long a call that stands waits for its page to come back when the WebSocket breaks (RFC 7118 has no rule).

Its media does not need the WebSocket; a web proxy that is started anew needs some seconds, and then the page's own
pause before its next attempt.
"""


class Gateway:
    """The engine; see `ue_agent.sif.engine.events` and `imskit.engine`."""

    def __init__(self, tokens: Tokens, message_centre: str = "") -> None:
        """``message_centre`` is the identity that short messages go to; empty: texts go as SIP MESSAGE."""
        self._outputs: deque[Output] = deque()
        self._pages = Pages(self._outputs.append, self._busy)
        self._transfers = Transfers(self._outputs.append, lambda: self._calls.values(), tokens)
        self._texts = Texts(self._outputs.append, tokens, message_centre)
        self._calls: dict[str, GatewayCall] = {}
        self._by_page: dict[str, GatewayCall] = {}
        self._by_ims: dict[str, GatewayCall] = {}
        self._patience: dict[str, float] = {}
        """Calls whose page is away, and until when they wait."""
        self._page_lost_at: float | None = None
        self._domain = ""
        self._count = 0

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
                self._from_ims(output, now)
            case MediaOpened() | MediaFailed() | WebRenewed():
                self._media(event)
            case Service(status, identities):
                self._domain = home_domain(identities) or self._domain
                for known in self._pages.set_service(status, identities, now):
                    self._moved(known)
                    self._texts.registered(known, self._domain)
            case PageGone(flow):
                self._page_gone(flow, now)
            case Shutdown(reason):
                for machine in self._calls.values():
                    machine.hang_up(reason)
            case Tick():
                self._tick(now)
        self._find_pages(now)
        self._collect()

    def poll(self) -> Output | None:
        """Return the next output."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """When a page's registration or a lost call's patience ends."""
        times = [at for at in (self._pages.deadline(), self._texts.deadline()) if at is not None]
        return min((*self._patience.values(), *times), default=None)

    # ---- calls ------------------------------------------------------------------------------------------------------

    def _name(self, kind: str) -> str:
        """The user agents of both sides name their calls alike: the gateway needs names of its own."""
        self._count += 1
        return f"{kind}-{self._count}"

    def _add(self, machine: GatewayCall) -> None:
        self._calls[machine.name] = machine
        self._by_page[machine.page_call] = machine
        self._by_ims[machine.ims_call] = machine

    def _collect(self) -> None:
        """Take what the calls say, and forget those that are over."""
        for machine in list(self._calls.values()):
            self._outputs.extend(machine.outputs)
            machine.outputs.clear()
            if machine.over:
                del self._calls[machine.name]
                del self._by_page[machine.page_call]
                del self._by_ims[machine.ims_call]
                self._transfers.call_over(machine.ims_call)
                self._patience.pop(machine.name, None)

    def _media(self, event: MediaOpened | MediaFailed | WebRenewed) -> None:
        machine = self._calls.get(event.call)
        match event:
            case MediaOpened(call, web, endpoint):
                if machine is None:
                    self._outputs.append(CloseMedia(call))  # it ended while its ports were opened
                else:
                    machine.media_opened(web, endpoint)
            case MediaFailed(_, reason):
                if machine is not None:
                    machine.media_failed(reason)
            case WebRenewed(_, web):
                if machine is not None:
                    machine.web_renewed(web)

    def _tick(self, now: float) -> None:
        self._pages.tick(now)
        self._texts.tick(now)
        for name in [name for name, until in self._patience.items() if until <= now]:
            del self._patience[name]
            self._calls[name].hang_up("the page was closed")

    # ---- pages ------------------------------------------------------------------------------------------------------

    def _busy(self, flow: Flow) -> bool:
        return any(machine.flow == flow for machine in self._calls.values())

    def _page_gone(self, flow: Flow, now: float) -> None:
        self._page_lost_at = now
        self._pages.gone(flow)
        for machine in self._calls.values():
            if machine.flow == flow and machine.answered:
                self._patience[machine.name] = now + TALK_SECONDS
            elif machine.flow == flow:
                machine.page_lost()

    def _moved(self, registered: Page) -> None:
        """A page has registered, perhaps over a new WebSocket: its calls go on over that one."""
        for machine in self._calls.values():
            if machine.instance != registered.instance or machine.flow in (None, registered.flow):
                continue
            if machine.answered:
                machine.flow = registered.flow
                self._patience.pop(machine.name, None)
                self._to_page(page.Reroute(machine.page_call, registered.flow))
            else:
                machine.page_lost()

    def _find_pages(self, now: float) -> None:
        """Let a page ring for every call that needs one; if there is none, one may come back."""
        for machine in self._calls.values():
            if not isinstance(machine, CallToPage) or not machine.wants_page:
                continue
            found = self._pages.newest(machine.tried)
            if found is not None:
                self._patience.pop(machine.name, None)
                machine.call_page(found.flow, found.instance, found.contact, found.identity)
            else:
                self._patience.setdefault(machine.name, now + RECONNECT_SECONDS)

    def _to_page(self, command: page.Command) -> None:
        self._outputs.append(ToPage(command))

    def _from_page(self, output: page.Output, now: float) -> None:
        match output:
            case page.IncomingCall():
                self._page_calls(output)
            case page.RequestReceived(request, message, flow, call):
                self._page_request(request, message, flow, call, now)
            case page.Refused(command, refusal, text):
                machine = self._by_page.get(getattr(command, "call", ""))
                if machine is not None:
                    machine.page_refused(command, refusal, text)
            case page.ResponseReceived(key, response):
                self._transfers.answered(key, response)
            case page.Challenged(challenge):
                self._to_page(page.Decline(challenge))
            case _:
                machine = self._by_page.get(getattr(output, "call", ""))
                if machine is not None:
                    machine.from_page(output)

    def _page_calls(self, incoming: page.IncomingCall) -> None:
        call = incoming.call
        known = self._pages.at(incoming.flow)
        if known is None:
            self._to_page(page.Reject(call, 403, None, warning("this page has not registered")))
        elif not self._pages.service:
            self._to_page(page.Reject(call, 503, None, warning(self._pages.trouble)))
        elif len(self._calls) >= MAXIMUM_CALLS:
            self._to_page(page.Reject(call, 486, None, warning("too many calls")))
        else:
            try:
                referral = self._transfers.claimed(incoming.request.request_uri)
                machine = CallFromPage(self._name("out"), incoming, known.instance, self._domain, referral)
            except SipParseError as error:
                self._to_page(page.Reject(call, error.status, error.reason))
            else:
                self._add(machine)

    def _page_request(self, request: str, message: Request, flow: Flow, call: str | None, now: float) -> None:
        """Answer what is no call; a method that is not offered at all is answered 405 by the user agent."""
        status = 200
        fields: Fields = ()
        if message.method == "REGISTER":
            registered = self._pages.register(request, message, flow, now)
            if registered is not None:
                self._moved(registered)
                self._texts.registered(registered, self._domain)
            return
        machine = self._by_page.get(call or "")
        try:
            if self._served(request, message, flow, machine, now):
                return
        except SipParseError as error:
            self._to_page(page.Respond(request, error.status, error.reason))
            return
        if call is None or message.method not in ("INFO", "OPTIONS", "NOTIFY"):
            status, fields = 501, warning(f"{message.method} is not offered to pages")
        elif "Info-Package" in message.headers:
            status, fields = 469, (("Recv-Info", ""),)  # RFC 6086 section 4.2.2: no package is taken
        elif message.method == "NOTIFY":
            self._transfers.reported(message, machine)
        elif message.body:
            status, fields = 415, (("Accept", DTMF_RELAY),)
        self._to_page(page.Respond(request, status, None, fields))

    def _served(self, request: str, message: Request, flow: Flow, machine: GatewayCall | None, now: float) -> bool:
        """Do what a request asks for: a transfer, a text, a key; False if it asks for none of these."""
        if message.method == "MESSAGE" and self._pages.at(flow) is not None:
            self._texts.from_page(request, message, self._domain, now)
            return True
        if machine is None:
            return False
        if message.method == "REFER":
            self._transfers.from_page(request, message, machine, self._domain)
            return True
        kind = message.content_type
        if message.method == "INFO" and kind is not None and kind.essence == DTMF_RELAY:
            key, seconds = read_dtmf(message.body)
            self._outputs.append(PressKey(machine.name, key, seconds))
            self._to_page(page.Respond(request, 200))
            return True
        return False

    # ---- IMS --------------------------------------------------------------------------------------------------------

    def _from_ims(self, output: ims.Output, now: float) -> None:
        if isinstance(output, ims.IncomingCall):
            self._ims_calls(output, now)
            return
        if isinstance(output, ims.MessageReceived):
            self._texts.from_ims(output, self._pages.all, self._domain)
            return
        if isinstance(output, ims.MessageSent):
            self._texts.sent(output)
            return
        if isinstance(output, ims.ReferralReceived | ims.ReferralProgress):
            about = self._by_ims.get(output.call)
            if isinstance(output, ims.ReferralProgress):
                self._transfers.progress(output, about)
            else:
                self._transfers.from_ims(output, about, self._domain)
            return
        machine = self._by_ims.get(getattr(output, "call", None) or "")
        if machine is not None:
            machine.from_ims(output)

    def _ims_calls(self, incoming: ims.IncomingCall, now: float) -> None:
        lost = self._page_lost_at
        reloading = lost is not None and now < lost + RECONNECT_SECONDS
        if not len(self._pages) and not reloading:
            words = warning("no page is open on this device")
            self._outputs.append(ToIms(ims.Reject(incoming.call, 480, None, words)))
        elif len(self._calls) >= MAXIMUM_CALLS:
            self._outputs.append(ToIms(ims.Reject(incoming.call, 486)))
        else:
            replaced = self._by_ims.get(incoming.replaces)
            self._add(CallToPage(self._name("in"), incoming, self._domain, replaced))
