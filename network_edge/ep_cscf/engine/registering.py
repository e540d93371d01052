"""REGISTER through the eP-CSCF, scenarios 1 to 3 of TS 24.371 clause 6 (P-CSCF: TS 24.229 clause 5.2.2)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from imskit.engine import Tokens
from imskit.ims.p_cscf_procedures import granted_seconds, without_keys
from imskit.ims.public_identities import key_of
from imskit.secrets import Identity
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.grammar import quote
from imskit.sip.wire.message import Request, Response, response_to
from imskit.sip.wire.uri import SipUri, Uri, unescape
from network_edge.ep_cscf.engine.access import (
    bound_expires,
    clean_credentials,
    digest_user,
    protection_of,
    token_refusal,
    trusted_credentials,
    unavailable,
    wanted_expires,
)
from network_edge.ep_cscf.engine.effects import TokenClaims
from network_edge.ep_cscf.engine.flows import Flows
from network_edge.ep_cscf.engine.identities import usable
from network_edge.ep_cscf.engine.refusals import refusal
from network_edge.ep_cscf.engine.registrations import Binding, BindingKey, Bindings
from network_edge.ep_cscf.engine.settings import EpCscfSettings
from network_edge.ep_cscf.engine.trust import TrustBorder
from network_edge.wwsf.limits import address_key

_log = logging.getLogger(__name__)

_MAXIMUM_CONTACTS = 8
_TELLING = ("user", "ttl", "method", "maddr")


@dataclass(slots=True)
class Draft:
    """A REGISTER on its way into the core."""

    binding: Binding
    """What it becomes if the core agrees; ``expires_at`` is the latest that it may last."""
    request: Request
    """As it was forwarded."""
    longest: int
    """Seconds that a contact may live at most."""
    asserted: tuple[Identity, ...] | None
    """The public identities of the access token."""
    everything: bool
    """``Contact: *``: all bindings of the public identity go."""
    source: str
    """Which client it is, by its address."""


@dataclass(slots=True)
class Outcome:
    """What the core's answer to a REGISTER made of it."""

    response: Response
    """To the client."""
    added: Binding | None = None
    replaced: Binding | None = None
    """What was in the place of ``added``: the same instance."""
    ended: tuple[Binding, ...] = ()
    refused: str = ""


