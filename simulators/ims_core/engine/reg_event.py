"""The S-CSCF as notifier of the reg event package (RFC 3680, TS 24.229 clause 5.4.2.1)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from imskit.engine import Tokens
from imskit.ims.reginfo import MEDIA_TYPE, RegContact, RegInfo
from imskit.ims.reginfo import Registration as RegisteredIdentity
from imskit.sip.engine.dialog import DialogId
from imskit.sip.engine.subscription_notifier import Notifier, judge
from imskit.sip.wire.message import Request, Response, response_to
from imskit.sip.wire.uri import SipUri, parse_uri
from simulators.ims_core.engine.bindings import Binding, RegisteredSubscriber, RegistrationEvent
from simulators.ims_core.engine.gruu import public_gruu
from simulators.ims_core.subscribers import Subscriber

_log = logging.getLogger(__name__)

PACKAGE = "reg"
MAXIMUM_SUBSCRIPTIONS = 10_000
_EACH = 16
"""Subscriptions to one subscriber; the oldest gives way to a new one."""


@dataclass
class _Subscription:
    notifier: Notifier
    subscriber: Subscriber
    version: int = 0


class RegEventNotifier:
    """Subscriptions to registrations; NOTIFY requests go to ``send``, their outcome comes back in ``answered``."""

    def __init__(
        self,
        contact: str,
        tokens: Tokens,
        registration: Callable[[Subscriber], RegisteredSubscriber | None],
        send: Callable[[Request], None],
    ) -> None:
        self._contact = contact
        self._tokens = tokens
        self._registration = registration
        self._send = send
        self._subscriptions: dict[DialogId, _Subscription] = {}

    def subscribe(self, request: Request, subscriber: Subscriber, now: float) -> Response:
        """Answer an initial SUBSCRIBE; ``opened`` must follow when the answer is on its way."""
        tag = self._tokens(16)
        if (refusal := judge(request, (PACKAGE,), tag=tag)) is not None:
            return refusal
        accepted = [value.partition(";")[0].strip().lower() for value in request.headers.elements("Accept")]
        if accepted and not {MEDIA_TYPE, "application/*", "*/*"} & set(accepted):
            return response_to(request, 406, to_tag=tag)
        self.expire(now)
        notifier, response = Notifier.accept(request, contact=self._contact, tokens=self._tokens, now=now)
        self._make_room(subscriber, notifier.dialog.remote_target)
        if len(self._subscriptions) >= MAXIMUM_SUBSCRIPTIONS:
            return response_to(request, 503, to_tag=tag)
        self._subscriptions[notifier.id] = _Subscription(notifier, subscriber)
        return response

    def _make_room(self, subscriber: Subscriber, target: str) -> None:
        """Forget what a UE that comes anew has left behind, and the oldest where there are too many."""
        own = [s for s in self._subscriptions.values() if s.subscriber is subscriber]
        gone = [s for s in own if s.notifier.dialog.remote_target == target]
        if len(own) - len(gone) >= _EACH:
            gone.append(next(s for s in own if s not in gone))
        for subscription in gone:
            del self._subscriptions[subscription.notifier.id]

    def refresh(self, request: Request, now: float) -> Response:
        """Answer a SUBSCRIBE within its dialog; as ``subscribe``."""
        subscription = self._subscriptions.get(DialogId.of_request(request))
        if subscription is None:
            return response_to(request, 481)
        if not subscription.notifier.dialog.accepts(request):
            return response_to(request, 500)
        tag = subscription.notifier.id.local_tag
        refusal = judge(request, (PACKAGE,), tag=tag)
        return refusal or subscription.notifier.refresh(request, now)

    def opened(self, response: Response, now: float) -> None:
        """The 200 to a SUBSCRIBE was sent: the NOTIFY with the whole state follows (RFC 6665 section 4.2.1.2)."""
        dialog = DialogId(response.call_id, response.to.tag or "", response.from_.tag or "")
        subscription = self._subscriptions.get(dialog)
        if subscription is not None:
            self._notify(subscription, (), now)

    def changed(self, events: Iterable[RegistrationEvent], now: float) -> None:
        """Tell everyone whom ``events`` concern."""
        by_subscriber: dict[str, list[RegistrationEvent]] = {}
        for event in events:
            by_subscriber.setdefault(event.subscriber.impi, []).append(event)
        for subscription in list(self._subscriptions.values()):
            if mine := by_subscriber.get(subscription.subscriber.impi):
                self._notify(subscription, tuple(mine), now)
        self.expire(now)

    def answered(self, request: Request, status: int | None, now: float) -> None:
        """Take the final status of a NOTIFY, ``None`` if nobody answered."""
        dialog = DialogId(request.call_id, request.from_.tag or "", request.to.tag or "")
        subscription = self._subscriptions.get(dialog)
        if subscription is not None:
            following = subscription.notifier.answered(status, now)
            if following is not None:
                self._send(following)
            self._forget_if_over(subscription)

    def expire(self, now: float) -> None:
        """End the subscriptions whose time is over."""
        for subscription in list(self._subscriptions.values()):
            if now >= subscription.notifier.expires_at and not subscription.notifier.terminated:
                self._notify(subscription, (), now)

    def deadline(self) -> float | None:
        """When the next subscription ends."""
        return min(
            (s.notifier.expires_at for s in self._subscriptions.values() if not s.notifier.terminated), default=None
        )

    def _notify(self, subscription: _Subscription, events: tuple[RegistrationEvent, ...], now: float) -> None:
        known = self._registration(subscription.subscriber)
        standing = known.bindings if known else []
        gone = [
            RegContact(e.binding.uri, "terminated", e.event, expires=0)
            for e in events
            if e.event not in ("registered", "refreshed")
        ]
        identities = tuple(
            RegisteredIdentity(
                str.__str__(impu),
                "active" if known else "terminated",
                (*(_contact(binding, impu, events, now) for binding in standing), *gone),
            )
            for impu in subscription.subscriber.usable
        )
        body = RegInfo(subscription.version, True, identities).encode()
        subscription.version += 1
        # A registration that is gone ends the subscription with it (TS 24.229 clause 5.4.2.1.2).
        state, reason = ("active", None) if known else ("terminated", "noresource")
        request = subscription.notifier.notify(body, MEDIA_TYPE, now, state=state, reason=reason)
        if request is not None:
            self._send(request)
        self._forget_if_over(subscription)

    def _forget_if_over(self, subscription: _Subscription) -> None:
        if subscription.notifier.terminated and not subscription.notifier.pending:
            self._subscriptions.pop(subscription.notifier.id, None)


def _contact(binding: Binding, impu: str, events: tuple[RegistrationEvent, ...], now: float) -> RegContact:
    identity = parse_uri(str.__str__(impu))
    return RegContact(
        binding.uri,
        "active",
        _event_of(binding.uri, events),
        expires=max(0, round(binding.expires_at - now)),
        public_gruu=public_gruu(identity, binding.instance)
        if binding.temporary and isinstance(identity, SipUri)
        else "",
    )


def _event_of(uri: str, events: tuple[RegistrationEvent, ...]) -> str:
    return next((e.event for e in events if e.binding.uri == uri), "registered")
