"""GRUUs of the home network, and what `outbound` may be said of (RFC 5627, RFC 5626 section 6) [S7-IMS]."""

from __future__ import annotations

import re
from typing import Any

import pytest

from imskit.ims.reginfo import RegInfo
from imskit.sip.wire.message import Request, Response, response_to
from imskit.sip.wire.uri import SipUri, parse_uri
from simulators.ims_core.engine import gruu as gruu_module
from simulators.ims_core.engine.gruu import TemporaryGruus, public_gruu

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"


def register(ue: Any, *parameters: str, supported: str = "path, gruu") -> Response:
    contact = ";".join([f"<sip:{ue.address[0]}:5060>", *parameters])
    answer: Response = ue.register(("Contact", contact), ("Supported", supported))
    return answer


def gruus(response: Response, number: int = 0) -> tuple[str, str]:
    parameters = response.contacts[number].parameters
    return parameters.get("pub-gruu") or "", parameters.get("temp-gruu") or ""


def answering(ue: Any) -> None:
    def answer(request: Request) -> Response | None:
        if request.method == "ACK":
            return None
        response = response_to(request, 200, to_tag=ue.call_id)
        response.headers.add("Contact", ue.told)
        return response

    ue.answer = answer


@pytest.fixture
def caller(world: Any) -> Any:
    ue = world.raw("0100", "10.45.0.2")
    assert ue.register().status == 200
    return ue


@pytest.fixture
def devices(world: Any) -> list[Any]:
    """Two devices of one user, each with its GRUUs, that name themselves by the public one."""
    found = []
    for name, host in (("one", "10.46.0.2"), ("two", "10.46.0.3")):
        ue = world.raw("0200", host)
        answer = register(ue, f'+sip.instance="<urn:uuid:{name}>"')
        assert answer.status == 200
        ue.public, ue.temporary = gruus(answer, len(found))
        ue.told = f"<{ue.public}>"
        answering(ue)
        found.append(ue)
    return found


def test_what_the_200_says(devices: list[Any]) -> None:
    """TS 24.229 clause 5.4.1.2.2F: both GRUUs beside the contact."""
    one, two = devices
    assert one.public == f"sip:+15550200@{DOMAIN};gr=urn:uuid:one"
    assert two.public == f"sip:+15550200@{DOMAIN};gr=urn:uuid:two"
    assert re.fullmatch(rf"sip:tgruu\.[0-9a-f]{{32}}@{DOMAIN};gr", one.temporary)
    assert one.temporary != two.temporary


@pytest.mark.parametrize(
    ("parameters", "supported"),
    [((), "path, gruu"), (('+sip.instance="<urn:uuid:one>"',), "path")],
    ids=["no instance", "not asked for"],
)
def test_who_gets_none(world: Any, parameters: tuple[str, ...], supported: str) -> None:
    ue = world.raw("0200", "10.46.0.2")
    assert gruus(register(ue, *parameters, supported=supported)) == ("", "")


def test_the_number_of_a_handset_is_not_told(world: Any) -> None:
    """Clause 5.4.7A.2."""
    ue = world.raw("0200", "10.46.0.2")
    public, _ = gruus(register(ue, '+sip.instance="<urn:gsma:imei:35693803-560200-0>"'))
    assert "3569" not in public
    assert ";gr=urn:uuid:" in public


def test_a_gruu_leads_to_its_instance_alone(world: Any, caller: Any, devices: list[Any]) -> None:
    one, two = devices
    for uri in (two.public, two.temporary, two.public.replace("sip:+1555", "sip:+1-555-")):
        rung = len(two.requests("INVITE"))
        assert caller.ask(caller.request("INVITE", uri, ("Call-ID", world.tokens(8)))).status == 200, uri
        assert len(two.requests("INVITE")) == rung + 1
        assert two.requests("INVITE")[-1].uri == "sip:10.46.0.3:5060"
        assert two.requests("INVITE")[-1].headers.get("P-Called-Party-ID") == f"<{uri}>"
    assert not one.requests("INVITE")


def test_a_gruu_of_nobody(world: Any, caller: Any, devices: list[Any]) -> None:
    """RFC 5627 section 5.5: 480 while the instance is not registered, 404 for what never was a GRUU here."""
    _, two = devices
    ask = [("Call-ID", "x")]
    assert caller.ask(caller.request("INVITE", f"sip:+15550200@{DOMAIN};gr=urn:uuid:three", *ask)).status == 480
    assert caller.ask(caller.request("INVITE", f"sip:tgruu.{'0' * 32}@{DOMAIN};gr", *ask)).status == 404
    assert register(two, '+sip.instance="<urn:uuid:two>"', "expires=0").status == 200
    assert caller.ask(caller.request("INVITE", two.public, *ask)).status == 480
    assert caller.ask(caller.request("INVITE", two.temporary, *ask)).status == 404


def test_within_a_dialog_a_gruu_is_put_in_its_contact(world: Any, caller: Any, devices: list[Any]) -> None:
    """Clause 5.4.3.3: the peer knows the called one by its GRUU, and that by its contact."""
    _, two = devices
    answer = caller.ask(caller.request("INVITE", two.public))
    assert str(answer.contacts[0].uri) == two.public
    routes = [("Route", value) for value in reversed(list(answer.headers.elements("Record-Route")))]
    to = str(answer.headers.get("To"))
    caller.send(caller.request("ACK", two.public, *routes, to=to))
    bye = caller.ask(caller.request("BYE", two.public, *routes, to=to))
    assert bye.status == 200
    assert [request.uri for request in two.requests("ACK") + two.requests("BYE")] == ["sip:10.46.0.3:5060"] * 2


