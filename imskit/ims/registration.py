"""IMS registration of a UE (TS 24.229 clauses 5.1.1.2 to 5.1.1.7), without a security agreement.

The machine builds REGISTER requests and reads their outcome; sending them, and asking the card, is its owner's part.
One REGISTER is under way at a time.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, replace

from imskit.aka.challenge import Challenge, encode_auts
from imskit.aka.errors import AkaError
from imskit.aka.vector import AkaResult, MacFailure, Success, SyncFailure
from imskit.engine import Tick, Tokens
from imskit.ims.profile import UeProfile
from imskit.ims.reginfo import RegInfo
from imskit.ims.register_response import (
    Login,
    choose_login,
    granted_seconds,
    network_words,
    own_contact,
    retry_after,
)
from imskit.ims.registration_events import (
    AskCard,
    CardAnswer,
    CardFailed,
    Changed,
    Event,
    InstallSecurity,
    Lost,
    Output,
    RegisterOutcome,
    RegistrationInfo,
    RegistrationStatus,
    ReleaseSecurity,
    RemoveSecurity,
    ReserveSecurity,
    RetryPolicy,
    SecurityFailed,
    SecurityInstalled,
    SecurityReserved,
    SendRegister,
    Start,
    State,
    Stop,
)
from imskit.secrets import Identity, Secret
from imskit.sip import digest
from imskit.sip.wire.auth import Credentials
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Target
from imskit.sip.wire.message import Request, Response

__all__ = [
    "AskCard",
    "CardAnswer",
    "CardFailed",
    "Changed",
    "Event",
    "InstallSecurity",
    "Lost",
    "Output",
    "RegisterOutcome",
    "Registration",
    "RegistrationInfo",
    "RegistrationStatus",
    "ReleaseSecurity",
    "RemoveSecurity",
    "ReserveSecurity",
    "RetryPolicy",
    "SecurityFailed",
    "SecurityInstalled",
    "SecurityReserved",
    "SendRegister",
    "Start",
    "State",
    "Stop",
]

_log = logging.getLogger(__name__)

INVALID_CHALLENGES = 3
"""The third consecutive invalid challenge ends the attempt (TS 34.229-1 case 9.1)."""
MAXIMUM_CHALLENGES = 6
"""Challenges in a row, valid or not, that are answered within one attempt."""
CARD_SECONDS = 30.0
"""How long the card may take for an answer."""
DEREGISTER_SECONDS = 4.0
"""How long a de-registration is waited for when the UE goes off."""
NOTICE_SECONDS = 8.0
"""A REGISTER that is unanswered for so long is mentioned in the status; timer F takes 128 s to give it up."""
_LONG_REGISTRATION = 1200
_REFRESH_BEFORE = 600
_ELSEWHERE = frozenset({305, 408, 480, 500, 502, 503, 504})
"""Refusals that another P-CSCF may not share (TS 24.229 clause 5.1.1.2.1)."""


@dataclass
class _Attempt:
    """One chain of REGISTER requests: an initial registration, a refresh or a de-registration."""

    initial: bool
    expires: int
    challenges: int = 0
    invalid: int = 0
    raised: bool = False
    """Whether 423 has been answered already."""


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
        self._login: Login | None = None
        """The last one that the card has answered."""
        self._asked: Login | None = None
        """The one that the card is to answer."""
        self._key: str | None = None
        self._waiting_for_card = False
        self._call_id = ""
        self._tag = ""
        self._cseq = 0
        self._proxy = 0
        self._tried = 0
        """P-CSCFs that have failed since the last wait."""
        self._failures = 0
        self._not_before = 0.0
        """The network wants no attempt before this time."""
        self._due_at: float | None = None
        """Refresh, new attempt, or end of a wait."""
        self._off_at: float | None = None
        """When a de-registration is given up."""

    # ---- engine -------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> None:
        """Take in ``event`` at ``now``."""
        match event:
            case Start():
                self._start(now)
            case Stop():
                self._stop(now)
            case RegisterOutcome(key, response, failure):
                if key == self._key:
                    self._key = None
                    self._due_at = None
                    if response is None:
                        self._failed(now, failure, elsewhere=True)
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
                if self._off_at is not None and now >= self._off_at:
                    self._off(now, "switched off; the network did not confirm it")
                elif self._due_at is not None and now >= self._due_at:
                    self._due_at = None
                    self._due(now)

    def poll(self) -> Output | None:
        """Return the next output."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """When something is due: a refresh, a new attempt, the end of a wait."""
        return min((at for at in (self._due_at, self._off_at) if at is not None), default=None)

    # ---- attempts -----------------------------------------------------------------------------------------------

    def _start(self, now: float) -> None:
        """Register; in a wait at once, unless the network set its length."""
        self._wanted = True
        if self.status.state is State.OFF or (self.status.state is State.WAITING and now >= self._not_before):
            self._begin(now, initial=True)

    def _due(self, now: float) -> None:
        if self._waiting_for_card:
            self._waiting_for_card = False
            self._failed(now, f"the card did not answer within {CARD_SECONDS:.0f} s")
        elif self._key is not None:
            self._unanswered(now)
        elif self.status.state is State.WAITING:
            self._begin(now, initial=True)
        elif self.status.state is State.REGISTERED:
            self._begin(now, initial=False)

    def _unanswered(self, now: float) -> None:
        """A REGISTER is under way for long: say so; a registration that it was to refresh may run out meanwhile."""
        reason = f"{self._proxy_name()} has not answered yet; still trying"
        ends = self.status.expires_at
        if self.status.state is State.REGISTERED and ends is not None and ends > now:
            self._due_at = ends
        elif self.status.state is State.REGISTERED:
            self._set(RegistrationStatus(State.REGISTERING, f"the registration has run out: {reason}", self._target()))
        else:
            self._set(replace(self.status, reason=reason))

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
        state = self.status.state
        if state is State.DEREGISTERING:
            return
        if state is State.REGISTERED and self._key is None:
            self._waiting_for_card = False
            self._deregister(now)
        elif self._key is not None:
            # A REGISTER is under way: its outcome decides if there is a binding to take away.
            self._set(replace(self.status, state=State.DEREGISTERING, reason="de-registering"))
            self._due_at = None
            self._off_at = now + DEREGISTER_SECONDS
        else:
            self._off(now, "switched off")

    def _deregister(self, now: float) -> None:
        self._attempt = _Attempt(False, 0)
        self._set(replace(self.status, state=State.DEREGISTERING, reason="de-registering", expires_at=None))
        self._send(now)
        self._off_at = now + DEREGISTER_SECONDS

    def _off(self, now: float, reason: str) -> None:
        self._key = None
        self._attempt = None
        self._waiting_for_card = False
        self._due_at = self._off_at = None
        self._set(RegistrationStatus(State.OFF, reason))
        if self._wanted:
            self._begin(now, initial=True)

    # ---- requests -----------------------------------------------------------------------------------------------

    def _target(self) -> Target:
        return self._profile.p_cscfs[self._proxy % len(self._profile.p_cscfs)]

    def _proxy_name(self) -> str:
        host, port = self._target().address
        return f"the P-CSCF {host} port {port}"

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
        self._due_at = None if self.status.state is State.DEREGISTERING else now + NOTICE_SECONDS
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

    def _answer(self, login: Login, password: Secret[bytes] | None, auts: str | None = None) -> str:
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
        if attempt is not None and attempt.expires and (response.success or not attempt.initial):
            # The switch-off met a registration or refresh under way: there is a binding to take away.
            self._deregister(now)
        elif response.status == 401 and attempt is not None and not attempt.expires:
            self._challenged(response, now)
        else:
            self._off(now, "switched off")

    def _accepted(self, response: Response, now: float) -> None:
        try:
            expires = granted_seconds(response, self._profile.contact_uri())
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
        self._failures = self._tried = 0
        self._not_before = 0.0
        self._attempt = None
        refresh = expires - _REFRESH_BEFORE if expires > _LONG_REGISTRATION else expires / 2
        self._set(
            RegistrationStatus(
                State.REGISTERED,
                f"registered for {expires} s",
                self._target(),
                # The default is the first (RFC 7315 4.1.2.2); as a SIP URI, which From and SUBSCRIBE can always use.
                next((each for each in associated if each.lower().startswith("sip")), associated[0]),
                associated,
                route,
                now + expires,
            )
        )
        self._due_at = now + refresh

    def _challenged(self, response: Response, now: float) -> None:
        attempt = self._attempt
        assert attempt is not None
        attempt.challenges += 1
        login = choose_login(response)
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
        self._asked = login
        self._waiting_for_card = True
        self._due_at = now + CARD_SECONDS
        self._outputs.append(AskCard(challenge.rand, challenge.autn))

    def _card(self, result: AkaResult, now: float) -> None:
        try:
            self._answer_challenge(result, now)
        except SipParseError as error:
            self._failed(now, f"the core's challenge cannot be answered: {error}")

    def _answer_challenge(self, result: AkaResult, now: float) -> None:
        attempt, login = self._attempt, self._asked
        assert attempt is not None
        assert login is not None
        if isinstance(result, Success):
            attempt.invalid = 0
            self._login = replace(login, password=login.algorithm.password(result))
            self._send(now, self._authorization())
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
        text = f"the core answered {response.status} {response.reason}".rstrip() + network_words(response)
        delay = retry_after(response)
        if attempt is not None and not attempt.initial and response.status not in (403, 404):
            ends = self.status.expires_at
            if delay is not None and ends is not None and now + delay < ends:
                self._attempt = None
                self._due_at = now + delay
                return
            # 5.1.1.4.1: the old registration may be gone; begin anew at once, and back off if that fails too.
            self._begin(now, initial=True, reason=f"registering again: {text}")
            return
        if response.status in (403, 404):
            # The subscription does not allow it: asking again soon will not change that.
            delay = max(delay or 0.0, self._retry.maximum)
        self._failed(now, text, delay, elsewhere=delay is None and response.status in _ELSEWHERE)

    def _failed(self, now: float, reason: str, delay: float | None = None, *, elsewhere: bool = False) -> None:
        """The attempt is over: try the next P-CSCF where that may help, else wait (RFC 5626 section 4.5)."""
        self._attempt = None
        self._key = None
        if self.status.state is State.DEREGISTERING or not self._wanted:
            self._off(now, "switched off")
            return
        if elsewhere:
            self._proxy += 1
            self._tried += 1
            if self._tried < len(self._profile.p_cscfs):
                _log.warning("registration failed: %s; trying the next P-CSCF", reason)
                self._begin(now, initial=True, reason=f"{reason}; trying the next P-CSCF")
                return
        self._failures += 1
        self._tried = 0
        self._not_before = 0.0 if delay is None else now + delay
        if delay is None:
            ceiling = min(self._retry.maximum, self._retry.base * 2 ** min(self._failures, 16))
            delay = ceiling * (0.5 + int(self._tokens(8), 16) / 2**33)
        _log.warning("registration failed: %s; next try in %.0f s", reason, delay)
        self._set(RegistrationStatus(State.WAITING, reason, self._target(), retry_at=now + delay))
        self._due_at = now + delay

    # ---- reg-event ------------------------------------------------------------------------------------------------

    def _notified(self, document: RegInfo, now: float) -> None:
        """Obey the network's word on our contact (TS 24.229 clauses 5.1.1.5.1 and 5.1.1.7)."""
        if self.status.state is not State.REGISTERED or self._key is not None:
            return
        contact = own_contact(document, self._profile.contact_uri())
        if contact is None:
            return
        if contact.state == "active":
            left = contact.expires
            if contact.event == "shortened" and left is not None and self.status.expires_at is not None:
                self._set(replace(self.status, expires_at=now + left, reason=f"registered for {left} s"))
                self._due_at = now + left / 2
            return
        self._waiting_for_card = False  # whatever was being refreshed is gone
        if contact.event in ("deactivated", "expired"):
            self._begin(now, initial=True, reason="the network asked to register again")
        elif contact.event == "probation":
            self._failed(now, "the network asked to register again later", float(contact.retry_after or 0))
        else:
            self._failed(now, f"the network ended the registration ({contact.event})", self._retry.maximum)

    def _set(self, status: RegistrationStatus) -> None:
        self.status = status
        self._outputs.append(Changed(status))
