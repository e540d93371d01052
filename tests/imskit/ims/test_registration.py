"""Registration of a UE: the cases of TS 34.229-1 (V14.7.0) and TS 24.229 clause 5.1.1 [S7-IMS]."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from imskit.aka.challenge import AkaAlgorithm, Challenge
from imskit.aka.milenage import Milenage
from imskit.aka.sqn import SqnGenerator
from imskit.aka.vector import AuthenticationVector, Success, Usim
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
    KeepAlive,
    Lost,
    PCscfsFound,
    RegisterOutcome,
    Registration,
    RegistrationInfo,
    RetryPolicy,
    SendRegister,
    Start,
    State,
    Stop,
)
from imskit.ims.registration_attempt import SECONDS, Step
from imskit.ims.security_agreement import Protection, SecurityPolicy
from imskit.secrets import Identity, Secret
from imskit.sip import digest
from imskit.sip.wire.auth import Challenge as DigestChallenge
from imskit.sip.wire.auth import Credentials
from imskit.sip.wire.flow import Target
from imskit.sip.wire.message import Request, Response, response_to

# TS 35.208 test set 1.
K = Secret(bytes.fromhex("465b5ce8b199b49faa5f0a2ee238a6bc"))
OPC = Secret(bytes.fromhex("cd63cb71954a9f4e48a5994e37a02baf"))
NOTICE_SECONDS = SECONDS[Step.RESPONSE]
DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
PROFILE = UeProfile(
    Identity(f"001010000000001@{DOMAIN}"),
    Identity(f"sip:+15550100@{DOMAIN}"),
    DOMAIN,
    "urn:gsma:imei:35693803-564380-0",
    ("10.45.0.2", 5060),
    (Target("UDP", ("10.45.0.1", 5060)), Target("UDP", ("10.45.0.9", 5060))),
)


def counter() -> Iterator[int]:
    return itertools.count(1)


class Bench:
    """A registration machine, its card, and the core's side of the digest."""

    def __init__(self, algorithm: str = "AKAv1-MD5", profile: UeProfile = PROFILE) -> None:
        numbers = counter()
        self.outputs: list[object] = []
        self.machine = Registration(
            profile, lambda n: f"{next(numbers):0{n}x}"[:n], RetryPolicy(base=30.0, maximum=1800.0)
        )
        self.now = 1000.0
        self.usim = Usim(Milenage(K, OPC))
        self.generator = SqnGenerator()
        self.algorithm = algorithm
        self.sent: list[SendRegister] = []
        self.asked: list[AskCard] = []
        self.reasons: list[str] = []
        self.vector: AuthenticationVector | None = None

    def handle(self, event: object) -> None:
        self.machine.handle(event, self.now)  # type: ignore[arg-type]
        while (output := self.machine.poll()) is not None:
            match output:
                case SendRegister():
                    self.sent.append(output)
                case AskCard():
                    self.asked.append(output)
                case Changed(status):
                    self.reasons.append(status.reason)
                case _:
                    self.outputs.append(output)

    @property
    def request(self) -> Request:
        return self.sent[-1].request

    @property
    def credentials(self) -> Credentials:
        value = self.request.headers.get("Authorization")
        assert value is not None
        return Credentials.parse(value)

    def respond(self, status: int, *fields: tuple[str, str]) -> None:
        response = response_to(self.request, status, to_tag="s")
        for name, value in fields:
            response.headers.add(name, value)
        self.outcome(response)

    def outcome(self, response: Response | None) -> None:
        self.handle(RegisterOutcome(self.sent[-1].key, response))

    def challenge(self, *, mac: bool = True, fresh: bool = True) -> None:
        sqn = self.generator.next() if fresh else 0
        self.vector = AuthenticationVector.generate(Milenage(K, OPC), bytes(range(16)), sqn)
        autn = self.vector.autn if mac else self.vector.autn[:-1] + bytes([self.vector.autn[-1] ^ 1])
        nonce = Challenge(self.vector.rand, autn).encode()
        self.respond(401, ("WWW-Authenticate", str(DigestChallenge.digest(DOMAIN, nonce, algorithm=self.algorithm))))

    def card(self) -> None:
        self.handle(CardAnswer(self.usim.verify(self.asked[-1].rand, self.asked[-1].autn)))

    def answers_rightly(self) -> bool:
        assert self.vector is not None
        algorithm = AkaAlgorithm.parse(self.algorithm)
        assert algorithm is not None
        password = algorithm.password(Success(self.vector.xres, self.vector.ck, self.vector.ik))
        return digest.verify(self.credentials, password, "REGISTER")

    def accept(self, expires: int = 600_000, **more: str) -> None:
        contact = f"{self.request.headers.get('Contact')};expires={expires}"
        fields = {
            "Contact": contact,
            "P-Associated-URI": f"<sip:+15550100@{DOMAIN}>, <tel:+15550100>",
            "Service-Route": "<sip:orig@scscf.example;lr>",
        } | {name.replace("_", "-"): value for name, value in more.items()}
        self.respond(200, *fields.items())

    def register(self, expires: int = 600_000) -> None:
        self.handle(Start())
        self.challenge()
        self.card()
        self.accept(expires)

    def wait(self) -> float:
        """Go to the machine's deadline; return how long it was."""
        deadline = self.machine.deadline()
        assert deadline is not None
        waited, self.now = deadline - self.now, deadline
        self.handle(Tick())
        return waited

    @property
    def state(self) -> State:
        return self.machine.status.state


