"""Security agreements at the P-CSCF (TS 33.203 clauses 6, 7, annexes H, M; RFC 3329; TS 24.229 5.2.2) [S7-IMS]."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from imskit.ipsec.algorithms import LAB_PAIRS, STANDARD_PAIRS, AlgorithmPair
from imskit.sip.engine.events import Transmit
from imskit.sip.wire.flow import Address, Flow, Target
from imskit.sip.wire.message import Request, Response, response_to
from simulators.ims_core.engine import security_agreements as agreements_module
from simulators.ims_core.engine.p_cscf import PCscf
from simulators.ims_core.engine.s_cscf import SCscf
from simulators.ims_core.engine.security_agreement import (
    AssociationsFailed,
    AssociationsInstalled,
    GmMode,
    GmPorts,
    GmSecurityPolicy,
    InstallAssociations,
    RemoveAssociations,
    Stage,
)

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
HOST = "10.45.0.1"
PORTS = GmPorts((6000, 6001), (6010, 6011, 6012))


@dataclass
class Sets:
    """What a back end would hold; ``fail`` is the answer to the next installations."""

    installed: dict[str, Any] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    fail: list[AssociationsFailed] = field(default_factory=list)


@pytest.fixture
def secure(world: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A world whose P-CSCF makes agreements: ``secure(mode, pairs)``."""

    def make(mode: GmMode = GmMode.REQUIRED, pairs: tuple[AlgorithmPair, ...] = STANDARD_PAIRS) -> tuple[Any, Sets]:
        sets = Sets()
        policy = GmSecurityPolicy(mode, pairs, {HOST: PORTS})
        gm: Address = (HOST, 5060)
        mw, core = Target("UDP", ("127.0.0.1", 5060)), Target("UDP", ("127.0.0.1", 5070))
        world.s_cscf = SCscf(
            world.hss, DOMAIN, core, [mw.address], ["AKAv1-MD5"], world.tokens, protected_only=mode is GmMode.REQUIRED
        )
        world.p_cscf = p_cscf = PCscf((gm,), mw, core, DOMAIN, world.tokens, policy)
        world._engines[core.address] = world.s_cscf
        world._engines[mw.address] = world._engines[gm] = p_cscf
        for port in (*PORTS.server, *PORTS.client):
            world.add("P", (HOST, port), p_cscf)
        plain = world._take

        def take(address: Address, engine: Any, output: Any) -> None:
            if isinstance(output, InstallAssociations):
                name = output.associations.name
                if sets.fail:
                    failed = sets.fail.pop(0)
                    p_cscf.handle(AssociationsFailed(name, failed.reason, failed.collision), world.now)
                else:
                    sets.installed[name] = output.associations
                    p_cscf.handle(AssociationsInstalled(name), world.now)
            elif isinstance(output, RemoveAssociations):
                sets.installed.pop(output.name, None)
                sets.removed.append(output.name)
            elif isinstance(output, Transmit) and _protected(output, p_cscf):
                # As the sockets do it: what leaves a protected port leaves the client port.
                flow = output.destination
                if isinstance(flow, Flow):
                    source = (HOST, next(iter(sets.installed.values())).outbound[0].source.port)
                    remote = flow.remote
                else:
                    source, remote = (flow.source, flow.source_port), flow.address
                data = output.message.encode()
                world.messages.append((f"P=>{remote[1]}", data))
                world.inject(source, remote, data, "UDP")
            else:
                plain(address, engine, output)

        monkeypatch.setattr(world, "_take", take)
        return world, sets

    return make


def _protected(output: Transmit, p_cscf: PCscf) -> bool:
    destination = output.destination
    if isinstance(destination, Flow):
        return p_cscf.agreements.protects(destination)
    return destination.source_port != 0


