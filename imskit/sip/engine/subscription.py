"""The subscriber's side of RFC 6665, as the reg-event subscription of TS 24.229 section 5.1.1.3 needs it.

One SUBSCRIBE makes one subscription: a NOTIFY of a second dialog (a forked SUBSCRIBE) is answered 481, as
RFC 3680 section 4.9 and most packages ask.  A subscription that ends is not renewed here; `retry_delay` says when
the owner may.
"""

from __future__ import annotations

import logging

from imskit.sip.engine.alarms import Alarm
from imskit.sip.engine.dialog import Dialog, DialogId
from imskit.sip.engine.user_agent_core import Core, Failure, Outgoing, Reply, merge
from imskit.sip.engine.user_agent_events import (
    Cause,
    Fields,
    Notified,
    Refusal,
    Subscribe,
    Subscribed,
    SubscriptionEnded,
)
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.headers import Event, NameAddr
from imskit.sip.wire.message import Message, Request, Response

_log = logging.getLogger(__name__)

ENDING = frozenset({404, 405, 410, 416, 480, 481, 482, 483, 484, 485, 489, 501, 604})
"""Responses to a refresh, or to a NOTIFY, that end the subscription (RFC 6665 sections 4.1.2.2, 4.2.2)."""


def retry_delay(ended: SubscriptionEnded) -> float | None:
    """Return after how many seconds to subscribe again; ``None``: not at all (RFC 6665 section 4.1.3)."""
    match ended.reason:
        case "rejected" | "noresource" | "invariant":
            return None
        case "deactivated" | "timeout":
            return 0.0
    if ended.cause is Cause.LOCAL:
        return None
    if ended.cause is Cause.REJECTED and ended.retry_after is None:
        return None
    return float(ended.retry_after or 0)


