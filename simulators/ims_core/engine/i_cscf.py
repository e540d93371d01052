"""Whom the I-CSCF believes (TS 24.229 clause 5.3.1.2, TS 33.203 annex U): trusted edges and nobody else.

A REGISTER that says its user is authenticated already (``auth-done``) must come from the address of a configured edge
and name that edge's visited network; from anywhere else it is refused with 403.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from imskit.sip.wire.auth import Credentials
from imskit.sip.wire.flow import Address
from imskit.sip.wire.message import Request

AUTHENTICATED = "auth-done"
"""Value of integrity-protected by which a trusted node says that it has authenticated the user (7.2A.2)."""


@dataclass(frozen=True, slots=True)
class TrustedEdge:
    """A network edge in the trust domain."""

    host: str
    """IP address that its requests come from."""
    visited_network: str
    """Its P-Visited-Network-ID."""


class TrustDomain:
    """Who may send to the core on Mw: the P-CSCFs by address and port, edges and servers by address."""

    def __init__(self, p_cscfs: Iterable[Address], edges: Iterable[TrustedEdge], servers: Iterable[str] = ()) -> None:
        self._p_cscfs = frozenset(p_cscfs)
        self._edges = {edge.host: edge for edge in edges}
        self._servers = frozenset(servers)

    def edge(self, remote: Address) -> TrustedEdge | None:
        """Return the edge at an address."""
        return None if remote in self._p_cscfs else self._edges.get(remote[0])

    def reaches(self, address: Address) -> bool:
        """Whether requests within dialogs may be sent to an address: the core has no other way out."""
        return address in self._p_cscfs or address[0] in self._edges

    def refusal(self, request: Request, remote: Address) -> str | None:
        """Say why a REGISTER is not taken further, ``None`` if it is; raises ``SipParseError``."""
        edge = self.edge(remote)
        if edge is None and not any(remote[0] == host for host, _ in self._p_cscfs):
            return "this network element is not in the trust domain"
        if not any(claims_authentication(value) for value in request.headers.get_all("Authorization")):
            return None
        if edge is None:
            return "only a trusted edge may say that a user is authenticated"
        if _visited_network(request) != edge.visited_network.lower():
            return "the visited network is not that of this edge"
        return None


def claims_authentication(authorization: str) -> bool:
    """Whether an Authorization value says that the user is authenticated already."""
    credentials = Credentials.parse(authorization, "Authorization")
    return (credentials.get("integrity-protected") or "").lower() == AUTHENTICATED


def _visited_network(request: Request) -> str:
    values = list(request.headers.elements("P-Visited-Network-ID"))
    return values[0].partition(";")[0].strip().strip('"').lower() if len(values) == 1 else ""