class Ue:
    """A raw UE with protected ports."""

    def __init__(self, world: Any, number: str = "0100", host: str = "10.45.0.2") -> None:
        self.world = world
        self.raw = world.raw(number, host)
        self.host = host
        self.spi, self.port_c, self.port_s = 1000, 7000, 7001
        world.add("U", (host, self.port_s), self.raw)
        self.offer = [str(pair) for pair in STANDARD_PAIRS]
        self.mode = "trans"
        self.server = ""
        self.server_port = 0

    def client(self) -> str:
        """Security-Client."""
        return ", ".join(
            f"ipsec-3gpp;alg={alg};ealg={ealg};prot=esp;mod={self.mode};spi-c={self.spi};spi-s={self.spi + 1}"
            f";port-c={self.port_c};port-s={self.port_s}"
            for alg, ealg in (text.split("/") for text in self.offer)
        )

    def fields(self, **more: str) -> list[tuple[str, object]]:
        """What sec-agree adds to a request."""
        values = {"Require": "sec-agree", "Proxy-Require": "sec-agree", "Security-Client": self.client(), **more}
        via = f"SIP/2.0/UDP {self.host}:{self.port_s};branch=z9hG4bK{self.world.tokens(12)}"
        contact = f"<sip:{self.host}:{self.port_s}>"
        return [("Via", via), ("Contact", contact), *values.items()]

    def first(self, *more: tuple[str, object]) -> Response:
        """REGISTER 1, in clear."""
        raw = self.raw
        fields = dict([*raw.register_fields(), *self.fields(), ("Via", self._clear_via()), *more])
        request = raw.request("REGISTER", f"sip:{DOMAIN}", *fields.items())
        response: Response = raw.ask(request)
        self.learn(response)
        return response

    def _clear_via(self) -> str:
        return f"SIP/2.0/UDP {self.host}:5060;branch=z9hG4bK{self.world.tokens(12)};rport"

    def learn(self, response: Response) -> None:
        self.server = response.headers.get("Security-Server") or ""
        if "port-s=" in self.server:
            self.server_port = int(self.server.split("port-s=")[1].split(",")[0].split(";")[0])

    def ask(self, request: Request) -> Response:
        """Send inside the agreement and wait for the response."""
        self.world.inject((self.host, self.port_c), (HOST, self.server_port), request.encode(), "UDP")
        found: list[Response] = []

        def final() -> bool:
            found[:] = [r for r in self.raw.responses(request) if not r.provisional]
            return bool(found)

        self.world.until(final, 40)
        return found[0]

    def second(self, challenge: Response, **more: str) -> Response:
        """REGISTER 2, inside the temporary set."""
        fields = self.fields(**{"Security-Verify": self.server, **more})
        return self.ask(self.raw.authenticated(challenge, *fields))

    def register(self) -> Response:
        challenge = self.first()
        assert challenge.status == 401, challenge.encode()
        return self.second(challenge)

    def again(self, *more: tuple[str, object]) -> Response:
        """Re-register inside the set in use, with a new set: returns the challenge."""
        verify = self.server
        self.spi += 10
        fields = self.fields(**{"Security-Verify": verify})
        own = self.port_c
        self.port_c += 10
        fields = [(name, self.client() if name == "Security-Client" else value) for name, value in fields]
        self.port_c = own
        request = self.raw.request("REGISTER", f"sip:{DOMAIN}", *self.raw.register_fields(), *fields, *more)
        response = self.ask(request)
        self.port_c += 10
        self.learn(response)
        return response


