"""What every IPsec back end offers, whatever does the work: the kernel's XFRM or this process."""

from __future__ import annotations

from typing import Literal, Protocol

from imskit.ipsec.association import AssociationSet
from imskit.ipsec.errors import IpsecError, SpiCollision
from imskit.ipsec.statistics import BackendStatistics, SetStatistics

__all__ = ["BackendStatistics", "IpsecBackend", "IpsecError", "SetStatistics", "SpiCollision"]


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
