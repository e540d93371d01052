"""Which addresses ICE believes [R-SEC]."""

import ipaddress

import pytest

from imskit.media.peer_addresses import PeerAddresses

_NEVER = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "169.254.169.254",
    "224.0.0.251",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
]
_USUAL = ["192.0.2.1", "10.0.0.1", "192.168.1.7", "100.64.0.1", "223.255.255.255", "2001:db8::1", "fd00::1"]


@pytest.mark.parametrize("host", _NEVER)
def test_where_no_browser_can_be(host: str) -> None:
    assert not PeerAddresses(["192.0.2.9", "2001:db8::9"]).allows(host)


@pytest.mark.parametrize("host", _USUAL)
def test_where_a_browser_may_be(host: str) -> None:
    assert PeerAddresses(["192.0.2.9"]).allows(host)


def test_denied_networks() -> None:
    """They hold whatever this side's own address is."""
    denied = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "fd00::/8", "127.0.0.9/32")]
    peers = PeerAddresses(["127.0.0.1"], denied)
    assert [host for host in (*_USUAL, "127.0.0.9") if not peers.allows(host)] == ["10.0.0.1", "fd00::1", "127.0.0.9"]


@pytest.mark.parametrize(
    "own,host", [("127.0.0.1", "127.0.0.7"), ("::1", "::1"), ("169.254.3.4", "169.254.9.9"), ("fe80::1", "fe80::2")]
)
def test_a_leg_of_such_an_address_has_its_peers_there(own: str, host: str) -> None:
    """And in no other kind of these."""
    peers = PeerAddresses([own])
    assert peers.allows(host)
    assert not peers.allows("224.0.0.1") and not peers.allows("ff02::1") and not peers.allows("0.0.0.0")
