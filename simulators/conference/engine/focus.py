"""The conference focus: who is in which conference, by INVITE, REFER and the conference event package.

RFC 4579, RFC 4575, TS 24.147 clause 5.3.2.  An INVITE to the factory makes a conference; an INVITE to its own URI
joins it; a REFER within it calls somebody in; it ends with whoever leaves last.  Session descriptions are the owner's,
who has the mixer: `Describe` asks for one, `Described` gives it.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field

from imskit.engine import Tick, Tokens
from imskit.ims import conference as info
from imskit.ims import events as ims
from imskit.ims.referrals import Referrals
from imskit.sip.engine import user_agent as ua
from imskit.sip.engine.subscription_notifier import Notifier, judge
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Address, Target
from imskit.sip.wire.message import Request, Response

_log = logging.getLogger(__name__)

HOST = "conf-factory"
"""First label of the factory's host name (TS 23.003 clause 13.10)."""
FACTORY = "mmtel"
MAXIMUM_CONFERENCES = 16
MAXIMUM_USERS = 8
_METHODS = ("INVITE", "ACK", "CANCEL", "BYE", "UPDATE", "OPTIONS", "REFER", "NOTIFY", "SUBSCRIBE", "PRACK")


@dataclass(frozen=True, slots=True)
class Described:
    """The mixer's session description for a leg: an offer, or the answer to the one it was asked about."""

    leg: str
    sdp: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The mixer has no way to take this leg."""

    leg: str
    status: int = 488


@dataclass(frozen=True, slots=True)
class Describe:
    """Answer ``offer`` for a leg, or make one if it is ``None``; `Described` or `Failed` follows."""

    leg: str
    conference: str
    offer: bytes | None


@dataclass(frozen=True, slots=True)
class Agreed:
    """The peer has answered the mixer's offer for a leg."""

    leg: str
    sdp: bytes


@dataclass(frozen=True, slots=True)
class Joined:
    """A leg stands: its sound counts from now on."""

    leg: str


@dataclass(frozen=True, slots=True)
class Left:
    """A leg is over."""

    leg: str


type FocusEvent = ua.Event | Described | Failed | Tick
type FocusOutput = ua.Transmit | Describe | Agreed | Joined | Left


@dataclass(slots=True)
class _Leg:
    name: str
    conference: str
    entity: str
    status: str
    exchange: str = ""
    """An offer of the peer's within the call that waits for the mixer."""
    referral: str = ""
    """The REFER that had it called."""
    outgoing: bool = False


@dataclass(slots=True)
class _Conference:
    uri: str
    legs: dict[str, _Leg] = field(default_factory=dict)
    version: int = 0


