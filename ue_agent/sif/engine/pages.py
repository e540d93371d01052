"""The pages that may use the SIF: their registrations, which answer for the registration of this device.

A page has service when this device has (pass-through of TR 23.701 clause 5.7.1.2).  While the device registers, a
page's REGISTER waits a little for it.  A page that is told that there is no service, or that loses it, is brought back
by closing its WebSocket when things change: SIP has no other way to tell it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from imskit.ims import events as ims
from imskit.ims.registration import RegistrationStatus, State
from imskit.secrets import Identity
from imskit.sip.engine import user_agent as page
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.message import Request
from imskit.sip.wire.uri import Uri, parse_uri, uri_equal
from ue_agent.sif.engine.events import DropPage, Output, ToIms, ToPage
from ue_agent.sif.engine.words import warning

_log = logging.getLogger(__name__)

MAXIMUM_PAGES = 16
REGISTER_SECONDS = 600
"""Longest registration of a page."""
HOLD_SECONDS = 8.0
"""How long a REGISTER waits for the device's own registration."""
GRACE_SECONDS = 5.0
"""How long the device may be without service before its pages are told."""
_WAKE_SECONDS = 15.0
"""A page that wants service makes the device try at most this often."""


@dataclass
class Page:
    """A page that has registered over its WebSocket."""

    flow: Flow
    contact: str
    identity: str
    instance: str
    """Stays the same while the page lives, also over another WebSocket (RFC 5626 section 4.1)."""
    expires_at: float


@dataclass(frozen=True)
class _Waiting:
    request: str
    message: Request
    flow: Flow
    until: float


