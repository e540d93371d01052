"""A whole UE inside a security agreement: what every message looks like, and which are taken [S7-IMS].

TS 34.229-1 cases 8.1 (reg-event), 10.1, 12.2a, C.30; TS 34.229-5 A.11; TS 24.229 clause 5.1.2A.1.1.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from imskit.aka.challenge import Challenge
from imskit.aka.vector import Success
from imskit.engine import Tick
from imskit.ims import events as ims
from imskit.ims.profile import UeProfile
from imskit.ims.registration import RetryPolicy, State
from imskit.ims.security_agreement import Protection, SecurityAgreement, SecurityPolicy, SecurityPorts
from imskit.ims.ue import ImsUe
from imskit.secrets import Identity, Secret
from imskit.sip.memory_network import answer_to, counter
from imskit.sip.wire.auth import Challenge as DigestChallenge
from imskit.sip.wire.flow import Flow, Target
from imskit.sip.wire.message import Message, Request, Response

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
ME = f"sip:+15550100@{DOMAIN}"
UE, P_CSCF = "10.45.0.2", "10.45.0.1"
CELL = "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=001010001000019B"
PROFILE = UeProfile(
    Identity(f"001010000000001@{DOMAIN}"),
    Identity(ME),
    DOMAIN,
    "urn:gsma:imei:35693803-564380-0",
    (UE, 5060),
    (Target("UDP", (P_CSCF, 5060)),),
    CELL,
    security=SecurityPolicy(Protection.IPSEC),
)
GRUU = f"{ME};gr=urn:gsma:imei:35693803-564380-0"
SDP = b"v=0\r\no=- 1 1 IN IP4 10.45.0.2\r\ns=-\r\nc=IN IP4 10.45.0.2\r\nt=0 0\r\nm=audio 40000 RTP/AVP 96\r\n"
RUN = Success(Secret(bytes(8)), Secret(bytes(range(16))), Secret(bytes(range(16, 32))))


class Bench:
    """The UE with working IPsec; the P-CSCF's messages are written by the test."""

    def __init__(self, profile: UeProfile = PROFILE, gruu: str = "") -> None:
        self.profile = profile
        self.ue = ImsUe(profile, counter("a"), RetryPolicy(base=2.0, maximum=60.0))
        self.now = 100.0
        self.numbers = itertools.count(30000)
        self.sets: dict[str, SecurityAgreement] = {}
        self.transmits: list[ims.Transmit] = []
        self.outputs: list[Any] = []
        self.gruu = gruu
        self.flows = itertools.count(1)

    def feed(self, event: Any) -> None:
        pending = [event]
        while pending:
            self.ue.handle(pending.pop(0), self.now)
            while (output := self.ue.poll()) is not None:
                match output:
                    case ims.Transmit():
                        self.transmits.append(output)
                    case ims.ReserveSecurity(name, keep):
                        n = self.numbers
                        ports = SecurityPorts(next(n), next(n), next(n), keep or next(n))
                        pending.append(ims.SecurityReserved(name, ports))
                    case ims.InstallSecurity(name, agreement):
                        self.sets[name] = agreement
                        pending.append(ims.SecurityInstalled(name))
                    case ims.RemoveSecurity(name):
                        del self.sets[name]
                    case ims.AskCard(rand):
                        pending.append(ims.CardAnswer(RUN, rand))
                    case ims.ReleaseSecurity():
                        pass
                    case _:
                        self.outputs.append(output)

    # ---- what it sent ---------------------------------------------------------------------------------------------

    def sent(self, method: str) -> ims.Transmit:
        """The last request of a method, with where it went."""
        return [t for t in self.transmits if isinstance(t.message, Request) and t.message.method == method][-1]

    def request(self, method: str) -> Request:
        message = self.sent(method).message
        assert isinstance(message, Request)
        return message

    def responses(self, method: str) -> list[Response]:
        messages = [transmit.message for transmit in self.transmits]
        return [each for each in messages if isinstance(each, Response) and each.cseq.method == method]

    # ---- what it receives -----------------------------------------------------------------------------------------

    @property
    def agreement(self) -> SecurityAgreement:
        return list(self.sets.values())[-1]

    def flow(self, *, clear: bool = False, host: str = P_CSCF, agreement: SecurityAgreement | None = None) -> Flow:
        if clear or not self.sets:
            return Flow("UDP", (UE, 5060), (host, 5060), 1)
        used = agreement or self.agreement
        return Flow("UDP", (UE, used.ours.port_s), (host, used.theirs.port_c), 2)

    def receive(self, message: Message, **flow: Any) -> None:
        self.feed(ims.Received(message, self.flow(**flow)))

    def answer(self, method: str, status: int, **fields: Any) -> None:
        self.receive(answer_to(self.request(method), status, "s", **fields), clear=self.sent_in_clear(method))

    def sent_in_clear(self, method: str) -> bool:
        destination = self.sent(method).destination
        return isinstance(destination, Target) and not destination.source_port

    def challenge(self) -> None:
        nonce = Challenge(bytes(16), bytes(16)).encode()
        n = self.numbers
        server = (
            f"ipsec-3gpp;q=0.9;alg=hmac-sha-1-96;ealg=aes-cbc;spi-c={next(n)};spi-s={next(n)};"
            f"port-c={next(n)};port-s=6101"
        )
        www = str(DigestChallenge.digest(DOMAIN, nonce, algorithm="AKAv1-MD5"))
        self.answer("REGISTER", 401, WWW_Authenticate=www, Security_Server=server)

    def accept(self, expires: int = 600_000) -> None:
        contact = f"{self.request('REGISTER').headers.get('Contact')};expires={expires}"
        if self.gruu:
            contact += f';pub-gruu="{self.gruu}"'
        response = answer_to(self.request("REGISTER"), 200, "s", Service_Route="<sip:orig@scscf.example;lr>")
        response.headers.set("Contact", contact)
        response.headers.add("P-Associated-URI", f"<{ME}>")
        self.receive(response)

    def register(self, expires: int = 600_000) -> None:
        self.feed(ims.Start())
        self.challenge()
        self.accept(expires)
        assert self.ue.status.state is State.REGISTERED

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.ue.deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            self.feed(Tick())
        self.now = until

    def invite(self, **fields: str) -> Request:
        """A call from the network, not yet received."""
        agreement = self.agreement
        return Request.create(
            "INVITE",
            f"sip:{UE}:{agreement.ours.port_s}",
            [
                ("Via", f"SIP/2.0/UDP {P_CSCF}:{agreement.theirs.port_c};branch=z9hG4bK{next(self.flows)}"),
                ("Max-Forwards", 70),
                ("From", "<sip:bob@ims.example>;tag=b"),
                ("To", f"<{ME}>"),
                ("Call-ID", f"call-{next(self.flows)}"),
                ("CSeq", "1 INVITE"),
                ("Contact", f"<sip:bob@{P_CSCF}:6101>"),
                *fields.items(),
            ],
        )


