"""`UserAgent`: the SIP user agent core (RFC 3261 section 8) over a transaction layer, for any number of calls.

An engine (`imskit.engine`).  The agent's IMS client, the page's side of a B2BUA and a simulated phone each drive one
(a B2BUA two).  It does what SIP itself demands: transactions, dialogs, forks, 100rel, offer/answer order, glare,
CANCEL, ACK, session timer, subscriptions.  SDP and further bodies are opaque; preconditions, registration and
policy are the owner's: they need `Provisional`, `Modify`, `Prack` and the offers and answers with their dialogs.

A call with preconditions, as a caller sees it (commands in, outputs out)::

    Call(sdp=offer 1)      -> INVITE
                           <- 183 (100rel)      AnswerReceived, Progress; the PRACK goes out by itself
    Modify(sdp=offer 2)    -> UPDATE            after the PRACK is answered
                           <- 200               AnswerReceived
                           <- 180               Progress
                           <- 200               Answered; the ACK goes out by itself
    Hangup()               -> BYE               Ended

The owner feeds `Received`, `TransportFailed` and `FlowClosed` from the transport and its own commands, and drains
`Transmit` for the transport and everything else for itself.  Everything is in `user_agent_events`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from imskit.engine import Tick, Tokens
from imskit.sip.engine.dialog import DialogId
from imskit.sip.engine.invite_body import understood
from imskit.sip.engine.invite_callee import CalleeCall
from imskit.sip.engine.invite_caller import CallerCall
from imskit.sip.engine.layer import (
    AckReceived,
    CancelReceived,
    FlowClosed,
    Received,
    SentBy,
    StrayResponse,
    TransactionEnded,
    TransactionFailed,
    TransactionLayer,
    TransactionTimeout,
    Transmit,
    TransportFailed,
)
from imskit.sip.engine.layer import Output as LayerOutput
from imskit.sip.engine.layer import (
    RequestReceived as LayerRequest,
)
from imskit.sip.engine.layer import (
    ResponseReceived as LayerResponse,
)
from imskit.sip.engine.referral import Referral
from imskit.sip.engine.session_timer import SessionTimer, SessionTimerPolicy
from imskit.sip.engine.subscription import Subscriber, retry_delay
from imskit.sip.engine.timers import RFC3261, TimerProfile
from imskit.sip.engine.user_agent_check import check_command
from imskit.sip.engine.user_agent_core import Core, Failure, Outgoing, Reply
from imskit.sip.engine.user_agent_events import (
    Answer,
    Answered,
    AnswerOffer,
    AnswerReceived,
    Authorize,
    Call,
    Carrier,
    Cause,
    Challenged,
    Command,
    Configure,
    Confirmed,
    Decline,
    DialogEnded,
    Ended,
    Event,
    Fields,
    Hangup,
    HeaderRule,
    Hop,
    IncomingCall,
    Modify,
    Notified,
    OfferFailed,
    OfferReceived,
    OfferRequested,
    OfferWithdrawn,
    Output,
    Prack,
    PrackDue,
    PrackReceived,
    Profile,
    Progress,
    Provisional,
    Refer,
    Refreshed,
    Refusal,
    Refused,
    Reject,
    RejectOffer,
    RequestReceived,
    Reroute,
    Respond,
    ResponseReceived,
    Send,
    SendInDialog,
    Subscribe,
    Subscribed,
    SubscriptionEnded,
    Unsubscribe,
)
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Flow, Transport
from imskit.sip.wire.message import Request

__all__ = [
    "Answer",
    "AnswerOffer",
    "AnswerReceived",
    "Answered",
    "Authorize",
    "Call",
    "Carrier",
    "Cause",
    "Challenged",
    "Command",
    "Configure",
    "Confirmed",
    "Decline",
    "DialogEnded",
    "DialogId",
    "Ended",
    "Event",
    "Fields",
    "FlowClosed",
    "Hangup",
    "HeaderRule",
    "Hop",
    "IncomingCall",
    "Modify",
    "Notified",
    "OfferFailed",
    "OfferReceived",
    "OfferRequested",
    "OfferWithdrawn",
    "Output",
    "Prack",
    "PrackDue",
    "PrackReceived",
    "Profile",
    "Progress",
    "Provisional",
    "Received",
    "Refer",
    "Refreshed",
    "Refusal",
    "Refused",
    "Reject",
    "RejectOffer",
    "RequestReceived",
    "Reroute",
    "Respond",
    "ResponseReceived",
    "Send",
    "SendInDialog",
    "SentBy",
    "SessionTimerPolicy",
    "Subscribe",
    "Subscribed",
    "SubscriptionEnded",
    "Tick",
    "Transmit",
    "TransportFailed",
    "Unsubscribe",
    "UserAgent",
    "retry_delay",
]

_log = logging.getLogger(__name__)

_IN_DIALOG_ONLY = frozenset({"BYE", "PRACK", "UPDATE", "NOTIFY", "INFO"})
_SCHEMES = frozenset({"sip", "sips", "tel", "urn"})


class UserAgent:
    """The engine of this module's text.

    ``sent_by`` gives host and port for the Via by transport, where it is not the local address of the flow.
    """

    def __init__(
        self,
        profile: Profile,
        tokens: Tokens,
        timers: TimerProfile = RFC3261,
        *,
        sent_by: Mapping[Transport, SentBy] | None = None,
    ) -> None:
        self._layer = TransactionLayer(tokens, timers, sent_by=sent_by)
        self._core = Core(profile, tokens, timers, self._layer)

    # ---- the engine's contract ----------------------------------------------------------------------------------

    def handle(self, event: Event | Tick, now: float) -> None:
        """Take in one event; never raises for what a peer sends or a command asks."""
        core = self._core
        core.now = max(core.now, now)
        if isinstance(event, Received | TransportFailed | FlowClosed | Tick):
            self._layer.handle(event, core.now)
        else:
            self._command(event)
        self._drain()

    def poll(self) -> Output | None:
        """Return the next output."""
        outputs = self._core.outputs
        return outputs.popleft() if outputs else None

    def deadline(self) -> float | None:
        """When to call ``handle(Tick(), now)`` next."""
        times = [each for each in (self._layer.deadline(), self._core.alarms.deadline()) if each is not None]
        return min(times, default=None)

    @property
    def idle(self) -> bool:
        """True if no call, dialog, subscription or request is under way; a good moment to shut down."""
        return self._core.idle

    @property
    def calls(self) -> tuple[str, ...]:
        """The calls that have not ended."""
        return tuple(self._core.calls)

    def uses(self, way: Callable[[Hop], bool]) -> bool:
        """Tell whether a transaction has a way that ``way`` is true for."""
        return self._layer.uses(way)

    def _drain(self) -> None:
        while True:
            output = self._layer.poll()
            if output is not None:
                self._take(output)
            elif not self._core.run_due():
                return

    # ---- from the transaction layer -----------------------------------------------------------------------------

    def _take(self, output: LayerOutput) -> None:
        core = self._core
        match output:
            case Transmit():
                core.emit(output)
            case LayerRequest(key, request, flow):
                self._request(key, request, flow)
            case LayerResponse(key, response, _):
                core.response(key, response)
            case CancelReceived():
                if (invite := core.invites.get(output.key)) is not None:
                    invite.cancelled(output)
            case AckReceived(request, _):
                self._ack(request)
            case TransactionTimeout(key):
                core.failure(key, Failure.TIMEOUT)
            case TransactionFailed(key, reason):
                _log.info("transaction %s: %s", key, reason)
                core.failure(key, Failure.TRANSPORT)
            case TransactionEnded(key):
                core.ended(key)
            case StrayResponse():
                pass

    def _ack(self, request: Request) -> None:
        usage = self._core.dialogs.get(DialogId.of_request(request))
        if usage is None:
            return
        try:
            usage.acknowledged(request)
        except SipParseError as error:
            _log.info("an ACK is malformed: %s", error)

    def _request(self, key: str, request: Request, flow: Flow) -> None:
        try:
            self._accept(key, request, flow)
        except SipParseError as error:
            _log.info("%s refused: %s", request.method, error)
            self._core.reply_to(key, request, error.status, error.reason)

    def _accept(self, key: str, request: Request, flow: Flow) -> None:
        """Inspect a request in the order of RFC 3261 section 8.2 and pass it on."""
        core, profile, method = self._core, self._core.profile, request.method
        if method == "CANCEL":
            core.reply_to(key, request, 481)
            return
        subscriber = self._begun_by(request) if method == "NOTIFY" else None
        if method not in profile.allow and not (method == "NOTIFY" and core.subscriptions):
            core.reply_to(key, request, 405, headers=(("Allow", ", ".join(profile.allow)),))
            return
        if request.request_uri.scheme not in _SCHEMES:
            core.reply_to(key, request, 416)
            return
        known = {tag.lower() for tag in profile.supported}
        if unknown := [tag for tag in request.require if tag not in known]:
            core.reply_to(key, request, 420, headers=(("Unsupported", ", ".join(unknown)),))
            return
        if method in ("INVITE", "UPDATE", "PRACK"):
            _read(request)
            if not understood(request, profile.accept):
                headers = (("Accept", ", ".join(profile.accept)), ("Accept-Encoding", "identity"))
                core.reply_to(key, request, 415, headers=headers)
                return
        if request.to.tag is not None:
            self._in_dialog(key, request, flow, subscriber)
        elif method == "INVITE":
            self._invite(key, request, flow)
        elif method == "OPTIONS":
            self._options(key, request)
        elif method in _IN_DIALOG_ONLY:
            core.reply_to(key, request, 481)
        else:
            core.hand_up(key, request, flow)

    def _in_dialog(self, key: str, request: Request, flow: Flow, subscriber: Subscriber | None) -> None:
        core = self._core
        usage = core.dialogs.get(DialogId.of_request(request))
        if usage is None and subscriber is not None and subscriber.begins(request):
            usage = subscriber
        if usage is None and request.method == "SUBSCRIBE":
            core.hand_up(key, request, flow)  # the dialogs of a notifier are its owner's
        elif usage is None:
            core.reply_to(key, request, 481)
        elif not usage.accepts(request):
            core.reply_to(key, request, 500, "CSeq Out of Order")
        else:
            usage.receive(key, request, flow)

    def _begun_by(self, request: Request) -> Subscriber | None:
        tag, call_id = request.to.tag, request.call_id
        for subscriber in self._core.subscriptions.values():
            if subscriber.call_id == call_id and subscriber.tag == tag:
                return subscriber
        return None

    def _invite(self, key: str, request: Request, flow: Flow) -> None:
        core = self._core
        least = SessionTimer(core.profile.session_timer).refusal(request)
        if least is not None:
            core.reply_to(key, request, 422, headers=(("Min-SE", str(least)),))
            return
        name = core.name("incoming")
        while name in core.calls:
            name = core.name("incoming")
        core.calls[name] = call = CalleeCall(core, name, key, request, flow)
        call.announce(flow)

    def _options(self, key: str, request: Request) -> None:
        core, profile = self._core, self._core.profile
        headers = [("Accept", ", ".join(profile.accept))]
        if profile.allow_events:
            headers.append(("Allow-Events", ", ".join(profile.allow_events)))
        core.reply_to(key, request, 200, headers=tuple(headers), contact=profile.contact)

    # ---- from the owner -----------------------------------------------------------------------------------------

    def _command(self, command: Command) -> None:
        try:
            check_command(command)
            refusal = self._carry_out(command)
            text = ""
        except SipParseError as error:
            refusal, text = Refusal.INVALID, str(error)
        if refusal is not None:
            self._core.emit(Refused(command, refusal, text))

    def _carry_out(self, command: Command) -> Refusal | None:
        match command:
            case Call() | Provisional() | Answer() | Reject() | Hangup() | Modify() | SendInDialog() | Reroute():
                return self._carry_out_in_call(command)
            case AnswerOffer() | RejectOffer() | Prack():
                return self._carry_out_exchange(command)
            case Configure(profile):
                self._core.profile = profile
                return None
            case Send():
                return self._send(command)
            case Respond():
                return self._core.answer_request(command)
            case Authorize(challenge, headers):
                return self._core.authorize(challenge, headers)
            case Decline(challenge):
                return self._core.decline(challenge)
            case Subscribe() | Refer():
                return self._subscribe(command)
            case Unsubscribe(name):
                subscriber = self._core.subscriptions.get(name)
                return Refusal.UNKNOWN if subscriber is None else subscriber.leave()

    def _carry_out_in_call(
        self, command: Call | Provisional | Answer | Reject | Hangup | Modify | SendInDialog | Reroute
    ) -> Refusal | None:
        core = self._core
        call = core.calls.get(command.call)
        if isinstance(command, Call):
            return Refusal.DUPLICATE if call is not None else self._call(command)
        if call is None:
            return Refusal.UNKNOWN
        match command:
            case Hangup():
                return call.hang_up(command)
            case Reroute(_, hop):
                call.reroute(hop)
                return None
            case Modify():
                session = call.session(command.dialog)
                return Refusal.STATE if session is None else session.modifier.modify(command)
            case SendInDialog():
                session = call.session(command.dialog)
                if session is None:
                    return Refusal.STATE
                session.send(command)
                return None
        if not isinstance(call, CalleeCall):
            return Refusal.STATE
        match command:
            case Provisional():
                return call.provisional(command)
            case Answer():
                return call.answer(command)
            case Reject():
                return call.reject(command)

    def _call(self, command: Call) -> Refusal | None:
        call = CallerCall(self._core, command)
        call.start()
        self._core.calls[command.call] = call
        return None

    def _carry_out_exchange(self, command: AnswerOffer | RejectOffer | Prack) -> Refusal | None:
        core = self._core
        exchange = core.exchanges.get(command.exchange)
        if exchange is None:
            return Refusal.UNKNOWN
        match command:
            case Prack(_, sdp, headers):
                if exchange.prack is None:
                    return Refusal.STATE
                refusal = exchange.prack(sdp, headers)
                if refusal is None:
                    core.close(exchange)
                return refusal
            case AnswerOffer(_, sdp, headers):
                if exchange.answer is None:
                    return Refusal.STATE
                core.close(exchange)
                exchange.answer(sdp, headers)
            case RejectOffer():
                if exchange.reject is None:
                    return Refusal.STATE
                core.close(exchange)
                exchange.reject(command)
        return None

    def _send(self, command: Send) -> Refusal | None:
        core = self._core
        request = command.request.copy()
        core.dress(request, request.method, ())

        def reply(reply: Reply) -> None:
            if isinstance(reply, Failure):
                core.emit(ResponseReceived(command.key, None, reply.cause))
            elif not reply.provisional:
                core.emit(ResponseReceived(command.key, reply))

        core.send(Outgoing(lambda _: request, reply, command.hop, sent_by=command.sent_by))
        return None

    def _subscribe(self, command: Subscribe | Refer) -> Refusal | None:
        core = self._core
        if command.subscription in core.subscriptions:
            return Refusal.DUPLICATE
        subscriber = Subscriber(core, command) if isinstance(command, Subscribe) else Referral(core, command)
        subscriber.start()
        core.subscriptions[command.subscription] = subscriber
        return None


def _read(request: Request) -> None:
    """Read every header that a session depends on, so that a malformed one is answered before anything is done."""
    _ = request.contacts, request.record_routes, request.supported, request.require, request.allow
    _ = request.session_expires, request.min_se, request.rack, request.content_type, request.expires
