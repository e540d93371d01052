"""The eP-CSCF's configuration: strict, and each mistake says what to do."""

from __future__ import annotations

import pytest

from imskit.config.model import ConfigError, parse, sample
from network_edge.ep_cscf.config import EpCscfConfig, MwConfig, parse_place

SMALL = (
    'home_domain = "ims.example"\ncertificate = "c.pem"\nkey = "k.pem"\norigins = ["https://portal.ims.example"]\n'
    '{}[mw]\naddress = "10.45.0.3"\ncore = "10.45.0.1:5062"\n'
)
ISSUER = (
    '[[issuers]]\nissuer = "https://w"\naudience = "a"\nweb_server_identity = "w"\nidentities = ["sip:*@ims.example"]\n'
    'private_identities = ["*@ims.example"]\n'
)


def test_the_smallest_configuration() -> None:
    config = parse(EpCscfConfig, SMALL.format(""))
    assert config.mw.place == ("10.45.0.3", 5060) and config.wss == ["127.0.0.1:8443"] and config.ws == []
    assert str(config.mw.core_uri) == "sip:10.45.0.1:5062" and not config.without_origin


@pytest.mark.parametrize(
    "more,says",
    [
        ("orign = 1\n", "did you mean 'origins'"),
        ("wss = []\n", "nobody could connect"),
        ('wss = ["localhost:443"]\n', "localhost.*no IP address"),
        ('ws = ["127.0.0.1"]\n', "no ADDR:PORT"),
        ('wss = ["127.0.0.1:70000"]\n', "no ADDR:PORT"),
        ("connections = 0\n", "1 at least"),
        ("connections_per_address = 0\n", "1 at least"),
        ("idle_seconds = 0\n", "above 0"),
        ("minimum_expires = 0\n", "minimum_expires"),
        ("http_port = 65536\n", "http_port"),
        ('http_address = "here"\n', "http_address"),
    ],
)
def test_what_is_refused(more: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(EpCscfConfig, SMALL.format(more))


@pytest.mark.parametrize(
    "origin",
    ["https://portal.ims.example/", "portal.ims.example", "*", "null", "https://Portal.ims.example", "https://u@p"],
)
def test_what_is_no_origin(origin: str) -> None:
    with pytest.raises(ConfigError, match="origin"):
        parse(EpCscfConfig, SMALL.format("").replace("https://portal.ims.example", origin))


def test_without_origins_no_page_could_connect() -> None:
    with pytest.raises(ConfigError, match="no page could connect"):
        parse(EpCscfConfig, SMALL.format("").replace('origins = ["https://portal.ims.example"]\n', ""))


@pytest.mark.parametrize(
    "more,says",
    [
        ("", "either jwks or introspection"),
        ('jwks = "http://w/k"\n', "https"),
        ('introspection = "https://w/i"\n', "client_id"),
        ('jwks = "https://w/k"\nintrospection = "https://w/i"\n', "either"),
    ],
)
def test_issuers_that_are_refused(more: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(EpCscfConfig, SMALL.format("") + ISSUER + more)


def test_an_issuer_has_at_most_one_star_in_a_pattern() -> None:
    text = SMALL.format("") + ISSUER.replace("sip:*@", "sip:*@*") + 'jwks = "https://w/k"\n'
    with pytest.raises(ConfigError, match=r"at most one \*"):
        parse(EpCscfConfig, text)


def test_tls_towards_the_core_is_mutual() -> None:
    with pytest.raises(ValueError, match="mutual"):
        MwConfig("10.45.0.3", "core.example", "tls")


@pytest.mark.parametrize("core", ["10.45.0.1:5062", "core.ims.example", "[2001:db8::1]:5060", "sip:core.ims.example"])
def test_where_the_core_is(core: str) -> None:
    assert MwConfig("10.45.0.3", core).core_uri.host


@pytest.mark.parametrize("core", ["tel:+1", "sip:user@core", "a b", "http://core"])
def test_where_no_core_is(core: str) -> None:
    with pytest.raises(ValueError, match="core"):
        MwConfig("10.45.0.3", core)


@pytest.mark.parametrize(
    "text,place",
    [
        ("192.0.2.1:443", ("192.0.2.1", 443)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
        ("2001:db8::1", ("2001:db8::1", 5060)),
        ("[2001:db8::1]", ("2001:db8::1", 5060)),
        ("192.0.2.1", ("192.0.2.1", 5060)),
    ],
)
def test_places(text: str, place: tuple[str, int]) -> None:
    assert parse_place("x", text, 5060) == place


def test_the_sample_shows_every_setting() -> None:
    text = sample(EpCscfConfig)
    for name in ("home_domain", "visited_network", "[[gateways]]", "[[issuers]]", "drain_seconds", "trusted"):
        assert name in text
