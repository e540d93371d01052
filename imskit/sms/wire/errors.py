"""The one exception of the SMS package."""

from __future__ import annotations


class SmsError(ValueError):
    """A short message that cannot be read or written: what, where, and the RP-Cause to answer with.

    ``cause`` is of TS 24.011 table 8.4: 95 semantically incorrect message, 96 invalid mandatory information, 97
    message type non-existent, 111 protocol error.
    """

    def __init__(self, what: str, clause: str, *, cause: int = 95) -> None:
        super().__init__(f"{what} ({clause})")
        self.clause = clause
        self.cause = cause
