"""An IMS UE as one engine: registration, reg-event and calls over a SIP user agent (TS 24.229 clause 5.1).

The agent's IMS client and the simulated phone drive the same machine; what differs is who answers for the card and
who makes the media.
"""

from __future__ import annotations

import logging
from collections import deque
from ipaddress import ip_address

from imskit.engine import Tick, Tokens
from imskit.ims import registration as reg
from imskit.ims.alternative_service import asks_restoration
from imskit.ims.call_services import CallServices
from imskit.ims.calls import Calls
from imskit.ims.events import (
    Accept,
    AnswerOffer,
    CardAnswer,
    CardFailed,
    Dial,
    Ended,
    Event,
    Fields,
    FlowClosed,
    Hangup,
    Invite,
    MessageSent,
    Modify,
    Output,
    PCscfsFound,
    Prepare,
    Received,
    RegistrationChanged,
    Reject,
    RejectOffer,
    RejectReferral,
    RequestReceived,
    ResourcesFailed,
    ResourcesReserved,
    Ring,
    SecurityFailed,
    SecurityInstalled,
    SecurityReserved,
    SendMessage,
    SendSms,
    Start,
    Stop,
    Transfer,
    TransportFailed,
)
from imskit.ims.gm_path import GmPath
from imskit.ims.messages import Messages
from imskit.ims.profile import EXPIRES, UeProfile
from imskit.ims.reginfo import MEDIA_TYPE, RegInfo, RegInfoError
from imskit.ims.security_agreement import Protection, SecurityAgreement
from imskit.sip.engine import user_agent_events as ua
from imskit.sip.engine.events import SentBy
from imskit.sip.engine.subscription import retry_delay
from imskit.sip.engine.timers import TS24229_UE, TimerProfile
from imskit.sip.engine.user_agent import UserAgent
from imskit.sip.wire.flow import Flow, Target, Transport
from imskit.sip.wire.message import Request, Response
from imskit.sip.wire.uri import parse_uri

_log = logging.getLogger(__name__)

_SUPPORTED = ("100rel", "timer", "precondition", "199", "replaces", "norefersub")
_METHODS = ("INVITE", "ACK", "CANCEL", "BYE", "PRACK", "UPDATE", "OPTIONS", "INFO", "NOTIFY", "REFER", "MESSAGE")
"""What this UE takes."""
_TRANSPORTS: tuple[Transport, ...] = ("UDP", "TCP", "TLS")
_NOT_THESE = frozenset({"ACK", "CANCEL", "REGISTER"})
"""Requests without what all others carry: those of the standard, and REGISTER, which says it for itself."""
_ACCEPT = ("application/sdp", "application/3gpp-ims+xml")
_SUBSCRIPTION_RETRY = 60.0
"""Seconds until the next reg-event SUBSCRIBE where the network does not say."""
_SUSPICION_SECONDS = 30.0
"""A refused call leads to a check of the registration at most this often."""


