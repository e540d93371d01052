"""tel: URIs in From and To: readable for browsers' stacks, restored towards the core [A-EPCSCF]."""

from __future__ import annotations

from imskit.sip.wire.message import Request, response_to
from network_edge.ep_cscf.engine.telephone_uris import readable, restore


def invite(caller: str, called: str) -> Request:
    return Request.create(
        "INVITE",
        "sip:web@x.invalid",
        [
            ("Via", "SIP/2.0/UDP 10.45.0.1;branch=z9hG4bK1"),
            ("From", caller),
            ("To", called),
            ("Call-ID", "c"),
            ("CSeq", "1 INVITE"),
        ],
    )


def test_numbers_become_sip_uris_of_the_home_network() -> None:
    request = invite('"Bob" <tel:+1-555-0200>;tag=b', "<tel:0100;phone-context=ims.example>")
    readable(request, "ims.example")
    assert request.headers.get("From") == '"Bob" <sip:+1-555-0200@ims.example;user=phone>;tag=b'
    assert request.headers.get("To") == "<sip:0100;phone-context=ims.example@ims.example;user=phone>"


def test_everything_else_stays_as_written() -> None:
    request = invite("sip:bob@ims.example;tag=b", "<sip:+15550100@ims.example>")
    before = request.encode()
    readable(request, "ims.example")
    assert request.encode() == before


def test_the_core_gets_back_what_it_wrote() -> None:
    original = invite("<tel:+15550200>;tag=b", "<tel:+15550100>")
    sent = invite("<tel:+15550200>;tag=b", "<tel:+15550100>")
    readable(sent, "ims.example")
    ringing, trying = response_to(sent, 180, to_tag="web"), response_to(sent, 100)
    for response in (ringing, trying):
        restore(response, original)
        assert response.headers.get("From") == "<tel:+15550200>;tag=b"
    assert ringing.headers.get("To") == "<tel:+15550100>;tag=web"
    assert trying.headers.get("To") == "<tel:+15550100>"
    within = invite("<tel:+15550200>;tag=b", "<tel:+15550100>;tag=web")
    answer = response_to(within, 200)
    restore(answer, within)
    assert answer.headers.get("To") == "<tel:+15550100>;tag=web"
