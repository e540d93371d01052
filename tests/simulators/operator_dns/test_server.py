"""The operator's name server."""

import dns.asyncresolver
import dns.message
import dns.rcode
import pytest

from imskit.config.model import ConfigError
from simulators.operator_dns.server import OperatorDns
from simulators.operator_dns.zones import lab_zones, load_zones, parse_zones

HOME = "ims.mnc001.mcc001.3gppnetwork.org"


def ask(server: OperatorDns, name: str, rdtype: str = "A", **options: object) -> dns.message.Message:
    answer = server.answer(dns.message.make_query(name, rdtype, **options).to_wire(), False)
    assert answer is not None
    return dns.message.from_wire(answer)


@pytest.fixture
def server() -> OperatorDns:
    extra = {"alias.example": "www 60 IN CNAME portal.ims.example.\nloop 60 IN CNAME loop\na.b 60 IN A 192.0.2.1"}
    return OperatorDns(parse_zones(lab_zones() | extra))


async def test_the_p_cscf_is_found_as_a_ue_finds_it(server: OperatorDns) -> None:
    """RFC 3263 section 4: NAPTR, SRV, A, by a resolver nobody here wrote."""
    port = await server.start()
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], port
    try:
        naptr = sorted(await resolver.resolve(HOME, "NAPTR"), key=lambda record: record.order)
        assert [record.service for record in naptr] == [b"SIP+D2U", b"SIP+D2T"]
        (srv,) = await resolver.resolve(naptr[0].replacement, "SRV")
        (address,) = await resolver.resolve(srv.target, "A")
        assert (address.to_text(), srv.port) == ("10.45.0.1", 5060)
        (address,) = await resolver.resolve("www.other.example", "A", tcp=True)
        assert address.to_text() == "203.0.113.20"
        with pytest.raises(dns.resolver.NXDOMAIN):
            await resolver.resolve("nosuch.ims.example", "A")
        with pytest.raises(dns.resolver.NoAnswer):
            await resolver.resolve("portal.ims.example", "AAAA")
    finally:
        await server.aclose()


def test_rules(server: OperatorDns) -> None:
    assert ask(server, "elsewhere.test").rcode() == dns.rcode.REFUSED
    assert ask(server, "b.alias.example").rcode() == dns.rcode.NOERROR  # an empty non-terminal
    chain = ask(server, "www.alias.example")
    assert [rrset.rdtype.name for rrset in chain.answer] == ["CNAME", "A"]
    assert ask(server, "loop.alias.example").rcode() == dns.rcode.NOERROR
    assert ask(server, "portal.ims.example", use_edns=1).rcode() == dns.rcode.BADVERS
    assert ask(server, "ws.ims.example", "ANY").answer
    assert server.answer(b"\0\1\0\0\0\1" + bytes(7), False)[3] & 15 == dns.rcode.FORMERR  # type: ignore[index]
    assert server.answer(b"short", False) is None


def test_zone_files(tmp_path) -> None:
    path = tmp_path / "zones.toml"
    path.write_text('[zones]\n"x.example" = "www 60 IN A 192.0.2.9"\n')
    assert ask(OperatorDns(load_zones(path)), "www.x.example").answer
    path.write_text('[zones]\n"x.example" = "www 60 IN A nonsense"\n')
    with pytest.raises(ConfigError, match=r"zone x\.example"):
        load_zones(path)
