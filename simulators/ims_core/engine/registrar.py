"""The S-CSCF's registrar (TS 24.229 clause 5.4.1): challenges, bindings, and what the 200 to REGISTER says."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from imskit.engine import Tokens
from imskit.sip import digest
from imskit.sip.wire.auth import Credentials
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.ims_headers import PChargingVector
from imskit.sip.wire.message import Request, Response, response_to
from imskit.sip.wire.uri import SipUri, Uri, parse_uri
from simulators.ims_core.engine.aka_login import AkaLogin
from simulators.ims_core.engine.bindings import Binding, RegisteredSubscriber, RegistrationEvent, instance_of
from simulators.ims_core.engine.digest_login import DigestLogin
from simulators.ims_core.engine.gruu import TEMPORARY_EACH, TemporaryGruus, is_public, names_instance, public_gruu
from simulators.ims_core.engine.i_cscf import AUTHENTICATED
from simulators.ims_core.engine.refusals import refuse
from simulators.ims_core.subscribers import Hss, Subscriber, UnknownSubscriberError

_log = logging.getLogger(__name__)

MINIMUM_EXPIRES = 10
MAXIMUM_EXPIRES = 600_000
MAXIMUM_CONTACTS = 10
"""Bindings of one subscriber; for a new one the one longest without a word gives way."""
SETTLED = 5.0
"""Seconds after its last REGISTER in which a binding does not give way: so many devices do not chase each other."""
_UNDERSTOOD = frozenset({"path", "outbound", "gruu"})
"""Option tags that a REGISTER may require."""
_NOT_HIS = "the public identity in To does not belong to the private identity"
_NUMBER = re.compile(r"\+?[0-9]+")
"""User part of what a card is for: an IMSI, a telephone number."""


@dataclass(frozen=True)
class _Change:
    """What a REGISTER wants of one contact."""

    contact: NameAddr
    seconds: int
    """0: that it goes."""
    reg_id: str
    old: Binding | None
    """Whose place it takes."""


class Registrar:
    """Registrations of the home network.  ``handle`` returns the response and notes events in ``events``."""

    def __init__(
        self,
        hss: Hss,
        domain: str,
        algorithms: Sequence[str],
        service_route: str,
        tokens: Tokens,
        *,
        protected_only: bool = False,
        digest_algorithms: Sequence[str] = ("SHA-256", "MD5"),
        entity_parameter: str = "authorization-entity",
    ) -> None:
        """``protected_only``: a challenge is answered inside a security agreement or TLS, or in vain.

        ``digest_algorithms`` are for subscribers with a password.  ``entity_parameter`` of Authorization names the web
        server that vouches for a user.
        """
        self._hss = hss
        self._domain = domain.lower()
        self._service_route = service_route
        self._tokens = tokens
        self._entity_parameter = entity_parameter
        self._passwords = DigestLogin(domain, digest_algorithms, tokens)
        self.cards = AkaLogin(hss, domain, algorithms, tokens, protected_only=protected_only)
        self._registered: dict[str, RegisteredSubscriber] = {}
        self._gruus = TemporaryGruus(self._domain, tokens)
        self.events: list[RegistrationEvent] = []
        """What has happened since the owner last emptied it."""

    # ---- queries --------------------------------------------------------------------------------------------------

    def registration(self, subscriber: Subscriber) -> RegisteredSubscriber | None:
        """Return the bindings of a subscriber, ``None`` if it is not registered."""
        return self._registered.get(subscriber.impi)

    def registrations(self) -> Iterator[RegisteredSubscriber]:
        """All registered subscribers."""
        yield from self._registered.values()

    def flows_to(self, uri: Uri) -> tuple[Subscriber, list[Binding]] | None:
        """Return whose GRUU a URI is and the flows of that instance, the newest first; ``None`` if it is none.

        RFC 5627 section 5.5: no flows while the instance is not registered.
        """
        if (owner := self._gruus.owner(uri)) is not None:
            subscriber = self._hss.by_impi(owner[0])
            return subscriber, self._flows(subscriber, lambda instance: instance == owner[1])
        if not is_public(uri):
            return None
        found = self._hss.by_uri(uri)
        return None if found is None else (found, self._flows(found, lambda instance: names_instance(uri, instance)))

    def _flows(self, subscriber: Subscriber, wanted: Callable[[str], bool]) -> list[Binding]:
        known = self._registered.get(subscriber.impi)
        flows = known.by_instance() if known is not None else []
        return next((each for each in flows if each[0].temporary and wanted(each[0].instance)), [])

    def deadline(self) -> float | None:
        """When the next binding expires."""
        return min((b.expires_at for known in self._registered.values() for b in known.bindings), default=None)

    # ---- what happens ----------------------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """Drop the bindings whose time is over."""
        for known in list(self._registered.values()):
            for binding in [b for b in known.bindings if b.expires_at <= now]:
                self._drop(known, binding, "expired")

    def deregister(self, subscriber: Subscriber, event: str) -> int:
        """End all registrations of a subscriber from the network's side; returns how many contacts it had."""
        known = self._registered.get(subscriber.impi)
        if known is None:
            return 0
        count = len(known.bindings)
        for binding in list(known.bindings):
            self._drop(known, binding, event)
        return count

    def flow_failed(self, known: RegisteredSubscriber, asked_at: float, uri: str, path: tuple[str, ...]) -> None:
        """Drop the binding whose flow is gone (RFC 5626 section 7), unless it was registered again after ``asked_at``.

        Who watches is told to register again: ``deactivated`` (RFC 3680 section 5.3).
        """
        for binding in list(known.bindings):
            if (binding.uri, binding.path) == (uri, path) and binding.refreshed_at <= asked_at:
                self._drop(known, binding, "deactivated")

    def handle(self, request: Request, now: float) -> Response:
        """Answer a REGISTER; ``SipParseError`` for headers that cannot be read."""
        if (refusal := self._refusal(request)) is not None:
            return refusal
        credentials = self._credentials(request)
        try:
            subscriber = self._hss.by_impi(credentials.username or "") if credentials else self._by_to(request)
        except UnknownSubscriberError as error:
            return self._stranger(request, credentials, str(error), now)
        protection = (credentials.get("integrity-protected") if credentials else None) or "no"
        if not subscriber.has_card and protection != AUTHENTICATED:
            return self._with_password(request, credentials, subscriber, now)
        if self._hss.by_uri(request.to.uri) is not subscriber:
            return refuse(request, 403, _NOT_HIS)
        if credentials is not None and protection == AUTHENTICATED:
            return self._vouched_for(request, credentials, subscriber, now)
        judged = self.cards.judge(request, credentials, subscriber, now)
        if isinstance(judged, Response):
            return judged
        response = self._bind(request, subscriber, now)
        if response.success:
            response.headers.add("Authentication-Info", judged)
        return response

    def _vouched_for(self, request: Request, credentials: Credentials, subscriber: Subscriber, now: float) -> Response:
        """Take a user whom a trusted edge has authenticated, if the HSS lets that web server vouch for it.

        TS 33.203 annex U, TS 29.228 6.5.2.5.  That the edge may be trusted has been seen to by the I-CSCF.
        """
        web_server = credentials.get(self._entity_parameter) or ""
        if web_server not in subscriber.web_servers:
            return refuse(request, 403, "this web server may not vouch for the subscriber")
        return self._bind(request, subscriber, now, web_server)

    def _with_password(
        self, request: Request, credentials: Credentials | None, subscriber: Subscriber, now: float
    ) -> Response:
        """SIP digest (TS 33.203 annex N)."""
        password, known = subscriber.password, self._registered.get(subscriber.impi)
        stands = known is not None and any(binding.call_id == request.call_id for binding in known.bindings)
        judged = self._passwords.judge(request, credentials, subscriber.impi, password, now, registered=stands)
        if isinstance(judged, Response) or password is None:
            assert isinstance(judged, Response)
            _log.info("%r: %d %s to its digest", subscriber.impi, judged.status, judged.reason)
            return judged
        if self._hss.by_uri(request.to.uri) is not subscriber:
            return refuse(request, 403, _NOT_HIS)
        response = self._bind(request, subscriber, now)
        if response.success:
            response.headers.add("Authentication-Info", digest.authentication_info(judged, password))
        return response

    def _stranger(self, request: Request, credentials: Credentials | None, words: str, now: float) -> Response:
        """Answer for a name that nobody has: as a wrong password is, so that nobody learns which names there are.

        Where a card would be asked, it is refused at once (clause 5.3.1.2): there is no challenge without a key.
        """
        protection = credentials.get("integrity-protected") if credentials else None
        uri = request.to.uri
        name = (credentials.username if credentials else None) or str(uri).partition(":")[2]
        card = not isinstance(uri, SipUri) or _NUMBER.fullmatch(name.partition("@")[0]) is not None
        if protection == AUTHENTICATED or card:
            return refuse(request, 403, words)
        judged = self._passwords.judge(request, credentials, name, None, now)
        assert isinstance(judged, Response)
        _log.info("REGISTER of a name that nobody has: %d %s", judged.status, judged.reason)
        return judged

    def disallow(self, subscriber: Subscriber) -> int:
        """End what web servers that may not vouch any more have registered (Cx PPR); returns how many contacts."""
        known = self._registered.get(subscriber.impi)
        gone = [
            binding
            for binding in (known.bindings if known else ())
            if binding.web_server and binding.web_server not in subscriber.web_servers
        ]
        for binding in gone:
            assert known is not None
            self._drop(known, binding, "rejected")
        return len(gone)

    def _refusal(self, request: Request) -> Response | None:
        """What is wrong with a REGISTER whoever sends it."""
        uri = request.request_uri
        if not isinstance(uri, SipUri) or uri.host.lower() != self._domain or uri.user is not None:
            return refuse(request, 404, "this is the registrar of another domain")
        if unknown := [tag for tag in request.require if tag not in _UNDERSTOOD]:
            refusal = response_to(request, 420, to_tag=self._tokens(16))
            refusal.headers.add("Unsupported", ", ".join(unknown))
            return refusal
        if not request.path:
            refusal = response_to(request, 421, to_tag=self._tokens(16))
            refusal.headers.add("Require", "path")
            return refusal
        return None

    def _credentials(self, request: Request) -> Credentials | None:
        for value in request.headers.get_all("Authorization"):
            credentials = Credentials.parse(value, "Authorization")
            if credentials.is_digest and (credentials.realm or "").lower() == self._domain:
                return credentials
        return None

    def _by_to(self, request: Request) -> Subscriber:
        subscriber = self._hss.by_uri(request.to.uri)
        if subscriber is None:
            raise UnknownSubscriberError("no subscriber has this public identity")
        return subscriber

    # ---- bindings ---------------------------------------------------------------------------------------------------

    def _bind(self, request: Request, subscriber: Subscriber, now: float, web_server: str = "") -> Response:
        """Take the contacts of an authenticated REGISTER, all of them or none (RFC 3261 section 10.3)."""
        known = self._registered.get(subscriber.impi) or RegisteredSubscriber(subscriber)
        if request.contacts == "*":
            if request.expires != 0:
                return refuse(request, 400, "Contact * needs Expires 0 (RFC 3261 10.2.2)")
            changes = [_Change(binding.contact, 0, binding.reg_id, binding) for binding in known.bindings]
        else:
            changes = [self._change(request, known, contact) for contact in request.contacts]
        if (refusal := self._unacceptable(request, known, changes, now)) is not None:
            return refusal
        for binding in _in_the_way(known, changes):
            silent = now - binding.refreshed_at
            _log.info("%r: a contact that was not heard of for %.0f s gives way", subscriber.impi, silent)
            self._drop(known, binding, "deactivated")
        for change in changes:
            old = change.old if change.old in known.bindings else None
            if change.seconds == 0:
                if old is not None:
                    self._drop(known, old, "unregistered")
                continue
            binding = Binding(
                change.contact.without_parameters("expires", "pub-gruu", "temp-gruu"),
                tuple(str(hop) for hop in request.path),
                now + change.seconds,
                request.call_id,
                request.cseq.number,
                now,
                change.reg_id,
                self._temporary(request, subscriber, change),
                web_server,
            )
            if old is not None:
                known.bindings.remove(old)
            known.bindings.append(binding)
            self._registered[subscriber.impi] = known
            event = "refreshed" if old is not None and old.uri == binding.uri else "registered"
            self.events.append(RegistrationEvent(subscriber, binding, event))
            _log.info("%s %r for %d s", event, subscriber.impi, change.seconds)
        return self._ok(request, known, any(change.reg_id for change in changes), now)

    def _change(self, request: Request, known: RegisteredSubscriber, contact: NameAddr) -> _Change:
        seconds = self._seconds(request, contact)
        reg_id = contact.parameters.get("reg-id") or ""
        if not (instance_of(contact) and "outbound" in request.supported and _outbound(request)):
            # RFC 5626 section 6: what is not asked for by all three is no flow of an instance.
            reg_id = ""
        return _Change(contact, seconds, reg_id, known.same(contact, reg_id))

    def _temporary(self, request: Request, subscriber: Subscriber, change: _Change) -> tuple[str, ...]:
        """A new temporary GRUU at each REGISTER; the others stay good while Call-ID is the same (RFC 5627 5.4)."""
        instance = instance_of(change.contact)
        before: tuple[str, ...] = ()
        if change.old is not None:
            stays = (change.old.instance, change.old.call_id) == (instance, request.call_id)
            before = change.old.temporary[1 - TEMPORARY_EACH :] if stays else ()
            self._gruus.end(*(name for name in change.old.temporary if name not in before))
        if not instance or "gruu" not in request.supported:
            self._gruus.end(*before)
            return ()
        return (*before, self._gruus.make(subscriber.impi, instance))

    def _seconds(self, request: Request, contact: NameAddr) -> int:
        seconds = contact.expires if contact.expires is not None else request.expires
        return MAXIMUM_EXPIRES if seconds is None else min(seconds, MAXIMUM_EXPIRES)

    def _unacceptable(
        self, request: Request, known: RegisteredSubscriber, changes: Sequence[_Change], now: float
    ) -> Response | None:
        added = [change for change in changes if change.seconds > 0]
        if len(added) > 1 and any("reg-id" in change.contact.parameters for change in added):
            return refuse(request, 400, "reg-id is for a contact that comes alone (RFC 5626 section 6)")
        for change in changes:
            if not isinstance(change.contact.uri, SipUri):
                return refuse(request, 400, "a contact is no SIP URI")
            if 0 < change.seconds < MINIMUM_EXPIRES:
                refusal = response_to(request, 423, to_tag=self._tokens(16))
                refusal.headers.add("Min-Expires", MINIMUM_EXPIRES)
                return refusal
            old = change.old
            if old is not None and old.call_id == request.call_id and old.sequence >= request.cseq.number:
                return refuse(request, 500, "an older request of the same registration (RFC 3261 10.3)")
            flow = instance_of(change.contact) and "reg-id" in change.contact.parameters
            if flow and "outbound" in request.supported and not _outbound(request):
                return response_to(request, 439, "First Hop Lacks Outbound Support", to_tag=self._tokens(16))
        early = any(now < binding.refreshed_at + SETTLED for binding in _in_the_way(known, changes))
        if early or len(added) > MAXIMUM_CONTACTS:
            return refuse(request, 403, "too many contacts are registered")
        return None

    def _ok(self, request: Request, known: RegisteredSubscriber, outbound: bool, now: float) -> Response:
        response = response_to(request, 200, to_tag=self._tokens(16))
        identity = _gruu_identity(request.to.uri, known.subscriber)
        for binding in known.bindings:
            left = max(0, round(binding.expires_at - now))
            contact = binding.contact.with_parameter("expires", str(left))
            if binding.temporary and identity is not None:
                contact = contact.with_parameter("pub-gruu", f'"{public_gruu(identity, binding.instance)}"')
                contact = contact.with_parameter("temp-gruu", f'"{self._gruus.uri(binding.temporary[-1])}"')
            response.headers.add("Contact", contact)
        for hop in request.path:
            response.headers.add("Path", hop)
        response.headers.add("Service-Route", f"<{self._service_route}>")
        if outbound:
            response.headers.add("Require", "outbound")  # RFC 5626 section 6
        if known.subscriber.usable:
            identities = ", ".join(f"<{str.__str__(impu)}>" for impu in known.subscriber.usable)
            response.headers.add("P-Associated-URI", identities)
        if (value := request.headers.get("P-Charging-Vector")) is not None:
            charging = PChargingVector.parse(value)
            answer = PChargingVector.of(charging.icid, orig_ioi=charging.orig_ioi, term_ioi=f"Type 1{self._domain}")
            response.headers.add("P-Charging-Vector", answer)
        return response

    def _drop(self, known: RegisteredSubscriber, binding: Binding, event: str) -> None:
        known.bindings.remove(binding)
        self._gruus.end(*binding.temporary)
        if not known.bindings:
            self._registered.pop(known.subscriber.impi, None)
        self.events.append(RegistrationEvent(known.subscriber, replace(binding, expires_at=0.0), event))
        _log.info("%s: %s", event, repr(known.subscriber.impi))


def _in_the_way(known: RegisteredSubscriber, changes: Sequence[_Change]) -> list[Binding]:
    """What must go so that the changes find room: what has not been heard of for the longest time."""
    added = sum(1 for change in changes if change.old is None and change.seconds > 0)
    removed = sum(1 for change in changes if change.old is not None and change.seconds == 0)
    excess = len(known.bindings) + added - removed - MAXIMUM_CONTACTS
    others = [each for each in known.bindings if not any(each is change.old for change in changes)]
    return others[: max(0, excess)]


def _gruu_identity(uri: Uri, subscriber: Subscriber) -> SipUri | None:
    """Return the SIP identity whose GRUUs a UE is told: the one it registers, else the first that may be used."""
    for identity in (uri, *(parse_uri(str.__str__(impu)) for impu in subscriber.usable)):
        if isinstance(identity, SipUri):
            return identity
    return None


def _outbound(request: Request) -> bool:
    """Whether the first hop has marked its Path for outbound (RFC 5626 section 6)."""
    last = request.path[-1].uri
    return isinstance(last, SipUri) and "ob" in last.parameters
