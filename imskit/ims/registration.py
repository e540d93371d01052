"""IMS registration of a UE (TS 24.229 clauses 5.1.1.2 to 5.1.1.7), without a security agreement.

The machine builds REGISTER requests and reads their outcome; sending them, and asking the card, is its owner's part.
One REGISTER is under way at a time.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from imskit.aka.challenge import AkaAlgorithm, Challenge, encode_auts
from imskit.aka.errors import AkaError
from imskit.aka.vector import AkaResult, MacFailure, Success, SyncFailure
from imskit.engine import Tick, Tokens
from imskit.ims.profile import UeProfile
from imskit.ims.reginfo import RegContact, RegInfo
from imskit.secrets import Identity, Secret
from imskit.sip import digest
from imskit.sip.wire.auth import Challenge as DigestChallenge
from imskit.sip.wire.auth import Credentials
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Target
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.message import Request, Response
from imskit.sip.wire.uri import SipUri, parse_uri, uri_equal

_log = logging.getLogger(__name__)

INVALID_CHALLENGES = 3
"""The third consecutive invalid challenge ends the attempt (TS 34.229-1 case 9.1)."""
MAXIMUM_CHALLENGES = 6
"""Challenges in a row, valid or not, that are answered within one attempt."""
CARD_SECONDS = 30.0
"""How long the card may take for an answer."""
DEREGISTER_SECONDS = 4.0
"""How long a de-registration is waited for when the UE goes off."""
_LONG_REGISTRATION = 1200
_REFRESH_BEFORE = 600


class State(Enum):
    """Where the registration stands."""

    OFF = "not registered"
    REGISTERING = "registering"
    REGISTERED = "registered"
    WAITING = "waiting before the next attempt"
    DEREGISTERING = "de-registering"


@dataclass(frozen=True)
class RetryPolicy:
    """Back-off between failed registrations (RFC 5626 section 4.5), seconds."""

    base: float = 30.0
    maximum: float = 1800.0


@dataclass(frozen=True)
class RegistrationStatus:
    """What is known; ``reason`` is a sentence for the user."""

    state: State = State.OFF
    reason: str = "not started"
    p_cscf: Target | None = None
    impu: Identity | None = None
    """Default public identity: the first of ``associated``."""
    associated: tuple[Identity, ...] = ()
    """P-Associated-URI: the identities that may be used (RFC 7315 section 4.1)."""
    service_route: tuple[str, ...] = ()
    """Route values of what is sent outside dialogs (RFC 3608)."""
    expires_at: float | None = None
    retry_at: float | None = None


# ---- events -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Register, and stay registered."""


@dataclass(frozen=True, slots=True)
class Stop:
    """De-register and stay off."""


@dataclass(frozen=True, slots=True)
class RegisterOutcome:
    """The final response to the REGISTER of ``key``, or none (``failure`` says why)."""

    key: str
    response: Response | None
    failure: str = "the P-CSCF does not answer"


@dataclass(frozen=True, slots=True)
class CardAnswer:
    """What the card made of the challenge."""

    result: AkaResult


@dataclass(frozen=True, slots=True)
class CardFailed:
    """The card could not be asked; ``reason`` says why in words for the user."""

    reason: str


@dataclass(frozen=True, slots=True)
class RegistrationInfo:
    """A reg-event NOTIFY."""

    document: RegInfo


@dataclass(frozen=True, slots=True)
class Lost:
    """The network has lost the registration (504 with a restoration body, 403 to a request, core restarted)."""

    reason: str


type Event = Start | Stop | RegisterOutcome | CardAnswer | CardFailed | RegistrationInfo | Lost | Tick

# ---- outputs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendRegister:
    """Send ``request`` to ``target``; its outcome comes back as ``RegisterOutcome`` with ``key``."""

    key: str
    request: Request
    target: Target


