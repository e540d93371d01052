"""What every IPsec back end offers, whatever does the work: the kernel's XFRM or this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from imskit.ipsec.association import AssociationSet
from imskit.ipsec.errors import IpsecError, SpiCollision

__all__ = ["BackendStatistics", "IpsecBackend", "IpsecError", "SetStatistics", "SpiCollision"]


@dataclass(frozen=True, slots=True)
class SetStatistics:
    """Counters of one set since it was installed; bytes are those of the protected IP payload."""

    packets_in: int = 0
    bytes_in: int = 0
    packets_out: int = 0
    bytes_out: int = 0
    replayed: int = 0
    """Dropped: sequence number seen before, or too old for the window (RFC 4303 3.4.3)."""
    bad_integrity: int = 0
    """Dropped: the integrity check value is wrong (3.4.4)."""
    bad_selector: int = 0
    """Dropped: good ESP, but for addresses, ports or a protocol that the association is not for (RFC 4301 5.2)."""


@dataclass(frozen=True, slots=True)
class BackendStatistics:
    """Counters of a back end; what can be told apart by set is in ``sets``, by name."""

    sets: Mapping[str, SetStatistics] = field(default_factory=dict)
    unknown_spi: int = 0
    """Inbound ESP for no association of this back end; other programs' ESP is among it."""
    malformed: int = 0
    """Dropped: no good ESP, IP, UDP or TCP packet."""
    unprotected: int = 0
    """Outbound packets of protected sockets for which no association is installed: dropped, never sent in clear."""
    clear: int | None = None
    """Clear packets to protected ports; ``None`` where the kernel refuses them before anything can count."""


class IpsecBackend(Protocol):
    """Puts association sets to work on this machine.  Every method is for the event loop's thread.

    Errors are ``IpsecError``: what failed, why, what to do.
    """

    @property
    def kind(self) -> Literal["kernel", "userspace"]:
        """What does the work; for status lines."""

    @property
    def device(self) -> str | None:
        """The interface that protected sockets must be bound to (``SO_BINDTODEVICE``) before any packet, or ``None``.

        A socket bound to it gets and sends protected packets alone; without an association nothing leaves it.
        """

    async def install(self, associations: AssociationSet) -> None:
        """Put the set to work; packets flow when this returns.

        ``SpiCollision`` if an inbound SPI is in use; ``IpsecError`` if the name is, or the system refuses.  Nothing
        stays behind after an error.  Sets may overlap: where two have an outbound association with the same
        addresses and ports, the newer one sends and both receive.
        """

    async def remove(self, name: str) -> None:
        """End the set and forget its keys; nothing happens if there is none of this name."""

    def statistics(self) -> BackendStatistics:
        """Return the counters as they are now."""

    async def close(self) -> None:
        """Remove every set and whatever was made on this machine; may be called twice."""
