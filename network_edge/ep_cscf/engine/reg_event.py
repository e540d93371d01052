"""The edge's own subscriptions to the registrations of its users (TS 24.229 clause 5.2.3, RFC 3680).

One for each private identity with its default public one, however many connections it has.  The network ends a
registration with a NOTIFY; what ends by a REGISTER of the user, the edge has seen itself.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from imskit.engine import Tokens
from imskit.ims.public_identities import key_of
from imskit.ims.reginfo import MEDIA_TYPE, RegInfo, RegInfoError
from imskit.secrets import Identity
from imskit.sip.engine.dialog import MAX_FORWARDS
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.headers import SubscriptionState
from imskit.sip.wire.message import Request, Response, response_to
from imskit.sip.wire.uri import SipUri, parse_uri, uri_equal
from network_edge.ep_cscf.engine.dialogs import contact_of

_log = logging.getLogger(__name__)

_WANTED_SECONDS = 600_000
_AHEAD_SECONDS = 600.0
"""So long before its end a subscription is refreshed, or at half its time."""
_RETRY_SECONDS = 60
_LONGEST_RETRY_SECONDS = 3600
_AGAIN_SECONDS = 1.0
"""Until a subscription that its notifier moves or has dropped is made anew."""
_BY_THE_NETWORK = frozenset({"deactivated", "rejected", "probation", "unregistered", "expired"})

type SubscriptionKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Ended:
    """The network has ended registrations of a public identity."""

    impi: str
    identity: Identity
    contacts: tuple[str, ...]
    """Which; empty: all."""
    reason: str


@dataclass(slots=True)
class _Subscription:
    key: SubscriptionKey
    identity: Identity
    user: str
    """User part of our Contact: finds it when a NOTIFY comes."""
    call_id: str
    tag: str
    due_at: float | None
    sequence: int = 0
    version: int = -1
    to: str = ""
    """The notifier's address with tag, once it is known."""
    target: str = ""
    routes: tuple[str, ...] = ()
    outstanding: str = ""
    failures: int = 0
    """In a row."""