def agreed(bench: Bench, method: str) -> bool:
    """Whether a request went into the set and says so (RFC 3329 section 2.3.1)."""
    transmit, request = bench.sent(method), bench.request(method)
    via = request.top_via
    to = transmit.destination
    assert isinstance(to, Target)
    return (
        # What is too long for a datagram goes over TCP, inside the same associations.
        replace(to, transport="UDP") in [each.hop() for each in bench.sets.values()]
        and request.headers.get("Require") == request.headers.get("Proxy-Require") == "sec-agree"
        and "ipsec-3gpp;q=0.9" in (request.headers.get("Security-Verify") or "")
        and via.port == bench.agreement.ours.port_s
        and not via.wants_rport
        and request.headers.get("P-Access-Network-Info") == CELL
    )


def test_8_1_the_reg_event_subscription_goes_into_the_set() -> None:
    bench = Bench()
    bench.register()
    subscribe = bench.request("SUBSCRIBE")
    assert agreed(bench, "SUBSCRIBE")
    assert subscribe.headers.get_all("Route") == [f"<sip:{P_CSCF}:6101;lr>", "<sip:orig@scscf.example;lr>"]
    assert f"sip:{UE}:{bench.agreement.ours.port_s}" in (subscribe.headers.get("Contact") or "")
    assert subscribe.uri == ME
    assert subscribe.expires == 600_000