class Subscriber:
    """One subscription; see the module's text."""

    def __init__(self, core: Core, command: Subscribe) -> None:
        self.key = command.subscription
        self.tag = core.tokens(16)
        self.call_id = core.tokens(32)
        self._core = core
        self._command = command
        self._contact = command.contact or core.profile.contact
        self._event = Event.parse(command.event)
        self._wanted = command.expires
        self._sequence = core.random(2**16)
        self._dialog: Dialog | None = None
        self._routes: tuple[str | None, list[NameAddr]] = (None, [])
        """The To tag of the 2xx, and the way that it recorded."""
        self._outgoing: Outgoing | None = None
        self._leaving = False
        """The owner has unsubscribed."""
        self._leave_sent = False
        self._over = False
        self._silence: Alarm | None = None
        """Timer N: no NOTIFY came."""
        self._refresh: Alarm | None = None
        self._expiry: Alarm | None = None

    # ---- the owner's commands -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Send the SUBSCRIBE.  Raises `SipParseError` if it cannot be written."""
        self._send()

    def leave(self) -> Refusal | None:
        """Unsubscribe; the end is reported when the final NOTIFY came or timer N fired."""
        if self._leaving:
            return Refusal.STATE
        self._leaving = True
        self._stop(self._refresh)
        if self._dialog is not None and (self._outgoing is None or self._outgoing.done):
            self._send()
        return None

    # ---- SUBSCRIBE ----------------------------------------------------------------------------------------------

    def _send(self) -> None:
        core = self._core
        self._leave_sent = self._leaving
        outgoing = Outgoing(self._build, self._answered, self._command.hop, subscription=self.key)
        core.send(outgoing)
        self._outgoing = outgoing
        self._stop(self._silence)
        self._silence = core.alarm(core.timers.timeout, self._silent)

    def _build(self, credentials: Fields) -> Request:
        command, core = self._command, self._core
        if self._dialog is not None:
            request = self._dialog.request("SUBSCRIBE")
        else:
            self._sequence += 1
            route = core.profile.route if command.route is None else command.route
            fields = [
                *(("Route", value) for value in route),
                ("From", f"{command.from_};tag={self.tag}"),
                ("To", command.to),
                ("Call-ID", self.call_id),
                ("CSeq", f"{self._sequence} SUBSCRIBE"),
            ]
            request = Request.create("SUBSCRIBE", command.uri, fields)
        request.headers.add("Event", command.event)
        request.headers.add("Expires", 0 if self._leaving else self._wanted)
        if command.accept:
            request.headers.add("Accept", ", ".join(command.accept))
        core.dress(request, "SUBSCRIBE", merge(command.headers, credentials), self._contact)
        return request

    def _answered(self, reply: Reply) -> None:
        if self._over or (isinstance(reply, Response) and reply.provisional):
            return
        if isinstance(reply, Response) and reply.success:
            self._accepted(reply)
        elif isinstance(reply, Response) and reply.status == 423 and self._longer(reply):
            self._send()
        elif self._leave_sent:
            self._end(Cause.LOCAL)
        elif self._dialog is None or isinstance(reply, Failure) or reply.status in ENDING:
            self._failed(reply)
        else:
            # The subscription goes on for the time it has; no NOTIFY can be due.
            _log.info("subscription %s: the refresh got %d", self.key, reply.status)
            self._stop(self._silence)
        self._leave_now()

    def _leave_now(self) -> None:
        if self._leaving and not self._leave_sent and not self._over and self._dialog is not None:
            self._send()

    def _accepted(self, response: Response) -> None:
        self._routes = (response.to.tag, response.record_routes[::-1])
        self._take_routes()
        asked = 0 if self._leave_sent else self._wanted
        expires = response.expires
        granted = asked if expires is None else min(expires, asked)
        if response.status == 204:
            self._stop(self._silence)  # RFC 5839: no NOTIFY follows
        if not self._leave_sent:
            self._watch(granted)
            self._core.emit(Subscribed(self.key, DialogId.of_response(response), granted, response))

    def _take_routes(self) -> None:
        """A NOTIFY without Record-Route has come a way that the 2xx knows (RFC 6665 section 4.3 asks for both)."""
        dialog, (tag, routes) = self._dialog, self._routes
        if dialog is not None and not dialog.route_set and dialog.id.remote_tag == tag:
            dialog.route_set = routes

    def _longer(self, response: Response) -> bool:
        least = response.min_expires
        if least is None or least <= self._wanted or self._leaving:
            return False
        self._wanted = least
        return True

    def _failed(self, reply: Reply) -> None:
        if isinstance(reply, Failure):
            self._end(reply.cause)
            return
        try:
            after = reply.retry_after
        except SipParseError:
            after = None
        cause = Cause.TIMEOUT if reply.status == 408 else Cause.GONE if reply.status == 481 else Cause.REJECTED
        self._end(cause, retry_after=after.seconds if after is not None else None, message=reply)

    def _silent(self) -> None:
        self._end(Cause.LOCAL if self._leave_sent else Cause.TIMEOUT)

    # ---- time ---------------------------------------------------------------------------------------------------

    def _watch(self, seconds: int) -> None:
        """Follow the time left: refresh 600 s before its end, or at half of it (TS 24.229 section 5.1.1.3)."""
        self._stop(self._refresh)
        self._stop(self._expiry)
        self._expiry = self._core.alarm(float(seconds), lambda: self._end(Cause.EXPIRED))
        if not self._leaving:
            delay = seconds - 600 if seconds > 1200 else seconds / 2
            self._refresh = self._core.alarm(delay, self._renew)

    def _renew(self) -> None:
        if self._dialog is not None and (self._outgoing is None or self._outgoing.done):
            self._send()

    @staticmethod
    def _stop(alarm: Alarm | None) -> None:
        if alarm is not None:
            alarm.cancel()

    # ---- NOTIFY -------------------------------------------------------------------------------------------------

    def begins(self, request: Request) -> bool:
        """Take a NOTIFY that may make the dialog (section 4.4.1); False: answer 481."""
        if self._dialog is not None or self._over or not self._is_ours(request):
            return False
        dialog = Dialog.from_request(request, self.tag, confirmed=True)
        dialog.local_sequence, dialog.caller, dialog.remote_sequence = self._sequence, True, None
        self._dialog = dialog
        self._core.dialogs[dialog.id] = self
        self._take_routes()
        return True

    def accepts(self, request: Request) -> bool:
        """Judge the sequence of a request."""
        return self._dialog is not None and self._dialog.accepts(request)

    def acknowledged(self, request: Request) -> None:
        """There is no ACK here."""

    def receive(self, key: str, request: Request, flow: Flow) -> None:
        """Take a request of the dialog."""
        core = self._core
        if request.method != "NOTIFY":
            core.hand_up(key, request, flow)
            return
        if not self._is_ours(request):
            core.reply_to(key, request, 489)
            return
        state = request.subscription_state
        if state is None:
            core.reply_to(key, request, 400, "Missing Subscription-State")
            return
        # Read before the answer: what is malformed is answered 400.
        expires, retry_after = state.expires, state.retry_after
        if self._dialog is not None:
            self._dialog.refresh_target(request)
        core.reply_to(key, request, 200)
        self._stop(self._silence)
        core.emit(Notified(self.key, state, request))
        if state.state == "terminated":
            self._end(Cause.LOCAL if self._leaving else Cause.REMOTE, state.reason, retry_after, request)
            return
        if expires is not None and not self._leave_sent:
            self._watch(min(expires, self._wanted))
        if self._leave_sent:
            self._silence = core.alarm(core.timers.timeout, self._silent)
        elif self._outgoing is None or self._outgoing.done:
            self._leave_now()

    def _is_ours(self, request: Request) -> bool:
        event = request.event
        return event is not None and event.package == self._event.package and event.id == self._event.id

    # ---- the end ------------------------------------------------------------------------------------------------

    def _end(
        self,
        cause: Cause,
        reason: str | None = None,
        retry_after: int | None = None,
        message: Message | None = None,
    ) -> None:
        if self._over:
            return
        self._over = True
        for alarm in (self._silence, self._refresh, self._expiry):
            self._stop(alarm)
        if self._outgoing is not None:
            self._core.withdraw(self._outgoing)
        if self._dialog is not None:
            self._core.dialogs.pop(self._dialog.id, None)
        self._core.subscriptions.pop(self.key, None)
        self._core.emit(SubscriptionEnded(self.key, cause, reason, retry_after, message))