class RegEvents:
    """All subscriptions.  Requests to send come out of ``poll`` as (key, request)."""

    def __init__(self, own: SipUri, tokens: Tokens) -> None:
        """``own`` is the edge's URI on Mw."""
        self._own = own
        self._tokens = tokens
        self._by_key: dict[SubscriptionKey, _Subscription] = {}
        self._by_user: dict[str, _Subscription] = {}
        self._sent: dict[str, _Subscription] = {}
        self._out: deque[tuple[str, Request]] = deque()
        self._due: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._by_key)

    def poll(self) -> tuple[str, Request] | None:
        """Return the next SUBSCRIBE to send, with its key."""
        return self._out.popleft() if self._out else None

    def deadline(self) -> float | None:
        """When ``tick`` has something to do."""
        while self._due:
            at, user = self._due[0]
            subscription = self._by_user.get(user)
            if subscription is not None and subscription.due_at == at:
                return at
            heapq.heappop(self._due)
        return None

    def watch(self, impi: Identity, identity: Identity) -> None:
        """Subscribe, unless that is done: ``identity`` is the default public identity of a registration."""
        key = str.__str__(impi), key_of(identity)
        if key in self._by_key:
            return
        user = f"reg-{self._tokens(32)}"
        subscription = _Subscription(key, identity, user, self._tokens(32), self._tokens(16), None)
        self._by_key[key] = self._by_user[user] = subscription
        self._send(subscription)

    def forget(self, impi: Identity, identity: Identity) -> None:
        """No registration is left that the subscription was for; the notifier ends it by itself."""
        subscription = self._by_key.pop((str.__str__(impi), key_of(identity)), None)
        if subscription is not None:
            self._by_user.pop(subscription.user, None)
            self._sent.pop(subscription.outstanding, None)

    def tick(self, now: float) -> None:
        """Refresh what is due."""
        while (at := self.deadline()) is not None and at <= now:
            self._send(self._by_user[heapq.heappop(self._due)[1]])

    def answered(self, key: str, response: Response | None, now: float) -> None:
        """Take the final answer to a SUBSCRIBE, ``None`` if nobody gave one."""
        subscription = self._sent.pop(key, None)
        if subscription is None:
            return
        subscription.outstanding = ""
        if response is None or not response.success:
            status = response.status if response is not None else 408
            wait = self._wait(subscription, response)
            _log.info("reg-event subscription for %r: %d, again in %d s", subscription.identity, status, wait)
            self._restart(subscription, now + wait)
            return
        subscription.failures = 0
        granted = response.expires
        seconds = float(_WANTED_SECONDS if granted is None else granted)
        self._wake(subscription, now + max(seconds / 2, seconds - _AHEAD_SECONDS))
        if not subscription.to:
            subscription.to = response.headers.get("To") or ""
            subscription.routes = tuple(str(route) for route in response.record_routes[::-1])
        subscription.target = contact_of(response) or subscription.target

    def _wait(self, subscription: _Subscription, response: Response | None) -> int:
        """Return how long to leave the core alone after a failure: longer each time, and as long as it asks for.

        Every user has a subscription: a core that knows no reg-event would hear of them all.
        """
        wait = min(_LONGEST_RETRY_SECONDS, _RETRY_SECONDS << min(subscription.failures, 6))
        subscription.failures += 1
        if response is not None:
            with contextlib.suppress(SipParseError):
                if (asked := response.retry_after) is not None:
                    wait = max(wait, min(asked.seconds, _LONGEST_RETRY_SECONDS))
        return wait

    def notified(self, request: Request, now: float) -> tuple[Response, list[Ended]] | None:
        """Take a NOTIFY; ``None`` if it is for none of these subscriptions."""
        uri = request.request_uri
        subscription = self._by_user.get(uri.user or "") if isinstance(uri, SipUri) else None
        if request.method != "NOTIFY" or subscription is None:
            return None
        if request.call_id != subscription.call_id or request.to.tag != subscription.tag:
            return response_to(request, 481), []
        state = request.subscription_state
        ended: list[Ended] = []
        if request.body:
            try:
                ended = list(self._read(subscription, request.body))
            except RegInfoError as error:
                _log.warning("reg-event: %s", error)
                return response_to(request, 400), []
        if not subscription.to:
            subscription.to = request.headers.get("From") or ""
            subscription.routes = tuple(str(route) for route in request.record_routes)
            subscription.target = contact_of(request)
        if state is not None:
            self._told(subscription, state, now)
        return response_to(request, 200), ended

    def _told(self, subscription: _Subscription, state: SubscriptionState, now: float) -> None:
        """Follow the notifier's view of the subscription (RFC 6665 sections 4.1.2.2 and 4.1.3)."""
        if state.state != "terminated":
            left = state.expires
            if left is not None and subscription.due_at is not None and now + left < subscription.due_at:
                self._wake(subscription, now + max(left / 2, left - _AHEAD_SECONDS))
            return
        self._sent.pop(subscription.outstanding, None)
        subscription.outstanding = ""
        if state.reason in ("deactivated", "timeout"):
            self._restart(subscription, now + _AGAIN_SECONDS)
        elif state.reason in ("probation", "giveup"):
            self._restart(subscription, now + max(_RETRY_SECONDS, state.retry_after or 0))
        else:
            # If the registration goes on, its next refresh subscribes anew.
            self._by_key.pop(subscription.key, None)
            self._by_user.pop(subscription.user, None)

    def _read(self, subscription: _Subscription, body: bytes) -> Iterator[Ended]:
        info = RegInfo.parse(body)
        if info.version <= subscription.version:
            return
        subscription.version = info.version
        impi = subscription.key[0]
        for registration in info.registrations:
            identity = Identity(registration.aor)
            gone = [c for c in registration.contacts if c.state == "terminated" and c.event in _BY_THE_NETWORK]
            if registration.state == "terminated":
                yield Ended(impi, identity, (), gone[0].event if gone else "terminated")
            elif gone:
                yield Ended(impi, identity, tuple(contact.uri for contact in gone), gone[0].event)

    def _restart(self, subscription: _Subscription, at: float) -> None:
        """Begin with a new dialog at ``at``."""
        self._by_user.pop(subscription.user, None)
        subscription.user = f"reg-{self._tokens(32)}"
        self._by_user[subscription.user] = subscription
        subscription.call_id, subscription.tag = self._tokens(32), self._tokens(16)
        subscription.sequence, subscription.version = 0, -1
        subscription.to, subscription.target, subscription.routes = "", "", ()
        self._wake(subscription, at)

    def _wake(self, subscription: _Subscription, at: float) -> None:
        subscription.due_at = at
        heapq.heappush(self._due, (at, subscription.user))

    def _send(self, subscription: _Subscription) -> None:
        subscription.due_at = None
        subscription.sequence += 1
        own = self._own
        fields: list[tuple[str, object]] = [("Route", route) for route in subscription.routes]
        fields += [
            ("Max-Forwards", MAX_FORWARDS),
            ("From", f"<{own}>;tag={subscription.tag}"),
            ("To", subscription.to or f"<{str.__str__(subscription.identity)}>"),
            ("Call-ID", subscription.call_id),
            ("CSeq", f"{subscription.sequence} SUBSCRIBE"),
            ("Contact", f"<{replace(own, user=subscription.user)}>"),
            ("Event", "reg"),
            ("Accept", MEDIA_TYPE),
            ("Expires", _WANTED_SECONDS),
            ("P-Asserted-Identity", f"<{own}>"),
        ]
        try:
            request = Request.create("SUBSCRIBE", subscription.target or str.__str__(subscription.identity), fields)
        except SipParseError as error:
            _log.warning("no reg-event subscription for %r: %s", subscription.identity, error)
            self._by_key.pop(subscription.key, None)
            self._by_user.pop(subscription.user, None)
            return
        key = f"reg-{self._tokens(16)}"
        subscription.outstanding = key
        self._sent[key] = subscription
        self._out.append((key, request))


def names_contact(ended: Ended, contacts: tuple[str, ...]) -> bool:
    """Whether one of a registration's contacts is among those that the network has ended."""
    if not ended.contacts:
        return True
    for gone in ended.contacts:
        try:
            uri = parse_uri(gone)
            if any(uri_equal(parse_uri(contact), uri) for contact in contacts):
                return True
        except SipParseError:
            continue
    return False