def test_every_request_of_a_call_but_ack_and_cancel_says_what_was_agreed() -> None:
    bench = Bench()
    bench.register()
    bench.feed(ims.Dial("c", "tel:+15550200", SDP))
    assert agreed(bench, "INVITE")
    invite = bench.request("INVITE")
    assert f"sip:{UE}:{bench.agreement.ours.port_s}" in (invite.headers.get("Contact") or "")
    bench.answer("INVITE", 180)
    bench.feed(ims.Hangup("c"))
    cancel = bench.request("CANCEL")
    assert bench.sent("CANCEL").destination == bench.sent("INVITE").destination
    for name in ("Require", "Proxy-Require", "Security-Verify", "P-Access-Network-Info"):
        assert name not in cancel.headers
    bench.answer("INVITE", 487)
    ack = bench.request("ACK")
    assert ack.top_via.branch == invite.top_via.branch
    for name in ("Proxy-Require", "Security-Verify", "P-Access-Network-Info"):
        assert name not in ack.headers


def test_a_call_goes_on_over_the_set_of_the_re_authentication() -> None:
    bench = Bench()
    bench.register(120)
    old = bench.agreement
    bench.feed(ims.Dial("c", "tel:+15550200", SDP))
    answer = answer_to(bench.request("INVITE"), 200, "s", SDP)
    answer.headers.set("Contact", f"<sip:bob@{P_CSCF}:6101>")
    bench.receive(answer)
    assert bench.sent("ACK").destination == old.hop()
    bench.wait(60)
    bench.challenge()
    bench.accept(600)
    assert len(bench.sets) == 2
    new = bench.agreement
    bench.feed(ims.Hangup("c"))
    assert bench.sent("BYE").destination == new.hop()
    assert agreed(bench, "BYE")
    bench.answer("BYE", 200)  # over the new set: the old one is done with once its transactions are
    bench.wait(140)
    assert list(bench.sets.values()) == [new]


def test_what_comes_outside_the_associations_is_not_taken() -> None:
    bench = Bench()
    bench.register()
    call = bench.invite()
    bench.receive(call, clear=True)
    bench.receive(call, host="10.45.0.66")
    bench.feed(ims.Received(call, Flow("UDP", (UE, bench.agreement.ours.port_s), (P_CSCF, 5060), 3)))
    assert bench.responses("INVITE") == []
    bench.feed(ims.Dial("c", "tel:+15550200", SDP))
    forged = answer_to(bench.request("INVITE"), 403, "s")
    bench.receive(forged, clear=True)
    assert not [each for each in bench.outputs if isinstance(each, ims.Ended)]
    bench.receive(call)
    assert [each for each in bench.outputs if isinstance(each, ims.IncomingCall)]
    bench.receive(forged)
    assert [each for each in bench.outputs if isinstance(each, ims.Ended)]


@pytest.mark.parametrize("status", [200, 401, 403])
def test_a_protected_register_is_not_answered_in_clear(status: int) -> None:
    """Without encryption a stranger can read the branch: that must not be enough to speak for the P-CSCF."""
    bench = Bench()
    bench.feed(ims.Start())
    bench.challenge()
    register = bench.request("REGISTER")
    assert not bench.sent_in_clear("REGISTER")
    forged = answer_to(register, status, "evil", Service_Route="<sip:evil@10.45.0.66;lr>")
    via = f"SIP/2.0/UDP {UE}:5060;branch={register.top_via.branch}"
    forged.headers.set("Via", via)
    forged.headers.set("Contact", f"{register.headers.get('Contact')};expires=600000")
    for host in (P_CSCF, "10.45.0.66"):
        bench.receive(forged, clear=True, host=host)
    assert bench.ue.status.state is State.REGISTERING
    assert bench.request("REGISTER") is register, "nothing has come of it"
    bench.accept()
    assert bench.ue.status.state is State.REGISTERED


