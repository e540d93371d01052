"""Who a UE is and what it says of itself in SIP: identities, addresses and the header fields of GSMA IR.92."""

from __future__ import annotations

from dataclasses import dataclass

from imskit.ims.security_agreement import SecurityPolicy
from imskit.secrets import Identity
from imskit.sip.wire.flow import Address, Target
from imskit.sip.wire.grammar import Parameters
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.uri import SipUri, Uri

MMTEL = "urn:urn-7:3gpp-service.ims.icsi.mmtel"
"""IMS communication service identifier of multimedia telephony (TS 24.173 clause 5.1)."""
MMTEL_TAG = ("+g.3gpp.icsi-ref", '"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel"')
"""The same as a media feature tag (TS 24.229 clause 7.9.2); the value is escaped there."""
EXPIRES = 600_000
"""Seconds asked for in REGISTER and in the reg-event SUBSCRIBE (TS 24.229 clauses 5.1.1.2.1, 5.1.1.3)."""


@dataclass(frozen=True)
class UeProfile:
    """What a UE takes from its card, its configuration and its access."""

    impi: Identity
    """Private identity: user name of the digest."""
    impu: Identity
    """The public identity that is registered."""
    domain: str
    """Home network domain name: Request-URI and realm of REGISTER."""
    instance: str
    """URN for ``+sip.instance``: ``urn:gsma:imei:…`` or ``urn:uuid:…`` (RFC 5626, TS 24.229 5.1.1.2.1)."""
    local: Address
    """Where this UE's SIP listens, on the IMS interface."""
    p_cscfs: tuple[Target, ...]
    """Proxies in order of preference; the next is tried when one fails.  Empty: the UE asks for them anew in each
    round of attempts (`FindPCscfs`)."""
    access_network_info: str = ""
    """Value of P-Access-Network-Info; empty: the header is left out."""
    user_agent: str = "imsbridge"
    expires: int = EXPIRES
    preconditions: bool = True
    """Whether the precondition mechanism is used (precondition disabling policy, TS 24.229 clause 5.1.5A)."""
    security: SecurityPolicy = SecurityPolicy()
    """How Gm is protected."""
    more_impus: tuple[Identity, ...] = ()
    """Further public identities of the card; each is registered too, unless it comes with the first."""

    def registered_contact(self, uri: SipUri, *, outbound: bool = False) -> NameAddr:
        """Contact of REGISTER: address, instance and feature tags (TS 24.229 clause 5.1.1.2.1, IR.92 2.2.1)."""
        tags: list[tuple[str, str | None]] = [("+sip.instance", f'"<{self.instance}>"')]
        if outbound:
            tags.append(("reg-id", "1"))
        tags += [MMTEL_TAG, ("audio", None), ("+g.3gpp.smsip", None)]  # the last: TS 24.341 clause 5.3.2.2
        return NameAddr(uri, parameters=Parameters.of(tags))

    def call_contact(self, uri: Uri) -> NameAddr:
        """Contact of INVITE and its responses: address or GRUU (TS 24.229 clause 5.1.2A.1.1)."""
        return NameAddr(uri, parameters=Parameters.of([MMTEL_TAG, ("audio", None)]))

    def access_headers(self) -> tuple[tuple[str, str], ...]:
        """P-Access-Network-Info: on every request and response but ACK, CANCEL and its responses (5.1.2A.1.1)."""
        if not self.access_network_info:
            return ()
        return (("P-Access-Network-Info", self.access_network_info),)
