"""What the parts of a `UserAgent` share: requests out, responses out, alarms, pending questions to the owner.

Nothing here knows calls or subscriptions.  Whoever sends a request hands in how to build it (so that it can be
built again with credentials) and who takes the reply; whoever asks the owner something gets an `Exchange`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from imskit.engine import Tokens
from imskit.sip.engine.alarms import Alarm, Alarms
from imskit.sip.engine.dialog import MAX_FORWARDS, DialogId, next_hop
from imskit.sip.engine.layer import (
    CancelReceived,
    SendCancel,
    SendRequest,
    SendResponse,
    SendStateless,
    SentBy,
    TransactionLayer,
)
from imskit.sip.engine.timers import TimerProfile
from imskit.sip.engine.user_agent_events import (
    Cause,
    Challenged,
    Fields,
    Hangup,
    Hop,
    Output,
    Profile,
    Refusal,
    RejectOffer,
    RequestReceived,
    Respond,
)
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.message import Message, Request, Response, response_to

if TYPE_CHECKING:
    from imskit.sip.engine.invite_session import Session
    from imskit.sip.engine.subscription import Subscriber

_log = logging.getLogger(__name__)

CHALLENGES = 3
"""How often one request is repeated with credentials."""

_TARGET_METHODS = frozenset({"INVITE", "UPDATE", "SUBSCRIBE", "NOTIFY", "REFER"})
"""Requests that carry a Contact."""


class Failure(Enum):
    """Why a request got no usable final response."""

    TIMEOUT = Cause.TIMEOUT
    TRANSPORT = Cause.TRANSPORT
    PROTOCOL = Cause.PROTOCOL
    ENDED = Cause.GONE
    """Its dialog ended before it was sent."""

    @property
    def cause(self) -> Cause:
        """The same for the owner."""
        cause: Cause = self.value
        return cause


type Reply = Response | Failure


@dataclass(slots=True, eq=False)
class Outgoing:
    """A request under way, over all its repetitions."""

    build: Callable[[Fields], Request]
    """Make the request; the fields are credentials to add."""
    reply: Callable[[Reply], None]
    hop: Hop | None
    call: str | None = None
    subscription: str | None = None
    restart: Callable[[], None] | None = None
    """Told before it is repeated with credentials."""
    key: str = ""
    request: Request | None = None
    challenges: int = 0
    done: bool = False
    """A final reply was given; an INVITE may still get 2xx."""
    withdrawn: bool = False
    """A challenge is not worth the owner's time any more."""
    sent_by: SentBy | None = None
    """For its Via; ``None``: as the profile says."""


@dataclass(slots=True, eq=False)
class Exchange:
    """A question to the owner that SIP waits for."""

    answer: Callable[[bytes, Fields], None] | None = None
    reject: Callable[[RejectOffer], None] | None = None
    prack: Callable[[bytes | None, Fields], Refusal | None] | None = None
    alarm: Alarm | None = None
    id: str = ""


@dataclass(slots=True, eq=False)
class _Challenge:
    outgoing: Outgoing
    response: Response
    alarm: Alarm


@dataclass(slots=True, eq=False)
class _Question:
    key: str
    request: Request
    alarm: Alarm


@dataclass(slots=True, eq=False)
class Ack:
    """An ACK to a 2xx, kept to be sent again with the same branch for each retransmission of the 2xx."""

    request: Request
    hop: Hop | None
    branch: str


class DialogUsage(Protocol):
    """Who takes the requests of a dialog."""

    def receive(self, key: str, request: Request, flow: Flow) -> None:
        """Take a request whose sequence has been judged; it must be answered."""

    def acknowledged(self, request: Request) -> None:
        """Take an ACK."""

    def accepts(self, request: Request) -> bool:
        """Judge the sequence."""


class CallUsage(Protocol):
    """What both kinds of calls offer to the owner's commands."""

    def hang_up(self, command: Hangup) -> Refusal | None:
        """End it."""

    def session(self, dialog: DialogId | None) -> Session | None:
        """Return the dialog meant, or the confirmed or only one."""

    def reroute(self, hop: Hop) -> None:
        """Use another hop from now on."""


