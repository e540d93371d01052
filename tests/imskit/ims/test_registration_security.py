"""Registration with a security agreement: TS 34.229-1 cases 8.1, 8.2, 9.1, 9.2, C.30; TS 24.229 clause 5.1.1 [S7-IMS].

RFC 3329, TS 33.203 clause 7 and annex H.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from imskit.aka.challenge import Challenge
from imskit.aka.milenage import Milenage
from imskit.aka.sqn import SqnGenerator
from imskit.aka.vector import AuthenticationVector, Usim
from imskit.engine import Tick
from imskit.ims.profile import UeProfile
from imskit.ims.reginfo import RegContact, RegInfo
from imskit.ims.reginfo import Registration as RegisteredIdentity
from imskit.ims.registration import (
    AskCard,
    CardAnswer,
    Heard,
    InstallSecurity,
    Lost,
    RegisterOutcome,
    Registration,
    RegistrationInfo,
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
from imskit.ims.security_agreement import Protection, SecurityAgreement, SecurityPolicy, SecurityPorts
from imskit.ipsec.algorithms import LAB_PAIRS, STANDARD_PAIRS, AlgorithmPair
from imskit.secrets import Identity, Secret
from imskit.sip import digest
from imskit.sip.wire.auth import Challenge as DigestChallenge
from imskit.sip.wire.auth import Credentials
from imskit.sip.wire.flow import Target
from imskit.sip.wire.ims_headers import SecurityMechanism, security_mechanisms
from imskit.sip.wire.message import Request, response_to

# TS 35.208 test set 1.
K = Secret(bytes.fromhex("465b5ce8b199b49faa5f0a2ee238a6bc"))
OPC = Secret(bytes.fromhex("cd63cb71954a9f4e48a5994e37a02baf"))
DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
CELL = "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=001010001000019B"
UE, P_CSCF, OTHER = "10.45.0.2", "10.45.0.1", "10.45.0.9"
PROFILE = UeProfile(
    Identity(f"001010000000001@{DOMAIN}"),
    Identity(f"sip:+15550100@{DOMAIN}"),
    DOMAIN,
    "urn:gsma:imei:35693803-564380-0",
    (UE, 5060),
    (Target("UDP", (P_CSCF, 5060)), Target("UDP", (OTHER, 5060))),
    CELL,
    security=SecurityPolicy(Protection.IPSEC),
)
MEDIA = "sdes-srtp;mediasec"


class Bench:
    """A registration machine, its card, its IPsec with a ledger, and the P-CSCF's side of the agreement."""

    def __init__(self, profile: UeProfile = PROFILE) -> None:
        numbers = itertools.count(1)
        self.busy = False
        """Whether a transaction uses the associations."""
        self.machine = Registration(
            profile, lambda n: f"{next(numbers):0{n}x}"[:n], RetryPolicy(), lambda agreement: self.busy
        )
        self.profile = profile
        self.now = 1000.0
        self.usim = Usim(Milenage(K, OPC))
        self.generator = SqnGenerator()
        self.algorithm = "AKAv1-MD5"
        self.refuse_reservation = self.refuse_installation = ""
        self.sent: list[SendRegister] = []
        self.asked: list[AskCard] = []
        self.reservations: list[ReserveSecurity] = []
        self.held: dict[str, SecurityPorts] = {}
        """Reserved and not installed."""
        self.sets: dict[str, SecurityAgreement] = {}
        self.vector: AuthenticationVector | None = None
        self.spis = itertools.count(0x10000)
        self.ports = itertools.count(40000)
        self.network = itertools.count(0x90000)
        self.server: tuple[str, ...] = ()

    def handle(self, event: object) -> None:
        pending = [event]
        while pending:
            self.machine.handle(pending.pop(0), self.now)  # type: ignore[arg-type]
            while (output := self.machine.poll()) is not None:
                answer = self.io(output)
                if answer is not None:
                    pending.append(answer)

    def io(self, output: object) -> object | None:
        match output:
            case SendRegister():
                self.sent.append(output)
            case AskCard():
                self.asked.append(output)
            case ReserveSecurity(name, keep):
                self.reservations.append(output)
                if self.refuse_reservation:
                    return SecurityFailed(name, self.refuse_reservation)
                ports = SecurityPorts(next(self.spis), next(self.spis), next(self.ports), keep or next(self.ports))
                self.held[name] = ports
                return SecurityReserved(name, ports)
            case InstallSecurity(name, agreement):
                if self.refuse_installation:
                    return SecurityFailed(name, self.refuse_installation)
                assert self.held.pop(name) == agreement.ours
                agreement.association_set(name)
                self.sets[name] = agreement
                return SecurityInstalled(name)
            case RemoveSecurity(name):
                del self.sets[name]
            case ReleaseSecurity(name):
                del self.held[name]
        return None

    # ---- what the UE sent ---------------------------------------------------------------------------------------

    @property
    def request(self) -> Request:
        return self.sent[-1].request

    @property
    def client(self) -> list[SecurityMechanism]:
        return security_mechanisms(self.request, "Security-Client")

    @property
    def credentials(self) -> Credentials:
        return Credentials.parse(self.request.headers.get("Authorization") or "")

    @property
    def state(self) -> State:
        return self.machine.status.state

    def field(self, name: str) -> str | None:
        return self.request.headers.get(name)

    def numbers(self, name: str) -> int:
        """The one value that a parameter has in all elements of Security-Client."""
        (value,) = {element.number(name) for element in self.client}
        assert value is not None
        return value

    # ---- the network --------------------------------------------------------------------------------------------

    def respond(self, status: int, *fields: tuple[str, str]) -> None:
        response = response_to(self.request, status, to_tag="s")
        for name, value in fields:
            response.headers.add(name, value)
        self.handle(RegisterOutcome(self.sent[-1].key, response, sender=P_CSCF))

    def silence(self) -> None:
        self.handle(RegisterOutcome(self.sent[-1].key, None))

    def offer(self, *pairs: AlgorithmPair, port_s: int = 6101) -> tuple[str, ...]:
        """Security-Server values, as the conformance suite's: q=0.9, q=0.7."""
        numbers = f"spi-c={next(self.network)};spi-s={next(self.network)};port-c={next(self.ports)};port-s={port_s}"
        return tuple(
            f"ipsec-3gpp;q=0.{9 - 2 * index};alg={pair.integrity};ealg={pair.encryption};prot=esp;mod=trans;{numbers}"
            for index, pair in enumerate(pairs or STANDARD_PAIRS[:2])
        )

    def challenge(self, *, mac: bool = True, fresh: bool = True, server: tuple[str, ...] | None = None) -> None:
        sqn = self.generator.next() if fresh else 0
        vector = AuthenticationVector.generate(Milenage(K, OPC), bytes(range(16)), sqn)
        self.vector = vector
        autn = vector.autn if mac else vector.autn[:-1] + bytes([vector.autn[-1] ^ 1])
        nonce = Challenge(vector.rand, autn).encode()
        self.server = (*self.offer(), MEDIA) if server is None else server
        self.respond(
            401,
            ("WWW-Authenticate", str(DigestChallenge.digest(DOMAIN, nonce, algorithm=self.algorithm, opaque="o"))),
            *(("Security-Server", value) for value in self.server),
        )

    def card(self) -> None:
        self.handle(CardAnswer(self.usim.verify(self.asked[-1].rand, self.asked[-1].autn), self.asked[-1].rand))

    def answers_rightly(self) -> bool:
        assert self.vector is not None
        return digest.verify(self.credentials, self.vector.xres, "REGISTER")

    def accept(self, expires: int = 600_000) -> None:
        self.respond(
            200,
            ("Contact", f"{self.field('Contact')};expires={expires}"),
            ("P-Associated-URI", f"<sip:+15550100@{DOMAIN}>, <tel:+15550100>"),
            ("Service-Route", "<sip:orig@scscf.example;lr>"),
        )

    def register(self, expires: int = 600_000) -> None:
        self.handle(Start())
        self.challenge()
        self.card()
        self.accept(expires)
        assert self.state is State.REGISTERED

    def wait(self) -> float:
        deadline = self.machine.deadline()
        assert deadline is not None
        waited, self.now = deadline - self.now, max(self.now, deadline)
        self.handle(Tick())
        return waited

    @property
    def only_set(self) -> SecurityAgreement:
        (agreement,) = self.sets.values()
        return agreement

    def heard(self, agreement: SecurityAgreement) -> None:
        """The P-CSCF sends something over a set."""
        self.handle(Heard(agreement.ours.port_s, (agreement.remote, agreement.theirs.port_c)))

    def clean(self) -> bool:
        return not self.held and not self.sets


