"""I-CSCF and S-CSCF of the home network as one proxy (TS 24.229 clauses 5.3 and 5.4)."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from imskit.engine import Tick, Tokens
from imskit.sip.engine.dialog import next_hop
from imskit.sip.engine.events import ResponseReceived, SendRequest, SentBy, TransactionFailed, TransactionTimeout
from imskit.sip.engine.proxy import (
    ContextEnded,
    FlowFailed,
    Forward,
    ForwardTarget,
    ProxyCore,
    ProxyEvent,
    ProxyOutput,
    RecordRoute,
    RelayResponse,
    Respond,
    ResponseReady,
    RouteRequest,
)
from imskit.sip.engine.proxy_routing import is_own, literal_destination
from imskit.sip.engine.proxy_routing import next_hop as following_hop
from imskit.sip.wire.errors import SipParseError, reason_phrase
from imskit.sip.wire.flow import Address, Target
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.message import Request, Response, response_to
from imskit.sip.wire.uri import SipUri, TelUri, Uri
from simulators.ims_core.engine.bindings import Binding, RegisteredSubscriber
from simulators.ims_core.engine.i_cscf import TrustDomain, TrustedEdge
from simulators.ims_core.engine.reg_event import RegEventNotifier
from simulators.ims_core.engine.registrar import Registrar
from simulators.ims_core.engine.steps import CallSteps, Step
from simulators.ims_core.subscribers import Hss, Subscriber

_log = logging.getLogger(__name__)

_ORIGINATING = "orig"
"""User part of the Service-Route: a request that comes with it is served for its sender (clause 5.4.3.2)."""
_PRIVATE = ("P-Access-Network-Info", "P-Visited-Network-ID")
"""What ends at the S-CSCF of the sender (clause 5.4.3.2)."""


@dataclass(frozen=True, slots=True)
class Deregister:
    """End a subscriber's registration from the network's side (clause 5.4.1.5)."""

    subscriber: Subscriber
    event: str
    """What reg-event tells of its contacts: ``deactivated``, ``rejected`` … (RFC 3680 section 5.3)."""


@dataclass(frozen=True, slots=True)
class WebServersChanged:
    """The HSS lets other web servers vouch for a subscriber than before (Cx PPR)."""

    subscriber: Subscriber


type SCscfEvent = ProxyEvent | Deregister | WebServersChanged
type SCscfOutput = ProxyOutput | Step


class SCscf:
    """The engine: a `ProxyCore` whose questions about routes are answered from the registrar and the HSS.

    What `ProxyCore` says beside those questions (`Transmit`, `Resolve`) comes out of ``poll``, and `Step`.
    """

    def __init__(
        self,
        hss: Hss,
        domain: str,
        own: Target,
        p_cscfs: Iterable[Address],
        algorithms: Sequence[str],
        tokens: Tokens,
        *,
        protected_only: bool = False,
        services: Mapping[str, Target] | None = None,
        edges: Iterable[TrustedEdge] = (),
        digest_algorithms: Sequence[str] = ("SHA-256", "MD5"),
        entity_parameter: str = "authorization-entity",
    ) -> None:
        """``p_cscfs`` are the Mw addresses of the proxies: nothing leaves to anybody else but ``services``.

        Those are application servers that own a host name: requests to it go there (public service identities,
        TS 23.228 clause 5.4.12).  ``edges`` may register users whom they have authenticated.  The rest is as in
        `Registrar`.
        """
        self._services = {host.lower(): target for host, target in (services or {}).items()}
        self._trust = TrustDomain(p_cscfs, edges, [target.address for target in self._services.values()])
        host, port = own.address
        self._uri = SipUri("sip", None, None, host, port).with_parameter("lr")
        self._hss = hss
        self._domain = domain.lower()
        self._tokens = tokens
        self._to_send: list[Request] = []
        service_route = f"sip:{_ORIGINATING}@{host}:{port};lr"
        self.registrar = Registrar(
            hss,
            domain,
            algorithms,
            service_route,
            tokens,
            protected_only=protected_only,
            digest_algorithms=digest_algorithms,
            entity_parameter=entity_parameter,
        )
        self._notifier = RegEventNotifier(
            f"<sip:{host}:{port}>", tokens, self.registrar.registration, self._to_send.append
        )
        name = SentBy(host, port)
        self._own = frozenset({(host, port), (self._domain, None)})
        self._proxy = ProxyCore(tokens, own=self._own, sent_by={"UDP": name, "TCP": name})
        self._outputs: deque[SCscfOutput] = deque()
        self._steps = CallSteps()
        self._notifications: dict[str, Request] = {}
        self._called: dict[str, tuple[RegisteredSubscriber, float]] = {}
        """Whose contacts a request goes to, and since when, by context."""
        self._subscribed: dict[str, Response] = {}
        """Answers to SUBSCRIBE that a NOTIFY must follow, by context."""

    # ---- engine -------------------------------------------------------------------------------------------------

    def handle(self, event: SCscfEvent, now: float) -> None:
        """Take in one event."""
        if isinstance(event, Deregister):
            self.registrar.deregister(event.subscriber, event.event)
        elif isinstance(event, WebServersChanged):
            self.registrar.disallow(event.subscriber)
        else:
            if isinstance(event, Tick):
                self.registrar.expire(now)
                self._notifier.expire(now)
            self._proxy.handle(event, now)
        self._drain(now)

    def poll(self) -> SCscfOutput | None:
        """Return the next output."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """When something is due next."""
        waiting = (self._proxy.deadline(), self.registrar.deadline(), self._notifier.deadline())
        return min((at for at in waiting if at is not None), default=None)

    def _drain(self, now: float) -> None:
        while True:
            self._notify(now)
            output = self._proxy.poll()
            if output is None:
                return
            match output:
                case RouteRequest(context):
                    self._proxy.handle(self._route(output, now), now)
                    if (response := self._subscribed.pop(context, None)) is not None:
                        self._notifier.opened(response, now)
                case ResponseReady(context, response):
                    if response.status == 430:
                        # For this proxy and nobody beyond it (RFC 5626 section 11.5).
                        response.status, response.reason = 480, reason_phrase(480)
                    self._note_response(response)
                    self._proxy.handle(RelayResponse(context, response), now)
                case FlowFailed(context, target):
                    if context in self._called:
                        self.registrar.flow_failed(*self._called[context], target.uri, target.routes)
                case ContextEnded(context):
                    self._called.pop(context, None)
                case ResponseReceived(key, response):
                    if not response.provisional and (request := self._notifications.pop(key, None)) is not None:
                        self._notifier.answered(request, response.status, now)
                case TransactionTimeout(key) | TransactionFailed(key):
                    if (request := self._notifications.pop(key, None)) is not None:
                        self._notifier.answered(request, None, now)
                case _:
                    self._outputs.append(output)

    def _notify(self, now: float) -> None:
        """Tell subscribers what the registrar has noted, and send what the notifier has made."""
        events, self.registrar.events = self.registrar.events, []
        self._outputs.extend(Step(event.event, event.subscriber.number) for event in events)
        self._notifier.changed(events, now)
        while self._to_send:
            request = self._to_send.pop(0)
            try:
                target = next_hop(request)
            except SipParseError as error:
                _log.warning("NOTIFY cannot be sent: %s", error)
                continue
            key = f"notify-{self._tokens(16)}"
            self._notifications[key] = request
            self._proxy.handle(SendRequest(request.copy(), target, key), now)

    # ---- requests -----------------------------------------------------------------------------------------------

    def _route(self, asked: RouteRequest, now: float) -> Forward | Respond:
        request = asked.request
        try:
            if (refusal := self._trust.refusal(request, asked.flow.remote)) is not None:
                return _refuse(asked, 403, refusal)
            if request.method == "REGISTER":
                return self._register(asked, now)
            if request.to.tag is not None:
                return self._within_dialog(asked, now)
            if any(uri.user == _ORIGINATING for uri in asked.own_routes):
                return self._originating(asked, now)
            if request.method == "OPTIONS" and self._is_self(request.request_uri):
                return Respond(asked.context, response_to(request, 200))
            return self._terminating(asked, now)
        except SipParseError as error:
            return Respond(asked.context, response_to(request, error.status, error.reason))

    def _is_self(self, uri: Uri) -> bool:
        """Whether a request is for this server, not for a user: an OPTIONS asks whether it lives (RFC 3261 11.2)."""
        return isinstance(uri, SipUri) and not uri.user and is_own(uri, self._own)

    def _register(self, asked: RouteRequest, now: float) -> Respond:
        response = self.registrar.handle(asked.request, now)
        if not response.success:
            subscriber = self._hss.by_uri(asked.request.to.uri)
            self._outputs.append(Step(f"register-{response.status}", subscriber.number if subscriber else None))
        return Respond(asked.context, response)

    def _note_call(self, name: str, request: Request | Response, subscriber: Subscriber | None = None) -> None:
        step = self._steps.step(name, request.call_id, subscriber.number if subscriber is not None else None)
        if step is not None:
            self._outputs.append(step)

    def _note_response(self, response: Response) -> None:
        if response.cseq.method == "INVITE" and response.status > 100:
            self._note_call(str(response.status), response)

    def _within_dialog(self, asked: RouteRequest, now: float) -> Forward | Respond:
        request = asked.request
        service = self._service(request) if not request.routes else None
        if request.method == "SUBSCRIBE" and not request.routes and service is None:
            return self._answer_subscribe(asked, self._notifier.refresh(request, now))
        hop = following_hop(request) if request.routes else None
        target = literal_destination(hop) if hop is not None else None
        if not asked.own_routes or (service is None and (target is None or not self._trust.reaches(target.address))):
            return _refuse(asked, 481, "no dialog leads this way")
        if request.method == "BYE":
            self._note_call("bye", request)
        if service is not None:
            return Forward(asked.context, (ForwardTarget(destinations=(service,)),))
        gruu = self.registrar.flows_to(request.request_uri)
        # The route leads to the flow; a UE is asked for by its contact (RFC 5627 section 5.5, clause 5.4.3.3).
        return Forward(asked.context, (ForwardTarget(uri=gruu[1][0].uri if gruu is not None and gruu[1] else ""),))

    def _service(self, request: Request) -> Target | None:
        """The application server that a request is for."""
        uri = request.request_uri
        return self._services.get(uri.host.lower()) if isinstance(uri, SipUri) else None

    def _originating(self, asked: RouteRequest, now: float) -> Forward | Respond:
        """Serve the sender (clause 5.4.3.2): it must be registered here; then find who is called."""
        request = asked.request
        asserted = request.addresses("P-Asserted-Identity")
        sender = self._hss.by_uri(asserted[0].uri) if asserted else None
        if sender is None or self.registrar.registration(sender) is None:
            return _refuse(asked, 403, "the sender is not registered here")
        if not self._hss.usable(asserted[0].uri):
            return _refuse(asked, 403, "the sender's identity is barred")
        if request.method == "SUBSCRIBE" and _package(request) == "reg":
            return self._subscribe(asked, now)
        if request.method == "INVITE":
            self._note_call("invite", request, sender)
        for name in _PRIVATE:
            request.headers.remove(name)
        return self._terminating(asked, now)

    def _terminating(self, asked: RouteRequest, now: float) -> Forward | Respond:
        """Serve the called one (clause 5.4.3.3): fork to all its contacts."""
        request = asked.request
        uri = request.request_uri
        if isinstance(uri, SipUri) and not uri.user and uri.host.lower() == self._domain:
            return _refuse(asked, 404, "no user is named")
        if (service := self._service(request)) is not None:
            record = RecordRoute(self._uri, self._uri) if request.method in _RECORDED else None
            return Forward(asked.context, (ForwardTarget(destinations=(service,), record_route=record),))
        gruu = self.registrar.flows_to(uri)
        called = gruu[0] if gruu is not None else self._hss.by_uri(uri)
        if called is None:
            if isinstance(uri, TelUri) or (isinstance(uri, SipUri) and uri.host.lower() == self._domain):
                return _refuse(asked, 404, "no subscriber has this number")
            return _refuse(asked, 403, "this core has no way to other networks")
        if self._hss.by_uri(uri) is called and not self._hss.usable(uri):
            return _refuse(asked, 404, "the number is not in use")
        if request.method == "SUBSCRIBE" and _package(request) == "reg":
            return self._subscribe(asked, now)
        known = self.registrar.registration(called)
        if known is None or (gruu is not None and not gruu[1]):
            return _refuse(asked, 480, "the subscriber is not registered")
        self._called[asked.context] = known, now
        instances = known.by_instance() if gruu is None else [gruu[1]]
        return Forward(asked.context, tuple(self._branches(request, instances)))

    def _branches(self, request: Request, instances: Sequence[Sequence[Binding]]) -> Iterator[ForwardTarget]:
        """One for each instance, in the order of their q; the caller may ask for one at a time, or one only.

        RFC 3261 section 16.6, RFC 3841 section 9.1.  An instance is reached over its newest flow, over the others
        only where that one fails (RFC 5626 section 7).
        """
        wishes = {wish.strip().lower() for wish in request.headers.elements("Request-Disposition")}
        instances = sorted(instances, key=lambda flows: -flows[0].preference)
        preferences = sorted({flows[0].preference for flows in instances}, reverse=True)
        for number, flows in enumerate(instances[:1] if "no-fork" in wishes else instances):
            newest, *others = (self._target(request, binding) for binding in flows)
            group = number if "sequential" in wishes else preferences.index(flows[0].preference)
            yield replace(newest, group=group, alternatives=tuple(others))

    def _target(self, request: Request, binding: Binding) -> ForwardTarget:
        return ForwardTarget(
            uri=binding.uri,
            routes=binding.path,
            record_route=RecordRoute(self._uri, self._uri) if request.method in _RECORDED else None,
            headers=(("P-Called-Party-ID", f"<{request.uri}>"),),
        )

    def _subscribe(self, asked: RouteRequest, now: float) -> Respond:
        request = asked.request
        subscriber = self._hss.by_uri(request.request_uri)
        if subscriber is None:
            return _refuse(asked, 404, "no subscriber has this identity")
        asserted = request.addresses("P-Asserted-Identity")
        by_edge = self._trust.edge(asked.flow.remote) is not None and _names(asserted, asked.flow.remote[0])
        if not by_edge and (not asserted or self._hss.by_uri(asserted[0].uri) is not subscriber):
            return _refuse(asked, 403, "a registration is shown to its own user only")
        return self._answer_subscribe(asked, self._notifier.subscribe(request, subscriber, now))

    def _answer_subscribe(self, asked: RouteRequest, response: Response) -> Respond:
        if response.success:
            self._subscribed[asked.context] = response
        return Respond(asked.context, response)


_RECORDED = frozenset({"INVITE", "SUBSCRIBE", "REFER"})


def _package(request: Request) -> str:
    event = request.event
    return event.package.lower() if event is not None else ""


def _names(asserted: Sequence[NameAddr], host: str) -> bool:
    """Whether an edge asserts itself: it may see the registrations of its users (TS 24.229 clause 5.2.3)."""
    uri = asserted[0].uri if asserted else None
    return isinstance(uri, SipUri) and uri.user is None and uri.host.strip("[]") == host


def _refuse(asked: RouteRequest, status: int, words: str) -> Respond:
    response: Response = response_to(asked.request, status)
    response.headers.add("Warning", f'399 scscf "{words}"')
    _log.info("%s refused with %d: %s", asked.request.method, status, words)
    return Respond(asked.context, response)
