"""Passwords of SIP digest that turned out wrong, counted by where they came from.

The core judges a password; the edge alone sees that one client tries many, whatever names it tries them with.
"""

from __future__ import annotations

from collections import OrderedDict

from imskit.sip.wire.auth import Challenge, Credentials
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Request, Response

COUNT = 20
"""Wrong ones within `SECONDS`; several people may share an address."""
SECONDS = 300.0
_MAXIMUM = 50_000


class Guesses:
    """An allowance for each source, that comes back with time."""

    def __init__(self) -> None:
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """What was spent, and when it was looked at."""

    def wait(self, source: str, now: float) -> int:
        """Return how many seconds to wait before the next try, 0 if it may be now."""
        spent = self._now(source, now)
        return 0 if spent <= COUNT - 1 else int((spent - COUNT + 1) * SECONDS / COUNT) + 1

    def wrong(self, source: str, now: float) -> None:
        """Count one."""
        self._spent[source] = (self._now(source, now) + 1, now)
        self._spent.move_to_end(source)
        while len(self._spent) > _MAXIMUM:
            self._spent.popitem(last=False)

    def _now(self, source: str, now: float) -> float:
        spent, at = self._spent.get(source, (0.0, now))
        return max(0.0, spent - (now - at) * COUNT / SECONDS)


def was_wrong(request: Request, response: Response) -> bool:
    """Whether the core's answer says that the password in a REGISTER, or its user, is wrong.

    A first REGISTER without an answer to a challenge, a stale nonce and a card's resynchronisation are no guesses.
    """
    if response.status == 403:
        return True
    if response.status not in (401, 407):
        return False
    try:
        given = [Credentials.parse(value, "Authorization") for value in request.headers.get_all("Authorization")]
        asked = [Challenge.parse(value, "WWW-Authenticate") for value in response.headers.get_all("WWW-Authenticate")]
    except SipParseError:
        return False
    answers = [one for one in given if one.is_digest and one.get("response") and not one.get("auts")]
    return bool(answers) and not any(one.stale for one in asked)
