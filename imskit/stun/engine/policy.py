"""Which peers a client may reach through the TURN server."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from imskit.stun.wire.attributes import Address

type Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SPECIAL: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.168.0.0/16",  # private
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        "::/128",  # unspecified
        "::1/128",  # loopback
        "fc00::/7",  # unique local
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local
        "ff00::/8",  # multicast
    )
)
"""Addresses that a relay must not reach unless told so by name: they are inside somebody's network."""

NEVER: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "::/96",  # IPv4-compatible
        "::ffff:0:0/96",  # IPv4-mapped: a second spelling of an IPv4 address
        "64:ff9b::/96",  # NAT64: an IPv4 address behind a translator
        "64:ff9b:1::/48",
        "2001::/32",  # Teredo: must not be accepted (RFC 8656 21.4)
        "2002::/16",  # 6to4: the same
    )
)
"""IPv6 addresses that stand for IPv4 ones or tunnels, so an IPv4 rule could be evaded."""

_LOOPBACK = ipaddress.ip_address("::1")


class PeerPolicy(Protocol):
    """Decides whether ``username`` may reach a peer; changes are announced to the engine by ``PolicyChanged``."""

    def allows(self, username: str, host: str, port: int | None) -> bool:
        """Return whether traffic with ``host`` (and ``port``; ``None`` for a permission, which has none) is allowed."""


def is_tunnelled(host: str) -> bool:
    """Tell whether an address is one of ``NEVER``."""
    address = ipaddress.ip_address(host)
    return address != _LOOPBACK and any(address in network for network in NEVER if network.version == address.version)


class CidrPolicy:
    """Peers within the given networks.

    Loopback, link-local, private, multicast and reserved addresses are reached only where a network lies wholly
    within that range: ``127.0.0.0/8`` opens the loopback, ``0.0.0.0/0`` opens the public internet and nothing else.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(text) for text in networks]

    def allows(self, username: str, host: str, port: int | None) -> bool:
        """Return whether ``host`` is within the networks; user and port make no difference."""
        address = ipaddress.ip_address(host)
        if is_tunnelled(host):
            return False
        special = next((network for network in SPECIAL if address in network), None)
        return any(
            address in network and (special is None or network.subnet_of(special))  # type: ignore[arg-type]
            for network in self._networks
            if network.version == address.version
        )


class SessionPeers:
    """Peers of live sessions only: the agent admits a session's media addresses and retires them at its end."""

    def __init__(self) -> None:
        self._peers: Counter[Address] = Counter()
        self._hosts: Counter[str] = Counter()

    def admit(self, peer: Address) -> None:
        """Let clients reach ``peer``; what is admitted twice is to be retired twice."""
        self._peers[peer] += 1
        self._hosts[peer[0]] += 1

    def retire(self, peer: Address) -> None:
        """Take back one ``admit``; the engine is to be told by ``PolicyChanged``."""
        if not self._peers[peer]:
            raise ValueError("this peer was not admitted")
        self._peers[peer] -= 1
        self._hosts[peer[0]] -= 1
        self._peers += Counter()  # drops what is zero
        self._hosts += Counter()

    def allows(self, username: str, host: str, port: int | None) -> bool:
        """Return whether a live session has this peer; without ``port``, whether one has this host."""
        return host in self._hosts if port is None else (host, port) in self._peers
