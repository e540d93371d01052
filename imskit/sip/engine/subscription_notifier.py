"""The notifier's side of RFC 6665 for a server: one subscription as a value that makes messages.

It has no transactions of its own: the owner (a registrar that serves the ``reg`` package) sends what `notify` and
`answered` return through its transaction layer, and answers SUBSCRIBE with what `judge`, `accept` and `refresh`
return.  One NOTIFY is under way at a time, so that none overtakes another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from imskit.engine import Tokens
from imskit.sip.engine.dialog import Dialog, DialogId
from imskit.sip.engine.subscription import ENDING
from imskit.sip.wire.headers import Event
from imskit.sip.wire.message import Request, Response, response_to

_HOUR = 3600


def judge(request: Request, packages: Collection[str], *, least: int = 0, tag: str) -> Response | None:
    """Return the refusal of an initial SUBSCRIBE or a refresh, ``None`` if it may be accepted (section 4.2.1.1).

    ``least`` is the shortest subscription in seconds.  Raises `SipParseError` for malformed headers.
    """
    event = request.event
    if event is None or event.package not in packages:
        response = response_to(request, 489, to_tag=tag)
        response.headers.add("Allow-Events", ", ".join(packages))
        return response
    expires = request.expires
    if expires is not None and 0 < expires < min(least, _HOUR):
        response = response_to(request, 423, to_tag=tag)
        response.headers.add("Min-Expires", least)
        return response
    return None


@dataclass(frozen=True, slots=True)
class _Notification:
    body: bytes
    content_type: str
    state: str
    reason: str | None
    retry_after: int | None


class Notifier:
    """One subscription at the notifier; make it with `accept`."""

    def __init__(self, dialog: Dialog, event: Event, contact: str, expires_at: float, most: int) -> None:
        self.dialog = dialog
        self.event = event
        self.contact = contact
        self.expires_at = expires_at
        """When to send the terminating NOTIFY, seconds on the owner's clock."""
        self.terminated = False
        """The last NOTIFY has been made, or the subscriber is gone: forget the subscription when not `pending`."""
        self._most = most
        self._waiting: deque[_Notification] = deque()
        self._under_way = False

    @classmethod
    def accept(
        cls, request: Request, *, contact: str, tokens: Tokens, now: float, most: int = 600_000, package: str = ""
    ) -> tuple[Notifier, Response]:
        """Accept an initial SUBSCRIBE for at most ``most`` seconds: a NOTIFY must follow at once (4.2.1.2).

        ``package`` is for a request that names none: the REFER that makes a subscription to ``refer``.

        Raises `SipParseError` (400) if no dialog can be made of it.
        """
        event = request.event
        dialog = Dialog.from_request(request, tokens(16), confirmed=True)
        notifier = cls(dialog, event or Event(package), contact, now, most)
        return notifier, notifier.refresh(request, now)

    @property
    def id(self) -> DialogId:
        """The dialog."""
        return self.dialog.id

    @property
    def pending(self) -> bool:
        """True while a NOTIFY is under way."""
        return self._under_way

    def refresh(self, request: Request, now: float) -> Response:
        """Take the accepted SUBSCRIBE, first or refresh; with Expires 0 a terminating NOTIFY is due."""
        expires = request.expires
        granted = min(_HOUR if expires is None else expires, self._most)
        self.expires_at = now + granted
        response = response_to(request, 200, to_tag=self.dialog.id.local_tag)
        response.headers.add("Contact", self.contact)
        response.headers.add("Expires", granted)
        if request.to.tag is not None:
            self.dialog.refresh_target(request)
        return response

    def notify(
        self,
        body: bytes,
        content_type: str,
        now: float,
        *,
        state: str = "active",
        reason: str | None = None,
        retry_after: int | None = None,
    ) -> Request | None:
        """Return the NOTIFY to send now, ``None`` if it waits for the one under way or comes after the last.

        ``state`` is ``active``, ``pending`` or ``terminated``; an expired subscription is ``terminated`` by
        ``timeout`` whatever it says.
        """
        if self.terminated:
            return None
        if state != "terminated" and now >= self.expires_at:
            state, reason = "terminated", "timeout"
        self.terminated = state == "terminated"
        self._waiting.append(_Notification(body, content_type, state, reason, retry_after))
        return self._next(now)

    def answered(self, status: int | None, now: float) -> Request | None:
        """Take the final status of the NOTIFY under way (``None``: timer F); return the next one to send."""
        self._under_way = False
        if status is None or status in ENDING:
            self.terminated = True
            self._waiting.clear()
        return self._next(now)

    def _next(self, now: float) -> Request | None:
        if self._under_way or not self._waiting:
            return None
        self._under_way = True
        item = self._waiting.popleft()
        value = item.state
        if item.state != "terminated":
            value += f";expires={max(0, round(self.expires_at - now))}"
        if item.reason is not None:
            value += f";reason={item.reason}"
        if item.retry_after is not None:
            value += f";retry-after={item.retry_after}"
        request = self.dialog.request("NOTIFY")
        request.headers.add("Event", self.event)
        request.headers.add("Subscription-State", value)
        request.headers.add("Contact", self.contact)
        if item.body:
            request.set_body(item.body, item.content_type)
        return request
