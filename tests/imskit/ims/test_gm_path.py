"""How UE and P-CSCF reach each other, and what SIP says of it (TS 24.229 clause 5.1.1.2, RFC 3329, RFC 6223)."""

from __future__ import annotations

import pytest

from imskit.ims.gm_path import GmPath
from imskit.sip.wire.flow import Target, Transport


@pytest.mark.parametrize(
    ("host", "transport", "uri", "route"),
    [
        ("10.45.0.2", "UDP", "sip:10.45.0.2:5061", "<sip:10.45.0.1:5060;lr>"),
        ("10.45.0.2", "TCP", "sip:10.45.0.2:5061;transport=tcp", "<sip:10.45.0.1:5060;transport=tcp;lr>"),
        ("2001:db8::2", "UDP", "sip:[2001:db8::2]:5061", "<sip:[2001:db8::1]:5060;lr>"),
    ],
)
def test_in_clear(host: str, transport: Transport, uri: str, route: str) -> None:
    far = "2001:db8::1" if ":" in host else "10.45.0.1"
    path = GmPath(Target(transport, (far, 5060)), (host, 5061))
    assert str(path.contact_uri()) == uri
    assert path.route() == route
    assert not path.protected
    assert path.headers() == ()
    assert path.sent_by().parameters == (("rport", None),)
    assert path.sent_by(keep=True).parameters == (("rport", None), ("keep", None))


def test_inside_an_agreement() -> None:
    hop = Target("UDP", ("10.45.0.1", 6101), source="10.45.0.2", source_port=7000)
    path = GmPath(hop, ("10.45.0.2", 7001), ("ipsec-3gpp;q=0.9", "sdes-srtp;mediasec"))
    assert path.protected
    assert path.agreed
    assert path.route() == "<sip:10.45.0.1:6101;lr>"
    assert str(path.contact_uri()) == "sip:10.45.0.2:7001"
    assert (path.sent_by().host, path.sent_by().port, path.sent_by().parameters) == ("10.45.0.2", 7001, ())
    assert path.headers() == (
        ("Require", "sec-agree"),
        ("Proxy-Require", "sec-agree"),
        ("Security-Verify", "ipsec-3gpp;q=0.9, sdes-srtp;mediasec"),
    )


def test_tls_protects_without_an_agreement() -> None:
    path = GmPath(Target("TLS", ("10.45.0.1", 5061)), ("10.45.0.2", 5060))
    assert path.protected
    assert not path.agreed
    assert path.headers() == ()
