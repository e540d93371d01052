"""What a UE says of itself (TS 24.229 clauses 5.1.1.2.1 and 5.1.2A.1.1, GSMA IR.92)."""

from __future__ import annotations

from dataclasses import replace

from imskit.ims.profile import UeProfile
from imskit.secrets import Identity
from imskit.sip.wire.flow import Target
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.uri import SipUri, parse_uri

PROFILE = UeProfile(
    Identity("001010000000001@ims.example"),
    Identity("sip:+15550100@ims.example"),
    "ims.example",
    "urn:gsma:imei:35693803-564380-0",
    ("10.45.0.2", 5061),
    (Target("UDP", ("10.45.0.1", 5060)),),
)


def test_contacts_carry_their_tags() -> None:
    uri = parse_uri("sip:10.45.0.2:5061")
    assert isinstance(uri, SipUri)
    registered, call = str(PROFILE.registered_contact(uri)), str(PROFILE.call_contact(uri))
    tag = '+g.3gpp.icsi-ref="urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel";audio'
    assert registered == f'<sip:10.45.0.2:5061>;+sip.instance="<urn:gsma:imei:35693803-564380-0>";{tag};+g.3gpp.smsip'
    assert call == f"<sip:10.45.0.2:5061>;{tag}", "the instance is for the registrar alone"
    assert str(NameAddr.parse(registered)) == registered
    assert PROFILE.registered_contact(uri, outbound=True).parameters.get("reg-id") == "1"


def test_access_headers() -> None:
    assert PROFILE.access_headers() == ()
    info = "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=001010001000019B"
    assert replace(PROFILE, access_network_info=info).access_headers() == (("P-Access-Network-Info", info),)


def test_identities_are_not_printed() -> None:
    assert "001010000000001" not in repr(PROFILE)
    assert "15550100" not in repr(PROFILE)
