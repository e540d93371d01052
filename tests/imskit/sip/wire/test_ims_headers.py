"""IMS headers read from messages."""

import pytest

from imskit.sip.wire import ims_headers
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.message import Request, parse_message

MESSAGE = (
    b"INVITE sip:a@b SIP/2.0\r\n"
    b'P-Asserted-Identity: "Alice" <sip:+15550100@ims.example;user=phone>, <tel:+15550100>\r\n'
    b"P-Associated-URI: <sip:+15550100@ims.example>,<tel:+15550100>\r\n"
    b"P-Called-Party-ID: <sip:+15550200@ims.example>\r\n"
    b"P-Preferred-Identity: <tel:+15550100>\r\n"
    b"P-Access-Network-Info: 3GPP-E-UTRAN-FDD; utran-cell-id-3gpp=00101D0EC, IEEE-802.11;network-provided\r\n"
    b'P-Charging-Vector: icid-value=1234bc;orig-ioi="Type 1a";term-ioi=b\r\n'
    b'P-Charging-Function-Addresses: ccf=192.0.2.10; ecf="aaa://ecf.example:3868;transport=tcp"\r\n'
    b'P-Visited-Network-ID: other.net, "Visited network number 1"\r\n'
    b"P-Early-Media: Supported, sendrecv\r\n"
    b"P-Asserted-Service: urn:urn-7:3gpp-service.ims.icsi.mmtel\r\n"
    b"P-Preferred-Service: urn:urn-7:3gpp-service.ims.icsi.mmtel, urn:urn-7:3gpp-application.ims.iari.x\r\n"
    b"Security-Server: ipsec-3gpp;q=0.7;alg=hmac-md5-96;spi-c=1;spi-s=2;port-c=3;port-s=4,\r\n"
    b" ipsec-3gpp;q=0.9;alg=hmac-sha-1-96;spi-c=5;spi-s=6;port-c=7;port-s=8, tls\r\n"
    b"Privacy: ID; header\r\n"
    b'Accept-Contact: *;+g.3gpp.icsi-ref="urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel"\r\n'
    b"Feature-Caps: *;+g.3gpp.verstat, *;+sip.607\r\n"
    b"Service-Route: <sip:orig@scscf.ims.example;lr>\r\n"
    b"Path: <sip:flow@pcscf.ims.example;lr;ob>\r\n"
    b"Contact: <sip:a@10.45.0.2>;audio;+g.3gpp.smsip;expires=600000;"
    b'+g.3gpp.icsi-ref="urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel";+sip.instance="<urn:gsma:imei:1-2-0>"\r\n'
    b"\r\n"
)


def test_each_header() -> None:
    message = parse_message(MESSAGE)
    asserted = message.addresses("P-Asserted-Identity")
    assert [str(address.uri) for address in asserted] == ["sip:+15550100@ims.example;user=phone", "tel:+15550100"]
    assert [str(one.uri) for one in message.addresses("P-Associated-URI")] == [
        "sip:+15550100@ims.example",
        "tel:+15550100",
    ]
    assert str(message.addresses("P-Called-Party-ID")[0].uri) == "sip:+15550200@ims.example"
    assert str(message.addresses("P-Preferred-Identity")[0].uri) == "tel:+15550100"
    own, network = ims_headers.p_access_network_info(message)
    assert (own.access_type, own.cell, own.network_provided) == ("3GPP-E-UTRAN-FDD", "00101D0EC", False)
    assert network.network_provided
    vector = ims_headers.p_charging_vector(message)
    assert vector is not None
    assert (vector.icid, vector.orig_ioi, vector.term_ioi) == ("1234bc", "Type 1a", "b")
    functions = ims_headers.p_charging_function_addresses(message)
    assert functions is not None
    assert (functions.ccf, functions.ecf) == (["192.0.2.10"], ["aaa://ecf.example:3868;transport=tcp"])
    assert [visited.network for visited in ims_headers.p_visited_network_id(message)] == [
        "other.net",
        "Visited network number 1",
    ]
    assert ims_headers.p_early_media(message) == ["supported", "sendrecv"]
    assert ims_headers.services(message, "P-Asserted-Service") == ["urn:urn-7:3gpp-service.ims.icsi.mmtel"]
    assert len(ims_headers.services(message, "P-Preferred-Service")) == 2
    assert ims_headers.privacy(message) == ["id", "header"]
    (accept,) = ims_headers.feature_parameters(message, "Accept-Contact")
    assert accept.parameters.get("+g.3gpp.icsi-ref") == "urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel"
    assert [list(caps.parameters) for caps in ims_headers.feature_parameters(message, "Feature-Caps")] == [
        [("+g.3gpp.verstat", None)],
        [("+sip.607", None)],
    ]
    assert [str(route) for route in message.service_route] == ["<sip:orig@scscf.ims.example;lr>"]
    assert [str(route) for route in message.path] == ["<sip:flow@pcscf.ims.example;lr;ob>"]
    (contact,) = message.contacts
    assert isinstance(contact, NameAddr)
    assert ims_headers.feature_tags(contact) == {
        "audio": None,
        "+g.3gpp.smsip": None,
        "+g.3gpp.icsi-ref": "urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel",
        "+sip.instance": "<urn:gsma:imei:1-2-0>",
    }


def test_security_mechanisms() -> None:
    """RFC 3329; the two entries of TS 34.229-1."""
    mechanisms = ims_headers.security_mechanisms(parse_message(MESSAGE), "Security-Server")
    assert [mechanism.q for mechanism in mechanisms] == [0.7, 0.9, 0.0]
    best = max(mechanisms, key=lambda mechanism: mechanism.q)
    assert best.parameters.get("alg") == "hmac-sha-1-96"
    assert [best.number(name) for name in ("spi-c", "spi-s", "port-c", "port-s")] == [5, 6, 7, 8]
    assert best.number("spi-x") is None


@pytest.mark.parametrize("text", ["a;spi-c=x", "a;spi-c=4294967296", "a;port-c=0", "a;port-s=65536", "a;spi-s=-1"])
def test_security_numbers_are_checked(text: str) -> None:
    mechanism = ims_headers.SecurityMechanism.parse(text)
    with pytest.raises(SipParseError):
        for name in ("spi-c", "spi-s", "port-c", "port-s"):
            mechanism.number(name)


@pytest.mark.parametrize("text", ["a;q=1.5", "a;q=2", "a;q=x", "a;q=0.1234", "a;q=-1", "a"])
def test_unreadable_q_is_least(text: str) -> None:
    assert ims_headers.SecurityMechanism.parse(text).q in (0.0, 1.0)


def test_absent_and_malformed() -> None:
    request = Request.create("INVITE", "sip:a@b")
    assert ims_headers.p_charging_vector(request) is None
    assert ims_headers.p_charging_function_addresses(request) is None
    assert ims_headers.p_access_network_info(request) == [] and ims_headers.privacy(request) == []
    request.headers.add("Privacy", "id;;x")
    request.headers.add("P-Asserted-Service", "sip:a@b")
    with pytest.raises(SipParseError):
        ims_headers.privacy(request)
    with pytest.raises(SipParseError):
        ims_headers.services(request, "P-Asserted-Service")


def test_charging_vector_is_built_quoted() -> None:
    vector = ims_headers.PChargingVector.of("a b", orig_ioi="Type 1home")
    assert str(vector) == 'icid-value="a b";orig-ioi="Type 1home"'