def test_initial_registration(secure: Any) -> None:
    """TS 34.229-1 case 8.1 from the network's side: temporary set before the 401, integrity-protected, lifetimes."""
    world, sets = secure()
    ue = Ue(world)
    challenge = ue.first()
    assert challenge.status == 401
    assert "ck=" not in (challenge.headers.get("WWW-Authenticate") or "")
    ((name, associations),) = sets.installed.items()
    values = challenge.headers.elements("Security-Server")
    assert len(values) == len(STANDARD_PAIRS)
    assert values[0].startswith("ipsec-3gpp;q=0.9;alg=null;ealg=aes-gcm;prot=esp;mod=trans;spi-c=")
    assert values[1].startswith("ipsec-3gpp;q=0.8;alg=hmac-sha-1-96;ealg=aes-cbc")
    to_client, to_server = associations.outbound[1], associations.outbound[0]
    # Our client port sends to the UE's server port, our server port to its client port.
    assert (to_server.source.port, to_server.destination.port, to_server.spi) == (6010, 7001, 1001)
    assert (to_client.source.port, to_client.destination.port, to_client.spi) == (6000, 7000, 1000)
    assert (
        f"spi-c={associations.inbound[0].spi};spi-s={associations.inbound[1].spi};port-c=6010;port-s=6000" in values[0]
    )
    assert ue.second(challenge).status == 200
    inside = [data for arrow, data in world.messages if arrow == "P->S REGISTER"]
    assert b'integrity-protected="no"' in inside[0]
    assert b'integrity-protected="yes"' in inside[1]
    assert b"sec-agree" not in inside[1]
    assert b"Security-" not in inside[1]
    agreement = world.p_cscf.agreements.named(name)
    assert agreement.stage is Stage.CONFIRMED
    assert agreement.ends_at == pytest.approx(world.now + 600_000 + 30, abs=1)


def test_temporary_set_ends_with_reg_await_auth(secure: Any) -> None:
    world, sets = secure()
    Ue(world).first()
    world.run(agreements_module.REG_AWAIT_AUTH - 1)
    assert len(sets.installed) == 1
    world.run(2)
    assert not sets.installed
    assert len(world.p_cscf.agreements) == 0


@pytest.mark.parametrize("pair", [*STANDARD_PAIRS, *LAB_PAIRS], ids=str)
def test_the_network_takes_the_best_that_the_ue_offers(secure: Any, pair: AlgorithmPair) -> None:
    world, sets = secure(pairs=(*STANDARD_PAIRS, *LAB_PAIRS))
    ue = Ue(world)
    ue.offer = [str(LAB_PAIRS[-1]), str(pair)]
    assert ue.register().status == 200
    (associations,) = sets.installed.values()
    assert associations.inbound[0].pair == pair


def test_wrong_security_verify(secure: Any) -> None:
    """Bidding down, fault: 494 with what was offered, and the set goes."""
    world, sets = secure()
    ue = Ue(world)
    challenge = ue.first()
    response = ue.second(challenge, **{"Security-Verify": ue.server.replace("aes-gcm", "null")})
    assert response.status == 494
    assert response.headers.elements("Security-Server")
    assert not [data for arrow, data in world.messages if arrow == "P->S REGISTER"][1:]
    world.run(agreements_module.REFUSED_SECONDS + 1)
    assert not sets.installed
    assert ue.register().status == 200, "and a good one succeeds afterwards"


def test_security_client_that_somebody_changed_in_clear(secure: Any) -> None:
    """Bidding down (TS 33.203 clause 7.2): the strong algorithms were cut out of the first REGISTER."""
    world, sets = secure()
    ue = Ue(world)
    sent = ue.offer
    ue.offer = sent[-1:]
    challenge = ue.first()
    ue.offer = sent
    assert ue.second(challenge).status == 494
    world.run(agreements_module.REFUSED_SECONDS + 1)
    assert not sets.installed


@pytest.mark.parametrize(
    ("offer", "words"),
    [(["hmac-md5-96/des-ede3-cbc"], "no mechanism"), (["x/y"], "no mechanism"), ([], "no mechanism")],
)
def test_nothing_in_common(secure: Any, offer: list[str], words: str) -> None:
    world, sets = secure()
    ue = Ue(world)
    ue.offer = offer
    response = ue.first() if offer else ue.first(("Security-Client", "tls;q=0.1"))
    assert response.status == 494
    assert words in (response.headers.get("Warning") or "")
    assert response.headers.get("Require") == "sec-agree"
    assert "spi-c" not in (response.headers.get("Security-Server") or "spi-c")
    assert not sets.installed


