"""The one exception of this package."""

from __future__ import annotations


class AkaError(ValueError):
    """Something that came from a peer or a file is not what AKA needs.

    Says what and where; ``clause`` names the rule.  A UE that meets it in a challenge abandons that
    registration attempt and starts a new one (TS 24.229 5.1.1.5.1); a server that meets it in an answer
    sends 400.
    """

    def __init__(self, message: str, clause: str) -> None:
        super().__init__(f"{message} ({clause})")
        self.clause = clause


def need_length(what: str, value: bytes, octets: int, clause: str) -> None:
    """Raise ``AkaError`` unless ``value`` has exactly ``octets`` octets; the value itself is not shown."""
    if len(value) != octets:
        raise AkaError(f"{what} has {len(value)} octets, not {octets}", clause)
