"""The one exception of this package."""

from __future__ import annotations


class SdpError(ValueError):
    """A description that breaks the grammar, or that this side cannot accept.

    ``what`` says what is wrong, ``line`` is the line's number from 1 (0: no single line), ``clause`` names the text
    that it breaks.  ``status`` is the SIP answer to send: 400 for broken text, 488 for what is not acceptable here,
    580 for preconditions that cannot be met.  ``warning`` is the code for a Warning header field beside a 488
    (RFC 3261 section 20.43).
    """

    def __init__(self, what: str, clause: str, *, line: int = 0, status: int = 400, warning: int = 399) -> None:
        super().__init__(f"SDP{f' line {line}' if line else ''}: {what} ({clause})")
        self.what = what
        self.clause = clause
        self.line = line
        self.status = status
        self.warning = warning

    def at(self, line: int) -> SdpError:
        """The same error with the number of its line, unless it has one already."""
        if self.line:
            return self
        return SdpError(self.what, self.clause, line=line, status=self.status, warning=self.warning)
