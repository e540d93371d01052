"""The eP-CSCF (TS 24.371 annex A): between WebRTC clients on WebSockets (W2) and the core of IMS (Mw).

A record-routing proxy with an IMS-ALG, no B2BUA: dialogs and digests are end to end.  Towards clients nothing is used
but the connections that they opened; their contacts (``.invalid``) are never looked up.  Towards the core a client's
requests go to the I-CSCF, along the Service-Route of its registration, or along the route of a dialog, never along a
route that the client writes.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace

from imskit.engine import Tick, Tokens
from imskit.ims.public_identities import key_of
from imskit.secrets import Identity
from imskit.sip.engine.events import (
    FlowClosed,
    Received,
    ResponseReceived,
    SendRequest,
    SentBy,
    TransactionEnded,
    TransactionFailed,
    TransactionTimeout,
    Transmit,
    TransportFailed,
)
from imskit.sip.engine.proxy import (
    ContextEnded,
    Forward,
    ProxyCore,
    ProxyOutput,
    RelayResponse,
    Resolved,
    Respond,
    ResponseReady,
    RouteRequest,
)
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Address, Flow, Target
from imskit.sip.wire.message import Request, Response, response_to
from imskit.sip.wire.uri import SipUri
from network_edge.ep_cscf.engine import refusals
from network_edge.ep_cscf.engine.access import bearer_of, token_refusal, unavailable
from network_edge.ep_cscf.engine.dialogs import Dialogs, WebDialog
from network_edge.ep_cscf.engine.early_answers import confirm
from network_edge.ep_cscf.engine.effects import (
    CallStep,
    Draining,
    DropFlow,
    MediaEvent,
    MediaFailed,
    MediaLost,
    MediaOutput,
    MediaReady,
    RegistrationStep,
    RegistrationStepKind,
    ReleaseCall,
    TokenAccepted,
    TokenClaims,
    TokenRefused,
    ValidateToken,
)
from network_edge.ep_cscf.engine.flows import Flows
from network_edge.ep_cscf.engine.guesses import Guesses, was_wrong
from network_edge.ep_cscf.engine.ims_alg import ImsAlg
from network_edge.ep_cscf.engine.network_release import NetworkRelease
from network_edge.ep_cscf.engine.own_requests import OwnRequests
from network_edge.ep_cscf.engine.reg_event import Ended, RegEvents, names_contact
from network_edge.ep_cscf.engine.registering import Draft, Outcome, Registering
from network_edge.ep_cscf.engine.registrations import Binding, Bindings, Scenario
from network_edge.ep_cscf.engine.requests import Requests, Transit
from network_edge.ep_cscf.engine.responses import Responses
from network_edge.ep_cscf.engine.settings import EpCscfSettings
from network_edge.ep_cscf.engine.telephone_uris import readable
from network_edge.ep_cscf.engine.towards_core import TowardsCore
from network_edge.ep_cscf.engine.trickle import MediaCandidates
from network_edge.ep_cscf.engine.trust import TrustBorder
from network_edge.wwsf.limits import address_key

_log = logging.getLogger(__name__)

type EpCscfEvent = (
    Received | Resolved | TransportFailed | FlowClosed | Tick | TokenAccepted | TokenRefused | MediaEvent | Draining
)
type EpCscfOutput = ProxyOutput | ValidateToken | MediaOutput | MediaCandidates | CallStep | RegistrationStep | DropFlow

_WEB = frozenset({"WS", "WSS"})
_STEP = RegistrationStepKind


class EpCscf:
    """The engine.

    ``w2`` are its WebSocket addresses, ``mw`` its own address on Mw and ``core`` the I-CSCF's.  ``alg`` takes care of
    descriptions; without one they pass as they are, for media that need no gateway.
    """

    def __init__(
        self,
        w2: tuple[Address, ...],
        mw: Target,
        core: Target,
        settings: EpCscfSettings,
        tokens: Tokens,
        alg: ImsAlg | None = None,
    ) -> None:
        self._mw = mw.address
        self._settings = settings
        self._tokens = tokens
        self._alg = alg
        self._trusted = settings.core_addresses | {core.address[0]}
        self._strangers: set[str] = set()
        self._proxy = ProxyCore(
            tokens,
            own=[*w2, self._mw],
            max_transactions=settings.maximum_transactions,
            retry_after=settings.retry_after,
        )
        self._flows = Flows(settings.limits)
        self._guesses = Guesses()
        self._bindings = Bindings(settings.maximum_registrations, settings.flow_return_seconds)
        self._dialogs = Dialogs(self._dialog_over)
        self._border = TrustBorder(settings, tokens)
        own = SipUri("sip", None, None, *self._mw)
        if mw.transport != "UDP":
            own = own.with_parameter("transport", mw.transport.lower())
        self._registering = Registering(settings, own, self._bindings, self._flows, self._border, tokens)
        self._reg_events = RegEvents(own, tokens)
        self._core = TowardsCore(core, SentBy(*self._mw), self._trusted)
        self._own_requests = OwnRequests(self._core, self._border, tokens, self._proxy.handle)
        self._release = NetworkRelease(self._dialogs, self._own_requests)
        self._contexts: dict[str, Transit] = {}
        self._requests = Requests(
            settings,
            w2,
            own,
            self._bindings,
            self._dialogs,
            self._border,
            self._core,
            self._release,
            self._contexts,
            tokens,
        )
        self._responses = Responses(settings, self._dialogs, self._border)
        self._drafts: dict[str, Draft] = {}
        self._asking: dict[str, RouteRequest] = {}
        """Requests whose token is being looked at."""
        self._counted: dict[str, Flow] = {}
        self._outputs: deque[EpCscfOutput] = deque()

    @property
    def registrations(self) -> int:
        """How many registrations there are."""
        return len(self._bindings)

    @property
    def flows(self) -> int:
        """How many connections of clients have sent something and live."""
        return len(self._flows)

    def unused(self, seconds: float, now: float) -> list[Flow]:
        """Return the connections on which messages came, but nobody was registered for so long."""
        return self._flows.unused(self.registered, seconds, now)

    def registered(self, flow: Flow) -> bool:
        """Whether anybody is registered on this connection."""
        return bool(self._bindings.on(flow))

    @property
    def dialogs(self) -> int:
        """How many dialogs run through here."""
        return len(self._dialogs)

    @property
    def requests(self) -> int:
        """How many requests are on their way."""
        return self._proxy.contexts

    # ---- the engine's contract ----------------------------------------------------------------------------------

    def handle(self, event: EpCscfEvent, now: float) -> None:
        """Take in one event; raises nothing."""
        match event:
            case Received():
                if self._admits(event, now):
                    self._proxy.handle(event, now)
            case FlowClosed(flow):
                self._flow_closed(flow, now)
                self._proxy.handle(event, now)
            case TokenAccepted(key, claims, left):
                if (asked := self._asking.pop(key, None)) is not None:
                    self._answer_route(asked, self._with_token(asked, claims, left, now), now)
            case TokenRefused(key, error, description):
                if (asked := self._asking.pop(key, None)) is not None:
                    _log.info("%s refused: %s (%s)", asked.request.method, error, description)
                    if asked.request.method == "REGISTER":
                        self._step(_STEP.REFUSED, "token", str(asked.request.to.uri), error)
                    self._go_on(Respond(asked.context, token_refusal(asked.request, error, self._settings)), now)
            case MediaReady() | MediaFailed() | MediaLost():
                if self._alg is not None:
                    self._alg.handle(event, now)
            case Draining(on):
                _log.info("draining: new calls and registrations are %s", "refused" if on else "taken again")
                self._requests.draining = on
            case Tick():
                self._tick(event, now)
            case _:
                self._proxy.handle(event, now)
        self._drain(now)

    def poll(self) -> EpCscfOutput | None:
        """Return the next output."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """When something is due next."""
        due = [self._proxy.deadline(), self._bindings.deadline(), self._reg_events.deadline(), self._dialogs.deadline()]
        if self._alg is not None:
            due.append(self._alg.deadline())
        return min((at for at in due if at is not None), default=None)

    def _drain(self, now: float) -> None:
        while True:
            if (output := self._proxy.poll()) is not None:
                self._take(output, now)
            elif (sending := self._reg_events.poll()) is not None:
                key, request = sending
                self._proxy.handle(SendRequest(request, self._core.hop(request), key, self._core.sent_by), now)
            elif self._alg is not None and (said := self._alg.poll()) is not None:
                match said:
                    case Forward() | Respond() | RelayResponse():
                        self._go_on(said, now)
                    case ReleaseCall():
                        self._released(said, now)
                    case _:
                        self._outputs.append(said)
            else:
                return

    def _take(self, output: ProxyOutput, now: float) -> None:
        match output:
            case RouteRequest():
                self._answer_route(output, self._route(output, now), now)
            case ResponseReady():
                if (relayed := self._relay(output, now)) is not None:
                    self._go_on(relayed, now)
            case ContextEnded(context):
                self._context_ended(context, now)
            case ResponseReceived(key, response):
                if not response.provisional:
                    self._reg_events.answered(key, response, now)
            case TransactionTimeout(key) | TransactionFailed(key):
                self._reg_events.answered(key, None, now)
            case TransactionEnded():
                pass
            case Transmit(message=Request() as request, destination=Flow() as flow) if flow.transport in _WEB:
                readable(request, self._settings.home_domain)
                self._outputs.append(output)
            case _:
                self._outputs.append(output)

    def _tick(self, event: Tick, now: float) -> None:
        self._proxy.handle(event, now)
        if self._alg is not None:
            self._alg.handle(event, now)
        for binding, why in self._bindings.due(now):
            if why == "expired":
                self._end(binding, _STEP.EXPIRED, now)
            else:
                _log.info("%r stays away: its calls are released", binding.impi)
                reason = refusals.reason(27, "flow-lost: the client stays away")
                self._give_up_calls(binding, reason, now, returns=True)
        self._dialogs.tick(now)
        self._reg_events.tick(now)

    def _admits(self, event: Received, now: float) -> bool:
        """Whether a message is looked at: a client's if it keeps to its rate, on Mw only the core's."""
        flow = event.flow
        if flow.transport in _WEB:
            if self._flows.message(flow, now):
                return True
            if self._flows.floods(flow):
                _log.warning("%s floods: closed", flow)
                self._outputs.append(DropFlow(flow, "too many messages"))
            return False
        host = flow.remote[0]
        if host in self._trusted:
            return True
        if host not in self._strangers and len(self._strangers) < 1000:
            self._strangers.add(host)
            _log.warning("%s is not the core's: what comes from there on Mw is dropped (core_addresses)", host)
        return False

    def _context_ended(self, context: str, now: float) -> None:
        self._contexts.pop(context, None)
        self._drafts.pop(context, None)
        self._asking.pop(context, None)
        self._dialogs.context_ended(context, now)
        self._uncount(context)
        if self._alg is not None:
            self._alg.ended(context, now)

    def _uncount(self, context: str) -> None:
        """A client's request has its answer."""
        if (flow := self._counted.pop(context, None)) is not None:
            self._flows.ended(flow)

    # ---- requests -----------------------------------------------------------------------------------------------

    def _answer_route(self, asked: RouteRequest, answer: Forward | Respond | None, now: float) -> None:
        """Hand the answer to the proxy, by way of the ALG where a request goes on."""
        if answer is None:
            return
        context = self._contexts.get(asked.context)
        if isinstance(answer, Forward) and context is not None and self._alg is not None:
            request = answer.request or asked.request
            said = self._alg.request(answer, request, context.side, context.binding.token, now)
            if said is None:
                return
            answer = said
        self._go_on(answer, now)

    def _go_on(self, answer: Forward | Respond | RelayResponse, now: float) -> None:
        context = self._contexts.get(answer.context)
        if not isinstance(answer, Forward) and answer.response is not None:
            if context is not None:
                self._release.relayed(answer.context, answer.response)
            if not answer.response.provisional:
                self._uncount(answer.context)
        self._proxy.handle(answer, now)
        if context is not None and context.request.method == "ACK":
            # No response, and no end, will come.
            self._contexts.pop(answer.context, None)

    def _route(self, asked: RouteRequest, now: float) -> Forward | Respond | None:
        request = asked.request
        try:
            if asked.flow.transport not in _WEB:
                return self._from_core(asked, now)
            if request.method != "ACK":
                if not self._flows.began(asked.flow, registered=self.registered(asked.flow)):
                    return Respond(asked.context, unavailable(request, self._settings.retry_after))
                self._counted[asked.context] = asked.flow
                if (token := bearer_of(request)) is not None:
                    self._asking[asked.context] = asked
                    self._outputs.append(ValidateToken(asked.context, token, asked.flow.remote[0]))
                    return None
            if request.method == "REGISTER":
                return self._register(asked, None, 0.0, now)
            return self._requests.from_web(asked, None, now)
        except SipParseError as error:
            return Respond(asked.context, response_to(request, error.status, error.reason))

    def _with_token(
        self, asked: RouteRequest, claims: TokenClaims, left: float, now: float
    ) -> Forward | Respond | None:
        request = asked.request
        try:
            if asked.flow not in self._flows:
                return Respond(asked.context, response_to(request, 430))
            if request.method == "REGISTER":
                return self._register(asked, claims, left, now)
            return self._requests.from_web(asked, claims, now)
        except SipParseError as error:
            return Respond(asked.context, response_to(request, error.status, error.reason))

    def _register(self, asked: RouteRequest, claims: TokenClaims | None, left: float, now: float) -> Forward | Respond:
        request = asked.request
        if claims is None and (wait := self._guesses.wait(address_key(asked.flow.remote[0]), now)):
            _log.warning("too many wrong passwords from the address of %s", asked.flow)
            return Respond(asked.context, unavailable(request, wait))
        draft = self._registering.begin(request, asked.flow, now, claims, left, draining=self._requests.draining)
        if isinstance(draft, Response):
            scenario: Scenario = "digest" if claims is None else "token"
            self._step(_STEP.REFUSED, scenario, str(request.to.uri), f"{draft.status} {draft.reason}")
            return Respond(asked.context, draft)
        self._drafts[asked.context] = draft
        return Forward(asked.context, (self._core.entry,), request)

    def _from_core(self, asked: RouteRequest, now: float) -> Forward | Respond:
        request = asked.request
        if (notified := self._reg_events.notified(request, now)) is not None:
            response, ended = notified
            for each in ended:
                self._ended_by_the_network(each, now)
            return Respond(asked.context, response)
        if not asked.own_routes and request.method == "OPTIONS":
            return Respond(asked.context, response_to(request, 200))
        return self._requests.from_core(asked, now)

    # ---- responses ----------------------------------------------------------------------------------------------

    def _relay(self, ready: ResponseReady, now: float) -> RelayResponse | Respond | None:
        response = ready.response
        draft = self._drafts.get(ready.context)
        context = self._contexts.get(ready.context)
        try:
            if draft is not None:
                return RelayResponse(ready.context, self._registered(draft, ready, now))
            if context is None:
                return RelayResponse(ready.context, response)
            response = self._responses.edit(ready, context, now)
            if self._alg is not None and self._alg.acknowledges(ready.context):
                dialog = self._responses.made(context, response)
                if dialog is not None and not confirm(dialog, response, self._own_requests, now):
                    return RelayResponse(ready.context, None)
        except SipParseError as error:
            _log.warning("a %d response cannot be relayed: %s", response.status, error)
            request = draft.request if draft is not None else context.request if context is not None else None
            if request is None or response.provisional:
                return RelayResponse(ready.context, None)
            response = response_to(request, 502)
        if self._alg is None or context is None:
            return RelayResponse(ready.context, response)
        return self._alg.response(replace(ready, response=response), now)

    # ---- registrations ------------------------------------------------------------------------------------------

    def _registered(self, draft: Draft, ready: ResponseReady, now: float) -> Response:
        response = ready.response
        if ready.origin != "received":
            response = unavailable(draft.request, self._settings.retry_after)
        outcome: Outcome = self._registering.answered(draft, response, now)
        scenario = draft.binding.scenario
        if scenario == "digest" and was_wrong(draft.request, response):
            self._guesses.wrong(draft.source, now)
        if outcome.refused:
            self._step(_STEP.REFUSED, scenario, draft.binding.key[1], outcome.refused)
        for binding in outcome.ended:
            self._end(binding, _STEP.DEREGISTERED, now)
        if (added := outcome.added) is not None:
            known = outcome.replaced
            self._bindings.put(added)
            kind = _STEP.REGISTERED if known is None else _STEP.REFRESHED
            self._step(kind, scenario, str.__str__(added.identities[0]) if added.identities else "")
            if self._settings.reg_event and added.identities:
                self._reg_events.watch(added.impi, added.identities[0])
            if known is not None and known.flow != added.flow and added.flow is not None:
                self._flow_back(known, added, now)
        return outcome.response

    def _flow_back(self, known: Binding, added: Binding, now: float) -> None:
        """The same instance has come over another connection: its dialogs run there from now on."""
        _log.info("%r goes on over %s", added.impi, added.flow)
        if known.flow is not None and not self._bindings.on(known.flow):
            self._outputs.append(DropFlow(known.flow, "the client has another connection"))
        if self._alg is not None:
            self._alg.flow_back(added.token, now)
        self._release.flow_back(added, now)

    def _flow_closed(self, flow: Flow, now: float) -> None:
        self._flows.closed(flow)
        for binding in self._bindings.lost(flow, now):
            if self._alg is not None:
                self._alg.flow_lost(binding.token, now)

    def _ended_by_the_network(self, ended: Ended, now: float) -> None:
        """Clause 5.2.5.2: the registration is gone; the client hears of it from its registrar or when it asks."""
        gone = key_of(ended.identity)
        for binding in self._bindings.standing(ended.impi):
            if gone in {key_of(each) for each in binding.identities} and names_contact(ended, binding.contacts):
                self._end(binding, _STEP.NETWORK_ENDED, now, ended.reason)

    def _end(self, binding: Binding, kind: RegistrationStepKind, now: float, detail: str = "") -> None:
        if not self._bindings.end(binding, now):
            return
        identity = str.__str__(binding.identities[0]) if binding.identities else ""
        self._step(kind, binding.scenario, identity, detail)
        others = self._bindings.standing(str.__str__(binding.impi))
        if binding.identities and not any(identity in each.identities for each in others):
            self._reg_events.forget(binding.impi, binding.identities[0])
        self._give_up_calls(
            binding, refusals.reason(27, "registration-ended: the client is not registered any more"), now
        )

    def _dialog_over(self, dialog: WebDialog, now: float) -> None:
        """Nothing is left of a dialog's media either."""
        if self._alg is not None:
            self._alg.dialog_over(*dialog.key, now)

    def _give_up_calls(self, binding: Binding, reason: str, now: float, *, returns: bool = False) -> None:
        """Clause 5.2.8.1: end what runs for a client that is no longer there or no longer registered."""
        if self._alg is not None:
            self._alg.forget(binding.token, now)
        self._release.everything_of(binding, reason, now, returns=returns)
        for key, context in list(self._contexts.items()):
            if context.binding.token == binding.token and context.request.method == "INVITE":
                self._refuse_pending(key, context, 480, reason, now)

    def _released(self, release: ReleaseCall, now: float) -> None:
        """Clause 5.2.8.1, as the ALG wants it."""
        binding = self._bindings.of_token(release.party)
        if release.callee_tags and binding is not None:
            for tag in release.callee_tags:
                self._release.dialog_of(binding, release.call_id, release.caller_tag, tag, release.reason, now)
            return
        for key, context in list(self._contexts.items()):
            request = context.request
            if (
                request.method == "INVITE"
                and context.binding.token == release.party
                and request.call_id == release.call_id
                and request.from_.tag == release.caller_tag
            ):
                self._refuse_pending(key, context, release.status, release.reason, now)

    def _refuse_pending(self, key: str, context: Transit, status: int, reason: str, now: float) -> None:
        response = response_to(context.request, status)
        response.headers.add("Reason", reason)
        self._go_on(Respond(key, response), now)

    # ---- helpers ------------------------------------------------------------------------------------------------

    def _step(self, kind: RegistrationStepKind, scenario: Scenario, identity: str, detail: str = "") -> None:
        step = RegistrationStep(kind, scenario, Identity(identity), detail)
        _log.info("%r: %s (%s)%s", step.identity, kind.value, scenario, f": {detail}" if detail else "")
        self._outputs.append(step)
