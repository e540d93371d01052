"""The one exception of this package."""

from __future__ import annotations


class NgError(ValueError):
    """A control message that cannot be read or done.

    ``what`` says what is wrong, ``where`` the key or the octet, ``clause`` the rule; ``cookie`` is the message's, if
    it could be read, so that the error can be answered.
    """

    def __init__(self, what: str, where: str = "", clause: str = "NG protocol", *, cookie: str = "") -> None:
        super().__init__(f"{where}: {what} ({clause})" if where else f"{what} ({clause})")
        self.what = what
        self.where = where
        self.clause = clause
        self.cookie = cookie
