"""What the DNS proxy answers by itself.  Requirement S7-DNS."""

from ipaddress import ip_address

import dns.message
import dns.rcode
import pytest

from ue_agent.dns_proxy.wire.local import TTL, LocalAnswers
from ue_agent.dns_proxy.wire.message import parse_query

LOCAL = LocalAnswers(
    {
        "turn.ims.example": [ip_address("10.99.0.1"), ip_address("2001:db8::1")],
        "stun.ims.example": [ip_address("10.99.0.1")],
    }
)


def ask(name: str, rdtype: str, rdclass: str = "IN") -> dns.message.Message | None:
    data = dns.message.make_query(name, rdtype, rdclass, use_edns=0).to_wire()
    found = LOCAL.find(data, parse_query(data))
    return dns.message.from_wire(found) if found else None


@pytest.mark.parametrize(
    ("rdtype", "texts"),
    [("A", ["10.99.0.1"]), ("AAAA", ["2001:db8::1"]), ("ANY", ["10.99.0.1", "2001:db8::1"])],
)
def test_addresses(rdtype: str, texts: list[str]) -> None:
    answer = ask("TURN.ims.Example", rdtype)
    assert answer is not None
    assert answer.rcode() == dns.rcode.NOERROR
    assert [record.to_text() for rrset in answer.answer for record in rrset] == texts
    assert all(rrset.ttl == TTL for rrset in answer.answer)
    assert answer.question[0].name.to_text() == "TURN.ims.Example."  # case as the client sent it
    assert answer.edns == 0


@pytest.mark.parametrize(
    ("name", "rdtype"),
    [("stun.ims.example", "AAAA"), ("turn.ims.example", "HTTPS"), ("turn.ims.example", "MX"),
     ("_dns.resolver.arpa", "SVCB"), ("resolver.arpa", "A")],
)  # fmt: skip
def test_nothing_of_that_type(name: str, rdtype: str) -> None:
    answer = ask(name, rdtype)
    assert answer is not None
    assert answer.rcode() == dns.rcode.NOERROR
    assert not answer.answer
    assert answer.authority[0].rdtype.name == "SOA"


def test_the_canary_of_dns_over_https_does_not_exist() -> None:
    answer = ask("use-application-dns.net", "A")
    assert answer is not None
    assert answer.rcode() == dns.rcode.NXDOMAIN


def test_all_else_is_not_ours() -> None:
    assert ask("portal.ims.example", "A") is None
    assert ask("x.turn.ims.example", "A") is None
    assert ask("turn.ims.example", "TXT", "CH") is None
    assert ask("notresolver.arpa", "A") is None


def test_too_many_addresses_are_refused() -> None:
    with pytest.raises(ValueError, match="9 addresses"):
        LocalAnswers({"turn.ims.example": [ip_address(f"10.0.0.{n}") for n in range(9)]})
    with pytest.raises(ValueError, match="0 addresses"):
        LocalAnswers({"turn.ims.example": []})
