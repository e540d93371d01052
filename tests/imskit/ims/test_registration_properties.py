"""Whatever core, card, IPsec and clock do, a registration never hangs and never leaks [S7-IMS].

Random answers in random order drive the machine.  While it is wanted it waits for a time or for an answer to a
REGISTER; a time that has come is never waited for again; after it was switched off, everything is given back.
"""

from __future__ import annotations

import itertools
from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from imskit.aka.challenge import Challenge
from imskit.aka.vector import MacFailure, Success, SyncFailure
from imskit.engine import Tick
from imskit.ims.profile import UeProfile
from imskit.ims.reginfo import RegContact, RegInfo
from imskit.ims.reginfo import Registration as RegisteredIdentity
from imskit.ims.registration import (
    AskCard,
    CardAnswer,
    CardFailed,
    Changed,
    FindPCscfs,
    Heard,
    InstallSecurity,
    Lost,
    PCscfsFound,
    RegisterOutcome,
    Registration,
    RegistrationInfo,
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
from imskit.ims.security_agreement import Protection, SecurityAgreement, SecurityPolicy, SecurityPorts
from imskit.secrets import Identity, Secret
from imskit.sip.wire.auth import Challenge as DigestChallenge
from imskit.sip.wire.flow import Target
from imskit.sip.wire.message import Response, response_to

DOMAIN = "ims.example"
IMPU, SECOND = Identity(f"sip:+15550100@{DOMAIN}"), Identity(f"sip:+15550101@{DOMAIN}")
TARGETS = tuple(Target("UDP", (f"10.45.0.{n}", 5060)) for n in (1, 9))
NONCE = Challenge(bytes(16), bytes(16)).encode()
RESULTS = (
    Success(Secret(bytes(8)), Secret(bytes(16)), Secret(bytes(range(16)))),
    SyncFailure(bytes(14)),
    MacFailure(),
)
STATUSES = (200, 200, 200, 401, 401, 401, 305, 403, 404, 408, 420, 421, 423, 439, 480, 494, 500, 503, 504, 600)


class RegistrationMachine(RuleBasedStateMachine):
    """See the module's text."""

    @initialize(
        protection=st.sampled_from(Protection),
        discovered=st.booleans(),
        more=st.booleans(),
        busy=st.booleans(),
    )
    def begin(self, protection: Protection, discovered: bool, more: bool, busy: bool) -> None:
        self.profile = UeProfile(
            Identity(f"1@{DOMAIN}"),
            IMPU,
            DOMAIN,
            "urn:gsma:imei:35693803-564380-0",
            ("10.45.0.2", 5060),
            () if discovered else TARGETS,
            security=SecurityPolicy(protection),
            more_impus=(SECOND,) if more else (),
        )
        tokens, self.numbers = itertools.count(1), itertools.count(1000)
        self.machine = Registration(
            self.profile, lambda n: f"{next(tokens):0{n}x}"[:n], None, lambda _: busy and self.wanted
        )
        self.now = 0.0
        self.wanted = False
        self.out: SendRegister | None = None
        self.asked: deque[AskCard] = deque()
        self.io: deque[ReserveSecurity | InstallSecurity | RemoveSecurity | ReleaseSecurity] = deque()
        self.searches = 0
        self.held: dict[str, SecurityPorts] = {}
        self.sets: dict[str, SecurityAgreement] = {}

    def handle(self, event: object) -> None:
        self.machine.handle(event, self.now)  # type: ignore[arg-type]
        while (output := self.machine.poll()) is not None:
            match output:
                case SendRegister():
                    assert self.out is None, "one REGISTER at a time"
                    self.out = output
                case AskCard():
                    self.asked.append(output)
                case FindPCscfs():
                    self.searches += 1
                case Changed(status) if status.state is State.OFF:
                    self.out = None  # an answer may still come; nobody waits for it
                case ReserveSecurity() | InstallSecurity() | RemoveSecurity() | ReleaseSecurity():
                    self.io.append(output)

    # ---- rules ----------------------------------------------------------------------------------------------------

    @rule()
    def start(self) -> None:
        self.wanted = True
        self.handle(Start())

    @rule()
    def stop(self) -> None:
        self.wanted = False
        self.handle(Stop())

    @precondition(lambda self: self.out is not None)
    @rule(status=st.sampled_from(STATUSES), delay=st.sampled_from([None, None, 5]), good=st.booleans())
    def answer(self, status: int, delay: int | None, good: bool) -> None:
        self.outcome(self.response(status, delay, good))

    @precondition(lambda self: self.out is not None)
    @rule()
    def silence(self) -> None:
        self.outcome(None)

    def outcome(self, response: Response | None) -> None:
        assert self.out is not None
        key, self.out = self.out.key, None
        self.handle(RegisterOutcome(key, response, sender="10.45.0.1"))

    def response(self, status: int, delay: int | None, good: bool) -> Response:
        assert self.out is not None
        request = self.out.request
        response = response_to(request, status, to_tag="s")
        fields: list[tuple[str, str]] = []
        if delay is not None:
            fields.append(("Retry-After", str(delay)))
        if status == 200 and request.expires:
            fields.append(("Contact", f"{request.headers.get('Contact')};expires={600 if good else 20}"))
        elif status == 401:
            algorithm = "AKAv2-SHA-256" if good else "AKAv1-MD5"
            fields.append(("WWW-Authenticate", str(DigestChallenge.digest(DOMAIN, NONCE, algorithm=algorithm))))
            n = self.numbers
            if good:
                spis = f"spi-c={next(n)};spi-s={next(n)};port-c={next(n)};port-s=6101"
                fields.append(("Security-Server", f"ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-cbc;{spis}"))
        elif status == 423:
            fields.append(("Min-Expires", "700000" if good else "1"))
        for name, value in fields:
            response.headers.add(name, value)
        return response

    @precondition(lambda self: self.asked)
    @rule(result=st.sampled_from(RESULTS))
    def card(self, result: Success | SyncFailure | MacFailure) -> None:
        self.handle(CardAnswer(result, self.asked.popleft().rand))

    @precondition(lambda self: self.asked)
    @rule()
    def card_fails(self) -> None:
        self.handle(CardFailed("pulled", self.asked.popleft().rand))

    @precondition(lambda self: self.searches)
    @rule(found=st.booleans())
    def search(self, found: bool) -> None:
        self.searches -= 1
        self.handle(PCscfsFound(TARGETS if found else ()))

    @precondition(lambda self: self.io)
    @rule(works=st.sampled_from([True, True, True, False]))
    def carry_out(self, works: bool) -> None:
        """The I/O side does what it was asked for, in order."""
        match self.io.popleft():
            case ReserveSecurity(name, keep):
                if not works:
                    self.handle(SecurityFailed(name, "no ports"))
                    return
                n = self.numbers
                self.held[name] = ports = SecurityPorts(next(n), next(n), next(n), keep or next(n))
                self.handle(SecurityReserved(name, ports))
            case InstallSecurity(name, agreement):
                if not works:
                    self.handle(SecurityFailed(name, "an SPI is taken"))
                    return
                assert self.held.pop(name) == agreement.ours
                self.sets[name] = agreement
                self.handle(SecurityInstalled(name))
            case RemoveSecurity(name) | ReleaseSecurity(name):
                self.held.pop(name, None)
                self.sets.pop(name, None)

    @rule(state=st.sampled_from(["active", "terminated"]), full=st.booleans(), data=st.data())
    def notify(self, state: str, full: bool, data: st.DataObject) -> None:
        path = self.machine.path
        if path is None:
            return
        words = ["shortened", "refreshed"] if state == "active" else ["deactivated", "rejected", "probation", "expired"]
        contact = RegContact(
            str(path.contact_uri()),
            "active" if state == "active" else "terminated",
            data.draw(st.sampled_from(words)),
            expires=100,
            retry_after=3,
        )
        aor = str.__str__(data.draw(st.sampled_from([IMPU, SECOND, Identity("tel:+15550102")])))
        registration = RegisteredIdentity(aor, contact.state, (contact,))
        self.handle(RegistrationInfo(RegInfo(1, full, (registration,))))

    @rule()
    def lost(self) -> None:
        self.handle(Lost("the core asks to restore it"))

    @precondition(lambda self: self.sets)
    @rule()
    def heard(self) -> None:
        agreement = next(reversed(self.sets.values()))
        self.handle(Heard(agreement.ours.port_s, (agreement.remote, agreement.theirs.port_c)))

    @rule()
    def to_the_deadline(self) -> None:
        deadline = self.machine.deadline()
        if deadline is not None:
            self.now = max(self.now, deadline)
            self.handle(Tick())

    @rule(seconds=st.sampled_from([0.5, 20.0, 700.0, 1_000_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.handle(Tick())

    # ---- what holds -----------------------------------------------------------------------------------------------

    @invariant()
    def never_hangs(self) -> None:
        deadline = self.machine.deadline()
        if self.wanted:
            assert self.machine.status.state is not State.OFF
            assert deadline is not None or self.out is not None
        if self.machine.status.state is State.OFF:
            assert deadline is None
        assert deadline is None or deadline > self.now, "a time that has come is not waited for again"

    @invariant()
    def registered_means_reachable(self) -> None:
        if self.machine.status.state is State.REGISTERED:
            path = self.machine.path
            assert path is not None
            assert path.agreed == self.profile.security.ipsec
            assert self.machine.status.associated

    @invariant()
    def a_wait_holds_nothing(self) -> None:
        if self.machine.status.state in (State.WAITING, State.OFF) and not self.io:
            assert not self.held
            assert not self.sets

    def teardown(self) -> None:
        if not hasattr(self, "machine"):
            return
        self.stop()
        for _ in range(20):
            while self.io:
                self.carry_out(works=True)
            if self.machine.status.state is State.OFF:
                break
            self.to_the_deadline()
        assert self.machine.status.state is State.OFF
        while self.io:
            self.carry_out(works=True)
        assert not self.held, "every reservation is given back or became a set"
        assert not self.sets, "every set is removed"
        assert self.machine.deadline() is None


RegistrationMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestRegistration = RegistrationMachine.TestCase