@pytest.mark.parametrize(
    "change",
    [
        ("spi-c=1000", "spi-c=1001"),
        ("spi-c=1000", "spi-c=0"),
        ("spi-c=1000;", ""),
        ("port-c=7000", "port-c=7001"),
        ("port-s=7001", "port-s=70000"),
        ("spi-s=1001", "spi-s=4294967296"),
        ("alg=", 'alg="'),
    ],
)
def test_bad_security_client(secure: Any, change: tuple[str, str]) -> None:
    world, sets = secure()
    ue = Ue(world)
    assert ue.first(("Security-Client", ue.client().replace(*change))).status in (400, 494)
    assert not sets.installed


def test_clear_requests_where_agreements_are_required(secure: Any) -> None:
    """421 for a REGISTER without sec-agree; 403 for anything else; emergency gets its 380."""
    world, _ = secure()
    ue = Ue(world)
    refusal = ue.raw.register()
    assert refusal.status == 421
    assert refusal.headers.get("Require") == "sec-agree"
    assert ue.register().status == 200
    assert ue.raw.ask(ue.raw.request("INVITE", "tel:+15550200", ("Call-ID", "x"))).status == 403
    assert ue.raw.ask(ue.raw.request("INVITE", "urn:service:sos", ("Call-ID", "y"))).status == 380


def test_challenge_answered_in_clear_is_challenged_again(secure: Any) -> None:
    """Who cuts sec-agree out of the second REGISTER does not get a registration without protection."""
    world, _ = secure()
    ue = Ue(world)
    challenge = ue.first()
    fields = dict([*ue.fields(), ("Via", ue._clear_via())])
    assert ue.raw.ask(ue.raw.authenticated(challenge, *fields.items())).status == 401
    assert not world.s_cscf.registrar.registration(world.hss.by_impi(ue.raw.impi))


def test_offered_serves_both(secure: Any) -> None:
    world, sets = secure(GmMode.OFFERED)
    ue = Ue(world)
    other = world.raw("0200", "10.46.0.2")
    assert ue.register().status == 200
    assert other.register().status == 200
    assert len(sets.installed) == 1
    # The registered UE's identity is not there for who comes in clear from its address.
    assert ue.raw.ask(ue.raw.request("INVITE", "tel:+15550200", ("Call-ID", "x"))).status == 403


def test_calls_inside_the_agreement(secure: Any) -> None:
    """From port-c to port-s and back; Security-Verify on each request (RFC 3329 section 2.3.1)."""
    world, _ = secure(GmMode.OFFERED)
    ue = Ue(world)
    assert ue.register().status == 200
    callee = world.raw("0200", "10.46.0.2")
    callee.register()

    def invite(verify: str) -> Response:
        fields = [f for f in ue.fields(**{"Security-Verify": verify}) if f[0] != "Security-Client"]
        return ue.ask(ue.raw.request("INVITE", "tel:+15550200", ("Call-ID", world.tokens(8)), *fields))

    assert invite(ue.server.replace("q=0.9", "q=0.1")).status == 494
    assert not callee.requests("INVITE")
    callee.answer = lambda request: response_to(request, 486, to_tag="b")
    assert invite(ue.server).status == 486
    reached = callee.requests("INVITE")[0]
    assert "Security-Verify" not in reached.headers
    assert "sec-agree" not in reached.encode().decode()
    # Towards the UE: from our client port to its server port, and Via and Record-Route show our server port.
    ue.raw.answer = lambda request: response_to(request, 486, to_tag="a")
    call = callee.request("INVITE", "tel:+15550100", ("Call-ID", "back"))
    world.run(1)
    callee.send(call)
    world.until(lambda: ue.raw.requests("INVITE"))
    received = ue.raw.requests("INVITE")[0]
    assert (received.top_via.host, received.top_via.port) == (HOST, 6000)
    assert str(received.record_routes[0].uri).endswith(f"@{HOST}:6000;lr;r2=on")
    assert [arrow for arrow, _ in world.messages if arrow == "P=>7001"]


