"""Which ports belong to security agreements: what may come in by them, and what leaves from where.

TS 33.203 clause 7.1: nothing but the far end of an agreement is heard at a protected port, and what goes to the far
end's protected port leaves from ours.  The packets themselves are protected elsewhere (`imskit.ipsec`).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from imskit.sip.io.transport import TransportError, next_flow_id
from imskit.sip.wire.flow import Address, Flow, ProtectedPorts, Target

_REMEMBERED = 4096


class ProtectedPortTable:
    """The agreements of one SIP element; the one that was joined last is the one in use."""

    def __init__(self) -> None:
        self._own: set[Address] = set()
        self._flows: dict[tuple[Address, Address], tuple[int, ProtectedPorts]] = {}
        """By own and peer's address of what comes in."""
        self._clients: dict[int, Address] = {}
        """By flow id: where answers to datagrams leave from."""
        self._towards: dict[Address, list[ProtectedPorts]] = {}
        """By the peer's server address."""
        self._over: OrderedDict[Address, None] = OrderedDict()
        """Peers' server addresses whose last agreement has ended: nothing goes there in clear."""

    def protect(self, address: Address) -> None:
        """Hear nobody at an own address but the far ends of agreements."""
        self._own.add(address)

    def unprotect(self, address: Address) -> None:
        """Undo `protect`."""
        self._own.discard(address)

    def protects(self, address: Address) -> bool:
        """Whether an own address is for agreements only."""
        return address in self._own

    def join(self, ports: ProtectedPorts) -> None:
        """Enter an agreement."""
        identity = next_flow_id()
        self._clients[identity] = ports.client
        # Datagrams come to the server port; streams, and datagrams of a lax peer, come to the client port too.
        self._flows[ports.server, ports.peer_client] = identity, ports
        self._flows[ports.client, ports.peer_server] = identity, ports
        self._towards.setdefault(ports.peer_server, []).append(ports)
        self._over.pop(ports.peer_server, None)

    def part(self, ports: ProtectedPorts) -> None:
        """Take an agreement out; nothing can be sent on its flows any more."""
        for ends in ((ports.server, ports.peer_client), (ports.client, ports.peer_server)):
            known = self._flows.get(ends)
            if known is not None and known[1] == ports:
                del self._flows[ends]
                self._clients.pop(known[0], None)
        left = [each for each in self._towards.get(ports.peer_server, ()) if each != ports]
        if left:
            self._towards[ports.peer_server] = left
        else:
            self._towards.pop(ports.peer_server, None)
            self._over[ports.peer_server] = None
            while len(self._over) > _REMEMBERED:
                self._over.popitem(last=False)

    def admits(self, own: Address, peer: Address) -> bool:
        """Whether something from ``peer`` may come in at ``own``."""
        return own not in self._own or (own, peer) in self._flows

    def flow_id(self, own: Address, peer: Address, otherwise: int) -> int:
        """The id of the flow between two addresses: an agreement's, or ``otherwise``."""
        known = self._flows.get((own, peer))
        return otherwise if known is None else known[0]

    def sender(self, flow: Flow) -> Address:
        """The own address that datagrams on ``flow`` leave from; ``TransportError`` if its agreement is over."""
        if flow.local not in self._own:
            return flow.local
        client = self._clients.get(flow.id)
        if client is None:
            raise TransportError("the security agreement of this flow is over")
        return client

    def source(self, target: Target) -> Target:
        """Fill in the source of what goes to a protected port of a peer, if it is not named.

        ``TransportError`` if there is no agreement any more.
        """
        agreements = self._towards.get(target.address)
        if target.address in self._over:
            raise TransportError("the security agreement with that port is over")
        if target.source_port or not agreements:
            return target
        host, port = agreements[-1].client
        return replace(target, source=host, source_port=port)
