"""IMS registration of a UE (TS 24.229 clauses 5.1.1.2 to 5.1.1.7, TS 33.203, RFC 3329).

The machine builds REGISTER requests and reads their outcome; sending them, asking the card, binding ports and
installing security associations is its owner's part.  One chain of REGISTERs is under way at a time
(`registration_attempt`).  How requests cross Gm at a moment is `path`.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace

from imskit.engine import Tick, Tokens
from imskit.ims.binding import Binding, Bindings
from imskit.ims.gm_path import GmPath
from imskit.ims.p_cscf_list import PCscfList, RetryPolicy
from imskit.ims.profile import UeProfile
from imskit.ims.reginfo import RegContact
from imskit.ims.register_exchange import Failure, RegisterExchange
from imskit.ims.register_failure import judge
from imskit.ims.register_response import Granted, granted, keep_alive_seconds, usable_gruu
from imskit.ims.registration_attempt import SECONDS, Attempt, Step
from imskit.ims.registration_events import (
    AskCard,
    CardAnswer,
    CardFailed,
    Changed,
    Event,
    FindPCscfs,
    Heard,
    InstallSecurity,
    KeepAlive,
    Lost,
    Output,
    PCscfsFound,
    RegisterOutcome,
    RegistrationInfo,
    RegistrationStatus,
    ReleaseSecurity,
    RemoveSecurity,
    ReserveSecurity,
    SecurityFailed,
    SecurityInstalled,
    SecurityReserved,
    SendRegister,
    Start,
    State,
    Stop,
)
from imskit.ims.registration_notice import read
from imskit.ims.security_agreement import Protection
from imskit.ims.security_sets import InUse, SecuritySets
from imskit.secrets import Identity
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Flow, Target
from imskit.sip.wire.message import Response

__all__ = [
    "AskCard",
    "CardAnswer",
    "CardFailed",
    "Changed",
    "Event",
    "FindPCscfs",
    "Heard",
    "InstallSecurity",
    "KeepAlive",
    "Lost",
    "Output",
    "PCscfsFound",
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

DEREGISTER_SECONDS = 4.0
"""How long a de-registration is waited for when the UE goes off."""
SHORT_SECONDS = 10.0
SHORT_REGISTRATIONS = 3
"""After so many registrations in a row that the network has ended within that time the UE backs off."""
KEEP_ALIVE_SECONDS = 25.0
"""Where the P-CSCF takes keep-alives but names no interval: within the 24 to 29 s of RFC 5626 section 4.4.2."""


class Registration:
    """The machine; see the module's text and ``imskit.engine``.

    ``in_use`` tells whether a SIP transaction uses an agreement's associations: old ones stay for it.
    """

    def __init__(
        self,
        profile: UeProfile,
        tokens: Tokens,
        retry: RetryPolicy | None = None,
        in_use: InUse = lambda _: False,
    ) -> None:
        self._profile = profile
        self._policy = profile.security
        self._retry = retry or RetryPolicy()
        self._outputs: deque[Output] = deque()
        self.status = RegistrationStatus()
        """What is known now."""
        self._proxies = PCscfList(profile.p_cscfs, self._retry, tokens)
        self._sets = SecuritySets(tokens, self._outputs.append, in_use)
        self._bindings = Bindings(profile, tokens)
        self._exchange = RegisterExchange(profile, tokens, self._sets, self._proxies, self._outputs.append)
        self._wanted = False
        self._since = 0.0
        """When the registration began."""
        self._short_ones = 0
        """Registrations in a row that the network ended at once with the word to register again."""
        self._install_failed = False
        """The last thing that failed was an installation: once it is tried again at once, with other SPIs."""
        self._keep_alive: KeepAlive | None = None
        self._not_before = 0.0
        """The network wants no attempt before this time."""
        self._retry_at: float | None = None
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
            case RegisterOutcome():
                self._outcome(event, now)
            case CardAnswer(result, rand):
                if self._exchange.at(Step.CARD) and rand in (None, self._exchange.login.rand):
                    self._unless(self._exchange.answered(result, now), now)
            case CardFailed(reason, rand):
                if self._exchange.at(Step.CARD) and rand in (None, self._exchange.login.rand):
                    self._failed(now, reason)
            case SecurityReserved():
                if self._sets.reserved(event) and self._exchange.at(Step.RESERVATION):
                    self._exchange.send(now)
            case SecurityInstalled():
                if self._sets.installed(event) and self._exchange.at(Step.INSTALLATION):
                    self._exchange.send(now)
            case SecurityFailed(_, reason):
                if self._sets.failed(event):
                    self._no_security(reason, now)
            case PCscfsFound(targets, reason):
                if self._exchange.at(Step.DISCOVERY):
                    self._found(targets, reason, now)
            case Heard(local_port, remote):
                self._sets.heard(local_port, remote, now)
            case RegistrationInfo():
                self._notified(event, now)
            case Lost(reason):
                if self.status.state is State.REGISTERED:
                    _log.warning("registration lost: %s", reason)
                    self._again(now, f"registering again: {reason}")
            case Tick():
                pass
        self._sets.tick(now)
        while self._due(now):
            pass

    def poll(self) -> Output | None:
        """Return the next output."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """When something is due: a refresh, a new attempt, the end of a wait or of a security association."""
        times = [self._off_at, self._sets.deadline()]
        if self._attempt is not None:
            times.append(self._attempt.until)
        else:
            times += [self._retry_at, *(each.due_at for each in self._bindings)]
        return min((at for at in times if at is not None), default=None)

    @property
    def path(self) -> GmPath | None:
        """How requests and their answers cross Gm now; ``None`` before a P-CSCF is known.

        While a registration begins anew, what is left of calls still uses the way of the one before.
        """
        return self._sets.current or self._sets.leaving or self._exchange.clear()

    def carries(self, flow: Flow) -> bool:
        """Tell whether what comes over ``flow`` comes inside a security association."""
        return self._sets.carries(flow.local[1], flow.remote)

    @property
    def asks_in_clear(self) -> bool:
        """Whether a REGISTER without protection is under way, which alone is answered without."""
        attempt = self._attempt
        return (
            attempt is not None
            and attempt.step is Step.RESPONSE
            and attempt.path is not None
            and not attempt.path.agreed
        )

    @property
    def _attempt(self) -> Attempt | None:
        return self._exchange.attempt

    @property
    def _leaving(self) -> bool:
        """Whether everything that happens leads to the end."""
        return self.status.state is State.DEREGISTERING or not self._wanted

    # ---- time ---------------------------------------------------------------------------------------------------

    def _due(self, now: float) -> bool:
        """Do the next thing that the clock asks for; False: there is none."""
        attempt, state = self._attempt, self.status.state
        if self._off_at is not None and now >= self._off_at:
            self._off(now, "switched off; the network did not confirm it")
        elif attempt is not None:
            if attempt.until is None or now < attempt.until:
                return False
            self._overdue(attempt, now)
        elif state is State.WAITING:
            if self._retry_at is None or now < self._retry_at:
                return False
            self._again(now)
        elif state in (State.REGISTERED, State.REGISTERING):
            ends, binding = self._bindings.primary.expires_at, self._bindings.due(now)
            if ends is not None and now >= ends:
                # The clock went on while this device slept, or while the REGISTER of another identity was under way.
                self._again(now, "registering again: the registration has run out")
            elif binding is not None:
                self._begin(Attempt(binding, initial=False, expires=self._profile.expires), now)
            else:
                return False
        else:
            return False
        return True

    def _overdue(self, attempt: Attempt, now: float) -> None:
        reason = f"{attempt.step.value} within {SECONDS[attempt.step]:.0f} s"
        match attempt.step:
            case Step.RESPONSE:
                self._unanswered(attempt, now)
            case Step.CARD | Step.DISCOVERY:
                self._failed(now, reason)
            case Step.RESERVATION | Step.INSTALLATION:
                self._no_security(reason, now)

    def _unanswered(self, attempt: Attempt, now: float) -> None:
        """A REGISTER is under way for long: say so; a registration that it was to refresh may run out meanwhile."""
        attempt.until = None
        reason = f"{self._proxies.name} has not answered yet; still trying"
        ends = self.status.expires_at
        if self.status.state is State.REGISTERED and ends is not None and ends > now:
            attempt.until = ends
        elif self.status.state is State.REGISTERED:
            self._say(State.REGISTERING, f"the registration has run out: {reason}")
        else:
            self._set(replace(self.status, reason=reason))

    # ---- attempts -----------------------------------------------------------------------------------------------

    def _start(self, now: float) -> None:
        """Register; in a wait at once, unless the network set its length."""
        self._wanted = True
        if self.status.state is State.OFF or (self.status.state is State.WAITING and now >= self._not_before):
            self._again(now)

    def _again(self, now: float, reason: str = "registering with the IMS core") -> None:
        """Begin an initial registration: it has nothing of the one before, and goes in clear (5.1.1.2.2).

        The associations of the one before stay until it stands: calls may still end over them.
        """
        if self._exchange.at(Step.RESPONSE):
            return  # no new registration before the answer to this one (TS 24.229 5.1.1.2.1)
        self._sets.retire()
        self._exchange.login.forget()
        self._retry_at = None
        self._say(State.REGISTERING, reason)
        self._begin(Attempt(self._bindings.renew(), initial=True, expires=self._profile.expires), now)

    def _begin(self, attempt: Attempt, now: float) -> None:
        self._exchange.attempt = attempt
        if attempt.initial and not self._profile.p_cscfs and self._proxies.fresh_round:
            self._exchange.enter(Step.DISCOVERY, now)
            self._outputs.append(FindPCscfs())
        else:
            self._exchange.prepare(now)

    def _found(self, targets: tuple[Target, ...], reason: str, now: float) -> None:
        if targets:
            self._proxies.replace(targets)
            self._set(replace(self.status, p_cscf=self._proxies.current))
            self._exchange.prepare(now)
        else:
            self._failed(now, reason or "no P-CSCF was found")

    def _no_security(self, reason: str, now: float) -> None:
        """Ports, SPIs or associations could not be had; an SPI that was taken meanwhile is worth a second try."""
        text = f"no security association with the P-CSCF: {reason}"
        if self._exchange.at(Step.INSTALLATION) and not self._install_failed and not self._leaving:
            _log.warning("%s; trying again with other values", text)
            self._install_failed = True
            self._again(now, f"registering again: {text}")
        else:
            self._failed(now, text)

    # ---- going off ----------------------------------------------------------------------------------------------

    def _stop(self, now: float) -> None:
        self._wanted = False
        if self.status.state is State.DEREGISTERING:
            return
        if self._attempt is not None and self._attempt.step is Step.RESPONSE:
            # A REGISTER is under way: its outcome decides if there is a binding to take away.
            self._attempt.until = None
            self._off_at = now + DEREGISTER_SECONDS
            self._set(replace(self.status, state=State.DEREGISTERING, reason="de-registering"))
        elif self.status.state is State.REGISTERED:
            self._deregister(now)
        else:
            self._off(now, "switched off")

    def _deregister(self, now: float) -> None:
        """Take the bindings away, one after the other (TS 24.229 clause 5.1.1.6)."""
        self._sets.abandon()
        if self._off_at is None:
            self._off_at = now + DEREGISTER_SECONDS
        self._set(replace(self.status, state=State.DEREGISTERING, reason="de-registering", expires_at=None))
        self._begin(Attempt(self._bindings.next_to_leave(), initial=False, expires=0), now)

    def _off(self, now: float, reason: str) -> None:
        self._exchange.attempt = None
        self._sets.clear()
        self._bindings.renew()
        self._retry_at = self._off_at = None
        self._set(RegistrationStatus(State.OFF, reason))
        if self._wanted:
            self._again(now)

    # ---- answers of the core --------------------------------------------------------------------------------------

    def _outcome(self, event: RegisterOutcome, now: float) -> None:
        attempt, response = self._attempt, event.response
        if attempt is None or attempt.step is not Step.RESPONSE or attempt.key != event.key:
            return
        attempt.key, attempt.sender = "", event.sender
        if response is None:
            self._silence(attempt, event.failure, now)
        elif self.status.state is State.DEREGISTERING:
            self._deregistration_answered(attempt, response, now)
        elif response.success:
            self._accepted(attempt, response, now)
        elif response.status == 401:
            self._unless(self._exchange.challenged(response, now), now)
        elif response.status == 423 and self._exchange.lengthen(response, now):
            pass
        elif not self._exchange.give_up_outbound(response, now):
            self._refused(attempt, response, now)

    def _silence(self, attempt: Attempt, reason: str, now: float) -> None:
        """No answer at all: associations that it was sent over are dead, and with them the registration (5.1.1.4.1)."""
        if attempt.path is not None and attempt.path.agreed and not attempt.initial and not self._leaving:
            _log.warning("%s; the security associations are taken for dead", reason)
            self._exchange.attempt = None
            self._sets.clear()
            self._again(now, f"registering again: {reason}")
        else:
            self._failed(now, reason, elsewhere=True)

    def _deregistration_answered(self, attempt: Attempt, response: Response, now: float) -> None:
        if attempt.expires and (response.success or not attempt.initial):
            # The switch-off met a registration or refresh under way: there is a binding to take away.
            if response.success:
                self._sets.confirm(now + DEREGISTER_SECONDS)
            self._deregister(now)
        elif response.status == 401 and not attempt.expires:
            self._unless(self._exchange.challenged(response, now), now)
        elif attempt.binding is not self._bindings.primary and not attempt.expires:
            attempt.binding.expires_at = None
            self._deregister(now)
        else:
            self._off(now, "switched off")

    def _accepted(self, attempt: Attempt, response: Response, now: float) -> None:
        assert attempt.path is not None
        binding = attempt.binding
        if self._policy.ipsec and not attempt.path.agreed:
            # Whoever takes the agreement out of the way must not get a registration for it.
            self._failed(now, "the core asks for no security agreement, which this device needs", elsewhere=True)
            return
        try:
            grant = granted(response, attempt.path.contact_uri())
            named = tuple(Identity(str(address.uri)) for address in response.addresses("P-Associated-URI"))
            route = tuple(str(address) for address in response.service_route)
        except SipParseError as error:
            self._failed(now, f"the core's 200 to REGISTER cannot be read: {error}")
            return
        if grant.seconds <= 0:
            self._failed(now, "the core's 200 to REGISTER does not hold this device's contact")
            return
        self._exchange.attempt = None
        self._install_failed = False
        self._not_before = 0.0
        binding.accepted(grant.seconds, named or (binding.impu,), now)
        self._sets.confirm(now + grant.seconds)
        self._proxies.succeeded()
        if binding is self._bindings.primary:
            self._registered(grant, route, now)
            self._keep_up(response)
        else:
            self._set(replace(self.status, associated=self._bindings.associated()))
        self._bindings.add_missing(now)

    def _registered(self, grant: Granted, route: tuple[str, ...], now: float) -> None:
        if self.status.state is not State.REGISTERED:
            self._since = now
        associated, pair = self._bindings.associated(), self._sets.pair
        tls = "TLS" if self._policy.protection is Protection.TLS else ""
        self._set(
            RegistrationStatus(
                State.REGISTERED,
                f"registered for {grant.seconds} s",
                self._proxies.current,
                # The default is the first (RFC 7315 4.1.2.2); as a SIP URI, which From and SUBSCRIBE can always use.
                next((each for each in associated if each.lower().startswith("sip")), associated[0]),
                associated,
                route,
                self._bindings.primary.expires_at,
                public_gruu=grant.public_gruu,
                temporary_gruu=grant.temporary_gruu,
                security=f"IPsec {pair}" if pair is not None else tls,
            )
        )

    def _keep_up(self, response: Response) -> None:
        """Keep the way open as the P-CSCF asked (RFC 6223 section 4.4)."""
        path, seconds = self.path, keep_alive_seconds(response)
        if path is None or seconds is None:
            self._keep(None)
        else:
            self._keep(KeepAlive(path.hop, float(seconds) or KEEP_ALIVE_SECONDS))

    def _keep(self, wanted: KeepAlive | None) -> None:
        if wanted != self._keep_alive:
            self._keep_alive = wanted
            self._outputs.append(wanted or KeepAlive(None))

    # ---- failures -------------------------------------------------------------------------------------------------

    def _refused(self, attempt: Attempt, response: Response, now: float) -> None:
        refusal = judge(response, self._policy.protection)
        delay, ends = refusal.delay, self.status.expires_at
        if delay is not None and self._policy.ipsec and not (attempt.path is not None and attempt.path.agreed):
            # In clear anybody on the way may have said it: one packet must not keep this device out for good.
            delay = min(delay, self._retry.maximum)
        if refusal.final:
            self._failed(now, refusal.text, max(delay or 0.0, self._retry.maximum))
        elif attempt.binding is not self._bindings.primary:
            self._failed(now, refusal.text, delay)
        elif attempt.initial:
            self._failed(now, refusal.text, delay, elsewhere=refusal.elsewhere)
        elif delay is not None and ends is not None and now + delay < ends:
            self._exchange.attempt = None
            self._sets.abandon()
            attempt.binding.due_at = now + delay
        else:
            # 5.1.1.4.1: the old registration may be gone; begin anew at once, and back off if that fails too.
            self._exchange.attempt = None
            self._again(now, f"registering again: {refusal.text}")

    def _unless(self, failure: Failure | None, now: float) -> None:
        if failure is not None:
            self._failed(now, failure.reason, elsewhere=failure.elsewhere)

    def _failed(self, now: float, reason: str, delay: float | None = None, *, elsewhere: bool = False) -> None:
        """The attempt is over: try the next P-CSCF where that may help, else wait (RFC 5626 section 4.5)."""
        attempt, self._exchange.attempt = self._exchange.attempt, None
        if self._leaving:
            self._off(now, "switched off")
        elif attempt is not None and attempt.binding is not self._bindings.primary and not elsewhere:
            self._one_identity_failed(attempt.binding, reason, delay, now)
        elif elsewhere and self._proxies.next():
            _log.warning("registration failed: %s; trying the next P-CSCF", reason)
            self._sets.clear()
            self._again(now, f"{reason}; trying the next P-CSCF")
        else:
            self._wait(now, reason, delay)

    def _one_identity_failed(self, binding: Binding, reason: str, delay: float | None, now: float) -> None:
        """A further identity is not registered; the others are."""
        _log.warning("%r is not registered: %s", binding.impu, reason)
        self._sets.abandon()
        binding.expires_at = None
        binding.due_at = now + max(delay or 0.0, self._retry.maximum)
        self._set(replace(self.status, associated=self._bindings.associated()))

    def _wait(self, now: float, reason: str, delay: float | None) -> None:
        pause = self._proxies.back_off()
        self._not_before = 0.0 if delay is None else now + delay
        wait = pause if delay is None else delay
        _log.warning("registration failed: %s; next try in %.0f s", reason, wait)
        self._sets.clear()
        self._bindings.renew()
        self._retry_at = now + wait
        self._set(RegistrationStatus(State.WAITING, reason, self._proxies.current, retry_at=self._retry_at))

    # ---- reg-event ------------------------------------------------------------------------------------------------

    def _notified(self, event: RegistrationInfo, now: float) -> None:
        """Obey the network's word on our contact (TS 24.229 clauses 5.1.1.5.1 and 5.1.1.7)."""
        path, primary = self.path, self._bindings.primary
        if self.status.state is not State.REGISTERED or self._exchange.at(Step.RESPONSE) or path is None:
            return
        notice = read(event.document, path.contact_uri(), self.status.associated, primary.impu)
        if notice.ended is not None:
            self._ended(notice.ended, now)
            return
        self._bindings.obey(notice)
        status = replace(
            self.status,
            public_gruu=usable_gruu(notice.public_gruu) or self.status.public_gruu,
            temporary_gruu=usable_gruu(notice.temporary_gruu) or self.status.temporary_gruu,
        )
        if associated := self._bindings.associated():
            default = self.status.impu if self.status.impu in associated else associated[0]
            status = replace(status, associated=associated, impu=default)
        if (left := notice.shortened) is not None:
            # The network wants to authenticate us again: at half of what is left.
            primary.expires_at, primary.due_at = now + left, now + left / 2
            status = replace(status, expires_at=now + left, reason=f"registered for {left} s")
        if status != self.status:
            self._set(status)

    def _ended(self, contact: RegContact, now: float) -> None:
        self._exchange.attempt = None  # whatever was being refreshed is gone
        self._short_ones = self._short_ones + 1 if now - self._since < SHORT_SECONDS else 0
        if contact.event in ("deactivated", "expired") and self._short_ones > SHORT_REGISTRATIONS:
            self._failed(now, "the network ends each registration at once")
        elif contact.event in ("deactivated", "expired"):
            self._again(now, "the network asked to register again")
        elif contact.event == "probation":
            self._failed(now, "the network asked to register again later", float(contact.retry_after or 0))
        else:
            self._failed(now, f"the network ended the registration ({contact.event})", self._retry.maximum)

    # ---- status ---------------------------------------------------------------------------------------------------

    def _say(self, state: State, reason: str) -> None:
        self._set(RegistrationStatus(state, reason, self._proxies.current))

    def _set(self, status: RegistrationStatus) -> None:
        self.status = status
        if status.state is not State.REGISTERED:
            self._keep(None)
        self._outputs.append(Changed(status))