def test_temporary_gruus_stay_good_while_call_id_does(world: Any, caller: Any, devices: list[Any]) -> None:
    """RFC 5627 section 5.4: a new one each time; all end with another Call-ID."""
    _, two = devices
    newer = gruus(register(two, '+sip.instance="<urn:uuid:two>"'), 1)[1]
    assert newer != two.temporary
    for uri in (two.temporary, newer):
        assert caller.ask(caller.request("INVITE", uri, ("Call-ID", world.tokens(8)))).status == 200
    two.call_id = "restarted"
    newest = gruus(register(two, '+sip.instance="<urn:uuid:two>"'), 1)[1]
    for uri, status in ((two.temporary, 404), (newer, 404), (newest, 200)):
        assert caller.ask(caller.request("INVITE", uri, ("Call-ID", world.tokens(8)))).status == status


def test_temporary_gruus_are_bounded(world: Any) -> None:
    ue = world.raw("0200", "10.46.0.2")
    first = gruus(register(ue, '+sip.instance="<urn:uuid:one>"'))[1]
    known = world.s_cscf.registrar.flows_to(parse_uri(first))
    assert known is not None
    for _ in range(gruu_module.TEMPORARY_EACH):
        register(ue, '+sip.instance="<urn:uuid:one>"')
    assert world.s_cscf.registrar.flows_to(parse_uri(first)) is None
    assert len(world.s_cscf.registrar.registration(known[0]).bindings[0].temporary) == gruu_module.TEMPORARY_EACH


def test_reg_event_tells_public_gruus(devices: list[Any]) -> None:
    """RFC 5628 section 5."""
    one, two = devices
    one.told = one.contact
    subscribe = one.request("SUBSCRIBE", f"sip:+15550200@{DOMAIN}", ("Event", "reg"), ("Expires", 600))
    assert one.ask(subscribe).status == 200
    one.world.until(lambda: one.requests("NOTIFY"))
    document = RegInfo.parse(one.requests("NOTIFY")[0].body)
    identity = next(each for each in document.registrations if each.aor.startswith("sip:"))
    assert [contact.public_gruu for contact in identity.contacts] == [one.public, two.public]


@pytest.mark.parametrize(
    ("parameters", "supported", "ob", "expected"),
    [
        (('+sip.instance="<urn:uuid:a>"', "reg-id=1"), "path, outbound", True, (200, ["outbound"])),
        (('+sip.instance="<urn:uuid:a>"', "reg-id=1"), "path", True, (200, [])),
        (("reg-id=1",), "path, outbound", True, (200, [])),
        (('+sip.instance="<urn:uuid:a>"',), "path, outbound", True, (200, [])),
        (('+sip.instance="<urn:uuid:a>"', "reg-id=1"), "path, outbound", False, (439, [])),
        (("reg-id=1",), "path, outbound", False, (200, [])),
        (
            ('+sip.instance="<urn:uuid:a>"', "reg-id=1,<sip:10.46.0.2:5062>"),
            "path, outbound",
            True,
            (400, []),
        ),
    ],
)
def test_outbound_is_said_where_it_was_done(
    world: Any, parameters: tuple[str, ...], supported: str, ob: bool, expected: tuple[int, list[str]]
) -> None:
    """RFC 5626 section 6: with an instance, a reg-id, the client's wish and the first hop's mark; one contact."""
    if ob:
        world.edit = lambda data: re.sub(rb"(Path: <[^>]*)>", rb"\1;ob>", data) if data.startswith(b"REG") else data
    answer = register(world.raw("0200", "10.46.0.2"), *parameters, supported=supported)
    assert (answer.status, list(answer.require)) == expected


def test_unasked_flows_of_an_instance_are_one(world: Any) -> None:
    """Without outbound the instance's new contact takes the place of the old one, whatever reg-id says."""
    ue = world.raw("0200", "10.46.0.2")
    register(ue, '+sip.instance="<urn:uuid:a>"', "reg-id=1")
    assert len(register(ue, '+sip.instance="<urn:uuid:a>"', "reg-id=2").contacts) == 1


def test_an_instance_cannot_write_into_the_uri() -> None:
    identity = parse_uri("sip:alice@ims.example")
    assert isinstance(identity, SipUri)
    assert public_gruu(identity, 'x;lr>,"@') == "sip:alice@ims.example;gr=x%3Blr%3E%2C%22%40"


def test_ended_temporary_gruus_are_forgotten() -> None:
    numbers = iter(range(100))
    kept = TemporaryGruus("ims.example", lambda digits: f"{next(numbers):0{digits}x}")
    name = kept.make("alice", "one")
    uri = parse_uri(kept.uri(name))
    assert kept.owner(uri) == ("alice", "one")
    assert kept.owner(parse_uri(f"sip:{name}@ims.example")) is None
    kept.end(name)
    assert kept.owner(uri) is None
    assert len(kept) == 0
