"""REFER outside any dialog, and the subscription that it makes (RFC 3515, RFC 4488).

REFER within a call's dialog is a `SendInDialog`; its NOTIFYs come as requests of that call.
"""

from __future__ import annotations

from imskit.sip.engine.subscription import Subscriber
from imskit.sip.engine.user_agent_core import Core, merge
from imskit.sip.engine.user_agent_events import Cause, Fields, Refer, Subscribe
from imskit.sip.wire.message import Request, Response

_SECONDS = 300
"""How long the referred side may take, unless its NOTIFY says more: an INVITE gives up after three minutes."""


class Referral(Subscriber):
    """The referring side; its owner hears of it as of any subscription: `Notified`, `SubscriptionEnded`."""

    def __init__(self, core: Core, command: Refer) -> None:
        super().__init__(
            core,
            Subscribe(
                command.subscription,
                command.uri,
                command.from_,
                command.to,
                "refer",
                _SECONDS,
                (),
                command.headers,
                command.route,
                hop=command.hop,
            ),
        )
        self._refer_to = command.refer_to

    def _build(self, credentials: Fields) -> Request:
        if self._dialog is not None:
            return super()._build(credentials)
        command, core = self._command, self._core
        self._sequence += 1
        request = Request.create(
            "REFER",
            command.uri,
            [
                *(("Route", value) for value in (core.profile.route if command.route is None else command.route)),
                ("From", f"{command.from_};tag={self.tag}"),
                ("To", command.to),
                ("Call-ID", self.call_id),
                ("CSeq", f"{self._sequence} REFER"),
                ("Refer-To", self._refer_to),
            ],
        )
        core.dress(request, "REFER", merge(command.headers, credentials), self._contact)
        return request

    def _accepted(self, response: Response) -> None:
        # RFC 4488 section 4: accepted, and nothing will be told.
        if (response.headers.get("Refer-Sub") or "").strip().lower() == "false":
            self._end(Cause.LOCAL, message=response)
        else:
            super()._accepted(response)

    def _watch(self, seconds: int) -> None:
        """A referral is not refreshed: it ends with the call that it asks for."""
        self._stop(self._expiry)
        self._expiry = self._core.alarm(float(seconds), lambda: self._end(Cause.EXPIRED))

    def _is_ours(self, request: Request) -> bool:
        event = request.event
        # The id is the CSeq number of the REFER, which the first one of a dialog need not have (section 2.4.6).
        return event is not None and event.package == "refer" and event.id in (None, str(self._sequence))