@pytest.mark.parametrize("algorithm", ["AKAv1-MD5", "AKAv2-MD5", "AKAv2-SHA-256"])
def test_8_1_initial_registration(algorithm: str) -> None:
    bench = Bench(algorithm)
    bench.handle(Start())
    first = bench.request
    assert first.uri == f"sip:{DOMAIN}"
    assert "Route" not in first.headers
    assert first.expires == 600_000
    assert first.headers.get("Authorization") == (
        f'Digest username="{str.__str__(PROFILE.impi)}", realm="{DOMAIN}", nonce="", uri="sip:{DOMAIN}", response=""'
    )
    contact = first.headers.get("Contact") or ""
    assert '+sip.instance="<urn:gsma:imei:35693803-564380-0>"' in contact
    assert '+g.3gpp.icsi-ref="urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel"' in contact
    assert "P-Access-Network-Info" not in first.headers  # not without a security association
    bench.challenge()
    bench.card()
    assert bench.request.call_id == first.call_id
    assert bench.request.cseq.number == first.cseq.number + 1
    assert bench.credentials.get("nc") == "00000001"
    assert bench.answers_rightly()
    bench.accept()
    status = bench.machine.status
    assert status.state is State.REGISTERED
    assert status.impu == f"sip:+15550100@{DOMAIN}"
    assert status.service_route == ("<sip:orig@scscf.example;lr>",)
    assert bench.machine.deadline() == bench.now + 600_000 - 600


@pytest.mark.parametrize(("granted", "after"), [(120, 60), (1200, 600), (1800, 1200)])
def test_8_2_re_registration(granted: int, after: int) -> None:
    bench = Bench()
    bench.register(granted)
    call_id = bench.request.call_id
    nonce = bench.credentials.nonce
    assert bench.wait() == after
    assert bench.request.call_id == call_id
    assert bench.credentials.nonce == nonce
    assert bench.credentials.get("nc") == "00000002"
    assert bench.answers_rightly()
    assert bench.state is State.REGISTERED
    bench.accept(granted)
    assert bench.state is State.REGISTERED


def test_re_authentication_at_re_registration() -> None:
    bench = Bench()
    bench.register(120)
    bench.wait()
    bench.challenge()
    bench.card()
    assert bench.credentials.get("nc") == "00000001"
    assert bench.answers_rightly()


def test_9_1_two_invalid_macs_then_success() -> None:
    bench = Bench()
    bench.handle(Start())
    for _ in range(2):
        bench.challenge(mac=False)
        bench.card()
        assert bench.credentials.response == ""
        assert bench.credentials.auts is None
        assert bench.state is State.REGISTERING
    bench.challenge()
    bench.card()
    assert bench.answers_rightly()
    bench.accept()
    assert bench.state is State.REGISTERED


def test_9_1_the_third_invalid_mac_ends_it() -> None:
    bench = Bench()
    bench.handle(Start())
    for _ in range(3):
        bench.challenge(mac=False)
        bench.card()
    assert bench.state is State.WAITING
    assert "gave up" in bench.machine.status.reason
    assert len(bench.sent) == 3


