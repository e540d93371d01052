"""Configuration of GBA on the device."""

from __future__ import annotations

from dataclasses import dataclass

from imskit.aka.gba import UA_HTTP_DIGEST, BTid
from imskit.config.model import setting
from ue_agent.gba.client import BsfAddress

_PORT = 80


@dataclass(frozen=True, kw_only=True)
class GbaConfig:
    """Bootstrapped keys (GBA): what the operator's page may ask for instead of the card itself."""

    enabled: bool = setting("whether to tell the operator's page that this device has them", False)
    bsf: str = setting("bootstrapping server, NAME[:PORT]; empty: the name derived from the card (TS 23.003 16.2)", "")
    protocol: str = setting(
        "Ua security protocol identifier, 10 hex digits (TS 33.220 annex H), the same as the operator's",
        UA_HTTP_DIGEST.hex(),
    )

    def __post_init__(self) -> None:
        self.address("bsf.example")
        if len(self.ua_protocol) != len(UA_HTTP_DIGEST):
            raise ValueError("protocol must have 10 hex digits")

    @property
    def ua_protocol(self) -> bytes:
        """The Ua security protocol identifier, 5 octets."""
        try:
            return bytes.fromhex(self.protocol)
        except ValueError:
            return b""

    def address(self, derived: str) -> BsfAddress:
        """Return where to bootstrap; ``derived`` is the name for when none is configured."""
        name, colon, port = self.bsf.partition(":")
        if colon and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"bsf: {self.bsf!r} is no NAME[:PORT], such as bsf.example:8080")
        chosen = (name or derived).lower()
        try:
            BTid.make(bytes(16), chosen)
        except ValueError:
            raise ValueError(f"bsf: {name!r} is no host name") from None
        return BsfAddress(chosen, int(port) if colon else _PORT)