class Pages:
    """See the module's text.  ``emit`` takes the outputs, ``busy`` tells whether a WebSocket carries a call."""

    def __init__(self, emit: Callable[[Output], None], busy: Callable[[Flow], bool]) -> None:
        self._emit = emit
        self._busy = busy
        self._known: list[Page] = []
        self._waiting: list[_Waiting] = []
        self._refused: list[Flow] = []
        """WebSockets whose page was told that there is no service."""
        self._status = RegistrationStatus()
        self._identities: tuple[Identity, ...] = ()
        self._uris: tuple[Uri, ...] = ()
        self._tell_at: float | None = None
        """When to tell the pages that service is gone."""
        self._woken_at: float | None = None

    def __len__(self) -> int:
        return len(self._known)

    @property
    def service(self) -> bool:
        """Whether this device is registered with IMS."""
        return self._status.state is State.REGISTERED

    @property
    def trouble(self) -> str:
        """Why there is no service, for the user."""
        return f"there is no IMS service: {self._status.reason}"

    def at(self, flow: Flow) -> Page | None:
        """Return the page of a WebSocket."""
        return next((known for known in self._known if known.flow == flow), None)

    @property
    def all(self) -> list[Page]:
        """Every page that is registered."""
        return list(self._known)

    def newest(self, but: list[Flow]) -> Page | None:
        """Return the page opened last, which is the one in use, apart from those of ``but``."""
        return next((known for known in reversed(self._known) if known.flow not in but), None)

    def deadline(self) -> float | None:
        """When something is due."""
        times = [*(known.expires_at for known in self._known), *(waiting.until for waiting in self._waiting)]
        if self._tell_at is not None:
            times.append(self._tell_at)
        return min(times, default=None)

    # ---- events -----------------------------------------------------------------------------------------------------

    def set_service(self, status: RegistrationStatus, identities: tuple[Identity, ...], now: float) -> list[Page]:
        """Take note of the device's registration; returns the pages that registered by this."""
        self._status = status
        if identities != self._identities:
            self._identities = identities
            self._uris = tuple(uri for identity in identities if (uri := _uri(identity)) is not None)
        if not self.service:
            if self._tell_at is None and self._known:
                self._tell_at = now + GRACE_SECONDS
            return []
        self._tell_at = None
        for known in [known for known in self._known if not self._is_ours(_uri(known.identity))]:
            self._drop(known, "another SIM card is in use")
        for flow in self._refused:
            self._emit(DropPage(flow, "there is service again"))
        self._refused.clear()
        waiting, self._waiting = self._waiting, []
        registered = [self.register(each.request, each.message, each.flow, now) for each in waiting]
        return [known for known in registered if known is not None]

    def gone(self, flow: Flow) -> None:
        """A WebSocket is closed."""
        self._known = [known for known in self._known if known.flow != flow]
        self._waiting = [waiting for waiting in self._waiting if waiting.flow != flow]
        self._refused = [refused for refused in self._refused if refused != flow]

    def tick(self, now: float) -> None:
        """Time has passed."""
        self._known = [known for known in self._known if known.expires_at > now]
        for waiting in [waiting for waiting in self._waiting if waiting.until <= now]:
            self._waiting.remove(waiting)
            self._refuse_service(waiting.request, waiting.flow)
        if self._tell_at is not None and now >= self._tell_at:
            self._tell_at = None
            for known in [known for known in self._known if not self._busy(known.flow)]:
                self._drop(known, "there is no IMS service")
            if self._known:
                self._tell_at = now + GRACE_SECONDS

    def register(self, request: str, message: Request, flow: Flow, now: float) -> Page | None:
        """Answer a REGISTER; returns the page if it is registered now."""
        try:
            to, from_, contacts, expires = message.to, message.from_, message.contacts, message.expires
        except SipParseError as error:
            self._emit(ToPage(page.Respond(request, error.status, error.reason)))
            return None
        if self._uris and not (self._is_ours(to.uri) and self._is_ours(from_.uri)):
            words = warning("this identity is not the one of the SIM card")
            self._emit(ToPage(page.Respond(request, 403, None, words)))
            return None
        contact = contacts[0] if contacts != "*" and contacts else None
        seconds = REGISTER_SECONDS if expires is None else min(expires, REGISTER_SECONDS)
        if contact is not None and contact.expires is not None:
            seconds = min(contact.expires, REGISTER_SECONDS)
        if contact is None or seconds == 0:
            if contact is not None or contacts == "*":
                self.gone(flow)
            self._emit(ToPage(page.Respond(request, 200)))
            return None
        if not self.service or not self._uris:
            self._wait(_Waiting(request, message, flow, now + HOLD_SECONDS), now)
            return None
        instance = contact.parameters.get("+sip.instance") or str(contact.uri)
        registered = Page(flow, str(contact.uri), str(to.uri), instance, now + seconds)
        self._keep(registered)
        granted = contact.with_parameter("expires", str(seconds))
        self._emit(ToPage(page.Respond(request, 200, None, (("Contact", str(granted)),))))
        return registered

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _keep(self, registered: Page) -> None:
        """Note a page; a refresh leaves its place, which says which page was opened last."""
        for index, known in enumerate(self._known):
            if (known.flow, known.instance) == (registered.flow, registered.instance):
                self._known[index] = registered
                return
        others = [k for k in self._known if k.flow != registered.flow and k.instance != registered.instance]
        self._known = [*others[-MAXIMUM_PAGES + 1 :], registered]
        _log.info("page registered over %s", registered.flow)

    def _wait(self, waiting: _Waiting, now: float) -> None:
        """Let a REGISTER wait for service, and see to it that there is an attempt to get some."""
        for other in [other for other in self._waiting if other.flow == waiting.flow]:
            self._waiting.remove(other)
            self._refuse_service(other.request, other.flow)
        if len(self._waiting) >= MAXIMUM_PAGES:
            self._refuse_service(waiting.request, waiting.flow)
            return
        self._waiting.append(waiting)
        if self._status.state is State.WAITING and (self._woken_at is None or now >= self._woken_at + _WAKE_SECONDS):
            self._woken_at = now
            self._emit(ToIms(ims.Start()))

    def _refuse_service(self, request: str, flow: Flow) -> None:
        words = (*warning(self.trouble), ("Retry-After", "5"))
        self._emit(ToPage(page.Respond(request, 503, None, words)))
        if flow not in self._refused:
            self._refused = [*self._refused[-MAXIMUM_PAGES + 1 :], flow]

    def _drop(self, known: Page, reason: str) -> None:
        self._known.remove(known)
        self._emit(DropPage(known.flow, reason))

    def _is_ours(self, uri: Uri | None) -> bool:
        return uri is not None and any(uri_equal(uri, ours) for ours in self._uris)


def _uri(identity: str) -> Uri | None:
    try:
        return parse_uri(str.__str__(identity))
    except SipParseError:
        return None
