"""The border of the trust domain at W2: beyond what holds for every UE, what holds for WebRTC clients."""

from __future__ import annotations

from imskit.engine import Tokens
from imskit.ims.p_cscf_procedures import charge
from imskit.ims.trust_boundary import clean_from_ue, clean_towards_ue
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.ims_headers import PChargingVector
from imskit.sip.wire.message import Message, Request, Response
from network_edge.ep_cscf.engine.settings import EpCscfSettings

_SECURITY_AGREEMENT = ("Security-Client", "Security-Verify", "Security-Server")
"""There is none at W2: TLS came first."""


class TrustBorder:
    """Cleans messages that cross W2 and adds what the first trusted node says of them."""

    def __init__(self, settings: EpCscfSettings, tokens: Tokens) -> None:
        self._tokens = tokens
        self._access = f"{settings.access_network_info};network-provided"
        self._network = settings.visited_network

    def inward(self, message: Message) -> None:
        """Take out of a client's message what it may not assert, and say which access network it is in."""
        headers = message.headers
        clean_from_ue(message)
        headers.remove("P-Early-Media", *_SECURITY_AGREEMENT)
        if isinstance(message, Response):
            # Clients that put their token into every request put it into responses, too.
            headers.remove("Authorization", "Proxy-Authorization", "P-Preferred-Identity")
        if not (isinstance(message, Request) and message.method == "ACK"):  # RFC 7315 section 5.7
            headers.add("P-Access-Network-Info", self._access)

    def outward(self, message: Message) -> None:
        """Take out of a message of IMS what clients are not told."""
        clean_towards_ue(message)
        message.headers.remove("P-Early-Media", "Authorization", "Proxy-Authorization")

    def new_icid(self) -> str:
        """Return a charging identifier; the first IMS entity makes it (TS 24.229 clause 4.5.2)."""
        return self._tokens(32)

    def charge(self, message: Message, icid: str) -> None:
        """Put in the charging vector of something that begins at this side (clause 4.5.4A)."""
        charge(message, icid, self._network)

    def charge_response(self, response: Response, vector: PChargingVector | None) -> None:
        """Answer the charging vector of a terminating request with our side's name in it (clause 5.2.6.4.4)."""
        if vector is not None:
            answered = PChargingVector.of(vector.icid, orig_ioi=vector.orig_ioi, term_ioi=f"Type 1{self._network}")
            response.headers.set("P-Charging-Vector", answered)


def vector_of(message: Message) -> PChargingVector | None:
    """Return the charging vector of a message, ``None`` if it has none that can be read."""
    value = message.headers.get("P-Charging-Vector")
    if not value:
        return None
    try:
        return PChargingVector.parse(value)
    except SipParseError:
        return None