class InviteServer(Protocol):
    """Who takes the CANCEL of an INVITE."""

    def cancelled(self, event: CancelReceived) -> None:
        """The INVITE must be answered 487, unless it has been answered."""


class Core:
    """Services and tables of one user agent."""

    def __init__(self, profile: Profile, tokens: Tokens, timers: TimerProfile, layer: TransactionLayer) -> None:
        self.profile = profile
        self.tokens = tokens
        self.timers = timers
        self.layer = layer
        self.now = 0.0
        self.outputs: deque[Output] = deque()
        self.calls: dict[str, CallUsage] = {}
        self.dialogs: dict[DialogId, DialogUsage] = {}
        self.subscriptions: dict[str, Subscriber] = {}
        self.invites: dict[str, InviteServer] = {}
        """By server transaction."""
        self.exchanges: dict[str, Exchange] = {}
        self._clients: dict[str, Outgoing] = {}
        self._challenges: dict[str, _Challenge] = {}
        self._requests: dict[str, _Question] = {}
        self.alarms = Alarms()
        self._deferred: deque[Callable[[], None]] = deque()
        self._count = 0

    # ---- small services ---------------------------------------------------------------------------------------

    @property
    def patience(self) -> float:
        """How long the owner may take for what SIP cannot wait for, seconds: half of timer F."""
        return self.timers.timeout / 2

    @property
    def idle(self) -> bool:
        """True if nothing is under way but what the transaction layer absorbs."""
        tables = (self.calls, self.subscriptions, self.dialogs, self.exchanges, self._challenges, self._requests)
        return not any(tables) and all(outgoing.done for outgoing in self._clients.values())

    def emit(self, output: Output) -> None:
        """Tell the owner."""
        self.outputs.append(output)

    def random(self, below: int) -> int:
        """Return a number in 0..below-1, below 2**40."""
        return int(self.tokens(16), 16) % below

    def name(self, kind: str) -> str:
        """Return a fresh name for a call, exchange, request or challenge."""
        self._count += 1
        return f"{kind}-{self._count}"

    # ---- time -------------------------------------------------------------------------------------------------

    def alarm(self, delay: float, action: Callable[[], None]) -> Alarm:
        """Do ``action`` after ``delay`` seconds."""
        return self.alarms.set(self.now + delay, action)

    def defer(self, action: Callable[[], None]) -> None:
        """Do ``action`` when what is being done is done."""
        self._deferred.append(action)

    def run_due(self) -> bool:
        """Do the next deferred or due action; False if there is none."""
        if self._deferred:
            self._deferred.popleft()()
            return True
        return self.alarms.run_due(self.now)

    # ---- requests out -----------------------------------------------------------------------------------------

    def dress(self, message: Message, method: str, headers: Fields, contact: str | None = None) -> None:
        """Put in the owner's ``headers``, the profile's rules, and what the profile says of itself.

        A field that the owner gives is not put in again, except by a rule.
        """
        profile = self.profile
        request = isinstance(message, Request)
        for name, value in headers:
            message.headers.add(name, value)
        for rule in profile.rules:
            if rule.applies(method, response=not request):
                for name, value in rule.fields:
                    message.headers.add(name, value)
        own: list[tuple[str, str]] = []
        if request and method not in ("ACK", "CANCEL"):
            own.append(("Max-Forwards", str(MAX_FORWARDS)))
            own.append(("Supported", ", ".join(profile.supported)))
            if method in ("INVITE", "UPDATE"):
                own.append(("Allow", ", ".join(profile.allow)))
            if method == "INVITE":
                own.append(("Accept", ", ".join(profile.accept)))
        if request and method in _TARGET_METHODS:
            own.append(("Contact", contact or profile.contact))
        if profile.software:
            own.append(("User-Agent" if request else "Server", profile.software))
        for name, value in own:
            if value and name not in message.headers:
                message.headers.add(name, value)

    def hop_of(self, request: Request, hop: Hop | None) -> Hop:
        """Return where ``request`` goes next; raises `SipParseError` if its URI says nothing about it."""
        return hop or self.profile.hop or next_hop(request)

    def send(self, outgoing: Outgoing, credentials: Fields = ()) -> Outgoing:
        """Build and send; the reply may be deferred, but comes never from within this call.

        Raises `SipParseError` if it cannot be written.
        """
        request = outgoing.build(credentials)
        hop = self.hop_of(request, outgoing.hop)
        outgoing.request, outgoing.key, outgoing.done = request, self.name("client"), False
        self._clients[outgoing.key] = outgoing
        try:
            sent_by = outgoing.sent_by or self.profile.sent_by
            self.layer.handle(SendRequest(request, hop, outgoing.key, sent_by), self.now)
        except ValueError as error:
            _log.warning("%s cannot be sent: %s", request.method, error)
            del self._clients[outgoing.key]
            outgoing.done = True
            self.defer(lambda: outgoing.reply(Failure.TRANSPORT))
        return outgoing

    def cancel(self, outgoing: Outgoing, headers: Fields) -> None:
        """CANCEL an INVITE."""
        outgoing.withdrawn = True
        rules = [rule.fields for rule in self.profile.rules if rule.applies("CANCEL", response=False)]
        self.layer.handle(SendCancel(outgoing.key, merge(headers, *rules)), self.now)

    def send_ack(self, ack: Ack) -> None:
        """Send an ACK to a 2xx."""
        try:
            hop = self.hop_of(ack.request, ack.hop)
            self.layer.handle(SendStateless(ack.request.copy(), hop, self.profile.sent_by, ack.branch), self.now)
        except ValueError as error:
            _log.warning("ACK cannot be sent: %s", error)

    def response(self, key: str, response: Response) -> None:
        """Take a response from the layer."""
        outgoing = self._clients.get(key)
        if outgoing is None:
            return
        if response.provisional:
            if not outgoing.done:
                self._take(outgoing, response)
            return
        if outgoing.done:
            if response.success:
                self._take(outgoing, response)
            return
        outgoing.done = True
        if response.status in (401, 407) and self._challenge(outgoing, response):
            return
        self._take(outgoing, response)

    def failure(self, key: str, failure: Failure) -> None:
        """Take a failure of a client transaction from the layer."""
        outgoing = self._clients.get(key)
        if outgoing is not None and not outgoing.done:
            outgoing.done = True
            self._take(outgoing, failure)

    def ended(self, key: str) -> None:
        """Forget a transaction."""
        self.invites.pop(key, None)
        self.failure(key, Failure.PROTOCOL)
        self._clients.pop(key, None)

    def _take(self, outgoing: Outgoing, reply: Reply) -> None:
        try:
            outgoing.reply(reply)
        except SipParseError as error:
            _log.info("a response is dropped: %s", error)
            if isinstance(reply, Response) and not reply.provisional:
                outgoing.reply(Failure.PROTOCOL)

    # ---- challenges -------------------------------------------------------------------------------------------

    def _challenge(self, outgoing: Outgoing, response: Response) -> bool:
        owned = outgoing.call is not None or outgoing.subscription is not None
        if not owned or outgoing.withdrawn or outgoing.challenges >= CHALLENGES or outgoing.request is None:
            return False
        outgoing.challenges += 1
        name = self.name("challenge")

        def expire() -> None:
            self.decline(name)

        alarm = self.alarm(self.patience, expire)
        self._challenges[name] = _Challenge(outgoing, response, alarm)
        if outgoing.restart is not None:
            outgoing.restart()
        self.emit(Challenged(name, outgoing.request, response, outgoing.call, outgoing.subscription))
        return True

    def authorize(self, name: str, headers: Fields) -> Refusal | None:
        """Repeat a challenged request."""
        challenge = self._challenges.pop(name, None)
        if challenge is None:
            return Refusal.UNKNOWN
        challenge.alarm.cancel()
        try:
            self.send(challenge.outgoing, headers)
        except SipParseError as error:
            _log.warning("credentials cannot be written: %s", error.where)
            self._take(challenge.outgoing, challenge.response)
            return Refusal.INVALID
        return None

    def decline(self, name: str) -> Refusal | None:
        """Let the 401 or 407 be the outcome."""
        challenge = self._challenges.pop(name, None)
        if challenge is None:
            return Refusal.UNKNOWN
        challenge.alarm.cancel()
        self._take(challenge.outgoing, challenge.response)
        return None

    def withdraw(self, outgoing: Outgoing) -> None:
        """The outcome matters to nobody any more; a challenge that waits is declined."""
        outgoing.withdrawn = True
        for name, challenge in list(self._challenges.items()):
            if challenge.outgoing is outgoing:
                self.decline(name)

    # ---- responses out ----------------------------------------------------------------------------------------

    def reply_to(
        self,
        key: str,
        request: Request,
        status: int,
        reason: str | None = None,
        headers: Fields = (),
        body: bytes = b"",
        content_type: str = "",
        *,
        to_tag: str | None = None,
        contact: str | None = None,
    ) -> Response:
        """Build and send a response."""
        response = self.build_response(
            request, status, reason, headers, body, content_type, to_tag=to_tag, contact=contact
        )
        self.respond(key, response)
        return response

    def build_response(
        self,
        request: Request,
        status: int,
        reason: str | None = None,
        headers: Fields = (),
        body: bytes = b"",
        content_type: str = "",
        *,
        to_tag: str | None = None,
        contact: str | None = None,
    ) -> Response:
        """Build a response; ``contact`` also puts in Allow and Supported (RFC 3261 section 13.3.1).

        Raises `SipParseError` for what cannot be written.
        """
        profile = self.profile
        response = response_to(request, status, reason, to_tag=to_tag or self.tokens(16))
        if contact is not None:
            response.headers.add("Contact", contact)
            response.headers.add("Allow", ", ".join(profile.allow))
            if profile.supported:
                response.headers.add("Supported", ", ".join(profile.supported))
        self.dress(response, request.method, headers)
        if body:
            response.set_body(body, content_type)
        return response

    def respond(self, key: str, response: Response) -> None:
        """Send a response, also again."""
        self.layer.handle(SendResponse(key, response), self.now)

    def retry_later(self) -> Fields:
        """Return a Retry-After of 0..10 s, chosen at random (RFC 3261 section 14.2, RFC 3311 section 5.2)."""
        return (("Retry-After", str(self.random(11))),)

    # ---- requests for the owner -------------------------------------------------------------------------------

    def hand_up(
        self, key: str, request: Request, flow: Flow, call: str | None = None, dialog: DialogId | None = None
    ) -> None:
        """Let the owner answer a request."""
        name = self.name("request")

        def expire() -> None:
            self.answer_request(Respond(name, 500))

        self._requests[name] = _Question(key, request, self.alarm(self.patience, expire))
        self.emit(RequestReceived(name, request, flow, call, dialog))

    def answer_request(self, command: Respond) -> Refusal | None:
        """Send the owner's response."""
        question = self._requests.get(command.request)
        if question is None:
            return Refusal.UNKNOWN
        if not 200 <= command.status <= 699:
            return Refusal.INVALID
        del self._requests[command.request]
        question.alarm.cancel()
        contact = self.profile.contact if command.status < 300 and question.request.method in _TARGET_METHODS else None
        self.reply_to(
            question.key,
            question.request,
            command.status,
            command.reason,
            command.headers,
            command.body,
            command.content_type,
            to_tag=command.to_tag,
            contact=contact,
        )
        return None

    # ---- questions to the owner -------------------------------------------------------------------------------

    def ask(self, exchange: Exchange, patience: float | None, expire: Callable[[], None]) -> str:
        """Keep a question open for ``patience`` seconds, then forget it and do ``expire``."""
        exchange.id = name = self.name("exchange")
        self.exchanges[name] = exchange
        if patience is not None:

            def give_up() -> None:
                if self.exchanges.pop(name, None) is not None:
                    expire()

            exchange.alarm = self.alarm(patience, give_up)
        return name

    def close(self, exchange: Exchange) -> bool:
        """Forget a question; True if it was open."""
        if exchange.alarm is not None:
            exchange.alarm.cancel()
        return self.exchanges.pop(exchange.id, None) is not None


def merge(*parts: Iterable[tuple[str, str]]) -> Fields:
    """Join lists of fields."""
    return tuple(field for part in parts for field in part)