class Focus:
    """The engine; see the module's text and `imskit.engine`."""

    def __init__(self, domain: str, own: Address, s_cscf: Target, tokens: Tokens) -> None:
        """``domain`` is the home domain, ``own`` where this listens; every request goes to ``s_cscf``."""
        self._host = f"{HOST}.{domain}"
        self._tokens = tokens
        profile = ua.Profile(
            contact=f"<sip:{FACTORY}@{self._host}>;isfocus",
            hop=s_cscf,
            software="imsbridge-conference",
            allow=_METHODS,
            supported=("timer", "replaces", "norefersub"),
            allow_events=("conference",),
        )
        name = ua.SentBy(*own)
        self._agent = ua.UserAgent(profile, tokens, sent_by={"UDP": name, "TCP": name})
        self._conferences: dict[str, _Conference] = {}
        self._legs: dict[str, _Leg] = {}
        self._notifiers: dict[str, tuple[str, Notifier]] = {}
        """Who wants to know of a conference: subscriptions, which outlive it by their last NOTIFY."""
        self._notifications: dict[str, str] = {}
        """NOTIFYs under way: key and subscription."""
        self._outputs: deque[FocusOutput] = deque()
        self._referrals = Referrals(self._command, self._referred, self._hang_up, tokens)
        self._now = 0.0

    @property
    def factory(self) -> str:
        """URI that makes a conference."""
        return f"sip:{FACTORY}@{self._host}"

    @property
    def conferences(self) -> dict[str, tuple[str, ...]]:
        """Conference URIs, and who is in each."""
        return {
            known.uri: tuple(leg.entity for leg in known.legs.values() if leg.status == "connected")
            for known in self._conferences.values()
        }

    # ---- engine -------------------------------------------------------------------------------------------------

    def handle(self, event: FocusEvent, now: float) -> None:
        """Take in one event."""
        self._now = now
        match event:
            case Described(name, sdp):
                if (leg := self._legs.get(name)) is not None:
                    self._described(leg, sdp)
            case Failed(name, status):
                if (leg := self._legs.get(name)) is not None:
                    self._not_described(leg, status)
            case Tick():
                self._referrals.tick(now)
                self._agent.handle(event, now)
                self._expire()
            case _:
                self._agent.handle(event, now)
        while (output := self._agent.poll()) is not None:
            self._take(output)

    def poll(self) -> FocusOutput | None:
        """Return the next output."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """When something is due next."""
        expiries = [notifier.expires_at for _, notifier in self._notifiers.values() if not notifier.terminated]
        times = [self._agent.deadline(), self._referrals.deadline(), *expiries]
        return min((at for at in times if at is not None), default=None)

    def _command(self, command: ua.Command) -> None:
        self._agent.handle(command, self._now)

    def _take(self, output: ua.Output) -> None:
        match output:
            case ua.Transmit():
                self._outputs.append(output)
            case ua.IncomingCall():
                self._incoming(output)
            case ua.Answered(call, _, _) | ua.Confirmed(call, _, _):
                if (leg := self._legs.get(call)) is not None and leg.status != "connected":
                    self._report(leg, 200)
                    self._outputs.append(Joined(call))
                    self._changed(leg, "connected")
            case ua.Progress(call, _, response):
                if (leg := self._legs.get(call)) is not None and response.status > 100:
                    self._report(leg, response.status)
                    if response.status == 180:
                        self._changed(leg, "alerting")
            case ua.OfferReceived(call, _, exchange, sdp):
                self._offered(call, exchange, sdp)
            case ua.OfferRequested(call, _, exchange):
                self._offered(call, exchange, None)
            case ua.AnswerReceived(call, _, sdp):
                if call in self._legs:
                    self._outputs.append(Agreed(call, sdp))
            case ua.Ended(call, _, message):
                self._ended(call, message.status if isinstance(message, Response) else 487)
            case ua.RequestReceived(request, message, _, within):
                self._request(request, message, within or "")
            case ua.ResponseReceived(key, answered):
                self._answered(key, answered)
            case ua.Challenged(challenge):
                self._command(ua.Decline(challenge))
            case ua.Refused(command, refusal, text):
                _log.warning("%s not done: %s %s", type(command).__name__, refusal.value, text)
                if not self._referrals.refused(command, "") and isinstance(command, ua.Call):
                    self._ended(command.call, 500)
            case _:
                pass

    # ---- who comes ------------------------------------------------------------------------------------------------

    def _incoming(self, incoming: ua.IncomingCall) -> None:
        request = incoming.request
        user = request.request_uri.user_text if hasattr(request.request_uri, "user_text") else ""
        try:
            asserted = request.addresses("P-Asserted-Identity")
        except SipParseError as error:
            self._command(ua.Reject(incoming.call, error.status))
            return
        if not asserted:
            self._command(ua.Reject(incoming.call, 403))
            return
        if user == FACTORY:
            if len(self._conferences) >= MAXIMUM_CONFERENCES:
                self._command(ua.Reject(incoming.call, 486))
                return
            user = self._tokens(16)
            self._conferences[user] = _Conference(f"sip:{user}@{self._host}")
        known = self._conferences.get(user)
        if known is None:
            self._command(ua.Reject(incoming.call, 404))
            return
        if len(known.legs) >= MAXIMUM_USERS:
            self._command(ua.Reject(incoming.call, 486))
            return
        leg = _Leg(incoming.call, user, str(asserted[0].uri), "dialing-in")
        known.legs[leg.name] = self._legs[leg.name] = leg
        self._outputs.append(Describe(leg.name, user, incoming.sdp))

    def _described(self, leg: _Leg, sdp: bytes) -> None:
        contact = self._contact(leg.conference)
        if leg.exchange:
            exchange, leg.exchange = leg.exchange, ""
            self._command(ua.AnswerOffer(exchange, sdp))
        elif leg.outgoing:
            uri = self._conferences[leg.conference].uri
            headers = (("P-Asserted-Identity", f"<{uri}>"), *self._referrals.fields(leg.referral))
            call = ua.Call(leg.name, leg.entity, f"<{uri}>", f"<{leg.entity}>", sdp, headers, contact=contact)
            self._command(call)
        else:
            self._command(ua.Answer(leg.name, sdp, contact=contact))

    def _not_described(self, leg: _Leg, status: int) -> None:
        if leg.exchange:
            exchange, leg.exchange = leg.exchange, ""
            self._command(ua.RejectOffer(exchange, status))
        elif leg.outgoing:
            self._ended(leg.name, status)
        else:
            self._command(ua.Reject(leg.name, status))

    def _offered(self, call: str, exchange: str, sdp: bytes | None) -> None:
        leg = self._legs.get(call)
        if leg is None:
            self._command(ua.RejectOffer(exchange, 488))
            return
        leg.exchange = exchange
        self._outputs.append(Describe(call, leg.conference, sdp))

    def _contact(self, conference: str) -> str:
        return f"<{self._conferences[conference].uri}>;isfocus"

    def _ended(self, call: str, status: int) -> None:
        leg = self._legs.pop(call, None)
        if leg is None:
            return
        self._report(leg, status)
        self._outputs.append(Left(call))
        known = self._conferences[leg.conference]
        del known.legs[call]
        self._changed(leg, "disconnected")
        if not known.legs:
            self._close(leg.conference)

    def _report(self, leg: _Leg, status: int) -> None:
        if leg.referral:
            self._referrals.report(leg.referral, status, "", self._now)

    def _hang_up(self, event: ims.Hangup) -> None:
        self._command(ua.Hangup(event.call))

    # ---- requests ---------------------------------------------------------------------------------------------------

    def _request(self, request: str, message: Request, within: str) -> None:
        try:
            if message.method == "SUBSCRIBE":
                self._subscribe(request, message)
            elif message.method == "REFER" and within not in self._legs:
                self._command(ua.Respond(request, 403))
            elif not self._referrals.request(request, message, within, "", self._now):
                self._command(ua.Respond(request, 200 if within else 405))
        except SipParseError as error:
            self._command(ua.Respond(request, error.status))

    def _referred(self, output: ims.Output) -> None:
        """Somebody in a conference wants somebody else in it."""
        if not isinstance(output, ims.ReferralReceived):
            return
        known = self._conferences[self._legs[output.call].conference]
        if len(known.legs) >= MAXIMUM_USERS:
            self._referrals.report(output.referral, 486, "", self._now)
            return
        name = f"out-{self._tokens(8)}"
        leg = _Leg(name, self._legs[output.call].conference, output.target, "dialing-out", outgoing=True)
        leg.referral = output.referral
        known.legs[name] = self._legs[name] = leg
        self._outputs.append(Describe(name, leg.conference, None))
        self._changed(leg, "dialing-out")

    def _answered(self, key: str, response: Response | None) -> None:
        if self._referrals.answered(key, response, self._now):
            return
        name = self._notifications.pop(key, "")
        if name in self._notifiers:
            notifier = self._notifiers[name][1]
            self._send(name, notifier.answered(response.status if response is not None else None, self._now))
            if notifier.terminated and not notifier.pending:
                del self._notifiers[name]

    # ---- conference event package -------------------------------------------------------------------------------

    def _subscribe(self, request: str, message: Request) -> None:
        tag = self._tokens(16)
        refusal = judge(message, ("conference",), tag=tag)
        uri = message.request_uri
        user = getattr(uri, "user_text", "")
        known = self._conferences.get(user)
        entity = message.addresses("P-Asserted-Identity")[:1]
        if refusal is not None:
            fields = (("Allow-Events", "conference"),) if refusal.status == 489 else ()
            self._command(ua.Respond(request, refusal.status, None, fields))
        elif message.to.tag is not None:
            self._refresh(request, message)
        elif known is None:
            self._command(ua.Respond(request, 404))
        elif not entity or str(entity[0].uri) not in {leg.entity for leg in known.legs.values()}:
            self._command(ua.Respond(request, 403))  # TS 24.147 clause 5.3.2.2: who is in it may know
        else:
            notifier, response = Notifier.accept(
                message, contact=self._contact(user), tokens=lambda _: tag, now=self._now, most=3600
            )
            name = self._tokens(8)
            self._notifiers[name] = (user, notifier)
            fields = (("Expires", response.headers.get("Expires") or "0"),)
            self._command(ua.Respond(request, 200, None, fields, to_tag=tag))
            self._notify(name)

    def _refresh(self, request: str, message: Request) -> None:
        for name, (_, notifier) in self._notifiers.items():
            if (notifier.id.call_id, notifier.id.local_tag) != (message.call_id, message.to.tag):
                continue
            if notifier.terminated:
                break
            if not notifier.dialog.accepts(message):
                self._command(ua.Respond(request, 500))
                return
            response = notifier.refresh(message, self._now)
            fields = (("Expires", response.headers.get("Expires") or "0"),)
            self._command(ua.Respond(request, 200, None, fields, to_tag=message.to.tag))
            self._notify(name)
            return
        self._command(ua.Respond(request, 481))

    def _changed(self, leg: _Leg, status: str) -> None:
        """Tell everybody who wants to know."""
        leg.status = status
        known = self._conferences.get(leg.conference)
        if known is None:
            return
        known.version += 1
        self._notify_all(leg.conference)

    def _notify_all(self, conference: str, *, last: bool = False) -> None:
        for name in [name for name, (of, _) in self._notifiers.items() if of == conference]:
            self._notify(name, last=last)

    def _notify(self, name: str, *, last: bool = False) -> None:
        conference, notifier = self._notifiers[name]
        known = self._conferences[conference]
        users = tuple(info.ConferenceUser(leg.entity, leg.status) for leg in known.legs.values())
        document = info.ConferenceInfo(known.uri, known.version, "deleted" if last else "full", users)
        message = notifier.notify(
            document.encode(),
            info.MEDIA_TYPE,
            self._now,
            state="terminated" if last else "active",
            reason="noresource" if last else None,
        )
        self._send(name, message)

    def _send(self, name: str, message: Request | None) -> None:
        if message is not None:
            key = f"notify-{self._tokens(8)}"
            self._notifications[key] = name
            self._command(ua.Send(key, message))

    def _expire(self) -> None:
        for name, (_, notifier) in list(self._notifiers.items()):
            if not notifier.terminated and self._now >= notifier.expires_at:
                self._notify(name)

    def _close(self, conference: str) -> None:
        self._conferences[conference].version += 1
        self._notify_all(conference, last=True)
        del self._conferences[conference]
