"""Where requests of either side go, and what is edited in them (TS 24.229 clause 5.2.6)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from imskit.engine import Tokens
from imskit.ims.alternative_service import add_emergency
from imskit.ims.public_identities import key_of, preferred
from imskit.sip.engine.events import SentBy
from imskit.sip.engine.proxy import Forward, ForwardTarget, RecordRoute, Respond, RouteRequest
from imskit.sip.wire.flow import Address, Flow
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.ims_headers import PChargingVector
from imskit.sip.wire.message import Request, response_to
from imskit.sip.wire.uri import SipUri
from network_edge.ep_cscf.engine.access import clean_credentials, unavailable
from network_edge.ep_cscf.engine.dialogs import MAKES_DIALOGS, Dialogs, Root, WebDialog
from network_edge.ep_cscf.engine.early_answers import number_towards_ims, report_as_known
from network_edge.ep_cscf.engine.effects import Side, TokenClaims
from network_edge.ep_cscf.engine.identities import (
    anonymous,
    is_emergency,
    network_parameter,
    network_parameters,
)
from network_edge.ep_cscf.engine.network_release import NetworkRelease
from network_edge.ep_cscf.engine.registering import refuse
from network_edge.ep_cscf.engine.registrations import LINGER_SECONDS, Binding, Bindings
from network_edge.ep_cscf.engine.settings import EpCscfSettings
from network_edge.ep_cscf.engine.towards_core import TowardsCore
from network_edge.ep_cscf.engine.trust import TrustBorder, vector_of

_SHOW_WHO = frozenset({"INVITE", "UPDATE", "MESSAGE", "REFER", "SUBSCRIBE"})
"""Requests within a dialog that tell their receiver somebody's identity: with the one that this edge vouches for."""