class ImsUe:
    """The machine; see `imskit.ims.events` for what goes in and comes out, `imskit.engine` for the contract."""

    def __init__(
        self,
        profile: UeProfile,
        tokens: Tokens,
        retry: reg.RetryPolicy | None = None,
        timers: TimerProfile = TS24229_UE,
    ) -> None:
        self._profile = profile
        self._tokens = tokens
        self._registration = reg.Registration(profile, tokens, retry, self._in_use)
        self._agent = UserAgent(
            self._agent_profile(),
            tokens,
            timers,
            sent_by={transport: SentBy(*profile.local) for transport in _TRANSPORTS},
        )
        self._calls = Calls(self._command, self._call_says, preconditions=profile.preconditions)
        self._services = CallServices(self._calls, self._command, self._tell, tokens, profile.domain)
        self._messages = Messages(self._command, self._tell, tokens)
        self._outputs: deque[Output] = deque()
        self._subscription: str | None = None
        self._old_subscription: str | None = None
        """That of a registration that is over: the user agent still keeps it up."""
        self._subscribe_at: float | None = None
        self._checked_at: float | None = None
        self._suspicion: tuple[float, str] | None = None
        """When to register anew, and why, unless that happens before."""
        self._stopping = False
        self._proxies = {_plain(target.address[0]) for target in profile.p_cscfs}
        """Addresses of the P-CSCFs; a name's are learned from the answers to REGISTER."""
        self._sender: str | None = None
        """Where the message comes from that is being handled."""
        self._now = 0.0

    @property
    def status(self) -> reg.RegistrationStatus:
        """Where the registration stands."""
        return self._registration.status

    @property
    def calls(self) -> tuple[str, ...]:
        """The calls that have not ended."""
        return self._calls.names

    # ---- engine -------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> None:
        """Take in ``event`` at ``now`` (seconds)."""
        self._now = now
        self._sender = None
        match event:
            case Start():
                self._stopping = False
                self._registration.handle(event, now)
            case CardAnswer() | CardFailed() | SecurityReserved() | SecurityInstalled() | SecurityFailed():
                self._registration.handle(event, now)
            case PCscfsFound(targets):
                self._proxies |= {_plain(target.address[0]) for target in targets}
                self._registration.handle(event, now)
            case Stop():
                self._stop()
            case Received():
                if self._from_p_cscf(event):
                    self._registration.handle(reg.Heard(event.flow.local[1], event.flow.remote), now)
                    self._agent.handle(event, now)
            case TransportFailed():
                self._agent.handle(event, now)
            case FlowClosed(flow):
                self._agent.handle(event, now)
                if self._depends_on(flow):
                    self._suspect("the connection to the P-CSCF is gone")
            case Dial():
                self._dial(event)
            case Prepare() | ResourcesReserved() | ResourcesFailed() | Ring() | Accept() | Reject() | Hangup():
                self._calls.handle(event, now)
            case Modify() | AnswerOffer() | RejectOffer():
                self._calls.handle(event, now)
            case Transfer() | Invite() | RejectReferral():
                self._services.handle(event, self._impu, now)
            case SendMessage() | SendSms():
                self._send_message(event)
            case Tick():
                self._registration.handle(event, now)
                self._agent.handle(event, now)
                if self._subscribe_at is not None and now >= self._subscribe_at:
                    self._subscribe()
                if self._suspicion is not None and now >= self._suspicion[0]:
                    self._suspect(self._suspicion[1])
                self._calls.tick(now, self._failure(ua.Cause.TIMEOUT))
                self._services.tick(now)
                self._messages.tick(now)
        self._drain()

    def poll(self) -> Output | None:
        """Return the next output."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """When to call ``handle(Tick(), now)`` next."""
        suspicion = self._suspicion[0] if self._suspicion is not None else None
        machines = (self._registration, self._agent, self._calls, self._services, self._messages)
        waiting = (*(machine.deadline() for machine in machines), self._subscribe_at, suspicion)
        return min((at for at in waiting if at is not None), default=None)

    def _drain(self) -> None:
        """Move what one machine says to the one that it concerns, until all are silent."""
        while True:
            if (said := self._registration.poll()) is not None:
                self._registration_says(said)
            elif (told := self._agent.poll()) is not None:
                self._agent_says(told)
            else:
                return

    def _tell(self, output: Output) -> None:
        self._outputs.append(output)

    @property
    def _impu(self) -> str:
        """The identity that this UE goes by."""
        return str.__str__(self.status.impu or self._profile.impu)

    def _command(self, command: ua.Command) -> None:
        self._agent.handle(command, self._now)

    def _from_p_cscf(self, received: Received) -> bool:
        """Requests are taken from the P-CSCF only: nobody else on the access may make this UE ring.

        With a security agreement they must come inside it, and so must all answers but those to a REGISTER in clear;
        with TLS, over TLS.
        """
        message, host = received.message, _plain(received.flow.remote[0])
        self._sender = received.flow.remote[0]
        response = message.startswith(b"SIP/2.0 ") if isinstance(message, bytes) else isinstance(message, Response)
        if self._profile.security.ipsec:
            if self._registration.carries(received.flow):
                return True
            if isinstance(message, Response) and message.cseq.method == "REGISTER":
                # Who reads along knows branch and tags: they do not make an answer to a protected request.
                return self._registration.asks_in_clear and message.top_via.port == self._profile.local[1]
        elif self._profile.security.protection is Protection.TLS and not received.flow.secure:
            pass  # anybody can write the P-CSCF's address on a datagram
        elif response or host in self._proxies:
            return True
        # The last words of a registration that is over come too late: no attack.
        level = logging.DEBUG if self.status.state is reg.State.OFF else logging.WARNING
        _log.log(level, "a %s that does not come from the P-CSCF is dropped", "response" if response else "request")
        return False

    def _depends_on(self, flow: Flow) -> bool:
        """Whether the P-CSCF reaches us over this connection (RFC 5626 section 4.4), or not at all.

        In a security agreement it opens its own.
        """
        path = self._registration.path
        return (
            path is not None
            and not path.agreed
            and flow.transport == path.hop.transport
            and flow.transport in ("TCP", "TLS")
            and _plain(flow.remote[0]) in self._proxies
        )

    def _in_use(self, agreement: SecurityAgreement) -> bool:
        """Whether a transaction goes on over the associations of ``agreement``."""

        def over(way: Flow | Target) -> bool:
            if isinstance(way, Target):
                return way.source_port == agreement.ours.port_c
            return agreement.carries(way.local[1], way.remote[1])

        return self._agent.uses(over)

    # ---- registration -------------------------------------------------------------------------------------------

    def _registration_says(self, output: reg.Output) -> None:
        match output:
            case reg.SendRegister(key, request, target, sent_by):
                self._command(ua.Send(key, request, target, sent_by))
            case reg.Changed(status):
                self._command(ua.Configure(self._agent_profile()))
                if status.state is reg.State.REGISTERED:
                    if self._subscription is None and self._subscribe_at is None:
                        self._subscribe()
                else:
                    self._subscribe_at = self._suspicion = None
                if status.state in (reg.State.OFF, reg.State.WAITING, reg.State.REGISTERING):
                    # The network forgets the subscription with the registration.
                    self._old_subscription, self._subscription = self._subscription or self._old_subscription, None
                self._outputs.append(RegistrationChanged(status))
            case _:
                self._outputs.append(output)

    def _stop(self) -> None:
        self._stopping = True
        self._calls.end_all(self._now)
        if self._subscription is not None and self.status.state is reg.State.REGISTERED:
            self._command(ua.Unsubscribe(self._subscription))
            self._subscription = None
        self._registration.handle(Stop(), self._now)

    def _subscribe(self) -> None:
        """Subscribe to our own registration (TS 24.229 clause 5.1.1.3)."""
        self._subscribe_at = None
        if self._old_subscription is not None:
            self._command(ua.Unsubscribe(self._old_subscription))
            self._old_subscription = None
        self._subscription = f"reg-{self._tokens(8)}"
        impu = str.__str__(self.status.impu or self._profile.impu)
        self._command(ua.Subscribe(self._subscription, impu, f"<{impu}>", f"<{impu}>", "reg", EXPIRES, (MEDIA_TYPE,)))

    def _notified(self, message: Request) -> None:
        try:
            document = RegInfo.parse(message.body)
        except RegInfoError as error:
            _log.warning("reg-event notification passed over: %s", error)
            return
        self._registration.handle(reg.RegistrationInfo(document), self._now)

    def _suspect(self, reason: str) -> None:
        """Something says that the core has forgotten us: register anew, but not at every such word."""
        wait = 0.0 if self._checked_at is None else self._checked_at + _SUSPICION_SECONDS - self._now
        if wait > 0:
            self._suspicion = (self._now + wait, reason)
        else:
            self._suspicion = None
            self._checked_at = self._now
            self._registration.handle(reg.Lost(reason), self._now)

    # ---- user agent -----------------------------------------------------------------------------------------------

    def _agent_says(self, output: ua.Output) -> None:
        match output:
            case ua.Transmit():
                self._outputs.append(output)
            case ua.ResponseReceived(key, response, cause):
                if self._services.answered(key, response, self._now):
                    return
                if self._messages.answered(key, response, self._now):
                    return
                if response is not None and self._sender is not None:
                    self._proxies.add(_plain(self._sender))
                outcome = reg.RegisterOutcome(key, response, self._failure(cause), self._sender or "")
                self._registration.handle(outcome, self._now)
            case ua.IncomingCall():
                self._incoming(output)
            case ua.Notified(subscription, _, message):
                if not self._services.notified(subscription, message) and subscription == self._subscription:
                    self._notified(message)
            case ua.SubscriptionEnded(subscription):
                if not self._services.subscription_ended(output) and subscription == self._subscription:
                    self._subscription_ended(output)
            case ua.RequestReceived(request, message, _, call):
                self._request(request, message, call)
            case ua.Challenged(challenge):
                # IMS authenticates at REGISTER; a proxy that challenges a call is none of ours (24.229 5.1.2A.1.1).
                self._command(ua.Decline(challenge))
            case ua.Refused():
                self._refused(output)
            case ua.Subscribed():
                pass
            case _:
                self._calls.told(output.call, output, self._now)

    def _subscription_ended(self, ended: ua.SubscriptionEnded) -> None:
        self._subscription = None
        if self.status.state is reg.State.REGISTERED:
            delay = retry_delay(ended)
            self._subscribe_at = self._now + (delay if delay is not None else _SUBSCRIPTION_RETRY)

    def _failure(self, cause: ua.Cause | None) -> str:
        """Why there is no answer to REGISTER, for the user."""
        path = self._registration.path
        where = f" {path.hop.address[0]} port {path.hop.address[1]}" if path is not None else ""
        verb = "cannot be reached" if cause is ua.Cause.TRANSPORT else "does not answer"
        return f"the P-CSCF{where} {verb}"

    def _refused(self, refused: ua.Refused) -> None:
        """A command came too late or cannot be carried out: whoever waits for its outcome must hear of it."""
        command, refusal, text = refused.command, refused.refusal, refused.text
        if self._services.refused(refused) or self._calls.refused(refused, self._now):
            return
        if self._messages.refused(refused.command, refused.text or refused.refusal.value, self._now):
            return
        if isinstance(command, ua.Send):
            self._registration.handle(reg.RegisterOutcome(command.key, None, f"REGISTER: {text}"), self._now)
        else:
            _log.info("%s not done: %s %s", type(command).__name__, refusal.value, text)

    def _request(self, request: str, message: Request, call: str | None) -> None:
        """Answer what is no call and no NOTIFY of ours; 405 for other methods comes from the user agent."""
        status = 200
        fields: Fields = ()
        if self._services.request(request, message, call, self._contact(), self._now):
            return
        if self._messages.request(request, message, self._impu, self._now):
            return
        if message.method == "NOTIFY":
            status = 481
        elif message.method == "INFO" and "Info-Package" in message.headers:
            status, fields = 469, (("Recv-Info", ""),)  # RFC 6086 section 4.2.2: no package is taken
        elif message.method == "INFO" and message.body:
            status, fields = 415, (("Accept", "application/sdp"),)
        self._command(ua.Respond(request, status, None, fields))
        self._outputs.append(RequestReceived(message, call))

    def _send_message(self, event: SendMessage | SendSms) -> None:
        if self.status.state is reg.State.REGISTERED:
            self._messages.send(event, self._impu, self._now)
        else:
            reason = f"not registered with the IMS core: {self.status.reason}"
            self._outputs.append(MessageSent(event.key, None, reason))

    # ---- calls ----------------------------------------------------------------------------------------------------

    def _dial(self, event: Dial) -> None:
        if self.status.state is not reg.State.REGISTERED:
            reason = f"not registered with the IMS core: {self.status.reason}"
            self._outputs.append(Ended(event.call, None, reason, local=True))
            return
        contact = self._contact(anonymous=event.anonymous)
        self._calls.dial(event, self._impu, contact, self._services.dialled(event), self._now)

    def _incoming(self, incoming: ua.IncomingCall) -> None:
        if self._stopping:
            self._command(ua.Reject(incoming.call, 480))
        else:
            self._calls.incoming(incoming)

    def _call_says(self, output: Output) -> None:
        if isinstance(output, Ended):
            self._learn(output)
        self._outputs.append(output)
        self._services.call_says(output, self._impu, self._now)

    def _learn(self, ended: Ended) -> None:
        """Does the end of a call say that the registration is gone? (TS 24.229 clauses 5.1.2A.1.6, 5.1.1.2.1)"""
        if ended.local or self._stopping:
            return
        if asks_restoration(ended.message):
            self._suspect("the core asks to restore it")
        elif ended.status == 403:
            self._suspect("the core refused a call")
        elif ended.message is None and ended.cause in (ua.Cause.TIMEOUT, ua.Cause.TRANSPORT):
            self._suspect("the P-CSCF does not answer")

    # ---- what the user agent says of us ---------------------------------------------------------------------------

    def _agent_profile(self) -> ua.Profile:
        profile, path = self._profile, self._registration.path
        everywhere = ua.HeaderRule(profile.access_headers(), but=_NOT_THESE, responses=True)
        agreed = ua.HeaderRule(path.headers() if path else (), but=_NOT_THESE)
        return ua.Profile(
            contact=self._contact(),
            hop=path.hop if path else None,
            route=(path.route(), *self._registration.status.service_route) if path else (),
            sent_by=path.sent_by() if path else None,
            software=profile.user_agent,
            allow=_METHODS,
            supported=tuple(tag for tag in _SUPPORTED if tag != "precondition" or profile.preconditions),
            accept=_ACCEPT,
            rules=tuple(rule for rule in (everywhere, agreed) if rule.fields),
        )

    def _contact(self, *, anonymous: bool = False) -> str:
        """Where dialogs reach this UE: its public GRUU, else its address (TS 24.229 clause 5.1.2A.1.1).

        What an anonymous call shows names nobody: the temporary GRUU, else the address.
        """
        path, status = self._registration.path, self.status
        gruu = status.temporary_gruu if anonymous else status.public_gruu
        if path is None:
            path = GmPath(Target("UDP", self._profile.local), self._profile.local)
        return str(self._profile.call_contact(parse_uri(gruu) if gruu else path.contact_uri()))


def _plain(host: str) -> str:
    """Return one spelling of an address; those of the loopback interface are all the same host."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return host.lower()
    return "loopback" if address.is_loopback else str(address)
