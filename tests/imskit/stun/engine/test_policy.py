"""Which peers may be reached (S7-TURN; RFC 8656 21.3, 21.4)."""

from __future__ import annotations

import pytest

from imskit.stun.engine.policy import CidrPolicy, SessionPeers

INSIDE = (
    "127.0.0.1", "::1", "0.0.0.0", "10.45.0.2", "172.31.0.1", "192.168.1.1", "100.64.1.1", "169.254.169.254",
    "224.0.0.1", "255.255.255.255", "fe80::1", "fd00::1", "ff02::1", "::",
)  # fmt: skip
TUNNELS = ("::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:1::1", "::127.0.0.1")


@pytest.mark.parametrize("host", [*INSIDE, *TUNNELS])
def test_the_whole_internet_is_not_the_inside(host: str) -> None:
    assert not CidrPolicy(["0.0.0.0/0", "::/0"]).allows("u", host, 1)


@pytest.mark.parametrize("host", ["8.8.8.8", "203.0.113.2", "2001:db8::1", "2600::1"])
def test_public_addresses(host: str) -> None:
    assert CidrPolicy(["0.0.0.0/0", "::/0"]).allows("u", host, 1)
    assert not CidrPolicy([]).allows("u", host, None)


@pytest.mark.parametrize(
    ("network", "host"),
    [
        ("127.0.0.0/8", "127.0.0.1"),
        ("127.0.0.1/32", "127.0.0.1"),
        ("::1/128", "::1"),
        ("10.45.0.0/16", "10.45.0.2"),
        ("fd00::/8", "fd00::1"),
    ],
)
def test_the_inside_is_opened_by_name(network: str, host: str) -> None:
    policy = CidrPolicy([network])
    assert policy.allows("u", host, None)
    assert not policy.allows("u", "8.8.8.8", None)
    assert not policy.allows("u", "10.46.0.2", None)


def test_tunnels_are_not_opened_by_name() -> None:
    for host in TUNNELS:
        assert not CidrPolicy([f"{host}/128"]).allows("u", host, 1)


def test_a_wrong_network_is_refused() -> None:
    with pytest.raises(ValueError, match="host bits"):
        CidrPolicy(["10.0.0.1/8"])


def test_session_peers() -> None:
    peers = SessionPeers()
    leg = ("192.0.2.1", 49152)
    assert not peers.allows("u", *leg)
    peers.admit(leg)
    peers.admit(leg)
    peers.admit(("192.0.2.1", 49154))
    assert peers.allows("u", *leg) and peers.allows("u", leg[0], None)
    assert not peers.allows("u", leg[0], 49153)
    peers.retire(leg)
    assert peers.allows("u", *leg)
    peers.retire(leg)
    assert not peers.allows("u", *leg) and peers.allows("u", leg[0], None)
    peers.retire(("192.0.2.1", 49154))
    assert not peers.allows("u", leg[0], None)
    with pytest.raises(ValueError, match="not admitted"):
        peers.retire(leg)
