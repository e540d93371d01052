"""The one exception of the STUN wire code."""

from __future__ import annotations


class StunError(ValueError):
    """Input that is not a good STUN message or frame.

    The text says what is wrong, where, and which clause says so.  ``code`` is the answer that the clause asks for:
    an error response (400 …) where the input was a request, ``None`` where it is to be dropped silently, which is
    the rule for everything that is no STUN request (RFC 8489 6.3).
    """

    def __init__(
        self,
        what: str,
        *,
        where: str,
        clause: str,
        code: int | None = None,
        method: int = 0,
        transaction_id: bytes = b"",
    ) -> None:
        super().__init__(f"{where}: {what} ({clause})")
        self.what = what
        self.where = where
        self.clause = clause
        self.code = code
        """Error code to answer with, ``None``: drop."""
        self.method = method
        """Method of the request to answer, where ``code`` is set."""
        self.transaction_id = transaction_id
        """Transaction of the request to answer, where ``code`` is set."""
