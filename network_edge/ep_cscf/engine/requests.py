"""Where requests of either side go, and what is edited in them (TS 24.229 clause 5.2.6)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from imskit.sip.engine.events import SentBy
from imskit.sip.engine.proxy import Forward, ForwardTarget, RecordRoute, Respond, RouteRequest
from imskit.sip.wire.flow import Address, Flow
from imskit.sip.wire.ims_headers import PChargingVector
from imskit.sip.wire.message import Request, response_to
from imskit.sip.wire.uri import OtherUri, SipUri
from network_edge.ep_cscf.engine.access import clean_credentials, unavailable
from network_edge.ep_cscf.engine.dialogs import MAKES_DIALOGS, Dialogs, WebDialog
from network_edge.ep_cscf.engine.effects import Side, TokenClaims
from network_edge.ep_cscf.engine.identities import anonymous, key_of, network_parameter, preferred
from network_edge.ep_cscf.engine.network_release import NetworkRelease
from network_edge.ep_cscf.engine.registering import refuse
from network_edge.ep_cscf.engine.registrations import Binding, Bindings
from network_edge.ep_cscf.engine.settings import EpCscfSettings
from network_edge.ep_cscf.engine.towards_core import TowardsCore
from network_edge.ep_cscf.engine.trust import TrustBorder, vector_of


@dataclass(slots=True)
class Context:
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


class Requests:
    """Answers `RouteRequest`, but for REGISTER; what goes on is kept in ``contexts`` by its key.

    Raises `SipParseError` for requests that cannot be read.
    """

    def __init__(
        self,
        settings: EpCscfSettings,
        w2: tuple[Address, ...],
        mw: SipUri,
        bindings: Bindings,
        dialogs: Dialogs,
        border: TrustBorder,
        core: TowardsCore,
        release: NetworkRelease,
        contexts: dict[str, Context],
    ) -> None:
        self.draining = False
        """New calls are refused."""
        self._settings = settings
        self._w2 = w2
        self._mw = mw
        self._bindings = bindings
        self._dialogs = dialogs
        self._border = border
        self._core = core
        self._release = release
        self._contexts = contexts

    def from_web(self, asked: RouteRequest, claims: TokenClaims | None, now: float) -> Forward | Respond:
        """Clause 5.2.6.3: only a registered client, with an identity of its own, by the way its registrar named."""
        request = asked.request
        clean_credentials(request, self._settings.authorization_entity)
        bindings = self._bindings.on(asked.flow)
        if claims is not None:
            own = {key_of(impu) for impu in claims.impus}
            bindings = [each for each in bindings if each.impi == claims.impi and each.key[1] in own]
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
        usable = {key_of(each) for every in standing for each in every.identities}
        if key_of(sender) not in usable and not anonymous(sender):
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
        self._contexts[asked.context] = Context(Side.WEB, binding, request.copy(), icid=icid)
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
        if dialog.ims_target:
            # A core that follows whatever Request-URI comes along a route would send for the client to anywhere.
            request.uri = dialog.ims_target
        self._contexts[asked.context] = Context(Side.WEB, binding, request.copy(), dialog)
        return Forward(asked.context, (self._core.within(dialog.routes, dialog.ims_target),), request)

    def from_core(self, asked: RouteRequest, now: float) -> Forward | Respond:
        """Clause 5.2.6.4: the token in Path or Record-Route says which client."""
        request = asked.request
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
        context = Context(Side.IMS, binding, request.copy(), dialog, vector.icid if vector else "", vector)
        if dialog is not None:
            dialog.saw(request, Side.IMS)
            if dialog.method != "INVITE" and _terminates(request):
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
        if (method == "INVITE" and self.draining) or crowded:
            return Respond(asked.context, unavailable(asked.request, self._settings.retry_after))
        return None

    def _refuse(self, asked: RouteRequest, status: int, words: str) -> Respond:
        return Respond(asked.context, refuse(asked.request, status, words))

    def _w2_of(self, flow: Flow) -> Address:
        return flow.local if flow.local in self._w2 else self._w2[0]

    def _record_route(self, binding: Binding, *, inward: bool) -> RecordRoute:
        host, port = self._w2_of(binding.flow) if binding.flow is not None else self._w2[0]
        w2 = SipUri("sip", binding.token, None, host, port).with_parameter("transport", "ws").with_parameter("lr")
        mw = replace(self._mw, user=binding.token).with_parameter("lr")
        return RecordRoute(w2, mw) if inward else RecordRoute(mw, w2)


def _recorded(record: RecordRoute) -> tuple[SipUri, SipUri]:
    """Return the values that `ProxyCore` puts in front, the next hop's first (RFC 5658)."""
    return record.next.with_parameter("r2", "on"), record.previous.with_parameter("r2", "on")


def _terminates(request: Request) -> bool:
    """Whether a NOTIFY ends its subscription."""
    state = request.subscription_state if request.method == "NOTIFY" else None
    return state is not None and state.state == "terminated"