@dataclass(frozen=True, slots=True)
class AskCard:
    """Run AKA on the card."""

    rand: bytes
    autn: bytes


@dataclass(frozen=True, slots=True)
class Changed:
    """The status has changed."""

    status: RegistrationStatus


type Output = SendRegister | AskCard | Changed


@dataclass
class _Attempt:
    """One chain of REGISTER requests: an initial registration, a refresh or a de-registration."""

    initial: bool
    expires: int
    challenges: int = 0
    invalid: int = 0
    raised: bool = False
    """Whether 423 has been answered already."""


@dataclass
class _Login:
    """The last challenge and, if the card has answered it, the password it led to."""

    challenge: DigestChallenge
    algorithm: AkaAlgorithm
    password: Secret[bytes] | None = None
    count: int = 0


class Registration:
    """The machine; see the module's text and ``imskit.engine``."""

    def __init__(self, profile: UeProfile, tokens: Tokens, retry: RetryPolicy | None = None) -> None:
        self._profile = profile
        self._tokens = tokens
        self._retry = retry or RetryPolicy()
        self._outputs: deque[Output] = deque()
        self.status = RegistrationStatus()
        """What is known now."""
        self._wanted = False
        self._attempt: _Attempt | None = None
        self._login: _Login | None = None
        self._key: str | None = None
        self._waiting_for_card = False
        self._call_id = ""
        self._tag = ""
        self._cseq = 0
        self._proxy = 0
        self._failures = 0
        self._deadline: float | None = None

    # ---- engine -------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> None:
        """Take in ``event`` at ``now``."""
        match event:
            case Start():
                self._wanted = True
                if self.status.state in (State.OFF, State.WAITING):
                    self._begin(now, initial=True)
            case Stop():
                self._stop(now)
            case RegisterOutcome(key, response, failure):
                if key == self._key:
                    self._key = None
                    self._deadline = None
                    if response is None:
                        self._failed(now, failure)
                    else:
                        self._response(response, now)
            case CardAnswer(result):
                if self._waiting_for_card:
                    self._waiting_for_card = False
                    self._card(result, now)
            case CardFailed(reason):
                if self._waiting_for_card:
                    self._waiting_for_card = False
                    self._failed(now, reason)
            case RegistrationInfo(document):
                self._notified(document, now)
            case Lost(reason):
                if self.status.state is State.REGISTERED:
                    _log.warning("registration lost: %s", reason)
                    self._begin(now, initial=True, reason=f"registering again: {reason}")
            case Tick():
                if self._deadline is not None and now >= self._deadline:
                    self._deadline = None
                    self._due(now)

    def poll(self) -> Output | None:
        """Return the next output."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """When something is due: a refresh, a new attempt, the end of a wait."""
        return self._deadline

    # ---- attempts -----------------------------------------------------------------------------------------------

    def _due(self, now: float) -> None:
        match self.status.state:
            case State.WAITING:
                self._begin(now, initial=True)
            case State.REGISTERED:
                self._begin(now, initial=False)
            case State.REGISTERING if self._waiting_for_card:
                self._waiting_for_card = False
                self._failed(now, f"the card did not answer within {CARD_SECONDS:.0f} s")
            case State.DEREGISTERING:
                self._off("switched off; the network did not confirm it")
            case _:
                pass

    def _begin(self, now: float, *, initial: bool, reason: str = "") -> None:
        """Start an initial registration or a refresh."""
        if self._key is not None or self._waiting_for_card:
            return  # one REGISTER at a time (TS 24.229 5.1.1.2.1)
        self._attempt = _Attempt(initial, self._profile.expires)
        if initial:
            self._forget()
            self._set(RegistrationStatus(State.REGISTERING, reason or "registering with the IMS core", self._target()))
        self._send(now)

    def _forget(self) -> None:
        """A new registration has nothing of an old one: new Call-ID, no challenge."""
        self._login = None
        self._call_id = self._tokens(32)
        self._tag = self._tokens(16)

    def _stop(self, now: float) -> None:
        self._wanted = False
        if self.status.state is State.REGISTERED and self._key is None and not self._waiting_for_card:
            self._attempt = _Attempt(False, 0)
            self._set(replace(self.status, state=State.DEREGISTERING, reason="de-registering", expires_at=None))
            self._send(now)
            self._deadline = now + DEREGISTER_SECONDS
        elif self.status.state is State.DEREGISTERING:
            pass
        elif self._key is not None and self.status.state is not State.WAITING:
            # A REGISTER is under way: whatever comes of it, nothing is waited for.
            self._set(replace(self.status, state=State.DEREGISTERING, reason="de-registering", expires_at=None))
            self._deadline = now + DEREGISTER_SECONDS
        else:
            self._off("switched off")

    def _off(self, reason: str) -> None:
        self._key = None
        self._attempt = None
        self._waiting_for_card = False
        self._deadline = None
        self._set(RegistrationStatus(State.OFF, reason))

    # ---- requests -----------------------------------------------------------------------------------------------

    def _target(self) -> Target:
        return self._profile.p_cscfs[self._proxy % len(self._profile.p_cscfs)]

    def _send(self, now: float, authorization: str | None = None) -> None:
        attempt, profile = self._attempt, self._profile
        assert attempt is not None
        self._cseq += 1
        self._key = f"register-{self._cseq}-{self._tokens(8)}"
        impu = str.__str__(profile.impu)
        fields: list[tuple[str, object]] = [
            ("Max-Forwards", 70),
            ("From", f"<{impu}>;tag={self._tag}"),
            ("To", f"<{impu}>"),
            ("Call-ID", self._call_id),
            ("CSeq", f"{self._cseq} REGISTER"),
            ("Contact", profile.registered_contact()),
            ("Expires", attempt.expires),
            ("Authorization", authorization or self._authorization()),
            ("Supported", "path"),
            ("User-Agent", profile.user_agent),
        ]
        request = Request.create("REGISTER", f"sip:{profile.domain}", fields)
        self._deadline = None
        self._outputs.append(SendRegister(self._key, request, self._target()))

    def _authorization(self) -> str:
        """Credentials without a fresh challenge: empty at first, then from the last one (5.1.1.2.1, 5.1.1.4.1)."""
        if self._login is None or self._login.password is None:
            empty = Credentials.digest(
                username=str.__str__(self._profile.impi),
                realm=self._profile.domain,
                nonce="",
                uri=f"sip:{self._profile.domain}",
                response="",
            )
            return str(empty)
        return self._answer(self._login, self._login.password)

    def _answer(self, login: _Login, password: Secret[bytes] | None, auts: str | None = None) -> str:
        login.count += 1
        credentials = digest.answer(
            login.challenge,
            username=str.__str__(self._profile.impi),
            password=password,
            method="REGISTER",
            uri=f"sip:{self._profile.domain}",
            nc=login.count,
            cnonce=self._tokens(16),
            auts=auts,
        )
        return str(credentials)

    # ---- answers of the core --------------------------------------------------------------------------------------

    def _response(self, response: Response, now: float) -> None:
        if self.status.state is State.DEREGISTERING:
            self._deregistration_answered(response, now)
        elif response.success:
            self._accepted(response, now)
        elif response.status == 401:
            self._challenged(response, now)
        elif response.status == 423:
            self._too_brief(response, now)
        else:
            self._refused(response, now)

    def _deregistration_answered(self, response: Response, now: float) -> None:
        attempt = self._attempt
        if attempt is None or attempt.expires:
            # The switch-off met a registration under way: take the binding away if there is one now.
            if response.success:
                self._attempt = _Attempt(False, 0)
                self._send(now)
                self._deadline = now + DEREGISTER_SECONDS
            else:
                self._off("switched off")
        elif response.status == 401:
            self._challenged(response, now)
        else:
            self._off("switched off")

    def _accepted(self, response: Response, now: float) -> None:
        try:
            expires = self._granted(response)
            associated = tuple(Identity(str(address.uri)) for address in response.addresses("P-Associated-URI")) or (
                self._profile.impu,
            )
            route = tuple(str(address) for address in response.service_route)
        except SipParseError as error:
            self._failed(now, f"the core's 200 to REGISTER cannot be read: {error}")
            return
        if expires <= 0:
            self._failed(now, "the core's 200 to REGISTER does not hold this device's contact")
            return
        self._failures = 0
        self._attempt = None
        refresh = expires - _REFRESH_BEFORE if expires > _LONG_REGISTRATION else expires / 2
        self._set(
            RegistrationStatus(
                State.REGISTERED,
                f"registered for {expires} s",
                self._target(),
                associated[0],
                associated,
                route,
                now + expires,
            )
        )
        self._deadline = now + refresh

    def _granted(self, response: Response) -> int:
        """Seconds granted to our contact, 0 if it is not there (RFC 3261 section 10.2.4)."""
        contacts = response.contacts
        ours = self._profile.contact_uri()
        for contact in contacts if contacts != "*" else []:
            if _same_contact(contact, ours):
                if contact.expires is not None:
                    return contact.expires
                return response.expires if response.expires is not None else 3600
        return 0

    def _challenged(self, response: Response, now: float) -> None:
        attempt = self._attempt
        assert attempt is not None
        attempt.challenges += 1
        login = self._choose(response)
        if login is None:
            self._failed(now, "the core's challenge offers no AKA algorithm that this device knows")
            return
        try:
            challenge = Challenge.decode(login.challenge.nonce or "")
        except AkaError as error:
            self._failed(now, f"the core's challenge cannot be used: {error}")
            return
        if attempt.challenges > MAXIMUM_CHALLENGES:
            self._failed(now, "the core goes on challenging: it does not accept the card's answers")
            return
        self._login = login
        self._waiting_for_card = True
        if self.status.state is not State.DEREGISTERING:
            self._deadline = now + CARD_SECONDS
        self._outputs.append(AskCard(challenge.rand, challenge.autn))

    def _choose(self, response: Response) -> _Login | None:
        """The first challenge of our realm that we can answer (RFC 8760 section 2.4)."""
        for value in response.headers.get_all("WWW-Authenticate"):
            try:
                challenge = DigestChallenge.parse(value)
            except SipParseError as error:
                _log.warning("challenge passed over: %s", error)
                continue
            algorithm = AkaAlgorithm.parse(challenge.algorithm or "")
            if challenge.is_digest and algorithm is not None:
                return _Login(challenge, algorithm)
        return None

    def _card(self, result: AkaResult, now: float) -> None:
        attempt, login = self._attempt, self._login
        assert attempt is not None
        assert login is not None
        if isinstance(result, Success):
            attempt.invalid = 0
            login.password = login.algorithm.password(result)
            self._send(now, self._answer(login, login.password))
            return
        attempt.invalid += 1
        if attempt.invalid >= INVALID_CHALLENGES:
            kind = "does not belong to this card's network" if isinstance(result, MacFailure) else "is out of sequence"
            self._failed(now, f"gave up: {INVALID_CHALLENGES} challenges in a row were invalid; the last one {kind}")
            return
        match result:
            case SyncFailure(auts):
                _log.info("the card asks to resynchronise")
                self._send(now, self._answer(login, None, encode_auts(auts)))
            case MacFailure():
                _log.warning("the card does not accept the network's MAC")
                # TS 24.229 5.1.1.5.3: neither AUTS nor a response.
                self._send(now, self._answer(login, None))
        self._login = None

    def _too_brief(self, response: Response, now: float) -> None:
        attempt = self._attempt
        assert attempt is not None
        try:
            minimum = response.min_expires
        except SipParseError:
            minimum = None
        if minimum is None or minimum <= attempt.expires or attempt.raised:
            self._refused(response, now)
            return
        attempt.expires, attempt.raised = minimum, True
        self._send(now)

    def _refused(self, response: Response, now: float) -> None:
        attempt = self._attempt
        text = f"the core answered {response.status} {response.reason}".rstrip() + "".join(_warnings(response))
        if attempt is not None and not attempt.initial and response.status not in (403, 404):
            # 5.1.1.4.1: the old registration may be gone; begin anew at once, and back off if that fails too.
            self._begin(now, initial=True, reason=f"registering again: {text}")
            return
        delay = None
        try:
            if response.retry_after is not None:
                delay = float(response.retry_after.seconds)
        except SipParseError:
            pass
        if response.status in (403, 404):
            # The subscription does not allow it: asking again soon will not change that.
            delay = max(delay or 0.0, self._retry.maximum)
        self._failed(now, text, delay)

    def _failed(self, now: float, reason: str, delay: float | None = None) -> None:
        """The attempt is over: wait (RFC 5626 section 4.5), then try the next P-CSCF."""
        self._attempt = None
        self._key = None
        if self.status.state is State.DEREGISTERING or not self._wanted:
            self._off("switched off")
            return
        self._failures += 1
        self._proxy += 1
        if delay is None:
            ceiling = min(self._retry.maximum, self._retry.base * 2 ** min(self._failures, 16))
            delay = ceiling * (0.5 + int(self._tokens(8), 16) / 2**33)
        _log.warning("registration failed: %s; next try in %.0f s", reason, delay)
        self._set(RegistrationStatus(State.WAITING, reason, self._target(), retry_at=now + delay))
        self._deadline = now + delay

    # ---- reg-event ------------------------------------------------------------------------------------------------

    def _notified(self, document: RegInfo, now: float) -> None:
        """Obey the network's word on our contact (TS 24.229 clauses 5.1.1.5.1 and 5.1.1.7)."""
        if self.status.state is not State.REGISTERED or self._key is not None:
            return
        contact = self._our_contact(document)
        if contact is None:
            return
        if contact.state == "active":
            left = contact.expires
            if contact.event == "shortened" and left is not None and self.status.expires_at is not None:
                self._set(replace(self.status, expires_at=now + left, reason=f"registered for {left} s"))
                self._deadline = now + left / 2
            return
        if contact.event == "deactivated":
            self._begin(now, initial=True, reason="the network asked to register again")
        elif contact.event == "probation":
            self._failed(now, "the network asked to register again later", float(contact.retry_after or 0))
        else:
            self._failed(now, f"the network ended the registration ({contact.event})", self._retry.maximum)

    def _our_contact(self, document: RegInfo) -> RegContact | None:
        ours = self._profile.contact_uri()
        for registration in document.registrations:
            for contact in registration.contacts:
                try:
                    uri = parse_uri(contact.uri)
                except SipParseError:
                    continue
                if isinstance(uri, SipUri) and _same_address(uri, ours):
                    return contact
        return None

    def _set(self, status: RegistrationStatus) -> None:
        self.status = status
        self._outputs.append(Changed(status))


def _same_contact(contact: NameAddr, ours: SipUri) -> bool:
    return isinstance(contact.uri, SipUri) and (uri_equal(contact.uri, ours) or _same_address(contact.uri, ours))


def _same_address(uri: SipUri, ours: SipUri) -> bool:
    """Registrars may add URI parameters: host and port tell whose contact it is."""
    return (uri.host.lower(), uri.port or 5060) == (ours.host.lower(), ours.port or 5060)


def _warnings(response: Response) -> Iterator[str]:
    """The core's own words, where it has any."""
    for value in response.headers.get_all("Warning"):
        _, quote, rest = value.partition('"')
        if quote:
            yield f" ({rest.rpartition('"')[0]})"