class Registering:
    """The procedure; it reads the table of bindings, and its owner writes it by the `Outcome`."""

    def __init__(
        self,
        settings: EpCscfSettings,
        mw: SipUri,
        bindings: Bindings,
        flows: Flows,
        border: TrustBorder,
        tokens: Tokens,
    ) -> None:
        self._settings = settings
        self._path = mw.with_parameter("lr").with_parameter("ob")
        self._bindings = bindings
        self._flows = flows
        self._border = border
        self._tokens = tokens
        self._count = 0

    def begin(
        self,
        request: Request,
        flow: Flow,
        now: float,
        claims: TokenClaims | None = None,
        seconds_left: float = 0.0,
        *,
        draining: bool = False,
    ) -> Draft | Response:
        """Edit a REGISTER for the core, or refuse it.  With ``claims`` its user is authenticated already."""
        settings = self._settings
        contacts = request.contacts
        everything = contacts == "*"
        listed = () if contacts == "*" else tuple(contacts)
        registered = request.to.uri
        own = key_of(registered)
        longest = settings.maximum_expires
        if claims is not None:
            if own != key_of(request.from_.uri) or own not in {key_of(impu) for impu in claims.impus}:
                return refuse(request, 403, "the access token is for another identity")
            longest = min(longest, int(seconds_left))
            if longest < 1:
                return token_refusal(request, "invalid_token", settings)
        if len(listed) > _MAXIMUM_CONTACTS:
            return refuse(request, 403, "too many contacts")
        wanted = wanted_expires(request)
        if 0 < wanted < settings.minimum_expires and listed:
            response = response_to(request, 423)
            response.headers.add("Min-Expires", settings.minimum_expires)
            return response
        place = _place(request)
        impi = claims.impi if claims is not None else self._impi(request, flow, own, place)
        key: BindingKey = (str.__str__(impi), own, place)
        known = self._bindings.of_key(key)
        if known is None and wanted > 0 and listed:
            crowded = self._bindings.count(str.__str__(impi)) >= 2 * settings.limits.each_user
            if draining or crowded or self._bindings.full:
                return unavailable(request, settings.retry_after)
            if len(self._bindings.on(flow)) >= settings.limits.registrations:
                return refuse(request, 403, "too many registrations over this connection")
        self._count += 1
        binding = Binding(
            order=self._count,
            token=known.token if known is not None else self._tokens(32),
            key=key,
            impi=impi,
            contacts=tuple(str(contact.uri) for contact in listed),
            flow=flow,
            scenario="digest" if claims is None else "token",
            expires_at=now + (longest if claims is None else min(longest, seconds_left)),
        )
        self._edit(request, flow, binding, claims, now)
        if listed:
            bound_expires(request, longest)
        asserted = claims.impus if claims is not None else None
        return Draft(binding, request.copy(), longest, asserted, everything, address_key(flow.remote[0]))

    def _impi(self, request: Request, flow: Flow, own: str, place: str) -> Identity:
        """Return whose digest REGISTER it is.  Without digest: that of the same registration, else the public one."""
        if (user := digest_user(request)) is not None:
            return user
        for binding in self._bindings.on(flow):
            if binding.key[1:] == (own, place):
                return binding.impi
        return Identity(own)

    def _edit(self, request: Request, flow: Flow, binding: Binding, claims: TokenClaims | None, now: float) -> None:
        settings, headers = self._settings, request.headers
        self._border.inward(request)
        # Its way is the core's business; identities are asserted from the answer on.
        for name in ("Route", "P-Preferred-Identity"):
            headers.remove(name)
        if claims is None:
            known = any(
                other.active(now) and other.impi == binding.impi and other.scenario == "digest"
                for other in self._bindings.on(flow)
            )
            protection = protection_of(request, secure=flow.secure, known=known)
            clean_credentials(request, settings.authorization_entity, protection)
        else:
            headers.remove("Authorization")
            headers.remove("Proxy-Authorization")
            request.uri = f"sip:{settings.home_domain}"
            headers.add("Authorization", trusted_credentials(claims, settings))
        headers.prepend("Path", f"<{replace(self._path, user=binding.token)}>")
        if "path" not in request.supported:
            headers.add("Supported", "path")
        if "path" not in request.require:
            headers.add("Require", "path")
        headers.add("P-Visited-Network-ID", quote(settings.visited_network))
        self._border.charge(request, self._border.new_icid())

    def answered(self, draft: Draft, response: Response, now: float) -> Outcome:
        """Edit the core's answer for the client; raises `SipParseError` if it cannot be read."""
        request, binding = draft.request, draft.binding
        self._border.outward(response)
        response.headers.remove("Path")
        if draft.asserted is not None and response.status in (401, 407):
            _log.error("the core challenges a user whom we have authenticated: it does not trust this edge")
            return Outcome(refuse(request, 403, "the core does not trust this edge"), refused="not trusted")
        without_keys(response)
        if not response.success:
            refused = "" if response.status in (401, 407, 423) else f"{response.status} {response.reason}"
            return Outcome(response, refused=refused)
        if draft.everything:
            gone = self._bindings.standing(str.__str__(binding.impi))
            return Outcome(response, ended=tuple(each for each in gone if each.key[1] == binding.key[1]))
        if not binding.contacts:
            return Outcome(response)
        known = self._bindings.of_key(binding.key)
        if known is not None and known.order > binding.order:
            # The client has registered over another connection before this answer came.
            return Outcome(response)
        granted = granted_seconds(response, binding.contacts)
        bound_expires(response, draft.longest)
        if granted == 0:
            return Outcome(response, ended=(known,) if known is not None else ())
        flow = binding.flow if binding.flow in self._flows else None
        added = replace(
            binding,
            flow=flow,
            lost_at=now if flow is None else None,
            expires_at=min(binding.expires_at, now + granted),
            identities=usable(request.to.uri, draft.asserted, response),
            service_route=tuple(str(route) for route in response.service_route),
        )
        if draft.asserted is not None:
            response.headers.remove("P-Associated-URI")
            response.headers.add("P-Associated-URI", ", ".join(f"<{str.__str__(each)}>" for each in added.identities))
        return Outcome(response, added=added, replaced=known, ended=self._crowded_out(added, known))

    def _crowded_out(self, added: Binding, known: Binding | None) -> tuple[Binding, ...]:
        """Those of the same user that must make room: first those whose connection is gone, the oldest first.

        A page that was killed has left its registration behind, and comes back as another instance.
        """
        if known is not None:
            return ()
        others = self._bindings.standing(str.__str__(added.impi))
        others.sort(key=lambda binding: (binding.flow is not None, binding.order))
        return tuple(others[: max(0, len(others) + 1 - self._settings.limits.each_user)])


def refuse(request: Request, status: int, words: str) -> Response:
    """Answer a request in the edge's name, with a reason for people."""
    _log.info("%s refused with %d: %s", request.method, status, words)
    return refusal(request, status, words)


def _place(request: Request) -> str:
    """Name what registers: the instance with its reg-id (RFC 5626), else the contact."""
    contacts = request.contacts
    if contacts == "*" or not contacts:
        return ""
    contact = contacts[0]
    instance = contact.parameters.get("+sip.instance")
    if instance:
        return f"{instance} {contact.parameters.get('reg-id') or ''}"
    return _telling(contact.uri)


def _telling(uri: Uri) -> str:
    """What of a contact tells it from others for every registrar (RFC 3261 section 19.1.4).

    Most parameters count only where both sides have them: by them one client could have any number of places.
    """
    if not isinstance(uri, SipUri):
        return str(uri)
    said = [f"{name}={uri.parameters.get(name)}" for name in _TELLING if name in uri.parameters]
    return ";".join([f"{uri.scheme}:{unescape(uri.user or '')}@{uri.host.lower()}:{uri.port or ''}", *said])
