"""How a UE and its P-CSCF reach each other at a moment: in clear, over TLS, or inside a security agreement."""

from __future__ import annotations

from dataclasses import dataclass

from imskit.ims.security_agreement import SEC_AGREE
from imskit.sip.engine.events import SentBy
from imskit.sip.wire.flow import Address, Target
from imskit.sip.wire.uri import SipUri, parse_uri

type Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class GmPath:
    """One way over Gm; what the UE says of itself in SIP follows from it."""

    hop: Target
    """Where requests go: the P-CSCF's port, or its protected server port."""
    local: Address
    """Where the UE is reached: its port, or its protected server port (TS 24.229 clause 5.1.1.2.2)."""
    verify: tuple[str, ...] = ()
    """Values of Security-Verify; empty without a security agreement."""

    @property
    def agreed(self) -> bool:
        """Whether a security agreement protects it."""
        return bool(self.verify)

    @property
    def protected(self) -> bool:
        """Whether what the network alone should know may be said, such as the cell (TS 24.229 clause 5.1.1.2.1)."""
        return self.agreed or self.hop.transport == "TLS"

    def contact_uri(self) -> SipUri:
        """The address at which the UE is reached."""
        return self._uri(self.local)

    def route(self) -> str:
        """The P-CSCF's own place before the Service-Route (TS 24.229 clause 5.1.2A.1.1)."""
        return f"<{self._uri(self.hop.address)};lr>"

    def sent_by(self, *, keep: bool = False) -> SentBy:
        """What Via says; ``keep`` offers keep-alives (RFC 6223).

        Without ``rport`` inside a security agreement: responses come to port-s, not to where the request left.
        """
        parameters: tuple[tuple[str, str | None], ...] = () if self.agreed else (("rport", None),)
        if keep:
            parameters += (("keep", None),)
        return SentBy(*self.local, parameters)

    def headers(self) -> Fields:
        """The fields of every request but ACK and CANCEL inside a security agreement (RFC 3329 section 2.3.1)."""
        if not self.agreed:
            return ()
        return (
            ("Require", SEC_AGREE),
            ("Proxy-Require", SEC_AGREE),
            ("Security-Verify", ", ".join(self.verify)),
        )

    def _uri(self, address: Address) -> SipUri:
        host, port = address
        name = f"[{host}]" if ":" in host else host
        transport = self.hop.transport
        suffix = "" if transport == "UDP" else f";transport={transport.lower()}"
        uri = parse_uri(f"sip:{name}:{port}{suffix}")
        assert isinstance(uri, SipUri)
        return uri
