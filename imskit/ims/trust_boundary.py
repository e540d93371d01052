"""The border of the trust domain: what a UE may not say and is not told (TS 24.229 clause 4.4).

The P-CSCF keeps it at Gm, the eP-CSCF at W2.
"""

from __future__ import annotations

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.ims_headers import PAccessNetworkInfo
from imskit.sip.wire.message import Message

_NETWORK_ONLY = (
    "P-Asserted-Identity",
    "P-Asserted-Service",
    "P-Called-Party-ID",
    "P-Charging-Function-Addresses",
    "P-Charging-Vector",
    "P-Media-Authorization",
    "P-Private-Network-Indication",
    "P-Profile-Key",
    "P-Served-User",
    "P-User-Database",
    "P-Visited-Network-ID",
    "Additional-Identity",
    "Attestation-Info",
    "Cellular-Network-Info",
    "Diversion",
    "Feature-Caps",
    "History-Info",
    "Origination-Id",
    "Priority-Share",
    "Relayed-Charge",
    "Remote-Party-ID",
    "Resource-Priority",
    "Response-Source",
    "Restoration-Info",
    "Service-Interact-Info",
    "Service-Route",
    "Path",
)
"""What only the network says; from a UE it is removed."""

_NOT_FOR_UES = (
    "P-Access-Network-Info",
    "P-Charging-Function-Addresses",
    "P-Charging-Vector",
    "P-Private-Network-Indication",
    "P-Profile-Key",
    "P-Served-User",
    "P-User-Database",
    "P-Visited-Network-ID",
    "Attestation-Info",
    "Cellular-Network-Info",
    "Origination-Id",
    "Relayed-Charge",
    "Restoration-Info",
    "Service-Interact-Info",
)
"""What the network says to itself; towards a UE it is removed."""


def clean_from_ue(message: Message) -> None:
    """Remove what a UE may not assert, and access information that claims to be the network's."""
    message.headers.remove(*_NETWORK_ONLY)
    values = message.headers.elements("P-Access-Network-Info")
    kept = [value for value in values if not _network_provided(value)]
    if len(kept) != len(values):
        message.headers.remove("P-Access-Network-Info")
        if kept:
            message.headers.add("P-Access-Network-Info", ", ".join(kept))


def clean_towards_ue(message: Message) -> None:
    """Remove what a UE is not told, and who the other side is if that asked for privacy (RFC 3325 section 7)."""
    message.headers.remove(*_NOT_FOR_UES)
    if any("id" in value.lower().replace(" ", "").split(";") for value in message.headers.get_all("Privacy")):
        message.headers.remove("P-Asserted-Identity")


def _network_provided(value: str) -> bool:
    try:
        return PAccessNetworkInfo.parse(value).network_provided
    except SipParseError:
        return True
