"""Whom the core believes (TS 24.229 clauses 4.4 and 5.3.1.2, TS 33.203 annex U): configured elements, nobody else.

Requests of any method from another address are refused with 403.  So is an application server that registers users.

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
    """Who may send to the core (TS 24.229 clause 4.4, RFC 3325 section 5): P-CSCFs, edges, application servers.

    Each is known by its IP address, as it sends over connections from any port; P-CSCFs by their port too where one
    address holds several elements.
    """

    def __init__(
        self, p_cscfs: Iterable[Address], edges: Iterable[TrustedEdge], servers: Iterable[Address] = ()
    ) -> None:
        self._p_cscfs = frozenset(p_cscfs)
        self._edges = {edge.host: edge for edge in edges}
        self._proxies = frozenset(host for host, _ in self._p_cscfs) | self._edges.keys()
        self._members = self._proxies | {host for host, _ in servers}

    def edge(self, remote: Address) -> TrustedEdge | None:
        """Return the edge at an address."""
        return None if remote in self._p_cscfs else self._edges.get(remote[0])

    def reaches(self, address: Address) -> bool:
        """Whether requests within dialogs may be sent to an address: the core has no other way out."""
        return address in self._p_cscfs or address[0] in self._edges

    def refusal(self, request: Request, remote: Address) -> str | None:
        """Say why a request is not taken further, ``None`` if it is; raises ``SipParseError``.

        What a stranger asserts (P-Asserted-Identity, a route for a registered user) is nobody's word.
        """
        if remote[0] not in self._members:
            return "this network element is not in the trust domain"
        if request.method != "REGISTER":
            return None
        if remote[0] not in self._proxies:
            return "only a proxy registers users"
        edge = self.edge(remote)
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
