"""Registration as TS 24.229 clause 5.4.1 says, seen from a UE (through the P-CSCF) [S7-IMS]."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.aka.challenge import encode_auts
from imskit.aka.vector import SyncFailure
from imskit.secrets import Secret
from imskit.sip.wire.auth import Challenge as DigestChallenge
from imskit.sip.wire.message import Response
from simulators.ims_core.engine import aka_login
from simulators.ims_core.engine import registrar as registrar_module

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"

NO_CONTACT = ("Contact", None)


def contacts(response: Response) -> list[str]:
    return [str(contact.uri) for contact in response.contacts]


@pytest.fixture
def ue(world: Any) -> Any:
    return world.raw("0100", "10.45.0.2")


def test_what_the_200_says(world: Any, ue: Any) -> None:
    """Clause 5.4.1.2.2F."""
    response = ue.register(("Expires", 700_000))
    assert response.status == 200
    assert response.contacts[0].expires == 600_000
    assert response.headers.get("P-Associated-URI") == f"<sip:+15550100@{DOMAIN}>, <tel:+15550100>"
    assert response.service_route[0].uri.user == "orig"
    assert len(response.path) == 1
    assert "rspauth" in (response.headers.get("Authentication-Info") or "")
    assert "P-Charging-Vector" not in response.headers, "that ends at the P-CSCF"
    inner = next(data for arrow, data in world.messages if arrow == "S->P 200")
    assert b'term-ioi="Type 1ims.mnc001' in inner
    assert b'icid-value="' in inner


def test_the_challenge_offers_its_algorithms_and_keeps_the_keys(world: Any, ue: Any) -> None:
    challenge = ue.ask(ue.request("REGISTER", f"sip:{DOMAIN}", *ue.register_fields()))
    assert challenge.status == 401
    value = DigestChallenge.parse(challenge.headers.get("WWW-Authenticate") or "")
    assert value.algorithm == "AKAv1-MD5"
    assert value.realm == DOMAIN
    assert not {"ik", "ck"} & set(str(value).replace("=", " ").split())


def test_without_authorization_the_user_is_known_by_to(ue: Any) -> None:
    """Clause 5.4.1.1."""
    assert ue.ask(ue.request("REGISTER", f"sip:{DOMAIN}", ("To", f"<{ue.impu}>"))).status == 401


@pytest.mark.parametrize(
    ("fields", "uri", "status"),
    [
        ([("To", "<sip:+15559999@ims.mnc001.mcc001.3gppnetwork.org>")], f"sip:{DOMAIN}", 403),
        ([("To", "<sip:+15550200@ims.mnc001.mcc001.3gppnetwork.org>")], f"sip:{DOMAIN}", 403),
        ([("To", "<sip:+15550100@elsewhere.example>")], f"sip:{DOMAIN}", 403),
        ([], "sip:elsewhere.example", 404),
        ([], "tel:+15550100", 404),
        ([], f"sip:+15550100@{DOMAIN}", 404),
        ([("Require", "100rel")], f"sip:{DOMAIN}", 420),
        ([("Proxy-Require", "gruu")], f"sip:{DOMAIN}", 420),
        ([("Max-Forwards", 0)], f"sip:{DOMAIN}", 483),
        ([("Contact", "<sip:10.45.0.2:5060")], f"sip:{DOMAIN}", 400),
    ],
)
def test_refused_at_once(ue: Any, fields: list[tuple[str, object]], uri: str, status: int) -> None:
    names = {name for name, _ in fields}
    usual = [field for field in ue.register_fields() if field[0] not in names]
    assert ue.ask(ue.request("REGISTER", uri, *usual, *fields)).status == status


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([("Contact", "<tel:+15550100>")], 400),
        ([("Contact", "*"), ("Expires", 60)], 400),
        ([("Expires", 5)], 423),
        ([("Contact", '<sip:10.45.0.2>;+sip.instance="<urn:uuid:1>";reg-id=1'), ("Supported", "path, outbound")], 439),
    ],
)
def test_refused_after_the_challenge(world: Any, ue: Any, fields: list[tuple[str, object]], status: int) -> None:
    response = ue.register(*fields)
    assert response.status == status
    if status == 423:
        assert response.min_expires == 10
    assert not list(world.s_cscf.registrar.registrations())


def test_an_unknown_private_identity(ue: Any) -> None:
    """Clause 5.3.1.2."""
    ue.impi = f"001010000009999@{DOMAIN}"
    assert ue.register().status == 403


def test_wrong_res_leaves_the_registration_as_it_was(world: Any, ue: Any) -> None:
    """Clause 5.4.1.2.2: 403, and what was registered stays."""
    assert ue.register().status == 200
    challenge = ue.ask(ue.request("REGISTER", f"sip:{DOMAIN}", *ue.register_fields()))
    assert ue.ask(ue.authenticated(challenge, password=Secret(b"wrong"))).status == 403
    assert len(list(world.s_cscf.registrar.registrations())) == 1


def test_a_challenge_is_good_once_and_for_its_call_only(ue: Any) -> None:
    challenge = ue.ask(ue.request("REGISTER", f"sip:{DOMAIN}", *ue.register_fields()))
    answer = ue.authenticated(challenge)
    again = answer.copy()
    assert ue.ask(answer).status == 200
    ue.cseq += 1
    again.headers.set("CSeq", f"{ue.cseq} REGISTER")
    again.headers.replace_element("Via", "SIP/2.0/UDP 10.45.0.2:5060;branch=z9hG4bKother;rport")
    assert ue.ask(again).status == 401
    challenge = ue.ask(ue.request("REGISTER", f"sip:{DOMAIN}", *ue.register_fields()))
    assert ue.ask(ue.authenticated(challenge, ("Call-ID", "another"))).status == 401


def test_a_challenge_is_good_for_four_minutes(world: Any, ue: Any) -> None:
    """reg-await-auth, table 7.8.1."""
    for wait, status in ((235, 200), (245, 401)):
        challenge = ue.ask(ue.request("REGISTER", f"sip:{DOMAIN}", *ue.register_fields()))
        world.run(wait)
        assert ue.ask(ue.authenticated(challenge)).status == status


def test_resynchronisation(ue: Any) -> None:
    """Clause 5.4.1.2.3: with AUTS a fresh challenge follows; a response beside it is not looked at."""
    for index in range(32):
        ue.usim.sqn.accept((1 << 20) + index)
    challenge = ue.ask(ue.request("REGISTER", f"sip:{DOMAIN}", *ue.register_fields()))
    aka = aka_login.Challenge.decode(DigestChallenge.parse(challenge.headers.get("WWW-Authenticate") or "").nonce or "")
    result = ue.usim.verify(aka.rand, aka.autn)
    assert isinstance(result, SyncFailure)
    nonce = DigestChallenge.parse(challenge.headers.get("WWW-Authenticate") or "").nonce
    credentials = (
        f'Digest username="{ue.impi}",realm="{DOMAIN}",nonce="{nonce}",uri="sip:{DOMAIN}",response="0123",'
        f'algorithm=AKAv1-MD5,auts="{encode_auts(result.auts)}"'
    )
    fields = [("To", f"<{ue.impu}>"), ("Authorization", credentials)]
    fresh = ue.ask(ue.request("REGISTER", f"sip:{DOMAIN}", *fields))
    assert fresh.status == 401
    assert ue.ask(ue.authenticated(fresh)).status == 200


@pytest.mark.parametrize(("auts", "status"), [("AAAAAAAAAAAAAAAAAAA=", 403), ("!", 400), ("AAAA", 400)])
def test_an_auts_that_is_none(ue: Any, auts: str, status: int) -> None:
    challenge = ue.ask(ue.request("REGISTER", f"sip:{DOMAIN}", *ue.register_fields()))
    nonce = DigestChallenge.parse(challenge.headers.get("WWW-Authenticate") or "").nonce
    credentials = (
        f'Digest username="{ue.impi}",realm="{DOMAIN}",nonce="{nonce}",uri="sip:{DOMAIN}",response="",auts="{auts}"'
    )
    fields = [("To", f"<{ue.impu}>"), ("Authorization", credentials)]
    assert ue.ask(ue.request("REGISTER", f"sip:{DOMAIN}", *fields)).status == status


def test_a_card_that_refuses_every_challenge_is_given_up(ue: Any) -> None:
    response = ue.ask(ue.request("REGISTER", f"sip:{DOMAIN}", *ue.register_fields()))
    statuses = [response.status]
    while response.status == 401 and len(statuses) < 10:
        nonce = DigestChallenge.parse(response.headers.get("WWW-Authenticate") or "").nonce
        refused = f'Digest username="{ue.impi}",realm="{DOMAIN}",nonce="{nonce}",uri="sip:{DOMAIN}",response=""'
        fields = [("To", f"<{ue.impu}>"), ("Authorization", refused)]
        response = ue.ask(ue.request("REGISTER", f"sip:{DOMAIN}", *fields))
        statuses.append(response.status)
    assert statuses == [401] * 5 + [403]


def test_contacts_come_and_go(world: Any, ue: Any) -> None:
    a, b = "<sip:10.45.0.2:5060>", "<sip:a@10.45.0.2:5060;line=2>"
    assert contacts(ue.register(("Contact", a))) == [a[1:-1]]
    assert contacts(ue.register(("Contact", b))) == [a[1:-1], b[1:-1]]
    assert contacts(ue.register(NO_CONTACT)) == [a[1:-1], b[1:-1]]
    assert contacts(ue.register(("Contact", f"{a};expires=0"))) == [b[1:-1]]
    assert contacts(ue.register(("Contact", "*"), ("Expires", 0))) == []
    assert not list(world.s_cscf.registrar.registrations())


def test_the_same_device_under_another_address_replaces_itself(ue: Any) -> None:
    instance = '+sip.instance="<urn:gsma:imei:35693803-560100-0>"'
    ue.register(("Contact", f"<sip:10.45.0.2:5060>;{instance}"))
    assert contacts(ue.register(("Contact", f"<sip:10.45.0.2:5062>;{instance}"))) == ["sip:10.45.0.2:5062"]


def test_all_contacts_or_none(world: Any, ue: Any) -> None:
    response = ue.register(("Contact", "<sip:10.45.0.2:5060>;expires=600, <sip:10.45.0.2:5061>;expires=3"))
    assert response.status == 423
    assert not list(world.s_cscf.registrar.registrations())


def test_too_many_contacts(ue: Any) -> None:
    many = ", ".join(f"<sip:10.45.0.2:{port}>" for port in range(6000, 6011))
    assert ue.register(("Contact", many)).status == 403


def test_a_page_that_crashed_ten_times_registers_again(world: Any, ue: Any) -> None:
    """JsSIP has a new instance each time: the contact not heard of for longest gives way, and is told so."""
    for number in range(12):
        contact = f'<sip:10.45.0.2:5060;page={number}>;+sip.instance="<urn:uuid:{number}>"'
        answer = ue.register(("Contact", contact))
        assert answer.status == 200
        world.run(registrar_module.SETTLED)
    left = contacts(answer)
    assert len(left) == registrar_module.MAXIMUM_CONTACTS
    assert left == [f"sip:10.45.0.2:5060;page={number}" for number in range(2, 12)]


def test_many_devices_do_not_chase_each_other(world: Any, ue: Any) -> None:
    for number in range(11):
        answer = ue.register(("Contact", f"<sip:10.45.0.2:{6000 + number}>"))
    assert answer.status == 403
    world.run(registrar_module.SETTLED)
    assert ue.register(("Contact", "<sip:10.45.0.2:7000>")).status == 200


def test_an_older_request_is_refused(world: Any, ue: Any) -> None:
    """RFC 3261 section 10.3 step 7."""
    assert ue.register().status == 200
    ue.cseq = 0
    ue.received.clear()
    assert ue.register().status == 500


def test_bindings_expire(world: Any, ue: Any) -> None:
    ue.register(("Expires", 60))
    world.run(59)
    assert list(world.s_cscf.registrar.registrations())
    world.run(2)
    assert not list(world.s_cscf.registrar.registrations())


def test_barred_identities_are_not_told(world: Any) -> None:
    ue = world.raw("0300", "10.45.0.9")
    ue.impu = f"sip:+15550399@{DOMAIN}"
    response = ue.register()
    assert response.status == 200
    assert "0399" not in (response.headers.get("P-Associated-URI") or "")


def test_nobody_pushes_out_the_challenges_of_others(world: Any, ue: Any) -> None:
    """Memory is bounded, and a flood for one subscriber costs only that one."""
    victim = world.raw("0200", "10.46.0.2")
    challenge = victim.ask(victim.request("REGISTER", f"sip:{DOMAIN}", *victim.register_fields()))
    for number in range(100):
        ue.send(ue.request("REGISTER", f"sip:{DOMAIN}", *ue.register_fields(), ("Call-ID", f"flood-{number}")))
    world.run(1)
    assert world.s_cscf.registrar.cards.pending <= 9
    assert victim.ask(victim.authenticated(challenge)).status == 200


def test_a_flood_in_his_name_leaves_the_user_his_challenge(world: Any, ue: Any) -> None:
    """Nor does it take the sequence numbers of his card, or the next challenge."""
    challenge = ue.ask(ue.request("REGISTER", f"sip:{DOMAIN}", *ue.register_fields()))
    for number in range(100):
        ue.send(ue.request("REGISTER", f"sip:{DOMAIN}", *ue.register_fields(), ("Call-ID", f"flood-{number}")))
    world.run(1)
    nonces = {
        DigestChallenge.parse(r.headers.get("WWW-Authenticate") or "").nonce
        for r in ue.received
        if isinstance(r, Response) and r.status == 401
    }
    assert len(nonces) == 8
    assert ue.ask(ue.authenticated(challenge)).status == 200
    another = world.raw("0100", "10.45.0.3")
    another.usim = ue.usim
    for number in range(10):
        ue.send(ue.request("REGISTER", f"sip:{DOMAIN}", *ue.register_fields(), ("Call-ID", f"more-{number}")))
    world.run(1)
    shared = another.ask(another.request("REGISTER", f"sip:{DOMAIN}", *another.register_fields()))
    other = another.authenticated(shared, ("Call-ID", "more-9"), password=Secret(b"wrong"))
    assert another.ask(other).status == 403
    for _ in range(20):
        nonce = DigestChallenge.parse(shared.headers.get("WWW-Authenticate") or "").nonce
        refusing = f'Digest username="{ue.impi}",realm="{DOMAIN}",nonce="{nonce}",uri="sip:{DOMAIN}",response=""'
        fields = [("To", f"<{ue.impu}>"), ("Authorization", refusing), ("Call-ID", "more-9")]
        assert another.ask(another.request("REGISTER", f"sip:{DOMAIN}", *fields)).status == 403
    another.usim = world.raw("0100", "10.45.0.4").usim
    assert another.ask(another.authenticated(shared)).status == 200


def test_pending_challenges_are_bounded(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aka_login, "MAXIMUM_PENDING", 2)
    for number in ("0100", "0200", "0300"):
        ue = world.raw(number, f"10.45.0.1{number[1]}")
        assert ue.ask(ue.request("REGISTER", f"sip:{DOMAIN}", *ue.register_fields())).status == 401
    assert world.s_cscf.registrar.cards.pending == 2