def test_9_2_sequence_number_out_of_range() -> None:
    bench = Bench()
    bench.handle(Start())
    bench.challenge(fresh=False)
    bench.card()
    auts = bench.credentials.auts
    assert auts is not None
    assert len(auts) == 20  # base64 of 14 octets
    assert bench.credentials.nonce
    bench.challenge()
    bench.card()
    bench.accept()
    assert bench.state is State.REGISTERED


def test_a_challenge_without_aka_or_with_a_short_nonce_is_refused() -> None:
    for parameters in ('nonce="abcd", algorithm=MD5', 'nonce="YWJj", algorithm=AKAv1-MD5'):
        bench = Bench()
        bench.handle(Start())
        bench.respond(401, ("WWW-Authenticate", f'Digest realm="x", {parameters}'))
        assert bench.state is State.WAITING
        assert not bench.asked


def test_an_endless_challenger_is_left() -> None:
    bench = Bench()
    bench.handle(Start())
    for _ in range(20):
        if bench.state is not State.REGISTERING:
            break
        bench.challenge()
        if bench.asked and bench.state is State.REGISTERING:
            bench.card()
    assert bench.state is State.WAITING
    assert "goes on challenging" in bench.machine.status.reason


def test_423_raises_the_expiry_once() -> None:
    bench = Bench()
    bench.handle(Start())
    bench.respond(423, ("Min-Expires", "700000"))
    assert bench.request.expires == 700_000
    bench.respond(423, ("Min-Expires", "800000"))
    assert bench.state is State.WAITING


def test_silence_moves_to_the_next_p_cscf_and_backs_off() -> None:
    bench = Bench()
    bench.handle(Start())
    waits = []
    for _ in range(8):
        bench.outcome(None)
        assert bench.state is State.REGISTERING
        assert "trying the next P-CSCF" in bench.machine.status.reason
        bench.outcome(None)
        assert bench.state is State.WAITING
        waits.append(bench.wait())
    assert [sent.target.address[0] for sent in bench.sent[:3]] == ["10.45.0.1", "10.45.0.9", "10.45.0.1"]
    assert 30 <= waits[0] <= 60  # RFC 5626 section 4.5: 50 to 100 % of base * 2^failures
    assert 900 <= waits[-1] <= 1800
    assert len({sent.request.call_id for sent in bench.sent}) == len(bench.sent)


def test_a_refusal_that_another_p_cscf_may_not_share_goes_to_the_next_one() -> None:
    bench = Bench()
    bench.handle(Start())
    bench.respond(504)
    assert bench.sent[-1].target.address[0] == "10.45.0.9"
    bench.challenge()
    bench.card()
    bench.accept()
    assert bench.state is State.REGISTERED
    assert bench.machine.status.p_cscf == PROFILE.p_cscfs[1]


def test_the_status_tells_of_a_long_silence() -> None:
    bench = Bench()
    bench.handle(Start())
    assert bench.wait() == NOTICE_SECONDS
    assert bench.machine.status.reason == "the P-CSCF 10.45.0.1 port 5060 has not answered yet; still trying"
    assert bench.state is State.REGISTERING
    assert bench.machine.deadline() is None  # the transaction's timer decides


def test_a_registration_that_runs_out_during_its_refresh_is_none() -> None:
    bench = Bench()
    bench.register(20)
    assert bench.wait() == 10
    assert bench.wait() == NOTICE_SECONDS
    assert bench.state is State.REGISTERED
    assert bench.wait() == 20 - 10 - NOTICE_SECONDS
    assert bench.state is State.REGISTERING
    assert "run out" in bench.machine.status.reason
    bench.challenge()
    bench.card()
    bench.accept()
    assert bench.state is State.REGISTERED


def test_the_user_need_not_wait_for_the_back_off_unless_the_network_set_it() -> None:
    bench = Bench()
    bench.handle(Start())
    bench.outcome(None)
    bench.outcome(None)
    assert bench.state is State.WAITING
    bench.handle(Start())
    assert bench.state is State.REGISTERING
    bench.respond(503, ("Retry-After", "40"))
    bench.handle(Start())
    assert bench.state is State.WAITING
    bench.now += 41
    bench.handle(Start())
    assert bench.state is State.REGISTERING


def test_503_waits_as_told() -> None:
    bench = Bench()
    bench.handle(Start())
    bench.respond(503, ("Retry-After", "77"))
    assert bench.wait() == 77


