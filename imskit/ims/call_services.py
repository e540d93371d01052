"""What is built on calls: transfer, referrals of others, conferences (TS 24.629, TS 24.147, TS 24.605)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from imskit.engine import Tokens
from imskit.ims import conference
from imskit.ims.calls import Calls
from imskit.ims.events import (
    Answered,
    ConferenceChanged,
    Dial,
    Ended,
    Fields,
    Hangup,
    Invite,
    Output,
    Progress,
    ReferralProgress,
    RejectReferral,
    Transfer,
)
from imskit.ims.referrals import Referrals
from imskit.sip.engine import user_agent_events as ua
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Message, Request, Response
from imskit.sip.wire.uri import TelUri, parse_uri

_log = logging.getLogger(__name__)

_CONFERENCE_SECONDS = 3600


class CallServices:
    """See the module's text.  ``command`` reaches the user agent, ``emit`` the owner of the UE."""

    def __init__(
        self,
        calls: Calls,
        command: Callable[[ua.Command], None],
        emit: Callable[[Output], None],
        tokens: Tokens,
        domain: str,
    ) -> None:
        self._calls = calls
        self._command = command
        self._emit = emit
        self._domain = domain
        self._now = 0.0
        self._referrals = Referrals(command, emit, self._end_call, tokens)
        self._referral_of: dict[str, str] = {}
        """Calls that carry out a referral."""
        self._focus: dict[str, str] = {}
        """Calls to a conference, and the URI of its focus."""
        self._rosters: dict[str, conference.Roster] = {}

    def deadline(self) -> float | None:
        """When `tick` is due."""
        return self._referrals.deadline()

    def tick(self, now: float) -> None:
        """Time has passed."""
        self._now = now
        self._referrals.tick(now)

    # ---- from the owner -------------------------------------------------------------------------------------------

    def dialled(self, event: Dial) -> Fields:
        """Return what the INVITE of a call says beside the usual, because it carries out a referral."""
        if not event.referral:
            return ()
        self._referral_of[event.call] = event.referral
        return self._referrals.fields(event.referral)

    def handle(self, event: Transfer | Invite | RejectReferral, impu: str, now: float) -> None:
        """Take in an event of the owner's."""
        self._now = now
        if isinstance(event, RejectReferral):
            self._referrals.report(event.referral, event.status, "", now)
            return
        taken = event.consult if isinstance(event, Transfer) else event.replaces
        peer, dialog = self._calls.peer(taken)
        if taken and dialog is None:
            _log.warning("call %s: there is no call %s to take over", event.call, taken)
            self._emit(ReferralProgress(event.call, event.target, None, final=True))
            return
        try:
            if isinstance(event, Invite) and not event.through_focus:
                focus = self._focus.get(event.call, "")
                self._referrals.ask_outside(event.call, event.target, focus, impu, now)
                return
            target = self._sip(event.target or peer) if dialog is not None else event.target
            transfer = isinstance(event, Transfer)
            self._referrals.ask(event.call, target, dialog, impu, now, ends_call=transfer)
        except SipParseError as error:
            _log.warning("call %s: cannot be referred: %s", event.call, error)
            self._emit(ReferralProgress(event.call, event.target, None, final=True))

    def _sip(self, target: str) -> str:
        """Return a URI that can carry Replaces (TS 24.229 clause 5.1.2A.1.3: a number as SIP URI)."""
        uri = parse_uri(target)
        if isinstance(uri, TelUri) and uri.number.startswith("+"):
            return f"sip:{uri.digits}@{self._domain};user=phone"
        return target

    def _end_call(self, event: Hangup) -> None:
        self._calls.handle(event, self._now)

    # ---- from calls -----------------------------------------------------------------------------------------------

    def call_says(self, output: Output, impu: str, now: float) -> None:
        """Take in what the owner is told of a call."""
        self._now = now
        match output:
            case Progress(call, status):
                self._report(call, status, "")
            case Answered(call, message):
                self._report(call, 200, "")
                self._joined(call, message, impu)
            case Ended(call):
                self._report(call, output.status if output.status and output.status >= 300 else 487, "")
                self._referral_of.pop(call, None)
                self._referrals.call_ended(call)
                if self._focus.pop(call, None) is not None:
                    self._command(ua.Unsubscribe(_subscription(call)))
                    self._rosters.pop(call, None)
            case _:
                pass

    def _report(self, call: str, status: int, reason: str) -> None:
        if (referral := self._referral_of.get(call)) is not None:
            self._referrals.report(referral, status, reason, self._now)
            if status >= 200:
                del self._referral_of[call]

    def _joined(self, call: str, message: Message, impu: str) -> None:
        """The call leads to a conference if its other side says so (TS 24.147 clause 5.3.1.3.2)."""
        try:
            contacts = message.contacts
        except SipParseError:
            return
        if contacts == "*" or not contacts or "isfocus" not in contacts[0].parameters:
            return
        focus = str(contacts[0].uri)
        self._focus[call] = focus
        self._rosters[call] = conference.Roster()
        self._command(
            ua.Subscribe(
                _subscription(call),
                focus,
                f"<{impu}>",
                f"<{focus}>",
                "conference",
                _CONFERENCE_SECONDS,
                (conference.MEDIA_TYPE,),
                (("P-Preferred-Identity", f"<{impu}>"),),
            )
        )

    # ---- from the user agent --------------------------------------------------------------------------------------

    def request(self, request: str, message: Request, call: str | None, contact: str, now: float) -> bool:
        """Take a request that is neither of a call nor of a subscription; False: somebody else's."""
        self._now = now
        return self._referrals.request(request, message, call or "", contact, now)

    def answered(self, key: str, response: Response | None, now: float) -> bool:
        """Take the answer to a request; False: somebody else's."""
        self._now = now
        return self._referrals.answered(key, response, now)

    def notified(self, subscription: str, message: Request) -> bool:
        """Take a NOTIFY; False: somebody else's."""
        if self._referrals.notified(subscription, message):
            return True
        call = subscription.removeprefix("conference-")
        roster = self._rosters.get(call) if call != subscription else None
        if roster is None:
            return False
        if message.body:
            try:
                document = conference.ConferenceInfo.parse(message.body)
            except conference.ConferenceInfoError as error:
                _log.warning("call %s: %s", call, error)
            else:
                self._emit(ConferenceChanged(call, roster.take(document)))
        return True

    def subscription_ended(self, ended: ua.SubscriptionEnded) -> bool:
        """A subscription is over; False: somebody else's."""
        return self._referrals.ended(ended.subscription, ended.message) or ended.subscription.startswith("conference-")

    def refused(self, refused: ua.Refused) -> bool:
        """A command cannot be carried out; False: somebody else's."""
        return self._referrals.refused(refused.command, refused.text or refused.refusal.value)


def _subscription(call: str) -> str:
    return f"conference-{call}"
