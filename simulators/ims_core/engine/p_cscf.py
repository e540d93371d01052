"""The P-CSCF (TS 24.229 clause 5.2), without security associations: who registered over an address owns it.

Towards UEs it is reached at its Gm addresses, towards the core at its Mw address; every dialog is recorded on both
sides.  The user part of its Path and Record-Route is the token of the binding, so the way back to a UE needs no other
memory.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, replace

from imskit.engine import Tokens
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
from imskit.sip.engine.timers import TS24229_UE
from imskit.sip.wire.auth import Challenge, Credentials
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Address, Flow, Target
from imskit.sip.wire.message import Request, Response, response_to
from imskit.sip.wire.uri import OtherUri, SipUri, parse_uri, uri_equal

_log = logging.getLogger(__name__)

_NETWORK_ONLY = (
    "P-Asserted-Identity",
    "P-Charging-Vector",
    "P-Charging-Function-Addresses",
    "P-Visited-Network-ID",
    "P-Asserted-Service",
    "P-Served-User",
    "P-Profile-Key",
    "P-Called-Party-ID",
)
"""What a UE may not say (clause 4.4): removed from what it sends."""
_TOWARDS_UE = ("P-Charging-Vector", "P-Charging-Function-Addresses")
"""What a UE is not told (clause 5.2.6.4)."""
_RECORDED = frozenset({"INVITE", "SUBSCRIBE", "REFER"})
MAXIMUM_BINDINGS = 50_000


@dataclass(frozen=True)
class _Binding:
    """What the P-CSCF knows of a UE: where it is, and what its 200 to REGISTER said."""

    token: str
    flow: Flow
    contact: str
    expires_at: float
    identities: tuple[str, ...] = ()
    service_route: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Context:
    kind: str
    """register, from-ue or to-ue."""
    binding: _Binding
    request: Request


class PCscf:
    """The engine: a `ProxyCore` whose questions are answered from the registrations that passed through."""

    def __init__(self, gm: tuple[Address, ...], mw: Target, core: Target, visited_network: str, tokens: Tokens) -> None:
        self._gm = gm
        self._mw = mw
        self._core = core
        self._visited_network = visited_network
        self._tokens = tokens
        own = [*gm, mw.address]
        # Towards UEs the timers of TS 24.229 table 7.7.1.
        profiles = dict.fromkeys(gm, TS24229_UE)
        self._proxy = ProxyCore(tokens, own=own, understood=["sec-agree"], local_profiles=profiles)
        self._outputs: deque[ProxyOutput] = deque()
        self._bindings: dict[str, _Binding] = {}
        self._contexts: dict[str, _Context] = {}

    # ---- engine -------------------------------------------------------------------------------------------------

    def handle(self, event: ProxyEvent, now: float) -> None:
        """Take in one event."""
        if isinstance(event, FlowClosed):
            for binding in [b for b in self._bindings.values() if b.flow == event.flow]:
                del self._bindings[binding.token]
        self._proxy.handle(event, now)
        while (output := self._proxy.poll()) is not None:
            match output:
                case RouteRequest():
                    self._proxy.handle(self._route(output, now), now)
                case ResponseReady():
                    self._proxy.handle(self._relay(output, now), now)
                case ContextEnded(context):
                    self._contexts.pop(context, None)
                case _:
                    self._outputs.append(output)

    def poll(self) -> ProxyOutput | None:
        """Return the next output."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """When something is due next."""
        return self._proxy.deadline()

    # ---- requests -----------------------------------------------------------------------------------------------

    def _route(self, asked: RouteRequest, now: float) -> Forward | Respond:
        request = asked.request
        try:
            if asked.flow.local == self._mw.address:
                return self._towards_ue(asked, now)
            if request.method == "REGISTER":
                return self._register(asked, now)
            if isinstance(request.request_uri, OtherUri) and request.uri.lower().startswith("urn:service:sos"):
                return _refuse(asked, 380, "emergency calls are not served here: use the device's own dialler")
            return self._from_ue(asked, now)
        except SipParseError as error:
            return Respond(asked.context, response_to(request, error.status, error.reason))

    def _register(self, asked: RouteRequest, now: float) -> Forward | Respond:
        """Clause 5.2.2.1: say where the UE is, which network this is, and how well its request is protected."""
        request = asked.request
        contacts = request.contacts
        contact = str(contacts[0].uri) if contacts and contacts != "*" else ""
        known = next((b for b in self._bindings.values() if b.contact == contact and _same_place(b, asked.flow)), None)
        token = known.token if known else self._tokens(24)
        binding = _Binding(token, asked.flow, contact, now)
        for value in request.headers.get_all("Authorization"):
            credentials = Credentials.parse(value, "Authorization")
            if credentials.is_digest:
                # No security association here: never "yes" (clause 5.2.2.1, table 7.2A.2).
                request.headers.set("Authorization", credentials.with_("integrity-protected", "no"))
        for name in ("Security-Client", "Security-Verify", *_NETWORK_ONLY):
            request.headers.remove(name)
        for name in ("Require", "Proxy-Require"):
            tags = [tag for tag in request.headers.elements(name) if tag.lower() != "sec-agree"]
            request.headers.remove(name)
            if tags:
                request.headers.add(name, ", ".join(tags))
        host, port = self._mw.address
        request.headers.prepend("Path", f"<sip:{token}@{_host(host)}:{port};lr>")
        request.headers.add("Require", "path")
        request.headers.add("P-Visited-Network-ID", f'"{self._visited_network}"')
        self._charge(request)
        self._contexts[asked.context] = _Context("register", binding, request.copy())
        return Forward(asked.context, (ForwardTarget(destinations=(self._core,), sent_by=SentBy(*self._mw.address)),))

    def _from_ue(self, asked: RouteRequest, now: float) -> Forward | Respond:
        """Clause 5.2.6.3: only a registered UE, with an identity of its own, by the way its registrar named."""
        request = asked.request
        binding = self._binding_of(asked.flow, now)
        if binding is None:
            return _refuse(asked, 403, "this device is not registered here")
        asserted = self._asserted(request, binding)
        for name in (*_NETWORK_ONLY, "P-Preferred-Identity", "Security-Verify"):
            request.headers.remove(name)
        self._contexts[asked.context] = _Context("from-ue", binding, request.copy())
        if request.to.tag is not None:
            return Forward(asked.context, (ForwardTarget(sent_by=SentBy(*self._mw.address)),))
        request.headers.add("P-Asserted-Identity", asserted)
        self._charge(request)
        if tuple(str(route) for route in request.routes) != binding.service_route:
            request.headers.remove("Route")
            for route in binding.service_route:
                request.headers.add("Route", route)
        record = self._record_route(binding, inward=True) if request.method in _RECORDED else None
        target = ForwardTarget(record_route=record, sent_by=SentBy(*self._mw.address))
        return Forward(asked.context, (target,), request)

    def _towards_ue(self, asked: RouteRequest, now: float) -> Forward | Respond:
        """Clause 5.2.6.4: the token in Path or Record-Route says which UE."""
        request = asked.request
        tokens = [uri.user for uri in asked.own_routes if uri.user]
        binding = next((self._bindings[token] for token in tokens if token in self._bindings), None)
        if binding is None or binding.expires_at <= now:
            return _refuse(asked, 480, "the device is not registered here any more")
        for name in _TOWARDS_UE:
            request.headers.remove(name)
        self._contexts[asked.context] = _Context("to-ue", binding, request.copy())
        initial = request.to.tag is None
        record = self._record_route(binding, inward=False) if initial and request.method in _RECORDED else None
        local = binding.flow.local
        target = ForwardTarget(destinations=(binding.flow,), record_route=record, sent_by=SentBy(*local))
        return Forward(asked.context, (target,), request)

    # ---- responses ----------------------------------------------------------------------------------------------

    def _relay(self, ready: ResponseReady, now: float) -> RelayResponse:
        context, response = self._contexts.get(ready.context), ready.response
        if context is None:
            return RelayResponse(ready.context, response)
        headers = response.headers
        if context.kind == "to-ue":
            for name in _NETWORK_ONLY:
                headers.remove(name)
            if context.binding.identities and response.status > 100:
                headers.add("P-Asserted-Identity", f"<{context.binding.identities[0]}>")
        else:
            for name in _TOWARDS_UE:
                headers.remove(name)
        if context.kind == "register":
            self._registered(context, response, now)
        return RelayResponse(ready.context, response)

    def _registered(self, context: _Context, response: Response, now: float) -> None:
        headers = response.headers
        challenges = headers.get_all("WWW-Authenticate")
        headers.remove("WWW-Authenticate")
        for value in challenges:
            # ik and ck end here (clause 5.2.2.1).
            headers.add("WWW-Authenticate", Challenge.parse(value).without("ik", "ck"))
        if not response.success:
            return
        binding = context.binding
        try:
            expires = _granted(response, binding.contact)
            binding = replace(
                binding,
                expires_at=now + expires,
                identities=tuple(str(address.uri) for address in response.addresses("P-Associated-URI")),
                service_route=tuple(str(route) for route in response.service_route),
            )
        except SipParseError as error:
            _log.warning("the registrar's 200 cannot be read: %s", error)
            return
        for old in [b for b in self._bindings.values() if b.flow == binding.flow or b.expires_at <= now]:
            del self._bindings[old.token]
        if expires > 0 and len(self._bindings) < MAXIMUM_BINDINGS:
            self._bindings[binding.token] = binding

    # ---- helpers ------------------------------------------------------------------------------------------------

    def _binding_of(self, flow: Flow, now: float) -> _Binding | None:
        return next((b for b in self._bindings.values() if _same_place(b, flow) and b.expires_at > now), None)

    def _asserted(self, request: Request, binding: _Binding) -> str:
        """The identity that the UE prefers, if it is one of its own, else its default (clause 5.2.6.3.3)."""
        for address in request.addresses("P-Preferred-Identity"):
            if str(address.uri) in binding.identities:
                return f"<{address.uri}>"
        return f"<{binding.identities[0]}>" if binding.identities else str(request.from_.uri)

    def _record_route(self, binding: _Binding, *, inward: bool) -> RecordRoute:
        gm = SipUri("sip", binding.token, None, *binding.flow.local).with_parameter("lr")
        if binding.flow.transport == "TCP":
            gm = gm.with_parameter("transport", "tcp")
        mw = SipUri("sip", binding.token, None, *self._mw.address).with_parameter("lr")
        return RecordRoute(gm, mw) if inward else RecordRoute(mw, gm)

    def _charge(self, request: Request) -> None:
        """The first IMS entity makes the charging identifier (clause 4.5)."""
        network = self._visited_network
        request.headers.add("P-Charging-Vector", f'icid-value="{self._tokens(32)}";orig-ioi="Type 1{network}"')


def _same_place(binding: _Binding, flow: Flow) -> bool:
    """Whether ``flow`` comes from where the binding does: the connection, or the address of its UDP socket."""
    if binding.flow.transport == "UDP" and flow.transport == "UDP":
        return binding.flow.remote == flow.remote
    return binding.flow.remote[0] == flow.remote[0]


def _granted(response: Response, contact: str) -> int:
    contacts = response.contacts
    for address in contacts if contacts != "*" else []:
        if contact and uri_equal(address.uri, parse_uri(contact)):
            return address.expires if address.expires is not None else response.expires or 0
    return 0


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _refuse(asked: RouteRequest, status: int, words: str) -> Respond:
    response = response_to(asked.request, status)
    response.headers.add("Warning", f'399 pcscf "{words}"')
    _log.info("%s refused with %d: %s", asked.request.method, status, words)
    return Respond(asked.context, response)