def test_re_authentication(secure: Any) -> None:
    """TS 34.229-1 case 8.2 from the network's side: another port-c, the old set stays 64*T1, never without one."""
    world, sets = secure()
    ue = Ue(world)
    assert ue.register().status == 200
    (old,) = sets.installed
    challenge = ue.again()
    assert challenge.status == 401
    assert len(sets.installed) == 2
    new = next(name for name in sets.installed if name != old)
    first, second = sets.installed[old], sets.installed[new]
    assert first.outbound[0].source.port != second.outbound[0].source.port, "our port-c is another"
    assert first.outbound[0].destination == second.outbound[0].destination, "the UE's port-s stays"
    inside = [data for arrow, data in world.messages if arrow == "P->S REGISTER"]
    assert b'integrity-protected="yes"' in inside[-1]
    assert ue.second(challenge).status == 200
    assert world.p_cscf.agreements.named(old).stage is Stage.LEAVING
    world.run(agreements_module.LEAVING_SECONDS + 1)
    assert list(sets.installed) == [new]
    assert len(world.p_cscf._bindings) == 1


def test_many_re_authentications_in_a_short_time(secure: Any) -> None:
    """Fewer ports than sets: the oldest on its way out makes room."""
    world, sets = secure()
    ue = Ue(world)
    assert ue.register().status == 200
    for _ in range(8):
        assert ue.second(ue.again()).status == 200
    assert len(sets.installed) <= len(PORTS.client)
    clients = [each.outbound[0].source.port for each in sets.installed.values()]
    assert len(set(clients)) == len(clients)


def test_de_registration_and_expiry(secure: Any) -> None:
    world, sets = secure()
    ue = Ue(world)
    assert ue.register().status == 200
    challenge = ue.again(("Expires", 0))
    fields = ue.fields(**{"Security-Verify": ue.server})
    assert ue.ask(ue.raw.authenticated(challenge, *fields, ("Expires", 0))).status == 200
    world.run(agreements_module.LEAVING_SECONDS + 1)
    assert not sets.installed
    short = Ue(world, "0200", "10.46.0.2")
    world.p_cscf._security._ports = {HOST: PORTS}
    challenge = short.first(("Expires", 60))
    fields = short.fields(**{"Security-Verify": short.server})
    assert short.ask(short.raw.authenticated(challenge, *fields, ("Expires", 60))).status == 200
    world.run(80)
    assert sets.installed, "the set outlives the registration by 30 s"
    world.run(20)
    assert not sets.installed


def test_spi_collision_is_tried_anew(secure: Any) -> None:
    """Fault: another program uses an SPI."""
    world, sets = secure()
    sets.fail = [AssociationsFailed("", "in use", collision=True)] * 2
    assert Ue(world).register().status == 200
    sets.fail = [AssociationsFailed("", "in use", collision=True)] * 3
    other = Ue(world, "0200", "10.46.0.2")
    assert other.first().status == 500
    assert len(sets.installed) == 1
    assert len(world.p_cscf.agreements) == 1


def test_associations_that_cannot_be_installed(secure: Any) -> None:
    world, sets = secure()
    sets.fail = [AssociationsFailed("", "no such algorithm")]
    ue = Ue(world)
    assert ue.first().status == 500
    assert len(world.p_cscf.agreements) == 0
    assert ue.register().status == 200


def test_nat(secure: Any) -> None:
    """Annex M: who sends from elsewhere than it says gets a tunnel inside UDP, if it offers one."""
    world, sets = secure()
    ue = Ue(world)
    via = f"SIP/2.0/UDP 192.168.1.9:5060;branch=z9hG4bK{world.tokens(12)};rport"
    refusal = ue.first(("Via", via))
    assert refusal.status == 494
    assert "mod=UDP-enc-tun" in (refusal.headers.get("Security-Server") or "")
    ue.mode = "UDP-enc-tun"
    challenge = ue.first(("Via", via.replace(";rport", "2;rport")))
    assert challenge.status == 401
    (associations,) = sets.installed.values()
    assert associations.outbound[0].encapsulation is not None
    assert associations.outbound[0].destination.ip == "10.45.0.2", "the address on the packets, not the one it says"