@pytest.mark.parametrize("status", [403, 503, 600])
def test_one_packet_in_clear_does_not_keep_the_device_out_for_good(status: int) -> None:
    bench = Bench()
    bench.feed(ims.Start())
    bench.answer("REGISTER", status, Retry_After="4294967295")
    assert bench.ue.status.state is State.WAITING
    assert bench.ue.status.retry_at is not None
    assert bench.ue.status.retry_at <= bench.now + 60.0


def test_the_contact_of_calls_is_the_public_gruu() -> None:
    bench = Bench(gruu=GRUU)
    bench.register()
    assert bench.ue.status.public_gruu == GRUU
    bench.feed(ims.Dial("c", "tel:+15550200", SDP))
    contact = bench.request("INVITE").contacts
    assert contact != "*"
    assert str(contact[0].uri) == GRUU
    assert str(bench.agreement.ours.port_s) in (bench.request("REGISTER").headers.get("Contact") or "")


def test_an_anonymous_call_does_not_show_the_public_gruu() -> None:
    """The temporary one, or the address, names nobody (RFC 5627 section 3.1.2, TS 24.607)."""
    temporary = f"sip:tgruu.7@{DOMAIN};gr"
    for gruu, shown in ((f'{GRUU}";temp-gruu="{temporary}', temporary), (GRUU, f"sip:{UE}")):
        bench = Bench(gruu=gruu)
        bench.register()
        bench.feed(ims.Dial("c", "tel:+15550200", SDP, anonymous=True))
        contact = bench.request("INVITE").contacts
        assert contact != "*"
        assert str(contact[0].uri).startswith(shown)


def test_10_1_503_to_the_subscription_waits_as_told() -> None:
    bench = Bench()
    bench.register()
    first = bench.request("SUBSCRIBE")
    bench.answer("SUBSCRIBE", 503, Retry_After="40")
    bench.wait(39)
    assert bench.request("SUBSCRIBE") is first
    bench.wait(2)
    assert bench.request("SUBSCRIBE").call_id != first.call_id
    assert agreed(bench, "SUBSCRIBE")


def test_12_2a_restoration_registers_in_clear_and_leaves_the_old_set_for_what_is_left() -> None:
    bench = Bench()
    bench.register()
    bench.feed(ims.Dial("c", "tel:+15550200", SDP))
    body = (
        b'<ims-3gpp version="1"><alternative-service><type>restoration</type><reason/>'
        b"<action>initial-registration</action></alternative-service></ims-3gpp>"
    )
    response = answer_to(bench.request("INVITE"), 504, "s", P_Asserted_Identity="<sip:orig@scscf.example>")
    response.set_body(body, "application/3gpp-ims+xml")
    bench.receive(response)
    assert bench.ue.status.state is State.REGISTERING
    assert bench.sent("REGISTER").destination == PROFILE.p_cscfs[0]
    assert "Security-Verify" not in bench.request("REGISTER").headers
    assert len(bench.sets) == 1