def test_403_is_told_in_the_cores_words_and_not_repeated_soon() -> None:
    bench = Bench()
    bench.handle(Start())
    bench.respond(403, ("Warning", '399 core "user unknown at the HSS"'))
    assert "403 Forbidden (user unknown at the HSS)" in bench.machine.status.reason
    assert bench.wait() >= 1800


def test_a_failed_refresh_begins_anew() -> None:
    bench = Bench()
    bench.register(120)
    call_id = bench.request.call_id
    bench.wait()
    bench.respond(500)
    assert bench.state is State.REGISTERING
    assert bench.request.call_id != call_id
    assert bench.credentials.nonce == ""


def test_the_card_fails() -> None:
    bench = Bench()
    bench.handle(Start())
    bench.challenge()
    bench.handle(CardFailed("the card was pulled"))
    assert bench.machine.status.reason == "the card was pulled"
    assert bench.state is State.WAITING


def test_the_card_never_answers() -> None:
    bench = Bench()
    bench.handle(Start())
    bench.challenge()
    assert bench.wait() == 30
    assert bench.state is State.WAITING
    bench.card()  # too late: ignored
    assert bench.state is State.WAITING


def test_the_card_never_answers_at_a_refresh() -> None:
    bench = Bench()
    bench.register(120)
    bench.wait()
    bench.challenge()
    assert bench.wait() == 30
    assert bench.state is State.WAITING
    assert "card did not answer" in bench.machine.status.reason


def test_a_challenge_with_an_unknown_quality_of_protection_ends_the_attempt() -> None:
    bench = Bench()
    bench.handle(Start())
    nonce = Challenge(bytes(16), bytes(16)).encode()
    bench.respond(401, ("WWW-Authenticate", f'Digest realm="x", nonce="{nonce}", algorithm=AKAv1-MD5, qop="best"'))
    vector = AuthenticationVector.generate(Milenage(K, OPC), bytes(16), bench.generator.next())
    bench.handle(CardAnswer(bench.usim.verify(vector.rand, vector.autn)))
    assert bench.state is State.WAITING
    assert "cannot be answered" in bench.machine.status.reason


def test_503_to_a_refresh_keeps_the_registration_and_waits_as_told() -> None:
    bench = Bench()
    bench.register(120)
    bench.wait()
    bench.respond(503, ("Retry-After", "20"))
    assert bench.state is State.REGISTERED
    assert bench.wait() == 20
    assert bench.request.expires == 600_000


def test_stop_de_registers() -> None:
    bench = Bench()
    bench.register()
    bench.handle(Stop())
    assert bench.request.expires == 0
    assert bench.credentials.nonce
    bench.respond(200)
    assert bench.state is State.OFF
    assert bench.machine.deadline() is None


def test_stop_does_not_wait_for_a_silent_core() -> None:
    bench = Bench()
    bench.register()
    bench.handle(Stop())
    assert bench.wait() == 4
    assert bench.state is State.OFF


def test_stop_in_the_middle_of_a_registration_takes_the_binding_away() -> None:
    bench = Bench()
    bench.handle(Start())
    bench.challenge()
    bench.card()
    bench.handle(Stop())
    bench.accept()
    assert bench.request.expires == 0
    bench.respond(200)
    assert bench.state is State.OFF


def test_stop_in_the_middle_of_a_refresh_takes_the_binding_away() -> None:
    bench = Bench()
    bench.register(120)
    bench.wait()
    bench.handle(Stop())
    bench.challenge()
    assert bench.request.expires == 0
    bench.respond(200)
    assert bench.state is State.OFF


def test_stop_while_the_card_is_asked_at_a_refresh_takes_the_binding_away() -> None:
    bench = Bench()
    bench.register(120)
    bench.wait()
    bench.challenge()
    bench.handle(Stop())
    assert bench.request.expires == 0
    assert bench.credentials.nonce  # those of the registration: the card need not be asked
    bench.card()  # too late
    bench.respond(200)
    assert bench.state is State.OFF


def test_a_de_registration_that_is_challenged_is_still_given_up_in_time() -> None:
    bench = Bench()
    bench.register()
    bench.handle(Stop())
    bench.challenge()
    assert bench.wait() == 4
    assert bench.state is State.OFF
    assert bench.machine.deadline() is None