# ---- 8.1 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [*STANDARD_PAIRS, *LAB_PAIRS], ids=str)
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_8_1_initial_registration(pair: AlgorithmPair, transport: str) -> None:
    target = Target("TCP" if transport == "TCP" else "UDP", (P_CSCF, 5060))
    policy = SecurityPolicy(Protection.IPSEC, (*STANDARD_PAIRS, *LAB_PAIRS))
    bench = Bench(replace(PROFILE, p_cscfs=(target,), security=policy))
    bench.handle(Start())
    first = bench.request
    assert bench.sent[-1].target == target
    assert bench.sent[-1].sent_by.port == 5060
    assert "Route" not in first.headers
    assert first.headers.get("Require") == first.headers.get("Proxy-Require") == "sec-agree"
    assert "Security-Verify" not in first.headers
    assert "P-Access-Network-Info" not in first.headers
    assert [(c.parameters.get("alg"), c.parameters.get("ealg")) for c in bench.client] == [
        (each.integrity.value, each.encryption.value) for each in policy.pairs
    ]
    assert {(c.name, c.parameters.get("prot"), c.parameters.get("mod")) for c in bench.client} == {
        ("ipsec-3gpp", "esp", "trans")
    }
    spi_c, port_c, port_s = bench.numbers("spi-c"), bench.numbers("port-c"), bench.numbers("port-s")
    bench.challenge(server=(*bench.offer(pair), MEDIA))
    assert not bench.sets, "no associations before the card has accepted the challenge"
    bench.card()
    second, agreement = bench.request, bench.only_set
    assert agreement.pair == pair
    assert (agreement.ours.spi_c, agreement.ours.port_c, agreement.ours.port_s) == (spi_c, port_c, port_s)
    assert second.call_id == first.call_id
    assert second.cseq.number == first.cseq.number + 1
    assert second.headers.get("Security-Client") == first.headers.get("Security-Client")
    assert tuple(second.headers.elements("Security-Verify")) == bench.server
    assert second.headers.get("Require") == second.headers.get("Proxy-Require") == "sec-agree"
    assert second.headers.get("P-Access-Network-Info") == CELL
    sent = bench.sent[-1]
    assert sent.target == Target(target.transport, (P_CSCF, 6101), source=UE, source_port=port_c)
    assert (sent.sent_by.host, sent.sent_by.port) == (UE, port_s)
    assert "rport" not in dict(sent.sent_by.parameters)
    assert f"sip:{UE}:{port_s}" in (second.headers.get("Contact") or "")
    assert bench.credentials.get("nc") == "00000001"
    assert bench.credentials.opaque == "o"
    assert bench.answers_rightly()
    bench.accept()
    path = bench.machine.path
    assert path is not None
    assert path.route() == f"<sip:{P_CSCF}:6101{'' if transport == 'UDP' else ';transport=tcp'};lr>"
    assert path.headers()[2] == ("Security-Verify", ", ".join(bench.server))
    assert bench.machine.status.security == f"IPsec {pair}"
    assert not bench.held


