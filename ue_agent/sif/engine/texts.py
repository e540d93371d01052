"""Texts through the SIF: MESSAGE of the page to IMS and back (RFC 3428); what the page is not there for waits."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from imskit.engine import Tokens
from imskit.ims import events as ims
from imskit.sip.engine import user_agent as page
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.message import Request
from imskit.sip.wire.uri import SipUri, TelUri, parse_uri
from ue_agent.sif.engine.addresses import caller_for_page, is_emergency, target
from ue_agent.sif.engine.events import Output, ToIms, ToPage
from ue_agent.sif.engine.pages import Page
from ue_agent.sif.engine.words import warning

_log = logging.getLogger(__name__)

_WAITING = 50
"""Texts that wait for a page."""
_PENDING = 32
ANSWER_SECONDS = 10.0
"""A page hears this soon that its text is on its way, though nothing is known of it yet."""


class Texts:
    """See the module's text.  ``centre`` is the message centre's identity; empty: texts go as SIP MESSAGE."""

    def __init__(self, emit: Callable[[Output], None], tokens: Tokens, centre: str = "") -> None:
        self._emit = emit
        self._tokens = tokens
        self._centre = centre
        self._pending: dict[str, tuple[str, float]] = {}
        """Texts of the page under way: our key, the page's request, and until when it waits."""
        self._waiting: deque[ims.MessageReceived] = deque(maxlen=_WAITING)
        self._count = 0

    def deadline(self) -> float | None:
        """When `tick` is due."""
        return min((until for _, until in self._pending.values()), default=None)

    def tick(self, now: float) -> None:
        """Tell a page that its text is on its way, before its own transaction ends (RFC 3261 timer F)."""
        for key, (request, until) in list(self._pending.items()):
            if now >= until:
                del self._pending[key]
                self._emit(ToPage(page.Respond(request, 202)))

    def from_page(self, request: str, message: Request, domain: str, now: float) -> None:
        """Take a MESSAGE of a registered page; `SipParseError` if it cannot be read."""
        kind = message.content_type
        if kind is None or kind.essence != "text/plain":
            self._emit(ToPage(page.Respond(request, 415, None, (("Accept", "text/plain"),))))
            return
        uri = message.request_uri
        if is_emergency(uri):
            words = warning("emergency services take no texts from this page")
            self._emit(ToPage(page.Respond(request, 403, None, words)))
            return
        if len(self._pending) >= _PENDING:
            self._emit(ToPage(page.Respond(request, 486, None, warning("too many texts are under way"))))
            return
        self._count += 1
        key = f"text-{self._count}"
        self._pending[key] = (request, now + ANSWER_SECONDS)
        text, whom = message.body.decode("utf-8", "replace"), target(uri, domain)
        number = _number(whom)
        if self._centre and number:
            self._emit(ToIms(ims.SendSms(key, number, text, self._centre)))
        else:
            self._emit(ToIms(ims.SendMessage(key, whom, text)))

    def sent(self, told: ims.MessageSent) -> None:
        """IMS tells what came of a text."""
        request, _ = self._pending.pop(told.key, ("", 0.0))
        if not request:
            _log.info("a text that the page was told to be on its way: %s", told.status)
            return
        status = told.status if told.status is not None else 503
        words = warning(told.reason) if status >= 300 else ()
        self._emit(ToPage(page.Respond(request, status, None, words)))

    def from_ims(self, received: ims.MessageReceived, pages: list[Page], domain: str) -> None:
        """Somebody wrote: every page of this user shows it; without one it waits."""
        if not pages:
            self._waiting.append(received)
            return
        for known in pages:
            self._show(received, known, domain)

    def registered(self, known: Page, domain: str) -> None:
        """A page is there: let it have what has waited."""
        while self._waiting:
            self._show(self._waiting.popleft(), known, domain)

    def _show(self, received: ims.MessageReceived, known: Page, domain: str) -> None:
        try:
            sender = caller_for_page(NameAddr(parse_uri(received.sender)), domain)
        except SipParseError:
            # A short message may come from a name.
            sender = NameAddr(SipUri("sip", "anonymous", None, "anonymous.invalid"), received.sender)
        self._count += 1
        request = Request.create(
            "MESSAGE",
            known.contact,
            [
                ("From", str(sender.with_tag(self._tokens(16)))),
                ("To", f"<{known.identity}>"),
                ("Call-ID", self._tokens(32)),
                ("CSeq", "1 MESSAGE"),
            ],
        )
        if received.asserted:
            request.headers.add("P-Asserted-Identity", f"<{received.sender}>")
        request.set_body(received.text.encode("utf-8", "replace"), "text/plain;charset=UTF-8")
        self._emit(ToPage(page.Send(f"show-{self._count}", request, known.flow)))


def _number(uri: str) -> str:
    """Return the international number that a URI is, empty if it is none."""
    parsed = parse_uri(uri)
    if isinstance(parsed, TelUri):
        digits = parsed.digits
    elif isinstance(parsed, SipUri) and parsed.parameters.get("user") == "phone":
        digits = parsed.user_text.partition(";")[0]
    else:
        return ""
    return digits if digits.startswith("+") else ""