def test_a_start_during_de_registration_registers_afterwards() -> None:
    bench = Bench()
    bench.register()
    bench.handle(Stop())
    bench.handle(Start())
    bench.respond(200)
    assert bench.state is State.REGISTERING
    assert bench.request.expires == 600_000


def test_a_contact_is_gone_only_if_it_is_gone_for_every_identity() -> None:
    bench = Bench()
    bench.register()
    gone = RegContact("sip:10.45.0.2:5060", "terminated", "unregistered")
    there = RegContact("sip:10.45.0.2:5060", "active", "registered")
    document = RegInfo(
        1,
        True,
        (RegisteredIdentity("tel:+15550101", "terminated", (gone,)), RegisteredIdentity("x", "active", (there,))),
    )
    bench.handle(RegistrationInfo(document))
    assert bench.state is State.REGISTERED


def test_the_default_identity_is_a_sip_uri_where_there_is_one() -> None:
    bench = Bench()
    bench.handle(Start())
    bench.challenge()
    bench.card()
    contact = f"{bench.request.headers.get('Contact')};expires=600"
    bench.respond(200, ("Contact", contact), ("P-Associated-URI", "<tel:+15550100>, <sip:+15550100@ims.example>"))
    assert bench.machine.status.impu == "sip:+15550100@ims.example"
    assert bench.machine.status.associated[0] == "tel:+15550100"


@pytest.mark.parametrize(
    ("event", "state"),
    [
        ("expired", State.REGISTERING),
        ("unregistered", State.WAITING),
        ("deactivated", State.REGISTERING),
        ("rejected", State.WAITING),
        ("probation", State.WAITING),
    ],
)
def test_network_initiated_de_registration(event: str, state: State) -> None:
    bench = Bench()
    bench.register()
    contact = RegContact("sip:10.45.0.2:5060", "terminated", event, retry_after=5 if event == "probation" else None)
    bench.handle(
        RegistrationInfo(RegInfo(1, True, (RegisteredIdentity(str.__str__(PROFILE.impu), "terminated", (contact,)),)))
    )
    assert bench.state is state
    if event == "probation":
        assert bench.wait() == 5


def test_another_devices_contact_changes_nothing() -> None:
    bench = Bench()
    bench.register()
    contact = RegContact("sip:10.45.0.77:5060", "terminated", "deactivated")
    bench.handle(RegistrationInfo(RegInfo(1, True, (RegisteredIdentity("sip:x@y", "terminated", (contact,)),))))
    assert bench.state is State.REGISTERED


def test_a_shortened_registration_is_refreshed_at_half() -> None:
    bench = Bench()
    bench.register()
    contact = RegContact("sip:10.45.0.2:5060", "active", "shortened", expires=40)
    bench.handle(RegistrationInfo(RegInfo(1, True, (RegisteredIdentity("sip:x@y", "active", (contact,)),))))
    assert bench.wait() == 20
    assert bench.request.expires == 600_000


def test_restoration_begins_anew() -> None:
    bench = Bench()
    bench.register()
    bench.handle(Lost("the core was restarted"))
    assert bench.state is State.REGISTERING
    assert bench.credentials.nonce == ""


def test_a_200_without_our_contact_is_no_registration() -> None:
    bench = Bench()
    bench.handle(Start())
    bench.respond(200, ("Contact", "<sip:10.45.0.99:5060>;expires=600"))
    assert bench.state is State.WAITING


# ---- several identities, GRUU -----------------------------------------------------------------------------------

SECOND = Identity(f"sip:+15550101@{DOMAIN}")
BOTH = replace(PROFILE, more_impus=(SECOND,))


def notice(bench: Bench, *aors: tuple[str, RegContact], full: bool = False) -> None:
    identities = tuple(RegisteredIdentity(aor, each.state, (each,)) for aor, each in aors)
    bench.handle(RegistrationInfo(RegInfo(1, full, identities)))


def test_a_barred_identity_is_registered_and_not_used() -> None:
    """The temporary identity of a card without ISIM: the default is the first of P-Associated-URI."""
    bench = Bench()
    bench.handle(Start())
    bench.challenge()
    bench.card()
    bench.accept(P_Associated_URI=f"<sip:+15550777@{DOMAIN}>, <tel:+15550777>")
    assert PROFILE.impu not in bench.machine.status.associated
    assert bench.machine.status.impu == f"sip:+15550777@{DOMAIN}"