def test_8_1_the_best_by_q_then_by_our_order() -> None:
    for offered, taken in [
        (STANDARD_PAIRS[::-1], STANDARD_PAIRS[-1]),  # the P-CSCF's q decides
        ((LAB_PAIRS[0], STANDARD_PAIRS[2]), STANDARD_PAIRS[2]),  # what we did not offer is passed over
    ]:
        bench = Bench()
        bench.handle(Start())
        bench.challenge(server=bench.offer(*offered))
        bench.card()
        assert bench.only_set.pair == taken
    bench = Bench()
    bench.handle(Start())
    equal = tuple(value.replace(";q=0.9", "").replace(";q=0.7", "") for value in bench.offer(*STANDARD_PAIRS[1::-1]))
    bench.challenge(server=equal)
    bench.card()
    assert bench.only_set.pair == STANDARD_PAIRS[0]


@pytest.mark.parametrize(
    "server",
    [
        (),
        (MEDIA,),
        ("ipsec-3gpp;q=0.9;alg=hmac-sha-1-96;ealg=aes-cbc;spi-c=1;spi-s=2;port-c=3",),
        ("ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-cbc;spi-c=7;spi-s=7;port-c=3;port-s=4",),
        ("ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-cbc;spi-c=6;spi-s=7;port-c=0;port-s=4",),
        ("ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-cbc;spi-c=6;spi-s=99999999999;port-c=3;port-s=4",),
        ("ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-cbc;prot=ah;spi-c=6;spi-s=7;port-c=3;port-s=4",),
        ("ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-cbc;mod=tun;spi-c=6;spi-s=7;port-c=3;port-s=4",),
        ("ipsec-3gpp;alg=null;ealg=null;spi-c=6;spi-s=7;port-c=3;port-s=4",),
        ("ipsec-3gpp;alg=sha-512;ealg=aes-cbc;spi-c=6;spi-s=7;port-c=3;port-s=4",),
        ("tls;q=0.1", "ipsec-man"),
    ],
)
def test_8_1_an_unusable_security_server_leads_to_a_new_call_id(server: tuple[str, ...]) -> None:
    bench = Bench()
    bench.handle(Start())
    call_id = bench.request.call_id
    bench.challenge(server=server)
    assert not bench.asked, "the card is not asked for nothing"
    assert bench.state is State.REGISTERING
    assert bench.request.call_id != call_id
    assert bench.sent[-1].target.address[0] == OTHER
    bench.challenge(server=server)
    assert bench.state is State.WAITING
    assert bench.clean()