@dataclass(slots=True)
class Transit:
    """A request on its way between a client and IMS."""

    side: Side
    """Where it came from."""
    binding: Binding
    request: Request
    """As it came, cleaned."""
    dialog: WebDialog | None = None
    """In which it runs; ``None`` outside of any."""
    mark: str = ""
    """In its Record-Route; empty if it makes no dialogs."""
    asserted: str = ""
    """The client's public identity."""
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
        contexts: dict[str, Transit],
        tokens: Tokens,
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
        self._random = tokens

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
            return self._from_web_in_dialog(asked, bindings, now)
        if is_emergency(request.request_uri, self._settings.home_domain, self._settings.emergency_numbers):
            return self._leave_to_a_telephone(asked)
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
        asserted = str.__str__(identity or binding.identities[0])
        request.headers.add("P-Asserted-Identity", f"<{asserted}>")
        icid = self._border.new_icid()
        self._border.charge(request, icid)
        for route in binding.service_route:
            request.headers.add("Route", route)
        mark, record = self._mark(asked, binding, Side.WEB)
        self._contexts[asked.context] = Transit(
            Side.WEB, binding, request.copy(), mark=mark, asserted=asserted, icid=icid
        )
        return Forward(asked.context, (self._core.along(binding.service_route, record),), request)

    def _from_web_in_dialog(self, asked: RouteRequest, bindings: list[Binding], now: float) -> Forward | Respond:
        """Clause 5.2.6.3.5: along the route that was recorded, which leads into the core and nowhere else."""
        request = asked.request
        for binding in bindings:
            key = (binding.token, request.call_id, request.from_.tag or "", request.to.tag or "")
            if (dialog := self._dialogs.get(key)) is not None:
                break
        else:
            return self._refuse(asked, 481, "no such dialog of this client's")
        if not dialog.ims_target:
            # The client's own Request-URI would be followed in the place of it.
            return self._refuse(asked, 481, "the other side of this dialog has not said where it is")
        if not _same_sender(request, dialog, binding):
            return self._refuse(asked, 403, "From is not who is in this dialog")
        dialog.saw(request, Side.WEB)
        asserted = str.__str__(preferred(request, binding.identities) or dialog.asserted)
        self._border.inward(request)
        for name in ("P-Preferred-Identity", "Route"):
            request.headers.remove(name)
        if request.method in _SHOW_WHO:
            request.headers.add("P-Asserted-Identity", f"<{asserted}>")
        self._border.charge(request, dialog.icid)
        for route in dialog.routes:
            request.headers.add("Route", route)
        # A core that follows whatever Request-URI comes along a route would send for the client to anywhere.
        request.uri = dialog.ims_target
        self._contexts[asked.context] = Transit(Side.WEB, binding, request.copy(), dialog)
        self._notified(request, dialog, now)
        target = self._core.within(dialog.routes, dialog.ims_target)
        return Forward(asked.context, (replace(target, headers=number_towards_ims(request, dialog)),), request)

    def from_core(self, asked: RouteRequest, now: float) -> Forward | Respond:
        """Clause 5.2.6.4: the token in Path says which client, that in Record-Route which dialog."""
        request = asked.request
        named = [uri.user for uri in asked.own_routes if uri.user]
        if request.to.tag is not None:
            return self._from_core_in_dialog(asked, named, now)
        found = (self._bindings.of_token(token) for token in named)
        binding = next((each for each in found if each is not None), None)
        if binding is None:
            # RFC 5626 section 5.3.1: after a restart, too, the registrar is to forget this flow.
            return self._refuse(asked, 430 if named else 404, "no registration here has this token")
        if not binding.active(now):
            return self._refuse(asked, 480, "the client is not registered here any more")
        if binding.flow is None:
            # To 430 the registrar forgets the binding (RFC 5626 section 5.3.1), and a call that waits for its client to
            # come back would end with it.
            talking = self._dialogs.count(binding.token, calls=True) > 0
            return self._refuse(asked, 480 if talking else 430, "the client's connection is gone")
        if (refusal := self._too_many(asked, binding)) is not None:
            return refusal
        mark, record = self._mark(asked, binding, Side.IMS)
        context = self._towards_web(asked, binding, mark=mark)
        if record is not None:
            context.record_routes = tuple(f"<{uri}>" for uri in _recorded(record)) + tuple(
                request.headers.elements("Record-Route")
            )
        return self._over_flow(asked, binding.flow, record)

    def _from_core_in_dialog(self, asked: RouteRequest, named: list[str], now: float) -> Forward | Respond:
        request = asked.request
        roots = (self._dialogs.root(mark) for mark in named)
        root = next((each for each in roots if each is not None), None)
        binding = self._bindings.of_token(root.registration) if root is not None else None
        if root is None or binding is None:
            return self._refuse(asked, 481, "no dialog here has this route")
        dialog = self._dialogs.get((binding.token, request.call_id, request.to.tag or "", request.from_.tag or ""))
        if dialog is None or dialog.mark != root.mark:
            if not root.notifies(request):
                return self._refuse(asked, 481, "no such dialog")
            dialog = None
        if dialog is not None and request.method == "BYE" and (dialog.owed or binding.flow is None):
            self._release.hung_up(dialog, now)
            return Respond(asked.context, response_to(request, 200))
        if dialog is not None and dialog.owed:
            return self._refuse(asked, 481, "this dialog is over")
        if binding.flow is None:
            return self._refuse(asked, 430, "the client's connection is gone")
        if dialog is not None:
            dialog.saw(request, Side.IMS)
            report_as_known(request, dialog)
        self._towards_web(asked, binding, dialog)
        if dialog is not None:
            self._notified(request, dialog, now)
        return self._over_flow(asked, binding.flow)

    def _towards_web(
        self, asked: RouteRequest, binding: Binding, dialog: WebDialog | None = None, mark: str = ""
    ) -> Transit:
        request = asked.request
        vector = vector_of(request)
        self._border.outward(request)
        context = self._contexts[asked.context] = Transit(
            Side.IMS, binding, request.copy(), dialog, mark, "", vector.icid if vector else "", vector
        )
        return context

    def _over_flow(self, asked: RouteRequest, flow: Flow, record: RecordRoute | None = None) -> Forward:
        target = ForwardTarget(destinations=(flow,), record_route=record, sent_by=SentBy(*self._w2_of(flow)))
        return Forward(asked.context, (target,), asked.request)

    def _notified(self, request: Request, dialog: WebDialog, now: float) -> None:
        """A NOTIFY of either side says how long its subscription goes on (RFC 6665 section 4.1.3)."""
        if request.method != "NOTIFY" or dialog.is_call:
            return
        state = request.subscription_state
        if state is None:
            return
        if state.state == "terminated":
            self._dialogs.remove(dialog, now)
        elif state.expires is not None:
            self._dialogs.lasts(dialog, now + state.expires + LINGER_SECONDS)

    def _too_many(self, asked: RouteRequest, binding: Binding) -> Respond | None:
        """Refuse new calls while draining, and more dialogs than one registration may have."""
        method = asked.request.method
        most = self._settings.limits.dialogs
        crowded = method in MAKES_DIALOGS and self._dialogs.count(binding.token, calls=method == "INVITE") >= most
        if (method == "INVITE" and self.draining) or crowded:
            return Respond(asked.context, unavailable(asked.request, self._settings.retry_after))
        return None

    def _leave_to_a_telephone(self, asked: RouteRequest) -> Respond:
        """Clause 5.2.10: this edge reaches no emergency service and knows no caller's place."""
        response = refuse(asked.request, 380, "no emergency calls here: dial from a telephone")
        response.headers.add("Contact", "<urn:service:sos>")
        response.headers.add("P-Asserted-Identity", f"<{self._mw}>")
        add_emergency(response)
        return Respond(asked.context, response)

    def _refuse(self, asked: RouteRequest, status: int, words: str) -> Respond:
        return Respond(asked.context, refuse(asked.request, status, words))

    def _w2_of(self, flow: Flow) -> Address:
        return flow.local if flow.local in self._w2 else self._w2[0]

    def _mark(self, asked: RouteRequest, binding: Binding, side: Side) -> tuple[str, RecordRoute | None]:
        """Return what a request that makes dialogs records, and the mark in it: another one each time.

        Who sees one call's mark knows neither another's nor the token in Path, and cannot tell that a caller who hides
        is the same one again.
        """
        request = asked.request
        if request.method not in MAKES_DIALOGS:
            return "", None
        mark = self._random(32)
        subscribes = side is Side.WEB and request.method != "INVITE"
        own = request.from_.tag or "" if subscribes else ""
        self._dialogs.begin(Root(mark, binding.token, asked.context, request.call_id, own))
        host, port = self._w2_of(binding.flow) if binding.flow is not None else self._w2[0]
        w2 = SipUri("sip", mark, None, host, port).with_parameter("transport", "ws").with_parameter("lr")
        mw = replace(self._mw, user=mark).with_parameter("lr")
        return mark, RecordRoute(w2, mw) if side is Side.WEB else RecordRoute(mw, w2)


def _recorded(record: RecordRoute) -> tuple[SipUri, SipUri]:
    """Return the values that `ProxyCore` puts in front, the next hop's first (RFC 5658)."""
    return record.next.with_parameter("r2", "on"), record.previous.with_parameter("r2", "on")


def _same_sender(request: Request, dialog: WebDialog, binding: Binding) -> bool:
    """Whether a client writes in its own name: that of the dialog, or another identity of its own (RFC 4916)."""
    sender = request.from_.uri
    before = NameAddr.parse(dialog.web, "From").uri
    if network_parameters(sender) - network_parameters(before):
        return False
    return key_of(sender) in {key_of(before), *(key_of(each) for each in binding.identities)}