def test_an_identity_outside_the_implicit_set_has_its_own_registration() -> None:
    bench = Bench(profile=BOTH)
    bench.register(1800)
    assert bench.state is State.REGISTERED
    first, second = bench.sent[-2].request, bench.request
    assert str.__str__(SECOND) in (second.headers.get("To") or "")
    assert second.call_id != first.call_id
    assert bench.credentials.nonce, "the answer to the last challenge is used again"
    bench.accept(600, P_Associated_URI=f"<{SECOND}>")
    assert bench.machine.status.associated == (
        *(Identity(f"sip:+15550100@{DOMAIN}"), Identity("tel:+15550100")),
        SECOND,
    )
    assert bench.machine.status.impu == f"sip:+15550100@{DOMAIN}"
    assert bench.wait() == 300
    assert str.__str__(SECOND) in (bench.request.headers.get("To") or "")
    bench.accept(600, P_Associated_URI=f"<{SECOND}>")
    bench.handle(Stop())
    assert str.__str__(SECOND) in (bench.request.headers.get("To") or ""), "the first identity goes last"
    bench.respond(200)
    assert str.__str__(PROFILE.impu) in (bench.request.headers.get("To") or "")
    assert bench.request.expires == 0
    bench.respond(200)
    assert bench.state is State.OFF


def test_a_further_identity_that_is_refused_takes_nothing_from_the_first() -> None:
    bench = Bench(profile=BOTH)
    bench.register(600_000)
    bench.respond(403)
    assert bench.state is State.REGISTERED
    assert SECOND not in bench.machine.status.associated
    assert bench.wait() >= 1800
    bench.challenge()
    bench.card()
    bench.accept(P_Associated_URI=f"<{SECOND}>")
    assert SECOND in bench.machine.status.associated


def test_the_network_takes_one_identity_and_then_the_rest() -> None:
    bench = Bench()
    bench.register()
    gone = RegContact("sip:10.45.0.2:5060", "terminated", "unregistered")
    there = RegContact("sip:10.45.0.2:5060", "active", "registered")
    notice(bench, ("tel:+15550100", gone), (str.__str__(PROFILE.impu), there))
    assert bench.state is State.REGISTERED
    assert bench.machine.status.associated == (PROFILE.impu,)
    notice(bench, (str.__str__(PROFILE.impu), gone))
    assert bench.state is State.WAITING


def test_gruus_come_with_the_200_and_with_notifications() -> None:
    bench = Bench()
    bench.handle(Start())
    assert "gruu" in bench.request.supported
    bench.challenge()
    bench.card()
    public, temporary = f"sip:+15550100@{DOMAIN};gr=urn:x", f"sip:tgruu.7@{DOMAIN};gr"
    contact = f'{bench.request.headers.get("Contact")};expires=600;pub-gruu="{public}";temp-gruu="{temporary}"'
    bench.respond(200, ("Contact", contact))
    status = bench.machine.status
    assert (status.public_gruu, status.temporary_gruu) == (public, temporary)
    fresh = RegContact("sip:10.45.0.2:5060", "active", "refreshed", temporary_gruu=f"sip:tgruu.8@{DOMAIN};gr")
    notice(bench, (str.__str__(PROFILE.impu), fresh))
    assert bench.machine.status.public_gruu == public
    assert bench.machine.status.temporary_gruu == f"sip:tgruu.8@{DOMAIN};gr"
    evil = RegContact("sip:10.45.0.2:5060", "active", "refreshed", public_gruu="sip:a@b>;x=<sip:c@d")
    notice(bench, (str.__str__(PROFILE.impu), evil))
    assert bench.machine.status.public_gruu == public


# ---- TLS, outbound, keep-alive, discovery, time ---------------------------------------------------------------------

TLS = replace(PROFILE, p_cscfs=(Target("TLS", ("10.45.0.1", 5061)),), security=SecurityPolicy(Protection.TLS))


def test_tls_takes_akav2_sha_256_only() -> None:
    bench = Bench("AKAv2-SHA-256", TLS)
    bench.register()
    assert bench.state is State.REGISTERED
    assert bench.answers_rightly()
    assert bench.machine.status.security == "TLS"
    assert "transport=tls" in (bench.request.headers.get("Contact") or "")
    for algorithm in ("AKAv1-MD5", "AKAv2-MD5", "AKAv1-SHA-256"):
        bench = Bench(algorithm, TLS)
        bench.handle(Start())
        bench.challenge()
        assert not bench.asked, "the card answers no weaker challenge"
        assert "AKAv2-SHA-256" in bench.machine.status.reason