def test_a_registration_without_challenge_and_agreement_is_none() -> None:
    """Nobody can bid the agreement down."""
    bench = Bench()
    bench.handle(Start())
    bench.accept()
    assert bench.state is State.REGISTERING
    assert bench.sent[-1].target.address[0] == OTHER
    bench.accept()
    assert bench.state is State.WAITING
    assert "no security agreement" in bench.machine.status.reason
    assert bench.clean()


def test_a_nat_on_the_way_leads_to_udp_encapsulation() -> None:
    """TS 33.203 annex M: offered beside transport mode, chosen by the P-CSCF."""
    bench = Bench(replace(PROFILE, security=SecurityPolicy(Protection.IPSEC, encapsulation=True)))
    bench.handle(Start())
    assert {c.parameters.get("mod") for c in bench.client} == {"trans", "UDP-enc-tun"}
    bench.challenge(server=(bench.offer()[0].replace("mod=trans", "mod=UDP-enc-tun"),))
    bench.card()
    assert bench.only_set.mode == "UDP-enc-tun"
    encapsulation = bench.only_set.association_set("x").outbound[0].encapsulation
    assert encapsulation is not None
    assert encapsulation.keep_alive_s == 20


# ---- 8.2 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("granted", "after"), [(120, 60), (1200, 600), (1800, 1200)])
def test_8_2_re_registration_names_new_spis_and_port_c_and_the_same_port_s(granted: int, after: int) -> None:
    bench = Bench()
    bench.register(granted)
    old, verify, nonce = bench.only_set, bench.server, bench.credentials.nonce
    assert bench.wait() == after
    assert bench.reservations[-1].keep_port_s == old.ours.port_s
    assert bench.numbers("port-s") == old.ours.port_s
    assert bench.numbers("port-c") != old.ours.port_c
    assert {bench.numbers("spi-c"), bench.numbers("spi-s")}.isdisjoint({old.ours.spi_c, old.ours.spi_s})
    assert bench.sent[-1].target == old.hop()
    assert tuple(bench.request.headers.elements("Security-Verify")) == verify
    assert bench.credentials.nonce == nonce
    assert bench.credentials.get("nc") == "00000002"
    assert bench.answers_rightly()
    bench.accept(granted)
    assert bench.only_set is old
    assert not bench.held, "a reservation that no challenge came for is given back"
    assert bench.wait() == after


