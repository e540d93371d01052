"""The one exception of this package."""

from __future__ import annotations


class RtpError(ValueError):
    """A packet or payload that breaks its format; a receiver drops it and counts it.

    ``what`` says what is wrong and where, ``clause`` names the text that it breaks.
    """

    def __init__(self, what: str, clause: str) -> None:
        super().__init__(f"{what} ({clause})")
        self.what = what
        self.clause = clause
