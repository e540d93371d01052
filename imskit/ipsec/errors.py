"""The one exception of ``imskit.ipsec``, ``IpsecError``, and its two special cases."""

from __future__ import annotations

import enum


class IpsecError(Exception):
    """An agreement that cannot be used, a packet that is refused, or a back end that does not work here.

    ``what`` says what is wrong and where, ``why`` names the clause or the system's reason, ``cure`` what to do.
    """

    def __init__(self, what: str, why: str = "", cure: str = "") -> None:
        text = what
        if why:
            text += f" ({why})"
        if cure:
            text += f". {cure}"
        super().__init__(text)
        self.what = what
        self.why = why
        self.cure = cure


class SpiCollision(IpsecError):
    """An inbound SPI is in use on this machine already: choose others, make the agreement anew."""

    def __init__(self, spi: int, owner: str) -> None:
        super().__init__(
            f"SPI {spi} is in use already by {owner}",
            "RFC 4303 2.1, an SPI names one inbound association",
            "Choose new SPIs and begin the agreement again.",
        )
        self.spi = spi


class Refusal(enum.Enum):
    """Why a packet is dropped; the counters of ``imskit.ipsec.statistics`` have these names."""

    MALFORMED = "malformed"
    BAD_INTEGRITY = "bad_integrity"
    REPLAYED = "replayed"
    BAD_SELECTOR = "bad_selector"
    UNKNOWN_SPI = "unknown_spi"
    UNPROTECTED = "unprotected"


class PacketRefused(IpsecError):
    """A packet that is dropped and counted under ``reason``; nothing is answered to it (RFC 4303 3.4)."""

    def __init__(self, reason: Refusal, what: str, clause: str) -> None:
        super().__init__(what, clause)
        self.reason = reason