def test_8_2_re_authentication_makes_a_new_set_and_the_old_one_goes_when_the_new_is_used() -> None:
    bench = Bench()
    bench.register(120)
    old = bench.only_set
    bench.wait()
    bench.challenge()
    bench.card()
    assert len(bench.sets) == 2
    new = list(bench.sets.values())[-1]
    assert bench.sent[-1].target == new.hop()
    assert tuple(bench.request.headers.elements("Security-Verify")) == bench.server
    assert bench.credentials.get("nc") == "00000001"
    bench.heard(new)  # the 200 itself comes over it, before it is the set in use
    bench.accept(120)
    assert len(bench.sets) == 2
    path = bench.machine.path
    assert path is not None
    assert path.hop == new.hop()
    bench.heard(old)
    assert len(bench.sets) == 2
    bench.busy = True
    bench.heard(new)
    assert len(bench.sets) == 2, "a transaction still uses the old one"
    bench.busy = False
    bench.wait()
    assert bench.only_set is new


def test_an_old_set_that_nobody_relieves_goes_at_the_end_of_its_life() -> None:
    bench = Bench()
    bench.register(120)  # the set lives until 150
    bench.wait()
    bench.challenge()
    bench.card()
    bench.accept(600_000)
    assert len(bench.sets) == 2
    assert bench.wait() == 150 - 60
    assert len(bench.sets) == 1


def test_a_challenged_refresh_that_fails_keeps_the_set_in_use() -> None:
    bench = Bench()
    bench.register(120)
    old = bench.only_set
    bench.wait()
    bench.challenge()
    bench.card()
    bench.respond(503, ("Retry-After", "20"))
    assert bench.only_set is old
    assert bench.state is State.REGISTERED
    assert bench.wait() == 20
    assert bench.sent[-1].target == old.hop()


# ---- 9.1, 9.2 -----------------------------------------------------------------------------------------------------


def test_9_1_invalid_mac_twice_then_success() -> None:
    bench = Bench()
    bench.handle(Start())
    call_id, seen = bench.request.call_id, set()
    for _ in range(2):
        seen.add((bench.numbers("spi-c"), bench.numbers("spi-s"), bench.numbers("port-c")))
        bench.challenge(mac=False)
        bench.card()
        assert bench.credentials.response == ""
        assert bench.credentials.auts is None
        assert bench.sent[-1].target.address == (P_CSCF, 5060), "in clear: there is no set"
        assert "Security-Verify" not in bench.request.headers
        assert not bench.sets
        assert len(bench.held) == 1
    seen.add((bench.numbers("spi-c"), bench.numbers("spi-s"), bench.numbers("port-c")))
    assert len(seen) == 3
    assert bench.request.call_id == call_id
    bench.challenge()
    bench.card()
    bench.accept()
    assert bench.state is State.REGISTERED


def test_9_1_the_third_invalid_challenge_ends_it_and_leaves_nothing() -> None:
    bench = Bench()
    bench.handle(Start())
    for _ in range(3):
        bench.challenge(mac=False)
        bench.card()
    assert bench.state is State.WAITING
    assert bench.clean()
    assert len(bench.sent) == 3


def test_9_2_sequence_number_out_of_range_at_re_authentication_goes_over_the_existing_set() -> None:
    bench = Bench()
    bench.register(120)
    old, verify = bench.only_set, bench.server
    bench.wait()
    first = bench.numbers("spi-c")
    bench.challenge(fresh=False)
    bench.card()
    assert bench.credentials.auts is not None
    assert bench.numbers("spi-c") != first
    assert bench.numbers("port-s") == old.ours.port_s
    assert bench.sent[-1].target == old.hop()
    assert tuple(bench.request.headers.elements("Security-Verify")) == verify
    assert bench.only_set is old
    bench.challenge()
    bench.card()
    bench.accept(120)
    assert len(bench.sets) == 2


def test_an_auts_loop_ends_at_the_third_invalid_challenge() -> None:
    bench = Bench()
    bench.handle(Start())
    for _ in range(3):
        bench.challenge(fresh=False)
        bench.card()
    assert "gave up" in bench.machine.status.reason
    assert "out of sequence" in bench.machine.status.reason
    assert bench.clean()


# ---- faults -------------------------------------------------------------------------------------------------------


def test_a_p_cscf_that_has_forgotten_the_set_is_registered_with_anew_in_clear() -> None:
    bench = Bench()
    bench.register(1800)
    call_id = bench.request.call_id
    bench.wait()
    bench.silence()
    assert bench.state is State.REGISTERING
    assert bench.request.call_id != call_id
    assert bench.sent[-1].target == PROFILE.p_cscfs[0], "the same P-CSCF: it may only have been restarted"
    assert bench.credentials.nonce == ""
    assert not bench.sets
    bench.challenge()
    bench.card()
    bench.accept()
    assert len(bench.sets) == 1


