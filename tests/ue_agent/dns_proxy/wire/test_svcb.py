"""ECH and HTTP/3 hints leave the operator's HTTPS records.  Requirement S7-DNS."""

import dns.flags
import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ue_agent.dns_proxy.wire.message import DnsError
from ue_agent.dns_proxy.wire.svcb import strip_hints

# One ECHConfig of TLS Encrypted Client Hello: X25519 key, one cipher suite, name ech-sites.example.net.
ECH = "AEj+DQBEAQAgACAdd+scUi0IYFsXnUIU7ko2Nd9+F8M26pAGZVpz/KrWPgAEAAEAAWQVZWNoLXNpdGVzLmV4YW1wbGUubmV0AAA="


def response(*records: str) -> bytes:
    text = "id 7\nopcode QUERY\nrcode NOERROR\nflags QR RD RA AD\nedns 0\n;QUESTION\nportal.ims.example. IN HTTPS\n"
    return dns.message.from_text(text + ";ANSWER\n" + "\n".join(records).replace('ECH"', ECH + '"')).to_wire()


def stripped(*records: str) -> list[str]:
    message = dns.message.from_wire(strip_hints(response(*records)))
    return [record.to_text() for rrset in message.answer for record in rrset]


@pytest.mark.parametrize(
    ("record", "left"),
    [
        ('1 . alpn="h2,h3" port="443" ech="ECH"', '1 . alpn="h2" port="443"'),
        ('1 . alpn="h3,h3-29"', "1 ."),
        ('1 . alpn="h3" no-default-alpn', "1 ."),
        ('1 . mandatory="alpn,ech" alpn="h2" ech="ECH"', '1 . mandatory="alpn" alpn="h2"'),
        ('1 . mandatory="ech" ech="ECH" key65400="x"', '1 . key65400="x"'),
        ('2 web.other.example. ipv4hint="192.0.2.1" ech="ECH"', '2 web.other.example. ipv4hint="192.0.2.1"'),
    ],
)
def test_hints_are_gone(record: str, left: str) -> None:
    assert stripped(f"portal.ims.example. 60 IN HTTPS {record}") == [left]


def test_untouched_without_hints() -> None:
    data = response('portal.ims.example. 60 IN HTTPS 1 . alpn="h2"', "portal.ims.example. 60 IN A 192.0.2.1")
    assert strip_hints(data) is data


def test_a_chain_keeps_its_aliases_and_loses_the_stale_signature() -> None:
    signature = "RRSIG HTTPS 13 3 60 20300101000000 20200101000000 1 ims.example. AAAA"
    message = dns.message.from_wire(
        strip_hints(
            response(
                "portal.ims.example. 60 IN CNAME web.ims.example.",
                'web.ims.example. 60 IN HTTPS 1 . alpn="h2,h3"',
                f"web.ims.example. 60 IN {signature}",
            )
        )
    )
    assert [rrset.rdtype.name for rrset in message.answer] == ["CNAME", "HTTPS"]
    assert not message.flags & dns.flags.AD
    assert message.edns == 0


@given(st.integers(0, 80), st.binary(max_size=60))
def test_noise(keep: int, noise: bytes) -> None:
    good = response('portal.ims.example. 60 IN HTTPS 1 . alpn="h2,h3" ech="ECH" ipv4hint="192.0.2.1"')
    try:
        strip_hints(good[:keep] + noise)
    except DnsError:
        pass
