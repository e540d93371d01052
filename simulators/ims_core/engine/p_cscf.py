"""The P-CSCF (TS 24.229 clause 5.2): UEs come with a security agreement, over TLS, or in clear where that is allowed.

Towards UEs it is reached at its Gm addresses, towards the core at its Mw address; every dialog is recorded on both
sides.  The user part of its Path and Record-Route is the token of the binding, so the way back to a UE needs no other
memory.  Nothing leaves but to the core and to UEs that have registered.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, replace

from imskit.engine import Tick, Tokens
from imskit.ims.alternative_service import add_emergency, add_restoration
from imskit.ims.p_cscf_procedures import charge, granted_seconds, without_keys
from imskit.ims.public_identities import key_of, preferred
from imskit.ims.trust_boundary import clean_from_ue, clean_towards_ue
from imskit.ipsec.errors import IpsecError
from imskit.secrets import Secret
from imskit.sip.engine.events import FlowClosed, SentBy
from imskit.sip.engine.proxy import (
    ContextEnded,
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
from imskit.sip.engine.proxy_routing import add_record_route, literal_destination, next_hop
from imskit.sip.engine.timers import TS24229_UE
from imskit.sip.wire.auth import Credentials
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Address, Flow, Target
from imskit.sip.wire.message import Request, Response, response_to
from imskit.sip.wire.uri import OtherUri, SipUri
from simulators.ims_core.engine.gm_bindings import GmBinding, GmBindings
from simulators.ims_core.engine.security_agreement import (
    Agreement,
    AssociationsFailed,
    AssociationsInstalled,
    GmMode,
    GmSecurityPolicy,
    Proposal,
    SecurityEvent,
    SecurityOutput,
)
from simulators.ims_core.engine.security_agreements import SecurityAgreements, without_agreement

_log = logging.getLogger(__name__)

type PCscfEvent = ProxyEvent | SecurityEvent
type PCscfOutput = ProxyOutput | SecurityOutput

_RECORDED = frozenset({"INVITE", "SUBSCRIBE", "REFER"})


@dataclass(frozen=True)
class _Context:
    kind: str
    """register, from-ue or to-ue."""
    binding: GmBinding
    request: Request
    """As it was forwarded, but for Via and Max-Forwards."""
    record_routes: tuple[str, ...] | None = None
    """What the UE must give back in responses that make a dialog."""
    proposal: Proposal | None = None
    """What a challenge to this REGISTER makes a security agreement of."""
    agreement: str = ""
    """The security agreement inside which the request came."""


class PCscf:
    """The engine: a `ProxyCore` whose questions are answered from the registrations that passed through.

    ``gm`` are the addresses for UDP, TCP and TLS.
    """

    def __init__(
        self,
        gm: tuple[Address, ...],
        mw: Target,
        core: Target,
        visited_network: str,
        tokens: Tokens,
        security: GmSecurityPolicy | None = None,
    ) -> None:
        self._security = SecurityAgreements(security or GmSecurityPolicy(), tokens)
        self._mw = mw
        self._core = core
        self._visited_network = visited_network
        self._tokens = tokens
        own = [*gm, *self._security.addresses, mw.address]
        # Towards UEs the timers of TS 24.229 table 7.7.1.
        profiles = dict.fromkeys((*gm, *self._security.addresses), TS24229_UE)
        understood = [] if self._security.mode is GmMode.OFF else ["sec-agree"]
        self._proxy = ProxyCore(tokens, own=own, understood=understood, local_profiles=profiles)
        self._outputs: deque[PCscfOutput] = deque()
        self._bindings = GmBindings()
        self._contexts: dict[str, _Context] = {}
        self._challenges: dict[str, tuple[str, Response]] = {}
        """Context and 401 that wait for their associations to be installed, by the agreement's name."""

    @property
    def agreements(self) -> SecurityAgreements:
        """The security agreements with UEs."""
        return self._security

    # ---- engine -------------------------------------------------------------------------------------------------

    def handle(self, event: PCscfEvent, now: float) -> None:
        """Take in one event."""
        match event:
            case AssociationsInstalled(name):
                self._installed(name, now)
            case AssociationsFailed():
                self._not_installed(event, now)
            case _:
                if isinstance(event, FlowClosed):
                    self._bindings.lost(event.flow)
                elif isinstance(event, Tick):
                    self._security.expire(now)
                self._proxy.handle(event, now)
        self._drain(now)
        while (effect := self._security.poll()) is not None:
            self._outputs.append(effect)

    def _drain(self, now: float) -> None:
        while (output := self._proxy.poll()) is not None:
            match output:
                case RouteRequest():
                    self._proxy.handle(self._route(output, now), now)
                case ResponseReady():
                    if (relayed := self._relay(output, now)) is not None:
                        self._proxy.handle(relayed, now)
                case ContextEnded(context):
                    self._contexts.pop(context, None)
                case _:
                    self._outputs.append(output)

    def poll(self) -> PCscfOutput | None:
        """Return the next output."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """When something is due next."""
        due = (self._proxy.deadline(), self._security.deadline())
        return min((at for at in due if at is not None), default=None)

    # ---- requests -----------------------------------------------------------------------------------------------

    def _route(self, asked: RouteRequest, now: float) -> Forward | Respond:
        request = asked.request
        try:
            if asked.flow.local == self._mw.address:
                return self._towards_ue(asked, now)
            if request.method == "REGISTER":
                return self._register(asked, now)
            uri = request.request_uri
            if isinstance(uri, OtherUri) and str(uri).lower().startswith("urn:service:sos"):
                response = response_to(request, 380)
                add_emergency(response)
                return Respond(asked.context, response)
            if (refusal := self._security.judge(request, asked.flow)) is not None:
                return Respond(asked.context, refusal)
            return self._from_ue(asked, now)
        except SipParseError as error:
            return Respond(asked.context, response_to(request, error.status, error.reason))

    def _keep(self, asked: RouteRequest, context: _Context) -> None:
        if asked.request.method != "ACK":  # no response, and no end, will come
            self._contexts[asked.context] = context

    def _register(self, asked: RouteRequest, now: float) -> Forward | Respond:
        """Clause 5.2.2.1: say where the UE is, which network this is, and how well its request is protected."""
        request = asked.request
        contacts = () if request.contacts == "*" else tuple(str(contact.uri) for contact in request.contacts)
        impi = self._private_identity(request)
        judged = self._security.judge_register(request, asked.flow, impi, now)
        if isinstance(judged, Response):
            return Respond(asked.context, judged)
        agreement = self._security.of(asked.flow)
        self._mark_protection(request, "tls-connected" if asked.flow.secure else "yes" if agreement else "no")
        chain = agreement.chain if agreement else ""
        here = self._bindings.at(asked.flow, chain)
        known = next((b for b in here if b.impi == impi and set(b.contacts) & set(contacts)), None)
        token = known.token if known is not None else self._tokens(24)
        clean_from_ue(request)
        # A REGISTER has no Route (TS 34.229-1 annex A.1.1): its way is the core's business.
        request.headers.remove("Route")
        without_agreement(request)
        request.headers.prepend("Path", f"<{self._uri_at(self._mw.address, token)}>")
        request.headers.add("Require", "path")
        request.headers.add("P-Visited-Network-ID", f'"{self._visited_network}"')
        charge(request, self._tokens(32), self._visited_network)
        binding = GmBinding(
            token, impi, contacts, asked.flow, now, chain=chain, protected=_inside(agreement, asked.flow)
        )
        name = agreement.name if agreement else ""
        self._keep(asked, _Context("register", binding, request.copy(), proposal=judged, agreement=name))
        return Forward(asked.context, (ForwardTarget(destinations=(self._core,), sent_by=SentBy(*self._mw.address)),))

    def _private_identity(self, request: Request) -> str:
        """Return whose REGISTER it is: the user name of its digest, else To."""
        for value in request.headers.get_all("Authorization"):
            credentials = Credentials.parse(value, "Authorization")
            if credentials.is_digest and credentials.username:
                return credentials.username
        return str(request.to.uri)

    def _mark_protection(self, request: Request, protection: str) -> None:
        """Say in every Authorization how the request was protected, whatever the UE says (5.2.2.1, 7.2A.2)."""
        values = request.headers.get_all("Authorization")
        request.headers.remove("Authorization")
        for value in values:
            credentials = Credentials.parse(value, "Authorization")
            marked = credentials.with_("integrity-protected", protection) if credentials.is_digest else value
            request.headers.add("Authorization", marked)

    def _from_ue(self, asked: RouteRequest, now: float) -> Forward | Respond:
        """Clause 5.2.6.3: only a registered UE, with an identity of its own, by the way its registrar named."""
        request = asked.request
        clean_from_ue(request)
        if request.to.tag is not None:
            return self._from_ue_in_dialog(asked)
        bindings = self._bindings.at(asked.flow, self._chain(asked.flow))
        here = [binding for binding in bindings if binding.active(now) and binding.identities]
        if not here:
            return _refuse(asked, 403, "this device is not registered here")
        binding, identity = _choose(here, request)
        for name in ("P-Preferred-Identity", "Route"):
            request.headers.remove(name)
        without_agreement(request)
        request.headers.add("P-Asserted-Identity", f"<{identity}>")
        charge(request, self._tokens(32), self._visited_network)
        for route in binding.service_route:
            request.headers.add("Route", route)
        record = self._record_route(binding, inward=True) if request.method in _RECORDED else None
        self._keep(asked, _Context("from-ue", binding, request.copy()))
        target = ForwardTarget(destinations=(self._core,), record_route=record, sent_by=SentBy(*self._mw.address))
        return Forward(asked.context, (target,), request)

    def _from_ue_in_dialog(self, asked: RouteRequest) -> Forward | Respond:
        """Clause 5.2.6.3.5: along the route that was recorded, which leads into the core and nowhere else."""
        request = asked.request
        binding = self._named(asked)
        if binding is None or not binding.at(asked.flow, self._chain(asked.flow)):
            return _refuse(asked, 403, "this dialog is none of this device's")
        hop = next_hop(request)
        target = literal_destination(hop) if hop is not None else None
        if target is None or target.address != self._core.address:
            return _refuse(asked, 403, "the route is not the one that was recorded")
        request.headers.remove("P-Preferred-Identity")
        without_agreement(request)
        self._keep(asked, _Context("from-ue", binding, request.copy()))
        return Forward(
            asked.context, (ForwardTarget(destinations=(self._core,), sent_by=SentBy(*self._mw.address)),), request
        )

    def _towards_ue(self, asked: RouteRequest, now: float) -> Forward | Respond:
        """Clause 5.2.6.4: the token in Path or Record-Route says which UE."""
        request = asked.request
        binding = self._named(asked)
        initial = request.to.tag is None
        if binding is None or (initial and not binding.active(now)):
            return _refuse(asked, 480, "the device is not registered here any more")
        clean_towards_ue(request)
        record = self._record_route(binding, inward=False) if initial and request.method in _RECORDED else None
        recorded: tuple[str, ...] | None = None
        if record is not None:
            copy = request.copy()
            add_record_route(copy, record)
            recorded = tuple(copy.headers.elements("Record-Route"))
        self._keep(asked, _Context("to-ue", binding, request.copy(), recorded))
        sent_by = SentBy(*binding.local)
        target = ForwardTarget(destinations=(binding.way,), record_route=record, sent_by=sent_by, profile=TS24229_UE)
        return Forward(asked.context, (target,), request)

    def _named(self, asked: RouteRequest) -> GmBinding | None:
        """The binding whose token is in a Route value of ours."""
        found = (self._bindings.of_token(uri.user) for uri in asked.own_routes if uri.user)
        return next((binding for binding in found if binding is not None), None)

    # ---- responses ----------------------------------------------------------------------------------------------

    def _relay(self, ready: ResponseReady, now: float) -> RelayResponse | None:
        context, response = self._contexts.get(ready.context), ready.response
        if context is None:
            return RelayResponse(ready.context, response)
        try:
            if context.kind == "to-ue":
                self._from_called_ue(context, response)
            else:
                if ready.origin != "received" and context.kind == "from-ue" and context.request.to.tag is None:
                    response = self._core_is_gone(context)
                clean_towards_ue(response)
            if context.kind == "register" and (challenged := self._challenge(context, response, now)) is not None:
                # The associations come first: the UE answers inside them.
                self._challenges[challenged.name] = ready.context, response
                return None
            if context.kind == "register":
                self._registered(context, response, now)
        except SipParseError as error:
            _log.warning("a %d response cannot be relayed: %s", response.status, error)
            response = response_to(context.request, 502)
        except IpsecError as error:
            response = _no_associations(context.request, str(error))
        return RelayResponse(ready.context, response)

    def _from_called_ue(self, context: _Context, response: Response) -> None:
        """Clause 5.2.6.4.4: who answers is who was called; the route is what was recorded on the way."""
        headers = response.headers
        clean_from_ue(response)
        headers.remove("P-Preferred-Identity")
        if response.status == 100:
            return
        called = context.request.addresses("P-Called-Party-ID")
        identities = context.binding.identities
        answering = next(
            (identity for identity in identities if called and key_of(called[0].uri) == key_of(identity)),
            identities[0] if identities else None,
        )
        if answering is not None and context.request.to.tag is None:
            headers.add("P-Asserted-Identity", f"<{answering}>")
        if context.record_routes is not None and response.status < 300 and response.to.tag is not None:
            given = tuple(headers.elements("Record-Route"))
            if given != context.record_routes:
                _log.info("a UE gave back another Record-Route: put right")
                headers.remove("Record-Route")
                for value in context.record_routes:
                    headers.add("Record-Route", value)

    def _core_is_gone(self, context: _Context) -> Response:
        """Clause 5.2.6.3.3: the S-CSCF cannot be reached; the UE may find another by registering anew."""
        response = response_to(context.request, 504)
        for route in context.binding.service_route[:1]:
            response.headers.add("P-Asserted-Identity", route)
        add_restoration(response)
        return response

    def _challenge(self, context: _Context, response: Response, now: float) -> Agreement | None:
        """Take ik and ck out of a 401, where they end (clause 5.2.2.1), and begin an agreement with them."""
        challenges = without_keys(response)
        if response.status != 401 or context.proposal is None:
            return None
        for challenge in challenges:
            ck, ik = challenge.get("ck"), challenge.get("ik")
            if ck and ik:
                try:
                    keys = [Secret(bytes.fromhex(text)) for text in (ck, ik)]
                except ValueError:
                    raise IpsecError("the S-CSCF's ck and ik are no hexadecimal numbers", "TS 24.229 7.2A.1") from None
                return self._security.begin(context.proposal, keys[0], keys[1], now)
        raise IpsecError("the S-CSCF's challenge has no ck and ik", "TS 24.229 5.4.1.2.1")

    def _installed(self, name: str, now: float) -> None:
        context, response = self._challenges.pop(name, ("", None))
        agreement = self._security.named(name)
        if response is not None and agreement is not None:
            response.headers.add("Security-Server", ", ".join(agreement.server_values))
            self._proxy.handle(RelayResponse(context, response), now)

    def _not_installed(self, failed: AssociationsFailed, now: float) -> None:
        context, response = self._challenges.pop(failed.name, ("", None))
        agreement = self._security.named(failed.name)
        if agreement is None:
            return
        _log.warning("the security associations %s cannot be installed: %s", failed.name, failed.reason)
        again: Agreement | None = None
        try:
            if failed.collision and response is not None:
                again = self._security.again(agreement, now)
        except IpsecError as error:
            _log.warning("%s", error)
        self._security.drop(agreement)
        if response is None:
            return
        if again is not None:
            self._challenges[again.name] = context, response
        elif (known := self._contexts.get(context)) is not None:
            refusal = _no_associations(known.request, "the security associations cannot be installed")
            self._proxy.handle(RelayResponse(context, refusal), now)

    def _registered(self, context: _Context, response: Response, now: float) -> None:
        request, binding = context.request, context.binding
        agreement = self._security.named(context.agreement)
        if agreement is not None and response.status >= 300 and response.status not in (401, 423):
            self._security.refused(agreement, now)
        if not response.success or (not binding.contacts and request.contacts != "*"):
            return  # refused, or only asked
        expires = granted_seconds(response, binding.contacts)
        binding = replace(
            binding,
            expires_at=now + expires,
            identities=tuple(str(address.uri) for address in response.addresses("P-Associated-URI")),
            service_route=tuple(str(route) for route in response.service_route),
        )
        if expires > 0 and not self._bindings.put(binding, now):
            _log.error("no room for another registration")
        if agreement is not None and expires > 0:
            self._security.confirm(agreement, now + expires, now)
        for old in self._bindings.of_host(binding.flow.remote[0]):
            if old.impi != binding.impi or (old.token == binding.token and expires > 0):
                continue
            # The same subscription at the same place under another contact, or taken off the register.
            if old.at(binding.flow, binding.chain) or not granted_seconds(response, old.contacts):
                self._bindings.end(old, now)
                if old.chain and (old.chain != binding.chain or expires == 0):
                    self._security.leave(old.chain, now)

    # ---- helpers ------------------------------------------------------------------------------------------------

    def _chain(self, flow: Flow) -> str:
        agreement = self._security.of(flow)
        return agreement.chain if agreement is not None else ""

    def _record_route(self, binding: GmBinding, *, inward: bool) -> RecordRoute:
        gm = self._uri_at(binding.local, binding.token)
        if binding.flow.transport != "UDP":
            gm = gm.with_parameter("transport", binding.flow.transport.lower())
        mw = self._uri_at(self._mw.address, binding.token)
        return RecordRoute(gm, mw) if inward else RecordRoute(mw, gm)

    def _uri_at(self, address: Address, token: str) -> SipUri:
        return SipUri("sip", token, None, *address).with_parameter("lr")


def _choose(bindings: list[GmBinding], request: Request) -> tuple[GmBinding, str]:
    """The identity that the UE prefers, if it is one of its own, else its default (clause 5.2.6.3.3)."""
    wanted = preferred(request, (identity for binding in bindings for identity in binding.identities))
    for binding in bindings:
        if wanted is not None and wanted in binding.identities:
            return binding, wanted
    return bindings[0], bindings[0].identities[0]


def _inside(agreement: Agreement | None, flow: Flow) -> Target | None:
    """Where the UE is reached inside an agreement: from our client port to its server port."""
    if agreement is None:
        return None
    host, port = agreement.client
    return Target(flow.transport, agreement.ue_server, source=host, source_port=port)


def _no_associations(request: Request, words: str) -> Response:
    response = response_to(request, 500)
    response.headers.add("Warning", '399 pcscf "no security associations can be had here"')
    _log.error("REGISTER refused with 500: %s", words)
    return response


def _refuse(asked: RouteRequest, status: int, words: str) -> Respond:
    response = response_to(asked.request, status)
    response.headers.add("Warning", f'399 pcscf "{words}"')
    _log.info("%s refused with %d: %s", asked.request.method, status, words)
    return Respond(asked.context, response)
