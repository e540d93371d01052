"""The eP-CSCF (TS 24.371 annex A): between WebRTC clients on WebSockets (W2) and the core of IMS (Mw).

A record-routing proxy with an IMS-ALG, no B2BUA: dialogs and digests are end to end.  Towards clients nothing is used
but the connections that they opened; their contacts (``.invalid``) are never looked up.  Towards the core a client's
requests go to the I-CSCF, along the Service-Route of its registration, or along the route of a dialog, never along a
route that the client writes.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, replace

from imskit.engine import Tick, Tokens
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
    TransportFailed,
)
from imskit.sip.engine.proxy import (
    ContextEnded,
    Forward,
    ForwardTarget,
    ProxyCore,
    ProxyOutput,
    RecordRoute,
    RelayResponse,
    Resolved,
    Respond,
    ResponseReady,
    RouteRequest,
)
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Address, Flow, Target
from imskit.sip.wire.ims_headers import PChargingVector
from imskit.sip.wire.message import Request, Response, response_to
from imskit.sip.wire.uri import OtherUri, SipUri
from network_edge.ep_cscf.engine import refusals
from network_edge.ep_cscf.engine.access import bearer_of, clean_credentials, token_refusal, unavailable
from network_edge.ep_cscf.engine.dialogs import MAKES_DIALOGS, Dialogs, WebDialog, contact_of
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
    Side,
    TokenAccepted,
    TokenClaims,
    TokenRefused,
    ValidateToken,
)
from network_edge.ep_cscf.engine.flows import Flows
from network_edge.ep_cscf.engine.identities import anonymous, key_of, network_parameter, preferred
from network_edge.ep_cscf.engine.ims_alg import ImsAlg
from network_edge.ep_cscf.engine.network_release import NetworkRelease
from network_edge.ep_cscf.engine.reg_event import Ended, RegEvents, names_contact
from network_edge.ep_cscf.engine.registering import Draft, Outcome, Registering, refuse
from network_edge.ep_cscf.engine.registrations import Binding, Bindings, Scenario
from network_edge.ep_cscf.engine.settings import EpCscfSettings
from network_edge.ep_cscf.engine.towards_core import TowardsCore
from network_edge.ep_cscf.engine.trickle import MediaCandidates
from network_edge.ep_cscf.engine.trust import TrustBorder, vector_of

_log = logging.getLogger(__name__)

type EpCscfEvent = (
    Received | Resolved | TransportFailed | FlowClosed | Tick | TokenAccepted | TokenRefused | MediaEvent | Draining
)
type EpCscfOutput = ProxyOutput | ValidateToken | MediaOutput | MediaCandidates | CallStep | RegistrationStep | DropFlow

_WEB = frozenset({"WS", "WSS"})
_STEP = RegistrationStepKind


@dataclass(slots=True)
class _Context:
    """A request on its way between a client and IMS."""

    side: Side
    """Where it came from."""
    binding: Binding
    request: Request
    """As it came, cleaned."""
    dialog: WebDialog | None = None
    """In which it runs; ``None`` outside of any."""
    icid: str = ""
    vector: PChargingVector | None = None
    """That of a request from IMS."""
    record_routes: tuple[str, ...] | None = None
    """What a client must give back in responses that make a dialog."""


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
        self._w2 = w2
        self._mw = mw.address
        self._settings = settings
        self._tokens = tokens
        self._alg = alg
        self._draining = False
        self._trusted = settings.core_addresses | {core.address[0]}
        self._strangers: set[str] = set()
        self._proxy = ProxyCore(
            tokens,
            own=[*w2, self._mw],
            max_transactions=settings.maximum_transactions,
            retry_after=settings.retry_after,
        )
        self._flows = Flows(settings.limits)
        self._bindings = Bindings(settings.maximum_registrations, settings.flow_return_seconds)
        self._dialogs = Dialogs()
        self._border = TrustBorder(settings, tokens)
        self._registering = Registering(settings, self._mw, self._bindings, self._flows, self._border, tokens)
        self._reg_events = RegEvents(SipUri("sip", None, None, *self._mw), tokens)
        self._core = TowardsCore(core, SentBy(*self._mw))
        self._release = NetworkRelease(self._dialogs, self._core, self._border, tokens, self._proxy.handle)
        self._contexts: dict[str, _Context] = {}
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
                self._draining = on
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
        due = [self._proxy.deadline(), self._bindings.deadline(), self._reg_events.deadline()]
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
                self._give_up_calls(binding, refusals.reason(27, "flow-lost: the client stays away"), now)
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
        self._dialogs.context_ended(context)
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
                if not self._flows.began(asked.flow):
                    return Respond(asked.context, unavailable(request, self._settings.retry_after))
                self._counted[asked.context] = asked.flow
                if (token := bearer_of(request)) is not None:
                    self._asking[asked.context] = asked
                    self._outputs.append(ValidateToken(asked.context, token))
                    return None
            if request.method == "REGISTER":
                return self._register(asked, None, 0.0, now)
            return self._from_web(asked, None, now)
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
            return self._from_web(asked, claims, now)
        except SipParseError as error:
            return Respond(asked.context, response_to(request, error.status, error.reason))

    def _register(self, asked: RouteRequest, claims: TokenClaims | None, left: float, now: float) -> Forward | Respond:
        request = asked.request
        draft = self._registering.begin(request, asked.flow, now, claims, left, draining=self._draining)
        if isinstance(draft, Response):
            scenario: Scenario = "digest" if claims is None else "token"
            self._step(_STEP.REFUSED, scenario, str(request.to.uri), f"{draft.status} {draft.reason}")
            return Respond(asked.context, draft)
        self._drafts[asked.context] = draft
        return Forward(asked.context, (self._core.entry,), request)

    def _from_web(self, asked: RouteRequest, claims: TokenClaims | None, now: float) -> Forward | Respond:
        """Clause 5.2.6.3: only a registered client, with an identity of its own, by the way its registrar named."""
        request = asked.request
        clean_credentials(request, self._settings.authorization_entity)
        bindings = self._bindings.on(asked.flow)
        if claims is not None:
            bindings = [binding for binding in bindings if binding.impi == claims.impi]
            if not bindings:
                return self._refuse(asked, 403, "the access token is of another user")
        if request.to.tag is not None:
            return self._from_web_in_dialog(asked, bindings)
        uri = request.request_uri
        if isinstance(uri, OtherUri) and str(uri).lower().startswith("urn:service:sos"):
            return self._refuse(asked, 380, "no emergency calls here: dial from a telephone")
        standing = [binding for binding in bindings if binding.active(now) and binding.identities]
        if not standing:
            return self._refuse(asked, 403, "this client is not registered here")
        if (parameter := network_parameter(request)) is not None:
            return self._refuse(asked, 403, f"a client may not say {parameter}")
        binding, identity = standing[0], None
        for each in standing:
            if (identity := preferred(request, each.identities)) is not None:
                binding = each
                break
        sender = request.from_.uri
        own = {key_of(each) for every in standing for each in every.identities}
        if key_of(sender) not in own and not anonymous(sender):
            return self._refuse(asked, 403, "From is none of this user's identities")
        if (refusal := self._too_many(asked, binding)) is not None:
            return refusal
        self._border.inward(request)
        for name in ("P-Preferred-Identity", "Route"):
            request.headers.remove(name)
        request.headers.add("P-Asserted-Identity", f"<{str.__str__(identity or binding.identities[0])}>")
        icid = self._border.new_icid()
        self._border.charge(request, icid)
        for route in binding.service_route:
            request.headers.add("Route", route)
        record = self._record_route(binding, inward=True) if request.method in MAKES_DIALOGS else None
        self._contexts[asked.context] = _Context(Side.WEB, binding, request.copy(), icid=icid)
        return Forward(asked.context, (self._core.along(binding.service_route, record),), request)

    def _from_web_in_dialog(self, asked: RouteRequest, bindings: list[Binding]) -> Forward | Respond:
        """Clause 5.2.6.3.5: along the route that was recorded, which leads into the core and nowhere else."""
        request = asked.request
        for binding in bindings:
            key = (binding.token, request.call_id, request.from_.tag or "", request.to.tag or "")
            if (dialog := self._dialogs.get(key)) is not None:
                break
        else:
            return self._refuse(asked, 481, "no such dialog of this client's")
        dialog.saw(request, Side.WEB)
        self._border.inward(request)
        for name in ("P-Preferred-Identity", "Route"):
            request.headers.remove(name)
        self._border.charge(request, dialog.icid)
        for route in dialog.routes:
            request.headers.add("Route", route)
        if not dialog.routes:
            request.uri = dialog.ims_target
        self._contexts[asked.context] = _Context(Side.WEB, binding, request.copy(), dialog)
        return Forward(asked.context, (self._core.along(dialog.routes or (f"<{dialog.ims_target}>",)),), request)

    def _from_core(self, asked: RouteRequest, now: float) -> Forward | Respond:
        """Clause 5.2.6.4: the token in Path or Record-Route says which client."""
        request = asked.request
        if (notified := self._reg_events.notified(request)) is not None:
            response, ended = notified
            for each in ended:
                self._ended_by_the_network(each, now)
            return Respond(asked.context, response)
        if not asked.own_routes and request.method == "OPTIONS":
            return Respond(asked.context, response_to(request, 200))
        tokens = [uri.user for uri in asked.own_routes if uri.user]
        found = (self._bindings.of_token(token) for token in tokens)
        binding = next((each for each in found if each is not None), None)
        initial = request.to.tag is None
        if binding is None:
            # RFC 5626 section 5.3.1: after a restart, too, the registrar is to forget this flow.
            return self._refuse(asked, 430 if initial and tokens else 481, "nobody here has this token")
        if initial and not binding.active(now):
            return self._refuse(asked, 480, "the client is not registered here any more")
        dialog = None
        if not initial:
            key = (binding.token, request.call_id, request.to.tag or "", request.from_.tag or "")
            dialog = self._dialogs.get(key)
        if binding.flow is None:
            if dialog is not None and request.method == "BYE":
                self._release.hang_up_later(dialog)
                return Respond(asked.context, response_to(request, 200))
            return self._refuse(asked, 430, "the client's connection is gone")
        if initial and (refusal := self._too_many(asked, binding)) is not None:
            return refusal
        vector = vector_of(request)
        self._border.outward(request)
        record = self._record_route(binding, inward=False) if initial and request.method in MAKES_DIALOGS else None
        context = _Context(Side.IMS, binding, request.copy(), dialog, vector.icid if vector else "", vector)
        if dialog is not None:
            dialog.saw(request, Side.IMS)
            if _terminates(request):
                self._dialogs.remove(dialog)
        if record is not None:
            context.record_routes = tuple(f"<{uri}>" for uri in _recorded(record)) + tuple(
                request.headers.elements("Record-Route")
            )
        self._contexts[asked.context] = context
        target = ForwardTarget(
            destinations=(binding.flow,), record_route=record, sent_by=SentBy(*self._w2_of(binding.flow))
        )
        return Forward(asked.context, (target,), request)

    def _too_many(self, asked: RouteRequest, binding: Binding) -> Respond | None:
        """Refuse new calls while draining, and more dialogs than one registration may have."""
        method = asked.request.method
        crowded = method in MAKES_DIALOGS and self._dialogs.count(binding.token) >= self._settings.limits.dialogs
        if (method == "INVITE" and self._draining) or crowded:
            return Respond(asked.context, unavailable(asked.request, self._settings.retry_after))
        return None

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
            if context.side is Side.IMS:
                if ready.origin == "unreachable" and context.dialog is None:
                    response = refuse(context.request, 430, "the client's connection is gone")
                self._from_called(context, response)
            else:
                if ready.origin != "received" and response.status == 503:
                    response.headers.set("Retry-After", self._settings.retry_after)
                self._border.outward(response)
            self._note_dialog(ready.context, context, response)
        except SipParseError as error:
            _log.warning("a %d response cannot be relayed: %s", response.status, error)
            request = draft.request if draft is not None else context.request if context is not None else None
            if request is None or response.provisional:
                return RelayResponse(ready.context, None)
            response = response_to(request, 502)
        if self._alg is None or context is None:
            return RelayResponse(ready.context, response)
        return self._alg.response(replace(ready, response=response), now)

    def _from_called(self, context: _Context, response: Response) -> None:
        """Clause 5.2.6.4.4: who answers is who was called; the route is what was recorded on the way."""
        headers, request, binding = response.headers, context.request, context.binding
        self._border.inward(response)
        self._border.charge_response(response, context.vector)
        if request.to.tag is None and binding.identities:
            called = request.addresses("P-Called-Party-ID")
            wanted = key_of(called[0].uri) if called else ""
            answering = next((each for each in binding.identities if key_of(each) == wanted), binding.identities[0])
            headers.add("P-Asserted-Identity", f"<{str.__str__(answering)}>")
        if context.record_routes is not None and 100 < response.status < 300:
            headers.remove("Record-Route")
            for value in context.record_routes:
                headers.add("Record-Route", value)

    def _note_dialog(self, key: str, context: _Context, response: Response) -> None:
        """Keep the dialogs that responses make, and forget those that they end."""
        request, dialog = context.request, context.dialog
        if dialog is not None:
            if response.success:
                dialog.refresh(response, Side.IMS if context.side is Side.WEB else Side.WEB)
            if not response.provisional and (
                response.status in (408, 481) or (request.method == "BYE" and response.status not in (401, 407))
            ):
                self._dialogs.remove(dialog)
            return
        if response.status >= 300:
            self._dialogs.context_ended(key)
        tag = response.to.tag
        if request.method not in MAKES_DIALOGS or not tag or not 100 < response.status < 300:
            return
        token, call_id, own = context.binding.token, request.call_id, request.from_.tag or ""
        from_web = context.side is Side.WEB
        dialog_key = (token, call_id, own, tag) if from_web else (token, call_id, tag, own)
        known = self._dialogs.get(dialog_key)
        if known is None:
            if self._dialogs.count(token) >= self._settings.limits.dialogs:
                _log.warning("more forks of one request than a registration may have dialogs")
                return
            caller, called = request.headers.get("From") or "", response.headers.get("To") or ""
            routes = response.record_routes[::-1] if from_web else request.record_routes
            beyond = tuple(str(route) for route in routes if not self._ours(route.uri))
            sequence = request.cseq.number
            known = WebDialog(
                key=dialog_key,
                method=request.method,
                caller=context.side,
                context=key,
                icid=context.icid,
                routes=beyond,
                web=caller if from_web else called,
                ims=called if from_web else caller,
                web_target=contact_of(request if from_web else response),
                ims_target=contact_of(response if from_web else request),
                web_sequence=sequence if from_web else 0,
                ims_sequence=0 if from_web else sequence,
            )
            self._dialogs.add(known)
        elif contact_of(response):
            known.refresh(response, Side.IMS if from_web else Side.WEB)
        known.confirmed = known.confirmed or response.success

    def _ours(self, uri: object) -> bool:
        return isinstance(uri, SipUri) and (uri.host, uri.port) in (self._mw, *self._w2)

    # ---- registrations ------------------------------------------------------------------------------------------

    def _registered(self, draft: Draft, ready: ResponseReady, now: float) -> Response:
        response = ready.response
        if ready.origin != "received":
            response = unavailable(draft.request, self._settings.retry_after)
        outcome: Outcome = self._registering.answered(draft, response, now)
        scenario = draft.binding.scenario
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

    def _give_up_calls(self, binding: Binding, reason: str, now: float) -> None:
        """Clause 5.2.8.1: end what runs for a client that is no longer there or no longer registered."""
        if self._alg is not None:
            self._alg.forget(binding.token, now)
        self._release.everything_of(binding, reason, now)
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

    def _refuse_pending(self, key: str, context: _Context, status: int, reason: str, now: float) -> None:
        response = response_to(context.request, status)
        response.headers.add("Reason", reason)
        self._go_on(Respond(key, response), now)

    # ---- helpers ------------------------------------------------------------------------------------------------

    def _step(self, kind: RegistrationStepKind, scenario: Scenario, identity: str, detail: str = "") -> None:
        step = RegistrationStep(kind, scenario, Identity(identity), detail)
        _log.info("%r: %s (%s)%s", step.identity, kind.value, scenario, f": {detail}" if detail else "")
        self._outputs.append(step)

    def _refuse(self, asked: RouteRequest, status: int, words: str) -> Respond:
        return Respond(asked.context, refuse(asked.request, status, words))

    def _w2_of(self, flow: Flow) -> Address:
        return flow.local if flow.local in self._w2 else self._w2[0]

    def _record_route(self, binding: Binding, *, inward: bool) -> RecordRoute:
        host, port = self._w2_of(binding.flow) if binding.flow is not None else self._w2[0]
        w2 = SipUri("sip", binding.token, None, host, port).with_parameter("transport", "ws").with_parameter("lr")
        mw = SipUri("sip", binding.token, None, *self._mw).with_parameter("lr")
        return RecordRoute(w2, mw) if inward else RecordRoute(mw, w2)


def _recorded(record: RecordRoute) -> tuple[SipUri, SipUri]:
    """Return the values that `ProxyCore` puts in front, the next hop's first (RFC 5658)."""
    return record.next.with_parameter("r2", "on"), record.previous.with_parameter("r2", "on")


def _terminates(request: Request) -> bool:
    """Whether a NOTIFY ends its subscription."""
    state = request.subscription_state if request.method == "NOTIFY" else None
    return state is not None and state.state == "terminated"