def test_attempts_in_the_name_of_another_do_not_pile_up(secure: Any) -> None:
    world, sets = secure()
    ue = Ue(world)
    assert ue.register().status == 200
    (used,) = sets.installed
    for number in range(12):
        attacker = Ue(world)
        attacker.raw.call_id = f"attack-{number}"
        attacker.spi, attacker.port_c = 5000 + 2 * number, 9000 + number
        assert attacker.first().status == 401
    assert used in sets.installed
    assert len(sets.installed) <= 1 + len(PORTS.client)


def test_one_subscriber_is_not_authenticated_inside_the_set_of_another(secure: Any) -> None:
    """Who has got hold of another card's RES, but not of its CK and IK, must not register with it (TS 33.203 7.1)."""
    world, _ = secure()
    attacker = Ue(world, "0100")
    assert attacker.register().status == 200
    victim = Ue(world, "0200", attacker.host)
    victim.spi, victim.port_c, victim.port_s = 3000, 7100, 7101
    challenge = victim.first()  # whoever asks gets one
    stolen = victim.raw.authenticated(challenge, *attacker.fields(**{"Security-Verify": attacker.server}))
    world.messages.clear()
    world.inject((attacker.host, attacker.port_c), (HOST, attacker.server_port), stolen.encode(), "UDP")
    world.run(1)
    assert [data.split(b"\r\n")[0] for _, data in world.messages] == [b"SIP/2.0 403 Forbidden"]
    (binding,) = world.p_cscf._bindings.of_host(attacker.host)
    assert binding.impi == attacker.raw.impi


def test_the_protected_ports_of_another_subscriber_are_not_to_be_had(secure: Any) -> None:
    """TS 33.203 clause 7.1: an address and protected port of a UE belong to one private identity."""
    world, sets = secure()
    ue = Ue(world)
    assert ue.register().status == 200
    (used,) = sets.installed
    for ports in ((7000, 9001), (9000, 7001)):
        attacker = Ue(world, "0200", ue.host)
        attacker.spi, (attacker.port_c, attacker.port_s) = 5000, ports
        refusal = attacker.first()
        assert refusal.status == 400
        assert "protected port" in (refusal.headers.get("Warning") or "")
    assert list(sets.installed) == [used]


def test_nobody_in_clear_ends_a_set_in_use(secure: Any) -> None:
    """A set in use that ends sooner than the temporary ones of an attacker is still not the one to make room."""
    world, sets = secure()
    ue = Ue(world)
    challenge = ue.first(("Expires", 60))
    fields = ue.fields(**{"Security-Verify": ue.server})
    assert ue.ask(ue.raw.authenticated(challenge, *fields, ("Expires", 60))).status == 200
    (used,) = sets.installed
    for number in range(12):
        attacker = Ue(world)
        attacker.raw.call_id = f"attack-{number}"
        attacker.spi = 5000 + 2 * number
        assert attacker.first().status in (401, 500)
    assert used in sets.installed


def test_protected_port_without_an_agreement(secure: Any) -> None:
    """Even if the sockets let it in: nobody is served there without an agreement."""
    world, _ = secure()
    Ue(world).register()
    world.messages.clear()
    stranger = world.raw("0100", "10.45.0.66")
    request = stranger.request("REGISTER", f"sip:{DOMAIN}", *stranger.register_fields())
    world.inject(stranger.address, (HOST, 6000), request.encode(), "UDP")
    world.run(1)
    assert [data.split(b"\r\n")[0] for _, data in world.messages] == [b"SIP/2.0 403 Forbidden"]


def test_over_tls_with_akav2(world: Any) -> None:
    """TS 33.203 annex X: ``tls-connected``, AKAv2-SHA-256, and nobody else is the UE of that connection."""
    ue = world.raw("0100", "10.45.0.2", transport="TLS")
    assert ue.register().status == 200
    inside = [data for arrow, data in world.messages if arrow == "P->S REGISTER"]
    assert all(b'integrity-protected="tls-connected"' in data for data in inside)
    assert b"algorithm=AKAv2-SHA-256" in inside[1]
    stranger = world.raw("0200", "10.45.0.2", 5080, transport="TLS")
    assert stranger.ask(stranger.request("INVITE", "tel:+15550200", ("Call-ID", "x"))).status == 403
