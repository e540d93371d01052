"""Numbers and URIs between page and IMS (TS 24.229 clauses 5.1.2A.1.5 and 7.2A.10)."""

from __future__ import annotations

import pytest

from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.uri import parse_uri
from ue_agent.sif.engine.addresses import caller_for_page, home_domain, is_emergency, target

HOME = "ims.mnc001.mcc001.3gppnetwork.org"


@pytest.mark.parametrize(
    ("dialled", "called"),
    [
        (f"sip:+15550200@{HOME}", f"sip:+15550200@{HOME};user=phone"),
        (f"sip:+1(555)02-00@{HOME};transport=ws", f"sip:+15550200@{HOME};user=phone"),
        (f"sip:0200@{HOME}", f"sip:0200;phone-context={HOME}@{HOME};user=phone"),
        (f"sip:0200@{HOME};user=phone", f"sip:0200;phone-context={HOME}@{HOME};user=phone"),
        (f"sip:0200;phone-context=x.example@{HOME}", f"sip:0200;phone-context=x.example@{HOME};user=phone"),
        (f"sip:*21%23@{HOME}", f"sip:*21%23;phone-context={HOME}@{HOME};user=phone"),
        (f"sips:+15550200@{HOME}", f"sip:+15550200@{HOME};user=phone"),
        (f"sip:alice:secret@{HOME}?Replaces=x", f"sip:alice@{HOME}"),
        ("sip:0200@pbx.example", "sip:0200@pbx.example"),
        ("sip:bob@example.org;transport=ws", "sip:bob@example.org"),
        ("tel:+1-555-0200", "tel:+1-555-0200"),
        ("tel:0200", f"tel:0200;phone-context={HOME}"),
        ("tel:0200;phone-context=+1555", "tel:0200;phone-context=+1555"),
        ("urn:service:counseling", "urn:service:counseling"),
    ],
)
def test_target(dialled: str, called: str) -> None:
    assert target(parse_uri(dialled), HOME) == called
    parse_uri(called)


@pytest.mark.parametrize(
    ("uri", "emergency"),
    [
        (f"sip:112@{HOME}", True),
        (f"sip:9-1-1@{HOME}", True),
        (f"sip:112;phone-context={HOME}@{HOME};user=phone", True),
        ("tel:911", True),
        ("tel:1-1-2;phone-context=+1", True),
        (f"sip:sos@{HOME}", True),
        ("urn:service:sos", True),
        ("urn:service:SOS.fire", True),
        (f"sip:urn%3Aservice%3Asos@{HOME}", True),
        ("urn:service:sosa", False),
        (f"sip:+112@{HOME}", False),
        (f"sip:1120@{HOME}", False),
        (f"sip:alice@{HOME}", False),
    ],
)
def test_emergency(uri: str, emergency: bool) -> None:
    assert is_emergency(parse_uri(uri)) is emergency


@pytest.mark.parametrize(
    ("caller", "shown"),
    [
        (f"<sip:+15550200@{HOME}>", f'"+15550200" <sip:+15550200@{HOME}>'),
        (f'"Bob" <sip:+15550200@{HOME};user=phone>', f'"Bob" <sip:+15550200@{HOME};user=phone>'),
        ("<tel:+15550200>", f'"+15550200" <sip:+15550200@{HOME};user=phone>'),
        ("<tel:*21>", f'"*21" <sip:*21@{HOME};user=phone>'),
        ("<sip:gateway.example>", '"Anonymous" <sip:anonymous@anonymous.invalid>'),
        ("<urn:service:test>", '"Anonymous" <sip:anonymous@anonymous.invalid>'),
        (
            '"Anonymous" <sip:anonymous@anonymous.invalid>',
            '"Anonymous" <sip:anonymous@anonymous.invalid>',
        ),
    ],
)
def test_caller(caller: str, shown: str) -> None:
    assert str(caller_for_page(NameAddr.parse(caller), HOME)) == shown


def test_home_domain() -> None:
    assert home_domain(["tel:+15550100", "rubbish", f"sip:a@{HOME}"]) == HOME
    assert home_domain(["tel:+15550100"]) == ""