def test_c_30_the_subscription_ends_before_the_registration() -> None:
    """TS 34.229-5 A.11: the final NOTIFY may come late or never."""
    bench = Bench()
    bench.register()
    subscribe = bench.request("SUBSCRIBE")
    bench.answer("SUBSCRIBE", 200, Expires="600000")
    notify = Request.create(
        "NOTIFY",
        f"sip:{UE}:{bench.agreement.ours.port_s}",
        [
            ("Via", f"SIP/2.0/UDP {P_CSCF}:{bench.agreement.theirs.port_c};branch=z9hG4bKn1"),
            ("Max-Forwards", 70),
            ("From", f"<{ME}>;tag=s"),
            ("To", f"<{ME}>;tag={subscribe.from_.tag}"),
            ("Call-ID", subscribe.call_id),
            ("CSeq", "1 NOTIFY"),
            ("Contact", f"<sip:{P_CSCF}:6101>"),
            ("Event", "reg"),
            ("Subscription-State", "active;expires=600000"),
        ],
    )
    bench.receive(notify)
    assert bench.responses("NOTIFY")[-1].status == 200
    bench.feed(ims.Stop())
    methods = [t.message.method for t in bench.transmits if isinstance(t.message, Request)]
    assert methods[-2:] == ["SUBSCRIBE", "REGISTER"]
    assert bench.request("SUBSCRIBE").expires == 0
    assert bench.request("REGISTER").expires == 0
    assert agreed(bench, "REGISTER")
    bench.answer("REGISTER", 200)
    assert bench.ue.status.state is State.OFF
    assert not bench.sets


def test_tls_without_its_connection_is_registered_anew() -> None:
    """The network reaches the UE over the connection that it registered on (RFC 5626), or not at all."""
    target = Target("TLS", (P_CSCF, 5061))
    bench = Bench(replace(PROFILE, p_cscfs=(target,), security=SecurityPolicy(Protection.TLS)))
    bench.feed(ims.Start())
    register = bench.request("REGISTER")
    assert bench.sent("REGISTER").destination == target
    assert register.headers.get("P-Access-Network-Info") == CELL
    flow = Flow("TLS", (UE, 40000), (P_CSCF, 5061), 9)
    nonce = Challenge(bytes(16), bytes(16)).encode()
    www = str(DigestChallenge.digest(DOMAIN, nonce, algorithm="AKAv2-SHA-256"))
    bench.feed(ims.Received(answer_to(register, 401, "s", WWW_Authenticate=www), flow))
    response = answer_to(bench.request("REGISTER"), 200, "s")
    response.headers.set("Contact", f"{bench.request('REGISTER').headers.get('Contact')};expires=600")
    bench.feed(ims.Received(response, flow))
    assert bench.ue.status.security == "TLS"
    assert bench.request("SUBSCRIBE").headers.get("Route") == f"<sip:{P_CSCF}:5061;transport=tls;lr>"
    options = Request.create(
        "OPTIONS",
        f"sip:{UE}:5060;transport=tls",
        [
            ("Via", f"SIP/2.0/TLS {P_CSCF}:5061;branch=z9hG4bKo"),
            ("Max-Forwards", 70),
            ("From", "<sip:bob@ims.example>;tag=b"),
            ("To", f"<{ME}>"),
            ("Call-ID", "o"),
            ("CSeq", "1 OPTIONS"),
        ],
    )
    bench.feed(ims.Received(options.copy(), Flow("UDP", (UE, 5060), (P_CSCF, 5061), 10)))
    assert bench.responses("OPTIONS") == [], "only what comes over TLS is taken"
    bench.feed(ims.Received(options, flow))
    assert bench.responses("OPTIONS")[-1].status == 200
    bench.feed(ims.FlowClosed(flow, "reset"))
    assert bench.ue.status.state is State.REGISTERING


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_a_connection_that_closes_inside_an_agreement_is_no_loss(transport: Any) -> None:
    """The P-CSCF opens its own connections to the protected server port."""
    bench = Bench(replace(PROFILE, p_cscfs=(Target(transport, (P_CSCF, 5060)),)))
    bench.register()
    agreement = bench.agreement
    flow = Flow("TCP", (UE, agreement.ours.port_c), (P_CSCF, agreement.theirs.port_s), 9)
    bench.feed(ims.FlowClosed(flow, "idle"))
    assert bench.ue.status.state is State.REGISTERED
