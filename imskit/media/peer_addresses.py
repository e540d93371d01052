"""Where ICE may send checks: whoever writes a description chooses the addresses in it (RFC 8445 19.4.1, RFC 8828)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from imskit.stun.engine.policy import is_tunnelled

type Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NOBODYS: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local: also where clouds keep their metadata
        "192.0.0.0/24",  # protocol assignments
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        "::/128",  # unspecified
        "::1/128",  # loopback
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local
        "ff00::/8",  # multicast
    )
)
"""Where no peer of another host can be.  Private networks are not here: a browser's own may be one."""


class PeerAddresses:
    """Tells which addresses of a peer are believed; those of the checking host's own kind always may be."""

    def __init__(self, own: Iterable[str] = (), denied: Iterable[Network] = ()) -> None:
        """``own``: addresses of this side, as a leg on the loopback or a link-local address has its peers there, too.

        ``denied``: further networks that checks must not reach, such as the inside of one's own.
        """
        mine = [ipaddress.ip_address(text) for text in own]
        kinds = tuple(network for network in _NOBODYS if not any(address in network for address in mine))
        self._denied = (*denied, *kinds)

    def allows(self, host: str) -> bool:
        """Return whether checks may go to ``host``, an IP address in its usual form."""
        address = ipaddress.ip_address(host)
        if is_tunnelled(host):
            return False
        return not any(address in network for network in self._denied)
