"""REGISTER and its answer at a P-CSCF (TS 24.229 clause 5.2.2)."""

from __future__ import annotations

import pytest

from imskit.ims.p_cscf_procedures import charge, granted_seconds, without_keys
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.fields import Headers
from imskit.sip.wire.ims_headers import PChargingVector
from imskit.sip.wire.message import Request, Response


def response(*fields: tuple[str, object], status: int = 200) -> Response:
    headers = Headers()
    for name, value in fields:
        headers.add(name, value)
    return Response(status, headers=headers)


def test_keys_end_here() -> None:
    """Clause 5.2.2.1: of every challenge; what came is told to who needs the keys."""
    challenge = 'Digest realm="h", nonce="n", algorithm={}, ik="00", ck="11"'
    answer = response(
        ("WWW-Authenticate", challenge.format("AKAv1-MD5")),
        ("WWW-Authenticate", challenge.format("AKAv2-SHA-256")),
        status=401,
    )
    assert [each.get("ck") for each in without_keys(answer)] == ["11", "11"]
    left = answer.headers.get_all("WWW-Authenticate")
    assert len(left) == 2
    assert not any("ik" in value or "ck" in value for value in left)
    with pytest.raises(SipParseError):
        without_keys(response(("WWW-Authenticate", "Digest ="), status=401))


@pytest.mark.parametrize(
    ("contact", "expires", "seconds"),
    [
        ("<sip:a@10.0.0.1;ob>;expires=60", None, 60),
        ("<sip:a@10.0.0.1>", 90, 90),
        ("<sip:a@10.0.0.1>", None, 0),
        ("<sip:b@10.0.0.1>;expires=60", None, 0),
        ("<sip:a@10.0.0.1>;expires=60, <sip:a@10.0.0.2>;expires=80, <sip:z@10.0.0.1>;expires=99", None, 80),
    ],
)
def test_what_was_granted(contact: str, expires: int | None, seconds: int) -> None:
    fields: list[tuple[str, object]] = [("Contact", contact)]
    if expires is not None:
        fields.append(("Expires", expires))
    assert granted_seconds(response(*fields), ["sip:a@10.0.0.1", "sip:a@10.0.0.2"]) == seconds


def test_the_first_ims_entity_makes_the_charging_identifier() -> None:
    """Clause 4.5: whatever stood there before."""
    request = Request.create("INVITE", "tel:+15550200", [("P-Charging-Vector", 'icid-value="theirs"')])
    charge(request, "abc", "visited.example")
    vector = PChargingVector.parse(request.headers.get("P-Charging-Vector") or "")
    assert (vector.icid, vector.orig_ioi) == ("abc", "Type 1visited.example")
    assert len(request.headers.get_all("P-Charging-Vector")) == 1
