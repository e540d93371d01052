"""What a back end counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