def test_silence_over_a_temporary_set_moves_to_the_next_p_cscf() -> None:
    bench = Bench()
    bench.handle(Start())
    bench.challenge()
    bench.card()
    bench.silence()
    assert bench.sent[-1].target == PROFILE.p_cscfs[1]
    assert not bench.sets


def test_an_spi_that_is_taken_leads_to_others_at_once_and_then_to_a_wait() -> None:
    bench = Bench()
    bench.handle(Start())
    bench.refuse_installation = "SPI 65536 is in use already"
    call_id, spi = bench.request.call_id, bench.numbers("spi-c")
    bench.challenge()
    bench.card()
    assert bench.request.call_id != call_id
    assert bench.numbers("spi-c") != spi
    bench.challenge()
    bench.card()
    assert bench.state is State.WAITING
    assert "SPI 65536" in bench.machine.status.reason
    assert bench.clean()
    bench.refuse_installation = ""
    bench.wait()
    bench.challenge()
    bench.card()
    bench.accept()
    assert bench.state is State.REGISTERED


def test_no_ports_is_a_reason_for_the_user_and_tried_again() -> None:
    bench = Bench()
    bench.refuse_reservation = "no protected ports at 10.45.0.2: address in use"
    bench.handle(Start())
    assert bench.state is State.WAITING
    assert "no protected ports" in bench.machine.status.reason
    bench.refuse_reservation = ""
    bench.wait()
    assert bench.state is State.REGISTERING


def test_ipsec_that_never_answers_ends_in_a_wait_and_late_answers_hold_nothing() -> None:
    bench = Bench()
    answers: list[object] = []
    io = bench.io
    bench.io = lambda output: answers.append(io(output))  # type: ignore[assignment, func-returns-value, method-assign]
    bench.handle(Start())
    assert bench.wait() == 15
    assert bench.state is State.WAITING
    assert bench.clean()
    released = len(answers)
    late = [each for each in answers if isinstance(each, SecurityReserved)]
    bench.io = lambda output: answers.append(output)  # type: ignore[assignment, func-returns-value, method-assign]
    bench.handle(late[0])
    assert isinstance(answers[released], ReleaseSecurity), "what comes too late is given back again"


@pytest.mark.parametrize(("status", "words"), [(494, "494"), (421, "421"), (420, "sec-agree")])
def test_a_p_cscf_without_the_same_idea_of_the_agreement(status: int, words: str) -> None:
    """RFC 3329 sections 2.3.1 and 2.4: never without the agreement; other failures back off."""
    bench = Bench(replace(PROFILE, p_cscfs=PROFILE.p_cscfs[:1]))
    bench.handle(Start())
    bench.respond(status, ("Unsupported", "sec-agree") if status == 420 else ("Require", "sec-agree"))
    assert bench.state is State.WAITING
    assert words in bench.machine.status.reason
    assert bench.clean()
    bench.wait()
    assert bench.field("Require") == "sec-agree"


@pytest.mark.parametrize("status", [494, 421])
def test_a_p_cscf_that_demands_an_agreement_is_told_of(status: int) -> None:
    bench = Bench(replace(PROFILE, security=SecurityPolicy()))
    bench.handle(Start())
    assert "Require" not in bench.request.headers
    bench.respond(status, ("Require", "sec-agree"), ("Security-Server", "ipsec-3gpp;q=0.9"))
    assert "demands a security agreement (IPsec)" in bench.machine.status.reason
    assert bench.wait() >= 1800


def test_494_to_a_refresh_begins_anew_in_clear() -> None:
    bench = Bench()
    bench.register(120)
    bench.wait()
    bench.respond(494, ("Security-Server", "ipsec-3gpp;q=0.9"))
    assert bench.state is State.REGISTERING
    assert bench.sent[-1].target == PROFILE.p_cscfs[0]