def test_439_leads_to_a_register_without_outbound() -> None:
    bench = Bench("AKAv2-SHA-256", TLS)
    bench.handle(Start())
    assert "reg-id=1" in (bench.request.headers.get("Contact") or "")
    bench.respond(439)
    assert "reg-id" not in (bench.request.headers.get("Contact") or "")
    assert "outbound" not in bench.request.supported
    bench.respond(439)
    assert bench.state is State.WAITING


@pytest.mark.parametrize(("keep", "seconds"), [("keep=40", 40), ("keep=0", 25), ("keep", None), ("", None)])
def test_keep_alives_as_the_p_cscf_asks(keep: str, seconds: int | None) -> None:
    """RFC 6223: offered in Via, taken up by a value."""
    bench = Bench()
    bench.handle(Start())
    assert ("keep", None) in bench.sent[-1].sent_by.parameters
    bench.challenge()
    bench.card()
    bench.accept(Via=f"SIP/2.0/UDP 10.45.0.2:5060;branch=z9hG4bK1{';' + keep if keep else ''}")
    expected = [KeepAlive(PROFILE.p_cscfs[0], float(seconds))] if seconds else []
    assert bench.outputs == expected
    bench.handle(Stop())
    assert bench.outputs == expected + ([KeepAlive(None)] if seconds else [])


def test_p_cscfs_are_looked_for_in_each_round() -> None:
    found = PROFILE.p_cscfs
    bench = Bench(profile=replace(PROFILE, p_cscfs=()))
    assert bench.machine.path is None
    bench.handle(Start())
    assert bench.outputs == [FindPCscfs()]
    assert not bench.sent
    bench.handle(PCscfsFound(found))
    assert bench.sent[-1].target == found[0]
    bench.outcome(None)
    assert bench.sent[-1].target == found[1]
    assert len(bench.outputs) == 1, "not within a round"
    bench.outcome(None)
    assert bench.state is State.WAITING
    bench.wait()
    assert len(bench.outputs) == 2
    bench.handle(PCscfsFound((), "the home network names no P-CSCF in DNS"))
    assert bench.state is State.WAITING
    assert bench.machine.status.reason == "the home network names no P-CSCF in DNS"
    bench.wait()
    assert bench.wait() == 45
    assert "look for a P-CSCF had no result" in bench.machine.status.reason


def test_the_registration_has_run_out_while_the_device_slept() -> None:
    bench = Bench()
    bench.register(1800)
    bench.now += 5000
    bench.handle(Tick())
    assert bench.state is State.REGISTERING
    assert bench.credentials.nonce == ""


def test_a_late_answer_of_the_card_is_not_taken_for_another_challenge() -> None:
    bench = Bench()
    bench.handle(Start())
    bench.challenge()
    late = CardAnswer(bench.usim.verify(bench.asked[-1].rand, bench.asked[-1].autn), bytes(16))
    bench.handle(late)
    bench.handle(CardFailed("too slow", bytes(16)))
    assert bench.state is State.REGISTERING
    assert len(bench.sent) == 1
    bench.handle(replace(late, rand=bench.asked[-1].rand))
    assert len(bench.sent) == 2


@pytest.mark.parametrize("status", [305, 408, 480, 500, 503])
def test_refusals_that_lead_to_the_next_p_cscf(status: int) -> None:
    bench = Bench()
    bench.handle(Start())
    bench.respond(status)
    assert bench.sent[-1].target == PROFILE.p_cscfs[1]


def test_a_core_that_ends_each_registration_at_once_is_not_run_against() -> None:
    bench = Bench()
    gone = RegContact("sip:10.45.0.2:5060", "terminated", "deactivated")
    bench.register()
    for _ in range(3):
        notice(bench, (str.__str__(PROFILE.impu), gone), full=True)
        bench.challenge()
        bench.card()
        bench.accept()
    notice(bench, (str.__str__(PROFILE.impu), gone), full=True)
    assert bench.state is State.WAITING
    assert 30 <= bench.wait() <= 60
    bench.challenge()
    bench.card()
    bench.accept()
    bench.now += 3600
    notice(bench, (str.__str__(PROFILE.impu), gone), full=True)
    assert bench.state is State.REGISTERING