def test_a_wrong_answer_over_the_new_set_is_challenged_again_and_begins_the_chain_anew() -> None:
    bench = Bench()
    bench.handle(Start())
    for _ in range(3):
        bench.challenge()
        bench.card()
        assert len(bench.sets) == 1
        bench.challenge()  # instead of 200
        assert not bench.sets
        if bench.state is State.REGISTERING:
            assert bench.sent[-1].target.address[1] == 5060
    assert len(bench.asked) <= 6
    bench.challenge()
    assert bench.state is State.WAITING
    assert "goes on challenging" in bench.machine.status.reason
    assert bench.clean()


def test_restoration_keeps_the_old_set_until_the_new_one_is_used() -> None:
    """A call may still be ended over it (TS 24.229 clause 5.1.2A.1.6)."""
    bench = Bench()
    bench.register()
    old = bench.only_set
    bench.handle(Lost("the core asks to restore it"))
    assert bench.state is State.REGISTERING
    assert bench.sent[-1].target == PROFILE.p_cscfs[0]
    assert bench.reservations[-1].keep_port_s is None, "the server port belongs to a registration"
    path = bench.machine.path
    assert path is not None
    assert path.hop == old.hop()
    bench.challenge()
    bench.card()
    bench.accept()
    assert len(bench.sets) == 2
    new = list(bench.sets.values())[-1]
    bench.heard(new)
    assert bench.only_set is new


def test_the_clock_jumps_over_the_end_of_the_registration() -> None:
    """The device slept: sets and registration are over when it wakes."""
    bench = Bench()
    bench.register(1800)
    bench.now += 100_000
    bench.handle(Tick())
    assert bench.state is State.REGISTERING
    assert not bench.sets
    assert "run out" in bench.machine.status.reason
    assert bench.sent[-1].target == PROFILE.p_cscfs[0]


def test_messages_outside_the_sets_are_no_sign_of_life() -> None:
    bench = Bench()
    bench.register(120)
    bench.wait()
    bench.challenge()
    bench.card()
    bench.accept(120)
    new = list(bench.sets.values())[-1]
    bench.handle(Heard(new.ours.port_s, ("10.45.0.66", new.theirs.port_c)))
    bench.handle(Heard(5060, (P_CSCF, new.theirs.port_c)))
    assert len(bench.sets) == 2


# ---- C.30, 34.229-5 A.11 ------------------------------------------------------------------------------------------


def test_c_30_de_registration_goes_over_the_set_and_ends_it() -> None:
    bench = Bench()
    bench.register()
    agreement, verify = bench.only_set, bench.server
    bench.handle(Stop())
    assert bench.request.expires == 0
    assert bench.sent[-1].target == agreement.hop()
    assert tuple(bench.request.headers.elements("Security-Verify")) == verify
    assert bench.client, "it names what a challenge would need"
    bench.respond(200)
    assert bench.state is State.OFF
    assert bench.clean()


def test_c_30_nobody_confirms() -> None:
    bench = Bench()
    bench.register()
    bench.handle(Stop())
    assert bench.wait() == 4
    assert bench.state is State.OFF
    assert bench.clean()


@pytest.mark.parametrize("steps", range(6))
def test_switched_off_at_any_step_nothing_is_left(steps: int) -> None:
    bench = Bench()
    chain = [
        lambda: bench.handle(Start()),
        bench.challenge,
        bench.card,
        bench.accept,
        lambda: (setattr(bench, "now", bench.now + 599_400), bench.handle(Tick())),
        bench.challenge,
    ]
    for step in chain[: steps + 1]:
        step()
    bench.handle(Stop())
    for _ in range(5):
        if bench.state is State.OFF:
            break
        bench.respond(200, ("Contact", f"{bench.field('Contact')};expires=600"))
    assert bench.state is State.OFF
    assert bench.clean()
    assert bench.machine.deadline() is None


def test_network_initiated_de_registration_ends_the_sets() -> None:
    for event in ("rejected", "unregistered", "probation"):
        bench = Bench()
        bench.register()
        contact = RegContact(f"sip:{UE}:{bench.only_set.ours.port_s}", "terminated", event, retry_after=5)
        aor = RegisteredIdentity(str.__str__(PROFILE.impu), "terminated", (contact,))
        bench.handle(RegistrationInfo(RegInfo(1, True, (aor,))))
        assert bench.state is State.WAITING
        assert bench.clean()
